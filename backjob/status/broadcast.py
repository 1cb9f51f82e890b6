"""One watcher for all event streams of a process: a thread that looks at their jobs, and wakes whom it concerns.

The thread is there while there are streams. Like the monitor's it works in passes: `Broadcast.step` is one, and returns
how long the next may wait. Tests call `step` themselves, under a clock of their own.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from backjob.errors import JobNotFound, StoreError, StoreUnavailable
from backjob.process import Outage
from backjob.protocols import Clock
from backjob.status.feeds import Feed, Source
from backjob.status.streams import LIFETIME, Stream

if TYPE_CHECKING:
    import asyncio

__all__ = ["Broadcast"]

_MOST_IN_EVENT_LOOP: Final = 1000
_LOOKS_A_SECOND: Final = 100.0
_LOOKS_AT_ONCE: Final = 25.0
_SHORTEST_PASS: Final = 0.05
_LONGEST_PASS: Final = 0.5
_STORE_PAUSE: Final = 1.0
_SPREAD: Final = 30
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("backjob")


class Broadcast:
    """The event streams of one `BackJob` in one process. Fork-safe: a child has none of its parent's.

    ``limit`` is how many there may be at once, None for 1000 in event loops and none in threads. Each watched job is
    looked at up to four times a second, and all of them together up to 100 times.
    """

    def __init__(
        self,
        source: Source,
        clock: Clock,
        *,
        limit: int | None,
        offload: Callable[[Callable[[], bytes | None]], Awaitable[bytes | None]],
        threaded: bool = True,
    ) -> None:
        self._source = source
        self._clock = clock
        self._limit = limit
        self._offload = offload
        self._threaded = threaded
        self._locks: dict[int, threading.Lock] = {}
        self._start_afresh()

    def _start_afresh(self) -> None:
        """In a new process: no streams and no thread."""
        pid = os.getpid()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._feeds: dict[str, tuple[Feed, WeakSet[Stream]]] = {}
        self._left: deque[Stream] = deque()
        self._opened = 0
        self._looks = _LOOKS_AT_ONCE
        self._last_pass = self._next_bells = self._looks_from = self._clock.monotonic()
        self._outage = Outage(self._clock)
        self._pid = pid  # last: who finds it right finds all the rest

    def _process_lock(self) -> threading.Lock:
        """A lock of the present process, which also has its own state by then."""
        lock = self._locks.setdefault(os.getpid(), threading.Lock())
        if self._pid != os.getpid():
            with lock:
                if self._pid != os.getpid():
                    self._start_afresh()
        return lock

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """With the lock, and without the streams that have been closed by then."""
        with self._process_lock():
            while self._left:
                stream = self._left.popleft()
                if stream.feed.job_id in self._feeds:
                    self._feeds[stream.feed.job_id][1].discard(stream)
            yield

    # --- what other threads call ------------------------------------------------------------------------------------

    def limit(self, *, in_thread: bool) -> int:
        """How many streams there may be at once where each occupies a thread, or where none does."""
        if self._limit is not None:
            return self._limit
        return 0 if in_thread else _MOST_IN_EVENT_LOOP

    @property
    def count(self) -> int:
        """How many streams there are."""
        with self._locked():
            return self._count()

    def _count(self) -> int:
        return sum(len(streams) for _, streams in self._feeds.values())

    def open(self, job_id: str, offset: int, *, output: bool, in_thread: bool) -> Stream | None:
        """A stream of a job's events, its output from byte ``offset`` on; None if there are as many as may be."""
        with self._locked():
            if self._closed or self._count() >= self.limit(in_thread=in_thread) or _server_is_ending():
                return None
            self._ensure_running()
            now = self._clock.monotonic()
            if job_id not in self._feeds:
                self._feeds[job_id] = (Feed(job_id, now), WeakSet())
                self._wake.set()
            feed, streams = self._feeds[job_id]
            if feed.due == math.inf and (feed.seen is None or not feed.seen.is_final):
                feed.due = now  # others were told that there is no such job; this one is to be told as well
                self._wake.set()
            stream = Stream(
                feed,
                self._source,
                self._clock.monotonic,
                offset=offset,
                output=output,
                # Clients that all came at once, after a restart, shall not all come again at once.
                lifetime=LIFETIME - self._opened % _SPREAD,
                closed=self._forget,
                offload=self._offload,
            )
            streams.add(stream)
            self._opened += 1
            return stream

    def _ensure_running(self) -> None:
        if self._threaded and (self._thread is None or not self._thread.is_alive()):
            thread = threading.Thread(target=self._run, name="backjob-streams", daemon=True)
            thread.start()  # which may fail; it waits for the lock, which is held here
            self._thread = thread

    def _forget(self, stream: Stream) -> None:
        # A garbage collector that finalises a stream's coroutine calls this anywhere, within our own locks too, and
        # an Event has one of its own: so none is taken.
        self._left.append(stream)

    def close(self, timeout: float = 5.0) -> None:
        """End all streams, and the thread (s to wait for it). No stream is opened any more."""
        with self._locked():
            self._closed = True
            thread = self._thread
        self._end_all()
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    # --- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._goes_on():
            try:
                wait = self.step()
            except BaseException:  # a hook's SystemExit, too, has nobody else to go to in this thread
                _log.exception("a pass of the event streams' watcher failed; it goes on")
                wait = _STORE_PAUSE
            self._wake.wait(wait)
            self._wake.clear()
        self._source.release()

    def _goes_on(self) -> bool:
        with self._locked():
            self._drop_unwatched()
            if self._feeds and not self._closed:
                return True
            self._thread = None
            return False

    def step(self) -> float:
        """One pass over the jobs that are due to be looked at. Returns the seconds until the next one."""
        now = self._clock.monotonic()
        with self._locked():
            self._drop_unwatched()
            feeds = sorted((feed for feed, _ in self._feeds.values()), key=lambda feed: feed.due)
        self._looks = min(_LOOKS_AT_ONCE, self._looks + (now - self._last_pass) * _LOOKS_A_SECOND)
        self._last_pass = now
        for feed in feeds:
            # A look may wait for the store as long as its time-out, in which much may happen.
            if self._closed or now < self._looks_from or feed.due > now or self._looks < 1:
                break
            self._looks -= 1
            self._look(feed, now)
        now = self._clock.monotonic()
        if now >= self._next_bells:
            self._next_bells = now + _LONGEST_PASS
            self._ring_those_due(now)
        due = max(self._looks_from, min((feed.due for feed in feeds), default=now))
        return min(_LONGEST_PASS, max(_SHORTEST_PASS, due - now))

    def _look(self, feed: Feed, now: float) -> None:
        try:
            offset = min((stream.offset for stream in self._streams_of(feed) if stream.output), default=None)
            if feed.look(self._source, now, offset):
                _ring(self._streams_of(feed))  # those opened meanwhile, too
        except JobNotFound:
            feed.due = math.inf  # its streams are there until their clients have read that they ended
            _end(self._streams_of(feed))
        except StoreError as error:
            self._outage.tell("event streams wait for the store: %s", error)
            feed.due = self._clock.monotonic() + _STORE_PAUSE
            if isinstance(error, StoreUnavailable):
                self._looks_from = feed.due  # the other jobs would each wait as long for nothing
        except Exception:  # one job's trouble is not the others'
            _log.exception("job %s could not be looked at; its event streams wait", feed.job_id)
            feed.due = self._clock.monotonic() + _STORE_PAUSE

    def _ring_those_due(self, now: float) -> None:
        if _server_is_ending():
            self._end_all()
        else:
            _ring(stream for stream in self._all() if stream.wake_at <= now)

    def _end_all(self) -> None:
        _end(self._all())

    def _all(self) -> list[Stream]:
        with self._locked():
            return [stream for _, streams in self._feeds.values() for stream in streams]

    def _streams_of(self, feed: Feed) -> list[Stream]:
        with self._locked():
            return list(self._feeds[feed.job_id][1]) if feed.job_id in self._feeds else []

    def _drop_unwatched(self) -> None:
        for job_id in [job_id for job_id, (_, streams) in self._feeds.items() if not streams]:
            del self._feeds[job_id]


def _end(streams: Iterable[Stream]) -> None:
    ended = list(streams)
    for stream in ended:
        stream.end()
    _ring(ended)


def _ring(streams: Iterable[Stream]) -> None:
    """Wake them; an event loop is woken once for all that run in it."""
    by_loop: dict[asyncio.AbstractEventLoop | None, list[Stream]] = {}
    for stream in streams:
        if stream.has_bell:  # asked first: a loop is there before its bell
            by_loop.setdefault(stream.loop, []).append(stream)
    for loop, several in by_loop.items():
        if loop is None:
            _ring_each(several)
        else:
            with suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(_ring_each, several)


def _ring_each(streams: Iterable[Stream]) -> None:
    for stream in streams:
        stream.ring()


def _server_is_ending() -> bool:
    """Whether the server has been told to end, and waits for open responses without a word to them.

    The handlers of signals are looked at, which are methods of uvicorn's server (``should_exit``) and of gunicorn's
    workers (``alive``).
    """
    for number in _SIGNALS:
        server = getattr(signal.getsignal(number), "__self__", None)
        if getattr(server, "should_exit", None) is True or getattr(server, "alive", None) is False:
            return True
    return False
