"""The pages of the tests' Django project."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from django.contrib.auth import login, logout
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt

from backjob.django import jobs
from backjob.django.site import engine
from tests.scenarios.gates import at_gate, at_gate_in_thread

seen: list[dict[str, Any]] = []
"""What jobs in this process saw, for tests without a server."""


def ready(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ready")


def log_in(request: HttpRequest, name: str) -> HttpResponse:
    user, _ = User.objects.get_or_create(username=name)
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return HttpResponse(str(user.pk))


def log_out(request: HttpRequest) -> HttpResponse:
    logout(request)
    return HttpResponse("")


def _start(request: HttpRequest) -> JsonResponse:
    job_id = jobs.start(**json.loads(request.body))
    return JsonResponse({"id": job_id, "url": jobs.status_url(job_id)})


@csrf_exempt
@transaction.non_atomic_requests
def start(request: HttpRequest) -> HttpResponse:
    """Start a job with the arguments in the body."""
    return _start(request)


@csrf_exempt
@transaction.atomic
def start_within(request: HttpRequest) -> HttpResponse:
    """`start` in a transaction."""
    return _start(request)


def _sight(request: HttpRequest, **more: Any) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.path,
        "query": request.GET.dict(),
        "form": request.POST.dict(),
        "body": request.body.decode(),
        "user": request.user.get_username(),
        "host": request.get_host(),
        "url": request.build_absolute_uri("/see"),
        "reversed": reverse("see"),
        "scheme": request.scheme,
        "secure": request.is_secure(),
        "address": request.META["REMOTE_ADDR"],
        "background": jobs.is_background,
        "owner": engine().current_owner(),
        "atomic": connection.in_atomic_block,
        **more,
    }


def see(request: HttpRequest, **more: Any) -> HttpResponse:
    """Note and return what the view sees of the request."""
    seen.append(_sight(request, **more))
    print("<script>alert(1)</script>")
    return HttpResponse(jobs.finish("<b>Seen</b>", result=seen[-1]))


def read(request: HttpRequest) -> HttpResponse:
    """Read the body in chunks."""
    seen.append({"read": request.read(4).decode(), "rest": request.read().decode()})
    return HttpResponse("")


@jobs.background_only
def only(request: HttpRequest) -> HttpResponse:
    return see(request)


def within(request: HttpRequest) -> HttpResponse:
    """Report in a transaction that is rolled back, and then continue or raise."""
    with transaction.atomic():
        jobs.update(40, "within")
        print("from within")
        seen.append({"from beside": _beside()})
        started = jobs.start("/see", as_current_user=False)
        if "leave" in request.GET:
            raise LookupError("left")
        transaction.set_rollback(True)
    return HttpResponse(jobs.finish(result=started))


def fail(request: HttpRequest, how: str) -> HttpResponse:
    """Fail."""
    if how == "word":
        jobs.fail("no such customer")
    if how == "error":
        raise LookupError("no such customer")
    return HttpResponse("", status=int(how))


@transaction.atomic
def report_within(request: HttpRequest) -> HttpResponse:
    """Report in a transaction."""
    jobs.update(40, "within")
    print("from within")
    return HttpResponse(jobs.finish())


def cancel_itself(request: HttpRequest) -> HttpResponse:
    """End the current job in a transaction that is rolled back; note how many ended jobs others see by then."""
    with transaction.atomic():
        assert jobs.job_id is not None
        jobs.cancel(jobs.job_id)
        seen.append({"ends": _ended_beside()})
        transaction.set_rollback(True)
    return HttpResponse("")


def _ended_beside() -> int:
    with closing(connection.copy()) as beside, beside.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM backjob_job WHERE end_time IS NOT NULL")
        return int(cursor.fetchone()[0])


def _beside() -> list[Any]:
    """Return the job as another connection sees it."""
    with closing(connection.copy()) as beside, beside.cursor() as cursor:
        cursor.execute("SELECT progress, status_text FROM backjob_job WHERE id = %s", [jobs.job_id])
        return list(cursor.fetchone())


def _words(request: HttpRequest) -> list[str]:
    names = request.session.keys()
    return sorted(name for name in names if not name.startswith("_"))


def hold(request: HttpRequest) -> HttpResponse:
    """Wait at a gate of the test, write the session value in ``write``, and print the session."""
    if "touch" in request.GET:
        request.session.get("anything")  # as any use of the user does
    with at_gate_in_thread(int(request.GET["gate"])) as gate:
        while gate.recv(1) == b"+":
            jobs.update(50, "held")
    if "write" in request.GET:
        request.session[request.GET["write"]] = True
    user = request.user.get_username()
    return HttpResponse(jobs.finish("held", result=[user, *_words(request)]))


async def hold_async(request: HttpRequest) -> HttpResponse:
    """`hold`, as a coroutine."""
    async with at_gate(int(request.GET["gate"])) as gate:
        while await gate.read(1) == b"+":
            await jobs.aupdate(50, "held")
    user = await request.auser()
    return HttpResponse(jobs.finish("held", result=user.get_username()))


def note(request: HttpRequest, word: str) -> HttpResponse:
    """Write to the session."""
    request.session[word] = True
    return HttpResponse("")


def forget(request: HttpRequest, word: str) -> HttpResponse:
    """Remove the session value."""
    del request.session[word]
    return HttpResponse("")


def notes(request: HttpRequest) -> HttpResponse:
    """Return the session value."""
    return JsonResponse(_words(request), safe=False)


def progress(request: HttpRequest, job_id: str) -> HttpResponse:
    template = engines["django"].from_string("{% load backjob %}{% backjob_progress job_id %}")
    return HttpResponse(template.render({"job_id": job_id}, request))


def _increase(name: str) -> None:
    """Read and then write within one transaction."""
    with transaction.atomic():
        user, _ = User.objects.get_or_create(username=name)
        user.first_name = str(int(user.first_name or 0) + 1)
        user.save()


def write(request: HttpRequest) -> HttpResponse:
    """A page that writes."""
    _increase("page")
    return HttpResponse("")


def write_often(request: HttpRequest) -> HttpResponse:
    """A job that writes until the page has written as often as the query says. Its result is how often it wrote."""
    times = 0
    while int(User.objects.filter(username="page").values_list("first_name", flat=True).first() or 0) < int(
        request.GET["until"]
    ):
        _increase("job")
        times += 1
        jobs.update(status_text=f"{times} times")
    return HttpResponse(jobs.finish(result=times))
