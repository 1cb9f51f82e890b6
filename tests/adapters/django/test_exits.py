"""Every middleware sees the response to a view that a `JobExit` ends: of people's requests and of jobs, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template import engines
from django.template.response import TemplateResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path
from django.utils.decorators import sync_and_async_middleware
from django.utils.deprecation import MiddlewareMixin

from backjob import Status
from backjob.django import jobs
from backjob.django.testing import immediate
from tests.adapters.django import views

pytestmark = pytest.mark.usefixtures("database")

seen: list[tuple[str, str | int]] = []
"""What each middleware saw: its name, with the path before the view, and with the status after it."""


class Hooks(MiddlewareMixin):
    """Two hooks, as OpenTelemetry's and django-prometheus's middlewares have them."""

    def process_request(self, request: HttpRequest) -> None:
        seen.append(("hooks", request.path))

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        seen.append(("hooks", response.status_code))
        return response


def sync_function(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        seen.append(("function", request.path))
        response = get_response(request)
        seen.append(("function", response.status_code))
        return response

    return middleware


@sync_and_async_middleware
def either(get_response: Any) -> Any:
    if not asyncio.iscoroutinefunction(get_response):
        return sync_function(get_response)

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        seen.append(("function", request.path))
        response: HttpResponseBase = await get_response(request)
        seen.append(("function", response.status_code))
        return response

    return middleware


@jobs.background_only
def only(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ran")


def fail(request: HttpRequest) -> HttpResponse:
    User.objects.create(username="never")
    jobs.fail("no paper")


async def fail_async(request: HttpRequest) -> HttpResponse:
    jobs.fail("no paper")


async def fail_in_group(request: HttpRequest) -> HttpResponse:
    async def part() -> None:
        jobs.fail("no paper")

    async with asyncio.TaskGroup() as group:
        group.create_task(part())
    return HttpResponse("never")


def fail_while_rendering(request: HttpRequest) -> HttpResponse:
    template = engines["django"].from_string("{{ value }}")
    return TemplateResponse(request, template, {"value": lambda: jobs.fail("no paper")})


def cancelled(request: HttpRequest) -> HttpResponse:
    jobs.cancel(str(jobs.job_id))
    jobs.update(status_text="too late")
    return HttpResponse("never")


urlpatterns = [
    path("backjob/", include("backjob.django.urls")),
    path("start", views.start),
    path("only", only),
    path("fail", fail),
    path("fail-async", fail_async),
    path("fail-in-group", fail_in_group),
    path("fail-while-rendering", fail_while_rendering),
    path("cancelled", cancelled),
]


@pytest.fixture(params=["hooks", "function"])
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a middleware of the site, directly behind backjob's and as the last one."""
    dotted = f"{__name__}.{'Hooks' if request.param == 'hooks' else 'either'}"
    first, *others = settings.MIDDLEWARE
    seen.clear()
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=[first, dotted, *others, dotted]):
        yield request.param


def both_saw(name: str, path: str, status: int) -> list[tuple[str, str | int]]:
    return [(name, path), (name, path), (name, status), (name, status)]


def visit(path: str) -> Any:
    return Client().get(path)


def visit_async(path: str) -> Any:
    return asyncio.run(AsyncClient().get(path))


FAILING = ["/fail", "/fail-async", "/fail-in-group", "/fail-while-rendering"]


@pytest.mark.parametrize("get", [visit, visit_async], ids=["sync", "async"])
def test_middlewares_see_the_response_to_a_visitor_of_a_background_only_view(
    name: str, get: Callable[[str], Any]
) -> None:
    answer = get("/only")
    assert (answer.status_code, answer.content) == (403, b"this route runs only as a background job")
    assert seen == both_saw(name, "/only", 403)


@pytest.mark.parametrize("path", FAILING)
@pytest.mark.parametrize("get", [visit, visit_async], ids=["sync", "async"])
def test_middlewares_see_the_response_to_a_person_whose_view_fails(
    name: str, path: str, get: Callable[[str], Any]
) -> None:
    answer = get(path)
    assert (answer.status_code, answer.content) == (500, b"no paper")
    assert seen == both_saw(name, path, 500)


@pytest.mark.parametrize("path", [*FAILING, "/cancelled"])
def test_middlewares_see_the_response_of_a_job_that_ends_itself(
    name: str, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with immediate():
        answer = Client().post("/start", {"path": path}, content_type="application/json")
    state = jobs.status(answer.json()["id"])
    if path == "/cancelled":
        assert state.status is Status.CANCELLED
    else:
        assert (state.status, state.status_text) == (Status.FAILED, "no paper")
    assert seen == [*both_saw(name, "/start", 200)[:2], *both_saw(name, path, 500), *both_saw(name, "/start", 200)[2:]]
    assert not [record for record in caplog.records if record.name.startswith("django")]


@pytest.mark.parametrize("get", [visit, visit_async], ids=["sync", "async"])
def test_fail_rolls_the_transaction_of_its_request_back(name: str, get: Callable[[str], Any]) -> None:
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        assert get("/fail").status_code == 500
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert not User.objects.filter(username="never").exists()
