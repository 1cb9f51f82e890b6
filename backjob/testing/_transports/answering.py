"""Each delivery has one outcome: the complete response, or an error that says whether the request may have arrived."""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future, wait
from queue import Empty, Queue
from typing import Final

import pytest

from backjob.model import Request, Response
from backjob.protocols import Transport
from backjob.testing._peer import AnyPeer, OneDelivery, Peer, Received, answer, ok
from backjob.testing._transports.case import GET, LONGEST_POLL, TransportCase, check_lost, check_not_sent
from backjob.testing._transports.sockets import longest_timeout

_MANY: Final = 50


class GivesOutcomes(TransportCase):
    """Each future gets its response or its error, also when it is cancelled or the transport closed. It needs no sockets."""

    def test_the_result_is_the_complete_response(self, peer: AnyPeer, transport: Transport) -> None:
        peer.script = lambda _: answer(418, b"short and stout", "I'm a Teapot", (("X-Pot", "tea"),))
        response = self._exchange(transport)
        assert (response.status, response.reason, response.body) == (418, "I'm a Teapot", b"short and stout")
        assert response.header("x-pot") == "tea"
        assert not response.truncated

    def test_a_response_may_have_no_reason_phrase(self, peer: AnyPeer, transport: Transport) -> None:
        peer.script = lambda _: answer(204, reason="")
        assert self._exchange(transport).status == 204

    def test_the_response_to_head_has_no_body(self, peer: AnyPeer, transport: Transport) -> None:
        peer.script = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        response = self._exchange(transport, Request("HEAD", "/"))
        assert (response.status, response.body) == (200, b"")

    def test_a_long_response_is_complete_or_marked_as_truncated(self, peer: AnyPeer, transport: Transport) -> None:
        body = bytes(i % 251 for i in range(2_000_000))
        peer.script = lambda _: answer(body=body)
        response = self._exchange(transport)
        is_beginning = body.startswith(response.body)
        assert is_beginning, "a response must be its beginning, if it is truncated"
        assert response.truncated == (len(response.body) < len(body))

    def test_redirects_are_not_followed(self, peer: AnyPeer, transport: Transport) -> None:
        peer.script = lambda _: answer(302, reason="Found", headers=(("Location", "/login"),))
        response = self._exchange(transport)
        assert (response.status, response.header("location")) == (302, "/login")
        peer.script = ok
        self._exchange(transport, Request("GET", "/second"))
        assert [peer.next_call().target, peer.next_call().target] == ["/", "/second"]

    @pytest.mark.parametrize("status", [408, 429, 503])
    def test_a_response_that_asks_to_retry_is_the_result(
        self, peer: AnyPeer, transport: Transport, status: int
    ) -> None:
        peer.script = lambda call: (
            ok(call) if call.target == "/next" else answer(status, headers=(("Retry-After", "0"),))
        )
        assert self._exchange(transport).status == status
        self._exchange(transport, Request("GET", "/next"))
        assert [peer.next_call().target, peer.next_call().target] == ["/", "/next"]

    def test_a_response_may_take_long(self, peer: AnyPeer, transport: Transport) -> None:
        with self._waiting(peer, transport) as waiting:
            timeout = longest_timeout(peer.port) if isinstance(peer, Peer) else 0.0
            promise = "there must be no read timeout: a job may take hours"
            assert timeout <= LONGEST_POLL, f"{promise}; the connection has one of {timeout:g} s"
            # Perhaps the transport wakes up after each timeout and waits again.
            assert not wait([waiting.future], max(self.silence, 1.2 * timeout)).done, promise
            waiting.respond()
            assert waiting.future.result(self.patience).body == b"at last"

    # --- many ---------------------------------------------------------------------------------------------------------

    def test_the_capacity_is_none_or_at_least_one(self, transport: Transport) -> None:
        assert transport.capacity is None or transport.capacity >= 1

    def test_concurrent_requests_each_get_their_own_response(self, peer: AnyPeer, transport: Transport) -> None:
        count = _MANY if transport.capacity is None else min(_MANY, transport.capacity)
        all_have_arrived = threading.Barrier(count)

        def script(call: Received) -> bytes:
            all_have_arrived.wait(self.patience)
            return answer(body=call.target.encode())

        peer.script = script
        futures = [transport.send(OneDelivery(Request("GET", f"/{n}"))) for n in range(count)]
        assert [future.result(self.patience).body for future in futures] == [b"/%d" % n for n in range(count)]

    @pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
    def test_a_failing_callback_does_not_affect_other_deliveries(
        self, peer: AnyPeer, transport: Transport, error: type[BaseException]
    ) -> None:
        seen = threading.Event()

        def fail(_: Future[Response]) -> None:
            seen.set()
            raise error

        with self._waiting(peer, transport) as waiting:
            waiting.future.add_done_callback(fail)
        assert seen.wait(self.patience)
        assert self._exchange(transport).status == 200

    def test_a_callback_may_send_the_next_request(self, peer: AnyPeer, transport: Transport) -> None:
        following: Queue[Future[Response]] = Queue()
        with self._waiting(peer, transport) as waiting:
            waiting.future.add_done_callback(lambda _: following.put(transport.send(OneDelivery(GET))))
            waiting.respond()
            try:
                future = following.get(timeout=self.patience)
            except Empty:
                pytest.fail("send() must return at once in the callback of a future too: settle no future under a lock")
            assert future.result(self.patience).status == 200

    # --- cancelled, closed --------------------------------------------------------------------------------------------

    def test_a_delivery_in_flight_can_be_cancelled(self, peer: AnyPeer, transport: Transport) -> None:
        with self._waiting(peer, transport) as waiting:
            assert waiting.future.cancel(), "a future must be cancellable until it has its outcome"
        with pytest.raises(CancelledError):
            waiting.future.result(self.patience)
        assert self._exchange(transport).status == 200

    def test_close_ends_the_deliveries_in_flight_and_may_be_repeated(self, peer: AnyPeer) -> None:
        transport = self._transport_to(peer)
        with self._waiting(peer, transport) as waiting:
            transport.close()
            transport.close()
            assert not waiting.future.cancelled(), "close() must not cancel: that would say that nothing was sent"
            check_lost(waiting.future.exception(self.patience))

    def test_a_closed_transport_sends_nothing(self, peer: AnyPeer) -> None:
        transport = self._transport_to(peer)
        transport.close()
        check_not_sent(self._failure(transport, Request("GET", "/late")))
        with_another = self._transport_to(peer)
        self._exchange(with_another, Request("GET", "/next"))
        with_another.close()
        assert peer.next_call().target == "/next"
