"""The site's pages, and the status routes."""

from django.urls import include, path

urlpatterns = [
    path("", include("report.urls")),
    path("backjob/", include("backjob.django.urls")),
]
