"""The route that sends the file of a job."""

from __future__ import annotations

from http import HTTPStatus
from typing import BinaryIO, Final

from backjob.http.content import attachment
from backjob.model import Headers, JobState
from backjob.status.exchange import Download, StatusResponse

_POLICY: Final = ("Content-Security-Policy", "default-src 'none'; sandbox")


def download(state: JobState, file: BinaryIO, *, is_head: bool) -> StatusResponse:
    """Return the response with the file of this job. For HEAD it closes the file at once."""
    described = state.file or {}
    headers: Headers = (
        ("Content-Type", str(described["type"])),
        ("Content-Length", str(described["size"])),
        ("Content-Disposition", attachment(str(described["name"]))),
        ("Cache-Control", "private, no-store"),
        ("Referrer-Policy", "no-referrer"),
        # A browser must never show it as a page of this site, whatever type the action has given it.
        ("X-Content-Type-Options", "nosniff"),
        _POLICY,
    )
    if is_head:
        file.close()
        return StatusResponse(200, HTTPStatus.OK.phrase, headers)
    return StatusResponse(200, HTTPStatus.OK.phrase, headers, download=Download(file))
