"""The action's side of a test's `Gate`, for coroutines and for threads."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

__all__ = ["at_gate", "at_gate_in_thread"]

_WAIT: Final = 120.0


@asynccontextmanager
async def at_gate(port: int) -> AsyncIterator[asyncio.StreamReader]:
    """Connect to the gate and yield the commands that it sends. On leaving the block, send it how the block ended."""
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


@contextmanager
def at_gate_in_thread(port: int) -> Iterator[socket.socket]:
    """The blocking counterpart of `at_gate`: it yields the socket, from which to read the gate's commands."""
    with socket.create_connection(("127.0.0.1", port), _WAIT) as connected:
        connected.sendall(f"{os.getpid()}\n".encode())
        left = "returned"
        try:
            yield connected
        except BaseException as error:
            left = type(error).__name__
            raise
        finally:
            connected.sendall(f"{left}\n".encode())
