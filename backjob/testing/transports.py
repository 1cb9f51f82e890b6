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
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from backjob.errors import ConnectionLost, NotSent, TransportError
from backjob.model import Headers, Request
from backjob.protocols import Transport
from backjob.testing._peer import PATIENCE, Call, OneDelivery, Peer, answer, ok
from backjob.testing.deliveries import GET, DeliveryContract

__all__ = ["PATIENCE", "Call", "OneDelivery", "Peer", "TransportContract", "answer"]


class TransportContract(DeliveryContract):
    """Subclass it, name the class ``Test…``, and implement `make_transport`. It includes `DeliveryContract`."""

    def make_transport(self, base_url: str) -> Transport:
        """Return a new transport to the application at this base URL (plain HTTP, with a host and a port)."""
        raise NotImplementedError

    @override
    def _transport_to(self, peer: Any) -> Transport:
        return self.make_transport(peer.base_url)

    @pytest.fixture
    def peer(self) -> Iterator[Peer]:
        with Peer() as peer:
            yield peer

    def _failure(self, transport: Transport, request: Request = GET) -> BaseException | None:
        return transport.send(OneDelivery(request)).exception(PATIENCE)

    # --- the request ------------------------------------------------------------------------------------------------

    def test_a_question_mark_without_a_query_is_sent(self, peer: Peer, transport: Transport) -> None:
        self._exchange(transport, Request("GET", "/a?"))
        assert peer.next_call().target == "/a?"

    def test_host_is_the_base_urls_host(self, peer: Peer, transport: Transport) -> None:
        self._exchange(transport)
        assert peer.next_call().header("host") == [f"127.0.0.1:{peer.port}"]

    # --- nothing is added -------------------------------------------------------------------------------------------

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
        gate = threading.Event()
        peer.script = lambda _: answer(body=b"at last") if gate.wait(PATIENCE) else b""
        future = transport.send(OneDelivery(GET))
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
            delivery = OneDelivery(GET)
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

    # --- many, cancelled, closed ------------------------------------------------------------------------------------

    def test_cancelling_closes_the_connection(self, peer: Peer, transport: Transport) -> None:
        closed: queue.Queue[bool] = queue.Queue()

        def script(call: Call) -> bytes:
            closed.put(call.is_closed_in_time())
            return b""

        peer.script = script
        future = transport.send(OneDelivery(GET))
        peer.next_call()
        assert future.cancel()
        assert closed.get(timeout=2 * PATIENCE)
        with pytest.raises(CancelledError):
            future.result(PATIENCE)
