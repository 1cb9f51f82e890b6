"""A store as a dictionary, and any sequence of calls held against it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

from attrs import asdict
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from backjob.lifecycle import claimed
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report, Request, Status
from backjob.protocols import Clock, Store
from backjob.testing._store_case import MICROSECOND, StoreCase, same
from backjob.testing.clock import FakeClock

__all__ = ["StoreSequences"]


class StoreSequences(StoreCase):
    """Any sequence of calls gives what the model gives."""

    examples = 40
    """Generated sequences."""
    steps = 40
    """Calls in each, at most."""

    def test_any_sequence_of_calls_does_what_the_model_does(self) -> None:
        run_state_machine_as_test(
            type("Machine", (_Machine,), {"make_store": staticmethod(self.make_store)}),
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=self.steps,
                deadline=None,
                suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
            ),
        )


class _Model:
    """What a store should know: rows of plain fields, oldest first. Slow, and short enough to be seen through."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.rows: dict[str, dict[str, Any]] = {}
        self.outputs: dict[str, str] = {}

    def after(self, seconds: float) -> datetime:
        return self.clock.now() + timedelta(seconds=seconds)

    def moment(self, due: datetime | float) -> datetime:
        return due if isinstance(due, datetime) else self.after(due)

    def job(self, job_id: str) -> Job | None:
        row = self.rows.get(job_id)
        return None if row is None else Job(**row, read_time=self.clock.now())

    def create(self, draft: Draft, merge_key: str | None) -> Job | None:
        for job_id, row in self.rows.items():
            if merge_key is not None and row["merge_key"] == merge_key:
                return self.job(job_id)
        now = self.clock.now()
        start = self.moment(draft.due)
        copied = ("id", "request", "caller", "owner", "scope", "error_timeout", "lessee", "held", "sealed", "depth")
        self.rows[draft.id] = {name: getattr(draft, name) for name in copied} | {
            "status": Status.STARTED, "progress": 0, "status_text": None, "output_size": 0, "output_truncated": False,
            "created_time": now, "start_time": start, "deliver_by": start + timedelta(seconds=draft.delivery_timeout),
            "updated_time": now, "end_time": None, "attempt": 1, "version": 1, "token": None, "result": None,
            "lease_until": None if draft.lessee is None else self.after(draft.lease), "merge_key": merge_key,
        }  # fmt: skip
        self.outputs[draft.id] = ""
        return self.job(draft.id)

    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        row = self.rows.get(job_id)
        if row is None or not all(value in (None, row[name]) for name, value in asdict(expect).items()):
            return None
        row["version"] += 1
        plain = ("status", "attempt", "token", "progress", "status_text", "result", "lessee")
        row |= {name: value for name in plain if (value := getattr(changes, name)) is not UNSET}
        if changes.lease is not UNSET:
            row["lease_until"] = None if changes.lease is None else self.after(changes.lease)
        if changes.due is not UNSET:
            row["start_time"] = self.moment(changes.due)
            row["deliver_by"] = row["start_time"] + timedelta(seconds=changes.delivery_timeout)
        if changes.free_merge_key:
            row["merge_key"] = None
        if changes.alive:
            row["updated_time"] = self.clock.now()
        if changes.erase_sealed:
            row["sealed"] = None
        if changes.end:
            row |= dict.fromkeys(("request", "caller", "sealed", "lessee", "lease_until", "merge_key"))
            row["end_time"] = self.clock.now()
        return self.job(job_id)

    def report(self, job_id: str, token: str, report: Report) -> bool:
        row = self.rows.get(job_id)
        if row is None or row["status"] is not Status.IN_PROGRESS or row["token"] != token:
            return False
        progress = (row["progress"] if report.progress is None else report.progress) + report.increment
        row["progress"] = sorted((0, progress, 100))[1]
        row["status_text"] = row["status_text"] if report.text is None else report.text
        self.outputs[job_id] += report.output
        row["output_size"] = len(self.outputs[job_id].encode())
        row["output_truncated"] |= report.truncated
        row["updated_time"] = self.clock.now()
        row["version"] += 1
        return True

    def take_due(self, lessee: str, lease: float, limit: int) -> list[Job | None]:
        now = self.clock.now()
        due = [
            row
            for row in self.rows.values()
            if row["status"] is Status.STARTED
            and row["start_time"] <= now
            and (row["lease_until"] is None or row["lease_until"] <= now)
        ]
        taken = sorted(due, key=lambda row: row["start_time"])[:limit]
        for row in taken:
            row["lessee"], row["lease_until"], row["version"] = lessee, self.after(lease), row["version"] + 1
        return [self.job(row["id"]) for row in taken]

    def beat(self, tokens: dict[str, str]) -> None:
        for job_id, token in tokens.items():
            self.report(job_id, token, Report())

    def overdue(self, row: dict[str, Any]) -> bool:
        if row["status"] is Status.STARTED:
            return bool(row["deliver_by"] <= self.clock.now())
        silent = self.clock.now() - row["updated_time"]
        return row["status"] is Status.IN_PROGRESS and bool(silent >= timedelta(seconds=row["error_timeout"]))

    def find(self, query: Query) -> list[Job | None]:
        rows = list(self.rows.values())
        if query.before is not None:
            names = list(self.rows)
            rows = rows[: names.index(query.before)] if query.before in names else []
        matching = [
            row
            for row in reversed(rows)
            if query.scope in (None, row["scope"])
            and query.status in (None, row["status"])
            and query.owner in (None, row["owner"])
            and (not query.overdue or self.overdue(row))
        ]
        return [self.job(row["id"]) for row in matching[: query.limit]]

    def purge(self, completed_age: float, ended_age: float) -> int:
        now = self.clock.now()
        gone = []
        for job_id, row in self.rows.items():
            ages = [ended_age] + ([completed_age] if row["status"] is Status.COMPLETED else [])
            if row["end_time"] is not None and any(
                age and row["end_time"] + timedelta(seconds=age) < now for age in ages
            ):
                gone.append(job_id)
        for job_id in gone:
            del self.rows[job_id], self.outputs[job_id]
        return len(gone)


# --- few values, so that calls meet ---------------------------------------------------------------------------------

_IDS: Final = st.sampled_from(("a", "b", "c", "d"))
_TOKENS: Final = st.sampled_from(("token 1", "token 2"))
_KEYS: Final = st.sampled_from((None, None, "key 1", "key 2"))
_SECONDS: Final = st.sampled_from((0.0, MICROSECOND, 1.0, 2.0, 5.5))
_SCOPES: Final = st.sampled_from(("", "s", "ü"))
_OWNERS: Final = st.sampled_from((None, "o", "p"))
_STATUSES: Final = st.sampled_from(list(Status))
_TEXTS: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
_DUE: Final = _SECONDS | _SECONDS.map(lambda seconds: FakeClock().now() + timedelta(seconds=seconds))
_RESULTS: Final = st.none() | st.integers(-(2**53), 2**53) | _TEXTS | st.lists(st.booleans(), max_size=2)

_DRAFTS: Final = st.builds(
    Draft,
    id=_IDS,
    request=st.builds(Request, st.just("GET"), st.just("/work"), body=st.binary(max_size=3)),
    owner=_OWNERS,
    scope=_SCOPES,
    due=_DUE,
    delivery_timeout=_SECONDS,
    error_timeout=_SECONDS,
    lessee=st.sampled_from((None, "m1", "m2")),
    lease=_SECONDS,
    held=st.booleans(),
    sealed=st.none() | st.binary(max_size=3),
    depth=st.integers(0, 3),
)
_EXPECTATIONS: Final = st.builds(
    Expect,
    status=st.none() | _STATUSES,
    attempt=st.sampled_from((None, None, 1, 2)),
    token=st.none() | _TOKENS,
    version=st.sampled_from((None, None, None, 1, 2, 3)),
)
_REPORTS: Final = st.builds(
    Report,
    progress=st.none() | st.integers(-5, 105),
    increment=st.integers(-30, 30),
    text=st.none() | _TEXTS,
    output=_TEXTS,
    truncated=st.sampled_from((False, False, True)),
)
_QUERIES: Final = st.builds(
    Query,
    scope=st.none() | _SCOPES,
    status=st.none() | _STATUSES,
    owner=_OWNERS,
    overdue=st.booleans(),
    limit=st.integers(1, 5),
    before=st.none() | _IDS,
)
_LIVING_CHANGES: Final = st.builds(
    Changes,
    progress=st.just(UNSET) | st.integers(0, 100),
    status_text=st.just(UNSET) | _TEXTS,
    result=st.just(UNSET) | _RESULTS,
    lessee=st.sampled_from((UNSET, None, "m1", "m2")),
    lease=st.sampled_from((UNSET, None)) | _SECONDS,
    due=st.just(UNSET) | _DUE,
    delivery_timeout=_SECONDS,
    free_merge_key=st.booleans(),
    alive=st.booleans(),
)
_ENDS: Final = st.builds(
    Changes,
    status=st.sampled_from((Status.COMPLETED, Status.FAILED, Status.CANCELLED)),
    progress=st.sampled_from((UNSET, 100)),
    status_text=st.just(UNSET) | _TEXTS,
    result=st.just(UNSET) | _RESULTS,
    alive=st.booleans(),
    end=st.just(True),
)
_LIVING: Final = (Status.STARTED, Status.IN_PROGRESS)


class _Machine(RuleBasedStateMachine):
    """Makes the same calls to a store and to the model. Changes are those that the core makes: an end is for good."""

    make_store: Callable[[Clock], Store]

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.store = self.make_store(self.clock)
        self.model = _Model(self.clock)

    def teardown(self) -> None:
        self.store.close()

    @rule(seconds=_SECONDS)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(draft=_DRAFTS, key=_KEYS)
    def create(self, draft: Draft, key: str | None) -> None:
        if draft.id not in self.model.rows:
            same(self.store.create(draft, key), self.model.create(draft, key), "create does what the model does")

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, token=_TOKENS)
    def claim(self, job_id: str, token: str) -> None:
        self._change(job_id, *claimed(token))

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, expect=_EXPECTATIONS, changes=_LIVING_CHANGES)
    def change(self, job_id: str, expect: Expect, changes: Changes) -> None:
        self._change(job_id, expect, changes)

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, attempt=st.integers(2, 3), due=_DUE)
    def deliver_again(self, job_id: str, attempt: int, due: float) -> None:
        changes = Changes(status=Status.STARTED, attempt=attempt, due=due, lessee=None, lease=None)
        self._change(job_id, Expect(status=Status.IN_PROGRESS), changes)

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, status=st.sampled_from(_LIVING), token=st.none() | _TOKENS, changes=_ENDS)
    def end(self, job_id: str, status: Status, token: str | None, changes: Changes) -> None:
        self._change(job_id, Expect(status=status, token=token), changes)

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, token=_TOKENS, report=_REPORTS)
    def report(self, job_id: str, token: str, report: Report) -> None:
        found = self.store.report(job_id, token, report)
        same(found, self.model.report(job_id, token, report), "report does what the model does")

    @precondition(lambda self: self.model.rows)
    @rule(tokens=st.dictionaries(_IDS, _TOKENS, max_size=3))
    def beat(self, tokens: dict[str, str]) -> None:
        self.store.beat(tokens)
        self.model.beat(tokens)

    @rule(lessee=st.sampled_from(("m1", "m2")), lease=_SECONDS, limit=st.integers(1, 3))
    def take_due(self, lessee: str, lease: float, limit: int) -> None:
        found: list[Job | None] = [*self.store.take_due(lessee, lease, limit)]
        same(found, self.model.take_due(lessee, lease, limit), "take_due does what the model does")

    @rule(query=_QUERIES)
    def find(self, query: Query) -> None:
        found: list[Job | None] = [*self.store.find(query)]
        same(found, self.model.find(query), "find does what the model does")

    @rule(completed_age=_SECONDS, ended_age=_SECONDS)
    def purge(self, completed_age: float, ended_age: float) -> None:
        found = self.store.purge(completed_age, ended_age)
        same(found, self.model.purge(completed_age, ended_age), "purge does what the model does")

    @invariant()
    def both_know_the_same(self) -> None:
        for job_id in ("a", "b", "c", "d"):
            same(self.store.get(job_id), self.model.job(job_id), "get gives what the model gives")
            text = self.model.outputs.get(job_id, "")
            truncated = self.model.rows.get(job_id, {}).get("output_truncated", False)
            expected = Output(text, len(text.encode()), truncated)
            same(self.store.output(job_id), expected, "output gives what the model gives")

    def _change(self, job_id: str, expect: Expect, changes: Changes) -> None:
        found = self.store.change(job_id, expect, changes)
        same(found, self.model.change(job_id, expect, changes), "change does what the model does")
