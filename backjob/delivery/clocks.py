"""Notices that a clock was set, this computer's or the store's, so that a jump is not mistaken for time that has passed."""

from __future__ import annotations

import logging
import math
from datetime import datetime
from typing import Final

from backjob.protocols import Clock

_TOLERANCE: Final = 5.0
_OLD_READ: Final = 15.0
"""A read may be so old (s) when `Clocks.is_plausible` judges it."""

_log = logging.getLogger("backjob")


class Clocks:
    """The wall clock and the store's clock, both compared with the monotonic clock.

    ``pause`` is how long (s) after a jump no job is ended or requeued because a time limit has passed. ``set_back`` is when
    (monotonic, s) a clock was last set back; None once the caller has dealt with it.
    """

    def __init__(self, clock: Clock, pause: float) -> None:
        self._clock = clock
        self._pause = pause
        self._wall = self._wall_now()
        self._store: float | None = None
        self._wall_jumped = False
        self._jumped_at = -math.inf
        self._paused_until = -math.inf
        self.set_back: float | None = None

    @property
    def steady(self) -> float:
        """Seconds since the last jump."""
        return self._clock.monotonic() - self._jumped_at

    @property
    def is_paused(self) -> bool:
        """Whether a time limit that is over means nothing yet."""
        return self._clock.monotonic() < self._paused_until

    def pause(self) -> None:
        """Pause as after a jump: the store was unavailable, so no process could renew its leases."""
        self._paused_until = self._clock.monotonic() + self._pause

    def check_wall(self) -> None:
        """Compare the wall clock."""
        now = self._wall_now()
        if abs(now - self._wall) > _TOLERANCE:
            before, self._wall, self._wall_jumped = self._wall, now, True
            self._note_jump("the wall clock jumped", now - before)

    def check_store(self, read_time: datetime, began: float) -> None:
        """Compare the store's clock with the time in the answer to a read that ``began`` (monotonic, s)."""
        earliest, latest = self._span(read_time, began)
        for known in self._known():
            if earliest - _TOLERANCE <= known <= latest + _TOLERANCE:
                self._store, self._wall_jumped = min(max(known, earliest), latest), False
                return
        is_first, before = self._store is None, self._wall if self._store is None else self._store
        self._store, self._wall_jumped = latest, False
        # At first it may have jumped just now, or always differ.
        what = "the store's clock differs from this computer's" if is_first else "the store's clock jumped"
        self._note_jump(what, latest - before)

    def is_plausible(self, read_time: datetime) -> bool:
        """Return whether the store's clock was as before when it read a job just now. Changes nothing."""
        earliest, latest = self._span(read_time, self._clock.monotonic() - _OLD_READ)
        return any(earliest - _TOLERANCE <= known <= latest + _TOLERANCE for known in self._known())

    def _known(self) -> list[float]:
        """Return the differences between the store's clock and the monotonic one that are no surprise."""
        if self._store is None:
            return [self._wall]
        # A store with this computer's clock jumps with it.
        return [self._store, self._wall] if self._wall_jumped else [self._store]

    def _note_jump(self, what: str, seconds: float) -> None:
        _log.warning("%s by %.0f s: no job is timed out for a while", what, seconds)
        now = self._clock.monotonic()
        self._jumped_at, self._paused_until = now, now + self._pause
        if seconds < 0:
            self.set_back = now

    def _span(self, read_time: datetime, began: float) -> tuple[float, float]:
        moment = read_time.timestamp()
        return moment - self._clock.monotonic(), moment - began

    def _wall_now(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()
