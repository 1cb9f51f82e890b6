"""Conversion between Django's requests, from WSGI or ASGI, and backjob's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from attrs import evolve
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest
from django.urls import get_script_prefix, set_script_prefix
from django.utils.encoding import repercent_broken_unicode
from django.utils.functional import cached_property

from backjob.django.sessions import saved_session
from backjob.http import environ as wsgi
from backjob.http import scope as asgi
from backjob.http.listening import Listener
from backjob.http.serving import IN_PROCESS, Serving
from backjob.http.targets import canonical_path, local_path, mount_as_started, mount_left
from backjob.model import Caller, Request


class DjangoServing:
    """A request as the core sees it; ``django`` is Django's request."""

    def __init__(self, request: HttpRequest) -> None:
        self.django = request

    @property
    def _inner(self) -> Serving:
        scope = _scope(self.django)
        return wsgi.EnvironServing(_environ(self.django)) if scope is None else asgi.ScopeServing(scope)

    @property
    def request(self) -> Request:
        return self._inner.request

    @property
    def caller(self) -> Caller:
        caller = self._inner.caller
        # Without a Host field, as from its test client, Django uses the server's name.
        return caller if caller.host else evolve(caller, host=_server_of(self.django))

    @property
    def origin(self) -> str:
        try:
            return f"{self.django.scheme}://{self.django.get_host()}"
        except DisallowedHost:
            return ""

    def changed_cookies(self) -> Mapping[str, str | None]:
        return saved_session(self.django)

    @property
    def is_test_client(self) -> bool:
        return self._inner.is_test_client

    @property
    def in_thread(self) -> bool:
        return self._inner.in_thread

    @property
    def mount(self) -> str:
        return local_path(canonical_path(self.django.META.get("SCRIPT_NAME", "").encode()))


def _server_of(request: HttpRequest) -> str:
    name, port = request.META.get("SERVER_NAME", ""), str(request.META.get("SERVER_PORT", ""))
    return name if port in ("", "80", "443") else f"{name}:{port}"


def _scope(request: HttpRequest) -> Any:
    """Return the ASGI scope of a request, or None under WSGI."""
    return getattr(request, "scope", None)


def _environ(request: HttpRequest) -> dict[str, Any]:
    """Return the environ as the server passed it: Django has replaced bytes in it (PEP 3333) by decoded text.

    It has no FORCE_SCRIPT_NAME, which the server never saw, because a proxy strips it.
    """
    given = {name: request.META.get(name, "") for name in ("SCRIPT_NAME", "PATH_INFO")}
    if settings.FORCE_SCRIPT_NAME is not None:
        given["SCRIPT_NAME"] = ""
    return {**request.META, **{name: text.encode().decode("latin-1") for name, text in given.items()}}


def outside_of(request: HttpRequest) -> tuple[Any, ...]:
    """Return what the parts around the middleware read: the environ, or the scope and the environ that Django makes of it."""
    scope = _scope(request)
    return (request.META,) if scope is None else (scope, request.META)


def routed_requests(request: HttpRequest) -> tuple[Request, ...]:
    """Return the forms that the request may have, with the path that Django routes, for `backjob.worker.Worker.open`."""
    scope = _scope(request)
    if scope is not None:
        found = asgi.routed_requests(scope, request.path_info)
        return found if request.META["SCRIPT_NAME"] == scope.get("root_path", "") else found[:1]
    return (wsgi.routed_request(_environ(request), _decoded),)


def _decoded(path: str) -> bytes:
    """Decode a path as Django does, which encodes bytes that are not UTF-8 again."""
    return repercent_broken_unicode(unquote_to_bytes(path))


def listener_of(request: HttpRequest) -> Listener:
    """Return the server's socket. Raises `AddressUnknown` if the request leads to none, as with a test client's."""
    scope = _scope(request)
    return wsgi.listener_of(request.META) if scope is None else asgi.listener_of(scope)


def threads_of(request: HttpRequest) -> float | None:
    """Return how many requests the server's process handles at once: infinite under ASGI; None if it does not show that."""
    return wsgi.threads_of(request.META) if _scope(request) is None else math.inf


def comes_from_server(request: HttpRequest) -> bool:
    """Whether a server received the request, and neither a test client nor a transport in this process made it."""
    scope = _scope(request)
    return wsgi.comes_from_server(request.META) if scope is None else asgi.comes_from_server(scope)


def move_mount(request: Any) -> None:
    """Move the mount of a request that no server received to SCRIPT_NAME, unless the application has done so."""
    scope = _scope(request)
    mount = (request.META if scope is None else scope).get(IN_PROCESS)
    if not mount or settings.FORCE_SCRIPT_NAME is not None:
        return
    if scope is None:
        mount = mount.encode("latin-1").decode("utf-8", "replace")
    else:
        request.scope = asgi.with_mount(scope)
    moved = mount_left(mount, request.META["SCRIPT_NAME"], request.path_info)
    if moved is not None:
        request.path_info = request.META["PATH_INFO"] = moved[1]
        _show_mount(request, moved[0])


def is_served_alone(request: HttpRequest) -> bool:
    """Whether the server declares that it serves one request at a time (PEP 3333); ASGI servers never do."""
    return not (request.META.get("wsgi.multithread", True) or request.META.get("wsgi.multiprocess", True))


def restore(request: Any, shown: Request, caller: Caller | None, fields: Mapping[str, str | None], body: bytes) -> None:
    """Change the request to the one that ``start()`` was given, as if its caller's client had sent it.

    Call it before anything acts on its query or headers, which is why the middleware comes first.
    """
    scope = _scope(request)
    if scope is not None:
        request.scope = asgi.restored(scope, shown, caller, fields)
        request.path = request.scope["path"]
        request.path_info = request.META["PATH_INFO"] = unquote(shown.path)
    mount, request.META["SCRIPT_NAME"] = request.META["SCRIPT_NAME"], ""  # text, where an environ has the bytes
    wsgi.restore(request.META, shown, caller, fields)
    request.META["SCRIPT_NAME"] = mount
    if caller is not None:
        _show_mount(request, unquote(mount_as_started(caller.mount, canonical_path(mount.encode()))))
    for cached in _cached_properties(type(request)):  # a middleware before this one may have read them
        request.__dict__.pop(cached, None)
    # backjob has read the body already, so set the attributes that Django's property ``body`` would set.
    request._body = body  # noqa: SLF001
    request._stream = BytesIO(body)  # noqa: SLF001


@contextmanager
def urls_below_mount(request: HttpRequest) -> Iterator[None]:
    """Have ``reverse()`` build URLs below the request's mount, in the thread or task that runs the action."""
    before = get_script_prefix()
    set_script_prefix(f"{request.META['SCRIPT_NAME']}/")
    try:
        yield
    finally:
        set_script_prefix(before)


def _show_mount(request: Any, mount: str) -> None:
    if mount == request.META["SCRIPT_NAME"]:
        return
    request.META["SCRIPT_NAME"] = mount
    request.path = mount + request.path_info
    if hasattr(request, "script_name"):  # of an ASGI request
        request.script_name = mount


def _cached_properties(kind: type) -> Iterator[str]:
    """Yield the names of the properties of a class of requests that keep what they have once computed."""
    for base in kind.__mro__:
        yield from (name for name, value in vars(base).items() if isinstance(value, cached_property))
