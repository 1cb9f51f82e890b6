"""Jobs within Django's own `TestCase`, whose transaction never commits."""

from __future__ import annotations

import json

import pytest
from django.test import TestCase

from backjob import Status
from backjob.django import jobs
from backjob.django.testing import immediate


@pytest.mark.usefixtures("sqlite")
class InATestCase(TestCase):
    def test_a_job_runs_when_callbacks_are_captured(self) -> None:
        with immediate():
            with self.captureOnCommitCallbacks(execute=True) as callbacks:
                body = json.dumps({"path": "see"})
                job_id = self.client.post("/start-within", body, content_type="application/json").json()["id"]
                assert jobs.status(job_id).status == Status.STARTED
            assert len(callbacks) == 1
            state = jobs.status(job_id)
        assert state.status == Status.COMPLETED
        assert jobs.output(job_id).text == "<script>alert(1)</script>\n"
