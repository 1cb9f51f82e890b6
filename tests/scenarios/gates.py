"""The action's side of a test's `Gate`, for coroutines."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["at_gate"]


@asynccontextmanager
async def at_gate(port: int) -> AsyncIterator[asyncio.StreamReader]:
    """Tell the gate that an action is there, give what it says, and tell how the block was left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{os.getpid()}\n".encode())
    left = "returned"
    try:
        yield reader
    except BaseException as error:
        left = type(error).__name__
        raise
    finally:
        writer.write(f"{left}\n".encode())
        writer.close()
