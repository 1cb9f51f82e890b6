"""The promises about ``find``."""

from __future__ import annotations

import pytest

from backjob.lifecycle import cancelled as cancellation
from backjob.lifecycle import claimed, completed, failed
from backjob.model import Changes, Expect, Query, Report, Status
from backjob.testing._stores.case import ALIKE, MICROSECOND, UNKNOWN, StoreCase, draft, same


class FindsSilentJobs(StoreCase):
    """``find`` among jobs that have not ended."""

    def found(self, query: Query) -> list[str]:
        return [job.id for job in self.store.find(query)]

    def test_a_silent_job_is_overdue_exactly_at_its_limit(self) -> None:
        self.running(error_timeout=10.000001)
        self.clock.advance(3)
        self.store.report("job", "token", Report())
        self.clock.advance(10)
        same(self.found(Query(overdue=True)), [], "a job is not overdue a microsecond before its timeout is over")
        self.clock.advance(MICROSECOND)
        same(self.found(Query(overdue=True)), ["job"], "a job is overdue exactly when its timeout is over")
        self.store.beat({"job": "token"})
        same(self.found(Query(overdue=True)), [], "a sign of life restarts the timeout")

    def test_an_undelivered_job_is_overdue_exactly_at_its_deadline(self) -> None:
        self.store.create(draft(due=5, delivery_timeout=10, error_timeout=1, lessee="me", lease=1000))
        self.clock.advance(15 - MICROSECOND)
        same(self.found(Query(overdue=True)), [], "a STARTED job is not overdue a microsecond before deliver_by")
        self.clock.advance(MICROSECOND)
        same(self.found(Query(overdue=True)), ["job"], "a STARTED job is overdue exactly at deliver_by, leased or not")

    def test_overdue_combines_with_the_other_filters(self) -> None:
        self.store.create(draft("late", delivery_timeout=10, scope="a"))
        self.store.create(draft("waiting", due=100, delivery_timeout=10, scope="a"))
        self.running("silent", error_timeout=10, scope="a", owner="o")
        self.running("patient", error_timeout=1000, scope="a")
        self.clock.advance(50)
        for query, expected in (
            (Query(overdue=True), ["silent", "late"]),
            (Query(overdue=True, limit=1), ["silent"]),
            (Query(overdue=True, status=Status.STARTED), ["late"]),
            (Query(overdue=True, status=Status.IN_PROGRESS, scope="a"), ["silent"]),
            (Query(overdue=True, owner="o"), ["silent"]),
            (Query(overdue=True, scope="b"), []),
        ):
            same(self.found(query), expected, f"only living jobs past their own timeout are overdue ({query})")

    def test_the_newest_living_come_first(self) -> None:
        names = [f"{number * 7 % 10}" for number in range(10)]
        for name in names:
            self.store.create(draft(name, due=int(name) % 5, delivery_timeout=1))
        self.clock.advance(100)
        same(self.found(Query(overdue=True)), names[::-1], "the newest come first")
        same(self.found(Query(overdue=True, limit=3)), names[:-4:-1], "find returns no more than the limit")

    def test_an_ended_job_is_never_overdue(self) -> None:
        for end in (completed(), failed("x"), cancellation()):
            self.ended(end.status.name, end, error_timeout=10, delivery_timeout=10)
        self.clock.advance(50)
        same(self.found(Query(overdue=True)), [], "only living jobs past their own timeout are overdue")


class FindsJobs(FindsSilentJobs):
    """``find`` among all jobs."""

    def test_the_newest_come_first(self) -> None:
        names = [f"{number * 7 % 10}" for number in range(10)]
        for name in names:
            self.store.create(draft(name, due=int(name) % 5))
        self.store.change(names[3], *claimed("token"))
        same(self.found(Query()), names[::-1], "the newest come first, whatever their status")
        same(self.found(Query(limit=3)), names[:-4:-1], "find returns no more than the limit")
        same(self.found(Query(limit=0)), [], "a limit of 0 finds nothing")

    def test_pages_follow_one_another(self) -> None:
        for number in range(25):
            self.store.create(draft(f"{number}", scope="odd" if number % 2 else "even"))
        seen: list[str] = []
        for _ in range(8):
            seen += self.found(Query(limit=4, before=seen[-1] if seen else None))
        same(seen, [f"{number}" for number in reversed(range(25))], "pages by `before` show each job once, in order")
        same(
            self.found(Query(scope="odd", before="10", limit=3)), ["9", "7", "5"],
            "`before` need not match the filter itself",
        )  # fmt: skip
        same(self.found(Query(before="0")), [], "nothing follows the oldest")

    def test_each_filter_and_all_together(self) -> None:
        made: list[tuple[str, str, str | None, Status]] = []
        for scope in ("", "a", "A", "ä%"):
            for owner in (None, "", "o", "p"):
                for status in Status:
                    job_id = f"{scope}/{owner}/{status.name}"
                    self.store.create(draft(job_id, scope=scope, owner=owner))
                    if status is not Status.STARTED:
                        self.store.change(job_id, *claimed("token"))
                    if status.is_final:
                        self.store.change(job_id, Expect(), Changes(status=status, end=True))
                    made.append((job_id, scope, owner, status))
        made.reverse()
        for scope_asked in (None, "", "a", "A", "ä%", "none"):
            for owner_asked in (None, "", "o", "nobody"):
                for status_asked in (None, *Status):
                    expected = [
                        job_id
                        for job_id, scope, owner, status in made
                        if scope_asked in (None, scope)
                        and (owner_asked is None or owner_asked == owner)
                        and status_asked in (None, status)
                    ]
                    query = Query(scope=scope_asked, owner=owner_asked, status=status_asked, limit=100)
                    same(self.found(query), expected, f"find gives the jobs that match, newest first ({query})")

    def test_pages_of_overdue_jobs_follow_one_another(self) -> None:
        for number in range(5):
            self.store.create(draft(f"{number}", delivery_timeout=10))
        self.ended("over", error_timeout=10)
        self.clock.advance(50)
        same(self.found(Query(overdue=True, before="over", limit=2)), ["4", "3"], "`before` need not match the filter")
        same(self.found(Query(overdue=True, before="3", limit=9)), ["2", "1", "0"], "overdue goes with `before`")
        same(self.found(Query(overdue=True, status=Status.COMPLETED)), [], "an ended job is never overdue")

    def test_find_and_get_return_the_same_job(self) -> None:
        self.ended("over", scope="s", owner="o")
        self.running("running")
        self.clock.advance(1.000001)
        same(self.store.find(Query()), [self.read("running"), self.read("over")], "find and get return the same job")

    @pytest.mark.parametrize("job_id", UNKNOWN)
    def test_an_unknown_before_finds_nothing(self, job_id: str) -> None:
        self.store.create(draft())
        same(self.store.find(Query(before=job_id)), [], "an unknown `before` finds nothing")
        same(self.store.find(Query(before=job_id, overdue=True)), [], "an unknown `before` finds nothing")

    def test_scopes_and_owners_are_compared_byte_by_byte(self) -> None:
        for number, name in enumerate(ALIKE):
            self.store.create(draft(f"{number}", scope=name, owner=name))
        for number, name in enumerate(ALIKE):
            same(self.found(Query(scope=name)), [f"{number}"], f"the scope {name!r} matches no other scope")
            same(self.found(Query(owner=name)), [f"{number}"], f"the owner {name!r} matches no other owner")
        same(self.found(Query(scope="none")), [], "a scope that no job has finds nothing")
        same(len(self.found(Query())), len(ALIKE), "a query without scope and owner finds all jobs")

    def test_an_overlong_scope_or_owner_finds_nothing(self) -> None:
        name = "x" * 5000
        self.store.create(draft(scope="a", owner="a"))
        same(self.found(Query(scope=name)), [], "a scope that no job can have finds nothing")
        same(self.found(Query(owner=name)), [], "an owner that no job can have finds nothing")
