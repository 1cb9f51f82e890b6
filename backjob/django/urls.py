"""The status routes: ``path("backjob/", include("backjob.django.urls"))``."""

from __future__ import annotations

from django.urls import path

from backjob.django.views import status

app_name = "backjob"

urlpatterns = [path("<path:rest>", status, name="status")]
