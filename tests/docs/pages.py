"""The pages of README and docs, and the code blocks in them, with the files that they include."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import frozen

__all__ = ["PAGES", "README", "ROOT", "Block", "blocks", "flask_example"]

ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = ROOT / "README.md"
PAGES: Final = (README, *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "decisions").glob("*.md")))

_BLOCK: Final = re.compile(
    r"(?:<!-- (?P<marker>[a-z-]+) -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_INCLUDED: Final = re.compile(r"^--8<-- \"(?P<path>[^\"]+)\"\n", re.MULTILINE)


@frozen
class Block:
    """A fenced block. ``marker`` comes from the comment in the line before it, ``title`` is a file name; both may be empty."""

    page: Path
    line: int
    language: str
    marker: str
    title: str
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):  # before the files are included, so that lines count as in the page
        line = text.count("\n", 0, found.start("code"))
        yield Block(page, line, found["language"], found["marker"] or "", found["title"] or "", included(found["code"]))


def included(code: str) -> str:
    """The code of a block, with the files that its lines ``--8<-- "docs/…"`` include."""
    return _INCLUDED.sub(lambda found: (ROOT / found["path"]).read_text(encoding="utf-8"), code)


def flask_example() -> str:
    """The README's Flask application."""
    [example] = [block for block in blocks(README) if block.marker == "flask-example"]
    return example.code
