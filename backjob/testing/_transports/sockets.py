"""The sockets of this process that are connected to a server under test."""

from __future__ import annotations

import gc
import socket


def longest_timeout(port: int) -> float:
    """Return the longest timeout (s) of this process's connections to a port of 127.0.0.1; 0 without any."""
    found = [one for one in gc.get_objects() if issubclass(type(one), socket.socket)]
    return max((one.gettimeout() or 0.0 for one in found if _leads_to(one, port)), default=0.0)


def _leads_to(one: socket.socket, port: int) -> bool:
    try:
        name = one.getpeername()
    except OSError:
        return False
    return isinstance(name, tuple) and name[1] == port
