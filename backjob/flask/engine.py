"""The engine of a Flask application: which request is being served, and whose it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import flask
from werkzeug.exceptions import default_exceptions

from backjob.http.environ import EnvironServing
from backjob.http.serving import Serving, serving
from backjob.jobs import Engine
from backjob.overriding import override


def current_serving() -> Serving | None:
    """Return the request being served; in ``app.test_request_context()`` no middleware has set it."""
    here = serving.get()
    if here is None and not serving.is_inherited and flask.has_request_context():
        return EnvironServing(flask.request.environ)
    return here


def _set_cookies(response: flask.Response) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for field in response.headers.getlist("Set-Cookie"):
        pair, _, attributes = field.partition(";")
        name, _, value = pair.partition("=")
        found[name.strip()] = None if "max-age=0" in attributes.lower() else value.strip()
    return found


class FlaskEngine(Engine):
    """The engine of one Flask application."""

    @override
    def base_url_setting(self, *, unix: bool = False) -> str:
        connect_to = ' and BACKJOB_CONNECT_TO = "unix:/path/of/the/socket"' if unix else ""
        return f'set the base URL: BACKJOB_BASE_URL = "https://your.site"{connect_to}'

    @override
    def default_url(self) -> str:
        config = flask.current_app.config if flask.has_app_context() else {}
        name = config.get("SERVER_NAME")
        return super().default_url() if not name else f"{config['PREFERRED_URL_SCHEME']}://{name}"

    @override
    def here(self) -> Serving | None:
        return current_serving()

    @override
    def session_cookie(self) -> str:
        return str(flask.current_app.config["SESSION_COOKIE_NAME"]) if flask.has_app_context() else "session"

    @override
    def is_stock_message(self, status: int, message: str) -> bool:
        described = default_exceptions.get(status)
        return described is not None and message == " ".join((described.description or "").split())

    @override
    def changed_cookies(self) -> Mapping[str, str | None]:
        if not flask.has_request_context() or not getattr(flask.session, "modified", False):
            return {}
        app = flask.current_app
        # Any interface of sessions writes its cookie into a response; one with a store saves the session there, too.
        response = app.response_class()
        app.session_interface.save_session(app, flask.session, response)
        return _set_cookies(response)

    def mount(self) -> str:
        root: str = flask.current_app.config["APPLICATION_ROOT"] if flask.has_app_context() else ""
        return root.rstrip("/")

    @override
    def owner_of(self, request: Any) -> str | None:
        if self.options.owner is not None:
            return super().owner_of(request)
        flask_login = sys.modules.get("flask_login")  # an application that uses it has imported it
        if flask_login is None or not hasattr(flask.current_app, "login_manager"):
            return None
        user = flask_login.current_user
        user_id = user.get_id() if user.is_authenticated else None
        return None if user_id is None else str(user_id)

    @override
    def current_owner(self) -> str | None:
        return self.owner_of(flask.request) if flask.has_request_context() else None
