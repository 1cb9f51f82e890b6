"""A process that drains: what it leaves to the others, and what it still does."""

from __future__ import annotations

import pytest

from backjob import BackJob
from backjob.errors import JobContinued
from backjob.jobs import engine_of
from backjob.lifecycle import BUSY
from backjob.model import Status
from backjob.process import Passes
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import Refusal
from tests.unit.core import KEY, Bench, FakeTransport, bench


@pytest.fixture
def pair() -> tuple[Bench, Bench]:
    """Two processes of one application."""
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    return bench(clock=clock, store=store), bench(clock=clock, store=store)


def test_what_a_draining_process_has_not_sent_is_sent_by_another_one(pair: tuple[Bench, Bench]) -> None:
    one, other = pair
    other.step()
    job_id = one.start()
    one.engine.draining.is_on = True
    one.step()
    assert one.transport.sent == []
    other.step(3)
    assert [sent.delivery.job_id for sent in other.transport.sent] == [job_id]


def test_a_draining_process_claims_nothing_and_says_that_it_is_busy(pair: tuple[Bench, Bench]) -> None:
    one, _ = pair
    one.start()
    one.step()
    one.engine.draining.is_on = True
    with pytest.raises(Refusal) as caught:
        one.receive()
    assert (caught.value.status, caught.value.kind) == (503, BUSY)


def test_the_next_slice_of_a_job_runs_in_another_process(pair: tuple[Bench, Bench]) -> None:
    one, other = pair
    other.step()
    running = one.run()
    with running.active():
        assert one.jobs.time_left > 0
        one.engine.draining.is_on = True
        assert one.jobs.time_left == 0
    with running.active(), pytest.raises(JobContinued) as left:
        for _ in one.jobs.track(range(3), resume=True):
            pass
    one.engine.worker.end(running, Outcome(error=left.value))
    one.transport.sent[-1].answer(202)
    one.step()
    assert one.transport.in_flight == 0
    assert len(one.transport.sent) == 1
    other.step(3)
    again = other.receive()
    seen: list[int] = []
    with again.active():
        seen.extend(other.jobs.track(range(3), resume=True))
    other.engine.worker.end(again, Outcome(200))
    assert seen == [1, 2]
    assert other.job(again.job.id).status is Status.COMPLETED


def test_a_job_that_runs_in_a_draining_process_still_reports_and_ends(pair: tuple[Bench, Bench]) -> None:
    one, _ = pair
    running = one.run()
    one.engine.draining.is_on = True
    with running.active():
        one.jobs.update(50, "half")
    assert one.job(running.job.id).progress == 50
    one.engine.worker.end(running, Outcome(200))
    assert one.job(running.job.id).status is Status.COMPLETED


def test_a_process_that_drains_on_signals_looks_after_the_jobs_of_others_before_its_first_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backjob.jobs.slices.drain_on_signals", lambda: None)
    monkeypatch.setattr(Passes, "ensure_running", lambda passes: started.append(passes._name))
    started: list[str] = []
    jobs = BackJob(MemoryStore(), FakeTransport(), MessageSigner(KEY))
    jobs.drain_on_signals()
    assert engine_of(jobs).monitor.serves_requests
    assert set(started) == {"backjob-monitor", "backjob-leases"}
