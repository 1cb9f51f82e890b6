"""Colours and styles of text, as the escape sequence SGR (ECMA-48, section 8.3.117) sets them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, TypeAlias

from attrs import evolve, frozen

Colour: TypeAlias = "int | tuple[int, int, int]"
"""One of the 16 named colours, or red, green and blue from 0 to 255."""

_LEVELS: Final = (0, 95, 135, 175, 215, 255)
_MOST: Final = 0xFF
_FLAGS: Final = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike", 21: "underline"}
_OFF: Final = {22: ("bold", "dim"), 23: ("italic",), 24: ("underline",), 27: ("inverse",), 29: ("strike",)}
_EXTENDED: Final = (38, 48, 58)
"""A colour of 256 or of 16 million follows: of the text, of its background, of its underline. The last one is skipped."""

_GROUNDS: Final = {3: "fg", 9: "fg", 4: "bg", 10: "bg"}
_LAST_DARK: Final = 4
# In the form with colons a number for the colour space may precede the colour, and 4 may have the kind of the line.
_COLOUR_SPACE: Final = re.compile(r"([345]8:2):\d*:(\d+:\d+:\d+)")
_LINE_KIND: Final = re.compile(r"(?<![^;])4:(\d+)")


@frozen(kw_only=True)
class Style:
    """How a part of the output looks. None: the reader's own colour."""

    fg: Colour | None = None
    bg: Colour | None = None
    bold: bool = False
    dim: bool = False
    italic: bool = False
    underline: bool = False
    strike: bool = False
    inverse: bool = False

    def after(self, parameters: str) -> Style:
        """Return the style after an SGR sequence with these parameters. Unknown ones change nothing."""
        style = self
        codes = _codes(parameters)
        for code in codes:
            tens, digit = divmod(code, 10)
            if code == 0:
                style = DEFAULT
            elif code in _FLAGS:
                style = evolve(style, **{_FLAGS[code]: True})
            elif code in _OFF:
                style = evolve(style, **dict.fromkeys(_OFF[code], False))
            elif code in _EXTENDED:
                colour = _extended(codes)
                if colour is not None:
                    style = _painted(style, tens, colour)
            elif digit < 8:
                style = _painted(style, tens, digit + (8 if tens > _LAST_DARK else 0))
            elif digit == 9 and tens <= _LAST_DARK:
                style = _painted(style, tens, None)
        return style


DEFAULT: Final = Style()


def _painted(style: Style, tens: int, colour: Colour | None) -> Style:
    ground = _GROUNDS.get(tens)
    if ground == "fg":
        return evolve(style, fg=colour)
    return evolve(style, bg=colour) if ground == "bg" else style


def _codes(parameters: str) -> Iterator[int]:
    plain = _LINE_KIND.sub(lambda found: "24" if int(found[1]) == 0 else "4", parameters)
    plain = _COLOUR_SPACE.sub(r"\1:\2", plain).replace(":", ";")
    if plain.replace(";", "").isdecimal() or not plain.strip(";"):
        return iter([int(part or 0) for part in plain.split(";")])
    return iter(())  # a private sequence


def _extended(codes: Iterator[int]) -> Colour | None:
    """Return the colour that follows 38, 48 or 58, or None for what is none."""
    kind = next(codes, 0)
    if kind == 5:
        return _indexed(next(codes, 0))
    if kind == 2:
        red, green, blue = (min(next(codes, 0), _MOST) for _ in range(3))
        return red, green, blue
    return None


def _indexed(number: int) -> Colour | None:
    if number < 16:
        return number
    if number < 232:
        number -= 16
        return _LEVELS[number // 36], _LEVELS[number // 6 % 6], _LEVELS[number % 6]
    if number <= _MOST:
        grey = 8 + 10 * (number - 232)
        return grey, grey, grey
    return None
