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
from datetime import datetime, timedelta
from typing import Final

import pytest
from attrs import evolve

from backjob.errors import UNTIMELY, SignatureError
from backjob.model import Request
from backjob.protocols import Verified
from backjob.testing._signers.case import CREATED, EXPIRES, GRANT, NOW, PLAIN, at, each_request
from backjob.testing._signers.changes import RefusesChanges
from backjob.testing._signers.secrets import KeepsSecrets
from backjob.testing._signers.servers import FitsServers

__all__ = ["SignerContract"]

_MICROSECOND: Final = timedelta(microseconds=1)


class SignerContract(RefusesChanges, FitsServers, KeepsSecrets):
    """Every promise of the `Signer` protocol. Implement ``make_signer``, ``make_stranger`` and ``secrets``."""

    @each_request
    def test_another_signer_with_the_same_key_claims_and_verifies_a_signed_request(self, request_: Request) -> None:
        signed = self._signed(request_)
        assert self.make_signer().claims(signed)
        verified = self.make_signer().verify(signed, NOW)
        assert isinstance(verified, Verified)
        assert verified.grant == GRANT
        assert verified.request == request_
        verified.check(request_.body)

    @each_request
    def test_signing_does_not_change_the_method_body_and_headers(self, request_: Request) -> None:
        signed = self._signed(request_)
        assert (signed.method, signed.body) == (request_.method, request_.body)
        assert signed.headers[: len(request_.headers)] == request_.headers
        assert signed.target.startswith(request_.target)

    @each_request
    def test_an_unsigned_request_is_not_claimed(self, request_: Request) -> None:
        assert not self.make_signer().claims(request_)

    @each_request
    def test_an_unsigned_request_is_refused(self, request_: Request) -> None:
        with pytest.raises(SignatureError):
            self.make_signer().verify(request_, NOW)

    def test_claims_and_verify_do_not_need_the_body(self) -> None:
        signed = evolve(self._signed(), body=b"")
        assert self.make_signer().claims(signed)
        self.make_signer().verify(signed, NOW).check(PLAIN.body)

    def test_each_grant_has_its_own_signature(self) -> None:
        signer = self.make_signer()
        grants = [
            GRANT,
            evolve(GRANT, job_id="another"),
            evolve(GRANT, run=3),
            evolve(GRANT, run=3, delivery=2),
            evolve(GRANT, delivery=4),
            evolve(GRANT, created=CREATED + 1),
            evolve(GRANT, expires=EXPIRES + 1),
        ]
        signed = [signer.sign(PLAIN, grant) for grant in grants]
        assert len({(request.target, request.headers) for request in signed}) == len(grants)
        assert [signer.verify(request, NOW).grant for request in signed] == grants

    def test_the_signature_of_an_earlier_run_grants_that_run_alone(self) -> None:
        earlier = self.make_signer().sign(PLAIN, evolve(GRANT, run=1))
        assert self.make_signer().verify(earlier, NOW).grant.run == 1
        later = self._signed()
        spliced = [
            evolve(earlier, target=later.target, headers=earlier.headers),
            evolve(earlier, target=earlier.target.replace(f"{GRANT.job_id}.1.", f"{GRANT.job_id}.2.")),
            evolve(
                earlier,
                headers=tuple(
                    (name, value.replace(f"{GRANT.job_id}.1.", f"{GRANT.job_id}.2.")) for name, value in earlier.headers
                ),
            ),
        ]
        for changed in spliced:
            if changed not in (earlier, later) and (changed.target, changed.headers) != (later.target, later.headers):
                self._assert_refused(changed)

    # --- time ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("now", "is_valid"),
        [
            (at(CREATED - 6), False),
            (at(CREATED - 5) - _MICROSECOND, False),
            (at(CREATED - 5), True),
            (at(CREATED), True),
            (at(EXPIRES) - _MICROSECOND, True),
            (at(EXPIRES), False),
            (at(EXPIRES + 86400), False),
        ],
    )
    def test_a_signature_is_valid_from_5_s_before_created_until_just_before_expires(
        self, now: datetime, is_valid: bool
    ) -> None:
        signed = self._signed()
        assert self.make_signer().claims(signed)
        with contextlib.nullcontext() if is_valid else pytest.raises(SignatureError):
            self.make_signer().verify(signed, now)

    @pytest.mark.parametrize("now", [at(CREATED - 60), at(EXPIRES)], ids=["early", "late"])
    def test_the_error_of_a_signature_at_a_wrong_time_is_untimely(self, now: datetime) -> None:
        with pytest.raises(SignatureError) as caught:
            self.make_signer().verify(self._signed(), now)
        assert caught.value.kind == UNTIMELY, "else backjob does not sign again after a clock was set"
