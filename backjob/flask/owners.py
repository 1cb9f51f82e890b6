"""A job that runs as its owner: Flask-Login's current user is the one whom the application's ``user_loader`` returns."""

from __future__ import annotations

from typing import Any, Final

import flask
from flask import Flask

from backjob.errors import JobFailed
from backjob.worker.running import current

_WHERE_FLASK_LOGIN_LOOKS: Final = "_login_user"


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
