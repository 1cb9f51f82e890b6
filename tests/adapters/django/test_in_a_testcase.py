"""Jobs in Django's `TestCase`, whose transaction never commits, on each kind of database."""

from __future__ import annotations

import json
import unittest

import pytest
from django.test import TestCase

from backjob import Status
from backjob.django import jobs
from backjob.django.testing import immediate, recorded


class _InATestCase(TestCase):
    __test__ = False  # not for pytest, which would set up its class before the database

    def _post(self, path: str) -> str:
        body = json.dumps({"path": path})
        return str(self.client.post("/start-within", body, content_type="application/json").json()["id"])

    def test_a_job_runs_when_callbacks_are_captured(self) -> None:
        with immediate():
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                job_id = self._post("see")
                assert jobs.status(job_id).status == Status.STARTED
            assert len(callbacks) == 1
            state = jobs.status(job_id)
        assert state.status == Status.COMPLETED
        assert jobs.output(job_id).text == "<script>alert(1)</script>\n"

    def test_a_job_that_reports_within_a_transaction_runs(self) -> None:
        with immediate(), self.captureOnCommitCallbacks(execute=True):
            job_id = self._post("report-within")
        state = jobs.status(job_id)
        assert (state.status, state.progress, state.status_text) == (Status.COMPLETED, 100, "within")

    def test_recorded_jobs_are_rolled_back_between_tests(self) -> None:
        with recorded() as noted, self.captureOnCommitCallbacks(execute=True):
            job_id = self._post("see")
        assert [job.job_id for job in noted] == [job_id]
        assert [state.id for state in jobs.find()] == [job_id]


@pytest.mark.usefixtures("any_database")
def test_in_a_testcase() -> None:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(_InATestCase).run(result)
    assert (result.testsRun, [text for _, text in (*result.errors, *result.failures)]) == (3, [])
