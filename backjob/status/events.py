"""Server-sent events as bytes (WHATWG HTML, section 9.2.5): what a job's stream is made of. Sans-IO."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from backjob.model import JsonValue, Output

__all__ = ["BEGINNING", "CONTENT_TYPE", "HEARTBEAT", "event", "json_bytes", "numbered", "output_event", "piece_as_dict"]

CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"

BEGINNING: Final = b"retry: 2000\n\n"
"""Tells the client to wait 2 s before it connects again. Whatever comes first also has servers send the header."""

HEARTBEAT: Final = b":\n\n"
"""A comment: keeps proxies from closing a silent connection, and finds out whether the client is still there."""


def json_bytes(value: Mapping[str, JsonValue]) -> bytes:
    """JSON on one line, in ASCII alone: a lone surrogate in a text is an escape like any other, and never an error."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False).encode("ascii")


def event(name: str, value: Mapping[str, JsonValue]) -> bytes:
    """An event without an id, which `numbered` puts in front."""
    return b"event: %s\ndata: %s\n\n" % (name.encode("ascii"), json_bytes(value))


def numbered(offset: int, encoded: bytes) -> bytes:
    """An event whose id is the offset (bytes) up to which the client has the output: there it resumes."""
    return b"id: %d\n%s" % (offset, encoded)


def piece_as_dict(piece: Output) -> dict[str, JsonValue]:
    """A piece of output, JSON-ready."""
    return {"text": piece.text, "next_offset": piece.next_offset, "truncated": piece.truncated}


def output_event(piece: Output) -> bytes:
    """The event for a piece of output, its id included."""
    return numbered(piece.next_offset, event("output", piece_as_dict(piece)))
