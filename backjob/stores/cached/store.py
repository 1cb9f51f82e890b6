"""A cache in front of any store: whoever watches a running job asks the cache, and all that decides asks the store.

Only jobs that are IN_PROGRESS are in the cache, with what they showed at most five seconds ago. The process that claimed
a job writes through: after each of its writes it puts there what now stands. Any other process that writes to a running
job, and any write that ends one, first *shuts* the job: it leaves a mark for which readers look before they look for
the job, so that no late copy, of a reader or of the job's own process, is believed while the mark stands. What is
written in the store, and whether, is the store's alone to say.

So a cache that works shows what the store would show. One that is dead costs time, and little of it; one that loses
entries, or is another for each process, may show a running job as it stood up to five seconds ago.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Final

from attrs import evolve, frozen

from backjob.clock import SystemClock
from backjob.errors import InvalidRequest, StoreError, StoreUnavailable
from backjob.lifecycle import overdue
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report, Status
from backjob.protocols import Capability, Clock, Store, lacks
from backjob.stores.cached.breaker import Breaker
from backjob.stores.cached.notes import Held, Notes
from backjob.stores.caches import Cache, Entries
from backjob.stores.rows import microseconds, moment
from backjob.stores.steps import dump_job, is_running, load_job, reported
from backjob.stores.values import LOOKAHEAD, refuse_short_limit

__all__ = ["CachedStore"]

_LIFE: Final = timedelta(seconds=5)
"""How long after the store confirmed a job its copies in the cache are believed, by the store's clock."""
_TRUST: Final = _LIFE / 2
"""How long the process that claimed a job goes on from what the store confirmed; then it reads the job again."""
_FRESH: Final = timedelta(seconds=1)
_CLOCKS_DIFFER: Final = timedelta(seconds=-1)
_SHUT: Final = 15.0
"""Seconds a mark stands: past all copies that were made before it (5 s), and those of a process that keeps away from
the cache for 7 s after it; some caches drop things a second early."""
_LONGEST_WRITE: Final = 1.0
_LARGEST: Final = 1 << 17
"""Characters of an entry; memcached takes no more than 1 MB."""
_TAIL_LIFE: Final = 60.0

_ALIVE: Final = Report()
_RUNNING: Final = "running"
_MARK: Final = "shut"
_TAIL: Final = "tail"


@frozen
class _Process:
    """What belongs to one process: a forked child begins without locks that its parent's threads may hold."""

    pid: int
    notes: Notes
    cache: Breaker


class CachedStore:
    """A store with a cache in front of it, which takes the polls of running jobs off it.

    ``cache`` is anything with ``get``, ``set``, ``add`` and ``delete``, such as Django's caches and cachelib's; ``prefix``
    is what its keys begin with. What ``store`` lacks, this one lacks. A cache's errors are never raised: after one, the
    cache is left alone for 5 s. Closing it closes the store; the cache is whoever's made it.

    Raises `InvalidRequest` for a prefix that is not short printable ASCII, `StoreUnusable` for what is no cache.
    """

    def __init__(self, store: Store, cache: Cache, *, prefix: str = "backjob:", clock: Clock | None = None) -> None:
        self._store = store
        self._clock: Clock = SystemClock() if clock is None else clock
        self._entries = Entries(cache, prefix)
        self._process = self._new_process()

    @property
    def store(self) -> Store:
        """The store behind the cache."""
        return self._store

    @property
    def lacks(self) -> frozenset[Capability]:
        """What the store behind the cache lacks."""
        return lacks(self._store)

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job | None:
        job = self._cached(job_id)
        return self._read(job_id) if job is None else job

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        refuse_short_limit(limit)
        job = self._cached(job_id) if offset >= 0 else None
        if job is None or job.output_size - offset > limit:
            return self._store.output(job_id, offset, limit)
        if job.output_size <= offset:
            return Output("", offset, job.output_truncated)
        return self._tail(job, offset, limit)

    def find(self, query: Query) -> list[Job]:
        return self._store.find(query)

    def _read(self, job_id: str) -> Job | None:
        """The job from the store; the cache gets a running one, unless it has it already."""
        notes = self._here.notes
        began = self._clock.monotonic()
        job = self._store.get(job_id)
        notes.learn(job, began)
        if job is None or job.status is not Status.IN_PROGRESS or notes.is_shut(job_id):
            return job
        entry, now = _dump(job, job.read_time), notes.now()
        # One that was slow might come after an entry that was newer, and is gone.
        if entry is not None and now is not None and now - job.read_time < _FRESH:
            with suppress(StoreUnavailable):
                self._here.cache.add(_RUNNING, job_id, text=entry, seconds=_LIFE.total_seconds())
        return job

    def _cached(self, job_id: str) -> Job | None:
        """A running job from the cache, or None where only the store can tell."""
        notes, cache = self._here.notes, self._here.cache
        if notes.now() is None or notes.is_over(job_id) or notes.is_shut(job_id):
            return None
        try:
            # In this order: an entry that is read after there was no mark is as true as it was at that moment.
            if cache.get(_MARK, job_id) is not None:
                return None
            entry = cache.get(_RUNNING, job_id)
        except StoreUnavailable:
            return None
        now = notes.now()
        job = None if entry is None or now is None else _load(entry, job_id, now)
        if job is None or notes.is_old(job) or overdue(job) is not None:
            return None
        return job

    def _tail(self, job: Job, offset: int, limit: int) -> Output:
        """The output from an offset to its end. The cache has the last such piece that anybody read."""
        head = f"{job.id} {microseconds(job.created_time)} {offset} {job.output_size} "
        with suppress(StoreUnavailable):
            found = self._here.cache.get(_TAIL, job.id)
            if found is not None and found.startswith(head):
                text = found.removeprefix(head)
                size = len(text.encode("utf-8", "surrogatepass"))
                if 0 <= job.output_size - offset - size < LOOKAHEAD:  # the offset may be within a character
                    return Output(text, job.output_size, job.output_truncated)
        piece = self._store.output(job.id, offset, limit)
        if piece.next_offset == job.output_size:
            with suppress(StoreUnavailable):
                self._here.cache.set(_TAIL, job.id, text=head + piece.text, seconds=_TAIL_LIFE)
        return piece

    # --- writing ----------------------------------------------------------------------------------------------------

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        began = self._clock.monotonic()
        job = self._store.create(draft, merge_key)
        self._here.notes.learn(job, began)
        return job

    def take_due(self, lessee: str, lease: float, limit: int) -> list[Job]:
        began = self._clock.monotonic()
        jobs = self._store.take_due(lessee, lease, limit)
        for job in jobs:
            self._here.notes.learn(job, began)
        return jobs

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        # What is STARTED is not in the cache, so that such a change, if it is made, has nothing to do with what is there.
        is_apart = expect.status is Status.STARTED
        notes = self._here.notes
        with self._writing(job_id):
            if not is_apart:  # if it is lost, what the caller expected may have come from the cache
                self._shut(job_id)
            began = self._clock.monotonic()
            job = self._store.change(job_id, expect, changes)
            notes.learn(job, began)
            if is_apart and job is not None and job.status is Status.IN_PROGRESS and job.token is not None:
                held = notes.hold(job, job.token)
                if notes.renew(job_id, held, held):
                    self._put(job, held.confirmed)
        return job

    def report(self, job_id: str, token: str, report: Report) -> bool:
        with self._writing(job_id):
            held = self._here.notes.held(job_id, token)
            if held is None:
                self._shut(job_id)
            written = self._store.report(job_id, token, report)
            if not written:
                self._lose(job_id)
            elif held is not None:
                self._follow(job_id, held, report)
        return written

    def beat(self, tokens: Mapping[str, str]) -> None:
        notes = self._here.notes
        with self._writing(*tokens):
            held = {job_id: one for job_id, token in tokens.items() if (one := notes.held(job_id, token)) is not None}
            for job_id in tokens.keys() - held.keys():
                self._shut(job_id)
            self._store.beat(tokens)
            for job_id, one in held.items():
                self._follow(job_id, one, _ALIVE)

    def purge(self, completed_age: float, ended_age: float) -> int:
        return self._store.purge(completed_age, ended_age)

    def close(self) -> None:
        self._store.close()

    # --- what a write means for the cache ---------------------------------------------------------------------------

    @contextmanager
    def _writing(self, *job_ids: str) -> Iterator[None]:
        """Around a write. The jobs are shut if two writes meet, if its outcome is unknown, and if it outlives the mark."""
        notes, began = self._here.notes, self._clock.monotonic()
        for job_id in job_ids:
            notes.enter(job_id)
        try:
            yield
            is_late = self._clock.monotonic() - began > _LONGEST_WRITE
            for job_id in job_ids:
                if is_late or notes.is_met(job_id):
                    self._shut(job_id)
        except InvalidRequest:  # nothing was written
            raise
        except BaseException:
            for job_id in job_ids:
                self._shut(job_id)
            raise
        finally:
            for job_id in job_ids:
                notes.leave(job_id)

    def _follow(self, job_id: str, held: Held, report: Report) -> None:
        """Put into the cache what a report left of a job that this process claimed."""
        notes = self._here.notes
        if notes.is_shut(job_id):  # the mark stands longer than that
            return
        now = notes.now()
        if held.job is not None and now is not None and now - held.confirmed < _TRUST:
            after: Held | None = evolve(held, job=reported(held.job, report, now))
        else:
            after = self._confirmed(job_id, held)
        if after is None or after.job is None:
            return
        if notes.renew(job_id, held, after):
            self._put(after.job, after.confirmed)
        else:
            self._shut(job_id)

    def _confirmed(self, job_id: str, held: Held) -> Held | None:
        """The job as the store has it, or None if it is not this process's any more."""
        began = self._clock.monotonic()
        try:
            job = self._store.get(job_id)
        except StoreError:  # the write itself was made
            self._shut(job_id)
            return None
        self._here.notes.learn(job, began)
        if job is None or not is_running(job, held.token):
            self._lose(job_id)
            return None
        return evolve(held, job=job, confirmed=job.read_time)

    def _lose(self, job_id: str) -> None:
        """The job has ended, or is another's by now."""
        self._here.notes.release(job_id)
        self._shut(job_id)

    def _put(self, job: Job, confirmed: datetime) -> None:
        """Have the cache show a job of this process as it is now. Where that fails, what it showed is old soon enough."""
        now = self._here.notes.now()
        entry = None if now is None else _dump(job, confirmed)
        if now is None or entry is None:
            self._shut(job.id)
            return
        with suppress(StoreUnavailable):
            self._here.cache.set(_RUNNING, job.id, text=entry, seconds=(_LIFE - (now - confirmed)).total_seconds())

    def _shut(self, job_id: str) -> None:
        """Let nobody believe for a while what the cache has of a job. What can't be marked there holds at least here."""
        self._here.notes.shut(job_id)
        with suppress(StoreUnavailable):
            self._here.cache.set(_MARK, job_id, text=_MARK, seconds=_SHUT)

    # --- one process ------------------------------------------------------------------------------------------------

    @property
    def _here(self) -> _Process:
        if self._process.pid != os.getpid():
            self._process = self._new_process()
        return self._process

    def _new_process(self) -> _Process:
        return _Process(os.getpid(), Notes(self._clock), Breaker(self._entries, self._clock))


# --- a job as an entry ----------------------------------------------------------------------------------------------


def _dump(job: Job, confirmed: datetime) -> str | None:
    """A job, behind the moment at which the store confirmed it; None for one that is too large for a cache."""
    if job.request is not None and len(job.request.body) > _LARGEST:
        return None
    entry = f"{microseconds(confirmed)} {dump_job(job)}"
    return entry if len(entry) <= _LARGEST else None


def _load(entry: str, job_id: str, now: datetime) -> Job | None:
    """The running job that `_dump` was given, read now by the store's clock; None for anything else, and if it is old."""
    try:
        confirmed, _, text = entry.partition(" ")
        age = now - moment(int(confirmed))
        job = load_job(text, now)
    except Exception:  # anybody may write into a cache, and anything
        return None
    is_this = job.id == job_id and job.status is Status.IN_PROGRESS and _CLOCKS_DIFFER <= age < _LIFE
    return job if is_this else None
