"""Durations as users pass them: a number of seconds, or a timedelta."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, TypeAlias

from backjob.errors import InvalidRequest

Seconds: TypeAlias = float | timedelta

LONGEST: Final = 1_000_000_000
"""Seconds, about 32 years: a longer duration is a mistake, and some system calls and calendars take none."""


def in_seconds(value: Any) -> Any:
    """Return the seconds of a timedelta, and any other value unchanged, since its check comes later."""
    return value.total_seconds() if isinstance(value, timedelta) else value


def check_duration(name: str, value: object, least: float = 0, longest: float = LONGEST) -> float:
    """Return a duration in seconds. Raises `InvalidRequest` naming the argument unless it is from ``least`` to ``longest``."""
    seconds = in_seconds(value)
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not is_number or not least <= seconds <= longest:  # false for NaN, too
        allowed = f"a number of seconds from {least:g} to {longest:.10g}, or a timedelta"
        raise InvalidRequest(name, f"must be {allowed}, not {value!r}")
    return float(seconds)
