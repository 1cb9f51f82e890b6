"""The promises about ``report`` and ``output``."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from attrs import evolve

from backjob.lifecycle import cancelled as cancellation
from backjob.lifecycle import completed, ended, failed
from backjob.model import Changes, Expect, JsonValue, Output, Report
from backjob.testing._stores.case import StoreCase, draft, kept, refused, same, whole_output
from backjob.testing._stores.together import ReportAllCalls


class ReportCalls(ReportAllCalls):
    """``report``, and ``report_all`` if the store has it."""

    @pytest.mark.parametrize(
        ("report", "progress"),
        [
            (Report(), 40),
            (Report(progress=70), 70),
            (Report(progress=0), 0),
            (Report(progress=100), 100),
        ],
    )
    def test_a_report_sets_the_progress(self, report: Report, progress: int) -> None:
        self.running()
        self.store.report("job", "token", Report(progress=40))
        before = self.read()
        self.clock.advance(1)
        now = self.clock.now()
        expected = evolve(before, progress=progress, updated_time=now, read_time=now, version=before.version + 1)
        same(self.store.report("job", "token", report), True, "a report that is written returns True")
        same(self.read(), expected, "a report sets the progress and updated_time")

    def test_a_report_writes_all_of_its_fields_at_once(self) -> None:
        job = self.running()
        report = Report(progress=12, text="half ß way", output="out €", truncated=True)
        expected = evolve(
            job,
            progress=12,
            status_text="half ß way",
            output_size=7,
            output_truncated=True,
            version=job.version + 1,
        )
        kept(self.store.report("job", "token", report), "a report that is written returns True")
        same(self.read(), expected, "a report writes all of its fields in one step")
        same(
            self.store.output("job"),
            Output("out €", 7, truncated=True),
            "a report's output can be read when it returns",
        )
        self.store.report("job", "token", Report(text=""))
        expected = evolve(expected, status_text="", version=job.version + 2)
        same(self.read(), expected, "an empty text replaces the text; None keeps it")

    def test_a_report_with_another_token_changes_nothing(self) -> None:
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
            same(self.read(job.id), job, "an ended job does not change")
            same(self.store.output(job.id), Output("", 0), "an ended job's output does not grow")

    def test_the_token_of_an_earlier_run_is_refused(self) -> None:
        self.running(token="first")
        self.requeued()
        same(self.store.report("job", "first", Report(progress=9)), False, "a job that waits again takes no report")
        self.claimed(token="second", run=2)
        same(
            self.store.report("job", "first", Report(progress=9)),
            False,
            "the token of an earlier run is not accepted",
        )
        kept(self.store.report("job", "second", Report(progress=9)), "the token of the newest run is accepted")

    @pytest.mark.parametrize("cursor", [7, {"page": [1, "ß"]}, "", 0, False, [], None])
    def test_a_report_replaces_the_cursor_and_resets_the_attempts(self, cursor: JsonValue) -> None:
        self.running(retries=9)
        self.requeued()
        job = self.claimed(run=2)
        same(job.attempt, 2, "a retry is the next attempt")
        self.store.report("job", "token", Report(progress=5))
        same(self.read().attempt, 2, "a report without a cursor keeps the attempt")
        kept(self.store.report("job", "token", Report(cursor="before")), "a report that is written returns True")
        self.store.report("job", "token", Report(output="x"))
        same((self.read().cursor, self.read().attempt), ("before", 1), "a cursor stays, and sets attempt to 1")
        self.store.report("job", "token", Report(cursor=cursor, output="y"))
        found = self.read()
        same((found.cursor, found.attempt), (cursor, 1), "a report replaces the cursor, by None too")
        same(type(found.cursor), type(cursor), "a cursor keeps its JSON type")
        same(self.store.report("job", "other", Report(cursor="late")), False, "a report is fenced by the token")
        same(self.read(), found, "a refused report changes nothing")

    def test_a_cursor_may_be_long_and_is_the_stores_own_copy(self) -> None:
        self.running()
        rows: list[JsonValue] = ["ß€😀" * 7000]
        self.store.report("job", "token", Report(cursor=rows))
        rows.append(2)
        kept(self.read().cursor == rows[:1], "later changes to the caller's cursor are not stored")

    def test_any_report_invalidates_an_older_read(self) -> None:
        job = self.running(error_timeout=10)
        signs: tuple[Callable[[], object], ...] = (
            lambda: self.store.report("job", "token", Report()),
            lambda: self.store.report("job", "token", Report(output="x")),
            lambda: self.store.change("job", Expect(token="token"), Changes(alive=True)),
        )
        for sign in signs:
            seen = self.read()
            sign()
            late = self.store.change("job", Expect(version=seen.version), ended(failed("job timeout")))
            same(late, None, "every write raises the version, so that a change based on an older read fails")
        same(self.read().version, job.version + 3, "every write raises the version by one")


class OutputCalls(StoreCase):
    """``output``: UTF-8 from any byte offset, in whole characters."""

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
                chunk = self.store.output("job", offset, limit)
                where = f"(offset {offset}, limit {limit})"
                size = len(chunk.text.encode())
                kept(size <= limit, f"a chunk is no longer than its limit {where}")
                same(chunk.next_offset, begin + size, f"next_offset is where the chunk ends {where}")
                same(
                    chunk.text.encode(),
                    data[begin : begin + size],
                    f"a chunk begins at the next whole character {where}",
                )
                kept(size > limit - 4 or begin + size == len(data), f"a chunk is as long as the limit allows {where}")

    @pytest.mark.parametrize("limit", [4, 5, 7, 1000, 65536])
    def test_chunks_join_to_the_whole(self, limit: int) -> None:
        self.running()
        line = "0123456789 äöü €uro 😀\n"
        for _ in range(40):
            self.store.report("job", "token", Report(output=line))
        same(whole_output(self.store, "job", limit), line * 40, "reading from each next_offset gives the whole output")

    def test_an_offset_at_or_past_the_end_gives_an_empty_chunk(self) -> None:
        self.running()
        same(self.store.output("job", 0), Output("", 0), "a job without reports has no output")
        self.store.report("job", "token", Report(output="ten bytes\n"))
        for offset in (10, 11, 5000, 1 << 40):
            same(
                self.store.output("job", offset),
                Output("", offset),
                "a chunk past the end is empty and ends at its offset",
            )

    def test_a_large_report_is_read_in_chunks(self) -> None:
        self.running()
        text = "0123456789abcd€" * 20000
        self.store.report("job", "token", Report(output=text))
        kept(self.store.output("job", 123456, 16).text in text, "a chunk can begin in the middle of a large report")
        kept(whole_output(self.store, "job") == text, "a large report comes back whole")

    def test_truncation_applies_to_every_chunk_and_stays(self) -> None:
        self.running()
        self.store.report("job", "token", Report(output="some"))
        same(self.store.output("job").truncated, False, "complete output is not marked as truncated")
        self.store.report("job", "token", Report(truncated=True))
        self.store.report("job", "token", Report(progress=1))
        kept(self.read().output_truncated, "output stays marked as truncated")
        for offset in (0, 2, 4, 100):
            kept(self.store.output("job", offset).truncated, "every chunk of truncated output is marked")

    def test_outputs_of_two_jobs_do_not_mix_and_survive_the_end(self) -> None:
        for name in ("a", "b"):
            self.running(name, token=name)
        for number in range(5):
            for name in ("a", "b"):
                self.store.report(name, name, Report(output=f"{name}{number} "))
        self.store.change("a", Expect(token="a"), ended(completed()))
        same(whole_output(self.store, "a"), "a0 a1 a2 a3 a4 ", "a job keeps its own output after its end")
        same(whole_output(self.store, "b"), "b0 b1 b2 b3 b4 ", "a job has only its own output")

    @pytest.mark.parametrize("size", [16_383, 16_384, 16_385, 65_535, 65_536, 65_537])
    def test_a_report_as_long_as_a_limit_comes_back_whole(self, size: int) -> None:
        self.running()
        for text in ("x" * size, "€" + "x" * (size - 3), "x" * (size - 3) + "€"):
            begin = self.read().output_size
            self.store.report("job", "token", Report(output=text))
            chunk = self.store.output("job", begin, size)
            kept(chunk == Output(text, begin + size), f"a chunk may be as long as its limit ({size} bytes)")
            kept(
                self.store.output("job", begin, size - 1).next_offset < begin + size,
                "a chunk is no longer than its limit",
            )
            kept(whole_output(self.store, "job").endswith(text), "chunks of the default limit join to the whole output")

    @pytest.mark.parametrize("limit", [-1, 0, 3])
    def test_a_limit_shorter_than_a_character_is_refused(self, limit: int) -> None:
        self.running()
        refused(lambda: self.store.output("job", 0, limit), "a limit of less than 4 bytes is refused")

    def test_a_negative_offset_is_the_beginning(self) -> None:
        self.running()
        self.store.report("job", "token", Report(output="ten bytes\n"))
        same(self.store.output("job", -5), Output("ten bytes\n", 10), "an offset below 0 is 0")
