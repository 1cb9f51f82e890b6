"""Shared by the parts of the transport contract: a server or an application to send to, and a transport to it."""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final

import pytest
from attrs import frozen

from backjob.errors import ConnectionLost, NotSent
from backjob.model import Request, Response, check_duration
from backjob.protocols import Transport
from backjob.testing._application import Application
from backjob.testing._peer import PATIENCE, AnyPeer, OneDelivery, Peer, Received, answer

GET: Final = Request("GET", "/")
LONGEST_POLL: Final = 30.0
"""Seconds after which a transport may wake up to wait again."""


@frozen
class Waiting:
    """A delivery in flight: its future, the request as it arrived, and a function that lets the response go."""

    future: Future[Response]
    call: Any
    respond: Callable[[], None]


class TransportCase:
    """A part of the contract. Implement ``make_transport``, or ``make_transport_to`` for a transport without sockets."""

    patience: float = PATIENCE
    """Seconds that a test waits for something that should happen at once."""

    silence: float = 0.6
    """Seconds without a byte after which a response must still be read. Raise it to find a longer read timeout."""

    def make_transport(self, base_url: str) -> Transport:
        """Return a new transport to the application at this base URL: plain HTTP, with host, port and perhaps a path."""
        raise NotImplementedError

    def make_transport_to(self, application: Application) -> Transport:
        """Return a new transport that calls this application: its ``wsgi`` or its ``asgi``."""
        raise NotImplementedError

    @property
    def _has_server(self) -> bool:
        return type(self).make_transport is not TransportCase.make_transport

    def _transport_to(self, peer: Any) -> Transport:
        return self.make_transport(peer.base_url) if self._has_server else self.make_transport_to(peer)

    @pytest.fixture
    def peer(self) -> Iterator[AnyPeer]:
        self.patience = check_duration("patience", self.patience)
        self.silence = check_duration("silence", self.silence)
        if self._has_server:
            with Peer(patience=self.patience) as server:
                yield server
        else:
            yield Application()

    @pytest.fixture
    def transport(self, peer: AnyPeer) -> Iterator[Transport]:
        transport = self._transport_to(peer)
        yield transport
        transport.close()

    def _exchange(self, transport: Transport, request: Request = GET) -> Response:
        return transport.send(OneDelivery(request)).result(self.patience)

    def _failure(self, transport: Transport, request: Request = GET) -> BaseException | None:
        return transport.send(OneDelivery(request)).exception(self.patience)

    @contextmanager
    def _waiting(self, peer: AnyPeer, transport: Transport, request: Request = GET) -> Iterator[Waiting]:
        """Send a request whose response waits. At the end it is sent."""
        gate, has_returned = threading.Event(), threading.Event()

        def script(_: Received) -> bytes:
            if not gate.wait(self.patience) and has_returned.is_set():  # else send() waits for this response
                gate.wait(self.silence + 2 * LONGEST_POLL)
            return answer(body=b"at last") if gate.is_set() else b""

        peer.script = script
        future = transport.send(OneDelivery(request))
        has_returned.set()
        try:
            yield Waiting(future, peer.next_call(), gate.set)
        finally:
            gate.set()


def check_lost(error: BaseException | None) -> None:
    """Fail unless the error says that a request, which has arrived, may have arrived."""
    assert isinstance(error, ConnectionLost), (
        f"a request that has arrived, and has no complete response, must end with ConnectionLost, not {error!r}"
    )


def check_not_sent(error: BaseException | None) -> NotSent:
    """Return the error of a request that was not sent. Fails unless it says that the request has not arrived."""
    assert isinstance(error, NotSent), f"a request that was not sent must end with NotSent, not {error!r}"
    return error
