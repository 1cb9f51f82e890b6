"""Helpers for code that may run in an event loop.

They import asyncio on first use: it takes as long as importing the rest of this package, and an application that runs
coroutines has imported it already.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from backjob.process import DaemonThreads, PerProcess, in_event_loop

if TYPE_CHECKING:
    import asyncio

_P = ParamSpec("_P")
_R = TypeVar("_R")

_MAX_THREADS: Final = 32
_LONGEST_WAIT: Final = 60.0  # s

_loop: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("backjob_loop", default=None)
"""The event loop that serves the request of this thread's context."""


_threads: Final = PerProcess(lambda: DaemonThreads("backjob-call", _MAX_THREADS))
"""asyncio's own threads are the application's: a few actions that block in them would delay status pages and cancelling."""


async def to_thread(function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call a function as `asyncio.to_thread` does, but in a thread of this package."""
    import asyncio  # noqa: PLC0415 - see the module's docstring

    loop = asyncio.get_running_loop()
    waiter: asyncio.Future[Any] = loop.create_future()
    context = copy_context()
    context.run(_loop.set, loop)

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


async def shielded(work: Coroutine[Any, Any, _R]) -> _R:
    """Run the work to its end, even if the caller is cancelled meanwhile. Returns its result, or raises its error.

    Only the work itself can be cancelled, as all tasks are when the event loop shuts down.
    """
    import asyncio  # noqa: PLC0415 - see the module's docstring

    task = asyncio.ensure_future(work)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    return task.result()


def raise_if_cancelled(error: BaseException | None) -> None:
    """Raise the error again if the event loop cancels this task; an action may also raise `CancelledError` itself."""
    import asyncio  # noqa: PLC0415 - see the module's docstring

    task = asyncio.current_task()
    if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
        raise error


class BlockedLoop(RuntimeError):
    """A call would block the event loop that is running it."""


def note_loop() -> None:
    """Have `wait_for` use this thread's event loop in the threads that the current request is passed on to."""
    if in_event_loop():
        import asyncio  # noqa: PLC0415 - see the module's docstring

        _loop.set(asyncio.get_running_loop())


def wait_for(awaitable: Awaitable[_R]) -> _R:
    """Return what an awaitable returns. It runs in the event loop that serves this thread's request, if there is one.

    Otherwise it runs in a loop of its own, in this thread. Raises `BlockedLoop` in a thread that is running a coroutine.
    """
    import asyncio  # noqa: PLC0415 - see the module's docstring

    async def result() -> _R:
        return await awaitable

    if in_event_loop():
        close = getattr(awaitable, "close", None)
        if close is not None:
            close()  # otherwise Python warns that it was never awaited
        raise BlockedLoop("this thread is running a coroutine")
    loop = serving_loop()
    if loop is None:
        return asyncio.run(result())
    return asyncio.run_coroutine_threadsafe(result(), loop).result(_LONGEST_WAIT)


def serving_loop() -> asyncio.AbstractEventLoop | None:
    """Return the running event loop that serves the request of this thread's context, or None."""
    loop = _loop.get()
    return loop if loop is not None and loop.is_running() else None


async def sleep(seconds: float) -> None:
    """`asyncio.sleep`."""
    import asyncio  # noqa: PLC0415 - see the module's docstring

    await asyncio.sleep(seconds)
