"""The plain scenario site for servers to load, at the root and mounted."""

from __future__ import annotations

from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.config import mounted
from tests.scenarios.apps.plain import make_jobs, site_of

__all__ = ["app", "jobs"]

jobs = make_jobs()
app = mounted(BackJobMiddleware(site_of(jobs), jobs))
