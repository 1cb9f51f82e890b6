"""The plain scenario site, whose first job is started while the module is imported: before a server forks."""

from __future__ import annotations

from tests.scenarios.apps.plain_app import app, jobs

__all__ = ["app"]

jobs.start("/work/none", scope="early", as_current_user=False)
