"""A Django site with an admin and some jobs, for a browser: ``python admin_site.py FOLDER`` serves it from that folder.

Staff log in as ``Al`` with the password ``secret``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import django
from django.conf import settings
from django.core.management import call_command
from django.http import HttpRequest, HttpResponse
from django.urls import include, path

TASKS_APP = "django.tasks" if django.VERSION >= (6,) else "django_tasks"
OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}
HOUR = 3_600_000_000  # microseconds


def configure(folder: Path) -> None:
    settings.configure(
        DEBUG=True,  # for static files
        SECRET_KEY="of the browser tests alone: 91c2a7d45e0b",
        ALLOWED_HOSTS=["127.0.0.1", "testserver"],
        ROOT_URLCONF="admin_site",
        USE_TZ=True,
        STATIC_URL="/static/",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": folder / "site.db", "OPTIONS": OPTIONS}},
        INSTALLED_APPS=[
            "django.contrib.admin",
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.messages",
            "django.contrib.sessions",
            "django.contrib.staticfiles",
            "backjob.django",
            *([] if TASKS_APP == "django.tasks" else [TASKS_APP]),
        ],
        MIDDLEWARE=[
            "backjob.django.middleware.BackJobMiddleware",
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.locale.LocaleMiddleware",
            "django.middleware.common.CommonMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        "django.template.context_processors.request",
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        TASKS={"default": {"BACKEND": "backjob.django.backend.BackJobBackend"}},
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    )


def work(request: HttpRequest) -> HttpResponse:
    """Do nothing: these tests look at jobs that the store has."""
    return HttpResponse("Exported 50 rows")


def add_jobs() -> None:
    """Store a job in each state, with the parts of a job that the admin shows."""
    from django.contrib.auth.models import User

    from backjob.django import jobs
    from backjob.django.models import Job
    from backjob.django.testing import immediate, recorded
    from backjob.lifecycle import claimed
    from backjob.model import Report

    User.objects.create_superuser("Al", password="secret")
    ann, bo = (str(User.objects.create(username=name).pk) for name in ("Ann Smith", "Bo Jensen"))

    def started(title: str, owner: str | None = None, **options: Any) -> str:
        with recorded():
            return jobs.start("/work", as_current_user=False, title=title, owner=owner, **options)

    with immediate():
        jobs.start("/work", as_current_user=False, title="Invoices 2026", owner=ann)
        failed_task = str(failing_task().enqueue("ann@example.org", year=2026).id)
    Job.objects.filter(id=failed_task).update(title="Newsletter", owner=bo)
    jobs.cancel(started("Export of everything", ann))
    started("Nightly clean-up", delay=timedelta(days=1))
    running = started("Import of 41,000 rows", bo, queue="imports")
    assert jobs.store.change(running, *claimed("token", 1, 86_400))
    output = (
        "reading customers.csv\n\r 9,000 rows read\r\x1b[32m17,630 rows read\x1b[0m\n"
        + "a long line of output " * 20
        + "\n"
    )
    assert jobs.store.report(running, "token", Report(progress=43, text="Row 17,630", output=output))
    for number, job in enumerate(Job.objects.order_by("seq")):
        earlier = (5 - number) * HOUR
        names = ["created_time", "claimed_time", "end_time", *(["start_time"] if job.status else [])]
        times = {name: getattr(job, name) for name in names}
        moved = {name: value - earlier for name, value in times.items() if value is not None}
        Job.objects.filter(pk=job.pk).update(**moved)
    began = Job.objects.get(id=running).created_time
    Job.objects.filter(id=running).update(claimed_time=began, start_time=began)


def failing_task() -> Any:
    """Return `send_newsletter` as a task."""
    task: Callable[[Any], Any] = import_module(TASKS_APP).task
    made = task(send_newsletter)
    globals()["send_newsletter"] = made
    return made


def send_newsletter(to: str, year: int) -> None:
    """Fail as a task that sends mail may."""
    raise ConnectionResetError(f"the mail server closed the connection ({to}, {year})")


class _Threaded(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        """Log nothing."""


def main(folder: Path) -> None:
    configure(folder)
    django.setup()
    call_command("migrate", verbosity=0)
    add_jobs()
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.handlers.wsgi import WSGIHandler

    application: Any = StaticFilesHandler(WSGIHandler())

    with make_server("127.0.0.1", 0, application, server_class=_Threaded, handler_class=_Silent) as server:
        print(f"serving http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()


def __getattr__(name: str) -> Any:
    """Make the routes when Django asks for them: the admin's need the set-up site."""
    if name != "urlpatterns":
        raise AttributeError(name)
    from django.contrib import admin

    return [
        path("admin/", admin.site.urls),
        path("backjob/", include("backjob.django.urls")),
        path("work", work),
        path("favicon.ico", lambda _: HttpResponse(status=204)),
    ]


if __name__ == "__main__":
    import_module("admin_site").main(Path(sys.argv[1]))  # as the URLconf, and as the module of the task
