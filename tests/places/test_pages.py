"""Jobs leave the server's threads to pages, with the default settings; thousands of starts in one request harm nothing."""

from __future__ import annotations

import math
import time
from pathlib import Path
from statistics import median

import pytest

from tests.faults.killing import Herd, HerdKind, herd
from tests.places.timing import by_process, environment, most_at_once, runs_of, wait_for
from tests.scenarios.client import WAIT
from tests.scenarios.servers import gunicorn, python_server

JOBS = 8
SECONDS = 5.0
PAGES = 60
SLOWER = 5.0
STARTS = 5000

pytestmark = [pytest.mark.timeout(300)]

WAITRESS = HerdKind("waitress", python_server("waitress"), is_single=True)
SERVERS = [
    pytest.param(WAITRESS, marks=pytest.mark.slow),
    pytest.param(HerdKind("gunicorn 1x4", gunicorn("--workers=1", "--threads=4")), marks=pytest.mark.slow),
]


def page_times(*servers: Herd) -> list[list[float]]:
    """How long some pages of each server take: one after the other, of each server in turn."""
    times: list[list[float]] = [[] for _ in servers]
    for _ in range(PAGES):
        for server, taken in zip(servers, times, strict=True):
            began = time.monotonic()
            assert server.client.get("/page").status == 200
            taken.append(time.monotonic() - began)
    return [sorted(taken) for taken in times]


@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_pages_answer_while_jobs_wait_for_places(kind: HerdKind, tmp_path: Path) -> None:
    directory = tmp_path / "without jobs"
    directory.mkdir()
    # Both at the same time, so that other work of the machine changes both.
    with (
        herd(
            kind, "tests.places.places_app", tmp_path, environment(f"sqlite:///{tmp_path}/jobs.db", tmp_path)
        ) as server,
        herd(kind, "tests.places.places_app", directory, environment("memory:", directory)) as other,
    ):
        assert server.client.get(f"/start?count={JOBS}&s={SECONDS}").status == 200
        wait_for(server, lambda: len(runs_of(tmp_path)) >= 2, WAIT, lambda: runs_of(tmp_path))
        busy, idle = page_times(server, other)
        running = runs_of(tmp_path)
    assert len(running) < JOBS, "no job waited while the pages were requested"
    assert most_at_once(running, until=lambda run: run.end or math.inf) == 2
    ratio = median(busy) / median(idle)
    print(
        f"{kind}: a page takes {1000 * median(busy):.1f} ms beside jobs, {1000 * median(idle):.1f} ms without: {ratio:.2f}"
    )
    print(f"the slowest: {1000 * busy[-1]:.1f} ms beside jobs, {1000 * idle[-1]:.1f} ms without")
    assert ratio <= SLOWER
    assert busy[-1] < SECONDS, "a page waited for a job"


@pytest.mark.parametrize("kind", [pytest.param(WAITRESS, marks=pytest.mark.nightly)], ids=str)
def test_the_server_survives_thousands_of_starts_in_one_request(kind: HerdKind, tmp_path: Path) -> None:
    settings = environment(f"sqlite:///{tmp_path}/jobs.db?busy_timeout=60", tmp_path)
    with herd(kind, "tests.places.places_app", tmp_path, settings) as server:
        assert server.process is not None
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        began = time.monotonic()
        assert server.client.get(f"/start?count={STARTS}&s=0", timeout=240).status == 200
        took, open_files = time.monotonic() - began, len(list(descriptors.iterdir()))
        [pages] = page_times(server)
        so_far = len(runs_of(tmp_path))
        wait_for(
            server,
            lambda: sum(run.end is not None for run in runs_of(tmp_path)) == STARTS,
            240,
            lambda: len(runs_of(tmp_path)),
        )
        assert server.process.poll() is None
    runs = runs_of(tmp_path)
    print(
        f"{STARTS} starts in {took:.1f} s with {open_files} open files; {so_far} ran by then; all after {time.monotonic() - began:.1f} s"
    )
    print(f"meanwhile a page took {1000 * median(pages):.1f} ms, at most {1000 * pages[-1]:.1f} ms")
    assert len(by_process(runs)) == 1
    assert len({run.job for run in runs}) == STARTS
    assert open_files < 200
