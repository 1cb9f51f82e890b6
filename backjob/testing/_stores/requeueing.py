"""The promises about runs: the claim of one run, a requeue, and the fencing of earlier runs."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from attrs import evolve

from backjob.lifecycle import Requeue, claimed, completed, continued, ended, history_of, requeued
from backjob.model import Changes, Expect, JsonValue, Report, Status
from backjob.testing._stores.case import LEASE, StoreCase, draft, kept, same


class RunCalls(StoreCase):
    """The claim, and what a retry or the next slice changes."""

    racers = 8
    """Threads in each race."""

    def test_a_claim_writes_its_fields_and_no_others(self) -> None:
        before = self.store.create(draft(lessee="monitor", lease=5, expires=100, sealed=b"sealed", due=0))
        self.store.change("job", Expect(), Changes(waiting_for="place", deliver_by=50, delivery=3))
        before = self.read()
        self.clock.advance(2)
        now = self.clock.now()
        expected = evolve(
            before,
            status=Status.IN_PROGRESS,
            token="token",
            lease_until=now + timedelta(seconds=18),
            waiting_for=None,
            expires=None,
            claimed_time=now,
            updated_time=now,
            read_time=now,
            version=before.version + 1,
        )
        same(self.claimed(run_lease=18), expected, "a claim writes its fields and no others, the credentials stay")
        same(self.read(), expected, "get returns the job that change returned")

    def test_only_a_job_that_waits_for_this_run_is_claimed(self) -> None:
        self.store.create(draft())
        for run in (0, 2):
            same(
                self.store.change("job", *claimed("early", run, 60)),
                None,
                "only the run that a job waits for is claimed",
            )
        self.claimed()
        for run in (1, 2):
            same(self.store.change("job", *claimed("again", run, 60)), None, "a job that runs is not claimed again")
        self.requeued()
        same(self.store.change("job", *claimed("late", 1, 60)), None, "an earlier run is not claimed")
        self.claimed(run=2)
        self.store.change("job", Expect(), ended(completed()))
        for run in (1, 2, 3):
            same(self.store.change("job", *claimed("late", run, 60)), None, "an ended job is not claimed")

    def test_a_job_that_ended_unclaimed_is_not_claimed(self) -> None:
        self.store.create(draft())
        self.store.change("job", Expect(unclaimed=True), ended(completed()))
        same(self.read().status, Status.COMPLETED, "a waiting job is unclaimed")
        for expect in (Expect(unclaimed=True), claimed("late", 1, 60)[0]):
            same(self.store.change("job", expect, Changes(progress=3)), None, "an ended job does not wait")

    def test_unclaimed_follows_the_token(self) -> None:
        self.running()
        expect = Expect(unclaimed=True)
        same(self.store.change("job", expect, Changes(progress=1)), None, "a job with a token is not unclaimed")
        self.requeued(requeue=continued(7))
        kept(self.store.change("job", expect, Changes(progress=1)), "a job between two slices is unclaimed")

    @pytest.mark.parametrize("cursor", [None, {"page": 7}])
    def test_a_retry_resets_what_belongs_to_the_run(self, cursor: JsonValue) -> None:
        self.store.create(draft(lessee="monitor", lease=5, retries=3, sealed=b"sealed", queue="exports"))
        self.store.change("job", Expect(), Changes(delivery=4, deliver_by=60))
        self.claimed()
        self.store.report("job", "token", Report(progress=40, text="half way", output="line\n"))
        self.store.change("job", Expect(), Changes(cursor=cursor))
        before = self.read()
        self.clock.advance(3)
        now = self.clock.now()
        job = self.requeued(requeue=Requeue("failed ß", delay=7.5))
        expected = evolve(
            before,
            status=Status.STARTED,
            token=None,
            run=2,
            attempt=2,
            delivery=1,
            progress=40 if cursor else 0,
            start_time=now + timedelta(seconds=7.5),
            deliver_by=None,
            lessee=None,
            lease_until=None,
            slot=None,
            updated_time=now,
            read_time=now,
            version=before.version + 1,
            history=job.history,
        )
        same(job, expected, "a retry resets what belongs to the run, and keeps credentials, text, output and cursor")
        same(self.read(), job, "get returns the job that change returned")
        same(
            job.history,
            [
                {
                    "run": 1,
                    "begin": (now - timedelta(seconds=3)).isoformat(),
                    "end": now.isoformat(),
                    "reason": "failed ß",
                }
            ],
            "the history comes back equal",
        )
        kept(self.store.output("job").text == "line\n", "output stays when a run is given up")

    def test_a_slice_stays_in_progress_and_resets_the_attempts(self) -> None:
        self.running(retries=3)
        self.requeued()
        self.claimed(run=2)
        self.store.report("job", "token", Report(progress=40))
        job = self.requeued(requeue=continued(["page", 3]))
        same(
            (job.status, job.token, job.run, job.attempt, job.progress, job.cursor),
            (Status.IN_PROGRESS, None, 3, 1, 40, ["page", 3]),
            "the next slice keeps status and progress, and has its cursor",
        )
        same(self.read(), job, "get returns the job that change returned")
        same(self.claimed(run=3).cursor, ["page", 3], "a claim keeps the cursor")

    def test_held_credentials_keep_the_lease_with_their_process(self) -> None:
        self.running(held=True, lessee="monitor", lease=5)
        job = self.requeued(requeue=continued(1))
        same(job.lessee, "monitor", "a change without lessee keeps it")
        kept(job.lease_until is not None and job.lease_until > self.clock.now(), "a lease counts from the store's now")

    def test_the_token_of_an_earlier_run_can_do_nothing(self) -> None:
        self.running(token="first")
        self.requeued()
        waiting = self.read()
        for token in ("first", ""):
            same(self.store.report("job", token, Report(output="x")), False, "a job that waits again takes no report")
            same(self.store.change("job", Expect(token=token), Changes()), None, "an earlier token is not accepted")
        same(
            self.store.beat({"job": "first"}, 9, frozenset(("job",))), frozenset(("job",)), "an earlier token is stale"
        )
        same(self.read(), waiting, "a write with an earlier token changes nothing")
        running = self.claimed(token="second", run=2)
        same(self.store.report("job", "first", Report(output="x")), False, "an earlier token is not accepted")
        late = self.store.change("job", Expect(token="first"), ended(completed("late")))
        same(late, None, "the end of an earlier run is not accepted")
        same(
            self.store.beat({"job": "first"}, 9, frozenset(("job",))), frozenset(("job",)), "an earlier token is stale"
        )
        same(self.read(), running, "a write with an earlier token changes nothing")

    def test_each_run_sets_its_claimed_time(self) -> None:
        job = self.running()
        same(job.claimed_time, self.clock.now(), "the claim sets claimed_time to the store's now")
        self.clock.advance(5)
        self.requeued()
        same(self.read().claimed_time, job.claimed_time, "a requeue keeps claimed_time")
        self.claimed(run=2)
        same(self.read().claimed_time, self.clock.now(), "each claim sets claimed_time to the store's now")
        self.clock.advance(5)
        self.store.change("job", Expect(), ended(completed()))
        same(self.read().claimed_time, self.clock.now() - timedelta(seconds=5), "the end keeps claimed_time")

    def test_many_runs_and_a_long_history(self) -> None:
        self.running(token="1")
        for run in range(1, 11):
            self.requeued(requeue=Requeue(f"reason {run}"))
            self.claimed(token=f"{run + 1}", run=run + 1)
        job = self.read()
        found = (job.run, job.attempt, job.version)
        same(found, (11, 11, 22), "each requeue and each claim raises the version by one")
        same(
            [entry["reason"] for entry in history_of(job)],
            [f"reason {run}" for run in range(1, 11)],
            "a history keeps its order",
        )
        long: list[JsonValue] = [{"run": run, "reason": f"reason {run} " + "€" * 490} for run in range(1, 101)]
        self.store.change("job", Expect(), Changes(history=long))
        kept(self.read().history == long, "a long history comes back whole")
        self.requeued(requeue=Requeue("the last"))
        history = history_of(self.read())
        same(len(history), 100, "a long history comes back whole")
        same(history[-1]["reason"], "the last", "a history keeps its order")

    def test_a_history_is_the_stores_own_copy(self) -> None:
        self.store.create(draft())
        entries: list[JsonValue] = [{"run": 1}]
        self.store.change("job", Expect(), Changes(history=entries, cursor=entries))
        entries.append(2)
        found = (self.read().history, self.read().cursor)
        same(found, ([{"run": 1}], [{"run": 1}]), "later changes to the caller's value are not stored")

    def test_of_many_claims_and_requeues_each_run_has_one(self) -> None:
        self.store.create(draft())

        def work(racer: int) -> list[str]:
            done = []
            for run in range(1, 9):
                token = f"{run}.{racer}"
                job = self.store.change("job", *claimed(token, run, LEASE))
                if job is not None:
                    done.append(f"claimed {run}")
                    given_up = self.store.change(
                        "job", Expect(run=run, token=token), requeued(job, Requeue("again"), job.read_time)
                    )
                    done += [] if given_up is None else [f"requeued {run}"]
            return done

        done = [
            event for events in self.at_once([partial(work, racer) for racer in range(self.racers)]) for event in events
        ]
        job = self.read()
        expected = [f"{event} {run}" for event in ("claimed", "requeued") for run in range(1, job.run)]
        same(sorted(done), sorted(expected), "each run is claimed once and requeued once")
