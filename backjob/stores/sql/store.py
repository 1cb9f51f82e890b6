"""Jobs in PostgreSQL, MariaDB or MySQL, for applications on several hosts.

The store uses SQLAlchemy Core, with any synchronous driver that SQLAlchemy has for these databases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from typing import Any, Final, cast

from attrs import evolve

from backjob.clock import SystemClock
from backjob.errors import InvalidRequest, MissingExtra, StoreUnavailable
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report, Status
from backjob.protocols import Clock, Store
from backjob.stores.columns import JOB_COLUMNS
from backjob.stores.rows import After, draft_row, microseconds, moment, span
from backjob.stores.steps import each_status, kept_for, new_job
from backjob.stores.urls import StoreURL, yes_or_no
from backjob.stores.values import (
    LOOKAHEAD,
    PURGED_AT_ONCE,
    joined_chunk,
    joined_tail,
    purge_batch,
)

try:
    from sqlalchemy import URL, Connection, Engine, MetaData, exc, make_url

    from backjob.stores.sql.changing import Changing
    from backjob.stores.sql.database import Database
    from backjob.stores.sql.errors import Meaning, meaning
    from backjob.stores.sql.layout import create_missing, refuse_old_server, refuse_other_layout
    from backjob.stores.sql.leasing import Leasing
    from backjob.stores.sql.parameters import Values, named_values
    from backjob.stores.sql.prepared import Prepared
    from backjob.stores.sql.reporting import Reports
    from backjob.stores.sql.schema import Tables, creation
    from backjob.stores.sql.statements import MOMENTS, Statements
except ModuleNotFoundError as error:
    if error.name is None or error.name.partition(".")[0] != "sqlalchemy":
        raise
    raise MissingExtra("SQLStore", "sqlalchemy") from error

_MERGE_ATTEMPTS: Final = 100
_LARGEST: Final = (1 << 63) - 1
_SEARCHED: Final = ("scope", "owner", "root", "queue", "text", "before", "limit")
"""The fields of a query that its statement has as they are."""
_NO_NEW_VALUES: Final[Values] = dict.fromkeys(
    [
        *[f"new_{column.name}" for column in JOB_COLUMNS if column.draft and column.nullable],
        *("new_merge_key", "new_lease_until", "new_expires"),
    ]
)


def from_url(url: StoreURL, clock: Clock | None) -> Store:
    """Open a store at ``postgresql://user@host/database``, ``mariadb://…`` or another URL of SQLAlchemy.

    The options ``table_name``, ``create_table`` and ``schema`` are the constructor's arguments. All others are the
    driver's, such as ``sslmode``.
    """
    kinds: Mapping[str, Callable[[str], object]] = {"table_name": str, "create_table": yes_or_no, "schema": str}
    own = {name: value for name, value in url.options.items() if name in kinds}
    theirs = {name: value for name, value in url.options.items() if name not in kinds}
    arguments = StoreURL(url.scheme, url.location, own).arguments(kinds)
    database = _parsed(f"{url.scheme}:{url.location}", "store").update_query_dict(theirs)
    return SQLStore(database, clock=clock, **cast("Any", arguments))


def metadata(*, table_name: str = "backjob", schema: str | None = None) -> MetaData:
    """The tables as SQLAlchemy's `MetaData`, for the list in Alembic's ``target_metadata``."""
    return Tables.named(table_name, schema).metadata


class SQLStore:
    """Jobs in PostgreSQL, MariaDB or MySQL. For SQLite use `SQLiteStore`.

    ``database`` is a URL of SQLAlchemy or the application's `sqlalchemy.Engine`. ``postgresql://`` uses psycopg 3,
    ``mysql://`` and ``mariadb://`` use PyMySQL; name another driver as in ``postgresql+psycopg2://``. The store uses
    an engine's pool, changes none of its settings, and does not dispose of it. Any number of threads, processes and
    hosts may share the tables. The store's time is the database's, or that of ``clock``.

    The tables are ``table_name`` and ``{table_name}_output`` in ``schema``, by default the connection's own schema. With
    ``create_table`` the store creates missing tables now, or if the server is away, at the first call that succeeds;
    without it the tables must exist. `schema` returns their SQL.

    Raises `InvalidRequest` for an argument, `MissingExtra` if the driver is not installed, and `StoreUnusable` if the
    database refuses access or has these tables in another layout. It raises nothing if the server is away.
    """

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        clock: Clock | None = None,
        table_name: str = "backjob",
        schema: str | None = None,
        create_table: bool = True,
    ) -> None:
        self._tables = Tables.named(table_name, schema)
        self._create_table = create_table
        place = _parsed(database, "database") if isinstance(database, str) else database
        self._database = Database(place, self._tables.jobs.fullname, self._prepare)
        self._sql = Statements(self._tables, self._database.kind, server_time=clock is None)
        self._clock: Clock = SystemClock() if clock is None else clock
        self._changing = Changing(self._database, self._sql, self._values)
        self._reports = Reports(self._database, self._sql, self._values)
        self._leasing = Leasing(self._database, self._sql, self._values)
        if create_table:
            try:
                with suppress(StoreUnavailable):  # an application can start while its database restarts
                    self._database.do(lambda _: None)
            finally:
                self._database.close_idle()  # a web server may fork after it has loaded the application

    @staticmethod
    def schema(dialect: str, *, table_name: str = "backjob", schema: str | None = None) -> str:
        """The SQL that creates the tables, for your own migrations. Connects to no server.

        ``dialect`` is ``"postgresql"``, ``"mysql"`` or ``"mariadb"``.
        """
        return creation(Tables.named(table_name, schema), dialect)

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        row = draft_row(draft, merge_key, After()) | {"body": draft.request.body or None}
        values = _NO_NEW_VALUES | named_values("new", row)
        fixed = frozenset([name for name in MOMENTS if isinstance(row.get(name), int)])
        for _ in range(_MERGE_ATTEMPTS):
            created_time = self._insert(values, fixed)
            if created_time is not None:
                return new_job(draft, merge_key, moment(created_time))
            if merge_key is not None:
                holders = self._select(self._sql.holder, self._values(key=merge_key))
                if holders:
                    return self._sql.reading.job(holders[0])
            if self.get(draft.id) is not None:
                raise InvalidRequest("id", "a job with this id exists already")
        raise StoreUnavailable(f"{self._database.name}: the job with this merge key changed again and again")

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        return self._database.do(lambda connection: self._changing.get(connection, job_id, body=body))

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        offset = max(offset, 0)

        def step(connection: Connection) -> Output:
            located = self._sql.locate.rows(connection, {"old_id": job_id})
            if not located:
                return Output("", offset)
            seq, truncated, size = located[0]
            end = offset + limit + LOOKAHEAD
            values = {"job": seq, "begin": min(offset, _LARGEST), "end": min(end, _LARGEST)}
            chunks = self._sql.chunks.rows(connection, values)
            chunk = joined_chunk(chunks, offset, limit, truncated=truncated != 0)
            if not truncated or chunk.next_offset < size:
                return chunk
            return evolve(chunk, tail=joined_tail(piece for (piece,) in self._sql.tail.rows(connection, {"job": seq})))

        return self._database.do(step)

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        return self._changing.change(job_id, expect, changes)

    def report(self, job_id: str, token: str, report: Report) -> bool:
        return self._reports.report(job_id, token, report)

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
        rows = sorted(self._search(self._sql.searches.find, query), key=itemgetter(-1), reverse=True)
        return [self._sql.reading.job(row) for row in rows[: query.limit]]

    def count(self, query: Query) -> int:
        return min(sum(int(count) for (count,) in self._search(self._sql.searches.count, query)), query.limit)

    def _search(self, search: Callable[[Query], Prepared], query: Query) -> list[Any]:
        """The rows for each status and label of the query, so that each search can use an index."""
        values: Values = {name: getattr(query, name) for name in _SEARCHED}
        values["earlier"] = None if query.before_time is None else microseconds(query.before_time)
        labels: Iterable[str | None] = (None,) if query.labels is None else query.labels
        found: list[Any] = []
        for status, age in each_status(query):
            statement = search(evolve(query, status=status))
            values["status"] = None if status is None else int(status)
            values["age"] = None if age is None else span(age)
            for label in labels:
                found += self._select(statement, self._values(**values, label=label))
        return found

    def delete(self, job_id: str) -> bool:
        def step(connection: Connection) -> bool:
            located = self._sql.locate.rows(connection, {"old_id": job_id})
            if not located:
                return False
            job = {"job": located[0][0]}
            if not connection.execute(self._sql.drop_job, job).rowcount:
                return False
            connection.execute(self._sql.drop_its_output, job)
            return True

        return self._database.transact(step)

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        ages = kept_for(completed_age, ended_age).items()
        each: Iterable[str | None] = (None,) if labels is None else labels
        return sum(self._purge(status, age, label) for status, age in ages for label in each)

    def close_idle(self) -> None:
        """Close the connections that are not in use, unless the engine is the application's. Later calls open others."""
        self._database.close_idle()

    def close(self) -> None:
        """Close the connections, unless the engine is the application's. A later call opens its own and closes it after use."""
        self._database.close()

    def _insert(self, values: Values, fixed: frozenset[str]) -> int | None:
        """Insert a row and return its ``created_time``, or None if another job has its id or merge key."""
        values = values | self._values()

        def step(connection: Connection) -> int | None:
            returns = connection.dialect.insert_returning
            insert = self._sql.insert(fixed, returns=returns)
            try:
                if returns:
                    rows = insert.rows(connection, values)
                else:
                    insert.count(connection, values)
                    rows = self._sql.created_time.rows(connection, {"old_id": values["new_id"]})
            except Exception as error:
                if meaning(error) is Meaning.DUPLICATE:
                    return None
                raise
            return int(rows[0][0]) if rows else None

        return self._database.do(step)

    def _purge(self, status: Status, age: float, label: str | None) -> int:
        removed, since = 0, 0
        values: Values = {"status": int(status), "age": span(age), "limit": PURGED_AT_ONCE, "label": label}
        ageing = self._sql.ageing if label is None else self._sql.ageing_by_label
        while True:
            aged = self._select(ageing, self._values(since=since, **values))
            batch = aged[: purge_batch(size for _, size, _ in aged)]
            if batch:
                removed += self._drop([seq for seq, _, _ in batch])
                since = batch[-1][-1]  # all jobs that ended earlier are removed, so the next search can skip them
            if len(batch) == len(aged) < PURGED_AT_ONCE:
                return removed

    def _drop(self, batch: list[int]) -> int:
        def step(connection: Connection) -> int:
            removed = connection.execute(self._sql.drop_jobs, {"batch": batch}).rowcount
            connection.execute(self._sql.drop_output, {"batch": batch})
            return removed

        return self._database.transact(step)

    def _select(self, statement: Prepared, values: Values) -> Sequence[Any]:
        return self._database.do(lambda connection: statement.rows(connection, values))

    def _values(self, **values: Any) -> Values:
        """The parameters of a statement, with ``now`` unless it uses the server's clock."""
        return values if self._sql.server_time else values | {"now": microseconds(self._clock.now())}

    def _prepare(self, connection: Connection) -> None:
        refuse_old_server(connection, self._database.name)
        if self._create_table:
            create_missing(connection, self._tables, self._database.transaction)
        refuse_other_layout(connection, self._tables, self._database.name)


def _parsed(url: str, argument: str) -> URL:
    if url.partition("://")[2].partition("/")[0].count("@") > 1:
        raise InvalidRequest(argument, 'write an "@" in a password as %40')
    try:
        return make_url(url)
    except (exc.ArgumentError, ValueError):  # its message repeats the URL, which may contain a password
        raise InvalidRequest(
            argument, "not the URL of a database; use one such as postgresql://user@host/database"
        ) from None
