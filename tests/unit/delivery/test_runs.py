"""The next step after a run: its next slice, a retry, or the end of a dead or silent one; and which process delivers it."""

from __future__ import annotations

from typing import Any

import pytest

from backjob.delivery.keeping import LEASE
from backjob.errors import ConnectionLost, JobContinued
from backjob.lifecycle import REFUSAL_HEADER, TIMED_OUT
from backjob.model import Changes, Expect, Status
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import Refusal
from backjob.worker.running import Running
from tests.unit.core import COOKIE, NOT_SENT, Bench, bench, served


@pytest.fixture
def world() -> Bench:
    return bench()


def neighbour(world: Bench, **options: Any) -> Bench:
    """Another process of the same application."""
    return bench(clock=world.clock, store=world.store.store, **options)


def hand_over(world: Bench, running: Running, cursor: int) -> None:
    """End a run as `continue_later` does."""
    running.set_cursor(cursor)
    world.engine.worker.end(running, Outcome(error=JobContinued()))


# --- slices and retries ---------------------------------------------------------------------------------------------


def test_the_next_slice_follows_at_once_from_the_same_process(world: Bench) -> None:
    running = world.run()
    for slice_ in range(2, 6):
        hand_over(world, running, slice_)
        world.transport.sent[-1].answer(202)
        world.step()
        assert len(world.transport.sent) == slice_
        running = world.receive()
        assert (running.job.run, running.job.delivery, running.job.attempt) == (slice_, 1, 1)
    assert world.job(running.job.id).status is Status.IN_PROGRESS


def test_a_slice_whose_answer_was_lost_is_found_by_a_poll(world: Bench) -> None:
    running = world.run()
    world.transport.sent[-1].fail(ConnectionLost("a proxy was impatient"))
    world.step()
    hand_over(world, running, 1)
    world.step(2)
    assert len(world.transport.sent) == 2
    assert world.receive().job.run == 2


@pytest.mark.parametrize("is_answered", [False, True])
def test_only_the_process_that_has_the_credentials_delivers_the_next_slice(world: Bench, is_answered: bool) -> None:
    other = neighbour(world)
    with served():
        world.start(as_current_user=True)
    world.step()
    running = world.receive()
    for slice_ in range(2, 5):
        if not is_answered:
            world.transport.sent[-1].fail(ConnectionLost("a proxy was impatient"))
        for _ in range(100):
            world.step(1)
            other.step()
        hand_over(world, running, slice_)
        if is_answered:
            world.transport.sent[-1].answer(202)
        for _ in range(7):
            world.step(1)
            other.step()
        assert len(world.transport.sent) == slice_
        request = world.transport.sent[-1].delivery.sign()
        assert request.header("Cookie") == COOKIE
        opened = world.engine.worker.open(request)
        assert opened is not None
        running = world.engine.worker.claim(opened, request.body)
    assert other.transport.sent == []


@pytest.mark.parametrize("seconds", [31, 40])
@pytest.mark.parametrize("is_slice", [False, True])
def test_a_process_that_was_stopped_for_longer_than_a_lease_still_delivers_what_only_it_can(
    world: Bench, seconds: int, is_slice: bool
) -> None:
    other = neighbour(world)
    with served():
        job_id = world.start(as_current_user=True)
    world.step()
    if is_slice:
        hand_over(world, world.receive(), 1)
        world.transport.sent[-1].answer(202)
    else:
        world.transport.sent[-1].fail(NOT_SENT)
    world.transport.capacity = 0
    world.step()
    sent = len(world.transport.sent)
    for _ in range(seconds):
        other.step(1)
    for _ in range(5):
        world.step(1)
        other.step()
    assert world.job(job_id).lessee == world.monitor.lessee
    world.transport.capacity = None
    world.step(2)
    assert len(world.transport.sent) == sent + 1
    assert world.transport.sent[-1].delivery.sign().header("Cookie") == COOKIE
    assert other.transport.sent == []


def test_a_job_whose_credentials_are_lost_with_their_process_ends(world: Bench) -> None:
    other = neighbour(world)
    with served():
        job_id = other.start(as_current_user=True)
    for _ in range(60):
        world.step(1)
    job = world.job(job_id)
    assert job.status is Status.FAILED
    assert "ended before it was delivered" in (job.status_text or "")


def test_a_slice_is_delivered_by_another_process_if_the_first_has_ended(world: Bench) -> None:
    other = neighbour(world)
    running = world.run()
    hand_over(world, running, 1)
    other.step(2)
    assert other.receive().job.run == 2


def test_a_retry_waits_for_its_delay_and_any_process_delivers_it(world: Bench) -> None:
    running = world.run(retries=1, retry_delay=10)
    world.engine.worker.end(running, Outcome(error=ZeroDivisionError("no")))
    world.transport.sent[-1].answer(500)
    world.step()
    job = world.job(running.job.id)
    assert (job.status, job.run, job.attempt, job.lessee, job.token) == (Status.STARTED, 2, 2, None, None)
    assert 8 <= (job.start_time - world.clock.now()).total_seconds() <= 12
    world.step(7.9)
    assert len(world.transport.sent) == 1
    world.step(4.2)
    running = world.receive()
    assert running.job.run == 2
    world.engine.worker.end(running, Outcome(error=ZeroDivisionError("no")))
    assert world.job(running.job.id).status is Status.FAILED


def test_the_signature_of_an_earlier_run_claims_nothing(world: Bench) -> None:
    running = world.run(retries=1, retry_delay=0)
    first = world.transport.sent[-1]
    request = first.delivery
    world.engine.worker.end(running, Outcome(error=ZeroDivisionError("no")))
    first.answer(500)
    world.step(1)
    again = world.transport.sent[-1]
    assert again is not first
    assert (request.run, again.delivery.run) == (1, 2)  # type: ignore[attr-defined]
    assert world.job(running.job.id).is_waiting
    assert world.receive(again).job.run == 2


def test_an_answer_to_an_earlier_run_decides_nothing(world: Bench) -> None:
    other = neighbour(world)
    running = world.run(retries=1, retry_delay=0)
    other.step()
    world.engine.worker.end(running, Outcome(error=ZeroDivisionError("no")))
    other.step(2)
    other.receive()
    world.transport.sent[0].answer(404, "Not Found")
    world.step(1)
    job = world.job(running.job.id)
    assert (job.status, job.run) == (Status.IN_PROGRESS, 2)
    assert world.monitor._deliveries._by_id == {}


def test_a_process_that_requeues_a_late_job_keeps_the_next_run_that_it_has_leased_meanwhile(world: Bench) -> None:
    job_id = dead(world, retries=1, retry_delay=0)
    world.clock.advance(18)
    changed = world.monitor.reap(world.job(job_id))
    assert changed is not None
    world.step()  # a poll between the write and what follows it
    assert [sent.delivery.job_id for sent in world.transport.sent] == [job_id]
    world.engine.conclude(changed)
    world.step()
    assert not world.transport.sent[-1].future.cancelled()
    world.transport.sent[-1].fail(NOT_SENT)
    world.step()
    world.step(1)
    assert len(world.transport.sent) == 2


def test_a_claim_whose_answer_was_lost_is_undone_because_its_action_did_not_run(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.store.lost, world.store.down = {"change"}, {"get"}
    with pytest.raises(Refusal) as refused:
        world.receive()
    assert refused.value.kind == "unavailable"
    assert world.job(job_id).status is Status.IN_PROGRESS
    world.step(1)
    world.store.lost, world.store.down = set(), set()
    world.transport.sent[-1].answer(503, "Service Unavailable", ((REFUSAL_HEADER, "unavailable"),))
    world.step(3)
    world.step(3)
    running = world.receive()
    assert (running.job.id, running.job.run, running.job.attempt) == (job_id, 2, 1)
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(job_id).status is Status.COMPLETED


def test_a_job_that_is_cancelled_while_its_lost_claim_is_undone_stays_cancelled(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.store.lost, world.store.down = {"change"}, {"get"}
    with pytest.raises(Refusal):
        world.receive()
    world.store.lost, world.store.down = set(), set()
    world.store.before["change"] = lambda: bench(clock=world.clock, store=world.store.store).jobs.cancel(job_id)
    world.step(1)
    world.step(1)
    assert world.job(job_id).status is Status.CANCELLED


# --- deaths ---------------------------------------------------------------------------------------------------------


def dead(world: Bench, **options: Any) -> str:
    """A job that was claimed by a process that is dead by now."""
    victim = neighbour(world)
    running = victim.run(**options)
    return running.job.id


@pytest.mark.parametrize("since", [0, 30, 600])
def test_every_death_ends_its_job_within_20_seconds(world: Bench, since: float) -> None:
    for _ in range(int(since / 2)):  # how long this process has been idle
        world.step(2)
    job_id = dead(world)
    seconds = 0.0
    while not world.job(job_id).status.is_final and seconds < 30:
        world.step(0.1)
        seconds += 0.1
    job = world.job(job_id)
    assert (job.status, job.status_text) == (Status.FAILED, "the process that ran it ended")
    assert 17.9 <= seconds <= 20
    assert [state.id for state in world.ended] == [job_id]


@pytest.mark.slow
def test_the_deaths_of_many_jobs_at_once_end_all_of_them_within_20_seconds(world: Bench) -> None:
    victim = neighbour(world)
    ids = [victim.run().job.id for _ in range(450)]
    for _ in range(200):
        world.step(0.1)
    assert all(world.job(job_id).status is Status.FAILED for job_id in ids)


def test_jobs_that_may_not_be_ended_yet_do_not_hide_a_death(world: Bench) -> None:
    job_id = dead(world)
    silent = [world.run(error_timeout=30) for _ in range(100)]
    world.clock.jump(60)  # so that these look silent
    for _ in range(25):
        world.step(1)
    assert {world.job(running.job.id).status for running in silent} == {Status.IN_PROGRESS}
    assert world.job(job_id).status is Status.FAILED


def test_a_dead_run_with_a_retry_left_is_requeued_and_says_why(world: Bench) -> None:
    job_id = dead(world, retries=1, retry_delay=0)
    for _ in range(22):
        world.step(1)
    job = world.job(job_id)
    assert (job.run, job.attempt) == (2, 2)
    assert [entry["reason"] for entry in world.jobs.status(job_id).history] == ["the process that ran it ended"]
    assert world.receive().job.id == job_id
    assert world.ended == []


def test_a_process_that_is_not_on_time_ends_no_other_job(world: Bench) -> None:
    job_id = dead(world)
    world.leases.is_on_time = False
    for _ in range(100):
        world.step(1)
        assert world.jobs.status(job_id).status is Status.IN_PROGRESS
    world.leases.is_on_time = True
    assert world.jobs.status(job_id).status is Status.FAILED


def test_the_jobs_of_a_living_process_outlive_any_number_of_leases(world: Bench) -> None:
    running = world.run()
    other = neighbour(world)
    for _ in range(200):
        world.step(1)
        other.step()
    assert world.job(running.job.id).status is Status.IN_PROGRESS


def test_a_failed_write_of_the_leases_ends_no_job_within_a_lease(world: Bench) -> None:
    running = world.run()
    other = neighbour(world)
    other.store.down = world.store.down = {"beat", "find", "change", "take_due"}
    for _ in range(25):
        world.step(1)
        other.step()
    other.store.down = world.store.down = set()
    for _ in range(60):
        other.step()
        world.step(1)
    assert world.job(running.job.id).status is Status.IN_PROGRESS


def test_after_the_clock_was_set_back_a_dead_process_keeps_its_jobs_no_longer_than_before(world: Bench) -> None:
    job_id = dead(world)
    world.step(1)
    world.clock.jump(-3600)
    for _ in range(45):
        world.step(1)
    assert world.job(job_id).status is Status.FAILED


# --- silence --------------------------------------------------------------------------------------------------------


def test_a_silent_run_with_a_retry_left_is_fenced_until_its_lease_is_over(world: Bench) -> None:
    running = world.run(retries=1, retry_delay=0, error_timeout=30)
    other = neighbour(world)
    other.step()
    for _ in range(32):
        world.step(1)
    job = world.job(running.job.id)
    assert (job.status, job.run, job.token) == (Status.IN_PROGRESS, 1, TIMED_OUT)
    assert len(world.transport.sent) == 1
    for _ in range(20):
        world.step(1)
    job = world.job(running.job.id)
    assert job.run == 2
    assert len(world.transport.sent) == 2


def test_error_timeout_0_is_no_limit(world: Bench) -> None:
    running = world.run(error_timeout=0)
    for _ in range(100):
        world.step(100)
    assert world.job(running.job.id).status is Status.IN_PROGRESS


def test_by_default_silence_ends_a_job_after_an_hour(world: Bench) -> None:
    running = world.run()
    world.step(3590)
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    world.step(12)
    assert world.job(running.job.id).status is Status.FAILED


# --- expiry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [5, 9, 14])
def test_a_job_that_has_waited_for_a_place_until_it_expired_is_not_sent(wait: float) -> None:
    world = bench(max_running=1)
    world.leases.is_on_time = False  # this process began a moment ago, so it may not end the jobs of others
    first = world.run()
    with served():
        job_id = world.jobs.start("/work", expires=5)  # only this process can deliver it
    world.step()
    world.clock.advance(wait)
    world.engine.worker.end(first, Outcome(200))
    world.transport.sent[-1].answer()
    world.step()
    assert len(world.transport.sent) == 1
    job = world.job(job_id)
    assert (job.status, job.status_text) == (Status.FAILED, "expired: not started in time")


def test_a_job_that_is_not_claimed_before_it_expires_ends(world: Bench) -> None:
    world.transport.capacity = 0
    job_id = world.start(expires=30)
    world.step(29)
    assert world.jobs.status(job_id).status is Status.STARTED
    world.step(1)
    state = world.jobs.status(job_id)
    assert (state.status, state.status_text) == (Status.FAILED, "expired: not started in time")


def test_no_signature_is_valid_once_the_job_has_expired(world: Bench) -> None:
    world.start(expires=30)
    world.step()
    grant = world.engine.worker.open(world.transport.sent[0].delivery.sign())
    assert grant is not None
    assert grant.verified.grant.expires <= world.clock.now().timestamp() + 30


def test_the_claim_ends_the_expiry(world: Bench) -> None:
    running = world.run(expires=30, retries=1, retry_delay=60)
    world.step(40)
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    world.engine.worker.end(running, Outcome(error=ZeroDivisionError("no")))
    world.step(100)
    assert world.receive().job.run == 2


# --- draining -------------------------------------------------------------------------------------------------------


def test_a_draining_process_sends_nothing_and_gives_its_leases_back(world: Bench) -> None:
    job_id = world.start()
    world.engine.draining.is_on = True
    world.step(2)
    assert world.transport.sent == []
    assert world.job(job_id).lessee is None
    another = world.start()
    assert world.job(another).lessee is None
    other = neighbour(world)
    other.step()
    other.step(2)
    assert {sent.delivery.job_id for sent in other.transport.sent} == {job_id, another}


def test_a_slice_of_a_draining_process_is_left_to_the_others(world: Bench) -> None:
    running = world.run()
    world.engine.draining.is_on = True
    hand_over(world, running, 1)
    world.transport.sent[-1].answer(202)
    world.step(5)
    assert len(world.transport.sent) == 1
    other = neighbour(world)
    other.step()
    assert other.receive().job.run == 2


def test_a_job_that_a_draining_process_refuses_to_itself_is_left_to_the_others(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.engine.draining.is_on = True
    world.step()
    with pytest.raises(Refusal) as refused:
        world.receive()
    world.transport.sent[-1].answer(refused.value.status, headers=refused.value.headers)
    world.step()
    assert world.job(job_id).lessee is None
    other = neighbour(world)
    other.step()
    assert [sent.delivery.job_id for sent in other.transport.sent] == [job_id]


def test_a_lease_that_was_renewed_writes_the_deadline_of_its_own_run(world: Bench) -> None:
    running = world.run(retries=1, retry_delay=0)
    world.engine.worker.end(running, Outcome(error=ZeroDivisionError("no")))
    world.transport.sent[-1].answer(500)
    world.step(500)
    sent_at = world.transport.sent[-1]
    assert sent_at.delivery.attempt == 1
    world.step(LEASE / 2)
    deliver_by = world.job(running.job.id).deliver_by
    assert deliver_by is not None
    assert 580 <= (deliver_by - world.clock.now()).total_seconds() <= 600
    world.store.store.change(running.job.id, Expect(), Changes(end=True, status=Status.CANCELLED))


# --- why a job waits ------------------------------------------------------------------------------------------------


def test_a_job_says_that_the_application_can_not_reach_its_store_until_that_changes(world: Bench) -> None:
    job_id = world.start()
    world.step()
    for _ in range(3):
        world.transport.sent[-1].answer(503, "Service Unavailable", ((REFUSAL_HEADER, "unavailable"),))
        world.step()
        world.step(1)
    state = world.jobs.status(job_id)
    assert (state.waiting_for, state.status_text) == ("store", "the application can't reach its job store yet")
    writes = world.job(job_id).version
    world.transport.sent[-1].answer(502, "Bad Gateway")
    world.step()
    world.step(2)
    assert world.jobs.status(job_id).waiting_for != "store"
    assert world.job(job_id).version == writes + 1  # with the retry's own write
    world.receive()
    assert world.jobs.status(job_id).waiting_for is None


def test_a_job_without_a_place_says_so(world: Bench) -> None:
    world.transport.capacity = 0
    job_id = world.start()
    assert world.jobs.status(job_id).waiting_for is None
    world.step(2)
    assert world.jobs.status(job_id).waiting_for == "place"
