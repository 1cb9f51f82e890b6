"""Which columns the statements select of a job, and how the job is read from such a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from backjob.model import Job
from backjob.stores.columns import COLUMNS, JOB_COLUMNS, Kind
from backjob.stores.rows import moment, row_job
from backjob.stores.sql.parameters import in_utf8
from backjob.stores.sql.schema import Tables

_APART: Final = tuple(
    [index for index, column in enumerate(JOB_COLUMNS) if column.kind is Kind.BYTES or column.name == "result"]
)
"""The positions of the columns that are not packed: bytes, and results, which may be as long as a packet may be."""


class Reading:
    """The columns of these tables that a job is read from: ``whole`` with the request's body, ``selected`` without.

    A row has the time of reading after them, and may have more columns after that. MariaDB and MySQL send most of them in one
    column, as JSON: their drivers take 7 µs for each column of a result.
    """

    def __init__(self, tables: Tables, now: sa.ColumnElement[int], *, is_mysql: bool) -> None:
        columns = [tables.jobs.c[name] for name in COLUMNS]
        read: Sequence[sa.ColumnElement[Any]] = columns
        if is_mysql:
            packed = [
                in_utf8(sa.cast(column, mysql.BINARY())) if JOB_COLUMNS[index].is_text else column
                for index, column in enumerate(columns)
                if index not in _APART
            ]
            whole = sa.cast(in_utf8(sa.func.json_array(*packed)), mysql.BINARY())
            read = [whole.label("packed"), *[columns[index] for index in _APART]]
        self.whole = [*read, tables.jobs.c.body, now.label("read_time")]
        self.selected = [*read, sa.null().label("no_body"), now.label("read_time")]
        self._is_packed = is_mysql
        self._size = len(read)

    def job(self, row: Sequence[Any]) -> Job:
        """The job of a row."""
        size = self._size
        read_time = moment(row[size + 1])
        if not self._is_packed:
            return row_job(tuple(row[: size + 1]), read_time)
        values = json.loads(row[0])
        for position, value in zip(_APART, row[1:size], strict=True):
            values.insert(position, value)
        return row_job((*values, row[size]), read_time)
