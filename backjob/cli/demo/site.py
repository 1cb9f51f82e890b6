"""The demo's site in plain WSGI: a page with a button that starts a job, and the action that the job runs."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import suppress
from importlib.resources import files
from typing import TYPE_CHECKING, Final

from backjob.errors import BackJobError
from backjob.jobs import BackJob
from backjob.status.page import fill

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ROWS: Final = 100

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "img-src data:; base-uri 'none'; frame-ancestors 'none'"
)


class Site:
    """A WSGI application to wrap in the middleware. Each exported row takes ``pause`` seconds.

    The page shows the newest job that this site started.
    """

    def __init__(self, jobs: BackJob, *, pause: float, fail: bool = False) -> None:
        self._jobs = jobs
        self._pause = pause
        self._fail = fail
        self._stopping = threading.Event()
        self.newest: str | None = None
        self._routes = {
            ("GET", "/"): self._page,
            ("POST", "/start"): self._start,
            ("GET", "/work"): jobs.background_only(self._work),
            ("GET", "/export.csv"): self._export,
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        route = self._routes.get((environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")))
        return (
            _answer(start_response, "404 Not Found", "not found") if route is None else route(environ, start_response)
        )

    def start(self) -> str:
        """Start a job, and return its id."""
        self.newest = self._jobs.start("/work", as_current_user=False, scope="demo")
        return self.newest

    def stop(self, timeout: float) -> None:
        """Make the newest job fail now, and wait up to ``timeout`` seconds for its end."""
        self._stopping.set()
        if self.newest is not None:
            with suppress(TimeoutError, BackJobError):  # the demo stops in any case
                self._jobs.join(self.newest, timeout)

    def _page(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        values = {
            "assets": environ.get("SCRIPT_NAME", "") + self._jobs.status_prefix,
            "job": "" if self.newest is None else self._jobs.status_url(self.newest, cancel=True),
            "rows": str(ROWS),
        }
        template = files("backjob.cli.demo").joinpath("page.html").read_text("utf-8")
        policy = ("Content-Security-Policy", _POLICY)
        return _answer(start_response, "200 OK", fill(template, values), "text/html", policy)

    def _start(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ.get("HTTP_SEC_FETCH_SITE", "same-origin") != "same-origin":
            return _answer(start_response, "403 Forbidden", "only pages of this site may start a job")
        self.start()
        return _answer(start_response, "303 See Other", "", "text/plain", ("Location", "/"))

    def _work(self, _environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The action. The job's output is what it prints."""
        jobs = self._jobs
        print(f"exporting {ROWS} rows")
        for row in jobs.track(range(1, ROWS + 1), "Exporting"):
            if self._stopping.wait(self._pause):
                jobs.fail("the demo was stopped")
            if self._fail and row > ROWS // 2:
                jobs.fail(f"row {row} can't be exported (--fail)")
            if row % 10 == 0:
                print(f"{row} rows written")
        jobs.finish(f"{ROWS} rows exported", result={"href": "/export.csv"})
        return _answer(start_response, "200 OK", "")

    def _export(self, _environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        lines = "".join(f"{row},{row * row}\n" for row in range(1, ROWS + 1))
        return _answer(start_response, "200 OK", "row,square\n" + lines, "text/csv")


def _answer(
    start_response: StartResponse, line: str, text: str, content_type: str = "text/plain", *more: tuple[str, str]
) -> Iterable[bytes]:
    body = text.encode()
    headers = [
        ("Content-Type", f"{content_type}; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "same-origin"),
        ("X-Content-Type-Options", "nosniff"),
        *more,
    ]
    start_response(line, headers)
    return [body]
