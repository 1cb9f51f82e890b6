"""A mistake in the configuration: pages without jobs work, `start()` raises the error, status routes answer 503."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.test import AsyncClient, Client, override_settings

from backjob import BackJobError
from backjob.django import jobs
from backjob.django.site import engine
from backjob.django.testing import recorded
from backjob.model import Grant

pytestmark = pytest.mark.usefixtures("database")

Get = Callable[..., Any]

MISTAKES: Any = [
    ({"SECRET_KEY": "dev"}, "SECRET_KEY: is too short", "backjob.E003"),
    ({"BACKJOB": {"KEY": "dev"}}, "too short", "backjob.E003"),
    ({"BACKJOB": {"STROE": "memory:"}}, "did you mean STORE", "backjob.E003"),
    ({"BACKJOB": {"STORE": "cache:"}}, "CACHE", "backjob.E003"),
    ({"BACKJOB": {"STORE": "sqlite:////dev/null/jobs.db"}}, "/dev/null", "backjob.E004"),
    ({"BACKJOB": {"ERROR_TIMEOUT": "soon"}}, "ERROR_TIMEOUT", "backjob.E003"),
    ({"BACKJOB": {"DATABASE": "nowhere"}}, "nowhere", "backjob.E003"),
    ({"BACKJOB": {"OWNER": "tests.nowhere.owner"}}, "OWNER", "backjob.E003"),
    ({"BACKJOB": {"ON_END": 5}}, "ON_END", "backjob.E003"),
    ({"BACKJOB": "nonsense"}, "a dict", "backjob.E003"),
]


def fail_to_import(name: str) -> Any:
    raise ImproperlyConfigured("an error of a module")


def by_wsgi(path: str, **headers: Any) -> Any:
    return Client().get(path, **headers)


def by_asgi(path: str, **headers: Any) -> Any:
    return asyncio.run(AsyncClient().get(path, **headers))


@pytest.fixture(params=[by_wsgi, by_asgi], ids=["WSGI", "ASGI"])
def get(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize(("given", "said", "check"), MISTAKES, ids=[str(given) for given, _, _ in MISTAKES])
def test_a_mistake_is_logged_once_and_fails_only_what_needs_jobs(
    given: dict[str, Any], said: str, check: str, get: Get, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(**given):
        for _ in range(3):
            assert get("/ready").content == b"ready"
        with pytest.raises(BackJobError, match=said):
            jobs.start("see", as_current_user=False)
        response = get("/backjob/unknown")
        assert (response.status_code, response.json()) == (
            503,
            {"error": "background jobs are not configured; see the log"},
        )
        page = get("/backjob/unknown", headers={"accept": "text/html"})
        assert (page.status_code, page["content-type"]) == (503, "text/html; charset=utf-8")
        assert b"KEY" not in page.content
        assert get("/only").status_code == 403
        assert get("/progress/job").content.strip() == b""
        assert check in [message.id for message in run_checks(tags=["backjob"])]
    logged = [record for record in caplog.records if record.name == "backjob"]
    assert [record.levelname for record in logged] == ["ERROR"]
    assert said in logged[0].getMessage()


def test_an_unexpected_error_of_a_setting_fails_only_what_needs_jobs(get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backjob.django.site.import_string", fail_to_import)
    with override_settings(BACKJOB={"OWNER": "some.module.owner"}):
        assert get("/ready").content == b"ready"
        assert get("/backjob/unknown").status_code == 503
        assert [message.id for message in run_checks(tags=["backjob"])] == ["backjob.E005"]


def test_a_worker_request_waits_for_a_process_that_is_configured(get: Get) -> None:
    with recorded() as started:
        jobs.start("see", as_current_user=False)
    signed = engine().signer.sign(started[0].request, Grant(started[0].job_id, 1, 1, 1_000, 2_000))
    with override_settings(SECRET_KEY="dev"):
        response = get(signed.target)
    assert (response.status_code, response["backjob-refusal"]) == (503, "unavailable")


def test_with_debug_a_weak_secret_is_accepted_with_one_warning(get: Get, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(SECRET_KEY="dev", DEBUG=True):
        for _ in range(2):
            assert get("/ready").content == b"ready"
        with recorded():
            url = jobs.status_url(jobs.start("see", as_current_user=False))
        assert get(url).status_code == 200
        assert [message.id for message in run_checks(tags=["backjob"])] == ["backjob.W008"]
    warnings = [record.getMessage() for record in caplog.records if record.name == "backjob"]
    assert len([text for text in warnings if "SECRET_KEY" in text]) == 1


def test_the_admin_of_a_site_whose_jobs_are_off_says_so() -> None:
    from django.contrib.auth.models import User

    staff = Client()
    staff.force_login(User.objects.create_superuser("staff"))
    with override_settings(BACKJOB={"STORE": "cache:"}):
        pages = [staff.get(f"/admin/backjob/job/{query}") for query in ("", "?q=staff", "?created=day", "?owner=1")]
        assert staff.get("/admin/backjob/job/1/change/").status_code == 302
    for page in pages:
        assert page.status_code == 200
        assert "Background jobs are not configured" in page.content.decode()
