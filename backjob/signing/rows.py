"""The label of an application's jobs, and the row proof, which shows that a stored row is as the application wrote it.

Otherwise a program that can write to the store could have the application sign any request, or run a job with another
one's credentials.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Final

from backjob.macs import mac, url_safe
from backjob.model import Draft, Job, Status
from backjob.protocols import Signer

_LABEL_BYTES: Final = 12
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


class RowKeys:
    """Labels and row proofs for each key of the application. Immutable and thread-safe."""

    __slots__ = ("_keys", "label", "labels")

    def __init__(self, signer: Signer) -> None:
        labels = [url_safe(key[:_LABEL_BYTES]) for key in signer.derive("label")]
        self._keys = dict(zip(labels, signer.derive("row"), strict=True))
        self.label = labels[0]
        """The label of new jobs: that of the current key."""
        self.labels: frozenset[str] = frozenset(labels)
        """The labels of the current key and the fallbacks. A job with another label belongs to another application."""

    def authenticated(self, draft: Draft) -> Draft:
        """Return the draft with its label and its row proof. Raises `KeyError` for a label of another application."""
        label = draft.label or self.label
        return draft.proven(label, self._proof(draft, label, _mode(draft)))

    def is_authentic(self, job: Job) -> bool:
        """Return whether the row, with its request's body, is as the application wrote it."""
        return self._is_proven(job, _mode(job))

    def is_authentic_with(self, job: Job, body: bytes) -> bool:
        """Return whether the row of a job, claimed or not, is as the application wrote it for a request with this body."""
        return any(self._is_proven(job, mode, body) for mode in _modes(job))

    def credentials_of(self, job: Job) -> str | None:
        """Return with which credentials a job was started: "held", "sealed", "as_owner" or "none".

        None if the row, with its request's body, is not as the application wrote it.
        """
        return next((mode for mode in _modes(job) if self._is_proven(job, mode)), None)

    def renewed_proof(self, job: Job) -> str | None:
        """Return the proof of a row with the current label; None if it is not as the application wrote it."""
        mode = self.credentials_of(job)
        return None if mode is None else self._proof(job, self.label, mode)

    def binding(self, row: Draft | Job, label: str) -> str:
        """Return a value that ties sealed credentials to this row with this label."""
        return self._proof(row, label, "sealing")

    def _proof(self, row: Draft | Job, label: str, mode: str, body: bytes | None = None) -> str:
        """Return the proof of a row; ``body`` replaces the body of its request."""
        if body is None:
            body = b"" if row.request is None else row.request.body
        return url_safe(_mac(self._keys[label], label, row, mode, body))

    def _is_proven(self, job: Job, mode: str, body: bytes | None = None) -> bool:
        if job.proof is None or job.label not in self._keys:
            return False
        proof = self._proof(job, job.label, mode, body)
        return hmac.compare_digest(job.proof.encode("utf-8", "surrogatepass"), proof.encode())


def _mode(row: Draft | Job) -> str:
    """Return how the row gets its credentials. Sealed ones are bound to their row themselves."""
    modes = [name for name in ("held", "sealed", "as_owner") if getattr(row, name) not in (None, False)]
    return " and ".join(modes) or "none"  # no application writes more than one


def _modes(job: Job) -> tuple[str, ...]:
    """Return the modes with which the row may have been written: claims of earlier versions erased sealed credentials."""
    mode = _mode(job)
    return (mode, "sealed") if job.status is not Status.STARTED and mode == "none" else (mode,)


def _mac(key: bytes, label: str, row: Draft | Job, mode: str, body: bytes) -> bytes:
    request, caller = row.request, row.caller
    parts = (
        row.id,
        label,
        row.owner,
        mode,
        None
        if request is None
        else (request.method, request.target, request.mount, request.headers, hashlib.sha256(body).hexdigest()),
        None if caller is None else (caller.scheme, caller.host, caller.address, caller.forwarded, caller.mount),
    )
    return mac(key, _encode(parts).encode())
