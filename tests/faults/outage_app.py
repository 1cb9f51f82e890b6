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

# Hundreds of jobs, each with a request, a worker request and a gate, need more sockets than the usual limit.
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (max(_soft, min(_hard, 4096)), _hard))

jobs = Settings.of(settings(), prefix=PREFIX).build(
    BackJob, package="backjob.scenarios", application="plain", default_store=lambda: "memory:", on_end=note_end
)
app = BackJobMiddleware(counting(jobs, site_of(jobs)), jobs)
