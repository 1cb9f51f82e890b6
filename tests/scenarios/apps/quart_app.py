"""The scenario site as a Quart application."""

# mypy: disable-error-code="method-assign"
# Quart documents assignment to asgi_app for adding a middleware; mypy sees a method.

from __future__ import annotations

from typing import Any

from quart import Quart, Response, g, got_request_exception, request, url_for

from backjob.asgi import BackJobMiddleware
from tests.scenarios.apps.plain import make_jobs
from tests.scenarios.apps.scopes import mounted, visit_of
from tests.scenarios.coroutines import answer_async
from tests.scenarios.site import METHODS, answer

__all__ = ["app", "bare", "jobs"]

jobs = make_jobs()
bare = Quart("scenarios")


@bare.before_request
async def read() -> None:
    """Read the body for the handler that is not a coroutine and can't read it."""
    g.body = await request.get_data()


@bare.route("/coroutine/<name>")
async def coroutine(name: str) -> Response:
    """The coroutine actions."""
    reply = await answer_async(jobs, visit_of(request.scope, b""))
    return Response(reply.body, content_type="text/plain; charset=utf-8")


@bare.route("/by-url")
async def by_url() -> dict[str, str]:
    """Start the coroutine "report" by its URL."""
    return {"id": await jobs.astart(url_for("coroutine", name="report", _external=True))}


@bare.route("/<path:path>", methods=list(METHODS))
def site(path: str) -> Response:
    """Every page of the site."""
    reply = answer(jobs, visit_of(request.scope, g.body))
    return Response(reply.body, reply.status, dict(reply.headers), content_type=reply.content_type)


async def _note(_app: Quart, exception: Exception, **_: Any) -> None:
    jobs.note_error(exception)


got_request_exception.connect(_note, bare)
bare.asgi_app = BackJobMiddleware(bare.asgi_app, jobs)
app = mounted(bare)
