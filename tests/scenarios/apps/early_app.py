"""The plain scenario site; it starts its first job on import, before a server forks."""

from __future__ import annotations

from tests.scenarios.apps.plain_app import app, jobs

__all__ = ["app"]

jobs.start("/work/none", scope="early", as_current_user=False)
