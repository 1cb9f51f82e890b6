"""The signed target of a run that is over, copied from the server's access log, claims nothing."""

from __future__ import annotations

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

GUNICORN = HerdKind("gunicorn", gunicorn("--workers=1", "--threads=4"))


def logged_targets(directory: Path) -> list[str]:
    """The signed targets in the access log, each once."""
    lines = (directory / "access").read_text(encoding="utf-8").splitlines()
    return list(dict.fromkeys(line for line in lines if line.startswith("/second")))


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
        herd(GUNICORN, "tests.places.places_app", tmp_path, environment(url, tmp_path)) as server,
        closing(open_store(url)) as store,
    ):
        job_id = server.client.get(f"/begin?gate={gate.port}").text
        second = gate.reached()
        first, signed = logged_targets(tmp_path)
        assert "backjob-signature" in first
        refused(server, first, store, job_id)
        refused(server, signed, store, job_id)
        assert begun(tmp_path) == 2, "the action ran again"
        assert second.release() == "returned"
        wait_for(server, lambda: store.get(job_id).status.is_final, WAIT, server.tail)  # type: ignore[union-attr]
        for target in (first, signed):
            refused(server, target, store, job_id)
        job = store.get(job_id)
    assert job is not None
    assert (job.status, job.run) == (Status.COMPLETED, 2)
    assert begun(tmp_path) == 2
