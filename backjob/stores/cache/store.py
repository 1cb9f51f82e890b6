"""Jobs in a cache only: any cache with ``get``, ``set``, ``add`` and ``delete``, on Redis, memcached or a database table.

There is no lock: a lock that expires is not safe when its owner stalls. Each version of a job is an entry of its own,
written with ``add``, the only atomic step that all caches have; `backjob.stores.cache.chain` explains how.

Limits: a cache can't give a slot to one job at a time, so queues have no ``max_running`` here, and it has no clock, so
each host judges leases by its own. A cache may drop entries to make room. A job whose newest entry is dropped is unknown from then on, dropped
output reads as question marks, and a dropped merge key joins no job; the remains of a job never make it start again.
This holds for entries that the cache drops between two calls of this store: one that it drops within the microseconds in
which it is written might let a second claim win. A process that stalls for over an hour between the last steps of a
write, or dies there while others write too, may leave a job that is no longer found, but never one that runs twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from importlib import import_module
from json import dumps, loads
from typing import Any, Final, cast

from attrs import evolve

from backjob.clock import SystemClock
from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.lifecycle import overdue_from
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report
from backjob.protocols import Capability, Clock, Store
from backjob.stores.cache.chain import FULL, PATIENCE, Chain, Kept, Link
from backjob.stores.cache.jobs import Jobs
from backjob.stores.cache.output import Chunk, drop_chunks, drop_output, join_chunks, listed, read_output, write_chunks
from backjob.stores.cache.record import Ages, Record
from backjob.stores.caches import Cache, Entries, known
from backjob.stores.steps import (
    beaten,
    changed,
    holds,
    is_due,
    is_running,
    leased,
    matches,
    new_job,
    reported,
    was_created_before,
)
from backjob.stores.urls import StoreURL
from backjob.stores.values import LOOKAHEAD, output_piece

_HELD: Final = 366 * 86400.0
"""Seconds for which the cache keeps a merge key: longer than any job takes."""
_FEWEST_ENTRIES: Final = 10_000


def from_url(url: StoreURL, clock: Clock | None) -> Store:
    """Open ``cache:package.module:attribute?prefix=…`` on the cache that is this attribute of the module."""
    module, _, attribute = url.location.partition(":")
    arguments: dict[str, Any] = url.arguments({"prefix": str})
    try:
        found: Any = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        hint = 'expected a module and the name of a cache in it, such as "cache:app.extensions:cache"'
        raise InvalidRequest("store", f"{url.location} can't be imported ({error}); {hint}") from error
    return CacheStore(cast("Cache", found), clock=clock, **arguments)


class CacheStore:
    """Jobs in a cache. ``prefix`` begins all keys; ``clock`` gives the time, by default the computer's.

    A cache has no clock, so all hosts that share it must agree to within a few seconds: one that is ahead by a run lease
    would end the running jobs of the others. ``cache`` may be cachelib's,
    Django's (pass ``django.core.cache.cache``, which gives each thread its own connection), or any object with the methods
    of `backjob.stores.caches.Cache`. You guarantee that an unknown cache's ``add`` is atomic, and that its ``get`` sees
    earlier writes in every process: no replica that lags, no open transaction. The store never closes the cache.

    A write takes six to nine calls to the cache, a read three. Each poll of a monitor reads one entry for each unfinished job,
    500 in one call to Django's and cachelib's caches. A beat takes five for each running job, every two seconds. Each start writes the list of unfinished jobs,
    so it slows down when there are thousands. A job that is due is dropped if no process touches it for three days.

    Raises `StoreUnusable` for a cache whose ``add`` is known not to be atomic, that keeps nothing, or that keeps fewer
    than 10,000 entries; `InvalidRequest` for a prefix that some caches would refuse.
    """

    def __init__(self, cache: Cache, *, clock: Clock | None = None, prefix: str = "backjob:") -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._entries = Entries(cache, prefix)
        self._jobs = Jobs(self._entries, self._clock)
        self.lacks = frozenset({Capability.RETENTION, Capability.LISTING, Capability.SLOTS}) | _judge(cache)

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        job = new_job(draft, merge_key, self._clock.now())
        if merge_key is None:
            birth = self._jobs.begin(job)
        else:
            found = self._holder(merge_key)
            if isinstance(found, Job):
                return found
            birth, refused = self._jobs.begin(job), 0
            while not self._take_key(merge_key, found, job.id):
                before, found = found, self._holder(merge_key)
                if isinstance(found, Job):
                    self._jobs.withdraw(birth)
                    return found
                refused = refused + 1 if found == before else 0
                if refused == PATIENCE:
                    raise StoreUnavailable(FULL)
        self._jobs.publish(birth.link, birth.record)
        return job

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        dropped: tuple[str, ...] = ()

        def step(record: Record) -> Record | None:
            nonlocal dropped
            if not holds(expect, record.job, record.job.read_time):
                return None
            body, dropped = ((), record.body) if changes.erases_body else (record.body, ())
            return evolve(record, job=changed(record.job, changes, record.job.read_time), body=body)

        written = self._jobs.write(job_id, step)
        if written is None:
            return None
        drop_chunks(self._entries, job_id, dropped)
        return written.job

    def report(self, job_id: str, token: str, report: Report) -> bool:
        chunks: list[Chunk] | None = None
        tail: tuple[str, ...] | None = None
        replaced: tuple[str, ...] = ()

        def step(record: Record) -> Record | None:
            nonlocal chunks, tail, replaced
            job = record.job
            if not is_running(job, token):
                return None
            seconds = self._jobs.ages().of_parts(job, job.read_time)
            output = record.output
            if report.output:
                if chunks is None:
                    chunks = write_chunks(self._entries, job_id, report.output, seconds)
                output = listed(self._entries, record, chunks, seconds)
            after = evolve(record, job=reported(job, report, job.read_time), output=output)
            if report.tail is UNSET:
                return after
            if tail is None:
                written = write_chunks(self._entries, job_id, report.tail, seconds)
                tail = tuple([chunk.name for chunk in written])
            replaced = record.tail
            return evolve(after, tail=tail)

        if self._jobs.write(job_id, step) is None:
            drop_chunks(self._entries, job_id, [*(chunk.name for chunk in chunks or ()), *(tail or ())])
            return False
        drop_chunks(self._entries, job_id, replaced)
        return True

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
        def is_wanted(job: Job, now: datetime) -> bool:
            return is_due(job, now, labels, full, queues)

        def step(record: Record) -> Record | None:
            if not is_wanted(record.job, record.job.read_time):
                return None
            return evolve(record, job=leased(record.job, lessee, lease, record.job.read_time))

        taken: list[Job] = []
        for record in sorted(self._jobs.living(is_wanted), key=lambda record: (record.job.start_time, record.order)):
            if len(taken) >= limit:
                break
            written = self._jobs.write(record.job.id, step)
            job = None if written is None else self._jobs.whole(written)
            if job is not None:
                taken.append(job)
        return taken

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        """Renew the leases of running jobs, each in a write of its own."""
        return frozenset(job_id for job_id, token in tokens.items() if not self._beat(job_id, token, lease, alive))

    def _beat(self, job_id: str, token: str, lease: float, alive: frozenset[str]) -> bool:
        def step(record: Record) -> Record | None:
            job = record.job
            if not is_running(job, token):
                return None
            return evolve(record, job=beaten(job, lease, job.read_time, is_alive=job_id in alive))

        return self._jobs.write(job_id, step) is not None

    def delete(self, job_id: str) -> bool:
        removed = self._jobs.remove(job_id)
        if removed is None:
            return False
        drop_chunks(self._entries, job_id, removed.body)
        drop_output(self._entries, removed)
        return True

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:  # noqa: ARG002
        """Set how long the cache keeps jobs of any label that end from now on. Returns 0: the cache expires them itself."""
        self._jobs.keep_for(Ages(completed_age, ended_age))
        return 0

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        record = self._jobs.read(job_id)
        if record is None:
            return None
        return self._jobs.whole(record) if body else record.job

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        begin = max(offset, 0)
        record = self._jobs.read(job_id)
        if record is None:
            return Output("", begin)
        end = min(begin + limit + LOOKAHEAD, record.job.output_size)
        data, whole = read_output(self._entries, record, begin, end) if begin < end else (b"", True)
        chunk = output_piece(data, begin, limit, truncated=record.job.output_truncated or not whole)
        if not record.tail or chunk.next_offset < record.job.output_size:
            return chunk
        return evolve(chunk, tail=join_chunks(self._entries, job_id, record.tail) or "")

    def find(self, query: Query) -> list[Job]:
        """Return the unfinished jobs that match, newest first; none if ``before`` is unknown."""
        return self._matching(query)[: query.limit]

    def count(self, query: Query) -> int:
        return len(self.find(query))

    def _matching(self, query: Query) -> list[Job]:
        def may_match(job: Job, now: datetime) -> bool:
            moment = overdue_from(job) if query.overdue else now
            return moment is not None and moment <= now

        records = sorted(self._jobs.living(may_match), key=lambda record: record.order, reverse=True)
        last = None if query.before is None else self._jobs.read(query.before)
        if last is not None:
            records = [record for record in records if record.order < last.order]
        elif query.before is not None or query.before_time is not None:
            records = [record for record in records if was_created_before(record.job, query.before_time)]
        jobs = [self._jobs.as_of_now(record).job for record in records]
        return [job for job in jobs if matches(query, job)]

    def close(self) -> None:
        """Do nothing: the application closes its cache."""

    # --- merge keys: each a chain of the ids of the jobs that had it -----------------------------------------------

    def _holder(self, merge_key: str) -> Job | Link | None:
        """Return the job that has this key, or the newest link of the key's chain, whose job no longer has it."""
        chain = Chain(self._entries, "m", merge_key)
        link = chain.newest() or chain.newest_from_the_start()
        if link is None:
            return None
        job_id = str(loads(link.text))
        # The job may be unpublished: its creator has just taken the key, or has died since.
        record = self._jobs.read(job_id) or self._jobs.publish_for(job_id)
        if record is None:
            return link
        job = self._jobs.whole(record) if record.job.merge_key == merge_key else None
        return link if job is None else job

    def _take_key(self, merge_key: str, link: Link | None, job_id: str) -> bool:
        chain, text = Chain(self._entries, "m", merge_key), dumps(job_id)
        taken = chain.start(text, _HELD) if link is None else chain.follow(link, text, Kept(_HELD, _HELD, _HELD))
        return taken is not None


def _judge(cache: Cache) -> frozenset[Capability]:
    """Return what a store on this cache lacks. Raises `StoreUnusable` for a cache that is known to be unfit."""
    found = known(cache)
    if found is None:
        return frozenset()
    kind, inner = found
    if kind.fault is not None:
        raise StoreUnusable(f"{kind.name} can't keep jobs: {kind.fault}; use Redis, memcached or a cache in a database")
    room = None if kind.room is None else getattr(inner, kind.room, None)
    if isinstance(room, int) and room < _FEWEST_ENTRIES:
        raise StoreUnusable(
            f"{kind.name} drops entries, and with them jobs, when it has more than {room}: "
            f"raise its {(kind.room or '').strip('_')} to {_FEWEST_ENTRIES} or more"
        )
    return frozenset() if kind.shared else frozenset({Capability.SHARED})
