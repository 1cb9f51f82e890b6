"""The promises about ``change``, the compare-and-set."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import pytest
from attrs import evolve

from backjob.lifecycle import End, claimed, completed, ended, failed
from backjob.lifecycle import cancelled as cancellation
from backjob.model import Changes, Expect, JsonValue, Report, Request, Status
from backjob.testing._stores.case import LEASE, UNKNOWN, StoreCase, bodiless, draft, kept, same
from backjob.testing._stores.creating import FULL

_ENDED: Final[dict[str, Any]] = dict.fromkeys(
    ("request", "caller", "sealed", "proof", "waiting_for", "cursor", "lessee", "lease_until", "merge_key", "slot")
)
"""The fields that the end erases."""


class ChangeCalls(StoreCase):
    """``change``."""

    @pytest.mark.parametrize(
        "expect",
        [
            Expect(status=Status.STARTED),
            Expect(status=Status.COMPLETED),
            Expect(run=2),
            Expect(token="other"),
            Expect(version=1),
            Expect(version=3),
            Expect(unclaimed=True),
            Expect(lease_over=True),
            Expect(status=Status.IN_PROGRESS, run=1, token="token", version=1),
            Expect(status=Status.STARTED, run=1, token="token", version=2),
        ],
    )
    def test_a_change_with_an_unsatisfied_expectation_changes_nothing(self, expect: Expect) -> None:
        job = self.running()
        same(self.store.change("job", expect, ended(completed())), None, "a failed compare-and-set returns None")
        same(self.read(), job, "a failed compare-and-set changes nothing, version included")

    @pytest.mark.parametrize(
        "expect",
        [
            Expect(),
            Expect(status=Status.IN_PROGRESS),
            Expect(run=1),
            Expect(token="token"),
            Expect(version=2),
            Expect(status=Status.IN_PROGRESS, run=1, token="token", version=2),
        ],
    )
    def test_a_change_with_a_satisfied_expectation_is_made(self, expect: Expect) -> None:
        job = self.running()
        changed = self.store.change("job", expect, Changes(progress=7))
        same(changed, evolve(job, progress=7, version=3), "a change returns the job after it, its version one higher")
        same(self.read(), changed, "get returns the job that change returned")

    def test_a_token_is_not_expected_of_a_job_without_one(self) -> None:
        self.store.create(draft())
        same(
            self.store.change("job", Expect(token="token"), Changes(progress=1)),
            None,
            "an expected token never equals a missing one",
        )

    @pytest.mark.parametrize("job_id", UNKNOWN[:3])
    def test_writing_to_an_unknown_job_does_nothing(self, job_id: str) -> None:
        same(self.store.change(job_id, Expect(), ended(completed())), None, "change of an unknown job returns None")
        same(self.store.report(job_id, "token", Report(output="x")), False, "report to an unknown job returns False")
        stale = self.store.beat({job_id: "token"}, 5, frozenset((job_id,)))
        same(stale, frozenset((job_id,)), "an unknown job is stale")
        same(self.store.get(job_id), None, "writing to an unknown job does not create it")

    @pytest.mark.parametrize(
        ("changes", "fields"),
        [
            (Changes(), {}),
            (Changes(status=Status.STARTED, attempt=2), {"status": Status.STARTED, "attempt": 2}),
            (Changes(run=7, delivery=3), {"run": 7, "delivery": 3}),
            (Changes(token="new"), {"token": "new"}),
            (Changes(token=None), {"token": None}),
            (Changes(cursor={"page": [7, "ß"]}), {"cursor": {"page": [7, "ß"]}}),
            (Changes(cursor=None), {"cursor": None}),
            (Changes(history=[{"run": 1, "reason": "€"}]), {"history": [{"run": 1, "reason": "€"}]}),
            (Changes(file={"name": "ß.csv", "size": 3}), {"file": {"name": "ß.csv", "size": 3}}),
            (Changes(error="unexpected"), {"error": "unexpected"}),
            (Changes(expires=None), {"expires": None}),
            (Changes(progress=0), {"progress": 0}),
            (Changes(status_text=""), {"status_text": ""}),
            (Changes(status_text="ß\n😀"), {"status_text": "ß\n😀"}),
            (Changes(result={"a": 1}), {"result": {"a": 1}}),
            (Changes(lessee="m"), {"lessee": "m"}),
            (Changes(lessee=None), {"lessee": None}),
            (Changes(label="new"), {"label": "new"}),
            (
                Changes(label="new", proof="other", sealed=b"\0new"),
                {"label": "new", "proof": "other", "sealed": b"\0new"},
            ),
            (Changes(waiting_for="place"), {"waiting_for": "place"}),
            (Changes(proof=None, waiting_for=None), {"proof": None}),
        ],
    )
    def test_a_change_writes_its_fields_and_no_others(self, changes: Changes, fields: dict[str, Any]) -> None:
        self.store.create(evolve(FULL, id="job"))
        given = Changes(status=Status.IN_PROGRESS, token="token", progress=4, result=[1], cursor=3, history=[])
        self.store.change("job", Expect(), given)
        self.store.report("job", "token", Report(text="before", output="out"))
        before = self.read()
        self.clock.advance(2)
        changed = self.store.change("job", Expect(), changes)
        expected = evolve(before, version=before.version + 1, read_time=self.clock.now(), **fields)
        same(changed, expected, "a change writes its fields and no others")
        same(self.read(), expected, "a change writes its fields and no others")

    def test_a_lease_is_seconds_from_now_and_none_releases_it(self) -> None:
        job = self.store.create(draft(lessee="a", lease=5))
        self.clock.advance(2)
        renewed = self.store.change("job", Expect(version=job.version), Changes(lease=5))
        until = self.clock.now() + timedelta(seconds=5)
        kept(renewed is not None and renewed.lease_until == until, "a lease is renewed from the store's now")
        same(self.read().lessee, "a", "renewing a lease keeps its lessee")
        given_up = self.store.change("job", Expect(), Changes(lessee=None, lease=None))
        kept(given_up is not None and given_up.lease_until is None, "a lease of None releases it")

    @pytest.mark.parametrize("seconds", [0, 0.25, 3600])
    def test_a_due_time_moves_alone(self, seconds: float) -> None:
        self.store.create(draft(due=50, expires=70))
        self.clock.advance(10)
        due = self.clock.now() + timedelta(seconds=seconds)
        for value in (seconds, due):
            before = self.read()
            job = self.store.change("job", Expect(), Changes(due=value))
            expected = evolve(before, start_time=due, version=before.version + 1)
            same(job, expected, "due moves start_time, to the microsecond, and nothing else")

    @pytest.mark.parametrize("seconds", [-1, 0, 0.000001, 77.5])
    def test_a_delivery_deadline_is_seconds_from_now_and_none_removes_it(self, seconds: float) -> None:
        self.store.create(draft(due=50))
        self.clock.advance(10)
        job = self.store.change("job", Expect(), Changes(deliver_by=seconds))
        expected = self.clock.now() + timedelta(seconds=seconds)
        same(None if job is None else job.deliver_by, expected, "deliver_by counts from the store's now")
        same(self.read().deliver_by, expected, "get returns the job that change returned")
        self.store.change("job", Expect(), Changes(progress=1))
        same(self.read().deliver_by, expected, "a change without deliver_by keeps it")
        self.store.change("job", Expect(), Changes(deliver_by=None))
        same(self.read().deliver_by, None, "a deliver_by of None removes it")

    def test_only_alive_sets_the_updated_time(self) -> None:
        job = self.running()
        self.clock.advance(3)
        self.store.change("job", Expect(), Changes(progress=5))
        same(self.read().updated_time, job.updated_time, "a change without alive keeps updated_time")
        self.store.change("job", Expect(), Changes(alive=True))
        same(self.read().updated_time, self.clock.now(), "alive sets updated_time to the store's now")

    @pytest.mark.parametrize("end", [completed("done", {"n": [1]}), failed("broken"), cancellation()])
    def test_the_end_erases_secrets_and_releases_the_lease(self, end: End) -> None:
        before = self.store.create(evolve(FULL, id="job"))
        history: JsonValue = [{"run": 1, "reason": "failed"}]
        self.store.change("job", Expect(), Changes(waiting_for="place", cursor=[7], history=history, run=2, attempt=2))
        self.clock.advance(4)
        changed = self.store.change("job", Expect(), ended(end))
        job = self.read()
        same(changed, job, "get returns the job that change returned")
        same(
            (job.request, job.caller, job.sealed), (None, None, None), "the end erases request, caller and credentials"
        )
        same((job.proof, job.waiting_for), (None, None), "the end erases the proof, and why the job waited")
        same(job.cursor, None, "the end erases the cursor")
        same((job.lessee, job.lease_until), (None, None), "the end releases the lease")
        same(job.end_time, self.clock.now(), "the end sets end_time to the store's now")
        same(
            job,
            evolve(
                before,
                **_ENDED,
                status=end.status,
                status_text=job.status_text,
                result=end.result,
                progress=job.progress,
                end_time=self.clock.now(),
                updated_time=job.updated_time,
                read_time=self.clock.now(),
                version=3,
                run=2,
                attempt=2,
                history=history,
            ),
            "the end keeps everything else",
        )
        whole = self.store.get("job", body=True)
        same(None if whole is None else whole.request, None, "the end erases the body of the request")

    def test_the_end_of_a_job_with_a_kept_request_erases_only_its_credentials(self) -> None:
        before = self.store.create(evolve(FULL, id="job"))
        self.store.change("job", *claimed("token", 1, LEASE))
        self.clock.advance(4)
        changed = self.store.change("job", Expect(), ended(completed(), before))
        job = self.read()
        same(changed, job, "get returns the job that change returned")
        same(
            (job.request, job.caller),
            (bodiless(before).request, FULL.caller),
            "with keep_request, request and caller stay",
        )
        same(job.proof, FULL.proof, "with keep_request, the proof stays")
        same(job.sealed, None, "sealed credentials never outlive the end")
        whole = self.store.get("job", body=True)
        same(None if whole is None else whole.request, FULL.request, "with keep_request, the body of the request stays")
        self.store.change("job", Expect(), Changes(label="new", proof="renewed"))
        same(
            self.read(),
            evolve(job, label="new", proof="renewed", version=job.version + 1),
            "a kept request can be moved to a new label",
        )
        whole = self.store.get("job", body=True)
        same(None if whole is None else whole.request, FULL.request, "with keep_request, the body of the request stays")

    def test_the_title_method_and_path_outlive_the_end(self) -> None:
        self.ended(title="Rows", request=Request("PUT", "/work/%C3%A4?page=2"))
        job = self.read()
        same(
            (job.title, job.method, job.path),
            ("Rows", "PUT", "/work/%C3%A4"),
            "title, method and path stay after the end",
        )
        same(job.request, None, "the end erases request, caller and credentials")
