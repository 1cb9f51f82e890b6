"""Run leases: renewed on time in one write, lost when the store says so, and the condition for reaping others' jobs."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
from typing import Any

import pytest

from backjob.errors import JobEnded, StoreUnavailable
from backjob.jobs import engine_of
from backjob.lifecycle import Late, cancelled, ended, failed, late
from backjob.model import Expect, Job, Status
from backjob.stores.memory import MemoryStore
from backjob.testing import FakeClock
from backjob.worker.leases import Leases
from backjob.worker.outcomes import Outcome
from backjob.worker.replies import Refusal
from backjob.worker.running import Running
from tests.unit.core import Bench, FaultyStore, bench
from tests.unit.interrupting import Interrupter

LEASE = 18.0
TICK = 2.0
DEADLINE = 60.0


@pytest.fixture
def world() -> Bench:
    return bench()


class Ticking:
    """`Leases` whose ticks the test makes, without a thread."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FaultyStore(MemoryStore(clock=self.clock))
        self.left = 0
        store: Any = self.store
        self.leases = Leases(store, self.clock, LEASE, self._leave)
        passes: Any = self.leases._passes
        passes.ensure_running = _no_thread

    def _leave(self) -> None:
        self.left += 1

    def live(self, seconds: float) -> None:
        """Let time pass, with each tick on time."""
        while seconds > 0:
            pause = min(seconds, TICK)
            self.clock.advance(pause)
            self.leases.tend()
            seconds -= pause


def _no_thread() -> None:
    raise RuntimeError("can't start new thread")


@pytest.fixture
def ticking() -> Ticking:
    ticking = Ticking()
    ticking.leases.tend()
    return ticking


def seconds_left(world: Bench, running: Running) -> float:
    job = world.job(running.job.id)
    assert job.lease_until is not None
    return (job.lease_until - job.read_time).total_seconds()


# --- renewing -------------------------------------------------------------------------------------------------------


def test_a_claim_takes_a_lease_which_is_renewed_while_the_action_runs(world: Bench) -> None:
    running = world.run()
    assert seconds_left(world, running) == LEASE
    world.step(100)
    assert seconds_left(world, running) >= LEASE - TICK
    assert late(world.job(running.job.id)) is None


@pytest.mark.parametrize("outcome", ["ended", "lease renewed", "store away"])
def test_the_action_of_a_process_that_was_stopped_within_its_claim_begins_only_if_its_run_is_not_over(
    world: Bench, outcome: str
) -> None:
    job_id = world.start()
    world.step()
    change = world.store.store.change

    def claim_and_stop(*arguments: Any) -> Job | None:
        claimed = change(*arguments)
        world.clock.advance(60)
        if outcome == "ended":
            change(job_id, Expect(lease_over=True), ended(failed("the process that ran it ended")))
        elif outcome == "store away":
            world.store.down = {"beat"}
        return claimed

    world.store.change = claim_and_stop  # type: ignore[attr-defined]
    if outcome == "ended":
        with pytest.raises(Refusal) as caught:
            world.receive()
        assert (caught.value.status, world.engine.worker.count) == (409, 0)
    else:
        running = world.receive()
        assert (running.ended, seconds_left(world, running) > 0) == (False, outcome == "lease renewed")


def test_all_leases_take_one_write_and_leave_the_version_alone(world: Bench) -> None:
    several = [world.run() for _ in range(50)]
    versions = {running.job.id: world.job(running.job.id).version for running in several}
    world.store.calls.clear()
    world.step(TICK)
    assert world.store.count("beat") == 1
    assert {job_id: world.job(job_id).version for job_id in versions} == versions


def test_a_process_without_running_jobs_calls_no_store(world: Bench, ticking: Ticking) -> None:
    ticking.live(100)
    assert ticking.store.calls == []
    running = world.run()
    world.engine.worker.end(running, Outcome(200, "OK"))
    world.store.calls.clear()
    world.step(10)
    assert world.store.count("beat") == 0


def test_only_an_action_that_gives_signs_of_life_gets_a_new_updated_time(world: Bench) -> None:
    lively, silent = world.run(), world.run()
    before = world.job(silent.job.id).updated_time
    world.step(10)
    lively.sign_of_life()
    world.step(TICK)
    assert world.job(silent.job.id).updated_time == before
    after = world.job(lively.job.id)
    assert (after.read_time - after.updated_time).total_seconds() <= TICK
    world.step(10)
    assert world.job(lively.job.id).updated_time == after.updated_time


def test_signs_of_life_outlast_a_failed_renewal(world: Bench) -> None:
    running = world.run()
    before = world.job(running.job.id).updated_time
    running.sign_of_life()
    world.store.down = {"beat"}
    world.step(TICK)
    assert world.job(running.job.id).updated_time == before
    world.store.down = set()
    world.step(TICK)
    assert world.job(running.job.id).updated_time > before


def test_an_action_with_a_short_time_limit_reports_its_life_itself() -> None:
    world = bench(error_timeout=1.5)
    running = world.run()
    for _ in range(20):
        world.step(0.5)
        running.sign_of_life()
        assert late(world.job(running.job.id)) is None
    world.store.calls.clear()
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.store.count("report") == 0


def test_a_store_that_fails_for_a_second_ends_nothing(world: Bench) -> None:
    running = world.run()
    world.step(TICK * 0.9)
    world.store.down = {"beat", "report", "change", "get", "find"}
    world.step(1)
    world.store.down = set()
    world.step(1)
    assert seconds_left(world, running) == LEASE
    assert not running.ended


@pytest.mark.parametrize("error", [StoreUnavailable("locked"), ZeroDivisionError(), MemoryError()])
def test_a_failed_renewal_is_repeated_after_a_second(
    ticking: Ticking, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    ticking.leases.add(a_running_job(ticking))
    ticking.store.broken = {"beat": error}
    ticking.live(TICK)
    assert ticking.store.count("beat") == 1
    for _ in range(3):
        ticking.clock.advance(1)
        ticking.leases.tend()
    assert ticking.store.count("beat") == 4
    assert any(record.levelname in ("WARNING", "ERROR") for record in caplog.records)


def a_running_job(ticking: Ticking) -> Running:
    clock = ticking.clock
    job = Job(
        id="job1", status=Status.IN_PROGRESS, created_time=clock.now(), start_time=clock.now(),
        updated_time=clock.now(), read_time=clock.now(), token="t0ken",
    )  # fmt: skip
    store: Any = ticking.store
    return Running(job, "t0ken", store=store, clock=clock, max_output=100, dirty=lambda _: None)


# --- losing a lease -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancelled", "purged"])
def test_an_action_finds_at_the_next_renewal_that_its_job_has_ended(world: Bench, how: str) -> None:
    running, other = world.run(), world.run()
    assert world.engine.store.change(running.job.id, Expect(), ended(cancelled()))
    if how == "purged":
        world.clock.advance(10)
        world.store.store.purge(1, 1)
    world.step(TICK)
    with pytest.raises(JobEnded):
        running.sign_of_life()
    other.sign_of_life()


def test_a_process_that_was_stopped_for_long_finds_its_run_requeued(world: Bench) -> None:
    running = world.run(retries=1)
    world.clock.advance(LEASE)
    other = bench(clock=world.clock, store=world.store.store)
    other.monitor.step()
    assert world.job(running.job.id).run == 2
    world.step(TICK)
    with pytest.raises(JobEnded):
        running.set_text("late")
    world.engine.worker.end(running, Outcome(200, "OK"))
    job = world.job(running.job.id)
    assert (job.run, job.status, job.status_text) == (2, Status.STARTED, None)


def test_the_lease_of_an_ended_run_is_not_renewed(world: Bench) -> None:
    running = world.run()
    world.jobs.cancel(running.job.id)
    world.step(TICK)
    world.store.calls.clear()
    world.step(10 * TICK)
    assert world.store.count("beat") == 0


def test_an_earlier_run_in_the_same_process_does_not_disturb_the_lease_of_the_next(world: Bench) -> None:
    first = world.run(retries=1, retry_delay=0)
    world.clock.advance(LEASE)
    assert world.monitor.reap(world.job(first.job.id)) is not None
    world.step()
    second = world.receive()
    assert (second.job.id, second.job.run) == (first.job.id, 2)
    assert first.ended
    world.step(50)
    assert not second.ended
    assert seconds_left(world, second) >= LEASE - TICK


def requeued_run(world: Bench) -> Running:
    """Return a run whose lease is over, and whose next run was sent."""
    running = world.run(retries=1, retry_delay=0)
    world.clock.advance(LEASE)
    assert world.monitor.reap(world.job(running.job.id)) is not None
    world.step()
    return running


def test_the_end_of_a_run_never_drops_the_lease_of_the_next_one() -> None:
    """The next run is claimed in this process before each instruction in turn."""
    number = 0
    for number in itertools.count():
        world = bench()
        running = requeued_run(world)
        interrupter = Interrupter(Leases.drop, number, world.receive)
        sys.settrace(interrupter)
        try:
            world.leases.drop(running)
        finally:
            sys.settrace(None)
        if not interrupter.has_acted:
            break
        assert [renewed.job.run for renewed in world.leases._running.values()] == [2], f"before instruction {number}"
    assert number > 10


def test_a_late_claim_does_not_take_the_lease_of_the_next_run(world: Bench) -> None:
    """The process was stopped between a claim and its lease. Meanwhile the run was requeued, and claimed again."""
    first = requeued_run(world)
    second = world.receive()
    world.leases.add(first)
    assert (first.ended, second.ended) == (True, False)
    world.step(50)
    assert seconds_left(world, second) >= LEASE - TICK


# --- may_reap -------------------------------------------------------------------------------------------------------


def test_a_process_may_reap_after_one_lease_of_ticks(ticking: Ticking) -> None:
    ticking.live(LEASE - TICK)
    assert not ticking.leases.may_reap()
    ticking.live(TICK)
    assert ticking.leases.may_reap()


def test_a_process_that_has_not_ticked_may_not_reap() -> None:
    ticking = Ticking()
    ticking.clock.advance(100)
    assert not ticking.leases.may_reap()


@pytest.mark.parametrize(("late_by", "may"), [(TICK / 2, True), (TICK / 2 + 0.001, False)])
def test_a_process_that_is_late_now_may_not_reap(ticking: Ticking, late_by: float, may: bool) -> None:
    ticking.live(30)
    ticking.clock.advance(TICK + late_by)
    assert ticking.leases.may_reap() is may


def test_after_a_late_tick_three_on_time_are_needed(ticking: Ticking) -> None:
    ticking.live(30)
    ticking.clock.advance(10)
    ticking.leases.tend()
    assert not ticking.leases.may_reap()
    ticking.live(2 * TICK)
    assert not ticking.leases.may_reap()
    ticking.live(TICK)
    assert ticking.leases.may_reap()


def test_after_an_error_of_the_store_a_process_does_not_reap_for_one_lease(ticking: Ticking) -> None:
    ticking.live(30)
    running = a_running_job(ticking)
    ticking.leases.add(running)
    ticking.store.down = {"beat"}
    ticking.live(TICK)
    ticking.leases.drop(running)
    ticking.store.down = set()
    ticking.live(LEASE - TICK)
    assert not ticking.leases.may_reap()
    ticking.live(2 * TICK)
    assert ticking.leases.may_reap()


def test_a_wall_clock_that_jumps_disturbs_no_tick(ticking: Ticking) -> None:
    ticking.live(30)
    for jump in (3600, -7200):
        ticking.clock.jump(jump)
        ticking.live(TICK)
        assert ticking.leases.may_reap()


# --- the thread -----------------------------------------------------------------------------------------------------


def test_the_monitor_ticks_if_no_thread_can_be_started(ticking: Ticking, caplog: pytest.LogCaptureFixture) -> None:
    planned = ticking.leases.tend()
    assert planned is not None
    assert planned - ticking.clock.monotonic() == pytest.approx(TICK)
    assert ["can't be started" in record.getMessage() for record in caplog.get_records("setup")] == [True]
    ticking.leases.add(a_running_job(ticking))
    ticking.clock.advance(TICK)
    ticking.leases.tend()
    assert ticking.store.count("beat") == 1


def test_an_idle_thread_gives_back_its_connection_once(ticking: Ticking) -> None:
    ticking.live(100)
    assert ticking.left == 1
    running = a_running_job(ticking)
    ticking.leases.add(running)
    ticking.live(TICK)
    ticking.leases.drop(running)
    ticking.live(100)
    assert ticking.left == 2


def test_the_thread_renews_by_itself_and_ends_at_close() -> None:
    clock, beaten = FakeClock(), threading.Event()
    store: Any = FaultyStore(MemoryStore(clock=clock))
    store.before["beat"] = beaten.set
    left = threading.Event()
    leases = Leases(store, clock, LEASE, left.set)
    ticking = Ticking()
    leases.add(a_running_job(ticking))
    assert beaten.wait(DEADLINE)
    assert leases.tend() is None
    leases.close(DEADLINE)
    assert left.is_set()
    assert leases._passes._thread is not None
    assert not leases._passes._thread.is_alive()


def test_an_outage_of_the_store_is_one_warning_for_all_threads_of_a_process(
    world: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    world.run()
    caplog.clear()
    world.store.broken = dict.fromkeys(("beat", "take_due", "find"), StoreUnavailable("refused"))
    for _ in range(30):
        world.clock.advance(1)
        engine_of(world.jobs).leases.tick()
        world.monitor.step()
    assert world.store.count("beat") > 2
    assert world.store.count("take_due") > 2
    assert [record.levelname for record in caplog.records if record.levelno >= logging.WARNING] == ["WARNING"]


def test_a_run_that_is_dead_elsewhere_is_reaped_only_when_its_lease_is_over(world: Bench) -> None:
    running = world.run(retries=1)
    elsewhere = bench(clock=world.clock, store=world.store.store)
    world.clock.advance(LEASE - 0.001)
    elsewhere.monitor.step()
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    world.clock.advance(0.001)
    assert late(world.job(running.job.id)) is Late.DEAD
    elsewhere.step(2)
    assert world.job(running.job.id).run == 2


def test_a_process_that_was_stopped_while_it_looked_for_the_dead_ends_nothing(world: Bench) -> None:
    other = bench(clock=world.clock, store=world.store.store)
    other.leases.is_on_time = None
    running = world.run()
    for _ in range(40):
        world.step(1)
        other.leases.renew_if_due()
        other.step()
    other.store.before["find"] = lambda: world.clock.advance(1.5 * LEASE)  # both processes were stopped
    for _ in range(2):
        other.leases.renew_if_due()
        other.step()
        world.step(1)
    assert "find" not in other.store.before
    assert world.job(running.job.id).status is Status.IN_PROGRESS
