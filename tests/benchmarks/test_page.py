"""The tables of the pages about the benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks.page import by_hand, costs, filled
from tests.benchmarks.table import Figure, Table

DOCS = Path(__file__).resolve().parents[2] / "docs"
TABLE = Table(
    [
        Figure(
            store=store, what="jobs a second, one process", measured=0.75, target=target, better="more",
            medians="600/s : 800/s",
        )
        for store, target in (("SQLite", 0.8), ("Redis", 0.7), ("MariaDB", None))
    ]
)  # fmt: skip


def test_the_costs_are_backjobs_own_medians() -> None:
    assert "| jobs a second in one process | 600/s | 600/s | 600/s |" in costs(TABLE).splitlines()


def test_a_figure_that_misses_its_target_is_bold() -> None:
    row = "| jobs a second, one process | **0.75 ×** | 0.75 × | 0.75 × | at least 0.8 × or at least 0.7 × |"
    assert row in by_hand(TABLE).splitlines()


def test_a_table_replaces_the_one_in_its_place() -> None:
    page = "# Costs\n\n<!-- costs -->\nold\n<!-- /costs -->\n\nend\n"
    once = filled(page, {"costs": "| 1 |"})
    assert once == "# Costs\n\n<!-- costs -->\n\n| 1 |\n\n<!-- /costs -->\n\nend\n"
    assert filled(once, {"costs": "| 1 |"}) == once
    with pytest.raises(ValueError, match="'peers'"):
        filled(page, {"peers": ""})


def test_the_pages_have_a_place_for_each_table() -> None:
    for name, tables in (("benchmarks.md", ("costs", "by hand", "peers")), ("benchmarks-figures.md", ("figures",))):
        page = (DOCS / name).read_text(encoding="utf-8")
        assert "a table" in filled(page, dict.fromkeys(tables, "a table"))
