"""ASGI scopes translated to the package's own requests, and back."""

from __future__ import annotations

import socket
from collections.abc import MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from typing_extensions import override

from backjob.errors import AddressUnknown
from backjob.http.addresses import is_ip_literal, learnt_base_url
from backjob.http.serving import FORWARDED_FIELDS, Serving
from backjob.http.targets import canonical_path
from backjob.model import Caller, Headers, Request

Scope: TypeAlias = MutableMapping[str, Any]

_TEST_EXTENSIONS: Final = frozenset({"http.response.debug", "http.response.template"})
_HTTPX_CLIENT: Final = ("127.0.0.1", 123)
_FORWARDED: Final = frozenset(name.lower().encode() for name in FORWARDED_FIELDS)


class ScopeServing(Serving):
    """The request of a scope, translated at each access.

    Root path and path are those that the middleware got: frameworks that mount applications below it change both.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._root: str = scope.get("root_path", "")
        self._path: str = scope["path"]

    @property
    @override
    def request(self) -> Request:
        return request_of({**self._scope, "path": self._path})

    @property
    @override
    def caller(self) -> Caller:
        scope = self._scope
        values = {name.lower(): value for name, value in _headers(scope)}
        client = scope.get("client")
        return Caller(
            scheme=scope.get("scheme", "http"),
            host=values.get("host", ""),
            address=str(client[0]) if client else "",
            forwarded=tuple((name, values[name.lower()]) for name in FORWARDED_FIELDS if name.lower() in values),
        )

    @property
    @override
    def mount(self) -> str:
        return canonical_path(self._root.encode())


def request_of(scope: Scope) -> Request:
    """Return the request as it arrived, without its body."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1").partition("?")[0] if raw else canonical_path(scope["path"].encode()) or "/"
    query = scope.get("query_string", b"")
    if isinstance(query, bytes):  # Django's test client passes text
        query = query.decode("latin-1")
    return Request(scope["method"], f"{path}?{query}" if query else path, _headers(scope), raw=bool(raw))


def spellings(scope: Scope) -> tuple[Request, ...]:
    """Return the request in each form that may have been on the wire: with the root path, and without it.

    A proxy strips the root path. Uvicorn puts it back in front of what it received; other servers do not.
    """
    request = request_of(scope)
    root = canonical_path(scope.get("root_path", "").encode())
    if not root or not request.target.startswith(f"{root}/"):
        return (request,)
    stripped = Request(request.method, request.target.removeprefix(root), request.headers, raw=request.raw)
    return (request, stripped)


def base_url_of(scope: Scope) -> str:
    """Return the server's own base URL, from the address of its socket. Raises `AddressUnknown`.

    The scheme is always ``http``: a scope does not show whether the socket itself is encrypted; its scheme may be the
    one that the client used with a proxy.
    """
    server = scope.get("server")
    if not server or server[1] is None or not is_ip_literal(str(server[0])):
        raise AddressUnknown("the server does not show the address of a TCP socket: set the base URL")
    host, port = str(server[0]), int(server[1])
    return learnt_base_url((host, port), socket.AF_INET6 if ":" in host else socket.AF_INET, tls=False)


def is_test_client(scope: Scope) -> bool:
    """Return whether the scope comes from a test client: Starlette's, Litestar's, Quart's, Django's or httpx's.

    It reads nothing that a client of a server can set.
    """
    server = scope.get("server")
    return (
        bool(server and server[0] == "testserver")
        or not _TEST_EXTENSIONS.isdisjoint(scope.get("extensions") or ())
        or "_quart._preserve_context" in scope
        or isinstance(scope.get("query_string"), str)  # Django's; servers pass bytes
        or tuple(scope.get("client") or ()) == _HTTPX_CLIENT
    )


def restored(scope: Scope, request: Request, caller: Caller | None) -> Scope:
    """Return the scope of the request that ``start()`` was given, as if its caller's client had sent it."""
    shown = {**scope, "query_string": request.query.encode("latin-1")}
    root: str = scope.get("root_path", "")
    if caller is not None and caller.mount and scope["path"] == root + unquote(request.path):
        # The server has put the root path in front of a target that already began with it.
        shown["path"] = scope["path"].removeprefix(root)
        if scope.get("raw_path"):
            shown["raw_path"] = scope["raw_path"].removeprefix(caller.mount.encode())
    fields = [(name, value) for name, value in scope["headers"] if bytes(name).lower() not in _FORWARDED]
    if caller is not None:
        shown["scheme"] = caller.scheme
        shown["client"] = (caller.address, 0) if caller.address else None
        if caller.host:
            fields = [(name, value) for name, value in fields if bytes(name).lower() != b"host"]
            fields.insert(0, (b"host", caller.host.encode("latin-1")))
        fields += [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in caller.forwarded]
    shown["headers"] = fields
    return shown


def route_path(scope: Scope) -> str:
    """Return the path below the root path, whether or not the server put the root path in front of it."""
    path, root = scope["path"], scope.get("root_path", "")
    return str(path.removeprefix(root) if root and f"{path}/".startswith(f"{root}/") else path)


def _headers(scope: Scope) -> Headers:
    return tuple(
        (bytes(name).decode("latin-1").title(), bytes(value).decode("latin-1")) for name, value in scope["headers"]
    )
