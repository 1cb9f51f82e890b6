"""Credentials at rest: encrypted with keys derived from the signer's, so that any process of the application delivers.

Fernet of the package cryptography (AES-128-CBC with HMAC-SHA-256), which the extra ``sealed`` brings.
"""

from __future__ import annotations

import base64
import json

from backjob.errors import MissingExtra
from backjob.model import Credentials
from backjob.protocols import Signer

__all__ = ["Sealer"]


class Sealer:
    """Seals credentials with the newest key, and opens them with any on the ring. Callable from any thread.

    Raises `MissingExtra` where cryptography is not installed.
    """

    __slots__ = ("_fernet", "_unreadable")

    def __init__(self, signer: Signer) -> None:
        try:
            # Here, and not above: an application that seals nothing needs no cryptography.
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtra("sealing credentials", "sealed") from error
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in signer.derive("seal")])
        self._unreadable = InvalidToken

    def seal(self, credentials: Credentials) -> bytes:
        """The credentials, encrypted: ASCII, about 1.4 times as long and 100 bytes more."""
        return self._fernet.encrypt(json.dumps(credentials.headers).encode())

    def open(self, sealed: bytes) -> Credentials | None:
        """The credentials, or None where no key on the ring opens them: the secret was changed, or they were."""
        try:
            fields = json.loads(self._fernet.decrypt(sealed))
            return Credentials(tuple((str(name), str(value)) for name, value in fields))
        except (self._unreadable, ValueError, TypeError):
            return None
