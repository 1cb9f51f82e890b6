"""Shared by the tests of slices: an application whose worker requests a test hands to the worker itself, run after run."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from attrs import define, field

from backjob.jobs import BackJob
from backjob.model import Draft, Grant, Job, Request
from backjob.worker.claiming import Worker
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import WorkerRequest
from backjob.worker.running import Running
from tests.unit.core import Bench, bench

REQUEST = Request("GET", "/import")
SLICE_TIME = 20.0


@define
class _Verified:
    grant: Grant
    request: Request = REQUEST

    def check(self, body: bytes) -> None:
        pass


@define
class Slicing:
    """One job, and the runs of its action."""

    world: Bench
    action: Callable[[], object]
    retries: int = 0
    owner: str | None = None
    error: BaseException | None = None
    bars: list[int] = field(factory=list)
    id: str = "job-1"

    def __attrs_post_init__(self) -> None:
        store = self.world.engine.store
        label = self.world.engine.row_keys.label
        store.create(Draft(id=self.id, request=REQUEST, label=label, retries=self.retries, owner=self.owner))

    @property
    def jobs(self) -> BackJob:
        return self.world.jobs

    @property
    def job(self) -> Job:
        return self.world.job(self.id)

    def claim(self) -> Running:
        worker: Worker = self.world.engine.worker
        verified: Any = _Verified(Grant(self.id, self.job.run, 1, 0, 0))
        return worker.claim(WorkerRequest(verified, 0), b"")

    def run(self) -> Job:
        """Run the action once, and return the job afterwards. A `SystemExit` is a crash: nothing more is written."""
        running = self.claim()
        self.error = None
        with running.active():
            try:
                if inspect.iscoroutinefunction(self.action):
                    asyncio.run(self.action())
                else:
                    self.action()
            except BaseException as error:
                self.error = error
        if not isinstance(self.error, SystemExit):
            self.world.engine.worker.end(running, Outcome(0 if self.error else 200, error=self.error))
        self.bars.append(self.job.progress)
        return self.job

    def run_to_the_end(self, most: int = 100) -> Job:
        """Run the action until the job has ended."""
        for _ in range(most):
            if self.run().status.is_final:
                return self.job
        raise AssertionError(f"the job has not ended after {most} runs")

    def pass_time(self, seconds: float = SLICE_TIME) -> None:
        self.world.clock.advance(seconds)


def slicing(action: Callable[[BackJob], object], **options: Any) -> Slicing:
    """Return one job whose action gets the `BackJob`."""
    retries, owner = options.pop("retries", 0), options.pop("owner", None)
    world = bench(**options)
    if inspect.iscoroutinefunction(action):

        async def act() -> None:
            await action(world.jobs)

        return Slicing(world, act, retries, owner)
    return Slicing(world, lambda: action(world.jobs), retries, owner)
