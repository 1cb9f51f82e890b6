"""Changing jobs by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection

from backjob.errors import SlotTaken
from backjob.model import Changes, Expect, Job
from backjob.stores.rows import After, assignments_with_body, conditions, microseconds
from backjob.stores.sql.database import Database
from backjob.stores.sql.errors import Meaning, meaning
from backjob.stores.sql.parameters import Values, named_values
from backjob.stores.sql.prepared import Block
from backjob.stores.sql.statements import Change, Statements
from backjob.stores.steps import changed, holds


class Changing:
    """`SQLStore.change`. ``values`` adds what every statement needs to its parameters."""

    def __init__(self, database: Database, sql: Statements, values: Callable[..., Values]) -> None:
        self._database = database
        self._sql = sql
        self._values = values

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        assigned = assignments_with_body(changes, After())
        expected = conditions(expect)
        change = self._sql.change(assigned, expected, expect)
        values = self._values(**named_values("new", assigned), **named_values("old", {"id": job_id, **expected}))

        def step(connection: Connection) -> tuple[Job | None, bool]:
            try:
                if change.block is None:
                    rows = change.write.rows(connection, values)
                elif Block.is_taken_by(connection.dialect):
                    rows = self._database.run_block(connection, change.block, values)
                else:
                    return self._change_as_read(connection, job_id, expect, changes)
            except Exception as error:
                if meaning(error) is Meaning.DUPLICATE:  # in the only index that a change can violate
                    raise SlotTaken(str(changes.slot)) from None
                raise
            return (self._sql.reading.job(rows[0]) if rows else None), True

        job, is_certain = self._database.do(step)
        return job if is_certain else self._change_in_transaction(change, values)

    def _change_as_read(
        self, connection: Connection, job_id: str, expect: Expect, changes: Changes
    ) -> tuple[Job | None, bool]:
        """Read the job, and change it unless its version has changed since: two round trips, where a transaction takes four.

        Returns the result of `change` and True, or None and False if another write came between.
        """
        job = self.get(connection, job_id)
        if job is None or not holds(expect, job, job.read_time):
            return None, True
        assigned = assignments_with_body(changes, microseconds(job.read_time))
        values = self._values(**named_values("new", assigned), old_id=job_id, old_version=job.version)
        # A renewal of the lease leaves the version as it is.
        is_same = Expect(version=job.version, lease_over=expect.lease_over)
        if self._sql.change(assigned, ("version",), is_same).write.count(connection, values):
            return changed(job, changes, job.read_time), True
        return None, False

    def _change_in_transaction(self, change: Change, values: Values) -> Job | None:
        def step(connection: Connection) -> Job | None:
            is_changed = change.write.count(connection, values)
            return self.get(connection, values["old_id"]) if is_changed else None

        return self._database.transact(step)

    def get(self, connection: Connection, job_id: str, *, body: bool = False) -> Job | None:
        """The job, with the request's body only if it is asked for."""
        statement = self._sql.get_with_body if body else self._sql.get
        rows = statement.rows(connection, self._values(old_id=job_id))
        return self._sql.reading.job(rows[0]) if rows else None
