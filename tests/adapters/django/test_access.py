"""Who may see a job, and who may end it: on every status route, as Django's users and permissions have it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from backjob import Status
from backjob.django import jobs
from backjob.django.testing import immediate, recorded

pytestmark = pytest.mark.usefixtures("database")

SAME_ORIGIN = {"sec-fetch-site": "same-origin"}


def user(name: str, *permissions: str, **fields: Any) -> Client:
    """A browser in which this user is signed in."""
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
    """A job of Bo's that has ended."""
    with immediate():
        return started(bo)


@pytest.fixture
def waiting(bo: Client) -> str:
    """A job of Bo's that nobody delivers."""
    with recorded():
        return started(bo)


def answers(client: Client, job_id: str) -> dict[str, tuple[int, bytes]]:
    """What every route of a job answers."""
    responses = {
        "state": client.get(f"/backjob/{job_id}"),
        "head": client.head(f"/backjob/{job_id}"),
        "page": client.get(f"/backjob/{job_id}", headers={"accept": "text/html"}),
        "output": client.get(f"/backjob/{job_id}/output"),
        "cancel": client.post(f"/backjob/{job_id}/cancel", headers=SAME_ORIGIN),
    }
    return {name: (response.status_code, response.content) for name, response in responses.items()}


def statuses(client: Client, job_id: str) -> list[int]:
    return [status for status, _ in answers(client, job_id).values()]


def test_the_owner_sees_and_cancels(bo: Client, waiting: str) -> None:
    assert statuses(bo, waiting) == [200] * 5
    assert jobs.status(waiting).status is Status.CANCELLED


def test_the_owner_sees_output_and_a_page_that_escapes_it(bo: Client, job_id: str) -> None:
    assert bo.get(f"/backjob/{job_id}/output").json()["text"] == "<script>alert(1)</script>\n"
    page = bo.get(f"/backjob/{job_id}", headers={"accept": "text/html"}).content.decode()
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;Seen" in page
    assert "<script>" not in page


@pytest.mark.parametrize("who", ["another", "nobody", "logged out", "inactive", "staff without the right"])
def test_for_others_there_is_no_such_job(bo: Client, waiting: str, who: str) -> None:
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
    assert statuses(other, waiting) == [404] * 5
    assert jobs.status(waiting).status is Status.STARTED


def test_the_signed_address_opens_the_job_for_anybody(waiting: str) -> None:
    for may_cancel in (False, True):
        reference = jobs.status_url(waiting, cancel=may_cancel).rpartition("/")[2]
        assert statuses(Client(), reference) == [200, 200, 200, 200, 200 if may_cancel else 403]
    assert jobs.status(waiting).status is Status.CANCELLED


@pytest.mark.parametrize("rights", [["view_job"], ["view_job", "cancel_job"]])
def test_staff_who_may_view_jobs_see_all_and_cancel_none_but_in_the_admin(waiting: str, rights: list[str]) -> None:
    assert statuses(user("Al", *rights, is_staff=True), waiting) == [200, 200, 200, 200, 403]
    assert jobs.status(waiting).status is Status.STARTED


def test_a_right_without_being_staff_is_none(waiting: str) -> None:
    assert statuses(user("Eve", "view_job", "cancel_job"), waiting) == [404] * 5
