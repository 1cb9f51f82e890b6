"""State for each process, threads that work in passes, and the log lines of an outage."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from attrs import define, field

from backjob.model import Status
from backjob.process import Passes, PerProcess, in_event_loop
from backjob.worker.outcomes import Outcome
from tests.unit.core import NOT_SENT, bench

DEADLINE = 60.0
ALL = {"create", "get", "output", "change", "report", "take_due", "beat", "find", "purge"}


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.slow
def test_a_process_logs_an_outage_once_a_minute_however_many_jobs_and_threads_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = bench(error_timeout=600)
    running = [world.run() for _ in range(8)]
    ending = [world.run() for _ in range(8)]
    for _ in range(8):
        world.start()
    world.step()
    caplog.clear()
    caplog.set_level(logging.DEBUG, "backjob")
    world.store.down = ALL
    for job in ending:
        world.engine.worker.end(job, Outcome(200, "OK"))
    for sent in world.transport.sent:
        if not sent.future.done():
            sent.fail(NOT_SENT)
    for second in range(150):
        for job in running:
            job.write(f"{second}\n")
        world.step(1)
    assert len(warnings_in(caplog)) == 3
    assert "locked" in warnings_in(caplog)[0]
    assert sum(record.levelno == logging.INFO for record in caplog.records) == len(running + ending)
    assert any(record.levelno == logging.DEBUG for record in caplog.records)
    caplog.clear()
    world.store.down = set()
    for _ in range(30):
        world.step(1)
    assert warnings_in(caplog) == []
    assert {world.job(job.job.id).status for job in ending} == {Status.COMPLETED}
    assert {world.job(job.job.id).output_size for job in running} == {len("".join(f"{n}\n" for n in range(150)))}
    caplog.clear()
    world.store.down = ALL
    world.step(60)
    assert len(warnings_in(caplog)) == 1


def test_ends_that_cannot_be_written_are_logged_once_a_minute_and_never_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = bench(error_timeout=10)
    running = [world.run() for _ in range(3)]
    world.store.down = {"change"}
    for job in running:
        world.engine.worker.end(job, Outcome(200, "OK"))
    for _ in range(119):
        world.step(1)
    assert len(warnings_in(caplog)) == 2
    assert "can't be written yet" in warnings_in(caplog)[0]
    world.store.down = set()
    world.step(1)
    assert {world.job(job.job.id).status for job in running} == {Status.COMPLETED}


# --- state for each process -----------------------------------------------------------------------------------------


def test_a_forked_child_makes_its_own_value_and_abandons_the_parents_once() -> None:
    abandoned: list[object] = []
    values = PerProcess(object, abandoned.append)
    mine = values.get()
    assert values.get() is mine
    child = os.fork()
    if child == 0:
        is_right = values.get() is not mine and values.get() is values.get() and abandoned == [mine]
        os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (values.get(), abandoned) == (mine, [])


# --- a thread that works in passes ----------------------------------------------------------------------------------


@define
class Work:
    """Items to be done by a `Passes`, which is idle when there are none."""

    items: deque[Callable[[], None]] = field(factory=deque)
    done: threading.Event = field(factory=threading.Event)
    ended: threading.Event = field(factory=threading.Event)

    def step(self) -> float:
        while self.items:
            self.items.popleft()()
        self.done.set()
        return 60.0

    def passes(self, **options: Any) -> Passes:
        return Passes("backjob-test", self.step, at_end=self.ended.set, **options)


def test_a_pass_starts_when_the_thread_is_woken_and_the_thread_ends_at_close() -> None:
    work = Work()
    passes = work.passes()
    passes.ensure_running()
    assert work.done.wait(DEADLINE)
    work.done.clear()
    passes.wake()
    assert work.done.wait(DEADLINE)
    assert not work.ended.is_set()
    assert passes.close(DEADLINE)
    assert work.ended.is_set()
    work.done.clear()
    passes.ensure_running()
    passes.wake()
    assert not work.done.wait(0.05)


def test_close_returns_whether_there_was_a_thread() -> None:
    assert not Work().passes().close(DEADLINE)


def test_a_failing_pass_is_logged_and_followed_by_another(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    passes = work.passes()

    def fail() -> None:
        passes.wake()
        raise SystemExit(1)

    work.items.append(fail)
    passes.ensure_running()
    assert work.done.wait(DEADLINE)
    passes.close(DEADLINE)
    assert "a pass of the thread backjob-test failed" in caplog.text


@pytest.mark.parametrize("error", [MemoryError(), SystemExit(1)])
def test_a_thread_survives_a_pass_whose_failure_can_not_even_be_logged(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    steps, enough = deque([error, MemoryError()]), threading.Event()

    def step() -> float:
        if steps:
            raise steps.popleft()
        enough.set()
        return 60.0

    def log(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("backjob.process._log.exception", log)
    monkeypatch.setattr("backjob.process.RETRY_PAUSE", 0.0)
    passes = Passes("test", step, at_end=lambda: None)
    passes.ensure_running()
    assert enough.wait(DEADLINE)
    assert passes.close(DEADLINE)


def test_a_thread_that_memory_was_too_short_for_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, again, steps = threading.Event(), threading.Event(), list[threading.Thread]()

    def step() -> float:
        steps.append(threading.current_thread())
        if len(steps) > 1:
            again.set()
        return 60.0

    def wait(_pause: float) -> None:
        raise MemoryError

    monkeypatch.setattr(threading, "excepthook", lambda _: ended.set())
    passes = Passes("test", step, at_end=lambda: None)
    whole, broken = passes._woken, threading.Event()
    monkeypatch.setattr(broken, "wait", wait)
    passes._woken = broken
    passes.ensure_running()
    assert ended.wait(DEADLINE)
    steps[0].join(DEADLINE)
    passes._woken = whole
    passes.ensure_running()
    assert again.wait(DEADLINE)
    assert passes.close(DEADLINE)


def test_an_idle_thread_ends_and_no_work_is_lost_between_its_end_and_the_next_start() -> None:
    work, results = Work(), list[int]()
    passes = work.passes(is_idle=lambda: not work.items)
    for number in range(300):
        work.items.append(partial(results.append, number))
        passes.ensure_running()
        passes.wake()
    deadline = time.monotonic() + DEADLINE
    while len(results) < 300:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert results == sorted(results)
    passes.close(DEADLINE)


def test_asyncio_that_another_thread_is_importing_runs_no_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncio", ModuleType("asyncio"))
    assert not in_event_loop()
