"""The spans of jobs: their parents, attributes and statuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode

from backjob import BackJob, InvalidRequest, Status
from backjob.errors import JobContinued, JobFailed
from backjob.jobs import engine_of
from backjob.model import Request
from backjob.observers import Observers
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.telemetry.tracing import Tracing
from backjob.transports.inprocess import InProcessTransport
from backjob.transports.sockets import SocketTransport
from backjob.worker.outcomes import Outcome
from backjob.wsgi import BackJobMiddleware
from tests.unit.core import KEY, Here, served
from tests.unit.telemetry.spans import attributes, traced


def test_the_span_of_a_run_is_the_child_of_the_span_of_its_start() -> None:
    site = traced()
    running = site.world.run(path="/work?name=Ada", queue="exports", retries=1)
    site.world.engine.worker.end(running, Outcome(200))
    start, run = site.spans["start exports"], site.spans["run exports"]
    assert start.parent is None
    assert run.parent == sent_by(start.context)
    assert (start.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert attributes(start) == {
        "messaging.system": "backjob",
        "messaging.operation.name": "start",
        "messaging.operation.type": "send",
        "messaging.destination.name": "exports",
        "messaging.message.id": running.job.id,
        "http.request.method": "GET",
        "url.path": "/work",
    }
    assert attributes(run) == {
        **attributes(start),
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "backjob.run": 1,
        "backjob.attempt": 1,
        "backjob.status": "COMPLETED",
        "http.response.status_code": 200,
    }
    assert (start.status.status_code, run.status.status_code) == (StatusCode.UNSET, StatusCode.UNSET)


def sent_by(found: trace.SpanContext | None) -> trace.SpanContext:
    assert found is not None
    return trace.SpanContext(found.trace_id, found.span_id, True, found.trace_flags, found.trace_state)


def test_a_job_that_an_action_starts_continues_the_tree_in_every_thread() -> None:
    site = traced()
    parent = site.world.run(queue="outer")
    with parent.active():
        site.world.start(queue="inner")
        with ThreadPoolExecutor() as pool:
            pool.submit(site.world.jobs.bind(lambda: site.world.start(queue="threaded"))).result()
    site.world.start(queue="apart")
    site.world.engine.worker.end(parent, Outcome(200))
    run = site.spans["run outer"].context
    assert run is not None
    for name in ("start inner", "start threaded"):
        inner = site.spans[name].parent
        assert (inner and inner.span_id) == run.span_id, name
    assert site.spans["start apart"].parent is None


def test_the_action_sees_the_context_of_its_own_run() -> None:
    site = traced()
    token = context.attach(baggage.set_baggage("tenant", "north"))
    try:
        with site.provider.get_tracer("site").start_as_current_span("page"):
            running = site.world.run(headers={"Traceparent": f"00-{'1' * 32}-{'2' * 16}-01"})
    finally:
        context.detach(token)
    site.world.engine.worker.end(running, Outcome(200))
    run = site.spans["run default"]
    assert run.context is not None
    page = site.spans["page"].context
    assert page is not None
    assert run.context.trace_id == page.trace_id
    sent = {name: value for name, value in running.fields.items() if "trace" in name.lower() or name == "baggage"}
    own = f"00-{run.context.trace_id:032x}-{run.context.span_id:016x}-{run.context.trace_flags:02x}"
    assert sent == {"traceparent": own, "baggage": "tenant=north"}
    with running.active():
        assert baggage.get_baggage("tenant") == "north"


def test_without_a_span_of_the_page_the_start_continues_the_clients_trace() -> None:
    site = traced()
    client = f"00-{'a' * 32}-{'b' * 16}-01"
    with served(Here(Request("GET", "/page", (("Traceparent", client),)))):
        site.world.start()
    start = site.spans["start default"]
    assert start.parent is not None
    assert (f"{start.parent.trace_id:x}", f"{start.parent.span_id:x}") == ("a" * 32, "b" * 16)


def test_a_span_of_the_server_in_the_same_trace_is_the_parent_of_the_run() -> None:
    site = traced()
    site.world.start()
    site.world.step()
    start = site.spans["start default"].context
    assert start is not None
    server = site.provider.get_tracer("server").start_span(
        "GET /work", trace.set_span_in_context(trace.NonRecordingSpan(sent_by(start)))
    )
    with trace.use_span(server):
        running = site.world.receive()
    site.world.engine.worker.end(running, Outcome(200))
    parent = site.spans["run default"].parent
    assert parent is not None
    assert parent.span_id == server.get_span_context().span_id


@pytest.mark.parametrize(
    ("outcome", "kind", "description"),
    [
        (Outcome(500, error=ValueError("no rows")), "ValueError", "ValueError: no rows"),
        (Outcome(200, error=JobFailed("no such customer")), "failed", "no such customer"),
        (Outcome(404, "Not Found", message="No such page"), "404", "404 Not Found: No such page"),
        (Outcome(302, "Found", "/login?next=%2Fwork%3Fkey%3Dsecret"), "302", "302 Found"),
        (Outcome(503, "Service Unavailable"), "503", "503 Service Unavailable"),
    ],
    ids=["raises", "fails", "404", "redirect", "retried"],
)
def test_a_failed_run_sets_the_status_of_its_span(outcome: Outcome, kind: str, description: str) -> None:
    site = traced()
    running = site.world.run(retries=1 if outcome.status == 503 else 0)
    site.world.engine.worker.end(running, outcome)
    run = site.spans["run default"]
    assert (run.status.status_code, run.status.description) == (StatusCode.ERROR, description)
    assert attributes(run)["error.type"] == kind
    assert [event.name for event in run.events] == (["exception"] if kind == "ValueError" else [])
    assert "secret" not in run.to_json()


def test_each_run_of_a_job_has_a_span_and_a_slice_is_no_error() -> None:
    site = traced()
    running = site.world.run()
    site.world.engine.worker.end(running, Outcome(202, error=JobContinued()))
    site.world.step()
    site.world.engine.worker.end(site.world.receive(), Outcome(200))
    first, second = (span for span in site.exporter.get_finished_spans() if span.name == "run default")
    assert first.parent == second.parent
    assert [attributes(span).get("backjob.status") for span in (first, second)] == [None, "COMPLETED"]
    assert {span.status.status_code for span in (first, second)} == {StatusCode.UNSET}


def test_a_start_that_raises_sets_the_status_of_its_span() -> None:
    site = traced()
    with pytest.raises(InvalidRequest):
        site.world.start(retries=-1)
    start = site.spans["start default"]
    assert start.status.status_code is StatusCode.ERROR
    assert attributes(start)["error.type"] == "InvalidRequest"


def test_the_spans_of_the_database_are_below_the_start() -> None:
    site = traced()
    tracer = site.provider.get_tracer("database")
    site.world.store.before["create"] = lambda: tracer.start_span("INSERT").end()
    site.world.start()
    start, insert = site.spans["start default"].context, site.spans["INSERT"].parent
    assert start is not None
    assert insert is not None
    assert insert.span_id == start.span_id
    assert not trace.get_current_span().get_span_context().is_valid


def test_traces_do_not_keep_equal_jobs_from_merging() -> None:
    site = traced()
    assert site.world.start(merge="pending") == site.world.start(merge="pending")
    assert {attributes(span)["messaging.message.id"] for span in site.exporter.get_finished_spans()} == {
        site.world.jobs.find()[0].id
    }


def test_a_job_that_an_engine_carries_stays_in_the_trace_of_its_start() -> None:
    jobs = BackJob(MemoryStore(), SocketTransport("http://127.0.0.1:9"), MessageSigner(KEY), deliver=[])
    site, engine = traced(), engine_of(jobs)
    engine.observers = engine.worker._observers = Observers([Tracing(site.provider)], engine.clock)
    seen: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ["HTTP_TRACEPARENT"])
        start_response("200 OK", [])
        return []

    with closing(jobs), closing(InProcessTransport(BackJobMiddleware(app, jobs))) as transport:
        job_id = jobs.start("/work", as_current_user=False)
        with site.provider.get_tracer("engine").start_as_current_span("the engine's task"):
            assert jobs.deliver(job_id, transport=transport).status is Status.COMPLETED
    start, run = site.spans["start default"].context, site.spans["run default"]
    assert start is not None
    assert run.parent == sent_by(start)
    assert run.context is not None
    assert f"{run.context.span_id:016x}" in seen[0]
