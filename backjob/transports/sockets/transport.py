"""The default transport: non-blocking sockets, and one thread for all requests in flight."""

from __future__ import annotations

import ssl
from concurrent.futures import Future
from typing import Final

from backjob.clock import SystemClock
from backjob.errors import NotSent
from backjob.http.addresses import route
from backjob.http.arguments import check_number
from backjob.http.wire import MAX_HEADER, MAX_RESPONSE
from backjob.model import Response, Seconds, check_duration
from backjob.process import PerProcess
from backjob.protocols import Clock, Delivery
from backjob.transports.sockets.connection import Terms
from backjob.transports.sockets.loop import Flight, SocketLoop

_SHORTEST_TIMEOUT: Final = 0.001  # s


class SocketTransport:
    """Sends worker requests over HTTP/1.1, one connection each, from one thread that starts with the first request.

    ``base_url`` is the URL of the application as its users see it. Its host and scheme become ``Host`` and
    ``X-Forwarded-Proto``; its path, which backjob assumes a proxy strips, precedes each target. ``connect_to`` is the
    address to connect to if that differs: ``host:port``, ``http://host:port``, ``https://host:port`` or ``unix:/path``.
    Pass an `ssl.SSLContext` as ``tls`` to trust your own certificates; then the connection always uses TLS, otherwise
    the scheme decides. Certificates are verified against the host of the base URL, except at an address that was `learnt`.

    ``connect_timeout`` (s) bounds connecting and the TLS handshake; there is no read timeout. backjob keeps at most
    ``max_response`` bytes of a response's body, and accepts at most ``max_header`` bytes of header. ``max_in_flight``
    replaces the capacity that follows from the limit of file descriptors. Raises `InvalidRequest` for invalid arguments.

    Fork-safe: a child starts with nothing in flight and does not touch its parent's connections.
    """

    sends_at_once = True
    """Its `send` never waits, so that the thread that calls ``start()`` may call it."""

    def __init__(
        self,
        base_url: str,
        connect_to: str | None = None,
        tls: ssl.SSLContext | None = None,
        *,
        connect_timeout: Seconds = 10.0,
        max_in_flight: int | None = None,
        max_response: int = MAX_RESPONSE,
        max_header: int = MAX_HEADER,
        clock: Clock | None = None,
    ) -> None:
        where = route(base_url, connect_to, has_tls_context=tls is not None)
        timeout = check_duration("connect_timeout", connect_timeout, _SHORTEST_TIMEOUT)
        if max_in_flight is not None:
            check_number("max_in_flight", max_in_flight, 1, whole=True)
        check_number("max_response", max_response, 0, whole=True)
        check_number("max_header", max_header, 1, whole=True)
        if where.tls and tls is None:
            tls = ssl.create_default_context()
        self._terms = Terms(where, tls, max_response, max_header)
        self._max_in_flight = max_in_flight
        self._clock = SystemClock() if clock is None else clock
        self._closed = False
        self._loops = PerProcess(lambda: SocketLoop(timeout, self._clock), SocketLoop.abandon)

    @classmethod
    def learnt(cls, base_url: str, sibling: SocketTransport | None = None) -> SocketTransport:
        """Return a transport to an address of this application's own server, which the server's socket has shown.

        It accepts any certificate, because the certificate is for the names that users see: backjob sends worker requests
        only to an address that has proven itself. It shares the thread of its ``sibling``; closing one closes both.
        """
        context: ssl.SSLContext | None = None
        if base_url.startswith("https:"):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        made = cls(base_url, tls=context)
        if sibling is not None:
            made._loops = sibling._loops  # noqa: SLF001 - of this class
        return made

    def __repr__(self) -> str:
        return f"SocketTransport({str(self._terms.route.base)!r}, connect_to={str(self._terms.route.address)!r})"

    @property
    def base_url(self) -> str:
        """The URL of the application as its users see it, without a default port; ``localhost`` if it is a wildcard."""
        return str(self._terms.route.base)

    @property
    def capacity(self) -> int:
        """How many requests may be in flight at once: 3/4 of the file descriptors, at most 10,000, and 64 must be left.

        In a process that serves with waitress, a quarter of the 1024 descriptors that it can watch. 0 while other parts
        of the process have taken the descriptors.
        """
        loop = self._loops.get()
        return loop.descriptors.capacity(self._max_in_flight, loop.connections)

    def ensure_running(self) -> None:
        """Start the socket thread unless it runs; `send` does so too, but no thread can be started while a process ends."""
        if not self._closed:
            self._loops.get().ensure_running()

    def send(self, delivery: Delivery) -> Future[Response]:
        """Start sending and return at once.

        The future's result is the complete response. Its exception is `NotSent` if certainly nothing has arrived
        ("connection refused", "cannot resolve", "TLS not trusted", "timed out" …), otherwise `ConnectionLost`.
        Cancelling it closes the connection. Its callbacks run in the socket thread and must not block.
        """
        future: Future[Response] = Future()
        if self._closed:
            future.set_exception(NotSent("the transport is closed"))
            return future
        self._loops.get().submit(Flight(future, delivery, self._terms))
        return future

    def close(self) -> None:
        """Close all connections: deliveries in flight end with `ConnectionLost` or `NotSent`."""
        self._closed = True
        self._loops.get().close()
