"""Celery's workers that are killed, and a broker that is down, while jobs wait and run: no run begins twice, every job ends."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

import pytest
from attrs import define, field, frozen

from backjob import Status
from backjob.stores import open_store
from tests.brokers import ON_RABBITMQ, ON_REDIS, Broker, Place, through
from tests.faults.killing import Herd, HerdKind, herd, visitors
from tests.faults.links import Link
from tests.faults.surviving import DIED, Watched, lines_in
from tests.faults.test_kills import environment
from tests.scenarios.servers import python_server
from tests.scenarios.with_celery import celery_worker
from tests.shared_stores import BY_NAME

pytestmark = [pytest.mark.slow, pytest.mark.services, pytest.mark.timeout(600)]

_ROOT: Final = Path(__file__).parents[2]
_APP: Final = "tests.faults.killed_app"
_WEB: Final = HerdKind("waitress", python_server("waitress"), is_single=True)
_SECRETS: Final = {"Cookie": "session=0ddC00kie", "Authorization": "Bearer 0ddT0ken"}
_PATIENCE: Final = 240.0  # s


@define
class Site:
    """A web server that delivers no job, and a Celery worker that a test kills. ``link`` leads to the broker."""

    server: Herd
    watched: Watched
    link: Link
    directory: Path
    command: list[str]
    environment: Mapping[str, str]
    workers: list[subprocess.Popen[bytes]] = field(factory=list)

    def start(self, count: int) -> list[str]:
        """Have the web server start so many jobs."""
        page = self.server.client.get(f"/start?count={count}", headers=_SECRETS, timeout=60)
        assert page.status == 200, self.server.tail()
        ids = page.text.split()
        self.watched.add(ids)
        return ids

    def start_worker(self) -> None:
        with self._log.open("ab") as log:
            worker = subprocess.Popen(
                [*self.command, "--hostname", f"worker{time.monotonic_ns()}@%h"],
                cwd=_ROOT,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.workers.append(worker)

    def kill_worker(self) -> None:
        """Kill the worker that was started first, with all its processes."""
        worker = self.workers.pop(0)
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()

    @property
    def _log(self) -> Path:
        return self.directory / "worker.log"

    def count(self, word: str) -> int:
        """How many runs have begun or ended."""
        return len(lines_in(self.directory, word)) if (self.directory / "runs").exists() else 0

    def wait_for(self, is_satisfied: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not is_satisfied():
            assert time.monotonic() < deadline, f"{self.log()[-6000:]}\n{self.server.tail()}"
            time.sleep(0.02)

    def log(self) -> str:
        """What all workers have written."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        while self.workers:
            self.kill_worker()


def open_site(stack: ExitStack, broker: Broker, store: str, directory: Path, command: list[str], **more: str) -> Site:
    """Start the web server, whose messages and those of the worker pass a recording link."""
    place = stack.enter_context(broker.place())
    parts = urlsplit(place.url)
    link = stack.enter_context(Link((parts.hostname or "127.0.0.1", parts.port or 0), records=True))
    url = stack.enter_context(BY_NAME[store].place(directory))
    settings = {
        **environment(url, directory),
        **Place(through(place.url, link.port), place.name).environment,
        "SCENARIO_APP": _APP,
        "SCENARIO_IN_PROCESS": f"{_APP}:app",
        "BACKJOB_SEAL": "yes",
        "BACKJOB_REDISPATCH_AFTER": "5",
        **more,
    }
    server = stack.enter_context(herd(_WEB, _APP, directory, settings))
    watched = Watched(stack.enter_context(closing(open_store(url))), [])
    return stack.enter_context(Site(server, watched, link, directory, command, settings))


def _broker_saw(link: Link, words: list[str]) -> set[str]:
    """Which of these words are in the recorded bytes, also within messages that are encoded in Base64."""
    recorded = bytes(link.recorded)
    bodies = [base64.b64decode(body) for body in re.findall(rb'"body": "([A-Za-z0-9+/=]+)"', recorded)]
    everything = b"\n".join([recorded, *bodies]).decode("latin-1")
    return {word for word in words if word in everything}


@frozen
class Plan:
    """How many jobs there are, how often a worker is killed, and for how long (s) the broker is down."""

    broker: Broker
    store: str
    count: int = 1000
    kills: int = 4
    outage: float = 10.0
    retries: int = 0

    def __str__(self) -> str:
        return f"{self.broker}-{self.store}-{self.count}-{self.retries}"

    @property
    def settings(self) -> dict[str, str]:
        retries = {"retries": self.retries, "retry_delay": 0.2} if self.retries else {}
        options = {"as_current_user": True, **retries}
        return {
            "START_OPTIONS": json.dumps(options),
            "SECONDS_EACH": str(max(0.02, 5 / self.count)),
            "BACKJOB_REDISPATCH_AFTER": str(max(5, self.count // 50)),
        }


@pytest.mark.parametrize(
    "plan",
    [
        Plan(ON_RABBITMQ, "SQLiteStore", 50, kills=1, outage=1.0),
        pytest.param(Plan(ON_RABBITMQ, "PostgreSQL"), marks=pytest.mark.nightly),
        pytest.param(Plan(ON_RABBITMQ, "MariaDB", retries=50), marks=pytest.mark.nightly),
        pytest.param(Plan(ON_REDIS, "PostgreSQL", retries=50), marks=pytest.mark.nightly),
        pytest.param(Plan(ON_REDIS, "SQLiteStore"), marks=pytest.mark.nightly),
    ],
    ids=str,
)
def test_killed_workers_and_a_stopped_broker_run_nothing_twice_and_lose_nothing(tmp_path: Path, plan: Plan) -> None:
    count = plan.count
    with ExitStack() as stack:
        site = open_site(stack, plan.broker, plan.store, tmp_path, celery_worker(concurrency=2), **plan.settings)
        began_at = time.monotonic()
        stack.enter_context(visitors(site.server.client, "/ready", 0.05, timeout=2))
        ids = site.start(count)
        for _ in range(2):
            site.start_worker()
        for kill in range(plan.kills):  # while it runs some jobs and has reserved more
            enough = (kill + 1) * count // (2 * plan.kills)
            site.wait_for(partial(lambda enough: site.count("begin") >= enough, enough))
            site.kill_worker()
            if kill + 1 < plan.kills:
                site.start_worker()
        site.link.cut()
        ids += site.start(count // 10)
        time.sleep(plan.outage)  # the time is the fault itself
        site.link.restore()
        site.wait_for(lambda: not site.watched.has_unfinished())
        took = time.monotonic() - began_at
        web = site.server.workers
        seen = _broker_saw(site.link, [*ids, "0ddC00kie", "0ddT0ken", "signature", "/work?"])
    jobs = list(site.watched.ended.values())
    began, finished = (lines_in(tmp_path, word) for word in ("begin", "end"))
    pids = {int(line.split()[3]) for line in (tmp_path / "runs").read_text().splitlines() if line.startswith("begin")}
    print(
        f"Celery on {plan.broker}, {plan.store}: {took:.1f} s, {sum(began.values()) - sum(finished.values())} runs died, "
        f"{Counter(job.status.name for job in jobs)}, {len(site.link.recorded)} bytes to and from the broker"
    )
    assert site.watched.lost == []
    assert sorted(job.id for job in jobs) == sorted(ids)
    assert {run: times for run, times in began.items() if times > 1} == {}
    if plan.retries:
        assert {job.status for job in jobs} == {Status.COMPLETED}
    else:
        assert {job.id for job in jobs if job.status is Status.COMPLETED} <= {job for job, _ in finished}
        assert {job.status_text for job in jobs if job.status is not Status.COMPLETED} <= {DIED}
    assert seen == set(ids)
    assert not pids & set(web)  # no worker request has reached the web server
    assert "raised unexpected" not in site.log()


@pytest.mark.nightly
@pytest.mark.parametrize("broker", [ON_RABBITMQ, ON_REDIS], ids=str)
def test_a_worker_killed_while_it_runs_a_hundred_jobs_loses_none(tmp_path: Path, broker: Broker) -> None:
    count = 100
    with ExitStack() as stack:
        more = {
            "START_OPTIONS": json.dumps({"retries": 1, "retry_delay": 0.2}),
            "SECONDS_EACH": "5",
            "SCENARIO_THREADS": str(count),
        }
        command = celery_worker("--pool", "threads", concurrency=count)
        site = open_site(stack, broker, "PostgreSQL", tmp_path, command, **more)
        stack.enter_context(visitors(site.server.client, "/ready", 0.05, timeout=2))
        ids = site.start(count)
        site.start_worker()
        site.wait_for(lambda: site.count("begin") == count)
        assert site.count("end") == 0
        site.kill_worker()
        site.start_worker()
        site.wait_for(lambda: not site.watched.has_unfinished())
    jobs = list(site.watched.ended.values())
    assert sorted(job.id for job in jobs) == sorted(ids)
    assert {(job.status, job.run) for job in jobs} == {(Status.COMPLETED, 2)}
    assert set(lines_in(tmp_path, "begin").values()) == {1}
