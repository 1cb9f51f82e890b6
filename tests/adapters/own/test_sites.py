"""Sites of frameworks without an adapter of ours: what the scenarios do not cover."""

from __future__ import annotations

from pathlib import Path

import pytest

from backjob import Status
from tests.scenarios.client import Gate
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import serving


@pytest.mark.nightly
@pytest.mark.parametrize(("app", "kind"), [("pyramid_app", "waitress"), ("aiohttp_app", "aiohttp")])
def test_actions_are_retried_and_survive_lost_connections(tmp_path: Path, app: str, kind: str) -> None:
    with serving(KINDS[kind], f"{app}:app", tmp_path) as site, Gate() as gate:
        state = site.run("/work/flaky", as_owner=True, retries=1, retry_delay=0, visitor={"Cookie": "user=ann"})
        assert (state.status, state.attempt, state.owner) == (Status.COMPLETED, 2, "ann")
        assert [run["reason"] for run in state.history] == ["ValueError: the first attempt"]
        job_id, action = site.disconnected("/work/hold", gate)
        assert action.release() == "returned"
        assert site.end(job_id).status is Status.COMPLETED
