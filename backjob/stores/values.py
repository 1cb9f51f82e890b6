"""Shared by all stores: moments, the JSON of a result, and chunks of output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from backjob.errors import InvalidRequest
from backjob.model import LONGEST_TAIL, JsonValue, Output

__all__ = [
    "LONGEST_CHUNK",
    "LONGEST_TAIL",
    "LOOKAHEAD",
    "PURGED_AT_ONCE",
    "cut",
    "dump_result",
    "joined_chunk",
    "joined_tail",
    "later",
    "load_result",
    "output_bytes",
    "output_piece",
    "purge_batch",
    "refuse_short_limit",
    "tail_rows",
]

LOOKAHEAD: Final = 4
"""Bytes that `output_piece` needs beyond the limit: three that it may skip, and the first of the next character."""

LONGEST_CHUNK: Final = 16384
"""The most bytes of output in one row of a table; reading any part of a row reads all of it."""

PURGED_AT_ONCE: Final = 500
"""The most jobs that a purge of a table deletes in one transaction."""

_PURGED_OUTPUT: Final = 4 << 20  # bytes per transaction, not counting the first job
_SHORTEST_LIMIT: Final = 4  # bytes: the longest character in UTF-8 (RFC 3629, section 3)


def later(now: datetime, due: datetime | float) -> datetime:
    """A moment in UTC: the aware datetime, or this number of seconds after now."""
    return due.astimezone(UTC) if isinstance(due, datetime) else now + timedelta(seconds=due)


def dump_result(result: JsonValue) -> str | None:
    """A result as JSON text. None, which means no result, stays None."""
    return None if result is None else json.dumps(result, separators=(",", ":"))


def load_result(text: str | None) -> JsonValue:
    """The result that `dump_result` wrote."""
    return None if text is None else cast("JsonValue", json.loads(text))


def refuse_short_limit(limit: int) -> None:
    """Raise `InvalidRequest` for a limit shorter than the longest character, with which reading could get stuck."""
    if limit < _SHORTEST_LIMIT:
        raise InvalidRequest("limit", f"expected at least {_SHORTEST_LIMIT} bytes, the length of the longest character")


def output_bytes(output: str) -> bytes:
    """Return output as a store keeps it: in UTF-8."""
    return output.encode()


def output_piece(data: bytes, offset: int, limit: int, *, truncated: bool) -> Output:
    """The chunk of at most ``limit`` bytes at the front of ``data``, the output's bytes from ``offset`` on.

    ``data`` must have ``limit + LOOKAHEAD`` bytes, or all there are. Continuation bytes (RFC 3629, section 3) at its front
    belong to an earlier character and are skipped. Without data the chunk is empty and ends at ``offset``. Raises
    `InvalidRequest` for a limit of less than 4 bytes.
    """
    refuse_short_limit(limit)
    skipped = 0
    while skipped < len(data) and data[skipped] & 0xC0 == 0x80:
        skipped += 1
    end = skipped + limit
    if end < len(data):
        while data[end] & 0xC0 == 0x80:
            end -= 1
    chunk = data[skipped:end]
    return Output(chunk.decode(), offset + skipped + len(chunk), truncated)


def cut(output: bytes) -> Iterator[tuple[int, bytes]]:
    """The output cut into chunks for rows, each with its position."""
    for position in range(0, len(output), LONGEST_CHUNK):
        yield position, output[position : position + LONGEST_CHUNK]


def tail_rows(tail: str) -> list[tuple[int, bytes]]:
    """The rows of a tail, which stand before the output: their positions are negative."""
    return [(position - LONGEST_TAIL, chunk) for position, chunk in cut(tail.encode())]


def joined_tail(chunks: Iterable[bytes]) -> str:
    """The tail whose rows these are, in order."""
    return b"".join(chunks).decode()


def joined_chunk(rows: Sequence[tuple[int, bytes]], offset: int, limit: int, *, truncated: bool) -> Output:
    """The chunk from ``offset`` on, from the rows (position, bytes) that contain it, in order."""
    start = rows[0][0] if rows else offset
    data = b"".join([chunk for _, chunk in rows])[offset - start : offset - start + limit + LOOKAHEAD]
    return output_piece(data, offset, limit, truncated=truncated)


def purge_batch(sizes: Iterable[int]) -> int:
    """How many of these jobs to purge in one transaction, given the bytes of output of each: many small ones or one large.

    At least one, if there is any. Together they have no more than 4 MiB of output, unless the first alone has more.
    """
    count = output = 0
    for size in sizes:
        output += size
        if count and output > _PURGED_OUTPUT:
            break
        count += 1
    return count
