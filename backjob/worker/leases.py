"""Renews the run leases of the jobs that this process runs, from a thread that does nothing else.

A run whose lease is over counts as dead: any process may end or requeue it. So neither the monitor nor code of the
application runs in this thread, and nothing that may block but the store.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

from backjob.errors import StoreError
from backjob.process import RETRY_PAUSE, Outage, Passes
from backjob.protocols import Clock, Store
from backjob.worker.running import Running

_TICKS_PER_LEASE: Final = 9
_ON_TIME: Final = 3
_SLACK: Final = 0.5  # s; at most a quarter of a short lease: a busy machine may be this late, too
_IDLE_TICKS: Final = 5

_log = logging.getLogger("backjob")


class Leases:
    """The leases of one process: keep it in a `PerProcess`. ``lease`` is in seconds; they are renewed nine times in it.

    ``leave`` closes what an adapter keeps for each thread; the thread calls it at its end and when no job runs. ``outage``
    logs the failures of the store, for all threads of the process together.
    """

    def __init__(
        self, store: Store, clock: Clock, lease: float, leave: Callable[[], object], outage: Outage | None = None
    ) -> None:
        self._store = store
        self._monotonic = clock.monotonic
        self._lease = lease
        self.interval = lease / _TICKS_PER_LEASE
        """Seconds between two renewals."""
        self._slack = max(self.interval / 2, min(_SLACK, lease / 4))
        """Seconds by which a tick may be late."""
        self._leave = leave
        self._outage = outage or Outage(clock)
        self._no_thread = Outage(clock)
        self._running: dict[str, Running] = {}
        self._next_tick = -math.inf
        self._since = math.inf
        """Since when (monotonic) this process has renewed without an error of the store."""
        self._on_time = 0
        self._idle_ticks = 0
        self._passes = Passes("backjob-leases", self.tick, at_end=self._leave)

    # --- called from any thread -------------------------------------------------------------------------------------

    def add(self, running: Running) -> None:
        """Renew the lease of a job that was claimed just now."""
        other = self._running.get(running.job.id)
        if other is not None and other.job.run > running.job.run:  # the process was stopped just after this claim
            running.ended = True
            return
        if other is not None:  # its earlier run, which has lost its lease
            other.ended = True
        self._running[running.job.id] = running
        self.ensure_running()

    def drop(self, running: Running) -> None:
        """Stop renewing: the end of the run is written, or can't be."""
        dropped = self._running.pop(running.job.id, None)
        if dropped is not None and dropped is not running:  # the job's next run, claimed here meanwhile
            self._running.setdefault(running.job.id, dropped)

    def ensure_running(self) -> bool:
        """Start the thread unless it runs. Cheap enough for every request. Returns False if the system starts no thread."""
        try:
            self._passes.ensure_running()
        except RuntimeError as error:
            self._no_thread.warn(
                "the thread that renews leases can't be started yet; the monitor renews them: %s", error
            )
            return False
        return True

    def tend(self) -> float | None:
        """Start the thread unless it runs; if there is none, do its work when it is due.

        Returns when to call this again (monotonic, s), or None while the thread runs.
        """
        if self.ensure_running():
            return None
        if self._monotonic() >= self._next_tick:
            self.tick()
        return self._next_tick

    def may_reap(self) -> bool:
        """Return whether this process may end other processes' jobs because their leases are over.

        It may after it has ticked for one whole lease, the last three times on time: then neither it nor the whole machine
        was suspended, and other processes could renew their leases too.
        """
        now = self._monotonic()
        is_on_time = self._on_time >= _ON_TIME and now <= self._next_tick + self._slack
        return is_on_time and now - self._since >= self._lease

    def close(self, timeout: float) -> None:
        """End the thread and wait for it, for at most ``timeout`` seconds."""
        self._passes.close(timeout)

    # --- the thread -------------------------------------------------------------------------------------------------

    def tick(self) -> float:
        """Renew all leases in one write. Returns the seconds until the next tick."""
        now = self._monotonic()
        is_on_time = now <= self._next_tick + self._slack
        self._on_time = self._on_time + 1 if is_on_time else 0
        self._next_tick = (self._next_tick if is_on_time else now) + self.interval
        self._since = min(self._since, now)
        running = [running for running in self._running.copy().values() if not running.ended]
        if running:
            self._idle_ticks = 0
            self._renew(running)
        else:
            self._idle_ticks += 1
            if self._idle_ticks == _IDLE_TICKS:
                self._outage.attempt(self._leave, "the thread that renews leases")
        return max(0.0, self._next_tick - self._monotonic())

    def _renew(self, running: list[Running]) -> None:
        tokens = {each.job.id: each.token for each in running}
        lived = [each for each in running if each.take_life()]
        try:
            stale = self._store.beat(tokens, self._lease, frozenset(each.job.id for each in lived))
        except Exception as error:
            for each in lived:
                each.note_unwritten_life()
            self._since = math.inf  # other processes' renewals may have failed too
            self._next_tick = self._monotonic() + min(RETRY_PAUSE, self.interval)
            if isinstance(error, StoreError):
                self._outage.warn("the leases of running jobs can't be renewed yet: %s", error)
            else:
                _log.exception("the leases of running jobs can't be renewed; backjob retries")
            return
        for each in running:
            if each.job.id in stale:
                each.ended = True
