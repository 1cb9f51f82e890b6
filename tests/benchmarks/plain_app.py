"""A site for `tests.benchmarks.scaling`, as a WSGI application: ``/start?count=500`` starts that many jobs of an action that does nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qs

from backjob.jobs import BackJob
from backjob.settings import Settings
from backjob.wsgi import BackJobMiddleware
from tests.scenarios.apps.config import PREFIX, settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["app"]

_jobs: Final = Settings.of(settings(), prefix=PREFIX).build(
    BackJob, package="backjob.benchmarks", application="plain", default_store=lambda: "memory:"
)


def _site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    text = ""  # a text without markup would be output
    if environ["PATH_INFO"] == "/start":
        count = int(parse_qs(environ["QUERY_STRING"])["count"][0])
        text = "\n".join([_jobs.start("/work", {"id": 5}, as_current_user=False) for _ in range(count)])
    start_response("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(text)))])
    return [text.encode()]


app: WSGIApplication = BackJobMiddleware(_site, _jobs)
