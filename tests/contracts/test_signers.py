"""backjob's own signer keeps the published contract."""

from __future__ import annotations

import pytest

from backjob.protocols import Signer
from backjob.signing import MessageSigner
from backjob.testing.signers import SignerContract

SECRET = "b1Y8-vK2xQ_gq0Zr5tUw7LmN3oPaHs4E"
OLD = "Jd92kfLw0_pQmZx7RtYu4-BnV6aCsEh1"
ANOTHER = "Xo5TgHq1_iWn8-eRkUz3McVb6YsLa0Pd"


class TestInTheQuery(SignerContract):
    def make_signer(self) -> Signer:
        return MessageSigner(SECRET)

    def make_stranger(self) -> Signer:
        return MessageSigner(ANOTHER)

    def secrets(self) -> tuple[str, ...]:
        return SECRET, SECRET.encode().hex()


class TestInTheHeaders(TestInTheQuery):
    def make_signer(self) -> Signer:
        return MessageSigner(SECRET, carrier="header")

    def make_stranger(self) -> Signer:
        return MessageSigner(ANOTHER, carrier="header")


@pytest.mark.slow
class TestWithFallbacks(TestInTheQuery):
    def make_signer(self) -> Signer:
        return MessageSigner(SECRET.encode(), fallbacks=[OLD])

    def secrets(self) -> tuple[str, ...]:
        return SECRET, OLD
