"""Leasing waiting jobs, and renewing the leases of running ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection

from backjob.model import Job
from backjob.stores.renewal import Renewed, renew_unlocked
from backjob.stores.rows import microseconds, span
from backjob.stores.sql.database import Database
from backjob.stores.sql.parameters import Values, numbered_values
from backjob.stores.sql.prepared import Prepared
from backjob.stores.sql.statements import Statements
from backjob.stores.steps import leased


class Leasing:
    """`SQLStore.take_due` and `SQLStore.beat`. ``values`` adds what every statement needs to its parameters."""

    def __init__(self, database: Database, sql: Statements, values: Callable[..., Values]) -> None:
        self._database = database
        self._sql = sql
        self._values = values

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
        if (queues is not None and not queues) or (labels is not None and not labels):
            return []
        values = self._values(new_lessee=lessee, new_lease_until=span(lease), limit=limit)
        for name, given in (("label", labels), ("full", full), ("queue", queues)):
            values |= numbered_values(name, given or ())
        due = self._sql.leases.due(labels=len(labels or ()), full=len(full), queues=len(queues or ()))
        if due.take is not None:
            return [job for job, _ in self._sorted(self._select(due.take, values))]
        # Usually no job is due, and this search takes no lock.
        has_due = self._select(due.any, values)[0]
        locks = [lock for lock, is_due in zip(due.lock, has_due, strict=True) if is_due]
        if not locks:
            return []
        return self._database.transact(
            lambda connection: self._lock_and_lease(connection, locks, values, lessee, lease)
        )

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        beat = self._sql.leases.beat
        renew = self._renew_in_transaction if beat is None else partial(self._renew, beat)
        return renew_unlocked(tokens, lambda tokens: renew(tokens, lease, alive))

    def _renew(self, beat: Prepared, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> Renewed:
        beats = [{"id": job_id, "token": token, "alive": job_id in alive} for job_id, token in tokens.items()]
        values = self._values(beats=json.dumps(beats), lease=span(lease))
        rows = self._database.do(lambda connection: beat.rows(connection, values), separate=True)
        stale = frozenset([job_id for job_id, is_stale in rows if is_stale])
        return stale, frozenset([job_id for job_id, _ in rows]) - stale

    def _renew_in_transaction(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> Renewed:
        sql, values = self._sql.leases, self._values(lease=span(lease))
        asked = {"ids": list(tokens), "pairs": list(tokens.items())}

        def step(connection: Connection) -> frozenset[str]:
            rows = connection.execute(sql.lock_running, asked).all()
            batch = [seq for seq, _ in rows]
            # A list must not be empty; no job has the number 0.
            signs = [seq for seq, job_id in rows if job_id in alive] or [0]
            if batch:
                connection.execute(sql.renew, values | {"batch": batch, "alive": signs})
            return frozenset([job_id for _, job_id in rows])

        left = frozenset(tokens) - self._database.transact(step, separate=True)
        if not left:
            return left, left
        asked = {"ids": list(left), "pairs": [(job_id, tokens[job_id]) for job_id in left]}
        rows = self._database.do(lambda connection: connection.execute(sql.running, asked).all(), separate=True)
        locked = frozenset([job_id for (job_id,) in rows])
        return left - locked, locked

    def _lock_and_lease(
        self, connection: Connection, locks: Sequence[Prepared], values: Values, lessee: str, lease: float
    ) -> list[Job]:
        found = self._sorted([row for lock in locks for row in lock.rows(connection, values)])[: values["limit"]]
        if not found:
            return []
        now = found[0][0].read_time
        batch = [seq for _, seq in found]
        until = microseconds(now) + span(lease)
        connection.execute(self._sql.leases.lease, {"new_lessee": lessee, "new_lease_until": until, "batch": batch})
        return [leased(job, lessee, lease, now) for job, _ in found]

    def _sorted(self, rows: Iterable[Any]) -> list[tuple[Job, int]]:
        """The jobs of rows, each with its number, the longest due first."""
        found = [(self._sql.reading.job(row), row[-1]) for row in rows]
        return sorted(found, key=lambda pair: (pair[0].start_time, pair[1]))

    def _select(self, statement: Prepared, values: Values) -> Sequence[Any]:
        return self._database.do(lambda connection: statement.rows(connection, values))
