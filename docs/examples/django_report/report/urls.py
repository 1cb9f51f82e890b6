"""The pages of the export, and the route that does the work."""

from django.urls import path

from report import views

urlpatterns = [
    path("", views.home, name="home"),
    path("report/", views.report, name="report"),
    path("report/work/<int:rows>/", views.work, name="report-work"),
]
