"""The promises about slots: one job holds each, and no job of a full queue that has one is skipped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from backjob.errors import SlotTaken
from backjob.lifecycle import cancelled as cancellation
from backjob.lifecycle import completed, continued, ended, failed
from backjob.model import Changes, Expect, Job
from backjob.protocols import Capability, lacks
from backjob.testing._stores.case import ALIKE, RETRY, StoreCase, draft, kept, same


class SlotCalls(StoreCase):
    """``Changes.slot``. Skipped for a store that lacks `Capability.SLOTS`."""

    racers = 8
    """Threads in each race."""

    @pytest.fixture(autouse=True)
    def _a_store_with_slots(self, _a_store_for_each_test: None, request: pytest.FixtureRequest) -> None:
        # It serves the tests of all parts of the suite, since one class has them all.
        is_about_slots = request.function.__qualname__.startswith(f"{SlotCalls.__name__}.")
        if is_about_slots and Capability.SLOTS in lacks(self.store):
            pytest.skip("this store lacks Capability.SLOTS")

    def give(self, job_id: str, slot: str | None) -> Job | None:
        __tracebackhide__ = True
        try:
            return self.store.change(job_id, Expect(), Changes(slot=slot))
        except SlotTaken as error:
            raise AssertionError(f"promise broken: a free slot can be taken, and any be released ({slot!r})") from error

    def is_taken(self, job_id: str, slot: str, **changes: Any) -> bool:
        """Whether another job has the slot, so that this one can't take it."""
        __tracebackhide__ = True
        try:
            self.store.change(job_id, Expect(), Changes(slot=slot, **changes))
        except SlotTaken:
            return True
        return False

    def test_a_slot_belongs_to_one_job(self) -> None:
        for name in ("first", "second"):
            self.store.create(draft(name))
        taken = self.give("first", "exports/0")
        kept(taken is not None and taken.slot == "exports/0", "a free slot can be taken")
        same(self.read("first"), taken, "get returns the job that change returned")
        before = self.read("second")
        kept(self.is_taken("second", "exports/0"), "a slot that another job has can't be taken: SlotTaken")
        same(self.read("second"), before, "a change that raises SlotTaken writes nothing")
        kept(not self.is_taken("second", "exports/1"), "another slot is free")

    def test_a_change_that_meets_a_taken_slot_writes_none_of_its_fields(self) -> None:
        for name in ("first", "second"):
            self.store.create(draft(name, label="a"))
        self.give("first", "q/0")
        self.give("second", "q/1")
        before = self.read("second")
        others: dict[str, Any] = {
            "progress": 7,
            "lessee": "me",
            "lease": 50,
            "status_text": "x",
            "label": "b",
            "alive": True,
        }
        kept(self.is_taken("second", "q/0", **others), "a slot that another job has can't be taken: SlotTaken")
        same(self.read("second"), before, "a change that raises SlotTaken writes nothing")
        same(self.read("first").version, 2, "a change that raises SlotTaken leaves the slot's job alone")
        kept(self.is_taken("first", "q/1"), "a change that raises SlotTaken releases no slot")
        found = self.store.take_due("me", 5, 10, frozenset("a"))
        same([job.id for job in found], ["first", "second"], "a change that raises SlotTaken writes nothing")

    def test_an_unsatisfied_expectation_comes_first(self) -> None:
        for name in ("first", "second"):
            self.store.create(draft(name))
        self.give("first", "q/0")
        promise = "an expectation that is not satisfied gives None, whoever has the slot"
        for job_id, expect in (("second", Expect(version=7)), ("nobody", Expect())):
            try:
                found = self.store.change(job_id, expect, Changes(slot="q/0"))
            except SlotTaken as error:
                raise AssertionError(f"promise broken: {promise}; it raised SlotTaken") from error
            same(found, None, promise)

    def test_a_job_keeps_its_slot_when_it_takes_it_again_or_is_claimed(self) -> None:
        self.store.create(draft())
        self.give("job", "q/0")
        job = self.give("job", "q/0")
        kept(job is not None and job.slot == "q/0" and job.version == 3, "a job may take its own slot again")
        same(self.claimed().slot, "q/0", "a claim keeps the slot")
        self.store.change("job", Expect(), Changes(progress=5))
        same(self.read().slot, "q/0", "a change without a slot keeps it")
        self.store.create(draft("other"))
        kept(self.is_taken("other", "q/0"), "a slot belongs to one job at a time")

    def test_a_job_that_takes_another_slot_releases_its_own(self) -> None:
        for name in ("first", "second"):
            self.store.create(draft(name))
        self.give("first", "q/0")
        self.give("first", "q/1")
        kept(not self.is_taken("second", "q/0"), "a job has one slot at most")
        kept(self.is_taken("second", "q/1"), "a slot belongs to one job at a time")

    @pytest.mark.parametrize(
        "how",
        ["None", "completed", "failed", "cancelled", "cancelled while it waits", "retried", "continued"],
    )
    def test_a_released_slot_is_free(self, how: str) -> None:
        self.store.create(draft("first"))
        self.give("first", "q/0")
        if how != "cancelled while it waits":
            self.claimed("first")
        if how == "None":
            self.give("first", None)
        elif how == "retried":
            self.requeued("first", RETRY)
        elif how == "continued":
            self.requeued("first", continued(1))
        else:
            end = {"completed": completed(), "failed": failed("x")}.get(how, cancellation())
            self.store.change("first", Expect(), ended(end))
        same(self.read("first").slot, None, "None, an end and a requeue release the slot")
        self.store.create(draft("second"))
        kept(not self.is_taken("second", "q/0"), "a released slot can be taken by another job")
        if how in ("None", "retried", "continued"):
            kept(self.is_taken("first", "q/0"), "a slot belongs to one job at a time")

    def test_slots_are_compared_byte_by_byte(self) -> None:
        slots = [f"{text}/0" for text in ALIKE]
        for number, slot in enumerate(slots):
            self.store.create(draft(f"{number}"))
            kept(not self.is_taken(f"{number}", slot), f"the slot {slot!r} equals no other slot")
        for number, slot in enumerate(slots):
            same(self.read(f"{number}").slot, slot, f"the slot {slot!r} comes back unchanged")

    def test_a_job_that_has_a_slot_is_not_skipped(self) -> None:
        for name in ("without", "with", "other"):
            self.store.create(draft(name, queue="default" if name == "other" else "slow"))
        self.give("with", "slow/0")
        found = self.store.take_due("me", 60, 10, None, frozenset(("slow",)))
        same([job.id for job in found], ["with", "other"], "a job of a full queue is skipped unless it has a slot")
        self.store.change("with", Expect(), Changes(slot=None, lessee=None, lease=None))
        found = self.store.take_due("me", 60, 10, None, frozenset(("slow",)))
        same(found, [], "a job of a full queue that has released its slot is skipped")

    def test_of_many_jobs_one_gets_a_slot(self) -> None:
        jobs = {racer: [f"{racer}/{number}" for number in range(10)] for racer in range(self.racers)}
        for names in jobs.values():
            for name in names:
                self.store.create(draft(name))

        def take_each(racer: int) -> list[str]:
            return [name for number, name in enumerate(jobs[racer]) if not self.is_taken(name, f"q/{number}")]

        won = [
            name
            for names in self.at_once([partial(take_each, racer) for racer in range(self.racers)])
            for name in names
        ]
        slots = sorted(name.partition("/")[2] for name in won)
        same(slots, [f"{number}" for number in range(10)], "of many jobs, exactly one gets a slot")
        held = {name for names in jobs.values() for name in names if self.read(name).slot is not None}
        same(held, set(won), "a change that raises SlotTaken writes nothing")

    def test_a_slot_that_is_released_and_taken_in_a_race_never_has_two_holders(self) -> None:
        for racer in range(self.racers):
            self.store.create(draft(f"{racer}"))

        def take_and_release(racer: int) -> list[tuple[float, float]]:
            held = []
            for _ in range(25):
                if not self.is_taken(f"{racer}", "q/0"):
                    begin = time.monotonic()
                    same(self.read(f"{racer}").slot, "q/0", "a slot belongs to one job at a time")
                    held.append((begin, time.monotonic()))
                    self.give(f"{racer}", None)
            return held

        held = self.at_once([partial(take_and_release, racer) for racer in range(self.racers)])
        kept(any(held), "a free slot can be taken")
        disjoint(held)


def disjoint(held: Iterable[Iterable[tuple[float, float]]]) -> None:
    """Fail if one slot had two holders at the same time: each has (begin, end) of the times when it surely had the slot."""
    __tracebackhide__ = True
    each: Iterator[tuple[float, float]] = iter(sorted(span for spans in held for span in spans))
    for (_, end), (begin, _) in pairwise(each):
        kept(end <= begin, "a slot never has two holders at once")
