"""Jobs that block all threads of an event loop's own executor delay no status page, no claim, no end and no cancelling."""

from __future__ import annotations

from pathlib import Path

import pytest

from backjob import Status
from tests.scenarios.client import Gate
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import serving


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "app"),
    [
        ("uvicorn-h11", "starlette_app"),
        ("hypercorn", "starlette_app"),
        ("uvicorn-httptools", "fastapi_app"),
    ],
)
def test_blocked_threads_delay_no_other_job(kind: str, app: str, tmp_path: Path) -> None:
    with serving(KINDS[kind], f"{app}:app", tmp_path) as site, Gate() as gate:
        blocking = site.started("/coroutine/block", {"gate": gate.port})
        held = gate.reached()
        assert site.page(blocking["url"]).json()["status_name"] == "IN_PROGRESS"
        # None of these may wait for the gate, which only this test opens.
        assert site.run("/coroutine/fail", {"text": "it ran"}).status_text == "it ran"
        other = site.started("/coroutine/fail", delay=3600)
        assert site.client.request("POST", f"{other['url']}/cancel", body=b"").json()["status_name"] == "CANCELLED"
        held.release()
        assert site.end(blocking["id"]).status is Status.COMPLETED
