"""The scenario site with the action of `counting`, for servers to load."""

from __future__ import annotations

import resource

from backjob.jobs import BackJob
from backjob.settings import Settings
from backjob.wsgi import BackJobMiddleware
from tests.faults.counting import counting, note_end
from tests.scenarios.apps.config import PREFIX, settings
from tests.scenarios.apps.plain import site_of

__all__ = ["app", "jobs"]

# A request, the worker request that it sends, and the gate: more than the usual limit allows, for hundreds of jobs.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_soft, min(_hard, 4096)), _hard))

jobs = Settings.of(settings(), prefix=PREFIX).build(
    BackJob, package="backjob.scenarios", application="plain", default_store=lambda: "memory:", on_end=note_end
)
app = BackJobMiddleware(counting(jobs, site_of(jobs)), jobs)
