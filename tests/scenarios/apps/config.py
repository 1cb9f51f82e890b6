"""The configuration of every scenario app, from environment variables: the ``BACKJOB_*`` settings, and the authority
that signed the certificate of a TLS server.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from werkzeug.middleware.proxy_fix import ProxyFix

from backjob.transports.sockets import SocketTransport

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["MOUNT", "PREFIX", "mounted", "own_transport", "prefixed", "settings"]

MOUNT: Final = "/shop"
PREFIX: Final = "BACKJOB_"


def settings() -> dict[str, Any]:
    """The settings by their full names, the form that Flask's configuration needs."""
    found: dict[str, Any] = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    if "SCENARIO_BROKER" in os.environ:
        from tests.scenarios.apps.carried import QUEUES

        found |= {f"{PREFIX}QUEUES": QUEUES, f"{PREFIX}DELIVER": []}
    return found


def own_transport() -> SocketTransport | None:
    """A transport that trusts the scenario's authority if the server uses TLS; else None."""
    authority = os.environ.get("SCENARIO_AUTHORITY")
    if authority is None:
        return None
    context = ssl.create_default_context(cafile=authority)
    return SocketTransport(os.environ["BACKJOB_BASE_URL"], os.environ.get("BACKJOB_CONNECT_TO"), context)


def mounted(app: WSGIApplication) -> WSGIApplication:
    """The application at the root, and under `MOUNT` with that as its SCRIPT_NAME."""

    def mount(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith(MOUNT + "/"):
            environ["SCRIPT_NAME"] += MOUNT
            environ["PATH_INFO"] = path.removeprefix(MOUNT)
        return app(environ, start_response)

    return mount


def prefixed(app: WSGIApplication) -> WSGIApplication:
    """The application behind a proxy that strips a prefix and names it in X-Forwarded-Prefix."""
    return ProxyFix(app, x_for=0, x_proto=0, x_prefix=1)
