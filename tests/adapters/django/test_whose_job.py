"""Whose job it is: visitors whose jobs merge, views that log a user in before they start a job, logins by header."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as site
from django.contrib.auth import alogin, login, logout
from django.contrib.auth.middleware import PersistentRemoteUserMiddleware, RemoteUserMiddleware
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import include, path
from django.utils.translation import get_language

from backjob import InvalidRequest, Status
from backjob.django import jobs
from backjob.django.testing import immediate, recorded

BACKEND = "django.contrib.auth.backends.ModelBackend"
AUTHENTICATION = "django.contrib.auth.middleware.AuthenticationMiddleware"
ENGINES = ["db", "cached_db", "cache", "file", "signed_cookies"]


class HeaderMiddleware(RemoteUserMiddleware):
    header = "HTTP_REMOTE_USER"


class LastingHeaderMiddleware(PersistentRemoteUserMiddleware):
    header = "HTTP_REMOTE_USER"


def work(request: HttpRequest) -> HttpResponse:
    seen: Any = [request.user.get_username(), request.session.get("cart"), get_language()]
    return HttpResponse(jobs.finish(result=[*seen, request.headers.get("Remote-User")]))


def look(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"{jobs.start('/work', as_current_user='anonymous' not in request.GET)} {get_language()}")


def user_of(name: str) -> User:
    return User.objects.get_or_create(username=name)[0]


def sign_in(request: HttpRequest, name: str) -> HttpResponse:
    login(request, user_of(name), backend=BACKEND)
    return look(request)


async def sign_in_async(request: HttpRequest, name: str) -> HttpResponse:
    user, _ = await User.objects.aget_or_create(username=name)
    await alogin(request, user, backend=BACKEND)
    return HttpResponse(await jobs.astart("/work"))


async def sign_in_blocking(request: HttpRequest, name: str) -> HttpResponse:
    user, _ = await User.objects.aget_or_create(username=name)
    await alogin(request, user, backend=BACKEND)
    return HttpResponse(jobs.start("/work"))


def sign_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return look(request)


def add(request: HttpRequest, thing: str) -> HttpResponse:
    request.session["cart"] = [*request.session.get("cart", []), thing]
    return look(request)


def visit(request: HttpRequest) -> HttpResponse:
    request.session["visits"] = 1
    return HttpResponse("")


def export(request: HttpRequest, merge: Any) -> HttpResponse:
    return HttpResponse(jobs.start("/work", merge=merge, delay=60))


urlpatterns = [
    path("backjob/", include("backjob.django.urls")),
    path("work", work),
    path("look", look),
    path("sign-in/<name>", sign_in),
    path("sign-in-async/<name>", sign_in_async),
    path("sign-in-blocking/<name>", sign_in_blocking),
    path("sign-out", sign_out),
    path("add/<thing>", add),
    path("visit", visit),
    path("export/<merge>", export),
]


@pytest.fixture(autouse=True)
def routes(database: str) -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__):
        yield


def result(client: Client, page: str, **extra: Any) -> Any:
    job_id = client.get(page, **extra).content.decode().partition(" ")[0]
    state = jobs.status(job_id)
    assert state.status is Status.COMPLETED, state.status_text
    return state.result


@pytest.mark.parametrize("merge", ["pending", "unfinished"])
@pytest.mark.parametrize("name", ["sessionid", "shop_session"])
def test_a_visitors_double_click_merges_with_himself_only(merge: str, name: str) -> None:
    with override_settings(SESSION_COOKIE_NAME=name, BACKJOB={"OWNER": lambda request: ""}), recorded():
        ann, bob, stranger = Client(), Client(), Client()
        ann.get("/visit")
        bob.get("/visit")
        clicks = [client.get(f"/export/{merge}").content for client in (ann, bob, ann, bob, stranger, stranger)]
    assert clicks[:2] == clicks[2:4]
    assert len(set(clicks)) == 4


@pytest.mark.parametrize(
    "engine", [ENGINES[0], *(pytest.param(engine, marks=pytest.mark.slow) for engine in ENGINES[1:])]
)
def test_the_job_gets_the_session_as_it_is_when_the_view_starts_it(engine: str, tmp_path: Any) -> None:
    name = f"django.contrib.sessions.backends.{engine}"
    with override_settings(SESSION_ENGINE=name, SESSION_FILE_PATH=str(tmp_path)), immediate():
        client = Client()
        assert result(client, "/look")[:2] == ["", None]
        assert result(client, "/add/tea")[:2] == ["", ["tea"]]
        assert result(client, "/sign-in/ann")[:2] == ["ann", ["tea"]]
        assert result(client, "/look")[:2] == ["ann", ["tea"]]
        assert result(client, "/sign-in/bob")[:2] == ["bob", None]
        assert result(client, "/add/cup")[:2] == ["bob", ["cup"]]
        assert result(client, "/sign-out")[:2] == ["", None]
        assert result(client, "/look")[:2] == ["", None]
        assert result(client, "/sign-in-async/ann")[:2] == ["ann", None]


def test_a_session_that_can_not_be_saved_in_the_event_loop_is_an_error_that_names_astart() -> None:
    refused = pytest.raises(InvalidRequest, match=r"await astart\(\)")
    with override_settings(BACKJOB={"STORE": "memory:"}), immediate(), refused:
        Client().get("/sign-in-blocking/ann")


@pytest.mark.parametrize("named", [["Remote-User"], None], ids=str)
@pytest.mark.parametrize(
    ("middleware", "variable", "lasting"),
    [
        ("django.contrib.auth.middleware.RemoteUserMiddleware", "REMOTE_USER", False),
        ("django.contrib.auth.middleware.PersistentRemoteUserMiddleware", "REMOTE_USER", True),
        (f"{__name__}.HeaderMiddleware", "HTTP_REMOTE_USER", False),
        (f"{__name__}.LastingHeaderMiddleware", "HTTP_REMOTE_USER", True),
    ],
    ids=["variable", "variable-lasting", "header", "header-lasting"],
)
def test_a_login_by_remote_user_is_the_jobs_too_and_stays(
    named: list[str] | None, middleware: str, variable: str, lasting: bool
) -> None:
    place = site.MIDDLEWARE.index(AUTHENTICATION) + 1
    with (
        override_settings(
            MIDDLEWARE=[*site.MIDDLEWARE[:place], middleware, *site.MIDDLEWARE[place:]],
            AUTHENTICATION_BACKENDS=["django.contrib.auth.backends.RemoteUserBackend", BACKEND],
            BACKJOB={"CREDENTIAL_HEADERS": named},
        ),
        immediate(),
    ):
        client = Client()
        assert result(client, "/look", **{variable: "ann"})[0] == "ann"
        assert result(client, "/look", **{variable: "ann"})[0] == "ann"
        assert result(client, "/look?anonymous", **{variable: "ann"})[0] == ""
        session = client.session.session_key
        assert result(client, "/look")[0] == ("ann" if lasting else "")
        assert (client.session.session_key == session) is lasting


@pytest.mark.parametrize("options", ["", "?anonymous"])
@pytest.mark.parametrize(("asked", "language"), [("de-CH,de;q=0.9", "de"), ("fr", "fr"), ("", "en")])
def test_the_job_speaks_the_language_of_the_page(options: str, asked: str, language: str) -> None:
    middleware = [*site.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    with override_settings(MIDDLEWARE=middleware, USE_I18N=True, LANGUAGE_CODE="en"), immediate():
        client = Client()
        page = client.get(f"/look{options}", HTTP_ACCEPT_LANGUAGE=asked).content.decode()
        job_id, _, shown = page.partition(" ")
        state: Any = jobs.status(job_id)
    assert (shown, state.result[2]) == (language, language)


def test_the_error_for_large_cookies_names_the_setting() -> None:
    with immediate(), pytest.raises(InvalidRequest, match="MAX_HEADERS=8192"):
        Client().get("/look", HTTP_COOKIE=f"a={'x' * 9000}")
    with override_settings(BACKJOB={"MAX_HEADERS": 16384}), immediate():
        assert result(Client(), "/look", HTTP_COOKIE=f"a={'x' * 9000}")[0] == ""
