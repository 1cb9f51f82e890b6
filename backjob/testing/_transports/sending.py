"""The request that arrives is the one that was signed, and nothing is added to it."""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from backjob.errors import NotSent
from backjob.model import Headers, Request
from backjob.protocols import Transport
from backjob.testing._peer import AnyPeer, OneDelivery, Peer, answer
from backjob.testing._shown import shown
from backjob.testing._transports.case import GET, TransportCase, check_not_sent

_OWN_FIELDS: Final = frozenset({"host", "connection", "content-length", "x-forwarded-proto"})
"""The fields that a transport may add."""


class SendsRequests(TransportCase):
    """The application gets each request as it was signed, once. It needs no sockets."""

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

    def test_the_header_fields_are_sent_in_latin_1(self, peer: AnyPeer, transport: Transport) -> None:
        fields = (("cookie", "a=b; c=d"), ("authorization", "Bearer secret"), ("user-agent", "caf\xe9/1.0"))
        self._exchange(transport, Request("GET", "/", fields))
        call = peer.next_call()
        assert [call.header(name) for name, _ in fields] == [[value] for _, value in fields]

    def test_a_host_of_the_request_is_sent_instead_of_the_address(self, peer: AnyPeer, transport: Transport) -> None:
        self._exchange(transport, Request("GET", "/", (("Host", "shop.example"), ("cookie", "a=b"))))
        assert peer.next_call().header("host") == ["shop.example"]

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_no_other_header_field_is_added(self, peer: AnyPeer, transport: Transport, method: str) -> None:
        self._exchange(transport, Request(method, "/", (("cookie", "a=b"),)))
        added = {name for name, _ in peer.next_call().headers} - {"cookie"}
        assert added <= _OWN_FIELDS, f"these fields were added: {sorted(added - _OWN_FIELDS)}"

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

    def test_cookies_of_responses_are_not_kept(self, peer: AnyPeer, transport: Transport) -> None:
        peer.script = lambda _: answer(headers=(("Set-Cookie", "session=other; Path=/"),))
        self._exchange(transport)
        self._exchange(transport)
        peer.next_call()
        assert peer.next_call().header("cookie") == []

    # --- signing ------------------------------------------------------------------------------------------------------

    def test_a_delivery_is_signed_once(self, transport: Transport) -> None:
        delivery = OneDelivery(GET)
        transport.send(delivery).result(self.patience)
        assert delivery.signed == 1

    def test_a_delivery_that_raises_not_sent_is_not_sent(self, peer: AnyPeer, transport: Transport) -> None:
        error = NotSent("too late")
        assert self._failure_of(transport, OneDelivery(Request("GET", "/late"), error)) is error
        self._exchange(transport, Request("GET", "/next"))
        assert peer.next_call().target == "/next"

    def test_a_failing_signer_fails_only_its_own_delivery(self, transport: Transport) -> None:
        error = self._failure_of(transport, OneDelivery(GET, ZeroDivisionError("oops")))
        assert isinstance(error, Exception)
        assert self._exchange(transport).status == 200

    def _failure_of(self, transport: Transport, delivery: OneDelivery) -> BaseException | None:
        return transport.send(delivery).exception(self.patience)


class SendsOverHTTP(TransportCase):
    """The base URL and the header fields become the right bytes on the wire. For a transport that connects."""

    def test_a_question_mark_without_a_query_is_sent(self, peer: Peer, transport: Transport) -> None:
        self._exchange(transport, Request("GET", "/a?"))
        assert peer.next_call().target == "/a?"

    def test_host_is_the_base_urls_host(self, peer: Peer, transport: Transport) -> None:
        self._exchange(transport)
        assert peer.next_call().header("host") == [f"127.0.0.1:{peer.port}"]

    @pytest.mark.parametrize(
        ("path", "prefix"), [("/", ""), ("/shop", "/shop"), ("/shop/", "/shop"), ("/a/%E2%82%AC~", "/a/%E2%82%AC~")]
    )
    def test_the_path_of_the_base_url_precedes_the_target(self, peer: Peer, path: str, prefix: str) -> None:
        with closing(self.make_transport(peer.base_url + path)) as transport:
            self._exchange(transport, Request("GET", "/work?a=/b"))
        assert peer.next_call().target == f"{prefix}/work?a=/b"

    @pytest.mark.parametrize("fields", [(), (("X-Forwarded-Proto", "https"),)], ids=["alone", "instead of another"])
    def test_x_forwarded_proto_is_the_base_urls_scheme(self, peer: Peer, transport: Transport, fields: Headers) -> None:
        self._exchange(transport, Request("GET", "/", fields))
        assert peer.next_call().header("x-forwarded-proto") == ["http"]

    def test_repeated_header_fields_are_sent_one_by_one(self, peer: Peer, transport: Transport) -> None:
        fields = (("x-twice", "1"), ("cookie", "a=1"), ("X-Twice", "2"), ("cookie", "b=2"), ("x-twice", "1"))
        self._exchange(transport, Request("GET", "/", fields))
        call = peer.next_call()
        assert (call.header("x-twice"), call.header("cookie")) == (["1", "2", "1"], ["a=1", "b=2"])

    @pytest.mark.parametrize("value", ["secret\r\nX-Admin: 1", "secret\n", "secret\0", "secret\u20ac"])
    def test_a_header_value_that_http_does_not_allow_is_neither_sent_nor_shown(
        self, peer: Peer, transport: Transport, value: str
    ) -> None:
        error = check_not_sent(self._failure(transport, Request("GET", "/invalid", (("cookie", value),))))
        assert "secret" not in shown(error), "an error must show no header value"
        self._exchange(transport, Request("GET", "/next"))
        assert peer.next_call().target == "/next"

    # --- the environment ----------------------------------------------------------------------------------------------

    def test_proxies_from_the_environment_are_not_used(self, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
        with Peer(patience=self.patience) as proxy:
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
