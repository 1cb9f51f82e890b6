"""The promises about ``purge``."""

from __future__ import annotations

from threading import Event
from typing import Final

import pytest
from attrs import evolve

from backjob.lifecycle import cancelled as cancellation
from backjob.lifecycle import claimed, completed, ended, failed
from backjob.model import Changes, Expect, Output, Query, Report, Request, Status
from backjob.protocols import Capability, lacks
from backjob.testing._stores.case import LEASE, MICROSECOND, StoreCase, draft, kept, same
from backjob.testing._stores.costs import comparable, quickest

_WATCHED: Final = 1000  # jobs whose purge takes long enough to watch it
_FEW: Final = 10
_TRIES: Final = 3  # the other thread may get no turn by chance
_KINDS: Final = ("started", "running", "cancelled", "completed", "failed")


class PurgesJobs(StoreCase):
    """``purge``: both ages, to the microsecond."""

    purged_in_batches = 1001
    """The jobs that one purge removes. If they are 1000 or more, and processes share the store, the suite also tests that the
    purge reads no others, and lets others take turns: set fewer for a store that is meant for few jobs.
    """

    def purged(self, completed_age: float, ended_age: float) -> list[str]:
        before = self.living()
        count = self.store.purge(completed_age, ended_age)
        gone = sorted(before - self.living())
        same(count, len(gone), "purge returns how many it removed")
        return gone

    def living(self) -> set[str]:
        return {name for name in _KINDS if self.store.get(name) is not None}

    def of_every_kind(self) -> None:
        self.store.create(draft("started"))
        self.running("running")
        self.ended("cancelled", cancellation())
        self.ended("completed", completed())
        self.ended("failed", failed("x"))

    @pytest.mark.parametrize(
        ("ages", "gone"),
        [
            ((10, 0), ["completed"]),
            ((0, 10), ["cancelled", "completed", "failed"]),
            ((10, 10), ["cancelled", "completed", "failed"]),
            ((10, 20), ["completed"]),
            ((20, 10), ["cancelled", "completed", "failed"]),
        ],
    )
    def test_purge_removes_jobs_that_ended_longer_ago_than_their_age(
        self, ages: tuple[float, float], gone: list[str]
    ) -> None:
        self.of_every_kind()
        self.clock.advance(10)
        same(self.purged(*ages), [], "purge keeps a job that ended exactly its age ago")
        self.clock.advance(MICROSECOND)
        same(self.purged(*ages), gone, "purge removes a job that ended its age and a microsecond ago")
        same(self.purged(*ages), [], "a second purge removes nothing")

    def test_an_age_of_zero_keeps_jobs_forever(self) -> None:
        self.of_every_kind()
        self.clock.advance(10**9)
        same(self.purged(0, 0), [], "0 keeps jobs forever")
        same(self.purged(1, 0), ["completed"], "the age of COMPLETED jobs does not apply to others")
        same(self.purged(0, 1), ["cancelled", "failed"], "the age of ended jobs applies to any final status")
        same(self.living(), {"running", "started"}, "living jobs are never purged")

    def test_purge_removes_only_jobs_with_these_labels(self) -> None:
        for label in ("mine", "theirs", "", "mine "):
            self.ended(f"{label}.completed", completed(), label=label)
            self.ended(f"{label}.failed", failed("x"), label=label)
        self.store.change("theirs.failed", Expect(), Changes(label="mine"))
        self.clock.advance(20)
        same(self.store.purge(10, 10, frozenset()), 0, "without labels there is no job to purge")
        same(self.store.purge(10, 10, frozenset(("mine", ""))), 5, "purge removes only jobs with these labels")
        left = {name for name in ("mine .completed", "mine .failed", "theirs.completed") if self.store.get(name)}
        same(len(left), 3, "purge removes only jobs with these labels")
        same(self.store.purge(10, 10), 3, "labels of None mean any label")

    def test_a_purged_job_leaves_nothing_behind(self) -> None:
        self.running()
        self.store.report("job", "token", Report(output="old", truncated=True))
        self.store.change("job", Expect(), ended(completed("old", ["old"])))
        self.clock.advance(2)
        same(self.store.purge(1, 1), 1, "purge returns how many it removed")
        same(self.store.get("job"), None, "a purged job is gone")
        same(self.store.output("job"), Output("", 0), "a purged job's output is gone")
        self.running("job")
        same(self.store.output("job"), Output("", 0), "a new job with a purged job's id has none of its output")
        self.store.report("job", "token", Report(output="new"))
        same(self.store.output("job"), Output("new", 3), "a new job with a purged job's id has none of its output")

    def test_a_new_job_shows_nothing_of_a_purged_one(self) -> None:
        for number in range(4):
            name = f"{number}"
            self.running(name, request=Request("PUT", "/", body=b"rows"), sealed=b"sealed")
            self.store.report(
                name, "token", Report(output=f"output of {name}\n", truncated=True, tail=f"tail of {name}")
            )
        left = self.store.output("1")
        for name in ("0", "3"):
            self.store.change(name, Expect(), ended(completed()))
        self.clock.advance(2)
        same(self.store.purge(1, 1), 2, "purge returns how many it removed")
        for name in ("new", "newer"):
            self.blank(name)
        same(self.store.output("1"), left, "purge removes nothing else")

    def test_the_ages_count_from_the_end(self) -> None:
        for name in ("touched", "quiet"):
            self.running(name)
        self.store.change("touched", Expect(), Changes(status=Status.COMPLETED, end=True))
        self.clock.advance(10)
        self.store.change("quiet", Expect(), Changes(status=Status.COMPLETED, end=True))
        self.store.change("touched", Expect(), Changes(alive=True))
        for at_once in (True, False):
            ages = (9, 9) if at_once else (1, 1)
            promise = "the ages of purge count from end_time, and from no other moment"
            same(self.store.purge(*ages), 1, promise)
            left = [name for name in ("touched", "quiet") if self.store.get(name) is not None]
            same(left, ["quiet"] if at_once else [], promise)
            self.clock.advance(2)

    def test_a_job_with_a_file_is_not_purged(self) -> None:
        for name in ("plain", "filed", "later"):
            self.ended(name)
        self.running("running")
        end = evolve(ended(completed()), file={"name": "rows.csv"})
        self.store.change("running", Expect(), end)
        self.store.change("filed", Expect(), Changes(file={"name": "rows.csv"}))
        self.clock.advance(10)
        same(self.store.purge(1, 1), 2, "purge leaves jobs that have a file")
        left = [name for name in ("plain", "filed", "later", "running") if self.store.get(name) is not None]
        same(left, ["filed", "running"], "purge leaves jobs that have a file")
        self.store.change("filed", Expect(), Changes(file=None))
        same(self.store.purge(1, 1), 1, "purge removes a job that no longer has its file")

    def test_a_purged_job_frees_its_merge_key(self) -> None:
        self.store.create(draft("first", keep_request=True, request=Request("PUT", "/", body=b"rows")), "key")
        self.store.change("first", Expect(), evolve(ended(completed()), keep_key=True, keep_request=True))
        self.clock.advance(10)
        same(self.store.create(draft("second"), "key").id, "first", "create with a kept key returns the ended job")
        same(self.store.purge(1, 1), 1, "purge returns how many it removed")
        same(self.store.create(draft("third"), "key").id, "third", "the key of a purged job is free")
        whole = self.store.create(draft("first", request=Request("PUT", "/")))
        same(self.store.get("first", body=True), whole, "a new job with a purged job's id has none of its request")

    def test_purge_removes_more_than_a_batch(self) -> None:
        many = self.purged_in_batches
        is_watched = many >= _WATCHED and Capability.SHARED not in lacks(self.store)
        self._end_jobs(_FEW)
        few = self._idle_cost()
        self._end_jobs(many, _FEW)
        if is_watched:
            comparable(
                few, self._idle_cost(), f"a purge does not read the jobs that it leaves, here {many} instead of {_FEW}"
            )
        self.running("alive")
        self.clock.advance(2)
        for _ in range(_TRIES):
            counts = self._purge_all(many)
            if not is_watched or any(0 < count < many for count in counts):
                break
            self._end_jobs(many)
            self.clock.advance(2)
        else:
            raise AssertionError(
                "promise broken: purge removes jobs in batches, so that others take turns; "
                f"while it removed {many}, others saw all of them, or waited until it was over"
            )
        kept(self.store.get("alive") is not None, "purge removes nothing else")

    def _end_jobs(self, many: int, first: int = 0) -> None:
        for number in range(first, many):
            self.store.create(draft(f"{number}"))
            if number % 100 == 0:
                self.store.change(f"{number}", *claimed("token", 1, LEASE))
                self.store.report(f"{number}", "token", Report(output="some output\n"))
            self.store.change(f"{number}", Expect(), ended(completed()))

    def _idle_cost(self) -> float:
        """How many times as long as a `get` a purge takes that finds nothing. It names labels, as those of backjob always do."""
        labels = frozenset(("",))
        get, purge = quickest(
            lambda: self.store.get("nobody"),
            lambda: same(self.store.purge(3600, 7200, labels), 0, "purge keeps jobs that are not old"),
        )
        return purge / get

    def _purge_all(self, many: int) -> list[int]:
        """How many jobs another thread sees meanwhile, again and again."""
        counts: list[int] = []
        over = Event()

        def purge() -> None:
            try:
                same(self.store.purge(1, 0), many, "purge removes all old jobs, in any number of batches")
            finally:
                over.set()

        def count() -> int:
            return self.store.count(Query(status=Status.COMPLETED, limit=many))

        def look() -> None:
            while not over.is_set():
                counts.append(count())

        same(self.at_once([count, count]), [many, many], "count returns how many jobs find returns")  # both can connect
        self.at_once([purge, look])
        left = [number for number in range(0, many, 50) if self.store.get(f"{number}") is not None]
        same(left, [], "purge removes all old jobs")
        return counts
