"""Generated sequences of calls, compared with the model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from attrs import evolve
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from backjob.errors import SlotTaken
from backjob.lifecycle import Late, Requeue, claimed, ended, failed, reaped, requeued, timed_out
from backjob.model import UNSET, Changes, Draft, Expect, Job, Output, Query, Report, Request, Status, Unset
from backjob.protocols import Capability, lacks
from backjob.testing._stores.case import MICROSECOND, StoreCase, bodiless, same
from backjob.testing._stores.delaying import DelaysJobs
from backjob.testing._stores.differences import shown
from backjob.testing._stores.finding import FindsJobs, FindsSilentJobs
from backjob.testing._stores.generated import SHRINKING, Search
from backjob.testing._stores.merging import MergesJobs
from backjob.testing._stores.model import Model
from backjob.testing._stores.purging import PurgesJobs
from backjob.testing.clock import FakeClock


class AnySequence(StoreCase):
    """Generated sequences of the calls that the suite covers; each must return what the model returns."""

    examples = 40
    """The number of generated sequences."""
    steps = 40
    """The most calls in each."""
    shrinking = SHRINKING
    """Seconds for which the suite looks for a shorter failing race or sequence."""

    def test_any_sequence_of_calls_matches_the_model(self) -> None:
        search = Search(self.shrinking)
        machine = type("Machine", (_Machine,), {"suite": self, "search": search})
        kind = search.settings(max_examples=self.examples, stateful_step_count=self.steps)
        search.run(lambda: run_state_machine_as_test(machine, settings=kind))


# --- few values, so that many calls concern the same job ---------------------------------------------------------------------------------

_IDS: Final = st.sampled_from(("a", "b", "c", "d"))
_TOKENS: Final = st.sampled_from(("token 1", "token 2"))
_KEYS: Final = st.sampled_from((None, None, "key 1", "key 2"))
_SECONDS: Final = st.sampled_from((0.0, MICROSECOND, 1.0, 2.0, 5.5))
_SCOPES: Final = st.sampled_from(("", "s", "ü"))
_OWNERS: Final = st.sampled_from((None, "o", "p"))
_LABELS: Final = st.sampled_from(("", "l", "m"))
_SOME_LABELS: Final = st.none() | st.frozensets(_LABELS, max_size=3)
_ROOTS: Final = st.sampled_from((None, None, "a", "root"))
_STATUSES: Final = st.sampled_from(list(Status))
_TEXTS: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
_DUE: Final = _SECONDS | _SECONDS.map(lambda seconds: FakeClock().now() + timedelta(seconds=seconds))
_RESULTS: Final = st.none() | st.integers(-(2**53), 2**53) | _TEXTS | st.lists(st.booleans(), max_size=2)

_CURSORS: Final = st.just(UNSET) | _RESULTS
_TARGETS: Final = st.sampled_from(("/work", "/Work/%20?page=1", "/other"))
_FILES: Final = st.sampled_from((UNSET, UNSET, None, {"name": "rows.csv", "size": 50}))
_PARTS: Final = st.sampled_from(("", "", "", "work", "WORK/", "%", "title", "_"))
_TIMES: Final = st.none() | _SECONDS.map(lambda seconds: FakeClock().now() + timedelta(seconds=seconds))
_AGES: Final = st.none() | st.none() | st.tuples(_SECONDS, _SECONDS)
_QUEUES: Final = st.sampled_from(("default", "q", "Q"))
_SLOTS: Final = st.sampled_from((UNSET, None, "q/0", "q/1"))

_DRAFTS: Final = st.builds(
    Draft,
    id=_IDS,
    request=st.builds(Request, st.sampled_from(("GET", "PUT")), _TARGETS, body=st.binary(max_size=3)),
    owner=_OWNERS,
    scope=_SCOPES,
    due=_DUE,
    expires=st.none() | _DUE,
    error_timeout=_SECONDS,
    retries=st.integers(0, 2),
    retry_delay=_SECONDS,
    queue=_QUEUES,
    as_owner=st.booleans(),
    lessee=st.sampled_from((None, "m1", "m2")),
    lease=_SECONDS,
    held=st.booleans(),
    sealed=st.none() | st.binary(max_size=3),
    depth=st.integers(0, 3),
    label=_LABELS,
    proof=st.sampled_from((None, "proof")),
    root=_ROOTS,
    title=st.sampled_from((None, "Title_1", "Ü%")),
    keep_request=st.booleans(),
)
_EXPECTATIONS: Final = st.builds(
    Expect,
    status=st.none() | _STATUSES,
    run=st.sampled_from((None, None, 1, 2)),
    token=st.none() | _TOKENS,
    version=st.sampled_from((None, None, None, 1, 2, 3)),
    unclaimed=st.sampled_from((False, False, True)),
    lease_over=st.sampled_from((False, False, True)),
)
_REPORTS: Final = st.builds(
    lambda tail, **fields: Report(**fields) if tail is UNSET else Report(**{**fields, "tail": tail, "truncated": True}),
    tail=st.sampled_from((UNSET, UNSET, "", "x")) | _TEXTS,
    progress=st.none() | st.integers(-5, 105),
    text=st.none() | _TEXTS,
    output=_TEXTS,
    truncated=st.sampled_from((False, False, True)),
    cursor=_CURSORS,
)
_QUERIES: Final = st.builds(
    Query,
    scope=st.none() | _SCOPES,
    status=st.none() | _STATUSES,
    owner=_OWNERS,
    overdue=st.booleans(),
    limit=st.integers(1, 5),
    before=st.none() | _IDS,
    labels=_SOME_LABELS,
    root=_ROOTS,
    statuses=st.none() | st.frozensets(_STATUSES),
    queue=st.none() | st.none() | _QUEUES,
    text=_PARTS,
    before_time=_TIMES,
    expired=_AGES,
    has_file=st.sampled_from((False, False, True)),
)
_LIVING_CHANGES: Final = st.builds(
    Changes,
    progress=st.just(UNSET) | st.integers(0, 100),
    status_text=st.just(UNSET) | _TEXTS,
    result=st.just(UNSET) | _RESULTS,
    lessee=st.sampled_from((UNSET, None, "m1", "m2")),
    lease=st.sampled_from((UNSET, None)) | _SECONDS,
    due=st.just(UNSET) | _DUE,
    deliver_by=st.sampled_from((UNSET, None)) | _SECONDS,
    expires=st.sampled_from((UNSET, None)),
    attempt=st.just(UNSET) | st.integers(1, 3),
    delivery=st.just(UNSET) | st.integers(1, 3),
    slot=_SLOTS,
    cursor=_CURSORS,
    free_merge_key=st.booleans(),
    alive=st.booleans(),
    label=st.just(UNSET) | _LABELS,
    proof=st.sampled_from((UNSET, None, "other")),
    sealed=st.just(UNSET) | st.binary(max_size=3),
    waiting_for=st.sampled_from((UNSET, None, "place")),
    file=_FILES,
)
_ENDS: Final = st.builds(
    Changes,
    status=st.sampled_from((Status.COMPLETED, Status.FAILED, Status.CANCELLED)),
    progress=st.sampled_from((UNSET, 100)),
    status_text=st.just(UNSET) | _TEXTS,
    result=st.just(UNSET) | _RESULTS,
    alive=st.booleans(),
    file=_FILES,
    error=st.sampled_from((UNSET, None, "unexpected")),
    end=st.just(True),
    keep_request=st.booleans(),
    keep_key=st.booleans(),
)
_REQUEUES: Final = st.builds(
    Requeue,
    reason=_TEXTS,
    delay=_SECONDS,
    is_retry=st.booleans(),
    cursor=_CURSORS,
)
_LIVING: Final = (Status.STARTED, Status.IN_PROGRESS)


class _Machine(RuleBasedStateMachine):
    """Makes the same calls to a store and to the model. As in the core, an ended job stays ended."""

    suite: StoreCase
    search: Search

    def __init__(self) -> None:
        super().__init__()
        self.search.begin()
        self.steps: list[str] = []
        self.clock = FakeClock()
        self.store = self.suite.new_store(self.clock)
        self.model = Model(self.clock, lists_ended=isinstance(self.suite, FindsJobs))
        self.deleted: set[str] = set()
        """The ids that a store without `Capability.RETENTION` need not take again."""

    def teardown(self) -> None:
        self.search.note(sys.exception(), self.steps)  # the failure on its way through a finally clause
        if self.suite.deadline.is_stuck:
            self.search.stop()
        self.suite.close(self.store)

    def _step(self, name: str, *arguments: object) -> None:
        self.steps.append(f"{name}({', '.join(map(shown, arguments))})")

    @rule(seconds=_SECONDS)
    def time_passes(self, seconds: float) -> None:
        self._step("clock.advance", seconds)
        self.clock.advance(seconds)

    @rule(draft=_DRAFTS, key=_KEYS)
    def create(self, draft: Draft, key: str | None) -> None:
        if not isinstance(self.suite, MergesJobs):
            key = None
        if draft.id not in self.model.rows and draft.id not in self.deleted:
            self._step("create", draft, key)
            created = bodiless(self.store.create(draft, key))
            same(created, self.model.create(draft, key), "create returns what the model returns")

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, token=_TOKENS, run=st.integers(1, 3), lease=_SECONDS)
    def claim(self, job_id: str, token: str, run: int, lease: float) -> None:
        self._change(job_id, *claimed(token, run, lease))

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, expect=_EXPECTATIONS, changes=_LIVING_CHANGES)
    def change(self, job_id: str, expect: Expect, changes: Changes) -> None:
        self._change(job_id, expect, changes)

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, token=_TOKENS, requeue=_REQUEUES)
    def requeue(self, job_id: str, token: str, requeue: Requeue) -> None:
        job = self.model.job(job_id)
        if job is not None:
            expect = Expect(status=Status.IN_PROGRESS, run=job.run, token=token)
            self._change(job_id, expect, requeued(job, requeue, self.clock.now()))

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, limit=st.sampled_from(Late))
    def time_out(self, job_id: str, limit: Late) -> None:
        job = self.model.job(job_id)
        if job is not None:
            self._change(job_id, *timed_out(job))
            self._change(job_id, reaped(job, limit), ended(failed("late")))

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, slot=_SLOTS)
    def take_slot(self, job_id: str, slot: str | Unset | None) -> None:
        self._change(job_id, Expect(unclaimed=True), Changes(slot=slot))

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, status=st.sampled_from(_LIVING), token=st.none() | _TOKENS, changes=_ENDS)
    def end(self, job_id: str, status: Status, token: str | None, changes: Changes) -> None:
        self._change(job_id, Expect(status=status, token=token), changes)

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS, token=_TOKENS, report=_REPORTS)
    def report(self, job_id: str, token: str, report: Report) -> None:
        self._step("report", job_id, token, report)
        found = self.store.report(job_id, token, report)
        same(found, self.model.report(job_id, token, report), "report returns what the model returns")

    @precondition(lambda self: self.model.rows)
    @rule(tokens=st.dictionaries(_IDS, _TOKENS, max_size=3), lease=_SECONDS, alive=st.frozensets(_IDS))
    def beat(self, tokens: dict[str, str], lease: float, alive: frozenset[str]) -> None:
        self._step("beat", tokens, lease, alive)
        stale = self.store.beat(tokens, lease, alive)
        same(stale, self.model.beat(tokens, lease, alive), "beat returns what the model returns")

    @precondition(lambda self: isinstance(self.suite, DelaysJobs))
    @rule(
        lessee=st.sampled_from(("m1", "m2")),
        lease=_SECONDS,
        limit=st.integers(1, 3),
        labels=_SOME_LABELS,
        full=st.frozensets(_QUEUES, max_size=2),
        queues=st.none() | st.frozensets(_QUEUES, max_size=2),
    )
    def take_due(
        self,
        lessee: str,
        lease: float,
        limit: int,
        labels: frozenset[str] | None,
        full: frozenset[str],
        *,
        queues: frozenset[str] | None,
    ) -> None:
        self._step("take_due", lessee, lease, limit, labels, full, queues)
        found: list[Job | None] = [*self.store.take_due(lessee, lease, limit, labels, full, queues=queues)]
        expected = self.model.take_due(lessee, lease, limit, labels, full, queues=queues)
        same(found, expected, "take_due returns what the model returns")

    @precondition(lambda self: isinstance(self.suite, FindsSilentJobs))
    @rule(query=_QUERIES)
    def find(self, query: Query) -> None:
        if not isinstance(self.suite, FindsJobs):
            query = evolve(query, before=None, before_time=None)
        self._step("find", query)
        found: list[Job | None] = [*self.store.find(query)]
        same(found, self.model.find(query), "find returns what the model returns")
        same(self.store.count(query), len(found), "count returns how many jobs find returns")

    @precondition(lambda self: self.model.rows)
    @rule(job_id=_IDS)
    def delete(self, job_id: str) -> None:
        self._step("delete", job_id)
        same(self.store.delete(job_id), self.model.delete(job_id), "delete returns what the model returns")
        if Capability.RETENTION in lacks(self.store):
            self.deleted.add(job_id)

    @precondition(lambda self: isinstance(self.suite, PurgesJobs))
    @rule(completed_age=_SECONDS, ended_age=_SECONDS, labels=_SOME_LABELS)
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None) -> None:
        self._step("purge", completed_age, ended_age, labels)
        found = self.store.purge(completed_age, ended_age, labels)
        same(found, self.model.purge(completed_age, ended_age, labels), "purge returns what the model returns")

    @invariant()
    def both_know_the_same(self) -> None:
        for job_id in ("a", "b", "c", "d"):
            same(self.store.get(job_id), self.model.job(job_id), "get returns what the model returns")
            whole = self.store.get(job_id, body=True)
            same(whole, self.model.job(job_id, body=True), "get with the body returns what the model returns")
            text = self.model.outputs.get(job_id, "")
            truncated = self.model.rows.get(job_id, {}).get("output_truncated", False)
            expected = Output(text, len(text.encode()), truncated, self.model.tails.get(job_id, ""))
            same(self.store.output(job_id), expected, "output returns what the model returns")

    def _change(self, job_id: str, expect: Expect, changes: Changes) -> None:
        if Capability.SLOTS in lacks(self.store):
            changes = evolve(changes, slot=UNSET)
        self._step("change", job_id, expect, changes)
        found = _outcome(self.store.change, job_id, expect, changes)
        same(found, _outcome(self.model.change, job_id, expect, changes), "change returns what the model returns")


def _outcome(
    change: Callable[[str, Expect, Changes], Job | None], job_id: str, expect: Expect, changes: Changes
) -> Job | str | None:
    """The result of a change, or the slot that another job has."""
    try:
        return change(job_id, expect, changes)
    except SlotTaken as taken:
        return taken.slot
