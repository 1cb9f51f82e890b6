"""The site of `tests.faults.killed_app` as a Django project, whose workers are killed: ``app`` for WSGI, ``asgi_app`` for ASGI."""

from __future__ import annotations

import json
import os
import time
from typing import Final

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.adapters.django.settings"

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

__all__ = ["app", "asgi_app"]

app = get_wsgi_application()
asgi_app = get_asgi_application()

from backjob.django import jobs  # noqa: E402 - needs the settings
from tests.faults.delivery_lease import shorten_delivery_leases  # noqa: E402
from tests.faults.recording import record  # noqa: E402

_options: Final = json.loads(os.environ["START_OPTIONS"])
_seconds: Final = float(os.environ.get("SECONDS_EACH", "0.02"))

shorten_delivery_leases()


def work(request: HttpRequest) -> HttpResponse:
    record("begin")
    time.sleep(_seconds)
    record("end")
    return HttpResponse("")


def start(request: HttpRequest) -> HttpResponse:
    ids = [
        jobs.start("/work", {"n": number}, as_current_user=False, **_options)
        for number in range(int(request.GET["count"]))
    ]
    return HttpResponse("\n".join(ids))


def ready(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [path("work", work), path("start", start), path("ready", ready)]
