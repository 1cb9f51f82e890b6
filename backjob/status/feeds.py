"""A job as its watcher last saw it, encoded once for however many streams show it."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime
from typing import Final

from attrs import evolve, frozen

from backjob.model import Job, JobState, Output
from backjob.status.events import event, output_event

__all__ = ["PIECE", "Feed", "Piece", "Seen", "Source"]

PIECE: Final = 1 << 16
"""Bytes of output in one event, at most."""

_PIECES_A_LOOK: Final = 4
_KEPT: Final = _PIECES_A_LOOK * PIECE
_SHORT_TEXT: Final = 1 << 12
_FIRST_LOOK: Final = 0.25
_LONGEST_LOOK: Final = 1.0


@frozen
class Source:
    """Where a watcher reads. ``job`` raises `JobNotFound`, all of them `StoreError`.

    ``output`` takes a job's id, an offset and a limit in bytes. ``release`` lets go of what this thread holds of the
    store, when it will not read for long.
    """

    job: Callable[[str], Job]
    state: Callable[[Job], JobState]
    output: Callable[[str, int, int], Output]
    release: Callable[[], None]


@frozen
class Piece:
    """An encoded piece of output, from byte ``start`` to before ``end``."""

    start: int
    end: int
    truncated: bool
    event: bytes


@frozen
class Seen:
    """What is known of a job: its state as an event, and up to which byte there is output.

    ``turn`` grows with each new state. ``pieces`` are the last ones that were read. ``is_final``: the state is that of
    the ended job, and no output comes after ``end``.
    """

    mark: tuple[int, int, datetime]
    state: bytes
    turn: int
    end: int
    truncated: bool
    is_final: bool
    pieces: tuple[Piece, ...] = ()

    def piece_at(self, offset: int) -> Piece | None:
        """The piece that begins there, if it is one of the last."""
        return next((piece for piece in self.pieces if piece.start == offset), None)


class Feed:
    """One watched job. `look` is the watcher's alone; what it leaves in ``seen`` may be read by any thread.

    ``due`` is when to look again, by the monotonic clock (s).
    """

    def __init__(self, job_id: str, due: float) -> None:
        self.job_id = job_id
        self.due = due
        self.seen: Seen | None = None
        self._wait = _FIRST_LOOK

    def look(self, source: Source, now: float, offset: int | None) -> bool:
        """Read what is new; whether anything was. ``offset``: where the first of those who want output is; None: nobody.

        Raises `JobNotFound` and `StoreError`.
        """
        before = self.seen
        seen = _look(source, source.job(self.job_id), before, offset)
        self.seen = seen
        is_new = seen is not before
        self._wait = _FIRST_LOOK if is_new else min(_LONGEST_LOOK, self._wait * 1.5)
        self.due = math.inf if seen.is_final else now + self._wait
        return is_new


def _look(source: Source, job: Job, before: Seen | None, offset: int | None) -> Seen:
    mark = (job.version, job.output_size, job.updated_time)
    if before is not None and before.mark == mark and before.end >= job.output_size:
        return before
    end, added = _new_output(source, job, before, offset)
    ended = job.status.is_final
    if ended and added and end < job.output_size and before is not None:
        # The end is told when all output has been.
        return evolve(before, end=end, truncated=job.output_truncated, pieces=_kept(before, added, end))
    state = _state(source, job, ended=ended)
    turn = 1 if before is None else before.turn + (state != before.state)
    return Seen(mark, state, turn, end, job.output_truncated, ended, _kept(before, added, end))


def _new_output(source: Source, job: Job, before: Seen | None, offset: int | None) -> tuple[int, tuple[Piece, ...]]:
    """How far the output has come, and the pieces up to there. Who is far behind reads the rest himself."""
    size = job.output_size
    if offset is None or (before is None and not size - _KEPT <= offset < size):
        return (size if before is None else max(size, before.end)), ()
    start = offset if before is None else before.end
    added = _pieces(source, job, start)
    end = added[-1].end if added else start
    return (end, added) if before is not None or end >= size else (size, ())


def _pieces(source: Source, job: Job, start: int) -> tuple[Piece, ...]:
    found: list[Piece] = []
    while start < job.output_size and len(found) < _PIECES_A_LOOK:
        output = source.output(job.id, start, PIECE)
        if output.next_offset <= start:
            break  # what keeps the output is not as far as what tells of the job
        found.append(Piece(start, output.next_offset, output.truncated, output_event(output)))
        start = output.next_offset
    return tuple(found)


def _kept(before: Seen | None, added: tuple[Piece, ...], end: int) -> tuple[Piece, ...]:
    earlier = () if before is None else before.pieces
    return tuple(piece for piece in (*earlier, *added) if piece.start >= end - _KEPT)


def _state(source: Source, job: Job, *, ended: bool) -> bytes:
    if not ended and job.status_text is None and job.output_size > _SHORT_TEXT:
        # Each line that is printed changes this text: 64 KiB of it to every client would be sent over and over.
        text = source.output(job.id, job.output_size - _SHORT_TEXT, _SHORT_TEXT).text
        job = evolve(job, status_text=text)
    return event("end" if ended else "state", source.state(job).as_dict())
