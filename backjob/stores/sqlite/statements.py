"""The tables of `SQLiteStore`, and every statement on them as text.

A selected row has the columns of `backjob.stores.rows`, the body, and ``seq`` at its end.
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from backjob.errors import InvalidRequest
from backjob.model import Query, Report, Status
from backjob.stores.columns import COLUMNS, JOB_COLUMNS, Column, Kind

__all__ = ["Statements"]


def _type(column: Column) -> str:
    kind = "TEXT" if column.is_text else "BLOB" if column.kind is Kind.BYTES else "INTEGER"
    return kind + ("" if column.nullable else " NOT NULL") + (" UNIQUE" if column.name == "id" else "")


_COLUMNS: Final = (
    ("seq", "INTEGER PRIMARY KEY"),
    *[(column.name, _type(column)) for column in JOB_COLUMNS],
    ("has_body", "INTEGER NOT NULL"),
)
# Apart, because SQLite writes a row anew with every change of it: a report must not cost a mebibyte of body.
_BODY_COLUMNS: Final = (("job", "INTEGER PRIMARY KEY"), ("body", "BLOB NOT NULL"))
_OUTPUT_COLUMNS: Final = (("job", "INTEGER NOT NULL"), ("start", "INTEGER NOT NULL"), ("piece", "BLOB NOT NULL"))

# Partial indices keep start() cheap, and the searches for living jobs blind to any number of ended ones. SQLite uses one
# only where the query repeats its condition, which is why the statements below say "status = 0 AND status < 2".
_INDICES: Final = (
    "CREATE UNIQUE INDEX {table}_merging ON {table} (merge_key) WHERE merge_key IS NOT NULL",
    "CREATE INDEX {table}_living ON {table} (status, start_time) WHERE status < 2",
    "CREATE INDEX {table}_ended ON {table} (status) WHERE status >= 2",
    "CREATE INDEX {table}_ageing ON {table} (status, end_time) WHERE status >= 2",
    "CREATE INDEX {table}_owned ON {table} (owner) WHERE owner IS NOT NULL",
    "CREATE INDEX {table}_scoped ON {table} (scope) WHERE scope <> ''",
)

_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")


@frozen
class Statements:
    """Every statement, for one table name. Raises `InvalidRequest` for a name that is not a plain identifier."""

    table: str
    layout: dict[str, tuple[str, ...]]
    """Each table's name, and its columns."""
    creation: tuple[str, ...]
    insert: str
    insert_merging: str
    add_body: str
    drop_body: str
    holder: str
    get: str
    update: str
    report: str
    add_piece: str
    locate: str
    pieces: str
    any_due: str
    take_due: str
    beat: str
    find: str
    before: str
    ageing: str
    drop_pieces: str
    drop_job: str

    @classmethod
    def of(cls, table: str) -> Statements:
        if not _IDENTIFIER.fullmatch(table) or table.lower().startswith("sqlite_"):
            raise InvalidRequest(
                "table_name",
                f"{table!r} is not an identifier: up to 48 ASCII letters, digits and underscores, no digit first, "
                'and not "sqlite_…", which SQLite keeps for itself',
            )
        stored = (*COLUMNS, "has_body")

        def sql(text: str) -> str:
            return (
                text.replace("{table}_output", f'"{table}_output"')
                .replace(
                    "{columns}",
                    "{names}, CASE WHEN has_body THEN "
                    "(SELECT body FROM {table}_body WHERE job = seq) ELSE x'' END, seq",
                )
                .replace("{table}_body", f'"{table}_body"')
                .replace("{table}_", f"{table}_")
                .replace("{table}", f'"{table}"')
                .replace("{names}", ", ".join(COLUMNS))
                .replace("{stored}", ", ".join(stored))
                .replace("{values}", ", ".join("?" * len(stored)))
            )

        def create(name: str, columns: tuple[tuple[str, str], ...], rest: str = "", options: str = "") -> str:
            return sql(f"CREATE TABLE {name} ({', '.join(map(' '.join, columns))}{rest}){options}")

        due = "status = 0 AND status < 2 AND start_time <= :now AND (lease_until IS NULL OR lease_until <= :now)"
        insert = sql("INSERT INTO {table} ({stored}) VALUES ({values})")
        return cls(
            table=table,
            layout={
                name: tuple(column for column, _ in columns)
                for name, columns in (
                    (table, _COLUMNS),
                    (f"{table}_body", _BODY_COLUMNS),
                    (f"{table}_output", _OUTPUT_COLUMNS),
                )
            },
            creation=(
                create("{table}", _COLUMNS),
                *map(sql, _INDICES),
                create("{table}_body", _BODY_COLUMNS),
                create("{table}_output", _OUTPUT_COLUMNS, ", PRIMARY KEY (job, start)", " WITHOUT ROWID"),
            ),
            insert=insert,
            insert_merging=f"{insert} ON CONFLICT (merge_key) WHERE merge_key IS NOT NULL DO NOTHING RETURNING seq",
            add_body=sql("INSERT INTO {table}_body (job, body) VALUES (?, ?)"),
            drop_body=sql("DELETE FROM {table}_body WHERE job = ?"),
            holder=sql("SELECT {columns} FROM {table} WHERE merge_key = ?"),
            get=sql("SELECT {columns} FROM {table} WHERE id = ?"),
            update=sql("UPDATE {table} SET [changes] WHERE id = ?[condition] RETURNING {columns}"),
            report=sql(
                "UPDATE {table} SET version = version + 1, updated_time = ?[changes] "
                "WHERE id = ? AND token = ? AND status = 1 RETURNING seq, output_size"
            ),
            add_piece=sql("INSERT INTO {table}_output (job, start, piece) VALUES (?, ?, ?)"),
            locate=sql("SELECT seq, output_truncated FROM {table} WHERE id = ?"),
            pieces=sql(
                "SELECT start, piece FROM {table}_output WHERE job = :job AND start < :end AND start >= coalesce("
                "(SELECT max(start) FROM {table}_output WHERE job = :job AND start <= :begin), 0) ORDER BY start"
            ),
            any_due=sql("SELECT EXISTS (SELECT 1 FROM {table} WHERE [due])").replace("[due]", due),
            take_due=sql(
                "UPDATE {table} SET lessee = :lessee, lease_until = :until, version = version + 1 WHERE seq IN "
                "(SELECT seq FROM {table} WHERE [due] ORDER BY start_time, seq LIMIT :limit) RETURNING {columns}"
            ).replace("[due]", due),
            beat=sql(
                "UPDATE {table} SET updated_time = ?, version = version + 1 WHERE id = ? AND token = ? AND status = 1"
            ),
            find=sql("SELECT {columns} FROM {table}[condition] ORDER BY seq DESC LIMIT :limit"),
            before=sql("seq < (SELECT seq FROM {table} WHERE id = :before)"),
            ageing=sql(
                "SELECT seq, output_size FROM {table} WHERE status = ? AND status >= 2 AND end_time < ? "
                "ORDER BY end_time LIMIT ?"
            ),
            drop_pieces=sql("DELETE FROM {table}_output WHERE job = ?"),
            drop_job=sql("DELETE FROM {table} WHERE seq = ?"),
        )

    def change(self, assigned: dict[str, object], expected: dict[str, object]) -> str:
        """A compare-and-set of these columns; ``version = version + 1`` goes with it."""
        changes = "version = version + 1" + "".join([f", {name} = ?" for name in assigned])
        condition = "".join([f" AND {name} = ?" for name in expected])
        return self.update.replace("[changes]", changes).replace("[condition]", condition)

    def progress(self, report: Report, size: int) -> tuple[str, list[object]]:
        """The statement that writes a report with ``size`` bytes of output, and the values for its changes."""
        changes = ""
        values: list[object] = []
        if report.progress is not None:
            changes += ", progress = ?"
            values.append(report.progress)
        if report.text is not None:
            changes += ", status_text = ?"
            values.append(report.text)
        if size:
            changes += ", output_size = output_size + ?"
            values.append(size)
        if report.truncated:
            changes += ", output_truncated = 1"
        return self.report.replace("[changes]", changes), values

    def search(self, query: Query) -> str:
        """The search for a query, with its values by name.

        The unary plus keeps SQLite from an index (see "Disqualifying WHERE-Clause Terms Using Unary +" in its manual):
        it has no statistics, and might else walk a long list where a short one stands: living jobs, then an owner's.
        """
        conditions: list[str] = []
        living = query.status is not None and not query.status.is_final
        listed = query.overdue or living
        if query.overdue:
            conditions.append(_OVERDUE[query.status])
        elif living:
            conditions.append("status = :status AND status < 2")
        if query.owner is not None:
            conditions.append("+owner = :owner" if listed else "owner = :owner")
            listed = True
        if query.scope is not None:
            indexed = bool(query.scope) and not listed
            conditions.append("scope = :scope AND scope <> ''" if indexed else "+scope = :scope")
            listed = listed or indexed
        if query.status is not None and query.status.is_final and not query.overdue:
            conditions.append("+status = :status" if listed else "status = :status AND status >= 2")
        if query.before is not None:
            conditions.append(self.before)
        return self.find.replace("[condition]", " WHERE " + " AND ".join(conditions) if conditions else "")


_OVERDUE_STARTED: Final = "(status = 0 AND status < 2 AND start_time <= :now AND deliver_by <= :now)"
_OVERDUE_RUNNING: Final = "(status = 1 AND status < 2 AND updated_time + error_timeout <= :now)"
# Nothing is delivered before it is due, so start_time bounds the search for deliver_by.
_OVERDUE: Final[dict[Status | None, str]] = {
    None: f"({_OVERDUE_STARTED} OR {_OVERDUE_RUNNING})",
    Status.STARTED: _OVERDUE_STARTED,
    Status.IN_PROGRESS: _OVERDUE_RUNNING,
    Status.COMPLETED: "0",
    Status.FAILED: "0",
    Status.CANCELLED: "0",
}
