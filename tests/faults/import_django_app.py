"""The site of `import_app` on Django, with ATOMIC_REQUESTS: it imports a queryset whose filter shrinks as rows are done.

The table is made by the test: ``rows (id, times)``, where ``times`` is how often a row was worked on, 0 at first.
"""

from __future__ import annotations

import os
import time
from typing import Any, Final

import django
from django.conf import settings as django_settings
from django.core.wsgi import get_wsgi_application
from django.db import models, transaction
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from tests.faults.recording import recorded
from tests.scenarios.apps.config import PREFIX, settings

__all__ = ["app", "jobs"]

_SECONDS_EACH: Final = 0.003

django_settings.configure(
    SECRET_KEY="of this site alone: 0d9f4c2b7a6e815f3c",
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "backjob.django"],
    MIDDLEWARE=["backjob.django.middleware.BackJobMiddleware"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.environ["ROWS_DB"],
            "ATOMIC_REQUESTS": True,
            "OPTIONS": {"timeout": 60, "init_command": "PRAGMA synchronous = OFF"},  # processes die here, no machine
        }
    },
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    LOGGING_CONFIG=None,
    BACKJOB={name.removeprefix(PREFIX): value for name, value in settings().items()},
)
django.setup()

from backjob.django import jobs  # noqa: E402 - needs the settings


class Row(models.Model):
    id: Any = models.IntegerField(primary_key=True)
    times: Any = models.IntegerField()

    class Meta:
        app_label = "importing"
        db_table = "rows"
        managed = False


@jobs.background_only
def import_rows(request: HttpRequest) -> HttpResponse:
    with recorded():
        for row in jobs.track(Row.objects.filter(times=0), "Importing", resume="each"):
            time.sleep(_SECONDS_EACH)
            with transaction.atomic():
                Row.objects.filter(pk=row.pk).update(times=models.F("times") + 1)
    return HttpResponse("")


def start(request: HttpRequest) -> HttpResponse:
    job_id = jobs.start("/import", as_current_user=False, retries=5, retry_delay=0.2)
    return HttpResponse(jobs.status_url(job_id))


def ready(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ok")


urlpatterns = [
    path("backjob/", include("backjob.django.urls")),
    path("import", import_rows),
    path("start", start),
    path("ready", ready),
]
app = get_wsgi_application()
