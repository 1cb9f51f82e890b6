"""Generated tests: a search for a failing example, and for a few seconds for a shorter one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from hypothesis import HealthCheck, Phase, reject, settings

from backjob.model import check_duration

__all__ = ["SHRINKING", "Search"]

SHRINKING: Final = 10.0
"""Seconds for which a generated test looks for a shorter failing example."""


class Search:
    """One generated test. It fails with the shortest example that it finds within ``shrinking`` s after the first failure."""

    def __init__(self, shrinking: float) -> None:
        self._seconds = check_duration("shrinking", shrinking)
        self._end: float | None = None
        self._shortest: tuple[AssertionError, list[str]] | None = None

    def settings(self, **options: Any) -> settings:
        """The settings of hypothesis for this test. A profile may still choose the phases."""
        return settings(
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much),
            phases=[phase for phase in settings().phases if phase is not Phase.explain],
            **options,
        )

    def begin(self) -> None:
        """Call this when an example begins. It rejects all of them once the time is over."""
        if self._end is not None and time.monotonic() > self._end:
            reject()

    def note(self, error: BaseException | None, steps: Sequence[str]) -> None:
        """Call this when an example ends, with its failure if it has one."""
        if not isinstance(error, AssertionError):
            return
        if self._end is None:
            self._end = time.monotonic() + self._seconds
        if self._shortest is None or len(steps) <= len(self._shortest[1]):
            self._shortest = error, list(steps)

    def stop(self) -> None:
        """Search no longer: another example might never end."""
        self._end = 0.0

    def run(self, test: Callable[[], None]) -> None:
        """Run the test. Raises its failure with the steps that led to it, even if it fails only sometimes."""
        __tracebackhide__ = True
        try:
            test()
        except Exception as error:
            if self._shortest is None:
                raise
            failure, steps = self._shortest
            lines = "".join([f"\n    {number}. {step}" for number, step in enumerate(steps, 1)])
            raise AssertionError(f"{failure}\n  the shortest example that was found:{lines}") from (
                failure if error is not failure else failure.__cause__
            )
