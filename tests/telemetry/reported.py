"""A site whose errors go to Sentry's SDK, for WSGI (``app``) and ASGI (``asgi``): its envelopes go to the file SITE_ENVELOPES.

``/work`` is an action, and ``/fails`` one that raises. With SITE_HIDES, `HideSignature` is the outermost part; without it,
Sentry's middleware sees the signature, and `redact` removes it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware
from sentry_sdk.transport import Transport
from typing_extensions import override

from backjob import asgi as backjob_asgi
from backjob import wsgi as backjob_wsgi
from backjob.redaction import SignatureFilter, redact
from backjob.transports.sockets import SocketTransport
from tests.scenarios.sites import jobs_at

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["app", "asgi", "jobs"]


class _File(Transport):
    @override
    def capture_envelope(self, envelope: Envelope) -> None:
        with open(os.environ["SITE_ENVELOPES"], "ab") as file:  # noqa: PTH123 - appends are atomic
            file.write(envelope.serialize() + b"\n")


_hides: Final = bool(os.environ["SITE_HIDES"])
_hook: Any = None if _hides else redact
sentry_sdk.init(
    dsn="http://key@127.0.0.1:9/1",
    transport=_File,
    traces_sample_rate=1.0,
    send_default_pii=True,
    before_send=_hook,
    before_send_transaction=_hook,
)
for name in os.environ["SITE_FILTERED"].split():
    logging.getLogger(name).addFilter(SignatureFilter())

jobs = jobs_at(Path(os.environ["SITE_DIRECTORY"]), SocketTransport)


def _app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    text = b"ready"
    match environ["PATH_INFO"]:
        case "/start":
            text = jobs.start(environ["QUERY_STRING"], {"rows": 50}, as_current_user=False).encode()
        case "/fails":
            raise ValueError("no rows")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(text)))])
    return [text]


async def _asgi(scope: Any, receive: Any, send: Any) -> None:
    text = b""
    if scope["path"] == "/start":
        path = scope["query_string"].decode()
        text = (await jobs.astart(path, {"rows": 50}, as_current_user=False)).encode()
    elif scope["path"] == "/fails":
        raise ValueError("no rows")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text})


_wsgi: WSGIApplication = SentryWsgiMiddleware(backjob_wsgi.BackJobMiddleware(_app, jobs))
app = backjob_wsgi.HideSignature(_wsgi) if _hides else _wsgi
_sentry_asgi: Any = SentryAsgiMiddleware(backjob_asgi.BackJobMiddleware(_asgi, jobs))
asgi = backjob_asgi.HideSignature(_sentry_asgi) if _hides else _sentry_asgi
