"""Lines of output as HTML and for a terminal: text with styles, never markup or sequences of the job's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from html import escape
from typing import Final

from backjob.output.screen import Line, lines_of
from backjob.output.styles import DEFAULT, Colour, Style

_FLAGS: Final = (
    ("bold", "1"), ("dim", "2"), ("italic", "3"), ("underline", "4"), ("inverse", "7"), ("strike", "9"),
)  # fmt: skip
_BRIGHT: Final = 8

# C0 except tab and newline, DEL and C1 control a terminal; lone surrogates can't be encoded; the others reorder text or
# break lines.
_CONTROL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def escaped(text: str) -> str:
    r"""Replace control characters with escapes such as ``\x1b``. Newlines and tabs stay; CR LF becomes a newline."""
    return _CONTROL.sub(_escape, text.replace("\r\n", "\n"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def html_of(text: str) -> str:
    """Return output as HTML for a ``<pre>``: escaped text in spans with classes, which progress.css styles."""
    return "\n".join(_joined(line, _span) for line in lines_of(text))


def ansi_of(lines: Iterable[Line], *, colours: bool) -> str:
    """Return lines for a terminal, joined by newlines: with colours or without, and without any other control character."""
    return "\n".join(_joined(line, _coloured if colours else _uncoloured) for line in lines)


def classes_of(style: Style) -> str:
    """Return the CSS classes of a style, separated by spaces; empty for the default."""
    names = [name for name, _ in _FLAGS if getattr(style, name)]
    for ground, colour in (("f", style.fg), ("g", style.bg)):
        names += _colour_classes(ground, colour)
    return " ".join(f"bj-{name}" for name in names)


def _colour_classes(ground: str, colour: Colour | None) -> list[str]:
    if colour is None:
        return []
    if isinstance(colour, int):
        return [f"{ground}{colour}"]
    # Digits from 0 to 5: a style sheet has no rule for each of 16 million colours.
    return [f"{ground}x", *(f"{ground}{name}{(value + 25) // 51}" for name, value in zip("rgb", colour, strict=True))]


def _joined(line: Line, form: Callable[[str, Style], str]) -> str:
    return "".join(form(text, style) for text, style in line)


def _span(text: str, style: Style) -> str:
    classes = "" if style is DEFAULT else classes_of(style)
    return f'<span class="{classes}">{escape(text)}</span>' if classes else escape(text)


def _uncoloured(text: str, _style: Style) -> str:
    return escaped(text)


def _coloured(text: str, style: Style) -> str:
    codes = [code for name, code in _FLAGS if getattr(style, name)]
    codes += _colour_codes(30, style.fg) + _colour_codes(40, style.bg)
    return f"\x1b[{';'.join(codes)}m{escaped(text)}\x1b[0m" if codes else escaped(text)


def _colour_codes(base: int, colour: Colour | None) -> list[str]:
    if colour is None:
        return []
    if isinstance(colour, int):
        return [str(base + colour if colour < _BRIGHT else base + 60 + colour - _BRIGHT)]
    return [str(base + 8), "2", *map(str, colour)]
