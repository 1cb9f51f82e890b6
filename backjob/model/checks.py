"""Validators for fields of the values: each raises `InvalidRequest`, naming the field, for what no store can keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

from attrs import Attribute

from backjob.errors import InvalidRequest
from backjob.model.texts import UNSET, Unset, is_storable

_EARLIEST: Final = -60e9  # s: about 1900 years ago
_LATEST: Final = 221e9  # s: about 7000 years ahead; from any now, both are within the calendar

_Validator: TypeAlias = "Callable[[Any, Attribute[Any], Any], None]"


def check_text(longest: int | None = None, *, largest: int | None = None) -> _Validator:
    """Check a text, and that it has at most ``longest`` characters and ``largest`` bytes of UTF-8."""

    def check(_: object, attribute: Attribute[Any], value: object) -> None:
        if not isinstance(value, str):
            return
        is_plain = value.isascii() and "\0" not in value  # the usual case, without a call of a Python function
        if not is_plain and not is_storable(value):
            raise InvalidRequest(
                attribute.name, "contains NUL or a lone surrogate, which no store can keep; clean_text() replaces them"
            )
        if longest is not None and len(value) > longest:
            raise InvalidRequest(attribute.name, f"at most {longest} characters are allowed")
        if largest is not None and len(value.encode()) > largest:
            raise InvalidRequest(attribute.name, f"at most {largest} bytes are allowed")

    return check


def check_number(least: int, largest: int) -> _Validator:
    """Check that a number is within these limits."""

    def check(_: object, attribute: Attribute[Any], value: object) -> None:
        if isinstance(value, int) and not least <= value <= largest:
            raise InvalidRequest(attribute.name, f"expected a number from {least} to {largest}")

    return check


def check_seconds(_: object, attribute: Attribute[Any], value: float | Unset | None) -> None:
    """Check seconds from now."""
    if isinstance(value, int | float) and not _EARLIEST < value < _LATEST:  # NaN fails this too
        raise InvalidRequest(attribute.name, "this moment is outside of the calendar")


def check_moment(instance: object, attribute: Attribute[Any], value: datetime | float | Unset | None) -> None:
    """Check an aware datetime, or seconds from now."""
    if value is None:
        return
    if not isinstance(value, datetime):
        check_seconds(instance, attribute, value)
        return
    if value.utcoffset() is None:
        raise InvalidRequest(attribute.name, "a datetime needs a time zone")
    try:
        _ = value.astimezone(UTC)
    except OverflowError:
        raise InvalidRequest(attribute.name, "this moment is outside of the calendar") from None


def check_datetime(instance: object, attribute: Attribute[Any], value: datetime | None) -> None:
    """Check an aware datetime."""
    if value is None:
        return
    if not isinstance(value, datetime):
        raise InvalidRequest(attribute.name, "expected a datetime with a time zone")
    check_moment(instance, attribute, value)


def check_ages(_: object, attribute: Attribute[Any], value: tuple[float, ...] | None) -> None:
    """Check ages in seconds, none of them negative."""
    for age in value or ():
        check_seconds(_, attribute, age)
        if age < 0:
            raise InvalidRequest(attribute.name, "an age can't be negative")


def check_json(_: object, attribute: Attribute[Any], value: object) -> None:
    """Check that JSON can represent the value."""
    if value is None or value is UNSET:
        return
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(attribute.name, f"JSON can't represent this: {error}") from None


ID: Final = check_text(128)
LABEL: Final = check_text(255)
COUNT: Final = check_number(0, (1 << 31) - 1)


def clamped(progress: int | None) -> int | None:
    """Return the progress within 0–100."""
    return progress if progress is None or 0 <= progress <= 100 else max(0, min(100, progress))
