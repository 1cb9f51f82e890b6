"""The watcher of all streams of a process: how many there may be, how much it reads, and when its thread is there."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest

from backjob.errors import JobExit, JobNotFound, StoreUnavailable
from backjob.jobs import BackJob
from backjob.lifecycle import claimed, completed, ended
from backjob.model import Draft, Expect, Report, Request
from backjob.signing import MessageSigner
from backjob.signing.tokens import new_job_id
from backjob.status.broadcast import Broadcast
from backjob.status.streams import Stream
from backjob.stores.memory import MemoryStore
from backjob.worker.running import Running
from tests.event_source import EventSource
from tests.unit.core import KEY, Bench, FakeTransport, bench

PATIENCE: Final = 20.0


@pytest.fixture
def world() -> Bench:
    return bench(streams=1000)


@pytest.fixture
def living() -> Iterator[BackJob]:
    """A `BackJob` with its threads, under the real clock."""
    with BackJob(MemoryStore(), FakeTransport(), MessageSigner(KEY), streams=100) as jobs:
        yield jobs


def opened(jobs: BackJob, job_id: str, offset: int = 0) -> Stream:
    stream = jobs.broadcast.open(job_id, offset, output=True, in_thread=True)
    assert stream is not None
    return stream


def running_in(jobs: BackJob) -> tuple[str, str]:
    """A job that runs, and the token by which it is written to."""
    job = jobs.store.create(Draft(id=new_job_id(), request=Request("GET", "/work")))
    assert jobs.store.change(job.id, *claimed("token")) is not None
    return job.id, "token"


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "backjob-streams"]


def rung_by(monkeypatch: pytest.MonkeyPatch) -> list[Stream]:
    """The streams that are rung from now on, as often as they are."""
    rung: list[Stream] = []

    def ring(stream: Stream) -> None:
        rung.append(stream)

    monkeypatch.setattr(Stream, "ring", ring)
    return rung


def wait_until(holds: Any) -> None:
    deadline, looks = time.monotonic() + PATIENCE, threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        looks.wait(0.01)


# --- how many -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("streams", "in_thread", "limit"),
    [(None, True, 0), (None, False, 1000), (7, True, 7), (7, False, 7), (0, False, 0)],
)
def test_by_default_none_is_served_where_it_takes_a_thread(streams: int | None, in_thread: bool, limit: int) -> None:
    assert bench(streams=streams).jobs.broadcast.limit(in_thread=in_thread) == limit


def test_a_place_is_free_again_when_a_stream_is_closed_has_ended_or_was_forgotten() -> None:
    world = bench(streams=1)
    job_id = world.run().job.id
    stream = opened(world.jobs, job_id)
    assert world.jobs.broadcast.open(job_id, 0, output=True, in_thread=True) is None
    stream.close()
    stream.close()
    opened(world.jobs, job_id)  # nobody keeps it
    stream = opened(world.jobs, job_id)
    stream.end()
    assert list(stream) == []
    assert world.jobs.broadcast.count == 0


# --- how much is read -----------------------------------------------------------------------------------------------


def test_a_hundred_streams_of_a_job_cost_the_reads_of_one(world: Bench) -> None:
    costs = []
    for count in (1, 100):
        running = world.run()
        streams = [opened(world.jobs, running.job.id, 0) for _ in range(count)]
        world.store.calls.clear()
        for progress in range(20):
            report(world, running, progress, "line\n")
            world.clock.advance(1)
            world.jobs.broadcast.step()
            for stream in streams:
                while stream.take() is not None:
                    pass
        costs.append(world.store.count("get", "output"))
        for stream in streams:
            stream.close()
    assert costs[0] == costs[1] <= 20 * 3


def test_a_quiet_job_is_looked_at_less_often(world: Bench) -> None:
    running = world.run()
    kept = opened(world.jobs, running.job.id)
    assert looks_in(world, 10) < 15
    report(world, running, 1)
    looks_in(world, 1)
    assert looks_in(world, 1) > 1
    kept.close()


def test_however_many_jobs_are_watched_the_looks_are_bounded_and_each_has_its_turn(world: Bench) -> None:
    jobs = [world.start() for _ in range(500)]
    streams = [opened(world.jobs, job_id) for job_id in jobs]
    world.store.calls.clear()
    looks = looks_in(world, 10)
    assert 900 <= looks <= 1000 + 25
    assert all(stream.feed.seen is not None for stream in streams)


def test_a_job_that_has_ended_is_not_looked_at_any_more(world: Bench) -> None:
    running = world.run()
    stream = opened(world.jobs, running.job.id)
    world.jobs.cancel(running.job.id)
    assert looks_in(world, 10) == 1
    stream.close()


def test_jobs_that_are_gone_take_no_looks_from_the_others_while_their_streams_are_open(world: Bench) -> None:
    gone = [opened(world.jobs, new_job_id()) for _ in range(10)]
    assert looks_in(world, 5) == len(gone)
    healthy = opened(world.jobs, world.run().job.id)
    assert 0 < looks_in(world, 10) < 15
    assert healthy.feed.seen is not None
    assert all(stream.is_over for stream in gone)


def test_who_comes_when_a_job_is_known_to_be_gone_is_told_as_well(world: Bench) -> None:
    job_id = new_job_id()
    early = opened(world.jobs, job_id)
    looks_in(world, 5)
    late = opened(world.jobs, job_id)
    looks_in(world, 1)
    assert (early.is_over, late.is_over) == (True, True)


def looks_in(world: Bench, seconds: float) -> int:
    """How often the store is asked for jobs in this time."""
    before, until = world.store.count("get"), world.clock.monotonic() + seconds
    while world.clock.monotonic() < until:
        world.clock.advance(world.jobs.broadcast.step())
    return world.store.count("get") - before


def report(world: Bench, running: Running, progress: int, text: str = "") -> None:
    assert world.store.report(running.job.id, str(running.job.token), Report(progress=progress, output=text))


# --- who is rung ----------------------------------------------------------------------------------------------------


def test_who_comes_while_the_job_is_looked_at_is_rung(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, late = world.run().job.id, list[Stream]()
    early = opened(world.jobs, job_id)
    next(early)
    rung = rung_by(monkeypatch)

    def come() -> None:
        late.append(opened(world.jobs, job_id))
        next(late[0])

    world.store.before["get"] = come
    world.jobs.broadcast.step()
    assert {*rung} == {early, *late}
    assert len(late) == 1


def test_who_comes_while_the_job_is_found_gone_is_ended(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id, late = new_job_id(), list[Stream]()
    early = opened(world.jobs, job_id)
    rung = rung_by(monkeypatch)

    def come() -> None:
        late.append(opened(world.jobs, job_id))
        next(late[0])
        raise JobNotFound(job_id)

    world.store.before["get"] = come
    world.jobs.broadcast.step()
    assert [stream.is_over for stream in (early, *late)] == [True, True]
    assert rung == late


def test_one_that_has_not_begun_is_not_rung(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It might begin at that moment, in an event loop, where only that may ring."""
    stream = opened(world.jobs, world.run().job.id)
    rung = rung_by(monkeypatch)
    world.jobs.broadcast.step()
    assert stream.feed.seen is not None
    assert rung == []


# --- trouble --------------------------------------------------------------------------------------------------------


def test_one_jobs_trouble_is_not_the_others(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = world.run(), world.run()
    streams = [opened(world.jobs, running.job.id) for running in (bad, good)]
    world.store.before["get"] = trouble
    world.jobs.broadcast.step()
    assert [stream.feed.seen is not None for stream in streams] == [False, True]
    assert "its event streams wait" in caplog.text
    world.clock.advance(1)
    world.jobs.broadcast.step()
    assert streams[0].feed.seen is not None


def trouble() -> None:
    raise ZeroDivisionError


def test_a_store_that_is_away_is_told_of_once(world: Bench, caplog: pytest.LogCaptureFixture) -> None:
    streams = [opened(world.jobs, world.run().job.id) for _ in range(3)]
    world.store.down.add("get")
    looks_in(world, 10)
    assert caplog.text.count("event streams wait for the store") == 1
    assert len(streams) == world.jobs.broadcast.count


def test_a_store_that_is_away_is_waited_for_once_in_a_pass(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    broadcast, asked = world.jobs.broadcast, list[str]()

    def time_out(job_id: str) -> Any:
        asked.append(job_id)
        world.clock.advance(20)
        raise StoreUnavailable("no answer in 20 s")

    broadcast._source = evolve_source(broadcast, time_out)
    streams = [opened(world.jobs, new_job_id()) for _ in range(5)]
    for stream in streams:
        next(stream)
    rung = rung_by(monkeypatch)
    broadcast.step()
    assert len(asked) == 1
    assert {*rung} == {*streams}  # a heartbeat was due meanwhile
    again = world.clock.monotonic() + 1
    while world.clock.monotonic() < again:
        world.clock.advance(broadcast.step())
        assert len(asked) == 1
    broadcast.step()
    assert len({*asked}) == len(asked) == 2


def test_a_pass_ends_when_the_streams_are_closed(world: Bench) -> None:
    streams = [opened(world.jobs, world.run().job.id) for _ in range(3)]
    world.store.calls.clear()
    world.store.before["get"] = world.jobs.broadcast.close
    world.jobs.broadcast.step()
    assert world.store.count("get") == 1
    assert all(stream.is_over for stream in streams)


def test_the_thread_survives_what_a_hook_raises(caplog: pytest.LogCaptureFixture) -> None:
    world = bench(streams=5)
    calls: list[str] = []

    def broken(job_id: str) -> Any:
        calls.append(job_id)
        raise JobExit if len(calls) == 1 else StoreUnavailable("away")

    broadcast = world.jobs.make_broadcast(5)
    broadcast._source = evolve_source(broadcast, broken)
    stream = broadcast.open("job", 0, output=True, in_thread=True)
    assert stream is not None
    wait_until(lambda: len(calls) >= 2)
    broadcast.close()
    assert "it goes on" in caplog.text


def evolve_source(broadcast: Broadcast, job: Any) -> Any:
    from attrs import evolve

    return evolve(broadcast._source, job=job)


# --- the thread -----------------------------------------------------------------------------------------------------


def test_the_thread_is_there_while_there_are_streams(living: BackJob) -> None:
    before = len(watchers())
    job_id, _ = running_in(living)
    first, second = opened(living, job_id), opened(living, job_id)
    assert len(watchers()) == before + 1
    first.close()
    second.close()
    wait_until(lambda: len(watchers()) == before)
    third = opened(living, job_id)
    assert len(watchers()) == before + 1
    third.close()


def test_a_thread_that_could_not_be_started_is_started_for_the_next_stream(
    living: BackJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(watchers())
    job_id, _ = running_in(living)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            opened(living, job_id)
    assert living.broadcast.count == 0
    stream = opened(living, job_id)
    assert len(watchers()) == before + 1
    stream.close()


def test_one_that_could_not_be_started_is_not_waited_for_at_the_end(
    living: BackJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, _ = running_in(living)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            opened(living, job_id)
    living.broadcast.close()


def test_a_thread_that_is_dead_is_replaced(living: BackJob, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(watchers())
    job_id, _ = running_in(living)
    with monkeypatch.context() as patch:
        patch.setattr(living.broadcast, "_run", lambda: None)
        first = opened(living, job_id)
        wait_until(lambda: len(watchers()) == before)
    second = opened(living, job_id)
    assert len(watchers()) == before + 1
    first.close()
    second.close()


def refuse(thread: threading.Thread) -> None:
    """As a thread's ``start`` where there are as many as may be."""
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("lock_of", ["the streams", "the wake-up"])
def test_closing_one_waits_for_nothing(world: Bench, lock_of: str) -> None:
    """The garbage collector may do it in a thread that holds the lock."""
    broadcast = world.jobs.broadcast
    stream = opened(world.jobs, new_job_id())
    lock: Any = broadcast._process_lock() if lock_of == "the streams" else vars(broadcast._wake)["_cond"]
    closing = threading.Thread(target=stream.close, daemon=True)
    with lock:
        closing.start()
        closing.join(PATIENCE)
        assert not closing.is_alive()
    assert broadcast.count == 0


def test_closing_ends_all_streams_and_none_is_opened_any_more(living: BackJob) -> None:
    job_id, _ = running_in(living)
    source = EventSource()
    stream = opened(living, job_id)
    reader = threading.Thread(target=lambda: source.read(stream))
    reader.start()
    living.close()
    living.close()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert not source.has_ended
    assert living.broadcast.open(job_id, 0, output=True, in_thread=True) is None


def test_nothing_is_lost_or_doubled_while_output_is_appended(living: BackJob) -> None:
    job_id, token = running_in(living)
    whole = [f"{number} ä€😀\n" for number in range(2000)]
    sources = [EventSource() for _ in range(6)]

    def follow(source: EventSource, chance: random.Random) -> None:
        """As a browser whose connection is cut now and then."""
        while not source.has_ended:
            stream = opened(living, job_id, int(source.last_id or 0))
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
        assert living.store.report(job_id, token, Report(output=line))
        if number % 500 == 499:
            wait_until(lambda number=number: all(f"{number} " in source.text for source in sources))
    assert living.store.change(job_id, Expect(token=token), ended(completed("Done")))
    for thread in threads:
        thread.join(PATIENCE)
    assert [source.text == "".join(whole) for source in sources] == [True] * 6
    assert living.broadcast.count == 0


@pytest.mark.parametrize("attributes", [{"should_exit": True}, {"alive": False}])
def test_a_server_that_has_been_told_to_end_ends_its_streams(living: BackJob, attributes: dict[str, bool]) -> None:
    job_id, _ = running_in(living)
    server = Server()
    before = signal.signal(signal.SIGTERM, server.handle_exit)
    try:
        stream = opened(living, job_id)
        threading.Timer(0.01, lambda: vars(server).update(attributes)).start()
        assert not EventSource().read(stream).has_ended
        assert living.broadcast.open(job_id, 0, output=True, in_thread=True) is None
    finally:
        signal.signal(signal.SIGTERM, before)


class Server:
    """As much of a server as is looked at."""

    should_exit = False
    alive = True

    def handle_exit(self, number: int, frame: Any) -> None:
        """What is installed for a signal."""


def test_a_forked_child_has_places_a_thread_and_streams_of_its_own(living: BackJob) -> None:
    job_id, _ = running_in(living)
    stream = opened(living, job_id)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            empty = living.broadcast.count == 0
            own = opened(living, job_id)
            stream.close()  # a parent's, whose place is not among the child's
            names = EventSource().read([next(own), next(own)]).names
            code = 0 if empty and names == ["state"] and living.broadcast.count == 1 else 2
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert living.broadcast.count == 1
    stream.close()
