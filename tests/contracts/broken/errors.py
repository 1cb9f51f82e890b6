"""Stores whose errors are the driver's, or show what a job contains."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from typing import Final

from backjob.errors import InvalidRequest, StoreUnavailable
from backjob.model import Changes, Draft, Expect, Job, Output, Query, Report
from backjob.stores.memory import MemoryStore
from backjob.stores.sqlite import SQLiteStore
from tests.contracts.broken.faults import breaks

PASSWORD: Final = "sw0rdfish"
OUTAGE: Final = "test_in_an_outage_every_call_raises_a_store_error_without_values"
SHOWN: Final = "no error shows a value of a job, a token or a password; that of"


@breaks(OUTAGE, "get raises StoreError in an outage; it raised OperationalError, so the driver's errors escape")
class LetsErrorsOfReadingOut(SQLiteStore):
    def get(self, job_id: str, *, body: bool = False) -> Job | None:
        with closing(sqlite3.connect(self._connections.path)):
            return super().get(job_id, body=body)


@breaks(OUTAGE, "count raises StoreError in an outage; it raised ValueError, so the driver's errors escape")
class LetsErrorsOfCountingOut(SQLiteStore):
    def count(self, query: Query) -> int:
        try:
            return super().count(query)
        except StoreUnavailable as error:
            raise ValueError("no connection") from error


@breaks(OUTAGE, "output raises StoreError in an outage; it returned Output")
class TakesAnOutageForNoOutput(SQLiteStore):
    def output(self, job_id: str, offset: int = 0, limit: int = 65536) -> Output:
        try:
            return super().output(job_id, offset, limit)
        except StoreUnavailable:
            return Output("", offset)


@breaks(OUTAGE, "beat raises StoreError in an outage; it returned frozenset")
class TakesAnOutageForStale(SQLiteStore):
    def beat(self, tokens: Mapping[str, str], lease: float, alive: frozenset[str]) -> frozenset[str]:
        try:
            return super().beat(tokens, lease, alive)
        except StoreUnavailable:
            return frozenset(tokens)


@breaks(OUTAGE, "purge raises StoreError in an outage that says what is wrong; its text was empty")
class SaysNothing(SQLiteStore):
    def purge(self, completed_age: float, ended_age: float, labels: frozenset[str] | None = None) -> int:
        try:
            return super().purge(completed_age, ended_age, labels)
        except StoreUnavailable:
            raise StoreUnavailable from None


@breaks(OUTAGE, f"{SHOWN} report")
class ShowsTheToken(SQLiteStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        try:
            return super().report(job_id, token, report)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error} (UPDATE … WHERE token = '{token}')") from error


@breaks(OUTAGE, f"{SHOWN} create")
class ShowsTheBody(SQLiteStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        try:
            return super().create(draft, merge_key)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{error} (parameters: {draft.request.body!r})") from error


@breaks(OUTAGE, f"{SHOWN} change")
class ShowsTheResultInTheCause(SQLiteStore):
    def change(self, job_id: str, expect: Expect, changes: Changes) -> Job | None:
        try:
            return super().change(job_id, expect, changes)
        except StoreUnavailable as error:
            error.__cause__ = ValueError(f"not sent: {changes.result}")
            raise


@breaks(OUTAGE, f"{SHOWN} find", secrets=(PASSWORD,))
class ShowsThePassword(SQLiteStore):
    def find(self, query: Query) -> list[Job]:
        try:
            return super().find(query)
        except StoreUnavailable as error:
            raise StoreUnavailable(f"no connection to db://me:{PASSWORD}@example.org/jobs") from error


@breaks(OUTAGE, "the store works again after an outage; what failed meanwhile changed nothing")
class GivesUpAfterAnOutage(SQLiteStore):
    def report(self, job_id: str, token: str, report: Report) -> bool:
        try:
            return not self._gave_up and super().report(job_id, token, report)
        except StoreUnavailable:
            self._gave_up = True
            raise

    _gave_up = False


@breaks("test_an_id_that_exists_is_refused_without_the_values_of_its_job", f"{SHOWN} create")
class ShowsTheRowThatExists(MemoryStore):
    def create(self, draft: Draft, merge_key: str | None = None) -> Job:
        try:
            return super().create(draft, merge_key)
        except InvalidRequest as error:
            raise InvalidRequest("id", f"{error.reason} ({draft.request.target})") from None
