"""A job's output, its tail and its request's body: chunks in separate entries, since they are too long for the job's own.

A writer writes a chunk once, under a unique name, before the version of the job that lists it. When the list of chunks
in a version is full, it moves to a page, so that a report takes the same time however much output there is.
"""

from __future__ import annotations

import json
import secrets
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

from attrs import frozen

from backjob.stores.cache.record import Chunks, Record
from backjob.stores.caches import Entries

_LONGEST: Final = 1 << 14
"""Characters of a chunk: at most six bytes each as JSON, well below any cache's limit for a value."""
_LIST: Final = 32
"""Chunks in a version's own list before the list moves to a page."""


@frozen
class Chunk:
    """A written chunk: its name, and its size in bytes of UTF-8."""

    name: str
    size: int


def write_chunks(entries: Entries, job_id: str, text: str, seconds: float) -> list[Chunk]:
    """Write a text in chunks, and return them in order."""
    chunks = []
    for begin in range(0, len(text), _LONGEST):
        part = text[begin : begin + _LONGEST]
        chunk = Chunk(secrets.token_hex(8), len(part.encode()))
        entries.set(entries.key("o", job_id, chunk.name), json.dumps(part), seconds)
        chunks.append(chunk)
    return chunks


def join_chunks(entries: Entries, job_id: str, names: Iterable[str]) -> str | None:
    """Return the text of these chunks, or None if one is missing."""
    texts = [_read_chunk(entries, job_id, name) for name in names]
    return None if None in texts else "".join(text for text in texts if text is not None)


def drop_chunks(entries: Entries, job_id: str, names: Iterable[str]) -> None:
    """Delete these chunks."""
    for name in names:
        entries.delete(entries.key("o", job_id, name))


def listed(entries: Entries, record: Record, added: list[Chunk], seconds: float) -> Chunks:
    """Return the record's list of chunks, with these added at its end.

    A page is the full list of one version, so all writers that follow that version write the same page.
    """
    size, latest, pages = record.job.output_size, record.output.latest, record.output.pages
    if len(latest) >= _LIST:
        entries.set(entries.key("p", record.job.id, str(pages)), json.dumps(latest, separators=(",", ":")), seconds)
        latest, pages = (), pages + 1
    new = []
    for chunk in added:
        new.append((size, chunk.name))
        size += chunk.size
    return Chunks((*latest, *new), pages)


def read_output(entries: Entries, record: Record, begin: int, end: int) -> tuple[bytes, bool]:
    """Return a job's output from byte ``begin`` to before ``end``, within its size, and whether all of it was found.

    Each byte that the cache has dropped reads as a question mark.
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
        chunk = (_read_chunk(entries, job_id, name) or "").encode()
        data += chunk[at - start : end - start]
    missing = end - begin - len(data)
    return bytes(data) + b"?" * missing, whole and missing <= 0


def drop_output(entries: Entries, record: Record) -> None:
    """Delete the output of a job."""
    job_id, output = record.job.id, record.output
    for page in range(output.pages):
        drop_chunks(entries, job_id, [name for _, name in _read_page(entries, job_id, page)])
        entries.delete(entries.key("p", job_id, str(page)))
    drop_chunks(entries, job_id, [*(name for _, name in output.latest), *record.tail])


def _from(entries: Entries, job_id: str, output: Chunks, offset: int) -> Iterator[tuple[int, str]]:
    """Yield the listed chunks in order, from the one with byte ``offset`` on."""

    def first_start(page: int) -> int:
        """Return the offset at which a page begins; a lost page has that of the next one."""
        while page < output.pages:
            if known := _read_page(entries, job_id, page):
                return known[0][0]
            page += 1
        return output.latest[0][0] if output.latest else 1 << 62

    page = max(0, bisect_right(range(output.pages + 1), offset, key=first_start) - 1)
    for number in range(page, output.pages + 1):
        chunks = output.latest if number == output.pages else _read_page(entries, job_id, number)
        yield from chunks[max(0, bisect_right(chunks, offset, key=lambda chunk: chunk[0]) - 1) :]


def _read_page(entries: Entries, job_id: str, page: int) -> tuple[tuple[int, str], ...]:
    """Return the chunks of a page, none if the page is lost."""
    try:
        chunks = json.loads(entries.get(entries.key("p", job_id, str(page))) or "[]")
        return tuple((int(start), str(name)) for start, name in chunks)
    except (ValueError, TypeError):
        return ()


def _read_chunk(entries: Entries, job_id: str, name: str) -> str | None:
    text = entries.get(entries.key("o", job_id, name))
    try:
        chunk = None if text is None else json.loads(text)
    except ValueError:
        return None
    return chunk if isinstance(chunk, str) else None
