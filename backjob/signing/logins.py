"""Carries the fields of ``CREDENTIAL_HEADERS`` in one authenticated field of the worker request.

A field such as ``Remote-User`` proves a login because a proxy sets it and strips it from what clients send. In a worker
request the proxy would strip it, and the application must not believe it from the network. So one field carries the names
and values, with a MAC (HMAC-SHA-256, with a key derived from the signer's) over them and the job's id.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
from collections.abc import Iterable
from typing import Final

from backjob.errors import SignatureError
from backjob.http.arguments import canonical_name
from backjob.macs import mac, url_safe
from backjob.model import Credentials, Headers, Request
from backjob.protocols import Signer

FIELD: Final = "Backjob-Credentials"


class LoginCarrier:
    """Packs and unpacks the fields with these names. Immutable and thread-safe."""

    __slots__ = ("_keys", "_names")

    def __init__(self, signer: Signer, names: Iterable[str]) -> None:
        self._names = frozenset(canonical_name(name) for name in names)
        self._keys = signer.derive("credentials")

    def pack(self, job_id: str, credentials: Credentials) -> Credentials:
        """Return the credentials to send: the fields with these names packed into one field, the others unchanged."""
        if not self._names:
            return credentials
        packed = [field for field in credentials.headers if canonical_name(field[0]) in self._names]
        if not packed:
            return credentials
        payload = url_safe(json.dumps(packed, separators=(",", ":")).encode())
        sent = tuple(field for field in credentials.headers if field not in packed)
        return Credentials((*sent, (FIELD, f"{payload}.{_mac(self._keys[0], job_id, payload)}")))

    def unpack(self, job_id: str, request: Request) -> Headers:
        """Return the fields that a worker request carries. Raises `SignatureError` unless they were packed for this job."""
        written = request.header(FIELD)
        if written is None or not self._names:
            return ()
        payload, _, mac = written.partition(".")
        given = mac.encode("latin-1", "replace")
        if not any(hmac.compare_digest(given, _mac(key, job_id, payload).encode()) for key in self._keys):
            raise SignatureError("the credentials are not those that were sent with this job")
        try:
            fields = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        except (ValueError, binascii.Error):
            raise SignatureError("the credentials are not written as backjob writes them") from None
        return tuple((str(name), str(value)) for name, value in fields if canonical_name(name) in self._names)


def _mac(key: bytes, job_id: str, payload: str) -> str:
    return url_safe(mac(key, f"{job_id}.{payload}".encode("utf-8", "surrogatepass")))
