"""Job ids that can't be guessed, access tokens for one job and one right, and merge keys.

Tokens and merge keys are HMAC-SHA-256 with keys derived from the signer's.
"""

from __future__ import annotations

import hmac
import secrets
from enum import Enum
from typing import Final

from backjob.macs import mac, url_safe
from backjob.protocols import Signer

_TOKEN_BYTES: Final = 16


class Right(Enum):
    """The right that a token grants. Its value is the first character of the token."""

    VIEW = "v"
    CANCEL = "c"
    """To cancel and to view."""
    MANAGE = "m"
    """To run again, delete, cancel and view."""


def new_job_id() -> str:
    """Return 24 URL-safe characters with more than 128 random bits.

    An id starts with a letter or digit, so that no command line takes it for an option. It contains no dot, because a
    dot joins an id to its token.
    """
    while True:
        job_id = secrets.token_urlsafe(18)
        if job_id[0].isalnum():
            return job_id


def reference(job_id: str, token: str) -> str:
    """Return an id and its token as they appear in a URL."""
    return f"{job_id}.{token}"


class Access:
    """Creates and verifies tokens, and creates merge keys. Immutable and thread-safe."""

    __slots__ = ("_merge_key", "_token_keys")

    def __init__(self, signer: Signer) -> None:
        self._token_keys = signer.derive("access")
        self._merge_key = signer.derive("merge")[0]

    def token(self, job_id: str, right: Right = Right.VIEW) -> str:
        """Return 23 URL-safe characters for one job and one right. The token is valid for as long as the job exists."""
        return _token(self._token_keys[0], job_id, right)

    def rights(self, job_id: str, token: str) -> Right | None:
        """Return what a token allows for this job, or None. Tokens made with fallback keys are valid too."""
        given = token.encode("utf-8", "surrogatepass")
        granted: Right | None = None
        for key in self._token_keys:
            for right in Right:
                # Always compare all of them, so that the time taken reveals nothing.
                if hmac.compare_digest(given, _token(key, job_id, right).encode()):
                    granted = right
        return granted

    def merge_key(self, *parts: str | bytes | None) -> str:
        """Return 43 characters that are the same for the same parts, and reveal nothing about them.

        Only the current key is used: during a rotation, processes may not merge each other's jobs.
        """
        encoded = [part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts]
        # Each part has its length in front, and None differs from empty: the encoding is unambiguous.
        message = b"".join(b"-" if part is None else b"+%d:%b" % (len(part), part) for part in encoded)
        return url_safe(mac(self._merge_key, message))


def _token(key: bytes, job_id: str, right: Right) -> str:
    message = f"{right.value}{job_id}".encode("utf-8", "surrogatepass")
    return right.value + url_safe(mac(key, message)[:_TOKEN_BYTES])
