"""The event streams of a process, and the one thread that reads their jobs and wakes the streams that have news.

The thread runs while there are streams. It works in passes (`Broadcast.step`); tests call `step` themselves, under
their own clock.
"""

from __future__ import annotations

import math
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from backjob.errors import JobNotFound, StoreUnavailable
from backjob.process import RETRY_PAUSE, Outage, Passes
from backjob.status.streaming.feed import Feed, Source
from backjob.status.streaming.stream import LIFETIME, LinksOf, Stream

if TYPE_CHECKING:
    import asyncio

_MAX_IN_EVENT_LOOP: Final = 1000
_POLLS_PER_SECOND: Final = 100.0
_MAX_BURST: Final = 25.0
_MIN_PAUSE: Final = 0.05
_MAX_PAUSE: Final = 0.5
_LIFETIME_SPREAD: Final = 30
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Broadcast:
    """The event streams of one `BackJob` in one process: keep it in a `PerProcess`.

    ``limit`` is how many streams may be open at once; None: 1000 in event loops and none in threads. Each watched job is
    polled up to four times a second, and all of them together up to 100 times.
    """

    def __init__(self, source: Source, limit: int | None) -> None:
        self._source = source
        self._clock = source.clock
        self._limit = limit
        self._lock = threading.Lock()
        self._passes = Passes("backjob-streams", self.step, at_end=source.release, is_idle=self._is_unwatched)
        self._closed = False
        self._feeds: dict[str, tuple[Feed, WeakSet[Stream]]] = {}
        self._closed_streams: deque[Stream] = deque()
        self._opened = 0
        self._polls_left = _MAX_BURST
        self._last_pass = self._next_wakes = self._poll_from = self._clock.monotonic()
        self._outage = Outage(self._clock)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Take the lock, and remove the streams that have been closed meanwhile."""
        with self._lock:
            while self._closed_streams:
                stream = self._closed_streams.popleft()
                if stream.feed.job_id in self._feeds:
                    self._feeds[stream.feed.job_id][1].discard(stream)
            yield

    def _drop_unwatched(self) -> None:
        for job_id in [job_id for job_id, (_, streams) in self._feeds.items() if not streams]:
            del self._feeds[job_id]

    # --- called from any thread -------------------------------------------------------------------------------------

    def limit(self, *, in_thread: bool) -> int:
        """Return how many streams may be open at once; ``in_thread``: each of them occupies a thread."""
        if self._limit is not None:
            return self._limit
        return 0 if in_thread else _MAX_IN_EVENT_LOOP

    @property
    def count(self) -> int:
        """How many streams are open."""
        with self._locked():
            return self._count()

    def _count(self) -> int:
        return sum(len(streams) for _, streams in self._feeds.values())

    def open(
        self, job_id: str, offset: int, *, output: bool, in_thread: bool, links: LinksOf | None = None
    ) -> Stream | None:
        """Return a stream of a job's events, with its output from byte ``offset`` on; None if the limit is reached.

        ``links`` returns the links that the states of this stream get.

        At the limit a job with many streams makes room for one with fewer: its oldest stream ends.
        """
        displaced: Stream | None = None
        with self._locked():
            if self._closed or _server_is_stopping():
                return None
            if self._count() >= self.limit(in_thread=in_thread):
                displaced = self._displaced_by(job_id)
                if displaced is None:
                    return None
            stream = self._add(job_id, offset, output=output, links=links)
        if displaced is not None:
            _end([displaced])
        try:
            self._ensure_running()
        except RuntimeError:
            stream.close()
            raise
        return stream

    def _ensure_running(self) -> None:
        self._passes.ensure_running()

    def _displaced_by(self, job_id: str) -> Stream | None:
        """Remove the oldest stream of the job that has the most, if that has at least two more than this job."""
        own = len(self._feeds[job_id][1]) if job_id in self._feeds else 0
        most = max((streams for _, streams in self._feeds.values()), key=len, default=WeakSet[Stream]())
        oldest = min(list(most), key=lambda stream: stream.order, default=None)
        if oldest is None or len(most) < own + 2:
            return None
        most.discard(oldest)
        return oldest

    def _add(self, job_id: str, offset: int, *, output: bool, links: LinksOf | None) -> Stream:
        now = self._clock.monotonic()
        if job_id not in self._feeds:
            self._feeds[job_id] = (Feed(job_id, now), WeakSet())
            self._passes.wake()
        feed, streams = self._feeds[job_id]
        if feed.due == math.inf and (feed.snapshot is None or not feed.snapshot.is_final):
            feed.due = now  # the job was not found for earlier streams: poll again for this one
            self._passes.wake()
        # The lifetimes differ, so that clients that came at once, after a restart, do not all reconnect at once.
        lifetime = LIFETIME - self._opened % _LIFETIME_SPREAD
        self._opened += 1
        stream = Stream(
            feed, self._source, offset=offset, output=output, lifetime=lifetime, on_close=self._remove, links=links
        )
        stream.order = self._opened
        streams.add(stream)
        return stream

    def _remove(self, stream: Stream) -> None:
        # Takes no lock, not even that of an Event: the garbage collector may finalise a stream's coroutine and call
        # this at any time, even while this thread has the lock.
        self._closed_streams.append(stream)

    def close(self, timeout: float = 5.0) -> None:
        """End all streams and the thread (s to wait for it). No stream is opened afterwards."""
        with self._locked():
            self._closed = True
        _end(self._all())
        self._passes.close(timeout)

    def _is_unwatched(self) -> bool:
        with self._locked():
            self._drop_unwatched()
            return not self._feeds

    # --- the thread -------------------------------------------------------------------------------------------------

    def step(self) -> float:
        """Poll the jobs that are due. Returns the seconds until the next pass."""
        now = self._clock.monotonic()
        with self._locked():
            self._drop_unwatched()
            feeds = sorted((feed for feed, _ in self._feeds.values()), key=lambda feed: feed.due)
        self._polls_left = min(_MAX_BURST, self._polls_left + (now - self._last_pass) * _POLLS_PER_SECOND)
        self._last_pass = now
        for feed in feeds:
            # Each poll may block for the store's whole timeout, so check again before the next one.
            if self._closed or now < self._poll_from or feed.due > now or self._polls_left < 1:
                break
            self._polls_left -= 1
            self._poll(feed, now)
        now = self._clock.monotonic()
        if now >= self._next_wakes:
            self._next_wakes = now + _MAX_PAUSE
            if _server_is_stopping():
                _end(self._all())
            else:
                _wake(stream for stream in self._all() if stream.wake_at <= now)
        due = max(self._poll_from, min((feed.due for feed in feeds), default=now))
        return min(_MAX_PAUSE, max(_MIN_PAUSE, due - now))

    def _poll(self, feed: Feed, now: float) -> None:
        error = self._outage.attempt(lambda: self._update(feed, now), "the event stream of job %s", feed.job_id)
        if error is not None:
            feed.due = self._clock.monotonic() + RETRY_PAUSE
        if isinstance(error, StoreUnavailable):
            self._poll_from = feed.due  # the other jobs would block for the store's timeout too

    def _update(self, feed: Feed, now: float) -> None:
        offset = min((stream.offset for stream in self._streams_of(feed) if stream.output), default=None)
        try:
            is_new = feed.poll(self._source, now, offset)
        except JobNotFound:
            feed.due = math.inf  # the feed stays until its clients have read the end
            _end(self._streams_of(feed))
            return
        if is_new:
            _wake(self._streams_of(feed))  # listed again: a stream may have been opened meanwhile

    def _all(self) -> list[Stream]:
        with self._locked():
            return [stream for _, streams in self._feeds.values() for stream in streams]

    def _streams_of(self, feed: Feed) -> list[Stream]:
        with self._locked():
            return list(self._feeds[feed.job_id][1]) if feed.job_id in self._feeds else []


def _end(streams: list[Stream]) -> None:
    for stream in streams:
        stream.end()
    _wake(streams)


def _wake(streams: Iterable[Stream]) -> None:
    """Wake streams. An event loop is woken once for all streams that run in it."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[Stream]] = {}
    for stream in streams:
        if stream.can_wake:  # check this before the loop: the stream sets its loop first
            by_loop.setdefault(stream.loop, []).append(stream)
    for loop, several in by_loop.items():
        if loop is None:
            _wake_each(several)
        else:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(_wake_each, several)


def _wake_each(streams: Iterable[Stream]) -> None:
    for stream in streams:
        stream.wake()


def _server_is_stopping() -> bool:
    """Return whether the server is shutting down: it waits for open responses, but does not notify them.

    The signal handlers of uvicorn and gunicorn are methods of the server (``should_exit``) or of the worker (``alive``).
    """
    for number in _SIGNALS:
        server = getattr(signal.getsignal(number), "__self__", None)
        if getattr(server, "should_exit", None) is True or getattr(server, "alive", None) is False:
            return True
    return False
