"""The work done by hand: what each kind of store does, by its plain driver, and one request by h11 on a blocking socket."""

from __future__ import annotations

import socket
from typing import Any, Final, Protocol

import h11

__all__ = ["Raw", "bare_request", "connect_and_send", "request_bytes"]

_TIMEOUT: Final = 30.0


class Raw(Protocol):
    """A place with a store's layout, written and read by the plain driver, and no code of ours.

    It is another place than the store's own: each side keeps its caches, as it would alone.
    """

    @property
    def version(self) -> str:
        """Which release of what this is."""
        ...

    def take_template(self, store: str, job_id: str) -> None:
        """Insert rows like this job's from now on; ``store`` is the URL of the store that has it."""
        ...

    def row(self) -> Any:
        """A new row, with an id of its own."""
        ...

    def insert(self, row: Any) -> str:
        """Insert and commit; the row's id."""
        ...

    def update_twice(self, job_id: str) -> None:
        """What a claim and an end write, each committed. Callable from any thread."""
        ...

    def report(self, job_id: str, progress: int, text: str, output: bytes, start: int) -> None:
        """What an update that writes must write: the row, and the output, committed together."""
        ...

    def select(self, job_id: str) -> object:
        """The row as it stands."""
        ...

    def fill(self, ended: int) -> None:
        """Add so many jobs that have ended, all different, where there is one that has: a store's place, not our own."""
        ...

    def close(self) -> None: ...


def request_bytes(address: tuple[str, int], target: str) -> bytes:
    """A GET as h11 writes it."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", f"{address[0]}:{address[1]}"), ("Connection", "close"), ("User-Agent", "bare")]
    head = connection.send(h11.Request(method="GET", target=target, headers=headers))
    end = connection.send(h11.EndOfMessage())
    return (head or b"") + (end or b"")


def connect_and_send(address: tuple[str, int], request: bytes) -> socket.socket:
    """A connection on which this request has been sent."""
    connected = socket.create_connection(address, _TIMEOUT)
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connected.sendall(request)
    return connected


def bare_request(address: tuple[str, int], target: str) -> None:
    """One request by h11, from the connect to the complete answer."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", f"{address[0]}:{address[1]}"), ("Connection", "close"), ("User-Agent", "bare")]
    with socket.create_connection(address, _TIMEOUT) as connected:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = connection.send(h11.Request(method="GET", target=target, headers=headers))
        end = connection.send(h11.EndOfMessage())
        connected.sendall((head or b"") + (end or b""))
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(connected.recv(65536))
            elif isinstance(event, h11.Response):
                assert event.status_code == 200, event
            elif isinstance(event, h11.EndOfMessage):
                return
