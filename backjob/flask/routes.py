"""Builds the path of an endpoint, as it goes on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flask
from flask import Flask
from werkzeug.routing import BuildError, MapAdapter

from backjob.errors import InvalidRequest
from backjob.http.serving import Serving


def path_to(
    app: Flask, endpoint: str, values: Mapping[str, Any], method: str, here: Serving | None
) -> tuple[str, dict[str, Any]]:
    """Return the path of a route as the server receives it, and the values for the query.

    Raises `InvalidRequest` for an endpoint that has no route for these values and this method.
    """
    if endpoint.startswith("."):
        blueprint = flask.request.blueprint if flask.has_request_context() else None
        endpoint = f"{blueprint}{endpoint}" if blueprint else endpoint.removeprefix(".")
    given = dict(values)
    app.inject_url_defaults(endpoint, given)
    known = {name for rule in app.url_map.iter_rules() if rule.endpoint == endpoint for name in rule.arguments}
    try:
        path = _adapter(app).build(endpoint, {name: given[name] for name in known & given.keys()}, method)
    except BuildError as error:
        raise InvalidRequest("path", str(error)) from None
    rest = {name: value for name, value in given.items() if name not in known}
    return _mount(app, here) + path, rest


def _adapter(app: Flask) -> MapAdapter:
    """Return an adapter that builds paths without a mount; for another host it builds URLs, which `start` refuses."""
    adapter = app.create_url_adapter(flask.request) if flask.has_request_context() else None
    if adapter is None:
        return app.url_map.bind(app.config["SERVER_NAME"] or "localhost")
    adapter.script_name = "/"
    return adapter


def _mount(app: Flask, here: Serving | None) -> str:
    """Return the mount as it is on the wire: empty if a proxy strips it (ProxyFix with x_prefix)."""
    if here is None:
        return str(app.config["APPLICATION_ROOT"]).rstrip("/")
    mount = here.mount
    return mount if f"{here.request.path}/".startswith(f"{mount}/") else ""
