"""The output of a job as a text file, made while it is sent."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from backjob.http.content import attachment
from backjob.model import Headers, Output, clean_text
from backjob.output import Screen, from_line, plain, text_of
from backjob.status.exchange import Download, StatusResponse


def output_download(job_id: str, read: Callable[[int], Output], gap: str, *, is_head: bool) -> StatusResponse:
    """Return the response with all output of a job, as a terminal would show it. ``read`` returns the chunk at an offset.

    ``gap`` is the line at the place where a part of the output is missing.
    """
    headers: Headers = (
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Disposition", attachment(f"output-{job_id}.txt")),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
    )
    file: Any = _WholeOutput(read, gap)
    download = None if is_head else Download(file)
    return StatusResponse(200, HTTPStatus.OK.phrase, headers, download=download)


class _WholeOutput:
    """Reads like a file, one chunk of the store at a time. Lines that later output may still change are kept back."""

    def __init__(self, read: Callable[[int], Output], gap: str) -> None:
        self._read = read
        self._gap = gap
        self._screen = Screen()
        self._offset = 0
        self._is_over = False

    def read(self, _size: int = -1, /) -> bytes:
        """Return the next part, of any size; nothing at the end."""
        text = ""
        while not text and not self._is_over:
            chunk = self._read(self._offset)
            self._offset = chunk.next_offset
            self._screen.feed(clean_text(chunk.text))
            text = "".join(f"{line}\n" for line in map(text_of, self._screen.take_settled()))
            if not chunk.text:
                self._is_over = True
                text = "\n".join(map(text_of, self._screen.lines())) + self._end(chunk)
        return text.encode()

    def _end(self, chunk: Output) -> str:
        if not chunk.truncated:
            return ""
        return f"\n[{self._gap}]\n{plain(clean_text(from_line(chunk.tail)))}"

    def close(self) -> None:
        """Do nothing: each read is complete."""
