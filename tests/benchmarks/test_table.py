"""The table of the benchmarks' figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.table import Figure, Table

FASTER = Figure(store="SQLite", what="start()", measured=1.5, target=2, medians="3 µs : 2 µs", beside="the insert")
SLOWER = Figure(store="Redis", what="start()", measured=2.5, target=3, medians="5 µs : 2 µs", beside="the insert")
RATE = Figure(store="SQLite", what="jobs a second", measured=0.7, target=0.8, better="more")
IMPORT = Figure(what="import", measured=1234.5, target=30, unit="ms", implausible=100)


def _rows(table: Table) -> list[list[str]]:
    lines = [line for line in table.text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_cost_is_a_row_with_a_column_for_each_store() -> None:
    assert _rows(Table([FASTER, RATE, SLOWER, IMPORT])) == [
        ["what", "beside", "target", "SQLite", "Redis"],
        ["start()", "the insert", "at most 2 × (SQLite); at most 3 × (Redis)", "1.50 × (3 µs : 2 µs)", "2.50 × (5 µs : 2 µs)"],
        ["jobs a second", "", "at least 0.8 ×", "**0.70 ×**", ""],
        ["what", "beside", "target", "measured"],
        ["import", "", "at most 30 ms", "**1,234 ms**"],
    ]  # fmt: skip


def test_an_implausible_figure_fails() -> None:
    with pytest.raises(AssertionError, match="jobs a second"):
        Table().add(Figure(what="jobs a second", measured=0.07, target=0.8, better="more"))


def test_a_file_keeps_the_figures_that_a_later_run_does_not_measure(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    Table([FASTER, RATE], {"SQLite 3"}).write(path)
    again = Figure(store="SQLite", what="start()", measured=1.2, target=2)
    Table([again, SLOWER], {"Redis 7"}).write(path)
    found = Table.read(path)
    assert found.figures == [again, RATE, SLOWER]
    assert found.versions == {"SQLite 3", "Redis 7"}
