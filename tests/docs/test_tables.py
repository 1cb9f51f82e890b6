"""What the docs list is what the code has, and what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from attrs import fields

from backjob import settings
from backjob.cli.findings import Problem
from backjob.model import JobState, Status
from tests.docs.pages import PAGES, ROOT

DOCS = ROOT / "docs"


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def first_cells(page: str) -> list[str]:
    """The first cell of every row of every table of a page."""
    return re.findall(r"^\| *(?!---)([^|]+?) *\|", text_of(page), re.MULTILINE)


def test_the_settings_page_lists_every_setting_and_no_other() -> None:
    listed = [cell.strip("`") for cell in first_cells("settings.md") if cell.startswith("`")]
    assert sorted(listed) == sorted(field.name.upper() for field in fields(settings.Settings))


def test_the_doctors_table_has_every_problem_by_its_exit_code() -> None:
    listed = {int(cell) for cell in first_cells("command-line.md") if cell.isdigit() and 10 <= int(cell) < 20}
    assert listed == {int(problem) for problem in Problem}


def test_the_status_page_tells_every_field_and_every_status() -> None:
    page = text_of("status.md")
    assert [name for name in _names(JobState) if f'"{name}"' not in page] == []
    assert [status for status in Status if f"{int(status)} `{status.name}`" not in page] == []


def _names(cls: type[JobState]) -> list[str]:
    return [field.name for field in fields(cls)]


def test_the_status_page_tells_every_attribute_part_and_event_of_the_element() -> None:
    script = (ROOT / "backjob" / "status" / "static" / "progress.js").read_text(encoding="utf-8")
    page = text_of("status.md")
    spoken_of = {
        *re.findall(r"(?:get|has)Attribute\(\"([\w-]+)\"\)", script),
        *re.findall(r"part: \"(\w+)\"", script),
        *re.findall(r"\"(backjob-(?:update|done|failed))\"", script),
    }
    assert {"src", "output", "cancel", "label", "bar", "backjob-done"} <= spoken_of
    assert [name for name in sorted(spoken_of) if f"`{name}`" not in page] == []


def test_contributing_has_a_line_for_every_module() -> None:
    listed = {name for cell in first_cells("contributing.md") for name in re.findall(r"`(\w+)/?`", cell)}
    there = {
        path.stem
        for path in (ROOT / "backjob").iterdir()
        if (path.suffix == ".py" and not path.name.startswith("__")) or (path / "__init__.py").exists()
    }
    tests = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert listed == there | tests


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert sorted(re.findall(r": ([\w-]+\.md)", navigation)) == sorted(path.name for path in DOCS.glob("*.md"))
