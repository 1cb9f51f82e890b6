"""The contract of a signer, as a pytest suite.

class TestMySigner(SignerContract):
    def make_signer(self) -> Signer:
        return MySigner(SECRET)

    def make_stranger(self) -> Signer:
        return MySigner(ANOTHER_SECRET)

    def secrets(self) -> tuple[str, ...]:
        return (SECRET,)
"""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import unquote_to_bytes

import pytest
from attrs import evolve

from backjob.errors import SignatureError
from backjob.http.targets import canonical_path, normalise
from backjob.model import Grant, Request
from backjob.protocols import Signer, Verified

__all__ = ["SignerContract"]


def _at(timestamp: int) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC)


_CREATED: Final = 1_900_000_000
_EXPIRES: Final = _CREATED + 600
_GRANT: Final = Grant("job-of_16-random-bytes", 2, 3, _CREATED, _EXPIRES)
_NOW: Final = _at(_CREATED + 60)
_MICROSECOND: Final = timedelta(microseconds=1)

_PLAIN: Final = Request(
    "POST", "/reports/work?id=5&marker=QueryMarker", (("Host", "app.test"), ("Cookie", "session=1")), b'{"hello": 1}'
)
_REQUESTS: Final = (
    Request("GET", "/"),
    Request("GET", "/reports/work"),
    _PLAIN,
    Request("CHICKEN", "/farm", (), b"egg"),
    Request("DELETE", "/a-b_c.d~e/f;g=1,2/h:i@j!k$l&m'n(o)p*q+r"),
    Request("GET", normalise("/grüße/日本?größe=ß&x=a b")),
    Request("GET", "/file/a%2Fb%3Bc?d=%2F"),
    Request("GET", "/query?a=b?c/d&&e&=f&g=%26"),
    Request("PUT", "/bytes", (("X-Twice", "1"), ("x-twice", "2")), bytes(range(256)) * 100),
)
_each_request = pytest.mark.parametrize("request_", _REQUESTS, ids=lambda request: f"{request.method} {request.target}")


class SignerContract:
    """Tests for every `Signer`. Subclass this and implement ``make_signer``, ``make_stranger`` and ``secrets``."""

    def make_signer(self) -> Signer:
        """Return a signer. All of them have the same key."""
        raise NotImplementedError

    def make_stranger(self) -> Signer:
        """Return the same kind of signer with another key."""
        raise NotImplementedError

    def secrets(self) -> tuple[str, ...]:
        """Return what no repr and no message may show: the key of ``make_signer``, in all its spellings."""
        raise NotImplementedError

    def _signed(self, request: Request = _PLAIN) -> Request:
        return self.make_signer().sign(request, _GRANT)

    def _verified(self) -> Verified:
        return self.make_signer().verify(self._signed(), _NOW)

    def _assert_refused(self, request: Request) -> None:
        signer = self.make_signer()
        assert signer.claims(request), "a changed request must not be treated as an ordinary one"
        with pytest.raises(SignatureError):
            signer.verify(request, _NOW)

    # --- signing and verifying ----------------------------------------------------------------------------------

    @_each_request
    def test_another_signer_with_the_same_key_claims_and_verifies_a_signed_request(self, request_: Request) -> None:
        signed = self._signed(request_)
        assert self.make_signer().claims(signed)
        verified = self.make_signer().verify(signed, _NOW)
        assert isinstance(verified, Verified)
        assert verified.grant == _GRANT
        assert verified.request == request_
        verified.check(request_.body)

    @_each_request
    def test_signing_does_not_change_the_method_body_and_headers(self, request_: Request) -> None:
        signed = self._signed(request_)
        assert (signed.method, signed.body) == (request_.method, request_.body)
        assert signed.headers[: len(request_.headers)] == request_.headers
        assert signed.target.startswith(request_.target)

    @_each_request
    def test_an_unsigned_request_is_not_claimed(self, request_: Request) -> None:
        assert not self.make_signer().claims(request_)

    @_each_request
    def test_an_unsigned_request_is_refused(self, request_: Request) -> None:
        with pytest.raises(SignatureError):
            self.make_signer().verify(request_, _NOW)

    def test_claims_and_verify_do_not_need_the_body(self) -> None:
        signed = evolve(self._signed(), body=b"")
        assert self.make_signer().claims(signed)
        self.make_signer().verify(signed, _NOW).check(_PLAIN.body)

    @_each_request
    def test_a_request_verifies_on_a_server_that_shows_only_the_decoded_path(self, request_: Request) -> None:
        signed = self._signed(request_)
        verified = self.make_signer().verify(_as_shown_without_raw_path(signed), _NOW)
        assert verified.request.target == request_.target

    def test_without_the_raw_path_another_path_is_refused(self) -> None:
        signed = self._signed(Request("GET", "/file/a%2Fb"))
        shown = _as_shown_without_raw_path(signed)
        self._assert_refused(evolve(shown, target=shown.target.replace("/file/a/b", "/file/a/c", 1)))

    def test_with_the_raw_path_its_decoded_form_is_refused(self) -> None:
        signed = self._signed(Request("GET", "/file/a%2Fb"))
        self._assert_refused(evolve(signed, target=signed.target.replace("/file/a%2Fb", "/file/a/b", 1)))

    def test_each_grant_has_its_own_signature(self) -> None:
        signer = self.make_signer()
        grants = [
            _GRANT,
            evolve(_GRANT, job_id="another"),
            evolve(_GRANT, run=3),
            evolve(_GRANT, run=3, delivery=2),
            evolve(_GRANT, delivery=4),
            evolve(_GRANT, created=_CREATED + 1),
            evolve(_GRANT, expires=_EXPIRES + 1),
        ]
        signed = [signer.sign(_PLAIN, grant) for grant in grants]
        assert len({(request.target, request.headers) for request in signed}) == len(grants)
        assert [signer.verify(request, _NOW).grant for request in signed] == grants

    def test_the_signature_of_an_earlier_run_grants_that_run_alone(self) -> None:
        earlier = self.make_signer().sign(_PLAIN, evolve(_GRANT, run=1))
        assert self.make_signer().verify(earlier, _NOW).grant.run == 1
        later = self._signed()
        spliced = [
            evolve(earlier, target=later.target, headers=earlier.headers),
            evolve(earlier, target=earlier.target.replace(f"{_GRANT.job_id}.1.", f"{_GRANT.job_id}.2.")),
            evolve(
                earlier,
                headers=tuple(
                    (name, value.replace(f"{_GRANT.job_id}.1.", f"{_GRANT.job_id}.2."))
                    for name, value in earlier.headers
                ),
            ),
        ]
        for changed in spliced:
            if changed not in (earlier, later) and (changed.target, changed.headers) != (later.target, later.headers):
                self._assert_refused(changed)

    # --- changed requests are refused ---------------------------------------------------------------------------

    @pytest.mark.parametrize("request_", [_PLAIN, _REQUESTS[6]], ids=["plain", "with an escaped slash"])
    def test_no_bit_of_the_target_can_be_changed(self, request_: Request) -> None:
        signed = self._signed(request_)
        own = len(request_.target)
        for place, changed in _flipped(signed.target):
            mutant = evolve(signed, target=changed)
            # Without the signature's parameters, or without a query, it is an ordinary request to another target.
            if (place < own and "?" in changed) or self.make_signer().claims(mutant):
                self._assert_refused(mutant)

    def test_no_bit_of_the_headers_that_the_signer_added_can_be_changed(self) -> None:
        signed = self._signed()
        for place in range(len(_PLAIN.headers), len(signed.headers)):
            name, value = signed.headers[place]
            for _, changed in _flipped(value):
                headers = (*signed.headers[:place], (name, changed), *signed.headers[place + 1 :])
                if self.make_signer().claims(mutant := evolve(signed, headers=headers)):
                    self._assert_refused(mutant)

    def test_no_bit_of_the_method_can_be_changed(self) -> None:
        signed = self._signed()
        for _, changed in _flipped(signed.method):
            self._assert_refused(evolve(signed, method=changed))

    def test_no_bit_of_the_body_can_be_changed(self) -> None:
        verified = self._verified()
        for place in range(len(_PLAIN.body) * 8):
            changed = bytearray(_PLAIN.body)
            changed[place // 8] ^= 1 << place % 8
            with pytest.raises(SignatureError):
                verified.check(bytes(changed))

    @pytest.mark.parametrize(
        ("signed", "other"),
        [(_PLAIN.body, b""), (_PLAIN.body, _PLAIN.body[:-1]), (_PLAIN.body, _PLAIN.body + b"\n"), (b"", b"x")],
    )
    def test_a_longer_or_shorter_body_is_refused(self, signed: bytes, other: bytes) -> None:
        verified = self.make_signer().verify(self._signed(evolve(_PLAIN, body=signed)), _NOW)
        with pytest.raises(SignatureError):
            verified.check(other)

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
        other = self._signed(Request("POST", "/another", _PLAIN.headers, _PLAIN.body))
        moved = Request(
            "POST", other.target.replace("/another?", "/reports/work?id=5&marker=QueryMarker&"), other.headers
        )
        if moved.target == other.target:  # the signature is in the header
            moved = evolve(other, target=signed.target)
        self._assert_refused(moved)

    def test_a_repeated_signature_is_refused(self) -> None:
        signed = self._signed()
        added = signed.target[len(_PLAIN.target) :]
        self._assert_refused(
            Request("POST", signed.target + added, signed.headers + signed.headers[len(_PLAIN.headers) :])
        )

    def test_a_signed_request_can_not_be_signed_again(self) -> None:
        signed = self._signed()
        with pytest.raises(ValueError):  # noqa: PT011 - InvalidRequest, or a signer's own
            self.make_signer().sign(signed, _GRANT)

    def test_a_signature_by_another_key_is_refused(self) -> None:
        self._assert_refused(self.make_stranger().sign(_PLAIN, _GRANT))

    # --- time ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("now", "is_valid"),
        [
            (_at(_CREATED - 6), False),
            (_at(_CREATED - 5) - _MICROSECOND, False),
            (_at(_CREATED - 5), True),
            (_at(_CREATED), True),
            (_at(_EXPIRES) - _MICROSECOND, True),
            (_at(_EXPIRES), False),
            (_at(_EXPIRES + 86400), False),
        ],
    )
    def test_a_signature_is_valid_from_5_s_before_created_until_just_before_expires(
        self, now: datetime, is_valid: bool
    ) -> None:
        signed = self._signed()
        assert self.make_signer().claims(signed)
        with contextlib.nullcontext() if is_valid else pytest.raises(SignatureError):
            self.make_signer().verify(signed, now)

    # --- keys and secrets ---------------------------------------------------------------------------------------

    def test_derived_keys_are_stable_have_32_bytes_and_differ_by_label(self) -> None:
        labels = ("access", "seal", "merge", "", "Access")
        derived = [self.make_signer().derive(label) for label in labels]
        assert derived == [self.make_signer().derive(label) for label in labels]
        assert all(len(key) == 32 for keys in derived for key in keys)
        assert all(isinstance(keys, tuple) and keys for keys in derived)
        assert len({key for keys in derived for key in keys}) == sum(map(len, derived))

    def test_another_key_derives_other_keys(self) -> None:
        assert not set(self.make_signer().derive("access")) & set(self.make_stranger().derive("access"))

    def test_no_repr_and_no_signed_request_shows_a_key(self) -> None:
        signer = self.make_signer()
        signed = signer.sign(_PLAIN, _GRANT)
        shown = [repr(signer), str(signer), repr(signer.verify(signed, _NOW)), signed.target, repr(signed.headers)]
        hidden = [*self.secrets(), *(key.hex() for key in signer.derive("access"))]
        assert not [secret for secret in hidden for text in shown if secret in text]

    def test_error_messages_show_no_query_no_signature_and_no_key(self) -> None:
        signed = self._signed()
        added = signed.target[len(_PLAIN.target) :] + "".join(
            value for _, value in signed.headers[len(_PLAIN.headers) :]
        )
        # Parts of the signature that are long enough to reveal something.
        parts = {added[start : start + 16] for start in range(len(added) - 16)}
        for mutant in (
            evolve(signed, method="PUT"),
            evolve(signed, target=signed.target.replace("id=5", "id=6")),
            self.make_stranger().sign(_PLAIN, _GRANT),
        ):
            with pytest.raises(SignatureError) as caught:
                self.make_signer().verify(mutant, _NOW)
            text = f"{caught.value} {caught.value!r}"
            assert "QueryMarker" not in text
            assert not [part for part in parts if part in text]
            assert not [secret for secret in self.secrets() if secret in text]


def _flipped(text: str) -> Iterator[tuple[int, str]]:
    """Yield the text with each of its ASCII bits flipped, and the index of the changed character."""
    for place, character in enumerate(text):
        for bit in range(7):
            yield place, text[:place] + chr(ord(character) ^ 1 << bit) + text[place + 1 :]


def _as_shown_without_raw_path(request: Request) -> Request:
    """Return the request as an adapter sees it on a server that shows only the decoded path."""
    path, mark, query = request.target.partition("?")
    return evolve(request, target=canonical_path(unquote_to_bytes(path)) + mark + query, raw=False)
