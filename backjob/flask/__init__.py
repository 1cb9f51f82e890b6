"""Background jobs for Flask: ``jobs = BackJob(app)``, or ``jobs = BackJob()`` and later ``jobs.init_app(app)``."""

from __future__ import annotations

from backjob.flask.extension import BackJob

__all__ = ["BackJob"]
