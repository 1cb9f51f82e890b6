"""A cache in front of any store: polls of a running job read a copy that is at most a second old.

The cache holds running jobs only: not those between two slices, whose claim must show at once. A reader that misses reads the store and adds a copy for one second; it never
overwrites one. Before a write that may end a job, the writer replaces the copy by a mark that outlives every read which
began before the write, so that no late reader can add the job as it was. Hence a cache that works never shows a job as
running once any process has seen its end.

Reports and beats do not touch the cache. The store alone decides whether a write happens, and whether a lease is over.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from attrs import evolve

from backjob.clock import SystemClock
from backjob.lifecycle import late
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report, Status
from backjob.process import PerProcess
from backjob.protocols import Capability, Clock, Store, lacks, report_all_of
from backjob.stores.cached.breaker import Breaker
from backjob.stores.caches import Cache, Entries
from backjob.stores.rows import microseconds, moment
from backjob.stores.steps import dump_job, load_job
from backjob.stores.values import LOOKAHEAD, refuse_short_limit

_LIFE: Final = 1.0
"""Seconds for which the cache keeps a copy. A reader that took longer than this adds none."""
_MARK_LIFE: Final = 15.0
"""Seconds for which a mark stands: longer than a late read and its copy live, and some caches expire a second early."""
_LONGEST_WRITE: Final = 5.0
_CLOCKS_DIFFER: Final = 5_000_000
"""Microseconds by which the clocks of two hosts may differ; a copy that seems older or newer is not used."""
_LARGEST: Final = 1 << 17
"""Characters of an entry; memcached takes no more than 1 MB."""
_END_LIFE: Final = 60.0
_MOST: Final = 10_000
_COPY: Final = "running"
_END: Final = "end"
_MARK: Final = "-"


class _Here:
    """The state of one process: its breaker, and until when it reads which jobs from the store (monotonic, s)."""

    def __init__(self, cache: Breaker) -> None:
        self.cache = cache
        self.direct: dict[str, float] = {}
        self._lock = threading.Lock()

    def read_directly(self, job_id: str, until: float) -> None:
        with self._lock:
            self.direct.pop(job_id, None)
            self.direct[job_id] = until
            if len(self.direct) > _MOST:
                del self.direct[next(iter(self.direct))]


class CachedStore:
    """A store with a cache in front of it, which answers the polls of running jobs.

    ``cache`` is any object with ``get``, ``set``, ``add`` and ``delete``, such as Django's and cachelib's caches;
    ``prefix`` begins its keys. A running job reads as it was at most a second ago; its end shows at once. `CachedStore`
    has the same capabilities as ``store``. It never raises an error of the cache: after one, it skips the cache for 5 s.
    `close` closes the store, not the cache.

    Raises `InvalidRequest` if the prefix is not short printable ASCII, `StoreUnusable` if ``cache`` is not a cache.
    """

    def __init__(self, store: Store, cache: Cache, *, prefix: str = "backjob:", clock: Clock | None = None) -> None:
        here: Clock = SystemClock() if clock is None else clock
        entries = Entries(cache, prefix)
        self._store = store
        self._clock = here
        self._here = PerProcess(lambda: _Here(Breaker(entries, here)))

    @property
    def store(self) -> Store:
        """The store behind the cache."""
        return self._store

    @property
    def lacks(self) -> frozenset[Capability]:
        """What the store behind the cache lacks."""
        return lacks(self._store)

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        if body:
            return self._note(self._store.get(job_id, body=True))
        if (copy := self._copy(job_id)) is not None:
            return copy
        began = self._clock.monotonic()
        job = self._note(self._store.get(job_id))
        is_fresh = self._clock.monotonic() - began < _LIFE
        if job is not None and _is_running(job) and is_fresh and not self._is_direct(job_id):
            entry = self._dump(job)
            if entry is not None:
                self._here.get().cache.set(_COPY, job_id, text=entry, seconds=_LIFE, only_new=True)
        return job

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        refuse_short_limit(limit)
        job = self._copy(job_id) if offset >= 0 else None
        if job is None or job.output_size - offset > limit:
            return self._store.output(job_id, offset, limit)
        if job.output_size <= offset and not job.output_truncated:
            return Output("", offset)
        return self._end(job, offset, limit)

    def _copy(self, job_id: str) -> Job | None:
        found = None if self._is_direct(job_id) else self._here.get().cache.get(_COPY, job_id)
        return None if found is None else self._load(found, job_id)

    def _end(self, job: Job, offset: int, limit: int) -> Output:
        """Return the output from an offset to its end. The cache keeps the part that was read last."""
        cache = self._here.get().cache
        # Only a tail changes without a change of the size; the version tells which one this is.
        version = job.version if job.output_truncated else 0
        head = f"{job.id} {microseconds(job.created_time)} {offset} {job.output_size} {version} "
        found = cache.get(_END, job.id)
        if found is not None and found.startswith(head):
            text, tail = _split(found.removeprefix(head))
            size = len(text.encode("utf-8", "surrogatepass"))
            # The offset may be within a character, or past the end.
            if tail is not None and 0 <= max(0, job.output_size - offset) - size < LOOKAHEAD:
                return Output(text, max(offset, job.output_size), job.output_truncated, tail)
        part = self._store.output(job.id, offset, limit)
        if part.next_offset == max(offset, job.output_size):
            text = f"{head}{len(part.text)} {len(part.tail)} {part.text}{part.tail}"
            cache.set(_END, job.id, text=text, seconds=_END_LIFE)
        return part

    def find(self, query: Query) -> list[Job]:
        return self._store.find(query)

    def count(self, query: Query) -> int:
        return self._store.count(query)

    # --- writing ----------------------------------------------------------------------------------------------------

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        return self._store.create(draft, merge_key)

    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: frozenset[str] | None = None,
        full: frozenset[str] = frozenset(),
        *,
        queues: frozenset[str] | None = None,
    ) -> list[Job]:
        return self._store.take_due(lessee, lease, limit, labels, full, queues=queues)

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        if expect.unclaimed or expect.status is Status.STARTED:  # the cache has no such job
            return self._note(self._store.change(job_id, expect, changes))
        # A lost compare-and-set needs the mark too: the caller may have computed it from an old copy.
        began = self._clock.monotonic()
        self._mark(job_id)
        try:
            return self._note(self._store.change(job_id, expect, changes))
        finally:
            if self._clock.monotonic() - began > _LONGEST_WRITE:
                self._mark(job_id)

    def report(self, job_id: str, token: str, report: Report) -> bool:
        written = self._store.report(job_id, token, report)
        if not written:  # the job has ended, or another worker has it
            self._mark(job_id)
        return written

    @property
    def report_all(self) -> Callable[[Sequence[tuple[str, str, Report]]], Sequence[bool]] | None:
        """As that of the store; None if it lacks it."""
        write = report_all_of(self._store)
        if write is None:
            return None

        def report_all(reports: Sequence[tuple[str, str, Report]]) -> Sequence[bool]:
            written = write(reports)
            for (job_id, _, _), is_written in zip(reports, written, strict=True):
                if not is_written:
                    self._mark(job_id)
            return written

        return report_all

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = self._store.beat(tokens, lease, alive)
        # Another process has ended or requeued these jobs, and marked them. Here no call of the cache may delay the next beat.
        for job_id in stale:
            self._read_directly(job_id)
        return stale

    def delete(self, job_id: str) -> bool:
        began = self._clock.monotonic()
        self._mark(job_id)
        try:
            return self._store.delete(job_id)
        finally:
            if self._clock.monotonic() - began > _LONGEST_WRITE:
                self._mark(job_id)

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        return self._store.purge(completed_age, ended_age, labels)

    def close(self) -> None:
        self._store.close()

    def _mark(self, job_id: str) -> None:
        self._read_directly(job_id)
        self._here.get().cache.set(_COPY, job_id, text=_MARK, seconds=_MARK_LIFE)

    def _read_directly(self, job_id: str) -> None:
        here = self._here.get()
        if here.direct.get(job_id) != math.inf:
            here.read_directly(job_id, self._clock.monotonic() + _MARK_LIFE)

    def _is_direct(self, job_id: str) -> bool:
        until = self._here.get().direct.get(job_id)
        return until is not None and self._clock.monotonic() < until

    def _note(self, job: Job | None) -> Job | None:
        if job is not None and job.status.is_final:
            self._here.get().read_directly(job.id, math.inf)
        return job

    def _dump(self, job: Job) -> str | None:
        """Return a job as text after two times of its reading, this computer's and the store's; None if it is too large."""
        if job.request is not None and job.request.body:  # of a store that returns more than it must
            job = evolve(job, request=evolve(job.request, body=b""))
        entry = f"{microseconds(self._clock.now())} {microseconds(job.read_time)} {dump_job(job)}"
        return entry if len(entry) <= _LARGEST else None

    def _load(self, entry: str, job_id: str) -> Job | None:
        """Return the running job that `_dump` wrote; None for a mark, an old copy, or any other text."""
        try:
            written, read_time, text = entry.split(" ", 2)
            age = microseconds(self._clock.now()) - int(written)
            job = load_job(text, moment(int(read_time) + age))
        except Exception:  # others may write anything into the cache
            return None
        is_usable = job.id == job_id and _is_running(job) and abs(age) < _CLOCKS_DIFFER
        # A job that seems late is read from the store, since its lease may have been renewed.
        return job if is_usable and late(job) is None else None


def _split(entry: str) -> tuple[str, str | None]:
    """The text and the tail of an entry, which begins with their lengths; no tail if the entry is not whole."""
    try:
        size, rest, texts = entry.split(" ", 2)
        is_whole = len(texts) == int(size) + int(rest)
    except ValueError:
        return "", None
    return texts[: int(size)], texts[int(size) :] if is_whole else None


def _is_running(job: Job) -> bool:
    return job.status is Status.IN_PROGRESS and not job.is_waiting
