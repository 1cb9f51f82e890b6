"""``on_end``: in a thread of its own, in order, at most once, bounded, and flushed at the end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backjob.jobs import callbacks as module
from backjob.jobs.callbacks import Callbacks
from backjob.model import JobState, Status
from backjob.process import PerProcess
from backjob.worker.outcomes import Outcome
from tests.unit.core import Bench, bench

ROOT = Path(__file__).parents[3]
DEADLINE = 60.0


class Blocking:
    """A callback that waits until the test releases it."""

    def __init__(self) -> None:
        self.has_begun = threading.Event()
        self.release = threading.Event()

    def __call__(self) -> None:
        self.has_begun.set()
        assert self.release.wait(DEADLINE)


@pytest.fixture
def blocking() -> Iterator[Blocking]:
    blocking = Blocking()
    yield blocking
    blocking.release.set()


def test_calls_are_made_in_order_in_one_thread() -> None:
    calls = Callbacks(lambda: None)
    made: list[tuple[int, str]] = []

    def note(n: int) -> None:
        made.append((n, threading.current_thread().name))

    for n in range(100):
        calls.call("job", partial(note, n))
    assert calls.flush(DEADLINE)
    assert made == [(n, "backjob-callbacks") for n in range(100)]


def test_whatever_a_callback_raises_is_logged_and_later_calls_follow(caplog: pytest.LogCaptureFixture) -> None:
    calls = Callbacks(lambda: None)
    made: list[str] = []

    def fail(error: BaseException) -> None:
        raise error

    for error in (ValueError("no"), SystemExit(3), KeyboardInterrupt()):
        calls.call("the-job", partial(fail, error))
    calls.call("job", lambda: made.append("after"))
    assert calls.flush(DEADLINE)
    assert made == ["after"]
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert all("the-job" in record.getMessage() for record in caplog.records)


def test_calls_that_find_1000_waiting_are_dropped_with_an_error(
    blocking: Blocking, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Callbacks(lambda: None)
    made: list[int] = []
    calls.call("first", blocking)
    assert blocking.has_begun.wait(DEADLINE)
    for n in range(1005):
        calls.call(f"job{n}", partial(made.append, n))
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 5
    assert "job1000" in caplog.records[0].getMessage()
    blocking.release.set()
    assert calls.flush(DEADLINE)
    assert made == list(range(1000))


def test_closing_waits_for_the_calls_that_wait_and_later_ones_are_made_at_once() -> None:
    calls = Callbacks(lambda: None)
    made: list[str] = []
    for _ in range(10):
        calls.call("job", lambda: made.append(threading.current_thread().name))
    calls.close(DEADLINE)
    assert made == ["backjob-callbacks"] * 10
    calls.call("job", lambda: made.append(threading.current_thread().name))
    assert made[10:] == [threading.current_thread().name]
    calls.close(DEADLINE)


def test_closing_gives_up_on_a_callback_that_does_not_return(
    blocking: Blocking, caplog: pytest.LogCaptureFixture
) -> None:
    calls = Callbacks(lambda: None)
    made: list[str] = []
    calls.call("first", blocking)
    calls.call("second", lambda: made.append("second"))
    assert blocking.has_begun.wait(DEADLINE)
    calls.close(0.01)
    assert ["2 jobs" in record.getMessage() for record in caplog.records] == [True]
    blocking.release.set()
    assert calls.flush(DEADLINE)
    assert made == []


def test_the_thread_closes_what_it_keeps_when_it_has_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REST", 0.01)
    monkeypatch.setattr(module, "_IDLE", 0.02)
    left: list[str] = []
    has_left = threading.Event()

    def leave() -> None:
        left.append(threading.current_thread().name)
        has_left.set()

    calls = Callbacks(leave)
    for _ in range(3):  # the thread may have ended meanwhile
        has_left.clear()
        calls.call("job", lambda: None)
        assert has_left.wait(DEADLINE)
    assert set(left) == {"backjob-callbacks"}


def test_without_a_thread_calls_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    calls = Callbacks(lambda: None)
    made: list[str] = []
    calls.call("job", lambda: made.append("made"))
    assert made == ["made"]
    calls.close(DEADLINE)


# --- in an application ----------------------------------------------------------------------------------------------


def with_thread(on_end: Any) -> Bench:
    world = bench(on_end=on_end)
    world.engine.calls_back_inline = False
    return world


def test_a_slow_on_end_delays_no_end_no_lease_and_no_delivery(blocking: Blocking) -> None:
    world = with_thread(lambda _state: blocking())
    running = world.run()
    world.engine.worker.end(running, Outcome(200, "OK"))
    assert blocking.has_begun.wait(DEADLINE)
    other = world.run()
    world.step(100)
    assert not other.ended
    world.engine.worker.end(other, Outcome(200, "OK"))
    assert world.job(other.job.id).status is Status.COMPLETED
    blocking.release.set()
    assert world.engine.callbacks.get().flush(DEADLINE)
    assert [state.id for state in world.ended] == [running.job.id, other.job.id]


def test_on_end_is_called_once_whoever_ends_the_job() -> None:
    world = with_thread(lambda _state: None)
    ran, cancelled, undeliverable = world.run(), world.start(), world.start()
    world.engine.worker.end(ran, Outcome(200, "OK"))
    world.jobs.cancel(cancelled)
    world.step()
    world.transport.sent[-1].answer(404, "Not Found")
    world.step()
    world.step(5)
    assert world.engine.callbacks.get().flush(DEADLINE)
    assert sorted(state.id for state in world.ended) == sorted([ran.job.id, cancelled, undeliverable])


def test_without_on_end_there_is_no_thread() -> None:
    world = with_thread(None)
    options: Any = world.engine.options
    object.__setattr__(options, "on_end", None)
    world.engine.callbacks = PerProcess(lambda: pytest.fail("no thread is needed"))
    world.engine.worker.end(world.run(), Outcome(200, "OK"))


def test_a_requeue_is_no_end() -> None:
    ended: list[JobState] = []
    world = with_thread(ended.append)
    world.engine.worker.end(world.run(retries=1), Outcome(500))
    assert world.engine.callbacks.get().flush(DEADLINE)
    assert ended == []


def test_calls_that_wait_are_made_before_the_process_ends() -> None:
    program = """
import threading
from backjob.jobs.callbacks import Callbacks
calls = Callbacks(lambda: None)
begun = threading.Event()
calls.call("one", lambda: (begun.set(), threading.Event().wait(0.2), print("one", flush=True)))
calls.call("two", lambda: print("two", flush=True))
assert begun.wait(20)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["one", "two"]
