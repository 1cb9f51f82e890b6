"""What one process knows of the jobs behind its cache: the store's time, which jobs are its own, and what to distrust."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import Final, TypeVar

from attrs import evolve, frozen

from backjob.model import Job
from backjob.protocols import Clock

__all__ = ["Held", "Notes"]

V = TypeVar("V")

_SHUT: Final = 7.0
"""Seconds for which a job is not read from the cache here: longer than an entry lives (5 s) and clocks may differ (1 s)."""
_LONGEST_CALL: Final = 1.0
_MOST: Final = 10_000


@frozen
class Held:
    """A job that this process claimed. ``job`` as its last write left it, or None where that is not known for sure;
    ``confirmed`` is when the store itself last said so, by its own clock.
    """

    token: str
    job: Job | None
    confirmed: datetime


class Notes:
    """The notes of one process. Callable from any thread; each step is atomic, and none waits for anything."""

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._lock = threading.Lock()
        self._reading: tuple[datetime, float] | None = None
        self._shut: dict[str, float] = {}
        self._over: dict[str, bool] = {}
        self._held: dict[str, Held] = {}
        self._writes: dict[str, tuple[int, bool]] = {}
        """Job id → how many writes are under way, and whether any two of them met."""

    # --- the store's time -------------------------------------------------------------------------------------------

    def learn(self, job: Job | None, began: float) -> None:
        """Note what the store answered to a call that began then, on the monotonic clock."""
        if job is None:
            return
        now = self._monotonic()
        if now - began < _LONGEST_CALL:
            self._reading = job.read_time, now
        if job.status.is_final:
            with self._lock:
                _put(self._over, job.id, True)
                self._held.pop(job.id, None)

    def now(self) -> datetime | None:
        """The store's time, reckoned from what it last said; None if it has said nothing yet."""
        if self._reading is None:
            return None
        read_time, at = self._reading
        return read_time + timedelta(seconds=self._monotonic() - at)

    # --- what not to read from the cache ----------------------------------------------------------------------------

    def shut(self, job_id: str) -> None:
        """Keep a job away from the cache for a while, and forget what its last write left."""
        with self._lock:
            _put(self._shut, job_id, self._monotonic() + _SHUT)
            held = self._held.get(job_id)
            if held is not None:
                self._held[job_id] = evolve(held, job=None)

    def is_shut(self, job_id: str) -> bool:
        """Whether a job is kept away from the cache."""
        return self._shut.get(job_id, -1.0) > self._monotonic()

    def is_old(self, job: Job) -> bool:
        """Whether a job from the cache is older than what is known here."""
        held = self._held.get(job.id)
        return held is not None and held.job is not None and job.version < held.job.version

    def is_over(self, job_id: str) -> bool:
        """Whether this job was seen to have ended, so that nothing of it is in the cache."""
        return job_id in self._over

    # --- jobs of this process ---------------------------------------------------------------------------------------

    def hold(self, job: Job, token: str) -> Held:
        """Note that this process claimed the job."""
        held = Held(token, None if self.is_shut(job.id) else job, job.read_time)
        with self._lock:
            self._over.pop(job.id, None)
            _put(self._held, job.id, held)
        return held

    def release(self, job_id: str) -> None:
        """The job is not this process's any more."""
        with self._lock:
            self._held.pop(job_id, None)

    def held(self, job_id: str, token: str | None) -> Held | None:
        """The job if this process claimed it with this token."""
        held = self._held.get(job_id)
        return held if held is not None and held.token == token else None

    def renew(self, job_id: str, before: Held, after: Held) -> bool:
        """Note what a write left. False if that is not sure: another write met it, or the job was shut meanwhile."""
        with self._lock:
            if self._held.get(job_id) is not before or self._is_met(job_id) or self.is_shut(job_id):
                return False
            self._held[job_id] = after
            return True

    # --- writes that meet: nobody here can tell which of them came first --------------------------------------------

    def enter(self, job_id: str) -> None:
        """A write begins."""
        with self._lock:
            count, _ = self._writes.get(job_id, (0, False))
            self._writes[job_id] = count + 1, count > 0

    def leave(self, job_id: str) -> None:
        """A write is over."""
        with self._lock:
            count, met = self._writes.pop(job_id)
            if count > 1:
                self._writes[job_id] = count - 1, met

    def is_met(self, job_id: str) -> bool:
        """Whether any two of the writes now under way met, which began before the last of them was alone."""
        with self._lock:
            return self._is_met(job_id)

    def _is_met(self, job_id: str) -> bool:
        return self._writes.get(job_id, (0, False))[1]


def _put(notes: dict[str, V], job_id: str, note: V) -> None:
    """Add the newest note; the oldest goes where there are too many."""
    notes.pop(job_id, None)
    notes[job_id] = note
    if len(notes) > _MOST:
        del notes[next(iter(notes))]
