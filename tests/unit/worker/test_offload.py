"""Blocking calls of an event loop, in threads that are this package's own."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from contextvars import ContextVar
from typing import Any

import pytest

from backjob import process
from backjob.process import DaemonThreads
from backjob.worker import offload
from backjob.worker.offload import to_thread

DEADLINE = 30.0  # s, half of what the programs take that hang

_word: ContextVar[str] = ContextVar("word", default="")


def test_the_result_the_error_and_the_context_pass() -> None:
    async def main() -> None:
        _word.set("mine")
        assert await to_thread(_word.get) == "mine"
        assert await to_thread(int, "11", base=2) == 3
        for error in (ZeroDivisionError, SystemExit, KeyboardInterrupt):

            def fail(error: type[BaseException] = error) -> None:
                raise error

            with pytest.raises(error):
                await to_thread(fail)
        with pytest.raises(RuntimeError, match="StopIteration"):
            await to_thread(next, iter(()))

    asyncio.run(main())


def test_calls_run_although_all_threads_of_asyncio_are_blocked() -> None:
    async def main() -> None:
        free = threading.Event()
        blocked = [asyncio.create_task(asyncio.to_thread(free.wait, DEADLINE)) for _ in range(40)]
        await asyncio.sleep(0)
        thread = await asyncio.wait_for(to_thread(threading.current_thread), DEADLINE)
        assert thread.daemon
        assert thread.name.startswith("backjob-call-")
        free.set()
        await asyncio.gather(*blocked)

    asyncio.run(main())


def test_threads_are_bounded_and_all_calls_run(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = DaemonThreads("backjob-call", offload._MAX_THREADS)
    monkeypatch.setattr(offload, "_threads", type("Pool", (), {"get": staticmethod(lambda: threads)}))
    running: set[threading.Thread] = set()
    free = threading.Event()
    full = threading.Barrier(offload._MAX_THREADS + 1)

    def block() -> None:
        running.add(threading.current_thread())
        if not free.is_set():
            full.wait(DEADLINE)
        assert free.wait(DEADLINE)

    async def main() -> None:
        calls = [asyncio.create_task(to_thread(block)) for _ in range(100)]
        await asyncio.to_thread(full.wait, DEADLINE)
        free.set()
        await asyncio.gather(*calls)
        assert await to_thread(threading.current_thread) in running

    asyncio.run(main())
    assert len(running) == offload._MAX_THREADS


def test_one_call_after_another_uses_threads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = DaemonThreads("backjob-call", offload._MAX_THREADS)
    monkeypatch.setattr(offload, "_threads", type("Pool", (), {"get": staticmethod(lambda: threads)}))

    async def main() -> None:
        for _ in range(50):
            await to_thread(gc.isenabled)
        assert threads._count < 25  # a thread comes back a moment after its result

    asyncio.run(main())


def test_an_idle_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = DaemonThreads("backjob-call", offload._MAX_THREADS)
    monkeypatch.setattr(offload, "_threads", type("Pool", (), {"get": staticmethod(lambda: threads)}))
    monkeypatch.setattr(process, "_IDLE", 0.001)

    async def main() -> Any:
        return await to_thread(threading.current_thread)

    for _ in range(3):
        thread = asyncio.run(main())
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert (threads._count, threads._idle) == (0, 0)


def test_loops_that_are_closed_meanwhile_disturb_nothing() -> None:
    started, free, done = threading.Event(), threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        free.wait(DEADLINE)
        done.set()

    async def leave() -> None:
        call = asyncio.ensure_future(to_thread(block))
        await asyncio.sleep(0)
        assert started.wait(DEADLINE)
        call.cancel()

    asyncio.run(leave())
    free.set()
    assert done.wait(DEADLINE)

    async def main() -> int:
        return await to_thread(int, "5")

    assert [asyncio.run(main()) for _ in range(3)] == [5, 5, 5]


def test_a_system_without_another_thread_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = DaemonThreads("backjob-call", offload._MAX_THREADS)
    monkeypatch.setattr(offload, "_threads", type("Pool", (), {"get": staticmethod(lambda: threads)}))

    def none(self: object) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", none)
            with pytest.raises(RuntimeError, match="can't start"):
                await to_thread(gc.isenabled)
        assert await to_thread(int, "5") == 5

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork()")
def test_a_forked_child_has_threads_of_its_own_and_exit_waits_for_no_thread() -> None:
    script = """
import asyncio, os, threading, time
from backjob.worker.offload import to_thread
async def main():
    await to_thread(int, "5")
    asyncio.ensure_future(to_thread(time.sleep, 60))
    await asyncio.sleep(0.01)
async def child():
    return await to_thread(int, "6")
asyncio.run(main())
pid = os.fork()
if pid == 0:
    os._exit(asyncio.run(child()))
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("6\n", "", 0)
