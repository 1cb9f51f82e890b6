"""The statements of `SQLStore`. Each is built and compiled once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.dialects import postgresql

from backjob.model import Expect
from backjob.stores.columns import JOB_COLUMNS
from backjob.stores.rows import SERVER_NOW, After
from backjob.stores.sql.lease_statements import LeaseStatements
from backjob.stores.sql.parameters import ONE, TWO, ZERO, Condition, Selecting, big, list_of
from backjob.stores.sql.prepared import Block, Prepared
from backjob.stores.sql.reading import Reading
from backjob.stores.sql.schema import Tables
from backjob.stores.sql.searches import Searches

_SERVER_NOW: Final = {**SERVER_NOW, "mariadb": SERVER_NOW["mysql"]}
_INSERTED: Final = (
    *[column.name for column in JOB_COLUMNS if column.draft or column.default is not None],
    *("merge_key", "request", "body"),
)
MOMENTS: Final = ("start_time", "expires")
"""The columns of a draft that are moments, or offsets from now."""
_SIZE: Final = big("new_size")


@frozen(eq=False)
class Change:
    """A compare-and-set. In PostgreSQL ``write`` returns the job, in MariaDB ``block`` does."""

    write: Prepared
    block: Block | None


@frozen(eq=False)
class Reporting:
    """A report, alone by ``write``, or with one chunk of output: in PostgreSQL by ``with_output``, in MariaDB by ``block``."""

    write: Prepared
    with_output: Prepared | None
    block: Block | None


class Statements:
    """The statements for these tables in this kind of database.

    With ``server_time`` the statements use the server's clock; otherwise each has a parameter ``now``.
    """

    def __init__(self, tables: Tables, kind: str, *, server_time: bool) -> None:
        self._jobs, self._output = tables.jobs, tables.output
        self._column = column = tables.jobs.c
        self._status: sa.ColumnElement[int] = column.status + ZERO
        """The status in statements for one id. PostgreSQL would search all living jobs for it if it expected few of them."""
        self.server_time = server_time
        self.can_return_updates = kind == "postgresql"
        """Whether a single statement can change rows, and return them or write others with them."""
        self._now: sa.ColumnElement[int] = (
            sa.literal_column(_SERVER_NOW[kind], sa.BigInteger()) if server_time else big("now")
        )
        self.reading = Reading(tables, self._now, is_mysql=kind != "postgresql")
        self._changes: dict[object, Change] = {}
        self._inserts: dict[frozenset[str], tuple[Prepared, Prepared]] = {}
        is_this = column.id == sa.bindparam("old_id")
        self.get = Prepared(sa.select(*self.reading.selected).where(is_this))
        self.get_with_body = Prepared(sa.select(*self.reading.whole).where(is_this))
        self.created_time = Prepared(sa.select(column.created_time).where(is_this))
        self.holder = Prepared(sa.select(*self.reading.selected).where(column.merge_key == sa.bindparam("key")))
        self.append = Prepared(self._make_append())
        report = self._make_report()
        self.report = self._reporting(report)
        self.checkpoint = self._reporting(report.values(cursor=self._new_cursor, attempt=ONE))
        self.locate = Prepared(sa.select(column.seq, column.output_truncated, column.output_size).where(is_this))
        self.chunks = Prepared(self._make_chunks())
        is_tail = (self._output.c.job == big("job"), self._output.c.start < ZERO)
        self.tail = Prepared(sa.select(self._output.c.piece).where(*is_tail).order_by(self._output.c.start))
        self.drop_tail = sa.delete(self._output).where(*is_tail)
        self.add_tail = sa.insert(self._output)
        self.leases = LeaseStatements(tables, self.reading.whole, self._now, can_return_updates=self.can_return_updates)
        self.searches = Searches(tables, self.reading.selected, self._now, is_mysql=kind != "postgresql")
        ageing = (
            sa.select(column.seq, column.output_size, column.end_time)
            .where(
                column.status == sa.bindparam("status"),
                column.status >= TWO,
                column.end_time >= sa.bindparam("since"),
                column.end_time < self._now - big("age"),
                column.file.is_(None),
            )
            .order_by(column.end_time, column.seq)
            .limit(sa.bindparam("limit"))
        )
        self.ageing = Prepared(ageing)
        self.ageing_by_label = Prepared(ageing.where(column.label == sa.bindparam("label")))
        self.drop_jobs = sa.delete(self._jobs).where(column.seq.in_(list_of("batch")), column.status >= TWO)
        self.drop_job = sa.delete(self._jobs).where(column.seq == big("job"))
        self.drop_its_output = sa.delete(self._output).where(self._output.c.job == big("job"))
        self.drop_output = sa.delete(self._output).where(self._output.c.job.in_(list_of("batch")))

    def insert(self, fixed: frozenset[str], *, returns: bool) -> Prepared:
        """The statement for a new row; with ``returns`` it returns ``created_time``, if the server can.

        The columns of `MOMENTS` that are ``fixed`` are moments, the others offsets from now.
        """
        statements = self._inserts.get(fixed)
        if statements is None:
            insert = self._make_insert(fixed)
            statements = Prepared(insert), Prepared(insert.returning(self._column.created_time))
            self._inserts[fixed] = statements
        return statements[returns]

    def _make_insert(self, fixed: frozenset[str]) -> sa.Insert:
        row: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in _INSERTED}
        row["created_time"] = row["updated_time"] = self._now
        row["lease_until"] = self._later("lease_until")
        for name in MOMENTS:
            row[name] = big(f"new_{name}") if name in fixed else self._later(name)
        if not self.can_return_updates:  # MariaDB: a merge key that another job has raises an error
            return sa.insert(self._jobs).values(row)
        merge_key = self._column.merge_key
        statement = postgresql.insert(self._jobs).values(row)
        return statement.on_conflict_do_nothing(index_elements=[merge_key], index_where=merge_key.is_not(None))

    def _later(self, name: str) -> sa.ColumnElement[int]:
        """A parameter that is an offset from now or NULL."""
        return self._now + big(f"new_{name}")

    def change(self, assigned: Mapping[str, Any], expected: Iterable[str], expect: Expect) -> Change:
        """A compare-and-set of these columns, if those in ``expected`` have their parameters' values.

        It also tests ``unclaimed`` and ``lease_over`` of ``expect``.
        """
        kinds = tuple([(name, isinstance(value, After)) for name, value in assigned.items()])
        shape = (kinds, tuple(expected), expect.unclaimed, expect.lease_over)
        change = self._changes.get(shape)
        if change is None:
            column = self._column
            row: dict[str, Any] = {"version": column.version + ONE}
            for name, is_later in kinds:
                row[name] = self._later(name) if is_later else sa.bindparam(f"new_{name}")
            own: Mapping[str, sa.ColumnElement[Any]] = {**column, "status": self._status}
            conditions: list[Condition] = [own[name] == sa.bindparam(f"old_{name}") for name in ("id", *shape[1])]
            if expect.unclaimed:
                conditions += [column.token.is_(None), self._status < TWO]
            if expect.lease_over:
                conditions.append(column.lease_until <= self._now)
            update = sa.update(self._jobs).values(row).where(*conditions)
            if self.can_return_updates:
                change = Change(Prepared(update.returning(*self.reading.selected)), None)
            else:
                change = Change(Prepared(update), Block(Prepared(update), result=self.get))
            self._changes[shape] = change
        return change

    def _make_report(self) -> sa.Update:
        column = self._column
        row: dict[str, Any] = {
            "version": column.version + ONE,
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
        is_running = (column.token == sa.bindparam("old_token"), self._status == ONE)
        return sa.update(self._jobs).values(row).where(*is_running, column.id == sa.bindparam("old_id"))

    @property
    def _new_cursor(self) -> sa.BindParameter[str]:
        return sa.bindparam("new_cursor", type_=self._column.cursor.type)

    def _reporting(self, report: sa.Update) -> Reporting:
        write = Prepared(report)
        if not self.can_return_updates:
            return Reporting(
                write, None, Block(write, self.append, result=Prepared(sa.select(ONE.label("is_written"))))
            )
        reported = report.returning(self._column.seq, self._column.output_size).cte("reported")
        both = self._insert_chunk(sa.select(reported.c.seq, reported.c.output_size - _SIZE, self._chunk))
        return Reporting(write, Prepared(both), None)

    def _make_append(self) -> sa.Insert:
        """One chunk of the output whose size a report has just added, at its position within that output."""
        column = self._column
        start = column.output_size - _SIZE + big("new_position")
        return self._insert_chunk(sa.select(column.seq, start, self._chunk).where(column.id == sa.bindparam("old_id")))

    def _insert_chunk(self, chunk: Selecting) -> sa.Insert:
        return sa.insert(self._output).from_select(["job", "start", "piece"], chunk)

    @property
    def _chunk(self) -> sa.BindParameter[bytes]:
        return sa.bindparam("new_chunk", type_=self._output.c.piece.type)

    def _make_chunks(self) -> Selecting:
        # Apart from `locate`, because MariaDB 10.11 crashes on the outer join of both.
        output = self._output.c
        job = output.job == big("job")
        first = sa.select(sa.func.max(output.start)).where(job, output.start.between(ZERO, big("begin")))
        return (
            sa.select(output.start, output.piece)
            .where(
                job,
                output.start < big("end"),
                output.start >= sa.func.coalesce(first.scalar_subquery().correlate(None), ZERO),
            )
            .order_by(output.start)
        )
