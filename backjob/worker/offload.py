"""Helpers for code that may run in an event loop.

They import asyncio on first use: it takes as long as importing the rest of this package, and an application that runs
coroutines has imported it already.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from itertools import count
from typing import Any, Final, ParamSpec, TypeVar

from backjob.process import PerProcess

_P = ParamSpec("_P")
_R = TypeVar("_R")

_MAX_THREADS: Final = 32
_IDLE: Final = 30.0  # s; then an idle thread ends


class _Threads:
    """Runs calls in at most 32 daemon threads, which start when they are needed. For one process, and any event loops.

    asyncio's own threads are the application's: a few actions that block in them would delay status pages and cancelling.
    """

    def __init__(self) -> None:
        self._calls: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._idle = 0
        self._count = 0
        self._numbers = count(1)

    def run(self, call: Callable[[], object]) -> None:
        """Have a thread run the call. Raises `RuntimeError` if there is no thread and the system starts none."""
        with self._changed:
            self._calls.append(call)
            if self._idle >= len(self._calls):
                self._changed.notify()
            elif self._count < _MAX_THREADS:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"backjob-call-{next(self._numbers)}", daemon=True)
        self._count += 1
        try:
            thread.start()
        except RuntimeError:
            self._count -= 1
            if not self._count:
                self._calls.pop()
                raise

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call()
            del call  # and with it what the call refers to

    def _next(self) -> Callable[[], object] | None:
        with self._changed:
            while not self._calls:
                self._idle += 1
                is_notified = self._changed.wait(_IDLE)
                self._idle -= 1
                if not is_notified and not self._calls:
                    self._count -= 1
                    return None
            return self._calls.popleft()


_threads: Final = PerProcess(_Threads)


async def to_thread(function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call a function as `asyncio.to_thread` does, but in a thread of this package."""
    import asyncio  # noqa: PLC0415 - see the module's docstring

    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[Any] = loop.create_future()
    context = copy_context()

    def settle(set_outcome: Callable[[Any], None], outcome: object) -> None:
        if not waiter.done():
            set_outcome(outcome)

    def call() -> None:
        if waiter.cancelled():
            return
        try:
            settled: tuple[Callable[[Any], None], object] = (
                waiter.set_result,
                context.run(function, *args, **kwargs),
            )
        except StopIteration as error:
            settled = (waiter.set_exception, RuntimeError(f"the function raised {error!r}"))
        except BaseException as error:
            settled = (waiter.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed, so no task waits for the result
            loop.call_soon_threadsafe(settle, *settled)

    _threads.get().run(call)
    result: _R = await waiter
    return result


async def sleep(seconds: float) -> None:
    """`asyncio.sleep`."""
    import asyncio  # noqa: PLC0415 - see the module's docstring

    await asyncio.sleep(seconds)


def in_event_loop() -> bool:
    """Whether this thread is running a coroutine, so that a blocking call would delay all others."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - documented despite its name
