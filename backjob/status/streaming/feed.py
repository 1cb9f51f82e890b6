"""A job as `Broadcast` last read it, encoded once for all streams that show it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

from attrs import evolve, frozen

from backjob.model import Job, JobState, Output
from backjob.output import plain_end
from backjob.protocols import Clock
from backjob.status.hiding import has_hidden_errors, without_errors
from backjob.status.links import Linked
from backjob.status.streaming.events import event, output_as_dict, output_event

MAX_CHUNK: Final = 1 << 16
"""Bytes of output in one event, at most."""

_CHUNKS_PER_POLL: Final = 4
_BUFFER: Final = _CHUNKS_PER_POLL * MAX_CHUNK
_SHORT_TEXT: Final = 1 << 12
_MIN_INTERVAL: Final = 0.25
_MAX_INTERVAL: Final = 1.0


@frozen(eq=False, repr=False)
class Source:
    """The operations of the engine that event streams use.

    ``job`` raises `JobNotFound`; all three readers raise `StoreError`. ``output`` takes a job's id, an offset and a limit
    in bytes. ``show_errors`` says whether every visitor sees unexpected errors. ``release`` frees what this thread keeps open in the store. ``offload`` runs a function in another thread.
    """

    job: Callable[[str], Job]
    state: Callable[[Job], JobState]
    output: Callable[[str, int, int], Output]
    release: Callable[[], None]
    offload: Callable[[Callable[[], bytes | None]], Awaitable[bytes | None]]
    clock: Clock
    show_errors: bool = True


@frozen(eq=False, repr=False)
class Chunk:
    """An encoded chunk of output, from byte ``start`` up to, but not including, byte ``end``."""

    start: int
    end: int
    truncated: bool
    event: bytes


@frozen(eq=False, repr=False)
class Snapshot:
    """A job at one moment: its state as an event, and the latest chunks of its output, which ends at byte ``end``.

    ``turn`` grows with each new state; two snapshots with the same ``mark`` are equal. ``is_final``: the job has ended,
    and no output follows.
    """

    mark: tuple[int, int, datetime]
    state: bytes
    linked: Linked
    turn: int
    end: int
    truncated: bool
    is_final: bool
    chunks: tuple[Chunk, ...] = ()
    full_state: bytes = b""
    """The state with its unexpected errors, for those who may see all jobs."""
    tail: bytes = b""
    """The tail of the output as an event; empty if there is none."""

    def chunk_at(self, offset: int) -> Chunk | None:
        """Return the chunk that starts at this byte, or None if it is not in the buffer."""
        return next((chunk for chunk in self.chunks if chunk.start == offset), None)


class Feed:
    """One watched job. Only the broadcast's thread calls `poll`; any thread may read ``snapshot``.

    ``due`` is when to poll next, on the monotonic clock (s).
    """

    def __init__(self, job_id: str, due: float) -> None:
        self.job_id = job_id
        self.due = due
        self.snapshot: Snapshot | None = None
        self._interval = _MIN_INTERVAL

    def poll(self, source: Source, now: float, offset: int | None) -> bool:
        """Read the job, and its output from ``offset`` on if that is not None. Returns whether anything is new.

        Raises `JobNotFound` and `StoreError`.
        """
        before = self.snapshot
        snapshot = self.snapshot = _read(source, source.job(self.job_id), before, offset)
        is_new = snapshot is not before
        self._interval = _MIN_INTERVAL if is_new else min(_MAX_INTERVAL, self._interval * 1.5)
        self.due = math.inf if snapshot.is_final else now + self._interval
        return is_new


def _read(source: Source, job: Job, before: Snapshot | None, offset: int | None) -> Snapshot:
    mark = (job.version, job.output_size, job.updated_time)
    if before is not None and before.mark == mark and before.end >= job.output_size:
        return before
    end, added = _new_output(source, job, before, offset)
    ended = job.status.is_final
    if ended and added and end < job.output_size and before is not None:
        # The final state must follow all output: show the end only once the output is complete.
        return evolve(before, end=end, truncated=job.output_truncated, chunks=_buffered(before, added, end))
    linked, state, full = _state_events(source, job, ended=ended)
    turn = 1 if before is None else before.turn + (full != before.full_state)
    chunks = _buffered(before, added, end)
    tail = b"" if before is None else before.tail
    if job.output_truncated and offset is not None:
        tail = _tail_event(source, job)
    return Snapshot(mark, state, linked, turn, end, job.output_truncated, ended, chunks, full, tail)


def _tail_event(source: Source, job: Job) -> bytes:
    tail = source.output(job.id, job.output_size, MAX_CHUNK).tail
    return event("output", output_as_dict(Output("", job.output_size, truncated=True, tail=tail))) if tail else b""


def _new_output(source: Source, job: Job, before: Snapshot | None, offset: int | None) -> tuple[int, tuple[Chunk, ...]]:
    """Return the offset at which the output ends, and its new chunks.

    A stream further behind than the buffer reads the missing output from the store itself.
    """
    size = job.output_size
    if offset is None or (before is None and not size - _BUFFER <= offset < size):
        return (size if before is None else max(size, before.end)), ()
    start = offset if before is None else before.end
    added = _read_chunks(source, job, start)
    end = added[-1].end if added else start
    return (end, added) if before is not None or end >= size else (size, ())


def _read_chunks(source: Source, job: Job, start: int) -> tuple[Chunk, ...]:
    chunks: list[Chunk] = []
    while start < job.output_size and len(chunks) < _CHUNKS_PER_POLL:
        output = source.output(job.id, start, MAX_CHUNK)
        if output.next_offset <= start:
            break  # the store's output lags behind its jobs: the next poll reads on
        encoded = output_event(evolve(output, tail=""))  # the tail follows in an event of its own
        chunks.append(Chunk(start, output.next_offset, output.truncated, encoded))
        start = output.next_offset
    return tuple(chunks)


def _buffered(before: Snapshot | None, added: tuple[Chunk, ...], end: int) -> tuple[Chunk, ...]:
    earlier = () if before is None else before.chunks
    return tuple(chunk for chunk in (*earlier, *added) if chunk.start >= end - _BUFFER)


def _state_events(source: Source, job: Job, *, ended: bool) -> tuple[Linked, bytes, bytes]:
    """Return what the links depend on, and the event with the state as visitors see it, and as staff sees it."""
    if not ended and job.status_text is None and job.output_size > _SHORT_TEXT:
        # A job that sets no status text shows the end of its output, which changes with each line: keep it short,
        # so that not every line sends 64 KiB to every client.
        output = source.output(job.id, job.output_size - _SHORT_TEXT, _SHORT_TEXT)
        text = output.tail[-_SHORT_TEXT:] or output.text
        job = evolve(job, status_text=plain_end(text, is_cut=True))
    name, state = "end" if ended else "state", source.state(job)
    full = event(name, state.as_dict())
    if source.show_errors or not has_hidden_errors(state):
        return Linked.of(state), full, full
    return Linked.of(state), event(name, without_errors(state).as_dict()), full
