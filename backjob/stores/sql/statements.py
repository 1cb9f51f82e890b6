"""The statements of `SQLStore`. Each is built once, so that SQLAlchemy compiles it once.

A selected row has the columns of `backjob.stores.rows`, the body or NULL, and the time of reading. Parameters are named
``new_…`` for the value that a column gets, and ``old_…`` for the value that it must have, because SQLAlchemy takes a
column's bare name for an assignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.dialects import postgresql

from backjob.model import Query, Status
from backjob.stores.columns import JOB_COLUMNS
from backjob.stores.rows import SERVER_NOW, After
from backjob.stores.sql.schema import Tables

Values: TypeAlias = dict[str, Any]
Selecting: TypeAlias = "sa.Select[*tuple[Any, ...]]"
Condition: TypeAlias = sa.ColumnElement[bool]

_SERVER_NOW: Final = {**SERVER_NOW, "mariadb": SERVER_NOW["mysql"]}
_INSERTED: Final = (
    *[column.name for column in JOB_COLUMNS if column.draft or column.default is not None],
    *("merge_key", "request", "body"),
)
_ZERO, _ONE, _TWO = (sa.literal_column(text, sa.SmallInteger()) for text in "012")


def _big(name: str) -> sa.BindParameter[int]:
    return sa.bindparam(name, type_=sa.BigInteger())


def _list(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, expanding=True)


_SIZE: Final = _big("new_size")


def named_values(prefix: str, row: Mapping[str, Any]) -> Values:
    """A row's values under the names of the parameters."""
    return {
        f"{prefix}_{name}": value.microseconds if isinstance(value, After) else value for name, value in row.items()
    }


@frozen
class Due:
    """The statements about due jobs: whether there are any, to lock them, and to lease and return them (or None)."""

    any: Selecting
    lock: Selecting
    take: Any


class Statements:
    """The statements for these tables in this kind of database.

    With ``server_time`` the statements use the server's clock; otherwise each has a parameter ``now``.
    """

    def __init__(self, tables: Tables, kind: str, *, server_time: bool) -> None:
        self._jobs, self._output = tables.jobs, tables.output
        self._column = column = tables.jobs.c
        self.server_time = server_time
        self.can_return_updates = kind == "postgresql"
        """Whether a single statement can change rows, and return them or write others with them."""
        self._now: sa.ColumnElement[int] = (
            sa.literal_column(_SERVER_NOW[kind], sa.BigInteger()) if server_time else _big("now")
        )
        self._whole = [*tables.read, column.body, self._now.label("read_time")]
        self._selected = [*tables.read, sa.null().label("no_body"), self._now.label("read_time")]
        self._changes: dict[object, sa.Update] = {}
        self._searches: dict[object, Selecting] = {}
        self._inserts = [
            (insert, insert.returning(column.created_time)) for insert in map(self._make_insert, (False, True))
        ]
        self.get = sa.select(*self._selected).where(column.id == sa.bindparam("old_id"))
        self.get_with_body = sa.select(*self._whole).where(column.id == sa.bindparam("old_id"))
        self.created_time = sa.select(column.created_time).where(column.id == sa.bindparam("old_id"))
        self.holder = sa.select(*self._selected).where(column.merge_key == sa.bindparam("key"))
        self.report = self._make_report()
        self.report_output = self._make_report_output()
        self.append = self._make_append()
        self.locate = sa.select(column.seq, column.output_truncated).where(column.id == sa.bindparam("old_id"))
        self.chunks = self._make_chunks()
        self.lease = self._make_lease().where(column.seq.in_(_list("batch")))
        self.due = self._make_due(self._is_due())
        self.due_by_label = self._make_due([*self._is_due(), column.label.in_(_list("labels"))])
        self.beat = self._make_beat()
        self.ageing = (
            sa.select(column.seq, column.output_size, column.end_time)
            .where(
                column.status == sa.bindparam("status"),
                column.status >= _TWO,
                column.end_time >= sa.bindparam("since"),
                column.end_time < self._now - _big("age"),
            )
            .order_by(column.end_time, column.seq)
            .limit(sa.bindparam("limit"))
        )
        self.ageing_by_label = self.ageing.where(column.label == sa.bindparam("label"))
        self.drop_jobs = sa.delete(self._jobs).where(column.seq.in_(_list("batch")), column.status >= _TWO)
        self.drop_output = sa.delete(self._output).where(self._output.c.job.in_(_list("batch")))

    def insert(self, *, is_fixed: bool, returns: bool) -> sa.Insert:
        """The statement for a new row; with ``returns`` it returns ``created_time``, if the server can.

        With ``is_fixed``, ``start_time`` and ``deliver_by`` are moments, otherwise offsets from now.
        """
        return self._inserts[is_fixed][returns]

    def _make_insert(self, is_fixed: bool) -> sa.Insert:
        row: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in _INSERTED}
        row["created_time"] = row["updated_time"] = self._now
        row["lease_until"] = self._later("lease_until")
        for name in ("start_time", "deliver_by"):
            row[name] = _big(f"new_{name}") if is_fixed else self._later(name)
        if not self.can_return_updates:  # MariaDB: a merge key that another job has raises an error
            return sa.insert(self._jobs).values(row)
        merge_key = self._column.merge_key
        statement = postgresql.insert(self._jobs).values(row)
        return statement.on_conflict_do_nothing(index_elements=[merge_key], index_where=merge_key.is_not(None))

    def _later(self, name: str) -> sa.ColumnElement[int]:
        """A parameter that is an offset from now or NULL."""
        return self._now + _big(f"new_{name}")

    def change(self, assigned: Mapping[str, Any], expected: Iterable[str]) -> sa.Update:
        """A compare-and-set of these columns. It returns the job if the database can."""
        kinds = tuple([(name, isinstance(value, After)) for name, value in assigned.items()])
        shape = (kinds, tuple(expected))
        statement = self._changes.get(shape)
        if statement is None:
            column = self._column
            row: dict[str, Any] = {"version": column.version + _ONE}
            for name, is_later in kinds:
                row[name] = self._later(name) if is_later else sa.bindparam(f"new_{name}")
            conditions = [column[name] == sa.bindparam(f"old_{name}") for name in ("id", *shape[1])]
            statement = sa.update(self._jobs).values(row).where(*conditions)
            if self.can_return_updates:
                statement = statement.returning(*self._selected)
            self._changes[shape] = statement
        return statement

    def _make_report(self) -> sa.Update:
        column = self._column
        row: dict[str, Any] = {
            "version": column.version + _ONE,
            "updated_time": self._now,
            "progress": sa.func.coalesce(sa.bindparam("new_progress", type_=sa.Integer()), column.progress),
            "status_text": sa.func.coalesce(
                sa.bindparam("new_text", type_=column.status_text.type), column.status_text
            ),
            "output_size": column.output_size + _SIZE,
            "output_truncated": sa.func.greatest(
                column.output_truncated, sa.bindparam("new_truncated", type_=sa.SmallInteger())
            ),
        }
        is_running = (column.token == sa.bindparam("old_token"), column.status == _ONE)
        return sa.update(self._jobs).values(row).where(*is_running, column.id == sa.bindparam("old_id"))

    def _make_report_output(self) -> sa.Insert | None:
        """A report with one chunk of output, or None if one statement can't write both."""
        if not self.can_return_updates:
            return None
        reported = self.report.returning(self._column.seq, self._column.output_size).cte("reported")
        statement = self._insert_chunk(sa.select(reported.c.seq, reported.c.output_size - _SIZE, self._chunk))
        return statement.execution_options(preserve_rowcount=True)

    def _make_append(self) -> sa.Insert:
        """One chunk of the output whose size a report has just added, at its position within that output."""
        column = self._column
        start = column.output_size - _SIZE + _big("new_position")
        return self._insert_chunk(sa.select(column.seq, start, self._chunk).where(column.id == sa.bindparam("old_id")))

    def _insert_chunk(self, chunk: Selecting) -> sa.Insert:
        return sa.insert(self._output).from_select(["job", "start", "piece"], chunk)

    @property
    def _chunk(self) -> sa.BindParameter[bytes]:
        return sa.bindparam("new_chunk", type_=self._output.c.piece.type)

    def _make_chunks(self) -> Selecting:
        # Apart from `locate`, because MariaDB 10.11 crashes on the outer join of both.
        output = self._output.c
        job = output.job == _big("job")
        first = sa.select(sa.func.max(output.start)).where(job, output.start <= _big("begin"))
        return (
            sa.select(output.start, output.piece)
            .where(
                job,
                output.start < _big("end"),
                output.start >= sa.func.coalesce(first.scalar_subquery().correlate(None), _ZERO),
            )
            .order_by(output.start)
        )

    def _is_due(self) -> list[Condition]:
        column = self._column
        return [
            column.status == _ZERO,
            column.status < _TWO,
            column.start_time <= self._now,
            sa.or_(column.lease_until.is_(None), column.lease_until <= self._now),
        ]

    def _make_due(self, due: list[Condition]) -> Due:
        column = self._column
        first = sa.select(column.seq).where(*due).order_by(column.start_time, column.seq).limit(sa.bindparam("limit"))
        return Due(
            any=sa.select(sa.select(column.seq).where(*due).exists().label("any_due")),
            lock=first.with_only_columns(*self._whole, column.seq).with_for_update(skip_locked=True),
            take=self._make_take_due(first),
        )

    def _make_lease(self) -> sa.Update:
        row: dict[str, Any] = {
            "version": self._column.version + _ONE,
            "lessee": sa.bindparam("new_lessee"),
            "lease_until": sa.bindparam("new_lease_until"),
        }
        return sa.update(self._jobs).values(row)

    def _make_take_due(self, first_due: Selecting) -> Any:
        """Lease and return the due jobs, or None if one statement can't do both."""
        if not self.can_return_updates:
            return None
        column = self._column
        due = first_due.with_for_update(skip_locked=True).cte("due")
        statement = self._make_lease().values(lease_until=self._later("lease_until")).where(column.seq == due.c.seq)
        return statement.returning(*self._whole, column.seq)

    def _make_beat(self) -> sa.Update:
        column = self._column
        row: dict[str, Any] = {"version": column.version + _ONE, "updated_time": self._now}
        pairs = sa.tuple_(column.id, column.token).in_(_list("pairs"))
        return sa.update(self._jobs).values(row).where(column.id.in_(_list("ids")), pairs, column.status == _ONE)

    def find(self, query: Query) -> Selecting:
        """The search for a query. Its parameters are named as the query's fields; ``label`` is one of its labels.

        The number of the row in the order of creation comes last.
        """
        return self._search(query, is_count=False)

    def count(self, query: Query) -> Selecting:
        """The number of rows that `find` would return."""
        return self._search(query, is_count=True)

    def _search(self, query: Query, *, is_count: bool) -> Selecting:
        shape = (
            is_count,
            query.labels is None,
            query.root is None,
            query.status if query.overdue else query.status is not None and query.status.is_final,
            query.status is None,
            query.overdue,
            query.owner is None,
            query.scope is None,
            query.scope == "",
            query.before is None,
        )
        statement = self._searches.get(shape)
        if statement is None:
            statement = self._make_search(query)
            if is_count:
                found = statement.with_only_columns(self._column.seq).order_by(None).subquery()
                statement = sa.select(sa.func.count()).select_from(found)
            self._searches[shape] = statement
        return statement

    def _make_search(self, query: Query) -> Selecting:
        column = self._column
        conditions: list[Condition] = []
        if query.overdue:
            conditions += self._is_overdue(query.status)
        elif query.status is not None:
            conditions += [
                column.status == sa.bindparam("status"),
                column.status >= _TWO if query.status.is_final else column.status < _TWO,
            ]
        if query.owner is not None:
            conditions.append(column.owner == sa.bindparam("owner"))
        if query.scope is not None:
            conditions.append(column.scope == sa.bindparam("scope"))
            if query.scope:
                conditions.append(column.scope != sa.literal_column("''"))
        if query.labels is not None:
            conditions.append(column.label == sa.bindparam("label"))
        if query.root is not None:
            conditions.append(column.root == sa.bindparam("root"))
        if query.before is not None:
            before = self._jobs.alias("before")
            conditions.append(
                column.seq < sa.select(before.c.seq).where(before.c.id == sa.bindparam("before")).scalar_subquery()
            )
        found = sa.select(*self._selected, column.seq).where(*conditions)
        return found.order_by(column.seq.desc()).limit(sa.bindparam("limit"))

    def _is_overdue(self, status: Status | None) -> list[Condition]:
        column, now = self._column, self._now
        # deliver_by is never before start_time, whose index therefore bounds the search.
        started = sa.and_(column.status == _ZERO, column.start_time <= now, column.deliver_by <= now)
        running = sa.and_(column.status == _ONE, column.updated_time + column.error_timeout <= now)
        late: dict[Status | None, Condition] = {
            None: sa.or_(started, running),
            Status.STARTED: started,
            Status.IN_PROGRESS: running,
        }
        return [column.status < _TWO, late.get(status, _ZERO == _ONE)]
