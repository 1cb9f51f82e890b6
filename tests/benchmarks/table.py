"""The benchmarks' results as a table: each cost as a ratio to the same work without backjob, with its target."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from typing import Literal

from attrs import define, field, frozen

__all__ = ["Figure", "Table", "seconds"]


@frozen(kw_only=True)
class Figure:
    """One line. ``measured`` and ``target`` are in ``unit``; ``medians`` has the two times that were divided.

    A figure without a target explains another one; a figure without a ``store`` applies to all stores. Beyond ``implausible``
    times its target, something is broken rather than slow.
    """

    what: str
    measured: float
    store: str = ""
    target: float | None = None
    unit: str = "×"
    better: Literal["less", "more"] = "less"
    medians: str = ""
    implausible: float = 10

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        met = self.measured <= self.target if self.better == "less" else self.measured >= self.target
        return "met" if met else "missed"

    @property
    def is_sane(self) -> bool:
        """Whether it is plausible."""
        if self.target is None:
            return True
        if self.better == "less":
            return self.measured <= self.implausible * self.target
        return self.measured >= self.target / self.implausible


@define
class Table:
    """The figures of one run. ``versions`` are the releases of the measured stores."""

    figures: list[Figure] = field(factory=list)
    versions: set[str] = field(factory=set)

    def add(self, figure: Figure) -> None:
        """Add a figure. A missed target is only printed; an implausible figure fails the benchmark."""
        self.figures.append(figure)
        assert figure.is_sane, f"{figure.what}: {figure.measured:.3g} {figure.unit}, {figure.medians}"

    def text(self) -> str:
        """Return the table in Markdown."""
        rows = [("store", "what", "measured", "target", "", "medians")]
        stores = list(dict.fromkeys(figure.store for figure in self.figures))
        for figure in sorted(self.figures, key=lambda figure: stores.index(figure.store)):
            limit = "at most" if figure.better == "less" else "at least"
            target = "" if figure.target is None else f"{limit} {figure.target:g} {figure.unit}"
            measured = f"{figure.measured:.3g} {figure.unit}"
            rows.append((figure.store, figure.what, measured, target, figure.verdict, figure.medians))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
        ]
        lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join([self._environment(), "", *lines])

    def _environment(self) -> str:
        load = f"{os.getloadavg()[0]:.1f}"
        return (
            f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} processors "
            f"(load {load}), {', '.join([f'Python {sys.version.split()[0]}', *sorted(self.versions)])}"
        )


def seconds(value: float) -> str:
    """Format a duration for reading."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"
