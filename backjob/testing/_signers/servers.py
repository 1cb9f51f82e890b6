"""A signed request verifies as servers and proxies show it, and other requests are none of the signer's business."""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import unquote_to_bytes

import pytest
from attrs import evolve

from backjob.errors import SignatureError
from backjob.http.targets import canonical_path
from backjob.model import Request
from backjob.testing._signers.case import NOW, PLAIN, SignerCase, each_request

_BY_PROXIES: Final = (("Via", "1.1 proxy"), ("X-Forwarded-For", "192.0.2.7"), ("X-Request-ID", "5f3a"))
_ORDINARY: Final = (
    *(Request("GET", target) for target in ("", "*", "?", "#", "//", "/%", "/%zz?%zz=%&=&&", "/?", "/a?b#c", "a:b@c")),
    *(
        Request("GET", f"/{character}?{character}={character}")
        for character in ("\xff", "\u20ac", "\ud800", "\0", "\n")
    ),
    *(Request("GET", "/?" + character * 100_000) for character in "&=%["),
    *(Request(method, "/") for method in ("", " ", "G\nT", "\xff", "\ud800")),
    *(Request("GET", "/", ((name, "x"),)) for name in ("", " ", ":", "\xff", "\ud800")),
    *(
        Request("GET", "/", (("X-Odd", value),))
        for value in ("", "\0", "\r\n", "\xff", "\u20ac", "\ud800", "=" * 100_000)
    ),
    Request("CONNECT", "app.test:443"),
    Request("GET", "http://app.test/?a=b"),
    Request("GET", "/\xff", raw=False),
)


class FitsServers(SignerCase):
    """A signed request verifies as any server shows it, and ordinary requests stay ordinary."""

    @pytest.mark.parametrize("change", [str.lower, str.upper, str.title], ids=["lower", "upper", "title"])
    def test_a_server_may_change_the_case_of_field_names(self, change: Callable[[str], str]) -> None:
        signed = self._signed()
        shown = evolve(signed, headers=tuple((change(name), value) for name, value in signed.headers))
        assert self.make_signer().claims(shown)
        verified = self.make_signer().verify(shown, NOW)
        verified.check(PLAIN.body)
        assert verified.request == evolve(PLAIN, headers=tuple((change(name), value) for name, value in PLAIN.headers))

    def test_proxies_may_add_header_fields_and_change_their_order(self) -> None:
        signed = self._signed()
        shown = evolve(signed, headers=(*_BY_PROXIES, *reversed(signed.headers)))
        assert self.make_signer().claims(shown)
        verified = self.make_signer().verify(shown, NOW)
        verified.check(PLAIN.body)
        assert verified.request == evolve(PLAIN, headers=(*_BY_PROXIES, *reversed(PLAIN.headers)))

    @pytest.mark.parametrize("request_", _ORDINARY, ids=lambda request: ascii((request.method, request.target[:20])))
    def test_an_odd_request_is_ordinary(self, request_: Request) -> None:
        signer = self.make_signer()
        assert signer.claims(request_) is False, "an unsigned request is ordinary, even if it does not parse"
        with pytest.raises(SignatureError):
            signer.verify(request_, NOW)

    @each_request
    def test_a_request_verifies_on_a_server_that_shows_only_the_decoded_path(self, request_: Request) -> None:
        signed = self._signed(request_)
        verified = self.make_signer().verify(_as_shown_without_raw_path(signed), NOW)
        assert verified.request.target == request_.target

    def test_without_the_raw_path_another_path_is_refused(self) -> None:
        signed = self._signed(Request("GET", "/file/a%2Fb"))
        shown = _as_shown_without_raw_path(signed)
        self._assert_refused(evolve(shown, target=shown.target.replace("/file/a/b", "/file/a/c", 1)))

    def test_with_the_raw_path_its_decoded_form_is_refused(self) -> None:
        signed = self._signed(Request("GET", "/file/a%2Fb"))
        self._assert_refused(evolve(signed, target=signed.target.replace("/file/a%2Fb", "/file/a/b", 1)))


def _as_shown_without_raw_path(request: Request) -> Request:
    """Return the request as an adapter sees it on a server that shows only the decoded path."""
    path, mark, query = request.target.partition("?")
    return evolve(request, target=canonical_path(unquote_to_bytes(path)) + mark + query, raw=False)
