"""Jobs of applications that a proxy serves below a prefix, which it strips and names in X-Forwarded-Prefix."""

from __future__ import annotations

from pathlib import Path

import pytest

from backjob import Status
from tests.scenarios.servers import KINDS
from tests.scenarios.sites import result_of, serving


@pytest.mark.slow
@pytest.mark.parametrize(
    ("app", "server"),
    [
        ("plain_app", "waitress"),
        ("flask_app", "gunicorn-sync-2"),
        ("django_app", "gunicorn-threads"),
        ("asgi_app", "uvicorn-h11"),
        pytest.param("starlette_app", "hypercorn", marks=pytest.mark.nightly),
        ("django_asgi_app", "daphne"),
        pytest.param("django_app", "wsgiref", marks=pytest.mark.nightly),
        pytest.param("flask_app", "werkzeug", marks=pytest.mark.nightly),
    ],
)
def test_a_job_sees_the_prefix_of_the_request_that_started_it(tmp_path: Path, app: str, server: str) -> None:
    with serving(KINDS[server], f"{app}:behind_proxy", tmp_path) as site:
        visitor = {"X-Forwarded-Prefix": "/public"}
        started = site.started("/work/see", visitor=visitor, is_stripped=True)
        state = site.end(started["id"])
        direct = site.run("/work/see")
    assert started["url"].startswith("/public/backjob/")
    assert state.status is Status.COMPLETED, state
    assert (result_of(state)["mount"], result_of(state)["path"]) == ("/public", "/work/see")
    assert result_of(direct)["mount"] == ""
