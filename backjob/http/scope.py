"""ASGI scopes translated to the package's own requests, and back."""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from attrs import field, frozen

from backjob.errors import AddressUnknown, InvalidRequest
from backjob.http.addresses import is_ip_literal
from backjob.http.listening import NO_SOCKET, TEST_CLIENT, Listener, listener_at
from backjob.http.restoring import caller_of, restored_headers
from backjob.http.serving import IN_PROCESS, Serving
from backjob.http.targets import canonical_path, local_path, mount_as_started, mount_left, path_below, raw_end
from backjob.http.worker_requests import forget, query_of
from backjob.model import Caller, Headers, Request
from backjob.overriding import override

Scope: TypeAlias = MutableMapping[str, Any]

_BODY_EXTENSIONS: Final = frozenset({"http.response.pathsend", "http.response.zerocopysend"})
"""With these an action sends no body, but the name or the handle of a file."""

_TEST_EXTENSIONS: Final = frozenset({"http.response.debug", "http.response.template"})
_HTTPX_CLIENT: Final = ("127.0.0.1", 123)


@frozen
class ScopeRequest(Request):
    """A request with its ``scope``, in which middleware keeps ``session``, ``user`` and ``state``: for the owner hook."""

    scope: Scope = field(kw_only=True, repr=False, eq=False)


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
        client = self._scope.get("client")
        return caller_of(
            _headers(self._scope),
            scheme=self._scope.get("scheme", "http"),
            address=str(client[0]) if client else "",
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
    def is_test_client(self) -> bool:
        return is_test_client(self._scope)

    @property
    @override
    def in_thread(self) -> bool:
        return False

    @property
    @override
    def mount(self) -> str:
        return local_path(canonical_path(self._root.encode("utf-8", "replace")))

    @property
    def state(self) -> Any:
        """What the lifespan has given to each request, or None."""
        return self._scope.get("state")


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


def request_of(scope: Scope) -> ScopeRequest:
    """Return the request as it arrived, without its body."""
    raw = scope.get("raw_path")
    path = (
        raw.decode("latin-1").partition("?")[0]
        if raw
        else canonical_path(scope["path"].encode("utf-8", "replace")) or "/"
    )
    query = query_of(scope)
    target = f"{path}?{query}" if query else path
    return ScopeRequest(scope["method"], target, _headers(scope), raw=bool(raw), scope=scope)


def routed_requests(scope: Scope, path: str | None = None) -> tuple[Request, ...]:
    """Return the request with the path that the application routes, below the root path, and without its body.

    A signature covers this path: neither the root path nor a prefix that a proxy strips can make it run another route.
    ``path`` is that path if the framework routes otherwise than by `route_path`. Servers that put the root path in
    front of each path (uvicorn) also do so if the path began with it. The second request is the one meant in that case,
    and `restored` makes the application route it.
    """
    arrived = request_of(scope)
    routed = (route_path(scope) if path is None else path) or "/"
    root: str = scope.get("root_path", "")
    twice = path_below(routed, root) if root else None
    return tuple(_with_routed_path(arrived, one or "/") for one in (routed, twice) if one is not None)


def _with_routed_path(arrived: Request, routed: str) -> Request:
    path = raw_end(arrived.path, routed.count("/"))
    is_raw = arrived.raw and unquote(path) == routed
    return arrived.with_path(path if is_raw else canonical_path(routed.encode("utf-8", "replace")), raw=is_raw)


def listener_of(scope: Scope) -> Listener:
    """Return the server's socket, from the scope's ``server``. Raises `AddressUnknown` if that is no TCP socket.

    A scope does not show whether the socket itself is encrypted: its scheme may be the one that the client used with a
    proxy.
    """
    if is_test_client(scope):
        raise AddressUnknown(TEST_CLIENT)
    server = scope.get("server")
    if server and server[1] is None and str(server[0]).startswith("/"):
        return Listener(socket.AF_UNIX, str(server[0]))
    if not server or server[1] is None or not is_ip_literal(str(server[0])):
        raise AddressUnknown(NO_SOCKET)
    return listener_at(str(server[0]), int(server[1]))


def is_test_client(scope: Scope) -> bool:
    """Return whether the scope comes from a test client: Starlette's, Litestar's, Quart's, Django's or httpx's.

    It relies on nothing that a client of a server can set: uvicorn's ``client`` may be that of X-Forwarded-For, but
    uvicorn passes a version of the specification, and httpx does not.
    """
    server = scope.get("server")
    return (
        bool(server and server[0] == "testserver")
        or not _TEST_EXTENSIONS.isdisjoint(scope.get("extensions") or ())
        or "_quart._preserve_context" in scope
        or isinstance(scope.get("query_string"), str)  # Django's; servers pass bytes
        or (tuple(scope.get("client") or ()) == _HTTPX_CLIENT and "spec_version" not in scope.get("asgi", ()))
    )


def comes_from_server(scope: Scope) -> bool:
    """Return whether a server received this request, so that it shows the server's address."""
    return IN_PROCESS not in scope and not is_test_client(scope)


def with_mount(scope: Scope) -> Scope:
    """Return the scope of a request that no server received with its whole mount in the root path."""
    if IN_PROCESS not in scope:
        return scope
    moved = mount_left(scope[IN_PROCESS], scope.get("root_path", ""), route_path(scope))
    return scope if moved is None else {**scope, "root_path": moved[0]}


def restored(scope: Scope, request: Request, caller: Caller | None, changes: Mapping[str, str | None]) -> Scope:
    """Return the scope of the request that ``start()`` was given, as if its caller's client had sent it.

    ``changes`` are header fields to set, or to remove where the value is None.
    """
    shown = {**scope, "query_string": request.query.encode("latin-1")}
    forget(shown)
    root: str = scope.get("root_path", "")
    if caller is not None:
        root = unquote(mount_as_started(caller.mount, canonical_path(root.encode("utf-8", "replace"))))
        shown["root_path"] = root
    if (route_path(shown) or "/") != unquote(request.path):
        # The server has put the root path in front of a path that already began with it, or the root path is another
        # one now: the application must still route the path that was signed.
        shown["path"] = root + unquote(request.path)
        if scope.get("raw_path"):
            shown["raw_path"] = canonical_path(root.encode("utf-8", "replace")).encode() + request.path.encode()
    if caller is not None:
        shown["scheme"] = caller.scheme
        shown["client"] = (caller.address, 0) if caller.address else None
    arrived = tuple((bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in scope["headers"])
    shown["headers"] = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in restored_headers(arrived, caller, changes)
    ]
    if "extensions" in scope:
        shown["extensions"] = {
            name: value for name, value in (scope["extensions"] or {}).items() if name not in _BODY_EXTENSIONS
        }
    return shown


def route_path(scope: Scope) -> str:
    """Return the path below the root path, whether or not the server put the root path in front of it."""
    path: str = scope["path"]
    below = path_below(path, scope.get("root_path", ""))
    return path if below is None else below


def _headers(scope: Scope) -> Headers:
    return tuple(
        (bytes(name).decode("latin-1").title(), bytes(value).decode("latin-1")) for name, value in scope["headers"]
    )
