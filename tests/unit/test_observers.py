"""Observers learn what happens to jobs, and change nothing by their faults."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import evolve
from typing_extensions import override

from backjob import NoCurrentRequest, Status
from backjob.errors import JobFailed
from backjob.lifecycle import End
from backjob.model import Job
from backjob.observers import AtEnd, Observer, Observers, Run, RunEnd, Starting
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import Refusal
from tests.unit.core import Bench, bench


class Noting(Observer):
    def __init__(self) -> None:
        self.seen: list[str] = []

    @override
    def starting(self, starting: Starting) -> Callable[[BaseException | None], object]:
        starting.request = evolve(starting.request, headers=(*starting.request.headers, ("X-Seen", "yes")))
        return lambda error: self.seen.append(f"start {error or (starting.job and starting.job.path)}")

    @override
    def accepted(self, job: Job) -> None:
        self.seen.append(f"accepted {job.path}")

    @override
    def run_began(self, run: Run) -> AtEnd:
        self.seen.append(f"run {run.job.run}")

        def at_end(end: RunEnd) -> None:
            follows = end.conclusion.status.name if isinstance(end.conclusion, End) else "another run"
            self.seen.append(f"{end.status} {end.error!r} {end.seconds:g} s: {follows}")

        return at_end

    @override
    def ended(self, job: Job) -> None:
        self.seen.append(job.status.name)

    @override
    def refused(self) -> None:
        self.seen.append("refused")


class Failing(Observer):
    @override
    def starting(self, starting: Starting) -> None:
        raise ValueError

    @override
    def accepted(self, job: Job) -> None:
        raise ValueError

    @override
    def run_began(self, run: Run) -> AtEnd:
        def at_end(end: RunEnd) -> None:
            raise ValueError

        return at_end

    @override
    def ended(self, job: Job) -> None:
        raise ValueError


def observed(*observers: Observer) -> Bench:
    world = bench()
    world.engine.observers = world.engine.worker._observers = Observers(observers, world.clock)
    return world


def test_an_observer_sees_a_job_from_start_to_end() -> None:
    noting = Noting()
    world = observed(noting)
    world.start(retries=1, retry_delay=0)
    world.step()
    request = world.transport.sent[-1].delivery.sign()
    assert ("X-Seen", "yes") in request.headers
    opened = world.engine.worker.open(request)
    assert opened is not None
    running = world.engine.worker.claim(opened, b"")
    world.clock.advance(3)
    world.engine.worker.end(running, Outcome(503))
    world.step()
    with pytest.raises(Refusal):
        world.engine.worker.claim(opened, b"")
    world.engine.worker.end(world.receive(), Outcome(200, error=JobFailed("full")))
    assert noting.seen == [
        "accepted /work",
        "start /work",
        "run 1",
        "503 None 3 s: another run",
        "refused",
        "run 2",
        "200 JobFailed('full') 0 s: FAILED",
        "FAILED",
    ]


def test_an_observer_sees_a_start_that_fails_a_joined_job_and_an_end_from_outside() -> None:
    noting = Noting()
    world = observed(noting)
    first = world.start(merge="unfinished")
    assert world.start(merge="unfinished") == first
    with pytest.raises(NoCurrentRequest):
        world.jobs.start("/work")
    world.store.down.add("create")
    with pytest.raises(Exception, match="locked"):
        world.start("/other")
    world.jobs.cancel(first)
    assert noting.seen == ["accepted /work", "start /work", "start /work", "start create: locked", "CANCELLED"]


def test_what_an_observer_raises_is_logged_once_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    noting = Noting()
    world = observed(Failing(), noting, Failing())
    running = world.run()
    world.engine.worker.end(running, Outcome(200))
    assert world.job(running.job.id).status is Status.COMPLETED
    assert noting.seen[-1] == "COMPLETED"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [text for text in warnings if not text.startswith("an observer of jobs failed")] == []
    assert len(warnings) == 1
