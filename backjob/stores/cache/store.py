"""Jobs in a cache alone: over anything with ``get``, ``set``, ``add`` and ``delete``, Redis, memcached or a table behind it.

There is no lock: a lock with an expiry is not safe when its holder stalls. Every version of a job is an entry of its
own, written by ``add``, the one atomic step such caches have; `backjob.stores.cache_chain` says how.

What remains to be known of it. A cache may drop entries to make room: a job whose newest entry is gone is unknown from
then on, dropped output reads as question marks, and a dropped merge key joins nobody; what is left of a job never makes
it start again. That is so for entries dropped between two calls of this store; one that is dropped within the
microseconds in which it is written might let a second claim win. And who stalls for over an hour between the last steps
of a write, or dies there while others write too, may leave a job that is not found any more, but never one that runs
twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from json import dumps, loads
from typing import Any, Final, cast

from attrs import evolve

from backjob.clock import SystemClock
from backjob.errors import InvalidRequest, StoreUnavailable, StoreUnusable
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report
from backjob.protocols import Capability, Clock, Store
from backjob.stores.cache.chain import FULL, PATIENCE, Chain, Kept, Link
from backjob.stores.cache.jobs import Jobs
from backjob.stores.cache.output import Piece, drop_pieces, listed, read_output, write_pieces
from backjob.stores.cache.record import Ages, Record
from backjob.stores.caches import Cache, Entries, known
from backjob.stores.steps import changed, holds, is_due, is_running, leased, matches, new_job, reported
from backjob.stores.urls import StoreURL, text
from backjob.stores.values import LOOKAHEAD, output_piece

__all__ = ["CacheStore", "from_url"]

_ALIVE: Final = Report()
_HELD: Final = 366 * 86400.0
"""Seconds for which a merge key is known: longer than any job takes."""
_FEWEST_ENTRIES: Final = 10_000


def from_url(url: StoreURL, clock: Clock | None) -> Store:
    """Open ``cache:package.module:attribute?prefix=…``, on the cache that the module has under this name."""
    module, _, attribute = url.location.partition(":")
    arguments: dict[str, Any] = url.arguments({"prefix": text})
    try:
        found: Any = import_module(module)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        hint = 'a module and the name of a cache in it are expected: "cache:app.extensions:cache"'
        raise InvalidRequest("store", f"{url.location} can't be imported ({error}); {hint}") from error
    return CacheStore(cast("Cache", found), clock=clock, **arguments)


class CacheStore:
    """Jobs in a cache. ``prefix`` begins all keys; ``clock`` is the time, by default the computer's.

    A cache has no time of its own, so all hosts that share it must agree to within a few seconds. ``cache`` may be
    cachelib's, Django's (hand in ``django.core.cache.cache``, which gives each thread a connection of its own), or any
    object of the shape of `backjob.stores.caches.Cache`; of a kind that is not known, its ``add`` is taken to be atomic,
    and a ``get`` to see what was written before, in any process: no replica that lags, no transaction that is still open.
    The cache is never closed here.

    A write takes six to nine calls to the cache, a read three, and each look of a monitor one for each living job.

    Raises `StoreUnusable` for a cache whose ``add`` is known not to be atomic, that keeps nothing, or that keeps fewer
    than 10,000 entries; `InvalidRequest` for a prefix that some cache would not take.
    """

    def __init__(self, cache: Cache, *, clock: Clock | None = None, prefix: str = "backjob:") -> None:
        self._clock: Clock = SystemClock() if clock is None else clock
        self._entries = Entries(cache, prefix)
        self._jobs = Jobs(self._entries, self._clock)
        self.lacks = frozenset({Capability.RETENTION, Capability.LISTING}) | _judge(cache)

    # --- writing ----------------------------------------------------------------------------------------------------

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
            if not holds(expect, record.job):
                return None
            dropped = record.body if changes.end else ()
            return evolve(
                record,
                job=changed(record.job, changes, record.job.read_time),
                body=() if changes.end else record.body,
            )

        written = self._jobs.write(job_id, step)
        if written is None:
            return None
        drop_pieces(self._entries, job_id, dropped)
        return self._jobs.whole(written)

    def report(self, job_id: str, token: str, report: Report) -> bool:
        pieces: list[Piece] | None = None

        def step(record: Record) -> Record | None:
            nonlocal pieces
            job = record.job
            if not is_running(job, token):
                return None
            seconds = self._jobs.ages().of_parts(job, job.read_time)
            output = record.output
            if report.output:
                if pieces is None:
                    pieces = write_pieces(self._entries, job_id, report.output, seconds)
                output = listed(self._entries, record, pieces, seconds)
            return evolve(record, job=reported(job, report, job.read_time), output=output)

        written = self._jobs.write(job_id, step)
        if written is None and pieces:
            drop_pieces(self._entries, job_id, [piece.name for piece in pieces])
        return written is not None

    def take_due(self, lessee: str, lease: float, limit: int) -> list[Job]:
        def step(record: Record) -> Record | None:
            job = record.job
            if not is_due(job, job.read_time):
                return None
            return evolve(record, job=leased(job, lessee, lease, job.read_time))

        due = [record for record in self._jobs.living() if is_due(record.job, record.job.read_time)]
        taken: list[Job] = []
        for record in sorted(due, key=lambda record: (record.job.start_time, record.order)):
            if len(taken) >= limit:
                break
            written = self._jobs.write(record.job.id, step)
            job = None if written is None else self._jobs.whole(written)
            if job is not None:
                taken.append(job)
        return taken

    def beat(self, tokens: Mapping[str, str]) -> None:
        for job_id, token in tokens.items():

            def step(record: Record, token: str = token) -> Record | None:
                job = record.job
                return evolve(record, job=reported(job, _ALIVE, job.read_time)) if is_running(job, token) else None

            self._jobs.write(job_id, step)

    def purge(self, completed_age: float, ended_age: float) -> int:
        """Keep jobs that end from now on for these ages. Nothing is removed, and the answer is 0: they expire."""
        self._jobs.keep_for(Ages(completed_age, ended_age))
        return 0

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job | None:
        record = self._jobs.read(job_id)
        return None if record is None else self._jobs.whole(record)

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        begin = max(offset, 0)
        record = self._jobs.read(job_id)
        if record is None:
            return Output("", begin)
        end = min(begin + limit + LOOKAHEAD, record.job.output_size)
        data, whole = read_output(self._entries, record, begin, end) if begin < end else (b"", True)
        return output_piece(data, begin, limit, truncated=record.job.output_truncated or not whole)

    def find(self, query: Query) -> list[Job]:
        """The jobs that match and have not ended, newest first. An unknown ``before`` finds nothing."""
        records = sorted(self._jobs.living(), key=lambda record: record.order, reverse=True)
        if query.before is not None:
            last = self._jobs.read(query.before)
            records = [] if last is None else [record for record in records if record.order < last.order]
        found: list[Job] = []
        for record in records:
            if len(found) >= query.limit:
                break
            job = self._jobs.whole(record) if matches(query, record.job) else None
            if job is not None:
                found.append(job)
        return found

    def close(self) -> None:
        """Nothing is open: the cache is the application's."""

    # --- merge keys: each a chain of the ids of the jobs that held it -----------------------------------------------

    def _key_chain(self, merge_key: str) -> Chain:
        return Chain(self._entries, "m", merge_key)

    def _holder(self, merge_key: str) -> Job | Link | None:
        """The job that holds a key; or the link that was last in the key's chain, whose job holds it no more."""
        chain = self._key_chain(merge_key)
        link = chain.newest() or chain.newest_from_the_start()
        if link is None:
            return None
        job_id = str(loads(link.text))
        # A job that nobody finds yet: its creator has just taken the key, or has died meanwhile.
        record = self._jobs.read(job_id) or self._jobs.publish_for(job_id)
        if record is None:
            return link
        job = self._jobs.whole(record) if record.job.merge_key == merge_key else None
        return link if job is None else job

    def _take_key(self, merge_key: str, link: Link | None, job_id: str) -> bool:
        chain, text = self._key_chain(merge_key), dumps(job_id)
        taken = chain.start(text, _HELD) if link is None else chain.follow(link, text, Kept(_HELD, _HELD, _HELD))
        return taken is not None


def _judge(cache: Cache) -> frozenset[Capability]:
    """What a cache lacks as the place of jobs. Raises `StoreUnusable` for one that is known to be none."""
    found = known(cache)
    if found is None:
        return frozenset()
    kind, inner = found
    if kind.fault is not None:
        raise StoreUnusable(
            f"jobs can't be kept in {kind.name}: {kind.fault}; take Redis, memcached or a cache in a database"
        )
    room = None if kind.room is None else getattr(inner, kind.room, None)
    if isinstance(room, int) and room < _FEWEST_ENTRIES:
        raise StoreUnusable(
            f"{kind.name} drops entries when there are more than {room}, and jobs with them: "
            f"raise its {(kind.room or '').strip('_')} to {_FEWEST_ENTRIES} or more"
        )
    return frozenset() if kind.shared else frozenset({Capability.SHARED})
