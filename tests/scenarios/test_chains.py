"""The limits of chains of jobs that start jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backjob import Status
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import Site, result_of, serving


@pytest.mark.parametrize("server", ["wsgiref", pytest.param("gunicorn-sync-2", marks=pytest.mark.slow)])
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


@pytest.mark.slow
@pytest.mark.parametrize("server", ["gunicorn-sync", "gunicorn-sync-2"])
def test_a_job_that_starts_two_of_itself_ends_at_the_limit_of_all_its_jobs(tmp_path: Path, server: str) -> None:
    kind = KINDS[server]
    with serving(kind, "plain_app:app", tmp_path, BACKJOB_MAX_CHAIN="40") as site:
        site.start("/work/split")
        states = [site.end(job_id) for job_id in _all_jobs(site)]
        # Workers that start jobs at the same moment may exceed it by one job each.
        assert 40 <= len(states) < 40 + kind.workers
        failed = [state.status_text for state in states if state.status is Status.FAILED]
        assert failed
        assert all("TooManyJobs: the first job of this chain has led to 40 jobs" in text for text in failed)
        assert site.run("/work/none").status is Status.COMPLETED


def _all_jobs(site: Site) -> Iterator[str]:
    """Yield each job once, and go on as long as there are more: a job has started its jobs when it has ended."""
    known: set[str] = set()
    while new := {state.id for state in site.jobs.find(limit=1000)} - known:
        known |= new
        yield from new
