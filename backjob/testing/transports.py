"""The contract of a transport, as a pytest suite over a real peer on loopback.

class TestMyTransport(TransportContract):
    def make_transport(self, base_url: str) -> Transport:
        return MyTransport(base_url)
"""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import h11
import pytest
from attrs import define, field, frozen

from backjob.errors import ConnectionLost, NotSent, TransportError
from backjob.model import Headers, Request, Response
from backjob.protocols import Transport

__all__ = ["Call", "OneDelivery", "Peer", "TransportContract", "answer"]

PATIENCE: Final = 10.0
"""Seconds after which something that should happen counts as not happening."""


@define
class OneDelivery:
    """A delivery of one request that counts how often it is signed, or raises ``error`` instead."""

    request: Request
    error: BaseException | None = None
    deadline: datetime = field(factory=lambda: datetime.now(UTC) + timedelta(seconds=60))
    job_id: str = "job"
    attempt: int = 1
    signed: int = 0

    def sign(self) -> Request:
        self.signed += 1
        if self.error is not None:
            raise self.error
        return self.request


@frozen(eq=False)
class Call:
    """One request as it has arrived at the peer, and the connection that waits for an answer to it."""

    method: str
    target: str
    headers: Headers
    body: bytes
    sock: socket.socket

    def header(self, name: str) -> list[str]:
        """Every value of a field."""
        return [value for key, value in self.headers if key == name]

    def hears_nothing(self, seconds: float) -> bool:
        """Whether for so long the client neither sends nor closes, not even one direction."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(seconds * 1000)

    def is_hung_up(self) -> bool:
        """Wait until the client has closed; False if it has not in time."""
        with contextlib.suppress(ConnectionResetError):
            try:
                while self.sock.recv(65536):
                    pass
            except TimeoutError:
                return False
        return True


def answer(status: int = 200, body: bytes = b"", reason: str = "OK", headers: Headers = ()) -> bytes:
    """A response with Content-Length, as bytes."""
    head = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode("latin-1") + body


Script = Callable[[Call], bytes]
"""What a peer does with a call: the bytes to answer with, after which it closes."""


def _ok(_: Call) -> bytes:
    return answer()


class Peer:
    """An HTTP server on 127.0.0.1 or on a listener that is given, a thread for each connection.

    Every request goes to ``arrivals``; then the ``script`` gives the answer.
    """

    def __init__(
        self, script: Script = _ok, *, listener: socket.socket | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self.script = script
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
        """The next request that has arrived and was not asked for yet."""
        return self.arrivals.get(timeout=PATIENCE)

    def close(self) -> None:
        """Close every connection and wait for the threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(PATIENCE)
        for sock in self._connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

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
            sock.settimeout(PATIENCE)
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


class TransportContract:
    """Subclass it, name the class ``Test…``, and implement `make_transport`."""

    def make_transport(self, base_url: str) -> Transport:
        """A new transport to the application at this base URL (plain HTTP, a host and a port)."""
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

    def _exchange(self, transport: Transport, request: Request) -> Response:
        return transport.send(OneDelivery(request)).result(PATIENCE)

    def _failure(self, transport: Transport, request: Request) -> BaseException | None:
        return transport.send(OneDelivery(request)).exception(PATIENCE)

    # --- the request ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "CHICKEN", "X-Y.Z!"])
    def test_any_method_token_arrives_as_it_is(self, peer: Peer, transport: Transport, method: str) -> None:
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
    def test_the_target_arrives_byte_for_byte(self, peer: Peer, transport: Transport, target: str) -> None:
        self._exchange(transport, Request("GET", target))
        assert peer.next_call().target == target

    def test_the_header_fields_of_the_request_arrive(self, peer: Peer, transport: Transport) -> None:
        fields = (("cookie", "a=b; c=d"), ("authorization", "Bearer secret"), ("user-agent", "caf\xe9/1.0"))
        self._exchange(transport, Request("GET", "/", fields))
        call = peer.next_call()
        assert [call.header(name) for name, _ in fields] == [[value] for _, value in fields]

    def test_host_is_that_of_the_base_url(self, peer: Peer, transport: Transport) -> None:
        self._exchange(transport, Request("GET", "/"))
        assert peer.next_call().header("host") == [f"127.0.0.1:{peer.port}"]

    @pytest.mark.parametrize("size", [1, 300_000])
    def test_a_body_goes_with_its_length_and_is_never_chunked(
        self, peer: Peer, transport: Transport, size: int
    ) -> None:
        body = bytes(i % 256 for i in range(size))
        self._exchange(transport, Request("POST", "/", (("content-type", "application/octet-stream"),), body))
        call = peer.next_call()
        assert call.body == body
        assert call.header("content-length") == [str(size)]
        assert call.header("transfer-encoding") == []

    def test_a_custom_method_may_have_a_body(self, peer: Peer, transport: Transport) -> None:
        self._exchange(transport, Request("CHICKEN", "/", (), b"egg"))
        assert peer.next_call().body == b"egg"

    def test_an_empty_post_says_that_it_is_empty(self, peer: Peer, transport: Transport) -> None:
        self._exchange(transport, Request("POST", "/"))
        assert peer.next_call().header("content-length") == ["0"]

    # --- nothing comes from elsewhere -------------------------------------------------------------------------------

    def test_a_cookie_that_an_answer_sets_is_not_sent_with_the_next_request(
        self, peer: Peer, transport: Transport
    ) -> None:
        peer.script = lambda _: answer(headers=(("Set-Cookie", "session=other; Path=/"),))
        self._exchange(transport, Request("GET", "/"))
        self._exchange(transport, Request("GET", "/"))
        peer.next_call()
        assert peer.next_call().header("cookie") == []

    def test_a_redirect_is_an_answer_and_is_not_followed(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: answer(302, reason="Found", headers=(("Location", "/login"),))
        response = self._exchange(transport, Request("GET", "/"))
        assert (response.status, response.header("location")) == (302, "/login")
        peer.script = _ok
        self._exchange(transport, Request("GET", "/second"))
        assert [peer.next_call().target, peer.next_call().target] == ["/", "/second"]

    def test_proxies_of_the_environment_are_not_used(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        with Peer() as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY"):
                monkeypatch.setenv(name, proxy.base_url)
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.delenv(name, raising=False)
            transport = self.make_transport(peer.base_url)
            try:
                self._exchange(transport, Request("GET", "/"))
            finally:
                transport.close()
            assert proxy.arrivals.empty()
        assert peer.next_call().target == "/"

    @pytest.mark.parametrize("fields", [(), (("authorization", "Bearer mine"),)])
    def test_netrc_gives_nobody_a_password(
        self, peer: Peer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fields: Headers
    ) -> None:
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
        (tmp_path / ".netrc").chmod(0o600)
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
        transport = self.make_transport(peer.base_url)
        try:
            self._exchange(transport, Request("GET", "/", fields))
        finally:
            transport.close()
        assert peer.next_call().header("authorization") == [value for _, value in fields]

    # --- the answer -------------------------------------------------------------------------------------------------

    def test_the_future_gives_the_complete_answer(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: answer(418, b"short and stout", "I am a teapot", (("X-Pot", "tea"),))
        response = self._exchange(transport, Request("GET", "/"))
        assert (response.status, response.reason, response.body) == (418, "I am a teapot", b"short and stout")
        assert response.header("x-pot") == "tea"
        assert not response.truncated

    def test_an_answer_may_come_without_a_reason_phrase(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: answer(204, reason="")
        assert self._exchange(transport, Request("GET", "/")).status == 204

    def test_informational_answers_are_passed_over(self, peer: Peer, transport: Transport) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        peer.script = lambda _: hints + b"HTTP/1.1 102 Processing\r\n\r\n" + answer(201, b"made")
        response = self._exchange(transport, Request("GET", "/"))
        assert (response.status, response.body) == (201, b"made")

    def test_a_chunked_answer_and_one_that_ends_with_the_connection_are_complete(
        self, peer: Peer, transport: Transport
    ) -> None:
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        until_the_end = b"HTTP/1.0 200 OK\r\n\r\nabcde"
        peer.script = lambda call: chunked if call.target == "/chunked" else until_the_end
        assert self._exchange(transport, Request("GET", "/chunked")).body == b"abcde"
        assert self._exchange(transport, Request("GET", "/end")).body == b"abcde"

    def test_the_answer_to_head_has_no_body_to_wait_for(self, peer: Peer, transport: Transport) -> None:
        peer.script = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
        response = self._exchange(transport, Request("HEAD", "/"))
        assert (response.status, response.body) == (200, b"")

    def test_a_long_answer_is_kept_whole_or_marked_as_truncated(self, peer: Peer, transport: Transport) -> None:
        body = bytes(i % 251 for i in range(2_000_000))
        peer.script = lambda _: answer(body=body)
        response = self._exchange(transport, Request("GET", "/"))
        assert body.startswith(response.body)
        assert response.truncated == (len(response.body) < len(body))

    def test_the_connection_is_held_open_both_ways_until_the_answer_comes(
        self, peer: Peer, transport: Transport
    ) -> None:
        gate = threading.Event()
        peer.script = lambda _: answer(body=b"at last") if gate.wait(PATIENCE) else b""
        future = transport.send(OneDelivery(Request("GET", "/")))
        call = peer.next_call()
        assert call.hears_nothing(0.2)
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
        ids=["nothing", "half a head", "half a body", "half of the chunks", "another protocol"],
    )
    def test_a_connection_that_ends_without_a_complete_answer_is_lost(
        self, peer: Peer, transport: Transport, bytes_back: bytes
    ) -> None:
        peer.script = lambda _: bytes_back
        assert isinstance(self._failure(transport, Request("GET", "/")), ConnectionLost)
        peer.script = _ok
        assert self._exchange(transport, Request("GET", "/")).status == 200

    def test_a_refused_connection_says_that_nothing_was_sent(self) -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # bound and not listening: this port refuses, and stays ours
            transport = self.make_transport(f"http://127.0.0.1:{bound.getsockname()[1]}")
            delivery = OneDelivery(Request("GET", "/"))
            try:
                error = transport.send(delivery).exception(PATIENCE)
            finally:
                transport.close()
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
        delivery = OneDelivery(Request("GET", "/"))
        transport.send(delivery).result(PATIENCE)
        assert delivery.signed == 1

    def test_what_is_not_signed_any_more_is_not_sent(self, peer: Peer, transport: Transport) -> None:
        error = NotSent("too late")
        assert transport.send(OneDelivery(Request("GET", "/late"), error)).exception(PATIENCE) is error
        self._exchange(transport, Request("GET", "/next"))
        assert peer.next_call().target == "/next"

    def test_a_signer_that_breaks_fails_its_own_delivery_alone(self, transport: Transport) -> None:
        future = transport.send(OneDelivery(Request("GET", "/"), ZeroDivisionError("oops")))
        assert isinstance(future.exception(PATIENCE), Exception)
        assert self._exchange(transport, Request("GET", "/")).status == 200

    # --- many, cancelled, closed ------------------------------------------------------------------------------------

    def test_the_capacity_is_none_or_at_least_one(self, transport: Transport) -> None:
        assert transport.capacity is None or transport.capacity >= 1

    def test_many_are_in_flight_at_once_and_each_gets_its_own_answer(self, peer: Peer, transport: Transport) -> None:
        count = 50 if transport.capacity is None else min(50, transport.capacity)
        everybody_is_here = threading.Barrier(count)

        def script(call: Call) -> bytes:
            everybody_is_here.wait(PATIENCE)
            return answer(body=call.target.encode())

        peer.script = script
        futures = [transport.send(OneDelivery(Request("GET", f"/{n}"))) for n in range(count)]
        assert [future.result(PATIENCE).body for future in futures] == [b"/%d" % n for n in range(count)]

    def test_cancelling_closes_the_connection(self, peer: Peer, transport: Transport) -> None:
        closed: queue.Queue[bool] = queue.Queue()

        def script(call: Call) -> bytes:
            closed.put(call.is_hung_up())
            return b""

        peer.script = script
        future = transport.send(OneDelivery(Request("GET", "/")))
        peer.next_call()
        assert future.cancel()
        assert closed.get(timeout=2 * PATIENCE)
        with pytest.raises(CancelledError):
            future.result(PATIENCE)

    def test_a_callback_that_raises_harms_nobody_else(self, transport: Transport) -> None:
        seen = threading.Event()

        def careless(_: Future[Response]) -> None:
            seen.set()
            raise ZeroDivisionError

        future = transport.send(OneDelivery(Request("GET", "/")))
        future.add_done_callback(careless)
        assert seen.wait(PATIENCE)
        assert self._exchange(transport, Request("GET", "/")).status == 200

    def test_closing_ends_what_is_in_flight_and_may_be_repeated(self, peer: Peer) -> None:
        gate = threading.Event()
        peer.script = lambda _: answer() if gate.wait(PATIENCE) else b""
        transport = self.make_transport(peer.base_url)
        future = transport.send(OneDelivery(Request("GET", "/")))
        peer.next_call()
        transport.close()
        transport.close()
        ended = wait([future], timeout=PATIENCE).done
        gate.set()
        assert ended
        assert future.cancelled() or isinstance(future.exception(), TransportError)
