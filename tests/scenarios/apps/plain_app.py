"""The plain scenario site for servers to load, at the root and mounted."""

from __future__ import annotations

from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.config import mounted, prefixed
from tests.scenarios.apps.plain import make_jobs, site_of

__all__ = ["app", "behind_proxy", "jobs"]

jobs = make_jobs()
bare = BackJobMiddleware(site_of(jobs), jobs)
app = mounted(bare)
behind_proxy = prefixed(bare)
