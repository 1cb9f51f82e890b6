"""The contenders' figures as one table in Markdown."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Final

from attrs import fields_dict, frozen

from tests.benchmarks.peers.contenders import Contender
from tests.benchmarks.peers.running import Measured
from tests.benchmarks.table import markdown, seconds

__all__ = ["Result", "median_of", "table"]

_COLUMNS: Final = (
    "",
    "tasks a second",
    "processor time",
    "the call that starts",
    "first line after",
    "a report of progress",
    "reading a state",
)


@frozen
class Result:
    """The medians of a contender's rounds."""

    contender: Contender
    version: str
    measured: Measured


def median_of(rounds: Sequence[Measured]) -> Measured:
    """The median of each figure. A figure that one round does not have, the others do not have either."""
    found: dict[str, float | None] = {}
    for name in fields_dict(Measured):
        values = [value for one in rounds if (value := getattr(one, name)) is not None]
        found[name] = median(values) if values else None
    return Measured(**found)  # type: ignore[arg-type]  # None only where it may be


def table(results: Sequence[Result]) -> str:
    """The results in Markdown, with what a reader needs to compare them."""
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {sys.version.split()[0]}"
    workers = dict.fromkeys(f"{result.contender.title}: {result.contender.setting}" for result in results)
    return "\n\n".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}, {machine}",
            markdown([[*_COLUMNS], *map(_cells, results)]),
            f"Workers: {'; '.join(workers)}.",
        ]
    )


def _cells(result: Result) -> list[str]:
    contender, measured = result.contender, result.measured
    return [
        f"{contender.name} {result.version}, {contender.keeper}",
        f"{1 / measured.task:,.0f}",
        seconds(measured.processor),
        seconds(measured.call),
        seconds(measured.first_line),
        _report(measured),
        seconds(measured.status),
    ]


def _report(measured: Measured) -> str:
    if measured.report is None:
        return "–"
    if measured.written_report is None:
        return seconds(measured.report)
    return f"{seconds(measured.report)}; {seconds(measured.written_report)} if written"
