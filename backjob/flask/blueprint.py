"""The status routes as a blueprint: in the request context, so that sessions and logins identify the visitor."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, request
from flask.blueprints import BlueprintSetupState
from werkzeug.routing import BaseConverter

from backjob.http.environ import EnvironServing
from backjob.jobs import BackJob, engine_of
from backjob.status.endpoints import Endpoints, StatusResponse, Visit, not_configured

_ASSET: Final = '/<any("progress.js", "terminal.js", "words.js", "progress.css", "list.css", "list.js"):name>'
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class _Rest(BaseConverter):
    """Matches any rest of the path. Werkzeug's ``path`` matches no line breaks and no leading slash."""

    regex = r"(?s:.+)"
    part_isolating = False


def _add_converter(state: BlueprintSetupState) -> None:
    state.app.url_map.converters.setdefault("backjob_rest", _Rest)


def status_blueprint(jobs: BackJob, prefix: str) -> Blueprint:
    """Return the routes below ``prefix``.

    ``url_for("backjob.list")`` is the URL of the list, and ``url_for("backjob.asset", name="progress.js")`` the script's.
    """
    blueprint = Blueprint("backjob", __name__, url_prefix=prefix)

    def answer(**_: str) -> Response:
        try:
            engine = engine_of(jobs)
        except Exception:  # `LazyEngine` has logged it
            return respond(not_configured(request.headers.get("Accept")))
        here = EnvironServing(request.environ)
        return respond(
            Endpoints(engine, prefix).respond(
                Visit(
                    here.request,
                    path=request.path.removeprefix(prefix),
                    owner=engine.current_owner,
                    mount=here.mount + prefix,
                    sees_all=lambda: engine.may_see_all(request),
                    manages_all=lambda: engine.may_manage_all(request),
                    origin=here.origin,
                )
            )
        )

    def respond(answer: StatusResponse) -> Response:
        # In a list: from bytes Flask would compute Content-Length, which for HEAD must be that of GET.
        body = answer.stream or answer.download or [answer.body]
        return Response(body, answer.status, list(answer.headers))

    blueprint.record_once(_add_converter)
    rules = ((_ASSET, "asset"), ("", "list_without_slash"), ("/", "list"), ("/<backjob_rest:rest>", "status"))
    for rule, endpoint in rules:
        blueprint.add_url_rule(
            rule, endpoint, answer, methods=_METHODS, provide_automatic_options=False, merge_slashes=False
        )
    return blueprint
