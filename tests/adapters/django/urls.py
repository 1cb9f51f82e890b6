"""The routes of the tests' Django project."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

from tests.adapters.django import views, work

urlpatterns = [
    path("admin/", admin.site.urls),
    path("backjob/", include("backjob.django.urls")),
    path("ready", views.ready),
    path("enqueue/<name>", work.enqueue),
    path("result/<result_id>", work.result),
    path("login/<name>", views.log_in),
    path("logout", views.log_out),
    path("start", views.start),
    path("start-within", views.start_within),
    path("see", views.see, name="see"),
    path("see/<int:number>/<word>", views.see, name="see-more"),
    path("read", views.read, name="read"),
    path("only", views.only, name="only"),
    path("fail/<how>", views.fail, name="fail"),
    path("report-within", views.report_within, name="report-within"),
    path("within", views.within, name="within"),
    path("cancel-itself", views.cancel_itself, name="cancel-itself"),
    path("hold", views.hold, name="hold"),
    path("hold-async", views.hold_async, name="hold-async"),
    path("note/<word>", views.note, name="note"),
    path("forget/<word>", views.forget),
    path("notes", views.notes),
    path("write", views.write),
    path("write-often", views.write_often),
    path("progress/<job_id>", views.progress),
]
