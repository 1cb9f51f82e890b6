"""The tables of `SQLiteStore` and every statement on them, as text.

A selected row is a JSON array of the columns of `backjob.stores.columns` but the last, then that, the body or NULL, and ``seq``:
`sqlite3` releases the interpreter's lock for each column of a result, and in a busy process other threads take it each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from attrs import field, fields, frozen

from backjob.errors import InvalidRequest
from backjob.lifecycle import TIMED_OUT
from backjob.model import Expect, Query
from backjob.stores.columns import ADDED, COLUMNS, JOB_COLUMNS, LAYOUTS, Column, Kind


def _type(column: Column) -> str:
    kind = "TEXT" if column.is_text else "BLOB" if column.kind is Kind.BYTES else "INTEGER"
    default = f" DEFAULT '{column.default}'" if column in ADDED and not column.nullable else ""
    return kind + ("" if column.nullable else " NOT NULL") + default + (" UNIQUE" if column.name == "id" else "")


_COLUMNS: Final = (
    ("seq", "INTEGER PRIMARY KEY"),
    *[(column.name, _type(column)) for column in JOB_COLUMNS],
    ("has_body", "INTEGER NOT NULL"),
)
# A separate table, because SQLite rewrites a whole row with every change: a report must not rewrite the body.
_BODY_COLUMNS: Final = (("job", "INTEGER PRIMARY KEY"), ("body", "BLOB NOT NULL"))
_OUTPUT_COLUMNS: Final = (("job", "INTEGER NOT NULL"), ("start", "INTEGER NOT NULL"), ("piece", "BLOB NOT NULL"))

# Partial indices keep start() cheap, and searches for living jobs independent of the number of ended ones. SQLite uses
# one only if the query repeats its condition; hence "status = 0 AND status < 2" below. With the label, the jobs of other
# applications don't slow down these searches. A job that waits has no token, so "living" lists such jobs apart from those
# that run, and by when they are due; with queue and slot, skipping the jobs of a full queue reads only the index.
_INDICES: Final = {
    "merging": "UNIQUE INDEX {table}_merging ON {jobs} (merge_key) WHERE merge_key IS NOT NULL",
    "slots": "UNIQUE INDEX {table}_slots ON {jobs} (slot) WHERE slot IS NOT NULL",
    "living": "INDEX {table}_living ON {jobs} (status, label, token, start_time, queue, slot) WHERE status < 2",
    "undelivered": (
        "INDEX {table}_undelivered ON {jobs} (deliver_by, label) WHERE deliver_by IS NOT NULL AND token IS NULL AND status < 2"
    ),
    "expiring": (
        "INDEX {table}_expiring ON {jobs} (expires, label) WHERE expires IS NOT NULL AND token IS NULL AND status < 2"
    ),
    "ageing": "INDEX {table}_ageing ON {jobs} (status, label, end_time) WHERE status >= 2",
    "ended": "INDEX {table}_ended ON {jobs} (status, label) WHERE status >= 2",
    "owned": "INDEX {table}_owned ON {jobs} (owner) WHERE owner IS NOT NULL",
    "scoped": "INDEX {table}_scoped ON {jobs} (scope) WHERE scope <> ''",
    "chained": "INDEX {table}_chained ON {jobs} (root) WHERE root IS NOT NULL",
}
_CHANGED: Final = (("living", "ended", "ageing", "chained"), ("slots", "living", "undelivered", "expiring"), ())
"""The indices that each later layout of the tables has added or changed."""

# SQLite can't drop a NOT NULL. A waiting job of an earlier version restarts its `delivery_timeout`.
_NULLABLE: Final = ("DROP COLUMN deliver_by", "ADD COLUMN deliver_by INTEGER")
"""The changes of the third layout besides its new columns."""

_NULLABLE_SINCE: Final = 2
"""The number of the layouts after which a table has these changes."""

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")

_DUE: Final = (
    "SELECT seq, start_time FROM {jobs} WHERE status = [status] AND status < 2[label] AND token IS NULL "
    "AND start_time BETWEEN :first AND :last AND (lease_until IS NULL OR lease_until <= :now)[queues]"
)

# `backjob.lifecycle.late` in SQL. A job that runs has a token; comparing it, unlike IS NOT NULL, uses the index.
_LATE: Final = (
    (
        "status IN (0, 1) AND status < 2[label] AND token >= '' AND (lease_until <= :now OR "
        f"(error_timeout > 0 AND token <> '{TIMED_OUT}' AND updated_time + error_timeout <= :now))"
    ),
    "status < 2 AND token IS NULL AND deliver_by <= :now[label]",
    "status < 2 AND token IS NULL AND expires <= :now[label]",
)

_MOST_SEARCHES: Final = 100

_REPORT: Final = (
    "UPDATE {jobs} SET version = version + 1, updated_time = ?, progress = coalesce(?, progress), "
    "status_text = coalesce(?, status_text), output_size = output_size + ?, output_truncated = output_truncated OR ?"
    "[cursor] WHERE id = ? AND token = ? AND status = 1"
)

_STORED: Final = (*COLUMNS, "has_body")
_PACKED: Final = f"json_array({', '.join(COLUMNS[:-1])}), {COLUMNS[-1]}"
_BODY: Final = "CASE WHEN has_body THEN (SELECT body FROM {body} WHERE job = seq) ELSE x'' END"


@frozen
class Statements:
    """Every statement for one table name. Raises `InvalidRequest` for a name that is not a plain identifier.

    The fields' defaults are templates, which `of` formats with the names of tables and columns.
    """

    table: str
    layout: dict[str, frozenset[str]]
    """Each table's name and columns."""
    upgrades: tuple[tuple[str, ...], ...]
    """The statements that bring the tables of each earlier layout, oldest first, to this one."""
    creation: tuple[str, ...]
    changes: dict[tuple[object, ...], str] = field(factory=dict, init=False, repr=False, eq=False)
    """The statements that `change` has made."""
    searches: dict[tuple[object, ...], tuple[str, dict[str, str]]] = field(
        factory=dict, init=False, repr=False, eq=False
    )
    """What `search_due` has made."""
    insert: str = "INSERT INTO {jobs} ({stored}) VALUES ({values})"
    insert_merging: str = (
        "INSERT INTO {jobs} ({stored}) VALUES ({values}) "
        "ON CONFLICT (merge_key) WHERE merge_key IS NOT NULL DO NOTHING RETURNING seq"
    )
    add_body: str = "INSERT INTO {body} (job, body) VALUES (?, ?)"
    drop_body: str = "DELETE FROM {body} WHERE job = ?"
    holder: str = "SELECT {read} FROM {jobs} WHERE merge_key = ?"
    get: str = "SELECT {read} FROM {jobs} WHERE id = ?"
    get_with_body: str = "SELECT {whole} FROM {jobs} WHERE id = ?"
    update: str = "UPDATE {jobs} SET [changes] WHERE id = ?[condition] RETURNING {read}"
    report: str = _REPORT.replace("[cursor]", "")
    report_with_cursor: str = _REPORT.replace("[cursor]", ", cursor = ?, attempt = 1")
    # These find the job's seq themselves: RETURNING costs more, since SQLite opens a statement journal for it. So it does for
    # INSERT … SELECT, unless OR FAIL says that an error need not undo the statement: the transaction undoes it.
    add_chunk: str = (
        "INSERT OR FAIL INTO {output} (job, start, piece) SELECT seq, output_size - ?, ? FROM {jobs} WHERE id = ?"
    )
    add_tail: str = "INSERT OR FAIL INTO {output} (job, start, piece) SELECT seq, ?, ? FROM {jobs} WHERE id = ?"
    drop_tail: str = "DELETE FROM {output} WHERE job = (SELECT seq FROM {jobs} WHERE id = ?) AND start < 0"
    tail: str = "SELECT piece FROM {output} WHERE job = ? AND start < 0 ORDER BY start"
    locate: str = "SELECT seq, output_truncated, output_size FROM {jobs} WHERE id = ?"
    chunks: str = (
        "SELECT start, piece FROM {output} WHERE job = :job AND start < :end AND start >= coalesce("
        "(SELECT max(start) FROM {output} WHERE job = :job AND start BETWEEN 0 AND :begin), 0) ORDER BY start"
    )
    due: str = _DUE
    longest_due: str = "SELECT * FROM ([due] ORDER BY start_time, seq LIMIT :limit)"
    due_times: str = (
        "SELECT min(start_time), max(start_time) FROM (SELECT * FROM ([due]) ORDER BY start_time, seq LIMIT :limit)"
    )
    take_due: str = (
        "UPDATE {jobs} SET lessee = :lessee, lease_until = :until, version = version + 1 WHERE seq IN "
        "(SELECT seq FROM ([due]) ORDER BY start_time, seq LIMIT :limit) RETURNING {whole}"
    )
    beat: str = "UPDATE {jobs} SET lease_until = ?, updated_time = coalesce(?, updated_time) WHERE id = ? AND token = ? AND status = 1"
    runs: str = "SELECT 1 FROM {jobs} WHERE id = ? AND token = ? AND status = 1"
    find: str = "SELECT {read} FROM {jobs}[condition] ORDER BY seq DESC LIMIT :limit"
    count: str = "SELECT count(*) FROM (SELECT 1 FROM {jobs}[condition] LIMIT :limit)"
    late: str = "SELECT seq FROM {jobs} WHERE [limit]"
    expired: str = "SELECT seq FROM {jobs} WHERE status = :status AND status >= 2[label] AND end_time < :ended_before"
    before: str = "seq < (SELECT seq FROM {jobs} WHERE id = :before)"
    before_or_earlier: str = (
        "seq < coalesce((SELECT seq FROM {jobs} WHERE id = :before), 9223372036854775807) "
        "AND (created_time < :before_time OR EXISTS (SELECT 1 FROM {jobs} WHERE id = :before))"
    )
    ageing: str = (
        "SELECT seq, output_size, has_body FROM {jobs} WHERE status = ? AND status >= 2 AND end_time < ? AND file IS NULL "
        "ORDER BY end_time LIMIT ?"
    )
    ageing_by_label: str = (
        "SELECT seq, output_size, has_body FROM {jobs} WHERE status = ? AND status >= 2 AND end_time < ? AND label = ? "
        "AND file IS NULL ORDER BY end_time LIMIT ?"
    )
    drop_chunks: str = "DELETE FROM {output} WHERE job = ?"
    drop_job: str = "DELETE FROM {jobs} WHERE seq = ?"
    delete: str = "DELETE FROM {jobs} WHERE id = ? RETURNING seq"

    def upgrade(self, found: dict[str, frozenset[str]]) -> tuple[str, ...]:
        """The statements that bring tables with these columns to this layout; none if no earlier version made them."""
        layout = self.layout
        for added, statements in zip(reversed(LAYOUTS), reversed(self.upgrades), strict=True):
            layout = layout | {self.table: layout[self.table] - {column.name for column in added}}
            if found == layout:
                return statements
        return ()

    @classmethod
    def of(cls, table: str) -> Statements:
        if not _IDENTIFIER.fullmatch(table) or table.lower().startswith("sqlite_"):
            raise InvalidRequest(
                "table_name",
                f"{table!r} is not an identifier: up to 48 ASCII letters, digits and underscores, no digit first, "
                'and not "sqlite_…", which SQLite reserves',
            )
        body, output = f"{table}_body", f"{table}_output"
        tables = {table: _COLUMNS, body: _BODY_COLUMNS, output: _OUTPUT_COLUMNS}
        definitions = {name: ", ".join(map(" ".join, columns)) for name, columns in tables.items()}
        names = {
            "jobs": f'"{table}"',
            "body": f'"{body}"',
            "output": f'"{output}"',
            "read": f"{_PACKED}, NULL, seq",
            "whole": f"{_PACKED}, {_BODY}, seq".format(body=f'"{body}"'),
            "stored": ", ".join(_STORED),
            "values": ", ".join("?" * len(_STORED)),
        }
        indices = {name: f"CREATE {index}".format(table=table, jobs=names["jobs"]) for name, index in _INDICES.items()}
        texts = {each.name: each.default.format(**names) for each in fields(cls) if isinstance(each.default, str)}
        return cls(
            table=table,
            layout={name: frozenset([column for column, _ in columns]) for name, columns in tables.items()},
            upgrades=tuple([_upgrade(table, indices, number) for number in range(len(LAYOUTS))]),
            creation=(
                f'CREATE TABLE "{table}" ({definitions[table]})',
                *indices.values(),
                f'CREATE TABLE "{body}" ({definitions[body]})',
                f'CREATE TABLE "{output}" ({definitions[output]}, PRIMARY KEY (job, start)) WITHOUT ROWID',
            ),
            **texts,
        )

    def search_due(
        self, statement: str, labels: frozenset[str] | None, full: frozenset[str], queues: frozenset[str] | None
    ) -> tuple[str, dict[str, str]]:
        """`due_times` or `take_due`, limited to these labels and queues and without the full ones, and the values of both.

        One list for each living status and each label stays in the index's order, so reading it ends at the limit.
        """
        key = (statement, labels, full, queues)
        found = self.searches.get(key)
        if found is None:
            if len(self.searches) >= _MOST_SEARCHES:
                self.searches.clear()
            found = self.searches[key] = self._search_due(statement, labels, full, queues)
        return found

    def _search_due(
        self, statement: str, labels: frozenset[str] | None, full: frozenset[str], queues: frozenset[str] | None
    ) -> tuple[str, dict[str, str]]:
        without = {f"full{number}": queue for number, queue in enumerate(sorted(full))}
        among = {f"queue{number}": queue for number, queue in enumerate(sorted(queues or ()))}
        each = {f"label{number}": label for number, label in enumerate(sorted(labels or ()))}
        limits = [""] if labels is None else [f" AND label = :{name}" for name in each] or [" AND 0"]
        chosen = (
            f" AND (slot IS NOT NULL OR queue NOT IN ({', '.join(f':{name}' for name in without)}))" if without else ""
        )
        chosen += "" if queues is None else f" AND queue IN ({', '.join(f':{name}' for name in among)})"
        due = self.due.replace("[queues]", chosen)
        due = self.longest_due.replace("[due]", due)
        lists = [due.replace("[status]", status).replace("[label]", limit) for status in "01" for limit in limits]
        return statement.replace("[due]", " UNION ALL ".join(lists)), each | without | among

    def change(self, assigned: Iterable[str], expected: Iterable[str], expect: Expect, *, without_body: bool) -> str:
        """The compare-and-set of these columns, which also raises the version.

        With ``lease_over``, the store's now follows the expected values. With ``without_body`` it leaves jobs alone whose
        request has a body.
        """
        key = (*assigned, "", *expected, expect.unclaimed, expect.lease_over, without_body)
        statement = self.changes.get(key)
        if statement is None:
            sets = "version = version + 1" + "".join([f", {name} = ?" for name in assigned])
            condition = "".join([f" AND {name} = ?" for name in expected])
            if expect.unclaimed:
                condition += " AND token IS NULL AND status < 2"
            if expect.lease_over:
                condition += " AND lease_until <= ?"
            if without_body:
                condition += " AND NOT has_body"
            statement = self.update.replace("[changes]", sets).replace("[condition]", condition)
            self.changes[key] = statement
        return statement

    def search(self, query: Query, *, by_label: bool = False, statement: str | None = None) -> str:
        """The search for a query, with named values; ``by_label`` limits it to the value ``label``.

        A unary plus keeps SQLite from using an index ("Disqualifying WHERE-Clause Terms Using Unary +" in its manual).
        SQLite has no statistics here, and might otherwise read a longer list than that of the living jobs or of an owner's.
        """
        conditions: list[str] = []
        living = query.status is not None and not query.status.is_final
        chosen = query.overdue or query.expired is not None
        listed = chosen or living or query.root is not None
        if chosen:
            conditions += self._chosen(query, by_label=by_label)
        elif living:
            conditions.append("status = :status AND status < 2")
        if query.owner is not None:
            conditions.append("+owner = :owner" if listed else "owner = :owner")
            listed = True
        if query.scope is not None:
            indexed = bool(query.scope) and not listed
            conditions.append("scope = :scope AND scope <> ''" if indexed else "+scope = :scope")
            listed = listed or indexed
        if query.status is not None and query.status.is_final and not chosen:
            conditions.append("+status = :status" if listed else "status = :status AND status >= 2")
        if query.root is not None:
            conditions.append("root = :root")
        conditions += self._filters(query)
        if by_label:
            indexed = query.status is not None and not chosen
            conditions.append("label = :label" if indexed else "+label = :label")
        return (self.find if statement is None else statement).replace(
            "[condition]", " WHERE " + " AND ".join(conditions) if conditions else ""
        )

    def _chosen(self, query: Query, *, by_label: bool) -> list[str]:
        """The conditions of a query for jobs that are overdue or expired, which have a list of their own."""
        if query.overdue and query.expired is not None:
            return ["0"]  # no job is both
        parts = [self.late.replace("[limit]", limit) for limit in _LATE] if query.overdue else [self.expired]
        chosen = " UNION ALL ".join(parts).replace("[label]", " AND label = :label" if by_label else "")
        return [f"seq IN ({chosen})", *(["+status = :status"] if query.overdue and query.status is not None else [])]

    def _filters(self, query: Query) -> list[str]:
        """The conditions that no index serves, and the beginning of the page."""
        conditions: list[str] = []
        if query.before_time is not None:
            conditions.append(self.before_or_earlier)
        elif query.before is not None:
            conditions.append(self.before)
        if query.queue is not None:
            conditions.append("+queue = :queue")
        if query.text:
            conditions.append("(instr(lower(title), lower(:text)) OR instr(lower(path), lower(:text)))")
        if query.has_file:
            conditions.append("file IS NOT NULL")
        return conditions


def _upgrade(table: str, indices: dict[str, str], first: int) -> tuple[str, ...]:
    """The statements for tables that lack the layouts from this number on."""
    changed = list(dict.fromkeys([name for names in _CHANGED[first:] for name in names]))
    columns = [f"ADD COLUMN {column.name} {_type(column)}" for added in LAYOUTS[first:] for column in added]
    return (
        *[f'DROP INDEX IF EXISTS "{table}_{name}"' for name in changed],
        *[f'ALTER TABLE "{table}" {change}' for change in (*columns, *(_NULLABLE if first < _NULLABLE_SINCE else ()))],
        *[indices[name] for name in changed],
    )
