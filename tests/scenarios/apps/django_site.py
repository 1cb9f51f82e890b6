"""The scenario site as a Django project in one module; `django_app` and `django_asgi_app` are what servers load."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import django
from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import include, path, reverse
from django.views.decorators.csrf import csrf_exempt

from tests.scenarios.apps.config import PREFIX, own_transport, settings
from tests.scenarios.site import Reply, Visit, answer, owner_in

if TYPE_CHECKING:
    from django.http import HttpResponseBase

__all__ = ["owner", "set_up", "urlpatterns"]


def owner(request: HttpRequest) -> str | None:
    """The owner hook."""
    return owner_in(request.META.get("HTTP_COOKIE"))


def set_up() -> None:
    """Configure Django with the settings of the environment."""
    django_settings.configure(
        SECRET_KEY="the scenarios' own, 0d9f4c2b7a6e815f3c",
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "backjob.django"],
        MIDDLEWARE=["backjob.django.middleware.BackJobMiddleware", "django.middleware.csrf.CsrfViewMiddleware"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["SCENARIO_RUNS"] + ".db"}},
        ROOT_URLCONF=__name__,
        USE_TZ=True,
        LOGGING_CONFIG=None,
        DATA_UPLOAD_MAX_MEMORY_SIZE=None,
        BACKJOB={name.removeprefix(PREFIX): value for name, value in settings().items()} | {"OWNER": owner},
    )
    django.setup()
    from backjob.delivery.addresses import Addresses
    from backjob.django.site import engine

    transport = own_transport()
    if transport is not None:
        engine().addresses = Addresses(transport)


def site(request: HttpRequest, rest: str) -> HttpResponseBase:
    """Every page of the site."""
    from backjob.django import jobs

    reply = answer(jobs, _visit(request, f"/{rest}"))
    return _response(reply)


def by_url(request: HttpRequest) -> HttpResponse:
    """Start the action "none" by its URL."""
    from backjob.django import jobs

    return JsonResponse({"id": jobs.start(request.build_absolute_uri(reverse("site", args=["work/none"])))})


def _response(reply: Reply) -> HttpResponseBase:
    kind: Any = HttpResponse if isinstance(reply.body, str) else StreamingHttpResponse
    response: HttpResponseBase = kind(reply.body, status=reply.status, content_type=reply.content_type)
    for name, value in reply.headers.items():
        response[name] = value
    if isinstance(response, HttpResponse):
        response["Content-Length"] = str(len(response.content))
    return response


def _visit(request: Any, path: str) -> Visit:
    scope = getattr(request, "scope", None)
    query = request.META.get("QUERY_STRING", "")
    if scope is None:
        raw = request.META.get("REQUEST_URI") or request.META.get("RAW_URI")
    else:
        raw = scope["raw_path"].decode() + (f"?{query}" if query else "")
    return Visit(
        method=request.method,
        path=path,
        query=query,
        raw=raw,
        mount=request.META["SCRIPT_NAME"] if scope is None else scope.get("root_path", ""),
        headers={name.lower(): value for name, value in request.headers.items()},
        body=request.body,
        address=request.META.get("REMOTE_ADDR", ""),
        scheme=request.scheme,
        host=request.META.get("HTTP_HOST", ""),
        parameters=request.GET.dict(),
    )


urlpatterns = [
    path("backjob/", include("backjob.django.urls")),
    path("start", csrf_exempt(site), {"rest": "start"}),
    path("by-url", by_url),
    path("<path:rest>", site, name="site"),
]
