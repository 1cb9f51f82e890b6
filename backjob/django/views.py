"""The status routes as Django views; the session identifies the user."""

from __future__ import annotations

from attrs import evolve
from django.contrib.auth.decorators import login_not_required
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from backjob.django.requests import DjangoServing
from backjob.django.site import engine, jobs
from backjob.django.streaming import downloading, streaming
from backjob.status.endpoints import Endpoints, StatusResponse, Visit, not_configured


@csrf_exempt  # cancelling checks a token, or the browser's Origin or Sec-Fetch-Site
@login_not_required  # a signed URL works without a login
@transaction.non_atomic_requests  # the end of a job that times out on reading must last
def status(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """Respond to a status route; ``rest`` is the path after the prefix of the included URLs."""
    if jobs.engine_if_usable() is None:
        return _response(request, not_configured(request.headers.get("accept")))
    here, site = DjangoServing(request), engine()
    answer = Endpoints(site, "/backjob").respond(
        Visit(
            evolve(here.request, method=request.method or ""),  # Django makes it upper case
            path=f"/{rest}",
            owner=lambda: site.owner_of(request),
            mount=request.path.removesuffix(rest),
            sees_all=lambda: site.may_see_all(request),
            in_thread=not hasattr(request, "scope"),
            manages_all=lambda: site.may_manage_all(request),
            origin=here.origin,
        )
    )
    return _response(request, answer)


def _response(request: HttpRequest, answer: StatusResponse) -> HttpResponseBase:
    response: HttpResponseBase
    if answer.stream is not None:
        response = streaming(request, answer.stream)
    elif answer.download is not None:
        response = downloading(request, answer.download)
    else:
        response = HttpResponse(answer.body, status=answer.status)
    for name, value in answer.headers:
        response[name] = value
    return response


@login_not_required  # the signature proves that the site itself made the request
@jobs.background_only
def run(request: HttpRequest) -> HttpResponse:
    """Run a task of the Tasks framework, for `backjob.django.backend`."""
    from backjob.django.task_run import run_task  # noqa: PLC0415 - only where there are tasks

    run_task(request.body)
    return HttpResponse(status=204)
