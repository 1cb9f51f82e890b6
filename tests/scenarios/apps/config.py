"""What every scenario app is given by its environment: ``BACKJOB_*`` settings, and the authority that signed the
certificate of a server with TLS.
"""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, Any, TypeVar

from backjob.jobs import BackJob
from backjob.settings import Settings
from backjob.transports.sockets import SocketTransport

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from collections.abc import Iterable

__all__ = ["MOUNT", "mounted", "jobs_from_environment"]

MOUNT = "/shop"

_Jobs = TypeVar("_Jobs", bound=BackJob)


def jobs_from_environment(kind: type[_Jobs], **options: Any) -> _Jobs:
    """The `BackJob` of a scenario app."""
    jobs = Settings.of(os.environ, prefix="BACKJOB_").build(
        kind, package="backjob.scenarios", application="site", default_store=_no_default, **options
    )
    authority = os.environ.get("SCENARIO_AUTHORITY")
    if authority is not None:
        context = ssl.create_default_context(cafile=authority)
        jobs.transport = SocketTransport(os.environ["BACKJOB_BASE_URL"], os.environ.get("BACKJOB_CONNECT_TO"), context)
    return jobs


def mounted(app: WSGIApplication) -> WSGIApplication:
    """The application at the root and, as SCRIPT_NAME says, under `MOUNT` as well."""

    def mount(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith(MOUNT + "/"):
            environ["SCRIPT_NAME"] += MOUNT
            environ["PATH_INFO"] = path.removeprefix(MOUNT)
        return app(environ, start_response)

    return mount


def _no_default() -> str:
    raise RuntimeError("BACKJOB_STORE is not set")
