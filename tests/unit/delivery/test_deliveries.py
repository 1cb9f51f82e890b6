"""Deliveries from the acceptance of a job to its claim: outcomes, delays, merges, leases, credentials, failures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import pytest

from backjob.delivery.addresses import Addresses
from backjob.delivery.keeping import LEASE
from backjob.errors import ConnectionLost, NotSent, StoreUnavailable
from backjob.lifecycle import REFUSAL_HEADER
from backjob.model import Changes, Expect, Status
from backjob.transports.sockets import SocketTransport
from backjob.worker.outcomes import Outcome
from tests.unit.core import COOKIE, NOT_SENT, Bench, Sent, bench, served

BACKOFFS = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


@pytest.fixture
def world() -> Bench:
    return bench()


def neighbour(world: Bench, **options: Any) -> Bench:
    """Another process of the same application."""
    return bench(clock=world.clock, store=world.store.store, **options)


def delivering(world: Bench) -> int:
    return len(world.monitor._deliveries._by_id)


def in_flight(world: Bench) -> int:
    return len(world.monitor._deliveries.places.in_flight)


# --- what is retried ------------------------------------------------------------------------------------------------


def test_a_failed_attempt_is_repeated_with_growing_pauses(world: Bench) -> None:
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
    assert (world.job(job_id).delivery, world.job(job_id).attempt) == (len(BACKOFFS) + 1, 1)
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
def test_an_unclaimed_job_is_delivered_again(world: Bench, outcome: Any) -> None:
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
def test_no_outcome_ends_or_repeats_a_claimed_job(world: Bench, outcome: Any) -> None:
    running = world.run()
    outcome(world.transport.sent[0])
    world.step(1)
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    assert (len(world.transport.sent), delivering(world), in_flight(world)) == (1, 0, 0)


@pytest.mark.parametrize(
    ("outcome", "text"),
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
def test_an_answer_without_a_claim_fails_the_job_with_a_hint(world: Bench, outcome: Any, text: str) -> None:
    job_id = world.start()
    world.step()
    outcome(world.transport.sent[0])
    world.step()
    job = world.job(job_id)
    assert job.status is Status.FAILED
    assert text in (job.status_text or "")
    assert [state.id for state in world.ended] == [job_id]
    assert (delivering(world), in_flight(world)) == (0, 0)


def test_a_job_that_was_claimed_after_the_read_is_not_ended(world: Bench) -> None:
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


def test_a_purged_job_is_dropped(world: Bench) -> None:
    world.start()
    world.step()
    world.store.before["get"] = world.store.store._jobs.clear  # type: ignore[attr-defined]
    world.transport.sent[0].fail(NOT_SENT)
    world.step()
    assert (delivering(world), in_flight(world)) == (0, 0)


# --- time limits ----------------------------------------------------------------------------------------------------


def test_an_undelivered_job_fails_exactly_at_its_delivery_timeout(world: Bench) -> None:
    job_id = world.start()
    world.transport.script = lambda sent: sent.fail(ConnectionLost("EOF"))
    world.step()
    while world.clock.monotonic() < 599:
        world.step(1)
    world.clock.advance(599.999 - world.clock.monotonic())
    assert world.jobs.status(job_id).status is Status.STARTED
    world.clock.advance(0.001)
    state = world.jobs.status(job_id)
    assert (state.status, state.end_time) == (Status.FAILED, world.clock.now())
    assert state.status_text.startswith("job timeout: sent, but not claimed by the application in time")
    count = len(world.transport.sent)
    world.step(60)
    assert len(world.transport.sent) == count
    assert delivering(world) == 0


def test_the_status_text_says_why_the_last_attempt_failed(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.clock.advance(600)
    world.transport.sent[0].fail(ConnectionLost("it was reset"))
    world.step()
    assert (world.job(job_id).status_text or "").endswith("the last attempt: it was reset")


def test_the_delivery_timeout_counts_from_the_first_sending_and_is_written_with_the_next_write(world: Bench) -> None:
    world.transport.capacity = 0
    job_id = world.start()
    for _ in range(1000):
        world.step(1)
    assert (world.job(job_id).status, world.job(job_id).deliver_by) == (Status.STARTED, None)
    world.transport.capacity = 1
    world.step(2)
    sent_at = world.clock.now()
    version = world.job(job_id).version
    assert world.job(job_id).deliver_by is None
    world.step(LEASE / 2)
    job = world.job(job_id)
    assert (job.version, job.deliver_by) == (version + 1, sent_at + timedelta(seconds=600))


def test_a_job_that_can_not_be_sent_at_all_waits_for_ever(world: Bench) -> None:
    job_id = world.start()
    world.transport.script = lambda sent: sent.fail(NOT_SENT)
    for _ in range(2000):
        world.step(1)
    job = world.job(job_id)
    assert (job.status, job.deliver_by, job.waiting_for) == (Status.STARTED, None, "connection")


@pytest.mark.parametrize("reads", [False, True], ids=["polled first", "read first"])
def test_a_job_that_was_sent_before_the_site_was_down_is_delivered_once_the_site_is_back(
    world: Bench, *, reads: bool
) -> None:
    job_id = world.start()
    world.step()
    world.step(20)
    assert world.job(job_id).deliver_by is not None
    world.clock.advance(3600)
    other = neighbour(world)
    if reads:
        assert other.jobs.status(job_id).status is Status.STARTED
        assert other.job(job_id).deliver_by is None
    other.step()
    assert other.receive().job.id == job_id


def test_a_job_that_changes_while_a_poll_takes_it_over_is_left_alone(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.step(20)
    world.clock.advance(3600)
    other = neighbour(world)
    other.store.before["change"] = lambda: world.jobs.cancel(job_id)
    other.step()
    assert (world.job(job_id).status, other.transport.sent, delivering(other)) == (Status.CANCELLED, [], 0)


def test_no_signature_is_valid_past_the_delivery_timeout(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.step(LEASE / 2)
    world.clock.advance(599 - LEASE / 2)
    request = world.transport.sent[0].delivery.sign()
    opened = world.engine.worker.open(request)
    deliver_by = world.job(job_id).deliver_by
    assert opened is not None
    assert deliver_by is not None
    assert opened.verified.grant.expires <= deliver_by.timestamp()


def test_past_its_deadline_an_attempt_does_not_sign(world: Bench) -> None:
    world.start()
    world.step()
    world.clock.advance(600)
    with pytest.raises(NotSent):
        world.transport.sent[0].delivery.sign()


def test_an_attempt_signs_once(world: Bench) -> None:
    world.start()
    world.step()
    world.transport.sent[0].delivery.sign()
    with pytest.raises(NotSent):
        world.transport.sent[0].delivery.sign()


# --- delays and merges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", [False, True])
def test_a_delayed_job_is_sent_exactly_when_it_is_due(world: Bench, user: bool) -> None:
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


def test_a_job_that_is_rescheduled_often_takes_no_more_memory(world: Bench) -> None:
    with served():
        for _ in range(300):
            world.start(delay=1000, as_current_user=True, owner="ann", merge="pending")
            world.step(0.01)
    assert len(world.monitor._deliveries._agenda) < 10


def test_a_merge_by_another_process_reschedules_the_job_too(world: Bench) -> None:
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


def test_a_merge_supplies_credentials_for_a_job_whose_process_died(world: Bench) -> None:
    other = neighbour(world)
    options: dict[str, Any] = {"as_current_user": True, "owner": "ann", "merge": "pending", "delay": 20}
    with served():
        job_id = world.start(**options)
        other.step(1)
        assert other.start(**options) == job_id
    for _ in range(20):
        other.step(1)
    assert other.transport.sent[0].delivery.sign().header("Cookie") == COOKIE


def test_the_lease_does_not_expire_after_a_change_by_another_process(world: Bench) -> None:
    other = neighbour(world)
    with served():
        job_id = world.start(as_current_user=True, delay=LEASE)
    world.step()
    for second in range(31):
        if second == 14:
            job = world.job(job_id)
            world.store.store.change(job_id, Expect(version=job.version), Changes(due=job.start_time))
        other.step()  # first, so that it would take an expired lease
        world.step()
        world.clock.advance(1)
    assert world.transport.sent[0].delivery.sign().header("Cookie") == COOKIE


def test_a_pending_job_can_not_be_joined_once_it_is_sent(world: Bench) -> None:
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


# --- capacity--------------------------------------------------------------------------------------------------------


def test_capacity_is_never_exceeded_and_all_jobs_are_sent(world: Bench) -> None:
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
    assert world.transport.max_in_flight == 3
    assert (delivering(world), in_flight(world)) == (0, 0)


def test_a_job_without_room_is_left_to_another_process(world: Bench) -> None:
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


def test_a_job_between_two_attempts_stays_with_its_process(world: Bench) -> None:
    world.transport.script = lambda sent: sent.fail(NOT_SENT)
    world.start()
    for _ in range(600):
        world.step(0.1)
    attempts = [sent.delivery.attempt for sent in world.transport.sent]
    assert attempts == list(range(1, len(attempts) + 1))
    assert len(attempts) >= 10


def test_without_a_transport_no_job_is_leased(world: Bench) -> None:
    job_id = world.start(delay=1)
    known, world.engine.addresses = world.engine.addresses, Addresses(SocketTransport)
    for _ in range(100):
        world.step(1)
    assert world.job(job_id).lessee is None
    world.engine.addresses = known
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
    """Start a job inside a transaction of the caller that takes this long; call ``meanwhile`` right after the commit."""
    steps: list[Callable[[], None]] = []
    with served(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.engine, "when_committed", lambda job_id, step, *, is_new: steps.append(step))
        job_id = world.start(as_current_user=True, **options)
    world.clock.advance(seconds)
    meanwhile()
    for step in steps:
        step()
    return job_id


def test_a_lease_that_expired_inside_a_transaction_is_renewed_first(world: Bench) -> None:
    world.transport.capacity = 0
    job_id = committed_later(world, LEASE + 1)
    world.step()
    left = world.job(job_id).lease_until
    assert left is not None
    assert left > world.clock.now() + timedelta(seconds=LEASE - 1)


def test_a_delay_counts_from_start_and_not_from_the_commit(world: Bench) -> None:
    committed_later(world, 20, delay=30)
    world.step(9)
    assert world.transport.sent == []
    world.step(1)
    assert len(world.transport.sent) == 1


def test_a_slow_write_does_not_make_a_delayed_job_early(world: Bench) -> None:
    world.store.before["create"] = lambda: world.clock.advance(3)
    world.start(delay=10)
    world.step(9.9)
    assert world.transport.sent == []
    world.step(0.2)
    assert len(world.transport.sent) == 1


def test_credentials_reach_a_job_that_a_poll_found_before_it_was_accepted(world: Bench) -> None:
    def poll() -> None:
        world.step()
        assert delivering(world) == 1
        assert world.transport.sent == []

    job_id = committed_later(world, LEASE + 1, poll)
    world.step(1)
    assert world.transport.sent[-1].delivery.sign().header("cookie") == COOKIE
    assert world.job(job_id).status is Status.STARTED


def test_another_process_delivers_the_job_of_a_dead_one_when_the_lease_expires(world: Bench) -> None:
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
    other.step(LEASE / 2 - 1)  # if the process was only stopped, it takes the job back
    assert world.job(job_id).status is Status.STARTED
    other.step(2)
    job = world.job(job_id)
    assert job.status is Status.FAILED
    assert "credentials" in (job.status_text or "")
    assert not other.transport.sent
    assert len(other.ended) == 1


def test_another_process_can_send_sealed_credentials() -> None:
    world = bench(seal=True)
    with served():
        world.start(as_current_user=True)
    other = neighbour(world, seal=True)
    other.step(LEASE)
    other.step(2)
    assert other.transport.sent[0].delivery.sign().header("Cookie") == COOKIE


def test_a_job_whose_sealed_credentials_do_not_open_is_never_sent_as_anonymous() -> None:
    world = bench(seal=True)
    with served():
        job_id = world.start(as_current_user=True)
    world.store.store.change(job_id, Expect(), Changes(sealed=b"of another key"))
    other = neighbour(world, seal=True)
    other.step(LEASE)
    other.step(2)
    assert not other.transport.sent
    assert world.job(job_id).status is Status.FAILED


def test_a_process_that_lost_a_lease_does_not_take_it_back(world: Bench) -> None:
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
    assert delivering(world) == 0


def test_the_connection_of_a_job_that_another_process_ended_is_closed(world: Bench) -> None:
    other = neighbour(world)
    running = world.run()
    for _ in range(20):
        world.step(1)
    other.jobs.cancel(running.job.id)
    for _ in range(120):
        world.step(1)
    assert world.transport.sent[0].future.cancelled()
    assert (delivering(world), in_flight(world)) == (0, 0)


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
    assert (delivering(world), in_flight(world)) == (0, 0)


def test_the_connection_of_a_job_that_a_read_timed_out_is_closed(world: Bench) -> None:
    running = world.run(error_timeout=5)
    world.clock.advance(5)
    assert world.jobs.status(running.job.id).status is Status.FAILED
    world.step()
    assert world.transport.sent[0].future.cancelled()


def test_close_gives_up_the_leases_that_other_processes_can_use(world: Bench) -> None:
    world.transport.capacity = 0
    with served():
        user = world.start(as_current_user=True)
    anonymous = world.start()
    world.jobs.close()
    assert world.job(anonymous).lease_until is None
    assert world.job(user).lease_until is not None


# --- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["change", "get", "take_due", "find", "purge", "beat"])
@pytest.mark.parametrize("user", [False, True])
def test_an_outage_of_the_store_loses_no_job(world: Bench, method: str, user: bool) -> None:
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
    world.engine.worker.end(running, Outcome(200, "OK"))
    world.transport.sent[-1].answer()
    world.step()
    assert (delivering(world), in_flight(world)) == (0, 0)


@pytest.mark.parametrize("method", ["change", "get"])
def test_after_an_outage_during_the_answer_the_job_is_read_again(world: Bench, method: str) -> None:
    job_id = world.start()
    world.step()
    world.store.down = {method}
    world.transport.sent[0].answer(404, "Not Found")
    world.step(3)
    assert world.job(job_id).status is Status.STARTED
    world.store.down = set()
    world.step(1)
    assert world.job(job_id).status is Status.FAILED


def test_a_failing_transport_is_retried_and_stops_no_other_job(world: Bench) -> None:
    first, second = world.start(), world.start()
    world.transport.broken = RuntimeError("can't start new thread")
    world.step()
    world.transport.broken = None
    world.step(1)
    assert {sent.delivery.job_id for sent in world.transport.sent} == {first, second}


def test_an_outcome_may_arrive_during_send(world: Bench) -> None:
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


def test_the_outcome_of_an_unknown_attempt_changes_nothing(world: Bench) -> None:
    job_id = world.start()
    world.step()
    stray: Future[Any] = Future()
    stray.set_result(None)
    world.monitor._deliveries.conclude(job_id, stray)
    world.step()
    assert in_flight(world) == 1


def test_finished_jobs_leave_nothing_behind(world: Bench) -> None:
    def run(sent: Sent) -> None:
        running = world.receive(sent)
        world.jobs.finish(job_id=running.job.id)
        if not sent.future.done():
            sent.answer()

    world.transport.script = run
    for _ in range(100):
        world.start()
        world.step(0.01)
    assert (delivering(world), in_flight(world)) == (0, 0)
    world.step(20)
    monitor = world.monitor
    assert (monitor._deliveries._agenda, len(monitor._deliveries._ready), monitor._alarms) == ([], 0, [])


def test_a_new_version_of_the_job_does_not_stop_its_delivery(world: Bench) -> None:
    job_id = world.start(merge="pending")
    job = world.job(job_id)
    for _ in range(3):
        world.store.store.change(job_id, Expect(status=Status.STARTED), Changes(lessee=job.lessee, lease=30.0))
    world.step()
    world.step()
    assert len(world.transport.sent) == 1


# --- the end of the process -----------------------------------------------------------------------------------------


def unclaimed(world: Bench) -> bool:
    return world.monitor._deliveries.has_unclaimed()


def test_a_process_that_ends_waits_for_the_claim_of_what_is_due(world: Bench) -> None:
    assert not unclaimed(world)
    world.start()
    world.step()
    assert unclaimed(world)
    world.receive()
    assert not unclaimed(world)
    assert in_flight(world) == 1


def test_it_waits_neither_for_delayed_jobs_nor_for_those_that_have_ended_or_were_taken_over(world: Bench) -> None:
    world.start(delay=60)
    world.jobs.cancel(world.start())
    taken = world.start()
    world.step()
    world.store.store.change(taken, Expect(), Changes(lessee="another process", lease=30.0))
    assert not unclaimed(world)


def test_it_waits_while_the_store_is_unavailable(world: Bench) -> None:
    world.start()
    world.step()
    world.store.down = {"get"}
    assert unclaimed(world)


@pytest.mark.parametrize("state", ["waiting", "in flight", "failed once"])
def test_a_process_that_ends_leaves_its_unclaimed_jobs_to_others(world: Bench, state: str) -> None:
    job_id = world.start()
    if state != "waiting":
        world.step()
    if state == "failed once":
        world.transport.sent[-1].fail(NOT_SENT)
    world.monitor.close()
    assert world.job(job_id).lessee is None
    other = neighbour(world)
    other.step()
    assert [sent.delivery.job_id for sent in other.transport.sent] == [job_id]
    other.receive()


def test_a_process_that_ends_leaves_jobs_alone_that_another_took_over_or_only_it_can_deliver(world: Bench) -> None:
    running = world.run()
    world.monitor.close()
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    held = neighbour(world)
    job_id = held.start(headers={"Cookie": COOKIE})
    held.step()
    held.monitor.close()
    assert world.job(job_id).lessee == held.monitor.lessee


def test_an_error_of_the_store_while_jobs_of_a_dead_process_are_taken_over_keeps_and_ends_none() -> None:
    victim = bench(max_running=1)
    sent_before = victim.start()
    victim.step()
    victim.step(16)
    other = victim.start()
    assert victim.job(sent_before).deliver_by is not None
    assert victim.job(other).lessee is None
    victim.clock.advance(700)
    world = neighbour(victim)

    def fail() -> None:
        raise StoreUnavailable("locked")

    world.store.before["change"] = fail
    world.step()
    world.step(0.1)
    assert [sent.delivery.job_id for sent in world.transport.sent] == [other]
    for _ in range(60):
        world.step(1)
    assert [sent.delivery.job_id for sent in world.transport.sent] == [other, sent_before]
