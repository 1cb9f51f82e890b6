"""Leasing waiting jobs, and renewing the leases of running ones."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

from django.db import connections
from django.db.models import BigIntegerField, Case, F, Q, When
from django.db.transaction import atomic

from backjob.django.connections import alias_for_leases
from backjob.django.database import Database, retry_deadlocks
from backjob.django.models import Job as Row
from backjob.errors import StoreUnavailable
from backjob.model import Job, Status
from backjob.stores.renewal import Renewed, renew_unlocked
from backjob.stores.rows import span

_RUNNING: Final = int(Status.IN_PROGRESS)
_LIVING: Final = (int(Status.STARTED), _RUNNING)


class Leasing:
    """`DjangoStore.take_due` and `DjangoStore.beat`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retry_deadlocks
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
        now = self._database.now()
        until = now + span(lease)
        with self._database.connection() as alias:
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
                if skips_locked(alias):
                    # Neither another monitor that takes jobs at the moment, nor a transaction of the application that has
                    # locked one, must hold up the others.
                    locking = [
                        lock(alias, first.filter(status=status))[:limit]
                        for status, search in zip(_LIVING, searches, strict=True)
                        if search
                    ]
                    found = sorted([row for search in locking for row in search])[:limit]
                    taken = [seq for _, seq, _ in found]
                    rows.filter(seq__in=taken).update(**leased)
                else:
                    taken = [seq for _, seq, version in found if rows.filter(seq=seq, version=version).update(**leased)]
                return self._database.read(rows.filter(seq__in=taken).order_by("start_time", "seq"), body=True)

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        alias = alias_for_leases(self._database.own_alias())
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

    @retry_deadlocks
    def _renew(self, alias: str, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> Renewed:
        now = self._database.now()
        rows = Row.objects.using(alias).filter(id__in=list(tokens), status=_RUNNING)
        # All renewals lock rows in the same order, and none waits for a row that a transaction of the application has locked.
        skips = skips_locked(alias)
        locked = lock(alias, rows.order_by("seq")) if skips else rows
        # In SQLite, which has no such locks, a transaction that reads before it writes may fail as locked.
        block: AbstractContextManager[Any] = atomic(alias, savepoint=False) if skips else nullcontext()
        with self._database.connection(alias=alias), block:
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
        if not skips or not left:
            return left, frozenset()
        with self._database.connection(alias=alias):
            still = frozenset([job_id for job_id, _ in _with_token(rows.filter(id__in=left), tokens)])
            return left - still, still


def skips_locked(alias: str) -> bool:
    """Whether the database can leave out rows that another transaction has locked. SQLite locks no rows."""
    return bool(connections[alias].features.has_select_for_update_skip_locked)


def lock(alias: str, rows: Any) -> Any:
    """The rows, locked until the end of the transaction, without those that another one has locked."""
    return rows.select_for_update(skip_locked=True, no_key=connections[alias].features.has_select_for_no_key_update)


def _with_token(rows: Any, tokens: Mapping[str, str]) -> list[tuple[str, int]]:
    """The ids of those rows that have the job's token in ``tokens``, each with its number."""
    found = rows.values_list("id", "seq", "token")
    return [(job_id, seq) for job_id, seq, token in found if tokens.get(job_id) == token]
