"""A queue with a limit, served by four processes: never more jobs at once, no slot lost with a process, no other queue held up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from backjob import Status
from backjob.model import Query
from backjob.protocols import Capability, lacks
from backjob.stores import open_store
from tests.faults.killing import herd
from tests.places.limiting import FOUR, Ended, check, limited, work_off
from tests.services import MARIADB, POSTGRES, own_name
from tests.shared_stores import BY_NAME, LISTING_STORES, SharedStore, mariadb, postgres

JOBS = 200
FEW_JOBS = 120
"""In the usual tests."""

pytestmark = [pytest.mark.timeout(400)]

RUNS = [
    pytest.param(BY_NAME["SQLiteStore"], FEW_JOBS, marks=pytest.mark.slow, id="SQLiteStore, few jobs"),
    *[pytest.param(store, JOBS, marks=pytest.mark.nightly, id=store.name) for store in LISTING_STORES],
]


@pytest.fixture
def place(store: SharedStore, tmp_path: Path) -> Iterator[str]:
    with store.place(tmp_path) as url:
        yield url


@pytest.mark.parametrize(("store", "count"), RUNS)
def test_the_limit_of_a_queue_holds_over_processes_that_die(place: str, count: int, tmp_path: Path) -> None:
    with (
        herd(FOUR, "tests.places.places_app", tmp_path, limited(place, tmp_path)) as server,
        closing(open_store(place)) as store,
    ):
        assert Capability.SLOTS not in lacks(store)

        def ended() -> int:
            return sum(job.status.is_final for job in store.find(Query(limit=10 * count)))

        work_off(server, tmp_path, count, ended)
        jobs = [Ended(job.id, job.status, job.slot, job.status_text) for job in store.find(Query(limit=10 * count))]
    check(tmp_path, count, jobs)


@contextmanager
def django_database(vendor: str, directory: Path) -> Iterator[dict[str, Any]]:
    """An empty database for a Django site, as in its settings."""
    if vendor == "sqlite3":
        options: dict[str, Any] = {"timeout": 60}
        yield {"ENGINE": "django.db.backends.sqlite3", "NAME": str(directory / "site.db"), "OPTIONS": options}
        return
    name = own_name()
    service, execute = (POSTGRES, postgres) if vendor == "postgresql" else (MARIADB, mariadb)
    parts = urlsplit(service.require())
    server = {
        "ENGINE": f"django.db.backends.{vendor}",
        "HOST": parts.hostname,
        "PORT": str(parts.port or ""),
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
    }
    execute(f"CREATE DATABASE {name}")
    try:
        yield {**server, "NAME": name}
    finally:
        execute(f"DROP DATABASE {name}{' WITH (FORCE)' if vendor == 'postgresql' else ''}")


@pytest.mark.nightly
@pytest.mark.parametrize("vendor", ["sqlite3", "postgresql", "mysql"])
def test_the_limit_of_a_queue_holds_in_the_database_of_a_django_site(vendor: str, tmp_path: Path) -> None:
    with django_database(vendor, tmp_path) as database:
        settings = limited("", tmp_path) | {"PLACES_DATABASE": json.dumps(database)}
        del settings["BACKJOB_STORE"]
        app = "tests.places.django_places_app"
        subprocess.run([sys.executable, "-m", app, "migrate"], env={**os.environ, **settings}, check=True)
        with herd(FOUR, app, tmp_path, settings) as server:

            def jobs() -> list[Ended]:
                rows = json.loads(server.client.get("/jobs").text)["jobs"]
                return [Ended(row["id"], Status(row["status"]), row["slot"], row["status_text"]) for row in rows]

            work_off(server, tmp_path, JOBS, lambda: sum(job.status.is_final for job in jobs()))
            found = jobs()
    check(tmp_path, JOBS, found)
