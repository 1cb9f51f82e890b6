"""The signed target of a run that is over, copied from the server's access log, claims nothing."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from backjob import Status
from backjob.protocols import Store
from backjob.stores import open_store
from tests.faults.killing import Herd, HerdKind, herd
from tests.places.timing import environment, wait_for
from tests.scenarios.client import WAIT, Gate
from tests.scenarios.servers import gunicorn

pytestmark = pytest.mark.slow

LOGGING = HerdKind("gunicorn", gunicorn("--workers=1", "--threads=4", "--access-logfile=-"))


def logged_targets(server: Herd) -> list[str]:
    """The signed targets in the server's access log."""
    return re.findall(r'"GET (/second\S+) HTTP', server.log.read_text(encoding="utf-8"))


def begun(directory: Path) -> int:
    return (directory / "runs").read_text(encoding="utf-8").count("begin ")


def refused(server: Herd, target: str, store: Store, job_id: str) -> None:
    """Send the target again: it is refused, and leaves the job as it is."""
    before = store.get(job_id)
    page = server.client.get(target)
    after = store.get(job_id)
    assert page.status == 409, page.text
    assert before is not None
    assert after is not None
    assert (after.version, after.run, after.token) == (before.version, before.run, before.token)


def test_a_signature_of_the_first_run_from_the_access_log_claims_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.db"
    with (
        Gate() as gate,
        herd(LOGGING, "tests.places.places_app", tmp_path, environment(url, tmp_path)) as server,
        closing(open_store(url)) as store,
    ):
        job_id = server.client.get(f"/begin?gate={gate.port}").text
        second = gate.reached()
        wait_for(server, lambda: len(logged_targets(server)) == 1, WAIT, server.tail)
        target = logged_targets(server)[0]
        assert "backjob-signature" in target
        refused(server, target, store, job_id)
        assert begun(tmp_path) == 2, "the action ran again"
        assert second.release() == "returned"
        wait_for(server, lambda: store.get(job_id).status.is_final, WAIT, server.tail)  # type: ignore[union-attr]
        refused(server, target, store, job_id)
        wait_for(server, lambda: len(logged_targets(server)) == 4, WAIT, server.tail)
        for one in logged_targets(server):
            refused(server, one, store, job_id)
        job = store.get(job_id)
    assert job is not None
    assert (job.status, job.run) == (Status.COMPLETED, 2)
    assert begun(tmp_path) == 2
