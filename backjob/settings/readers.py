"""Functions that read the value of a setting: a text of the environment, or an object. All raise `ValueError`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, cast

from backjob.errors import InvalidRequest
from backjob.jobs.options import queue_limits
from backjob.model import in_seconds
from backjob.protocols import Files
from backjob.status.page import read_page_template
from backjob.stores.caches import Cache

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


def text(value: object) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be text")
    return value


def number(value: object) -> float:
    """Return a finite number, 0 or more."""
    found = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            found = float(value)
    if not 0 <= found < math.inf:  # false for NaN, too
        raise ValueError(f"must be a number, 0 or more, not {value!r}")
    return found


def seconds(value: object) -> float:
    """Return a number of seconds, 0 or more, which may be a timedelta."""
    return number(in_seconds(value))


def count(value: object, unit: str = "") -> int:
    """Return a whole number, 0 or more. Errors name the unit, which begins with a space."""
    found = -1
    if isinstance(value, int | str) and not isinstance(value, bool):
        with suppress(ValueError):
            found = int(value)
    if found < 0:
        raise ValueError(f"must be a whole number{unit}, 0 or more, not {value!r}")
    return found


def size(value: object) -> int:
    """Return a number of bytes, 0 or more."""
    return count(value, " of bytes")


def truth(value: object) -> bool:
    """Return a truth value; a text may be yes or no, on or off, true or false, 1 or 0."""
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("must be true or false")
    return word in _TRUE


def secret(value: object) -> str | bytes:
    """Return a secret."""
    if not isinstance(value, str | bytes):
        raise ValueError("must be text or bytes")  # noqa: TRY004
    return value


def secrets(value: object) -> tuple[str | bytes, ...]:
    """Return secrets; a text separates them by commas."""
    if isinstance(value, str):
        return tuple(part for part in value.split(",") if part)
    if not isinstance(value, Iterable):
        raise ValueError("must be a list of secrets")  # noqa: TRY004
    return tuple(secret(part) for part in value)


def names(read: Callable[[Iterable[str]], tuple[str, ...]]) -> Callable[[object], tuple[str, ...]]:
    """Return the function that reads names, which a text separates by commas, and has ``read`` check them."""

    def names(value: object) -> tuple[str, ...]:
        listed: Any = [name for part in value.split(",") if (name := part.strip())] if isinstance(value, str) else value
        if not isinstance(listed, Iterable):
            raise ValueError(f"must be a list of names, not {value!r}")  # noqa: TRY004 - as above
        return read(listed)

    return names


def queues(value: object) -> Mapping[str, Mapping[str, Any]]:
    """Return the settings of queues; a text is JSON."""
    found: Any = json.loads(value) if isinstance(value, str) else value
    try:
        queue_limits(found)
    except InvalidRequest as error:
        raise ValueError(error.reason) from None
    return cast("Mapping[str, Mapping[str, Any]]", found)


def cache(value: object) -> object:
    """Return a cache, or the name of one."""
    if isinstance(value, str):
        module, _, attribute = value.partition(":")
        if not module or not attribute:
            raise ValueError("must be a cache, or its name: module:name")
    elif not isinstance(value, Cache):
        raise ValueError("must be a cache: an object with get, set, add and delete")  # noqa: TRY004
    return value


def files(value: object) -> Files | str:
    """Return a place for files, its directory, or its name."""
    if isinstance(value, Files):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise ValueError(
            "must be a directory, the name of an object (module:name), or an object with write, open and delete"
        )
    return value


def page_template(value: object) -> str:
    """Return the path of a template for the status page."""
    path = text(os.fspath(value) if isinstance(value, os.PathLike) else value)
    read_page_template(path)
    return path
