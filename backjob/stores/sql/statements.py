"""Every statement of `SQLStore`, built once: SQLAlchemy compiles each at its first use, and keeps it.

A selected job has the columns of `backjob.stores.rows`, the body, and at its end the moment of reading. Values have
names: ``new_…`` is what a column becomes, ``old_…`` what it must hold. (A column's bare name would mean to SQLAlchemy
that the column is to be set.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias, cast

from attrs import frozen
from sqlalchemy import (
    BigInteger,
    BindParameter,
    ColumnElement,
    Insert,
    Integer,
    Select,
    SmallInteger,
    Update,
    and_,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from backjob.model import Query, Status
from backjob.stores.columns import JOB_COLUMNS
from backjob.stores.rows import SERVER_NOW
from backjob.stores.sql.schema import Tables

__all__ = ["After", "Statements", "Values", "named_values"]

Values: TypeAlias = dict[str, Any]
Selecting: TypeAlias = "Select[*tuple[Any, ...]]"
Condition: TypeAlias = ColumnElement[bool]

_SERVER_NOW: Final = {**SERVER_NOW, "mariadb": SERVER_NOW["mysql"]}
_INSERTED: Final = (
    *[column.name for column in JOB_COLUMNS if column.draft or column.default is not None],
    *("merge_key", "request", "body"),
)
_SIZE: Final = bindparam("new_size", type_=BigInteger())
_ZERO, _ONE, _TWO = (literal_column(text, SmallInteger()) for text in "012")


@frozen
class After:
    """So many microseconds after the database's own now."""

    microseconds: int

    def __add__(self, more: int) -> After:
        return After(self.microseconds + more)


def named_values(prefix: str, row: Mapping[str, Any]) -> Values:
    """A row's values under the names that statements know them by."""
    return {
        f"{prefix}_{name}": value.microseconds if isinstance(value, After) else value for name, value in row.items()
    }


class Statements:
    """The statements for these tables in this kind of database.

    ``server_time``: its own clock is the store's; else each statement takes the present as a value, ``now``.
    """

    def __init__(self, tables: Tables, kind: str, *, server_time: bool) -> None:
        self._jobs, self._output = tables.jobs, tables.output
        self._column = column = tables.jobs.c
        self._kind = kind
        self.server_time = server_time and kind in _SERVER_NOW
        self._now: ColumnElement[int] = (
            literal_column(_SERVER_NOW[kind], BigInteger())
            if self.server_time
            else bindparam("now", type_=BigInteger())
        )
        self._reading = [*tables.read, self._now.label("read_time")]
        self._changes: dict[object, Update] = {}
        self._searches: dict[object, Selecting] = {}
        self.returns_updates = kind in ("postgresql", "sqlite")
        self.takes_at_once = kind == "postgresql"
        self._inserts = [
            (insert, insert.returning(column.created_time)) for insert in map(self._inserting, (False, True))
        ]
        self.get = select(*self._reading).where(column.id == bindparam("old_id"))
        self.created_time = select(column.created_time).where(column.id == bindparam("old_id"))
        self.holder = select(*self._reading).where(column.merge_key == bindparam("key"))
        self.report = self._reporting()
        self.report_output = self._reporting_output()
        self.append = self._appending()
        self.locate = select(column.seq, column.output_truncated).where(column.id == bindparam("old_id"))
        self.pieces = self._reading_pieces()
        due = self._due()
        self.any_due = select(select(column.seq).where(*due).exists().label("any_due"))
        first_due = select(column.seq).where(*due).order_by(column.start_time, column.seq).limit(bindparam("limit"))
        self.lock_due = first_due.with_only_columns(*self._reading, column.seq).with_for_update(skip_locked=True)
        self.lease = self._leasing().where(column.seq.in_(_several("batch")))
        self.take_due = self._taking(first_due)
        self.beat = self._beating()
        self.ageing = (
            select(column.seq, column.output_size, column.end_time)
            .where(
                column.status == bindparam("status"),
                column.status >= _TWO,
                column.end_time >= bindparam("since"),
                column.end_time < self._now - bindparam("age", type_=BigInteger()),
            )
            .order_by(column.end_time, column.seq)
            .limit(bindparam("limit"))
        )
        self.drop_jobs = delete(self._jobs).where(column.seq.in_(_several("batch")), column.status >= _TWO)
        self.drop_output = delete(self._output).where(self._output.c.job.in_(_several("batch")))

    # --- create -----------------------------------------------------------------------------------------------------

    def insert(self, *, is_fixed: bool, returns: bool) -> Insert:
        """A new row. It may return ``created_time``, where the server knows how to.

        ``is_fixed``: the times when the job is due and when it is too late are moments, not counted from now.
        """
        return self._inserts[is_fixed][returns]

    def _inserting(self, is_fixed: bool) -> Insert:
        row: dict[str, Any] = {name: bindparam(f"new_{name}") for name in _INSERTED}
        row["created_time"] = row["updated_time"] = self._now
        row["lease_until"] = self._later("lease_until")
        for name in ("start_time", "deliver_by"):
            row[name] = bindparam(f"new_{name}", type_=BigInteger()) if is_fixed else self._later(name)
        makers: dict[str, Any] = {"postgresql": postgresql.insert, "sqlite": sqlite.insert}
        inserting: Any = makers.get(self._kind, insert)(self._jobs).values(row)
        if self._kind in makers:  # elsewhere a merge key that is held shows as an error
            merge_key = self._column.merge_key
            inserting = inserting.on_conflict_do_nothing(index_elements=[merge_key], index_where=merge_key.is_not(None))
        return cast("Insert", inserting)

    def _later(self, name: str) -> ColumnElement[int]:
        """So long after now, or NULL."""
        return self._now + bindparam(f"new_{name}", type_=BigInteger())

    # --- change -----------------------------------------------------------------------------------------------------

    def change(self, assigned: Mapping[str, Any], expected: Iterable[str]) -> Update:
        """A compare-and-set of these columns. It returns the job, where the database can."""
        kinds = tuple([(name, isinstance(value, After)) for name, value in assigned.items()])
        shape = (kinds, tuple(expected))
        statement = self._changes.get(shape)
        if statement is None:
            column = self._column
            row: dict[str, Any] = {"version": column.version + _ONE}
            for name, is_later in kinds:
                row[name] = self._later(name) if is_later else bindparam(f"new_{name}")
            conditions = [column[name] == bindparam(f"old_{name}") for name in ("id", *shape[1])]
            statement = self._returning(update(self._jobs).values(row).where(*conditions))
            self._changes[shape] = statement
        return statement

    def _returning(self, statement: Update) -> Update:
        if not self.returns_updates:
            return statement
        return cast("Update", statement.returning(*self._reading))

    # --- report and output ------------------------------------------------------------------------------------------

    def _reporting(self) -> Update:
        column = self._column
        greatest = func.max if self._kind == "sqlite" else func.greatest
        row: dict[str, Any] = {
            "version": column.version + _ONE,
            "updated_time": self._now,
            "progress": func.coalesce(bindparam("new_progress", type_=Integer()), column.progress),
            "status_text": func.coalesce(bindparam("new_text", type_=column.status_text.type), column.status_text),
            "output_size": column.output_size + _SIZE,
            "output_truncated": greatest(column.output_truncated, bindparam("new_truncated", type_=SmallInteger())),
        }
        return update(self._jobs).values(row).where(*self._running(), column.id == bindparam("old_id"))

    def _running(self) -> list[Condition]:
        return [self._column.token == bindparam("old_token"), self._column.status == _ONE]

    def _reporting_output(self) -> Insert | None:
        """A report and a piece of output in one statement, where a statement can do both."""
        if self._kind != "postgresql":
            return None
        reported = self.report.returning(self._column.seq, self._column.output_size).cte("reported")
        inserting = self._inserting_piece(select(reported.c.seq, reported.c.output_size - _SIZE, self._piece))
        return inserting.execution_options(preserve_rowcount=True)

    def _appending(self) -> Insert:
        """Of what a report has just added to a job's size, the piece at this position."""
        column = self._column
        start = column.output_size - _SIZE + bindparam("new_position", type_=BigInteger())
        return self._inserting_piece(select(column.seq, start, self._piece).where(column.id == bindparam("old_id")))

    def _inserting_piece(self, piece: Selecting) -> Insert:
        return insert(self._output).from_select(["job", "start", "piece"], piece)

    @property
    def _piece(self) -> BindParameter[bytes]:
        return bindparam("new_piece", type_=self._output.c.piece.type)

    def _reading_pieces(self) -> Selecting:
        # Not one statement with the search for the job: as an outer join, MariaDB 10.11 crashes on it.
        output = self._output.c
        job = output.job == bindparam("job", type_=BigInteger())
        first = select(func.max(output.start)).where(job, output.start <= bindparam("begin", type_=BigInteger()))
        return (
            select(output.start, output.piece)
            .where(
                job,
                output.start < bindparam("end", type_=BigInteger()),
                output.start >= func.coalesce(first.scalar_subquery().correlate(None), _ZERO),
            )
            .order_by(output.start)
        )

    # --- take_due and beat ------------------------------------------------------------------------------------------

    def _due(self) -> list[Condition]:
        column = self._column
        return [
            column.status == _ZERO,
            column.status < _TWO,
            column.start_time <= self._now,
            or_(column.lease_until.is_(None), column.lease_until <= self._now),
        ]

    def _leasing(self) -> Update:
        row: dict[str, Any] = {
            "version": self._column.version + _ONE,
            "lessee": bindparam("new_lessee"),
            "lease_until": bindparam("new_lease_until"),
        }
        return update(self._jobs).values(row)

    def _taking(self, first_due: Selecting) -> Any:
        """Lease and return what is due in one statement, or None where no statement can."""
        if not self.returns_updates:
            return None
        column = self._column
        leasing = self._leasing().values(lease_until=self._later("lease_until"))
        if self._kind == "postgresql":
            due = first_due.with_for_update(skip_locked=True).cte("due")
            leasing = leasing.where(column.seq == due.c.seq)
        else:
            leasing = leasing.where(column.seq.in_(first_due))
        return leasing.returning(*self._reading, column.seq)

    def _beating(self) -> Update:
        column = self._column
        row: dict[str, Any] = {"version": column.version + _ONE, "updated_time": self._now}
        pairs = tuple_(column.id, column.token).in_(_several("pairs"))
        return update(self._jobs).values(row).where(column.id.in_(_several("ids")), pairs, column.status == _ONE)

    # --- find -------------------------------------------------------------------------------------------------------

    def find(self, query: Query) -> Selecting:
        """The search for a query; its values carry the names of the query's fields."""
        shape = (
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
            statement = self._searches[shape] = self._searching(query)
        return statement

    def _searching(self, query: Query) -> Selecting:
        column = self._column
        conditions: list[Condition] = []
        if query.overdue:
            conditions += self._overdue(query.status)
        elif query.status is not None:
            conditions += [
                column.status == bindparam("status"),
                column.status >= _TWO if query.status.is_final else column.status < _TWO,
            ]
        if query.owner is not None:
            conditions.append(column.owner == bindparam("owner"))
        if query.scope is not None:
            conditions.append(column.scope == bindparam("scope"))
            if query.scope:
                conditions.append(column.scope != literal_column("''"))
        if query.before is not None:
            before = self._jobs.alias("before")
            conditions.append(
                column.seq < select(before.c.seq).where(before.c.id == bindparam("before")).scalar_subquery()
            )
        return select(*self._reading).where(*conditions).order_by(column.seq.desc()).limit(bindparam("limit"))

    def _overdue(self, status: Status | None) -> list[Condition]:
        column, now = self._column, self._now
        # Nothing is delivered before it is due, so start_time bounds the search for deliver_by.
        started = and_(column.status == _ZERO, column.start_time <= now, column.deliver_by <= now)
        running = and_(column.status == _ONE, column.updated_time + column.error_timeout <= now)
        late: dict[Status | None, Condition] = {
            None: or_(started, running),
            Status.STARTED: started,
            Status.IN_PROGRESS: running,
        }
        return [column.status < _TWO, late.get(status, _ZERO == _ONE)]


def _several(name: str) -> BindParameter[Any]:
    return bindparam(name, expanding=True)
