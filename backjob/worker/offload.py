"""The event loop is left alone by work in another thread. Importing asyncio costs as much as all the rest of this package:
only those who run coroutines pay for it, and they have done so already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["in_event_loop", "sleep", "to_thread"]

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def to_thread(function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """`asyncio.to_thread`."""
    import asyncio  # noqa: PLC0415 - see above

    return await asyncio.to_thread(function, *args, **kwargs)


async def sleep(seconds: float) -> None:
    """`asyncio.sleep`."""
    import asyncio  # noqa: PLC0415 - see above

    await asyncio.sleep(seconds)


def in_event_loop() -> bool:
    """Whether this thread is running a coroutine right now, so that blocking would hold up all others."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - documented, in spite of its name
