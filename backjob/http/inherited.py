"""The header fields that a worker request inherits from the request that starts the job."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final

from backjob.errors import InvalidRequest
from backjob.http.arguments import CREDENTIAL_FIELDS, OWN_FIELDS, canonical_name, check_value, is_field_name
from backjob.http.serving import FORWARDED_FIELDS
from backjob.model import Credentials, Headers, Request

TRACING_FIELDS: Final = frozenset({"traceparent", "tracestate", "baggage", "sentry-trace", "x-request-id"})
"""Fields that differ in every request, so that merging ignores them."""

_CONTEXT_FIELDS: Final = ("Accept-Language", "traceparent", "tracestate", "baggage", "sentry-trace", "X-Request-ID")
_VARIABLE: Final = "REMOTE_USER"
"""The variable in which a WSGI server passes the user that it has authenticated; in a `Request` it is a field."""

_RESTORED: Final = frozenset(name.lower() for name in FORWARDED_FIELDS)
_COOKIE_NAME: Final = re.compile(r"[^\x00-\x20\x7f;=,]+")


def credential_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of fields that prove a login, as header fields: ``HTTP_X_USER`` is ``X-User``. Raises `ValueError`."""
    checked = (_checked(_as_field(name).replace("_", "-")) for name in _listed(names))
    return tuple(name for name in checked if name.lower() not in CREDENTIAL_FIELDS)


def forwarded_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the other fields that the action sees too. Raises `ValueError` for a credential."""
    checked = tuple(_checked(_as_field(name)) for name in _listed(names))
    for name in checked:
        if canonical_name(name) in CREDENTIAL_FIELDS:
            raise ValueError(f"{name} is a credential: start a job as the current user to pass it on")
    return checked


def cookie_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of cookies as a tuple. Raises `ValueError` for an invalid one."""
    listed = _listed(names)
    for name in listed:
        if not _COOKIE_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a cookie")
    return listed


def _listed(names: Iterable[str]) -> tuple[str, ...]:
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise ValueError("must be a list of names")  # noqa: TRY004 - one error for all invalid values
    listed = tuple(names)
    for name in listed:
        if not isinstance(name, str):
            raise ValueError(f"must be a list of names, not of {type(name).__name__}")  # noqa: TRY004
    return listed


def _as_field(name: str) -> str:
    """Return the name of a header field that was given as a WSGI variable."""
    return name.removeprefix("HTTP_").replace("_", "-") if name.startswith("HTTP_") else name


def _checked(name: str) -> str:
    if not is_field_name(name):
        raise ValueError(f"{name!r} is not the name of a header field")
    if name.lower() in OWN_FIELDS | _RESTORED | {"content-type"}:
        raise ValueError(f"backjob sets {name} itself")
    return name


def context_fields(here: Request, given: Headers, names: Iterable[str]) -> Headers:
    """Return the fields that tell an action about the starting request: language, trace, request id, and those in ``names``.

    It leaves out the fields that were given explicitly, and values that no client may send.
    """
    missing = {name.lower() for name, _ in here.headers} - {name.lower() for name, _ in given}
    found: list[tuple[str, str]] = []
    for name in (*_CONTEXT_FIELDS, *names):
        value = here.header(name) if name.lower() in missing else None
        if not value:
            continue
        missing.discard(name.lower())
        try:
            check_value("headers", name, value)
        except InvalidRequest:
            continue
        found.append((name, value))
    return tuple(found)


def is_context_field(name: str, names: Iterable[str]) -> bool:
    """Return whether `context_fields` may contain a field of this name."""
    return name.lower() in _lowered(tuple(names))


@lru_cache(maxsize=16)
def _lowered(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset([known.lower() for known in (*_CONTEXT_FIELDS, *names)])


def variants(name: str) -> tuple[str, ...]:
    """Return the names under which a `Request` has this credential: ``Remote-User`` may also be the server's variable."""
    return (name, _VARIABLE) if canonical_name(name) == canonical_name(_VARIABLE) else (name,)


def current_credentials(
    here: Request, given: Credentials, names: Iterable[str], changed_cookies: Callable[[], Mapping[str, str | None]]
) -> Credentials:
    """Return the credentials of the request being served, without the fields in ``given``, which take precedence.

    ``names`` are fields besides Cookie and Authorization. ``changed_cookies()`` returns the cookies that the response is
    going to set; the value None deletes a cookie. Raises `InvalidRequest` for a value that no client may send.
    """
    wanted = {canonical_name(name) for name in names} | CREDENTIAL_FIELDS
    missing = wanted - {canonical_name(name) for name, _ in given.headers}
    added: list[tuple[str, str]] = []
    for name, value in here.headers:
        # No proxy strips a client's "remote_user", which no framework reads: only the server's own variable has a "_".
        if name.lower() in missing - {"cookie"} or (name == _VARIABLE and canonical_name(name) in missing):
            check_value("as_current_user", name, value)
            added.append((name, value))
    if "cookie" in missing:
        # HTTP/2 may split the cookies over several fields (RFC 9113, section 8.2.3).
        cookie = "; ".join([value for name, value in here.headers if name.lower() == "cookie"])
        cookie = _changed_cookie(cookie, changed_cookies())
        if cookie:
            check_value("as_current_user", "Cookie", cookie)
            added.append(("Cookie", cookie))
    return Credentials(tuple(added))


def _changed_cookie(cookie: str, changes: Mapping[str, str | None]) -> str:
    if not changes:
        return cookie
    kept = [pair for pair in cookie.split(";") if _cookie_name(pair) not in changes]
    added = [f"{name}={value}" for name, value in changes.items() if value is not None]
    return "; ".join([pair.strip(" \t") for pair in kept if pair.strip(" \t")] + added)


def cookie_values(credentials: Credentials, name: str) -> list[str]:
    """Return the values of the cookies of this name that are not empty."""
    pairs = [pair for field, value in credentials.headers if field.lower() == "cookie" for pair in value.split(";")]
    return [value for pair in pairs if _cookie_name(pair) == name and (value := pair.partition("=")[2].strip(" \t"))]


def _cookie_name(pair: str) -> str:
    return pair.partition("=")[0].strip(" \t")
