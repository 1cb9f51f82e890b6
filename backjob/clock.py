"""The system's clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from attrs import frozen

__all__ = ["SystemClock"]


@frozen
class SystemClock:
    """The system's time: the wall clock in UTC, and the monotonic clock in seconds."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
