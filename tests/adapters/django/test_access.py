"""Which users may view and cancel a job, on every status route."""

from __future__ import annotations

import re
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


def methods_of(leaf: str) -> list[str]:
    """The methods of a route that do not delete the job."""
    return [name for name in Endpoints._routes[leaf].methods if name != "DELETE"]


ROUTES = {leaf: methods_of(leaf) for leaf in Endpoints._routes if leaf != "delete"}
"""Every route of a job with its methods, except those that delete the job."""


def answers(client: Client, job_id: str) -> dict[str, tuple[int, bytes]]:
    """The response of every route of a job to each of its methods."""
    found = {}
    for leaf, methods in ROUTES.items():
        path = f"/backjob/{job_id}/{leaf}".rstrip("/")
        for method in methods:
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


ALL_404 = {(f"{method} {leaf}", 404) for leaf, methods in ROUTES.items() for method in methods}
NO_FILE = {("GET file", 404), ("HEAD file", 404)}
ALL_BUT_MANAGE = {("POST run_again", 403), *NO_FILE}
ALL_BUT_CANCEL = {("POST cancel", 403), *ALL_BUT_MANAGE}
MANAGING = ("view_job", "cancel_job", "delete_job", "run_again_job")


def test_only_a_worker_request_may_use_the_route_that_runs_tasks(bo: Client) -> None:
    assert [pattern.name for pattern in urls.urlpatterns] == ["run", "list", "status"]
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
        assert refused(Client(), reference) == (ALL_BUT_MANAGE if may_cancel else ALL_BUT_CANCEL)
    assert jobs.status(waiting).status is Status.CANCELLED


@pytest.mark.parametrize("rights", [["view_job"], ["view_job", "cancel_job"], MANAGING[:-1]])
def test_staff_with_the_permission_to_view_cancel_only_in_the_admin(waiting: str, rights: list[str]) -> None:
    assert refused(user("Al", *rights, is_staff=True), waiting) == ALL_BUT_CANCEL
    assert jobs.status(waiting).status is Status.STARTED


def test_the_permission_without_staff_status_does_not_count(waiting: str) -> None:
    assert refused(user("Eve", "view_job", "cancel_job"), waiting) == ALL_404


def delete(client: Client, job_id: str, **fields: str) -> int:
    return client.delete(f"/backjob/{job_id}", headers=fields).status_code


def test_staff_with_all_permissions_cancel_delete_and_run_again(bo: Client, waiting: str) -> None:
    staff = user("Al", *MANAGING, is_staff=True)
    assert refused(staff, waiting) == NO_FILE
    assert jobs.status(waiting).status is Status.CANCELLED
    assert delete(staff, waiting, **{"sec-fetch-site": "cross-site"}) == 403
    assert delete(staff, waiting, **SAME_ORIGIN) == 200
    assert delete(bo, waiting, **SAME_ORIGIN) == 404


def test_the_owner_deletes_a_job_from_a_page_of_the_site_only(bo: Client, waiting: str) -> None:
    assert delete(bo, waiting) == 403
    assert delete(bo, waiting, origin="https://evil.example") == 403
    assert delete(user("Eve"), waiting, **SAME_ORIGIN) == 404
    assert delete(Client(), waiting, **SAME_ORIGIN) == 404
    assert bo.post(f"/backjob/{waiting}/delete", headers={**SAME_ORIGIN, "accept": "text/html"}).status_code == 303
    assert not jobs.exists(waiting)


def test_a_form_of_the_page_works_although_django_checks_csrf_tokens(bo: Client, job_id: str) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="Bo"))
    page = strict.get("/backjob/", headers={"accept": "text/html"}).content.decode()
    [action] = re.findall(r'action="([^"]*/delete[^"]*)"', page)
    response = strict.post(action, headers={"accept": "text/html", "origin": "null"})
    assert (response.status_code, response["Location"]) == (303, "/backjob/")
    assert not jobs.exists(job_id)


def test_the_list_has_the_users_own_jobs_and_for_staff_all(bo: Client, waiting: str) -> None:
    def ids(client: Client, query: str = "") -> list[str]:
        return [job["id"] for job in client.get(f"/backjob/{query}").json()["jobs"]]

    assert ids(bo) == [waiting]
    assert ids(user("Eve")) == ids(Client()) == ids(user("Eve2", *MANAGING)) == []
    assert ids(user("Al", "view_job", is_staff=True)) == [waiting]
    assert ids(bo, "?status=failed") == []
    assert ids(bo, "?q=SEE") == [waiting]
    assert bo.get("/backjob").status_code == 301  # by CommonMiddleware
    assert b"Log in to see your jobs." in Client().get("/backjob/", headers={"accept": "text/html"}).content


def test_a_user_runs_a_kept_request_again_as_himself(bo: Client) -> None:
    with recorded():
        job_id = started(bo, keep_request=True)
        jobs.cancel(job_id)
    staff, eve = user("Al", *MANAGING, is_staff=True), user("Eve")
    with recorded() as again:
        path = f"/backjob/{job_id}/run_again"
        assert eve.post(path, headers=SAME_ORIGIN).status_code == 404
        assert bo.post(path).status_code == 403
        assert staff.post(path, headers=SAME_ORIGIN).status_code == 409  # it ran with Bo's login
        response = bo.post(path, headers=SAME_ORIGIN)
        assert response.status_code == 201
        assert response["Location"].startswith(f"/backjob/{response.json()['id']}.v")
    [one] = again
    assert (one.job_id, one.owner, one.as_current_user) == (response.json()["id"], jobs.status(job_id).owner, True)


async def staff_only(request: Any) -> bool:
    """An async hook that reads Django's request."""
    return bool((await request.auser()).username == "Al")


def test_hooks_may_be_async_and_get_djangos_request(waiting: str) -> None:
    jobs.reset()
    with override_settings(BACKJOB={"MAY_SEE_ALL": staff_only, "STREAMS": 1}):
        assert refused(user("Al"), waiting) == ALL_BUT_CANCEL
        assert refused(user("Eve"), waiting) == ALL_404
    jobs.reset()


def test_an_absolute_url_is_below_the_public_url_and_not_on_the_clients_host(bo: Client, waiting: str) -> None:
    jobs.reset()
    with override_settings(BACKJOB={"PUBLIC_URL": "https://www.shop.example/intranet", "STREAMS": 1}):
        url = jobs.status_url(waiting, absolute=True)
        assert url.startswith(f"https://www.shop.example/intranet/backjob/{waiting}.v")
        links = bo.get(f"/backjob/{waiting}?absolute=1").json()["links"]
        assert links["self"] == url
        below = Client(SCRIPT_NAME="/intranet")
        reference = url.rpartition("/")[2]
        state = below.get(f"/backjob/{reference}?absolute=1").json()
        assert state["links"]["self"] == url
    jobs.reset()
