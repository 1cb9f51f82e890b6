"""Leasing waiting jobs, and renewing the leases of running ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, Executable

from backjob.model import Job
from backjob.stores.columns import COLUMNS
from backjob.stores.renewal import Renewed, renew_unlocked
from backjob.stores.rows import moment, row_job, span
from backjob.stores.sql.database import Database
from backjob.stores.sql.parameters import Values
from backjob.stores.sql.statements import Statements
from backjob.stores.steps import leased

_DUE_FIRST: Final = itemgetter(COLUMNS.index("start_time"), -1)


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
        if queues is not None and not queues:
            return []
        values = self._values(new_lessee=lessee, new_lease_until=span(lease), limit=limit)
        due = self._sql.leases.due(by_label=labels is not None, has_full=bool(full), by_queue=queues is not None)
        if labels is not None:
            values["labels"] = sorted(labels)
        if full:
            values["full"] = sorted(full)
        if queues is not None:
            values["queues"] = sorted(queues)
        if due.take is not None:
            rows = sorted(self._select(due.take, values), key=_DUE_FIRST)
            return [row_job(row[:-2], moment(row[-2])) for row in rows]
        # Usually no job is due, and this search takes no lock.
        has_due = self._select(due.any, values)[0]
        locks = [lock for lock, is_due in zip(due.lock, has_due, strict=True) if is_due]
        if not locks:
            return []
        return self._database.transact(
            lambda connection: self._lock_and_lease(connection, locks, values, lessee, lease)
        )

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        renew = self._renew if self._sql.can_return_updates else self._renew_in_transaction
        return renew_unlocked(tokens, lambda tokens: renew(tokens, lease, alive))

    def _renew(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> Renewed:
        beats = [{"id": job_id, "token": token, "alive": job_id in alive} for job_id, token in tokens.items()]
        statement, values = self._sql.leases.beat, self._values(beats=json.dumps(beats), lease=span(lease))
        rows: Any = self._database.do(lambda connection: connection.execute(statement, values).all(), separate=True)
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
        self, connection: Connection, locks: Sequence[Executable], values: Values, lessee: str, lease: float
    ) -> list[Job]:
        rows = sorted([row for lock in locks for row in connection.execute(lock, values)], key=_DUE_FIRST)
        del rows[values["limit"] :]
        if not rows:
            return []
        now = rows[0][-2]
        values = {"new_lessee": lessee, "new_lease_until": now + span(lease), "batch": [row[-1] for row in rows]}
        connection.execute(self._sql.leases.lease, values)
        read_time = moment(now)
        return [leased(row_job(row[:-2], read_time), lessee, lease, read_time) for row in rows]

    def _select(self, statement: Executable, values: Values) -> Sequence[Any]:
        return self._database.do(lambda connection: connection.execute(statement, values).all())
