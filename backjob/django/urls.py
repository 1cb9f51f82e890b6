"""The status routes and the route that runs tasks; use ``path("backjob/", include("backjob.django.urls"))``."""

from __future__ import annotations

from django.urls import path

from backjob.django.views import run, status

app_name = "backjob"

urlpatterns = [
    path("run", run, name="run"),
    path("", status, name="list"),
    path("<path:rest>", status, name="status"),
]
