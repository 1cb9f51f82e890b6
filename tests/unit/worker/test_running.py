"""Reports of an action: coalesced, in order, without loss; and `JobEnded` once the job has ended."""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import cycle, repeat
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from backjob.errors import InvalidRequest, JobEnded, JobFailed, NoCurrentRequest, StoreUnavailable
from backjob.lifecycle import completed, failed
from backjob.model import LONGEST_STATUS_TEXT, LONGEST_TAIL, Status
from backjob.process import in_event_loop
from backjob.worker.outcomes import Outcome
from backjob.worker.running import Running, current
from backjob.worker.unwritten import percent
from tests.unit.core import Bench, bench

DEADLINE = 60.0


@pytest.fixture
def world() -> Bench:
    return bench()


@pytest.fixture
def running(world: Bench) -> Running:
    running = world.run()
    world.store.calls.clear()
    return running


def text_of(world: Bench, running: Running) -> str:
    return world.store.store.output(running.job.id, 0, 1 << 22).text


def stored(world: Bench, running: Running) -> int:
    return world.job(running.job.id).progress


# --- progress as a number -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "total", "shown"),
    [
        (0, None, 0),
        (49.5, None, 50),
        (99.4, None, 99),
        (101, None, 100),
        (-3, None, 0),
        (math.inf, None, 100),
        (-math.inf, None, 0),
        (10**400, None, 100),
        (-(10**400), None, 0),
        (True, None, 1),
        (Decimal("12.5"), None, 13),
        (3, 7, 43),
        (7, 7, 100),
        (8, 7, 100),
        (0, 0, 100),
        (5, 0, 100),
        (1, 2.0, 50),
        (10**400, 2 * 10**400, 50),
        (1, 10**400, 0),
        (10**400, 0.5, 100),
        (-(10**400), 0.5, 0),
        (Decimal(1), Decimal(4), 25),
        (3, -7, 0),
    ],
)
def test_progress_is_rounded_and_kept_within_0_and_100(progress: Any, total: Any, shown: int) -> None:
    assert percent(progress, total) == shown


@pytest.mark.parametrize(
    ("progress", "total"),
    [(math.nan, None), ("x", None), (None, None), ([], 3), (1, "x"), (math.inf, math.inf), (1, math.nan)],
)
def test_progress_must_be_a_number(progress: Any, total: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        percent(progress, total)
    assert caught.value.argument == "progress"


@given(st.floats(allow_nan=False) | st.integers(), st.none() | st.floats(allow_nan=False) | st.integers())
def test_any_two_numbers_give_a_percentage_or_an_error(progress: float, total: float | None) -> None:
    try:
        shown = percent(progress, total)
    except InvalidRequest:
        assert math.isinf(progress)
        return
    assert shown in range(101)


# --- coalescing -----------------------------------------------------------------------------------------------------


def test_the_first_report_is_written_at_once_and_later_ones_are_coalesced(world: Bench, running: Running) -> None:
    running.set_progress(1)
    assert stored(world, running) == 1
    for progress in range(2, 50):
        running.set_progress(progress)
    assert stored(world, running) == 1
    assert world.store.count("report") == 1


def test_a_loop_writes_at_most_ten_times_a_second(world: Bench, running: Running) -> None:
    for n in range(1000):
        running.set_progress(n // 10)
        world.clock.advance(0.001)
        world.monitor.step()
    assert 9 <= world.store.count("report") <= 11


def test_the_monitor_writes_the_last_state_of_a_silent_action(world: Bench, running: Running) -> None:
    running.set_progress(1)
    running.set_progress(2)
    running.write("last words")
    wait = world.step()
    assert 0 < wait <= 0.1
    assert stored(world, running) == 1
    world.step(wait)
    assert (stored(world, running), text_of(world, running)) == (2, "last words")


def test_an_unwritten_report_wakes_the_monitor(world: Bench, running: Running) -> None:
    world.step()
    running.set_progress(1)
    world.monitor._passes._woken.clear()
    running.set_progress(2)
    assert world.monitor._passes._woken.is_set()


def test_a_report_does_not_wake_a_monitor_that_already_knows_the_job(world: Bench, running: Running) -> None:
    running.set_text("1")
    running.set_progress(1)
    world.step()
    world.monitor._passes._woken.clear()
    world.clock.advance(0.01)
    running.set_text("2")
    running.set_progress(2)
    assert not world.monitor._passes._woken.is_set()
    world.step(world.step(0.09))
    assert stored(world, running) == 2


def test_a_text_in_every_row_is_coalesced_like_progress(world: Bench, running: Running) -> None:
    with running.active():
        for row in range(1000):
            world.jobs.update(row, f"row {row}", total=1000)
            world.clock.advance(0.001)
            world.monitor.step()
    assert 9 <= world.store.count("report") <= 11
    world.step(0.1)
    job = world.job(running.job.id)
    assert (job.progress, job.status_text) == (100, "row 999")


def test_the_first_text_after_a_pause_is_written_at_once_with_everything_pending(
    world: Bench, running: Running
) -> None:
    running.set_progress(1)
    running.write("one\n")
    running.set_progress(2)
    running.set_text("Chugging along")
    assert world.job(running.job.id).status_text is None
    world.step(0.1)
    job = world.job(running.job.id)
    assert (job.progress, job.status_text, text_of(world, running)) == (2, "Chugging along", "one\n")
    world.clock.advance(0.1)
    running.set_text("and on", 70)
    assert (world.job(running.job.id).status_text, stored(world, running)) == ("and on", 70)


def test_a_run_that_writes_itself_is_on_the_monitors_list_once(world: Bench, running: Running) -> None:
    running.set_progress(1)
    for number in range(100):
        running.write(f"{number}\n")
        running.flush()
    assert list(world.monitor._writeback._incoming) == [running]
    life = world.job(running.job.id).version
    world.step(0.1)
    assert world.job(running.job.id).version == life  # nothing was left to write
    running.set_progress(2)
    running.set_progress(3)
    world.step(0.1)
    assert stored(world, running) == 3


def test_output_that_is_due_at_once_in_an_event_loop_is_written_before_what_is_due_later(
    world: Bench, running: Running
) -> None:
    running.set_progress(1)
    running.set_progress(2)  # the monitor writes it after 0.1 s
    assert world.step() > 0

    async def act() -> None:
        running.write("x" * 70_000)

    asyncio.run(act())
    assert text_of(world, running) == ""
    world.step()
    assert (len(text_of(world, running)), stored(world, running)) == (70_000, 2)


def test_async_texts_are_coalesced_too(world: Bench, running: Running) -> None:
    async def act() -> None:
        for row in range(100):
            await world.jobs.aupdate(status_text=f"row {row}")

    with running.active():
        asyncio.run(act())
    assert world.store.count("report") == 1
    world.step(0.1)
    assert world.job(running.job.id).status_text == "row 99"


def test_output_keeps_its_order_in_the_action_and_the_monitor(world: Bench, running: Running) -> None:
    for n in range(300):
        running.write(f"{n}\n")
        if n % 7 == 0:
            world.clock.advance(0.05)
        if n % 11 == 0:
            world.monitor.step()
        if n % 50 == 0:
            running.set_text(str(n))
    running.conclude(completed())
    assert text_of(world, running).split() == [str(n) for n in range(300)]


def test_much_output_is_written_before_the_interval_is_over(world: Bench, running: Running) -> None:
    running.write("a")
    running.write("b" * 70_000)
    assert len(text_of(world, running)) == 70_001


def test_characters_that_no_store_can_keep_are_replaced(world: Bench, running: Running) -> None:
    running.write("a\0\udcffb")
    running.set_text("\0\ud800")
    running.flush()
    assert text_of(world, running) == "a\ufffd\ufffdb"
    assert world.job(running.job.id).status_text == "\ufffd\ufffd"


# --- the limit of output --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "kept"), [(0, ""), (1, "a"), (2, "a"), (3, "aä"), (5, "aä"), (6, "aä€"), (7, "aä€!")]
)
def test_output_past_the_limit_is_cut_between_characters_and_flagged(limit: int, kept: str) -> None:
    world = bench(max_output=limit)
    running = world.run()
    running.write("aä€!")
    running.write("more")
    running.conclude(completed())
    output = world.jobs.output(running.job.id)
    assert (output.text, output.truncated) == (kept, True)


def test_of_output_past_the_limit_the_end_is_kept_as_the_tail() -> None:
    world = bench(max_output=10)
    running = world.run()
    for number in range(30_000):
        running.write(f"line {number}\n")
    running.conclude(completed())
    output = world.jobs.output(running.job.id)
    assert (output.text, output.truncated) == ("line 0\nlin", True)
    assert len(output.tail.encode()) <= LONGEST_TAIL
    assert len(output.tail) > LONGEST_TAIL - 20
    assert output.tail.endswith("\nline 29998\nline 29999\n")


def test_the_tail_continues_where_the_beginning_ends_and_is_cut_between_characters() -> None:
    world = bench(max_output=3)
    running = world.run()
    running.write("aä€" + "€" * 30_000)
    running.conclude(completed())
    output = world.jobs.output(running.job.id)
    assert output.text == "aä"
    assert output.tail == "€" * (LONGEST_TAIL // 3)
    short = world.run()
    short.write("aä€!")
    short.write("more")
    short.conclude(completed())
    assert world.jobs.output(short.job.id).tail == "€!more"


def test_the_tail_is_written_once_a_second_and_at_the_end() -> None:
    world = bench(max_output=5)
    running = world.run()
    world.store.calls.clear()
    for number in range(300):  # 3 s
        running.write(f"line {number}\n")
        world.clock.advance(0.01)
        world.monitor.step()
    assert world.store.count("report") <= 5
    assert "line 15" in world.jobs.output(running.job.id).tail
    running.write("the last one")
    running.conclude(completed())
    assert world.jobs.output(running.job.id).tail.endswith("line 299\nthe last one")


def test_the_monitor_writes_the_tail_of_a_silent_action() -> None:
    world = bench(max_output=5)
    running = world.run()
    running.write("beginning and end")
    running.write(", the very end")
    for _ in range(12):
        world.step(0.1)
    assert world.jobs.output(running.job.id).tail == "ning and end, the very end"


def test_the_tail_survives_an_outage() -> None:
    world = bench(max_output=1)
    running = world.run()
    world.store.down = {"report"}
    running.write("abc")
    world.step(1)
    world.store.down = set()
    running.write("d")
    world.step(1)
    world.step(1)
    assert world.jobs.output(running.job.id).tail == "bcd"


def test_a_job_without_a_text_shows_the_end_of_its_tail() -> None:
    world = bench(max_output=5)
    running = world.run()
    running.write("beginning\nend")
    running.conclude(completed())
    assert world.jobs.status(running.job.id).status_text.endswith("end")


def test_output_exactly_at_the_limit_is_not_flagged() -> None:
    world = bench(max_output=3)
    running = world.run()
    running.write("aä")
    running.conclude(completed())
    assert not world.jobs.output(running.job.id).truncated


def test_dropped_output_is_still_a_sign_of_life() -> None:
    world = bench(max_output=1, error_timeout=5)
    running = world.run()
    for _ in range(20):
        world.step(1)
        running.write("x" * 10)
        world.step()
    assert world.job(running.job.id).status is Status.IN_PROGRESS


# --- signs of life, and the end -------------------------------------------------------------------------------------


def test_signs_of_life_of_several_jobs_take_one_write(world: Bench) -> None:
    several = [world.run(error_timeout=5) for _ in range(4)]
    for running in several:
        running.set_progress(10)
    world.store.calls.clear()
    for _ in range(40):
        world.step(0.5)
        for running in several:
            running.sign_of_life()
    assert {world.job(running.job.id).status for running in several} == {Status.IN_PROGRESS}
    assert 9 <= world.store.count("beat") <= 11
    assert world.store.count("report") == 0


def test_a_sign_of_life_raises_after_another_process_cancelled_the_job(world: Bench, running: Running) -> None:
    other = bench(clock=world.clock, store=world.store.store)
    running.sign_of_life()
    world.step(1)
    assert other.jobs.cancel(running.job.id)
    running.sign_of_life()
    world.step(1)
    world.step(1)
    with pytest.raises(JobEnded):
        running.sign_of_life()


def test_a_report_after_the_end_raises_and_changes_nothing(world: Bench, running: Running) -> None:
    running.set_progress(5)
    world.jobs.cancel(running.job.id)
    before = world.job(running.job.id)
    world.clock.advance(1)
    with pytest.raises(JobEnded):
        running.set_progress(6)
    with pytest.raises(JobEnded):
        running.set_text("on")
    with pytest.raises(JobEnded):
        running.echo("on")
    after = world.job(running.job.id)
    assert (after.progress, after.version) == (before.progress, before.version)


def test_a_report_raises_after_the_monitor_found_the_job_ended(world: Bench, running: Running) -> None:
    running.set_progress(5)
    world.jobs.cancel(running.job.id)
    running.set_progress(6)
    world.step(0.1)
    with pytest.raises(JobEnded):
        running.set_progress(7)


def test_print_after_the_end_is_silent(world: Bench, running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    world.jobs.cancel(running.job.id)
    with running.active():
        print("too late")
        print("far too late")
    assert text_of(world, running) == ""
    assert capsys.readouterr().out == ""


def test_a_flush_after_the_end_changes_nothing(world: Bench, running: Running) -> None:
    running.set_progress(5)
    running.write("x")
    world.store.before["change"] = lambda: None
    assert running.conclude(completed()) is not None
    running.flush()
    assert running.ended


# --- a store that is unavailable -------------------------------------------------------------------------------------------


def test_nothing_is_lost_while_the_store_is_unavailable(
    world: Bench, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    world.store.down = {"report"}
    running.write("one ")
    running.set_progress(30)
    running.set_text("first")
    running.set_text("second")
    running.write("two ")
    for _ in range(5):
        world.step(1)
    assert text_of(world, running) == ""
    world.store.down = set()
    running.write("three")
    world.step(1)
    job = world.job(running.job.id)
    assert (text_of(world, running), job.progress, job.status_text) == ("one two three", 30, "second")


def test_an_unavailable_store_is_retried_once_a_second(world: Bench, running: Running) -> None:
    world.store.down = {"report"}
    for _ in range(500):
        running.write("x" * 1000)
        world.clock.advance(0.01)
        world.monitor.step()
    assert world.store.count("report") <= 7


def test_the_end_is_written_only_after_the_last_output(world: Bench, running: Running) -> None:
    running.write("one ")
    world.store.down = {"report"}
    running.write("two")
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status is Status.IN_PROGRESS
    world.store.down = set()
    world.step(1)
    assert world.job(running.job.id).status is Status.COMPLETED
    assert text_of(world, running) == "one two"


def test_the_truncation_flag_survives_an_outage() -> None:
    world = bench(max_output=2)
    running = world.run()
    world.store.down = {"report"}
    running.write("abc")
    world.store.down = set()
    world.step(1)
    assert world.jobs.output(running.job.id).truncated
    assert text_of(world, running) == "ab"


def test_text_that_the_store_prints_is_not_output_and_causes_no_deadlock(world: Bench, running: Running) -> None:
    def chatty() -> None:
        world.clock.advance(1)
        print("UPDATE jobs SET …")

    done = threading.Event()

    def act() -> None:
        with running.active():
            world.store.before["report"] = chatty
            print("x" * 70_000)
        done.set()

    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    assert done.wait(DEADLINE)
    assert "UPDATE" not in text_of(world, running)


# --- a store whose answers are lost ---------------------------------------------------------------------------------

FATES: Any = {"done": (set(), set()), "not done": ({"report"}, set()), "done, answer lost": (set(), {"report"})}


@given(st.lists(st.tuples(st.text(st.sampled_from("aä€𝄞\n"), max_size=5), st.sampled_from(list(FATES)), st.booleans())))
def test_output_is_complete_and_not_repeated_whatever_happens_to_each_report(
    reports: list[tuple[str, str, bool]],
) -> None:
    world = bench(error_timeout=10**6)
    running = world.run()
    for text, fate, reads in reports:
        world.store.down, world.store.lost = FATES[fate]
        if not reads:
            world.store.down = {*world.store.down, "get"}
        running.write(text)
        world.step(1)
    world.store.down, world.store.lost = set(), set()
    running.conclude(completed())
    assert text_of(world, running) == "".join(text for text, _, _ in reports)


def test_progress_and_text_are_written_again_if_the_answer_was_lost(world: Bench, running: Running) -> None:
    world.store.lost = {"report"}
    running.set_text("half way", 50)
    running.set_progress(60)
    world.store.lost = set()
    world.step(1)
    job = world.job(running.job.id)
    assert (job.progress, job.status_text) == (60, "half way")


def test_a_confirmed_report_causes_no_read(world: Bench, running: Running) -> None:
    for n in range(10):
        running.write(f"{n}")
        world.step(1)
    assert world.store.count("report") == 10
    assert world.store.count("get") == 0


def test_the_truncation_flag_survives_a_lost_answer() -> None:
    world = bench(max_output=2)
    running = world.run()
    world.store.lost = {"report"}
    running.write("abc")
    world.store.lost = set()
    world.step(1)
    assert (text_of(world, running), world.jobs.output(running.job.id).truncated) == ("ab", True)


@pytest.mark.parametrize("how", ["cancelled", "purged"])
def test_nothing_is_written_to_a_job_that_ended_while_a_report_was_in_doubt(
    world: Bench, running: Running, how: str
) -> None:
    world.store.lost = {"report"}
    running.write("one ")
    world.store.lost = set()
    world.jobs.cancel(running.job.id)
    if how == "purged":
        world.clock.advance(100)
        world.store.store.purge(1, 1)
    running.write("two ")
    world.step(1)
    with pytest.raises(JobEnded):
        running.echo("three ")
    assert text_of(world, running) == ("one " if how == "cancelled" else "")


def test_reports_go_on_after_the_store_lost_confirmed_output(world: Bench, running: Running) -> None:
    store: Any = world.store
    running.write("lost ")
    store.down = {"report"}
    world.clock.advance(1)
    running.write("kept ")
    store.down = set()
    restored = evolve(world.job(running.job.id), output_size=0)
    store.get = lambda job_id: restored
    running.write("on ")
    world.step(1)
    running.write("and on")
    world.step(1)
    assert text_of(world, running) == "lost kept on and on"


@pytest.mark.parametrize("text", ["and done", None])
def test_an_end_whose_answer_was_lost_is_announced_once(world: Bench, running: Running, text: str | None) -> None:
    with running.active():
        world.jobs.finish(text)
    running.write("last words")
    world.store.lost = {"change"}
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status is Status.COMPLETED
    assert world.ended == []
    world.store.lost = set()
    world.step(1)
    assert [(state.id, state.status) for state in world.ended] == [(running.job.id, Status.COMPLETED)]
    for _ in range(5):
        world.step(1)
    assert len(world.ended) == 1


@pytest.mark.parametrize("ends", ["cancel", "fail"])
def test_an_end_in_doubt_is_not_announced_if_another_end_came_first(world: Bench, running: Running, ends: str) -> None:
    with running.active(), pytest.raises(JobFailed):
        world.jobs.fail("our own")
    world.store.down = {"change"}
    world.engine.worker.end(running, Outcome(500))
    world.store.down = set()
    if ends == "cancel":
        world.jobs.cancel(running.job.id)
    else:
        world.jobs.fail("from outside", job_id=running.job.id)
    announced = list(world.ended)
    world.step(1)
    assert len(announced) == 1
    assert world.ended == announced


def test_an_end_that_was_not_written_is_written_later(world: Bench, running: Running) -> None:
    world.store.down = {"change"}
    with pytest.raises(StoreUnavailable):
        running.conclude(completed("done"))
    running.write("last words")
    world.store.down = {"get"}
    with pytest.raises(StoreUnavailable):
        running.conclude(completed("done"))
    world.store.down = set()
    job = running.conclude(completed("done"))
    assert job is not None
    assert (job.status, job.status_text, text_of(world, running)) == (Status.COMPLETED, "done", "last words")


# --- several threads ------------------------------------------------------------------------------------------------


def together(count: int, work: Callable[[int], object]) -> None:
    barrier = threading.Barrier(count)

    def one(n: int) -> None:
        barrier.wait(DEADLINE)
        work(n)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(one, n) for n in range(count)]:
            future.result(DEADLINE)


@pytest.fixture
def eager_switching() -> Any:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_switching")
def test_no_increment_of_eight_threads_is_lost(world: Bench, running: Running) -> None:
    def work(n: int) -> None:
        with running.active():
            for _ in range(120):
                world.jobs.increment(0.1)
                world.jobs.update()

    together(8, work)
    world.step(1)
    assert stored(world, running) == 96


@pytest.mark.usefixtures("eager_switching")
def test_the_last_value_is_always_written(world: Bench) -> None:
    stop = threading.Event()
    runs = [world.run(error_timeout=10**6) for _ in range(100)]

    def run_monitor() -> None:
        while not stop.is_set():
            world.clock.advance(0.05)
            world.monitor.step()

    monitor_thread = threading.Thread(target=run_monitor)
    monitor_thread.start()
    try:
        for running in runs:
            for progress in range(78):
                running.set_progress(progress)
    finally:
        stop.set()
        monitor_thread.join(DEADLINE)
    for _ in range(3):
        world.step(1)
    assert {stored(world, running) for running in runs} == {77}


@pytest.mark.usefixtures("eager_switching")
@pytest.mark.parametrize("faults", [False, True])
def test_no_output_and_no_last_progress_of_several_threads_is_lost(world: Bench, faults: bool) -> None:
    fates = cycle(FATES.values()) if faults else repeat(FATES["done"])
    running = world.run(error_timeout=10**6)  # the monitor thread advances the clock fast
    world.leases.is_on_time = False  # and renews no leases
    stop = threading.Event()

    def work(n: int) -> None:
        for i in range(200):
            running.write(f"{n}:{i}\n")
            running.set_progress(50)

    def run_monitor() -> None:
        while not stop.is_set():
            world.store.down, world.store.lost = next(fates)
            world.clock.advance(0.02)
            world.monitor.step()

    monitor_thread = threading.Thread(target=run_monitor)
    monitor_thread.start()
    try:
        together(6, work)
    finally:
        stop.set()
        monitor_thread.join(DEADLINE)
    world.store.down, world.store.lost = set(), set()
    running.set_progress(51)
    world.step(1)
    world.step(1)
    lines = text_of(world, running).split()
    assert len(lines) == 1200
    for n in range(6):
        mine = [line for line in lines if line.startswith(f"{n}:")]
        assert mine == [f"{n}:{i}" for i in range(200)]
    assert stored(world, running) == 51


def test_a_value_set_while_another_is_being_written_is_written_next(world: Bench, running: Running) -> None:
    pending: list[int] = []

    class Racing(Running):
        """Another thread sets a value at the worst moment: right before the flag is cleared."""

        @property
        def _is_dirty(self) -> bool:
            return bool(self.__dict__.get("dirty"))

        @_is_dirty.setter
        def _is_dirty(self, value: bool) -> None:
            if not value and pending:
                assert not self.note_progress(pending.pop())
            self.__dict__["dirty"] = value

    anything: Any = running
    anything.__dict__.pop("_is_dirty")
    anything.__class__ = Racing
    running.set_progress(1)
    running.set_progress(2)
    pending.append(77)
    world.step(0.1)
    world.step(0.1)
    assert not pending
    assert stored(world, running) == 77


def test_only_one_caller_has_to_write(running: Running) -> None:
    assert running.note_progress(1)
    assert not running.note_progress(2)
    assert not running.note_life()


def test_only_one_of_several_threads_that_report_at_once_writes(world: Bench, running: Running) -> None:
    together(8, running.set_progress)
    assert world.store.count("report") == 1
    world.step(0.1)
    assert stored(world, running) == running.progress


def test_a_bound_function_reports_to_its_job_from_another_thread(world: Bench, running: Running) -> None:
    jobs = world.jobs

    def work(row: int) -> int:
        jobs.update(row)
        print(f"row {row}")
        return row * 2

    with ThreadPoolExecutor(1) as pool:
        with running.active():
            assert pool.submit(jobs.bind(work), 21).result(DEADLINE) == 42
        assert pool.submit(lambda: jobs.job_id).result(DEADLINE) is None
    running.flush()
    assert (stored(world, running), text_of(world, running)) == (21, "row 21\n")
    assert jobs.bind(work) is work


# --- increments -----------------------------------------------------------------------------------------------------


def test_small_increments_add_up(world: Bench, running: Running) -> None:
    with running.active():
        for _ in range(1000):
            world.jobs.increment(0.1)
    assert running.progress == 100


def test_increments_start_from_the_last_update(world: Bench, running: Running) -> None:
    with running.active():
        world.jobs.increment(30.4)
        world.jobs.update(10)
        world.jobs.increment(5)
        assert running.progress == 15
        world.jobs.increment(-100)
        assert running.progress == 0
        world.jobs.increment(10**400)
        assert running.progress == 100


@pytest.mark.parametrize("amount", [math.nan, "x", None])
def test_an_increment_must_be_a_number(world: Bench, running: Running, amount: Any) -> None:
    with running.active(), pytest.raises(InvalidRequest):
        world.jobs.increment(amount)


# --- the facade inside an action ------------------------------------------------------------------------------------


def test_update_takes_any_of_progress_total_and_text(world: Bench, running: Running) -> None:
    with running.active():
        world.jobs.update(20)
        assert running.progress == 20
        world.jobs.update(3, total=7)
        assert running.progress == 43
        world.jobs.update(60, "Chugging along")
        world.jobs.update(status_text="Nearly")
        world.jobs.update()
        assert running.progress == 60
        world.jobs.update(250)
        assert running.progress == 100
        with pytest.raises(InvalidRequest):
            world.jobs.update(math.nan)
    world.step(0.1)
    assert world.job(running.job.id).status_text == "Nearly"


def test_track_reports_progress_and_ends_at_100(world: Bench, running: Running) -> None:
    with running.active():
        seen = [(item, running.progress) for item in world.jobs.track([5, 6, 7, 8], "Reading")]
    assert [item for item, _ in seen] == [5, 6, 7, 8]
    assert [progress for _, progress in seen][:2] == [0, 25]
    assert running.progress == 100
    world.step(0.1)
    assert world.job(running.job.id).status_text == "Reading"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10, 99, 1000])
def test_track_always_ends_at_100(world: Bench, running: Running, count: int) -> None:
    with running.active():
        assert list(world.jobs.track(range(count))) == list(range(count))
    assert running.progress == 100


def test_track_without_a_length_only_gives_signs_of_life(world: Bench, running: Running) -> None:
    running.set_progress(30)
    world.step(1)
    world.store.calls.clear()
    with running.active():
        for _ in world.jobs.track(iter("abc")):
            world.step(1)
    world.step(1)
    assert running.progress == 30
    assert world.store.count("beat") >= 1


@pytest.mark.parametrize(("total", "progress"), [(8, 50), (2, 100), (-5, 0), (0, 0)])
def test_track_takes_an_explicit_total(world: Bench, running: Running, total: int, progress: int) -> None:
    with running.active():
        list(world.jobs.track(iter("abcd"), total=total))
    assert running.progress == progress


def test_breaking_out_of_a_tracked_loop_keeps_its_progress(world: Bench, running: Running) -> None:
    with running.active():
        for item in world.jobs.track(range(4)):
            if item == 2:
                break
    assert running.progress < 100


def test_outside_of_a_job_all_calls_are_harmless(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = world.jobs
    jobs.update(math.nan)
    jobs.increment("x")  # type: ignore[arg-type]
    assert list(jobs.track([1, 2])) == [1, 2]
    jobs.echo("shown")
    assert jobs.finish("done") == ""
    assert (jobs.is_background, jobs.job_id) == (False, None)
    assert capsys.readouterr().out == "shown"
    with pytest.raises(NoCurrentRequest):
        jobs.fail("no")
    assert not world.store.calls


def test_an_action_belongs_to_one_backjob_only(world: Bench, running: Running) -> None:
    other = bench().jobs
    with running.active():
        other.update(50)
        assert (other.is_background, world.jobs.is_background) == (False, True)
    assert running.progress == 0


def test_fail_ends_the_action_with_its_text(world: Bench, running: Running) -> None:
    with running.active(), pytest.raises(JobFailed) as caught:
        world.jobs.fail("a\0b")
    assert (caught.value.text, running.error) == ("a\ufffdb", failed("a\ufffdb"))


def test_the_first_finish_counts_with_the_result_as_it_was(world: Bench, running: Running) -> None:
    result = {"rows": [1]}
    with running.active():
        assert world.jobs.finish("done", result) == ""
        world.jobs.finish("again")
    result["rows"].append(math.nan)  # type: ignore[arg-type]
    world.engine.worker.end(running, Outcome(200, "OK"))
    job = world.job(running.job.id)
    assert (job.status, job.status_text, job.result) == (Status.COMPLETED, "done", {"rows": [1]})


def test_a_long_status_text_is_cut_off_with_an_ellipsis(world: Bench, running: Running) -> None:
    endless = "x" * (LONGEST_STATUS_TEXT + 1)
    with running.active():
        world.jobs.update(status_text=endless)
        assert world.job(running.job.id).status_text == endless[:-1] + " …"
        world.jobs.finish(endless)
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert world.job(running.job.id).status_text == endless[:-1] + " …"


def test_a_large_result_is_rejected(world: Bench, running: Running) -> None:
    with running.active(), pytest.raises(InvalidRequest, match=r"^result: "):
        world.jobs.finish(result="x" * (1 << 20))


@pytest.mark.parametrize("result", [math.nan, object(), {1j: 2}, {(): 1}])
def test_a_result_that_is_not_json_is_rejected(world: Bench, running: Running, result: Any) -> None:
    with running.active(), pytest.raises(InvalidRequest) as caught:
        world.jobs.finish("done", result)
    assert caught.value.argument == "result"


# --- async ----------------------------------------------------------------------------------------------------------


def test_the_async_methods_report_and_finish(world: Bench, running: Running) -> None:
    jobs = world.jobs

    async def lines() -> AsyncIterator[str]:
        for line in "ab":
            yield line

    async def act() -> None:
        await jobs.aupdate(20)
        await jobs.aincrement(5)
        await jobs.aupdate()
        assert running.progress == 25
        await jobs.aupdate(3, total=4, status_text="three of four")
        assert running.progress == 75
        assert [line async for line in jobs.atrack(lines(), "Reading", total=4)] == ["a", "b"]
        assert running.progress == 50
        assert [line async for line in jobs.atrack("xyz")] == ["x", "y", "z"]
        assert running.progress == 100
        await jobs.afinish("done", {"n": 1})

    with running.active():
        asyncio.run(act())
    assert running.finish == completed("done", {"n": 1})
    world.step(0.1)
    assert world.job(running.job.id).status_text == "Reading"


class _Query:
    """An async iterable whose ``len()`` blocks, like a Django query."""

    def __len__(self) -> int:
        assert not in_event_loop()
        return 2

    async def __aiter__(self) -> AsyncIterator[int]:
        for item in range(2):
            yield item


def test_len_of_an_async_iterable_is_called_outside_the_event_loop(world: Bench, running: Running) -> None:
    async def act() -> list[int]:
        return [running.progress async for _ in world.jobs.atrack(_Query())]

    with running.active():
        assert asyncio.run(act()) == [0, 50]


def test_async_reports_of_many_tasks_take_one_write(world: Bench, running: Running) -> None:
    async def act() -> None:
        await asyncio.gather(*[world.jobs.aincrement(1) for _ in range(50)])

    with running.active():
        asyncio.run(act())
    assert world.store.count("report") == 1
    world.step(0.1)
    assert stored(world, running) == 50


def test_the_async_methods_are_harmless_outside_of_a_job(world: Bench) -> None:
    async def act() -> list[int]:
        await world.jobs.aupdate(5)
        await world.jobs.aincrement()
        await world.jobs.afinish("x")
        return [item async for item in world.jobs.atrack([1, 2], "text")]

    assert asyncio.run(act()) == [1, 2]
    assert not world.store.calls


def test_an_async_report_after_the_end_raises(world: Bench, running: Running) -> None:
    world.jobs.cancel(running.job.id)

    async def act() -> None:
        await world.jobs.aupdate(5)

    with running.active(), pytest.raises(JobEnded):
        asyncio.run(act())


def test_the_context_is_restored_after_an_error(running: Running) -> None:
    with pytest.raises(ZeroDivisionError), running.active():
        raise ZeroDivisionError
    assert current.get() is None
