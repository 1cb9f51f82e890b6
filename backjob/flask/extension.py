"""The extension object: what a Flask application's views hold. Says whose jobs are meant, the core does the rest."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Unpack

import flask
from flask import Flask, got_request_exception
from typing_extensions import override

from backjob.errors import InvalidRequest, NoCurrentRequest
from backjob.flask.blueprint import status_blueprint
from backjob.flask.cli import command
from backjob.flask.routes import path_to
from backjob.flask.site import Parts, Site
from backjob.http.origins import URL, is_url
from backjob.http.serving import Serving, serving
from backjob.jobs import StartOptions
from backjob.jobs import facade as core
from backjob.wsgi import serving_of

__all__ = ["BackJob"]


class BackJob(core.BackJob):
    """Background jobs of one Flask application or of several: `backjob.BackJob`, set up by ``BACKJOB_…`` settings.

    ``owner(flask.request)`` names the user of a request, or None; by default it is Flask-Login's current user where the
    application has a login manager. ``on_end(state)`` is called within an application context. A ``store``, ``transport``
    or ``signer`` given here wins over the settings. Without settings jobs are kept in ``backjob.db`` in the instance
    folder, and the key is derived from ``SECRET_KEY``.

    Within an application context it stands for that application's jobs, and outside of one for those of the only
    application it was ever set up for; with several `NoCurrentRequest` says so. The configuration is read at the first
    use; `init_app` reads it only to refuse unknown names. Raises what `init_app` raises.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        owner: Callable[[flask.Request], str | None] | None = None,
        **parts: Unpack[Parts],
    ) -> None:
        # What the core's constructor sets is set for each application apart, and found through __getattr__.
        self._owner = owner
        self._parts = parts
        self._applications: list[weakref.ref[Flask]] = []
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Set up an application: wrap its ``wsgi_app``, add status routes and the commands ``flask backjob …``.

        Raises `InvalidRequest` for an unknown ``BACKJOB_…`` name, and for an application that has a `BackJob` already.
        """
        if "backjob" in app.extensions:
            raise InvalidRequest("app", f"the application {app.name!r} has a BackJob already")
        site = Site(app, self, self._parts)
        blueprint = status_blueprint(self, site.status_prefix)
        app.register_blueprint(blueprint)
        app.cli.add_command(command(self))
        app.before_request(self._vouch)
        got_request_exception.connect(self._note, app)
        site.wrap(blueprint)
        app.extensions["backjob"] = site
        self._applications.append(weakref.ref(app))

    # --- whose jobs -------------------------------------------------------------------------------------------------

    @override
    def of(self, application: object = None) -> core.BackJob:
        """The core's `BackJob` of an application, by default of the current one."""
        return self._site(application).jobs

    def _site(self, application: object = None) -> Site:
        app = application if isinstance(application, Flask) else self._current()
        site = app.extensions.get("backjob")
        if not isinstance(site, Site) or site.extension is not self:
            raise NoCurrentRequest(f"this BackJob is not that of the application {app.name!r}; see init_app()")
        return site

    def _current(self) -> Flask:
        if flask.has_app_context():
            return flask.current_app
        app = self._applications[0]() if len(self._applications) == 1 else None
        if app is None:
            how_many = len(self._applications) or "no"
            raise NoCurrentRequest(
                f"this BackJob serves {how_many} applications, so it must be told which: with app.app_context(): …"
            )
        return app

    if not TYPE_CHECKING:  # a misspelled name stays an error of types

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__") or name in ("_owner", "_parts", "_applications"):
                raise AttributeError(name)
            return getattr(self.of(), name)

    @override
    def _here(self) -> Serving | None:
        here = serving.get()
        if here is None and flask.has_request_context():  # app.test_request_context(): no middleware was passed
            return serving_of(flask.request.environ)
        return here

    # --- what Flask has its own manner of ---------------------------------------------------------------------------

    @override
    def start(self, path: str | URL, query: Mapping[str, Any] | None = None, **options: Unpack[StartOptions]) -> str:
        """Accept a job: `backjob.BackJob.start`, to which an endpoint's name may be given too.

        ``path`` is a path if it begins with a slash, or a URL of this application; else it is an endpoint's name (".name" is of the current blueprint),
        and ``query`` has the values of its route; what the route does not know becomes the query. Needs no
        ``SERVER_NAME``. Raises `InvalidRequest` ("path") also for an endpoint without a route for these values and this
        method.
        """
        if isinstance(path, str) and not path.startswith("/") and not is_url(path):
            method = options.get("method", "GET")
            path, query = path_to(self._site().app, path, query or {}, method, self._here())
        return super().start(path, query, **options)

    @override
    def owner_of(self, request: flask.Request) -> str | None:
        """The owner hook's answer for a request, without a hook the id of Flask-Login's current user, else None."""
        if self._owner is not None:
            return self._owner(request)
        flask_login = sys.modules.get("flask_login")  # an application that uses it has imported it
        if flask_login is None or not hasattr(flask.current_app, "login_manager"):
            return None
        user = flask_login.current_user
        user_id = user.get_id() if user.is_authenticated else None
        return None if user_id is None else str(user_id)

    @override
    def current_owner(self) -> str | None:
        """The owner of the request being served, or None."""
        return self.owner_of(flask.request) if flask.has_request_context() else None

    @override
    def close(self) -> None:
        """Let go of the threads, connections and stores of all applications; see `backjob.BackJob.close`."""
        for app in [app for reference in self._applications if (app := reference()) is not None]:
            self._site(app).close()

    def _note(self, _app: Flask, exception: BaseException, **_: Any) -> None:
        self.note_error(exception)

    def _vouch(self) -> None:
        if self.is_background:
            flask.g.csrf_valid = True  # the forms of Flask-WTF look at this
