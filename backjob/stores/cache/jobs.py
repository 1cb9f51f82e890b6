"""The records of jobs in a cache: each a chain of versions, published once complete, and listed while unfinished."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from datetime import datetime
from json import dumps, loads
from typing import Final, TypeAlias

from attrs import evolve, frozen

from backjob.errors import InvalidRequest, StoreUnavailable
from backjob.model import Job
from backjob.protocols import Clock
from backjob.stores.cache.chain import FULL, LINGER, PATIENCE, Chain, Kept, Link
from backjob.stores.cache.index import Index
from backjob.stores.cache.output import drop_chunks, join_chunks, write_chunks
from backjob.stores.cache.record import Ages, Record, dump_record, load_record
from backjob.stores.caches import FOREVER, Entries
from backjob.stores.rows import microseconds

Step: TypeAlias = Callable[[Record], Record | None]
"""Returns the record after a step, or None to write nothing."""

_GRACE: Final = 60_000_000
"""Microseconds that a process may take between listing a job and writing it."""
_MOST_KNOWN: Final = 20_000
_REMOVED: Final = "null"
"""The last version of a removed job, which loads as no record."""
_BELIEVED: Final = LINGER / 2


@frozen
class Birth:
    """A job that is written but not published, so that no reader finds it yet."""

    link: Link
    record: Record


@frozen
class _Known:
    """A version that this process has read or written, and when (monotonic, s); and the key that a later version would have."""

    link: Link
    record: Record
    since: float
    key_after: str


class Jobs:
    """The jobs in a cache. Callable from any thread."""

    def __init__(self, entries: Entries, clock: Clock) -> None:
        self._entries = entries
        self._clock = clock
        self._index = Index(entries)
        self._known: dict[str, _Known] = {}
        """The last known version of jobs that this process runs or watches; each use checks whether it still is the newest."""
        self._ages_key = entries.key("ages")
        self._ages: Ages | None = None

    def read(self, job_id: str) -> Record | None:
        """Return the newest version, without the request's body."""
        return self._load(self._chain(job_id).newest())

    def whole(self, record: Record) -> Job | None:
        """Return the job with its request's body. A waiting job whose body is lost can't be sent, and counts as unknown."""
        job = record.job
        if not record.body or job.request is None:
            return job
        body = join_chunks(self._entries, job.id, record.body)
        if body is None:
            return None if job.is_waiting else job
        return evolve(job, request=evolve(job.request, body=b64decode(body)))

    def living(self, is_wanted: Callable[[Job, datetime], bool]) -> list[Record]:
        """Return the unfinished jobs that are wanted (``is_wanted(job, now)``), in no particular order.

        Their ``read_time`` may be an earlier one: of many jobs that wait, few are used, and copying them all takes long.
        """
        living, over = [], []
        index = self._index.read()
        unchanged = self._unchanged(index)
        now = self._clock.now()
        for job_id, since in index.items():
            record = unchanged.get(job_id) or self._reread(job_id)
            if record is not None and not record.job.status.is_final:
                if is_wanted(record.job, now):
                    living.append(record)
            elif record is not None or microseconds(now) - since > _GRACE:
                over.append(job_id)
        self._index.over(over)
        self._index.tidy()
        return living

    def write(self, job_id: str, step: Step) -> Record | None:
        """Apply a step to the newest version. Return None if there is none, or the step returned None."""
        chain = self._chain(job_id)
        known = self._known.get(job_id)
        if known is not None:
            after = step(self.as_of_now(known.record))
            if after is not None and self._follow(chain, known.link, known.record, after):
                return after
        refused, before = 0, ""
        while (newest := chain.newest()) is not None and (found := self._load(newest)) is not None:
            refused = refused + 1 if newest.mark == before else 0
            if refused == PATIENCE:
                raise StoreUnavailable(FULL)
            after = step(found)
            if after is None or self._follow(chain, newest, found, after):
                return after
            before = newest.mark
        self._known.pop(job_id, None)
        return None

    def remove(self, job_id: str) -> Record | None:
        """Remove a job, and return its last version. A version that is no job stays, as the end of its chain."""
        chain = self._chain(job_id)
        refused, before = 0, ""
        while (newest := chain.newest()) is not None and (found := self._load(newest)) is not None:
            refused = refused + 1 if newest.mark == before else 0
            if refused == PATIENCE:
                raise StoreUnavailable(FULL)
            seconds = self.ages().of_parts(found.job, found.job.read_time)
            if chain.follow(newest, _REMOVED, Kept(seconds, seconds, seconds)) is not None:
                self._known.pop(job_id, None)
                self._index.over([job_id])
                return found
            before = newest.mark
        return None

    def begin(self, job: Job) -> Birth:
        """Write a new job that no reader finds yet. Raises `InvalidRequest` if its id is taken."""
        kept = self.ages()
        request = job.request
        text = b64encode(request.body).decode() if request is not None else ""
        body = [chunk.name for chunk in write_chunks(self._entries, job.id, text, kept.of_parts(job, job.created_time))]
        bare = job if request is None else evolve(job, request=evolve(request, body=b""))
        # List it first: a job that any reader can find must be one that the monitors find.
        record = Record(bare, self._index.add(job.id, microseconds(job.created_time)), tuple(body))
        link = self._chain(job.id).begin(dump_record(record), kept.of_version(job, job.created_time))
        if link is None:
            drop_chunks(self._entries, job.id, record.body)
            raise InvalidRequest("id", "a job with this id exists already")
        return Birth(link, record)

    def publish(self, link: Link, record: Record) -> None:
        """Let readers find a new job."""
        job = record.job
        self._chain(job.id).publish(link, self.ages().of_parts(job, job.created_time))

    def withdraw(self, birth: Birth) -> None:
        """Remove a job that was not published."""
        self._chain(birth.record.job.id).withdraw()
        drop_chunks(self._entries, birth.record.job.id, birth.record.body)
        self._index.over([birth.record.job.id])

    def publish_for(self, job_id: str) -> Record | None:
        """Publish a new job for its creator, which may have died. Return None if there is none."""
        first = self._chain(job_id).newest_from_the_start()
        record = self._load(first)
        if first is None or record is None:
            return None
        self.publish(first, record)
        return record

    def ages(self) -> Ages:
        """Return how long to keep ended jobs: the ages of the last `keep_for` of this process, or those in the cache."""
        if self._ages is None:
            try:
                self._ages = Ages(*map(float, loads(self._entries.get(self._ages_key) or "[]")))
            except (ValueError, TypeError):
                self._ages = Ages()
        return self._ages

    def keep_for(self, ages: Ages) -> None:
        """Set how long to keep jobs that end from now on."""
        self._entries.set(self._ages_key, dumps((ages.completed, ages.ended)), FOREVER)
        self._ages = ages

    def _chain(self, job_id: str) -> Chain:
        return Chain(self._entries, "j", job_id)

    def _load(self, link: Link | None) -> Record | None:
        return None if link is None else load_record(link.text, self._clock.now())

    def as_of_now(self, record: Record) -> Record:
        """Return a record that `living` has returned, as read now."""
        return evolve(record, job=evolve(record.job, read_time=self._clock.now()))

    def _unchanged(self, job_ids: Iterable[str]) -> dict[str, Record]:
        """Return those of these jobs that this process knows, and of which there is no later version: of many in one call."""
        latest = self._clock.monotonic() - _BELIEVED
        known = [one for job_id in job_ids if (one := self._known.get(job_id)) is not None and one.since > latest]
        later = self._entries.get_many([one.key_after for one in known])
        return {one.record.job.id: one.record for one, text in zip(known, later, strict=True) if text is None}

    def _reread(self, job_id: str) -> Record | None:
        link = self._chain(job_id).newest()
        record = self._load(link)
        if link is not None and record is not None:
            self._remember(link, record)
        return record

    def _remember(self, link: Link, record: Record) -> None:
        if record.job.status.is_final:
            self._known.pop(record.job.id, None)
            self._index.over([record.job.id])
            return
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        key_after = self._chain(record.job.id).key_after(link)
        without_text = Link(link.number, link.mark, "", link.unfinished)  # the record has it all, in half the memory
        self._known[record.job.id] = _Known(without_text, record, self._clock.monotonic(), key_after)

    def _follow(self, chain: Chain, link: Link, before: Record, after: Record) -> bool:
        job = after.job
        ages = self.ages()
        seconds, longest = ages.of_version(job, job.read_time), ages.of_parts(job, job.read_time)
        # Reports and beats are many, so their traces expire soon; the few others last as long as readers may need them.
        is_frequent = (before.job.status, before.job.token) == (job.status, job.token)
        kept = Kept(seconds, LINGER if is_frequent else longest, longest)
        written = chain.follow(link, dump_record(after), kept)
        if written is None:
            return False
        self._remember(written, after)
        return True
