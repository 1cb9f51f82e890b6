"""Tables in the docs agree with the code, and the navigation lists every page."""

from __future__ import annotations

import re
import tomllib

from attrs import fields

from backjob import settings
from backjob.cli.exits import MEANINGS, Exit
from backjob.cli.findings import Problem
from backjob.model import Status
from backjob.status.endpoints import Endpoints
from tests.docs.pages import PAGES, ROOT
from tests.unit.acting import Acting, quiet_jobs

DOCS = ROOT / "docs"


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def first_cells(page: str) -> list[str]:
    """The first cell of every row of every table of a page."""
    return re.findall(r"^\| *(?!---)([^|]+?) *\|", text_of(page), re.MULTILINE)


def test_the_settings_page_lists_exactly_the_settings() -> None:
    listed = [cell.strip("`") for cell in first_cells("settings.md") if cell.startswith("`")]
    assert sorted(listed) == sorted(field.name.upper() for field in fields(settings.Settings))


def test_the_doctors_table_lists_every_problem_with_its_exit_code() -> None:
    listed = {int(cell) for cell in first_cells("command-line.md") if cell.isdigit() and 10 <= int(cell) < 30}
    assert listed == {int(problem) for problem in Problem}


def test_the_command_line_page_lists_every_exit_code() -> None:
    section = text_of("command-line.md").partition("## Exit codes")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| (\d[\d–]*) \|", section, re.MULTILINE)
    assert listed == list(MEANINGS)
    assert {code for code in listed if "–" not in code} == {str(int(code)) for code in Exit}


def test_the_page_of_the_routes_lists_every_field_and_every_status() -> None:
    page = text_of("status-routes.md")
    with quiet_jobs() as jobs:
        state = jobs.status(Acting(jobs).id).as_dict()
    assert [name for name in (*state, "links") if f'"{name}"' not in page] == []
    assert [status for status in Status if f"{int(status)} `{status.name}`" not in page] == []


def test_the_page_of_the_routes_lists_every_route() -> None:
    page = text_of("status-routes.md")
    assert [leaf for leaf in Endpoints._routes if f"{{id}}/{leaf}" not in page and leaf] == []


def test_the_elements_page_lists_every_attribute_part_and_event_of_the_element() -> None:
    script = (ROOT / "backjob" / "status" / "static" / "progress.js").read_text(encoding="utf-8")
    page = text_of("element.md")
    names = {
        *re.findall(r"(?:get|has)Attribute\(\"([\w-]+)\"\)", script),
        *re.findall(r"part: \"(\w+)\"", script),
        *re.findall(r"\"(backjob-(?:update|done|failed))\"", script),
    }
    assert {"src", "output", "cancel", "label", "bar", "backjob-done"} <= names
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []


def test_contributing_lists_every_directory_of_tests() -> None:
    listed = {name for cell in first_cells("contributing.md") for name in re.findall(r"`(\w+)/`", cell)}
    assert listed == {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}


def test_contributing_lists_every_marker() -> None:
    pytest_options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"][
        "ini_options"
    ]
    listed = [cell for cell in first_cells("contributing.md") if re.fullmatch(r"`\w+`", cell)]
    assert sorted(listed) == sorted(f"`{marker.partition(':')[0]}`" for marker in pytest_options["markers"])


def test_the_navigation_lists_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = [str(path.relative_to(DOCS)) for path in PAGES if path.is_relative_to(DOCS)]
    assert sorted(re.findall(r"[-:] ([\w/-]+\.md)", navigation)) == sorted(pages)
