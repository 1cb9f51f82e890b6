"""`BackJob` for Flask: the extension object that the views of an application use."""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Unpack

import flask
from flask import Flask, got_request_exception, request_started

from backjob.errors import InvalidRequest, NoCurrentRequest
from backjob.flask.blueprint import status_blueprint
from backjob.flask.cli import command
from backjob.flask.engine import current_serving
from backjob.flask.exits import answer_exits
from backjob.flask.owners import log_in_owner
from backjob.flask.routes import path_to
from backjob.flask.site import Parts, Site
from backjob.http.origins import URL, is_url
from backjob.http.serving import Serving
from backjob.jobs import BackJob as CoreBackJob
from backjob.jobs import Engine, StartOptions, check_options
from backjob.overriding import override
from backjob.settings import attach_early

__all__ = ["BackJob"]


class BackJob(CoreBackJob):
    """Background jobs of one or more Flask applications: `backjob.BackJob`, configured by ``BACKJOB_…`` settings.

    ``owner(flask.request)`` returns the user of a request; the default is Flask-Login's current user if the application
    has a login manager. ``may_see_all(flask.request)`` and ``may_manage_all(flask.request)`` are as for `backjob.BackJob`.
    backjob calls ``on_end(state)`` within an application context. A ``store``, ``transport`` or
    ``signer`` passed here takes precedence over the settings. Without settings, jobs are kept in ``backjob.db`` in the
    instance folder, and the key is derived from ``SECRET_KEY``.

    Within an application context, the methods work on the jobs of that application; outside of one, on those of the only
    application it was set up for. With several they raise `NoCurrentRequest`. The configuration is read at the first
    use; `init_app` only refuses unknown names. Raises what `init_app` raises.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        owner: Callable[[flask.Request], str | Awaitable[str | None] | None] | None = None,
        **parts: Unpack[Parts],
    ) -> None:
        # Each application has an engine, in app.extensions; this object has none of its own.
        self._owner = owner
        self._parts = parts
        self._applications: list[weakref.ref[Flask]] = []
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set up an application: wrap its ``wsgi_app``, add status routes and the commands ``flask backjob …``.

        Raises `InvalidRequest` for an unknown ``BACKJOB_…`` name, and for an application that already has a `BackJob`.
        """
        if "backjob" in app.extensions:
            raise InvalidRequest("app", f"the application {app.name!r} already has a BackJob")
        site = Site(app, self, self._owner, self._parts)
        blueprint = status_blueprint(self, site.status_prefix)
        app.register_blueprint(blueprint)
        app.cli.add_command(command(self))
        app.before_request(self._skip_csrf_of_forms)
        got_request_exception.connect(self._note_exception, app)
        request_started.connect(log_in_owner, app)
        answer_exits(app)
        app.jinja_env.globals.setdefault("backjob_progress", self.element)
        site.wrap(blueprint)
        app.extensions["backjob"] = site
        self._applications.append(weakref.ref(app))
        attach_early(app.config.get("BACKJOB_QUEUES"), self)

    @property
    @override
    def _engine(self) -> Engine:
        return self._site().engine

    @override
    def _engine_for(self, application: object) -> Engine:
        return self._site(application).engine

    @override
    def _application(self) -> Flask:
        return self._site().app

    def _site(self, application: object = None) -> Site:
        app = application if isinstance(application, Flask) else self._current_app()
        site = app.extensions.get("backjob")
        if not isinstance(site, Site) or site.extension is not self:
            raise NoCurrentRequest(f"this BackJob was not set up for the application {app.name!r}: call init_app()")
        return site

    def _current_app(self) -> Flask:
        if flask.has_app_context():
            return flask.current_app
        app = self._applications[0]() if len(self._applications) == 1 else None
        if app is None:
            count = len(self._applications) or "no"
            raise NoCurrentRequest(f"this BackJob serves {count} applications; select one: with app.app_context(): …")
        return app

    @override
    def _here(self) -> Serving | None:
        return current_serving()

    @override
    def start(self, path: str | URL, query: Mapping[str, Any] | None = None, **options: Unpack[StartOptions]) -> str:
        """Start a job as `backjob.BackJob.start` does, also by the name of an endpoint.

        ``path`` is a path if it begins with a slash, or a URL of this application; otherwise an endpoint (".name": of the
        current blueprint), and ``query`` contains the values of its route; values that are not part of the route become
        the query. Needs no ``SERVER_NAME``. Raises `InvalidRequest` ("path") also for an endpoint that has no route for
        these values and this method.
        """
        if isinstance(path, str) and not path.startswith("/") and not is_url(path):
            check_options(options, "query, the second argument")
            method = options.get("method", "GET")
            path, query = path_to(self._site().app, path, query or {}, method, self._here())
        return super().start(path, query, **options)

    @override
    def close(self) -> None:
        """Close the threads, connections and stores of all applications; see `backjob.BackJob.close`."""
        for app in [app for reference in self._applications if (app := reference()) is not None]:
            self._site(app).close()

    def _note_exception(self, _app: Flask, exception: BaseException, **_: Any) -> None:
        self.note_error(exception)

    def _skip_csrf_of_forms(self) -> None:
        if self.is_background:
            flask.g.csrf_valid = True  # the forms of Flask-WTF read it
