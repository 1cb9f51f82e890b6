"""OpenTelemetry's spans of jobs: one for each call of ``start()``, and one for each run, as its child in any process.

The context travels as ``traceparent``, ``tracestate`` and ``baggage`` in the stored header fields of the job's request,
whichever propagators the application uses for others. No attribute has a query, a body, a credential or a signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from attrs import evolve
from opentelemetry import context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, TracerProvider
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backjob.errors import JobExit
from backjob.lifecycle import End
from backjob.model import Headers, Request
from backjob.model import Status as JobStatus
from backjob.observers import AtEnd, Observer, Run, RunEnd, Starting
from backjob.overriding import override

SCOPE: Final = "backjob"
"""The name of the tracer and the meter, and the value of ``messaging.system``."""

_PROPAGATOR: Final = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
_LONGEST_DESCRIPTION: Final = 500


class Tracing(Observer):
    """Makes the spans, with the application's tracer provider, or with the one that is passed."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer: Tracer = trace.get_tracer(SCOPE, tracer_provider=provider)

    @override
    def starting(self, starting: Starting) -> Callable[[BaseException | None], object]:
        request = starting.request
        is_traced = trace.get_current_span().get_span_context().is_valid
        # Nothing traces the request being served; but its client or its proxy may have sent a context.
        parent = context.get_current() if is_traced else _PROPAGATOR.extract(_carrier(request.headers))
        span = self._tracer.start_span(
            f"start {starting.queue}",
            parent,
            SpanKind.PRODUCER,
            _attributes("start", "send", starting.queue, request.method, request.path),
        )
        within = trace.set_span_in_context(span, parent)
        starting.request = _with_context(request, within)
        token = context.attach(within)  # so that spans of the database are below this one

        def at_end(error: BaseException | None) -> None:
            context.detach(token)
            _end_start(span, starting, error)

        return at_end

    @override
    def run_began(self, run: Run) -> AtEnd:
        job = run.job
        sent = _PROPAGATOR.extract({} if job.request is None else _carrier(job.request.headers), Context())
        here, origin = trace.get_current_span().get_span_context(), trace.get_current_span(sent).get_span_context()
        # What traces the worker request itself, outside of our middleware, has joined the same trace.
        is_inside = here.is_valid and here.trace_id == origin.trace_id
        parent = trace.set_span_in_context(trace.get_current_span(), sent) if is_inside else sent
        span = self._tracer.start_span(
            f"run {job.queue}",
            parent,
            SpanKind.CONSUMER,
            _attributes("run", "process", job.queue, job.method, job.path)
            | {"messaging.message.id": job.id, "backjob.run": job.run, "backjob.attempt": job.attempt},
        )
        within = trace.set_span_in_context(span, sent)
        fields: dict[str, str] = {}
        _PROPAGATOR.inject(fields, within)
        for name in [name for name in run.fields if name.lower() in fields]:
            del run.fields[name]
        run.fields.update(fields)
        run.surroundings.append(partial(_attached, within))
        return partial(_end_run, span)


def _attributes(name: str, kind: str, queue: str, method: str, path: str | None) -> dict[str, str | int]:
    """Return the attributes of the conventions for messaging and for HTTP."""
    return {
        "messaging.system": SCOPE,
        "messaging.operation.name": name,
        "messaging.operation.type": kind,
        "messaging.destination.name": queue,
        "http.request.method": method,
        "url.path": path or "",
    }


def _carrier(headers: Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


def _with_context(request: Request, within: Context) -> Request:
    fields: dict[str, str] = {}
    _PROPAGATOR.inject(fields, within)
    kept = tuple(field for field in request.headers if field[0].lower() not in fields)
    return evolve(request, headers=(*kept, *fields.items()))


@contextmanager
def _attached(within: Context) -> Iterator[None]:
    token = context.attach(within)
    try:
        yield
    finally:
        context.detach(token)


def _end_start(span: Span, starting: Starting, error: BaseException | None) -> None:
    if starting.job is not None:
        span.set_attribute("messaging.message.id", starting.job.id)
    if error is not None:
        _note_error(span, error, str(error))
    span.end()


def _end_run(span: Span, end: RunEnd) -> None:
    conclusion = end.conclusion
    if isinstance(conclusion, End):
        span.set_attribute("backjob.status", conclusion.status.name)
        text, has_failed = conclusion.text, conclusion.status is JobStatus.FAILED
    else:
        text, has_failed = conclusion.reason, conclusion.is_retry
    if end.status:
        span.set_attribute("http.response.status_code", end.status)
    if has_failed:
        error = None if isinstance(end.error, JobExit) else end.error
        if error is None and text and text.startswith(f"{end.status} "):
            text = text.partition(" → ")[0]  # a redirect's target may have a query
        _note_error(span, error, text or "", str(end.status) if end.status >= 300 else "failed")
    span.end()


def _note_error(span: Span, error: BaseException | None, text: str, kind: str = "") -> None:
    if error is not None:
        span.record_exception(error)
        kind = type(error).__qualname__
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, text[:_LONGEST_DESCRIPTION]))
