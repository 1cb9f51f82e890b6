"""Signs worker requests with HTTP Message Signatures (RFC 9421) and Content-Digest (RFC 9530).

Pure functions of requests, without a clock, a store or a socket. `MessageSigner` accepts only what it would have
written itself, byte for byte. Any other implementation of RFC 9421 can verify its signatures with the same secret.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from binascii import b2a_base64
from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from attrs import frozen

from backjob.errors import UNTIMELY, InvalidRequest, SignatureError, UnknownKey
from backjob.http.targets import reproduces_itself
from backjob.macs import mac
from backjob.model import Grant, Request
from backjob.signing.carriers import CARRIERS, Fields, check_writable
from backjob.signing.keys import check_secret, derive_key, key_id, subkey

__all__ = ["CLOCK_TOLERANCE", "MessageSigner", "derive_key", "signature_base"]

CLOCK_TOLERANCE: Final = 5
"""Seconds that the verifying host's clock may be behind the signing host's."""

_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}")  # RFC 9110, section 9.1: a token
# Printable ASCII; in the path, nothing that a String of RFC 9651 must escape. No "?" without a query: for RFC 9421,
# section 2.2.7, it would be the same as no query.
_TARGET: Final = re.compile(r"(/[!$->@-\[\]-~]*)(?:\?([!\"$-~]+))?")


def signature_base(components: Iterable[tuple[str, str]], parameters: str) -> bytes:
    """Return the bytes to sign (RFC 9421, section 2.5).

    ``components`` are pairs of a serialised identifier (``'"@method"'``, quotes included) and its value; ``parameters``
    is the inner list of Signature-Input. All must be ASCII without line breaks.
    """
    lines = [f"{identifier}: {value}" for identifier, value in components]
    lines.append(f'"@signature-params": {parameters}')
    return "\n".join(lines).encode("ascii")


class MessageSigner:
    """The default `Signer`: RFC 9421 with hmac-sha256 over method, path, query and the digest of the body.

    ``key`` is a secret of 32 bytes or more, the same in every process of the application; text is encoded as UTF-8. It
    is used as the HMAC key unchanged. To rotate: add the new key to the ``fallbacks`` everywhere, then make it the
    ``key`` and the old one a fallback, and drop the old one once no request that it signed is in flight.
    ``carrier="query"`` puts the signature at the end of the query, where no proxy drops it; ``"header"`` puts it into
    the fields of RFC 9421.

    Raises `InvalidRequest` for a secret that is short or well known, and for an unknown carrier. Immutable and
    thread-safe. Its repr shows no secret.
    """

    __slots__ = ("_carrier", "_carrier_name", "_key", "_keyid", "_ring")

    def __init__(
        self,
        key: str | bytes,
        *,
        fallbacks: Iterable[str | bytes] = (),
        carrier: Literal["query", "header"] = "query",
    ) -> None:
        if isinstance(fallbacks, str | bytes):
            raise InvalidRequest("fallbacks", "must be a list of secrets, not a single one")
        if carrier not in CARRIERS:
            raise InvalidRequest("carrier", f"must be {' or '.join(map(repr, CARRIERS))}, not {carrier!r}")
        self._key = check_secret(key, "key")
        self._keyid = key_id(self._key)
        self._ring = {self._keyid: self._key}
        for fallback in fallbacks:
            old = check_secret(fallback, "fallbacks")
            self._ring.setdefault(key_id(old), old)
        self._carrier_name = carrier
        self._carrier = CARRIERS[carrier]

    def __repr__(self) -> str:
        return f"MessageSigner(carrier={self._carrier_name!r}, keyids={list(self._ring)!r})"

    def sign(self, request: Request, grant: Grant) -> Request:
        """Return the signed request. The same request and grant always give the same bytes.

        Raises `InvalidRequest` for a target that `backjob.http.targets.normalise` has not made, for a request that is
        already signed, and for a grant that does not fit into a signature.
        """
        target = _TARGET.fullmatch(request.target)
        if target is None:
            raise InvalidRequest("target", "is not a normalised path, with or without a query, in printable ASCII")
        if not _METHOD.fullmatch(request.method):
            raise InvalidRequest("method", f"{request.method!r} is not a valid HTTP method")
        path, query = target.groups("")
        # Some servers show only the decoded path, from which this path can't be reconstructed: sign and send it too.
        carried = None if reproduces_itself(path) else path
        fields = Fields(
            grant.created,
            grant.expires,
            grant.job_id,
            grant.run,
            grant.delivery,
            self._keyid,
            carried,
            _digest(request.body),
        )
        check_writable(fields)
        signature = _signature(self._key, request.method, path, query, fields)
        return self._carrier.put(request, self._carrier.written(fields, signature))

    def claims(self, request: Request) -> bool:
        return self._carrier.claims(request)

    def verify(self, request: Request, now: datetime) -> _Verified:
        """Verify method, target, time and key.

        Raises `UnknownKey` for an unknown key, otherwise `SignatureError`; neither message shows the signature or the
        query. A signature is valid while ``created − 5 s ≤ now < expires``.
        """
        if now.tzinfo is None:
            raise InvalidRequest("now", "must have a time zone")
        bare, headers, fields, written = self._carrier.take(request)
        key = self._ring.get(fields.keyid)
        if key is None:
            raise UnknownKey("signed with a key that this process does not have")
        target = _TARGET.fullmatch(bare)
        if target is None or not _METHOD.fullmatch(request.method):
            raise SignatureError("backjob would not sign this target or method")
        path, query = target.groups("")
        if fields.path is not None:
            path = _signed_path(path, fields.path, raw=request.raw)
        expected = self._carrier.written(fields, _signature(key, request.method, path, query, fields))
        if not hmac.compare_digest(written, expected):
            raise SignatureError(
                "the signature does not match this request: its method, its query or its path below the mount"
            )
        _check_time(fields, now.timestamp())
        whole = f"{path}?{query}" if query else path
        return _Verified(
            Grant(fields.job_id, fields.run, fields.delivery, fields.created, fields.expires),
            Request(request.method, whole, headers, request.body),
            fields.digest,
        )

    def derive(self, label: str) -> tuple[bytes, ...]:
        return tuple(subkey(key, label) for key in self._ring.values())


@frozen(eq=False, repr=False)
class _Verified:
    grant: Grant
    request: Request
    _digest: str

    def check(self, body: bytes) -> None:
        if not hmac.compare_digest(_digest(body), self._digest):
            raise SignatureError("the body is not the one that was signed")


def _digest(body: bytes) -> str:
    return b2a_base64(hashlib.sha256(body).digest(), newline=False).decode()


def _signature(key: bytes, method: str, path: str, query: str, fields: Fields) -> str:
    components = (
        ('"@method"', method),
        ('"@path"', path),
        ('"@query"', f"?{query}"),  # RFC 9421, section 2.2.7: "?" alone if there is no query
        ('"content-digest"', fields.content_digest()),
    )
    signature = mac(key, signature_base(components, fields.parameters()))
    return b2a_base64(signature, newline=False).decode()


def _signed_path(path: str, carried: str, *, raw: bool) -> str:
    if raw and path != carried:
        raise SignatureError("the path is not the one that was signed; does a proxy decode %2F?")
    if not raw and unquote_to_bytes(path) != unquote_to_bytes(carried):
        raise SignatureError("the path is not the one that was signed")
    return carried


class _Untimely(SignatureError):
    kind = UNTIMELY


def _check_time(fields: Fields, now: float) -> None:
    if now < fields.created - CLOCK_TOLERANCE:
        ahead = fields.created - now
        raise _Untimely(
            f"not valid yet: signed {ahead:.0f} s ahead of this host's clock; are the clocks of all hosts in sync?"
        )
    if now >= fields.expires:
        raise _Untimely(f"expired {now - fields.expires:.0f} s ago")
