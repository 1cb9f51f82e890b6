"""How long jobs took and how old they are, for the lists that people read."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from backjob.model import JobState, Status

_LARGEST: Final = ((86_400, "d", 2), (3_600, "h", 1), (60, "m", 1))


def run_seconds(state: JobState, now: datetime) -> float | None:
    """Return for how many seconds a job has been running, or ran until its end. None if it has not begun.

    The time counts from the claim, and with several runs from the first of them that counts.
    """
    if state.status is Status.STARTED or (state.claimed_time is None and not state.history and state.status.is_final):
        return None
    return max(0.0, ((state.end_time or now) - state.start_time).total_seconds())


def clock_text(seconds: float) -> str:
    """Return a duration as on a clock: ``4:05``, or ``1:00:00`` with hours."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def age_text(seconds: float) -> str:
    """Return an age in its largest unit: ``12s``, ``5m``, ``3h``, and from two days on ``12d``."""
    whole = max(0, int(seconds))
    for size, unit, least in _LARGEST:
        if whole >= size * least:
            return f"{whole // size}{unit}"
    return f"{whole}s"
