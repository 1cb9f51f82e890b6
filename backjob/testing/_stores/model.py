"""A store as a dictionary. Every other store must return the same results."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from attrs import NOTHING, fields

from backjob.errors import SlotTaken
from backjob.lifecycle import TIMED_OUT
from backjob.model import UNSET, Changes, Draft, Expect, Job, Query, Report, Status
from backjob.testing._stores.case import bodiless
from backjob.testing.clock import FakeClock

_FIELDS: Final = {field.name: field for field in fields(Job)}
_COPIED: Final = [*[field.name for field in fields(Draft) if field.name in _FIELDS], "method", "path"]
_CHANGED: Final = [field.name for field in fields(Changes) if field.name in _FIELDS and field.name != "keep_request"]
_DEFAULTS: Final = {
    name: field.default for name, field in _FIELDS.items() if field.default is not NOTHING and name not in _COPIED
}


class Model:
    """Rows of plain fields, oldest first: slow, but short enough to check by reading."""

    def __init__(self, clock: FakeClock, *, lists_ended: bool = True) -> None:
        self.clock = clock
        self.lists_ended = lists_ended
        """Whether ``find`` returns ended jobs."""
        self.rows: dict[str, dict[str, Any]] = {}
        self.outputs: dict[str, str] = {}
        self.tails: dict[str, str] = {}

    def after(self, seconds: float) -> datetime:
        return self.clock.now() + timedelta(seconds=seconds)

    def moment(self, due: datetime | float) -> datetime:
        return due if isinstance(due, datetime) else self.after(due)

    def job(self, job_id: str, *, body: bool = False) -> Job | None:
        row = self.rows.get(job_id)
        if row is None:
            return None
        job = Job(**row, read_time=self.clock.now())
        return job if body else bodiless(job)

    def create(self, draft: Draft, merge_key: str | None) -> Job | None:
        for job_id, row in self.rows.items():
            if merge_key is not None and row["merge_key"] == merge_key:
                return self.job(job_id)
        now = self.clock.now()
        self.rows[draft.id] = {name: getattr(draft, name) for name in _COPIED} | {
            **_DEFAULTS,
            **dict.fromkeys(("created_time", "updated_time"), now),
            "start_time": self.moment(draft.due),
            "expires": None if draft.expires is None else self.moment(draft.expires),
            "lease_until": None if draft.lessee is None else self.after(draft.lease),
            "merge_key": merge_key,
        }
        self.outputs[draft.id] = self.tails[draft.id] = ""
        return self.job(draft.id)

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        row = self.rows.get(job_id)
        if row is None or not self.holds(row, expect):
            return None
        if isinstance(changes.slot, str) and any(
            other["slot"] == changes.slot for other in self.rows.values() if other is not row
        ):
            raise SlotTaken(changes.slot)
        row["version"] += 1
        row |= {name: value for name in _CHANGED if (value := getattr(changes, name)) is not UNSET}
        if changes.lease is not UNSET:
            row["lease_until"] = None if changes.lease is None else self.after(changes.lease)
        if changes.due is not UNSET:
            row["start_time"] = self.moment(changes.due)
        if isinstance(changes.deliver_by, int | float):
            row["deliver_by"] = self.after(changes.deliver_by)
        if changes.claimed:
            row["claimed_time"] = self.clock.now()
        if changes.free_merge_key:
            row["merge_key"] = None
        if changes.alive:
            row["updated_time"] = self.clock.now()
        if changes.end:
            row |= dict.fromkeys(("sealed", "waiting_for", "lessee", "lease_until", "cursor", "slot"))
            row |= {} if changes.keep_request else dict.fromkeys(("request", "caller", "proof"))
            row |= {} if changes.keep_key else {"merge_key": None}
            row["end_time"] = self.clock.now()
        return self.job(job_id)

    def is_waiting(self, row: dict[str, Any]) -> bool:
        return row["token"] is None and not row["status"].is_final

    def is_leased(self, row: dict[str, Any]) -> bool:
        return row["lease_until"] is not None and bool(row["lease_until"] > self.clock.now())

    def holds(self, row: dict[str, Any], expect: Expect) -> bool:
        return (
            all(getattr(expect, name) in (None, row[name]) for name in ("status", "run", "token", "version"))
            and (not expect.unclaimed or self.is_waiting(row))
            and (not expect.lease_over or (row["lease_until"] is not None and not self.is_leased(row)))
        )

    def report(self, job_id: str, token: str, report: Report) -> bool:
        row = self.rows.get(job_id)
        if row is None or row["status"] is not Status.IN_PROGRESS or row["token"] != token:
            return False
        row["progress"] = row["progress"] if report.progress is None else report.progress
        row["status_text"] = row["status_text"] if report.text is None else report.text
        self.outputs[job_id] += report.output
        row["output_size"] = len(self.outputs[job_id].encode())
        row["output_truncated"] |= report.truncated
        self.tails[job_id] = self.tails[job_id] if report.tail is UNSET else report.tail
        if report.cursor is not UNSET:
            row["cursor"], row["attempt"] = report.cursor, 1
        row["updated_time"] = self.clock.now()
        row["version"] += 1
        return True

    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: frozenset[str] | None,
        full: frozenset[str],
        *,
        queues: frozenset[str] | None,
    ) -> list[Job | None]:
        now = self.clock.now()
        due = [
            row
            for row in self.rows.values()
            if self.is_waiting(row)
            and row["start_time"] <= now
            and not self.is_leased(row)
            and (row["slot"] is not None or row["queue"] not in full)
            and (queues is None or row["queue"] in queues)
            and (labels is None or row["label"] in labels)
        ]
        taken = sorted(due, key=lambda row: row["start_time"])[:limit]
        for row in taken:
            row["lessee"], row["lease_until"], row["version"] = lessee, self.after(lease), row["version"] + 1
        return [self.job(row["id"], body=True) for row in taken]

    def beat(self, tokens: dict[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        stale = set(tokens)
        for job_id, token in tokens.items():
            row = self.rows.get(job_id)
            if row is not None and row["status"] is Status.IN_PROGRESS and row["token"] == token:
                row["lease_until"] = self.after(lease)
                row["updated_time"] = self.clock.now() if job_id in alive else row["updated_time"]
                stale.remove(job_id)
        return frozenset(stale)

    def overdue(self, row: dict[str, Any]) -> bool:
        if row["status"].is_final:
            return False
        if row["token"] is None:
            return any(row[name] is not None and row[name] <= self.clock.now() for name in ("deliver_by", "expires"))
        if row["lease_until"] is not None and not self.is_leased(row):
            return True
        silent = self.clock.now() - row["updated_time"]
        limit = row["error_timeout"]
        return limit > 0 and row["token"] != TIMED_OUT and bool(silent >= timedelta(seconds=limit))

    def find(self, query: Query) -> list[Job | None]:
        rows = list(self.rows.values())
        if query.before in self.rows:
            rows = rows[: list(self.rows).index(query.before)]
        elif query.before is not None or query.before_time is not None:
            time = query.before_time
            rows = [row for row in rows if time is not None and row["created_time"] < time]
        matching = [
            row
            for row in reversed(rows)
            if (self.lists_ended or not row["status"].is_final)
            and query.scope in (None, row["scope"])
            and query.status in (None, row["status"])
            and (query.statuses is None or row["status"] in query.statuses)
            and query.owner in (None, row["owner"])
            and query.queue in (None, row["queue"])
            and any(query.text.lower() in (row[name] or "").lower() for name in ("title", "path"))
            and (query.expired is None or self.is_old(row, *query.expired))
            and (row["file"] is not None or not query.has_file)
            and query.root in (None, row["root"])
            and (query.labels is None or row["label"] in query.labels)
            and (not query.overdue or self.overdue(row))
        ]
        return [self.job(row["id"]) for row in matching[: query.limit]]

    def is_old(self, row: dict[str, Any], completed_age: float, ended_age: float) -> bool:
        ages = [ended_age] + ([completed_age] if row["status"] is Status.COMPLETED else [])
        end, now = row["end_time"], self.clock.now()
        return end is not None and any(age and end + timedelta(seconds=age) < now for age in ages)

    def delete(self, job_id: str) -> bool:
        if job_id not in self.rows:
            return False
        del self.rows[job_id], self.outputs[job_id], self.tails[job_id]
        return True

    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None) -> int:
        gone = [
            job_id
            for job_id, row in self.rows.items()
            if (labels is None or row["label"] in labels)
            and row["file"] is None
            and self.is_old(row, completed_age, ended_age)
        ]
        for job_id in gone:
            self.delete(job_id)
        return len(gone)
