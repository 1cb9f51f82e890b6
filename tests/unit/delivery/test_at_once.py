"""What is done at once, in the thread that starts a job or that gets its answer, without a pass of the monitor."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from attrs import evolve
from typing_extensions import override

from backjob.delivery.deliveries import _AHEAD, Deliveries
from backjob.delivery.monitor import Monitor
from backjob.delivery.sending import Sending
from backjob.errors import StoreUnavailable
from backjob.http.marks import END_HEADER, MARK_HEADER, MARK_LABEL, end_mark, mark, marked_port, marks_end
from backjob.model import Changes, Expect, Headers, Job, Response, Status
from backjob.process import RETRY_PAUSE, PerProcess
from backjob.stores.memory import MemoryStore
from backjob.worker.outcomes import Outcome
from backjob.worker.running import Running
from tests.unit.core import COOKIE, Bench, FakeTransport, ManualMonitor, Sent, bench, served
from tests.unit.delivery.test_proof import prove
from tests.unit.interrupting import Interrupter


class RunningMonitor(ManualMonitor):
    """A monitor that says that its thread runs, whose passes the test makes."""

    @property
    @override
    def is_running(self) -> bool:
        return not self.is_closed


def running_bench(**options: Any) -> Bench:
    world = bench(**options)
    engine = world.engine
    engine.monitors = PerProcess(lambda: RunningMonitor(engine.delivery_parts))
    world.step()
    was_woken(world)
    return world


def was_woken(world: Bench) -> bool:
    """Whether the monitor was woken since the last call."""
    woken = world.monitor._passes._woken
    is_set = woken.is_set()
    woken.clear()
    return is_set


def end(world: Bench, sent: Sent, running: Running, headers: Headers | None = None) -> None:
    world.engine.worker.end(running, Outcome(200, "OK"))
    sent.answer(headers=running.headers if headers is None else headers)


def carried(world: Bench) -> list[str]:
    return [*world.monitor._deliveries._by_id]


@pytest.fixture
def world() -> Bench:
    return running_bench()


# --- start() sends ----------------------------------------------------------------------------------------------------


def test_start_sends_in_its_own_thread_and_wakes_nothing(world: Bench) -> None:
    world.store.calls.clear()
    job_id = world.start()
    assert [sent.delivery.job_id for sent in world.transport.sent] == [job_id]
    assert world.store.calls == ["create"]
    assert not was_woken(world)


def test_a_job_that_was_sent_at_once_has_its_lease_renewed(world: Bench) -> None:
    job_id = world.start()
    world.step(14)
    before = world.job(job_id).lease_until
    world.step(2)
    after = world.job(job_id).lease_until
    assert before is not None
    assert after is not None
    assert after > before
    assert len(world.transport.sent) == 1


@pytest.mark.parametrize(
    "options", [{"delay": 5}, {"merge": "pending"}], ids=["not due", "its merge key is freed before it is sent"]
)
def test_a_job_that_needs_more_is_left_to_the_monitor(world: Bench, options: dict[str, Any]) -> None:
    world.start(**options)
    assert not world.transport.sent
    assert was_woken(world)
    world.step(options.get("delay", 0))
    assert len(world.transport.sent) == 1


def test_a_start_during_a_pass_of_the_monitor_is_left_to_it(world: Bench) -> None:
    with world.monitor._deliveries.turn:
        world.start()
        assert not world.transport.sent
    assert was_woken(world)
    world.step()
    assert len(world.transport.sent) == 1


def test_a_draining_process_sends_nothing_at_once(world: Bench) -> None:
    world.engine.draining.is_on = True
    job_id = world.start()
    world.step()
    assert not world.transport.sent
    assert world.job(job_id).lessee is None


def test_an_outcome_within_send_is_concluded_by_the_monitor(world: Bench) -> None:
    world.transport.script = lambda sent: end(world, sent, world.receive(sent))
    job_id = world.start()
    assert world.job(job_id).status is Status.COMPLETED
    assert was_woken(world)
    world.step()
    assert carried(world) == []
    assert not world.monitor._deliveries.places.in_flight


def test_a_place_that_was_reserved_for_a_job_is_counted_once() -> None:
    world = running_bench(max_running=3)
    for _ in range(3):
        world.start()
    assert len(world.transport.sent) == 3
    assert not world.monitor._deliveries.places._reserved
    assert world.job(world.start()).lessee is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("held", [False, True], ids=["anonymous", "held"])
def test_a_job_whose_start_was_interrupted_while_it_was_sent_is_sent_later(
    world: Bench, error: type[BaseException], held: bool
) -> None:
    def interrupt(_sent: Sent) -> None:
        world.transport.script = None
        raise error

    world.transport.script = interrupt
    with served(), nullcontext() if issubclass(error, Exception) else pytest.raises(error):
        world.start(as_current_user=held)
    assert was_woken(world)
    world.step(RETRY_PAUSE)
    assert len(world.transport.sent) == 2
    request = world.transport.sent[-1].delivery.sign()
    assert request.header("cookie") == (COOKIE if held else None)


@pytest.mark.parametrize("function", [Deliveries._keep, Sending._send_without_store])
def test_an_interrupt_at_any_moment_of_sending_loses_no_job_and_no_place(function: Callable[..., Any]) -> None:
    number = 0
    for number in itertools.count():
        world = running_bench(max_running=1)
        interrupter = Interrupter(function, number, _interrupt)
        sys.settrace(interrupter)
        try:
            with suppress(KeyboardInterrupt):
                world.start()
        finally:
            sys.settrace(None)
        if not interrupter.has_acted:
            break
        assert ended_without_time(world) == 1, f"before instruction {number}"
        places = world.monitor._deliveries.places
        assert (carried(world), [*places.in_flight], [*places._reserved]) == ([], [], [])
    assert number > 10


def _interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_the_turn_is_free_after_an_interrupted_start(world: Bench, error: type[BaseException]) -> None:
    def interrupt(_sent: Sent) -> None:
        raise error

    world.transport.script = interrupt
    with pytest.raises(KeyboardInterrupt) if error is KeyboardInterrupt else nullcontext():
        world.start()
    assert world.monitor._deliveries.turn.acquire(blocking=False)


def test_a_transport_whose_capacity_fails_does_not_fail_start(monkeypatch: pytest.MonkeyPatch) -> None:
    world = running_bench()
    with served():
        monkeypatch.setattr(FakeTransport, "capacity", property(_broken), raising=False)
        world.start(as_current_user=True)
        monkeypatch.setattr(FakeTransport, "capacity", None, raising=False)
    world.step(RETRY_PAUSE)
    assert len(world.transport.sent) == 1


def _broken(_transport: FakeTransport) -> int:
    raise RuntimeError("a bug in a transport")


def test_a_row_that_was_changed_before_a_lost_answer_is_read_again_is_not_sent(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = MemoryStore.get

    def changed(store: MemoryStore, job_id: str, *, body: bool = False) -> Job | None:
        job = get(store, job_id, body=body)
        assert job is not None
        assert job.request is not None
        return evolve(job, request=evolve(job.request, target="/transfer?to=eve"))

    world.store.lost.add("create")
    monkeypatch.setattr(MemoryStore, "get", changed)
    with served(), pytest.raises(StoreUnavailable):
        world.start(as_current_user=True)
    world.step()
    assert not world.transport.sent


def test_a_job_whose_write_has_lost_its_answer_is_sent_at_once(world: Bench) -> None:
    world.store.lost.add("create")
    with served():
        world.start(as_current_user=True)
    assert len(world.transport.sent) == 1


def test_nothing_is_sent_at_once_to_an_address_that_has_not_proven_itself() -> None:
    world = running_bench(transport=FakeTransport(in_process=False))
    world.start()
    assert not world.transport.sent
    world.step()
    prove(world)
    world.start()
    assert [sent.delivery.attempt for sent in world.transport.sent] == [0, 1, 1]
    world.clock.advance(61)
    world.start()
    assert len(world.transport.sent) == 3


def test_a_job_that_is_sent_at_once_ends_the_rest_of_the_monitor(world: Bench) -> None:
    pause = world.step()
    while pause < 10:
        pause = world.step(pause)
    was_woken(world)
    world.start()
    assert len(world.transport.sent) == 1
    assert was_woken(world)
    assert world.step() <= 2


# --- the end mark -----------------------------------------------------------------------------------------------------


def test_an_end_mark_saves_the_read_and_the_wake(world: Bench) -> None:
    world.start()
    sent = world.transport.sent[0]
    running = world.receive(sent)
    world.engine.worker.end(running, Outcome(200, "OK"))
    world.store.calls.clear()
    was_woken(world)
    sent.answer(headers=running.headers)
    assert world.store.calls == []
    assert not was_woken(world)
    assert carried(world) == []
    assert not world.monitor._deliveries.places.in_flight


def test_a_run_that_is_followed_by_another_one_has_no_end_mark(world: Bench) -> None:
    world.start(retries=1, retry_delay=0)
    sent = world.transport.sent[0]
    running = world.receive(sent)
    world.engine.worker.end(running, Outcome(500, "Internal Server Error"))
    assert END_HEADER not in dict(running.headers)
    sent.answer(500, headers=running.headers)
    assert was_woken(world)
    world.step(RETRY_PAUSE)
    assert len(world.transport.sent) == 2


@pytest.mark.parametrize(
    "forge",
    [
        lambda key, job_id: end_mark(key, job_id, 1, 2),
        lambda key, job_id: end_mark(key, job_id, 2, 1),
        lambda key, _job_id: end_mark(key, "another", 1, 1),
        lambda key, job_id: end_mark(key + b"x", job_id, 1, 1),
        lambda _key, _job_id: ((END_HEADER, ""),),
        lambda _key, _job_id: ((END_HEADER, "\udcff\u20ac"),),
    ],
    ids=["another delivery", "another run", "another job", "another key", "empty", "not ASCII"],
)
def test_an_end_mark_for_something_else_counts_for_nothing(
    world: Bench, forge: Callable[[bytes, str], Headers]
) -> None:
    job_id = world.start()
    key = world.engine.signer.derive(MARK_LABEL)[0]
    world.receive()
    world.transport.sent[0].answer(headers=forge(key, job_id))
    assert carried(world) == [job_id]
    assert was_woken(world)


def test_the_mark_of_a_port_is_no_end_mark_and_the_other_way_round(world: Bench) -> None:
    key = world.engine.signer.derive(MARK_LABEL)[0]
    for port in (None, 0, 8000):
        ((_, value),) = mark(key, "job", 1, 1, port)
        for given in (value, value.split()[1]):
            response = Response(200, "OK", ((END_HEADER, given),), b"")
            assert not marks_end(response, [key], "job", 1, 1)
    ((_, mac),) = end_mark(key, "job", 1, 1)
    for given in (mac, f"- {mac}", f"8000 {mac}"):
        assert marked_port(Response(200, "OK", ((MARK_HEADER, given),), b""), [key], "job", 1, 1) is None


def test_an_end_mark_from_another_port_is_not_enough() -> None:
    """Something that relays requests has answered: whether the job has ended is read, and the proof is over."""
    world = running_bench(transport=FakeTransport(in_process=False))
    job_id = world.start()
    world.step()
    prove(world)
    sent = world.transport.sent[-1]
    running = world.receive(sent)
    world.engine.worker.end(running, Outcome(200, "OK"))
    was_woken(world)
    sent.answer(headers=running.end_mark)
    assert carried(world) == [job_id]
    assert was_woken(world)
    world.step()
    assert carried(world) == []
    world.start()
    assert world.transport.sent[-1] is sent


# --- jobs that are ready ----------------------------------------------------------------------------------------------


def full_bench(places: int = 1, waiting: int = 1, **options: Any) -> tuple[Bench, list[str]]:
    """Return a process all of whose places are taken, with jobs that wait in the store."""
    world = running_bench(max_running=places, **options)
    ids = [world.start() for _ in range(places + waiting)]
    was_woken(world)
    return world, ids


def test_a_start_in_a_full_process_does_not_wake_the_monitor() -> None:
    world, _ = full_bench(waiting=0)
    world.start()
    assert not was_woken(world)
    sent = world.transport.sent[0]
    end(world, sent, world.receive(sent))
    assert was_woken(world)
    world.step()
    assert len(world.transport.sent) == 2


def test_a_start_is_not_forgotten_if_a_place_becomes_free_while_it_is_written() -> None:
    world, _ = full_bench(waiting=0)
    sent = world.transport.sent[0]
    running = world.receive(sent)
    world.store.before["create"] = lambda: end(world, sent, running)
    world.start()
    assert was_woken(world)
    world.step()
    assert len(world.transport.sent) == 2


def test_a_start_is_not_forgotten_if_a_poll_has_read_the_store_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    world, _ = full_bench(waiting=1)
    take_due = MemoryStore.take_due

    def taken(*arguments: Any, **options: Any) -> Any:
        jobs = take_due(*arguments, **options)
        monkeypatch.undo()
        for _ in range(3):
            world.start()  # in another thread, once the read is done
        return jobs

    monkeypatch.setattr(MemoryStore, "take_due", taken)
    assert ended_without_time(world) == 5


def test_a_start_is_not_forgotten_at_any_moment_of_a_pass_that_does_not_poll() -> None:
    """A job starts before each instruction in turn, while the only place is reserved for another one, which does not come."""
    number = 0
    for number in itertools.count():
        world = running_bench(max_running=1)
        assert world.monitor._deliveries.reserve("default")
        world.monitor._deliveries._wake()
        interrupter = Interrupter(Monitor._is_time_to_poll, number, world.start)
        count = ended_without_time(world, interrupter)
        if not interrupter.has_acted:
            break
        assert count == 1, f"before instruction {number}"
    assert number > 10


def ended_without_time(world: Bench, interrupter: Interrupter | None = None) -> int:
    """Run all jobs; the monitor makes a pass only if it is woken, and no time passes. Returns how many have ended."""
    is_going_on = True
    while is_going_on:
        is_going_on = False
        for sent in [sent for sent in world.transport.sent if not sent.future.done()]:
            is_going_on = True
            end(world, sent, world.receive(sent))
        if was_woken(world):
            is_going_on = True
            with world.monitor._deliveries.turn:
                sys.settrace(interrupter)
                try:
                    while world.monitor.step() == 0.0:
                        pass
                finally:
                    sys.settrace(None)
    return sum(sent.future.done() and not sent.future.cancelled() for sent in world.transport.sent)


def test_jobs_taken_ahead_are_sent_by_the_thread_that_gets_an_answer() -> None:
    world = busy_bench()
    ready = len(world.monitor._deliveries._ready)
    assert ready > 0
    world.store.calls.clear()
    was_woken(world)
    count = len(world.transport.sent)
    sent = next(sent for sent in world.transport.sent if not sent.future.done())
    running = world.receive(sent)
    world.engine.worker.end(running, Outcome(200, "OK"))
    world.store.calls.clear()
    sent.answer(headers=running.headers)
    assert len(world.transport.sent) == count + 1
    assert world.store.calls == []
    assert was_woken(world) == (ready == 1)


def busy_bench(**options: Any) -> Bench:
    """Return a process with two places whose jobs end so fast that it takes some ahead."""
    world = running_bench(max_running=2, **options)
    for _ in range(40):
        world.start()
    for _ in range(4):
        for sent in [sent for sent in world.transport.sent if not sent.future.done()]:
            end(world, sent, world.receive(sent))
        world.step(0.001)
    return world


def test_jobs_taken_ahead_are_given_back_if_no_place_becomes_free() -> None:
    world = busy_bench()
    ahead = [*world.monitor._deliveries._ready]
    assert ahead
    world.step(_AHEAD + 0.001)
    assert [world.job(job_id).lessee for job_id in ahead] == [None] * len(ahead)
    assert len(carried(world)) == 2
    for sent in [sent for sent in world.transport.sent if not sent.future.done()]:
        end(world, sent, world.receive(sent))
    world.step()
    assert len([sent for sent in world.transport.sent if not sent.future.done()]) == 2


def test_a_job_taken_ahead_that_another_process_has_moved_is_not_left_leased() -> None:
    world = busy_bench()
    job_id = world.monitor._deliveries._ready[0]
    assert world.store.store.change(job_id, Expect(unclaimed=True), Changes(due=0.0)) is not None
    world.step(_AHEAD + 0.001)
    world.step(2 * RETRY_PAUSE)
    job = world.job(job_id)
    assert job.lessee is None or job_id in carried(world)


def test_an_error_on_the_way_to_the_next_job_does_not_lose_that_job(monkeypatch: pytest.MonkeyPatch) -> None:
    world = busy_bench()
    job_id = world.monitor._deliveries._ready[0]

    def fail(*_arguments: Any, **_options: Any) -> bool:
        monkeypatch.undo()
        raise RuntimeError("a bug, or no memory")

    monkeypatch.setattr(Sending, "_credentials", fail)
    sent = next(sent for sent in world.transport.sent if not sent.future.done())
    end(world, sent, world.receive(sent))
    assert was_woken(world)
    world.step(RETRY_PAUSE)
    assert job_id in [sent.delivery.job_id for sent in world.transport.sent]


def test_once_its_leases_are_given_back_a_process_sends_no_job_that_was_ready() -> None:
    world = busy_bench()
    sent = next(sent for sent in world.transport.sent if not sent.future.done())
    running = world.receive(sent)
    count = len(world.transport.sent)
    world.monitor.close()
    end(world, sent, running)
    assert len(world.transport.sent) == count
