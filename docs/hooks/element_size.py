"""Prints the size of the progress element, inserts it into the docs, and fails the build above a limit."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any, Final

import rjsmin
from mkdocs.exceptions import PluginError

SCRIPT: Final = Path(__file__).resolve().parents[2] / "backjob" / "status" / "static" / "progress.js"
LARGEST: Final = 6000  # bytes
PLACE: Final = "{{ element_size }}"


def size() -> int:
    """The size of progress.js in bytes, minified and gzipped."""
    minified = rjsmin.jsmin(SCRIPT.read_text("utf-8"))
    return len(gzip.compress(minified.encode(), mtime=0))


def on_config(config: Any) -> None:
    """Print the size, also in a quiet build, so that growth is noticed."""
    found = size()
    print(f"progress.js, minified and gzipped: {found:,} bytes of at most {LARGEST:,}", flush=True)
    if found >= LARGEST:
        raise PluginError(f"progress.js is too large: {found:,} bytes, minified and gzipped")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the placeholder by the size."""
    return markdown.replace(PLACE, f"{size() / 1000:.1f} kB")
