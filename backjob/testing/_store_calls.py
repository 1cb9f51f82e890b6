"""The promises of each method of a store by itself."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
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
from backjob.testing._store_case import MICROSECOND, StoreCase, draft, kept, same, whole_output

__all__ = ["CreateCalls", "FindCalls", "OutputCalls", "TimeCalls", "WriteCalls"]

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


class OutputCalls(StoreCase):
    """``output``: bytes of UTF-8 from any offset, and never half a character."""

    TEXT = "aß€😀\n" * 3  # 1, 2, 3, 4 and 1 bytes

    def test_output_is_what_was_reported_in_order(self) -> None:
        self.running()
        for part in ("one\n", "", "two\r\n", "ß€", "😀", " end\n"):
            self.store.report("job", "token", Report(output=part))
        expected = "one\ntwo\r\nß€😀 end\n"
        same(self.store.output("job"), Output(expected, len(expected.encode())), "output is all that was reported")
        same(self.read().output_size, len(expected.encode()), "output_size counts bytes of UTF-8")

    @pytest.mark.parametrize("cuts", [(), (1,), (1, 3, 6, 10), (4, 5), tuple(range(1, 15))])
    def test_every_offset_and_limit_gives_whole_characters(self, cuts: tuple[int, ...]) -> None:
        self.running()
        bounds = (0, *[cut for cut in cuts if cut < len(self.TEXT)], len(self.TEXT))
        for begin, end in pairwise(bounds):
            self.store.report("job", "token", Report(output=self.TEXT[begin:end]))
        data = self.TEXT.encode()
        for offset in range(len(data) + 1):
            begin = offset
            while begin < len(data) and data[begin] & 0xC0 == 0x80:
                begin += 1
            for limit in range(4, 13):
                piece = self.store.output("job", offset, limit)
                where = f"(offset {offset}, limit {limit})"
                size = len(piece.text.encode())
                kept(size <= limit, f"a piece is no longer than its limit {where}")
                same(piece.next_offset, begin + size, f"next_offset is where the piece ends {where}")
                same(
                    piece.text.encode(),
                    data[begin : begin + size],
                    f"a piece begins at the next whole character {where}",
                )
                kept(size > limit - 4 or begin + size == len(data), f"a piece is as long as it can be {where}")

    @pytest.mark.parametrize("limit", [4, 5, 7, 1000, 65536])
    def test_pieces_join_to_the_whole(self, limit: int) -> None:
        self.running()
        line = "0123456789 äöü €uro 😀\n"
        for _ in range(40):
            self.store.report("job", "token", Report(output=line))
        same(whole_output(self.store, "job", limit), line * 40, "reading on from next_offset gives the whole output")

    def test_an_offset_at_or_past_the_end_gives_an_empty_piece_there(self) -> None:
        self.running()
        same(self.store.output("job", 0), Output("", 0), "a job that said nothing has no output")
        self.store.report("job", "token", Report(output="ten bytes\n"))
        for offset in (10, 11, 5000, 1 << 40):
            same(self.store.output("job", offset), Output("", offset), "a piece past the end is empty and ends there")

    def test_a_single_large_report_is_read_piece_by_piece(self) -> None:
        self.running()
        text = "0123456789abcd€" * 20000
        self.store.report("job", "token", Report(output=text))
        kept(self.store.output("job", 123456, 16).text in text, "a piece is found in the midst of a large report")
        kept(whole_output(self.store, "job") == text, "a large report comes back whole")

    def test_truncation_is_the_jobs_and_stays(self) -> None:
        self.running()
        self.store.report("job", "token", Report(output="some"))
        same(self.store.output("job").truncated, False, "output that was not cut is not marked")
        self.store.report("job", "token", Report(truncated=True))
        self.store.report("job", "token", Report(progress=1))
        kept(self.read().output_truncated, "the mark of truncated output stays")
        for offset in (0, 2, 4, 100):
            kept(self.store.output("job", offset).truncated, "every piece of truncated output is marked")

    def test_outputs_of_two_jobs_do_not_mix_and_outlive_the_end(self) -> None:
        for name in ("a", "b"):
            self.running(name, token=name)
        for number in range(5):
            for name in ("a", "b"):
                self.store.report(name, name, Report(output=f"{name}{number} "))
        self.store.change("a", Expect(token="a"), ended(completed()))
        same(whole_output(self.store, "a"), "a0 a1 a2 a3 a4 ", "a job's output is its own, after its end too")
        same(whole_output(self.store, "b"), "b0 b1 b2 b3 b4 ", "a job's output is its own")


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
        same(self.store.report(job_id, "token", Report(output="x")), None, "report to an unknown job returns None")
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
        same(self.store.report("job", "token", report), expected, "a report returns the job after it, stamped alive")
        same(self.read(), expected, "what report returned is what stands")

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
        same(self.store.report("job", "token", report), expected, "a report writes all that it says in one step")
        same(self.store.output("job"), Output("out €", 7, truncated=True), "a report's output is there when it returns")
        same(self.store.report("job", "token", Report(text="")), evolve(expected, status_text="", version=job.version + 2),
             "an empty text replaces; None leaves the text as it is")  # fmt: skip

    def test_a_report_without_the_token_changes_nothing(self) -> None:
        job = self.running()
        for token in ("other", "", "TOKEN"):
            same(
                self.store.report("job", token, Report(progress=9, output="x")), None, "a report is fenced by the token"
            )
        same(self.read(), job, "a refused report changes nothing")
        same(self.store.output("job"), Output("", 0), "a refused report appends nothing")

    def test_a_report_before_the_claim_or_after_the_end_changes_nothing(self) -> None:
        started = self.store.create(draft("early"))
        same(self.store.report("early", "token", Report(output="x")), None, "a STARTED job takes no report")
        same(self.read("early"), started, "a refused report changes nothing")
        for end in (completed(), failed("x"), cancellation()):
            job = self.ended(f"late {end.status}", end)
            same(self.store.report(job.id, "token", Report(output="x")), None, "an ended job takes no report")
            same(self.read(job.id), job, "an ended job stays as it ended")
            same(self.store.output(job.id), Output("", 0), "an ended job's output does not grow")

    def test_the_token_of_an_earlier_attempt_is_refused(self) -> None:
        self.running(token="first")
        self.store.change("job", Expect(token="first"), Changes(status=Status.STARTED, attempt=2))
        same(self.store.report("job", "first", Report(progress=9)), None, "a job that is STARTED again takes no report")
        self.store.change("job", *claimed("second"))
        same(self.store.report("job", "first", Report(progress=9)), None, "an earlier attempt's token is void")
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


class TimeCalls(StoreCase):
    """``take_due`` and ``purge``: what time decides, to the microsecond."""

    def taken(self, limit: int = 10, lessee: str = "me", lease: float = 5) -> list[str]:
        return [job.id for job in self.store.take_due(lessee, lease, limit)]

    def test_a_job_is_taken_when_it_is_due_and_not_before(self) -> None:
        self.store.create(draft(due=10))
        self.clock.advance(10 - MICROSECOND)
        same(self.taken(), [], "a job is not taken a microsecond before it is due")
        self.clock.advance(MICROSECOND)
        same(self.taken(), ["job"], "a job is taken at the very moment it is due")

    def test_a_taken_job_is_leased(self) -> None:
        before = self.store.create(draft())
        self.clock.advance(1)
        taken = self.store.take_due("me", 5.5, 10)
        now = self.clock.now()
        expected = evolve(
            before, lessee="me", lease_until=now + timedelta(seconds=5.5), read_time=now, version=before.version + 1
        )
        same(taken, [expected], "take_due returns the job with its lease, its version one higher")
        same(self.read(), expected, "what take_due returned is what stands")

    def test_a_lease_is_over_at_its_exact_end(self) -> None:
        self.store.create(draft(lessee="first", lease=5))
        self.clock.advance(5 - MICROSECOND)
        same(self.taken(lease=7), [], "nobody takes a job a microsecond before its lease ends, its lessee neither")
        self.clock.advance(MICROSECOND)
        same(self.taken(lease=7), ["job"], "a lease is over at its exact end")
        self.clock.advance(7 - MICROSECOND)
        same(self.taken(), [], "a taken job is leased as long as was asked for")
        self.clock.advance(MICROSECOND)
        same(self.taken(), ["job"], "a taken job's lease is over at its exact end")

    def test_a_lease_given_up_frees_the_job_at_once(self) -> None:
        self.store.create(draft(lessee="first", lease=500))
        self.store.change("job", Expect(), Changes(lessee=None, lease=None))
        same(self.taken(), ["job"], "a job whose lease was given up can be taken")

    def test_only_started_jobs_are_taken(self) -> None:
        self.running("running")
        for end in (completed(), failed("x"), cancellation()):
            self.ended(end.status.name, end)
        self.clock.advance(10000)
        same(self.taken(), [], "only STARTED jobs are taken")
        self.store.change("running", Expect(), Changes(status=Status.STARTED, attempt=2))
        same(self.taken(), ["running"], "a job that is STARTED again is taken again")

    def test_the_longest_due_come_first_and_no_more_than_asked_for(self) -> None:
        for job_id, due in (("c", 3), ("a", 1), ("e", 5), ("b", 2), ("d", 4), ("later", 100)):
            self.store.create(draft(job_id, due=due))
        self.clock.advance(10)
        same(self.taken(limit=2), ["a", "b"], "the longest due are taken first, no more than the limit")
        same(self.taken(limit=0), [], "a limit of 0 takes nothing")
        same(self.taken(limit=10), ["c", "d", "e"], "the longest due are taken first")

    def test_jobs_due_at_once_are_taken_in_the_order_of_their_creation(self) -> None:
        names = [f"{number * 7 % 10}" for number in range(10)]
        for name in names:
            self.store.create(draft(name))
        same(self.taken(), names, "among those due at once, the first created comes first")

    def test_a_job_past_its_deadline_is_still_handed_out(self) -> None:
        self.store.create(draft(delivery_timeout=1))
        self.clock.advance(100)
        same(self.taken(), ["job"], "whether it is too late is not the store's to decide")

    def purged(self, completed_age: float, ended_age: float) -> list[str]:
        before = {job.id for job in self.store.find(Query(limit=100))}
        count = self.store.purge(completed_age, ended_age)
        gone = before - {job.id for job in self.store.find(Query(limit=100))}
        same(count, len(gone), "purge returns how many it removed")
        return sorted(gone)

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
    def test_purge_removes_what_ended_longer_ago_than_its_age(self, ages: tuple[float, float], gone: list[str]) -> None:
        self.of_every_kind()
        self.clock.advance(10)
        same(self.purged(*ages), [], "a job that ended exactly so long ago stays")
        self.clock.advance(MICROSECOND)
        same(self.purged(*ages), gone, "a job that ended a microsecond longer ago than its age is removed")
        same(self.purged(*ages), [], "what is gone is not counted again")

    def test_an_age_of_zero_keeps_for_ever(self) -> None:
        self.of_every_kind()
        self.clock.advance(10**9)
        same(self.purged(0, 0), [], "0 keeps for ever")
        same(self.purged(1, 0), ["completed"], "an age for COMPLETED jobs touches no others")
        same(self.purged(0, 1), ["cancelled", "failed"], "the age of ended jobs removes those with any final status")
        same(sorted(job.id for job in self.store.find(Query())), ["running", "started"], "living jobs are never purged")

    def test_a_purged_job_leaves_nothing_behind(self) -> None:
        self.running()
        self.store.report("job", "token", Report(output="old", truncated=True))
        self.store.change("job", Expect(), ended(completed("old", ["old"])))
        self.clock.advance(2)
        same(self.store.purge(1, 1), 1, "purge returns how many it removed")
        same(self.store.get("job"), None, "a purged job is gone")
        same(self.store.output("job"), Output("", 0), "a purged job's output is gone")
        self.running("job")
        same(self.store.output("job"), Output("", 0), "a new job under an old id begins anew")
        self.store.report("job", "token", Report(output="new"))
        same(self.store.output("job"), Output("new", 3), "a new job under an old id begins anew")

    def test_purge_removes_more_than_a_batch(self) -> None:
        many = 1201
        for number in range(many):
            self.store.create(draft(f"{number}"))
            self.store.change(f"{number}", *claimed("token"))
            if number % 100 == 0:
                self.store.report(f"{number}", "token", Report(output="some output\n"))
            self.store.change(f"{number}", Expect(), ended(completed()))
        self.running("alive")
        self.clock.advance(2)
        same(self.store.purge(1, 0), many, "purge removes all that is old, in however many batches")
        same([job.id for job in self.store.find(Query())], ["alive"], "purge removes nothing else")


class FindCalls(StoreCase):
    """``find``: filters, order, pages, and what is overdue."""

    def found(self, query: Query) -> list[str]:
        return [job.id for job in self.store.find(query)]

    def test_the_newest_come_first(self) -> None:
        names = [f"{number * 7 % 10}" for number in range(10)]
        for name in names:
            self.store.create(draft(name, due=int(name) % 5))
        self.store.change(names[3], *claimed("token"))
        same(self.found(Query()), names[::-1], "the newest come first, whatever became of them since")
        same(self.found(Query(limit=3)), names[:-4:-1], "no more than the limit are found")
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

    def test_a_silent_job_is_overdue_exactly_at_its_limit(self) -> None:
        self.running(error_timeout=10.000001)
        self.clock.advance(3)
        self.store.report("job", "token", Report())
        self.clock.advance(10)
        same(self.found(Query(overdue=True)), [], "a job is not overdue a microsecond before its time-out is over")
        self.clock.advance(MICROSECOND)
        same(self.found(Query(overdue=True)), ["job"], "a job is overdue exactly when its time-out is over")
        self.store.beat({"job": "token"})
        same(self.found(Query(overdue=True)), [], "a sign of life starts the time-out anew")

    def test_an_undelivered_job_is_overdue_exactly_at_its_deadline(self) -> None:
        self.store.create(draft(due=5, delivery_timeout=10, error_timeout=1, lessee="me", lease=1000))
        self.clock.advance(15 - MICROSECOND)
        same(self.found(Query(overdue=True)), [], "a STARTED job is not overdue a microsecond before deliver_by")
        self.clock.advance(MICROSECOND)
        same(self.found(Query(overdue=True)), ["job"], "a STARTED job is overdue exactly at deliver_by, leased or not")

    def test_overdue_goes_with_the_other_filters(self) -> None:
        self.store.create(draft("late", delivery_timeout=10, scope="a"))
        self.store.create(draft("waiting", due=100, delivery_timeout=10, scope="a"))
        self.running("silent", error_timeout=10, scope="a", owner="o")
        self.running("patient", error_timeout=1000, scope="a")
        self.ended("over", error_timeout=10, scope="a")
        self.clock.advance(50)
        for query, expected in (
            (Query(overdue=True), ["silent", "late"]),
            (Query(overdue=True, limit=1), ["silent"]),
            (Query(overdue=True, before="silent"), ["late"]),
            (Query(overdue=True, status=Status.STARTED), ["late"]),
            (Query(overdue=True, status=Status.IN_PROGRESS, scope="a"), ["silent"]),
            (Query(overdue=True, owner="o"), ["silent"]),
            (Query(overdue=True, scope="b"), []),
            (Query(overdue=True, status=Status.COMPLETED), []),
        ):
            same(self.found(query), expected, f"only living jobs past their own time-out are overdue ({query})")
