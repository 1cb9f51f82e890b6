"""An HTTP client that stands in for a browser, and a `Gate` at which the action "hold" waits for the test."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from attrs import field, frozen

__all__ = ["WAIT", "Client", "Gate", "Held", "Page", "wait_until"]

WAIT: Final = 60.0
"""Seconds after which a test stops waiting and fails."""


def wait_until(is_satisfied: Callable[[], bool]) -> None:
    """Poll a condition until it is satisfied."""
    deadline = time.monotonic() + WAIT
    while not is_satisfied():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@frozen
class Page:
    """A complete response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    def json(self) -> Any:
        return json.loads(self.body)


@frozen
class Client:
    """Sends single requests to an address: a host and a port, or the path of a unix socket."""

    address: tuple[str, int] | str
    tls: ssl.SSLContext | None = None

    def request(self, method: str, target: str, **options: Any) -> Page:
        """The response to a request whose target is sent unchanged. Raises `OSError`.

        Options: ``headers``, ``body`` (bytes), ``source`` (the client's address) and ``timeout``.
        """
        try:
            with closing(self._send(method, target, **options)) as connection:
                response = connection.getresponse()
                fields = {name.lower(): value for name, value in response.getheaders()}
                return Page(response.status, fields, response.read())
        except http.client.HTTPException as error:
            raise OSError(repr(error)) from error

    def _send(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        source: str | None = None,
        timeout: float = WAIT,
    ) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("shop.example", timeout=timeout)
        connection.sock = self._connect(source, timeout)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": "shop.example", "User-Agent": "scenario", **(headers or {})}.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def streamed(self, target: str, headers: Mapping[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
        """The response to a GET, its body unread; leaving the block closes the connection."""
        with closing(self._send("GET", target, headers=headers)) as connection, connection.getresponse() as response:
            yield response

    def get(self, target: str, **options: Any) -> Page:
        return self.request("GET", target, **options)

    def _connect(self, source: str | None, timeout: float) -> socket.socket:
        if isinstance(self.address, str):
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(timeout)
            connection.connect(self.address)
            return connection
        own = None if source is None else (source, 0)
        connection = socket.create_connection(self.address, timeout, source_address=own)
        if self.tls is None:
            return connection
        return self.tls.wrap_socket(connection, server_hostname="shop.example")


class Gate:
    """A listening socket. The action "hold" connects to it when it runs, and waits until the test releases it."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.settimeout(WAIT)
        self.port: int = self._listening.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._listening.close()

    def reached(self) -> Held:
        """The next action that connects."""
        connection, _ = self._listening.accept()
        connection.settimeout(WAIT)
        lines = connection.makefile("rb")
        return Held(connection, lines, int(lines.readline()))


@frozen
class Held:
    """An action that waits at a gate; ``pid`` is its process."""

    _connection: socket.socket
    _lines: BinaryIO = field(repr=False)
    pid: int

    def proceed(self) -> None:
        """Let the action report its progress; then it waits again."""
        self._connection.sendall(b"+")

    def release(self) -> str:
        """Let the action report its progress and end. Returns how it ended, as `left` does."""
        self._connection.sendall(b"+.")
        return self.left()

    def left(self) -> str:
        """Wait for the action's end. Returns "returned", the name of the exception it raised, or "" if its process died."""
        with self._connection, self._lines:
            return self._lines.readline().decode().strip()
