"""The scenario site as a Flask application."""

from __future__ import annotations

from flask import Flask, Response, got_request_exception, request

from backjob.jobs import BackJob
from backjob.model import Request
from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.config import jobs_from_environment, mounted
from tests.scenarios.site import METHODS, Visit, answer, owner_in

__all__ = ["app", "flask_app", "jobs"]


def _owner(request: Request) -> str | None:
    return owner_in(request.header("cookie"))


jobs = jobs_from_environment(BackJob, owner=_owner)
flask_app = Flask("scenarios")


@flask_app.route("/<path:path>", methods=METHODS)
def site(path: str) -> Response:
    """Every page of the site."""
    reply = answer(jobs, _visit(f"/{path}"))
    return Response(reply.body, reply.status, dict(reply.headers), content_type=reply.content_type)


def _visit(path: str) -> Visit:
    return Visit(
        method=request.method,
        path=path,
        query=request.query_string.decode("latin-1"),
        raw=request.environ.get("REQUEST_URI") or request.environ.get("RAW_URI"),
        mount=request.root_path.rstrip("/"),
        headers={name.lower(): value for name, value in request.headers},
        body=request.get_data(),
        address=request.remote_addr or "",
        scheme=request.scheme,
        host=request.host,
        parameters=request.args.to_dict(),
    )


def _note_error(_: Flask, exception: BaseException) -> None:
    jobs.note_error(exception)


got_request_exception.connect(_note_error, flask_app)
flask_app.wsgi_app = BackJobMiddleware(flask_app.wsgi_app, jobs)  # type: ignore[method-assign]
app = mounted(flask_app)
