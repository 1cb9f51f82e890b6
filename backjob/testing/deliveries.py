"""The part of a transport's contract that needs no sockets, as a pytest suite with an application in this process.

class TestMyTransport(DeliveryContract):
    def make_transport_to(self, application: Application) -> Transport:
        return MyTransport(application.wsgi)
"""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any, Final

import pytest

from backjob.errors import NotSent, TransportError
from backjob.model import Request, Response
from backjob.protocols import Transport
from backjob.testing._application import Application
from backjob.testing._peer import PATIENCE, AnyPeer, OneDelivery, Received, answer, ok

__all__ = ["Application", "DeliveryContract", "Received"]

GET: Final = Request("GET", "/")


class DeliveryContract:
    """Subclass it, name the class ``Test…``, and implement `make_transport_to`. `TransportContract` includes it."""

    def make_transport_to(self, application: Application) -> Transport:
        """Return a new transport that calls this application: its ``wsgi`` or its ``asgi``."""
        raise NotImplementedError

    def _transport_to(self, peer: Any) -> Transport:
        return self.make_transport_to(peer)

    @pytest.fixture
    def peer(self) -> Iterator[AnyPeer]:
        application = Application()
        yield application
        application.close()

    @pytest.fixture
    def transport(self, peer: AnyPeer) -> Iterator[Transport]:
        transport = self._transport_to(peer)
        yield transport
        transport.close()

    def _exchange(self, transport: Transport, request: Request = GET) -> Response:
        return transport.send(OneDelivery(request)).result(PATIENCE)

    # --- the request --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "CHICKEN", "X-Y.Z!"])
    def test_any_method_token_is_sent_unchanged(self, peer: AnyPeer, transport: Transport, method: str) -> None:
        self._exchange(transport, Request(method, "/"))
        assert peer.next_call().method == method

    @pytest.mark.parametrize(
        "target",
        [
            "/",
            "/a%7Eb%2Fc/%E2%82%AC;p=1?x=%2F&y=a+b%20c&&=~",
            "/~a//b/?q=%7e%5B[]&q=",
            "/a?b?c=/d:e@f!$'()*,",
        ],
    )
    def test_the_target_is_sent_byte_for_byte(self, peer: AnyPeer, transport: Transport, target: str) -> None:
        self._exchange(transport, Request("GET", target))
        assert peer.next_call().target == target

    def test_the_header_fields_are_sent(self, peer: AnyPeer, transport: Transport) -> None:
        fields = (("cookie", "a=b; c=d"), ("authorization", "Bearer secret"), ("user-agent", "caf\xe9/1.0"))
        self._exchange(transport, Request("GET", "/", fields))
        call = peer.next_call()
        assert [call.header(name) for name, _ in fields] == [[value] for _, value in fields]

    @pytest.mark.parametrize(("method", "size"), [("POST", 1), ("POST", 300_000), ("CHICKEN", 3)])
    def test_a_body_has_a_content_length_and_is_never_chunked(
        self, peer: AnyPeer, transport: Transport, method: str, size: int
    ) -> None:
        body = bytes(i % 256 for i in range(size))
        self._exchange(transport, Request(method, "/", (("content-type", "application/octet-stream"),), body))
        call = peer.next_call()
        is_same = call.body == body  # before the assertion: pytest would describe how large bodies differ
        assert is_same, "the body must arrive as it was given"
        assert call.header("content-length") == [str(size)]
        assert call.header("transfer-encoding") == []

    def test_an_empty_post_has_a_content_length(self, peer: AnyPeer, transport: Transport) -> None:
        self._exchange(transport, Request("POST", "/"))
        assert peer.next_call().header("content-length") == ["0"]

    # --- nothing is added ---------------------------------------------------------------------------------------------

    def test_cookies_of_responses_are_not_kept(self, peer: AnyPeer, transport: Transport) -> None:
        peer.script = lambda _: answer(headers=(("Set-Cookie", "session=other; Path=/"),))
        self._exchange(transport)
        self._exchange(transport)
        peer.next_call()
        assert peer.next_call().header("cookie") == []

    def test_redirects_are_not_followed(self, peer: AnyPeer, transport: Transport) -> None:
        peer.script = lambda _: answer(302, reason="Found", headers=(("Location", "/login"),))
        response = self._exchange(transport)
        assert (response.status, response.header("location")) == (302, "/login")
        peer.script = ok
        self._exchange(transport, Request("GET", "/second"))
        assert [peer.next_call().target, peer.next_call().target] == ["/", "/second"]

    # --- the response -------------------------------------------------------------------------------------------------

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

    # --- signing ------------------------------------------------------------------------------------------------------

    def test_a_delivery_is_signed_once(self, transport: Transport) -> None:
        delivery = OneDelivery(GET)
        transport.send(delivery).result(PATIENCE)
        assert delivery.signed == 1

    def test_a_delivery_that_raises_not_sent_is_not_sent(self, peer: AnyPeer, transport: Transport) -> None:
        error = NotSent("too late")
        assert transport.send(OneDelivery(Request("GET", "/late"), error)).exception(PATIENCE) is error
        self._exchange(transport, Request("GET", "/next"))
        assert peer.next_call().target == "/next"

    def test_a_failing_signer_fails_only_its_own_delivery(self, transport: Transport) -> None:
        future = transport.send(OneDelivery(GET, ZeroDivisionError("oops")))
        assert isinstance(future.exception(PATIENCE), Exception)
        assert self._exchange(transport).status == 200

    # --- many, closed -------------------------------------------------------------------------------------------------

    def test_the_capacity_is_none_or_at_least_one(self, transport: Transport) -> None:
        assert transport.capacity is None or transport.capacity >= 1

    def test_concurrent_requests_each_get_their_own_response(self, peer: AnyPeer, transport: Transport) -> None:
        count = 50 if transport.capacity is None else min(50, transport.capacity)
        all_have_arrived = threading.Barrier(count)

        def script(call: Received) -> bytes:
            all_have_arrived.wait(PATIENCE)
            return answer(body=call.target.encode())

        peer.script = script
        futures = [transport.send(OneDelivery(Request("GET", f"/{n}"))) for n in range(count)]
        assert [future.result(PATIENCE).body for future in futures] == [b"/%d" % n for n in range(count)]

    def test_a_failing_callback_does_not_affect_other_deliveries(self, transport: Transport) -> None:
        seen = threading.Event()

        def fail(_: Future[Response]) -> None:
            seen.set()
            raise ZeroDivisionError

        future = transport.send(OneDelivery(GET))
        future.add_done_callback(fail)
        assert seen.wait(PATIENCE)
        assert self._exchange(transport).status == 200

    def test_close_ends_the_deliveries_in_flight_and_may_be_repeated(self, peer: AnyPeer) -> None:
        gate = threading.Event()
        peer.script = lambda _: answer() if gate.wait(PATIENCE) else b""
        transport = self._transport_to(peer)
        future = transport.send(OneDelivery(GET))
        peer.next_call()
        transport.close()
        transport.close()
        ended = wait([future], timeout=PATIENCE).done
        gate.set()
        assert ended
        assert future.cancelled() or isinstance(future.exception(), TransportError)
