"""Jobs in an SQLite file, shared by all processes of one machine. No dependencies."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Literal, cast

from attrs import evolve

from backjob.clock import SystemClock
from backjob.errors import InvalidRequest, SlotTaken, StoreUnusable
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report, Seconds, Status, check_duration
from backjob.protocols import Clock, Store
from backjob.stores.rows import Row, assignments, conditions, job_row, microseconds, row_job, span
from backjob.stores.sqlite.connections import Connections, Transaction, Writing
from backjob.stores.sqlite.statements import Statements
from backjob.stores.steps import each_status, kept_for, new_job
from backjob.stores.urls import StoreURL, yes_or_no
from backjob.stores.values import (
    LONGEST_CHUNK,
    LOOKAHEAD,
    PURGED_AT_ONCE,
    dump_result,
    joined_chunk,
    joined_tail,
    output_bytes,
    purge_batch,
    tail_rows,
)

_OLDEST_SQLITE: Final = (3, 35, 0)  # RETURNING
_decode: Final = json.JSONDecoder().decode
_EARLIEST: Final = -(1 << 63)
_WAL_RETRY: Final = 0.01  # s
_LONGEST_REST: Final = 0.05  # s
_SEARCHED: Final = ("scope", "owner", "root", "queue", "text", "before", "limit")
"""The fields of a query that its statement has as they are."""
_SYNCHRONOUS: Final = {"process": "NORMAL", "power": "FULL"}


def from_url(url: StoreURL, clock: Clock | None) -> Store:
    """Open ``sqlite:///path``; the options are the constructor's arguments."""
    arguments = url.arguments({"durability": str, "table_name": str, "create_table": yes_or_no, "busy_timeout": float})
    return SQLiteStore(url.file_path(), clock=clock, **cast("Any", arguments))


class SQLiteStore:
    """Jobs in the SQLite file at ``path``, in the table ``table_name`` and two more whose names begin with it.

    Any number of threads and processes of one machine may use the file; a network file system won't work. The store puts
    the file into WAL mode; the file may contain other tables. Time comes from ``clock``, by default the computer's.

    With the ``durability`` ``"process"``, accepted jobs survive the end of the process, SIGKILL included; with
    ``"power"`` they survive a power loss too, which costs an fsync per write. With ``create_table`` the constructor
    creates the file and missing tables; without it the store opens the file at the first call, and the tables of `schema`
    must exist. ``busy_timeout`` is how many seconds a writer waits for others before it raises `StoreUnavailable`; keep it
    well below RUN_LEASE, since a claim's lease counts from before that wait.

    Raises `InvalidRequest` for an invalid argument, and `StoreUnusable` if the path is not an SQLite database, can't be
    written, or has these tables in another layout.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        durability: Literal["process", "power"] = "process",
        table_name: str = "backjob",
        create_table: bool = True,
        busy_timeout: Seconds = 5.0,
    ) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise InvalidRequest("path", "expected a file; for a store in memory, use MemoryStore()")
        if durability not in _SYNCHRONOUS:
            raise InvalidRequest("durability", 'expected "process" or "power"')
        timeout = check_duration("busy_timeout", busy_timeout, longest=86400)
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreUnusable(f"SQLite {sqlite3.sqlite_version} is too old: backjob needs 3.35 or newer")
        self._clock: Clock = SystemClock() if clock is None else clock
        self._sql = Statements.of(table_name)
        self._synchronous = _SYNCHRONOUS[durability]
        self._create_table = create_table
        self._busy_timeout = timeout
        self._ready = False
        self._has_left_some = False
        self._connections = Connections(Path(path).absolute(), timeout, self._prepare)
        if create_table:
            self._connections.create_file()
            self._connections.read("SELECT 1")
            self._connections.close_idle()  # a server may fork right after loading the application

    @staticmethod
    def schema(table_name: str = "backjob") -> str:
        """The SQL that creates the tables, for your own migrations."""
        return "".join(f"{statement};\n" for statement in Statements.of(table_name).creation)

    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        job = new_job(draft, merge_key, self._clock.now())
        body = draft.request.body
        row = (*job_row(job), bool(body))
        if merge_key is None and not body:
            self._connections.write(self._sql.insert, row)
            return job
        with Transaction(self._connections) as connection:
            if merge_key is None:
                seq = connection.execute(self._sql.insert, row).lastrowid
            else:
                inserted = connection.execute(self._sql.insert_merging, row).fetchall()
                if not inserted:
                    holder: Row = connection.execute(self._sql.holder, (merge_key,)).fetchone()
                    return _job_of(holder, job.read_time)
                seq = inserted[0][0]
            if body:
                connection.execute(self._sql.add_body, (seq, body))
        return job

    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        rows = self._connections.read(self._sql.get_with_body if body else self._sql.get, (job_id,))
        return _job_of(rows[0], self._clock.now()) if rows else None

    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        offset = max(offset, 0)
        located = self._connections.read(self._sql.locate, (job_id,))
        if not located:
            return Output("", offset)
        seq, truncated, size = located[0]
        place = {"job": seq, "begin": offset, "end": offset + limit + LOOKAHEAD}
        chunk = joined_chunk(self._connections.read(self._sql.chunks, place), offset, limit, truncated=truncated != 0)
        if not truncated or chunk.next_offset < size:
            return chunk
        return evolve(chunk, tail=joined_tail([piece for (piece,) in self._connections.read(self._sql.tail, (seq,))]))

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        now = self._clock.now()
        assigned = assignments(changes, microseconds(now))
        expected = conditions(expect)
        over = (microseconds(now),) if expect.lease_over else ()
        erases = changes.erases_body
        statement = self._sql.change(assigned, expected, expect, without_body=erases)
        rows = self._write_change(changes, statement, (*assigned.values(), job_id, *expected.values(), *over))
        if erases and not rows:  # perhaps it has a body, which must go in the same transaction
            assigned["has_body"] = False
            statement = self._sql.change(assigned, expected, expect, without_body=False)
            with Transaction(self._connections) as connection:
                values = (*assigned.values(), job_id, *expected.values(), *over)
                rows = connection.execute(statement, values).fetchall()
                connection.executemany(self._sql.drop_body, [row[-1:] for row in rows])
        return _job_of(rows[0], now) if rows else None

    def report(self, job_id: str, token: str, report: Report) -> bool:
        now = microseconds(self._clock.now())
        is_one_statement = not report.output and report.tail is UNSET
        with (Writing if is_one_statement else Transaction)(self._connections) as connection:
            return self._write_report(connection, now, job_id, token, report)

    def report_all(self, reports: Sequence[tuple[str, str, Report]]) -> list[bool]:
        """Write the reports of several jobs in one transaction: see `backjob.protocols.ReportsTogether`."""
        if not reports:
            return []
        with Transaction(self._connections) as connection:
            now = microseconds(self._clock.now())
            return [self._write_report(connection, now, *each) for each in reports]

    def _write_report(self, connection: sqlite3.Connection, now: int, job_id: str, token: str, report: Report) -> bool:
        added = output_bytes(report.output)
        size = len(added)
        values = (now, report.progress, report.text, size, report.truncated)
        if report.cursor is UNSET:
            found = connection.execute(self._sql.report, (*values, job_id, token))
        else:
            cursor = dump_result(report.cursor)
            found = connection.execute(self._sql.report_with_cursor, (*values, cursor, job_id, token))
        if not found.rowcount:
            return False
        for start in range(0, size, LONGEST_CHUNK):
            connection.execute(self._sql.add_chunk, (size - start, added[start : start + LONGEST_CHUNK], job_id))
        if report.tail is not UNSET:
            connection.execute(self._sql.drop_tail, (job_id,))
            connection.executemany(self._sql.add_tail, [(*row, job_id) for row in tail_rows(report.tail)])
        return True

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
        now = self._clock.now()
        until = microseconds(now) + span(lease)
        values = {"now": microseconds(now), "lessee": lessee, "until": until, "limit": limit}
        take_due, named = self._sql.search_due(self._sql.take_due, labels, full, queues)
        due_times, _ = self._sql.search_due(self._sql.due_times, labels, full, queues)
        first, last = _EARLIEST, microseconds(now)
        while True:
            # Usually nothing is due, and reading does not wait for writers. It skips the jobs of full queues too, which may
            # be many: the write begins after them. After a call that has left some, more are certainly due.
            if full or not self._has_left_some:
                always = {"first": _EARLIEST, "last": microseconds(now)}
                first, last = self._connections.read(due_times, values | named | always)[0]
                if first is None:
                    return []
            rows = self._connections.write(take_due, values | named | {"first": first, "last": last})
            self._has_left_some = 0 < len(rows) == limit
            if rows:  # otherwise others took them meanwhile
                jobs = {row[-1]: _job_of(row, now) for row in rows}
                return [jobs[seq] for seq in sorted(jobs, key=lambda seq: (jobs[seq].start_time, seq))]

    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        if not tokens:
            return frozenset()
        with Transaction(self._connections) as connection:
            now = microseconds(self._clock.now())  # after waiting for other writers
            until = now + span(lease)
            beats = [(until, now if job_id in alive else None, job_id, token) for job_id, token in tokens.items()]
            if connection.executemany(self._sql.beat, beats).rowcount == len(tokens):
                return frozenset()
            return frozenset(
                [beat[0] for beat in tokens.items() if not connection.execute(self._sql.runs, beat).fetchone()]
            )

    def find(self, query: Query) -> list[Job]:
        now = self._clock.now()
        rows = self._search(query, self._sql.find, now)
        rows.sort(key=itemgetter(-1), reverse=True)
        return [_job_of(row, now) for row in rows[: query.limit]]

    def count(self, query: Query) -> int:
        found = self._search(query, self._sql.count, self._clock.now())
        return min(sum(int(count) for (count,) in found), query.limit)

    def _search(self, query: Query, statement: str, now: datetime) -> list[Any]:
        """The rows for each status and label of the query, so that each search can use an index."""
        by_label = query.labels is not None
        values: dict[str, Any] = {name: getattr(query, name) for name in _SEARCHED} | {"now": microseconds(now)}
        values["before_time"] = None if query.before_time is None else microseconds(query.before_time)
        labels: Iterable[str | None] = (None,) if query.labels is None else query.labels
        found: list[Any] = []
        for status, age in each_status(query):
            values |= {"status": status, "ended_before": None if age is None else values["now"] - span(age)}
            sql = self._sql.search(evolve(query, status=status), by_label=by_label, statement=statement)
            for label in labels:
                found += self._connections.read(sql, values | {"label": label})
        return found

    def delete(self, job_id: str) -> bool:
        with Transaction(self._connections) as connection:
            rows = connection.execute(self._sql.delete, (job_id,)).fetchall()
            connection.executemany(self._sql.drop_chunks, rows)
            connection.executemany(self._sql.drop_body, rows)
        return bool(rows)

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        now = microseconds(self._clock.now())
        ages = kept_for(completed_age, ended_age).items()
        each: Iterable[str | None] = (None,) if labels is None else labels
        return sum(self._purge(status, now - span(age), label) for status, age in ages for label in each)

    def _write_change(self, changes: Changes, statement: str, parameters: tuple[Any, ...]) -> list[Any]:
        try:
            return self._connections.write(statement, parameters)
        except InvalidRequest as error:  # of all that this statement may set, only the slot is unique
            raise SlotTaken(str(changes.slot)) from error

    @property
    def files_directory(self) -> str:
        """The directory beside the database in which files of jobs are kept, unless FILES names another place."""
        return f"{self._connections.path}.files"

    def close(self) -> None:
        """Close idle connections. A later call opens its own and closes it after use."""
        self._connections.close()

    def _purge(self, status: Status, ended_before: int, label: str | None) -> int:
        removed = 0
        statement = self._sql.ageing if label is None else self._sql.ageing_by_label
        values = (status, ended_before, *(() if label is None else (label,)), PURGED_AT_ONCE)
        while True:
            began = time.monotonic()
            with Transaction(self._connections) as connection:
                aged = connection.execute(statement, values).fetchall()
                chosen = aged[: purge_batch(size for _, size, _ in aged)]
                batch = [(seq,) for seq, _, _ in chosen]
                connection.executemany(self._sql.drop_chunks, batch)
                connection.executemany(self._sql.drop_body, [(seq,) for seq, _, has_body in chosen if has_body])
                connection.executemany(self._sql.drop_job, batch)
            removed += len(batch)
            if len(batch) == len(aged) < PURGED_AT_ONCE:
                return removed
            # SQLite has no queue of writers: those that wait look only every few milliseconds whether they may write.
            time.sleep(min(_LONGEST_REST, (time.monotonic() - began) / 2))

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        # Not every build of SQLite overwrites by itself what is erased, such as sealed credentials.
        connection.execute("PRAGMA secure_delete = ON")
        if self._ready:
            return
        self._enter_wal(connection)
        if self._create_table and self._missing(connection):
            connection.execute("BEGIN IMMEDIATE")
            for statement in self._missing(connection):  # another process may have made them meanwhile
                connection.execute(statement)
            connection.execute("COMMIT")
        self._refuse_other_layout(connection)
        self._ready = True

    def _enter_wal(self, connection: sqlite3.Connection) -> None:
        """Retry, because entering WAL mode needs exclusive access for a moment, for which SQLite does not always wait."""
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
                time.sleep(_WAL_RETRY)
                continue
            if mode != "wal":
                raise StoreUnusable(
                    f"{self._connections.path}: SQLite can't use its write-ahead log here (mode {mode!r}); "
                    "keep the file on a local disk"
                )
            return

    def _missing(self, connection: sqlite3.Connection) -> tuple[str, ...]:
        """The statements that make the tables, or that bring those of an earlier version up to date; none otherwise."""
        found = self._layout(connection)
        return self._sql.upgrade(found) if found else self._sql.creation

    def _layout(self, connection: sqlite3.Connection) -> dict[str, frozenset[str]]:
        """The expected tables that exist, with their columns."""
        found: dict[str, frozenset[str]] = {}
        for table in self._sql.layout:
            rows = connection.execute("SELECT name FROM pragma_table_info(?)", (table,)).fetchall()
            if rows:
                found[table] = frozenset([name for (name,) in rows])
        return found

    def _refuse_other_layout(self, connection: sqlite3.Connection) -> None:
        path, expected, found = self._connections.path, self._sql.layout, self._layout(connection)
        if not found:
            raise StoreUnusable(
                f"{path}: there is no table {self._sql.table!r}; open the store once with create_table=True, or run the "
                "SQL of SQLiteStore.schema()"
            )
        upgrade = self._sql.upgrade(found)
        if upgrade:
            statements = "".join([f"{statement};\n" for statement in upgrade])
            raise StoreUnusable(
                f"{path}: the tables of {self._sql.table!r} are those of an earlier version of backjob; open the store once "
                f"with create_table=True, or run this SQL once:\n{statements}"
            )
        differing = [table for table, columns in expected.items() if found.get(table) != columns]
        if differing:
            raise StoreUnusable(
                f"{path}: the tables of {self._sql.table!r} have another layout than this version of backjob needs (see "
                f"{', '.join(differing)}); choose another table_name, or rename or drop them"
            )


def _job_of(row: Row, read_time: datetime) -> Job:
    """Return the job of a selected row."""
    packed, sealed, body, _ = row
    return row_job((*_decode(packed), sealed, body), read_time)
