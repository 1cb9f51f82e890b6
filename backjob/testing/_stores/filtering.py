"""The promises about the filters and pages of ``find`` that a list of jobs needs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from attrs import evolve

from backjob.lifecycle import cancelled as cancellation
from backjob.lifecycle import claimed, completed, failed
from backjob.model import Changes, Draft, Expect, Query, Request, Status
from backjob.testing._stores.case import LEASE, MICROSECOND, StoreCase, draft, same

_TITLES = ("Invoices 2026", "invoice_7", "50 % off", "a\\b", "Übersicht 😀", "[ab]*?")


class FiltersJobs(StoreCase):
    """``find`` by several statuses, queue, part of the title or path, age and file; pages that begin at a moment."""

    def matching(self, query: Query) -> list[str]:
        found = [job.id for job in self.store.find(query)]
        same(self.store.count(query), len(found), f"count returns how many jobs find returns ({query})")
        return found

    def titled(self, job_id: str, title: str | None, target: str = "/work") -> Draft:
        return draft(job_id, title=title, request=Request("GET", target))

    def in_each_status(self) -> None:
        for status in Status:
            self.store.create(draft(status.name, scope="s", label="l"))
            if status is not Status.STARTED:
                self.store.change(status.name, *claimed("token", 1, LEASE))
            if status.is_final:
                self.store.change(status.name, Expect(), Changes(status=status, end=True))

    def test_several_statuses_are_found_together(self) -> None:
        self.in_each_status()
        for names in (("STARTED", "FAILED"), ("CANCELLED",), ("CANCELLED", "COMPLETED", "IN_PROGRESS"), ()):
            query = Query(statuses=frozenset(Status[name] for name in names))
            expected = [status.name for status in reversed(Status) if status.name in names]
            for each in (query, evolve(query, scope="s", labels=frozenset(("l", "m")))):
                same(self.matching(each), expected, f"statuses finds the jobs with one of them, newest first ({each})")
        both = Query(status=Status.FAILED, statuses=frozenset((Status.FAILED, Status.STARTED)))
        same(self.matching(both), ["FAILED"], "status and statuses must both match")
        same(self.matching(evolve(both, status=Status.CANCELLED)), [], "status and statuses must both match")
        every = Query(statuses=frozenset(Status), limit=2)
        same(self.matching(every), ["CANCELLED", "FAILED"], "find returns no more than the limit")
        same(self.matching(evolve(every, before="FAILED")), ["COMPLETED", "IN_PROGRESS"], "statuses goes with `before`")

    def test_the_jobs_of_a_queue_are_found(self) -> None:
        for number, queue in enumerate(("default", "exports", "Exports", "exports ", "exports")):
            self.store.create(draft(f"{number}", queue=queue))
        self.store.change("4", Expect(), Changes(status=Status.FAILED, end=True))
        same(self.matching(Query(queue="exports")), ["4", "1"], "queue finds the jobs of this queue alone")
        same(self.matching(Query(queue="exports", status=Status.STARTED)), ["1"], "queue goes with the other filters")
        same(self.matching(Query(queue="default")), ["0"], "queue finds the jobs of this queue alone")
        same(self.matching(Query(queue="")), [], "a queue without jobs finds nothing")

    def test_a_part_of_the_title_or_path_finds_a_job(self) -> None:
        for number, title in enumerate(_TITLES):
            self.store.create(self.titled(f"{number}", title))
        self.store.create(self.titled("untitled", None, "/Export/caf%C3%A9?page=invoice"))
        self.store.change("0", Expect(), Changes(status=Status.COMPLETED, end=True))
        for text, expected in (
            ("invoice", ["1", "0"]),
            ("INVOICES 2", ["0"]),
            ("_", ["1"]),
            ("%", ["untitled", "2"]),
            ("\\", ["3"]),
            ("*", ["5"]),
            ("[ab]", ["5"]),
            ("Übersicht", ["4"]),
            ("\U0001f600", ["4"]),
            ("export/CAF", ["untitled"]),
            ("/work", ["5", "4", "3", "2", "1", "0"]),
            ("page=", []),
            ("Invoices 2026 ", []),
            ("'", []),
            ("x" * 60_000, []),
        ):
            promise = f"text is a part of the title or the path, in either case, without a pattern ({text[:20]!r})"
            same(self.matching(Query(text=text)), expected, promise)
        same(len(self.matching(Query(text=""))), 7, "an empty text finds every job")
        same(self.matching(Query(text="invoice", status=Status.STARTED)), ["1"], "text goes with the other filters")
        same(self.matching(Query(text="work", limit=2)), ["5", "4"], "find returns no more than the limit")

    def test_a_page_begins_after_a_moment_if_the_job_before_is_gone(self) -> None:
        for number in range(6):
            self.store.create(draft(f"{number}", scope="even" if number % 2 == 0 else "odd"))
            self.clock.advance(1)
        created = self.read("3").created_time
        same(
            self.matching(Query(before="3", before_time=created)),
            ["2", "1", "0"],
            "the page begins after the job before",
        )
        later = created + timedelta(seconds=1)
        same(self.matching(Query(before="3", before_time=later)), ["2", "1", "0"], "a known `before` decides")
        self.store.delete("3")
        for before in ("3", None):
            query = Query(before=before, before_time=created)
            promise = "if the job before is unknown, the page begins after before_time"
            same(self.matching(query), ["2", "1", "0"], promise)
            same(self.matching(evolve(query, limit=2)), ["2", "1"], promise)
            same(self.matching(evolve(query, scope="even")), ["2", "0"], promise)
            same(
                self.matching(evolve(query, statuses=frozenset((Status.STARTED, Status.FAILED)))),
                ["2", "1", "0"],
                promise,
            )
            same(
                self.matching(evolve(query, before_time=created + timedelta(microseconds=1))), ["2", "1", "0"], promise
            )
        exact = self.read("2").created_time
        same(self.matching(Query(before="3", before_time=exact)), ["1", "0"], "before_time itself is not on the page")
        same(self.matching(Query(before="3")), [], "an unknown `before` alone finds nothing")

    def each_kind_with_and_without_a_file(self) -> None:
        self.store.create(draft("waiting", label="l"))
        self.running("running", label="l")
        for name, end in (("completed", completed()), ("failed", failed("x")), ("cancelled", cancellation())):
            self.ended(name, end, label="l")
            self.ended(f"{name}.filed", end, label="m")
            self.store.change(f"{name}.filed", Expect(), Changes(file={"name": "rows.csv", "size": 3}))

    @pytest.mark.parametrize(
        ("ages", "names"),
        [
            ((10, 0), ["completed"]),
            ((0, 10), ["cancelled", "failed", "completed"]),
            ((10, 20), ["completed"]),
            ((20, 10), ["cancelled", "failed", "completed"]),
            ((0, 0), []),
        ],
    )
    def test_expired_finds_the_jobs_that_are_too_old(self, ages: tuple[float, float], names: list[str]) -> None:
        self.each_kind_with_and_without_a_file()
        self.clock.advance(10)
        same(self.matching(Query(expired=ages)), [], "a job that ended exactly its age ago has not expired")
        self.clock.advance(MICROSECOND)
        expected = [each for name in names for each in (f"{name}.filed", name)]
        same(
            self.matching(Query(expired=ages)),
            expected,
            "expired finds the jobs that purge would remove, and those with a file",
        )
        filed = [name for name in expected if name.endswith("filed")]
        same(self.matching(Query(expired=ages, has_file=True)), filed, "has_file finds only jobs with a file")
        mine = Query(expired=ages, labels=frozenset(("l", "n")))
        same(self.matching(mine), [name for name in expected if not name.endswith("filed")], "expired goes with labels")
        for status in Status:
            query = Query(expired=ages, status=status)
            of_it = [name for name in expected if name.startswith(status.name.lower())]
            same(self.matching(query), of_it, f"expired goes with status ({query})")
        same(self.matching(Query(expired=ages, limit=1)), expected[:1], "find returns no more than the limit")
        if expected:
            same(self.matching(Query(expired=ages, before=expected[0])), expected[1:], "expired goes with `before`")
        same(self.matching(Query(expired=ages, overdue=True)), [], "no job is both overdue and expired")

    def test_expired_counts_from_the_end(self) -> None:
        for name in ("touched", "quiet"):
            self.running(name)
        self.store.change("touched", Expect(), Changes(status=Status.FAILED, end=True))
        self.clock.advance(10)
        self.store.change("quiet", Expect(), Changes(status=Status.FAILED, end=True))
        self.store.change("touched", Expect(), Changes(alive=True))
        promise = "the ages of expired count from end_time, and from no other moment"
        same(self.matching(Query(expired=(9, 9))), ["touched"], promise)
        self.clock.advance(5)
        same(self.matching(Query(expired=(4, 4))), ["quiet", "touched"], promise)

    def test_jobs_with_a_file_are_found(self) -> None:
        self.each_kind_with_and_without_a_file()
        self.store.change("running", Expect(), Changes(file={"name": "a"}))
        same(len(self.matching(Query(has_file=True))), 4, "has_file finds only jobs with a file")
        self.store.change("failed.filed", Expect(), Changes(file=None))
        found = self.matching(Query(has_file=True, statuses=frozenset((Status.FAILED, Status.COMPLETED))))
        same(found, ["completed.filed"], "has_file finds only jobs with a file")
