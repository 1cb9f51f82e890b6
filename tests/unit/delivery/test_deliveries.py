"""One job from its acceptance to its claim, whatever happens on the way: the outcomes of deliveries, one by one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import pytest

from backjob.delivery.deliveries import LEASE
from backjob.errors import ConnectionLost, NotSent
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Changes, Expect, Status
from tests.unit.core import COOKIE, NOT_SENT, Bench, Sent, bench, served

BACKOFFS = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


@pytest.fixture
def world() -> Bench:
    return bench()


def neighbour(world: Bench, **options: Any) -> Bench:
    """Another process of the same application."""
    return bench(clock=world.clock, store=world.store.store, **options)


def held(world: Bench) -> int:
    return len(world.monitor._deliveries._held)


def in_flight(world: Bench) -> int:
    return len(world.monitor._deliveries._in_flight)


# --- what is retried ------------------------------------------------------------------------------------------------


def test_what_was_not_sent_is_sent_again_with_growing_pauses(world: Bench) -> None:
    job_id = world.start()
    world.step()
    for number, pause in enumerate(BACKOFFS, 1):
        assert world.transport.sent[-1].delivery.attempt == number
        assert len(world.transport.sent) == number
        world.transport.sent[-1].fail(NOT_SENT)
        assert world.step() <= pause + 1e-6
        world.step(pause - 0.001)
        assert len(world.transport.sent) == number
        world.step(0.001001)
    assert world.job(job_id).attempt == len(BACKOFFS) + 1
    running = world.receive()
    assert running.job.id == job_id
    assert in_flight(world) == 1


def answered(status: int, refusal: str | None = None) -> Any:
    headers = () if refusal is None else ((REFUSAL_HEADER, refusal),)
    return lambda sent: sent.answer(status, "R", headers)


@pytest.mark.parametrize(
    "outcome",
    [
        lambda sent: sent.fail(NotSent("refused")),
        lambda sent: sent.fail(ConnectionLost("EOF")),
        lambda sent: sent.fail(RuntimeError("a bug in a transport")),
        lambda sent: sent.future.cancel(),
        answered(408),
        answered(429),
        answered(502),
        answered(503),
        answered(504),
        answered(403, "unknown-key"),
        answered(503, "unavailable"),
        answered(409, "claimed"),
    ],
)
def test_a_job_that_nobody_claimed_is_delivered_again(world: Bench, outcome: Any) -> None:
    job_id = world.start()
    world.step()
    outcome(world.transport.sent[0])
    world.step()
    assert world.job(job_id).status is Status.STARTED
    world.step(0.1)
    assert [sent.delivery.attempt for sent in world.transport.sent] == [1, 2]
    assert world.receive().job.id == job_id


@pytest.mark.parametrize(
    "outcome",
    [
        lambda sent: sent.fail(ConnectionLost("EOF")),
        lambda sent: sent.fail(NotSent("timed out")),
        answered(200),
        answered(504),
        answered(409, "claimed"),
        answered(500),
    ],
)
def test_a_claimed_job_is_left_to_its_worker_whatever_the_connection_says(world: Bench, outcome: Any) -> None:
    running = world.run()
    outcome(world.transport.sent[0])
    world.step(1)
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    assert (len(world.transport.sent), held(world), in_flight(world)) == (1, 0, 0)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (answered(200), "200 OK: answered, but the middleware did not claim the job: is it installed"),
        (answered(204), "204 No Content: answered, but the middleware did not claim the job"),
        (lambda sent: sent.answer(302, "Found", (("Location", "/login"),)), "302 Found → /login: answered"),
        (answered(404), "404 Not Found: answered"),
        (answered(500), "500 Internal Server Error: answered"),
        (answered(400), "httptools"),
        (answered(405), "does not allow this method"),
        (lambda s: s.answer(403, "No", ((REFUSAL_HEADER, "signature"),), b"expired\0"), "(signature). expired\ufffd"),
    ],
)
def test_an_answer_without_a_claim_ends_the_job_in_words_that_help(world: Bench, outcome: Any, said: str) -> None:
    job_id = world.start()
    world.step()
    outcome(world.transport.sent[0])
    world.step()
    job = world.job(job_id)
    assert job.status is Status.FAILED
    assert said in (job.status_text or "")
    assert [state.id for state in world.ended] == [job_id]
    assert (held(world), in_flight(world)) == (0, 0)


def test_who_read_started_can_not_end_a_job_that_was_claimed_meanwhile(world: Bench) -> None:
    job_id = world.start()
    world.step()
    sent = world.transport.sent[0]
    claimed: list[Any] = []

    def claim() -> None:
        claimed.append(neighbour(world).receive(sent))

    sent.answer(200)
    world.store.before["change"] = claim  # after the monitor's get, before its change
    world.step()
    assert claimed
    assert world.job(job_id).status is Status.IN_PROGRESS
    assert not world.ended


def test_a_job_that_was_purged_meanwhile_is_forgotten(world: Bench) -> None:
    world.start()
    world.step()
    world.store.before["get"] = world.store.store._jobs.clear  # type: ignore[attr-defined]
    world.transport.sent[0].fail(NOT_SENT)
    world.step()
    assert (held(world), in_flight(world)) == (0, 0)


# --- time limits ----------------------------------------------------------------------------------------------------


def test_an_undelivered_job_fails_at_the_exact_end_of_its_time(world: Bench) -> None:
    job_id = world.start()
    world.transport.script = lambda sent: sent.fail(NOT_SENT)
    while world.clock.monotonic() < 599:
        world.step(1)
    world.clock.advance(599.999 - world.clock.monotonic())
    assert world.jobs.status(job_id).status is Status.STARTED
    world.clock.advance(0.001)
    state = world.jobs.status(job_id)
    assert (state.status, state.end_time) == (Status.FAILED, world.clock.now())
    assert "not delivered within 600 s" in state.status_text
    count = len(world.transport.sent)
    world.step(60)
    assert len(world.transport.sent) == count
    assert held(world) == 0


def test_the_monitor_says_why_the_last_attempt_failed(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.clock.advance(600)
    world.transport.sent[0].fail(NOT_SENT)
    world.step()
    assert (world.job(job_id).status_text or "").endswith("the last attempt: connection refused")


def test_nothing_is_signed_that_could_be_valid_after_the_end_of_delivery(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.clock.advance(599)
    request = world.transport.sent[0].delivery.sign()
    verified = world.jobs.worker.open(request)
    assert verified is not None
    assert verified.grant.expires <= world.job(job_id).deliver_by.timestamp()


def test_after_its_time_a_delivery_does_not_sign(world: Bench) -> None:
    world.start()
    world.step()
    world.clock.advance(600)
    with pytest.raises(NotSent):
        world.transport.sent[0].delivery.sign()


def test_a_delivery_signs_once(world: Bench) -> None:
    world.start()
    world.step()
    world.transport.sent[0].delivery.sign()
    with pytest.raises(NotSent):
        world.transport.sent[0].delivery.sign()


# --- delays and merges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [False, True])
def test_a_delayed_job_is_sent_at_its_time_and_not_before(world: Bench, user: bool) -> None:
    with served():
        world.start(delay=100, as_current_user=user)
    for _ in range(99):
        world.step(1)
    world.step(0.999)
    assert not world.transport.sent
    world.step(0.001)
    assert len(world.transport.sent) == 1
    assert (world.transport.sent[0].delivery.sign().header("cookie") == COOKIE) is user


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize(("first", "then"), [(10, 50), (50, 10), (10, 0)])
def test_a_merge_moves_a_waiting_job_to_the_newest_start_time(
    world: Bench, user: bool, first: float, then: float
) -> None:
    options: dict[str, Any] = {"as_current_user": user, "owner": "ann", "merge": "pending"}
    with served():
        job_id = world.start(delay=first, **options)
        world.step(1)
        assert world.start(delay=then, **options) == job_id
    if then:
        world.step(then - 0.001)
        assert not world.transport.sent
        world.step(0.001)
    world.step()
    assert len(world.transport.sent) == 1
    world.receive()
    world.step(60)
    assert len(world.transport.sent) == 1


def test_a_job_that_is_moved_again_and_again_takes_no_more_memory(world: Bench) -> None:
    with served():
        for _ in range(300):
            world.start(delay=1000, as_current_user=True, owner="ann", merge="pending")
            world.step(0.01)
    assert len(world.monitor._deliveries._agenda) < 10


def test_a_merge_by_another_process_moves_the_job_too(world: Bench) -> None:
    other = neighbour(world)
    options: dict[str, Any] = {"as_current_user": True, "owner": "ann", "merge": "pending"}
    with served():
        job_id = world.start(delay=100, **options)
        world.step(1)
        assert other.start(delay=200, **options) == job_id
    for _ in range(199):
        world.step(1)
        other.step()
    assert not world.transport.sent + other.transport.sent
    world.step(1)
    other.step()
    [sent] = world.transport.sent + other.transport.sent
    assert sent.delivery.sign().header("Cookie") == COOKIE


def test_a_merge_brings_new_credentials_to_a_job_whose_process_died(world: Bench) -> None:
    other = neighbour(world)
    options: dict[str, Any] = {"as_current_user": True, "owner": "ann", "merge": "pending", "delay": 20}
    with served():
        job_id = world.start(**options)
        other.step(1)
        assert other.start(**options) == job_id
    for _ in range(20):
        other.step(1)
    assert other.transport.sent[0].delivery.sign().header("Cookie") == COOKIE


def test_a_change_by_somebody_else_does_not_let_the_lease_lapse(world: Bench) -> None:
    other = neighbour(world)
    with served():
        job_id = world.start(as_current_user=True, delay=LEASE)
    world.step()
    for second in range(31):
        if second == 14:
            job = world.job(job_id)
            world.store.store.change(job_id, Expect(version=job.version), Changes(due=job.start_time))
        other.step()  # first, so that a lease that is over goes to it
        world.step()
        world.clock.advance(1)
    assert world.transport.sent[0].delivery.sign().header("Cookie") == COOKIE


def test_once_sent_a_pending_job_is_not_joined(world: Bench) -> None:
    first = world.start(merge="pending")
    assert world.start(merge="pending") == first
    world.step()
    assert len(world.transport.sent) == 1
    assert world.start(merge="pending") != first


def test_an_unfinished_job_is_joined_until_its_end(world: Bench) -> None:
    first = world.start(merge="unfinished")
    world.step()
    running = world.receive()
    assert world.start(merge="unfinished") == first
    world.jobs.finish(job_id=running.job.id)
    assert world.start(merge="unfinished") != first


# --- room -----------------------------------------------------------------------------------------------------------


def test_capacity_is_never_exceeded_and_all_are_sent(world: Bench) -> None:
    world.transport.capacity = 3
    for _ in range(20):
        world.start()
    done = 0
    while done < 20:
        world.step(0.1)
        waiting = [sent for sent in world.transport.sent if not sent.future.done()]
        assert 1 <= len(waiting) <= 3
        running = world.receive(waiting[0])
        world.jobs.finish(job_id=running.job.id)
        if not waiting[0].future.done():
            waiting[0].answer()
        done += 1
    world.step()
    assert world.transport.most == 3
    assert (held(world), in_flight(world)) == (0, 0)


def test_what_finds_no_room_is_left_to_another_process(world: Bench) -> None:
    world.transport.capacity = 1
    other = neighbour(world)
    first, second = world.start(), world.start()
    world.step()
    world.receive()
    for _ in range(20):
        world.step(1)
        other.step()
    assert [sent.delivery.job_id for sent in other.transport.sent] == [second]
    assert first != second


def test_a_job_between_two_attempts_keeps_its_place(world: Bench) -> None:
    world.transport.script = lambda sent: sent.fail(NOT_SENT)
    world.start()
    for _ in range(600):
        world.step(0.1)
    attempts = [sent.delivery.attempt for sent in world.transport.sent]
    assert attempts == list(range(1, len(attempts) + 1))
    assert len(attempts) >= 10


def test_without_a_transport_nothing_is_taken(world: Bench) -> None:
    job_id = world.start(delay=1)
    world.jobs.transport = None
    for _ in range(100):
        world.step(1)
    assert world.job(job_id).lessee is None
    world.jobs.transport = world.transport
    world.step(2)
    assert len(world.transport.sent) == 1


# --- leases and credentials -----------------------------------------------------------------------------------------


def test_the_lease_of_a_job_with_credentials_is_renewed_while_it_waits(world: Bench) -> None:
    other = neighbour(world)
    with served():
        job_id = world.start(as_current_user=True, delay=300)
    for _ in range(300):
        world.step(1)
        other.step()
    assert not other.transport.sent
    assert world.transport.sent[0].delivery.sign().header("Cookie") == COOKIE
    assert world.job(job_id).status is Status.STARTED


def committed_later(world: Bench, seconds: float, meanwhile: Callable[[], object] = bool, **options: Any) -> str:
    """Start a job within a transaction of the caller's that takes so long; ``meanwhile`` happens right after its commit."""
    steps: list[Callable[[], None]] = []
    with served(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.jobs, "_when_committed", lambda job_id, step, *, is_new: steps.append(step))
        job_id = world.start(as_current_user=True, **options)
    world.clock.advance(seconds)
    meanwhile()
    for step in steps:
        step()
    return job_id


def test_a_lease_that_went_by_within_a_transaction_is_renewed_before_anything_else(world: Bench) -> None:
    world.transport.capacity = 0
    job_id = committed_later(world, LEASE + 1)
    world.step()
    left = world.job(job_id).lease_until
    assert left is not None
    assert left > world.clock.now() + timedelta(seconds=LEASE - 1)


def test_a_delay_counts_from_the_start_not_from_the_commit(world: Bench) -> None:
    committed_later(world, 20, delay=30)
    world.step(9)
    assert world.transport.sent == []
    world.step(1)
    assert len(world.transport.sent) == 1


def test_a_store_that_takes_its_time_makes_no_job_early(world: Bench) -> None:
    world.store.before["create"] = lambda: world.clock.advance(3)
    world.start(delay=10)
    world.step(9.9)
    assert world.transport.sent == []
    world.step(0.2)
    assert len(world.transport.sent) == 1


def test_credentials_come_to_a_job_that_was_found_in_the_store_before_it_was_told_of(world: Bench) -> None:
    def look() -> None:
        world.step()
        assert held(world) == 1
        assert world.transport.sent == []

    job_id = committed_later(world, LEASE + 1, look)
    world.step(1)
    assert world.transport.sent[-1].delivery.sign().header("cookie") == COOKIE
    assert world.job(job_id).status is Status.STARTED


def test_a_job_whose_process_died_is_delivered_by_another_when_the_lease_is_over(world: Bench) -> None:
    other = neighbour(world)
    job_id = world.start()
    other.step(LEASE - 0.001)
    assert not other.transport.sent
    other.step(0.001)
    other.step(2)
    assert other.receive().job.id == job_id


def test_lost_credentials_fail_the_job_and_say_so(world: Bench) -> None:
    other = neighbour(world)
    with served():
        job_id = world.start(as_current_user=True)
    other.step(LEASE)
    other.step(2)
    job = world.job(job_id)
    assert job.status is Status.FAILED
    assert "credentials" in (job.status_text or "")
    assert not other.transport.sent
    assert len(other.ended) == 1


def test_sealed_credentials_are_delivered_by_another_process() -> None:
    world = bench(seal=True)
    with served():
        world.start(as_current_user=True)
    other = neighbour(world, seal=True)
    other.step(LEASE)
    other.step(2)
    assert other.transport.sent[0].delivery.sign().header("Cookie") == COOKIE


def test_sealed_credentials_that_can_not_be_opened_never_become_an_anonymous_request() -> None:
    world = bench(seal=True)
    with served():
        job_id = world.start(as_current_user=True)
    other = neighbour(world)
    other.step(LEASE)
    other.step(2)
    assert not other.transport.sent
    assert world.job(job_id).status is Status.FAILED


def test_a_lease_that_went_to_another_is_not_fought_over(world: Bench) -> None:
    other = neighbour(world)
    world.start()
    world.store.down = {"change", "take_due", "get"}
    world.transport.script = lambda sent: sent.fail(NOT_SENT)
    for _ in range(40):
        world.step(1)
    other.step(2)
    other.step(2)
    assert len(other.transport.sent) == 1
    world.store.down = set()
    world.step(2)
    world.step(2)
    other.receive()
    for _ in range(30):
        world.step(1)
    assert held(world) == 0


def test_a_connection_of_a_job_that_ended_elsewhere_is_given_up_in_the_end(world: Bench) -> None:
    other = neighbour(world)
    running = world.run()
    for _ in range(20):
        world.step(1)
    other.jobs.cancel(running.job.id)
    for _ in range(120):
        world.step(1)
    assert world.transport.sent[0].future.cancelled()
    assert (held(world), in_flight(world)) == (0, 0)


def test_a_running_job_keeps_its_connection(world: Bench) -> None:
    running = world.run()
    for _ in range(300):
        world.step(1)
        running.sign_of_life()
    assert not world.transport.sent[0].future.done()
    assert in_flight(world) == 1
    assert len(world.monitor._deliveries._agenda) < 5


def test_ending_a_job_closes_its_connection(world: Bench) -> None:
    running = world.run()
    world.jobs.cancel(running.job.id)
    world.step()
    assert world.transport.sent[0].future.cancelled()
    assert (held(world), in_flight(world)) == (0, 0)


def test_a_job_that_timed_out_by_a_look_loses_its_connection(world: Bench) -> None:
    running = world.run(error_timeout=5)
    world.clock.advance(5)
    assert world.jobs.status(running.job.id).status is Status.FAILED
    world.step()
    assert world.transport.sent[0].future.cancelled()


def test_closing_gives_up_the_leases_that_others_can_use(world: Bench) -> None:
    world.transport.capacity = 0
    with served():
        user = world.start(as_current_user=True)
    anonymous = world.start()
    world.jobs.close()
    assert world.job(anonymous).lease_until is None
    assert world.job(user).lease_until is not None


# --- trouble --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["change", "get", "take_due", "find", "purge", "beat"])
@pytest.mark.parametrize("user", [False, True])
def test_a_store_that_is_away_for_a_while_loses_no_job(world: Bench, method: str, user: bool) -> None:
    with served():
        job_id = world.start(as_current_user=user, owner="ann", merge="pending")
    world.store.down = {method}
    world.transport.script = lambda sent: sent.fail(NOT_SENT)
    for _ in range(20):
        world.step(1)
    world.store.down = set()
    world.transport.script = None
    for _ in range(20):
        world.step(1)
        if world.transport.in_flight:
            break
    running = world.receive()
    assert running.job.id == job_id
    world.transport.sent[-1].answer()
    world.step()
    assert (held(world), in_flight(world)) == (0, 0)


@pytest.mark.parametrize("method", ["change", "get"])
def test_a_store_that_is_away_when_the_answer_comes_is_asked_again(world: Bench, method: str) -> None:
    job_id = world.start()
    world.step()
    world.store.down = {method}
    world.transport.sent[0].answer(404, "Not Found")
    world.step(3)
    assert world.job(job_id).status is Status.STARTED
    world.store.down = set()
    world.step(1)
    assert world.job(job_id).status is Status.FAILED


def test_a_transport_that_breaks_is_tried_again_and_stops_nobody(world: Bench) -> None:
    first, second = world.start(), world.start()
    world.transport.broken = RuntimeError("can't start new thread")
    world.step()
    world.transport.broken = None
    world.step(1)
    assert {sent.delivery.job_id for sent in world.transport.sent} == {first, second}


def test_outcomes_that_come_within_send_do_no_harm(world: Bench) -> None:
    world.transport.script = lambda sent: sent.fail(NOT_SENT)
    world.start()
    world.step()
    world.transport.script = None
    world.step(0.1)
    world.receive()

    def run(sent: Sent) -> None:
        world.receive(sent)
        sent.answer()

    world.transport.script = run
    job_id = world.start()
    world.step()
    assert world.job(job_id).status is Status.IN_PROGRESS


def test_an_answer_to_a_forgotten_delivery_changes_nothing(world: Bench) -> None:
    job_id = world.start()
    world.step()
    stray: Future[Any] = Future()
    world.monitor._answered(job_id, stray)
    stray.set_result(None)
    world.step()
    assert in_flight(world) == 1


def test_what_is_done_leaves_nothing_behind(world: Bench) -> None:
    def run(sent: Sent) -> None:
        running = world.receive(sent)
        world.jobs.finish(job_id=running.job.id)
        if not sent.future.done():
            sent.answer()

    world.transport.script = run
    for _ in range(100):
        world.start()
        world.step(0.01)
    assert (held(world), in_flight(world)) == (0, 0)
    world.step(20)
    monitor = world.monitor
    assert (monitor._deliveries._agenda, len(monitor._deliveries._ready), monitor._alarms) == ([], 0, [])


def test_a_version_that_moves_on_does_not_stop_a_delivery(world: Bench) -> None:
    job_id = world.start(merge="pending")
    job = world.job(job_id)
    for _ in range(3):
        world.store.store.change(job_id, Expect(status=Status.STARTED), Changes(lessee=job.lessee, lease=30.0))
    world.step()
    world.step()
    assert len(world.transport.sent) == 1
