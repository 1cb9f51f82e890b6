"""Conversion between Django's requests, from WSGI or ASGI, and backjob's."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from attrs import evolve
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest

from backjob.errors import AddressUnknown
from backjob.http import environ as wsgi
from backjob.http import scope as asgi
from backjob.http.serving import Serving
from backjob.http.targets import canonical_path
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

    @property
    def mount(self) -> str:
        if _scope(self.django) is None:
            return canonical_path(self.django.META.get("SCRIPT_NAME", "").encode())
        return self._inner.mount


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


def spellings(request: HttpRequest) -> tuple[Request, ...]:
    """Return the request in the forms that it may have had on the wire, for `backjob.worker.Worker.open`."""
    scope = _scope(request)
    return (wsgi.request_of(_environ(request)),) if scope is None else asgi.spellings(scope)


def base_url_of(request: HttpRequest) -> str:
    """Return the server's base URL. Raises `AddressUnknown`, also for Django's test client, which makes up the address."""
    if "testserver" in (request.META.get("SERVER_NAME"), request.META.get("HTTP_HOST")):
        raise AddressUnknown("a request of Django's test client comes from no server")
    scope = _scope(request)
    return wsgi.base_url_of(request.META) if scope is None else asgi.base_url_of(scope)


def is_test_client(request: HttpRequest) -> bool:
    """Whether the request comes from a test client, in the process of the tests, and from no server."""
    scope = _scope(request)
    return wsgi.is_test_client(request.META) if scope is None else asgi.is_test_client(scope)


def is_served_alone(request: HttpRequest) -> bool:
    """Whether the server declares that it serves one request at a time (PEP 3333); ASGI servers never do."""
    return not (request.META.get("wsgi.multithread", True) or request.META.get("wsgi.multiprocess", True))


def restore(request: Any, shown: Request, caller: Caller | None, body: bytes) -> None:
    """Change the request to the one that ``start()`` was given, as if its caller's client had sent it.

    Call it before anything reads its query or headers, which is why the middleware comes first.
    """
    scope = _scope(request)
    if scope is not None:
        request.scope = asgi.restored(scope, shown, caller)
        request.path = request.scope["path"]
        request.path_info = request.META["PATH_INFO"] = request.path.removeprefix(request.META["SCRIPT_NAME"])
    wsgi.restore(request.META, shown, caller)
    for cached in ("headers", "GET", "COOKIES", "accepted_types"):
        request.__dict__.pop(cached, None)
    # backjob has read the body already, so set the attributes that Django's property ``body`` would set.
    request._body = body  # noqa: SLF001
    request._stream = BytesIO(body)  # noqa: SLF001
