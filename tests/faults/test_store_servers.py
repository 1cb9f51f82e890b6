"""The store's server is killed and restarted: no acknowledged write is lost, none is applied twice, and the processes of
the site continue.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from backjob import Status
from backjob.errors import StoreUnavailable
from backjob.lifecycle import claimed, completed
from backjob.protocols import Draft, Request, Store
from backjob.stores import open_store
from backjob.testing import FakeClock
from backjob.worker.running import Running
from tests.faults.counting import line
from tests.faults.cutting import CuttingProxy
from tests.faults.outages import (
    PROCESSES,
    Counters,
    Observer,
    end_of,
    outage_site,
    two_processes,
    until,
    warnings,
    whole_output,
)
from tests.faults.proxies import Passage, Proxy
from tests.private_servers import PRIVATE_SERVERS, REDIS, PrivateServer, ServerKind, Templates, private_server
from tests.scenarios.client import WAIT
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import Site


@pytest.fixture(scope="session")
def templates() -> Iterator[Templates]:
    with Templates.made() as templates:
        yield templates


@pytest.fixture(
    params=[pytest.param(kind, marks=() if kind is REDIS else pytest.mark.slow) for kind in PRIVATE_SERVERS], ids=str
)
def database(request: pytest.FixtureRequest, templates: Templates) -> Iterator[PrivateServer]:
    kind: ServerKind = request.param
    with private_server(kind, templates) as server:
        yield server


def refusal(site: Site) -> Any:
    """The site's error for an attempt to start a job."""
    return site.refused("/work/none", as_current_user=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "pace"),
    [(40, 0.02), pytest.param(500, 0.5, marks=[pytest.mark.nightly, pytest.mark.timeout(300)])],
)
def test_running_jobs_continue_after_the_server_was_killed_and_restarted(
    database: PrivateServer, tmp_path: Path, count: int, pace: float
) -> None:
    with (
        outage_site(database.url, tmp_path, two_processes(count)) as site,
        Counters(count) as gate,
        ThreadPoolExecutor(4) as pool,
    ):
        query = {"gate": gate.port, "pace": pace}
        starts = [pool.submit(site.started, "/count", query, as_current_user=False) for _ in range(count)]
        gate.wait_for(count)
        ids = [start.result(WAIT)["id"] for start in starts]
        status = starts[0].result()["url"]
        with Observer.of(database.url, ids) as observer:
            gate.count(2)
            before = site.server.log.read_text()
            database.kill()
            until(lambda: observer.away, "the observer did not notice the outage")
            gate.count(2)
            with pytest.raises(StoreUnavailable):
                site.jobs.status(ids[0])
            assert refusal(site)["error"] == "StoreUnavailable"
            response = site.client.get(status)
            assert (response.status, int(response.headers["retry-after"]) > 0) == (503, True)
            assert site.client.get("/ready").status == 200

            database.start()
            versions = {job_id: observer.version(job_id) for job_id in ids}
            until(lambda: all(observer.version(job_id) > versions[job_id] for job_id in ids), "no job reports any more")
            gate.count(2)
            gate.release()
            states = [end_of(site, job_id) for job_id in ids]
            assert {(state.status, state.status_text, state.progress) for state in states} == {
                (Status.COMPLETED, "counted", 100)
            }
            assert site.run("/work/none", as_current_user=False).status is Status.COMPLETED
        for state in states:
            assert isinstance(state.result, int)
            assert whole_output(site.jobs, state.id) == "".join(map(line, range(state.result)))
        ends = (tmp_path / "ends").read_text().splitlines()
        assert [ends.count(f"{job_id} COMPLETED") for job_id in ids] == [1] * count
        log = site.server.log.read_text()
    assert warnings(before) == []
    assert len(warnings(log)) <= PROCESSES, "\n".join(warnings(log)[:40])


@pytest.mark.slow
def test_a_worker_request_during_an_outage_is_sent_again(database: PrivateServer, tmp_path: Path) -> None:
    arrived, proceed, responses = Event(), Event(), list[bytes]()

    def handle(passage: Passage) -> None:
        if passage.number == 0:
            arrived.set()
            assert proceed.wait(WAIT)
        responses.append(passage.relay(passage.forward()))

    with Proxy(handle) as proxy, outage_site(database.url, tmp_path, KINDS["werkzeug"], **proxy.settings) as site:
        assert isinstance(site.client.address, tuple)
        proxy.upstream = site.client.address
        job_id = site.start("/work/none", as_current_user=False)
        assert arrived.wait(WAIT)
        database.kill()
        proceed.set()
        until(lambda: responses, "the worker request got no response")
        assert responses[0].startswith(b"HTTP/1.1 503 ")
        assert b"\r\nbackjob-refusal: unavailable\r\n" in responses[0]
        database.start()
        state = end_of(site, job_id)
        assert (state.status, site.runs(job_id)) == (Status.COMPLETED, 1)
        job = site.jobs.store.get(job_id)
        assert job is not None
        assert job.delivery >= 2


@pytest.mark.slow
def test_a_job_that_becomes_due_during_an_outage_is_delivered_afterwards(
    database: PrivateServer, tmp_path: Path
) -> None:
    with outage_site(database.url, tmp_path) as site:
        job_id = site.start("/work/none", as_current_user=False, delay=0.5)
        due = site.jobs.status(job_id).start_time
        database.kill()
        until(lambda: datetime.now(UTC) > due + timedelta(seconds=0.2), "the clock does not advance")
        database.start()
        assert (end_of(site, job_id).status, site.runs(job_id)) == (Status.COMPLETED, 1)


def test_a_process_that_starts_during_an_outage_works_afterwards(database: PrivateServer, tmp_path: Path) -> None:
    database.kill()
    with outage_site(database.url, tmp_path) as site:
        assert refusal(site)["error"] == "StoreUnavailable"
        assert site.client.get("/ready").status == 200
        database.start()
        ids: list[str] = []

        def starts() -> bool:
            with suppress(AssertionError):  # a call fails while another thread is about to reconnect
                ids.append(site.start("/work/none", as_current_user=False))
            return bool(ids)

        until(starts, "the site starts no job")
        assert (end_of(site, ids[0]).status, site.runs(ids[0])) == (Status.COMPLETED, 1)


def test_calls_of_many_threads_fail_at_once_during_an_outage(database: PrivateServer) -> None:
    threads, calls = 40, 25
    with closing(open_store(database.url)) as store, ThreadPoolExecutor(threads) as pool:
        stop, refusals = Event(), list[StoreUnavailable]()
        list(pool.map(lambda _: store.get("job"), range(threads)))
        database.kill()

        def call() -> None:
            for _ in range(calls):
                if stop.is_set():
                    return
                with pytest.raises(StoreUnavailable) as caught:
                    store.get("job")
                refusals.append(caught.value)

        started = [pool.submit(call) for _ in range(threads)]
        try:
            until(lambda: all(one.done() for one in started), "a call hangs during the outage")
        finally:
            stop.set()
        for one in started:
            one.result(WAIT)
        assert len(refusals) == threads * calls


# --- lost responses -------------------------------------------------------------------------------------------------


@contextmanager
def behind_proxy(database: PrivateServer) -> Iterator[tuple[CuttingProxy, Store, Store]]:
    """A proxy, a store that connects through it, and the same store without a proxy."""
    with (
        CuttingProxy(database.port) as proxy,
        closing(open_store(database.url_by(proxy.port))) as store,
        closing(open_store(database.url)) as direct,
    ):
        yield proxy, store, direct


def claimed_job(store: Store, job_id: str) -> Running:
    """A new job that is claimed, on a clock that does not advance."""
    store.create(Draft(id=job_id, request=Request("GET", "/work")))
    job = store.change(job_id, *claimed("the token", 1, 600))
    assert job is not None
    return Running(job, "the token", store=store, clock=FakeClock(), max_output=1 << 20, dirty=lambda _: None)


def test_a_report_is_applied_once_although_its_response_is_lost(database: PrivateServer) -> None:
    with behind_proxy(database) as (proxy, store, direct):
        running = claimed_job(store, "job")
        running.set_progress(1)  # written at once; all that follows waits for flush()
        written, lines = [], list[str]()
        for number in range(20):
            before = direct.get("job")
            store.get("job")  # connect first
            lines.append(line(number))
            running.write(lines[-1])
            proxy.cut_after(number)
            running.flush()
            after = direct.get("job")
            assert before is not None
            assert after is not None
            if not proxy.has_cut():
                break
            written.append(after.output_size > before.output_size)
        assert True in written, "the proxy lost no response to a write"
        ended = running.conclude(completed())
        assert ended is not None
        assert ended.status is Status.COMPLETED
        assert direct.output("job").text == "".join(lines)


def test_an_end_is_found_although_its_response_is_lost(database: PrivateServer) -> None:
    with behind_proxy(database) as (proxy, store, direct):
        written = []
        for number in range(20):
            job_id = f"job {number}"
            running = claimed_job(store, job_id)
            proxy.cut_after(number)
            try:
                ended = running.conclude(completed("done"))
            except StoreUnavailable:
                job = direct.get(job_id)
                assert job is not None
                written.append(job.status is Status.COMPLETED)
                ended = running.conclude(completed("done"))
            assert ended is not None
            assert (ended.status, ended.status_text) == (Status.COMPLETED, "done")
            if not proxy.has_cut():
                break
        assert True in written, "the proxy lost no response to a write"
