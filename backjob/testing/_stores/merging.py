"""The promises about merge keys."""

from __future__ import annotations

from functools import partial

import pytest
from attrs import evolve

from backjob.lifecycle import End, claimed, completed, ended, failed
from backjob.lifecycle import cancelled as cancellation
from backjob.model import Changes, Expect, Job, Report
from backjob.testing._stores.case import ALIKE, LEASE, StoreCase, draft, kept, refused, same, unread


class MergesJobs(StoreCase):
    """``create`` with a merge key: while a job holds the key, it returns that job."""

    racers = 8
    """Threads in each race."""

    def test_create_with_a_held_merge_key_returns_its_holder(self) -> None:
        first = self.store.create(draft("first", scope="first"), "key")
        self.clock.advance(1)
        found = self.store.create(draft("second", scope="second"), "key")
        same(unread(found), unread(first), "create with a held key returns the job that holds it")
        same(self.store.get("second"), None, "create with a held key writes nothing")
        same(unread(self.read("first")), unread(first), "create with a held key does not change its holder")

    def test_other_keys_and_no_key_do_not_merge(self) -> None:
        self.store.create(draft("first"), "key")
        for job_id, key in (("second", "KEY"), ("third", None), ("fourth", None), ("fifth", "")):
            same(self.store.create(draft(job_id), key).id, job_id, f"the key {key!r} returns no other job")

    def test_a_claim_keeps_the_merge_key(self) -> None:
        self.store.create(draft("first"), "key")
        self.store.change("first", *claimed("token", 1, LEASE))
        self.store.report("first", "token", Report(progress=5))
        same(self.read("first").merge_key, "key", "only free_merge_key and the end release a merge key")
        same(self.store.create(draft("second"), "key").id, "first", "a claimed job still holds its key")

    def test_an_id_that_exists_is_refused_and_takes_no_key(self) -> None:
        first = self.store.create(draft(scope="first"))
        refused(lambda: self.store.create(draft(scope="second"), "key"), "an id that exists is refused")
        same(self.read(), first, "a refused create changes nothing")
        same(self.store.create(draft("other"), "key").id, "other", "a refused create takes no merge key")
        same(self.store.create(draft(), "key").id, "other", "a held key takes precedence over an existing id")

    def test_keys_are_compared_byte_by_byte(self) -> None:
        for number, key in enumerate(ALIKE):
            same(self.store.create(draft(f"{number}"), key).id, f"{number}", f"the key {key!r} returns no other job")
        for number, key in enumerate(ALIKE):
            found = self.store.create(draft("another"), key)
            same((found.id, found.merge_key), (f"{number}", key), f"the key {key!r} is held by its own job")

    @pytest.mark.parametrize(
        "changes",
        [
            Changes(free_merge_key=True),
            ended(completed()),
            ended(failed("broken")),
            ended(cancellation()),
        ],
    )
    def test_a_freed_merge_key_can_be_taken_by_another(self, changes: Changes) -> None:
        self.store.create(draft("first"), "key")
        job = self.store.change("first", Expect(), changes)
        same(None if job is None else job.merge_key, None, "a freed key is no longer the job's")
        second = self.store.create(draft("second"), "key")
        same((second.id, second.merge_key), ("second", "key"), "a freed key can be taken")
        same(self.store.create(draft("third"), "key").id, "second", "create returns the newest holder of a key")
        same(self.read("first").merge_key, None, "a job does not regain a freed key")

    @pytest.mark.parametrize("end", [completed(), failed("broken"), cancellation()])
    def test_a_kept_merge_key_returns_the_ended_job(self, end: End) -> None:
        self.store.create(draft("first"), "key")
        self.store.change("first", *claimed("token", 1, LEASE))
        job = self.store.change("first", Expect(), evolve(ended(end), keep_key=True))
        same(None if job is None else job.merge_key, "key", "with keep_key, the merge key stays")
        self.clock.advance(1_000_000)
        found = self.store.create(draft("second"), "key")
        same(found, self.read("first"), "create with a kept key returns the ended job")
        same(self.store.get("second"), None, "create with a held key writes nothing")
        self.store.delete("first")
        same(self.store.create(draft("third"), "key").id, "third", "the key of a deleted job is free")

    def test_a_deleted_job_frees_its_merge_key(self) -> None:
        self.store.create(draft("first"), "key")
        self.store.delete("first")
        same(self.store.create(draft("second"), "key").id, "second", "the key of a deleted job is free")
        same(self.store.create(draft("third"), "key").id, "second", "create returns the newest holder of a key")

    def test_identical_creates_with_a_merge_key_make_one_job(self) -> None:
        def create_all(racer: int) -> list[str]:
            return [self.store.create(draft(f"{racer}/{key}"), f"key {key}").id for key in range(20)]

        results = self.at_once([partial(create_all, racer) for racer in range(self.racers)])
        for other in results[1:]:
            same(other, results[0], "creates with one merge key all return the same job")
        tried = [f"{racer}/{key}" for racer in range(self.racers) for key in range(20)]
        found = {job_id for job_id in tried if self.store.get(job_id) is not None}
        same(found, set(results[0]), "creates with one merge key make one job")

    def test_a_merge_key_freed_during_a_race_is_never_held_twice(self) -> None:
        def join_and_end(racer: int) -> list[Job]:
            joined = []
            for number in range(15):
                job = self.store.create(draft(f"{racer}/{number}"), "key")
                joined.append(job)
                self.store.change(job.id, Expect(), ended(completed()))
            return joined

        joined = [
            job for jobs in self.at_once([partial(join_and_end, racer) for racer in range(self.racers)]) for job in jobs
        ]
        kept(all(job.merge_key == "key" for job in joined), "create with a key returns a job that holds it")
        tried = [f"{racer}/{number}" for racer in range(self.racers) for number in range(15)]
        found = [job for job_id in tried if (job := self.store.get(job_id)) is not None]
        same({job.id for job in found}, {job.id for job in joined}, "every created job was returned by create")
        same({job.merge_key for job in found}, {None}, "an ended job holds no key")
