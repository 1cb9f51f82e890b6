"""WSGI environs (PEP 3333) translated to the package's own requests, and back."""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from typing_extensions import override

from backjob.errors import AddressUnknown
from backjob.http.addresses import learnt_base_url
from backjob.http.serving import FORWARDED_FIELDS, Serving
from backjob.http.targets import canonical_path
from backjob.model import Caller, Headers, Request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_UNPREFIXED: Final = {"CONTENT_TYPE": "Content-Type", "CONTENT_LENGTH": "Content-Length"}
_FORWARDED: Final = {name: "HTTP_" + name.upper().replace("-", "_") for name in FORWARDED_FIELDS}


class EnvironServing(Serving):
    """The request of an environ, translated at each access.

    ``mount`` stays where the middleware is mounted, although dispatchers below it move more of the path to SCRIPT_NAME.
    """

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._environ = environ
        self._path: str = environ.get("PATH_INFO", "")

    @property
    @override
    def request(self) -> Request:
        return request_of(self._environ)

    @property
    @override
    def caller(self) -> Caller:
        environ = self._environ
        return Caller(
            scheme=environ.get("wsgi.url_scheme", "http"),
            host=environ.get("HTTP_HOST", ""),
            address=environ.get("REMOTE_ADDR", ""),
            forwarded=tuple((name, environ[key]) for name, key in _FORWARDED.items() if key in environ),
        )

    @property
    @override
    def mount(self) -> str:
        mount: str = self._environ.get("SCRIPT_NAME", "")
        whole = mount + self._environ.get("PATH_INFO", "")
        if self._path and whole.endswith(self._path):
            mount = whole.removesuffix(self._path)
        return canonical_path(mount.encode("latin-1"))


def request_of(environ: WSGIEnvironment) -> Request:
    """Return the request as it arrived, without its body."""
    raw = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if raw:
        path = _path_of(raw)
    else:
        decoded = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        path = canonical_path(decoded.encode("latin-1")) or "/"
    query = environ.get("QUERY_STRING", "")
    target = f"{path}?{query}" if query else path
    return Request(environ["REQUEST_METHOD"], target, _headers_of(environ), raw=bool(raw))


def _path_of(raw: str) -> str:
    if raw.startswith("/"):
        return raw.partition("?")[0]
    try:
        return urlsplit(raw).path or "/"
    except ValueError:
        return raw  # the application gets it unchanged; no signature matches it


def _headers_of(environ: WSGIEnvironment) -> Headers:
    fields = []
    for key, value in environ.items():
        if key.startswith("HTTP_"):
            fields.append((key[5:].replace("_", "-").title(), value))
        elif key in _UNPREFIXED and value:
            fields.append((_UNPREFIXED[key], value))
    return tuple(fields)


def base_url_of(environ: WSGIEnvironment) -> str:
    """Return the server's own base URL, from its socket if the environ has it, else from its port.

    It reads nothing that a client can forge: no Host, no forwarded field, no SERVER_NAME. Raises `AddressUnknown`.
    """
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if connection is not None:
        return learnt_base_url(connection.getsockname(), connection.family, tls=isinstance(connection, ssl.SSLSocket))
    port = str(environ.get("SERVER_PORT", ""))
    if not (port.isascii() and port.isdigit()) or not re.fullmatch(r"[0-9a-fA-F.:]+", environ.get("REMOTE_ADDR", "")):
        raise AddressUnknown("the server does not show that it listens on a TCP port: set the base URL")
    return learnt_base_url(("0.0.0.0", int(port)), socket.AF_INET, tls=False)  # noqa: S104 - read as loopback


def is_test_client(environ: WSGIEnvironment) -> bool:
    """Return whether the environ comes from a test client: werkzeug's, Flask's, Django's or WebTest's.

    It reads nothing that a client of a server can set.
    """
    if "paste.testing" in environ or "werkzeug.debug.preserve_context" in environ:
        return True
    if type(environ.get("wsgi.input")).__module__ == "django.test.client":
        return True
    # Of the servers, only werkzeug's has both, and it says its name.
    return "RAW_URI" in environ and "REQUEST_URI" in environ and "SERVER_SOFTWARE" not in environ


def restore(environ: WSGIEnvironment, request: Request, caller: Caller | None) -> None:
    """Change the environ to the request that ``start()`` was given, as if its caller's client had sent it."""
    environ["QUERY_STRING"] = request.query
    for key in ("REQUEST_URI", "RAW_URI"):
        if key in environ:
            environ[key] = request.target
    for key in _FORWARDED.values():
        environ.pop(key, None)
    if caller is None:
        return
    environ["wsgi.url_scheme"] = caller.scheme
    environ["REMOTE_ADDR"] = caller.address
    if caller.host:
        environ["HTTP_HOST"] = caller.host
    for name, value in caller.forwarded:
        environ["HTTP_" + name.upper().replace("-", "_")] = value
