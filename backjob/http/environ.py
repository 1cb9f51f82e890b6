"""WSGI environs (PEP 3333) translated to the package's own requests, and back."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

from attrs import field, frozen
from typing_extensions import override

from backjob.errors import AddressUnknown
from backjob.http.listening import NO_SOCKET, TEST_CLIENT, Listener, listener_of_socket
from backjob.http.serving import FORWARDED_FIELDS, IN_PROCESS, Serving
from backjob.http.targets import canonical_path, local_path, mount_as_started, mount_left, raw_end
from backjob.http.worker_requests import forget, query_of
from backjob.model import Caller, Headers, Request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_UNPREFIXED: Final = {"CONTENT_TYPE": "Content-Type", "CONTENT_LENGTH": "Content-Length"}
_USER: Final = "REMOTE_USER"  # the user that the server itself has authenticated; no header field of a client
_FORWARDED: Final = {name: "HTTP_" + name.upper().replace("-", "_") for name in FORWARDED_FIELDS}


@frozen
class EnvironRequest(Request):
    """A request with its ``environ``, in which middleware keeps sessions and users: for the owner hook."""

    environ: WSGIEnvironment = field(kw_only=True, repr=False, eq=False)


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
    def is_test_client(self) -> bool:
        return is_test_client(self._environ)

    @property
    @override
    def mount(self) -> str:
        mount: str = self._environ.get("SCRIPT_NAME", "")
        whole = mount + self._environ.get("PATH_INFO", "")
        if self._path and whole.endswith(self._path):
            mount = whole.removesuffix(self._path)
        return local_path(canonical_path(_bytes(mount)))


def request_of(environ: WSGIEnvironment) -> EnvironRequest:
    """Return the request as it arrived, without its body."""
    raw = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if raw:
        path = _path_of(raw)
    else:
        decoded = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        path = canonical_path(_bytes(decoded)) or "/"
    query = query_of(environ)
    target = f"{path}?{query}" if query else path
    headers = _headers_of(environ)
    return EnvironRequest(environ["REQUEST_METHOD"], target, headers, raw=bool(raw), environ=environ)


def routed_request(environ: WSGIEnvironment, decode: Callable[[str], bytes] = unquote_to_bytes) -> Request:
    """Return the request as it arrived, with the path that the application routes, below its mount, and without its body.

    A signature covers this path: neither SCRIPT_NAME nor a prefix that a proxy strips can make it run another route.
    The path is encoded as on the wire if the server shows that. ``decode`` is how PATH_INFO was decoded from it.
    """
    arrived = request_of(environ)
    if arrived.raw and "%" not in arrived.path and arrived.path == environ.get("PATH_INFO"):
        return arrived
    routed = _bytes(environ.get("PATH_INFO", "")) or b"/"
    path = raw_end(arrived.path, routed.count(b"/"))
    is_raw = arrived.raw and decode(path) == routed
    return arrived.with_path(path if is_raw else canonical_path(routed), raw=is_raw)


def _bytes(text: str) -> bytes:
    """Return the bytes of a value of an environ (PEP 3333). Some middleware sets text that is not Latin-1."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


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
        elif key == _USER and value:
            fields.append((_USER, value))
    return tuple(fields)


def listener_of(environ: WSGIEnvironment) -> Listener:
    """Return the socket of the server that passed this environ. Raises `AddressUnknown` if the environ leads to none.

    It reads nothing that a client or a proxy can set: no Host, no forwarded field, no SERVER_NAME, no SERVER_PORT.
    """
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket") or _socket_behind(environ)
    if connection is None:
        raise AddressUnknown(TEST_CLIENT if is_test_client(environ) else NO_SOCKET)
    return listener_of_socket(connection)


def _socket_behind(environ: WSGIEnvironment) -> Any:
    """Return the connection from which waitress, wsgiref or Django's runserver reads the request, or None."""
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    if channel is not None:
        return getattr(channel, "socket", None)
    body = environ.get("wsgi.input")
    # Django's LimitedStream keeps only the method of the stream that it limits.
    body = getattr(getattr(body, "_read", None), "__self__", body)
    connection = getattr(getattr(body, "raw", None), "_sock", None)
    return connection if isinstance(connection, socket.socket) else None


def threads_of(environ: WSGIEnvironment) -> int | None:
    """Return how many requests the server's process handles at once, or None if it does not show that."""
    if not environ.get("wsgi.multithread"):
        return 1
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    threads = getattr(getattr(getattr(channel, "server", None), "adj", None), "threads", None)
    if isinstance(threads, int):
        return threads
    return _threads_of_uwsgi() if "uwsgi.version" in environ else None


def _threads_of_uwsgi() -> int | None:
    try:
        options = import_module("uwsgi").opt  # only in a process of that server
        return int(options["threads"] if "threads" in options else options[b"threads"])
    except (ImportError, AttributeError, KeyError, TypeError, ValueError):
        return None


def is_test_client(environ: WSGIEnvironment) -> bool:
    """Return whether the environ comes from a test client: werkzeug's, Flask's, Django's or WebTest's.

    It reads nothing that a client of a server can set.
    """
    if "paste.testing" in environ:
        return True
    if type(environ.get("wsgi.input")).__module__ == "django.test.client":
        return True
    # Of the servers, only werkzeug's has both, and it says its name.
    return "RAW_URI" in environ and "REQUEST_URI" in environ and "SERVER_SOFTWARE" not in environ


def comes_from_server(environ: WSGIEnvironment) -> bool:
    """Return whether a server received this request, so that it shows the server's address and threads."""
    return IN_PROCESS not in environ and not is_test_client(environ)


def move_mount(environ: WSGIEnvironment) -> None:
    """Move the mount of a request that no server received to SCRIPT_NAME, unless the application has done so."""
    if IN_PROCESS not in environ:
        return
    moved = mount_left(environ[IN_PROCESS], environ.get("SCRIPT_NAME", ""), environ.get("PATH_INFO", ""))
    if moved is not None:
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = moved


def restore(
    environ: WSGIEnvironment, request: Request, caller: Caller | None, fields: Mapping[str, str | None]
) -> None:
    """Change the environ to the request that ``start()`` was given, as if its caller's client had sent it.

    ``fields`` are header fields to set, or to remove where the value is None.
    """
    forget(environ)
    query = environ["QUERY_STRING"] = request.query
    for key in ("REQUEST_URI", "RAW_URI"):
        if key in environ:
            # The path stays as it arrived: the signed one is below the mount.
            environ[key] = environ[key].partition("?")[0] + (f"?{query}" if query else "")
    for key in _FORWARDED.values():
        environ.pop(key, None)
    for name, value in fields.items():
        key = name if name == _USER else "HTTP_" + name.upper().replace("-", "_")
        if value is None:
            environ.pop(key, None)
        else:
            environ[key] = value
    if caller is None:
        return
    environ["wsgi.url_scheme"] = caller.scheme
    environ["REMOTE_ADDR"] = caller.address
    arrived = canonical_path(_bytes(environ.get("SCRIPT_NAME", "")))
    environ["SCRIPT_NAME"] = unquote_to_bytes(mount_as_started(caller.mount, arrived)).decode("latin-1")
    if caller.host:
        environ["HTTP_HOST"] = caller.host
    for name, value in caller.forwarded:
        environ["HTTP_" + name.upper().replace("-", "_")] = value
