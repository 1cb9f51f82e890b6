"""The reports of many runs in one transaction: as complete, ordered and fenced as those that each run writes alone."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, repeat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backjob.errors import JobEnded, StoreUnusable
from backjob.lifecycle import completed
from backjob.model import LONGEST_TAIL, Report, Status
from backjob.protocols import report_all_of
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock
from backjob.worker.running import Running
from tests.unit.core import Bench, bench

_DEADLINE = 60.0
_FOREVER = 10**6

Reports = Sequence[tuple[str, str, Report]]


class Recording(MemoryStore):
    """A store in memory that writes several reports at once, and records how many. It can refuse a text."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.sizes: list[int] = []
        self.refused = ""

    def report(self, job_id: str, token: str, report: Report) -> bool:
        self._check(report)
        return super().report(job_id, token, report)

    def report_all(self, reports: Reports) -> list[bool]:
        self.sizes.append(len(reports))
        for _, _, report in reports:
            self._check(report)
        return [super(Recording, self).report(*each) for each in reports]

    def _check(self, report: Report) -> None:
        if self.refused and self.refused in (report.text or ""):
            raise ValueError("Incorrect string value")


@pytest.fixture
def world() -> Bench:
    clock = FakeClock()
    return bench(clock=clock, store=Recording(clock), error_timeout=_FOREVER, max_output=1 << 22)


@pytest.fixture
def store(world: Bench) -> Recording:
    assert isinstance(world.store.store, Recording)
    return world.store.store


def several(world: Bench, count: int = 3) -> list[Running]:
    """Jobs that run, and have written a first report, so that the monitor writes the next one."""
    runs = [world.run() for _ in range(count)]
    for running in runs:
        running.set_progress(1)
    world.store.calls.clear()
    return runs


def text_of(world: Bench, running: Running) -> str:
    return world.store.store.output(running.job.id, 0, 1 << 22).text


def texts(world: Bench, runs: list[Running]) -> list[str]:
    return [text_of(world, running) for running in runs]


def test_the_reports_of_several_jobs_take_one_write(world: Bench) -> None:
    runs = several(world)
    for number, running in enumerate(runs):
        running.write(f"line {number}\n")
        running.set_text(f"text {number}", 10 + number)
    world.step(0.1)
    assert (world.store.count("report_all"), world.store.count("report")) == (1, 0)
    assert texts(world, runs) == ["line 0\n", "line 1\n", "line 2\n"]
    jobs = [world.job(running.job.id) for running in runs]
    assert [(job.progress, job.status_text) for job in jobs] == [(10, "text 0"), (11, "text 1"), (12, "text 2")]


def test_one_job_alone_and_a_store_without_the_method_use_report(world: Bench) -> None:
    several(world, 1)[0].set_progress(2)
    world.step(0.1)
    assert (world.store.count("report_all"), world.store.count("report")) == (0, 1)
    plain = bench(error_timeout=_FOREVER)
    runs = several(plain)
    for running in runs:
        running.set_progress(2)
    plain.step(0.1)
    assert plain.store.count("report") == 3
    assert [plain.job(running.job.id).progress for running in runs] == [2, 2, 2]


def test_a_batch_has_at_most_a_hundred_jobs(world: Bench, store: Recording) -> None:
    runs = several(world, 230)
    for running in runs:
        running.set_progress(2)
    world.step(0.1)
    assert store.sizes == [100, 100, 30]
    assert {world.job(running.job.id).progress for running in runs} == {2}


def test_a_batch_has_at_most_a_megabyte_and_a_large_output_is_written_alone(world: Bench, store: Recording) -> None:
    runs = several(world, 4)
    world.store.down = {"report"}
    for running, size in zip(runs, (10, 10, 1 << 21, 10), strict=True):
        running.write("x" * size)
    world.store.down = set()
    world.step(1)
    assert store.sizes == [3, 1]
    assert [len(text) for text in texts(world, runs)] == [10, 10, 1 << 21, 10]


def test_output_keeps_its_order_between_the_action_and_the_batches(world: Bench) -> None:
    runs = several(world)
    for number in range(200):
        for running in runs:
            running.write(f"{number}\n")
        world.clock.advance(0.03)
        world.monitor.step()
    for running in runs:
        running.conclude(completed())
        assert text_of(world, running).split() == [str(number) for number in range(200)]
    assert world.store.count("report_all") > 10


def test_a_run_whose_own_thread_writes_just_now_delays_no_other(world: Bench) -> None:
    busy, *others = runs = several(world)
    for running in runs:
        running.set_progress(2)
    with busy._writing:
        world.step(0.1)
        assert [world.job(running.job.id).progress for running in runs] == [1, 2, 2]
        assert world.monitor._writeback.next_event() == pytest.approx(world.clock.monotonic() + 0.1)
    for running in others:
        running.set_progress(3)
    world.step(0.1)
    assert [world.job(running.job.id).progress for running in runs] == [2, 3, 3]


def test_a_run_that_is_over_learns_it_and_the_others_are_written(world: Bench) -> None:
    first, cancelled, last = several(world)
    assert bench(clock=world.clock, store=world.store.store).jobs.cancel(cancelled.job.id)
    for running in (first, cancelled, last):
        running.write("more")
    world.step(0.1)
    assert texts(world, [first, cancelled, last]) == ["more", "", "more"]
    with pytest.raises(JobEnded):
        cancelled.set_progress(3)
    first.set_progress(3)


def test_a_refused_text_keeps_no_other_job_from_being_written(world: Bench, store: Recording) -> None:
    store.refused = "\U0001f600"
    runs = several(world)
    for _ in range(2):
        for number, running in enumerate(runs):
            running.write(f"line {number}\n")
            running.set_text("a \U0001f600" if number == 1 else f"text {number}")
        world.step(0.1)
    jobs = [world.job(running.job.id) for running in runs]
    assert [job.status_text for job in jobs] == ["text 0", "a \\U0001f600", "text 2"]
    assert texts(world, runs) == [f"line {number}\n" * 2 for number in range(3)]
    assert store.sizes == [3, 2]  # the second time, the refused one is written alone


@pytest.mark.parametrize("error", [StoreUnusable("no"), RuntimeError("no")])
def test_any_other_failure_of_a_batch_lets_each_run_write_alone(world: Bench, error: Exception) -> None:
    runs = several(world)
    world.store.broken = {"report_all": error}
    for running in runs:
        running.write("kept")
    world.step(0.1)
    assert texts(world, runs) == ["kept"] * 3


def test_a_batch_with_too_few_answers_writes_nothing_twice(world: Bench, store: Recording) -> None:
    runs = several(world)
    write: Any = store.report_all
    any_store: Any = store
    any_store.report_all = lambda reports: write(reports)[:1]
    for running in runs:
        running.write("once")
    world.step(0.1)
    assert texts(world, runs) == ["once"] * 3
    for running in runs:
        running.write("!")
    world.step(0.1)
    assert texts(world, runs) == ["once!"] * 3


def test_an_exception_that_ends_a_pass_loses_nothing_and_leaves_no_lock(world: Bench) -> None:
    runs = several(world, 130)
    for running in runs:
        running.write("kept")

    def leave() -> None:
        raise SystemExit

    world.store.before["report_all"] = leave
    with pytest.raises(SystemExit):
        world.step(0.1)
    assert not any(running._writing.locked() for running in runs)
    world.step(1)
    assert texts(world, runs) == ["kept"] * 130


def test_text_that_the_store_prints_is_not_output_and_causes_no_deadlock(world: Bench) -> None:
    runs = several(world)
    for running in runs:
        running.write("mine")
    world.store.before["report_all"] = lambda: print("UPDATE jobs SET …" * 5000)
    done = threading.Event()

    def act() -> None:
        with runs[0].active():
            world.step(0.1)
        done.set()

    threading.Thread(target=act, daemon=True).start()
    assert done.wait(_DEADLINE)
    assert texts(world, runs) == ["mine"] * 3


def test_nothing_is_written_for_runs_that_a_fork_inherited(world: Bench) -> None:
    runs = several(world)
    for running in runs:
        running.write("the parent writes it")
        running._process = -1
    world.step(0.1)
    assert world.store.count("report_all", "report") == 0


def test_the_tail_is_written_once_a_second(store: Recording, world: Bench) -> None:
    short = bench(clock=world.clock, store=store, max_output=5, error_timeout=_FOREVER)
    runs = [short.run() for _ in range(2)]
    short.store.calls.clear()
    for number in range(300):  # 3 s
        for running in runs:
            running.write(f"line {number}\n")
        short.clock.advance(0.01)
        short.monitor.step()
    assert short.store.count("report_all") <= 5
    for running in runs:
        running.write("the last one")
        running.conclude(completed())
        tail = short.jobs.output(running.job.id).tail
        assert tail.endswith("line 299\nthe last one")
        assert len(tail) < LONGEST_TAIL


# --- outages --------------------------------------------------------------------------------------------------------


def test_an_outage_of_a_batch_is_retried_once_a_second(world: Bench) -> None:
    runs = several(world)
    world.store.down = {"report_all", "report"}
    for _ in range(300):
        for running in runs:
            running.write("x")
        world.clock.advance(0.01)
        world.monitor.step()
    assert 3 <= world.store.count("report_all") <= 4
    world.store.down = set()
    world.step(1)
    assert texts(world, runs) == ["x" * 300] * 3


def test_of_the_runs_in_doubt_one_read_tells_that_the_store_is_still_unavailable(world: Bench) -> None:
    runs = several(world)
    world.store.down = {"report_all", "get"}
    for running in runs:
        running.write("x")
    world.step(0.1)
    world.store.calls.clear()
    world.step(1)
    assert (world.store.count("get"), world.store.count("report_all")) == (1, 0)
    world.store.down = set()
    world.step(1)
    assert texts(world, runs) == ["x"] * 3


FATES: Any = {
    "done": (set(), set()),
    "not done": ({"report", "report_all"}, set()),
    "done, answer lost": (set(), {"report", "report_all"}),
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.lists(st.text(st.sampled_from("aä€𝄞\n"), max_size=5), min_size=3, max_size=3),
            st.sampled_from(list(FATES)),
            st.booleans(),
        )
    )
)
def test_output_is_complete_and_not_repeated_whatever_happens_to_each_batch(
    tmp_path_factory: pytest.TempPathFactory, reports: list[tuple[list[str], str, bool]]
) -> None:
    clock = FakeClock()
    directory: Path = tmp_path_factory.mktemp("batches")
    world = bench(clock=clock, store=SQLiteStore(directory / "jobs.db", clock=clock), error_timeout=_FOREVER)
    runs = several(world)
    for lines, fate, reads in reports:
        world.store.down, world.store.lost = FATES[fate]
        if not reads:
            world.store.down = {*world.store.down, "get"}
        for running, line in zip(runs, lines, strict=True):
            running._next_write = clock.monotonic() + 0.1  # the monitor writes it
            running.write(line)
        world.step(1)
    world.store.down, world.store.lost = set(), set()
    for number, running in enumerate(runs):
        running.conclude(completed())
        assert text_of(world, running) == "".join(lines[number] for lines, _, _ in reports)
        assert world.job(running.job.id).status is Status.COMPLETED
    world.store.store.close()


@pytest.mark.parametrize("faults", [False, True])
def test_no_output_and_no_last_progress_is_lost_while_actions_and_the_monitor_write(
    world: Bench, store: Recording, faults: bool
) -> None:
    fates = cycle(FATES.values()) if faults else repeat(FATES["done"])
    runs = several(world, 4)
    world.leases.is_on_time = False  # the monitor's thread advances the clock fast, and renews no leases
    stop = threading.Event()
    before = sys.getswitchinterval()

    def act(running: Running) -> None:
        for number in range(1000):
            running.write(f"{number}\n")
            running.set_progress(number // 10)

    def run_monitor() -> None:
        while not stop.is_set():
            world.store.down, world.store.lost = next(fates)
            world.clock.advance(0.02)
            world.monitor.step()

    monitor = threading.Thread(target=run_monitor)
    sys.setswitchinterval(1e-6)
    try:
        monitor.start()
        with ThreadPoolExecutor(len(runs)) as pool:
            for future in [pool.submit(act, running) for running in runs]:
                future.result(_DEADLINE)
    finally:
        stop.set()
        monitor.join(_DEADLINE)
        sys.setswitchinterval(before)
    world.store.down, world.store.lost = set(), set()
    for number in (1000, 1001):  # the second one is left to the monitor, which may have had nothing to write before
        for running in runs:
            running.write(f"{number}\n")
    for _ in range(2):
        world.step(1)
    assert store.sizes
    for running in runs:
        assert text_of(world, running).split() == [str(number) for number in range(1002)]
        assert world.job(running.job.id).progress == 99


# --- stores in front of others ------------------------------------------------------------------------------------------


def test_a_store_in_front_of_another_has_the_method_if_that_has_it(world: Bench, store: Recording) -> None:
    assert report_all_of(world.engine.store) is not None
    assert report_all_of(bench().engine.store) is None
