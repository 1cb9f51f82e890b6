"""Which page a request comes from: whether the user meant it, and which other origins may read the response (CORS)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

from backjob.model import Headers, Request

_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}
_FIELD_NAMES: Final = re.compile(r"[A-Za-z0-9, _-]{1,1000}")
_EXPOSED: Final = "Backjob-Next-Offset, Content-Disposition, Location, Retry-After"
_METHODS: Final = "GET, HEAD, POST, DELETE"
# Browsers add these to any site's requests once the user has logged in.
_SCHEMES_OF_BROWSERS: Final = frozenset({"basic", "digest", "negotiate", "ntlm", "kerberos", "hoba", "mutual"})
_PREFLIGHT_AGE: Final = "600"  # s


def same_origin(request: Request) -> bool:
    """Return whether the browser states that a page of this site sent the request; without a statement, False."""
    site = request.header("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    scheme, _, authority = _origin(request).partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    host = (request.header("host") or "").lower()
    return port is not None and bool(authority) and authority.removesuffix(port) == host.removesuffix(port)


def is_intended(request: Request, trusted: Collection[str]) -> bool:
    """Return whether the visitor meant to send this request: no page of an untrusted site can have made the browser do it.

    A page of another site can't add ``Authorization`` before a preflight allows it, and `preflight` does so for trusted
    origins alone. With a cookie, the visitor may be the cookie's user all the same. A field of ``CREDENTIAL_HEADERS`` is
    no such sign: a proxy that logs users in adds it to every request, also to one that another site's page makes.
    """
    return same_origin(request) or _origin(request) in trusted or _has_token_alone(request)


def preflight(request: Request, trusted: Collection[str]) -> Headers | None:
    """Return the header fields that permit the request which a browser asks about, or None if it is not permitted."""
    if request.header("access-control-request-method") is None or _origin(request) not in trusted:
        return None
    names = request.header("access-control-request-headers") or ""
    allowed = (("Access-Control-Allow-Headers", names),) if _FIELD_NAMES.fullmatch(names) else ()
    return (
        ("Access-Control-Allow-Methods", _METHODS),
        *allowed,
        ("Access-Control-Max-Age", _PREFLIGHT_AGE),
    )


def shared_headers(request: Request, trusted: Collection[str]) -> Headers:
    """Return the header fields that let a page of a trusted origin read the response, with the cookies that it sent."""
    origin = _origin(request)
    if origin not in trusted:
        return ()
    return (
        ("Access-Control-Allow-Origin", origin),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", _EXPOSED),
    )


def _origin(request: Request) -> str:
    return (request.header("origin") or "").lower()


def _has_token_alone(request: Request) -> bool:
    scheme, *_ = (request.header("authorization") or "").split(maxsplit=1) or [""]
    return bool(scheme) and scheme.lower() not in _SCHEMES_OF_BROWSERS and request.header("cookie") is None
