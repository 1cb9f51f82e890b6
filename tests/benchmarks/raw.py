"""The work without backjob: a store's statements with the plain driver, and an h11 request on a blocking socket."""

from __future__ import annotations

import socket
from typing import Any, Final, Protocol

import h11

__all__ = ["Raw", "bare_request", "connect_and_send", "request_bytes"]

_TIMEOUT: Final = 30.0


class Raw(Protocol):
    """Tables or keys in a store's layout, written and read with the plain driver.

    They are separate from the store's own, so that neither side warms the other's caches.
    """

    @property
    def version(self) -> str:
        """The server's name and release."""
        ...

    def take_template(self, store: str, job_id: str) -> None:
        """Use this job as the template for new rows; ``store`` is the URL of its store."""
        ...

    def row(self) -> Any:
        """Return a new row with a new id."""
        ...

    def insert(self, row: Any) -> str:
        """Insert and commit a row; return its id."""
        ...

    def update_twice(self, job_id: str) -> None:
        """Write what a claim and an end write, in two commits. Callable from any thread."""
        ...

    def report(self, job_id: str, progress: int, text: str, output: bytes, start: int) -> None:
        """Write what an update writes: the row, and with it in one commit the output if there is any."""
        ...

    def select(self, job_id: str) -> object:
        """Read the row."""
        ...

    def fill(self, ended: int) -> None:
        """Add this many different ended jobs to a store's own tables or keys, which must contain one already."""
        ...

    def close(self) -> None: ...


def request_bytes(address: tuple[str, int], target: str) -> bytes:
    """Return the bytes of a GET request."""
    return _request(h11.Connection(h11.CLIENT), address, target)


def connect_and_send(address: tuple[str, int], request: bytes) -> socket.socket:
    """Connect and send a request; return the connection."""
    connected = socket.create_connection(address, _TIMEOUT)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.sendall(request)
    return connected


def bare_request(address: tuple[str, int], target: str) -> None:
    """Make one request with h11, from connecting to the complete answer."""
    connection = h11.Connection(h11.CLIENT)
    with connect_and_send(address, _request(connection, address, target)) as connected:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(connected.recv(65536))
            elif isinstance(event, h11.Response):
                assert event.status_code == 200, event
            elif isinstance(event, h11.EndOfMessage):
                return


def _request(connection: h11.Connection, address: tuple[str, int], target: str) -> bytes:
    headers = [("Host", f"{address[0]}:{address[1]}"), ("Connection", "close"), ("User-Agent", "bare")]
    head = connection.send(h11.Request(method="GET", target=target, headers=headers))
    end = connection.send(h11.EndOfMessage())
    return (head or b"") + (end or b"")
