"""A site that is traced and measured, for WSGI (``app``) and ASGI (``asgi``): its spans stay in memory, and it shows them.

``/outer`` is an action that starts ``/inner``, and ``/fails`` one that fails.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from backjob import asgi as backjob_asgi
from backjob import wsgi as backjob_wsgi
from backjob.telemetry.prometheus import collector
from backjob.transports.sockets import SocketTransport
from tests.scenarios.sites import jobs_at

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["app", "asgi", "jobs", "spans"]

_exporter = InMemorySpanExporter()
_provider = TracerProvider()
_provider.add_span_processor(SimpleSpanProcessor(_exporter))
trace.set_tracer_provider(_provider)

_transport = SocketTransport(os.environ["SITE_URL"]) if "SITE_URL" in os.environ else SocketTransport
jobs = jobs_at(Path(os.environ["SITE_DIRECTORY"]), _transport, opentelemetry=True, prometheus=True)


def spans() -> str:
    """All ended spans of this process, as a list in JSON."""
    return f"[{','.join(span.to_json() for span in _exporter.get_finished_spans())}]"


def metrics() -> str:
    """What Prometheus reads."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY).decode()
    registry = CollectorRegistry()
    untyped: Any = MultiProcessCollector
    untyped(registry)
    registry.register(collector)
    return generate_latest(registry).decode()


def start(query: str) -> str:
    """Start jobs of a route. Returns their ids."""
    [path], [count] = (parse_qs(query)[name] for name in ("path", "count"))
    return json.dumps([jobs.start(path, {"token": "of the query"}, as_current_user=False) for _ in range(int(count))])


def _app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    status, text = "200 OK", "ready"
    match environ["PATH_INFO"]:
        case "/outer":
            jobs.start("/inner", as_current_user=False)
        case "/fails":
            status = "404 Not Found"
        case "/start":
            text = start(environ["QUERY_STRING"])
        case "/spans":
            text = spans()
        case "/metrics":
            text = metrics()
    start_response(status, [("Content-Type", CONTENT_TYPE_LATEST), ("Content-Length", str(len(text.encode())))])
    return [text.encode()]


async def _asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    if scope["path"] == "/outer":
        await jobs.astart("/inner", as_current_user=False)
    text = spans() if scope["path"] == "/spans" else ""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})


app = backjob_wsgi.BackJobMiddleware(_app, jobs)
asgi = backjob_asgi.HideSignature(OpenTelemetryMiddleware(backjob_asgi.BackJobMiddleware(_asgi, jobs)))
