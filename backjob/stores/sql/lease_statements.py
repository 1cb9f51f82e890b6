"""The statements that lease waiting jobs and renew the leases of running ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.dialects import postgresql

from backjob.stores.sql.parameters import ONE, TWO, ZERO, Condition, Selecting, big, list_of, one_of
from backjob.stores.sql.prepared import Prepared
from backjob.stores.sql.schema import Tables

Columns: TypeAlias = Sequence[sa.ColumnElement[Any]]


@frozen
class Due:
    """The statements about due jobs, by status: STARTED, and IN_PROGRESS for those between two slices.

    ``any`` says for each status whether there are any; ``lock`` locks the longest due of one status. ``take`` leases and
    returns those of both in one statement; it is None if the server can't do that.
    """

    any: Prepared
    lock: tuple[Prepared, Prepared]
    take: Prepared | None


class LeaseStatements:
    """The statements for these tables. ``whole`` are the columns of a job to deliver, ``now`` is the store's time in SQL."""

    def __init__(self, tables: Tables, whole: Columns, now: sa.ColumnElement[int], *, can_return_updates: bool) -> None:
        self._jobs = tables.jobs
        self._column = tables.jobs.c
        self._whole = whole
        self._now = now
        self._can_return_updates = can_return_updates
        self._due: dict[tuple[int, int, int], Due] = {}
        self.lease = self._make_lease().where(self._column.seq.in_(list_of("batch")))
        self.lock_running = self._make_lock_running()
        self.running = sa.select(self._column.id).where(*self._is_running())
        self.renew = self._make_renew()
        self.beat = self._make_beat()
        """Renews leases in one statement, and returns the other ids, each with whether it is stale; None if the server can't."""

    def due(self, *, labels: int, full: int, queues: int) -> Due:
        """The statements about due jobs with one of ``label``, of one of ``queue``, that are in none of the queues ``full`` or have a slot.

        The arguments are the numbers of these values, see `one_of`; none means any.
        """
        shape = (labels, full, queues)
        if shape not in self._due:
            self._due[shape] = self._make_due(labels, full, queues)
        return self._due[shape]

    # --- waiting jobs -----------------------------------------------------------------------------------------------

    def _make_due(self, labels: int, full: int, queues: int) -> Due:
        # A search for each status, so that each reads the index in its order. Only a few jobs are between two slices.
        column = self._column
        conditions = [
            column.status < TWO,
            column.token.is_(None),
            column.start_time <= self._now,
            sa.or_(column.lease_until.is_(None), column.lease_until <= self._now),
        ]
        if labels:
            conditions.append(one_of(column.label, "label", labels))
        if full:
            conditions.append(sa.or_(column.slot.is_not(None), ~one_of(column.queue, "full", full)))
        if queues:
            conditions.append(one_of(column.queue, "queue", queues))
        started, sliced = ([column.status == status, *conditions] for status in (ZERO, ONE))
        return Due(
            any=Prepared(
                sa.select(self._exists(started).label("any_started"), self._exists(sliced).label("any_sliced"))
            ),
            lock=(self._lock(started), self._lock(sliced)),
            take=self._make_take(started, sliced) if self._can_return_updates else None,
        )

    def _exists(self, conditions: list[Condition]) -> sa.ColumnElement[bool]:
        return sa.select(self._column.seq).where(*conditions).exists()

    def _first(self, conditions: list[Condition]) -> Selecting:
        column = self._column
        found = sa.select(column.seq, column.start_time).where(*conditions)
        ordered = found.order_by(column.start_time, column.seq).limit(sa.bindparam("limit"))
        return ordered.with_for_update(skip_locked=True)

    def _lock(self, conditions: list[Condition]) -> Prepared:
        return Prepared(self._first(conditions).with_only_columns(*self._whole, self._column.seq))

    def _make_lease(self) -> sa.Update:
        row: dict[str, Any] = {
            "version": self._column.version + ONE,
            "lessee": sa.bindparam("new_lessee"),
            "lease_until": sa.bindparam("new_lease_until"),
        }
        return sa.update(self._jobs).values(row)

    def _make_take(self, started: list[Condition], sliced: list[Condition]) -> Prepared:
        """Lease and return the longest due jobs. Those that are locked in addition are free again at once."""
        column = self._column
        locked = [self._first(started).cte("started"), self._first(sliced).cte("sliced")]
        both = sa.union_all(*[sa.select(found.c.seq, found.c.start_time) for found in locked]).subquery("both")
        due = sa.select(both.c.seq).order_by(both.c.start_time, both.c.seq).limit(sa.bindparam("limit")).cte("due")
        statement = self._make_lease().values(lease_until=self._now + big("new_lease_until"))
        return Prepared(statement.where(column.seq == due.c.seq).returning(*self._whole, column.seq))

    # --- running jobs -----------------------------------------------------------------------------------------------

    # All renewals lock rows in the same order, and none waits for a row that another transaction has locked: that could be
    # a long transaction of the application, and meanwhile the leases of all the other jobs would end.

    def _is_running(self) -> list[Condition]:
        column = self._column
        pairs = sa.tuple_(column.id, column.token).in_(list_of("pairs"))
        return [column.id.in_(list_of("ids")), pairs, column.status == ONE]

    def _make_lock_running(self) -> Selecting:
        column = self._column
        running = sa.select(column.seq, column.id).where(*self._is_running())
        return running.order_by(column.seq).with_for_update(skip_locked=True)

    def _make_renew(self) -> sa.Update:
        column = self._column
        row: dict[str, Any] = {
            "lease_until": self._now + big("lease"),
            "updated_time": sa.case((column.seq.in_(list_of("alive")), self._now), else_=column.updated_time),
        }
        return sa.update(self._jobs).values(row).where(column.seq.in_(list_of("batch")))

    def _make_beat(self) -> Prepared | None:
        if not self._can_return_updates:
            return None
        column = self._column
        # One parameter, whatever the number of jobs: the statement's text stays the same.
        beats = sa.cast(sa.bindparam("beats", type_=sa.Text()), postgresql.JSON)
        fields = (sa.column("id", sa.Text()), sa.column("token", sa.Text()), sa.column("alive", sa.Boolean()))
        given = sa.func.json_to_recordset(beats).table_valued(*fields).render_derived(name="given", with_types=True)
        asked = sa.select(given.c.id, given.c.token, given.c.alive).cte("asked")
        is_running = sa.and_(column.id == asked.c.id, column.token == asked.c.token, column.status == ONE)
        locked = sa.select(column.seq, asked.c.alive).where(is_running).order_by(column.seq)
        running = locked.with_for_update(of=self._jobs, key_share=True, skip_locked=True).cte("running")
        row: dict[str, Any] = {
            "lease_until": self._now + big("lease"),
            "updated_time": sa.case((running.c.alive, self._now), else_=column.updated_time),
        }
        update = sa.update(self._jobs).values(row).where(column.seq == running.c.seq)
        renewed = update.returning(column.id).cte("renewed")
        is_stale = ~sa.select(column.seq).where(is_running).correlate(asked).exists()
        is_left = asked.c.id.not_in(sa.select(renewed.c.id))
        return Prepared(sa.select(asked.c.id, is_stale.label("is_stale")).where(is_left))
