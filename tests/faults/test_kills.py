"""Workers that are killed while they run jobs: no run begins twice, every job ends, and with retries every job completes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backjob.stores import open_store
from tests.faults.killing import HERDS, HerdKind, herd
from tests.faults.surviving import FEW_JOBS, JOBS, LEASE, check_survival, pace
from tests.scenarios.sites import KEY
from tests.shared_stores import BY_NAME, SHARED_STORES, SharedStore

pytestmark = pytest.mark.timeout(500)

# One server for each kind of store in the usual runs, with few jobs; all pairs at night, with all jobs.
_USUAL = {
    ("gunicorn gthread 2x2", "SQLiteStore", 50),
    ("uvicorn x2", "PostgreSQL", 50),
    ("gunicorn sync x4", "MariaDB", 0),
    ("waitress", "Redis", 50),
}
CASES = [
    pytest.param(
        kind,
        store,
        retries,
        jobs,
        id=f"{kind}-{store}-{retries}-{jobs}",
        marks=[pytest.mark.slow, pytest.mark.services] if jobs == FEW_JOBS else [pytest.mark.nightly],
    )
    for kind in HERDS
    for store in SHARED_STORES
    for retries in (0, 50)
    if store.lists or not retries  # a store that may lose jobs takes no retries
    for jobs in ([FEW_JOBS] if (str(kind), str(store), retries) in _USUAL else []) + [JOBS]
]


def environment(url: str, directory: Path, **options: Any) -> dict[str, str]:
    return {
        "BACKJOB_STORE": url,
        "BACKJOB_KEY": KEY,
        "BACKJOB_RUN_LEASE": str(LEASE),
        "RUNS": str(directory / "runs"),
        "START_OPTIONS": json.dumps(options),
    }


@pytest.fixture
def place(store: SharedStore, tmp_path: Path) -> Iterator[str]:
    with store.place(tmp_path) as url:
        yield url


@pytest.mark.parametrize(("kind", "store", "retries", "count"), CASES)
def test_killed_workers_run_nothing_twice_and_lose_nothing(
    *, kind: HerdKind, store: SharedStore, place: str, tmp_path: Path, retries: int, count: int
) -> None:
    options = {"retries": retries, "retry_delay": 0.2} if retries else {}
    settings = environment(place, tmp_path, **options) | pace(kind, count)
    if kind.app == "asgi_app" and not store.lists:
        settings["SECONDS_EACH"] = "1"  # a new process reads the whole cache before it runs jobs
    with herd(kind, "tests.faults.killed_app", tmp_path, settings) as server, closing(open_store(place)) as opened:
        check_survival(server, opened, tmp_path, retries=retries, count=count)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", HERDS, ids=str)
@pytest.mark.parametrize("store", [BY_NAME["PostgreSQL"]], ids=str)
def test_killed_workers_with_a_cache_in_front_of_their_store_run_nothing_twice_and_lose_nothing(
    kind: HerdKind, store: SharedStore, place: str, tmp_path: Path
) -> None:
    with BY_NAME["cachelib on Redis"].place(tmp_path) as url:
        cache, _, prefix = url.removeprefix("cache:").partition("?prefix=")
        settings = environment(place, tmp_path, retries=50, retry_delay=0.2) | pace(kind, JOBS)
        settings |= {"BACKJOB_CACHE": cache, "BACKJOB_CACHE_PREFIX": prefix}
        with herd(kind, "tests.faults.killed_app", tmp_path, settings) as server, closing(open_store(place)) as opened:
            check_survival(server, opened, tmp_path, retries=50, count=JOBS)
