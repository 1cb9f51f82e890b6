"""A Django project whose workers are killed: ``app`` for WSGI, ``asgi_app`` for ASGI.

``/start?count=600`` starts that many jobs, as `tests.faults.killed_app` does. ``/start-import`` starts one that
deactivates all active users, and adds a letter to their last names.
"""

from __future__ import annotations

import json
import os
import time
from typing import Final

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.adapters.django.settings"

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.db import transaction
from django.db.models import Value
from django.db.models.functions import Concat
from django.http import HttpRequest, HttpResponse
from django.urls import path

__all__ = ["app", "asgi_app"]

app = get_wsgi_application()
asgi_app = get_asgi_application()

from django.contrib.auth.models import User  # noqa: E402 - needs the settings

from backjob.django import jobs  # noqa: E402
from tests.faults.delivery_lease import shorten_delivery_leases  # noqa: E402
from tests.faults.recording import recorded  # noqa: E402

_options: Final = json.loads(os.environ["START_OPTIONS"])
_seconds: Final = float(os.environ.get("SECONDS_EACH", "0.02"))

shorten_delivery_leases()


def work(request: HttpRequest) -> HttpResponse:
    with recorded():
        time.sleep(_seconds)
    return HttpResponse("")


@jobs.background_only
def deactivate(request: HttpRequest) -> HttpResponse:
    with recorded():
        for user in jobs.track(User.objects.filter(is_active=True), "Deactivating", resume="each"):
            time.sleep(_seconds)
            with transaction.atomic():
                User.objects.filter(pk=user.pk).update(is_active=False, last_name=Concat("last_name", Value("x")))
    return HttpResponse("")


def start_import(request: HttpRequest) -> HttpResponse:
    return HttpResponse(jobs.start("/deactivate", as_current_user=False, **_options))


def start(request: HttpRequest) -> HttpResponse:
    ids = [
        jobs.start("/work", {"n": number}, as_current_user=False, **_options)
        for number in range(int(request.GET["count"]))
    ]
    return HttpResponse("\n".join(ids))


def ready(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [
    path("work", work),
    path("deactivate", deactivate),
    path("start", start),
    path("start-import", start_import),
    path("ready", ready),
]
