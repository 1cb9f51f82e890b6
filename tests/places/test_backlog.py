"""More jobs than places: they end at the pace of the jobs, to the last one, in one process and in several."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.killing import HerdKind, herd
from tests.places.timing import bare_rate, by_process, environment, most_at_once, rate, runs_of, wait_for
from tests.scenarios.servers import gunicorn, python_server

JOBS = 700
SECONDS = 0.1
BARE = 60
PATIENCE = 200.0  # s
LAST = 100


def _gunicorn(workers: int, threads: int) -> HerdKind:
    return HerdKind(f"gunicorn {workers}x{threads}", gunicorn(f"--workers={workers}", f"--threads={threads}"))


pytestmark = [pytest.mark.timeout(400)]

WAITRESS = HerdKind("waitress", python_server("waitress"), is_single=True)

# The server, its processes, the places of each, the jobs, and their pace: a share of the ideal. Machines that run the
# usual tests may be so busy that the work between two jobs takes long. With several processes at one address, chance
# decides which of them gets a request, so the more processes with few places there are, the more often one is refused.
SETUPS = [
    pytest.param(WAITRESS, 1, 3, 150, 0.6, marks=pytest.mark.slow, id="waitress-busy"),
    pytest.param(WAITRESS, 1, 3, JOBS, 0.8, marks=pytest.mark.nightly, id="waitress"),
    pytest.param(_gunicorn(1, 6), 1, 3, JOBS, 0.8, marks=pytest.mark.nightly, id="gunicorn 1x6"),
    pytest.param(_gunicorn(2, 4), 2, 2, JOBS, 0.8, marks=pytest.mark.nightly, id="gunicorn 2x4"),
    pytest.param(_gunicorn(3, 4), 3, 1, JOBS, 0.7, marks=pytest.mark.nightly, id="gunicorn 3x4"),
    pytest.param(_gunicorn(4, 4), 4, 1, JOBS, 0.5, marks=pytest.mark.nightly, id="gunicorn 4x4"),
]


@pytest.mark.parametrize(("kind", "processes", "places", "jobs", "share_of_ideal"), SETUPS)
def test_a_backlog_ends_at_the_pace_of_the_jobs(
    *, kind: HerdKind, processes: int, places: int, jobs: int, share_of_ideal: float, tmp_path: Path
) -> None:
    at_once = processes * places
    settings = environment(f"sqlite:///{tmp_path}/jobs.db?busy_timeout=60", tmp_path, max_running=places)
    with herd(kind, "tests.places.places_app", tmp_path, settings) as server:
        bare_rate(server, 0, 2 * processes, 40)  # every process knows the address
        before = bare_rate(server, SECONDS, at_once, BARE)
        assert server.client.get(f"/start?count={jobs}&s={SECONDS}", timeout=120).status == 200

        def ended() -> int:
            return sum(run.end is not None for run in runs_of(tmp_path))

        wait_for(server, lambda: ended() == jobs, PATIENCE, ended)
        after = bare_rate(server, SECONDS, at_once, BARE)
    runs = runs_of(tmp_path)
    ideal = min(before, after)
    share, last = rate(runs) / ideal, rate(runs[-LAST:]) / ideal
    print(f"{kind}: {rate(runs):.1f}/s of {before:.1f}/s before and {after:.1f}/s after: {share:.2f}; last: {last:.2f}")
    assert len({run.job for run in runs}) == jobs
    assert len(by_process(runs)) == processes
    assert most_at_once(runs) <= at_once
    assert share >= share_of_ideal
    assert last >= share_of_ideal
