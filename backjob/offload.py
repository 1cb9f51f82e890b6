"""The event loop is left alone by work in another thread. Importing asyncio costs as much as all the rest of this package:
only those who run coroutines pay for it, and they have done so already.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["sleep", "to_thread"]

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
