"""A job that runs as its owner: Flask-Login's current user is the one whom the application's ``user_loader`` returns."""

from __future__ import annotations

from typing import Any, Final

import flask
from flask import Flask

from backjob.errors import JobFailed
from backjob.worker.running import current

_WHERE_FLASK_LOGIN_LOOKS: Final = "_login_user"
_OWNER: Final = "backjob.owner"
"""In the environ of a request that runs as its owner. No client can set a name without ``HTTP_``."""


def log_in_owner(app: Flask, **_: Any) -> None:
    """Log the owner of the current job in, if it runs as its owner. A receiver of ``flask.request_started``.

    Without Flask-Login, or with an ``owner`` hook of the application, the action reads ``jobs.owner``. Raises `JobFailed`
    if the loader finds no active user for the owner, and what the loader raises.
    """
    running = current.get()
    if running is None or not running.job.as_owner:
        return
    manager: Any = getattr(app, "login_manager", None)
    if manager is None or app.extensions["backjob"].engine.options.owner is not None:
        return
    load = manager._user_callback  # noqa: SLF001 - Flask-Login has no public name for it
    user = None if load is None else load(running.job.owner)
    if user is None:
        raise JobFailed("not run: the user_loader finds no user for the owner of this job")
    if not user.is_active:
        raise JobFailed("not run: the owner of this job is not active")
    setattr(flask.g, _WHERE_FLASK_LOGIN_LOOKS, user)
    flask.request.environ[_OWNER] = running.job.owner
    if not isinstance(manager._load_user, _Loading):  # noqa: SLF001
        manager._load_user = _Loading(manager)  # noqa: SLF001


class _Loading:
    """Loads the owner again in further contexts of the request: one that the action pushes, or a copy of it in a thread.

    Flask-Login keeps the user in ``flask.g``, which begins anew there, and would look for the session's user.
    """

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._load_as_usual = manager._load_user  # noqa: SLF001

    def __call__(self) -> None:
        owner = flask.request.environ.get(_OWNER)
        if owner is None:
            self._load_as_usual()
        else:
            user = self._manager._user_callback(owner)  # noqa: SLF001
            self._manager._update_request_context_with_user(user)  # noqa: SLF001
