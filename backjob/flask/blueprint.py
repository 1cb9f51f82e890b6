"""The status routes as a blueprint: within the request context, so that sessions and logins say who asks."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter

from backjob.jobs import facade as core
from backjob.status.endpoints import Ask, Endpoints
from backjob.wsgi import serving_of

__all__ = ["status_blueprint"]

_ASSET: Final = '/<any("progress.js", "progress.css"):name>'
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class _Rest(BaseConverter):
    """All that follows, be it what it may: Werkzeug's own path has neither line breaks nor a slash to begin with."""

    regex = r"(?s:.+)"
    part_isolating = False


def _know_the_rest(state: BlueprintSetupState) -> None:
    state.app.url_map.converters.setdefault("backjob_rest", _Rest)


def status_blueprint(jobs: core.BackJob, prefix: str) -> Blueprint:
    """The routes below ``prefix``. ``url_for("backjob.asset", name="progress.js")`` is the progress element's script;
    of a job's address `status_url` knows.
    """
    endpoints = Endpoints(jobs, prefix)
    blueprint = Blueprint("backjob", __name__, url_prefix=prefix)

    def answer(**_: str) -> Response:
        answer = endpoints.answer(
            Ask(
                method=request.method,
                path=request.path.removeprefix(prefix),
                query=request.query_string.decode("latin-1"),
                headers=tuple(request.headers.items()),
                owner=jobs.current_owner(),
                mount=serving_of(request.environ).mount + prefix,
            )
        )
        # A list: of bytes it would set the length, and that of the answer to HEAD is not 0.
        body = [answer.body] if answer.stream is None else answer.stream
        return Response(body, answer.status, list(answer.headers))

    blueprint.record_once(_know_the_rest)
    for rule, endpoint in ((_ASSET, "asset"), ("/<backjob_rest:rest>", "status")):
        blueprint.add_url_rule(
            rule, endpoint, answer, methods=_METHODS, provide_automatic_options=False, merge_slashes=False
        )
    return blueprint
