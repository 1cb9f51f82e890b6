"""The promises about ``delete``."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from backjob.errors import SlotTaken
from backjob.lifecycle import claimed, completed, ended
from backjob.model import Changes, Expect, Job, Output, Report, Request
from backjob.protocols import Capability, lacks
from backjob.testing._stores.case import LEASE, UNKNOWN, StoreCase, draft, kept, same

_SECRET = Request("POST", "/work", body=b"secret" * 1000)


class DeleteCalls(StoreCase):
    """``delete``: of a job in any status, with all that belongs to it."""

    racers = 8
    """Threads in each race."""

    @pytest.mark.parametrize("status", ["waiting", "leased", "running", "ended", "kept", "filed"])
    def test_a_deleted_job_is_unknown(self, status: str) -> None:
        self.store.create(draft("other"))
        leased: dict[str, Any] = {"lessee": "me", "lease": 5.0} if status == "leased" else {}
        self.store.create(draft(request=_SECRET, scope="s", owner="o", root="r", keep_request=True, **leased))
        if status not in ("waiting", "leased"):
            self.claimed()
            self.store.report("job", "token", Report(output="some output\n" * 10_000, truncated=True, tail="the end"))
        if status in ("ended", "kept", "filed"):
            file = {"name": "rows.csv"} if status == "filed" else None
            self.store.change("job", Expect(), Changes(status=completed().status, end=True, file=file))
        same(self.store.delete("job"), True, "delete of a job returns True")
        same(self.store.get("job"), None, "a deleted job is unknown")
        same(self.store.get("job", body=True), None, "a deleted job is unknown")
        same(self.store.output("job"), Output("", 0), "a deleted job has no output")
        same(self.store.change("job", Expect(), Changes(progress=1)), None, "a deleted job can't be changed")
        same(self.store.report("job", "token", Report(output="late")), False, "a deleted job takes no report")
        stale = self.store.beat({"job": "token"}, LEASE, frozenset(("job",)))
        same(stale, frozenset(("job",)), "a deleted job is stale")
        same(self.store.get("job"), None, "nothing makes a deleted job known again")
        same(self.store.delete("job"), False, "a second delete returns False")
        kept(self.store.get("other") is not None, "delete removes nothing else")

    def test_a_new_job_shows_nothing_of_a_deleted_one(self) -> None:
        for name in ("first", "second", "third", "fourth"):
            self.running(name, request=_SECRET, sealed=b"sealed")
            self.store.report(
                name, "token", Report(output=f"output of {name}\n", truncated=True, tail=f"tail of {name}")
            )
        left = self.store.output("third")
        for number, gone in enumerate(("fourth", "first", "second")):
            self.store.delete(gone)
            self.blank(f"new {number}")
        same(self.store.output("third"), left, "delete removes nothing else")
        self.store.delete("third")
        for number in range(3):
            self.store.delete(f"new {number}")
        self.blank("last")

    @pytest.mark.parametrize("job_id", UNKNOWN)
    def test_deleting_an_unknown_job_returns_false(self, job_id: str) -> None:
        self.store.create(draft())
        same(self.store.delete(job_id), False, "delete of an unknown job returns False")
        kept(self.store.get("job") is not None, "delete of an unknown job removes nothing")

    def test_a_deleted_job_frees_its_slot(self) -> None:
        if Capability.SLOTS in lacks(self.store):
            pytest.skip("the store has no slots")
        for name in ("first", "second"):
            self.store.create(draft(name))
        self.store.change("first", Expect(), Changes(slot="q/0"))
        self.store.delete("first")
        job: Job | None = None
        with suppress(SlotTaken):
            job = self.store.change("second", Expect(), Changes(slot="q/0"))
        same(None if job is None else job.slot, "q/0", "the slot of a deleted job is free")

    def test_of_many_deletes_one_removes_the_job(self) -> None:
        for number in range(10):
            self.running(f"{number}")
        for number in range(10):
            removed = self.at_once([partial(self.store.delete, f"{number}")] * self.racers)
            same(removed.count(True), 1, "of many deletes of one job, exactly one returns True")

    def test_a_delete_during_other_writes_leaves_nothing_behind(self) -> None:
        def report(job_id: str) -> list[bool]:
            return [self.store.report(job_id, "token", Report(output="more\n")) for _ in range(5)]

        def end(job_id: str) -> Job | None:
            return self.store.change(job_id, Expect(token="token"), ended(completed()))

        for number in range(12):
            job_id = f"{number}"
            self.running(job_id)
            calls: list[Callable[[], object]] = [partial(call, job_id) for call in (self.store.delete, report, end)]
            removed, *_ = self.at_once(calls)
            same(removed, True, "delete of a job returns True, whatever happens to it meanwhile")
            same(self.store.get(job_id), None, "nothing makes a deleted job known again")
            same(self.store.output(job_id), Output("", 0), "a deleted job has no output")
            same(self.store.change(job_id, *claimed("other", 1, LEASE)), None, "a deleted job can't be changed")
