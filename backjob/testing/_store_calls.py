"""The promises of a store's writing methods, each by itself: create, change, report, beat."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import pytest
from attrs import asdict, evolve

from backjob.errors import BackJobError
from backjob.lifecycle import End, claimed, completed, ended, failed
from backjob.lifecycle import cancelled as cancellation
from backjob.model import (
    Caller,
    Changes,
    Draft,
    Expect,
    Job,
    JsonValue,
    Output,
    Query,
    Report,
    Request,
    Status,
)
from backjob.testing._store_case import StoreCase, draft, kept, same

__all__ = ["CreateCalls", "WriteCalls"]

UNKNOWN: Final = ("", "nobody", "JOB", "job ", "a\0b", "\ud800", "x" * 5000, "' OR 1=1 --")

FULL: Final = Draft(
    id="full",
    request=Request(
        "CHICKEN",
        "/a%2Fb?x=%C3%A9",
        (("X-A", "one"), ("Cookie", "s=\xe9"), ("x-a", "two")),
        bytes(range(256)) * 3,
        raw=False,
    ),
    caller=Caller("https", "example.org:8443", "2001:db8::1", (("X-Forwarded-For", "192.0.2.1, 10.0.0.1"),)),
    owner="us\u00e9r \U0001f600",
    scope="n\u00efghtly 'report' %_",
    due=12.000001,
    delivery_timeout=77.5,
    error_timeout=2.25,
    lessee="monitor 1",
    lease=3.5,
    held=True,
    sealed=b"\x00\xffsealed",
    depth=3,
)


def unread(job: Job) -> Job:
    """The job but for the moment of reading."""
    return evolve(job, read_time=job.created_time)


class CreateCalls(StoreCase):
    """``create``, ``get`` and merge keys."""

    def test_a_created_job_says_what_its_draft_said(self) -> None:
        now = self.clock.now()
        start = now + timedelta(seconds=12.000001)
        expected = Job(
            id="full",
            created_time=now,
            start_time=start,
            deliver_by=start + timedelta(seconds=77.5),
            updated_time=now,
            read_time=now,
            error_timeout=2.25,
            lessee="monitor 1",
            lease_until=now + timedelta(seconds=3.5),
            merge_key="key",
            owner=FULL.owner,
            scope=FULL.scope,
            request=FULL.request,
            caller=FULL.caller,
            held=True,
            sealed=FULL.sealed,
            depth=3,
        )
        same(self.store.create(FULL, "key"), expected, "create returns the job as it was written")
        same(self.read("full"), expected, "get returns the job as it was written")

    def test_a_bare_draft_gives_a_bare_job(self) -> None:
        job = self.store.create(draft())
        same(self.read(), job, "get returns the job that create returned")
        kept(job.lessee is None and job.lease_until is None, "without a lessee there is no lease")
        kept(job.token is None and job.end_time is None and job.result is None, "a new job has no token, end or result")
        same((job.status, job.progress, job.attempt, job.version), (Status.STARTED, 0, 1, 1), "a new job begins so")
        same((job.status_text, job.output_size, job.output_truncated), (None, 0, False), "a new job has said nothing")

    def test_the_due_time_may_be_an_aware_datetime_of_any_zone(self) -> None:
        due = datetime(2031, 6, 1, 3, 0, 0, 7, tzinfo=timezone(timedelta(hours=5, minutes=30)))
        job = self.store.create(draft(due=due, delivery_timeout=1.5))
        same(job.start_time, due, "start_time is the moment that the draft names, to the microsecond")
        same(job.deliver_by, due + timedelta(seconds=1.5), "deliver_by counts from the due time")

    def test_times_are_aware_and_in_utc(self) -> None:
        self.store.create(FULL)
        job = self.store.change("full", Expect(), ended(completed()))
        kept(job, "an expectation without fields always holds")
        for name, value in asdict(self.read("full"), recurse=False).items():
            if isinstance(value, datetime):
                same(value.tzinfo, UTC, f"{name} is an aware datetime in UTC")

    def test_a_request_of_a_mebibyte_comes_back_whole(self) -> None:
        request = Request("POST", "/work?" + "q" * 8000, (("Cookie", "c" * 8000),), bytes(range(256)) * 4096)
        self.store.create(draft(request=request))
        kept(self.read().request == request, "a request comes back byte for byte")

    @pytest.mark.parametrize("job_id", UNKNOWN)
    def test_an_unknown_id_finds_nothing(self, job_id: str) -> None:
        self.store.create(draft())
        same(self.store.get(job_id), None, "get of an unknown id is None")
        same(self.store.output(job_id), Output("", 0), "an unknown job has no output")
        same(self.store.find(Query(before=job_id)), [], "an unknown `before` finds nothing")

    def test_an_id_that_exists_is_refused(self) -> None:
        first = self.store.create(draft(scope="first"))
        with pytest.raises(BackJobError):
            self.store.create(draft(scope="second"))
        with pytest.raises(BackJobError):
            self.store.create(draft(scope="second"), "key")
        same(self.read(), first, "a refused create changes nothing")
        same(self.store.create(draft("other"), "key").id, "other", "a refused create takes no merge key")

    def test_reading_says_when_it_was_done_and_changes_nothing(self) -> None:
        job = self.store.create(draft())
        self.clock.advance(1.000001)
        same(self.read(), evolve(job, read_time=self.clock.now()), "only read_time moves by itself")
        same(self.store.find(Query()), [self.read()], "find and get tell the same")

    def test_a_merge_key_that_is_held_gives_its_holder(self) -> None:
        first = self.store.create(draft("first", scope="first"), "key")
        self.clock.advance(1)
        found = self.store.create(draft("second", scope="second"), "key")
        same(unread(found), unread(first), "create with a held key returns the job that holds it")
        same(self.store.get("second"), None, "create with a held key writes nothing")
        same(unread(self.read("first")), unread(first), "create with a held key leaves the holder as it was")

    def test_other_keys_and_no_key_do_not_merge(self) -> None:
        self.store.create(draft("first"), "key")
        for job_id, key in (("second", "KEY"), ("third", None), ("fourth", None), ("fifth", "")):
            same(self.store.create(draft(job_id), key).id, job_id, f"the key {key!r} joins no other job")

    def test_a_claim_keeps_the_merge_key(self) -> None:
        self.store.create(draft("first"), "key")
        self.store.change("first", *claimed("token"))
        self.store.report("first", "token", Report(progress=5))
        same(self.read("first").merge_key, "key", "only free_merge_key and the end give a merge key up")
        same(self.store.create(draft("second"), "key").id, "first", "a claimed job still holds its key")

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
        same(None if job is None else job.merge_key, None, "a freed key is gone from its job")
        second = self.store.create(draft("second"), "key")
        same((second.id, second.merge_key), ("second", "key"), "a freed key can be taken")
        same(self.store.create(draft("third"), "key").id, "second", "the newest holder is the one that is joined")
        same(self.read("first").merge_key, None, "a freed key does not come back")

    def test_closing_twice_does_no_harm(self) -> None:
        self.store.create(draft())
        self.store.close()
        self.store.close()


class WriteCalls(StoreCase):
    """``change``, ``report`` and ``beat``."""

    @pytest.mark.parametrize(
        "expect",
        [
            Expect(status=Status.STARTED),
            Expect(status=Status.COMPLETED),
            Expect(attempt=2),
            Expect(token="other"),
            Expect(version=1),
            Expect(version=3),
            Expect(status=Status.IN_PROGRESS, attempt=1, token="token", version=1),
            Expect(status=Status.STARTED, attempt=1, token="token", version=2),
        ],
    )
    def test_a_change_whose_expectation_fails_changes_nothing(self, expect: Expect) -> None:
        job = self.running()
        same(self.store.change("job", expect, ended(completed())), None, "a lost compare-and-set returns None")
        same(self.read(), job, "a lost compare-and-set changes nothing, version included")

    @pytest.mark.parametrize(
        "expect",
        [
            Expect(),
            Expect(status=Status.IN_PROGRESS),
            Expect(attempt=1),
            Expect(token="token"),
            Expect(version=2),
            Expect(status=Status.IN_PROGRESS, attempt=1, token="token", version=2),
        ],
    )
    def test_a_change_whose_expectation_holds_is_made(self, expect: Expect) -> None:
        job = self.running()
        changed = self.store.change("job", expect, Changes(progress=7))
        same(changed, evolve(job, progress=7, version=3), "a change returns the job after it, its version one higher")
        same(self.read(), changed, "what change returned is what stands")

    def test_a_token_is_not_expected_of_a_job_without_one(self) -> None:
        self.store.create(draft())
        same(self.store.change("job", Expect(token="token"), Changes(progress=1)), None, "no token equals no token")

    @pytest.mark.parametrize("job_id", UNKNOWN[:3])
    def test_writing_to_an_unknown_job_does_nothing(self, job_id: str) -> None:
        same(self.store.change(job_id, Expect(), ended(completed())), None, "change of an unknown job returns None")
        same(self.store.report(job_id, "token", Report(output="x")), False, "report to an unknown job returns False")
        self.store.beat({job_id: "token"})
        same(self.store.find(Query()), [], "writing to an unknown job makes none")

    @pytest.mark.parametrize(
        ("changes", "fields"),
        [
            (Changes(), {}),
            (Changes(status=Status.STARTED, attempt=2), {"status": Status.STARTED, "attempt": 2}),
            (Changes(token="new"), {"token": "new"}),
            (Changes(progress=0), {"progress": 0}),
            (Changes(status_text=""), {"status_text": ""}),
            (Changes(status_text="ß\n😀"), {"status_text": "ß\n😀"}),
            (Changes(result={"a": 1}), {"result": {"a": 1}}),
            (Changes(lessee="m"), {"lessee": "m"}),
            (Changes(lessee=None), {"lessee": None}),
            (Changes(delivery_timeout=1), {}),
        ],
    )
    def test_a_change_writes_its_fields_and_no_others(self, changes: Changes, fields: dict[str, Any]) -> None:
        self.store.create(evolve(FULL, id="job"), "key")
        self.store.change("job", Expect(), Changes(status=Status.IN_PROGRESS, token="token", progress=4, result=[1]))
        self.store.report("job", "token", Report(text="before", output="out"))
        before = self.read()
        self.clock.advance(2)
        changed = self.store.change("job", Expect(), changes)
        expected = evolve(before, version=before.version + 1, read_time=self.clock.now(), **fields)
        same(changed, expected, "a change writes the fields it names, and only those")
        same(self.read(), expected, "a change writes the fields it names, and only those")

    def test_a_lease_is_seconds_from_now_and_none_gives_it_up(self) -> None:
        job = self.store.create(draft(lessee="a", lease=5))
        self.clock.advance(2)
        renewed = self.store.change("job", Expect(version=job.version), Changes(lease=5))
        until = self.clock.now() + timedelta(seconds=5)
        kept(renewed is not None and renewed.lease_until == until, "a lease is renewed from the store's now")
        same(self.read().lessee, "a", "a renewed lease stays its lessee's")
        given_up = self.store.change("job", Expect(), Changes(lessee=None, lease=None))
        kept(given_up is not None and given_up.lease_until is None, "a lease of None gives it up")

    @pytest.mark.parametrize("seconds", [0, 0.25, 3600])
    def test_a_due_time_moves_with_its_deadline(self, seconds: float) -> None:
        self.store.create(draft(due=50))
        self.clock.advance(10)
        due = self.clock.now() + timedelta(seconds=seconds)
        for value in (seconds, due):
            job = self.store.change("job", Expect(), Changes(due=value, delivery_timeout=30))
            found = None if job is None else (job.start_time, job.deliver_by)
            same(found, (due, due + timedelta(seconds=30)), "due moves start_time, and deliver_by behind it")

    def test_only_a_sign_of_life_stamps_the_updated_time(self) -> None:
        job = self.running()
        self.clock.advance(3)
        self.store.change("job", Expect(), Changes(progress=5))
        same(self.read().updated_time, job.updated_time, "a change that is no sign of life does not stamp updated_time")
        self.store.change("job", Expect(), Changes(alive=True))
        same(self.read().updated_time, self.clock.now(), "alive stamps updated_time with the store's now")

    def test_sealed_credentials_can_be_erased_before_the_end(self) -> None:
        before = self.store.create(evolve(FULL, id="job"))
        changed = self.store.change("job", Expect(), Changes(erase_sealed=True))
        same(changed, self.read(), "what change returned is what stands")
        same(self.read().sealed, None, "erase_sealed erases the sealed credentials")
        same(self.read().request, before.request, "erase_sealed erases nothing else")

    @pytest.mark.parametrize("end", [completed("done", {"n": [1]}), failed("broken"), cancellation()])
    def test_the_end_erases_what_is_secret_and_gives_up_lease_and_key(self, end: End) -> None:
        before = self.store.create(evolve(FULL, id="job"), "key")
        self.clock.advance(4)
        changed = self.store.change("job", Expect(), ended(end))
        job = self.read()
        same(changed, job, "what change returned is what stands")
        same(
            (job.request, job.caller, job.sealed), (None, None, None), "the end erases request, caller and credentials"
        )
        same((job.lessee, job.lease_until, job.merge_key), (None, None, None), "the end gives up lease and merge key")
        same(job.end_time, self.clock.now(), "the end stamps end_time with the store's now")
        same(
            (job.owner, job.scope, job.depth, job.start_time, job.created_time),
            (before.owner, before.scope, before.depth, before.start_time, before.created_time),
            "the end keeps everything else",
        )

    @pytest.mark.parametrize(
        "result",
        [
            0,
            False,
            "",
            [],
            {},
            -1.5,
            10**18,
            "ß\u2028😀\x00",
            {"href": "/export.csv", "rows": [1, {"a": None}, [True, "x"]], "": 0},
        ],
    )
    def test_a_result_comes_back_as_json_would_give_it(self, result: JsonValue) -> None:
        self.running()
        self.store.change("job", Expect(), Changes(result=result))
        same(self.read().result, result, "a result comes back equal")
        same(type(self.read().result), type(result), "a result comes back as the same JSON type")
        self.store.change("job", Expect(), Changes(result=None))
        same(self.read().result, None, "a result of None takes the result away; UNSET leaves it")

    def test_a_result_is_the_stores_own_copy(self) -> None:
        self.running()
        rows = [1]
        self.store.change("job", Expect(), Changes(result={"rows": rows}))
        rows.append(2)
        same(self.read().result, {"rows": [1]}, "what the caller does to a value later is not stored")

    @pytest.mark.parametrize(
        ("report", "progress"),
        [
            (Report(), 40),
            (Report(progress=70), 70),
            (Report(progress=0), 0),
            (Report(progress=130), 100),
            (Report(progress=-5), 0),
            (Report(increment=7), 47),
            (Report(increment=-7), 33),
            (Report(increment=61), 100),
            (Report(increment=-41), 0),
            (Report(progress=10, increment=5), 15),
            (Report(progress=98, increment=5), 100),
        ],
    )
    def test_a_report_sets_or_raises_the_progress_within_0_and_100(self, report: Report, progress: int) -> None:
        self.running()
        self.store.report("job", "token", Report(progress=40))
        before = self.read()
        self.clock.advance(1)
        now = self.clock.now()
        expected = evolve(before, progress=progress, updated_time=now, read_time=now, version=before.version + 1)
        same(self.store.report("job", "token", report), True, "a report that is written returns True")
        same(self.read(), expected, "a report sets or raises the progress, and is a sign of life")

    def test_a_report_writes_all_of_itself_at_once(self) -> None:
        job = self.running()
        report = Report(progress=10, increment=2, text="half ß way", output="out €", truncated=True)
        expected = evolve(
            job,
            progress=12,
            status_text="half ß way",
            output_size=7,
            output_truncated=True,
            version=job.version + 1,
        )
        kept(self.store.report("job", "token", report), "a report that is written returns True")
        same(self.read(), expected, "a report writes all that it says in one step")
        same(self.store.output("job"), Output("out €", 7, truncated=True), "a report's output is there when it returns")
        self.store.report("job", "token", Report(text=""))
        expected = evolve(expected, status_text="", version=job.version + 2)
        same(self.read(), expected, "an empty text replaces; None leaves the text as it is")

    def test_a_report_without_the_token_changes_nothing(self) -> None:
        job = self.running()
        for token in ("other", "", "TOKEN"):
            same(
                self.store.report("job", token, Report(progress=9, output="x")),
                False,
                "a report is fenced by the token",
            )
        same(self.read(), job, "a refused report changes nothing")
        same(self.store.output("job"), Output("", 0), "a refused report appends nothing")

    def test_a_report_before_the_claim_or_after_the_end_changes_nothing(self) -> None:
        started = self.store.create(draft("early"))
        same(self.store.report("early", "token", Report(output="x")), False, "a STARTED job takes no report")
        same(self.read("early"), started, "a refused report changes nothing")
        for end in (completed(), failed("x"), cancellation()):
            job = self.ended(f"late {end.status}", end)
            same(self.store.report(job.id, "token", Report(output="x")), False, "an ended job takes no report")
            same(self.read(job.id), job, "an ended job stays as it ended")
            same(self.store.output(job.id), Output("", 0), "an ended job's output does not grow")

    def test_the_token_of_an_earlier_attempt_is_refused(self) -> None:
        self.running(token="first")
        self.store.change("job", Expect(token="first"), Changes(status=Status.STARTED, attempt=2))
        same(
            self.store.report("job", "first", Report(progress=9)), False, "a job that is STARTED again takes no report"
        )
        self.store.change("job", *claimed("second"))
        same(self.store.report("job", "first", Report(progress=9)), False, "an earlier attempt's token is void")
        kept(self.store.report("job", "second", Report(progress=9)), "the newest attempt's token is valid")

    def test_a_beat_is_a_sign_of_life_of_many_jobs(self) -> None:
        before = [self.running(name, token=f"token {name}") for name in ("a", "b", "c")]
        self.clock.advance(5)
        self.store.beat({job.id: f"token {job.id}" for job in before})
        now = self.clock.now()
        for job in before:
            expected = evolve(job, updated_time=now, read_time=now, version=job.version + 1)
            same(self.read(job.id), expected, "a beat stamps updated_time, and counts as a write")

    def test_a_beat_without_the_token_changes_nothing(self) -> None:
        running, started, over = self.running("running"), self.store.create(draft("started")), self.ended("over")
        self.clock.advance(5)
        self.store.beat({"running": "stale", "started": "token", "over": "token", "nobody": "token"})
        self.store.beat({})
        for job in (running, started, over):
            same(unread(self.read(job.id)), unread(job), "a beat is fenced by the token, and only for running jobs")

    def test_any_sign_of_life_makes_an_older_reading_void(self) -> None:
        job = self.running(error_timeout=10)
        signs: tuple[Callable[[], object], ...] = (
            lambda: self.store.beat({"job": "token"}),
            lambda: self.store.report("job", "token", Report()),
            lambda: self.store.report("job", "token", Report(output="x")),
            lambda: self.store.change("job", Expect(token="token"), Changes(alive=True)),
        )
        for sign in signs:
            seen = self.read()
            sign()
            late = self.store.change("job", Expect(version=seen.version), ended(failed("job timeout")))
            same(late, None, "every write raises the version: who read before it can't end the job any more")
        same(self.read().version, job.version + 4, "every write raises the version by one")
