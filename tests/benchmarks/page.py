"""Writes the tables of docs/benchmarks.md and docs/benchmarks-figures.md: ``python -m tests.benchmarks.page FIGURES PEERS``.

``FIGURES`` is the file of ``BACKJOB_BENCHMARK_FIGURES``, and ``PEERS`` that of ``tests.benchmarks.peers --table``. A table in a
page stands between ``<!-- name -->`` and ``<!-- /name -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from tests.benchmarks.table import Figure, Table, markdown

__all__ = ["by_hand", "costs", "filled", "main"]

_DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
_ONE, _TWO = "one process", "two processes"
_FIRST_LINE: Final = "start() to the action's first line, after {} ms of rest, {}"

_COSTS: Final = {
    "`start()` returns after": f"start() beyond the insert, after 20 ms of rest, {_ONE}",
    "the action's first line runs after": _FIRST_LINE.format(20, _ONE),
    "processor time of a job": f"processor time of a job, {_ONE}",
    "jobs a second in one process": f"jobs a second, {_ONE}",
    "an update that writes, with output": "update() that writes, with output",
    "reading a state": "status() without output",
}
_BY_HAND: Final = {
    "jobs a second, one process": f"jobs a second, {_ONE}",
    "jobs a second, two processes": f"jobs a second, {_TWO}",
    "processor time of a job, one process": f"processor time of a job, {_ONE}",
    "processor time of a job, two processes": f"processor time of a job, {_TWO}",
    "`start()` to the first line, one process": _FIRST_LINE.format(0, _ONE),
    "the same after 20 ms of rest": _FIRST_LINE.format(20, _ONE),
    "`start()` to the first line, two processes": _FIRST_LINE.format(0, _TWO),
    "`start()` beyond the bare insert": f"start() beyond the insert, after 0 ms of rest, {_ONE}",
    "an update that writes, with output": "update() that writes, with output",
    "reports of 1,000 running jobs": "coalesced reports of 1,000 running jobs, written in a second",
    "reading a state": "status() without output",
    "a job, with a million ended ones": "with 1,000,000 ended jobs: start() to the end",
}
"""The rows of the page's tables, and what the benchmarks call them."""


def costs(table: Table) -> str:
    """What backjob's operations cost in each store."""
    return _rows(table, _COSTS, lambda figure: figure.medians.partition(" : ")[0])


def by_hand(table: Table) -> str:
    """The costs beside the same work without backjob, with their targets; what misses its target is bold."""
    return _rows(table, _BY_HAND, lambda figure: figure.cell.partition(" (")[0], with_targets=True)


def _rows(table: Table, titles: Mapping[str, str], cell: Callable[[Figure], str], *, with_targets: bool = False) -> str:
    stores = list(dict.fromkeys(figure.store for figure in table.figures if figure.store))
    rows = [["", *stores, *(["target"] if with_targets else [])]]
    for title, what in titles.items():
        found = {figure.store: figure for figure in table.figures if figure.what == what}
        row = [title, *[cell(found[store]) if store in found else "" for store in stores]]
        if with_targets:
            row.append(" or ".join(dict.fromkeys(figure.aim for figure in found.values() if figure.aim)))
        rows.append(row)
    return markdown(rows)


def filled(page: str, tables: Mapping[str, str]) -> str:
    """The page with these tables in their places. Raises `ValueError` for a table that has no place in it."""
    for name, content in tables.items():
        before, *after = re.split(f"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", page, flags=re.DOTALL)
        if len(after) != 1:
            raise ValueError(f"the page has {len(after)} places for the table {name!r}")
        page = f"{before}\n{content}\n\n{after[0]}"
    return page


def main(figures: Path, peers: Path) -> None:
    """Fill both pages."""
    table = Table.read(figures)
    tables = {"costs": costs(table), "by hand": by_hand(table), "peers": peers.read_text(encoding="utf-8").strip()}
    for name, content in (("benchmarks.md", tables), ("benchmarks-figures.md", {"figures": table.text()})):
        page = _DOCS / name
        page.write_text(filled(page.read_text(encoding="utf-8"), content), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
