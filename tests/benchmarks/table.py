"""The benchmarks' results as a table: each cost as a ratio to the same work without backjob, with its target.

``python -m tests.benchmarks.table FILE`` prints the table of the figures that the benchmarks have written to this file.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from attrs import asdict, define, field, frozen

__all__ = ["Figure", "Table", "markdown", "seconds"]

_ALL_STORES: Final = ""


@frozen(kw_only=True)
class Figure:
    """One figure. ``measured`` and ``target`` are in ``unit``; ``medians`` has the two values that were compared, ours first,
    and ``beside`` says what the second one is.

    A figure without a target explains another one; a figure without a ``store`` applies to all stores. Beyond ``implausible``
    times its target, something is broken rather than slow.
    """

    what: str
    measured: float
    store: str = _ALL_STORES
    target: float | None = None
    unit: str = "×"
    better: Literal["less", "more"] = "less"
    medians: str = ""
    beside: str = ""
    implausible: float = 10

    @property
    def is_met(self) -> bool:
        if self.target is None:
            return True
        return self.measured <= self.target if self.better == "less" else self.measured >= self.target

    @property
    def is_sane(self) -> bool:
        """Whether it is plausible."""
        if self.target is None:
            return True
        if self.better == "less":
            return self.measured <= self.implausible * self.target
        return self.measured >= self.target / self.implausible

    @property
    def aim(self) -> str:
        """The target in words."""
        if self.target is None:
            return ""
        return f"{'at most' if self.better == 'less' else 'at least'} {self.target:,g} {self.unit}"

    @property
    def cell(self) -> str:
        """The figure for the table; a missed target makes it bold."""
        measured = f"{self.measured:,.{0 if abs(self.measured) >= 100 else 2}f} {self.unit}"
        shown = measured if self.is_met else f"**{measured}**"
        return f"{shown} ({self.medians})" if self.medians else shown


@define
class Table:
    """The figures of one run. ``versions`` are the releases of the measured stores."""

    figures: list[Figure] = field(factory=list)
    versions: set[str] = field(factory=set)

    def add(self, figure: Figure) -> None:
        """Add a figure. A missed target is only printed; an implausible figure fails the benchmark."""
        self.figures.append(figure)
        assert figure.is_sane, f"{figure.what}: {figure.measured:.3g} {figure.unit}, {figure.medians}"

    def write(self, path: Path) -> None:
        """Write the figures to a file, in which figures of earlier runs stay unless they have been measured again."""
        earlier = Table.read(path) if path.exists() else Table()
        figures = {(figure.what, figure.store): figure for figure in (*earlier.figures, *self.figures)}
        content = {
            "versions": sorted(earlier.versions | self.versions),
            "figures": [asdict(figure) for figure in figures.values()],
        }
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table of the figures in a file."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls([Figure(**values) for values in content["figures"]], set(content["versions"]))

    def text(self) -> str:
        """Return the table in Markdown: one row for each cost, and a column for each store."""
        stores = list(dict.fromkeys(figure.store for figure in self.figures if figure.store))
        rows: dict[str, dict[str, Figure]] = {}
        for figure in self.figures:
            rows.setdefault(figure.what, {})[figure.store] = figure
        general = [
            [what, _beside(row), row[_ALL_STORES].aim, row[_ALL_STORES].cell]
            for what, row in rows.items()
            if _ALL_STORES in row
        ]
        by_store = [
            [what, _beside(row), _aims(row), *[row[store].cell if store in row else "" for store in stores]]
            for what, row in rows.items()
            if _ALL_STORES not in row
        ]
        parts = [self._environment()]
        if by_store:
            parts.append(markdown([["what", "beside", "target", *stores], *by_store]))
        if general:
            parts.append(markdown([["what", "beside", "target", "measured"], *general]))
        return "\n\n".join(parts)

    def _environment(self) -> str:
        load = f"{os.getloadavg()[0]:.1f}"
        return (
            f"{datetime.now(UTC):%Y-%m-%d}, {platform.system()} {platform.machine()}, {os.cpu_count()} processors "
            f"(load {load}), {', '.join([f'Python {sys.version.split()[0]}', *sorted(self.versions)])}"
        )


def _beside(row: dict[str, Figure]) -> str:
    return "; ".join(dict.fromkeys(figure.beside for figure in row.values()))


def _aims(row: dict[str, Figure]) -> str:
    """The targets of a row, with the stores if they are not the same for all."""
    aims: dict[str, list[str]] = {}
    for figure in row.values():
        aims.setdefault(figure.aim, []).append(figure.store)
    if len(aims) == 1:
        return next(iter(aims))
    return "; ".join(f"{aim} ({', '.join(stores)})" for aim, stores in aims.items() if aim)


def markdown(rows: Iterable[list[str]]) -> str:
    """A table in Markdown; the first row is its header."""
    header, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([header, "|" + "---|" * (header.count(" | ") + 1), *others])


def seconds(value: float) -> str:
    """Format a duration for reading."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


if __name__ == "__main__":
    print(Table.read(Path(sys.argv[1])).text())
