"""The promise that no call loses a column: a job with a value in every field, after each kind of call."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve

from backjob.errors import SlotTaken
from backjob.lifecycle import Requeue, claimed, requeued
from backjob.model import UNSET, Changes, Expect, Job, Query, Report, Status, Unset
from backjob.protocols import Capability, lacks
from backjob.testing._stores.case import LEASE, StoreCase, bodiless, kept, same
from backjob.testing._stores.creating import FULL
from backjob.testing._stores.delaying import DelaysJobs
from backjob.testing._stores.finding import FindsSilentJobs
from backjob.testing._stores.merging import MergesJobs
from backjob.testing._stores.model import Model

__all__ = ["FILLED", "ColumnCalls"]

FILLED: Final = Changes(
    status=Status.IN_PROGRESS,
    run=3,
    attempt=2,
    delivery=4,
    progress=40,
    status_text="half ß way",
    result={"rows": [1, "€"]},
    deliver_by=500.000001,
    slot="exports/0",
    cursor=["page", 7],
    history=[{"run": 1, "reason": "ß"}],
    waiting_for="place",
    file={"name": "rows.csv", "size": 3},
    error="unexpected",
    claimed=True,
)
"""With `FULL`, a token and a report, every field of a job that has not ended has a value."""
_RENEWED: Final = Changes(progress=61, lessee="monitor 3", lease=70.5, sealed=b"new", due=33.25, alive=True)


class ColumnCalls(StoreCase):
    """Each call writes its own fields; all others keep their values."""

    def test_no_call_loses_a_field(self) -> None:
        self._model = Model(self.clock)
        self._fill()
        self._both("beat", {"full": "token"}, 50.5, frozenset(("full",)))
        self._both("beat", {"full": "token"}, 60.5, frozenset())
        self._both("report", "full", "token", Report(progress=60, cursor=["page", 8]))
        self._both("change", "full", Expect(token="token"), _RENEWED)
        self._requeue()
        if isinstance(self, DelaysJobs):
            self.clock.advance(LEASE)
            labels = frozenset((FULL.label, "other"))
            taken = self._both("take_due", "monitor 2", 9.5, 5, labels, frozenset(), queues=None)
            kept(taken, "a retry is taken when its delay and its lease are over")
        self._both("change", "full", *claimed("token 2", 4, 18.0))
        self._both("change", "full", Expect(), evolve(FILLED, token="token 3", slot=self._slot("q/1")))
        if isinstance(self, FindsSilentJobs):
            found: list[Job | None] = [*self.store.find(Query())]
            same(found, self._model.find(Query()), "find returns every field of a job")
        end = Changes(status=Status.FAILED, end=True, keep_request=True, keep_key=True)
        self._both("change", "full", Expect(token="token 3"), end)
        self._both("change", "full", Expect(), Changes(label="new", proof="renewed"))

    def _fill(self) -> None:
        """Give every field of the job ``full`` a value."""
        self._both("create", FULL, "key" if isinstance(self, MergesJobs) else None)
        self.clock.advance(1.000001)
        self._both("change", "full", Expect(), evolve(FILLED, token="token", slot=self._slot("exports/0")))
        self._both("report", "full", "token", Report(output="more", text="almost", tail="tail", truncated=True))

    def _requeue(self) -> None:
        before = self.read("full")
        requeue = Requeue("failed", delay=7.5, cursor=["page", 9])
        self._both("change", "full", Expect(run=3, token="token"), requeued(before, requeue, self.clock.now()))

    def _slot(self, name: str) -> str | Unset:
        return UNSET if Capability.SLOTS in lacks(self.store) else name

    def _both(self, name: str, *arguments: object, **named: object) -> object:
        """The result of a call to the store, which must be the model's. The whole job must be the same too."""
        __tracebackhide__ = True
        call: Callable[..., object] = getattr(self.store, name)
        expected: Callable[..., object] = getattr(self._model, name)
        try:
            found, wanted = call(*arguments, **named), expected(*arguments, **named)
        except SlotTaken as error:
            raise AssertionError("promise broken: a free slot can be taken") from error
        if name == "create" and isinstance(found, Job):
            found = bodiless(found)
        same(found, wanted, f"{name} returns the job after it, every field included")
        same(self.store.get("full", body=True), self._model.job("full", body=True), f"{name} writes no other field")
        self.clock.advance(1)
        return found
