"""An HTTP server on loopback for tests of transports, and a delivery to send to it."""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Final, Protocol, Self

import h11
from attrs import define, field, frozen

from backjob.model import Headers, Request

PATIENCE: Final = 10.0
"""Seconds that a test waits for something that should happen at once."""


@define
class OneDelivery:
    """A delivery of one request. ``signed`` counts the calls of `sign`, which raises ``error`` if there is one."""

    request: Request
    error: BaseException | None = None
    deadline: datetime = field(factory=lambda: datetime.now(UTC) + timedelta(seconds=60))
    job_id: str = "job"
    attempt: int = 1
    signed: int = 0
    reached: object | None = None

    def sign(self) -> Request:
        self.signed += 1
        if self.error is not None:
            raise self.error
        return self.request


@frozen(eq=False)
class Received:
    """One request as the application received it."""

    method: str
    target: str
    headers: Headers
    body: bytes

    def header(self, name: str) -> list[str]:
        """Return all values of a header field."""
        return [value for key, value in self.headers if key == name]


@frozen(eq=False)
class Call(Received):
    """One request as the server received it, and its connection."""

    sock: socket.socket

    def is_silent_for(self, seconds: float) -> bool:
        """Return whether the client neither sends nor closes, in either direction, for that long."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(seconds * 1000)

    def is_closed_in_time(self) -> bool:
        """Wait until the client closes. Returns False if it does not."""
        with contextlib.suppress(ConnectionResetError):
            try:
                while self.sock.recv(65536):
                    pass
            except TimeoutError:
                return False
        return True


def answer(status: int = 200, body: bytes = b"", reason: str = "OK", headers: Headers = ()) -> bytes:
    """Return a response with Content-Length, as bytes."""
    head = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


Script = Callable[[Call], bytes]
"""Returns the bytes to respond with; then the server closes the connection."""


def ok(_: Received) -> bytes:
    """Respond with an empty 200."""
    return answer()


class AnyPeer(Protocol):
    """What gets the requests of a transport under test: a server, or an application in this process."""

    script: Callable[[Any], bytes]

    def next_call(self) -> Received:
        """Return the next request."""
        ...


class Peer:
    """An HTTP server on 127.0.0.1, or on the given listener, with a thread for each connection.

    It puts every request into ``arrivals``; then ``script`` returns the response. ``patience`` (s) is how long it waits
    for a client that should do something at once.
    """

    def __init__(
        self,
        script: Script = ok,
        *,
        listener: socket.socket | None = None,
        tls: ssl.SSLContext | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.script = script
        self._patience = patience
        self.arrivals: queue.Queue[Call] = queue.Queue()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._tls = tls
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=1024)
        name = self._listener.getsockname()
        self.port = name[1] if isinstance(name, tuple) else 0
        self.base_url = f"http://127.0.0.1:{self.port}"
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def next_call(self) -> Call:
        """Return the next request."""
        return self.arrivals.get(timeout=self._patience)

    def close(self) -> None:
        """Close all connections and wait for the threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(self._patience)
        for sock in self._connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(self._patience)

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name="contract-peer", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(self._patience)
            self._connections.append(sock)
            self._start(partial(self._serve, sock))

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.ExitStack() as closing, contextlib.suppress(OSError, h11.RemoteProtocolError):
            closing.enter_context(sock)
            if self._tls is not None:
                sock = closing.enter_context(self._tls.wrap_socket(sock, server_side=True))
            call = _read_request(sock)
            if call is not None:
                self.arrivals.put(call)
                sock.sendall(self.script(call))


def _read_request(sock: socket.socket) -> Call | None:
    connection = h11.Connection(h11.SERVER)
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(sock.recv(65536))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
            return Call(head.method.decode(), head.target.decode(), headers, body, sock)
        else:
            return None
