"""A job in a store, and the writes of its worker, for tests of what others read."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

from backjob import BackJob
from backjob.jobs import engine_of
from backjob.lifecycle import Conclusion, End, Requeue, claimed, completed, concluded, continued, ended
from backjob.model import Draft, Expect, Job, JsonValue, Report, Request
from backjob.protocols import Store
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.transports.sockets import SocketTransport

__all__ = ["Acting", "quiet_jobs"]


def quiet_jobs(store: Store | None = None) -> BackJob:
    """Return a `BackJob` that delivers nothing, since it has no address; by default in memory with a stopped clock."""
    signer = MessageSigner(secrets.token_bytes(32))
    if store is not None:
        return BackJob(store, SocketTransport, signer)
    clock = FakeClock()
    return BackJob(MemoryStore(clock=clock), SocketTransport, signer, clock=clock)


class Acting:
    """A job in the store; its methods write what a worker would."""

    def __init__(self, jobs: BackJob, scope: str = "", owner: str | None = None, **draft: Any) -> None:
        self.jobs = jobs
        self.id = f"job-{secrets.token_hex(8)}"
        self.store = engine_of(jobs).store
        self.store.create(Draft(id=self.id, request=Request("GET", "/work"), scope=scope, owner=owner, **draft))

    @property
    def job(self) -> Job:
        """The job as stored."""
        job = self.store.get(self.id)
        assert job is not None
        return job

    def claim(self, lease: float = 18.0) -> Acting:
        assert self.store.change(self.id, *claimed("token", self.job.run, lease))
        return self

    def report(self, **values: object) -> None:
        assert self.jobs.store.report(self.id, "token", Report(**values))  # type: ignore[arg-type]

    def requeue(self, conclusion: Conclusion) -> Acting:
        """End this run, so that another one follows."""
        job = self.job
        assert self.store.change(self.id, Expect(token="token"), concluded(job, conclusion, job.read_time))
        return self

    def retry(self, reason: str = "boom", delay: float = 0.0) -> Acting:
        return self.requeue(Requeue(reason, delay))

    def hand_over(self, cursor: JsonValue = 1) -> Acting:
        return self.requeue(continued(cursor))

    def end(self, end: Callable[..., End] = completed, *values: str) -> Acting:
        assert self.store.change(self.id, Expect(), ended(end(*values), self.job))
        return self
