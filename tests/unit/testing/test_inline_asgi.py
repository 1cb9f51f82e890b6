"""`immediate` with ASGI applications: the action runs on the loop of its caller, if that is free."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest

from backjob import BackJob, Status
from backjob.asgi import BackJobMiddleware
from backjob.errors import InvalidRequest
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing import dies_at, immediate
from backjob.wsgi import BackJobMiddleware as WSGIMiddleware
from tests.unit.core import KEY, FakeTransport

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it prefers a package that is not installed
    from starlette.testclient import TestClient


@pytest.fixture
def jobs() -> BackJob:
    return BackJob(store=MemoryStore(), transport=FakeTransport(), signer=MessageSigner(KEY), slice_time=0)


class Site:
    """A FastAPI application; ``loops`` are those on which its actions ran."""

    def __init__(self, jobs: BackJob) -> None:
        self.jobs = jobs
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.done: list[int] = []
        self.failures = 2
        app = FastAPI(lifespan=self._lifespan)
        app.add_api_route("/awaits", self.awaits, methods=["POST"])
        app.add_api_route("/in-a-thread", self.in_a_thread, methods=["POST"])
        app.add_api_route("/blocks", self.blocks, methods=["POST"])
        app.add_api_route("/work", self.work)
        app.add_api_route("/parent", self.parent)
        app.add_api_route("/slices", self.slices)
        app.add_api_route("/fails-twice", self.fails_twice)
        app.add_middleware(BackJobMiddleware, jobs=jobs)
        self.app = app

    @asynccontextmanager
    async def _lifespan(self, app: FastAPI) -> AsyncIterator[dict[str, str]]:
        yield {"pool": "open"}

    async def awaits(self) -> str:
        return await self.jobs.astart("/work")

    def in_a_thread(self) -> str:
        return self.jobs.start("/work")

    async def blocks(self) -> str:
        return self.jobs.start("/work")

    async def work(self, request: FastAPIRequest, number: int = 0) -> str:
        self.loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        self.done.append(number)
        return str(getattr(request.state, "pool", "no lifespan"))

    async def parent(self) -> list[str]:
        return await asyncio.gather(*(self.jobs.astart("/work", {"number": number}) for number in (1, 2)))

    async def slices(self) -> str:
        async for number in self.jobs.atrack(range(5), resume="each"):
            self.done.append(number)
        return "all"

    def fails_twice(self) -> str:
        for number in self.jobs.track(range(self.failures, 3), "failing"):
            self.failures -= 1
            if number < 3:
                raise ValueError(number)
        return "at last"


@pytest.fixture
def site(jobs: BackJob) -> Site:
    return Site(jobs)


async def _result(jobs: BackJob, job_id: str) -> tuple[Status, Any]:
    state = await jobs.astatus(job_id)
    return state.status, state.result


def test_astart_runs_the_action_on_its_own_loop_before_it_returns(jobs: BackJob, site: Site) -> None:
    async def main() -> None:
        with immediate(jobs, site.app):
            job_id = await jobs.astart("/work", as_current_user=False)
            assert await _result(jobs, job_id) == (Status.COMPLETED, "no lifespan")
            assert site.loops == [asyncio.get_running_loop()]

    asyncio.run(main())


@pytest.mark.parametrize("path", ["/awaits", "/in-a-thread"])
def test_a_handler_has_its_job_run_on_the_loop_that_serves_it(jobs: BackJob, site: Site, path: str) -> None:
    with TestClient(site.app) as client, immediate(jobs, site.app):
        assert client.portal is not None
        loop = client.portal.call(asyncio.get_running_loop)
        state = jobs.status(client.post(path).json())
    assert (state.status, state.result) == (Status.COMPLETED, "open")
    assert site.loops == [loop]


def test_a_coroutine_that_calls_start_has_its_job_run_on_another_loop(jobs: BackJob, site: Site) -> None:
    with TestClient(site.app) as client, immediate(jobs, site.app):
        state = jobs.status(client.post("/blocks").json())
        assert client.portal is not None
        assert site.loops != [client.portal.call(asyncio.get_running_loop)]
    assert state.status is Status.COMPLETED


def test_without_any_loop_all_jobs_of_the_block_run_on_one(jobs: BackJob, site: Site) -> None:
    with immediate(jobs, site.app):
        for _ in range(2):
            assert jobs.status(jobs.start("/work", as_current_user=False)).status is Status.COMPLETED
    assert site.loops[0] is site.loops[1]
    assert site.loops[0].is_closed()


def test_jobs_that_an_action_starts_at_once_run_one_after_the_other(jobs: BackJob, site: Site) -> None:
    async def main() -> None:
        with immediate(jobs, site.app):
            both = (jobs.astart("/parent", as_current_user=False) for _ in range(2))
            await asyncio.gather(*both)

    asyncio.run(main())
    assert sorted(site.done) == [1, 1, 2, 2]
    assert [state.status for state in jobs.find()] == [Status.COMPLETED] * 6


def test_slices_and_retries_run_to_the_end_without_sleeping(
    jobs: BackJob, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with immediate(jobs, site.app):
        sliced = jobs.status(jobs.start("/slices", as_current_user=False))
        retried = jobs.status(jobs.start("/fails-twice", as_current_user=False, retries=2, retry_delay=3600))
    assert (sliced.status, sliced.result, site.done) == (Status.COMPLETED, "all", [0, 1, 2, 3, 4])
    assert len(sliced.history) == 4
    assert retried.status is Status.FAILED
    assert [entry["reason"] for entry in retried.history] == ["ValueError: 2", "ValueError: 1"]


# --- dies_at --------------------------------------------------------------------------------------------------------


class Loop:
    """A WSGI application whose action works through ten items."""

    def __init__(self, jobs: BackJob, resume: bool | str) -> None:
        self.jobs = jobs
        self.resume = resume
        self.done: list[int] = []
        self.wsgi = WSGIMiddleware(self._app, jobs)

    def _app(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        try:
            for number in self.jobs.track(range(10), "counting", resume=self.resume):
                self.done.append(number)
        except Exception:
            self.done.append(-1)
        start_response("200 OK", [])
        yield b""


@pytest.fixture
def long_jobs() -> BackJob:
    return BackJob(store=MemoryStore(), transport=FakeTransport(), signer=MessageSigner(KEY))


def test_a_job_whose_process_dies_fails_without_retries(long_jobs: BackJob) -> None:
    site = Loop(long_jobs, resume=False)
    with immediate(long_jobs, site.wsgi), dies_at(4):
        state = long_jobs.status(long_jobs.start("/", as_current_user=False))
    assert (state.status, state.status_text) == (Status.FAILED, "the process that ran it ended")
    assert site.done == [0, 1, 2]


def test_a_job_whose_process_dies_runs_again_from_its_checkpoint(long_jobs: BackJob) -> None:
    site = Loop(long_jobs, resume="each")
    with immediate(long_jobs, site.wsgi), dies_at(4):
        state = long_jobs.status(long_jobs.start("/", as_current_user=False, retries=1))
    assert (state.status, state.progress) == (Status.COMPLETED, 100)
    assert site.done == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert [entry["reason"] for entry in state.history] == ["the process that ran it ended"]


def test_what_was_not_written_when_the_process_died_is_lost(long_jobs: BackJob) -> None:
    site = Loop(long_jobs, resume=True)
    with immediate(long_jobs, site.wsgi), dies_at(4):
        state = long_jobs.status(long_jobs.start("/", as_current_user=False, retries=1))
    assert state.status is Status.COMPLETED
    assert site.done[:3] == [0, 1, 2]
    assert site.done[3] in (0, 1, 2)  # the items of the last moment may be repeated
    assert site.done[-1] == 9


def test_an_async_loop_dies_too(jobs: BackJob, site: Site) -> None:
    with immediate(jobs, site.app), dies_at(3):
        state = jobs.status(jobs.start("/slices", as_current_user=False, retries=1))
    assert (state.status, site.done) == (Status.COMPLETED, [0, 1, 2, 3, 4])
    assert "the process that ran it ended" in [entry["reason"] for entry in state.history]


def test_a_loop_that_never_comes_so_far_fails_the_test(long_jobs: BackJob) -> None:
    site = Loop(long_jobs, resume=False)
    with pytest.raises(AssertionError, match="only 10 items were begun"), immediate(long_jobs, site.wsgi), dies_at(11):
        long_jobs.start("/", as_current_user=False)
    with pytest.raises(InvalidRequest, match="item: must be 1 or more"), dies_at(0):
        pass
    assert site.done[-1] == 9
