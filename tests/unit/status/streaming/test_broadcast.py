"""The broadcast: how many streams may be open, how often jobs are read, and when its thread runs."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from backjob.errors import JobExit, JobNotFound, StoreUnavailable
from backjob.jobs import BackJob, engine_of
from backjob.lifecycle import claimed, completed, ended
from backjob.model import Draft, Expect, Report, Request
from backjob.signing import MessageSigner
from backjob.signing.tokens import new_job_id
from backjob.status.streaming.broadcast import Broadcast
from backjob.status.streaming.stream import Stream
from backjob.stores.memory import MemoryStore
from backjob.worker.running import Running
from tests.event_source import EventSource
from tests.unit.core import KEY, Bench, FakeTransport, bench

PATIENCE: Final = 60.0


@pytest.fixture
def world() -> Bench:
    return bench(streams=1000)


@pytest.fixture
def live() -> Iterator[BackJob]:
    """A `BackJob` with its threads and the real clock."""
    with BackJob(MemoryStore(), FakeTransport(), MessageSigner(KEY), streams=100) as jobs:
        yield jobs


def opened(jobs: BackJob, job_id: str, offset: int = 0) -> Stream:
    stream = engine_of(jobs).broadcast.open(job_id, offset, output=True, in_thread=True)
    assert stream is not None
    return stream


def running_job_in(jobs: BackJob) -> tuple[str, str]:
    """A running job's id, and the token that its writes need."""
    job = engine_of(jobs).store.create(Draft(id=new_job_id(), request=Request("GET", "/work")))
    assert jobs.store.change(job.id, *claimed("token", 1, 86_400.0)) is not None
    return job.id, "token"


@pytest.fixture
def broadcast_threads() -> Callable[[], int]:
    """How many threads of broadcasts there are, without those that earlier tests have left and that may end meanwhile."""
    before = set(threading.enumerate())
    return lambda: sum(thread.name == "backjob-streams" for thread in set(threading.enumerate()) - before)


def record_wakes(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The streams that are woken from now on, once for each time."""
    woken: list[Stream] = []
    monkeypatch.setattr(Stream, "wake", lambda stream: woken.append(stream))  # noqa: PLW0108 - a method
    return woken


def wait_until(is_true: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- the limit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "in_thread", "limit"),
    [(None, True, 0), (None, False, 1000), (7, True, 7), (7, False, 7), (0, False, 0)],
)
def test_by_default_streams_are_served_only_in_event_loops(streams: int | None, in_thread: bool, limit: int) -> None:
    assert bench(streams=streams).engine.broadcast.limit(in_thread=in_thread) == limit


def test_a_closed_an_ended_and_a_collected_stream_all_free_their_place() -> None:
    world = bench(streams=1)
    job_id = world.run().job.id
    stream = opened(world.jobs, job_id)
    assert world.engine.broadcast.open(job_id, 0, output=True, in_thread=True) is None
    stream.close()
    stream.close()
    opened(world.jobs, job_id)  # no reference is kept
    stream = opened(world.jobs, job_id)
    stream.end()
    assert list(stream) == []
    assert world.engine.broadcast.count == 0


def test_a_job_with_many_streams_makes_room_for_jobs_with_fewer() -> None:
    world = bench(streams=10)
    greedy, *others = [world.run().job.id for _ in range(6)]
    taken = [opened(world.jobs, greedy) for _ in range(10)]

    def open_another(job_id: str) -> Stream | None:
        return world.engine.broadcast.open(job_id, 0, output=True, in_thread=True)

    assert open_another(greedy) is None
    streams = [open_another(job_id) for job_id in others]
    assert [stream is not None and not stream.is_over for stream in streams] == [True] * 5
    assert [stream.is_over for stream in taken] == [True] * 5 + [False] * 5
    assert world.engine.broadcast.count == 10
    # The streams that ended reconnect, and get no place of another job.
    assert open_another(greedy) is None
    assert world.engine.broadcast.count == 10
    # Each job gets its share.
    assert open_another(others[0]) is not None
    assert [stream.is_over for stream in taken].count(False) == 4


def test_jobs_with_as_many_streams_do_not_displace_each_other() -> None:
    world = bench(streams=2)
    kept = [opened(world.jobs, world.run().job.id) for _ in range(2)]
    assert world.engine.broadcast.open(world.run().job.id, 0, output=True, in_thread=True) is None
    assert not any(stream.is_over for stream in kept)


def test_a_displaced_stream_ends_and_closing_it_frees_no_second_place() -> None:
    world = bench(streams=2)
    oldest, _kept = (opened(world.jobs, job_id) for job_id in [world.run().job.id] * 2)
    other = opened(world.jobs, world.run().job.id)
    assert list(oldest) == []
    assert world.engine.broadcast.count == 2
    other.close()
    assert world.engine.broadcast.count == 1


# --- reads of the store -----------------------------------------------------------------------------------------------


def test_a_hundred_streams_of_a_job_cost_as_many_reads_as_one(world: Bench) -> None:
    costs = []
    for count in (1, 100):
        running = world.run()
        streams = [opened(world.jobs, running.job.id, 0) for _ in range(count)]
        world.store.calls.clear()
        for progress in range(20):
            report(world, running, progress, "line\n")
            world.clock.advance(1)
            world.engine.leases.tick()
            world.engine.broadcast.step()
            for stream in streams:
                while stream.take() is not None:
                    pass
        costs.append(world.store.count("get", "output"))
        for stream in streams:
            stream.close()
    assert costs[0] == costs[1] <= 20 * 3


def test_a_quiet_job_is_polled_less_often(world: Bench) -> None:
    running = world.run()
    kept = opened(world.jobs, running.job.id)
    assert polls_in(world, 10) < 15
    report(world, running, 1)
    polls_in(world, 1)
    assert polls_in(world, 1) > 1
    kept.close()


def test_polls_are_bounded_however_many_jobs_are_watched_and_each_job_gets_its_turn(world: Bench) -> None:
    jobs = [world.start() for _ in range(500)]
    streams = [opened(world.jobs, job_id) for job_id in jobs]
    world.store.calls.clear()
    polls = polls_in(world, 10)
    assert 900 <= polls <= 1000 + 25
    assert all(stream.feed.snapshot is not None for stream in streams)


def test_an_ended_job_is_not_polled(world: Bench) -> None:
    running = world.run()
    stream = opened(world.jobs, running.job.id)
    world.jobs.cancel(running.job.id)
    assert polls_in(world, 10) == 1
    stream.close()


def test_jobs_that_do_not_exist_take_no_polls_from_the_others(world: Bench) -> None:
    gone = [opened(world.jobs, new_job_id()) for _ in range(10)]
    assert polls_in(world, 5) == len(gone)
    healthy = opened(world.jobs, world.run().job.id)
    assert 0 < polls_in(world, 10) < 15
    assert healthy.feed.snapshot is not None
    assert all(stream.is_over for stream in gone)


def test_a_stream_opened_after_its_job_was_not_found_ends_too(world: Bench) -> None:
    job_id = new_job_id()
    early = opened(world.jobs, job_id)
    polls_in(world, 5)
    late = opened(world.jobs, job_id)
    polls_in(world, 1)
    assert (early.is_over, late.is_over) == (True, True)


def polls_in(world: Bench, seconds: float) -> int:
    """Return how often the store is read for jobs in this time."""
    before, until = world.store.count("get"), world.clock.monotonic() + seconds
    while world.clock.monotonic() < until:
        world.clock.advance(world.engine.broadcast.step())
    return world.store.count("get") - before


def report(world: Bench, running: Running, progress: int, text: str = "") -> None:
    assert world.store.report(running.job.id, str(running.job.token), Report(progress=progress, output=text))


# --- which streams are woken --------------------------------------------------------------------------------------------


def test_a_stream_opened_during_a_poll_is_woken(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, late = world.run().job.id, list[Stream]()
    early = opened(world.jobs, job_id)
    next(early)
    woken = record_wakes(monkeypatch)

    def open_another() -> None:
        late.append(opened(world.jobs, job_id))
        next(late[0])

    world.store.before["get"] = open_another
    world.engine.broadcast.step()
    assert {*woken} == {early, *late}
    assert len(late) == 1


def test_a_stream_opened_while_its_job_is_not_found_ends(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, late = new_job_id(), list[Stream]()
    early = opened(world.jobs, job_id)
    woken = record_wakes(monkeypatch)

    def open_another() -> None:
        late.append(opened(world.jobs, job_id))
        next(late[0])
        raise JobNotFound(job_id)

    world.store.before["get"] = open_another
    world.engine.broadcast.step()
    assert [stream.is_over for stream in (early, *late)] == [True, True]
    assert woken == late


def test_a_stream_that_has_not_begun_is_not_woken(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It might just begin in an event loop, and only that loop may set its event."""
    stream = opened(world.jobs, world.run().job.id)
    woken = record_wakes(monkeypatch)
    world.engine.broadcast.step()
    assert stream.feed.snapshot is not None
    assert woken == []


# --- failures -------------------------------------------------------------------------------------------------------


def test_a_failing_job_does_not_stop_the_others(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = world.run(), world.run()
    streams = [opened(world.jobs, running.job.id) for running in (bad, good)]
    world.store.before["get"] = fail
    world.engine.broadcast.step()
    assert [stream.feed.snapshot is not None for stream in streams] == [False, True]
    assert f"the event stream of job {bad.job.id} failed" in caplog.text
    world.clock.advance(1)
    world.engine.broadcast.step()
    assert streams[0].feed.snapshot is not None


def fail() -> None:
    raise ZeroDivisionError


def test_an_outage_of_the_store_is_logged_once(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    streams = [opened(world.jobs, world.run().job.id) for _ in range(3)]
    world.store.down.add("get")
    polls_in(world, 10)
    assert caplog.text.count("waits for the store") == 1
    assert len(streams) == world.engine.broadcast.count


def test_a_pass_waits_for_an_unavailable_store_only_once(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broadcast, reads = world.engine.broadcast, list[str]()

    def time_out(job_id: str) -> Any:
        reads.append(job_id)
        world.clock.advance(20)
        raise StoreUnavailable("no answer in 20 s")

    broadcast._source = evolve_source(broadcast, time_out)
    streams = [opened(world.jobs, new_job_id()) for _ in range(5)]
    for stream in streams:
        next(stream)
    woken = record_wakes(monkeypatch)
    broadcast.step()
    assert len(reads) == 1
    assert {*woken} == {*streams}  # a heartbeat was due meanwhile
    again = world.clock.monotonic() + 1
    while world.clock.monotonic() < again:
        world.clock.advance(broadcast.step())
        assert len(reads) == 1
    broadcast.step()
    assert len({*reads}) == len(reads) == 2


def test_closing_stops_the_current_pass(world: Bench) -> None:
    streams = [opened(world.jobs, world.run().job.id) for _ in range(3)]
    world.store.calls.clear()
    world.store.before["get"] = world.engine.broadcast.close
    world.engine.broadcast.step()
    assert world.store.count("get") == 1
    assert all(stream.is_over for stream in streams)


def test_the_thread_survives_an_exception_of_a_hook(caplog: pytest.LogCaptureFixture) -> None:
    world = bench(streams=5)
    calls: list[str] = []

    def broken(job_id: str) -> Any:
        calls.append(job_id)
        raise JobExit if len(calls) == 1 else StoreUnavailable("away")

    broadcast = Broadcast(world.engine.stream_source, 5)
    broadcast._source = evolve_source(broadcast, broken)
    stream = broadcast.open("job", 0, output=True, in_thread=True)
    assert stream is not None
    wait_until(lambda: len(calls) >= 2)
    broadcast.close()
    assert "a pass of the thread backjob-streams failed" in caplog.text


def evolve_source(broadcast: Broadcast, job: Any) -> Any:
    from attrs import evolve

    return evolve(broadcast._source, job=job)


# --- the thread ----------------------------------------------------------------------------------------------------


def test_the_thread_runs_while_there_are_streams(live: BackJob, broadcast_threads: Callable[[], int]) -> None:
    job_id, _ = running_job_in(live)
    first, second = opened(live, job_id), opened(live, job_id)
    assert broadcast_threads() == 1
    first.close()
    second.close()
    wait_until(lambda: broadcast_threads() == 0)
    third = opened(live, job_id)
    assert broadcast_threads() == 1
    third.close()


def test_after_a_failure_to_start_the_thread_the_next_stream_starts_it(
    live: BackJob, monkeypatch: pytest.MonkeyPatch, broadcast_threads: Callable[[], int]
) -> None:
    job_id, _ = running_job_in(live)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            opened(live, job_id)
    assert engine_of(live).broadcast.count == 0
    stream = opened(live, job_id)
    assert broadcast_threads() == 1
    stream.close()


def test_close_does_not_wait_for_a_thread_that_could_not_start(live: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, _ = running_job_in(live)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            opened(live, job_id)
    engine_of(live).broadcast.close()


def test_a_dead_thread_is_replaced(
    live: BackJob, monkeypatch: pytest.MonkeyPatch, broadcast_threads: Callable[[], int]
) -> None:
    job_id, _ = running_job_in(live)
    with monkeypatch.context() as patch:
        patch.setattr(engine_of(live).broadcast._passes, "_run", lambda: None)
        first = opened(live, job_id)
        wait_until(lambda: broadcast_threads() == 0)
    second = opened(live, job_id)
    assert broadcast_threads() == 1
    first.close()
    second.close()


def refuse(thread: threading.Thread) -> None:
    """``Thread.start`` at the system's limit of threads."""
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("lock_of", ["the streams", "the event"])
def test_closing_a_stream_takes_no_lock(world: Bench, lock_of: str) -> None:
    """The garbage collector may close a stream in a thread that has the lock."""
    broadcast = world.engine.broadcast
    stream = opened(world.jobs, new_job_id())
    lock: Any = broadcast._lock if lock_of == "the streams" else vars(broadcast._passes._woken)["_cond"]
    closing = threading.Thread(target=stream.close, daemon=True)
    with lock:
        closing.start()
        closing.join(PATIENCE)
        assert not closing.is_alive()
    assert broadcast.count == 0


def test_close_ends_all_streams_and_opens_no_more(live: BackJob) -> None:
    job_id, _ = running_job_in(live)
    source = EventSource()
    stream = opened(live, job_id)
    reader = threading.Thread(target=lambda: source.read(stream))
    reader.start()
    live.close()
    live.close()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert not source.has_ended
    assert engine_of(live).broadcast.open(job_id, 0, output=True, in_thread=True) is None


def test_clients_that_reconnect_lose_no_output_and_get_none_twice(live: BackJob) -> None:
    job_id, token = running_job_in(live)
    whole = [f"{number} ä€😀\n" for number in range(1000)]
    sources = [EventSource() for _ in range(6)]

    def follow(source: EventSource, chance: random.Random) -> None:
        """Read like a browser whose connection drops now and then."""
        while not source.has_ended:
            stream = opened(live, job_id, int(source.last_id or 0))
            for chunk in stream:
                source.feed(chunk)
                if chance.random() < 0.3:
                    break
            stream.close()

    threads = [
        threading.Thread(target=follow, args=(source, random.Random(seed))) for seed, source in enumerate(sources)
    ]
    for thread in threads:
        thread.start()
    for number, line in enumerate(whole):
        assert live.store.report(job_id, token, Report(output=line))
        if number % 250 == 249:
            wait_until(lambda number=number: all(f"{number} " in source.text for source in sources))
    assert live.store.change(job_id, Expect(token=token), ended(completed("Done")))
    for thread in threads:
        thread.join(PATIENCE)
    assert [source.text == "".join(whole) for source in sources] == [True] * 6
    assert engine_of(live).broadcast.count == 0


@pytest.mark.parametrize("attributes", [{"should_exit": True}, {"alive": False}])
def test_a_server_that_is_shutting_down_ends_its_streams(live: BackJob, attributes: dict[str, bool]) -> None:
    job_id, _ = running_job_in(live)
    server = Server()
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        stream = opened(live, job_id)
        threading.Timer(0.01, lambda: vars(server).update(attributes)).start()
        assert not EventSource().read(stream).has_ended
        assert engine_of(live).broadcast.open(job_id, 0, output=True, in_thread=True) is None
    finally:
        signal.signal(signal.SIGTERM, before)


class Server:
    """The attributes that backjob reads of a server."""

    should_exit = False
    alive = True

    def handle_exit(self, number: int, frame: Any) -> None:
        """The handler of a signal."""


def test_a_forked_child_starts_with_no_streams_and_its_own_thread(live: BackJob) -> None:
    job_id, _ = running_job_in(live)
    stream = opened(live, job_id)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            empty = engine_of(live).broadcast.count == 0
            own = opened(live, job_id)
            stream.close()  # of the parent: it has no place in the child
            names = EventSource().read([next(own), next(own)]).names
            code = 0 if empty and names == ["state"] and engine_of(live).broadcast.count == 1 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert engine_of(live).broadcast.count == 1
    stream.close()
