"""The scenario site as a Flask application."""

from __future__ import annotations

import flask
from flask import Flask, Response, request, url_for

from backjob.flask import BackJob
from tests.scenarios.apps.config import mounted, own_transport, prefixed, settings
from tests.scenarios.site import METHODS, Visit, answer, owner_in

__all__ = ["app", "behind_proxy", "flask_app", "jobs"]


def _owner(request: flask.Request) -> str | None:
    return owner_in(request.headers.get("Cookie"))


flask_app = Flask("scenarios")
flask_app.config.update(settings())
_transport = own_transport()
jobs = BackJob(owner=_owner) if _transport is None else BackJob(owner=_owner, transport=_transport)
jobs.init_app(flask_app)


@flask_app.route("/<path:path>", methods=METHODS)
def site(path: str) -> Response:
    """Every page of the site."""
    reply = answer(jobs, _visit(f"/{path}"))
    return Response(reply.body, reply.status, dict(reply.headers), content_type=reply.content_type)


@flask_app.route("/by-url")
def by_url() -> dict[str, str]:
    """Start the action "none" by its URL."""
    return {"id": jobs.start(url_for("site", path="work/none", _external=True))}


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


app = mounted(flask_app)
behind_proxy = prefixed(flask_app)
