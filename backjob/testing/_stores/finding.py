"""The promises about ``find``."""

from __future__ import annotations

import pytest
from attrs import evolve

from backjob.lifecycle import cancelled as cancellation
from backjob.lifecycle import claimed, completed, continued, failed, timed_out
from backjob.model import Changes, Expect, Query, Report, Status
from backjob.testing._stores.case import ALIKE, LEASE, MICROSECOND, UNKNOWN, StoreCase, draft, same
from backjob.testing._stores.filtering import FiltersJobs


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
        self.store.beat({"job": "token"}, LEASE, frozenset())
        same(self.found(Query(overdue=True)), ["job"], "renewing the lease is no sign of life")
        self.store.beat({"job": "token"}, LEASE, frozenset(("job",)))
        same(self.found(Query(overdue=True)), [], "a sign of life restarts the timeout")

    def test_a_job_is_overdue_exactly_when_its_run_lease_is_over(self) -> None:
        self.running(run_lease=10, error_timeout=0)
        self.clock.advance(10 - MICROSECOND)
        same(self.found(Query(overdue=True)), [], "a job is not overdue a microsecond before its run lease is over")
        self.clock.advance(MICROSECOND)
        same(self.found(Query(overdue=True)), ["job"], "a job is overdue exactly when its run lease is over")
        self.store.beat({"job": "token"}, 5, frozenset())
        same(self.found(Query(overdue=True)), [], "a job whose run lease is renewed is not overdue")

    def test_without_an_error_timeout_a_job_may_be_silent(self) -> None:
        self.running("endless", error_timeout=0)
        self.running("old", error_timeout=10)
        self.store.change("old", Expect(), Changes(lease=None))
        self.clock.advance(5)
        same(self.found(Query(overdue=True)), [], "an error_timeout of 0 means none; without a lease none is over")
        self.clock.advance(5)
        same(self.found(Query(overdue=True)), ["old"], "a job without a run lease is overdue by its timeout")

    def test_a_run_that_has_timed_out_is_overdue_again_when_its_lease_is_over(self) -> None:
        job = self.running(error_timeout=5, run_lease=20)
        self.clock.advance(5)
        same(self.found(Query(overdue=True)), ["job"], "a job is overdue exactly when its timeout is over")
        self.store.change("job", *timed_out(job))
        same(self.found(Query(overdue=True)), [], "a run that has timed out is not overdue while its lease lasts")
        self.clock.advance(15)
        same(self.found(Query(overdue=True)), ["job"], "a job is overdue exactly when its run lease is over")

    @pytest.mark.parametrize("kind", ["deliver_by", "expires"])
    def test_a_waiting_job_is_overdue_exactly_at_its_deadline(self, kind: str) -> None:
        self.store.create(draft("patient", due=5, error_timeout=1, lessee="me", lease=1))
        self.store.create(draft(due=5, error_timeout=1, lessee="me", lease=1000, expires=15))
        if kind == "deliver_by":
            self.store.change("job", Expect(), Changes(deliver_by=15, expires=None))
        self.clock.advance(15 - MICROSECOND)
        same(self.found(Query(overdue=True)), [], f"a waiting job is not overdue a microsecond before {kind}")
        self.clock.advance(MICROSECOND)
        same(self.found(Query(overdue=True)), ["job"], f"a waiting job is overdue exactly at {kind}, leased or not")
        self.claimed("job")
        same(self.found(Query(overdue=True)), [], f"{kind} is for waiting jobs alone")

    def test_a_job_between_two_slices_is_found_as_in_progress(self) -> None:
        for name in ("sliced", "retried"):
            self.running(name, error_timeout=10)
        self.requeued("sliced", continued(7))
        self.requeued("retried")
        for name in ("sliced", "retried"):
            self.store.change(name, Expect(), Changes(deliver_by=10))
        self.clock.advance(100)
        for status, expected in (
            (None, ["retried", "sliced"]),
            (Status.IN_PROGRESS, ["sliced"]),
            (Status.STARTED, ["retried"]),
        ):
            found = self.found(Query(overdue=True, status=status))
            same(found, expected, "between two slices a job is IN_PROGRESS; a job that is retried is STARTED")

    def test_overdue_combines_with_the_other_filters(self) -> None:
        self.store.create(draft("late", expires=10, scope="a"))
        self.store.create(draft("waiting", due=100, expires=110, scope="a"))
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
            self.store.create(draft(name, due=int(name) % 5, expires=6))
        self.clock.advance(100)
        same(self.found(Query(overdue=True)), names[::-1], "the newest come first")
        same(self.found(Query(overdue=True, limit=3)), names[:-4:-1], "find returns no more than the limit")

    def test_silent_jobs_with_another_label_are_invisible(self) -> None:
        for label in ("mine", "old", "theirs", ""):
            self.running(f"{label} silent", error_timeout=10, label=label)
            self.store.create(draft(f"{label} late", expires=10, label=label))
        self.clock.advance(50)
        mine = frozenset(("mine", "old"))
        query = Query(overdue=True, labels=mine)
        expected = ["old late", "old silent", "mine late", "mine silent"]
        same(self.found(query), expected, "overdue finds only jobs with these labels, the newest first")
        same(self.found(evolve(query, limit=3)), expected[:3], "find returns no more than the limit")
        same(self.store.count(query), 4, "count counts only jobs with these labels")
        same(self.store.count(evolve(query, limit=3)), 3, "count counts no more than the limit")
        self.store.change("old late", Expect(), Changes(label="theirs"))
        same(self.found(query), ["old silent", *expected[2:]], "a changed label takes effect at once")

    def test_a_deleted_job_is_not_found(self) -> None:
        for name in ("a", "b"):
            self.store.create(draft(f"{name} late", expires=5))
            self.running(f"{name} silent", error_timeout=5)
        for name in ("a late", "a silent"):
            self.store.delete(name)
        self.clock.advance(10)
        same(self.found(Query(overdue=True)), ["b silent", "b late"], "find does not return a deleted job")
        same(self.found(Query()), ["b silent", "b late"], "find does not return a deleted job")
        same(self.store.count(Query()), 2, "count does not count a deleted job")

    def test_an_ended_job_is_never_overdue(self) -> None:
        for end in (completed(), failed("x"), cancellation()):
            self.ended(end.status.name, end, error_timeout=10, expires=10)
        self.clock.advance(50)
        same(self.found(Query(overdue=True)), [], "only living jobs past their own timeout are overdue")


class FindsJobs(FiltersJobs, FindsSilentJobs):
    """``find`` among all jobs."""

    def test_the_newest_come_first(self) -> None:
        names = [f"{number * 7 % 10}" for number in range(10)]
        for name in names:
            self.store.create(draft(name, due=int(name) % 5))
        self.store.change(names[3], *claimed("token", 1, LEASE))
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
                        self.store.change(job_id, *claimed("token", 1, LEASE))
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

    def test_jobs_with_another_label_are_invisible(self) -> None:
        for number, label in enumerate(("mine", "theirs", "old", "", "mine", "Mine", "mine ")):
            for status in Status:
                job_id = f"{number}/{status.name}"
                self.store.create(draft(job_id, label=label, scope="s", owner="o"))
                if status is not Status.STARTED:
                    self.store.change(job_id, *claimed("token", 1, LEASE))
                if status.is_final:
                    self.store.change(job_id, Expect(), Changes(status=status, end=True))
        mine = frozenset(("mine", "old"))
        newest = [f"{number}/{status.name}" for number in (4, 2, 0) for status in reversed(Status)]
        for scope in (None, "s"):
            for owner in (None, "o"):
                for status_asked in (None, *Status):
                    query = Query(scope=scope, owner=owner, status=status_asked, labels=mine, limit=100)
                    expected = [name for name in newest if status_asked is None or name.endswith(status_asked.name)]
                    same(self.found(query), expected, f"find returns only jobs with these labels ({query})")
                    same(self.store.count(query), len(expected), f"count returns how many there are ({query})")
        query = Query(labels=mine, before=newest[2], limit=4)
        same(self.found(query), newest[3:7], "pages show only jobs with these labels")
        same(self.store.count(query), 4, "count counts no more than the limit")
        same(self.found(Query(labels=frozenset(("nobody",)))), [], "a label that no job has finds nothing")
        same(self.found(Query(labels=frozenset())), [], "without labels there is no job to find")
        same(self.store.count(Query(labels=frozenset())), 0, "without labels there is no job to count")

    def test_a_job_with_a_new_label_is_found_by_it_alone(self) -> None:
        for status in (Status.STARTED, Status.IN_PROGRESS, Status.FAILED):
            self.store.create(draft(status.name, label="old"))
            if status is not Status.STARTED:
                self.store.change(status.name, Expect(), Changes(status=status, end=status.is_final))
            self.store.change(status.name, Expect(), Changes(label="new", proof="new"))
            for label, count in (("old", 0), ("new", 1)):
                query = Query(status=status, labels=frozenset((label,)))
                same(len(self.found(query)), count, f"a changed label takes effect at once ({query})")

    def test_the_jobs_of_a_chain_are_found_and_counted(self) -> None:
        self.store.create(draft("first"))
        for number in range(5):
            self.store.create(draft(f"{number}", root="first", label="a" if number else "b", scope="s"))
        self.store.create(draft("other", root="FIRST"))
        same(self.found(Query(root="first")), ["4", "3", "2", "1", "0"], "root finds the jobs of a chain")
        same(self.store.count(Query(root="first")), 5, "count counts the jobs of a chain")
        same(self.store.count(Query(root="first", limit=3)), 3, "count counts no more than the limit")
        query = Query(root="first", labels=frozenset(("a",)), scope="s")
        same(self.found(query), ["4", "3", "2", "1"], "root goes with the other filters")
        same(self.store.count(query), 4, "root goes with the other filters")
        same(self.store.count(Query(root="unknown")), 0, "an unknown root has no jobs")

    def test_count_is_the_number_of_jobs_that_find_returns(self) -> None:
        for number in range(12):
            self.store.create(draft(f"{number}", scope="s" if number % 3 else ""))
        self.ended("over", scope="s")
        for query, expected in (
            (Query(), 13),
            (Query(limit=0), 0),
            (Query(limit=7), 7),
            (Query(scope="s"), 9),
            (Query(scope="s", before="6"), 4),
            (Query(before="unknown"), 0),
            (Query(status=Status.COMPLETED), 1),
            (Query(status=Status.STARTED, scope=""), 4),
        ):
            same(self.store.count(query), expected, f"count returns how many jobs find returns ({query})")

    def test_pages_of_overdue_jobs_follow_one_another(self) -> None:
        for number in range(5):
            self.store.create(draft(f"{number}", expires=10))
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
