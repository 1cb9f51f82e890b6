"""A TCP proxy whose handler decides what happens to each request: faults on the way from an application to itself."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from attrs import field, frozen

from tests.scenarios.client import WAIT

__all__ = ["GATEWAY_TIMEOUT", "Passage", "Proxy"]

GATEWAY_TIMEOUT: Final = b"HTTP/1.1 504 Gateway Time-out\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@frozen
class Passage:
    """One request on its way through a proxy. ``number`` counts them from 0."""

    number: int
    request: bytes = field(repr=False)
    _client: socket.socket
    _address: tuple[str, int]

    def forward(self, request: bytes | None = None) -> socket.socket:
        """Send the request, or another one instead, to the server, and return the socket to read the response from."""
        upstream = socket.create_connection(self._address, WAIT)
        upstream.sendall(self.request if request is None else request)
        return upstream

    def relay(self, upstream: socket.socket) -> bytes:
        """Forward the whole response to the client, and return it."""
        with upstream:
            response = read_all(upstream)
        self.respond(response)
        return response

    def respond(self, response: bytes) -> None:
        """Send the client this response, and close its connection."""
        with suppress(OSError):  # the client may have closed it already
            self._client.sendall(response)
        self.hang_up()

    def reset(self) -> None:
        """Reset the client's connection with a RST."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._client.close()

    def hang_up(self) -> None:
        """Close the client's connection."""
        self._client.close()


class Proxy:
    """Listens on ``port`` of a host, and calls ``handle`` in a thread for each complete request. The default forwards it.

    ``probes`` says what happens to probes, which are neither counted nor kept. The default forwards them too. Set ``upstream`` before the first request.
    """

    def __init__(
        self,
        handle: Callable[[Passage], object] | None = None,
        probes: Callable[[Passage], object] | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.upstream: tuple[str, int] | None = None
        self.requests: list[bytes] = []
        self._handle = handle or _forward
        self._handle_probe = probes or _forward
        self._listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def settings(self) -> dict[str, str]:
        """Settings with which an application sends its worker requests through this proxy."""
        return {"BACKJOB_BASE_URL": "http://shop.example", "BACKJOB_CONNECT_TO": f"http://127.0.0.1:{self.port}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(WAIT)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):  # the socket was shut down
            while True:
                client, _ = self._listening.accept()
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            client.settimeout(WAIT)
            request = read_request(client)
            if self.upstream is None:
                return
            if b"/backjob/probe?" in request:
                self._handle_probe(Passage(-1, request, client, self.upstream))
            elif request:
                number = len(self.requests)
                self.requests.append(request)
                self._handle(Passage(number, request, client, self.upstream))


def _forward(passage: Passage) -> None:
    passage.relay(passage.forward())


def read_request(connection: socket.socket) -> bytes:
    """A request with its body, whose length must be in Content-Length; empty if there is no request."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return b""
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    length = int(fields.get(b"content-length", b"0"))
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def read_all(connection: socket.socket) -> bytes:
    """The data until the connection ends, or until the end of a response with a Content-Length."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
        head, end, body = data.partition(b"\r\n\r\n")
        lengths = [
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        ]
        if end and lengths and len(body) >= lengths[0]:
            break
    return data
