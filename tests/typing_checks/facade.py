"""Checked by mypy and pyright, never run: the public API as an application uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import BinaryIO, assert_type

from backjob import BackJob, JobState, Status
from backjob.model import JsonValue, Output, Request
from backjob.protocols import Transport
from backjob.signing import MessageSigner
from backjob.stores import open_store
from backjob.testing import immediate, recorded
from backjob.testing.inline import Started
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware, StatusApp


def owner(request: Request) -> str | None:
    return request.header("x-user")


async def may_see_all(request: Request) -> bool:
    return request.header("x-role") == "staff"


jobs = BackJob(
    store=open_store("sqlite:///jobs.db"),
    transport=SocketTransport("http://127.0.0.1:8000"),
    signer=MessageSigner("key"),
    owner=owner,
    may_see_all=may_see_all,
    may_manage_all=lambda request: request.header("x-role") == "admin",
    public_url="https://www.example.com",
    trusted_origins=["https://app.example.com"],
    error_timeout=60,
    retention_days=0.5,
    on_end=lambda state: state.status is Status.FAILED,
    seal=True,
    run_lease=18,
    max_running=4,
    queues={"exports": {"max_running": 2}},
    slice_time=20,
    drain_time=timedelta(seconds=25),
)
learnt = BackJob(open_store("memory:"), SocketTransport, MessageSigner(b"key"))


def an_unknown_setting_is_an_error(transport: Transport) -> BackJob:
    return BackJob(open_store("memory:"), transport, MessageSigner("key"), timeout=5)  # type: ignore[call-arg]


def starting() -> None:
    assert_type(jobs.start("/reports/work"), str)
    assert_type(jobs.start("/work", {"id": 5, "tags": ["a", "b"], "none": None}, method="GET", scope="reports"), str)
    jobs.start("/work", method="POST", form=[("a", 1)], delay=timedelta(minutes=5), merge="pending", owner=None)
    jobs.start("/work", method="POST", json={"a": [1, None]}, delay=datetime(2030, 1, 1, tzinfo=UTC), owner="ann")
    jobs.start("/work", method="PUT", body=b"x", headers={"X-A": "b"}, as_current_user=False, error_timeout=5.5)
    jobs.start(
        "/work", error_timeout=timedelta(minutes=5), retry_delay=timedelta(seconds=5), expires=timedelta(hours=1)
    )
    jobs.start(
        "/work",
        retries=3,
        retry_delay=timedelta(seconds=30),
        queue="exports",
        expires=timedelta(hours=1),
        as_owner=True,
        title="Invoices 2026",
        key="invoices-2026",
        keep_request=True,
    )


def listing() -> None:
    states = jobs.find(status=Status.FAILED, queue="exports", q="invoices", limit=10)
    assert_type(states, list[JobState])
    jobs.find(before=states[-1].position)
    assert_type(jobs.run_again(states[0].id), str)
    assert_type(jobs.delete(states[0].id), bool)
    assert_type(jobs.delete_all(owner="5"), int)
    assert_type(jobs.status_url(states[0].id, absolute=True), str)


async def listing_in_a_coroutine() -> None:
    assert_type(await jobs.afind(q="invoices"), list[JobState])
    assert_type(await jobs.arun_again("id"), str)
    assert_type(await jobs.adelete("id"), bool)
    assert_type(await jobs.adelete_all(owner="5"), int)
    jobs.start("/work", retries=3, retry_delay=0.5, expires=datetime(2030, 1, 1, tzinfo=UTC))
    jobs.start("/work", retries=0.5)  # type: ignore[arg-type]
    jobs.start("/work", merge="always")  # type: ignore[arg-type]


def watching(job_id: str) -> None:
    assert_type(jobs.status(job_id), JobState)
    assert_type(jobs.status(job_id).as_dict(), dict[str, JsonValue])
    assert_type(jobs.status(job_id).attempt, int)
    assert_type(jobs.status(job_id).history, Sequence[Mapping[str, JsonValue]])
    assert_type(jobs.status(job_id).waiting_for, str | None)
    assert_type(jobs.exists(job_id), bool)
    assert_type(jobs.scope(job_id), str)
    assert_type(jobs.output(job_id, offset=5), Output)
    assert_type(jobs.find(scope="a", status=Status.FAILED, owner="ann", limit=5, before=job_id), list[JobState])
    assert_type(jobs.watch(job_id), Iterator[JobState])
    assert_type(jobs.join(job_id, timeout=5), JobState)
    assert_type(jobs.cancel(job_id), bool)
    assert_type(jobs.cleanup(), int)
    assert_type(jobs.status_url(job_id, cancel=True), str)


def an_action(rows: Iterable[bytes], pool: ThreadPoolExecutor) -> str:
    assert_type(jobs.is_background, bool)
    assert_type(jobs.job_id, str | None)
    jobs.update(20)
    jobs.update(3, total=7)
    jobs.update(60, "Chugging along")
    jobs.update(status_text="…")
    jobs.increment(0.5)
    for row in jobs.track(rows, "Reading", total=5):
        assert_type(row, bytes)

    for row in jobs.track(rows, "Reading", resume=True):
        assert_type(row, bytes)
    for row in jobs.track(rows, resume="each"):
        assert_type(row, bytes)
    jobs.track(rows, resume=5)  # type: ignore[arg-type]
    assert_type(jobs.owner, str | None)
    assert_type(jobs.attempt, int | None)
    assert_type(jobs.cursor, JsonValue)
    assert_type(jobs.time_left, float)
    jobs.checkpoint({"row": 5, "on": datetime.now(UTC)})

    def work(row: bytes, *, times: int = 1) -> int:
        return len(row) * times

    assert_type(jobs.bind(work)(b"row", times=2), int)
    submitted: Future[int] = pool.submit(jobs.bind(work), b"row")
    jobs.echo(str(submitted.result()))
    jobs.bind(work)("row")  # type: ignore[arg-type]
    return jobs.finish("And done", result={"href": "/export.csv", "rows": [1, 2.5, None]})


def continuing_ends_the_action(row: int) -> int:
    jobs.continue_later(row)


def retrying_ends_the_action() -> int:
    jobs.retry(timedelta(minutes=5), "not yet")


def failing_ends_the_action() -> int:
    jobs.fail("Error occurred")


def failing_another_job_does_not(job_id: str) -> int:
    assert_type(jobs.fail("Error occurred", job_id=job_id), None)
    jobs.finish("by hand", job_id=job_id)
    return 5


@jobs.background_only
def guarded(number: int) -> str:
    return str(number)


@jobs.background_only
async def guarded_async(number: int) -> str:
    return str(number)


async def the_async_twins(job_id: str, rows: AsyncIterator[int]) -> None:
    assert_type(guarded(5), str)
    assert_type(await guarded_async(5), str)
    assert_type(await jobs.astart("/work", {"a": 1}, method="POST", json=[1], merge="unfinished"), str)
    assert_type(await jobs.astatus(job_id), JobState)
    assert_type(await jobs.aexists(job_id), bool)
    assert_type(await jobs.ascope(job_id), str)
    assert_type(await jobs.acleanup(), int)
    await jobs.afail("no", job_id=job_id)
    assert_type(await jobs.aoutput(job_id, 5), Output)
    assert_type(await jobs.aopen_file(job_id), BinaryIO)
    assert_type(await jobs.acancel(job_id), bool)
    assert_type(await jobs.ajoin(job_id, timeout=5), JobState)
    assert_type(await jobs.afinish("done", {"a": 1}), str)
    await jobs.aupdate(3, total=7)
    await jobs.aincrement()
    async for row in jobs.atrack(rows, "Reading"):
        assert_type(row, int)
    async for row in jobs.atrack(rows, "Reading", resume="rows"):
        assert_type(row, int)
    await jobs.acheckpoint(5)
    async for letter in jobs.atrack("abc"):
        assert_type(letter, str)
    async for state in jobs.awatch(job_id):
        assert_type(state, JobState)
    await jobs.astart("/work", tries=5)  # type: ignore[call-arg]


async def continuing_ends_the_async_action() -> int:
    await jobs.acontinue_later(5)


def around(app: Callable[..., Iterable[bytes]]) -> None:
    wrapped = BackJobMiddleware(app, jobs, status=False)
    StatusApp(jobs)
    with immediate(jobs, wrapped), jobs as same:
        assert_type(same, BackJob)
    with recorded(jobs) as started:
        assert_type(started, list[Started])
