"""What is too long for a job's own entry: its output, and its request's body, in pieces under keys of their own.

A piece is written once, under a name that nobody else has, before the version of the job that mentions it. The latest
pieces are listed in that version; a full list moves to a page, so that a report costs the same however much stands.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

from backjob.stores.cache.record import Pieces, Record
from backjob.stores.caches import Entries

__all__ = ["Piece", "drop_pieces", "join_pieces", "listed", "read_output", "write_pieces"]

_LONGEST: Final = 1 << 14
"""Characters of a piece: at most six bytes each as JSON, well below any cache's limit for a value."""
_LIST: Final = 32
"""Pieces in a version's own list, from which on the list moves to a page."""


@frozen
class Piece:
    """A piece that was written: its name, and its size in bytes of UTF-8."""

    name: str
    size: int


def write_pieces(entries: Entries, job_id: str, text: str, seconds: float) -> list[Piece]:
    """Write a text in pieces."""
    pieces = []
    for begin in range(0, len(text), _LONGEST):
        part = text[begin : begin + _LONGEST]
        piece = Piece(secrets.token_hex(8), len(part.encode()))
        entries.set(_piece_key(entries, job_id, piece.name), json.dumps(part), seconds)
        pieces.append(piece)
    return pieces


def join_pieces(entries: Entries, job_id: str, names: Iterable[str]) -> str | None:
    """The text of some pieces, or None if one of them is gone."""
    texts = [_read_piece(entries, job_id, name) for name in names]
    return None if None in texts else "".join(text for text in texts if text is not None)


def drop_pieces(entries: Entries, job_id: str, names: Iterable[str]) -> None:
    """Forget some pieces."""
    for name in names:
        entries.delete(_piece_key(entries, job_id, name))


def listed(entries: Entries, record: Record, added: list[Piece], seconds: float) -> Pieces:
    """Where the output lies with further pieces at its end.

    A page is what one version's whole list was: whoever follows that version writes the same.
    """
    size, latest, pages = record.job.output_size, record.output.latest, record.output.pages
    if len(latest) >= _LIST:
        entries.set(_page_key(entries, record.job.id, pages), json.dumps(latest, separators=(",", ":")), seconds)
        latest, pages = (), pages + 1
    new = []
    for piece in added:
        new.append((size, piece.name))
        size += piece.size
    return Pieces((*latest, *new), pages)


def read_output(entries: Entries, record: Record, begin: int, end: int) -> tuple[bytes, bool]:
    """A job's output from byte ``begin`` to before ``end``, within its size, and whether all of it was found.

    In the place of bytes that the cache has dropped stand as many question marks.
    """
    job_id = record.job.id
    data = bytearray()
    whole = True
    for start, name in _from(entries, job_id, record.output, begin):
        if start >= end or len(data) >= end - begin:
            break
        at = begin + len(data)
        if start > at:
            data += b"?" * (start - at)
            whole, at = False, start
        piece = (_read_piece(entries, job_id, name) or "").encode()
        data += piece[at - start : end - start]
    missing = end - begin - len(data)
    return bytes(data) + b"?" * missing, whole and missing <= 0


def _from(entries: Entries, job_id: str, output: Pieces, offset: int) -> Iterator[tuple[int, str]]:
    """The pieces that are known, in order, from the one that holds ``offset`` on."""

    def first_start(page: int) -> int:
        """Where a page begins; one that is gone counts as beginning where the next one does."""
        while page < output.pages:
            if known := _read_page(entries, job_id, page):
                return known[0][0]
            page += 1
        return output.latest[0][0] if output.latest else 1 << 62

    page = max(0, bisect_right(range(output.pages + 1), offset, key=first_start) - 1)
    for number in range(page, output.pages + 1):
        pieces = output.latest if number == output.pages else _read_page(entries, job_id, number)
        yield from pieces[max(0, bisect_right(pieces, offset, key=lambda piece: piece[0]) - 1) :]


def _read_page(entries: Entries, job_id: str, page: int) -> tuple[tuple[int, str], ...]:
    """A page's pieces; none if the page is gone."""
    try:
        pieces = json.loads(entries.get(_page_key(entries, job_id, page)) or "[]")
        return tuple((int(start), str(name)) for start, name in pieces)
    except (ValueError, TypeError):
        return ()


def _read_piece(entries: Entries, job_id: str, name: str) -> str | None:
    text = entries.get(_piece_key(entries, job_id, name))
    try:
        piece = None if text is None else json.loads(text)
    except ValueError:
        return None
    return piece if isinstance(piece, str) else None


def _piece_key(entries: Entries, job_id: str, name: str) -> str:
    return entries.key("o", job_id, name)


def _page_key(entries: Entries, job_id: str, page: int) -> str:
    return entries.key("p", job_id, str(page))
