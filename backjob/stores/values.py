"""What every store computes the same way: moments, the JSON of a result, and a piece of output."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from backjob.errors import InvalidRequest
from backjob.model import JsonValue, Output

__all__ = [
    "LOOKAHEAD",
    "clamped",
    "dump_result",
    "later",
    "load_result",
    "output_bytes",
    "output_piece",
    "refuse_short_limit",
]

LOOKAHEAD: Final = 4
"""Bytes that `output_piece` needs beyond the limit: three that may be skipped, and one that begins the next character."""

_SHORTEST_LIMIT: Final = 4  # bytes: the longest character in UTF-8 (RFC 3629, section 3)


def later(now: datetime, due: datetime | float, argument: str = "due") -> datetime:
    """A moment in UTC: an aware datetime as it is, or seconds from now. Raises `InvalidRequest` outside of the calendar."""
    try:
        if isinstance(due, datetime):
            if due.utcoffset() is None:
                raise InvalidRequest(argument, "a datetime must be aware of its time zone")
            return due.astimezone(UTC)
        return now + timedelta(seconds=due)
    except (OverflowError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(argument, "this moment is outside of the calendar") from None


def clamped(progress: int) -> int:
    """The progress within 0–100."""
    return max(0, min(100, progress))


def dump_result(result: JsonValue) -> str | None:
    """A result as JSON text; None, which is no result, as None. Raises `InvalidRequest` for what JSON can't say."""
    if result is None:
        return None
    try:
        return json.dumps(result, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest("result", f"JSON can't say this: {error}") from None


def load_result(text: str | None) -> JsonValue:
    """The result that `dump_result` wrote."""
    return None if text is None else cast("JsonValue", json.loads(text))


def refuse_short_limit(limit: int) -> None:
    """Raise `InvalidRequest` for a limit that a single character may exceed: reading would never get on."""
    if limit < _SHORTEST_LIMIT:
        raise InvalidRequest("limit", f"at least {_SHORTEST_LIMIT} bytes, the longest character, are needed")


def output_bytes(output: str) -> bytes:
    """Output as it is stored. Raises `InvalidRequest` for a lone surrogate, which UTF-8 can't say."""
    try:
        return output.encode()
    except UnicodeEncodeError:
        raise InvalidRequest("output", "a lone surrogate can't be stored; clean_text() replaces it") from None


def output_piece(data: bytes, offset: int, limit: int, *, truncated: bool) -> Output:
    """The piece at the front of ``data``: the output's bytes from ``offset`` on, ``limit + LOOKAHEAD`` or all there are.

    Continuation bytes (RFC 3629, section 3) at the front belong to a character that begins before it.
    """
    skipped = 0
    while skipped < len(data) and data[skipped] & 0xC0 == 0x80:
        skipped += 1
    end = skipped + limit
    if end < len(data):
        while data[end] & 0xC0 == 0x80:
            end -= 1
    piece = data[skipped:end]
    return Output(piece.decode(), offset + skipped + len(piece), truncated)
