"""`BackJob.deliver`: delivers one job to its end, for an engine that carries only its id."""

from __future__ import annotations

import logging
import threading
from typing import Final

from attrs import define, evolve, field

from backjob.delivery.carrier import Carrier
from backjob.delivery.keeping import LEASE, seconds_until_due
from backjob.errors import DeliveryRefused, InvalidRequest, JobNotFound, StoreUnavailable
from backjob.jobs.engine import Engine
from backjob.jobs.starting import require_address
from backjob.lifecycle import DISPATCHED, Late, is_leased, late
from backjob.model import Changes, Expect, Job, JobState, is_storable
from backjob.protocols import Transport
from backjob.worker.offload import sleep
from backjob.worker.running import current

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0

_log = logging.getLogger("backjob")


def deliver(engine: Engine, job_id: str, transport: Transport | None) -> JobState:
    """See `backjob.BackJob.deliver`."""
    call = _call(engine, job_id, transport)
    pause = threading.Event()
    try:
        call.begin()
        while (state := call.poll()) is None:
            pause.wait(call.pause)
    finally:
        call.leave()
    return state


async def adeliver(engine: Engine, job_id: str, transport: Transport | None) -> JobState:
    """`deliver` that takes no thread while it waits: those of an application are few, and its actions may need them."""
    call = await engine.offload(_call, engine, job_id, transport)
    try:
        await engine.offload(call.begin)
        while (state := await engine.offload(call.poll)) is None:
            await sleep(call.pause)
    finally:
        call.leave()
    return state


def _call(engine: Engine, job_id: str, transport: Transport | None) -> _Call:
    if current.get() is not None:
        raise InvalidRequest(
            "job_id",
            "deliver() in an action keeps this job's place while the other one may wait for it: start the other one",
        )
    database = engine.in_transaction()
    if database is not None:
        raise InvalidRequest(
            "job_id",
            f"deliver() within a transaction of the database {database!r} would keep it open until the job's end, and may "
            "never see that end: call it outside of atomic()",
        )
    if transport is None:
        require_address(engine)
    return _Call(engine, engine.carrier(transport), job_id)


@define(eq=False, repr=False)
class _Call:
    """One call of ``deliver()``. ``pause`` is how long (s) to wait until the next `poll`.

    ``taken`` is the version of the job when it was last given to the carrier.
    """

    engine: Engine
    carrier: Carrier
    job_id: str
    pause: float = _FIRST_PAUSE
    _is_entered: bool = field(default=False, init=False)
    _has_ended: bool = field(default=False, init=False)
    _is_left: bool = field(default=False, init=False)
    _taken: int = field(default=0, init=False)
    _version: int = field(default=0, init=False)

    def begin(self) -> None:
        """Lease the job, and begin to deliver it. Raises `DeliveryRefused`, and `JobNotFound`."""
        self._is_entered = self.carrier.enter(self.job_id)
        while True:
            job = self._whole()
            if job is None:
                raise JobNotFound(self.job_id)
            if (refusal := self._refusal(job)) is not None:
                if refusal.is_duplicate:
                    self.engine.observers.refused()
                raise refusal
            if self._take(job):
                return

    def poll(self) -> JobState | None:
        """Return the final state of the job if it has ended. Raises `DeliveryRefused`, and `JobNotFound`."""
        self.pause = min(_LONGEST_PAUSE, 1.5 * self.pause)
        try:
            return self._poll()
        except StoreUnavailable as error:
            _log.info("job %s: its state can't be read now: %s", self.job_id, error)
            return None

    def leave(self) -> None:
        """Have others deliver the job if it has not ended. It may be called while another thread is in `begin` or `poll`."""
        self._is_left = True
        if self._is_entered:
            self.carrier.exit(self.job_id)
            if not self._has_ended:
                self.carrier.leave(self.job_id)

    def _poll(self) -> JobState | None:
        job = self.engine.job(self.job_id)
        if (ended := self.carrier.reap(job)) is not None:
            self.engine.conclude(ended)
            job = ended
        if job.status.is_final:
            state = self.engine.state(job)
            self._has_ended = True
            return state
        if job.version != self._version:
            self._version, self.pause = job.version, _FIRST_PAUSE
        if self.carrier.is_closed or (job.is_waiting and self.engine.draining.is_on):
            raise _leaving(self.job_id)
        is_delivered = job.lessee == self.carrier.lessee and self.carrier.carries(self.job_id)
        if job.is_waiting and job.version != self._taken and not is_delivered:
            # The next run, of which the carrier does not know, or which was not left to it; or it has lost its lease.
            whole = self._whole()
            if whole is not None and self._refusal(whole) is None:
                self._take(whole)
        return None

    def _whole(self) -> Job | None:
        return self.engine.store.get(self.job_id, body=True) if is_storable(self.job_id) else None

    def _take(self, job: Job) -> bool:
        """Lease a job, and give it to the carrier. Returns whether it was still as read."""
        written = self.engine.clock.monotonic()
        changes = Changes(lessee=self.carrier.lessee, lease=seconds_until_due(job) + LEASE)
        if late(job) is Late.UNDELIVERED:  # the process that sent it died long ago
            changes = evolve(changes, deliver_by=None)
        leased = self.engine.store.change(job.id, Expect(version=job.version, unclaimed=True), changes)
        if leased is None:
            return False
        self._taken = leased.version
        self.carrier.accept(evolve(leased, request=job.request), None, written)
        if self._is_left:  # meanwhile, for a coroutine that was cancelled
            self.carrier.leave(job.id)
        return True

    def _refusal(self, job: Job) -> DeliveryRefused | None:
        """Return why this process can't have the job, or None."""
        if job.status.is_final:
            return DeliveryRefused(job.id, "ended", f"it has ended {job.status.name} already")
        if not job.is_waiting:
            return DeliveryRefused(job.id, "running", "it runs already")
        if (
            job.held and job.lessee != DISPATCHED
        ):  # else the process that has the login is dead, and the job ends FAILED
            return DeliveryRefused(
                job.id,
                "credentials",
                "it runs with its user's login, which only the process has that started it: start such jobs with "
                "as_owner=True, or have logins stored sealed (SEAL)",
            )
        if job.sealed is not None and not self.engine.opens(job):
            return DeliveryRefused(
                job.id,
                "credentials",
                "its user's login is sealed, and this process can't open it: it needs the same KEY, and cryptography",
            )
        if self.carrier.is_closed or self.engine.draining.is_on:
            return _leaving(job.id)
        # A lease of this carrier is a left-over, unless another call in this process delivers the job.
        is_free = job.lessee == DISPATCHED or (job.lessee == self.carrier.lessee and self._is_entered)
        if not self._is_entered or (is_leased(job) and not is_free):
            return DeliveryRefused(job.id, "leased", f"another process delivers it ({job.lessee})")
        return None


def _leaving(job_id: str) -> DeliveryRefused:
    return DeliveryRefused(job_id, "leaving", "this process is shutting down")
