"""The scenario site's actions for ``async`` handlers; their paths begin with ``/coroutine/``."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from attrs import frozen

from backjob import BackJob
from tests.scenarios.gates import at_gate
from tests.scenarios.site import Visit, exit_of

__all__ = ["AsyncReply", "answer_async"]

_GATE_TIMEOUT: Final = 60.0


@frozen
class AsyncReply:
    """The response of a coroutine: a text, or chunks to stream without a length. Always 200 and plain text."""

    body: str | AsyncIterator[str] = ""


AsyncAction: TypeAlias = Callable[[BackJob, Visit], Awaitable[AsyncReply]]


async def answer_async(jobs: BackJob, visit: Visit) -> AsyncReply:
    """The response of the action that the path names."""
    return await _ACTIONS[visit.path.rpartition("/")[2]](jobs, visit)


async def _report(jobs: BackJob, visit: Visit) -> AsyncReply:
    print("printed by a coroutine")
    await jobs.aupdate(30)
    await asyncio.to_thread(print, "printed by its thread")
    jobs.increment(5)
    return AsyncReply(await jobs.afinish(str(jobs.job_id), result={"progress": 35}))


async def _raise(jobs: BackJob, visit: Visit) -> AsyncReply:
    jobs.update(30)
    raise ValueError(visit.parameters["text"])


async def _fail(jobs: BackJob, visit: Visit) -> AsyncReply:
    try:
        await jobs.aupdate(70, "half way")
        jobs.fail(visit.parameters["text"])
    except Exception:
        return AsyncReply("fail() was swallowed")


async def _group(jobs: BackJob, visit: Visit) -> AsyncReply:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fail(jobs, visit))
    return AsyncReply("fail() was swallowed")


async def _leave(jobs: BackJob, visit: Visit) -> AsyncReply:
    raise exit_of(visit.parameters["how"])


async def _leave_by_task(jobs: BackJob, visit: Visit) -> AsyncReply:
    await asyncio.gather(_leave(jobs, visit))
    return AsyncReply("the exit was lost")


async def _leave_by_thread(jobs: BackJob, visit: Visit) -> AsyncReply:
    def leave() -> None:
        raise exit_of(visit.parameters["how"])

    await asyncio.to_thread(leave)
    return AsyncReply("the exit was lost")


async def _stream(jobs: BackJob, visit: Visit) -> AsyncReply:
    async def chunks() -> AsyncIterator[str]:
        yield "first "
        await jobs.aupdate(40)
        yield "second ä "
        print("printed ", end="")
        if "fail" in visit.parameters:
            jobs.fail(visit.parameters["fail"])
        yield "third"

    return AsyncReply(chunks())


async def _hold(jobs: BackJob, visit: Visit) -> AsyncReply:
    """The action "hold" of `site`, as a coroutine."""
    async with asyncio.timeout(_GATE_TIMEOUT), at_gate(int(visit.parameters["gate"])) as gate:
        while await gate.read(1) == b"+":
            await jobs.aupdate(50, "released")
    return AsyncReply("held")


async def _block(jobs: BackJob, visit: Visit) -> AsyncReply:
    """The action "hold", while all threads of this event loop's own executor are blocked."""
    free = threading.Event()
    blocked = [asyncio.create_task(asyncio.to_thread(free.wait, _GATE_TIMEOUT)) for _ in range(40)]
    try:
        return await _hold(jobs, visit)
    finally:
        free.set()
        await asyncio.gather(*blocked)


_ACTIONS: Final[Mapping[str, AsyncAction]] = {
    "block": _block,
    "fail": _fail,
    "group": _group,
    "hold": _hold,
    "leave": _leave,
    "leave-by-task": _leave_by_task,
    "leave-by-thread": _leave_by_thread,
    "raise": _raise,
    "report": _report,
    "stream": _stream,
}
