"""Which users may view and cancel a job, on every status route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client, override_settings

from backjob import Status
from backjob.django import jobs, urls
from backjob.django.testing import immediate, recorded
from backjob.status.endpoints import Endpoints

pytestmark = pytest.mark.usefixtures("database")

SAME_ORIGIN = {"sec-fetch-site": "same-origin"}


@pytest.fixture(autouse=True)
def _streams() -> Iterator[None]:
    """Switch on the route of the event streams."""
    with override_settings(BACKJOB={"STREAMS": 1}):
        yield


def user(name: str, *permissions: str, **fields: Any) -> Client:
    """A client with this user logged in."""
    made = User.objects.create(username=name, **fields)
    made.user_permissions.set(Permission.objects.filter(codename__in=permissions, content_type__app_label="backjob"))
    client = Client()
    client.force_login(made)
    return client


@pytest.fixture
def bo() -> Client:
    return user("Bo")


def started(client: Client, **options: Any) -> str:
    return str(client.post("/start", {"path": "see", **options}, content_type="application/json").json()["id"])


@pytest.fixture
def job_id(bo: Client) -> str:
    """An ended job of Bo's."""
    with immediate():
        return started(bo)


@pytest.fixture
def waiting(bo: Client) -> str:
    """A job of Bo's that is not delivered."""
    with recorded():
        return started(bo)


def answers(client: Client, job_id: str) -> dict[str, tuple[int, bytes]]:
    """The response of every route of a job to each of its methods."""
    found = {}
    for leaf, route in Endpoints._routes.items():
        path = f"/backjob/{job_id}/{leaf}".rstrip("/")
        for method in route.methods:
            for accept in ("application/json", "text/html"):
                response: Any = client.generic(method, path, headers={**SAME_ORIGIN, "accept": accept})
                content = b"" if response.streaming else response.content
                response.close()
                found[f"{method} {leaf} {accept}"] = (response.status_code, content)
    return found


def refused(client: Client, job_id: str) -> set[tuple[str, int]]:
    """The routes of a job that refuse this client, with their responses."""
    said = {(name.rpartition(" ")[0], status) for name, (status, _) in answers(client, job_id).items()}
    return {(name, status) for name, status in said if status in (403, 404)}


ALL_404 = {(f"{method} {leaf}", 404) for leaf, route in Endpoints._routes.items() for method in route.methods}
NO_FILE = {("GET file", 404), ("HEAD file", 404)}
ALL_BUT_CANCEL = {("POST cancel", 403), *NO_FILE}


def test_only_a_worker_request_may_use_the_route_that_runs_tasks(bo: Client) -> None:
    assert [pattern.name for pattern in urls.urlpatterns] == ["run", "status"]
    for method in ("GET", "POST"):
        assert bo.generic(method, "/backjob/run").status_code == 403


def test_the_owner_may_view_and_cancel_a_job(bo: Client, waiting: str) -> None:
    assert refused(bo, waiting) == NO_FILE
    assert jobs.status(waiting).status is Status.CANCELLED


def test_the_owner_sees_output_and_a_page_that_escapes_it(bo: Client, job_id: str) -> None:
    assert bo.get(f"/backjob/{job_id}/output").json()["text"] == "<script>alert(1)</script>\n"
    page = bo.get(f"/backjob/{job_id}", headers={"accept": "text/html"}).content.decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;Seen" in page
    assert "<script>" not in page


@pytest.mark.parametrize("who", ["another", "nobody", "logged out", "inactive", "staff without the right"])
def test_others_get_a_404(bo: Client, waiting: str, who: str) -> None:
    if who == "logged out":
        bo.get("/logout")
        other = bo
    elif who == "inactive":
        User.objects.update(is_active=False)
        other = bo
    else:
        made = {"another": lambda: user("Eve"), "nobody": Client}
        other = made.get(who, lambda: user("Al", is_staff=True))()
    assert answers(other, waiting) == answers(other, "unknown")
    assert refused(other, waiting) == ALL_404
    assert jobs.status(waiting).status is Status.STARTED


def test_the_signed_url_opens_the_job_without_a_login(waiting: str) -> None:
    for may_cancel in (False, True):
        reference = jobs.status_url(waiting, cancel=may_cancel).rpartition("/")[2]
        assert refused(Client(), reference) == (NO_FILE if may_cancel else ALL_BUT_CANCEL)
    assert jobs.status(waiting).status is Status.CANCELLED


@pytest.mark.parametrize("rights", [["view_job"], ["view_job", "cancel_job"]])
def test_staff_with_permission_view_all_jobs_and_cancel_only_in_the_admin(waiting: str, rights: list[str]) -> None:
    assert refused(user("Al", *rights, is_staff=True), waiting) == ALL_BUT_CANCEL
    assert jobs.status(waiting).status is Status.STARTED


def test_the_permission_without_staff_status_does_not_count(waiting: str) -> None:
    assert refused(user("Eve", "view_job", "cancel_job"), waiting) == ALL_404
