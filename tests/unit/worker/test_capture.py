"""Text that an action prints goes to its own job; all other text goes to the original stdout."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from backjob.worker.capture import capture_stdout
from backjob.worker.running import Running, current
from tests.unit.core import Bench, bench

DEADLINE = 20


@pytest.fixture
def world() -> Iterator[Bench]:
    before = sys.stdout
    yield bench()
    sys.stdout = before


def text_of(world: Bench, running: Running) -> str:
    running.flush()
    return world.store.store.output(running.job.id, 0, 1 << 22).text


def test_the_output_of_fifty_threads_is_not_mixed(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [world.run() for _ in range(50)]
    barrier = threading.Barrier(50)

    def act(n: int) -> None:
        with runs[n].active():
            barrier.wait(DEADLINE)
            for line in range(500):
                print(n, line)

    with ThreadPoolExecutor(50) as pool:
        for future in [pool.submit(act, n) for n in range(50)]:
            future.result(DEADLINE)
    for n, running in enumerate(runs):
        assert text_of(world, running).splitlines() == [f"{n} {line}" for line in range(500)]
    assert capsys.readouterr().out == ""


def test_the_output_of_fifty_tasks_is_not_mixed(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [world.run() for _ in range(50)]

    async def act(n: int) -> None:
        with runs[n].active():
            for line in range(50):
                print(n, line)
                await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*[act(n) for n in range(50)])

    asyncio.run(all_of_them())
    for n, running in enumerate(runs):
        assert text_of(world, running).splitlines() == [f"{n} {line}" for line in range(50)]
    assert capsys.readouterr().out == ""


def test_text_printed_outside_of_a_job_goes_to_the_original_stdout(
    world: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    running = world.run()
    print("before")
    with running.active():
        print("inside", flush=True)
        sys.stdout.writelines(["a", "b"])
    print("after")
    assert capsys.readouterr().out == "before\nafter\n"
    assert text_of(world, running) == "inside\nab"


def test_another_thread_is_not_captured(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    running = world.run()
    with running.active():
        thread = threading.Thread(target=print, args=("elsewhere",))
        thread.start()
        thread.join(DEADLINE)
    assert capsys.readouterr().out == "elsewhere\n"
    assert text_of(world, running) == ""


def test_an_exception_ends_the_capture(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    running = world.run()
    with pytest.raises(ZeroDivisionError), running.active():
        raise ZeroDivisionError
    print("after")
    assert current.get() is None
    assert capsys.readouterr().out == "after\n"


def test_a_job_within_a_job_has_its_own_output(world: Bench) -> None:
    outer, inner = world.run(), world.run()
    with outer.active():
        print("outer")
        with inner.active():
            print("inner")
        print("outer again")
    assert text_of(world, outer) == "outer\nouter again\n"
    assert text_of(world, inner) == "inner\n"


def test_the_proxy_is_installed_once(world: Bench) -> None:
    capture_stdout(lambda text: False)
    proxy = sys.stdout
    world.run()
    capture_stdout(lambda text: True)
    assert sys.stdout is proxy


def test_the_proxy_stays_alive_when_stdout_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    capture_stdout(lambda _: True)
    proxy = weakref.ref(sys.stdout)
    sys.stdout = io.StringIO()
    # print() holds no reference to its stream: without the proxy, the next write would crash the interpreter.
    assert proxy() is not None


def test_an_action_may_redirect_stdout_itself(world: Bench) -> None:
    running = world.run()
    inside = io.StringIO()
    with running.active():
        with contextlib.redirect_stdout(inside):
            print("to the file")
        print("to the job")
    assert inside.getvalue() == "to the file\n"
    assert text_of(world, running) == "to the job\n"


def test_the_proxy_has_the_attributes_of_the_original_stream(world: Bench) -> None:
    before = sys.stdout
    with world.run().active():
        assert sys.stdout.encoding == before.encoding
        assert sys.stdout.isatty() == before.isatty()
        assert sys.stdout.write("abc") == 3


def test_a_process_without_a_stdout_still_captures_output(world: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    running = world.run()
    with running.active():
        print("captured")
    print("lost", flush=True)
    assert text_of(world, running) == "captured\n"


def test_a_generator_prints_to_the_job_that_runs_it(world: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> Iterator[str]:
        print("first")
        yield "a"
        print("second")
        yield "b"

    running = world.run()
    chunks = body()
    with running.active():
        next(chunks)
    print("between")
    with running.active():
        next(chunks)
    assert capsys.readouterr().out == "between\n"
    assert text_of(world, running) == "first\nsecond\n"
