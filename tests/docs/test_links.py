"""Every link of README, docs and the other pages of the repository leads to a file, and every anchor to a heading."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import PAGES, ROOT

LINKED: Final = (*PAGES, ROOT / "CHANGELOG.md", ROOT / "SECURITY.md")

_CODE: Final = re.compile(r"^```.*?^```$|^~~~.*?^~~~$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} +(?P<text>.+?)(?: +\{ *#(?P<id>[\w-]+) *\})? *$", re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor of a heading, as MkDocs makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower())


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page: those of its headings and of the ids in its HTML."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"(?<=\bid=\")[\w-]+(?=\")|(?<=^::: )[\w.]+$", text, re.MULTILINE)
    for heading in _HEADING.finditer(re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
        name = heading["id"] or slug(heading["text"])
        found.append(name if name not in found else f"{name}_{sum(other.startswith(name) for other in found)}")
    return frozenset(found)


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    wrong = []
    for link in _LINK.finditer(_CODE.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = page.parent / path if path else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target.resolve())):
            wrong.append(link["target"])
    return wrong


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_of_a_page_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert broken(page) == []


def test_a_link_to_a_missing_file_or_heading_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A page\n\n## Who may `watch` it?\n\n## Two\n\n## Two\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#who-may-watch-it) [c](#here) [d](other.md#two_1) [e](https://example.com/x)\n"
        "[f](gone.md) [g](other.md#gone) [h](#gone) `[i](gone.md)`\n\n```md\n[j](gone.md)\n```\n\n# Here\n",
        encoding="utf-8",
    )
    assert broken(page) == ["gone.md", "other.md#gone", "#gone"]
