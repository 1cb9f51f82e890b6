"""Jobs in one of Django's databases, through the ORM."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

from attrs import evolve
from django.db import DataError, IntegrityError, InterfaceError, OperationalError, ProgrammingError, connections
from django.db.models import BigIntegerField, Case, F, Func, Q, Value, When
from django.db.transaction import atomic

from backjob.clock import SystemClock
from backjob.django.connections import alias_for, alias_for_leases, forget_inherited
from backjob.django.containing import contains
from backjob.django.models import Job as Row
from backjob.django.models import Output as Chunk
from backjob.errors import InvalidRequest, SlotTaken, StoreUnavailable, StoreUnusable
from backjob.lifecycle import TIMED_OUT
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report, Status
from backjob.process import PerProcess
from backjob.protocols import Clock
from backjob.stores.columns import COLUMNS
from backjob.stores.renewal import Renewed, renew_unlocked
from backjob.stores.rows import SERVER_NOW, assignments, conditions, draft_row, microseconds, moment, row_job, span
from backjob.stores.steps import kept_for
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

_P = ParamSpec("_P")
_R = TypeVar("_R")

_PAUSES: Final = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
"""Seconds before each repetition after a deadlock."""
_MERGE_ATTEMPTS: Final = 100
_SEALED: Final = COLUMNS.index("sealed")
_STARTED: Final = int(Status.STARTED)
_RUNNING: Final = int(Status.IN_PROGRESS)
_LIVING: Final = (_STARTED, _RUNNING)
_WAITING: Final = Q(token=None, status__in=_LIVING)
_REFUSED_VALUES: Final = (1153, 1267, 1300, 1366, 3854, 3988)
"""Errors of MariaDB and MySQL for a packet that is too large, and for a character that a character set lacks."""


class _DatabaseNow(Func):
    """The database's own clock, in microseconds since 1970: one moment for a whole statement."""

    def __init__(self) -> None:
        super().__init__(output_field=BigIntegerField())

    def as_postgresql(self, _compiler: Any, _connection: Any, **_: Any) -> Any:
        return SERVER_NOW["postgresql"], []

    def as_mysql(self, _compiler: Any, _connection: Any, **_: Any) -> Any:
        return SERVER_NOW["mysql"], []


class _Deadlock(StoreUnavailable):
    """The database rolled back a transaction that the store began. A caller must repeat one that the caller began."""


def _retry_deadlocks(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Repeat a method after a deadlock, or a conflict of serializable transactions: the database rolls back one of them."""

    @wraps(method)
    def retried(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for pause in _PAUSES:
            with suppress(_Deadlock):
                return method(*args, **kwargs)
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - two in conflict must not meet again
        return method(*args, **kwargs)

    return retried


class DjangoStore:
    """Jobs in the database ``using``, an alias of ``DATABASES``; ``migrate`` creates its tables.

    Writes are part of the caller's transaction: a job that is started in one exists once it commits, and never if it
    rolls back. A running action's reports use a separate connection, so that others see them at once. Time comes from
    ``clock``, or from the database; SQLite has no clock, so there it is this computer's.
    """

    def __init__(self, using: str = "default", *, clock: Clock | None = None) -> None:
        if using not in connections.databases:
            raise InvalidRequest("using", f"there is no database {using!r} in DATABASES")
        self.using = using
        self._inherited = PerProcess(lambda: using, abandon=forget_inherited)
        self._inherited.get()
        has_clock = connections[using].vendor in ("postgresql", "mysql")
        self._clock = SystemClock() if clock is None and not has_clock else clock

    @_retry_deadlocks
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        with self._connection() as alias, atomic(alias, savepoint=merge_key is None):
            rows = Row.objects.using(alias)
            columns = draft_row(draft, merge_key, self._now())
            named = rows.filter(**{"id": draft.id} if merge_key is None else {"merge_key": merge_key})
            for attempt in range(_MERGE_ATTEMPTS):
                # Insert first: in SQLite a transaction that reads before it writes may fail as locked.
                row = Row(**columns, body=draft.request.body or None)
                rows.bulk_create([row], ignore_conflicts=merge_key is not None)
                # With MariaDB's repeatable reads, only a locking read sees a job that is younger than the transaction.
                for job in self._read(named.select_for_update() if attempt else named):
                    return evolve(job, request=draft.request) if job.id == draft.id else job
                if rows.filter(id=draft.id).exists():
                    raise InvalidRequest("id", "a job with this id exists already")
        raise StoreUnavailable(f"the database {self.using!r}: the job with this merge key changed again and again")

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        with self._connection(job_id) as alias:
            return self._one(alias, job_id, body=body)

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        offset = max(offset, 0)
        with self._connection(job_id) as alias:
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

    @_retry_deadlocks
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        assigned = assignments(changes, self._now())
        if changes.erases_body:
            assigned["body"] = None
        conditional = Q(id=job_id, **conditions(expect))
        if expect.unclaimed:
            conditional &= _WAITING
        if expect.lease_over:
            conditional &= Q(lease_until__lte=self._now())
        with self._connection(job_id) as alias:
            if isinstance(changes.slot, str):
                # A transaction of the application may be about to free the slot. The write would wait for its end.
                rows = Row.objects.using(alias)
                if rows.filter(slot=changes.slot).exclude(id=job_id).exists():
                    if rows.filter(conditional).exists():
                        raise SlotTaken(changes.slot)
                    return None
            try:
                # A slot that another job has must not spoil the caller's transaction.
                with atomic(alias, savepoint=isinstance(changes.slot, str)):
                    rows = Row.objects.using(alias).filter(conditional)
                    # A transaction of the application that has locked the row keeps its lease from being renewed.
                    if expect.lease_over and _skips_locked(alias) and not _lock(alias, rows).values_list("seq"):
                        return None
                    changed = rows.update(version=F("version") + 1, **assigned)
                    return self._one(alias, job_id) if changed else None
            except IntegrityError as error:  # of the only index that a change can violate
                raise SlotTaken(str(changes.slot)) from error

    @_retry_deadlocks
    def report(self, job_id: str, token: str, report: Report) -> bool:
        added = report.output.encode()
        assigned: dict[str, Any] = {"version": F("version") + 1, "updated_time": self._now()}
        if report.progress is not None:
            assigned["progress"] = report.progress
        if report.text is not None:
            assigned["status_text"] = report.text
        if report.truncated:
            assigned["output_truncated"] = 1
        if report.cursor is not UNSET:
            assigned |= {"cursor": dump_result(report.cursor), "attempt": 1}
        if added:
            assigned["output_size"] = F("output_size") + len(added)
        with self._connection(job_id) as alias:
            rows = Row.objects.using(alias).filter(id=job_id)
            running = rows.filter(token=token, status=_RUNNING)
            if not added and report.tail is UNSET:
                return bool(running.update(**assigned))
            with atomic(alias, savepoint=False):
                if not running.update(**assigned):
                    return False
                seq, size = rows.values_list("seq", "output_size").get()
                start = size - len(added)
                pieces = [(start + position, chunk) for position, chunk in cut(added)]
                written = Chunk.objects.using(alias)
                if report.tail is not UNSET:
                    written.filter(job=seq, start__lt=0).delete()
                    pieces += tail_rows(report.tail)
                written.bulk_create([Chunk(job=seq, start=position, piece=chunk) for position, chunk in pieces])
        return True

    @_retry_deadlocks
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
        now = self._now()
        until = now + span(lease)
        with self._connection() as alias:
            rows = Row.objects.using(alias)
            due = rows.filter(Q(lease_until=None) | Q(lease_until__lte=now), token=None, start_time__lte=now)
            if labels is not None:
                due = due.filter(label__in=labels)
            if full:
                due = due.filter(Q(slot__isnull=False) | ~Q(queue__in=full))
            if queues is not None:
                due = due.filter(queue__in=queues)
            first = due.order_by("start_time", "seq").values_list("start_time", "seq", "version")
            # A search for each status, so that each reads the index in its order. Few jobs are between two slices.
            searches = [first.filter(status=status)[:limit] for status in _LIVING]
            found = sorted([row for search in searches for row in search])[:limit]
            if not found:
                return []
            leased = {"lessee": lessee, "lease_until": until, "version": F("version") + 1}
            # Read in the same transaction, so that no later change to a job shows up as part of the lease.
            with atomic(alias, savepoint=False):
                if _skips_locked(alias):
                    # Neither another monitor that takes jobs at the moment, nor a transaction of the application that has
                    # locked one, must hold up the others.
                    locking = [
                        _lock(alias, first.filter(status=status))[:limit]
                        for status, search in zip(_LIVING, searches, strict=True)
                        if search
                    ]
                    found = sorted([row for search in locking for row in search])[:limit]
                    taken = [seq for _, seq, _ in found]
                    rows.filter(seq__in=taken).update(**leased)
                else:
                    taken = [seq for _, seq, version in found if rows.filter(seq=seq, version=version).update(**leased)]
                return self._read(rows.filter(seq__in=taken).order_by("start_time", "seq"), body=True)

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        alias = alias_for_leases(self._inherited.get())
        connection = connections[alias]
        may_have_died = connection.connection is not None and connection.vendor != "sqlite"
        try:
            return renew_unlocked(tokens, lambda tokens: self._renew(alias, tokens, lease, alive))
        except StoreUnavailable:
            if not may_have_died or connection.in_atomic_block:
                raise
            return renew_unlocked(
                tokens, lambda tokens: self._renew(alias, tokens, lease, alive)
            )  # on another connection

    @_retry_deadlocks
    def _renew(self, alias: str, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> Renewed:
        now = self._now()
        rows = Row.objects.using(alias).filter(id__in=list(tokens), status=_RUNNING)
        # All renewals lock rows in the same order, and none waits for a row that a transaction of the application has locked.
        skips_locked = _skips_locked(alias)
        locked = _lock(alias, rows.order_by("seq")) if skips_locked else rows
        # In SQLite, which has no such locks, a transaction that reads before it writes may fail as locked.
        block: AbstractContextManager[Any] = atomic(alias, savepoint=False) if skips_locked else nullcontext()
        with self._connection(alias=alias), block:
            running = dict(_with_token(locked, tokens))
            if running:
                signs = [seq for job_id, seq in running.items() if job_id in alive]
                sign: Any = F("updated_time")
                if signs:
                    sign = Case(When(seq__in=signs, then=now), default=sign, output_field=BigIntegerField())
                matching = rows.filter(seq__in=running.values(), token__in=[tokens[job_id] for job_id in running])
                renewed = matching.update(lease_until=now + span(lease), updated_time=sign)
                if renewed < len(running):  # in SQLite, some have ended since they were read
                    running = dict(_with_token(rows, tokens))
        left = frozenset(tokens).difference(running)
        if not skips_locked or not left:
            return left, frozenset()
        with self._connection(alias=alias):
            still = frozenset([job_id for job_id, _ in _with_token(rows.filter(id__in=left), tokens)])
            return left - still, still

    def find(self, query: Query) -> list[Job]:
        with self._connection() as alias:
            return self._read(self._matching(alias, query)[: query.limit])

    def count(self, query: Query) -> int:
        with self._connection() as alias:
            return int(self._matching(alias, query)[: query.limit].count())

    def _matching(self, alias: str, query: Query) -> Any:
        """The rows that match a query, newest first."""
        rows = Row.objects.using(alias).order_by("-seq")
        if query.overdue:
            rows = rows.filter(self._overdue())
        status = None if query.status is None else int(query.status)
        each = {"owner": query.owner, "scope": query.scope, "root": query.root, "queue": query.queue, "status": status}
        rows = rows.filter(**{name: value for name, value in each.items() if value is not None})
        if query.labels is not None:
            rows = rows.filter(label__in=query.labels)
        if query.statuses is not None:
            rows = rows.filter(status__in=[int(status) for status in query.statuses])
        if query.text:
            rows = rows.filter(contains("title", query.text) | contains("path", query.text))
        if query.expired is not None:
            rows = rows.filter(self._expired(*query.expired))
        if query.has_file:
            rows = rows.filter(file__isnull=False)
        return rows if query.before is None and query.before_time is None else self._page(alias, rows, query)

    def _page(self, alias: str, rows: Any, query: Query) -> Any:
        """Those of the rows that come after ``before`` or ``before_time``."""
        before = Row.objects.using(alias).filter(id=query.before).values_list("seq", flat=True)
        seq = None if query.before is None else before.first()
        if seq is not None:
            return rows.filter(seq__lt=seq)
        return (
            rows.none() if query.before_time is None else rows.filter(created_time__lt=microseconds(query.before_time))
        )

    @_retry_deadlocks
    def delete(self, job_id: str) -> bool:
        with self._connection(job_id) as alias:
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
            self._purge(Q(status=int(status), end_time__lt=self._now() + -span(age)) & label)
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

    @_retry_deadlocks
    def _purge_batch(self, ended: Q) -> tuple[int, bool]:
        """Delete some jobs, and return how many, and whether none is left."""
        with self._connection() as alias:
            rows = Row.objects.using(alias).filter(ended, file=None).order_by("end_time")
            aged = list(rows.values_list("seq", "output_size")[:PURGED_AT_ONCE])
            batch = [seq for seq, _ in aged[: purge_batch(size for _, size in aged)]]
            with atomic(alias, savepoint=False):
                Chunk.objects.using(alias).filter(job__in=batch).delete()
                removed: int = Row.objects.using(alias).filter(seq__in=batch).delete()[0]
        return removed, len(batch) == len(aged) < PURGED_AT_ONCE

    def _expired(self, completed_age: float, ended_age: float) -> Q:
        expired = Q(seq=None)  # no job
        for status, age in kept_for(completed_age, ended_age).items():
            expired |= Q(status=int(status), end_time__lt=self._now() + -span(age))
        return expired

    def _overdue(self) -> Q:
        """`backjob.lifecycle.late`, so that the index of limits bounds the search of the STARTED jobs."""
        now = self._now()
        is_past = Q(deliver_by__lte=now) | Q(expires__lte=now)
        started = Q(deliver_by=None, expires__lte=now) | (Q(deliver_by__isnull=False) & is_past)
        limit = (Value(now) if isinstance(now, int) else now) - F("error_timeout")
        is_silent = ~Q(token=TIMED_OUT) & Q(error_timeout__gt=0, updated_time__lte=limit)
        running = (Q(token=None) & is_past) | (Q(token__isnull=False) & (Q(lease_until__lte=now) | is_silent))
        return (Q(status=_STARTED) & started) | (Q(status=_RUNNING) & running)

    def _now(self) -> Any:
        return _DatabaseNow() if self._clock is None else microseconds(self._clock.now())

    def _one(self, alias: str, job_id: str, *, body: bool = False) -> Job | None:
        return next(iter(self._read(Row.objects.using(alias).filter(id=job_id), body=body)), None)

    def _read(self, rows: Any, *, body: bool = False) -> list[Job]:
        names = (*COLUMNS, "body") if body else COLUMNS
        if self._clock is not None:
            now = self._clock.now()
            return [row_job(_plain(row, body=body), now) for row in rows.values_list(*names)]
        timed = rows.annotate(read_time=_DatabaseNow()).values_list(*names, "read_time")
        return [row_job(_plain(row, body=body), moment(read_time)) for *row, read_time in timed]

    @contextmanager
    def _connection(self, job_id: str | None = None, alias: str | None = None) -> Iterator[str]:
        """Yield the alias, by default the one to use for this job. Errors of the database become backjob's."""
        alias = alias or alias_for(self._inherited.get(), job_id)
        try:
            yield alias
        except IntegrityError as error:
            raise InvalidRequest("id", "a job with this id exists already") from error
        except (DataError, UnicodeEncodeError, ValueError) as error:
            if isinstance(error, InvalidRequest):
                raise
            raise InvalidRequest("text", f"this can't be stored: {error}") from error
        except (OperationalError, InterfaceError) as error:
            if error.args[:1] and error.args[0] in _REFUSED_VALUES:
                raise InvalidRequest("text", f"this can't be stored: {error}") from error
            connection = connections[alias]
            if "no such table" in str(error) or "no such column" in str(error):
                raise self._unmigrated(error) from error
            if not connection.in_atomic_block:
                if _is_deadlock(error.__cause__):
                    raise _Deadlock(f"the database {self.using!r}: {error}") from error
                connection.close()  # the next call opens another one
            raise StoreUnavailable(f"the database {self.using!r}: {error}") from error
        except ProgrammingError as error:
            raise self._unmigrated(error) from error

    def _unmigrated(self, error: Exception) -> StoreUnusable:
        return StoreUnusable(f"the database {self.using!r}: {error}; did you run the migrations of backjob?")


def _skips_locked(alias: str) -> bool:
    """Whether the database can leave out rows that another transaction has locked. SQLite locks no rows."""
    return bool(connections[alias].features.has_select_for_update_skip_locked)


def _lock(alias: str, rows: Any) -> Any:
    """The rows, locked until the end of the transaction, without those that another one has locked."""
    return rows.select_for_update(skip_locked=True, no_key=connections[alias].features.has_select_for_no_key_update)


def _with_token(rows: Any, tokens: Mapping[str, str]) -> list[tuple[str, int]]:
    """The ids of those rows that have the job's token in ``tokens``, each with its number."""
    found = rows.values_list("id", "seq", "token")
    return [(job_id, seq) for job_id, seq, token in found if tokens.get(job_id) == token]


def _is_deadlock(error: BaseException | None) -> bool:
    """Whether the driver reports a deadlock or a serialization failure."""
    if getattr(error, "sqlstate", None) in ("40001", "40P01"):  # PostgreSQL's
        return True
    return error is not None and error.args[:1] == (1213,)  # MariaDB's and MySQL's


def _plain(row: Iterable[Any], *, body: bool) -> tuple[Any, ...]:
    """Return a row whose binary columns are bytes, whatever type the driver returns, with None for an unread body."""
    values = [*row] if body else [*row, None]
    for index in (_SEALED, -1):
        values[index] = None if values[index] is None else bytes(values[index])
    return tuple(values)
