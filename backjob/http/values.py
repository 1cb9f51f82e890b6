"""Values that users pass, as text or as JSON: in a query or form, as a status text, as a result."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from enum import Enum
from os import PathLike, fspath
from typing import Any, Final

from backjob.errors import InvalidRequest

_DEEPEST: Final = 200
"""Levels of nested lists and mappings. Python's own encoder would exceed its recursion limit somewhere past 300."""

_NOT_A_SEQUENCE: Final = (str, bytes, bytearray, memoryview)
# The usual types first: asking an abstract class takes ten times as long.
_MAPPINGS: Final = (dict, Mapping)
_SEQUENCES: Final = (tuple, list, Sequence)


def text_of(argument: str, value: object, remedy: str = "") -> str:
    """Return a text argument as a plain `str`. Raises `InvalidRequest`, whose message ends with ``remedy``, for other types.

    It also accepts subclasses of `str`, lazy translations (Django, Babel, Flask-Babel), paths and exceptions (their
    message).
    """
    if type(value) is str:
        return value
    text = _plain_text(value)
    if text is None and isinstance(value, PathLike):
        path = fspath(value)
        text = path if isinstance(path, str) else None
    if text is None and isinstance(value, BaseException):
        text = _printed(argument, value) or type(value).__name__
    if text is None:
        raise InvalidRequest(argument, f"must be text, not {type(value).__name__}{remedy}")
    return text


def pairs_of(argument: str, params: object) -> list[tuple[str, str]]:
    """Return the names and values of a query or a form as text.

    A list or tuple repeats its name. None is left out, also within a list. Text, numbers, booleans (``true`` and
    ``false``), dates, times and durations (ISO 8601), UUIDs and enum members (their values) become text. Raises
    `InvalidRequest` for other types.
    """
    if isinstance(params, _MAPPINGS):
        params = params.items()
    elif isinstance(params, _NOT_A_SEQUENCE) or not isinstance(params, Iterable):
        raise InvalidRequest(argument, f"must be a mapping or pairs of names and values, not {type(params).__name__}")
    pairs: list[tuple[str, str]] = []
    for pair in params:
        if isinstance(pair, _NOT_A_SEQUENCE) or not isinstance(pair, _SEQUENCES) or len(pair) != 2:
            raise InvalidRequest(argument, "must be a mapping or pairs of names and values")
        given, value = pair
        name = _plain_text(given)
        if name is None:
            raise InvalidRequest(argument, f"names must be text, not {given!r}")
        values = value if isinstance(value, list | tuple) else (value,)
        pairs.extend((name, _field_text(argument, name, single)) for single in values if single is not None)
    return pairs


def json_text(argument: str, value: object) -> str:
    """Return a value as JSON text. Raises `InvalidRequest` for a value that JSON can't represent, such as NaN.

    Besides JSON's own types it accepts dates, times and durations (ISO 8601), decimals and UUIDs (their text), enum members
    (their values), lazy translations, and any mapping or sequence.
    """
    try:
        return json.dumps(_json_ready(argument, value, "", 0), allow_nan=False)
    except ValueError as error:  # an integer of more than 4300 digits
        raise InvalidRequest(argument, str(error)) from None


def _json_ready(argument: str, value: object, where: str, depth: int) -> Any:
    if depth > _DEEPEST:
        raise InvalidRequest(argument, f"is nested more than {_DEEPEST} levels deep, or contains itself")
    if isinstance(value, Enum):
        return _json_ready(argument, value.value, where, depth + 1)
    if isinstance(value, _MAPPINGS):
        return _json_object(argument, value, where, depth)
    if isinstance(value, _SEQUENCES) and not isinstance(value, _NOT_A_SEQUENCE):
        return [_json_ready(argument, item, f"{where}[{index}]", depth + 1) for index, item in enumerate(value)]
    try:
        return _scalar(value)
    except TypeError:
        place = f" at {where}" if where else ""
        raise InvalidRequest(
            argument, f"JSON can't represent {_shown(value)}{place}; convert it to text, numbers, lists or mappings"
        ) from None


def _json_object(argument: str, value: Mapping[Any, Any], where: str, depth: int) -> dict[str, Any]:
    ready: dict[str, Any] = {}
    for key, item in value.items():
        try:
            plain = _scalar(key.value if isinstance(key, Enum) else key)
        except TypeError:
            raise InvalidRequest(argument, f"a key must be text or a number, not {_shown(key)}") from None
        name = plain if isinstance(plain, str) else json.dumps(plain)
        if name in ready:
            raise InvalidRequest(argument, f"two keys of a mapping are both {name!r} in JSON")
        ready[name] = _json_ready(argument, item, f"{where}[{name!r}]", depth + 1)
    return ready


def _field_text(argument: str, name: str, value: object) -> str:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float):
        return str(float(value))
    try:
        plain = _scalar(value)
    except TypeError:
        plain = None
    if plain is None:
        raise InvalidRequest(
            argument, f"{name!r} must be text, a number, a date or a list of them, not {type(value).__name__}"
        )
    return plain if isinstance(plain, str) else str(plain).lower()  # true and false


def _scalar(value: object) -> str | int | float | bool | None:
    """Return the value as one of JSON's scalars. Raises `TypeError` for any other value, also for NaN and infinity."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError
        return float(value)
    for kind, convert in _CONVERTED:
        if isinstance(value, kind):
            return convert(value)
    for module, name, convert in _LOADED_LATER:
        if _is_of(value, module, name):
            return convert(value)
    text = _plain_text(value)
    if text is None:
        raise TypeError
    return text


def _plain_text(value: object) -> str | None:
    """Return the text of a `str` of any class, or of a lazy one, which has the methods of `str`; otherwise None."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, type) or not (hasattr(value, "casefold") and hasattr(value, "isidentifier")):
        return None
    return str.__str__(str(value))


def _printed(argument: str, value: object) -> str:
    try:
        return str.__str__(str(value))
    except Exception as error:
        raise InvalidRequest(argument, f"the text of this {type(value).__name__} can't be had: {error!r}") from error


def _shown(value: object) -> str:
    is_number = isinstance(value, float) or _is_of(value, "decimal", "Decimal")
    return repr(value) if is_number else f"a value of type {type(value).__name__}"


def _is_of(value: object, module: str, name: str) -> bool:
    """Return whether the value is of this class, without importing its module: else there is no such value."""
    kind = getattr(sys.modules.get(module), name, ())  # also while another thread imports the module
    return isinstance(value, kind)


def _finite(value: Any) -> str:
    if not value.is_finite():
        raise TypeError
    return str(value)


def _duration(value: timedelta) -> str:
    """Return a duration in ISO 8601, as Django writes it: ``P1DT02H03M04.000005S``."""
    sign = "-" if value < timedelta(0) else ""
    value = abs(value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06d}" if value.microseconds else ""
    return f"{sign}P{value.days}DT{hours:02d}H{minutes:02d}M{seconds:02d}{fraction}S"


_CONVERTED: Final[tuple[tuple[type, Callable[[Any], str | int]], ...]] = (
    (str, str.__str__),
    (int, int),
    (datetime, datetime.isoformat),
    (date, date.isoformat),
    (time, time.isoformat),
    (timedelta, _duration),
)
_LOADED_LATER: Final[tuple[tuple[str, str, Callable[[Any], str]], ...]] = (
    ("decimal", "Decimal", _finite),
    ("uuid", "UUID", str),
)
"""Kinds whose modules take long to import."""
