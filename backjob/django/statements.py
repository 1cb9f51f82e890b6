"""The most frequent statements of `DjangoStore`, as SQL.

The ORM takes one to three milliseconds of processor time for each of them, ten times as much as the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import frozen
from django.db import connections

from backjob.django.database import plain
from backjob.django.models import Job as Row
from backjob.django.models import Output as Chunk
from backjob.model import Expect, Job
from backjob.protocols import Clock
from backjob.stores.columns import COLUMNS, JOB_COLUMNS
from backjob.stores.rows import SERVER_NOW, After, Moment, conditions, microseconds, moment, row_job

_LIVING: Final = "token IS NULL AND status + 0 < 2"
_TEXTS: Final = tuple([index for index, column in enumerate(JOB_COLUMNS) if column.is_text])

Assigned: TypeAlias = Mapping[str, Any]
"""Columns with their new values; an `After` is a moment after the database's now, a `More` is added to the old value."""


@frozen
class More:
    """A number to add to a column."""

    count: int


class Statements:
    """The statements for one alias of ``DATABASES``. They run on the connection of an alias of the same database.

    Without ``clock`` they use the database's. Each raises the exceptions of `django.db`.
    """

    def __init__(self, alias: str, clock: Clock | None) -> None:
        connection: Any = connections[alias]
        self._vendor: str = connection.vendor
        self._clock = clock
        jobs, output = Row._meta, Chunk._meta  # noqa: SLF001
        self._fields = {field.column: field for field in jobs.concrete_fields}
        self._quoted = {name: connection.ops.quote_name(name) for name in self._fields}
        self._jobs = connection.ops.quote_name(jobs.db_table)
        self._output = connection.ops.quote_name(output.db_table)
        self._now = SERVER_NOW[self._vendor] if clock is None else ""
        # With the table's name: SQLite takes the quoted name of a column that does not exist for a text.
        columns = {name: f"{self._jobs}.{self._quoted[name]}" for name in (*COLUMNS, "body")}
        read = ", ".join([*[columns[name] for name in COLUMNS], self._now or "NULL"])
        self._read = {False: read, True: f"{read}, {columns['body']}"}

    def now(self) -> Moment:
        """The time of a write, for `insert` and `update`."""
        return After() if self._clock is None else microseconds(self._clock.now())

    def returns_updates(self, alias: str) -> bool:
        """Whether an UPDATE can return the changed rows."""
        return self._vendor == "postgresql" or (self._vendor == "sqlite" and self._returns_inserts(alias))

    def get(self, alias: str, job_id: str, *, body: bool = False) -> Sequence[Any] | None:
        """The row of a job, for `job`."""
        where, values = self._where(alias, {"id": job_id})
        return _first(self._run(alias, _sql("SELECT", self._read[body], "FROM", self._jobs, "WHERE", where), values))

    def job(self, row: Sequence[Any], *, body: bool = False) -> Job:
        """The job of a row that was just read."""
        columns: list[Any] = list(row[: len(COLUMNS)])
        if self._vendor == "mysql":
            for index in _TEXTS:
                if isinstance(columns[index], bytes):
                    columns[index] = columns[index].decode()
        columns += row[-1:] if body else ()
        return row_job(
            plain(columns, body=body), moment(row[len(COLUMNS)]) if self._clock is None else self._clock.now()
        )

    def insert(self, alias: str, row: Assigned, *, ignores_others: bool) -> int | None:
        """Write a new row and return its ``created_time``; None if another has its id, merge key or slot.

        Without ``ignores_others`` MySQL and MariaDB then raise an `IntegrityError`.
        """
        names = ", ".join([self._quoted[name] for name in row])
        texts, values = self._values(alias, row)
        verb = "INSERT IGNORE" if ignores_others and self._vendor == "mysql" else "INSERT"
        ending = "ON CONFLICT DO NOTHING" if self._vendor in ("postgresql", "sqlite") else ""
        statement = _sql(verb, "INTO", self._jobs, f"({names}) VALUES ({', '.join(texts)})", ending)
        if self._returns_inserts(alias):
            created = _first(self._run(alias, _sql(statement, "RETURNING created_time"), values))
        else:
            created = None
            if self._write(alias, statement, values):
                where, values = self._where(alias, {"id": row["id"]})
                select = _sql("SELECT created_time FROM", self._jobs, "WHERE", where)
                created = _first(self._run(alias, select, values))
        return None if created is None else int(created[0])

    def update(self, alias: str, job_id: str, expect: Expect, assigned: Assigned) -> int:
        """Change a row if it is as expected. Returns the number of rows changed."""
        return self._write(alias, *self._update(alias, job_id, expect, {**assigned, "version": More(1)}))

    def update_returning(self, alias: str, job_id: str, expect: Expect, assigned: Assigned) -> Sequence[Any] | None:
        """Like `update`, where the database `returns_updates`. Returns the changed row."""
        statement, values = self._update(alias, job_id, expect, {**assigned, "version": More(1)})
        return _first(self._run(alias, f"{statement} RETURNING {self._read[False]}", values))

    def add_output(self, alias: str, job_id: str, size: int, chunks: Iterable[tuple[int, bytes]]) -> None:
        """Write the chunks, with their positions, of the ``size`` bytes that an `update` has added to ``output_size``."""
        where, values = self._where(alias, {"id": job_id})
        for chunk in chunks:
            statement, of_chunk = self._append(alias, f"{self._jobs} WHERE {where}", size, chunk)
            self._write(alias, statement, of_chunk + values)

    @property
    def writes_output_at_once(self) -> bool:
        """Whether the database can `update_with_output`."""
        return self._vendor == "postgresql"

    def update_with_output(self, alias: str, job_id: str, expect: Expect, assigned: Assigned, output: bytes) -> int:
        """`update` and `add_output` of one chunk in one statement."""
        update, values = self._update(alias, job_id, expect, {**assigned, "version": More(1)})
        insert, of_chunk = self._append(alias, "reported", len(output), (0, output))
        reported = f"WITH reported AS ({update} RETURNING seq, output_size)"
        return self._write(alias, f"{reported} {insert}", values + of_chunk)

    def _append(self, alias: str, source: str, size: int, chunk: tuple[int, bytes]) -> tuple[str, list[Any]]:
        position, piece = chunk
        columns = "(job, start, piece) SELECT seq, output_size - %s, %s FROM"
        connection: Any = connections[alias]
        values = [size - position, connection.Database.Binary(piece)]
        return _sql("INSERT INTO", self._output, columns, source), values

    def _update(self, alias: str, job_id: str, expect: Expect, assigned: Assigned) -> tuple[str, list[Any]]:
        texts, values = self._values(alias, assigned)
        sets = [f"{self._quoted[name]} = {text}" for name, text in zip(assigned, texts, strict=True)]
        where, expected = self._where(alias, {"id": job_id, **conditions(expect)})
        if expect.unclaimed:
            where = f"{where} AND {_LIVING}"
        if expect.lease_over:
            now = self.now()
            where = f"{where} AND lease_until <= {self._text('lease_until', now)}"
            expected.append(self._parameter(alias, "lease_until", now))
        return _sql("UPDATE", self._jobs, "SET", ", ".join(sets), "WHERE", where), values + expected

    def _values(self, alias: str, row: Assigned) -> tuple[list[str], list[Any]]:
        """The SQL of each value, and the parameters."""
        texts = [self._text(name, value) for name, value in row.items()]
        return texts, [self._parameter(alias, name, value) for name, value in row.items()]

    def _text(self, name: str, value: Any) -> str:
        if isinstance(value, After):
            return f"{self._now} + %s"
        return f"{self._quoted[name]} + %s" if isinstance(value, More) else "%s"

    def _where(self, alias: str, expected: Assigned) -> tuple[str, list[Any]]:
        # PostgreSQL would search all living jobs by the index of the status if it expected few of them.
        columns = [self._quoted[name] + (" + 0" if name == "status" else "") for name in expected]
        return (
            " AND ".join([f"{column} = %s" for column in columns]),
            [self._parameter(alias, name, value) for name, value in expected.items()],
        )

    def _parameter(self, alias: str, name: str, value: Any) -> Any:
        if isinstance(value, After):
            return value.microseconds
        if isinstance(value, More):
            return value.count
        return self._fields[name].get_db_prep_value(value, connections[alias])

    def _returns_inserts(self, alias: str) -> bool:
        return bool(connections[alias].features.can_return_columns_from_insert)

    def _run(self, alias: str, statement: str, values: Sequence[Any]) -> Sequence[Sequence[Any]]:
        with connections[alias].cursor() as cursor:
            cursor.execute(statement, values)
            found: Sequence[Sequence[Any]] = cursor.fetchall()
            return found

    def _write(self, alias: str, statement: str, values: Sequence[Any]) -> int:
        with connections[alias].cursor() as cursor:
            cursor.execute(statement, values)
            return int(cursor.rowcount)


def _sql(*parts: str) -> str:
    return " ".join(parts)


def _first(rows: Sequence[Sequence[Any]]) -> Sequence[Any] | None:
    return rows[0] if rows else None
