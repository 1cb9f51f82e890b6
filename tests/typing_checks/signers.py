"""Checked by mypy and pyright, never run: the types of signers, carriers, tokens and sealing."""

from __future__ import annotations

from datetime import datetime
from typing import assert_type

from backjob.model import Credentials, Grant, Request
from backjob.protocols import Signer, Verified
from backjob.signing import MessageSigner, derive_key
from backjob.signing.carriers import Carrier, HeaderCarrier, QueryCarrier
from backjob.signing.sealing import Sealer
from backjob.signing.tokens import Access, Right


def the_default_signer_is_a_signer(key: str, old: bytes) -> Signer:
    return MessageSigner(key, fallbacks=[old, key], carrier="header")


def a_derived_key_makes_a_signer(secret: str | bytes) -> Signer:
    return MessageSigner(derive_key(secret, package="backjob.flask", application="shop"))


def verify_returns_a_verified(signer: MessageSigner, request: Request, now: datetime) -> Verified:
    verified = signer.verify(request, now)
    assert_type(verified.grant, Grant)
    assert_type(verified.request, Request)
    return verified


def both_carriers_are_carriers() -> tuple[Carrier, ...]:
    return QueryCarrier(), HeaderCarrier()


def any_signer_makes_tokens_and_seals(signer: Signer) -> None:
    access = Access(signer)
    assert_type(access.token("job", Right.CANCEL), str)
    assert_type(access.rights("job", "token"), Right | None)
    assert_type(access.merge_key("user", None, b""), str)
    sealer = Sealer(signer)
    assert_type(sealer.open(sealer.seal(Credentials(), "row"), "row"), Credentials | None)


def an_unknown_carrier_is_a_type_error(key: str) -> Signer:
    return MessageSigner(key, carrier="cookie")  # type: ignore[arg-type]
