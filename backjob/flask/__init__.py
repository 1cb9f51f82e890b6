"""Background jobs for Flask: ``jobs = BackJob(app)``, or ``jobs = BackJob()`` and later ``jobs.init_app(app)``."""

from __future__ import annotations

from backjob.errors import MissingExtra

try:
    from backjob.flask.extension import BackJob
except ModuleNotFoundError as error:
    if error.name == "flask":
        raise MissingExtra("backjob.flask", "flask") from error
    raise

__all__ = ["BackJob"]
