"""Keeps the exits of tasks that an action starts from ending the event loop, and with it the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from backjob.worker.exits import TaskExit, is_from_signal
from backjob.worker.running import current


def contain_tasks() -> None:
    """Make tasks that actions start in this event loop raise `TaskExit` instead of `SystemExit` or `KeyboardInterrupt`.

    In asyncio those two leave the event loop, whichever task raises them. Tasks of other requests stay unchanged.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()
    if not isinstance(before, _Factory):
        loop.set_task_factory(_Factory(before))


class _Factory:
    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        if current.get() is not None and asyncio.iscoroutine(coroutine):
            coroutine = _Contained(coroutine)
        if self._before is None:
            return asyncio.Task(coroutine, loop=loop, **options)
        return self._before(loop, coroutine, **options)


class _Contained(Coroutine[Any, Any, Any]):
    """A coroutine whose exits become a `TaskExit`. It has no frame of its own that a cancelled task could leave unstarted."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine

    def send(self, value: Any) -> Any:
        return _contained(self._coroutine.send, value)

    def throw(self, *error: Any) -> Any:
        return _contained(self._coroutine.throw, *error)

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:  # debuggers and `Task.get_stack` read cr_frame and its like
        return getattr(self._coroutine, name)


def _contained(step: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return step(*arguments)
    except (SystemExit, KeyboardInterrupt) as error:
        if is_from_signal(error):
            raise
        raise TaskExit from error
