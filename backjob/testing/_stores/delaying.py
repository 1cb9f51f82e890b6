"""The promises about ``take_due``: due times and leases."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from functools import partial

from attrs import evolve

from backjob.lifecycle import Requeue, completed, continued, failed
from backjob.lifecycle import cancelled as cancellation
from backjob.model import Changes, Expect, Job, Request, Status
from backjob.testing._stores.case import LEASE, MICROSECOND, StoreCase, draft, same


class DelaysJobs(StoreCase):
    """``take_due``: due times and leases, to the microsecond; one caller gets each job."""

    racers = 8
    """Threads in each race."""

    def taken(self, limit: int = 10, lessee: str = "me", lease: float = 5) -> list[str]:
        return [job.id for job in self.store.take_due(lessee, lease, limit)]

    def test_a_job_is_taken_when_it_is_due_and_not_before(self) -> None:
        self.store.create(draft(due=10))
        self.clock.advance(10 - MICROSECOND)
        same(self.taken(), [], "a job is not taken a microsecond before it is due")
        self.clock.advance(MICROSECOND)
        same(self.taken(), ["job"], "a job is taken exactly when it is due")

    def test_a_taken_job_is_leased(self) -> None:
        before = self.store.create(draft())
        self.clock.advance(1)
        taken = self.store.take_due("me", 5.5, 10)
        now = self.clock.now()
        expected = evolve(
            before, lessee="me", lease_until=now + timedelta(seconds=5.5), read_time=now, version=before.version + 1
        )
        same(taken, [expected], "take_due returns the job with its lease, its version one higher")
        same(self.read(), expected, "get returns the job that take_due returned")

    def test_a_lease_ends_exactly_at_lease_until(self) -> None:
        self.store.create(draft(lessee="first", lease=5))
        self.clock.advance(5 - MICROSECOND)
        same(self.taken(lease=7), [], "no caller, not even the lessee, takes a job a microsecond before its lease ends")
        self.clock.advance(MICROSECOND)
        same(self.taken(lease=7), ["job"], "a lease ends exactly at lease_until")
        self.clock.advance(7 - MICROSECOND)
        same(self.taken(), [], "a taken job's lease lasts as long as the caller asked")
        self.clock.advance(MICROSECOND)
        same(self.taken(), ["job"], "a taken job's lease ends exactly at lease_until")

    def test_a_job_can_be_taken_as_soon_as_its_lease_is_released(self) -> None:
        self.store.create(draft(lessee="first", lease=500))
        self.store.change("job", Expect(), Changes(lessee=None, lease=None))
        same(self.taken(), ["job"], "a job whose lease was released can be taken")

    def test_a_deleted_job_is_not_taken(self) -> None:
        for name in ("a", "b", "c"):
            self.store.create(draft(name, lessee="first", lease=5))
        self.store.delete("a")
        self.clock.advance(5)
        same(self.taken(limit=1), ["b"], "take_due does not return a deleted job")
        self.store.delete("b")
        self.clock.advance(5)
        same(self.taken(), ["c"], "take_due does not return a deleted job")

    def test_only_waiting_jobs_are_taken(self) -> None:
        self.running("running")
        for end in (completed(), failed("x"), cancellation()):
            self.ended(end.status.name, end)
        self.clock.advance(10000)
        same(self.taken(), [], "only waiting jobs are taken")
        self.requeued("running")
        same(self.taken(), ["running"], "a job that is retried is taken again")

    def test_a_job_between_two_slices_is_taken(self) -> None:
        self.running()
        self.requeued(requeue=continued(["page", 2]))
        same(self.read().status, Status.IN_PROGRESS, "a job between two slices stays IN_PROGRESS")
        same(self.taken(), ["job"], "a job between two slices waits to be taken")
        self.claimed(run=2)
        self.clock.advance(2 * LEASE)
        same(self.taken(), [], "a job that runs is not taken, even if its run lease is over")

    def test_a_retry_is_taken_when_its_delay_is_over(self) -> None:
        self.running()
        self.clock.advance(5)
        self.requeued(requeue=Requeue("failed", delay=10))
        self.clock.advance(10 - MICROSECOND)
        same(self.taken(), [], "a retry is not taken a microsecond before its delay is over")
        self.clock.advance(MICROSECOND)
        same(self.taken(), ["job"], "a retry is taken exactly when its delay is over")

    def test_the_longest_due_come_first_up_to_the_limit(self) -> None:
        for job_id, due in (("c", 3), ("a", 1), ("e", 5), ("b", 2), ("d", 4), ("later", 100)):
            self.store.create(draft(job_id, due=due))
        self.clock.advance(10)
        same(self.taken(limit=2), ["a", "b"], "the longest due are taken first, no more than the limit")
        same(self.taken(limit=0), [], "a limit of 0 takes nothing")
        same(self.taken(limit=10), ["c", "d", "e"], "the longest due are taken first")

    def test_jobs_due_at_the_same_moment_are_taken_in_order_of_creation(self) -> None:
        names = [f"{number * 7 % 10}" for number in range(10)]
        for name in names:
            self.store.create(draft(name))
        same(self.taken(), names, "jobs that are due at the same moment come in the order of their creation")

    def test_a_job_past_its_deadline_is_still_taken(self) -> None:
        self.store.create(draft(expires=1))
        self.store.change("job", Expect(), Changes(deliver_by=1))
        self.clock.advance(100)
        same(self.taken(), ["job"], "take_due ignores deliver_by and expires")

    def test_only_jobs_with_these_labels_are_taken(self) -> None:
        for number, label in enumerate(("mine", "theirs", "old", "", "mine", "MINE", "mine ")):
            self.store.create(draft(f"{number}", label=label, due=9 - number, lessee="gone" if number > 3 else None))
        self.clock.advance(10)
        mine = frozenset(("mine", "old"))
        taken = [job.id for job in self.store.take_due("me", 60, 1, mine)]
        taken += [job.id for job in self.store.take_due("me", 60, 10, mine)]
        same(taken, ["4", "2", "0"], "take_due takes only jobs with these labels, the longest due first")
        same(self.store.take_due("me", 60, 10, frozenset()), [], "without labels there is no job to take")
        same(self.read("1").version, 1, "a job with another label stays as it is")
        same(self.taken(), ["6", "5", "3", "1"], "labels of None mean any label")

    def test_a_job_with_another_label_is_taken_by_that_label_alone(self) -> None:
        self.store.create(draft(label="old"))
        self.store.change("job", Expect(), Changes(label="new"))
        same(self.store.take_due("me", 60, 10, frozenset(("old",))), [], "a job has no label but its own")
        same(len(self.store.take_due("me", 60, 10, frozenset(("new",)))), 1, "a changed label takes effect at once")

    def test_full_queues_are_skipped_and_hold_up_no_others(self) -> None:
        for number, queue in enumerate(("slow", "fast", "slow", "default", "SLOW", "slow ", "fast")):
            self.store.create(draft(f"{number}", queue=queue, due=9 - number))
        self.clock.advance(10)

        def taken(limit: int, *full: str) -> list[str]:
            return [job.id for job in self.store.take_due("me", 60, limit, None, frozenset(full))]

        promise = "take_due skips the jobs of full queues alone, compared byte by byte, the longest due first"
        same(taken(4, "slow", "default"), ["6", "5", "4", "1"], promise)
        same(taken(10, "slow", "default", "none"), [], "take_due skips the jobs of full queues")
        same(self.read("0").version, 1, "a job of a full queue stays as it is")
        same(taken(10), ["3", "2", "0"], "without full queues, take_due takes the jobs of all of them, in order")

    def test_only_the_jobs_of_the_given_queues_are_taken(self) -> None:
        for number, queue in enumerate(("slow", "fast", "default", "SLOW", "slow ", "slow")):
            self.store.create(draft(f"{number}", queue=queue, due=9 - number))
        self.clock.advance(10)

        def taken(*queues: str, full: str = "") -> list[str]:
            found = self.store.take_due("me", 60, 10, None, frozenset((full,)), queues=frozenset(queues))
            return [job.id for job in found]

        promise = "take_due takes the jobs of the given queues alone, compared byte by byte, the longest due first"
        same(taken(), [], "take_due takes nothing of no queues")
        same(taken("none"), [], promise)
        same(self.read("0").version, 1, "a job of another queue stays as it is")
        same(taken("slow", "fast", full="fast"), ["5", "0"], "a queue that is full is skipped, though it is given")
        same(taken("default", "fast"), ["2", "1"], promise)
        same(
            [job.id for job in self.store.take_due("me", 60, 10)], ["4", "3"], "without queues, take_due takes any job"
        )

    def test_full_queues_go_with_labels(self) -> None:
        for number, (label, queue) in enumerate((("a", "slow"), ("b", "fast"), ("a", "fast"), ("b", "slow"))):
            self.store.create(draft(f"{number}", label=label, queue=queue))
        full = frozenset(("slow",))
        same(
            [job.id for job in self.store.take_due("me", 60, 10, frozenset("a"), full)], ["2"],
            "take_due takes only jobs with these labels, of queues that are not full",
        )  # fmt: skip
        found = [job.id for job in self.store.take_due("me", 60, 10, frozenset("ab"), full)]
        same(found, ["1"], "take_due takes only jobs with these labels, of queues that are not full")

    def test_a_taken_job_has_the_body_of_its_request(self) -> None:
        request = Request("POST", "/work", body=b"a body")
        self.store.create(draft(request=request))
        (job,) = self.store.take_due("me", 5, 1)
        same(job.request, request, "take_due returns the request with its body")

    def test_each_due_job_is_taken_by_one(self) -> None:
        names = [f"{number}" for number in range(100)]
        for name in names:
            self.store.create(draft(name))

        def take_all(racer: int) -> list[Job]:
            taken: list[Job] = []
            for _ in names:
                batch = self.store.take_due(f"lessee {racer}", 60, 7)
                if not batch:
                    break
                taken += batch
            return taken

        taken = [
            job for jobs in self.at_once([partial(take_all, racer) for racer in range(self.racers)]) for job in jobs
        ]
        counts = Counter(job.id for job in taken)
        same(counts, Counter(names), "of several callers, exactly one gets each due job")
        for job in taken:
            same(self.read(job.id).lessee, job.lessee, "the lessee of a job is the caller that took it")
