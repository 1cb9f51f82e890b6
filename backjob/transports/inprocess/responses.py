"""The response of an application, collected as a monitor gets it from a server."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

from backjob.http.wire import MAX_RESPONSE
from backjob.model import Request, Response

_log = logging.getLogger("backjob")

_NO_BODY: Final = frozenset({204, 304})


class Collected:
    """A response that an application is making. Of its body, the first 64 KiB are kept."""

    def __init__(self, request: Request) -> None:
        self._has_body = request.method != "HEAD"
        self._head: tuple[int, str, tuple[tuple[str, str], ...]] | None = None
        self._body = bytearray()
        self._size = 0

    def begin(self, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> None:
        """Set the status line and the header fields; before the first byte of the body, an error's may replace them."""
        self._head = status, reason, tuple(headers)

    def write(self, chunk: bytes) -> None:
        self._body += chunk[: MAX_RESPONSE - len(self._body)]
        self._size += len(chunk)

    def response(self) -> Response:
        """Return the response. An application that has begun none made an error, as after an exception."""
        if self._head is None:
            return Response(500, "Internal Server Error")
        status, reason, headers = self._head
        if not self._has_body or status in _NO_BODY:
            return Response(status, reason, headers)
        body = bytes(self._body)
        return Response(status, reason, headers, body, truncated=self._size > len(body))


def failed(request: Request) -> Response:
    """Log the exception that the application has raised, and return what a server responds with."""
    _log.exception("%s %s: the application raised an exception", request.method, request.path)
    return Response(500, "Internal Server Error")
