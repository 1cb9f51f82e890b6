"""Ports for servers that get a number instead of a listening socket, or that are started again at the same one."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from typing import Final

__all__ = ["free_port"]

_PORTS: Final = range(20_000, 32_000)
"""Below those that the system gives to connections, which other tests make all the time; `private_servers` has 10,000 to 20,000."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port at which nothing listens. The system gives it to no connection, so it stays free until a server takes it."""
    while True:
        port = secrets.choice(_PORTS)
        with suppress(OSError), socket.create_server((host, port)):
            return port
