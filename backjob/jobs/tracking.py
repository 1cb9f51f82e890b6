"""Loops that report their progress and, with ``resume``, continue in a later request where they stopped."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from typing import Any, Final, NoReturn, TypeVar

from backjob.errors import InvalidRequest, JobContinued, JobEnded, JobFailed
from backjob.http.values import text_of
from backjob.jobs.cursors import Keyed, Loop, Resume, checked_resume
from backjob.jobs.engine import Engine
from backjob.jobs.slices import Slices, leaving, refuse_lost_work, save, time_left_of
from backjob.model import JsonValue
from backjob.process import in_event_loop
from backjob.worker.running import Running

_T = TypeVar("_T")

before_each: Callable[[], object] | None = None
"""Called before each item of a loop: `backjob.testing.dies_at` ends a run there."""

_MAX_STRIDE: Final = 8
_MIN_INTERVAL: Final = 0.05


class Tracking(Slices):
    """`track` and `atrack`; `BackJob` inherits them."""

    def track(
        self,
        iterable: Iterable[_T],
        text: str | None = None,
        *,
        total: int | None = None,
        resume: bool | str = False,
    ) -> Iterator[_T]:
        """Yield the items of an iterable and report progress. If its length is unknown, each item is a sign of life.

        With ``resume``, a later run continues after the items that are done, and the loop hands over to the next request
        between two items once `time_left` is 0. A sequence continues by its index, a Django queryset by its primary key, any
        other iterable by skipping. After a crash, the items of the last 0.1 s may be repeated; with ``resume="each"`` only
        the one in hand. Any other string names one of several loops (``"each:…"`` both). An item is done when the next one
        is asked for. Raises `InvalidRequest`, also in an open database transaction and in a streamed file or result.
        """
        text = None if text is None else text_of("text", text)
        _check_total(total)
        if resume is False:
            items = self._tracked(iterable, text, total)
        else:
            items = self._resumed(iterable, text, total, checked_resume(resume))
        return items if before_each is None else _watched(items, before_each)

    def _tracked(self, iterable: Iterable[_T], text: str | None, total: int | None) -> Iterator[_T]:
        running = self._running()
        if running is None:
            yield from iterable
            return
        if text is not None:
            running.set_text(text)
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
        pace = _Pace(total)
        done = 0
        report_at = 1
        for done, item in enumerate(iterable, 1):
            try:
                yield item
            except GeneratorExit:  # the loop was left, by fail() for example: the items before this one are done
                with suppress(JobEnded):
                    pace.note(running, done - 1)
                raise
            if done >= report_at:
                if pace.note(running, done):
                    running.write_now()
                report_at = pace.next_report(done)
        if done and pace.note(running, done):  # the last items may not have been reported yet
            running.write_now()

    def _resumed(self, iterable: Iterable[_T], text: str | None, total: int | None, resume: Resume) -> Iterator[_T]:
        running = self._running()
        if running is None:
            yield from iterable
            return
        if resume.is_each and in_event_loop():
            raise InvalidRequest(
                "resume",
                "in a coroutine, track() would block the event loop, and so every page, until each item is saved: use async for "
                "… in jobs.atrack(…)",
            )
        engine = self._engine
        with _loop(engine, running, resume.name, total) as loop:
            if loop.place.is_over:
                return
            if text is not None:
                running.set_text(text)
            keyed = engine.keyed(iterable)
            for item, key in _items(loop, iterable) if keyed is None else _rows(loop, keyed):
                _hand_over_if_due(engine, loop)
                yield item
                if _done(engine, loop, key):
                    running.write_now()
                if resume.is_each:
                    save(running)
            loop.over()

    def atrack(
        self,
        iterable: AsyncIterable[_T] | Iterable[_T],
        text: str | None = None,
        *,
        total: int | None = None,
        resume: bool | str = False,
    ) -> AsyncIterator[_T]:
        """`track` for an async handler, over an async iterable or an ordinary one."""
        text = None if text is None else text_of("text", text)
        _check_total(total)
        items = self._aitems(iterable, text, total, resume)
        return items if before_each is None else _awatched(items, before_each)

    def _aitems(
        self,
        iterable: AsyncIterable[_T] | Iterable[_T],
        text: str | None,
        total: int | None,
        resume: bool | str,
    ) -> AsyncIterator[_T]:
        if resume is False:
            return self._atracked(iterable, text, total)
        how = checked_resume(resume)
        # An async generator that is left by `break` is closed only at the event loop's next turn, but is no longer referred to.
        itself: list[weakref.ref[AsyncIterator[_T]]] = []
        items = self._aresumed(iterable, text, total, how, lambda: itself[0]() is not None)
        itself.append(weakref.ref(items))
        return items

    async def _aresumed(
        self,
        iterable: AsyncIterable[_T] | Iterable[_T],
        text: str | None,
        total: int | None,
        resume: Resume,
        is_in_use: Callable[[], bool],
    ) -> AsyncIterator[_T]:
        running = self._running()
        if running is None:
            async for item in _async_items(iterable):
                yield item
            return
        engine = self._engine
        with _loop(engine, running, resume.name, total, is_in_use) as loop:
            if loop.place.is_over:
                return
            if text is not None:
                await engine.offload(running.set_text, text)
            async for item, key in _async_items_of(engine, loop, iterable):
                _hand_over_if_due(engine, loop)
                yield item
                if _done(engine, loop, key):
                    await engine.offload(running.write_now)
                if resume.is_each:
                    await engine.offload(save, running)
            loop.over()

    async def _atracked(
        self, iterable: AsyncIterable[_T] | Iterable[_T], text: str | None, total: int | None
    ) -> AsyncIterator[_T]:
        running = self._running()
        if text is not None and running is not None:
            await self._engine.offload(running.set_text, text)
        if total is None and isinstance(iterable, Sized):
            # len() of an async iterable may block: that of a Django query runs SQL.
            total = await self._engine.offload(len, iterable) if isinstance(iterable, AsyncIterable) else len(iterable)
        pace = _Pace(total)
        done = 0
        report_at = 1
        async for item in _async_items(iterable):
            yield item
            done += 1
            if done >= report_at:
                running = self._running()
                if running is not None and pace.note(running, done):
                    await self._engine.offload(running.write_now)
                report_at = pace.next_report(done)
        running = self._running()
        if done and running is not None and pace.note(running, done):
            await self._engine.offload(running.write_now)


def _check_total(total: Any) -> None:
    """Raise `InvalidRequest` for a total that is no finite number. It may be of another type, such as numpy's."""
    with suppress(TypeError):
        if total is None or (not isinstance(total, bool) and -math.inf < total < math.inf):  # false for NaN, too
            return
    raise InvalidRequest("total", f"must be the number of items, not {total!r}")


class _Pace:
    """Decides when `track` reports: at each new percent, and as a sign of life, without reading the clock at each item."""

    def __init__(self, length: int | None) -> None:
        self._length = length
        self._stride = 1
        self._last = time.monotonic()

    def note(self, running: Running, done: int) -> bool:
        """Note the progress, without blocking. Returns whether a write is due."""
        if not self._length:
            return running.note_life()
        progress = int(done * 100 // self._length)
        return running.note_progress(progress if 0 <= progress <= 100 else max(0, min(100, progress)))

    def next_report(self, done: int) -> int:
        now = time.monotonic()
        if now - self._last >= _MIN_INTERVAL:
            self._stride = 1
        elif self._stride < _MAX_STRIDE:
            self._stride *= 2
        self._last = now
        return done + self._stride


def _watched(items: Iterator[_T], call: Callable[[], object]) -> Iterator[_T]:
    for item in items:
        call()
        yield item


async def _awatched(items: AsyncIterator[_T], call: Callable[[], object]) -> AsyncIterator[_T]:
    async for item in items:
        call()
        yield item


async def _async_items(iterable: AsyncIterable[_T] | Iterable[_T]) -> AsyncIterator[_T]:
    if isinstance(iterable, AsyncIterable):
        async for item in iterable:
            yield item
    else:
        for item in iterable:
            yield item


# --- resumable loops --------------------------------------------------------------------------------------------------


@contextmanager
def _loop(
    engine: Engine, running: Running, name: str, total: int | None, is_in_use: Callable[[], bool] = lambda: True
) -> Iterator[Loop]:
    refuse_lost_work(engine, running, "resume")
    loop = Loop(running, name, total, is_in_use)
    try:
        yield loop
    finally:
        loop.close()


def _hand_over_if_due(engine: Engine, loop: Loop) -> None:
    """End the run, if its time is up and it has done something; there is an item left to do."""
    if loop.positions.has_moved and not time_left_of(engine, loop.running):
        raise leaving(loop.running, JobContinued())


def _done(engine: Engine, loop: Loop, key: JsonValue) -> bool:
    """Count the item in hand as done. Returns whether a write is due."""
    refuse_lost_work(engine, loop.running, "resume")
    loop.done(key)
    return loop.note_progress()


def _items(loop: Loop, iterable: Iterable[_T]) -> Iterator[tuple[_T, JsonValue]]:
    """Yield the items that are not done yet."""
    if isinstance(iterable, set | frozenset):
        raise InvalidRequest("iterable", "a set has another order in another process: pass sorted(…) or a list")
    if isinstance(iterable, Sized):
        _set_length(loop, len(iterable))
    done = loop.place.at
    if isinstance(iterable, Sequence):
        length = len(iterable)
        for index in range(done, length):
            yield iterable[index], None
            if len(iterable) != length:  # the action has added or removed items
                _set_length(loop, len(iterable))
        return
    count = 0
    for count, item in enumerate(iterable, 1):
        if count > done:
            yield item, None
        elif loop.running.note_life():
            loop.running.write_now()
    _require_all(loop, count, done)


def _rows(loop: Loop, keyed: Keyed) -> Iterator[tuple[Any, JsonValue]]:
    """Yield the rows that are not done yet, with their keys."""
    loop.set_length(keyed.count() if loop.place.of is None else loop.place.of)
    after = loop.place.after
    while page := keyed.page(after):
        yield from ((row, key) for key, row in page)
        after = page[-1][0]


async def _async_items_of(
    engine: Engine, loop: Loop, iterable: AsyncIterable[_T] | Iterable[_T]
) -> AsyncIterator[tuple[_T, JsonValue]]:
    """Yield the items that are not done yet; of a query, with their keys."""
    keyed = engine.keyed(iterable)
    if keyed is not None:
        loop.set_length(await engine.offload(keyed.count) if loop.place.of is None else loop.place.of)
        after = loop.place.after
        while page := await engine.offload(keyed.page, after):
            for key, row in page:
                yield row, key
            after = page[-1][0]
    elif isinstance(iterable, AsyncIterable):
        if isinstance(iterable, Sized):
            _set_length(loop, await engine.offload(len, iterable))
        done = loop.place.at
        count = 0
        async for item in iterable:
            count += 1
            if count > done:
                yield item, None
            elif loop.running.note_life():
                await engine.offload(loop.running.write_now)
        _require_all(loop, count, done)
    else:
        for item, _ in _items(loop, iterable):
            yield item, None


def _set_length(loop: Loop, length: int) -> None:
    earlier = loop.place.of
    if earlier is not None and earlier != length:
        _fail(loop, f"had {earlier} items when it began, and now it has {length}")
    loop.set_length(length)


def _require_all(loop: Loop, count: int, done: int) -> None:
    if count < done:
        _fail(loop, f"has {done} items done, and now it has only {count}")


def _fail(loop: Loop, reason: str) -> NoReturn:
    name = f"the loop {loop.name!r}" if loop.name else "the loop of this action"
    text = f"{name} {reason}: it can't continue by their number; start the job again, or keep what it loops over"
    raise leaving(loop.running, JobFailed(text))
