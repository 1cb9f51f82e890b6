"""A death ends its job within 20 s, whatever the action did then, and whether or not anybody looks.

That is with the default run lease. The usual runs have a shorter one, and as much time after it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from attrs import define

from backjob import Status
from backjob.protocols import Store
from backjob.stores import open_store
from tests.faults.killing import Herd, HerdKind, herd, visitors
from tests.scenarios.client import WAIT
from tests.scenarios.servers import gunicorn, uvicorn
from tests.scenarios.sites import KEY
from tests.shared_stores import BY_NAME

LEASE: Final = 18.0
"""The default."""
SHORT: Final = 4.0
REST_OF_BOUND: Final = 2.0
"""Seconds after the lease, as documented."""
PHASES: Final = ("silent", "updates", "output", "response", "silent", "updates")
REST: Final = 125.0
"""Seconds after which the monitor of an idle site reads its store least often."""

KINDS: Final = (
    HerdKind("gunicorn gthread", gunicorn("--workers=3", "--threads=4")),
    HerdKind("uvicorn", uvicorn("--workers=3"), app="asgi_app"),
)
STORES: Final = ("SQLiteStore", "PostgreSQL", "MariaDB", "Redis")

pytestmark = pytest.mark.timeout(400)


@define
class Death:
    """A job whose process was killed while it ran. ``after``: how long it had run (s); ``took``: until its end was written.

    The store has the clock of this host.
    """

    job_id: str
    phase: str
    after: float
    at: datetime
    took: float | None = None


@contextmanager
def site(kind: HerdKind, store: str, directory: Path, lease: float = LEASE) -> Iterator[tuple[Herd, Store]]:
    with BY_NAME[store].place(directory) as url:
        environment = {"BACKJOB_STORE": url, "BACKJOB_KEY": KEY, "RUNS": str(directory / "runs")}
        environment |= {} if lease == LEASE else {"BACKJOB_RUN_LEASE": str(lease)}
        with (
            herd(kind, "tests.faults.killed_app", directory, environment) as server,
            closing(open_store(url)) as opened,
        ):
            yield server, opened


def wake_all(server: Herd) -> list[int]:
    """Have every worker get a request, which starts its monitor. Returns the workers."""
    seen: set[int] = set()
    deadline = time.monotonic() + WAIT
    while not seen or not seen.issuperset(server.workers):
        assert time.monotonic() < deadline, server.tail()
        with suppress(OSError):
            seen.add(int(server.client.get("/pid").text))
    return server.workers


def choose_survivor(server: Herd, directory: Path) -> int:
    """Choose a worker that is not killed: in it, actions return at once."""
    survivor = wake_all(server)[0]
    (directory / f"survivor-{survivor}").touch()
    return survivor


def begun(directory: Path, job_id: str) -> int:
    """Wait until a job runs. Returns its process."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if (directory / "runs").exists():
            for line in (directory / "runs").read_text(encoding="utf-8").splitlines():
                word, job, _, pid = line.split()
                if (word, job) == ("begin", job_id):
                    return int(pid)
        time.sleep(0.01)
    pytest.fail(f"job {job_id} was not run")


def run_and_kill(server: Herd, directory: Path, phase: str, after: float, survivor: int) -> Death:
    """Start a job and kill the process that runs it, ``after`` seconds later. Ignore a job that the survivor runs."""
    for _ in range(20):
        wake_all(server)
        job_id = server.client.get(f"/start?count=1&action=/hang&phase={phase}").text
        pid = begun(directory, job_id)
        if pid != survivor:
            time.sleep(after)  # the phase between two renewals of the lease
            os.kill(pid, signal.SIGKILL)
            return Death(job_id, phase, after, datetime.now(UTC))
    pytest.fail("every job ran in the process that is to survive")


def watch(deaths: list[Death], server: Herd, store: Store) -> None:
    """Wait until the jobs have ended."""
    deadline = time.monotonic() + 4 * (LEASE + REST_OF_BOUND)
    for death in deaths:
        while (job := store.get(death.job_id)) is not None and not job.status.is_final:  # reading it ends no job
            assert time.monotonic() < deadline, server.tail()
            time.sleep(0.1)
        assert job is not None
        assert job.end_time is not None
        assert (job.status, job.status_text) == (Status.FAILED, "the process that ran it ended")
        death.took = (job.end_time - death.at).total_seconds()


def judge(deaths: list[Death], what: str, lease: float = LEASE) -> None:
    figures = ", ".join(f"{death.phase} at {death.after:g} s: {death.took:.1f} s" for death in deaths)
    print(f"{what}: {figures}")
    assert all(death.took is not None and death.took <= lease + REST_OF_BOUND for death in deaths), figures


@pytest.mark.parametrize(
    ("kind", "store", "is_visited", "lease"),
    [
        pytest.param(KINDS[0], "SQLiteStore", False, SHORT, marks=pytest.mark.slow, id="short lease"),
        *(
            pytest.param(
                kind,
                store,
                is_visited,
                LEASE,
                id=f"{kind}-{store}-{'visited' if is_visited else 'alone'}",
                marks=pytest.mark.nightly,
            )
            for kind in KINDS
            for store in STORES
            for is_visited in (True, False)
        ),
    ],
)
def test_every_death_ends_its_job_within_20_s(
    kind: HerdKind, store: str, is_visited: bool, lease: float, tmp_path: Path
) -> None:
    with site(kind, store, tmp_path, lease) as (server, opened):
        survivor = choose_survivor(server, tmp_path)
        time.sleep(lease)  # a process that has run for less may end no other's job
        with visitors(server.client, "/pid", 1.0, timeout=5) if is_visited else nullcontext():
            deaths = [
                run_and_kill(server, tmp_path, phase, 0.45 * number, survivor) for number, phase in enumerate(PHASES)
            ]
            watch(deaths, server, opened)
    judge(deaths, f"{kind}, {store}, {'visited' if is_visited else 'alone'}", lease)


@pytest.mark.nightly
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("after", [0.0, 40.0])
def test_a_death_on_a_site_that_was_idle_for_long_ends_its_job_within_20_s(
    kind: HerdKind, after: float, tmp_path: Path
) -> None:
    with site(kind, "SQLiteStore", tmp_path) as (server, opened):
        survivor = choose_survivor(server, tmp_path)
        time.sleep(REST)
        deaths = [run_and_kill(server, tmp_path, "silent", after, survivor)]
        watch(deaths, server, opened)
    judge(deaths, f"{kind}, idle before")
