"""The contract of a transport, as a pytest suite with a real server on loopback.

class TestMyTransport(TransportContract):
    def make_transport(self, base_url: str) -> Transport:
        return MyTransport(base_url)
"""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import closing
from pathlib import Path

import pytest

from backjob.errors import ConnectionLost, NotSent, TransportError
from backjob.model import Headers, Request, Response
from backjob.protocols import Transport
from backjob.testing._peer import PATIENCE, Call, OneDelivery, Peer, answer, ok

__all__ = ["PATIENCE", "Call", "OneDelivery", "Peer", "TransportContract", "answer"]

_GET = Request("GET", "/")


class TransportContract:
    """Subclass it, name the class ``Test…``, and implement `make_transport`."""

    def make_transport(self, base_url: str) -> Transport:
        """Return a new transport to the application at this base URL (plain HTTP, with a host and a port)."""
        raise NotImplementedError

    @pytest.fixture
    def peer(self) -> Iterator[Peer]:
        with Peer() as peer:
            yield peer

    @pytest.fixture
    def transport(self, peer: Peer) -> Iterator[Transport]:
        transport = self.make_transport(peer.base_url)
        yield transport
        transport.close()

    def _exchange(self, transport: Transport, request: Request = _GET) -> Response:
        return transport.send(OneDelivery(request)).result(PATIENCE)

    def _failure(self, transport: Transport, request: Request = _GET) -> BaseException | None:
        return transport.send(OneDelivery(request)).exception(PATIENCE)

    # --- the request ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "CHICKEN", "X-Y.Z!"])
    def test_any_method_token_is_sent_unchanged(self, peer: Peer, transport: Transport, method: str) -> None:
        self._exchange(transport, Request(method, "/"))
        assert peer.next_call().method == method

    @pytest.mark.parametrize(
        "target",
        [
            "/",
            "/a%7Eb%2Fc/%E2%82%AC;p=1?x=%2F&y=a+b%20c&&=~",
            "/~a//b/?q=%7e%5B[]&q=",
            "/a?",
            "/a?b?c=/d:e@f!$'()*,",
        ],
    )
    def test_the_target_is_sent_byte_for_byte(self, peer: Peer, transport: Transport, target: str) -> None:
        self._exchange(transport, Request("GET", target))
        assert peer.next_call().target == target

    def test_the_header_fields_are_sent(self, peer: Peer, transport: Transport) -> None:
        fields = (("cookie", "a=b; c=d"), ("authorization", "Bearer secret"), ("user-agent", "caf\xe9/1.0"))
        self._exchange(transport, Request("GET", "/", fields))
        call = peer.next_call()
        assert [call.header(name) for name, _ in fields] == [[value] for _, value in fields]

    def test_host_is_the_base_urls_host(self, peer: Peer, transport: Transport) -> None:
        self._exchange(transport)
        assert peer.next_call().header("host") == [f"127.0.0.1:{peer.port}"]

    @pytest.mark.parametrize(("method", "size"), [("POST", 1), ("POST", 300_000), ("CHICKEN", 3)])
    def test_a_body_has_a_content_length_and_is_never_chunked(
        self, peer: Peer, transport: Transport, method: str, size: int
    ) -> None:
        body = bytes(i % 256 for i in range(size))
        self._exchange(transport, Request(method, "/", (("content-type", "application/octet-stream"),), body))
        call = peer.next_call()
        assert call.body == body
        assert call.header("content-length") == [str(size)]
        assert call.header("transfer-encoding") == []

    def test_an_empty_post_has_a_content_length(self, peer: Peer, transport: Transport) -> None:
        self._exchange(transport, Request("POST", "/"))
        assert peer.next_call().header("content-length") == ["0"]

    # --- nothing is added -------------------------------------------------------------------------------------------

    def test_cookies_of_responses_are_not_kept(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: answer(headers=(("Set-Cookie", "session=other; Path=/"),))
        self._exchange(transport)
        self._exchange(transport)
        peer.next_call()
        assert peer.next_call().header("cookie") == []

    def test_redirects_are_not_followed(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: answer(302, reason="Found", headers=(("Location", "/login"),))
        response = self._exchange(transport)
        assert (response.status, response.header("location")) == (302, "/login")
        peer.script = ok
        self._exchange(transport, Request("GET", "/second"))
        assert [peer.next_call().target, peer.next_call().target] == ["/", "/second"]

    def test_proxies_from_the_environment_are_not_used(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        with Peer() as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY"):
                monkeypatch.setenv(name, proxy.base_url)
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.delenv(name, raising=False)
            with closing(self.make_transport(peer.base_url)) as transport:
                self._exchange(transport)
            assert proxy.arrivals.empty()
        assert peer.next_call().target == "/"

    @pytest.mark.parametrize("fields", [(), (("authorization", "Bearer mine"),)])
    def test_netrc_is_not_used(
        self, peer: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fields: Headers
    ) -> None:
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
        (tmp_path / ".netrc").chmod(0o600)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        with closing(self.make_transport(peer.base_url)) as transport:
            self._exchange(transport, Request("GET", "/", fields))
        assert peer.next_call().header("authorization") == [value for _, value in fields]

    # --- the response -----------------------------------------------------------------------------------------------

    def test_the_result_is_the_complete_response(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: answer(418, b"short and stout", "I am a teapot", (("X-Pot", "tea"),))
        response = self._exchange(transport)
        assert (response.status, response.reason, response.body) == (418, "I am a teapot", b"short and stout")
        assert response.header("x-pot") == "tea"
        assert not response.truncated

    def test_a_response_may_have_no_reason_phrase(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: answer(204, reason="")
        assert self._exchange(transport).status == 204

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

    def test_the_response_to_head_has_no_body(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        response = self._exchange(transport, Request("HEAD", "/"))
        assert (response.status, response.body) == (200, b"")

    def test_a_long_response_is_complete_or_marked_as_truncated(self, peer: Peer, transport: Transport) -> None:
        body = bytes(i % 251 for i in range(2_000_000))
        peer.script = lambda _: answer(body=body)
        response = self._exchange(transport)
        assert body.startswith(response.body)
        assert response.truncated == (len(response.body) < len(body))

    def test_the_connection_stays_open_in_both_directions_until_the_response(
        self, peer: Peer, transport: Transport
    ) -> None:
        gate = threading.Event()
        peer.script = lambda _: answer(body=b"at last") if gate.wait(PATIENCE) else b""
        future = transport.send(OneDelivery(_GET))
        call = peer.next_call()
        assert call.is_silent_for(0.2)
        assert not future.done()
        gate.set()
        assert future.result(PATIENCE).body == b"at last"

    # --- errors -----------------------------------------------------------------------------------------------------

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
    def test_an_incomplete_response_is_a_lost_connection(
        self, peer: Peer, transport: Transport, bytes_back: bytes
    ) -> None:
        peer.script = lambda _: bytes_back
        assert isinstance(self._failure(transport), ConnectionLost)
        peer.script = ok
        assert self._exchange(transport).status == 200

    def test_a_refused_connection_is_reported_as_not_sent(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # without listening: this port refuses connections
            delivery = OneDelivery(_GET)
            with closing(self.make_transport(f"http://127.0.0.1:{bound.getsockname()[1]}")) as transport:
                error = transport.send(delivery).exception(PATIENCE)
        assert isinstance(error, NotSent)
        assert error.reason
        assert delivery.signed <= 1

    def test_errors_show_no_header_value(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: b""
        error = self._failure(transport, Request("GET", "/", (("cookie", "secret"),)))
        assert isinstance(error, TransportError)
        assert "secret" not in f"{error!s}{error!r}"

    # --- signing ----------------------------------------------------------------------------------------------------

    def test_a_delivery_is_signed_once(self, transport: Transport) -> None:
        delivery = OneDelivery(_GET)
        transport.send(delivery).result(PATIENCE)
        assert delivery.signed == 1

    def test_a_delivery_that_raises_not_sent_is_not_sent(self, peer: Peer, transport: Transport) -> None:
        error = NotSent("too late")
        assert transport.send(OneDelivery(Request("GET", "/late"), error)).exception(PATIENCE) is error
        self._exchange(transport, Request("GET", "/next"))
        assert peer.next_call().target == "/next"

    def test_a_failing_signer_fails_only_its_own_delivery(self, transport: Transport) -> None:
        future = transport.send(OneDelivery(_GET, ZeroDivisionError("oops")))
        assert isinstance(future.exception(PATIENCE), Exception)
        assert self._exchange(transport).status == 200

    # --- many, cancelled, closed ------------------------------------------------------------------------------------

    def test_the_capacity_is_none_or_at_least_one(self, transport: Transport) -> None:
        assert transport.capacity is None or transport.capacity >= 1

    def test_concurrent_requests_each_get_their_own_response(self, peer: Peer, transport: Transport) -> None:
        count = 50 if transport.capacity is None else min(50, transport.capacity)
        all_have_arrived = threading.Barrier(count)

        def script(call: Call) -> bytes:
            all_have_arrived.wait(PATIENCE)
            return answer(body=call.target.encode())

        peer.script = script
        futures = [transport.send(OneDelivery(Request("GET", f"/{n}"))) for n in range(count)]
        assert [future.result(PATIENCE).body for future in futures] == [b"/%d" % n for n in range(count)]

    def test_cancelling_closes_the_connection(self, peer: Peer, transport: Transport) -> None:
        closed: queue.Queue[bool] = queue.Queue()

        def script(call: Call) -> bytes:
            closed.put(call.is_closed_in_time())
            return b""

        peer.script = script
        future = transport.send(OneDelivery(_GET))
        peer.next_call()
        assert future.cancel()
        assert closed.get(timeout=2 * PATIENCE)
        with pytest.raises(CancelledError):
            future.result(PATIENCE)

    def test_a_failing_callback_does_not_affect_other_deliveries(self, transport: Transport) -> None:
        seen = threading.Event()

        def fail(_: Future[Response]) -> None:
            seen.set()
            raise ZeroDivisionError

        future = transport.send(OneDelivery(_GET))
        future.add_done_callback(fail)
        assert seen.wait(PATIENCE)
        assert self._exchange(transport).status == 200

    def test_close_ends_the_deliveries_in_flight_and_may_be_repeated(self, peer: Peer) -> None:
        gate = threading.Event()
        peer.script = lambda _: answer() if gate.wait(PATIENCE) else b""
        transport = self.make_transport(peer.base_url)
        future = transport.send(OneDelivery(_GET))
        peer.next_call()
        transport.close()
        transport.close()
        ended = wait([future], timeout=PATIENCE).done
        gate.set()
        assert ended
        assert future.cancelled() or isinstance(future.exception(), TransportError)
