"""The cost of starting and running a job, on real servers."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tests.benchmarks.measuring import alternating, side_by_side
from tests.benchmarks.raw import bare_request, connect_and_send, request_bytes
from tests.benchmarks.site import Site
from tests.benchmarks.table import Figure, Table, seconds

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(600)]

_ROUNDS = 400
_AT_ONCE = 4
_JOBS = 150
_RUNS = 5


def _insert_and_send(site: Site) -> tuple[float, float]:
    """Insert a row and commit, then connect and send; return the seconds of both. The wait for the answer is not timed."""
    row, request = site.raw.row(), request_bytes(site.address, "/bare")
    begin = time.perf_counter()
    site.raw.insert(row)
    inserted = time.perf_counter()
    connected = connect_and_send(site.address, request)
    sent = time.perf_counter()
    site.first_line()
    connected.recv(65536)
    connected.close()
    return inserted - begin, sent - inserted


def test_starting_a_job(site: Site, benchmark: BenchmarkFixture, table: Table, server: str) -> None:
    def after() -> None:
        site.end_of_job()
        site.drain()

    inserts: list[float] = []

    def raw() -> float:
        insert, send = _insert_and_send(site)
        inserts.append(insert)
        return insert + send

    pair = side_by_side(benchmark, site.start, raw, rounds=_ROUNDS, after=after)
    table.add(
        Figure(
            store=site.kind.name,
            what=f"start(), {server}",
            measured=pair.ratio,
            target=2,
            medians=f"{seconds(pair.ours)} : {seconds(pair.raw)}, insert and commit, connect and send",
        )
    )
    insert = median(inserts)
    table.add(
        Figure(
            store=site.kind.name,
            what=f"  the same, against the insert alone, {server}",
            measured=pair.ours / insert,
            medians=f"{seconds(pair.ours)} : {seconds(insert)}",
        )
    )


def test_from_the_start_to_the_first_line(site: Site, table: Table, server: str) -> None:
    first_lines: list[float] = []

    def ours() -> float:
        begin = time.monotonic()
        site.start()
        first_line = site.first_line()
        site.end_of_job()
        site.drain()
        return first_line - begin

    def raw() -> float:
        row = site.raw.row()
        begin = time.monotonic()
        site.raw.insert(row)
        bare_request(site.address, "/bare")
        taken = time.monotonic() - begin
        first_lines.append(site.first_line() - begin)
        return taken

    pair = alternating(ours, raw, rounds=_ROUNDS)
    table.add(
        Figure(
            store=site.kind.name,
            what=f"start() to the action's first line, {server}",
            measured=pair.ratio,
            target=1.25,
            medians=f"{seconds(pair.ours)} : {seconds(pair.raw)}, insert and one request",
        )
    )
    to_first_line = median(first_lines)
    table.add(
        Figure(
            store=site.kind.name,
            what=f"  the same, against the request only up to its first line, {server}",
            measured=pair.ours / to_first_line,
            medians=f"{seconds(pair.ours)} : {seconds(to_first_line)}",
        )
    )


def test_jobs_per_second(site: Site, table: Table, server: str) -> None:
    def ours() -> float:
        begin = time.monotonic()
        for _ in range(_JOBS):
            site.start()
        taken = max(site.end_of_job() for _ in range(_JOBS)) - begin
        site.drain()
        return taken / _JOBS

    def one_by_one() -> float:
        def all_of_them() -> None:
            for _ in range(_JOBS):
                bare_request(site.address, f"/bare/updates?{site.raw.insert(site.raw.row())}")

        return _until_all_ended(site, all_of_them)

    def at_once() -> float:
        rows = [site.raw.row() for _ in range(_JOBS)]

        def all_of_them() -> None:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for row in rows:
                    job_id = site.raw.insert(row)
                    pool.submit(bare_request, site.address, f"/bare/updates?{job_id}")

        return _until_all_ended(site, all_of_them)

    ours()
    found = [(ours(), one_by_one(), at_once()) for _ in range(_RUNS)]
    taken, *bare = (median(column) for column in zip(*found, strict=True))
    fastest = min(bare)
    table.add(
        Figure(
            store=site.kind.name,
            what=f"no-op jobs per second, end to end, {server}",
            measured=fastest / taken,
            target=0.8,
            better="more",
            medians=f"{1 / taken:.0f}/s : {1 / fastest:.0f}/s, insert, request and two updates "
            f"({1 / bare[0]:.0f}/s one by one, {1 / bare[1]:.0f}/s {_AT_ONCE} in parallel)",
        )
    )


def _until_all_ended(site: Site, work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return (max(site.end_of_job() for _ in range(_JOBS)) - begin) / _JOBS
