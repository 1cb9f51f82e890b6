"""The response of an action: what becomes of its body, from its status and header fields.

A text is output, JSON the result, and anything else that is no page the job's file. Of an error response the message is kept.
Memory stays bounded whatever the body's size. Adapters feed an `ActionResponse`, and pass its `Outcome` to `Worker.end`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from http import HTTPStatus
from typing import Final

from backjob.http.content import attachment_name, file_name, is_attachment, is_json, media_type
from backjob.lifecycle import status_line
from backjob.worker.bodies import (
    Body,
    Encoded,
    ErrorBody,
    FileBody,
    JsonBody,
    NoBody,
    NotHere,
    TextBody,
    Unmarked,
    Unreadable,
)
from backjob.worker.outcomes import Outcome, seconds_of
from backjob.worker.running import Running

_NO_CONTENT: Final = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.RESET_CONTENT})
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
_LEFT_TO_THE_SERVER: Final = frozenset({"x-accel-redirect", "x-sendfile", "x-lighttpd-send-file"})
_DECODED: Final = frozenset({"gzip", "x-gzip", "deflate"})


class ActionResponse:
    """Collects an action's response: call `begin`, `write` for each chunk, `end` once it is complete, then `outcome`.

    An action that raises has no complete response: leave `end` out, and pass the error to `outcome`.
    """

    def __init__(self, running: Running) -> None:
        self._running = running
        self._fields: dict[str, str] = {}
        self._body: Body | None = None
        self._is_complete = False
        self.status = 0
        self.reason = ""

    def begin(self, status: int, reason: str, headers: Iterable[tuple[str, str]]) -> None:
        """Take the status line and the header fields. A later call replaces them if no body was written yet."""
        self.status, self.reason = status, reason
        # Of a repeated field the last one counts.
        self._fields = {name.lower(): value for name, value in headers}

    @property
    def has_length(self) -> bool:
        """Whether the response has a Content-Length: it is a whole, and not streamed."""
        return "content-length" in self._fields

    @property
    def may_block(self) -> bool:
        """Whether `write` writes to a disk."""
        return self._body is not None and self._body.may_block

    def write(self, chunk: bytes, *, is_whole: bool = False) -> None:
        """Take a chunk of the body. ``is_whole``: it is all of it. Raises nothing."""
        if self._body is None:
            if not chunk:
                return
            self._body = self._open(is_whole=is_whole or self.has_length)
        self._body.write(chunk)

    def end(self) -> None:
        """Note that the body is complete."""
        self._is_complete, self._running.has_begun_answer = True, False
        if self._body is None:
            # An attachment without a byte is an empty file.
            self._body = self._open(is_whole=True) if self._is_attachment() else NoBody()
        self._body.end()

    def outcome(self, error: BaseException | None, now: datetime) -> Outcome:
        """Return the outcome of the action, which may have raised ``error``."""
        body = self._body or NoBody()
        if error is not None or not self._is_complete:
            body.drop()
            body = NoBody()
        return Outcome(
            self.status,
            self.reason,
            self._fields.get("location"),
            error,
            seconds_of(self._fields.get("retry-after"), now),
            message=body.message,
            result=body.result,
            file=body.file,
            problem=body.problem,
        )

    def _is_attachment(self) -> bool:
        if self._running.job.method == "HEAD" or self.status in _NO_CONTENT:
            return False
        return 200 <= self.status < 300 and is_attachment(self._fields.get("content-disposition", ""))

    def _open(self, *, is_whole: bool) -> Body:
        if self._running.left_by is not None:
            return NoBody()  # it is the answer to a `JobExit`, which backjob wrote
        encoding = self._fields.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity"):
            return self._plain(is_whole=is_whole)
        if encoding not in _DECODED:
            return Unreadable(self._running.job.id, encoding)
        return Encoded(self._plain(is_whole=is_whole))

    def _plain(self, *, is_whole: bool) -> Body:
        running, content_type = self._running, self._fields.get("content-type", "")
        if not 200 <= self.status < 300:
            return ErrorBody(content_type, status_line(self.status, self.reason)) if self.status >= 400 else NoBody()
        if self.status in _NO_CONTENT:
            return NoBody()
        kind = media_type(content_type)
        if not self._is_attachment():
            if kind == "text/plain" or (kind == "text/html" and not is_whole):
                return TextBody(running, content_type)
            if kind == "text/html":
                return Unmarked(running, content_type)
            if is_json(content_type):
                running.has_begun_answer = True
                return JsonBody(running.job.id, running.keeping.max_result)
            if kind == "" or kind in _PAGES:
                return NoBody()
        if left := _LEFT_TO_THE_SERVER & self._fields.keys():
            return NotHere(next(iter(left)))
        running.has_begun_answer = True
        return FileBody(running, self._name(content_type), content_type, is_asked_for=self._is_attachment())

    def _name(self, content_type: str) -> str:
        """Return the name of the file: the action's, or the last segment of the path."""
        name = attachment_name(self._fields.get("content-disposition", ""))
        path = self._running.job.path or (self._running.job.request.path if self._running.job.request else "")
        return file_name(name or path.rstrip("/").rpartition("/")[2], content_type)
