"""Jobs that run as their owner: without credentials, as a user who is loaded anew; or not at all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, markcoroutinefunction
from django.conf import settings as site
from django.contrib.auth.backends import RemoteUserBackend
from django.contrib.auth.decorators import login_required, permission_required
from django.contrib.auth.middleware import RemoteUserMiddleware
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from django.utils.functional import SimpleLazyObject

from backjob import InvalidRequest, Status
from backjob.django import jobs
from backjob.django.site import engine
from backjob.django.testing import immediate, recorded
from backjob.lifecycle import ROW_CHANGED
from backjob.model import Grant

AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"

asked: list[str] = []


class EitherMiddleware:
    """A middleware for synchronous and for asynchronous sites."""

    sync_capable = async_capable = True

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: Any) -> Any:
        return self.get_response(request)


class NosyMiddleware(EitherMiddleware):
    """Reads the user before the view, as many middlewares do."""

    def __call__(self, request: Any) -> Any:
        if self.is_async:
            return self.in_event_loop(request)
        asked.append(request.user.get_username())
        return super().__call__(request)

    async def in_event_loop(self, request: Any) -> Any:
        asked.append((await request.auser()).get_username())
        return await self.get_response(request)


class CompletingMiddleware(EitherMiddleware):
    """Gives the user another attribute, as django-otp's does. It reads the user and the session at the first use."""

    def __call__(self, request: Any) -> Any:
        user = request.user

        def completed() -> Any:
            user.groups.exists()
            user.is_verified = "device" in request.session
            return user

        request.user = SimpleLazyObject(completed)
        return super().__call__(request)


class HeaderMiddleware(RemoteUserMiddleware):
    header = "HTTP_REMOTE_USER"


@login_required
def work(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    return HttpResponse(jobs.finish(result=[user.pk, user.get_username(), type(request.session.session_key).__name__]))


@login_required
async def async_work(request: Any) -> HttpResponse:
    user = await request.auser()
    return HttpResponse(await jobs.afinish(result=[user.pk, user.get_username(), request.user.get_username()]))


@permission_required("auth.add_user", raise_exception=True)
def managing(request: HttpRequest) -> HttpResponse:
    return HttpResponse(jobs.finish(result=request.user.get_username()))


def whose(request: HttpRequest) -> HttpResponse:
    return HttpResponse(jobs.finish(result=[request.user.get_username(), jobs.owner]))


def verified(request: Any) -> HttpResponse:
    return HttpResponse(jobs.finish(result=[request.user.pk, request.user.is_verified]))


async def async_verified(request: Any) -> HttpResponse:
    return HttpResponse(await jobs.afinish(result=[request.user.pk, request.user.is_verified]))


def chain(request: HttpRequest) -> HttpResponse:
    return HttpResponse(jobs.finish(result=jobs.start("/whose", as_owner=True)))


def click(request: HttpRequest) -> HttpResponse:
    return HttpResponse(jobs.start(request.GET["path"], as_owner=True))


def api(request: HttpRequest) -> Any:
    from rest_framework.authentication import SessionAuthentication
    from rest_framework.permissions import IsAuthenticated
    from rest_framework.response import Response
    from rest_framework.views import APIView

    def post(_view: Any, request: Any) -> Any:
        jobs.finish(result=request.user.get_username())
        return Response({})

    terms = {"authentication_classes": (SessionAuthentication,), "permission_classes": (IsAuthenticated,)}
    view: Any = type("Api", (APIView,), {**terms, "post": post})
    return view.as_view()(request)


urlpatterns = [
    path("api", api),
    path("backjob/", include("backjob.django.urls")),
    path("work", work),
    path("async-work", async_work),
    path("managing", managing),
    path("whose", whose),
    path("verified", verified),
    path("async-verified", async_verified),
    path("chain", chain),
    path("click", click),
]


@pytest.fixture(autouse=True)
def routes(database: str, settings_middleware: list[str]) -> Iterator[None]:
    asked.clear()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=settings_middleware):
        yield


@pytest.fixture
def settings_middleware() -> list[str]:
    return [*site.MIDDLEWARE, f"{__name__}.NosyMiddleware"]


@pytest.fixture
def ann(database: str) -> User:
    return User.objects.create_user("ann")


def started_by(user: User, target: str = "/work") -> str:
    """Start a job as its owner from a view that the user requests. It is not sent yet."""
    client = Client()
    client.force_login(user)
    with recorded():
        return client.get("/click", {"path": target}).content.decode()


def run(job_id: str, client: Any = None) -> Any:
    """Send the job's worker request, as the monitor would, and return the response."""
    job = jobs.store.get(job_id, body=True)
    assert job is not None
    assert job.request is not None
    now = int(time.time())
    signed = engine().signer.sign(job.request, Grant(job_id, job.run, 1, now, now + 60))
    client = client or Client(raise_request_exception=False)
    if isinstance(client, AsyncClient):
        return async_to_sync(client.get)(signed.target)
    return client.get(signed.target)


# --- the user -------------------------------------------------------------------------------------------------------


def test_the_action_runs_as_its_owner_without_credentials_or_session(ann: User) -> None:
    job_id = started_by(ann)
    job = jobs.store.get(job_id)
    assert job is not None
    assert (job.owner, job.as_owner, job.held, job.sealed) == (str(ann.pk), True, False, None)
    assert run(job_id).status_code == 200
    state = jobs.status(job_id)
    assert (state.status, state.result) == (Status.COMPLETED, [ann.pk, "ann", "NoneType"])
    assert asked[-1] == "ann", "middlewares see the owner too"


def test_under_asgi_too(ann: User) -> None:
    job_id = started_by(ann, "/async-work")
    assert run(job_id, AsyncClient()).status_code == 200
    state = jobs.status(job_id)
    assert (state.status, state.result) == (Status.COMPLETED, [ann.pk, "ann", "ann"])
    assert asked[-1] == "ann"


def test_immediate_runs_it_as_its_owner(ann: User) -> None:
    with immediate():
        job_id = jobs.start("/work", owner=str(ann.pk), as_owner=True, as_current_user=False)
    assert jobs.status(job_id).result == [ann.pk, "ann", "NoneType"]


@pytest.mark.parametrize("may", [True, False])
def test_permissions_are_the_owners_at_the_time_of_the_run(ann: User, may: bool) -> None:
    permission = Permission.objects.get(codename="add_user")
    if not may:
        ann.user_permissions.add(permission)
    job_id = started_by(ann, "/managing")
    (ann.user_permissions.add if may else ann.user_permissions.remove)(permission)
    run(job_id)
    state = jobs.status(job_id)
    assert (state.status, state.result) == ((Status.COMPLETED, "ann") if may else (Status.FAILED, None))
    assert may or state.status_text.startswith("403")


def test_the_owner_is_loaded_anew(ann: User) -> None:
    job_id = started_by(ann)
    User.objects.filter(pk=ann.pk).update(username="ann2")
    run(job_id)
    assert jobs.status(job_id).result == [ann.pk, "ann2", "NoneType"]


def test_a_job_that_it_starts_has_the_same_owner(ann: User) -> None:
    with immediate():
        job_id = jobs.start("/chain", owner=str(ann.pk), as_owner=True, as_current_user=False)
    assert jobs.status(str(jobs.status(job_id).result)).result == ["ann", str(ann.pk)]


@pytest.mark.parametrize(
    "header", ["django.contrib.auth.middleware.RemoteUserMiddleware", f"{__name__}.HeaderMiddleware"]
)
@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_remote_user_middleware_does_not_log_the_owner_out(ann: User, header: str, client: type[Any]) -> None:
    place = site.MIDDLEWARE.index(AUTHENTICATION) + 1
    middleware = [*site.MIDDLEWARE[:place], header, *site.MIDDLEWARE[place:-1]]
    backends = [f"{RemoteUserBackend.__module__}.{RemoteUserBackend.__name__}"]
    job_id = started_by(ann, "/async-work")
    with override_settings(MIDDLEWARE=middleware, AUTHENTICATION_BACKENDS=backends):
        run(job_id, client())
    assert jobs.status(job_id).result == [ann.pk, "ann", "ann"]


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("target", ["/verified", "/async-verified"])
def test_the_action_sees_what_a_middleware_has_given_to_the_user(ann: User, target: str, client: type[Any]) -> None:
    with override_settings(MIDDLEWARE=[*site.MIDDLEWARE, f"{__name__}.CompletingMiddleware"]):
        job_id = started_by(ann, target)
        run(job_id, client())
    state = jobs.status(job_id)
    assert state.result == [ann.pk, False], state.status_text


def test_with_login_required_middleware(ann: User) -> None:
    middleware = [*site.MIDDLEWARE, "django.contrib.auth.middleware.LoginRequiredMiddleware"]
    with override_settings(MIDDLEWARE=middleware):
        job_id = started_by(ann, "/whose")
        run(job_id)
    assert jobs.status(job_id).result == ["ann", str(ann.pk)]


def test_with_session_authentication_of_rest_framework(ann: User) -> None:
    pytest.importorskip("rest_framework")
    with immediate():
        job_id = jobs.start("/api", method="POST", json={}, owner=str(ann.pk), as_owner=True, as_current_user=False)
    assert jobs.status(job_id).result == "ann"


# --- no user --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("owner", ["inactive", "deleted", "999", "no number", str(1 << 80)])
def test_a_job_whose_owner_may_not_act_fails_at_once_and_its_action_does_not_run(
    ann: User, owner: str, client: type[Any]
) -> None:
    with recorded():
        number = str(ann.pk) if owner in {"inactive", "deleted"} else owner
        job_id = jobs.start("/async-work", owner=number, as_owner=True, as_current_user=False, retries=3)
    if owner == "inactive":
        User.objects.update(is_active=False)
    elif owner == "deleted":
        ann.delete()
    run(job_id, client())
    state = jobs.status(job_id)
    assert (state.status, state.result, state.attempt) == (Status.FAILED, None, 1)
    assert "not active" in state.status_text if owner == "inactive" else "no user" in state.status_text
    assert asked == [], "no middleware after ours ran"


def test_a_database_that_fails_is_the_runs_error_and_may_be_retried(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError("no database")

    with recorded():
        job_id = jobs.start("/work", owner=str(ann.pk), as_owner=True, as_current_user=False, retries=1)
    with monkeypatch.context() as patch:
        patch.setattr(type(User._default_manager), "get", broken)
        run(job_id)
    state = jobs.status(job_id)
    assert (state.status, state.attempt) == (Status.STARTED, 2)
    assert "no database" in state.status_text
    run(job_id)
    assert jobs.status(job_id).result == [ann.pk, "ann", "NoneType"]


def test_it_needs_an_owner() -> None:
    with recorded(), pytest.raises(InvalidRequest, match="as_owner"):
        jobs.start("/work", as_owner=True, as_current_user=False)


def test_with_a_hook_for_owners_the_action_reads_the_owner_and_no_user_is_logged_in(ann: User) -> None:
    """The hook's owners need not be primary keys: an account 1 is not the user 1."""
    with override_settings(BACKJOB={"OWNER": lambda _: str(ann.pk)}):
        jobs.reset()
        with immediate():
            job_id = jobs.start("/whose", owner=str(ann.pk), as_owner=True, as_current_user=False)
        assert jobs.status(job_id).result == ["", str(ann.pk)]
    jobs.reset()


# --- a row that was changed in the store ----------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["owner", "as_owner"])
def test_a_row_that_was_changed_in_the_store_runs_nothing(ann: User, column: str) -> None:
    admin = User.objects.create_superuser("admin")
    with recorded():
        job_id = jobs.start("/work", owner=str(ann.pk), as_owner=column == "owner", as_current_user=False)
        owned = jobs.start("/work", owner=str(admin.pk), as_owner=True, as_current_user=False)
    value = str(admin.pk) if column == "owner" else 1
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE backjob_job SET {column} = %s WHERE id = %s", [value, job_id])
    assert run(job_id).status_code == 409
    state = jobs.status(job_id)
    assert (state.status, state.status_text, state.result) == (Status.FAILED, ROW_CHANGED, None)
    run(owned)
    assert jobs.status(owned).result == [admin.pk, "admin", "NoneType"]
