"""More jobs than places: they end at the pace of the jobs, to the last one, in one process and in several."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.killing import HerdKind, herd
from tests.places.timing import bare_rate, by_process, environment, most_at_once, rate, runs_of, wait_for
from tests.scenarios.servers import gunicorn, python_server

JOBS = 700
SECONDS = 0.1
BARE = 150
PATIENCE = 200.0  # s
LAST = 200
SHARE = 0.8

pytestmark = [pytest.mark.timeout(400)]

# The server, its processes, and the places of each.
SETUPS = [
    pytest.param(HerdKind("waitress", python_server("waitress"), is_single=True), 1, 3, marks=pytest.mark.slow),
    pytest.param(HerdKind("gunicorn 1x6", gunicorn("--workers=1", "--threads=6")), 1, 3, marks=pytest.mark.nightly),
    pytest.param(HerdKind("gunicorn 2x4", gunicorn("--workers=2", "--threads=4")), 2, 2, marks=pytest.mark.nightly),
    pytest.param(HerdKind("gunicorn 3x4", gunicorn("--workers=3", "--threads=4")), 3, 1, marks=pytest.mark.nightly),
    pytest.param(HerdKind("gunicorn 4x4", gunicorn("--workers=4", "--threads=4")), 4, 1, marks=pytest.mark.nightly),
]


@pytest.mark.parametrize(("kind", "processes", "places"), SETUPS, ids=str)
def test_a_backlog_ends_at_the_pace_of_the_jobs(kind: HerdKind, processes: int, places: int, tmp_path: Path) -> None:
    at_once = processes * places
    settings = environment(f"sqlite:///{tmp_path}/jobs.db?busy_timeout=60", tmp_path, max_running=places)
    with herd(kind, "tests.places.places_app", tmp_path, settings) as server:
        bare_rate(server, 0, 2 * processes, 40)  # every process knows the address
        before = bare_rate(server, SECONDS, at_once, BARE)
        assert server.client.get(f"/start?count={JOBS}&s={SECONDS}", timeout=120).status == 200

        def ended() -> int:
            return sum(run.end is not None for run in runs_of(tmp_path))

        wait_for(server, lambda: ended() == JOBS, PATIENCE, ended)
        after = bare_rate(server, SECONDS, at_once, BARE)
    runs = runs_of(tmp_path)
    ideal = min(before, after)
    share, last = rate(runs) / ideal, rate(runs[-LAST:]) / ideal
    print(f"{kind}: {rate(runs):.1f}/s of {before:.1f}/s before and {after:.1f}/s after: {share:.2f}; last: {last:.2f}")
    assert len({run.job for run in runs}) == JOBS
    assert len(by_process(runs)) == processes
    assert most_at_once(runs) <= at_once
    assert share >= SHARE
    assert last >= SHARE
