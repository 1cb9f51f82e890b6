"""ASGI scopes translated to the package's own requests, and back."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from typing_extensions import override

from backjob.errors import AddressUnknown, InvalidRequest
from backjob.http.addresses import is_ip_literal, learnt_base_url
from backjob.http.arguments import canonical_name
from backjob.http.serving import FORWARDED_FIELDS, Serving
from backjob.http.targets import canonical_path
from backjob.model import Caller, Headers, Request

Scope: TypeAlias = MutableMapping[str, Any]

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

    @override
    def changed_cookies(self) -> Mapping[str, str | None]:
        session = self._scope.get("session")
        # Of another type it may be a guard that raises an error for every attribute.
        if session is None or not issubclass(type(session), dict) or not getattr(session, "modified", False):
            return {}
        return _session_cookie(self._scope, session)

    @property
    @override
    def mount(self) -> str:
        return canonical_path(self._root.encode())


def _session_cookie(scope: Scope, session: dict[str, Any]) -> Mapping[str, str | None]:
    """Return the cookie that Starlette's SessionMiddleware is going to set, made with that middleware's own signer."""
    layer = getattr(scope.get("app"), "middleware_stack", None)
    while layer is not None and not (hasattr(layer, "signer") and hasattr(layer, "session_cookie")):
        layer = getattr(layer, "app", None) or getattr(layer, "_app", None)  # the latter is our own middleware's
    if layer is None:
        raise InvalidRequest(
            "as_current_user",
            "this request has changed the session, whose cookie exists only with the response: the job would have the old "
            "session, or none after a login; start it in the next request, or with as_current_user=False",
        )
    value = layer.signer.sign(b64encode(json.dumps(session).encode())).decode() if session else None
    return {layer.session_cookie: value}


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


def restored(scope: Scope, request: Request, caller: Caller | None, changes: Mapping[str, str | None]) -> Scope:
    """Return the scope of the request that ``start()`` was given, as if its caller's client had sent it.

    ``changes`` are header fields to set, or to remove where the value is None.
    """
    shown = {**scope, "query_string": request.query.encode("latin-1")}
    root: str = scope.get("root_path", "")
    if caller is not None and caller.mount and scope["path"] == root + unquote(request.path):
        # The server has put the root path in front of a target that already began with it.
        shown["path"] = scope["path"].removeprefix(root)
        if scope.get("raw_path"):
            shown["raw_path"] = scope["raw_path"].removeprefix(caller.mount.encode())
    replaced = _FORWARDED | {canonical_name(name).encode() for name in changes}
    fields = [field for field in scope["headers"] if bytes(field[0]).lower().replace(b"_", b"-") not in replaced]
    fields += [
        (name.lower().encode(), value.encode("latin-1"))
        for name, value in changes.items()
        if value is not None and "_" not in name  # the variable of a WSGI server
    ]
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
