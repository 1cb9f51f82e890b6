"""The marks in the responses to worker requests and probes: MACs with the application's key, which no other site can make.

The one in each response covers the answering socket's own port, which exposes a relay at another port. The other says that
the job has ended, so that the sender of the request need not read it again.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final

from backjob.macs import mac
from backjob.model import Headers, Response

MARK_HEADER: Final = "backjob-proof"
"""Its value is the port of the answering socket (``-`` if unknown), a space, and the MAC in hexadecimal."""

END_HEADER: Final = "backjob-end"
"""Its value is a MAC in hexadecimal: the end of the job that this request has run is in the store."""

MARK_LABEL: Final = "probe"
"""The label of the signer's keys for marks."""

PROBE_PATH: Final = "/probe"
"""The path of a probe, below the status prefix."""

PROBE_ATTEMPT: Final = 0
"""The delivery in a probe's grant; a job's first delivery is 1."""

PROBE_RUN: Final = 1
"""The run in a probe's grant."""

_UNKNOWN_PORT: Final = "-"
_ENDED: Final = "ended"
"""In place of a port, which is a number."""


def mark(key: bytes, job_id: str, run: int, delivery: int, port: int | None) -> Headers:
    """Return the header field that marks the response to a worker request or a probe."""
    shown = _UNKNOWN_PORT if port is None else str(port)
    return ((MARK_HEADER, f"{shown} {_mac(key, job_id, run, delivery, shown)}"),)


def end_mark(key: bytes, job_id: str, run: int, delivery: int) -> Headers:
    """Return the header field that says that the job has ended with this worker request."""
    return ((END_HEADER, _mac(key, job_id, run, delivery, _ENDED)),)


def marks_end(response: Response, keys: Iterable[bytes], job_id: str, run: int, delivery: int) -> bool:
    """Return whether the response says, with a mark by one of these keys, that the job has ended with this request."""
    given = response.header(END_HEADER)
    if given is None:
        return False
    macs = [_mac(key, job_id, run, delivery, _ENDED).encode() for key in keys]
    return any(hmac.compare_digest(given.encode("utf-8", "replace"), mac) for mac in macs)


def marked_port(response: Response, keys: Iterable[bytes], job_id: str, run: int, delivery: int) -> str | None:
    """Return the port in the response's mark, or None if none of these keys made the mark for this request."""
    port, _, written = (response.header(MARK_HEADER) or "").partition(" ")
    given = written.encode("utf-8", "replace")
    macs = [_mac(key, job_id, run, delivery, port).encode() for key in keys]
    return port if any(hmac.compare_digest(given, mac) for mac in macs) else None


def _mac(key: bytes, job_id: str, run: int, delivery: int, port: str) -> str:
    return mac(key, f"{port} {run} {delivery} {job_id}".encode("utf-8", "replace")).hex()
