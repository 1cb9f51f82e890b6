"""The scenario site as a plain WSGI application. Servers load `plain_app`."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from backjob.jobs import BackJob
from backjob.model import Request
from backjob.settings import Settings
from tests.scenarios.apps.config import PREFIX, own_transport, settings
from tests.scenarios.site import Visit, answer, owner_in

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["make_jobs", "owner", "site_of"]


def owner(request: Request) -> str | None:
    """The owner hook."""
    return owner_in(request.header("cookie"))


def make_jobs() -> BackJob:
    """A `BackJob` with the settings of the environment."""
    return Settings.of(settings(), prefix=PREFIX).build(
        BackJob,
        package="backjob.scenarios",
        application="plain",
        default_store=lambda: "memory:",
        owner=owner,
        transport=own_transport(),
    )


def site_of(jobs: BackJob) -> WSGIApplication:
    """The site without the middleware."""

    def site(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reply = answer(jobs, _visit(environ))
        headers = [("Content-Type", reply.content_type), *reply.headers.items()]
        line = f"{reply.status} {HTTPStatus(reply.status).phrase}"
        if isinstance(reply.body, str):
            body = reply.body.encode()
            start_response(line, [*headers, ("Content-Length", str(len(body)))])
            return [body]
        start_response(line, headers)
        return (chunk.encode() for chunk in reply.body)

    return site


def _visit(environ: WSGIEnvironment) -> Visit:
    return Visit(
        method=environ["REQUEST_METHOD"],
        path=environ["PATH_INFO"].encode("latin-1").decode(),
        query=environ.get("QUERY_STRING", ""),
        raw=environ.get("REQUEST_URI") or environ.get("RAW_URI"),
        mount=environ.get("SCRIPT_NAME", ""),
        headers={
            key.removeprefix("HTTP_").replace("_", "-").lower(): value
            for key, value in environ.items()
            if key.startswith("HTTP_") or key == "CONTENT_TYPE"
        },
        body=environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)),
        address=environ.get("REMOTE_ADDR", ""),
        scheme=environ["wsgi.url_scheme"],
        host=environ.get("HTTP_HOST", ""),
        parameters={name: values[-1] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()},
    )
