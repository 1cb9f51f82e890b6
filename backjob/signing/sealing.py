"""Encrypts stored credentials with keys derived from the signer's, so that any process can deliver a job, and that job
alone.

Uses Fernet (AES-128-CBC with HMAC-SHA-256) from the package cryptography; install the extra ``sealed``.
"""

from __future__ import annotations

import base64
import json

from backjob.errors import MissingExtra
from backjob.model import Credentials
from backjob.protocols import Signer


class Sealer:
    """Seals credentials with the current key, and opens them with that or a fallback. Thread-safe.

    Raises `MissingExtra` if cryptography is not installed.
    """

    __slots__ = ("_fernet", "_unreadable")

    def __init__(self, signer: Signer) -> None:
        try:
            # Imported here because applications that do not seal need not have it.
            from cryptography.fernet import Fernet, InvalidToken, MultiFernet  # noqa: PLC0415
        except ImportError as error:
            raise MissingExtra("sealing credentials", "sealed") from error
        self._fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in signer.derive("seal")])
        self._unreadable = InvalidToken

    def seal(self, credentials: Credentials, binding: str) -> bytes:
        """Return the encrypted credentials: ASCII, about 1.4 times as long plus 170 bytes.

        Only `open` with the same ``binding`` returns them: in another row they are worthless.
        """
        return self._fernet.encrypt(json.dumps([binding, credentials.headers]).encode())

    def open(self, sealed: bytes, binding: str) -> Credentials | None:
        """Return the credentials, or None: no key opens them, or they were sealed for another row."""
        try:
            bound, fields = json.loads(self._fernet.decrypt(sealed))
            if bound != binding:
                return None
            return Credentials(tuple((str(name), str(value)) for name, value in fields))
        except (self._unreadable, ValueError, TypeError):
            return None
