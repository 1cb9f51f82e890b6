"""`BackJob.deliver`: delivers one job to its end, for an engine that carries only its id."""

from __future__ import annotations

import logging
import threading
from typing import Final

from attrs import frozen

from backjob.delivery.carrier import Carrier
from backjob.delivery.keeping import LEASE
from backjob.errors import DeliveryRefused, JobNotFound, StoreUnavailable
from backjob.jobs.engine import Engine
from backjob.jobs.starting import require_address
from backjob.lifecycle import DISPATCHED
from backjob.model import Changes, Expect, Job, JobState
from backjob.protocols import Transport

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 1.0

_log = logging.getLogger("backjob")


def deliver(engine: Engine, job_id: str, transport: Transport | None) -> JobState:
    """See `backjob.BackJob.deliver`."""
    if transport is None:
        require_address(engine)
    carried = _Carried(engine, engine.carrier(transport), job_id)
    job = engine.find(job_id)
    if job is None:
        raise JobNotFound(job_id)
    if not carried.take(job):
        refusal = _refused(engine, job_id)
        if refusal.is_duplicate:
            engine.observers.refused()
        raise refusal
    return carried.end()


@frozen
class _Carried:
    """A job that this process delivers to its end."""

    engine: Engine
    carrier: Carrier
    job_id: str

    def take(self, job: Job) -> bool:
        """Lease a job that waits, as read, and begin to deliver it. Returns whether it could be had."""
        if not _is_free(job) or not _has_credentials(self.engine, job):
            return False
        written = self.engine.clock.monotonic()
        wait = max(0.0, (job.start_time - job.read_time).total_seconds())
        changes = Changes(lessee=self.carrier.lessee, lease=wait + LEASE)
        leased = self.engine.store.change(job.id, Expect(version=job.version, unclaimed=True), changes)
        if leased is None:
            return False
        whole = self.engine.store.get(job.id, body=True)
        if whole is not None and whole.version == leased.version:
            self.carrier.accept(whole, None, written)
        return True

    def end(self) -> JobState:
        """Wait for the end of the job, and return its final state."""
        pause, wait, version = threading.Event(), _FIRST_PAUSE, 0
        while True:
            try:
                job = self.engine.job(self.job_id)
            except StoreUnavailable as error:
                _log.info("job %s: its state can't be read now: %s", self.job_id, error)
            else:
                if job.status.is_final:
                    return self.engine.state(job)
                if job.is_waiting and self.engine.draining.is_on:
                    self.carrier.give_back(job.id)
                    raise DeliveryRefused(job.id, "leaving", "this process is shutting down")
                if job.is_waiting and job.lessee != self.carrier.lessee:
                    self.take(job)  # its next run, which the last process could not leave to this one
                if job.version != version:
                    version, wait = job.version, _FIRST_PAUSE
            pause.wait(wait)
            wait = min(_LONGEST_PAUSE, 1.5 * wait)


def _is_free(job: Job) -> bool:
    is_leased = job.lease_until is not None and job.lease_until > job.read_time and job.lessee != DISPATCHED
    return job.is_waiting and not is_leased


def _has_credentials(engine: Engine, job: Job) -> bool:
    """Return whether this process can send the job: it has none of another process's, and can open sealed ones."""
    return not job.held and (job.sealed is None or engine.opens(job))


def _refused(engine: Engine, job_id: str) -> DeliveryRefused:
    """Say why a job could not be had."""
    job = engine.job(job_id)
    if job.status.is_final:
        return DeliveryRefused(job_id, "ended", f"it has ended {job.status.name} already")
    if not job.is_waiting:
        return DeliveryRefused(job_id, "running", "it runs already")
    if job.held:
        return DeliveryRefused(
            job_id,
            "credentials",
            "it runs with its user's login, which only the process has that started it: start such jobs with "
            "as_owner=True, or have logins stored sealed (SEAL)",
        )
    if not _has_credentials(engine, job):
        return DeliveryRefused(
            job_id,
            "credentials",
            "its user's login is sealed, and this process can't open it: it needs the same KEY, and cryptography",
        )
    return DeliveryRefused(job_id, "leased", f"another process delivers it ({job.lessee})")
