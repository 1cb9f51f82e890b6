"""The promises about costs: a call takes no longer because of what it does not need. Times are compared, never limited."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from backjob.model import Report
from backjob.testing._stores.case import StoreCase, kept

__all__ = ["CostCalls", "comparable", "quickest"]

_ROUNDS: Final = 9
_MOST: Final = 8.0
"""The largest ratio of two times that counts as equal: far more than chance explains, far less than reading everything."""
_PART: Final = "0123456789abcde\n" * (1 << 15)  # 512 KiB
_PARTS: Final = 8


def quickest(*calls: Callable[[], object]) -> list[float]:
    """The shortest time (s) of each call. They are made in turn, so that other work of the computer does not count."""
    rounds = [[_seconds(call) for call in calls] for _ in range(_ROUNDS)]
    return [min(times) for times in zip(*rounds, strict=True)]


def comparable(little: float, much: float, promise: str) -> None:
    """Fail, naming the promise, if the second cost is many times the first."""
    __tracebackhide__ = True
    kept(much <= _MOST * little, f"{promise}: it takes {much / little:.0f} times as long")


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


class CostCalls(StoreCase):
    """``report`` appends: its cost does not grow with the output that exists."""

    def test_a_report_costs_the_same_whatever_the_existing_output(self) -> None:
        for name in ("short", "long"):
            self.running(name)
        for _ in range(_PARTS):
            self.store.report("long", "token", Report(output=_PART))

        def report(name: str) -> None:
            kept(
                self.store.report(name, "token", Report(output="line\n")), "a report with the current token is written"
            )

        short, long = quickest(lambda: report("short"), lambda: report("long"))
        size = _PARTS * len(_PART) >> 20
        comparable(short, long, f"the cost of a report does not grow with the existing output, here {size} MiB")
