"""Prints how much of the progress element travels to a browser, and puts it into the docs. Too much ends the build."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Final

import rjsmin
from mkdocs.exceptions import PluginError

SCRIPT: Final = Path(__file__).resolve().parents[2] / "backjob" / "status" / "static" / "progress.js"
LARGEST: Final = 5000  # bytes
PLACE: Final = "{{ element_size }}"


def size() -> int:
    """The bytes of progress.js, minified and gzipped."""
    minified = rjsmin.jsmin(SCRIPT.read_text("utf-8"))
    return len(gzip.compress(minified.encode(), mtime=0))


def on_config(config: Any) -> None:
    """Say it, even if the build is to be quiet: a size that nobody sees grows."""
    found = size()
    print(f"progress.js, minified and gzipped: {found:,} bytes of at most {LARGEST:,}", flush=True)
    if found >= LARGEST:
        raise PluginError(f"progress.js is too large: {found:,} bytes, minified and gzipped")


def on_page_markdown(markdown: str, **_: object) -> str:
    """The page with the size in its place."""
    return markdown.replace(PLACE, f"{size() / 1000:.1f} kB")
