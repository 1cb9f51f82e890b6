"""One client's event stream: its position in a job's feed, and the bytes to send from there.

There is no queue. A slow client gets the latest state and skips those in between; output that the feed's buffer has
dropped is read from the store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from attrs import evolve

from backjob.errors import StoreError
from backjob.model import JsonValue, Output
from backjob.process import RETRY_PAUSE
from backjob.status.links import Linked
from backjob.status.streaming.events import HEARTBEAT, PREAMBLE, event, linked, numbered, output_as_dict, output_event
from backjob.status.streaming.feed import MAX_CHUNK, Feed, Snapshot, Source

if TYPE_CHECKING:
    import asyncio

LIFETIME: Final = 300.0
"""Seconds after which a stream ends at the latest. Its client reconnects, and backjob checks its rights again."""

_HEARTBEAT_INTERVAL: Final = 15.0
_MIN_CHUNK: Final = 4


LinksOf: TypeAlias = Callable[[Linked], Mapping[str, JsonValue]]
"""Returns a client's links to a job, JSON-ready."""


class Stream:
    """The bytes of one ``text/event-stream``. Iterate over it, in a thread or in an event loop, and `close` it.

    ``offset``: bytes of output that the client already has. Without ``output``, it sends only states. In a thread
    `next` blocks until there is something to send; in an event loop, reads of the store run in another thread.
    """

    def __init__(
        self,
        feed: Feed,
        source: Source,
        *,
        offset: int,
        output: bool,
        lifetime: float,
        on_close: Callable[[Stream], None],
        links: LinksOf | None = None,
    ) -> None:
        self.feed = feed
        self.offset = offset
        self.output = output
        self.sees_errors = False
        """Whether the states have the texts of unexpected errors, as for staff."""
        self.order = 0
        """How many streams were opened before, and this one."""
        self.loop: asyncio.AbstractEventLoop | None = None
        self._source = source
        self._monotonic = source.clock.monotonic
        self._on_close = on_close
        self._links = links
        self._event: Any = None  # of threading or of asyncio
        self._turn = 0
        self._tail = b""
        self._has_begun = self._is_over = self._has_sent_truncated = self._output_is_complete = False
        self._sent_at = self._monotonic()
        self._until = self._sent_at + lifetime
        self._read_from = self._sent_at

    # --- called from any thread -------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether the stream sends nothing more."""
        return self._is_over or self._monotonic() >= self._until

    def take(self, *, may_read: bool = True) -> bytes | None:
        """Return the next bytes, or None if there are none yet. Reads the store if it must and ``may_read``."""
        chunk = self._from_feed() or (self._catch_up() if may_read and self._is_behind() else None) or self._heartbeat()
        if chunk is not None:
            self._sent_at = self._monotonic()
        return chunk

    @property
    def wake_at(self) -> float:
        """The latest time to wake the stream, on the monotonic clock (s): for a heartbeat, its end, or another read."""
        read_at = self._read_from if self._read_from > self._sent_at else self._until
        return min(self._until, self._sent_at + _HEARTBEAT_INTERVAL, read_at)

    @property
    def can_wake(self) -> bool:
        """Whether `wake` has an effect, and ``loop`` is known. A stream that has not begun reads its feed anyway."""
        return self._event is not None

    def wake(self) -> None:
        """Make the stream read its feed again. If it runs in an event loop, call this in that loop."""
        woken = self._event
        if woken is not None:
            woken.set()

    def end(self) -> None:
        """Make the stream end after the chunk that it is sending. Call `wake` afterwards."""
        self._is_over = True

    def close(self) -> None:
        """End the stream and free its place. A second call has no effect."""
        self._is_over = True
        self._on_close(self)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        woken = self._event = self._event or threading.Event()
        while not self.is_over:
            woken.clear()
            chunk = self.take()
            if chunk is not None:
                return chunk
            woken.wait(_HEARTBEAT_INTERVAL)
        self.close()
        raise StopIteration

    # --- in an event loop -------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._event is None:
            import asyncio  # noqa: PLC0415 - keeps the import out of threaded servers

            self.loop = asyncio.get_running_loop()  # first: other threads must set the event in this loop
            self._event = asyncio.Event()
        while not self.is_over:
            self._event.clear()
            # If the feed drops a chunk between these two calls, the broadcast wakes this stream again.
            chunk = await self._source.offload(self.take) if self._is_behind() else self.take(may_read=False)
            if chunk is not None:
                return chunk
            await self._event.wait()
        self.close()
        raise StopAsyncIteration

    # --- the next bytes ---------------------------------------------------------------------------------------------

    def _from_feed(self) -> bytes | None:
        """Return the next bytes that need no read of the store, or None."""
        if not self._has_begun:
            self._has_begun = True
            return PREAMBLE
        snapshot = self.feed.snapshot
        if snapshot is None:
            return None
        if snapshot.turn != self._turn and not snapshot.is_final:
            self._turn = snapshot.turn
            return numbered(self.offset, self._state(snapshot))
        if self._wants_output(snapshot):
            chunk = snapshot.chunk_at(self.offset)
            if chunk is None:
                return None
            self.offset = chunk.end
            self._has_sent_truncated = chunk.truncated
            return chunk.event
        if self.output and snapshot.tail != self._tail:
            self._tail = snapshot.tail
            self._has_sent_truncated = True
            return numbered(self.offset, snapshot.tail)
        if self.output and snapshot.truncated and not self._has_sent_truncated:
            # The limit cut the output exactly at a chunk's end: report that in an empty event.
            self._has_sent_truncated = True
            return numbered(self.offset, event("output", output_as_dict(Output("", self.offset, truncated=True))))
        if snapshot.is_final:
            self._is_over = True
            return numbered(self.offset, self._state(snapshot))
        return None

    def _state(self, snapshot: Snapshot) -> bytes:
        state = snapshot.full_state if self.sees_errors else snapshot.state
        return state if self._links is None else linked(state, self._links(snapshot.linked))

    def _wants_output(self, snapshot: Snapshot) -> bool:
        return self.output and self.offset < snapshot.end and not self._output_is_complete

    def _is_behind(self) -> bool:
        """Whether to read output from the store now, because the feed's buffer does not have it."""
        snapshot = self.feed.snapshot
        return (
            snapshot is not None
            and self._wants_output(snapshot)
            and snapshot.chunk_at(self.offset) is None
            and self._monotonic() >= self._read_from
        )

    def _catch_up(self) -> bytes | None:
        """Read the next chunk from the store, at most up to the snapshot's end."""
        snapshot = self.feed.snapshot
        if snapshot is None:
            return None
        try:
            limit = min(MAX_CHUNK, max(_MIN_CHUNK, snapshot.end - self.offset))
            output = self._source.output(self.feed.job_id, self.offset, limit)
        except StoreError:
            self._read_from = self._monotonic() + RETRY_PAUSE
            return None
        finally:
            self._source.release()
        if output.next_offset > self.offset:
            self.offset = output.next_offset
            self._has_sent_truncated = output.truncated
            return output_event(evolve(output, tail=""))
        if not snapshot.is_final:
            self._read_from = self._monotonic() + RETRY_PAUSE
            return None
        self._output_is_complete = True  # the rest is lost or purged: the client must get the end all the same
        return self._from_feed()

    def _heartbeat(self) -> bytes | None:
        return HEARTBEAT if self._monotonic() >= self._sent_at + _HEARTBEAT_INTERVAL else None
