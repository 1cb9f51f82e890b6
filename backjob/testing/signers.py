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

_CREATED: Final = 1_900_000_000
_EXPIRES: Final = _CREATED + 600
_GRANT: Final = Grant("job-of_16-random-bytes", 3, _CREATED, _EXPIRES)
_NOW: Final = datetime.fromtimestamp(_CREATED + 60, UTC)
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
    """What every `Signer` promises. Give ``make_signer``, ``make_stranger`` and ``secrets``; the suite does the rest."""

    def make_signer(self) -> Signer:
        """A signer; each call gives one with the same key."""
        raise NotImplementedError

    def make_stranger(self) -> Signer:
        """The same kind of signer with another key."""
        raise NotImplementedError

    def secrets(self) -> tuple[str, ...]:
        """What no repr and no message may show: the key of ``make_signer`` as text, and other spellings of it."""
        raise NotImplementedError

    # --- what is signed comes back ------------------------------------------------------------------------------

    @_each_request
    def test_what_was_signed_is_claimed_and_verified_by_another_signer_with_the_same_key(
        self, request_: Request
    ) -> None:
        signed = self.make_signer().sign(request_, _GRANT)
        assert self.make_signer().claims(signed)
        verified = self.make_signer().verify(signed, _NOW)
        assert isinstance(verified, Verified)
        assert verified.grant == _GRANT
        assert verified.request == request_
        verified.check(request_.body)

    @_each_request
    def test_signing_leaves_method_body_and_headers_of_the_developer_alone(self, request_: Request) -> None:
        signed = self.make_signer().sign(request_, _GRANT)
        assert (signed.method, signed.body) == (request_.method, request_.body)
        assert signed.headers[: len(request_.headers)] == request_.headers
        assert signed.target.startswith(request_.target)

    @_each_request
    def test_only_signed_requests_are_claimed(self, request_: Request) -> None:
        assert not self.make_signer().claims(request_)

    @_each_request
    def test_what_is_not_signed_is_not_verified(self, request_: Request) -> None:
        with pytest.raises(SignatureError):
            self.make_signer().verify(request_, _NOW)

    def test_claims_and_verify_do_not_need_the_body(self) -> None:
        signed = evolve(self.make_signer().sign(_PLAIN, _GRANT), body=b"")
        assert self.make_signer().claims(signed)
        self.make_signer().verify(signed, _NOW).check(_PLAIN.body)

    @_each_request
    def test_a_server_that_hides_the_raw_path_makes_no_difference(self, request_: Request) -> None:
        signed = self.make_signer().sign(request_, _GRANT)
        verified = self.make_signer().verify(_as_shown_without_raw_path(signed), _NOW)
        assert verified.request.target == request_.target

    def test_where_the_raw_path_is_hidden_another_path_is_refused_all_the_same(self) -> None:
        signed = self.make_signer().sign(Request("GET", "/file/a%2Fb"), _GRANT)
        shown = _as_shown_without_raw_path(signed)
        self._refused(evolve(shown, target=shown.target.replace("/file/a/b", "/file/a/c", 1)))

    def test_where_the_raw_path_is_shown_its_decoded_form_is_refused(self) -> None:
        signed = self.make_signer().sign(Request("GET", "/file/a%2Fb"), _GRANT)
        self._refused(evolve(signed, target=signed.target.replace("/file/a%2Fb", "/file/a/b", 1)))

    def test_each_grant_and_each_request_has_a_signature_of_its_own(self) -> None:
        signer = self.make_signer()
        grants = [
            _GRANT,
            evolve(_GRANT, job_id="another"),
            evolve(_GRANT, attempt=4),
            evolve(_GRANT, created=_CREATED + 1),
            evolve(_GRANT, expires=_EXPIRES + 1),
        ]
        assert len({_essence(signer.sign(_PLAIN, grant)) for grant in grants}) == len(grants)
        for grant in grants:
            assert signer.verify(signer.sign(_PLAIN, grant), _NOW).grant == grant

    # --- anything else is refused -------------------------------------------------------------------------------

    @pytest.mark.parametrize("request_", [_PLAIN, _REQUESTS[6]], ids=["plain", "with an escaped slash"])
    def test_no_bit_of_the_target_can_be_changed(self, request_: Request) -> None:
        signed = self.make_signer().sign(request_, _GRANT)
        own = len(request_.target)
        for place, changed in _flipped(signed.target):
            mutant = evolve(signed, target=changed)
            # Without its own parameters, or without a query at all, it is an ordinary request to another address.
            if (place < own and "?" in changed) or self.make_signer().claims(mutant):
                self._refused(mutant)

    def test_no_bit_of_the_headers_that_the_signer_added_can_be_changed(self) -> None:
        signed = self.make_signer().sign(_PLAIN, _GRANT)
        for place, (name, value) in enumerate(signed.headers):
            if (name, value) in _PLAIN.headers:
                continue
            for _, changed in _flipped(value):
                mutant = evolve(
                    signed, headers=(*signed.headers[:place], (name, changed), *signed.headers[place + 1 :])
                )
                if self.make_signer().claims(mutant):
                    self._refused(mutant)

    def test_no_bit_of_the_method_can_be_changed(self) -> None:
        signed = self.make_signer().sign(_PLAIN, _GRANT)
        for _, changed in _flipped(signed.method):
            self._refused(evolve(signed, method=changed))

    def test_no_bit_of_the_body_can_be_changed(self) -> None:
        verified = self.make_signer().verify(self.make_signer().sign(_PLAIN, _GRANT), _NOW)
        for place in range(len(_PLAIN.body) * 8):
            changed = bytearray(_PLAIN.body)
            changed[place // 8] ^= 1 << place % 8
            with pytest.raises(SignatureError):
                verified.check(bytes(changed))

    @pytest.mark.parametrize("body", [b"", _PLAIN.body[:-1], _PLAIN.body + b"\n", _PLAIN.body * 2])
    def test_a_longer_or_shorter_body_is_refused(self, body: bytes) -> None:
        verified = self.make_signer().verify(self.make_signer().sign(_PLAIN, _GRANT), _NOW)
        with pytest.raises(SignatureError):
            verified.check(body)

    def test_an_empty_body_is_signed_as_well(self) -> None:
        signed = self.make_signer().sign(Request("POST", "/empty"), _GRANT)
        with pytest.raises(SignatureError):
            self.make_signer().verify(signed, _NOW).check(b"x")

    @pytest.mark.parametrize("method", ["GET", "post", "POSTS", "POS", "POST ", "P\nOST"])
    def test_another_method_is_refused(self, method: str) -> None:
        self._refused(evolve(self.make_signer().sign(_PLAIN, _GRANT), method=method))

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
        signed = self.make_signer().sign(_PLAIN, _GRANT)
        assert old in signed.target
        self._refused(evolve(signed, target=signed.target.replace(old, new, 1)))

    def test_the_signature_of_one_request_does_not_fit_another(self) -> None:
        signed = self.make_signer().sign(_PLAIN, _GRANT)
        other = self.make_signer().sign(Request("POST", "/another", _PLAIN.headers, _PLAIN.body), _GRANT)
        moved = Request(
            "POST", other.target.replace("/another?", "/reports/work?id=5&marker=QueryMarker&"), other.headers
        )
        if moved.target == other.target:  # the signature is not in the target
            moved = evolve(other, target=signed.target)
        self._refused(moved)

    def test_a_signature_that_stands_twice_is_refused(self) -> None:
        signed = self.make_signer().sign(_PLAIN, _GRANT)
        added = signed.target[len(_PLAIN.target) :]
        self._refused(Request("POST", signed.target + added, signed.headers + signed.headers[len(_PLAIN.headers) :]))

    def test_a_signed_request_is_not_signed_again(self) -> None:
        signed = self.make_signer().sign(_PLAIN, _GRANT)
        with pytest.raises(ValueError):  # noqa: PT011 - InvalidRequest, or a signer's own
            self.make_signer().sign(signed, _GRANT)

    def test_a_strangers_signature_is_refused(self) -> None:
        signed = self.make_stranger().sign(_PLAIN, _GRANT)
        self._refused(signed)

    # --- time ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "now",
        [
            datetime.fromtimestamp(_CREATED - 5, UTC),
            datetime.fromtimestamp(_CREATED, UTC),
            datetime.fromtimestamp(_EXPIRES, UTC) - _MICROSECOND,
        ],
        ids=["created 5 s in the future", "just created", "just before it expires"],
    )
    def test_it_is_valid_from_5_s_before_its_creation_until_just_before_it_expires(self, now: datetime) -> None:
        self.make_signer().verify(self.make_signer().sign(_PLAIN, _GRANT), now)

    @pytest.mark.parametrize(
        "now",
        [
            datetime.fromtimestamp(_CREATED - 6, UTC),
            datetime.fromtimestamp(_CREATED - 5, UTC) - _MICROSECOND,
            datetime.fromtimestamp(_EXPIRES, UTC),
            datetime.fromtimestamp(_EXPIRES + 86400, UTC),
        ],
        ids=["created 6 s in the future", "created just over 5 s in the future", "expiring now", "expired long ago"],
    )
    def test_at_any_other_time_it_is_refused(self, now: datetime) -> None:
        signed = self.make_signer().sign(_PLAIN, _GRANT)
        assert self.make_signer().claims(signed)
        with pytest.raises(SignatureError):
            self.make_signer().verify(signed, now)

    # --- keys and secrets ---------------------------------------------------------------------------------------

    def test_derived_keys_are_stable_of_32_bytes_and_another_for_each_label(self) -> None:
        labels = ("access", "seal", "merge", "", "Access")
        derived = [self.make_signer().derive(label) for label in labels]
        assert derived == [self.make_signer().derive(label) for label in labels]
        assert all(len(key) == 32 for keys in derived for key in keys)
        assert all(isinstance(keys, tuple) and keys for keys in derived)
        assert len({key for keys in derived for key in keys}) == sum(map(len, derived))

    def test_a_stranger_derives_other_keys(self) -> None:
        assert not set(self.make_signer().derive("access")) & set(self.make_stranger().derive("access"))

    def test_no_repr_and_nothing_that_is_sent_shows_a_key(self) -> None:
        signer = self.make_signer()
        signed = signer.sign(_PLAIN, _GRANT)
        shown = [repr(signer), str(signer), repr(signer.verify(signed, _NOW)), signed.target, repr(signed.headers)]
        hidden = [*self.secrets(), *(key.hex() for key in signer.derive("access"))]
        assert not [secret for secret in hidden for text in shown if secret in text]

    def test_messages_of_refusals_show_neither_query_nor_signature_nor_key(self) -> None:
        signed = self.make_signer().sign(_PLAIN, _GRANT)
        added = signed.target[len(_PLAIN.target) :] + "".join(
            value for _, value in signed.headers[len(_PLAIN.headers) :]
        )
        # Pieces of what the signer added that are long enough to give something away.
        pieces = {added[start : start + 16] for start in range(len(added) - 16)}
        for mutant in (
            evolve(signed, method="PUT"),
            evolve(signed, target=signed.target.replace("id=5", "id=6")),
            self.make_stranger().sign(_PLAIN, _GRANT),
        ):
            with pytest.raises(SignatureError) as caught:
                self.make_signer().verify(mutant, _NOW)
            text = f"{caught.value} {caught.value!r}"
            assert "QueryMarker" not in text
            assert not [piece for piece in pieces if piece in text]
            assert not [secret for secret in self.secrets() if secret in text]

    def _refused(self, request: Request) -> None:
        signer = self.make_signer()
        assert signer.claims(request), "a changed request must not pass for an ordinary one"
        with pytest.raises(SignatureError):
            signer.verify(request, _NOW)


def _flipped(text: str) -> Iterator[tuple[int, str]]:
    """The text with each of its bits (of ASCII) flipped, and the place of the flipped one."""
    for place, character in enumerate(text):
        for bit in range(7):
            yield place, text[:place] + chr(ord(character) ^ 1 << bit) + text[place + 1 :]


def _as_shown_without_raw_path(request: Request) -> Request:
    """What an adapter makes of it where the server shows the decoded path alone."""
    path, mark, query = request.target.partition("?")
    return evolve(request, target=canonical_path(unquote_to_bytes(path)) + mark + query, raw=False)


def _essence(request: Request) -> tuple[str, object]:
    return request.target, request.headers
