"""Jobs in one of Django's databases, through the ORM."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, Final

from attrs import evolve
from django.db import IntegrityError, connections
from django.db.models import Q
from django.db.transaction import atomic

from backjob.django.database import Database, retry_deadlocks
from backjob.django.leasing import Leasing, lock, skips_locked
from backjob.django.models import Job as Row
from backjob.django.models import Output as Chunk
from backjob.django.searches import Searches
from backjob.django.statements import More, Statements
from backjob.errors import InvalidRequest, SlotTaken, StoreUnavailable
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report, Status
from backjob.protocols import Clock
from backjob.stores.rows import assignments_with_body, conditions, draft_row, microseconds, moment, span
from backjob.stores.steps import changed, holds, kept_for, new_job
from backjob.stores.values import (
    LONGEST_CHUNK,
    LOOKAHEAD,
    PURGED_AT_ONCE,
    cut,
    dump_result,
    joined_chunk,
    joined_tail,
    purge_batch,
    tail_rows,
)

__all__ = ["DjangoStore"]

_MERGE_ATTEMPTS: Final = 100
_WAITING: Final = Q(token=None, status__in=(Status.STARTED, Status.IN_PROGRESS))


class DjangoStore:
    """Jobs in the database ``using``, an alias of ``DATABASES``; ``migrate`` creates its tables.

    Writes are part of the caller's transaction: a job that is started in one exists once it commits, and never if it
    rolls back. A running action's reports use a separate connection, so that others see them at once. Time comes from
    ``clock``, or from the database; SQLite has no clock, so there it is this computer's.
    """

    def __init__(self, using: str = "default", *, clock: Clock | None = None) -> None:
        self.using = using
        self._database = Database(using, clock)
        self._sql = Statements(using, self._database.clock)
        self._leasing = Leasing(self._database)
        self._searches = Searches(self._database)

    @retry_deadlocks
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        with self._database.connection() as alias:
            row = draft_row(draft, merge_key, self._sql.now()) | {"body": draft.request.body or None}
            for attempt in range(_MERGE_ATTEMPTS):
                # Insert first: in SQLite a transaction that reads before it writes may fail as locked.
                created_time = self._sql.insert(alias, row, ignores_others=merge_key is not None)
                if created_time is not None:
                    return new_job(draft, merge_key, moment(created_time))
                rows = Row.objects.using(alias)
                if merge_key is not None:
                    named = rows.filter(merge_key=merge_key)
                    # With MariaDB's repeatable reads, only a locking read sees a job that is younger than the transaction.
                    is_locking = attempt and connections[alias].in_atomic_block
                    for job in self._database.read(named.select_for_update() if is_locking else named):
                        return job
                if rows.filter(id=draft.id).exists():
                    raise InvalidRequest("id", "a job with this id exists already")
        raise StoreUnavailable(f"the database {self.using!r}: the job with this merge key changed again and again")

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        with self._database.connection(job_id) as alias:
            return self._one(alias, job_id, body=body)

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        offset = max(offset, 0)
        with self._database.connection(job_id) as alias:
            found = Row.objects.using(alias).filter(id=job_id)
            located = found.values_list("seq", "output_truncated", "output_size").first()
            if located is None:
                return Output("", offset)
            seq, truncated, size = located
            begin, end = max(0, offset - LONGEST_CHUNK + 1), offset + limit + LOOKAHEAD
            rows = Chunk.objects.using(alias).filter(job=seq).order_by("start")
            chunks = list(rows.filter(start__gte=begin, start__lt=end).values_list("start", "piece"))
            chunk = joined_chunk(chunks, offset, limit, truncated=truncated != 0)
            if not truncated or chunk.next_offset < size:
                return chunk
            return evolve(chunk, tail=joined_tail(rows.filter(start__lt=0).values_list("piece", flat=True)))

    @retry_deadlocks
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        with self._database.connection(job_id) as alias:
            if isinstance(changes.slot, str) and self._is_taken(alias, job_id, expect, changes.slot):
                return None
            try:
                # A slot that another job has must not spoil the caller's transaction.
                block = atomic(alias) if isinstance(changes.slot, str) else nullcontext()
                with block:
                    return self._change(alias, job_id, expect, changes)
            except IntegrityError as error:  # of the only index that a change can violate
                raise SlotTaken(str(changes.slot)) from error

    def _is_taken(self, alias: str, job_id: str, expect: Expect, slot: str) -> bool:
        """Whether a change can't give a job this slot. Raises `SlotTaken` if another job has it.

        A transaction of the application may be about to free the slot. The write would wait for its end.
        """
        rows = Row.objects.using(alias)
        if not rows.filter(slot=slot).exclude(id=job_id).exists():
            return False
        if rows.filter(self._as_expected(job_id, expect)).exists():
            raise SlotTaken(slot)
        return True

    def _as_expected(self, job_id: str, expect: Expect) -> Q:
        expected = Q(id=job_id, **conditions(expect))
        if expect.unclaimed:
            expected &= _WAITING
        if expect.lease_over:
            expected &= Q(lease_until__lte=self._database.now())
        return expected

    def _change(self, alias: str, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        # A transaction of the application that has locked the row keeps its lease from being renewed.
        locks = expect.lease_over and skips_locked(alias)
        if not locks and self._sql.returns_updates(alias):
            row = self._sql.update_returning(alias, job_id, expect, assignments_with_body(changes, self._sql.now()))
            return None if row is None else self._sql.job(row)
        if not locks and not connections[alias].in_atomic_block:
            # Two statements, where a transaction takes five.
            job = self._one(alias, job_id)
            if job is None or not holds(expect, job, job.read_time):
                return None
            is_same = Expect(version=job.version, lease_over=expect.lease_over)
            if self._sql.update(alias, job_id, is_same, assignments_with_body(changes, microseconds(job.read_time))):
                return changed(job, changes, job.read_time)
        with atomic(alias, savepoint=False):
            if locks:
                rows = Row.objects.using(alias).filter(self._as_expected(job_id, expect))
                if not lock(alias, rows).values_list("seq"):
                    return None
            is_changed = self._sql.update(alias, job_id, expect, assignments_with_body(changes, self._sql.now()))
            return self._one(alias, job_id) if is_changed else None

    @retry_deadlocks
    def report(self, job_id: str, token: str, report: Report) -> bool:
        added = report.output.encode()
        assigned: dict[str, Any] = {"updated_time": self._sql.now()}
        if report.progress is not None:
            assigned["progress"] = report.progress
        if report.text is not None:
            assigned["status_text"] = report.text
        if report.truncated:
            assigned["output_truncated"] = 1
        if report.cursor is not UNSET:
            assigned |= {"cursor": dump_result(report.cursor), "attempt": 1}
        if added:
            assigned["output_size"] = More(len(added))
        running = Expect(token=token, status=Status.IN_PROGRESS)
        with self._database.connection(job_id) as alias:
            if not added and report.tail is UNSET:
                return bool(self._sql.update(alias, job_id, running, assigned))
            if len(added) <= LONGEST_CHUNK and report.tail is UNSET and self._sql.writes_output_at_once:
                return bool(self._sql.update_with_output(alias, job_id, running, assigned, added))
            with atomic(alias, savepoint=False):
                if not self._sql.update(alias, job_id, running, assigned):
                    return False
                self._sql.add_output(alias, job_id, len(added), cut(added))
                if report.tail is not UNSET:
                    _replace_tail(alias, job_id, report.tail)
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
        return self._leasing.take_due(lessee, lease, limit, labels, full, queues=queues)

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        return self._leasing.beat(tokens, lease, alive)

    def find(self, query: Query) -> list[Job]:
        with self._database.connection() as alias:
            return self._database.read(self._searches.matching(alias, query)[: query.limit])

    def count(self, query: Query) -> int:
        with self._database.connection() as alias:
            return int(self._searches.matching(alias, query)[: query.limit].count())

    @retry_deadlocks
    def delete(self, job_id: str) -> bool:
        with self._database.connection(job_id) as alias:
            rows = Row.objects.using(alias).filter(id=job_id)
            seq = rows.values_list("seq", flat=True).first()
            with atomic(alias, savepoint=False):
                if seq is None or not rows.delete()[0]:
                    return False
                Chunk.objects.using(alias).filter(job=seq).delete()
        return True

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        ages = kept_for(completed_age, ended_age).items()
        each = [Q()] if labels is None else [Q(label=label) for label in labels]
        return sum(
            self._purge(Q(status=int(status), end_time__lt=self._database.now() + -span(age)) & label)
            for status, age in ages
            for label in each
        )

    def close(self) -> None:
        """Do nothing: Django closes its connections."""

    def _purge(self, ended: Q) -> int:
        removed, is_last = self._purge_batch(ended)
        while not is_last:
            more, is_last = self._purge_batch(ended)
            removed += more
        return removed

    @retry_deadlocks
    def _purge_batch(self, ended: Q) -> tuple[int, bool]:
        """Delete some jobs, and return how many, and whether none is left."""
        with self._database.connection() as alias:
            rows = Row.objects.using(alias).filter(ended, file=None).order_by("end_time")
            aged = list(rows.values_list("seq", "output_size")[:PURGED_AT_ONCE])
            batch = [seq for seq, _ in aged[: purge_batch(size for _, size in aged)]]
            with atomic(alias, savepoint=False):
                Chunk.objects.using(alias).filter(job__in=batch).delete()
                removed: int = Row.objects.using(alias).filter(seq__in=batch).delete()[0]
        return removed, len(batch) == len(aged) < PURGED_AT_ONCE

    def _one(self, alias: str, job_id: str, *, body: bool = False) -> Job | None:
        row = self._sql.get(alias, job_id, body=body)
        return None if row is None else self._sql.job(row, body=body)


def _replace_tail(alias: str, job_id: str, tail: str) -> None:
    seq = Row.objects.using(alias).values_list("seq", flat=True).get(id=job_id)
    written = Chunk.objects.using(alias)
    written.filter(job=seq, start__lt=0).delete()
    written.bulk_create([Chunk(job=seq, start=position, piece=chunk) for position, chunk in tail_rows(tail)])
