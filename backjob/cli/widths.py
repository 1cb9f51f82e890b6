"""How many columns of a terminal a text takes."""

from __future__ import annotations

import unicodedata


def width_of(text: str) -> int:
    """Return how many columns of a terminal a text occupies."""
    return sum(_width(character) for character in text)


def fitted(text: str, columns: int) -> str:
    """Return the text, cut off with an ellipsis if it is wider than this many columns."""
    if width_of(text) <= columns:
        return text
    kept, left = "", columns - 1
    for character in text:
        left -= _width(character)
        if left < 0:
            break
        kept += character
    return f"{kept}…"


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
