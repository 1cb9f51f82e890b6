"""Helpers for code that may run in an event loop.

They import asyncio on first use: it takes as long as importing the rest of this package, and an application that runs
coroutines has imported it already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")


async def to_thread(function: Callable[_P, _R], /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """`asyncio.to_thread`."""
    import asyncio  # noqa: PLC0415 - see the module's docstring

    return await asyncio.to_thread(function, *args, **kwargs)


async def sleep(seconds: float) -> None:
    """`asyncio.sleep`."""
    import asyncio  # noqa: PLC0415 - see the module's docstring

    await asyncio.sleep(seconds)


def in_event_loop() -> bool:
    """Whether this thread is running a coroutine, so that a blocking call would delay all others."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None  # noqa: SLF001 - documented despite its name
