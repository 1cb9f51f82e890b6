"""Writing what an action reports while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection

from backjob.model import UNSET, Report
from backjob.stores.sql.database import Database
from backjob.stores.sql.parameters import Values
from backjob.stores.sql.prepared import Block
from backjob.stores.sql.statements import Reporting, Statements
from backjob.stores.values import cut, dump_result, output_bytes, tail_rows


class Reports:
    """`SQLStore.report`. ``values`` adds what every statement needs to its parameters."""

    def __init__(self, database: Database, sql: Statements, values: Callable[..., Values]) -> None:
        self._database = database
        self._sql = sql
        self._values = values

    def report(self, job_id: str, token: str, report: Report) -> bool:
        added = output_bytes(report.output)
        values = self._values(
            old_id=job_id,
            old_token=token,
            new_progress=report.progress,
            new_text=report.text,
            new_size=len(added),
            new_truncated=int(report.truncated),
        )
        reporting = self._sql.report
        if report.cursor is not UNSET:
            values["new_cursor"] = dump_result(report.cursor)
            reporting = self._sql.checkpoint
        tail = None if report.tail is UNSET else tail_rows(report.tail)
        if not added and tail is None:
            return self._database.do(lambda connection: reporting.write.count(connection, values)) == 1
        chunks: list[Values] = [{"new_position": position, "new_chunk": chunk} for position, chunk in cut(added)]

        def step(connection: Connection) -> bool:
            if len(chunks) == 1 and tail is None:
                if reporting.with_output is not None:
                    return reporting.with_output.count(connection, values | chunks[0]) == 1
                if reporting.block is not None and Block.is_taken_by(connection.dialect):
                    return bool(self._database.run_block(connection, reporting.block, values | chunks[0]))
            with self._database.transaction(connection):
                return self._write(connection, reporting, values, chunks, tail)

        return self._database.do(step)

    def _write(
        self,
        connection: Connection,
        reporting: Reporting,
        values: Values,
        chunks: Sequence[Values],
        tail: Sequence[tuple[int, bytes]] | None,
    ) -> bool:
        """Write the row, the output and the tail in the transaction that the caller has begun."""
        if not reporting.write.count(connection, values):
            return False
        for chunk in chunks:
            self._sql.append.count(connection, values | chunk)
        if tail is not None:
            seq = self._sql.locate.rows(connection, values)[0][0]
            connection.execute(self._sql.drop_tail, {"job": seq})
            if tail:
                rows = [{"job": seq, "start": start, "piece": chunk} for start, chunk in tail]
                connection.execute(self._sql.add_tail, rows)
        return True
