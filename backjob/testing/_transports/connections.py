"""A connection stays open until its outcome and no longer, and a response that breaks off is no response."""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import queue
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from backjob.errors import TransportError
from backjob.model import Request
from backjob.protocols import Transport
from backjob.testing._peer import Call, OneDelivery, Peer, answer, ok
from backjob.testing._shown import shown
from backjob.testing._transports.case import GET, TransportCase, check_lost, check_not_sent

_HALF_CLOSED: float = 0.2  # s


class KeepsConnections(TransportCase):
    """Connections are opened, read and closed as servers need it. For a transport that connects."""

    def test_informational_responses_are_skipped(self, peer: Peer, transport: Transport) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        peer.script = lambda _: hints + b"HTTP/1.1 102 Processing\r\n\r\n" + answer(201, b"made")
        response = self._exchange(transport)
        assert (response.status, response.body) == (201, b"made")

    def test_chunked_responses_and_those_that_end_with_the_connection_are_read_completely(
        self, peer: Peer, transport: Transport
    ) -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        until_the_end = b"HTTP/1.0 200 OK\r\n\r\nabcde"
        peer.script = lambda call: chunked if call.target == "/chunked" else until_the_end
        assert self._exchange(transport, Request("GET", "/chunked")).body == b"abcde"
        assert self._exchange(transport, Request("GET", "/end")).body == b"abcde"

    def test_the_connection_stays_open_in_both_directions_until_the_response(
        self, peer: Peer, transport: Transport
    ) -> None:
        with self._waiting(peer, transport) as waiting:
            assert waiting.call.is_silent_for(_HALF_CLOSED), "the connection was closed, at least in one direction"
            assert not waiting.future.done()
        assert waiting.future.result(self.patience).body == b"at last"

    # --- errors -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "bytes_back",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        ],
        ids=["nothing", "half a header", "half a body", "half of the chunks", "another protocol"],
    )
    def test_an_incomplete_response_is_a_lost_connection_and_the_request_is_not_sent_again(
        self, peer: Peer, transport: Transport, bytes_back: bytes
    ) -> None:
        peer.script = lambda call: ok(call) if call.target == "/next" else bytes_back
        check_lost(self._failure(transport))
        assert self._exchange(transport, Request("GET", "/next")).status == 200
        targets = [peer.next_call().target, peer.next_call().target]
        assert targets == ["/", "/next"], "a request that may have arrived must not be sent again: its action may run"

    def test_a_refused_connection_is_reported_as_not_sent(self) -> None:
        with self._refused() as transport:
            delivery = OneDelivery(GET)
            error = check_not_sent(transport.send(delivery).exception(self.patience))
        assert error.reason
        assert delivery.signed <= 1

    def test_errors_show_no_header_value(self, peer: Peer, transport: Transport) -> None:
        request = Request("GET", "/", (("cookie", "session=secret"), ("authorization", "Bearer secret")))
        garbage = b"HTTP/1.1 200 OK\r\nSet-Cookie session=secret\r\n\r\n"
        peer.script = lambda call: garbage if call.target == "/garbage" else b""
        errors = [self._failure(transport, request), self._failure(transport, Request("GET", "/garbage"))]
        with self._refused() as nowhere:
            errors.append(self._failure(nowhere, request))
        for error in errors:
            assert isinstance(error, TransportError), repr(error)
            assert "secret" not in shown(error), "an error must show no header value"

    @contextmanager
    def _refused(self) -> Iterator[Transport]:
        """Yield a transport to a port that refuses connections."""
        with socket.socket() as bound:  # without listening
            bound.bind(("127.0.0.1", 0))
            with closing(self.make_transport(f"http://127.0.0.1:{bound.getsockname()[1]}")) as transport:
                yield transport

    # --- the end of a connection --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [2, 2_000_000], ids=["a short response", "a long response"])
    def test_a_response_closes_the_connection(self, peer: Peer, transport: Transport, size: int) -> None:
        closed = self._closes(peer, answer(body=bytes(size), headers=(("Connection", "keep-alive"),)))
        future = transport.send(OneDelivery(GET))  # kept, so that no garbage collection closes the connection
        assert future.result(self.patience).status == 200
        assert closed.get(timeout=2 * self.patience), "the connection must be closed once the response is complete"

    def test_cancelling_closes_the_connection(self, peer: Peer, transport: Transport) -> None:
        closed = self._closes(peer, b"")
        future = transport.send(OneDelivery(GET))
        peer.next_call()
        assert future.cancel()
        assert closed.get(timeout=2 * self.patience), "cancelling must close the connection"

    def test_close_closes_the_connections(self, peer: Peer) -> None:
        closed = self._closes(peer, b"")
        transport = self.make_transport(peer.base_url)
        future = transport.send(OneDelivery(GET))
        peer.next_call()
        transport.close()
        assert closed.get(timeout=2 * self.patience), "close() must close all connections"
        check_lost(future.exception(self.patience))

    def _closes(self, peer: Peer, response: bytes) -> queue.Queue[bool]:
        """Have the server send this and leave it to the client to close. The queue gets whether it does."""
        closed: queue.Queue[bool] = queue.Queue()

        def script(call: Call) -> bytes:
            call.sock.sendall(response)
            closed.put(call.is_closed_in_time())
            return b""

        peer.script = script
        return closed
