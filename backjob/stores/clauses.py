"""The conditions of searches in SQL, for a store with a table of jobs that it can search by their columns.

The table has `SEARCHED`, and a ``number`` that grows with each job that is created. Text must be compared byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from string import ascii_lowercase, ascii_uppercase
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from backjob.lifecycle import overdue_from
from backjob.model import Job, Query
from backjob.stores.columns import COLUMNS
from backjob.stores.rows import Row, job_row, microseconds, span
from backjob.stores.steps import each_status

__all__ = ["SEARCHED", "Clause", "due_clause", "query_clauses", "searched_row"]

SEARCHED: Final = (*COLUMNS, "overdue_from")
"""The columns of a job, and the moment from which it is overdue, or NULL: see `backjob.lifecycle.overdue_from`."""

_Part: TypeAlias = tuple[str, Mapping[str, Any]]
"""A condition with ``{name}`` for each parameter, and the values of these."""

_EQUAL: Final = ("owner", "scope", "root", "queue")
_TEXTS: Final = ("title", "path")
_FOLDED: Final = str.maketrans(ascii_uppercase, ascii_lowercase)
_NOTHING: Final[_Part] = ("1 = 0", {})


@frozen
class Clause:
    """A condition in SQL, and the values of its named parameters."""

    sql: str
    values: Mapping[str, Any] = field(repr=False)


def searched_row(job: Job) -> Row:
    """A job's columns, in the order of `SEARCHED`, without the request's body."""
    late = overdue_from(job)
    return (*job_row(job), None if late is None else microseconds(late))


def due_clause(
    now: int,
    labels: frozenset[str] | None,
    full: frozenset[str],
    queues: frozenset[str] | None,
    *,
    mark: Callable[[str], str] = ":{}".format,
) -> Clause:
    """Which jobs `Store.take_due` may take, to be ordered by ``start_time, number``.

    ``now`` is in `microseconds`. ``mark`` writes the name of a parameter as the driver expects it; psycopg and PyMySQL need
    ``"%({})s".format``.
    """
    parts: list[_Part] = [
        ("token IS NULL AND status < 2 AND start_time <= {now}", {"now": now}),
        ("(lease_until IS NULL OR lease_until <= {now})", {"now": now}),
        *_among("label", labels),
        *_among("queue", queues),
    ]
    for condition, names in _among("queue", full or None, "full"):
        parts.append((f"(slot IS NOT NULL OR NOT {condition})", names))
    return _clause(parts, mark)


def query_clauses(
    query: Query, now: int, last: int | None, *, mark: Callable[[str], str] = ":{}".format, position: str = "instr"
) -> list[Clause]:
    """The searches that together make a query, each to be ordered by ``number`` from the largest, up to the query's limit.

    No job matches two of them. ``last`` is the ``number`` of the job ``query.before``, or None if the store does not know
    it. Each search has at most one status, so it can use an index. ``now`` and ``mark`` are those of `due_clause`. ``position``
    is the function of the database that finds a text in another: ``"strpos"`` in PostgreSQL.
    """
    parts: list[_Part] = [
        (f"{name} = {{{name}}}", {name: value}) for name in _EQUAL if (value := getattr(query, name)) is not None
    ]
    parts += _among("label", query.labels)
    if query.overdue:
        parts.append(("overdue_from <= {now}", {"now": now}))
    if query.has_file:
        parts.append(("file IS NOT NULL", {}))
    if query.text:
        # A database may fold ASCII letters only, depending on the collation of the column, which the parameter does not have.
        found = [
            f"{position}(lower({column}), {text}) > 0" for column in _TEXTS for text in ("lower({text})", "{folded}")
        ]
        parts.append((f"({' OR '.join(found)})", {"text": query.text, "folded": query.text.translate(_FOLDED)}))
    parts += _page(query, last)
    clauses = []
    for status, age in each_status(query):
        each = [] if status is None else [("status = {status}", {"status": int(status)})]
        if age is not None:
            each.append(("end_time < {ended_before}", {"ended_before": now - span(age)}))
        clauses.append(_clause([*each, *parts], mark))
    return clauses


def _page(query: Query, last: int | None) -> Iterable[_Part]:
    if query.before is not None and last is not None:
        yield "number < {last}", {"last": last}
    elif query.before_time is not None:
        yield "created_time < {before_time}", {"before_time": microseconds(query.before_time)}
    elif query.before is not None:
        yield _NOTHING


def _among(column: str, names: frozenset[str] | None, prefix: str = "") -> Iterable[_Part]:
    """The condition that the column has one of these names; None stands for any."""
    if names is None:
        return
    values = {f"{prefix or column}_{number}": name for number, name in enumerate(sorted(names))}
    yield (f"{column} IN ({', '.join([f'{{{name}}}' for name in values])})", values) if values else _NOTHING


def _clause(parts: Iterable[_Part], mark: Callable[[str], str]) -> Clause:
    values = {name: value for _, named in parts for name, value in named.items()}
    sql = " AND ".join([condition for condition, _ in parts]) or "1 = 1"
    return Clause(sql.format(**{name: mark(name) for name in values}), values)
