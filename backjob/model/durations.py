"""Durations as users pass them: a number of seconds, or a timedelta."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeAlias

Seconds: TypeAlias = float | timedelta


def in_seconds(value: Any) -> Any:
    """Return the seconds of a timedelta, and any other value unchanged, since its check comes later."""
    return value.total_seconds() if isinstance(value, timedelta) else value
