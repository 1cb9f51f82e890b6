"""Workers of a Django site that are killed while they run jobs, which are in the site's own database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from backjob.django.store import DjangoStore
from tests.faults.killing import HERDS, HerdKind, herd
from tests.faults.surviving import FEW_JOBS, JOBS, LEASE, check_survival, pace

pytestmark = pytest.mark.timeout(300)

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


def environment(directory: Path, **options: Any) -> dict[str, str]:
    """The environment of a site with the database of the test."""
    settings = {
        "ROOT_URLCONF": "tests.adapters.django.killed",
        "DATABASES": {"default": connections["default"].settings_dict},
        "BACKJOB": {"RUN_LEASE": LEASE, "ON_END": "tests.faults.recording.on_end"},
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
    options = {"retries": retries, "retry_delay": 0.2} if retries else {}
    settings = environment(tmp_path, **options) | pace(kind, count)
    with herd(kind, "tests.adapters.django.killed", tmp_path, settings) as server:
        check_survival(server, DjangoStore("default"), tmp_path, retries=retries, count=count)
