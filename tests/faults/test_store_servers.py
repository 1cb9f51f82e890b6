"""The store's server is killed and comes back: nothing that was acknowledged is lost, nothing stands twice, and the same
processes go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
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
    told,
    two_processes,
    until,
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


def refused(site: Site) -> Any:
    """What the site says to a start of a job: its error."""
    return site.refused("/work/none", as_current_user=False)


@pytest.mark.parametrize(
    ("count", "pace"),
    [pytest.param(40, 0.02), pytest.param(500, 0.5, marks=[pytest.mark.slow, pytest.mark.timeout(300)])],
)
def test_jobs_go_on_where_they_were_when_the_server_is_killed_and_comes_back(
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
            until(lambda: observer.away, "nobody found the server away")
            gate.count(2)
            with pytest.raises(StoreUnavailable):
                site.jobs.status(ids[0])
            assert refused(site)["error"] == "StoreUnavailable"
            answer = site.client.get(status)
            assert (answer.status, int(answer.headers["retry-after"]) > 0) == (503, True)
            assert site.client.get("/ready").status == 200

            database.start()
            versions = {job_id: observer.version(job_id) for job_id in ids}
            until(lambda: all(observer.version(job_id) > versions[job_id] for job_id in ids), "reports do not go on")
            gate.count(2)
            gate.enough()
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
    assert told(before) == []
    assert len(told(log)) <= PROCESSES, "\n".join(told(log)[:40])


@pytest.mark.slow
def test_a_worker_request_that_finds_the_store_away_is_sent_again(database: PrivateServer, tmp_path: Path) -> None:
    here, go_on, answers = Event(), Event(), list[bytes]()

    def treat(passage: Passage) -> None:
        if passage.number == 0:
            here.set()
            assert go_on.wait(WAIT)
        answers.append(passage.relay(passage.send_on()))

    with Proxy(treat) as proxy, outage_site(database.url, tmp_path, KINDS["werkzeug"], **proxy.settings) as site:
        assert isinstance(site.client.address, tuple)
        proxy.upstream = site.client.address
        job_id = site.start("/work/none", as_current_user=False)
        assert here.wait(WAIT)
        database.kill()
        go_on.set()
        until(lambda: answers, "the worker request was not answered")
        assert answers[0].startswith(b"HTTP/1.1 503 ")
        assert b"\r\nbackjob-refusal: unavailable\r\n" in answers[0]
        database.start()
        state = end_of(site, job_id)
        assert (state.status, site.runs(job_id)) == (Status.COMPLETED, 1)
        job = site.jobs.store.get(job_id)
        assert job is not None
        assert job.attempt >= 2


@pytest.mark.slow
def test_a_job_that_falls_due_while_the_store_is_away_is_delivered_afterwards(
    database: PrivateServer, tmp_path: Path
) -> None:
    with outage_site(database.url, tmp_path) as site:
        job_id = site.start("/work/none", as_current_user=False, delay=0.5)
        due = site.jobs.status(job_id).start_time
        database.kill()
        until(lambda: datetime.now(UTC) > due + timedelta(seconds=0.2), "time stands still")
        database.start()
        assert (end_of(site, job_id).status, site.runs(job_id)) == (Status.COMPLETED, 1)


def test_a_process_that_is_started_while_its_store_is_away_begins_to_work_when_it_comes(
    database: PrivateServer, tmp_path: Path
) -> None:
    database.kill()
    with outage_site(database.url, tmp_path) as site:
        assert refused(site)["error"] == "StoreUnavailable"
        assert site.client.get("/ready").status == 200
        database.start()
        state = site.run("/work/none", as_current_user=False)
        assert (state.status, site.runs(state.id)) == (Status.COMPLETED, 1)


def test_calls_of_many_threads_fail_at_once_while_the_server_is_away(database: PrivateServer) -> None:
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
            until(lambda: all(one.done() for one in started), "calls hang while the server is away")
        finally:
            stop.set()
        for one in started:
            one.result(WAIT)
        assert len(refusals) == threads * calls


# --- answers that are lost ------------------------------------------------------------------------------------------


@contextmanager
def cut_off(database: PrivateServer) -> Iterator[tuple[CuttingProxy, Store, Store]]:
    """A proxy, a store behind it, and the same store beside it."""
    with (
        CuttingProxy(database.port) as proxy,
        closing(open_store(database.url_by(proxy.port))) as store,
        closing(open_store(database.url)) as beside,
    ):
        yield proxy, store, beside


def claimed_job(store: Store, job_id: str) -> Running:
    """A job that was created and claimed, and to which no time passes."""
    store.create(Draft(id=job_id, request=Request("GET", "/work")))
    job = store.change(job_id, *claimed("the token"))
    assert job is not None
    return Running(job, "the token", store=store, clock=FakeClock(), max_output=1 << 20, dirty=lambda _: None)


def test_a_report_whose_answer_is_lost_stands_once(database: PrivateServer) -> None:
    with cut_off(database) as (proxy, store, beside):
        running = claimed_job(store, "job")
        running.set_progress(1)  # is written at once, and nothing else is before it is told to
        fates, lines = [], list[str]()
        for number in range(20):
            stood = beside.get("job")
            store.get("job")  # so that it is connected
            lines.append(line(number))
            running.write(lines[-1])
            proxy.cut_after(number)
            running.flush()
            stands = beside.get("job")
            assert stood is not None
            assert stands is not None
            if not proxy.has_cut():
                break
            fates.append(stands.output_size > stood.output_size)
        assert True in fates, "no answer was lost of what had been written"
        ended = running.end(completed())
        assert ended is not None
        assert ended.status is Status.COMPLETED
        assert beside.output("job").text == "".join(lines)


def test_an_end_whose_answer_is_lost_is_found_and_told(database: PrivateServer) -> None:
    with cut_off(database) as (proxy, store, beside):
        fates = []
        for number in range(20):
            job_id = f"job {number}"
            running = claimed_job(store, job_id)
            proxy.cut_after(number)
            try:
                told = running.end(completed("done"))
            except StoreUnavailable:
                stands = beside.get(job_id)
                assert stands is not None
                fates.append(stands.status is Status.COMPLETED)
                told = running.end(completed("done"))
            assert told is not None
            assert (told.status, told.status_text) == (Status.COMPLETED, "done")
            if not proxy.has_cut():
                break
        assert True in fates, "no answer was lost of what had been written"
