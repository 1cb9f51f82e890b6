"""The promises about ``report_all``, an optional method: see `backjob.protocols.ReportsTogether`."""

# ruff: noqa: S106 - a token is no password

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

import pytest
from attrs import evolve

from backjob.model import Output, Report
from backjob.protocols import report_all_of
from backjob.testing._stores.case import StoreCase, draft, same, whole_output

_ReportAll: TypeAlias = Callable[[Sequence[tuple[str, str, Report]]], Sequence[bool]]

_MOST: Final = 100
"""The most reports that backjob writes in one call."""
_EACH: Final = (
    Report(),
    Report(progress=0, text=""),
    Report(progress=70, text="half ß way", output="out €\n"),
    Report(cursor={"page": [1, "ß"]}),
    Report(cursor=None, output="x"),
    Report(output="0123456789abcd€" * 10_000),
    Report(output="y", truncated=True),
    Report(truncated=True, tail="short"),
    Report(progress=99, text="t", output="z", truncated=True, cursor=0, tail=""),
)
_BEFORE: Final = Report(progress=40, text="t", output="before\n", truncated=True, cursor="before", tail="a longer tail")


class ReportAllCalls(StoreCase):
    """``report_all``, if the store has it."""

    def report_all(self) -> _ReportAll:
        """The method of the store. Skips the test if the store lacks it."""
        found = report_all_of(self.store)
        if found is None:
            pytest.skip("the store has no report_all")
        return found

    def test_report_all_answers_for_each_report_in_order(self) -> None:
        report_all = self.report_all()
        for number in range(_MOST):
            self.running(f"{number}")
        expected = [number % 7 not in (0, 3) for number in range(_MOST)]
        reports = [
            (f"{number}", "token" if is_current else "stale", Report(progress=number))
            for number, is_current in enumerate(expected)
        ][::-1]
        same(report_all(reports), expected[::-1], "report_all returns for each report, in order, what report returns")
        written = [self.read(f"{number}").progress == number for number in range(1, _MOST)]
        same(written, expected[1:], "report_all writes the reports for which it returns True, and no other")

    def test_report_all_writes_each_report_as_report_does(self) -> None:
        report_all = self.report_all()
        names = [f"{number}" for number in range(len(_EACH))]
        for name in [*names, *[f"{name} alone" for name in names]]:
            self.running(name, retries=9)
            self.store.report(name, "token", _BEFORE)
            self.requeued(name)
            same(self.claimed(name, run=2).attempt, 2, "a retry is the next attempt")
        self.clock.advance(1)
        reports = [(name, "token", report) for name, report in zip(names, _EACH, strict=True)]
        same(report_all(reports), [True] * len(_EACH), "a report that is written returns True")
        for name, report in zip(names, _EACH, strict=True):
            alone = f"{name} alone"
            self.store.report(alone, "token", report)
            promise = "report_all writes each report as report does"
            same(self.read(name), evolve(self.read(alone), id=name), promise)
            size = self.read(name).output_size
            same(self.store.output(name, size), self.store.output(alone, size), promise)
            same(whole_output(self.store, name), f"before\n{report.output}", promise)

    def test_a_job_that_takes_no_report_does_not_disturb_the_others(self) -> None:
        report_all = self.report_all()
        report = Report(progress=9, text="t", output="x", truncated=True, tail="end", cursor=1)
        self.ended("ended")
        self.store.create(draft("waiting"))
        self.running("stale", token="newer")
        self.running("requeued")
        self.requeued("requeued")
        refusing = ("ended", "waiting", "stale", "requeued")
        before = [self.read(name) for name in refusing]
        names = ["first", *refusing, "unknown", "last"]
        self.running("first")
        self.running("last")
        same(
            report_all([(name, "token", report) for name in names]),
            [name in ("first", "last") for name in names],
            "report_all returns False for a job that does not run with the token, and True for the others",
        )
        same([self.read(name) for name in refusing], before, "a refused report changes nothing")
        for name in (*refusing, "unknown"):
            same(self.store.output(name), Output("", 0), "a refused report appends nothing")
        for name in ("first", "last"):
            expected = Output("x", 1, truncated=True, tail="end")
            same(self.store.output(name), expected, "a refused report does not disturb the others")
        same(self.store.get("unknown"), None, "a report creates no job")

    def test_output_stays_in_order_between_report_and_report_all(self) -> None:
        report_all = self.report_all()
        for name in ("a", "b"):
            self.running(name)
        for number in range(5):
            report_all([(name, "token", Report(output=f"{name}{number} together\n")) for name in ("a", "b")])
            self.store.report("a", "token", Report(output=f"a{number} alone\n"))
        a = "".join([f"a{number} together\na{number} alone\n" for number in range(5)])
        same(whole_output(self.store, "a"), a, "output is what report and report_all wrote, in order")
        b = "".join([f"b{number} together\n" for number in range(5)])
        same(whole_output(self.store, "b"), b, "a job has only its own output")

    def test_report_all_writes_nothing_if_it_raises_an_error(self) -> None:
        report_all = self.report_all()
        names = ("first", "second", "last")
        before = [self.running(name) for name in names]
        refused = Report(text="x", output="x")
        object.__setattr__(refused, "text", "\ud800")  # a lone surrogate, which few stores can keep
        reports = [Report(output="x", progress=9), refused, Report(output="x", progress=9)]
        try:
            report_all([(name, "token", report) for name, report in zip(names, reports, strict=True)])
        except AssertionError as broken:
            if broken.__cause__ is None:  # not an error of the store
                raise
        else:
            pytest.skip("the store keeps a text that is not valid Unicode")
        same([self.read(name) for name in names], before, "report_all writes all reports or, if it raises, none")
        for name in names:
            same(self.store.output(name), Output("", 0), "report_all writes all reports or, if it raises, none")

    def test_report_all_of_no_reports_returns_an_empty_list(self) -> None:
        report_all = self.report_all()
        job = self.running()
        same(report_all([]), [], "report_all of no reports returns an empty list")
        same(self.read(), job, "report_all of no reports changes nothing")
