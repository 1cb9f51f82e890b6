"""The promises about run leases: ``beat``, and a change that expects that a lease is over."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from attrs import evolve

from backjob.lifecycle import Late, concluded, ended, failed, reaped
from backjob.model import Changes, Expect, Job, Status
from backjob.testing._stores.case import LEASE, MICROSECOND, RETRY, StoreCase, draft, kept, same

_NONE: frozenset[str] = frozenset()
_DEAD = failed("the process that ran it ended")


class LeaseCalls(StoreCase):
    """``beat``, the claim's lease, and ``Expect.lease_over``, to the microsecond."""

    jobs_in_a_beat = 1000
    """The number of tokens in one long beat; a quarter of them are those of running jobs."""

    def test_a_claim_takes_a_lease_of_its_own(self) -> None:
        self.store.create(draft(lessee="monitor", lease=5))
        self.clock.advance(2)
        job = self.claimed(run_lease=18)
        now = self.clock.now()
        same(job.lease_until, now + timedelta(seconds=18), "the claim's lease counts from the store's now")
        same(job.lessee, "monitor", "the claim keeps the lessee")
        same(self.read(), job, "get returns the job that change returned")

    def test_a_beat_renews_the_leases_of_many_jobs(self) -> None:
        before = [self.running(name, token=f"token {name}", run_lease=10) for name in ("a", "b", "c")]
        self.clock.advance(9.5)
        stale = self.store.beat({job.id: f"token {job.id}" for job in before}, 12.25, frozenset("b"))
        same(stale, frozenset(), "a job that runs with its token is not stale")
        now = self.clock.now()
        for job in before:
            updated = now if job.id == "b" else job.updated_time
            until = now + timedelta(seconds=12.25)
            expected = evolve(job, lease_until=until, updated_time=updated, read_time=now)
            same(
                self.read(job.id), expected,
                "a beat sets lease_until, and updated_time of the jobs in alive; version stays",
            )  # fmt: skip

    def test_a_beat_can_shorten_a_lease(self) -> None:
        self.running(run_lease=100)
        self.store.beat({"job": "token"}, 2, _NONE)
        same(
            self.read().lease_until,
            self.clock.now() + timedelta(seconds=2),
            "a lease lasts as long as asked, no longer",
        )

    def test_a_beat_renews_a_lease_that_is_over(self) -> None:
        job = self.running(run_lease=10)
        self.clock.advance(30)
        same(self.store.beat({"job": "token"}, 10, _NONE), _NONE, "a job that nobody has ended is not stale")
        change = self.store.change("job", reaped(job, Late.DEAD), ended(_DEAD))
        same(change, None, "a renewed lease is not over")

    def test_a_beat_adds_a_lease_to_a_job_without_one(self) -> None:
        self.running()
        self.store.change("job", Expect(), Changes(lease=None))
        self.store.beat({"job": "token"}, 7, _NONE)
        same(self.read().lease_until, self.clock.now() + timedelta(seconds=7), "a beat sets a lease that was missing")

    def test_a_beat_with_another_token_is_stale_and_changes_nothing(self) -> None:
        running, waiting, over = self.running("running"), self.store.create(draft("waiting")), self.ended("over")
        self.running("requeued", token="old")  # noqa: S106 - no password
        self.requeued("requeued")
        later = self.claimed("requeued", token="new", run=2)  # noqa: S106
        fine = self.running("fine")
        self.clock.advance(5)
        tokens = {"running": "stale", "waiting": "token", "over": "token", "nobody": "token", "requeued": "old"}
        same(
            self.store.beat({**tokens, "fine": "token"}, 9, frozenset(tokens)), frozenset(tokens),
            "beat returns the ids whose jobs do not run with these tokens",
        )  # fmt: skip
        now = self.clock.now()
        for job in (running, waiting, over, later):
            same(self.read(job.id), evolve(job, read_time=now), "a beat needs the token of a running job")
        same(self.store.get("nobody"), None, "writing to an unknown job does not create it")
        expected = evolve(fine, lease_until=now + timedelta(seconds=9), read_time=now)
        same(self.read("fine"), expected, "a stale job keeps no other from being renewed")

    def test_a_beat_of_nothing_does_nothing(self) -> None:
        job = self.running()
        same(self.store.beat({}, 5, frozenset(("job",))), _NONE, "a beat without tokens has nothing stale")
        same(self.read(), job, "alive counts only with a token")

    def test_a_beat_of_many_jobs(self) -> None:
        names = [f"{number}" for number in range(self.jobs_in_a_beat)]
        existing = names[3::4]  # the others are stale too: to create all of them would take long
        for name in existing:
            self.running(name, token=f"token {name}")
        ended_ones = existing[::25]
        for name in ended_ones:
            self.store.change(name, Expect(), ended(_DEAD))
        self.clock.advance(5)
        alive = frozenset(existing[::2])
        tokens = {name: f"token {name}" for name in names} | {existing[-1]: "other"}
        stale = self.store.beat(tokens, 8, alive)
        expected_stale = frozenset(names) - frozenset(existing) | {*ended_ones, existing[-1]}
        same(sorted(stale), sorted(expected_stale), "beat returns exactly the stale ids, of any number")
        now = self.clock.now()
        for name in existing:
            job = self.read(name)
            if name not in stale:
                expected = now if name in alive else now - timedelta(seconds=5)
                found = (job.lease_until, job.updated_time, job.version)
                same(found, (now + timedelta(seconds=8), expected, 2), "a beat renews any number of leases")

    def test_a_lease_is_over_exactly_at_lease_until(self) -> None:
        job = self.running(run_lease=10)
        dead = reaped(job, Late.DEAD)
        self.clock.advance(10 - MICROSECOND)
        same(self.store.change("job", dead, ended(_DEAD)), None, "a lease is not over a microsecond before lease_until")
        same(self.read(), evolve(job, read_time=self.clock.now()), "a failed compare-and-set changes nothing")
        self.clock.advance(MICROSECOND)
        found = self.store.change("job", dead, ended(_DEAD))
        kept(found is not None and found.status is Status.FAILED, "a lease is over exactly at lease_until")

    def test_a_renewed_lease_is_over_exactly_at_its_new_end(self) -> None:
        job = self.running(run_lease=10)
        self.clock.advance(8)
        self.store.beat({"job": "token"}, 10, _NONE)
        dead = reaped(job, Late.DEAD)
        for wait, promise in (
            (2, "a renewed lease is not over at its former end"),
            (8 - MICROSECOND, "a renewed lease is not over a microsecond before lease_until"),
        ):
            self.clock.advance(wait)
            same(self.store.change("job", dead, Changes(progress=1)), None, promise)
        self.clock.advance(MICROSECOND)
        found = self.store.change("job", dead, Changes(progress=1))
        kept(found is not None, "a beat renews the lease for no longer than asked")

    def test_without_a_lease_none_is_over(self) -> None:
        self.store.create(draft())
        self.clock.advance(LEASE)
        over = Expect(lease_over=True)
        same(self.store.change("job", over, Changes(progress=1)), None, "a job without a lease has none that is over")

    def test_lease_over_goes_with_the_other_expectations(self) -> None:
        job = self.running(run_lease=10)
        self.clock.advance(20)
        changes = concluded(job, RETRY, self.clock.now())
        for expect in (
            Expect(run=2, token="token", lease_over=True),  # noqa: S106
            Expect(run=1, token="other", lease_over=True),  # noqa: S106
            Expect(unclaimed=True, lease_over=True),
        ):
            same(self.store.change("job", expect, changes), None, "every expectation must be satisfied")
        found = self.store.change("job", reaped(job, Late.DEAD), changes)
        kept(found is not None and found.run == 2, "a run whose lease is over can be requeued in one write")
        found = self.store.change("job", reaped(job, Late.DEAD), changes)
        same(found, None, "a run is requeued once")

    def test_a_beat_and_the_end_of_a_lease_exclude_each_other(self) -> None:
        for number in range(20):
            name = f"{number}"
            job = self.running(name, run_lease=1)
            self.clock.advance(1)
            calls: list[Callable[[], frozenset[str] | Job | None]] = [
                partial(self.store.beat, {name: "token"}, 5, _NONE),
                partial(self.store.change, name, reaped(job, Late.DEAD), ended(_DEAD)),
            ]
            stale, ends = self.at_once(calls)
            same(bool(stale), ends is not None, "a job is renewed, or ended and stale, never both")
            same(self.read(name).status.is_final, ends is not None, "of an end and a renewal, one wins")
