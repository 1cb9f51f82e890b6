"""The site of `places_app` on Django, with its jobs in the project's database.

``PLACES_DATABASE`` is that database, as JSON. ``/jobs`` shows all jobs. ``python -m tests.places.django_places_app migrate``
makes the tables.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Final

import django
import pymysql
from django.conf import settings as django_settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import include, path

from tests.faults.delivery_lease import shorten_delivery_leases
from tests.places.recording import record
from tests.scenarios.apps.config import PREFIX, settings

__all__ = ["app", "jobs"]

pymysql.install_as_MySQLdb()
django_settings.configure(
    SECRET_KEY="of this site alone: 0d9f4c2b7a6e815f3c",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "backjob.django"],
    MIDDLEWARE=["backjob.django.middleware.BackJobMiddleware"],
    DATABASES={"default": json.loads(os.environ["PLACES_DATABASE"])},
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    LOGGING_CONFIG=None,
    BACKJOB={name.removeprefix(PREFIX): value for name, value in settings().items()},
)
django.setup()

from backjob.django import jobs  # noqa: E402 - needs the settings
from backjob.django.models import Job  # noqa: E402

shorten_delivery_leases()


def ready(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


def start(request: HttpRequest) -> HttpResponse:
    for number in range(int(request.GET["count"])):
        jobs.start(
            "/work",
            {"n": number, "s": request.GET["s"]},
            as_current_user=False,
            merge="never",
            queue=request.GET["queue"],
        )
    return HttpResponse("ok")


@jobs.background_only
def work(request: HttpRequest) -> HttpResponse:
    record("begin")
    time.sleep(float(request.GET["s"]))
    record("end")
    return HttpResponse("<p>")


def all_jobs(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"jobs": [*Job.objects.values("id", "status", "slot", "status_text")]})


urlpatterns = [
    path("backjob/", include("backjob.django.urls")),
    path("ready", ready),
    path("start", start),
    path("work", work),
    path("jobs", all_jobs),
]
app: Final = get_wsgi_application()

if __name__ == "__main__":
    call_command(*sys.argv[1:], verbosity=0)
