"""`immediate` and `recorded`, the tools for tests of an application."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from backjob import BackJob, InvalidRequest, Status
from backjob.jobs import engine_of
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.testing import immediate, recorded
from backjob.wsgi import BackJobMiddleware
from tests.unit.core import COOKIE, KEY, FakeTransport, served


@pytest.fixture
def jobs() -> BackJob:
    return BackJob(store=MemoryStore(), transport=FakeTransport(), signer=MessageSigner(KEY))


class App:
    """An application with a few actions, which record what they see in ``seen``."""

    def __init__(self, jobs: BackJob) -> None:
        self.jobs = jobs
        self.seen: list[dict[str, Any]] = []
        self.wsgi = BackJobMiddleware(self._app, jobs)

    def _app(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        self.seen.append({**environ, "body": environ["wsgi.input"].read(), "background": self.jobs.is_background})
        path = environ["PATH_INFO"]
        if path == "/boom":
            raise ValueError("boom")
        if path == "/fail":
            self.jobs.fail("on purpose")
        if path == "/parent":
            self.jobs.start("/child")
        print(f"at {path}")
        self.jobs.update(50)
        self.jobs.finish("done", {"n": 1})
        start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", "2")])
        return [b"ok"]


def test_no_other_thread_renews_the_lease_of_an_immediate_job(jobs: BackJob) -> None:
    # It would read the store outside of the test's transaction, miss the job and declare its run lost.
    threads: list[object] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        threads.append(engine_of(jobs).leases._passes._thread)
        start_response("200 OK", [])
        return []

    with immediate(jobs, BackJobMiddleware(app, jobs)), served():
        jobs.start("/")
    assert threads == [None]


def test_immediate_runs_the_action_before_start_returns(jobs: BackJob) -> None:
    app = App(jobs)
    with immediate(jobs, app.wsgi), served():
        job_id = jobs.start("/wörk", {"a": "b c"}, method="POST", json={"n": 5})
    state = jobs.status(job_id)
    assert (state.status, state.status_text, state.result) == (Status.COMPLETED, "done", {"n": 1})
    assert jobs.output(job_id).text == "at /wÃ¶rk\nok"
    [seen] = app.seen
    assert (seen["REQUEST_METHOD"], seen["QUERY_STRING"], seen["body"]) == ("POST", "a=b%20c", b'{"n": 5}')
    assert (seen["HTTP_COOKIE"], seen["HTTP_HOST"], seen["REMOTE_ADDR"]) == (COOKIE, "shop.example", "192.0.2.7")
    assert seen["background"]


@pytest.mark.parametrize(("path", "text"), [("/boom", "ValueError: boom"), ("/fail", "on purpose")])
def test_a_failing_action_fails_its_job_but_not_the_test(jobs: BackJob, path: str, text: str) -> None:
    with immediate(jobs, App(jobs).wsgi):
        state = jobs.status(jobs.start(path, as_current_user=False))
    assert (state.status, state.status_text) == (Status.FAILED, text)


def test_immediate_skips_delays_and_runs_jobs_started_by_jobs(jobs: BackJob) -> None:
    app = App(jobs)
    with immediate(jobs, app.wsgi), served():
        jobs.start("/parent", delay=3600)
    assert [seen["PATH_INFO"] for seen in app.seen] == ["/parent", "/child"]
    assert [state.status for state in jobs.find()] == [Status.COMPLETED] * 2
    assert not jobs.is_background


@pytest.mark.parametrize("limits", [{}, {"max_running": 1}, {"queues": {"default": {"max_running": 1}}}])
def test_jobs_that_jobs_start_need_no_place_beside_them(limits: dict[str, Any]) -> None:
    jobs = BackJob(store=MemoryStore(), transport=FakeTransport(), signer=MessageSigner(KEY), **limits)
    statuses: list[Status] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        number = int(environ["PATH_INFO"][1:])
        if number:
            statuses.append(jobs.status(jobs.start(f"/{number - 1}", as_current_user=False)).status)
        start_response("204 No Content", [])
        return []

    with immediate(jobs, BackJobMiddleware(app, jobs)):
        jobs.start("/6", as_current_user=False)
    assert statuses == [Status.COMPLETED] * 6
    assert [state.status for state in jobs.find()] == [Status.COMPLETED] * 7


def test_without_the_middleware_the_job_fails_with_a_hint(jobs: BackJob) -> None:
    def bare(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b""]

    with immediate(jobs, bare):
        state = jobs.status(jobs.start("/work", as_current_user=False))
    assert state.status is Status.FAILED
    assert "the middleware did not claim the job" in state.status_text


def test_recorded_lists_the_jobs_started_and_sends_nothing(jobs: BackJob) -> None:
    with recorded(jobs) as started:
        with served():
            first = jobs.start("/a", {"x": 1}, owner="ann", scope="s")
        second = jobs.start("/b", method="POST", body=b"x", as_current_user=False)
    assert [one.job_id for one in started] == [first, second]
    assert (started[0].request.target, started[0].owner, started[0].scope) == ("/a?x=1", "ann", "s")
    assert [one.as_current_user for one in started] == [True, False]
    assert COOKIE not in repr(started)
    assert jobs.status(first).status is Status.STARTED


@pytest.mark.parametrize("how", ["immediate", "recorded"])
def test_monitor_and_transport_are_restored_after_an_exception(jobs: BackJob, how: str) -> None:
    before = engine_of(jobs).monitor, jobs.transport
    context: Any = immediate(jobs, App(jobs).wsgi) if how == "immediate" else recorded(jobs)
    within: list[object] = []

    def use() -> None:
        with context:
            within.append(engine_of(jobs).monitor)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert within != [before[0]]
    assert (engine_of(jobs).monitor, jobs.transport) == before


@pytest.mark.parametrize("has_engine", [True, False])
def test_immediate_also_runs_jobs_that_other_processes_deliver(has_engine: bool) -> None:
    handed: list[str] = []
    elsewhere: dict[str, Any] = {"queues": {"default": {"dispatch": handed.append}}} if has_engine else {"deliver": []}
    jobs = BackJob(store=MemoryStore(), transport=FakeTransport(), signer=MessageSigner(KEY), **elsewhere)
    with immediate(jobs, App(jobs).wsgi):
        state = jobs.status(jobs.start("/work", as_current_user=False))
        assert (state.status, state.status_text) == (Status.COMPLETED, "done")
        with served(), pytest.raises(InvalidRequest, match="delivered by other processes"):
            jobs.start("/work")
    with recorded(jobs) as started:
        jobs.start("/work", as_current_user=False)
    assert (len(started), handed) == (1, [])
