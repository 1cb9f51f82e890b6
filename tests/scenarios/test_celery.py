"""What Celery's workers, limits and controls do to the jobs that they carry."""

from __future__ import annotations

from typing import Any

import pytest

from backjob import Status
from tests.scenarios.client import WAIT, Gate, wait_until
from tests.scenarios.sites import Site
from tests.scenarios.with_celery import WITH_CELERY_PAIRS

pytestmark = pytest.mark.slow

SHARED_SITES = WITH_CELERY_PAIRS


def control_of(site: Site) -> Any:
    assert site.place is not None
    return site.place.celery().control


def task_of(site: Site, job_id: str) -> str:
    """The id of the task that a worker runs, or has reserved, for a job."""
    found: list[str] = []
    inspect = control_of(site).inspect(timeout=0.3)

    def is_found() -> bool:
        for tasks in [*(inspect.active() or {}).values(), *(inspect.reserved() or {}).values()]:
            found.extend(task["id"] for task in tasks if task["args"] == [job_id])
        return bool(found)

    wait_until(is_found)
    return found[0]


def test_celerys_soft_time_limit_fails_the_job(site: Site, gate: Gate) -> None:
    job_id = site.start("/work/hold", {"gate": gate.port}, queue="limited")
    held = gate.reached()
    state = site.end(job_id)
    assert (state.status, state.status_text) == (Status.FAILED, "Celery's soft time limit is over")
    assert held.release() == "JobEnded"


def test_a_revoked_task_cancels_its_running_job(site: Site, gate: Gate) -> None:
    job_id = site.start("/work/hold", {"gate": gate.port})
    held = gate.reached()
    control_of(site).revoke(task_of(site, job_id), terminate=True)
    assert site.end(job_id).status is Status.CANCELLED
    # A worker that runs the job itself is killed; otherwise the action learns of it at its next report.
    assert held.left() == "" if "in-process" in site.kind.name else held.release() == "JobEnded"
    assert site.run("/work/none").status is Status.COMPLETED


def test_a_revoked_task_cancels_its_waiting_job(site: Site, gate: Gate) -> None:
    ids = [site.start("/work/hold", {"gate": gate.port, "n": n}) for n in range(site.kind.workers + 1)]
    busy = [gate.reached() for _ in range(site.kind.workers)]
    [waiting] = [job_id for job_id in ids if site.jobs.status(job_id).status is Status.STARTED]
    # Wait for the worker's answer: it must know before it has a free process.
    assert control_of(site).revoke(task_of(site, waiting), reply=True, limit=1, timeout=WAIT)
    for held in busy:
        held.release()
    ends = {job_id: site.end(job_id).status for job_id in ids}
    assert ends == {job_id: Status.CANCELLED if job_id == waiting else Status.COMPLETED for job_id in ids}
    assert site.runs(waiting) == 0


def test_duplicates_of_a_message_and_unknown_jobs_do_nothing(site: Site, gate: Gate) -> None:
    job_id = site.start("/work/hold", {"gate": gate.port})
    held = gate.reached()
    assert site.place is not None
    with site.place.celery() as celery:
        for one in (job_id, "nosuchjob", job_id):
            celery.send_task("backjob.deliver", (one,))
    # Later messages are taken later, so when this job has run, the others have been refused.
    assert site.run("/work/none").status is Status.COMPLETED
    assert held.release() == "returned"
    assert site.end(job_id).status is Status.COMPLETED
    assert site.runs(job_id) == 1
    for words in ("it runs already", "there is no such job"):
        site.server.wait_for_log(words, WAIT)
