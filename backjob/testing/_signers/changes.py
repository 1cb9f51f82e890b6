"""A signature fits the request that was signed, and no other."""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from attrs import evolve

from backjob.errors import SignatureError
from backjob.model import Request
from backjob.testing._signers.case import GRANT, NOW, PLAIN, REQUESTS, SignerCase, added_query, flipped, with_added

_LONG: Final = bytes(range(256)) * 4096
_GARBAGE: Final = (
    *("", " ", "x", "=", "=:;,", '"', "%", "%ff%00", "-1", "1e999", "nan", "null", "AAAA", "x" * 100_000),
    *("1 2 3 4 5 6 7 8", "1.2.3.4.5.6.7.8", "1,2,3,4,5,6,7,8", '{"a":', "[" * 100_000, "9" * 5000),
    *("\0", "\xff\xfe", "\u20ac", "\ud800"),
)


class RefusesChanges(SignerCase):
    """A changed request is claimed and refused."""

    @pytest.mark.parametrize("request_", [PLAIN, REQUESTS[6]], ids=["plain", "with an escaped slash"])
    def test_no_bit_of_the_target_can_be_changed(self, request_: Request) -> None:
        signed = self._signed(request_)
        own = len(request_.target)
        for place, changed in flipped(signed.target):
            mutant = evolve(signed, target=changed)
            # Without the signature's parameters, or without a query, it is an ordinary request to another target.
            if (place < own and "?" in changed) or self.make_signer().claims(mutant):
                self._assert_refused(mutant)

    def test_no_bit_of_the_headers_that_the_signer_added_can_be_changed(self) -> None:
        signed = self._signed()
        for place in range(len(PLAIN.headers), len(signed.headers)):
            name, value = signed.headers[place]
            for _, changed in flipped(value):
                headers = (*signed.headers[:place], (name, changed), *signed.headers[place + 1 :])
                if self.make_signer().claims(mutant := evolve(signed, headers=headers)):
                    self._assert_refused(mutant)

    def test_no_bit_of_the_method_can_be_changed(self) -> None:
        signed = self._signed()
        for _, changed in flipped(signed.method):
            self._assert_refused(evolve(signed, method=changed))

    def test_no_bit_of_the_body_can_be_changed(self) -> None:
        verified = self._verified()
        for place in range(len(PLAIN.body) * 8):
            changed = bytearray(PLAIN.body)
            changed[place // 8] ^= 1 << place % 8
            with pytest.raises(SignatureError):
                verified.check(bytes(changed))

    @pytest.mark.parametrize("place", [0, 1023, 1024, 65_535, 65_536, len(_LONG) // 2, len(_LONG) - 1])
    def test_the_whole_of_a_long_body_is_signed(self, place: int) -> None:
        verified = self.make_signer().verify(self._signed(evolve(PLAIN, body=_LONG)), NOW)
        verified.check(_LONG)
        changed = bytearray(_LONG)
        changed[place] ^= 1
        for other in (bytes(changed), _LONG[:place]):
            with pytest.raises(SignatureError):
                verified.check(other)

    @pytest.mark.parametrize(
        ("signed", "other"),
        [(PLAIN.body, b""), (PLAIN.body, PLAIN.body[:-1]), (PLAIN.body, PLAIN.body + b"\n"), (b"", b"x")],
    )
    def test_a_longer_or_shorter_body_is_refused(self, signed: bytes, other: bytes) -> None:
        verified = self.make_signer().verify(self._signed(evolve(PLAIN, body=signed)), NOW)
        with pytest.raises(SignatureError):
            verified.check(other)

    @pytest.mark.parametrize("garbage", _GARBAGE, ids=lambda text: ascii(text[:20]))
    def test_garbage_in_a_signature_is_refused(self, garbage: str) -> None:
        signer, signed = self.make_signer(), self._signed()
        places: list[Callable[[str], str]] = [lambda _: garbage]
        if garbage.strip():  # else the value would be the same
            places += [lambda value: garbage + value, lambda value: value + garbage]
        for place in places:
            for changed in with_added(signed, PLAIN, place):
                assert isinstance(signer.claims(changed), bool)
                with pytest.raises(SignatureError):
                    signer.verify(changed, NOW)

    @pytest.mark.parametrize("method", ["GET", "post", "POSTS", "POS", "POST ", "P\nOST"])
    def test_another_method_is_refused(self, method: str) -> None:
        self._assert_refused(evolve(self._signed(), method=method))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("/reports/work", "/reports/works"),
            ("/reports/work", "/reports/work/"),
            ("/reports/work", "/reports//work"),
            ("/reports/work", "/reports/./work"),
            ("/reports/work", "/reports%2Fwork"),
            ("/reports/work", "/reports/wor%6B"),
            ("/reports/work", "/admin/../reports/work"),
            ("/reports/work?", "/reports/work??"),
            ("/reports/work?", "/reports/work?&"),
            ("/reports/work?id=5&", "/reports/work?"),
            ("?id=5&marker=QueryMarker", "?marker=QueryMarker&id=5"),
            ("?id=5", "?id=5&id=6"),
            ("?id=5", "?id=%35"),
            ("?id=5", "?ID=5"),
        ],
    )
    def test_another_target_is_refused(self, old: str, new: str) -> None:
        signed = self._signed()
        assert old in signed.target
        self._assert_refused(evolve(signed, target=signed.target.replace(old, new, 1)))

    def test_the_signature_of_another_request_is_refused(self) -> None:
        signed = self._signed()
        other = self._signed(Request("POST", "/another", PLAIN.headers, PLAIN.body))
        moved = Request(
            "POST", other.target.replace("/another?", "/reports/work?id=5&marker=QueryMarker&"), other.headers
        )
        if moved.target == other.target:  # the signature is in the header
            moved = evolve(other, target=signed.target)
        self._assert_refused(moved)

    def test_a_repeated_signature_is_refused(self) -> None:
        signed = self._signed()
        added = added_query(signed, PLAIN)
        self._assert_refused(
            Request("POST", signed.target + added, signed.headers + signed.headers[len(PLAIN.headers) :])
        )

    def test_a_signed_request_can_not_be_signed_again(self) -> None:
        signed = self._signed()
        with pytest.raises(ValueError):  # noqa: PT011 - InvalidRequest, or a signer's own
            self.make_signer().sign(signed, GRANT)

    def test_a_signature_by_another_key_is_refused(self) -> None:
        self._assert_refused(self.make_stranger().sign(PLAIN, GRANT))
