"""Stores that write the reports of several jobs otherwise than one by one, or answer wrongly."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap
from typing import Final, TypeAlias

from attrs import evolve

from backjob.model import UNSET, Report
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from tests.contracts.broken.faults import breaks

Reports: TypeAlias = Sequence[tuple[str, str, Report]]

AS_REPORT: Final = "test_report_all_writes_each_report_as_report_does"
EACH_AS_REPORT: Final = "report_all writes each report as report does"


class ReportsTogether(MemoryStore):
    def report_all(self, reports: Reports) -> list[bool]:
        return [self.report(job_id, token, self.altered(report)) for job_id, token, report in reports]

    def altered(self, report: Report) -> Report:
        return report


@breaks(
    "test_report_all_answers_for_each_report_in_order",
    "report_all returns for each report, in order, what report returns",
)
class AnswersInOrderOfIds(ReportsTogether):
    def report_all(self, reports: Reports) -> list[bool]:
        return super().report_all(sorted(reports, key=lambda each: each[0]))


@breaks(
    "test_report_all_answers_for_each_report_in_order",
    "report_all returns for each report, in order, what report returns",
)
@breaks(
    "test_report_all_of_no_reports_returns_an_empty_list",
    "the result of report_all must be list or tuple; it was None",
)
class AnswersForTheWrittenAlone(ReportsTogether):
    def report_all(self, reports: Reports) -> list[bool]:
        return [written for written in super().report_all(reports) if written] or None  # type: ignore[return-value]


@breaks(
    "test_a_job_that_takes_no_report_does_not_disturb_the_others",
    "report_all returns False for a job that does not run with the token, and True for the others",
)
class StopsAtTheFirstRefusal(ReportsTogether):
    def report_all(self, reports: Reports) -> list[bool]:
        written = True
        return [written := written and self.report(*each) for each in reports]


@breaks(AS_REPORT, EACH_AS_REPORT)
class ForgetsTheCursor(ReportsTogether):
    def altered(self, report: Report) -> Report:
        return evolve(report, cursor=UNSET)


@breaks(AS_REPORT, EACH_AS_REPORT)
class ForgetsTheTail(ReportsTogether):
    def altered(self, report: Report) -> Report:
        return evolve(report, tail=UNSET)


@breaks(AS_REPORT, EACH_AS_REPORT)
class KeepsOneChunk(ReportsTogether):
    def altered(self, report: Report) -> Report:
        return evolve(report, output=report.output[:65_536])


@breaks(
    "test_output_stays_in_order_between_report_and_report_all",
    "output is what report and report_all wrote, in order",
)
class PutsOutputFirst(ReportsTogether):
    def report_all(self, reports: Reports) -> list[bool]:
        before = {job_id: self._outputs.pop(job_id, bytearray()) for job_id, _, _ in reports}
        written = super().report_all(reports)
        for job_id, output in before.items():
            self._outputs.setdefault(job_id, bytearray()).extend(output)
        return written


@breaks(
    "test_report_all_writes_nothing_if_it_raises_an_error",
    "report_all writes all reports or, if it raises, none",
)
class WritesEachAlone(SQLiteStore):
    def report_all(self, reports: Reports) -> list[bool]:
        return list(starmap(self.report, reports))
