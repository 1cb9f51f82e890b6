"""Values in the messages of the suite: where two differ, and the fields of one that are not the usual ones."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Final

from attrs import NOTHING, fields, has

__all__ = ["difference", "shown"]

_LONGEST: Final = 400  # characters of a value that are shown
_AROUND: Final = 30  # characters beside the first difference of two long texts


def difference(found: Any, expected: Any) -> str:
    """Both values; of two jobs only the fields that differ, and of long texts only the place where they do."""
    if has(type(found)) and type(found) is type(expected):
        names = [each.name for each in fields(type(found))]
        pairs = [(name, getattr(expected, name), getattr(found, name)) for name in names]
        return "".join([_lines(wanted, got, f" {name}") for name, wanted, got in pairs if wanted != got])
    return _lines(expected, found)


def _lines(expected: Any, found: Any, what: str = "") -> str:
    place = ""
    is_sequence = type(expected) is type(found) and isinstance(expected, str | bytes | list | tuple)
    if is_sequence and max(len(repr(expected)), len(repr(found))) > _LONGEST:
        at = _first_difference(expected, found)
        place = f" (lengths {len(expected)} and {len(found)}; they differ from {at} on)"
        begin = max(0, at - _AROUND)
        expected, found = expected[begin : at + _AROUND], found[begin : at + _AROUND]
    return f"\n  expected{what}: {_shortly(expected)}\n  found{what}:    {_shortly(found)}{place}"


def _first_difference(expected: Any, found: Any) -> int:
    pairs = enumerate(zip_longest(expected, found, fillvalue=None))
    return next((index for index, (one, other) in pairs if one != other), 0)


def _shortly(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text)} characters)"


def shown(value: Any) -> str:
    """A value that a call got; of an object only the fields that differ from their defaults."""
    if has(type(value)):
        pairs = [(field.name, getattr(value, field.name), field.default) for field in fields(type(value))]
        given = [f"{name}={shown(found)}" for name, found, default in pairs if default is NOTHING or found != default]
        return f"{type(value).__name__}({', '.join(given)})"
    return _shortly(value)
