"""docs/architecture.md and the pages around it name files, tests and layers that exist."""

from __future__ import annotations

import difflib
import re
import tomllib

from tests.docs.pages import PAGES, ROOT, blocks

PAGE = ROOT / "docs" / "architecture.md"
SECURITY = ROOT / "docs" / "security.md"


def test_every_named_file_exists() -> None:
    named = {
        path
        for page in PAGES
        for path in re.findall(r"`((?:backjob|tests|docs)/[\w./-]*)(?:::\w+)?`", page.read_text(encoding="utf-8"))
    }
    assert "backjob/lifecycle/" in named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_named_test_exists() -> None:
    missing = []
    for page in PAGES:
        for path, name in re.findall(r"`([\w./-]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
            file = ROOT / path
            there = re.findall(r"def (\w+)\(", file.read_text(encoding="utf-8")) if file.exists() else []
            if name not in there:
                missing.append(f"{page.name}: {path}::{name}, renamed to {difflib.get_close_matches(name, there, 1)}?")
    assert missing == []


def test_every_invariant_has_a_test() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Invariants")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| **")]
    assert len(rows) == 11
    assert [row for row in rows if "::test_" not in row] == []


def test_every_threat_has_a_test() -> None:
    section = SECURITY.read_text(encoding="utf-8").partition("## Who can do what")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|") and "---" not in line]
    threats = [cells[0] for cells in rows if len(cells) == 3][1:]
    tested = {cells[0].strip() for cells in rows if len(cells) == 2 and "::test_" in cells[1]}
    assert len(threats) == 9
    named = [threat for threat in threats if any(name in threat.lower().replace("another", "other") for name in tested)]
    assert (len(tested), named) == (9, threats)


def test_the_map_lists_every_package_and_module() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## The map")[2].partition("\n## ")[0]
    listed = {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)/?`", line.split("|")[1])
    }
    there = {
        path.stem
        for path in (ROOT / "backjob").iterdir()
        if (path.suffix == ".py" and not path.name.startswith("__")) or (path / "__init__.py").exists()
    }
    assert listed == there


def test_the_layers_are_those_of_the_import_contract() -> None:
    [block] = [block for block in blocks(PAGE) if block.marker == "layers"]
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    [contract] = [contract for contract in tools["importlinter"]["contracts"] if contract["type"] == "layers"]
    assert block.code.splitlines() == contract["layers"]


def test_the_index_lists_every_decision() -> None:
    index = ROOT / "docs" / "decisions" / "index.md"
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", index.read_text(encoding="utf-8"))
    assert listed == [path.name for path in sorted(index.parent.glob("[0-9]*.md"))]
