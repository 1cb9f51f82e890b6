"""The limit of chains of jobs that start jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from backjob import Status
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import result_of, serving


@pytest.mark.parametrize("server", ["wsgiref", "gunicorn-sync-2"])
def test_an_endless_chain_of_jobs_ends_at_the_limit_with_an_error(tmp_path: Path, server: str) -> None:
    with serving(KINDS[server], "plain_app:app", tmp_path) as site:
        state = site.end(site.start("/work/chain", {"left": 1000}))
        ends = [(state.status, site.runs(state.id))]
        while state.result is not None:
            state = site.end(result_of(state)["next"])
            ends.append((state.status, site.runs(state.id)))
        assert ends == [(Status.COMPLETED, 1)] * 32 + [(Status.FAILED, 1)]
        assert state.status_text.startswith("TooDeep: this job would be number 33 in a chain")
        assert len(site.jobs.find(limit=100)) == 33
        assert site.run("/work/none").status is Status.COMPLETED
