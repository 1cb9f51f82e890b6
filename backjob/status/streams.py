"""One client's stream of events: its place in the job's feed, and what is to be sent from there.

There is no queue: a slow client finds what its feed has by then, skips states in between, and reads itself what output
the feed does not have any more.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, Self

from backjob.errors import StoreError
from backjob.model import Output
from backjob.status.events import BEGINNING, HEARTBEAT, event, numbered, output_event, piece_as_dict
from backjob.status.feeds import PIECE, Feed, Seen, Source

if TYPE_CHECKING:
    import asyncio

__all__ = ["LIFETIME", "Stream"]

LIFETIME: Final = 300.0
"""Seconds after which a stream ends at the latest; its client connects again, and its rights are looked at anew."""

_SILENCE: Final = 15.0
_STORE_PAUSE: Final = 1.0
_SHORTEST_LIMIT: Final = 4


class Stream:
    """The bytes of one ``text/event-stream``: iterate over it, in a thread or in an event loop, and `close` it.

    ``offset`` is how much of the output (bytes) its client has got, for one that wants ``output``.
    In a thread `next` waits; in an event loop nothing does, and what must be read is read in another thread.
    """

    def __init__(
        self,
        feed: Feed,
        source: Source,
        monotonic: Callable[[], float],
        *,
        offset: int,
        output: bool,
        lifetime: float,
        closed: Callable[[Stream], None],
        offload: Callable[[Callable[[], bytes | None]], Awaitable[bytes | None]],
    ) -> None:
        self.feed = feed
        self.offset = offset
        self.output = output
        self.loop: asyncio.AbstractEventLoop | None = None
        self._source = source
        self._monotonic = monotonic
        self._closed = closed
        self._offload = offload
        self._bell: Any = None
        self._turn = 0
        self._begun = self._over = self._told_truncated = self._exhausted = False
        self._heard = monotonic()
        self._until = self._heard + lifetime
        self._read_from = self._heard

    # --- what others do with it -------------------------------------------------------------------------------------

    @property
    def is_over(self) -> bool:
        """Whether nothing comes any more."""
        return self._over or self._monotonic() >= self._until

    def take(self, *, may_read: bool = True) -> bytes | None:
        """The next bytes, for which the store is read if it must and may be; None if there are none for now."""
        chunk = self._at_hand() or (self._catch_up() if may_read and self._is_behind() else None) or self._heartbeat()
        if chunk is not None:
            self._heard = self._monotonic()
        return chunk

    @property
    def wake_at(self) -> float:
        """When to ring if nothing else happens, by the monotonic clock (s): for a heartbeat, the end, another try to read."""
        waits = self._read_from if self._read_from > self._heard else self._until
        return min(self._until, self._heard + _SILENCE, waits)

    @property
    def has_bell(self) -> bool:
        """Whether it can be rung, and its ``loop`` is known. One that has not begun looks at its feed by itself."""
        return self._bell is not None

    def ring(self) -> None:
        """Have it look at its feed again. Where it runs in an event loop, call this there."""
        bell = self._bell
        if bell is not None:
            bell.set()

    def end(self) -> None:
        """Have it end with what it sends at the moment; `ring` it."""
        self._over = True

    def close(self) -> None:
        """Give up its place. Calling it twice does no harm."""
        self._over = True
        self._closed(self)

    # --- in a thread ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        bell = self._bell = self._bell or threading.Event()
        while not self.is_over:
            bell.clear()
            chunk = self.take()
            if chunk is not None:
                return chunk
            bell.wait(_SILENCE)
        self.close()
        raise StopIteration

    # --- in an event loop -------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._bell is None:
            import asyncio  # noqa: PLC0415 - who runs coroutines has it already

            self.loop = asyncio.get_running_loop()  # before there is a bell, which others must ring there
            self._bell = asyncio.Event()
        while not self.is_over:
            self._bell.clear()
            # What the feed drops between these two looks at it is not read here: its watcher rings then.
            chunk = await self._offload(self.take) if self._is_behind() else self.take(may_read=False)
            if chunk is not None:
                return chunk
            await self._bell.wait()
        self.close()
        raise StopAsyncIteration

    # --- what comes next --------------------------------------------------------------------------------------------

    def _at_hand(self) -> bytes | None:
        """The next bytes, if nothing need be read for them."""
        if not self._begun:
            self._begun = True
            return BEGINNING
        seen = self.feed.seen
        if seen is None:
            return None
        if seen.turn != self._turn and not seen.is_final:
            self._turn = seen.turn
            return numbered(self.offset, seen.state)
        if self.output and self.offset < seen.end and not self._exhausted:
            piece = seen.piece_at(self.offset)
            if piece is None:
                return None
            self.offset = piece.end
            self._told_truncated = piece.truncated
            return piece.event
        if self.output and seen.truncated and not self._told_truncated:
            # What was dropped left no piece that could tell of it.
            self._told_truncated = True
            return numbered(self.offset, event("output", piece_as_dict(Output("", self.offset, truncated=True))))
        if seen.is_final:
            self._over = True
            return numbered(self.offset, seen.state)
        return None

    def _is_behind(self) -> bool:
        """Whether there is output to read that the feed has not, or has not any more."""
        seen = self.feed.seen
        return (
            seen is not None
            and self.output
            and not self._exhausted
            and self.offset < seen.end
            and seen.piece_at(self.offset) is None
            and self._monotonic() >= self._read_from
        )

    def _catch_up(self) -> bytes | None:
        """Read the next piece, up to where the feed goes on."""
        seen = self.feed.seen
        if seen is None:
            return None
        try:
            limit = min(PIECE, max(_SHORTEST_LIMIT, seen.end - self.offset))
            piece = self._source.output(self.feed.job_id, self.offset, limit)
        except StoreError:
            self._read_from = self._monotonic() + _STORE_PAUSE
            return None
        finally:
            self._source.release()
        if piece.next_offset <= self.offset:
            return self._nothing_there(seen)
        self.offset = piece.next_offset
        self._told_truncated = piece.truncated
        return output_event(piece)

    def _nothing_there(self, seen: Seen) -> bytes | None:
        if not seen.is_final:
            self._read_from = self._monotonic() + _STORE_PAUSE
            return None
        self._exhausted = True  # lost, or purged: the end is to be told all the same
        return self._at_hand()

    def _heartbeat(self) -> bytes | None:
        return HEARTBEAT if self._monotonic() >= self._heard + _SILENCE else None
