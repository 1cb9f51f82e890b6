"""The monitor: timeouts, clock jumps, on_end, cleanup, its passes, its thread, close, and forks."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from backjob import BackJob
from backjob.delivery.monitor import Monitor
from backjob.errors import ConnectionLost, JobFailed, StoreUnavailable
from backjob.jobs import engine_of
from backjob.model import Credentials, JobState, Request, Status
from backjob.process import PerProcess
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.worker.outcomes import Outcome
from tests.unit.core import KEY, NOT_SENT, Bench, FakeTransport, Here, bench, served

DEADLINE = 60.0
DAY = 86400.0


@pytest.fixture
def world() -> Bench:
    return bench()


# --- timeouts -------------------------------------------------------------------------------------------------------


def test_a_silent_job_fails_exactly_at_its_error_timeout(world: Bench) -> None:
    running = world.run(error_timeout=7)
    world.clock.advance(6.999999)
    assert world.jobs.status(running.job.id).status is Status.IN_PROGRESS
    world.clock.advance(0.000001)
    state = world.jobs.status(running.job.id)
    assert (state.status, state.status_text) == (Status.FAILED, "job timeout: no sign of life for 7 s")


def test_the_monitor_times_out_silent_jobs(world: Bench) -> None:
    runs = [world.run(error_timeout=60) for _ in range(3)]
    world.step(61)
    world.step(5)
    assert {world.job(running.job.id).status for running in runs} == {Status.FAILED}
    assert len(world.ended) == 3


def test_more_silent_jobs_than_one_query_returns_all_end(world: Bench) -> None:
    for _ in range(250):
        world.start(error_timeout=60)
    running = [world.step(), *[world.receive(sent) for sent in world.transport.sent]]
    world.step(30)
    world.step(40)
    for _ in range(4):
        world.step(5)
    assert len(running) == 251
    assert len(world.ended) == 250


@pytest.mark.parametrize("method", ["on_end", "store"])
def test_a_job_whose_end_fails_does_not_stop_the_others(method: str) -> None:
    def fail(state: JobState) -> None:
        if method == "on_end":
            raise ZeroDivisionError

    world = bench(on_end=fail)
    first, second = world.run(error_timeout=60), world.run(error_timeout=60)
    world.step(59)
    if method == "store":
        world.store.broken = {"change": ZeroDivisionError()}
        world.store.before["change"] = world.store.broken.clear
    world.step(5)
    world.store.broken = {}
    world.step(5)
    assert {world.job(one.job.id).status for one in (first, second)} == {Status.FAILED}


@pytest.mark.parametrize("jump", [3600, -3600, 86400])
def test_after_a_clock_jump_no_job_times_out_for_one_error_timeout(world: Bench, jump: float) -> None:
    running = world.run(error_timeout=60)
    world.step()
    world.clock.jump(jump)
    for _ in range(59):
        world.step(1)
        assert world.jobs.status(running.job.id).status is Status.IN_PROGRESS
    if jump > 0:
        world.step(2)
        world.step(5)
        assert world.job(running.job.id).status is Status.FAILED


def test_after_an_outage_of_the_store_no_job_times_out_for_one_run_lease(world: Bench) -> None:
    running = world.run(error_timeout=17)
    world.store.down = {"take_due", "find", "report", "beat", "change"}
    for _ in range(200):
        world.step(1)
    world.store.down = set()
    for _ in range(17):
        world.step(1)
        assert world.jobs.status(running.job.id).status is Status.IN_PROGRESS
    world.step(2)
    world.step(5)
    assert world.job(running.job.id).status is Status.FAILED


def test_a_reporting_job_survives_a_clock_jump(world: Bench) -> None:
    running = world.run(error_timeout=60)
    world.step()
    world.clock.jump(3600)
    for _ in range(100):
        world.step(1)
        running.sign_of_life()
    assert world.job(running.job.id).status is Status.IN_PROGRESS


def test_a_small_clock_correction_changes_nothing(world: Bench) -> None:
    world.clock.jump(4.9)
    assert world.monitor.may_reap()
    world.clock.jump(0.2)
    assert not world.monitor.may_reap()


def test_a_search_for_jobs_of_an_older_key_that_fails_is_not_repeated_at_once(
    world: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[object] = []

    def fail(sealer: object) -> int:
        searches.append(sealer)
        raise StoreUnavailable("locked")

    monkeypatch.setattr(world.engine.own_jobs, "relabel", fail)
    for _ in range(10):
        world.step(5)  # at first it is due at once; each search may read the whole table
    assert len(searches) == 1
    world.step(20)
    assert len(searches) == 2


# --- on_end ---------------------------------------------------------------------------------------------------------


def ends(world: Bench) -> list[tuple[str, Status]]:
    return [(state.id, state.status) for state in world.ended]


def test_on_end_is_called_once_whichever_process_ends_the_job(world: Bench) -> None:
    other = bench(clock=world.clock, store=world.store.store)
    finished, cancelled, silent = world.run(), world.run(), world.run(error_timeout=60)
    undelivered = world.start(delay=1)
    world.engine.worker.end(finished, Outcome(200, "OK"))
    world.engine.worker.end(finished, Outcome(500, "No"))
    other.jobs.cancel(cancelled.job.id)
    world.engine.worker.end(cancelled, Outcome(200, "OK"))
    world.clock.advance(60)
    world.jobs.status(silent.job.id)
    other.jobs.status(silent.job.id)
    world.transport.script = lambda sent: sent.answer(404, "Not Found")
    for one in (world, other):
        one.step(3)
        one.step(10)
    assert sorted(ends(world) + ends(other)) == sorted(
        [
            (finished.job.id, Status.COMPLETED),
            (cancelled.job.id, Status.CANCELLED),
            (silent.job.id, Status.FAILED),
            (undelivered, Status.FAILED),
        ]
    )


@pytest.mark.parametrize("error", [ZeroDivisionError(), JobFailed("no")])
def test_an_exception_of_on_end_is_only_logged(error: BaseException) -> None:
    def fail(state: JobState) -> None:
        raise error

    world = bench(on_end=fail)
    first, second, third = world.run(), world.run(), world.start()
    world.engine.worker.end(first, Outcome(200, "OK"))
    assert world.jobs.cancel(second.job.id)
    world.transport.sent[-1].fail(NOT_SENT)
    world.step()
    assert world.jobs.cancel(third)
    assert len(world.ended) == 3


def test_on_end_is_called_even_if_the_output_can_not_be_read(world: Bench) -> None:
    running = world.run()
    running.write("words")
    world.store.down = {"output"}
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert ends(world) == [(running.job.id, Status.COMPLETED)]


def test_on_end_may_start_a_job(world: Bench) -> None:
    started: list[str] = []

    def again(state: JobState) -> None:
        if not started:
            started.append(one.start())

    one = bench(on_end=again)
    running = one.run(error_timeout=1)
    one.step(5)
    one.step(5)
    assert one.job(running.job.id).status is Status.FAILED
    assert [sent.delivery.job_id for sent in one.transport.sent][1:] == started


# --- cleanup --------------------------------------------------------------------------------------------------------


def test_the_monitor_purges_every_hour_by_both_ages() -> None:
    world = bench(completed_retention_days=1, retention_days=2)
    world.step()
    good, bad = world.run(), world.run()
    world.engine.worker.end(good, Outcome(200, "OK"))
    world.engine.worker.end(bad, Outcome(500, "No"))
    world.store.calls.clear()
    world.step(3599)
    assert world.store.count("purge") == 0
    world.step(1)
    assert world.store.count("purge") == 1
    world.step(DAY)
    assert (world.jobs.exists(good.job.id), world.jobs.exists(bad.job.id)) == (False, True)
    world.step(DAY)
    assert not world.jobs.exists(bad.job.id)


def test_a_retention_of_0_keeps_jobs_for_ever() -> None:
    world = bench(completed_retention_days=0, retention_days=0)
    running = world.run()
    world.engine.worker.end(running, Outcome(200, "OK"))
    world.step(1000 * DAY)
    assert world.jobs.cleanup() == 0
    assert world.jobs.exists(running.job.id)


# --- passes ---------------------------------------------------------------------------------------------------------


def test_a_quiet_monitor_polls_for_due_jobs_every_two_seconds(world: Bench) -> None:
    world.step()
    world.store.calls.clear()
    waits = []
    for _ in range(100):
        world.monitor.note_request()
        waits.append(world.step(world.monitor.step()))
    assert world.store.count("take_due") <= 101
    assert 1 < max(waits) <= 2


def test_the_monitor_wakes_when_a_delayed_job_is_due(world: Bench) -> None:
    world.step()
    world.start(delay=0.5)
    assert world.step() == pytest.approx(0.5)
    world.step(0.5)
    assert len(world.transport.sent) == 1


def test_alarms_are_bounded_and_polls_find_the_jobs_beyond_them(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backjob.delivery.monitor._MAX_ALARMS", 2)
    for _ in range(5):
        world.start(delay=50.5)
    world.step()
    assert len(world.monitor._alarms) == 2
    world.step(53)
    assert len(world.transport.sent) == 5


@pytest.mark.parametrize("method", ["take_due", "find", "purge", "change", "beat", "get"])
@pytest.mark.parametrize("error", ["unavailable", "broken"])
def test_a_failing_call_of_the_store_does_not_stop_the_other_parts(world: Bench, method: str, error: str) -> None:
    running = world.run()
    running.set_progress(1)
    if error == "unavailable":
        world.store.down = {method}
    else:
        world.store.broken = {method: ZeroDivisionError()}
    for _ in range(8):
        running.set_progress(min(100, running.progress + 1))
        assert world.step(1) >= 0
    assert world.job(running.job.id).progress == running.progress
    world.store.down, world.store.broken = set(), {}
    job_id = world.start(delay=1)
    world.step(1)
    world.step(2)
    assert world.transport.sent[-1].delivery.job_id == job_id


def test_an_unavailable_store_is_not_called_in_a_busy_loop(world: Bench) -> None:
    running = world.run()
    world.start()
    world.store.down = {"take_due", "find", "purge", "change", "beat", "get", "report"}
    running.set_progress(1)
    running.set_progress(2)
    world.engine.worker.end(running, Outcome(200, "OK"))
    world.store.calls.clear()
    passes = 0
    until = world.clock.monotonic() + 10
    while world.clock.monotonic() < until:
        world.clock.advance(max(0.001, world.monitor.step()))
        passes += 1
    assert passes < 200
    assert len(world.store.calls) < 100


# --- the thread -----------------------------------------------------------------------------------------------------


def threaded(**options: Any) -> BackJob:
    return BackJob(store=MemoryStore(), transport=FakeTransport(), signer=MessageSigner(KEY), **options)


def thread_of(jobs: BackJob) -> threading.Thread | None:
    return engine_of(jobs).monitor._passes._thread


def test_the_thread_starts_with_the_first_request_and_ends_at_close() -> None:
    jobs = threaded()
    assert thread_of(jobs) is None
    engine_of(jobs).monitor.ensure_running()
    thread = thread_of(jobs)
    assert thread is not None
    assert thread.daemon
    engine_of(jobs).monitor.ensure_running()
    assert engine_of(jobs).monitor._passes._thread is thread
    jobs.close()
    assert not thread.is_alive()
    jobs.close()


def test_concurrent_first_requests_start_one_thread() -> None:
    jobs = threaded()
    barrier = threading.Barrier(16)

    def first() -> None:
        barrier.wait(DEADLINE)
        engine_of(jobs).monitor.ensure_running()

    callers = [threading.Thread(target=first) for _ in range(16)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(DEADLINE)
    alive = [thread for thread in threading.enumerate() if thread is engine_of(jobs).monitor._passes._thread]
    assert len(alive) == 1
    jobs.close()


class FailsOnce(Monitor):
    """Raises ``error`` in its first pass."""

    error: BaseException = SystemExit(1)
    passes = 0

    def step(self) -> float:
        self.passes += 1
        if self.passes == 1:
            self._passes.wake()
            raise self.error
        self.second.set()
        return super().step()

    second: threading.Event


@pytest.mark.parametrize("error", [SystemExit(1), JobFailed("no"), ZeroDivisionError()])
def test_the_thread_survives_any_exception_of_a_pass(error: BaseException) -> None:
    jobs = threaded()
    monitor = FailsOnce(engine_of(jobs).delivery_parts)
    monitor.error, monitor.second = error, threading.Event()
    engine_of(jobs).monitors = PerProcess(lambda: monitor)
    monitor.ensure_running()
    assert monitor.second.wait(DEADLINE)
    jobs.close()


def test_a_started_job_wakes_the_thread() -> None:
    sent = threading.Event()
    transport = FakeTransport(script=lambda _: sent.set())
    with BackJob(store=MemoryStore(), transport=transport, signer=MessageSigner(KEY)) as jobs:
        engine_of(jobs).monitor.ensure_running()
        jobs.start("/work", as_current_user=False)
        assert sent.wait(DEADLINE)


# --- close ----------------------------------------------------------------------------------------------------------


def test_close_writes_what_is_pending(world: Bench) -> None:
    running = world.run()
    running.set_progress(1)
    running.set_progress(2)
    running.write("last words")
    world.jobs.close()
    assert world.job(running.job.id).progress == 2
    assert world.jobs.output(running.job.id).text == "last words"
    assert world.transport.closed == 1


def test_close_still_runs_what_was_posted(world: Bench) -> None:
    job_id = world.start()
    world.jobs.close()
    assert world.job(job_id).lease_until is None


def test_close_succeeds_during_an_outage_of_the_store(world: Bench) -> None:
    running = world.run()
    world.start()
    running.set_progress(1)
    running.set_progress(2)
    world.store.down = {"change", "report"}
    world.jobs.close()
    world.jobs.close()


def test_on_end_may_close_everything() -> None:
    one: Bench = bench(on_end=lambda state: one.jobs.close())
    running = one.run()
    assert one.jobs.cancel(running.job.id)
    assert one.transport.closed == 1


def test_credentials_are_dropped_once_the_job_has_ended(world: Bench) -> None:
    mine = (("Cookie", "session=0nlyHere"),)
    with served(Here(Request("GET", "/", mine))):
        job_id = world.start(as_current_user=True)
    world.step()
    running = world.receive()
    world.transport.sent[0].fail(ConnectionLost("a proxy was impatient"))
    world.step(20)
    assert job_id in world.monitor._deliveries._by_id
    world.engine.worker.end(running, Outcome(200, "OK"))
    del running
    world.step(20)
    assert job_id not in world.monitor._deliveries._by_id
    gc.collect()
    sent = world.transport.sent.pop()
    proof = weakref.ref(sent)
    del sent
    gc.collect()
    assert proof() is None
    assert not [one for one in gc.get_objects() if type(one) is Credentials and one.headers == mine]


FORKED = """
import os, sys, threading
from tests.unit.core import COOKIE, FakeTransport, KEY, served
from backjob import BackJob
from backjob.jobs import engine_of
from backjob.model import Query
from backjob.process import PerProcess
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore

transport = FakeTransport(capacity=1)
jobs = BackJob(store=SQLiteStore(sys.argv[1]), transport=transport, signer=MessageSigner(KEY))
with served():
    first = jobs.start("/first", delay=1000)
monitor = engine_of(jobs).monitor
parent = monitor.lessee, monitor._passes._thread
while monitor._posted:
    pass
assert monitor._deliveries._by_id
# The fork happens while a thread that the child does not have holds the lock.
monitor._passes._lock.acquire()
child = os.fork()
if child == 0:
    try:
        barrier = threading.Barrier(8)
        seen = set()
        def first_request():
            barrier.wait(10)
            engine_of(jobs).monitor.ensure_running()
            seen.add((engine_of(jobs).monitor.lessee, engine_of(jobs).monitor._passes._thread))
        threads = [threading.Thread(target=first_request) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join(10) for thread in threads]
        assert len(seen) == 1, seen
        [(lessee, thread)] = seen
        assert lessee != parent[0] and thread is not parent[1] and thread.is_alive()
        assert not engine_of(jobs).monitor._deliveries._by_id and not engine_of(jobs).monitor._deliveries.places.in_flight
        second = jobs.start("/second", as_current_user=False)
        assert jobs.store.get(second).lessee == lessee
        jobs.close()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
monitor._passes._lock.release()
_, status = os.waitpid(child, 0)
assert engine_of(jobs).monitor is monitor and monitor.lessee == parent[0] and monitor._deliveries._by_id
jobs.close()
sys.exit(os.waitstatus_to_exitcode(status))
"""


def test_a_forked_child_starts_without_deliveries_and_credentials(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED, str(tmp_path / "jobs.db")],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": "."},
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- an idle site ---------------------------------------------------------------------------------------------------


def reads_of(world: Bench, seconds: float) -> int:
    """How often the monitor reads the store in this time, which passes from one of its events to the next."""
    world.store.calls.clear()
    until = world.clock.monotonic() + seconds
    wait = world.step()
    while world.clock.monotonic() + wait < until:
        wait = world.step(wait)
    world.clock.advance(until - world.clock.monotonic())
    return world.store.count("take_due", "find")


def test_a_site_without_requests_and_jobs_reads_its_store_four_times_a_minute(world: Bench) -> None:
    reads_of(world, 300)
    assert reads_of(world, 3600) <= 4 * 60 + 2


def test_a_site_with_requests_reads_its_store_at_the_normal_pace(world: Bench) -> None:
    reads_of(world, 300)
    for _ in range(5):
        world.monitor.note_request()
        assert reads_of(world, 59) >= 35


def test_a_request_ends_the_rest_at_once(world: Bench) -> None:
    reads_of(world, 600)
    world.step(3)
    other = bench(clock=world.clock, store=world.store.store)
    job_id = other.start(delay=1)
    other.clock.advance(5)
    world.monitor.note_request()
    world.step()
    assert [sent.delivery.job_id for sent in world.transport.sent] == [job_id]


def test_a_known_job_keeps_the_normal_pace_and_a_job_that_is_due_in_a_rest_is_on_time(world: Bench) -> None:
    running = world.run(error_timeout=100_000)
    assert reads_of(world, 600) >= 400
    world.engine.worker.end(running, Outcome(200, "OK"))
    job_id = world.start(delay=1000)
    reads_of(world, 999)
    assert len(world.transport.sent) == 1
    world.step(1)
    assert world.transport.sent[-1].delivery.job_id == job_id


def test_a_job_that_another_process_left_behind_waits_at_most_half_a_minute(world: Bench) -> None:
    reads_of(world, 600)
    other = bench(clock=world.clock, store=world.store.store)
    job_id = other.start(delay=0.5)
    reads_of(world, 31)
    assert [sent.delivery.job_id for sent in world.transport.sent] == [job_id]


def test_a_silent_job_of_another_process_ends_at_most_half_a_minute_late(world: Bench) -> None:
    other = bench(clock=world.clock, store=world.store.store)
    running = other.run(error_timeout=600)
    reads_of(world, 631)
    assert world.job(running.job.id).status is Status.FAILED


def test_a_job_that_is_claimed_during_a_glance_is_not_overlooked(world: Bench) -> None:
    other = bench(clock=world.clock, store=world.store.store)
    other.start()
    other.step()
    world.store.before["find"] = other.receive
    world.monitor._rest.glance()
    assert not world.monitor._rest.is_quiet


def test_the_thread_gives_back_its_connections_before_it_rests(world: Bench) -> None:
    left: list[str] = []
    parts = evolve(
        world.engine.delivery_parts,
        leave=lambda: left.append("the thread's"),
        close_idle=lambda: left.append("the idle"),
    )
    monitor = Monitor(parts)
    monitor._pass()
    assert left == ["the thread's"]
    for _ in range(60):
        world.clock.advance(30)
        monitor._pass()
    assert left[-2:] == ["the thread's", "the idle"]
    running = world.run()
    running._next_write = world.clock.monotonic() + 0.1
    monitor.write_later(running)
    left.clear()
    monitor._pass()
    assert left == []


def test_a_request_wakes_the_thread_of_an_idle_site_only(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    woken: list[bool] = []
    monkeypatch.setattr(world.monitor._passes, "wake", lambda: woken.append(True))
    world.step()
    world.monitor.note_request()
    assert woken == []
    reads_of(world, 600)
    for _ in range(3):
        world.monitor.note_request()
    assert woken == [True]
