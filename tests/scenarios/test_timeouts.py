"""Jobs that time out. The last tests of a site: its processes reap only after they have run for one lease."""

from __future__ import annotations

import pytest

from backjob import Status
from tests.scenarios.client import Gate
from tests.scenarios.sites import Site


@pytest.mark.slow
def test_a_silent_job_times_out_and_its_late_update_ends_the_action(site: Site, gate: Gate) -> None:
    job_id = site.start("/work/hold", {"gate": gate.port}, error_timeout=0.3)
    held = gate.reached()
    state = site.end(job_id)
    assert state.status is Status.FAILED
    assert state.status_text == "job timeout: no sign of life for 0.3 s"
    assert held.release() == "JobEnded"
    assert site.jobs.status(job_id) == state
