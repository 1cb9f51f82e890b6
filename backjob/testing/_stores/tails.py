"""The promises about the tail of output: the end of what came after the output was cut."""

from __future__ import annotations

from functools import partial

import pytest

from backjob.lifecycle import completed, ended
from backjob.model import LONGEST_TAIL, Expect, Output, Report
from backjob.testing._stores.case import StoreCase, kept, same, whole_output


class TailCalls(StoreCase):
    """``Report.tail`` and ``Output.tail``."""

    racers = 8
    """Threads in each race."""

    def tail(self, text: str, output: str = "") -> bool:
        return self.store.report("job", "token", Report(tail=text, truncated=True, output=output))

    def test_the_tail_comes_with_the_chunk_that_reaches_the_end(self) -> None:
        self.running()
        self.store.report("job", "token", Report(output="ten bytes\n"))
        same(self.store.output("job"), Output("ten bytes\n", 10), "output that was not cut has no tail")
        kept(self.tail("and the end\n"), "a report that is written returns True")
        end = Output("ten bytes\n", 10, truncated=True, tail="and the end\n")
        same(self.store.output("job"), end, "a chunk that reaches the end has the tail")
        for offset, text in ((0, "ten "), (4, "byte"), (5, "ytes")):
            chunk = Output(text, offset + 4, truncated=True)
            same(self.store.output("job", offset, 4), chunk, "a chunk in the middle has no tail")
        for offset, text in ((6, "tes\n"), (9, "\n")):
            chunk = Output(text, 10, truncated=True, tail="and the end\n")
            same(self.store.output("job", offset, 4), chunk, "a chunk that reaches the end has the tail")
        for offset in (10, 11, 5000):
            chunk = Output("", offset, truncated=True, tail="and the end\n")
            same(self.store.output("job", offset), chunk, "an empty chunk at or past the end has the tail")

    def test_a_chunk_that_ends_before_the_last_character_has_no_tail(self) -> None:
        self.running()
        self.tail("the end", output="x" * 10 + "€")
        same(self.store.output("job", 0, 12), Output("x" * 10, 10, truncated=True), "a chunk in the middle has no tail")
        same(self.store.output("job", 0, 13).tail, "the end", "a chunk that reaches the end has the tail")

    def test_a_report_replaces_the_tail(self) -> None:
        before = self.running()
        for number, text in enumerate(("first", "a much longer second", "ß€😀", "", "last\r\n\x1b[0m")):
            kept(self.tail(text, output="."), "a report that is written returns True")
            same(self.store.output("job").tail, text, "a report replaces the tail")
            job = self.read()
            size, version = number + 1, before.version + number + 1
            same((job.output_size, job.version), (size, version), "output_size counts the output before the tail")
        self.store.report("job", "token", Report(progress=5, output="."))
        same(self.store.output("job").tail, "last\r\n\x1b[0m", "a report without a tail keeps it")
        same(whole_output(self.store, "job"), "......", "the tail is no part of the output")

    @pytest.mark.parametrize("size", [16_383, 16_384, 16_385, 65_535, 65_536])
    def test_a_tail_may_be_as_long_as_allowed(self, size: int) -> None:
        self.running()
        for text in ("x" * size, "x" * (size - 3) + "€", "y" * 5, "€" * (LONGEST_TAIL // 3), "z" * (size - 1)):
            self.tail(text)
            kept(self.store.output("job").tail == text, f"a tail of {LONGEST_TAIL} bytes or less comes back whole")

    def test_a_tail_without_output_and_a_large_output_with_a_tail(self) -> None:
        self.running()
        self.tail("alone")
        same(
            self.store.output("job"),
            Output("", 0, truncated=True, tail="alone"),
            "a job without output may have a tail",
        )
        text = "0123456789abcd€" * 10_000
        self.tail("the end", output=text)
        kept(whole_output(self.store, "job", 1000) == text, "the tail is no part of the output")
        same(
            self.store.output("job", len(text.encode()) - 3).tail,
            "the end",
            "a chunk that reaches the end has the tail",
        )

    def test_a_refused_report_leaves_the_tail(self) -> None:
        self.running()
        self.tail("mine")
        late = Report(tail="late", truncated=True)
        same(self.store.report("job", "other", late), False, "a report is fenced by the token")
        same(self.store.output("job").tail, "mine", "a refused report leaves the tail")
        self.store.change("job", Expect(token="token"), ended(completed()))  # noqa: S106 - no password
        same(self.tail("late"), False, "an ended job takes no report")
        same(self.store.output("job").tail, "mine", "the tail outlives the end")

    def test_the_tails_of_two_jobs_do_not_mix(self) -> None:
        for name in ("a", "b"):
            self.running(name, token=name)
            self.store.report(name, name, Report(tail=f"tail of {name}", truncated=True, output=name))
        for name in ("a", "b"):
            same(
                self.store.output(name),
                Output(name, 1, truncated=True, tail=f"tail of {name}"),
                "a job has its own tail",
            )
        self.store.delete("a")
        same(self.store.output("a"), Output("", 0), "a deleted job has no tail")
        same(self.store.output("b").tail, "tail of b", "a job has its own tail")

    def test_of_many_tails_one_stays_whole(self) -> None:
        self.running()
        tails = [f"{number}" * (20_000 + 100 * number) for number in range(self.racers)]
        written = self.at_once([partial(self.tail, tail) for tail in tails])
        same(written, [True] * self.racers, "a report that is written returns True")
        kept(self.store.output("job").tail in tails, "the tails of two reports do not mix")
