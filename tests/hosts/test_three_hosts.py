"""Three hosts with addresses of their own: one is cut off, one is killed, both return. Nothing runs twice, nothing is lost.

On the host that was cut off, actions go on. Their jobs are retried elsewhere once the run leases are over. Back in the network,
the host's next update is refused, and so is the end of an action that has returned meanwhile.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import pytest

from backjob import Status
from backjob.model import Job, Query
from tests.hosts.network import require
from tests.hosts.site import HostedSite, Server, hosted_site
from tests.scenarios import fronts

LEASE: Final = 4.0  # s
PATIENCE: Final = 90.0  # s
IN_A_REQUEST: Final = 5
"""Jobs that one request starts."""
LEAST_SHARE: Final = 0.05
"""The least part of the jobs that each of three idle hosts runs; an even part is a third."""

pytestmark = [pytest.mark.slow, pytest.mark.services, pytest.mark.timeout(300)]


@pytest.fixture(params=[60, pytest.param(1000, marks=pytest.mark.nightly)])
def count(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def site(tmp_path: Path, count: int) -> Iterator[HostedSite]:
    require()
    fronts.require("nginx")
    # In the usual run the two held jobs take all places of their host. So no waiting job is leased to a host that is
    # killed: its lease would last for 30 s.
    places = 2 if count < 1000 else 4
    options = {
        "BACKJOB_RUN_LEASE": str(LEASE),
        "BACKJOB_MAX_RUNNING": str(places),
        "START_OPTIONS": json.dumps({"retries": 20, "retry_delay": 0.2}),
    }
    with hosted_site(tmp_path, hosts=3, threads=2 * places, **options) as hosted:
        yield hosted


def until(site: HostedSite, is_satisfied: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_satisfied():
        assert time.monotonic() < deadline, site.logs()
        time.sleep(0.05)


def start(site: HostedSite, count: int) -> list[str]:
    """Start jobs, as visitors of the site do."""
    ids: list[str] = []
    while len(ids) < count:
        ids += site.start_one(f"/start?count={IN_A_REQUEST}")
    return ids


def hold(site: HostedSite, server: Server) -> dict[str, str]:
    """Start one job of each phase on this host, and wait until they run there. Returns their ids by phase."""
    held = {
        phase: server.client.get(f"/start?count=1&action=/wait&phase={phase}").text for phase in ("updates", "silent")
    }
    until(site, lambda: all(server.has_run("begin", job_id) for job_id in held.values()))
    return held


def release(server: Server, phase: str) -> None:
    (server.directory / f"released-{phase}").touch()


def job_of(site: HostedSite, job_id: str) -> Job:
    job = site.store.get(job_id)
    assert job is not None
    return job


def have_ended(site: HostedSite, ids: Iterable[str]) -> Callable[[], bool]:
    """Whether all these jobs have ended. Each is read until it has."""
    left = list(ids)

    def all_have() -> bool:
        while left and job_of(site, left[-1]).status.is_final:
            left.pop()
        return not left

    return all_have


def spread(site: HostedSite, jobs: Iterable[str]) -> Counter[str]:
    """How many runs of these jobs began on each host."""
    among = set(jobs)
    return Counter(
        server.host.name
        for server in site.servers
        for word, job_id, *_ in server.lines()
        if word == "begin" and job_id in among
    )


def test_three_hosts_run_nothing_twice_and_lose_nothing(site: HostedSite, count: int) -> None:
    cut_off, killed, _ = site.servers
    quarter = count // 4

    # All three are well.
    began_at = time.monotonic()
    calm = start(site, quarter)
    until(site, have_ended(site, calm))
    shares = spread(site, calm)
    print(f"{count} jobs; the first {len(calm)} ended in {time.monotonic() - began_at:.1f} s, spread {dict(shares)}")
    assert min(shares[server.host.name] for server in site.servers) >= LEAST_SHARE * len(calm)

    # One is cut off. Its actions go on, and even end, but nobody hears of it.
    held = {server.host.name: hold(site, server) for server in (cut_off, killed)}
    alone, lost = held[cut_off.host.name], held[killed.host.name]
    stormy = start(site, quarter)
    cut_off.host.cut_off()
    release(cut_off, "silent")
    until(site, lambda: cut_off.has_run("end", alone["silent"]))
    silent = job_of(site, alone["silent"])
    assert silent.end_time is None or silent.run > 1  # on a busy machine it may have run again elsewhere by now

    # Another one is killed. The third one runs all jobs.
    stormy += start(site, quarter)
    killed.kill()
    stormy += start(site, quarter)
    retried = [*alone.values(), *lost.values()]
    until(site, have_ended(site, retried))
    assert {job_of(site, job_id).status for job_id in retried} == {Status.COMPLETED}
    assert all(job_of(site, job_id).run > 1 for job_id in retried)
    assert not cut_off.has_run("fenced", alone["updates"])  # it can't know
    print(f"one cut off, one killed: spread {dict(spread(site, stormy))}")

    # Both are back. The first one learns that its run is over, and both take part again.
    cut_off.host.reconnect()
    killed.start()
    until(site, lambda: cut_off.has_run("fenced", alone["updates"]))
    late = list[str]()

    def take_part() -> bool:
        late.extend(start(site, 3 * IN_A_REQUEST))
        return {server.host.name for server in (cut_off, killed)} <= set(spread(site, late))

    until(site, take_part)
    started = [*calm, *stormy, *late, *retried]
    until(site, have_ended(site, started))
    print(f"both back: spread {dict(spread(site, late))}")

    # The store has the jobs of starts, too, whose response was lost. The hosts have the lines of all runs.
    until(site, have_ended(site, [job.id for job in site.store.find(Query(limit=10 * count))]))
    jobs = {job.id: job for job in site.store.find(Query(limit=10 * count))}
    lines = [line for server in site.servers for line in server.lines()]
    begun = Counter((job, run) for word, job, run, _ in lines if word == "begin")
    announced = Counter(job for word, job, *_ in lines if word == "called")
    print(
        f"{len(jobs)} jobs, {sum(begun.values())} runs, {len(jobs) - len(started)} starts without a response, "
        f"{time.monotonic() - began_at:.1f} s"
    )
    assert set(started) <= set(jobs)
    assert len(started) >= count
    assert {run: times for run, times in begun.items() if times > 1} == {}
    assert Counter(job.status for job in jobs.values()) == {Status.COMPLETED: len(jobs)}
    assert {job for job, _ in begun} >= set(jobs)
    assert {job: times for job, times in announced.items() if times > 1} == {}
