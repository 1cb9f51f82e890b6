"""What opens a job to somebody who does not own it: ids nobody guesses, and tokens for one job and one right.

Also the keys by which identical requests are merged: all of it HMAC-SHA-256 with keys derived from the signer's.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from enum import Enum
from typing import Final

from backjob.model import Request
from backjob.protocols import Signer

__all__ = ["Access", "Right", "new_job_id", "reference"]

_TOKEN_BYTES: Final = 16


class Right(Enum):
    """What a token allows. The value is the first character of the token."""

    VIEW = "v"
    CANCEL = "c"
    """To cancel, and to view."""


def new_job_id() -> str:
    """24 characters, URL-safe, more than 128 random bits.

    It begins with a letter or digit, so that no command line takes it for an option, and has no dot, which joins an id
    to its token.
    """
    while True:
        job_id = secrets.token_urlsafe(18)
        if job_id[0].isalnum():
            return job_id


def reference(job_id: str, token: str) -> str:
    """How an id and its token stand together in a URL."""
    return f"{job_id}.{token}"


class Access:
    """Makes and proves tokens, and makes merge keys. Immutable, and so callable from any thread."""

    __slots__ = ("_merge_key", "_token_keys")

    def __init__(self, signer: Signer) -> None:
        self._token_keys = signer.derive("access")
        self._merge_key = signer.derive("merge")[0]

    def token(self, job_id: str, *, cancel: bool = False) -> str:
        """23 characters, URL-safe, for one job and one right. It does not expire: it lasts as long as the job."""
        return _token(self._token_keys[0], job_id, Right.CANCEL if cancel else Right.VIEW)

    def rights(self, job_id: str, token: str) -> Right | None:
        """What the token allows with this job, or None. Tokens by fallback keys count as well."""
        given = token.encode("utf-8", "surrogatepass")
        granted: Right | None = None
        for key in self._token_keys:
            for right in Right:
                # All are compared, always: the time taken tells nothing.
                if hmac.compare_digest(given, _token(key, job_id, right).encode()):
                    granted = right
        return granted

    def merge_key(self, mode: str, owner: str | None, request: Request, scope: str) -> str:
        """43 characters that are equal for identical requests: same mode, owner, method, target, body and scope.

        Made with the newest key alone: while a rotation is under way, processes may not merge each other's jobs.
        """
        parts = (
            mode.encode(),
            None if owner is None else owner.encode("utf-8", "surrogatepass"),
            request.method.encode(),
            request.target.encode(),
            request.body,
            scope.encode("utf-8", "surrogatepass"),
        )
        # Each with its length before it, None apart from empty: no two lists of parts are encoded alike.
        message = b"".join(b"-" if part is None else b"+%d:%b" % (len(part), part) for part in parts)
        return _text(hmac.digest(self._merge_key, message, "sha256"))


def _token(key: bytes, job_id: str, right: Right) -> str:
    message = f"{right.value}{job_id}".encode("utf-8", "surrogatepass")
    return right.value + _text(hmac.digest(key, message, "sha256")[:_TOKEN_BYTES])


def _text(digest: bytes) -> str:
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
