"""How often the monitor reads the store: less and less on a site without requests and jobs, but soon enough for every death."""

from __future__ import annotations

from typing import Final

from backjob.delivery.parts import DeliveryParts
from backjob.errors import StoreError
from backjob.model import Query, Status

_IDLE_AFTER: Final = 60.0
_LONGEST_INTERVAL: Final = 30.0
"""The interval of polls on a site without requests and jobs."""
_LONGEST_PACE: Final = 15.0
_GLANCE_INTERVAL: Final = 15.0
"""The interval in which such a site finds out that another process runs a job. Its death must be noticed in 20 s."""
_QUIET_INTERVAL: Final = 300.0


class Rest:
    """The pace of one monitor. ``pace`` is the factor by which intervals are longer than on a site with requests or jobs."""

    def __init__(self, parts: DeliveryParts) -> None:
        self._store = parts.store
        self._monotonic = parts.clock.monotonic
        self.pace = 1.0
        self.glance_interval = min(_GLANCE_INTERVAL, parts.run_lease / 1.2)
        self.is_quiet = False
        """Whether no job waits or runs in the store, so that only a new one can matter."""
        self._idle_from = self._monotonic() + _IDLE_AFTER
        self._quiet_from = 0.0
        self._newest: str | None = None

    @property
    def is_idle(self) -> bool:
        """Whether glances replace the searches for late jobs."""
        return self.pace >= _LONGEST_PACE

    def interval(self, normal: float) -> float:
        """Return an interval at the present pace."""
        return min(normal * self.pace, max(normal, _LONGEST_INTERVAL))

    def end(self) -> bool:
        """Return to the normal intervals: there are requests or jobs. Returns whether they were longer."""
        was_longer = self.pace > 1
        self.pace, self._idle_from, self.is_quiet = 1.0, self._monotonic() + _IDLE_AFTER, False
        return was_longer

    def lengthen(self) -> None:
        """Double the intervals if this process has been idle for long, and no other one runs jobs whose death it must notice."""
        now = self._monotonic()
        if now < self._idle_from:
            return
        if self.pace == 1 and self._runs_jobs():
            self._idle_from = now + _IDLE_AFTER
        else:
            self.pace = min(self.pace * 2, _LONGEST_INTERVAL)

    def glance(self) -> bool:
        """Find out, with one read, whether another process may have got a job since; then the rest is over."""
        now = self._monotonic()
        if self.is_quiet:
            return self._newest_job() != self._newest
        if self._runs_jobs():
            return True
        if now >= self._quiet_from:
            self._quiet_from = now + _QUIET_INTERVAL
            self._newest = self._newest_job()
            # The running ones again: a job may have been claimed between the two searches.
            self.is_quiet = not self._store.count(Query(status=Status.STARTED, limit=1)) and not self._runs_jobs()
        return False

    def _newest_job(self) -> str | None:
        return next((job.id for job in self._store.find(Query(limit=1))), None)

    def _runs_jobs(self) -> bool:
        """Return whether any process runs jobs of this application, or perhaps does."""
        try:
            return self._store.count(Query(status=Status.IN_PROGRESS, limit=1)) > 0
        except StoreError:
            return True
