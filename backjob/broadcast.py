"""One watcher for all event streams of a process: a thread that looks at their jobs, and wakes whom it concerns.

The thread is there while there are streams. Like the monitor's it works in passes: `Broadcast.step` is one, and returns
how long the next may wait. Tests call `step` themselves, under a clock of their own.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final
from weakref import WeakSet

from backjob.errors import JobNotFound, StoreError
from backjob.feeds import Feed, Source
from backjob.outage import Outage
from backjob.protocols import Clock
from backjob.streams import LIFETIME, Stream

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
        self._opened = 0
        self._looks = _LOOKS_AT_ONCE
        self._last_pass = self._next_bells = self._clock.monotonic()
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

    # --- what other threads call ------------------------------------------------------------------------------------

    def limit(self, *, in_thread: bool) -> int:
        """How many streams there may be at once where each occupies a thread, or where none does."""
        if self._limit is not None:
            return self._limit
        return 0 if in_thread else _MOST_IN_EVENT_LOOP

    @property
    def count(self) -> int:
        """How many streams there are."""
        with self._process_lock():
            return self._count()

    def _count(self) -> int:
        return sum(len(streams) for _, streams in self._feeds.values())

    def open(self, job_id: str, offset: int, *, output: bool, in_thread: bool) -> Stream | None:
        """A stream of a job's events, its output from byte ``offset`` on; None if there are as many as may be."""
        with self._process_lock():
            if self._closed or self._count() >= self.limit(in_thread=in_thread) or _server_is_ending():
                return None
            now = self._clock.monotonic()
            if job_id not in self._feeds:
                self._feeds[job_id] = (Feed(job_id, now), WeakSet())
                self._wake.set()
            feed, streams = self._feeds[job_id]
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
            if self._threaded and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="backjob-streams", daemon=True)
                self._thread.start()
            return stream

    def _forget(self, stream: Stream) -> None:
        with self._process_lock():
            _, streams = self._feeds.get(stream.feed.job_id, (None, set[Stream]()))
            streams.discard(stream)
            is_last = not streams
        if is_last:
            self._wake.set()

    def close(self, timeout: float = 5.0) -> None:
        """End all streams, and the thread (s to wait for it). No stream is opened any more."""
        with self._process_lock():
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
        with self._process_lock():
            self._drop_unwatched()
            if self._feeds and not self._closed:
                return True
            self._thread = None
            return False

    def step(self) -> float:
        """One pass over the jobs that are due to be looked at. Returns the seconds until the next one."""
        now = self._clock.monotonic()
        with self._process_lock():
            self._drop_unwatched()
            feeds = sorted((feed for feed, _ in self._feeds.values()), key=lambda feed: feed.due)
        self._looks = min(_LOOKS_AT_ONCE, self._looks + (now - self._last_pass) * _LOOKS_A_SECOND)
        self._last_pass = now
        for feed in feeds:
            if feed.due > now or self._looks < 1:
                break
            self._looks -= 1
            self._look(feed, now)
        if now >= self._next_bells:
            self._next_bells = now + _LONGEST_PASS
            self._ring_those_due(now)
        return min(_LONGEST_PASS, max(_SHORTEST_PASS, min((feed.due for feed in feeds), default=now) - now))

    def _look(self, feed: Feed, now: float) -> None:
        streams = self._streams_of(feed)
        try:
            offset = min((stream.offset for stream in streams if stream.output), default=None)
            if feed.look(self._source, now, offset):
                _ring(streams)
        except JobNotFound:
            _end(streams)
        except StoreError as error:
            self._outage.tell("event streams wait for the store: %s", error)
            feed.due = now + _STORE_PAUSE
        except Exception:  # one job's trouble is not the others'
            _log.exception("job %s could not be looked at; its event streams wait", feed.job_id)
            feed.due = now + _STORE_PAUSE

    def _ring_those_due(self, now: float) -> None:
        if _server_is_ending():
            self._end_all()
        else:
            _ring(stream for stream in self._all() if stream.wake_at <= now)

    def _end_all(self) -> None:
        _end(self._all())

    def _all(self) -> list[Stream]:
        with self._process_lock():
            return [stream for _, streams in self._feeds.values() for stream in streams]

    def _streams_of(self, feed: Feed) -> list[Stream]:
        with self._process_lock():
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
    by_loop: dict[object, list[Stream]] = {}
    for stream in streams:
        by_loop.setdefault(stream.loop, []).append(stream)
    for several in by_loop.values():
        loop = several[0].loop
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
