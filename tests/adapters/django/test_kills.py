"""Workers of a Django site that are killed while they run jobs, which are in the site's own database.

No run begins twice, every job ends, and a cursor is never ahead of the rows that the site has committed.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connections

from backjob import Status
from backjob.django.store import DjangoStore
from backjob.lifecycle import history_of
from backjob.model import Job
from tests.faults.killing import HERDS, HerdKind, herd, visitors
from tests.faults.surviving import DIED, FEW_JOBS, JOBS, LEASE, busy_workers, check_survival, pace
from tests.scenarios.servers import gunicorn

pytestmark = pytest.mark.timeout(500)

_USUAL = ("gunicorn gthread 2x2", "postgresql", 50)
CASES = [
    pytest.param(
        kind,
        database,
        retries,
        jobs,
        id=f"{kind}-{database}-{retries}-{jobs}",
        marks=[pytest.mark.slow, pytest.mark.services] if jobs == FEW_JOBS else [pytest.mark.nightly],
    )
    for kind in HERDS
    for database in ("sqlite", "postgresql", "mariadb")
    for retries in (0, 50)
    for jobs in ([FEW_JOBS] if (str(kind), database, retries) == _USUAL else []) + [JOBS]
]


FEW_ROWS = 400  # in the usual runs
ROWS = 1500
KILLS = 4
PATIENCE = 200.0  # s

GUNICORN = HerdKind("gunicorn sync", gunicorn("--workers=2"))


def environment(directory: Path, *, atomic_requests: bool = False, **options: Any) -> dict[str, str]:
    """The environment of a site with the database of the test."""
    settings = {
        "ROOT_URLCONF": "tests.adapters.django.killed",
        "DATABASES": {"default": {**connections["default"].settings_dict, "ATOMIC_REQUESTS": atomic_requests}},
        "BACKJOB": {"RUN_LEASE": LEASE, "SLICE_TIME": 1, "ON_END": "tests.faults.recording.on_end"},
    }
    return {
        "SITE_SETTINGS": json.dumps(settings),
        "RUNS": str(directory / "runs"),
        "START_OPTIONS": json.dumps(options),
    }


@pytest.mark.parametrize(("kind", "any_database", "retries", "count"), CASES, indirect=["any_database"])
def test_killed_workers_of_a_django_site_run_nothing_twice_and_lose_nothing(
    *, kind: HerdKind, any_database: str, tmp_path: Path, retries: int, count: int
) -> None:
    options: dict[str, Any] = {"retries": retries, "retry_delay": 0.2} if retries else {}
    settings = environment(tmp_path, **options) | pace(kind, count)
    if kind.app == "asgi_app":
        settings["SECONDS_EACH"] = "2"  # each request has a thread of its own, so all run at once
    with herd(kind, "tests.adapters.django.killed", tmp_path, settings) as server:
        check_survival(server, DjangoStore("default"), tmp_path, retries=retries, count=count)


def found(store: DjangoStore, job_id: str) -> Job:
    job = store.get(job_id)
    assert job is not None
    return job


def done_in(job: Job) -> int:
    """How many rows are done according to the cursor in the store."""
    cursor: Any = job.cursor
    return 0 if cursor is None else int(cursor["loops"][""][0])


def deaths_of(job: Job) -> int:
    """How many runs ended with their process."""
    return Counter(str(entry["reason"]) for entry in history_of(job))[DIED]


@pytest.mark.parametrize(
    ("any_database", "rows"),
    [
        pytest.param("postgresql", FEW_ROWS, marks=[pytest.mark.slow, pytest.mark.services]),
        *(pytest.param(database, ROWS, marks=pytest.mark.nightly) for database in ("sqlite", "postgresql", "mariadb")),
    ],
    indirect=["any_database"],
)
def test_a_cursor_is_never_ahead_of_the_rows_that_are_committed(any_database: str, rows: int, tmp_path: Path) -> None:
    User.objects.bulk_create(User(username=f"user {number}") for number in range(rows))
    store = DjangoStore("default")
    settings = environment(tmp_path, atomic_requests=True, retries=5, retry_delay=0.2) | {"SECONDS_EACH": "0.003"}
    with herd(GUNICORN, "tests.adapters.django.killed", tmp_path, settings) as server:
        job_id = server.client.get("/start-import").text
        deadline = time.monotonic() + PATIENCE
        with visitors(server.client, "/ready", 0.05, timeout=2):
            while not (job := found(store, job_id)).status.is_final:
                assert time.monotonic() < deadline, f"{job}\n{server.tail()}"
                time.sleep(0.01)
                victims = busy_workers(server, tmp_path)
                if victims and server.kills < KILLS and done_in(job) > rows * server.kills / KILLS:
                    with server.stopped():
                        assert done_in(found(store, job_id)) <= User.objects.filter(is_active=False).count()
                        server.kill_one(victims)
    times = Counter(len(name) for name in User.objects.values_list("last_name", flat=True))
    print(f"{any_database}: {server.kills} kills, {job.run} runs, {deaths_of(job)} deaths; rows by times {dict(times)}")
    assert job.status is Status.COMPLETED, job.status_text
    assert deaths_of(job) >= 1
    assert set(times) <= {1, 2}  # none is left out
    assert times.total() == rows
    assert times[2] <= deaths_of(job)  # the row in hand of each killed worker
