"""Places: how many requests a process has in flight, busy processes, the slots of queues, and the backlog."""

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from backjob.delivery import deliveries
from backjob.errors import ConnectionLost, InvalidRequest, JobContinued, SlotTaken
from backjob.http.environ import threads_of
from backjob.lifecycle import BUSY, REFUSAL_HEADER
from backjob.model import Changes, Expect, Query, Status
from backjob.protocols import Capability
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import Refusal
from backjob.worker.running import Running
from tests.unit.core import NOT_SENT, Bench, Sent, bench, served

LIMITED: dict[str, Any] = {"queues": {"exports": {"max_running": 2}}}


@pytest.fixture
def world() -> Bench:
    return bench()


def neighbour(world: Bench, **options: Any) -> Bench:
    """Another process of the same application."""
    return bench(clock=world.clock, store=world.store.store, **options)


def waiting(world: Bench) -> list[Sent]:
    return [sent for sent in world.transport.sent if not sent.future.done()]


def finish(world: Bench, sent: Sent, running: Running) -> None:
    world.engine.worker.end(running, Outcome(200, "OK"))
    sent.answer()


# --- the number of requests in flight -------------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "figure"), [(None, 2), (1, 1), (2, 1), (4, 2), (9, 4), (float("inf"), 100)])
def test_by_default_half_the_threads_of_the_server_may_run_jobs(threads: float | None, figure: int) -> None:
    world = bench(max_running=None)
    world.engine.request_arrived(lambda: pytest.fail("the address is configured"), threads)
    assert world.engine.max_running() == figure
    for _ in range(150):
        world.start()
    world.step()
    assert len(world.transport.sent) == figure


def test_max_running_takes_precedence_over_what_the_server_shows() -> None:
    world = bench(max_running=5)
    world.engine.request_arrived(lambda: pytest.fail("the address is configured"), 2)
    assert world.engine.max_running() == 5


class Waitress:
    """As much of a channel as the environ leads to."""

    def __init__(self, threads: int) -> None:
        self.server = type("Server", (), {"adj": type("Adjustments", (), {"threads": threads})})

    def check_client_disconnected(self) -> bool:
        return False


def test_the_environ_shows_the_threads_of_waitress_and_of_servers_with_one() -> None:
    channel = Waitress(6)
    many: dict[str, Any] = {"wsgi.multithread": True}
    assert threads_of({**many, "waitress.client_disconnected": channel.check_client_disconnected}) == 6
    assert threads_of({"wsgi.multithread": False}) == 1
    assert threads_of(many) is None
    assert threads_of({**many, "uwsgi.version": b"2"}) is None  # this is no process of uwsgi


def test_the_first_lease_is_taken_only_with_room() -> None:
    world = bench(max_running=3)
    ids = [world.start() for _ in range(10)]
    assert [world.job(job_id).lessee is not None for job_id in ids] == [True] * 3 + [False] * 7
    world.step()
    assert len(world.transport.sent) == 3
    assert world.job(world.start()).lessee is None


def test_a_reserved_place_is_free_again_if_no_job_came() -> None:
    world = bench(max_running=1)
    first = world.start(merge="unfinished", delay=0)
    assert world.start(merge="unfinished") == first
    world.step()
    finish(world, world.transport.sent[0], world.receive())
    world.step(20)
    assert world.job(world.start()).lessee == world.monitor.lessee


@pytest.mark.parametrize("processes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_the_backlog_drains_at_the_pace_of_the_jobs(processes: int) -> None:
    """700 jobs of 0.1 s with three places in all take 700 / 3 rounds and a few more, to the end."""
    first = bench(max_running=3 // processes)
    worlds = [first] + [neighbour(first, max_running=3 // processes) for _ in range(processes - 1)]
    for world in worlds:
        world.monitor.note_request()
        world.step()
    for world, _ in zip(itertools.cycle(worlds), range(700), strict=False):
        world.start()
    rounds = 0
    while first.store.store.count(Query(status=Status.STARTED, limit=1)) and rounds < 700:
        rounds += 1
        runs = [(world, sent, world.receive(sent)) for world in worlds for sent in waiting(world)]
        first.clock.advance(0.1)
        for run in runs:
            finish(*run)
        for world in worlds:
            world.leases.tick()
            wait = 0.0
            while wait == 0.0:
                wait = world.monitor.step()
    assert rounds <= 700 / 3 / 0.95 + 25
    assert sum(len(world.transport.sent) for world in worlds) == 700


def test_jobs_without_room_are_not_polled_for_in_a_busy_loop() -> None:
    world = bench(max_running=1)
    for _ in range(10):
        world.start()
    world.step()
    world.receive()
    world.store.calls.clear()
    passes = 0
    until = world.clock.monotonic() + 60
    while world.clock.monotonic() < until:
        world.clock.advance(max(0.001, world.monitor.step()))
        world.leases.tick()
        passes += 1
    assert world.store.count("take_due") == 0
    assert passes < 150


def test_jobs_are_sent_in_the_order_of_their_start_time() -> None:
    world = bench(max_running=1)
    ids = []
    for _ in range(6):
        ids.append(world.start())
        world.clock.advance(0.001)
    for number in range(6):
        world.step()
        assert world.transport.sent[-1].delivery.job_id == ids[number]
        finish(world, world.transport.sent[-1], world.receive())


def test_slices_and_waiting_jobs_take_turns() -> None:
    world = bench(max_running=1)
    long = world.start()
    short = {world.start() for _ in range(3)}
    order = []
    for _ in range(12):
        world.step(0.2)
        sent = world.transport.sent[-1]
        running = world.receive(sent)
        order.append(running.job.id)
        if running.job.id == long:
            running.set_cursor(len(order))
            world.engine.worker.end(running, Outcome(error=JobContinued()))
            sent.answer(202)
        else:
            finish(world, sent, running)
    assert short < set(order[:8])
    assert order.count(long) == 9


# --- busy processes -------------------------------------------------------------------------------------------------


def refuse(sent: Sent) -> None:
    sent.answer(503, "Service Unavailable", ((REFUSAL_HEADER, BUSY),))


def test_a_busy_process_is_tried_again_soon_and_that_is_no_failure(
    world: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    job_id = world.start()
    world.step()
    before = world.job(job_id).version
    for _ in range(400):
        if waiting(world):
            refuse(waiting(world)[0])
        world.step(0.1)
    job = world.job(job_id)
    assert (job.status, job.delivery, job.deliver_by) == (Status.STARTED, 1, None)
    assert 25 <= len(world.transport.sent) <= 200
    assert job.version - before <= 3  # only its lease was renewed
    numbers = [sent.delivery.attempt for sent in world.transport.sent]
    assert len(set(numbers)) == len(numbers)
    assert not caplog.records
    assert world.jobs.status(job_id).waiting_for == "place"
    assert world.receive(waiting(world)[0] if waiting(world) else world.transport.sent[-1]).job.id == job_id


def test_a_job_that_is_sent_again_when_its_lease_is_to_be_renewed_keeps_it(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "refusal_pause", lambda _: 0.1)
    job_id = world.start()
    world.step()
    world.step(14.85)
    refuse(world.transport.sent[0])
    world.step()
    world.step(0.2)
    assert [sent.delivery.attempt for sent in world.transport.sent] == [1, 2]
    assert world.job(job_id).lessee == world.monitor.lessee


def test_a_busy_answer_clears_the_deadline(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.step(16)
    assert world.job(job_id).deliver_by is not None
    refuse(world.transport.sent[0])
    world.step()
    assert world.job(job_id).deliver_by is None
    for _ in range(700):
        if waiting(world):
            refuse(waiting(world)[0])
        world.step(1)
    assert world.job(job_id).status is Status.STARTED


def test_a_job_that_busy_processes_refuse_waits_for_a_place_and_no_longer_for_a_connection(world: Bench) -> None:
    job_id = world.start()
    world.step()
    world.transport.sent[0].fail(NOT_SENT)
    world.step()
    world.step(0.2)
    assert world.jobs.status(job_id).waiting_for == "connection"
    refuse(waiting(world)[0])
    world.step(0.001)
    world.clock.advance(1)
    assert world.jobs.status(job_id).waiting_for == "place"


def test_a_refused_job_keeps_its_place_until_it_is_sent_again() -> None:
    world = bench(max_running=1)
    first, second = world.start(), world.start()
    world.step()
    refuse(world.transport.sent[0])
    world.step()
    assert [sent.delivery.job_id for sent in world.transport.sent] == [first]
    world.step(0.05)
    assert [sent.delivery.job_id for sent in world.transport.sent] == [first, first]
    finish(world, world.transport.sent[1], world.receive())
    world.step()
    assert world.transport.sent[-1].delivery.job_id == second


# --- queues ---------------------------------------------------------------------------------------------------------


def slots(world: Bench) -> Counter[str | None]:
    return Counter(job.slot for job in world.store.store.find(Query(status=Status.IN_PROGRESS, limit=1000)))


def test_no_more_jobs_of_a_queue_run_than_its_limit_and_other_queues_are_not_held_up() -> None:
    first = bench(**LIMITED)
    worlds = [first] + [neighbour(first, **LIMITED) for _ in range(3)]
    for world in worlds:
        world.monitor.note_request()
        world.step()
    exports = {worlds[number % 4].start(queue="exports") for number in range(60)}
    others = {worlds[number % 4].start() for number in range(20)}
    done: list[str] = []
    for _ in range(600):
        runs = [(world, sent, world.receive(sent)) for world in worlds for sent in waiting(world)]
        ids = [run.job.id for _, _, run in runs]
        assert len(exports.intersection(ids)) <= 2
        assert set(slots(first)) <= {None, "exports/0", "exports/1"}
        first.clock.advance(0.1)
        for run in runs:
            finish(*run)
        done += ids
        for world in worlds:
            world.leases.tick()
            wait = 0.0
            while wait == 0.0:
                wait = world.monitor.step()
        if len(done) == 80:
            break
    assert sorted(done) == sorted(exports | others)
    assert others <= set(done[:40])


def test_a_slot_of_a_dead_process_is_free_again() -> None:
    world = bench(**LIMITED)
    victim = neighbour(world, **LIMITED)
    for _ in range(2):
        victim.run(queue="exports")
    world.start(queue="exports")
    world.step()
    assert world.transport.sent == []
    for _ in range(24):
        world.step(1)
    assert len(world.transport.sent) == 1
    assert slots(world) == {}


def test_a_failed_delivery_gives_its_slot_back() -> None:
    world = bench(queues={"exports": {"max_running": 1}})
    first, second = world.start(queue="exports"), world.start(queue="exports")
    world.step()
    assert world.job(first).slot == "exports/0"
    world.transport.sent[0].answer(503)
    world.step(0.05)
    assert (world.job(first).slot, world.job(second).slot) == (None, "exports/0")


@pytest.mark.parametrize("user", [False, True], ids=["anonymous", "as the current user"])
@pytest.mark.parametrize(
    "limits", [{"max_running": 1}, {"queues": {"exports": {"max_running": 1}}}], ids=["no place", "no slot"]
)
def test_waiting_for_a_place_never_ends_a_job_that_was_sent_before(*, limits: dict[str, Any], user: bool) -> None:
    world = bench(**limits)
    with served():
        job_id = world.jobs.start("/work", queue="exports", as_current_user=user)
    world.step()
    world.start("/long", queue="exports")
    world.step(16)
    assert world.job(job_id).deliver_by is not None
    world.transport.sent[0].fail(ConnectionLost("closed"))
    world.step(0.05)
    assert world.receive().job.path == "/long"
    for _ in range(400):
        world.step(2)
    state = world.jobs.status(job_id)
    assert (state.status, state.waiting_for) == (Status.STARTED, "place")
    assert len(world.transport.sent) == 2


@pytest.mark.parametrize("is_leaving", [False, True])
def test_a_late_request_runs_without_its_slot_in_no_case(is_leaving: bool) -> None:
    """It was queued in the server when its process ended, or when its proxy gave up, so another job has its slot."""
    queues: dict[str, Any] = {"queues": {"exports": {"max_running": 1}}}
    world = bench(**queues)
    other = neighbour(world, **queues)
    job_id = world.start(queue="exports")
    world.step()
    late = world.transport.sent[0].delivery.sign()
    if is_leaving:
        world.jobs.close()
    else:
        world.transport.sent[0].answer(504, "Gateway Timeout")
        world.step()
    second = other.start(queue="exports")
    other.step(2)
    opened = other.engine.worker.open(late)
    assert opened is not None
    with suppress(Refusal):
        other.engine.worker.claim(opened, b"")
    for sent in waiting(other):
        with suppress(Refusal):
            other.receive(sent)
    running = [one for one in (job_id, second) if world.job(one).token is not None]
    assert len(running) == 1
    assert world.job(running[0]).slot == "exports/0"


def test_a_request_without_a_slot_that_is_free_takes_it() -> None:
    world = bench(queues={"exports": {"max_running": 1}})
    job_id = world.start(queue="exports")
    world.step()
    late = world.transport.sent[0].delivery.sign()
    world.transport.sent[0].answer(504, "Gateway Timeout")
    world.step()
    opened = world.engine.worker.open(late)
    assert opened is not None
    world.engine.worker.claim(opened, b"")
    assert world.job(job_id).slot == "exports/0"


def test_a_long_queue_without_slots_costs_few_writes() -> None:
    world = bench(**LIMITED)
    for _ in range(300):
        world.start(queue="exports")
    world.step()
    running = world.receive()
    world.store.calls.clear()
    finish(world, world.transport.sent[-1], running)
    world.step()
    assert len(waiting(world)) == 2
    assert world.store.count("change") < 10


def test_a_retry_gives_its_slot_back() -> None:
    world = bench(queues={"exports": {"max_running": 1}})
    running = world.run(queue="exports", retries=1, retry_delay=100)
    second = world.start(queue="exports")
    world.step()
    assert world.job(second).slot is None
    world.engine.worker.end(running, Outcome(error=ZeroDivisionError("no")))
    world.step()
    assert (world.job(running.job.id).slot, world.job(second).slot) == (None, "exports/0")


@pytest.mark.parametrize("is_answered_first", [False, True])
def test_the_slices_of_a_job_let_the_next_job_of_its_queue_have_the_slot(is_answered_first: bool) -> None:
    world = bench(queues={"exports": {"max_running": 1}})
    long = world.start(queue="exports")
    world.step()
    running, first = world.receive(), world.transport.sent[-1]
    short = world.start(queue="exports")
    world.step(1)
    running.set_cursor(1)
    world.engine.worker.end(running, Outcome(error=JobContinued()))
    if not is_answered_first:
        world.step()
    if not first.future.done():
        first.answer(202)
    world.step()
    assert world.transport.sent[-1].delivery.job_id == short
    finish(world, world.transport.sent[-1], world.receive())
    world.step(3)
    assert world.transport.sent[-1].delivery.job_id == long


@pytest.mark.parametrize("user", [False, True], ids=["anonymous", "as the current user"])
@pytest.mark.parametrize("failures", [1, 3])
@pytest.mark.parametrize("seconds", [12, 20, 40])
def test_a_short_delivery_timeout_does_not_end_a_job_that_waits_for_a_place(
    *, seconds: int, failures: int, user: bool
) -> None:
    world = bench(max_running=1, delivery_timeout=10)
    with served():
        job_id = world.jobs.start("/work", as_current_user=user)
    for _ in range(failures):
        world.step(0.5)
        world.transport.sent[-1].fail(ConnectionLost("reset"))
        world.step()
    running = world.run()  # before the job is sent again
    sent = world.transport.sent[-1]
    assert running.job.id != job_id
    for _ in range(seconds):
        world.step(1)
    assert len(world.transport.sent) == failures + 1
    finish(world, sent, running)
    world.step()
    world.step(3)
    assert world.transport.sent[-1].delivery.job_id == job_id
    finish(world, world.transport.sent[-1], world.receive())
    assert world.job(job_id).status is Status.COMPLETED


@pytest.mark.parametrize("user", [False, True], ids=["anonymous", "as the current user"])
@pytest.mark.parametrize(
    "limits", [{"max_running": 1}, {"queues": {"exports": {"max_running": 1}}}], ids=["no place", "no slot"]
)
def test_a_job_whose_deliveries_all_fail_ends_even_if_it_waits_for_room_in_between(
    *, limits: dict[str, Any], user: bool
) -> None:
    world = bench(delivery_timeout=60, **limits)
    with served():
        job_id = world.jobs.start("/work", queue="exports", as_current_user=user)
    world.step()
    for _ in range(200):
        for sent in waiting(world):
            assert sent.delivery.job_id == job_id
            sent.fail(ConnectionLost("reset"))
        world.step()
        if world.job(job_id).status.is_final:
            break
        world.start("/long", queue="exports")
        world.step()
        [sent] = waiting(world)
        running = world.receive(sent)
        assert running.job.path == "/long"
        for _ in range(70):
            world.step(1)
        finish(world, sent, running)
        for _ in range(40):
            world.step(0.3)
            if waiting(world):
                break
    job = world.job(job_id)
    assert job.status is Status.FAILED
    assert (job.status_text or "").endswith("the last attempt: reset")
    attempts = sum(sent.delivery.job_id == job_id for sent in world.transport.sent)
    assert 10 <= attempts <= 16  # the pauses between them take 60 s in all


def test_a_job_with_held_credentials_waits_for_a_slot_with_its_process() -> None:
    world = bench(queues={"exports": {"max_running": 1}})
    other = neighbour(world, queues={"exports": {"max_running": 1}})
    running = other.run(queue="exports")
    job_id = world.start(queue="exports", headers={"Cookie": "session=1"})
    for _ in range(60):
        other.leases.tick()
        world.step(1)
        other.step()
    assert world.transport.sent == []
    assert world.job(job_id).lessee == world.monitor.lessee
    finish(other, other.transport.sent[0], running)
    for _ in range(3):
        world.step(1)
    assert [sent.delivery.job_id for sent in world.transport.sent] == [job_id]


def worked_off(world: Bench, jobs: int) -> list[str]:
    """The ids of the jobs in the order in which they ran, one at a time: the next one begins the moment one has ended."""
    order: list[str] = []
    while len(order) < jobs:
        world.step()
        [sent] = waiting(world)
        running = world.receive(sent)
        order.append(running.job.id)
        world.clock.advance(1)
        world.leases.tick()
        finish(world, sent, running)
    return order


@pytest.mark.parametrize("user", [[True] * 20, [False] * 20, [False, True, True, False] * 5])
def test_jobs_of_one_process_follow_each_other_at_once_and_in_order_whoever_they_run_as(user: list[bool]) -> None:
    world = bench(queues={"exports": {"max_running": 1}})
    started: list[str] = []
    with served():
        for number, as_current_user in enumerate(user):
            world.clock.advance(0.001)
            started.append(world.jobs.start("/work", {"n": number}, queue="exports", as_current_user=as_current_user))
    assert worked_off(world, len(user)) == started


def test_jobs_follow_each_other_at_once_if_another_process_runs_them() -> None:
    limits: dict[str, Any] = {"queues": {"exports": {"max_running": 1}}}
    world = bench(**limits)
    other = neighbour(world, **limits)
    with served():
        started = [world.jobs.start("/work", {"n": number}, queue="exports") for number in range(20)]
    order: list[str] = []
    for _ in started:
        world.step()
        [sent] = waiting(world)
        running = other.receive(sent)
        order.append(running.job.id)
        for one in (world, other):
            one.step(0.05)
        finish(other, sent, running)
    assert order == started


def test_a_cancelled_job_that_waited_for_a_slot_holds_up_no_other() -> None:
    world = bench(queues={"exports": {"max_running": 1}})
    with served():
        jobs = [world.jobs.start("/work", {"n": number}, queue="exports") for number in range(3)]
    world.step()
    running, sent = world.receive(), world.transport.sent[0]
    world.step(3)
    world.jobs.cancel(jobs[1])
    finish(world, sent, running)
    world.step()
    world.step()
    assert [sent.delivery.job_id for sent in world.transport.sent] == [jobs[0], jobs[2]]


def test_jobs_that_wait_in_one_process_take_all_slots_that_another_one_has_freed() -> None:
    limits: dict[str, Any] = {"queues": {"exports": {"max_running": 4}}}
    world = bench(**limits)
    other = neighbour(world, **limits)
    runs = [(other.run(queue="exports"), other.transport.sent[-1]) for _ in range(4)]
    with served():
        jobs = [world.jobs.start("/work", {"n": number}, queue="exports") for number in range(6)]
    world.step()
    for running, sent in runs:
        finish(other, sent, running)
    world.step(2.5)
    assert [sent.delivery.job_id for sent in world.transport.sent] == jobs[:4]
    world.store.calls.clear()
    world.step(0.1)
    assert world.store.calls == []


@pytest.mark.parametrize("user", [False, True], ids=["anonymous", "as the current user"])
def test_a_job_that_waits_for_a_slot_is_tried_more_and_more_rarely(*, user: bool) -> None:
    limits: dict[str, Any] = {"queues": {"exports": {"max_running": 1}}}
    world = bench(**limits)
    other = neighbour(world, **limits)
    other.run(queue="exports")
    with served():
        world.jobs.start("/work", queue="exports", as_current_user=user)
    world.step()
    world.store.calls.clear()
    until = world.clock.monotonic() + 60
    while world.clock.monotonic() < until:
        world.clock.advance(max(world.step(), 0.001))
        for one in (world, other):
            one.leases.renew_if_due()
    assert world.store.count("change") <= 2.5 * 30  # two for a try of a job that any process may deliver
    assert world.store.count("take_due") <= 2.5 * 30


@pytest.mark.parametrize("user", [False, True], ids=["anonymous", "as the current user"])
def test_each_queue_without_a_free_slot_is_tried_at_its_own_time(*, user: bool) -> None:
    limits: dict[str, Any] = {"queues": {"exports": {"max_running": 1}, "reports": {"max_running": 1}}}
    world = bench(**limits)
    other = neighbour(world, **limits)
    runs = {queue: (other.run(queue=queue), other.transport.sent[-1]) for queue in ("exports", "reports")}
    with served():
        first = world.jobs.start("/work", queue="exports", as_current_user=user)
        world.step()
        world.clock.advance(0.1)
        second = world.jobs.start("/work", queue="reports", as_current_user=user)
        world.step()
    running, sent = runs["exports"]
    finish(other, sent, running)
    world.step(0.1)
    assert [sent.delivery.job_id for sent in world.transport.sent] == [first]
    running, sent = runs["reports"]
    finish(other, sent, running)
    until = world.clock.monotonic() + 0.5
    while world.clock.monotonic() < until:  # as often as the monitor's thread itself
        world.clock.advance(max(world.step(), 0.001))
    assert [sent.delivery.job_id for sent in world.transport.sent] == [first, second]


def test_a_job_that_waited_for_a_slot_and_was_claimed_late_holds_up_no_other() -> None:
    limits: dict[str, Any] = {"queues": {"exports": {"max_running": 1}}}
    world = bench(**limits)
    other = neighbour(world, **limits)
    with served():
        jobs = [world.jobs.start("/work", {"n": number}, queue="exports") for number in range(2)]
    world.step()
    late = world.transport.sent[0]
    late.fail(ConnectionLost("reset"))
    world.step()
    world.step(0.2)  # the first job finds no slot: the second one has it
    finish(world, world.transport.sent[1], world.receive())
    running = other.receive(late)  # its first request was only slow, and comes before this process tries it again
    world.step()
    with served():
        jobs.append(world.jobs.start("/work", {"n": 2}, queue="exports"))
    world.step(3)
    other.engine.worker.end(running, Outcome(200, "OK"))
    world.step(3)
    world.step(3)
    assert [sent.delivery.job_id for sent in world.transport.sent] == jobs
    assert world.job(jobs[0]).status is Status.COMPLETED


@pytest.mark.parametrize(
    "queues",
    [
        {"exports": {"max_running": 0}},
        {"exports": {"max_running": True}},
        {"exports": {"max_running": "2"}},
        {"exports": {"maximum": 2}},
        {"exports": 2},
        {"": {"max_running": 2}},
        {5: {"max_running": 2}},
        {"x" * 101: {"max_running": 2}},
        ["exports"],
    ],
)
def test_invalid_queues_are_refused(queues: Any) -> None:
    with pytest.raises(InvalidRequest, match="queues: "):
        bench(queues=queues)


class WithoutSlots(MemoryStore):
    lacks = frozenset({Capability.SHARED, Capability.SLOTS})  # type: ignore[misc]


def test_a_store_without_slots_refuses_limits_and_takes_queues() -> None:
    store = WithoutSlots(clock=FakeClock())
    with pytest.raises(InvalidRequest, match="no slots"):
        bench(store=store, **LIMITED)
    world = bench(store=store, queues={"exports": {}})
    assert world.job(world.start(queue="exports")).queue == "exports"


def test_the_store_keeps_slots_apart_whatever_the_monitors_do(world: Bench) -> None:
    first, second = world.start(), world.start()
    assert world.store.store.change(first, Expect(), Changes(slot="exports/0")) is not None
    with pytest.raises(SlotTaken):
        world.store.store.change(second, Expect(), Changes(slot="exports/0"))


def test_a_full_queue_with_many_slots_costs_few_writes() -> None:
    """Each try of a slot that is taken is a write, for which the jobs of all other queues wait."""
    limit = 60
    options: dict[str, Any] = {"queues": {"mails": {"max_running": limit}}, "max_running": 1000}
    world = bench(**options)
    for _ in range(limit + 1):
        world.start(queue="mails")
    running: list[Running] = []
    while len(running) < limit:
        world.step(0.01)
        running += [world.receive(sent) for sent in world.transport.sent[len(running) :]]
    other = bench(clock=world.clock, store=world.store.store, **options)
    other.step(2)
    assert other.store.count("change") <= 10
    world.engine.worker.end(running[0], Outcome(200))
    other.step(2)
    assert len(other.transport.sent) == 1
