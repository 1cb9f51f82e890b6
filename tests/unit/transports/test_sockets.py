"""`SocketTransport`, beyond the contract of all transports (tests/contracts)."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import resource
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from attrs import define

from backjob.clock import SystemClock
from backjob.errors import ConnectionLost, InvalidRequest, NotSent
from backjob.model import Request, Response
from backjob.protocols import Clock, Delivery
from backjob.testing import FakeClock
from backjob.testing.transports import PATIENCE, Call, OneDelivery, Peer, answer
from backjob.transports.sockets import SocketTransport, descriptors
from backjob.transports.sockets import connection as _connection
from backjob.transports.sockets.loop import SocketLoop
from tests.unit.transports.threads import socket_threads

ROOT = Path(__file__).parents[3]
LONG = Request("POST", "/", (), b"x" * 8_000_000)  # more than fits into the buffers between two sockets


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@contextlib.contextmanager
def transport_to(
    base_url: str,
    connect_to: str | None = None,
    tls: ssl.SSLContext | None = None,
    *,
    connect_timeout: float = PATIENCE,
    max_response: int = 65536,
    max_header: int = 65536,
    clock: Clock | None = None,
) -> Iterator[SocketTransport]:
    transport = SocketTransport(
        base_url,
        connect_to,
        tls,
        connect_timeout=connect_timeout,
        max_response=max_response,
        max_header=max_header,
        clock=clock,
    )
    try:
        yield transport
    finally:
        transport.close()


def exchange(transport: SocketTransport, request: Request | None = None) -> Response:
    return transport.send(OneDelivery(request or Request("GET", "/"))).result(PATIENCE)


def failure(transport: SocketTransport, request: Request | None = None) -> NotSent | ConnectionLost:
    error = transport.send(OneDelivery(request or Request("GET", "/"))).exception(PATIENCE)
    assert isinstance(error, (NotSent, ConnectionLost))
    return error


def eventually(is_true: Callable[[], bool]) -> bool:
    """Whether a condition of the operating system becomes true in time."""
    never = threading.Event()
    return any(is_true() or never.wait(0.01) for _ in range(int(PATIENCE * 100)))


def run_script(source: str) -> str:
    """Run a Python program that forks or lowers limits; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(source)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- addresses ------------------------------------------------------------------------------------------------------


def test_a_request_over_a_unix_socket_carries_the_base_urls_host(tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with (
            Peer(listener=listener) as peer,
            transport_to("https://example.com/app", f"unix:{path}") as transport,
        ):
            assert exchange(transport, Request("GET", "/work?x=%7E")).status == 200
            call = peer.next_call()
    assert call.target == "/app/work?x=%7E"
    assert (call.header("host"), call.header("x-forwarded-proto")) == (["example.com"], ["https"])


def test_a_missing_unix_socket_is_reported_as_not_sent(tmp_path: Path) -> None:
    with transport_to("http://example.com", f"unix:{tmp_path}/none.sock") as transport:
        error = failure(transport)
    assert isinstance(error, NotSent)
    assert str(error) == f"cannot connect to unix:{tmp_path}/none.sock: No such file or directory"


def test_connect_to_may_differ_from_the_base_url(peer: Peer) -> None:
    with transport_to("https://example.com:8443/app/", f"http://127.0.0.1:{peer.port}") as transport:
        exchange(transport, Request("GET", "/work"))
    call = peer.next_call()
    assert call.target == "/app/work"
    assert (call.header("host"), call.header("x-forwarded-proto")) == (["example.com:8443"], ["https"])


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "*", "localhost"])
def test_wildcards_and_localhost_connect_to_the_loopback(peer: Peer, host: str) -> None:
    with transport_to(f"http://{host}:{peer.port}") as transport:
        exchange(transport)
    assert peer.next_call().header("host") == [f"localhost:{peer.port}"]


def ipv6_listener(port: int = 0) -> socket.socket:
    try:
        return socket.create_server(("::1", port), family=socket.AF_INET6)
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")


def test_a_wildcard_falls_back_to_the_ipv6_loopback() -> None:
    with Peer(listener=ipv6_listener()) as peer, transport_to(f"http://0.0.0.0:{peer.port}") as transport:
        assert exchange(transport).status == 200


def test_what_has_reached_one_address_of_a_host_goes_to_no_other(peer: Peer) -> None:
    """Of several addresses only that one has proven itself; another user of the machine may listen at the others."""
    with Peer(listener=ipv6_listener(peer.port)) as other, transport_to(f"http://0.0.0.0:{peer.port}") as transport:
        first = OneDelivery(Request("GET", "/"))
        assert transport.send(first).result(PATIENCE).status == 200
        peer.close()
        second = OneDelivery(Request("GET", "/"), reached=first.reached)
        error = transport.send(second).exception(PATIENCE)
        assert isinstance(error, NotSent)
        assert (second.signed, other.arrivals.qsize()) == (0, 0)
        assert exchange(transport).status == 200  # a probe tries them all
        assert other.arrivals.qsize() == 1


def test_an_ipv6_host_is_written_in_brackets() -> None:
    with Peer(listener=ipv6_listener()) as peer, transport_to(f"http://[::1]:{peer.port}") as transport:
        exchange(transport)
        assert peer.next_call().header("host") == [f"[::1]:{peer.port}"]


def test_a_refused_connection_names_every_address_that_was_tried() -> None:
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        with transport_to(f"http://0.0.0.0:{port}") as transport:
            error = failure(transport)
    assert isinstance(error, NotSent)
    assert str(error).startswith(f"connection refused: 127.0.0.1:{port}; ")
    assert f"[::1]:{port}" in str(error)


def test_an_unresolvable_name_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with transport_to("http://app.invalid:8000") as transport:
        error = failure(transport)
    assert isinstance(error, NotSent)
    assert str(error) == "cannot resolve app.invalid: Name or service not known"


class SelfConnecting(socket.socket):
    """A socket with the very port that it connects to. The kernel may choose it if no server listens there."""

    def connect_ex(self, address: object, /) -> int:
        assert isinstance(address, tuple)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.bind(address)
        return super().connect_ex(address)


def test_a_socket_connected_to_itself_counts_as_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    monkeypatch.setattr(socket, "socket", SelfConnecting)
    with transport_to(f"http://127.0.0.1:{port}") as transport:
        delivery = OneDelivery(Request("GET", "/"))
        error = transport.send(delivery).exception(PATIENCE)
    assert isinstance(error, NotSent)
    assert str(error) == f"connection refused: 127.0.0.1:{port}"
    assert delivery.signed == 0


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_trusted_certificate_for_the_base_urls_host_is_accepted(
    authority: trustme.CA, trusting_context: ssl.SSLContext, host: str
) -> None:
    with (
        Peer(tls=server_context(authority, host)) as peer,
        transport_to(f"https://{host}:{peer.port}", None, trusting_context) as transport,
    ):
        assert exchange(transport).status == 200
        assert peer.next_call().header("x-forwarded-proto") == ["https"]


def test_the_certificate_must_match_the_base_url_and_not_the_address(
    authority: trustme.CA, trusting_context: ssl.SSLContext
) -> None:
    with Peer(tls=server_context(authority, "app.example")) as peer:
        with transport_to("https://app.example", f"127.0.0.1:{peer.port}", trusting_context) as transport:
            assert exchange(transport).status == 200
        with transport_to("https://other.example", f"127.0.0.1:{peer.port}", trusting_context) as transport:
            error = failure(transport)
    assert isinstance(error, NotSent)
    assert str(error).startswith("TLS not trusted: other.example at 127.0.0.1:")


def test_with_an_untrusted_certificate_nothing_is_signed(authority: trustme.CA) -> None:
    with (
        Peer(tls=server_context(authority, "localhost")) as peer,
        transport_to(f"https://localhost:{peer.port}") as transport,
    ):
        delivery = OneDelivery(Request("GET", "/", (("cookie", "secret"),)))
        error = transport.send(delivery).exception(PATIENCE)
        assert peer.arrivals.empty()
    assert isinstance(error, NotSent)
    assert str(error).startswith("TLS not trusted: localhost at ")
    assert delivery.signed == 0


def test_tls_to_a_plain_http_server_is_reported_as_not_sent(peer: Peer, trusting_context: ssl.SSLContext) -> None:
    with transport_to(f"http://localhost:{peer.port}", None, trusting_context) as transport:
        error = failure(transport)
    assert isinstance(error, NotSent)
    assert str(error).startswith("TLS failed: localhost at ")


def test_plain_http_to_a_tls_server_is_a_lost_connection(authority: trustme.CA) -> None:
    with (
        Peer(tls=server_context(authority, "localhost")) as peer,
        transport_to(f"http://127.0.0.1:{peer.port}") as transport,
    ):
        assert isinstance(failure(transport), ConnectionLost)


def test_large_bodies_pass_through_tls_in_both_directions(
    authority: trustme.CA, trusting_context: ssl.SSLContext
) -> None:
    body = bytes(n % 251 for n in range(3_000_000))
    with (
        Peer(lambda call: answer(body=call.body[::-1]), tls=server_context(authority, "localhost")) as peer,
        transport_to(f"https://localhost:{peer.port}", None, trusting_context, max_response=len(body)) as transport,
    ):
        assert exchange(transport, Request("POST", "/", (), body)).body == body[::-1]


def test_bytes_that_tls_has_already_decrypted_are_read_without_an_event(
    authority: trustme.CA, trusting_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer_and_wait(call: Call) -> bytes:
        call.sock.sendall(answer(body=b"x" * 10_000))
        call.is_closed_in_time()  # closing here would cause an event
        return b""

    monkeypatch.setattr(_connection, "_CHUNK", 100)  # less than a TLS record
    with (
        Peer(answer_and_wait, tls=server_context(authority, "localhost")) as peer,
        transport_to(f"https://localhost:{peer.port}", None, trusting_context) as transport,
    ):
        assert exchange(transport).body == b"x" * 10_000


def test_closing_sends_a_close_notify(authority: trustme.CA, trusting_context: ssl.SSLContext) -> None:
    ends: queue.Queue[bytes] = queue.Queue()

    def answer_and_wait(call: Call) -> bytes:
        assert isinstance(call.sock, ssl.SSLSocket)
        call.sock.suppress_ragged_eofs = False  # type: ignore[attr-defined]
        call.sock.sendall(answer())
        ends.put(call.sock.recv(1))
        return b""

    with (
        Peer(answer_and_wait, tls=server_context(authority, "localhost")) as peer,
        transport_to(f"https://localhost:{peer.port}", None, trusting_context) as transport,
    ):
        exchange(transport)
        assert ends.get(timeout=PATIENCE) == b""


def test_a_body_that_ends_without_close_notify_is_incomplete(
    authority: trustme.CA, trusting_context: ssl.SSLContext
) -> None:
    def cut_off(call: Call) -> bytes:
        call.sock.sendall(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        call.sock.shutdown(socket.SHUT_RDWR)  # of the TCP connection, without close_notify
        return b""

    with (
        Peer(cut_off, tls=server_context(authority, "localhost")) as peer,
        transport_to(f"https://localhost:{peer.port}", None, trusting_context) as transport,
    ):
        error = failure(transport)
    assert isinstance(error, ConnectionLost)
    assert "closed without a TLS close_notify" in str(error)


# --- deadlines ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """A port with a full backlog: it neither accepts nor refuses connections."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def test_an_unresponsive_server_times_out_and_nothing_is_signed() -> None:
    delivery = OneDelivery(Request("GET", "/"))
    with full_listener() as port, transport_to(f"http://127.0.0.1:{port}", connect_timeout=0.2) as transport:
        error = transport.send(delivery).exception(PATIENCE)
    assert isinstance(error, NotSent)
    assert str(error) == f"timed out: no connection to 127.0.0.1:{port}"
    assert delivery.signed == 0


class StoppedWallClock(SystemClock):
    """A deadline stays as far away, however long it takes until a delivery begins."""

    def now(self) -> datetime:
        return datetime(2030, 1, 1, tzinfo=UTC)


def test_an_earlier_deadline_of_the_delivery_replaces_the_connect_timeout() -> None:
    clock = StoppedWallClock()
    with (
        full_listener() as port,
        transport_to(f"http://127.0.0.1:{port}", connect_timeout=1000, clock=clock) as transport,
    ):
        soon = clock.now() + timedelta(seconds=0.2)
        error = transport.send(OneDelivery(Request("GET", "/"), deadline=soon)).exception(PATIENCE)
    assert isinstance(error, NotSent)
    assert str(error).startswith("timed out")


def test_past_its_deadline_a_delivery_does_not_connect(peer: Peer) -> None:
    with transport_to(peer.base_url) as transport:
        delivery = OneDelivery(Request("GET", "/"), deadline=datetime.now(UTC))
        error = transport.send(delivery).exception(PATIENCE)
    assert isinstance(error, NotSent)
    assert str(error) == "past its deadline"
    assert delivery.signed == 0


def test_an_unresponsive_address_leaves_time_for_the_next_one() -> None:
    with full_listener() as port:
        listener = ipv6_listener(port)
        # Of the 4 s, the first address gets 2 s; a busy machine needs some of the others.
        with Peer(listener=listener), transport_to(f"http://0.0.0.0:{port}", connect_timeout=4) as transport:
            assert exchange(transport).status == 200


def test_a_missing_tls_handshake_times_out(trusting_context: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with transport_to(f"https://localhost:{port}", None, trusting_context, connect_timeout=0.2) as transport:
            error = failure(transport)
    assert isinstance(error, NotSent)
    assert str(error).startswith("timed out: no TLS with localhost:")


def test_the_connect_timeout_does_not_bound_the_response(peer: Peer) -> None:
    gate = threading.Event()
    peer.script = lambda _: answer() if gate.wait(PATIENCE) else b""
    with transport_to(peer.base_url, connect_timeout=0.1) as transport:
        future = transport.send(OneDelivery(Request("GET", "/")))
        assert peer.next_call().is_silent_for(0.3)
        gate.set()
        assert future.result(PATIENCE).status == 200


@define
class ServerActsBeforeSigning(OneDelivery):
    """Runs ``act`` in place of the server, between the connect and the first byte."""

    listener: socket.socket | None = None
    act: Callable[[socket.socket], None] = socket.socket.close

    def sign(self) -> Request:
        assert self.listener is not None
        self.listener.settimeout(PATIENCE)
        with self.listener.accept()[0] as sock:
            self.act(sock)
        return super().sign()


def outcome_if_the_server(act: Callable[[socket.socket], None]) -> Future[Response]:
    """The outcome of a long request if the server acts like this, and closes, before the request is signed."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, transport_to(f"http://127.0.0.1:{listener.getsockname()[1]}") as transport:
        future = transport.send(ServerActsBeforeSigning(LONG, listener=listener, act=act))
        wait([future], PATIENCE)
    return future


def test_the_socket_thread_signs_once_the_connection_is_established() -> None:
    threads: queue.Queue[str] = queue.Queue()
    outcome_if_the_server(lambda _: threads.put(threading.current_thread().name))
    assert threads.get_nowait() == "backjob-sockets"


# --- writing and reading --------------------------------------------------------------------------------------------


def raw_server(serve: Callable[[socket.socket], None]) -> tuple[socket.socket, threading.Thread]:
    """A server for one connection that passes the socket to a function."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        listener.settimeout(PATIENCE)
        sock, _ = listener.accept()
        sock.settimeout(PATIENCE)
        with sock, contextlib.suppress(OSError):
            serve(sock)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return listener, thread


@contextlib.contextmanager
def transport_to_raw(serve: Callable[[socket.socket], None]) -> Iterator[SocketTransport]:
    listener, thread = raw_server(serve)
    with listener, transport_to(f"http://127.0.0.1:{listener.getsockname()[1]}") as transport:
        yield transport
    thread.join(PATIENCE)


def test_a_body_larger_than_the_buffers_is_written_as_the_server_reads_it() -> None:
    sizes: queue.Queue[int] = queue.Queue()

    def read_slowly(sock: socket.socket) -> None:
        total = 0
        while total < len(LONG.body):
            total += len(sock.recv(50_000))
        sizes.put(total)
        sock.sendall(answer())

    with transport_to_raw(read_slowly) as transport:
        assert exchange(transport, LONG).status == 200
    assert sizes.get_nowait() > len(LONG.body)


def test_a_response_before_the_whole_request_was_read_counts() -> None:
    answered = threading.Event()

    def refuse(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(answer(413, reason="Content Too Large"))
        answered.wait(PATIENCE)  # without reading on

    with transport_to_raw(refuse) as transport:
        assert exchange(transport, LONG).status == 413
        answered.set()


def test_a_response_from_a_server_that_has_already_closed_counts() -> None:
    assert outcome_if_the_server(lambda sock: sock.sendall(answer(503))).result(0).status == 503


def test_a_connection_that_breaks_before_the_first_byte_is_reported_as_not_sent() -> None:
    error = outcome_if_the_server(abort).exception(0)
    assert isinstance(error, NotSent)
    assert str(error).startswith("the connection broke: ")


def test_an_informational_response_does_not_stop_the_writing() -> None:
    def respond_early(sock: socket.socket) -> None:
        total = len(sock.recv(100))
        sock.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
        while total < len(LONG.body):
            total += len(sock.recv(65536))
        sock.sendall(answer(201))

    with transport_to_raw(respond_early) as transport:
        assert exchange(transport, LONG).status == 201


def test_a_server_that_closes_during_the_request_is_a_lost_connection() -> None:
    with transport_to_raw(lambda sock: print(sock.recv(100))) as transport:
        assert isinstance(failure(transport, LONG), ConnectionLost)


def abort(sock: socket.socket) -> None:
    """Make the close send a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def test_a_reset_instead_of_a_response_is_a_lost_connection() -> None:
    def reset(sock: socket.socket) -> None:
        sock.recv(65536)
        abort(sock)

    with transport_to_raw(reset) as transport:
        error = failure(transport)
    assert isinstance(error, ConnectionLost)
    assert str(error) == "the connection broke: Connection reset by peer"


def test_the_connection_is_closed_once_the_response_is_complete() -> None:
    hung_up = threading.Event()

    def keep_alive(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(answer(headers=(("Connection", "keep-alive"),)))
        if sock.recv(1) == b"":
            hung_up.set()

    with transport_to_raw(keep_alive) as transport:
        assert exchange(transport).status == 200
        assert hung_up.wait(PATIENCE)


def test_the_size_limit_of_a_response_is_a_setting(peer: Peer) -> None:
    peer.script = lambda _: answer(body=b"x" * 1000, headers=(("X-Long", "y" * 500),))
    with transport_to(peer.base_url, max_response=10) as transport:
        response = exchange(transport)
    assert (response.body, response.truncated) == (b"x" * 10, True)


def test_an_endless_header_is_a_lost_connection() -> None:
    def babble(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            sock.sendall(b"X-More: and more\r\n" * 100)

    with transport_to_raw(babble) as transport:
        error = failure(transport)
    assert isinstance(error, ConnectionLost)
    assert str(error) == "the head of the response is longer than the limit"


def test_an_invalid_request_is_not_sent_and_its_error_shows_no_value(peer: Peer) -> None:
    with transport_to(peer.base_url) as transport:
        error = failure(transport, Request("GET", "/", (("cookie", "secret\r\nx: y"),)))
    assert isinstance(error, NotSent)
    assert "'cookie'" in str(error)
    assert "secret" not in str(error)
    assert peer.arrivals.empty()


# --- the thread -----------------------------------------------------------------------------------------------------


def test_five_hundred_requests_are_in_flight_on_one_thread() -> None:
    count = 500
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        listener.settimeout(PATIENCE)
        transport = stack.enter_context(transport_to(f"http://127.0.0.1:{listener.getsockname()[1]}"))
        futures = [transport.send(OneDelivery(Request("GET", f"/{n}"))) for n in range(count)]
        connections = [stack.enter_context(listener.accept()[0]) for _ in range(count)]
        targets = [sock.recv(65536).split()[1] for sock in connections]
        assert len(socket_threads()) == 1
        assert not any(future.done() for future in futures)
        for sock, target in zip(connections, targets, strict=True):
            sock.sendall(answer(body=target))
        assert [future.result(PATIENCE).body for future in futures] == [b"/%d" % n for n in range(count)]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count of names


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_no_outcome_leaves_a_descriptor_open(peer: Peer) -> None:
    before = open_descriptors()
    with contextlib.closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        gate = threading.Event()
        scripts: dict[str, Callable[[], bytes]] = {
            "/ok": answer,
            "/lost": lambda: b"",
            "/waits": lambda: answer() if gate.wait(PATIENCE) else b"",
        }
        peer.script = lambda call: scripts[call.target]()
        with (
            transport_to(peer.base_url) as transport,
            transport_to(f"http://0.0.0.0:{bound.getsockname()[1]}") as refused,
        ):
            for _ in range(20):
                exchange(transport, Request("GET", "/ok"))
                failure(transport, Request("GET", "/lost"))
                failure(refused)
            waits = [transport.send(OneDelivery(Request("GET", "/waits"))) for _ in range(6)]
            waits[0].cancel()
        assert all(future.done() for future in waits)
        gate.set()
    peer.close()
    # One fewer than before: the peer has closed its listener.
    assert eventually(lambda: open_descriptors() < before), (open_descriptors(), before)


def test_the_thread_starts_with_the_first_delivery_and_ends_at_close(peer: Peer) -> None:
    with transport_to(peer.base_url) as transport:
        assert socket_threads() == []
        exchange(transport)
        (thread,) = socket_threads()
        assert thread.daemon
    assert socket_threads() == []


def test_a_closed_transport_sends_nothing(peer: Peer) -> None:
    transport = SocketTransport(peer.base_url)
    transport.close()
    error = transport.send(OneDelivery(Request("GET", "/"))).exception(0)
    assert isinstance(error, NotSent)
    assert str(error) == "the transport is closed"


def test_a_delivery_can_be_cancelled_while_it_connects() -> None:
    with full_listener() as port, transport_to(f"http://127.0.0.1:{port}") as transport:
        delivery = OneDelivery(Request("GET", "/"))
        future = transport.send(delivery)
        assert future.cancel()
        # wait() reports a cancelled future only once the socket thread has noticed.
        assert wait([future], PATIENCE, FIRST_COMPLETED).done
    assert delivery.signed == 0


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_of_a_callback_does_not_end_the_thread(
    peer: Peer, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    peer.script = lambda _: answer() if gate.wait(PATIENCE) else b""

    def raising(_: Future[Response]) -> None:
        raise error

    with transport_to(peer.base_url) as transport:
        future = transport.send(OneDelivery(Request("GET", "/")))
        future.add_done_callback(raising)
        threads = socket_threads()
        gate.set()
        future.result(PATIENCE)
        exchange(transport)
        assert socket_threads() == threads
    assert len(caplog.records) == 1


@define
class NoDeadline:
    """A delivery whose deadline raises."""

    job_id: str = "job"
    attempt: int = 1
    reached: object | None = None

    @property
    def deadline(self) -> datetime:
        raise ZeroDivisionError("secret")

    def sign(self) -> Request:
        raise AssertionError("must not be signed")


def test_an_exception_of_a_delivery_does_not_end_the_thread(peer: Peer) -> None:
    with transport_to(peer.base_url) as transport:
        exchange(transport)
        threads = socket_threads()
        broken: list[Delivery] = [NoDeadline(), OneDelivery(Request("GET", "/"), SystemExit("secret"))]
        for delivery in broken:
            error = transport.send(delivery).exception(PATIENCE)
            assert isinstance(error, NotSent)
            assert error.__cause__ is not None
            assert "secret" not in str(error)
        assert exchange(transport).status == 200
        assert socket_threads() == threads


def test_if_the_thread_dies_its_deliveries_fail_and_the_next_one_starts_a_new_thread(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Event()
    peer.script = lambda _: answer() if gate.wait(PATIENCE) else b""
    with transport_to(peer.base_url) as transport:
        pending = transport.send(OneDelivery(Request("GET", "/")))
        peer.next_call()

        def fail(_: SocketLoop) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patched:
            patched.setattr(SocketLoop, "_drain_waker", fail)
            transport.send(OneDelivery(Request("GET", "/")))
            assert isinstance(pending.exception(PATIENCE), ConnectionLost)
            assert eventually(lambda: socket_threads() == [])
        gate.set()
        assert exchange(transport).status == 200
    assert "the socket thread ended" in caplog.text


def test_if_the_thread_can_not_start_the_delivery_fails_and_the_next_one_retries(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    before = open_descriptors()
    with transport_to(peer.base_url) as transport:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socketpair", refuse)
            error = transport.send(OneDelivery(Request("GET", "/"))).exception(0)
        assert isinstance(error, NotSent)
        assert str(error) == "cannot start the socket thread: Too many open files"
        assert open_descriptors() == before
        assert exchange(transport).status == 200


# --- limits and arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "capacity"),
    [(1024, 768), (256, 192), (100, 36), (64, 1), (10, 1), (1 << 20, 10_000), (resource.RLIM_INFINITY, 10_000)],
)
def test_the_capacity_leaves_file_descriptors_for_everything_else(
    monkeypatch: pytest.MonkeyPatch, limit: int, capacity: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(descriptors, "waits_with_select", lambda: False)
    monkeypatch.setattr(descriptors, "_open_descriptors", lambda: 0)
    assert SocketTransport("http://127.0.0.1:1").capacity == capacity


@pytest.mark.parametrize(
    ("opened", "limit", "given", "capacity"),
    [
        (12, 1 << 20, None, 250),
        (12, 1 << 20, 100, 100),
        (12, 1 << 20, 5000, 250),
        (412, 1 << 20, None, 50),
        (600, 1 << 20, None, 0),
        (5000, 1 << 20, None, 0),
        (12, 256, None, 180),
    ],
)
def test_with_a_server_that_uses_select_no_descriptor_becomes_too_high_for_it(
    monkeypatch: pytest.MonkeyPatch, opened: int, limit: int, given: int | None, capacity: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(descriptors, "waits_with_select", lambda: True)
    monkeypatch.setattr(descriptors, "_open_descriptors", lambda: opened)
    assert SocketTransport("http://127.0.0.1:1", max_in_flight=given).capacity == capacity


def test_the_capacity_shrinks_when_other_parts_of_the_process_open_files(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, opened = FakeClock(), 100
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    monkeypatch.setattr(descriptors, "waits_with_select", lambda: False)
    monkeypatch.setattr(descriptors, "_open_descriptors", lambda: opened)
    transport = SocketTransport("http://127.0.0.1:1", clock=clock)
    assert transport.capacity == 768
    opened = 900
    clock.advance(0.1)
    assert transport.capacity == 1024 - 64 - 900


def test_the_capacity_may_be_set() -> None:
    assert SocketTransport("http://127.0.0.1:1", max_in_flight=7).capacity == 7


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("base_url", lambda: SocketTransport("127.0.0.1:8000")),
        ("connect_to", lambda: SocketTransport("http://a", "nowhere")),
        ("connect_timeout", lambda: SocketTransport("http://a", connect_timeout=0)),
        ("max_in_flight", lambda: SocketTransport("http://a", max_in_flight=0)),
        ("max_response", lambda: SocketTransport("http://a", max_response=-1)),
        ("max_header", lambda: SocketTransport("http://a", max_header=0)),
    ],
)
def test_the_error_for_an_invalid_argument_names_it(argument: str, make: Callable[[], SocketTransport]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make()
    assert caught.value.argument == argument


PRELUDE = """
import os, resource, socket, sys, threading
from concurrent.futures import wait
from backjob.errors import NotSent
from backjob.model import Request
from backjob.testing.transports import OneDelivery, Peer, answer
from backjob.transports.sockets import SocketTransport

def delivery(target="/"):
    return OneDelivery(Request("GET", target))

def waits(call):
    if call.target == "/waits":
        gate.wait(10)
    return answer(body=call.target.encode())

gate = threading.Event()
"""


def test_without_free_descriptors_only_the_new_deliveries_fail() -> None:
    out = run_script(
        PRELUDE
        + """
listener = socket.create_server(("127.0.0.1", 0), backlog=100)
transport = SocketTransport(f"http://127.0.0.1:{listener.getsockname()[1]}")
first = transport.send(delivery())
accepted, _ = listener.accept()
used = len(os.listdir("/proc/self/fd"))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 9, used + 9))
futures = [transport.send(delivery()) for _ in range(30)]
failed = [future.exception(10) for future in list(wait(futures, 10, "FIRST_COMPLETED").done)]
pending = [future for future in futures if not future.done()]
while len(futures) - len(pending) < 20:
    failed = [future.exception(10) for future in wait(pending, 10, "FIRST_COMPLETED").done]
    pending = [future for future in futures if not future.done()]
reasons = {str(future.exception()) for future in futures if future.done()}
print(type(failed[0]).__name__, reasons, 0 < len(pending) <= 10)
accepted.recv(1000)
accepted.sendall(answer(201))
print(first.result(10).status)
for future in pending:
    future.cancel()
wait(pending, 10)
again = transport.send(delivery())
for _ in range(len(pending) + 1):
    connection, _ = listener.accept()
    if connection.recv(1000):
        connection.sendall(answer(202))
    connection.close()
print(again.result(10).status)
transport.close()
listener.close()
"""
    )
    assert out.splitlines() == [
        "NotSent {'no file descriptor left for another connection: Too many open files'} True",
        "201",
        "202",
    ]


# --- fork -----------------------------------------------------------------------------------------------------------


def test_a_forked_child_has_its_own_loop_and_leaves_the_parents_connections_alone() -> None:
    out = run_script(
        PRELUDE
        + """
with Peer(waits) as peer:
    transport = SocketTransport(peer.base_url)
    pending = transport.send(delivery("/waits"))
    peer.next_call()
    transport._loops.get()._lock.acquire()  # as if another thread held it during the fork
    child = os.fork()
    if child == 0:
        before = len(os.listdir("/proc/self/fd"))
        body = transport.send(delivery("/child")).result(10).body
        print(body, pending.done(), len(threading.enumerate()), flush=True)
        transport.close()
        # The child has closed its copies of the parent's epoll, socket pair and connection, and its own.
        print(before - len(os.listdir("/proc/self/fd")), flush=True)
        os._exit(0)
    transport._loops.get()._lock.release()
    assert os.waitpid(child, 0)[1] == 0
    second = transport.send(delivery("/second")).result(10).body
    assert not pending.done()
    gate.set()
    print(pending.result(10).body, second)
    transport.close()
"""
    )
    # The child has two threads: its main thread and the transport's. The peer's threads are in the parent.
    assert out.splitlines() == ["b'/child' False 2", "4", "b'/waits' b'/second'"]


@pytest.mark.slow
def test_closing_reaches_the_peer_even_if_a_child_has_a_copy_of_the_connection() -> None:
    out = run_script(
        PRELUDE
        + """
listener = socket.create_server(("127.0.0.1", 0))
transport = SocketTransport(f"http://127.0.0.1:{listener.getsockname()[1]}")
pending = transport.send(delivery())
connection, _ = listener.accept()
connection.settimeout(10)
connection.recv(1000)
reader, writer = os.pipe()
child = os.fork()
if child == 0:
    os.close(writer)
    os.read(reader, 1)  # until the parent has checked
    os._exit(0)
connection.sendall(answer())
print(pending.result(10).status, connection.recv(1))
os.close(writer)
os.waitpid(child, 0)
transport.close()
"""
    )
    assert out.splitlines() == ["200 b''"]


@pytest.mark.slow
def test_a_transport_created_before_a_fork_works_in_parent_and_child() -> None:
    out = run_script(
        PRELUDE
        + """
with Peer(waits) as peer:
    transport = SocketTransport(peer.base_url)
    child = os.fork()
    body = transport.send(delivery("/child" if child == 0 else "/parent")).result(10).body
    if child == 0:
        print(body, transport.capacity > 0, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
    print(body)
    transport.close()
"""
    )
    assert out.splitlines() == ["b'/child' True", "b'/parent'"]
