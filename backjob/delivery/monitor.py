"""Delivers jobs, waits for the delayed ones, and watches for ends and for silence.

One thread works in passes: `Monitor.step` is one, and returns how long the next may wait. Other threads only leave
news and wake it. No pass waits for the network: sockets are the transport's. Tests call `step` themselves, under a
clock of their own.
"""

from __future__ import annotations

import heapq
import logging
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final

from attrs import frozen

from backjob.delivery.deliveries import LEASE, Deliveries
from backjob.delivery.writeback import Writeback
from backjob.errors import StoreError, StoreUnavailable
from backjob.lifecycle import End, ended, overdue
from backjob.model import Credentials, Expect, Job, Query, Response
from backjob.process import Outage
from backjob.protocols import Clock, Signer, Store, Transport
from backjob.signing.sealing import Sealer
from backjob.worker.running import Running

__all__ = ["Monitor", "Retention"]

_POLL_INTERVAL: Final = 2.0
_REAP_INTERVAL: Final = 5.0
_CLEANUP_INTERVAL: Final = 3600.0
_STORE_PAUSE: Final = 1.0
_GRACE: Final = 1.0
_CLOCK_DRIFT: Final = 5.0
_BATCH: Final = 100
_MOST_ALARMS: Final = 10_000
_DAY: Final = 86400.0

_log = logging.getLogger("backjob")


@frozen
class Retention:
    """How long ended jobs are kept, in days: COMPLETED ones, and all of them. 0 keeps for ever."""

    completed_days: float = 30
    days: float = 60

    def purge(self, store: Store) -> int:
        return store.purge(self.completed_days * _DAY, self.days * _DAY)


class Monitor:
    """The watching side of one `BackJob` in one process. Fork-safe: a child starts with nothing of its parent's.

    ``transport`` gives the transport, or None while the application's address is unknown. ``announce`` is told of every
    job that ends by this monitor's hand. ``leave`` is called in the monitor's thread, as the last thing there.
    """

    def __init__(
        self,
        store: Store,
        signer: Signer,
        clock: Clock,
        *,
        transport: Callable[[], Transport | None],
        announce: Callable[[Job], None],
        leave: Callable[[], None],
        retention: Retention,
        error_timeout: float,
        sealer: Sealer | None = None,
        threaded: bool = True,
    ) -> None:
        self._store = store
        self._signer = signer
        self._clock = clock
        self._transport = transport
        self._announce = announce
        self._leave = leave
        self._retention = retention
        self._error_timeout = error_timeout
        self._sealer = sealer
        self._threaded = threaded
        self._locks: dict[int, threading.Lock] = {}
        self._start_afresh()

    def _start_afresh(self) -> None:
        """In a new process: other locks, no thread, no jobs, no credentials."""
        pid = os.getpid()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._news: deque[Callable[[], None]] = deque()
        self._alarms: list[float] = []
        self._lessee = f"{socket.gethostname()}:{pid}:{secrets.token_hex(4)}"
        self._outage = Outage(self._clock)
        self._deliveries = Deliveries(
            self._store,
            self._signer,
            self._clock,
            lessee=self._lessee,
            transport=self._transport,
            sealer=self._sealer,
            outage=self._outage,
            answered=self._answered,
            announce=self._announce,
        )
        self._writeback = Writeback(
            self._store, self._clock, outage=self._outage, wake=self._wake.set, announce=self._announce
        )
        now = self._clock.monotonic()
        self._next_poll = self._next_reap = self._next_cleanup = now
        self._drift = self._wall_minus_monotonic()
        self._reap_from = now
        self._pid = pid  # last: who finds it right finds all the rest

    @property
    def lessee(self) -> str:
        """The name under which this process leases jobs."""
        self.ensure_running()
        return self._lessee

    # --- what other threads call ------------------------------------------------------------------------------------

    def ensure_running(self) -> None:
        """Have a live thread in this very process; cheap enough for every request of any kind."""
        if self._thread is not None and self._pid == os.getpid():
            return
        with self._process_lock():
            if self._pid != os.getpid():
                self._start_afresh()
            if self._threaded and self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, name="backjob-monitor", daemon=True)
                thread.start()
                self._thread = thread

    def _process_lock(self) -> threading.Lock:
        """A lock of the present process: one made before a fork may be held for ever."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def accept(self, job: Job, credentials: Credentials | None, written: float) -> None:
        """Deliver a new job when it is due. One not leased to us is only looked for then.

        ``written`` is the monotonic time (s) at which it was, and its lease began: others may have seen it later.
        """
        self.ensure_running()
        wait = max(0.0, (job.start_time - job.read_time).total_seconds())
        at = written + wait
        if job.lessee == self._lessee:
            self._tell(lambda: self._deliveries.hold(job, credentials, at, written))
        else:
            self._tell(lambda: self._set_alarm(at))

    def deliver_now(self, job: Job, credentials: Credentials | None) -> None:
        """Deliver a job in this thread, without waiting for its start time: for tests, without a thread of our own."""
        self._deliveries.hold(job, credentials, self._clock.monotonic())
        self.step()
        self.step()

    def look_again(self, job: Job, credentials: Credentials | None) -> None:
        """A waiting job's start time was moved by a merge, its lease perhaps taken over: whoever delivers it must know."""
        self.ensure_running()
        at = self._clock.monotonic() + max(0.0, (job.start_time - job.read_time).total_seconds())
        self._tell(lambda: self._deliveries.move(job, credentials, at))
        if job.lessee is None:
            self._tell(lambda: self._set_alarm(at))

    def forget(self, job_id: str) -> None:
        """Stop delivering a job that has ended."""
        self._tell(lambda: self._deliveries.drop(job_id))

    def write_later(self, running: Running) -> None:
        """Write what a running job has pending when its next write is due."""
        self._writeback.later(running)

    def settle(self, running: Running, end: End) -> None:
        """Write the end of a job whose store was not available when its action ended."""
        self._writeback.settle(running, end)

    def may_reap(self) -> bool:
        """False for one ``error_timeout`` after the store was away, or the wall clock jumped: silence proves nothing then."""
        drift = self._wall_minus_monotonic()
        if abs(drift - self._drift) > _CLOCK_DRIFT:
            _log.warning("the wall clock jumped by %.0f s: no job is timed out for a while", drift - self._drift)
            self._drift = drift
            self._reap_from = self._clock.monotonic() + self._error_timeout
        return self._clock.monotonic() >= self._reap_from

    def close(self, timeout: float = 5.0) -> None:
        """Write what is pending, give up the leases that others could use, and end the thread (s to wait for it)."""
        with self._process_lock():
            if self._pid != os.getpid():
                self._start_afresh()
            self._closed = True
        self._wake.set()
        thread = self._thread
        if thread is None:
            self._finish()
        elif thread is not threading.current_thread():
            thread.join(timeout)

    def _answered(self, job_id: str, future: Future[Response]) -> None:
        self._tell(lambda: self._deliveries.outcome(job_id, future))

    def _set_alarm(self, at: float) -> None:
        if len(self._alarms) < _MOST_ALARMS:  # beyond them the regular looks must do
            heapq.heappush(self._alarms, at)

    def _tell(self, news: Callable[[], None]) -> None:
        self._news.append(news)
        self._wake.set()

    def _wall_minus_monotonic(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed:
            try:
                wait = self.step()
            except BaseException:  # a hook's SystemExit, too, has nobody else to go to in this thread
                _log.exception("a pass of the monitor failed; it goes on")
                wait = _STORE_PAUSE
            self._wake.wait(wait)
            self._wake.clear()
        self._finish()
        self._patiently(self._leave)

    def step(self) -> float:
        """One pass over everything that is due. Returns the seconds until something else will be."""
        self._hear()
        now = self._clock.monotonic()
        self._deliveries.run(now)
        if self._time_to_poll(now):
            self._next_poll = now + _POLL_INTERVAL
            self._patiently(self._poll)
            self._deliveries.run(now)
        if now >= self._next_reap:
            self._next_reap = now + min(_REAP_INTERVAL, self._error_timeout / 4)
            self._patiently(self._reap)
        self._patiently(lambda: self._writeback.run(now))
        if now >= self._next_cleanup:
            self._next_cleanup = now + _CLEANUP_INTERVAL
            self._patiently(lambda: self._retention.purge(self._store))
        return 0.0 if self._news else max(0.0, self._next_event() - self._clock.monotonic())

    def _hear(self) -> None:
        while self._news:
            self._news.popleft()()

    def _patiently(self, part: Callable[[], object]) -> None:
        try:
            part()
        except StoreError as error:
            self._outage.tell("the monitor waits for the store: %s", error)
            now = self._clock.monotonic()
            self._next_poll = max(self._next_poll, now + _STORE_PAUSE)
            self._reap_from = now + self._error_timeout  # nobody could write that his job is alive
        except Exception:  # the other parts have their own work to do
            _log.exception("a part of the monitor's pass failed; it goes on")

    def _time_to_poll(self, now: float) -> bool:
        rung = False
        while self._alarms and self._alarms[0] <= now:
            heapq.heappop(self._alarms)
            rung = True
        return rung or now >= self._next_poll

    def _next_event(self) -> float:
        events = [self._next_poll, self._next_reap, self._next_cleanup, *self._alarms[:1]]
        parts = (self._deliveries.next_event(), self._writeback.next_event())
        return min(*events, *(event for event in parts if event is not None))

    def _poll(self) -> None:
        room = min(self._deliveries.room(), _BATCH)
        if room == 0:
            return
        jobs = self._store.take_due(self._lessee, LEASE, room)
        now = self._clock.monotonic()
        for job in jobs:
            # One that was just committed may be found here before its own thread has told of it, and of its credentials.
            self._deliveries.hold(job, None, now + _GRACE if job.held else now)
        if len(jobs) == room:
            self._next_poll = now

    def _reap(self) -> None:
        if not self.may_reap():
            return
        for job in self._store.find(Query(overdue=True, limit=_BATCH)):
            end = overdue(job)
            if end is None:
                continue
            try:
                changed = self._store.change(job.id, Expect(status=job.status, version=job.version), ended(end))
            except StoreUnavailable:
                raise
            except Exception:  # one job's trouble is not the others'
                _log.exception("job %s: its time-out could not be written", job.id)
                continue
            if changed is not None:
                self._deliveries.drop(job.id)
                self._announce(changed)

    def _finish(self) -> None:
        self._patiently(self._hear)
        self._patiently(self._writeback.finish)
        self._patiently(self._deliveries.release)
