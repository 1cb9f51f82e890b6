"""From the arguments of ``start()`` to a request: everything is checked here, before anything is stored or sent."""

from __future__ import annotations

import json as json_module
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from attrs import frozen

from backjob.errors import InvalidRequest
from backjob.http.targets import join_query, normalise
from backjob.model import Credentials, Headers, Request, clean_text

__all__ = [
    "CREDENTIAL_FIELDS",
    "MAX_HEADERS",
    "Limits",
    "build_request",
    "check_delay",
    "check_label",
    "check_merge",
    "check_number",
    "check_size",
    "check_value",
    "with_those_of",
]

CREDENTIAL_FIELDS: Final = frozenset({"authorization", "cookie"})
MAX_HEADERS: Final = 8192
"""Bytes of all header fields together: servers refuse more (431), or reset the connection."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Z]{1,20}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OWN_FIELDS: Final = frozenset(
    {
        # The transport's (RFC 9112, section 6; RFC 9110, section 7.6.1) …
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-forwarded-proto",
        # … and the signer's.
        "content-digest",
        "signature",
        "signature-input",
    }
)
_MERGES: Final = ("never", "pending", "unfinished")
_LONGEST_LABEL: Final = 255
_LABEL_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_LARGEST_NUMBER: Final = 10**9
_LONGEST_DELAY: Final = timedelta(days=3660)


@frozen
class Limits:
    """What a worker request may carry, in bytes."""

    body: int
    headers: int = MAX_HEADERS


def build_request(
    path: object,
    query: Mapping[str, Any] | None,
    *,
    method: str,
    form: Mapping[str, Any] | Iterable[tuple[str, Any]] | None,
    json: Any,
    body: bytes | str | None,
    headers: Mapping[str, str] | None,
    limits: Limits,
) -> tuple[Request, Credentials]:
    """The request, and apart from it the credentials that ``headers`` named. Raises `InvalidRequest`."""
    _check_method(method)
    target = _target(path, query)
    if len(target) > limits.headers:
        raise InvalidRequest(
            "query" if query else "path", f"the target's {len(target)} bytes are more than {limits.headers}"
        )
    content, content_type = _content(method, form, json, body)
    if len(content) > limits.body:
        raise InvalidRequest("body", f"{len(content)} bytes are more than max_body, {limits.body} bytes")
    fields, credentials = _fields(headers or {})
    if content_type is not None and not any(name.lower() == "content-type" for name, _ in fields):
        fields = (*fields, ("Content-Type", content_type))
    check_size(fields + credentials, limits.headers)
    return Request(method, target, fields, content), Credentials(credentials)


def check_size(headers: Headers, limit: int) -> None:
    """Raise `InvalidRequest` if header fields together, as they are sent, take more than ``limit`` bytes."""
    size = sum(len(name) + len(value) + 4 for name, value in headers)
    if size > limit:
        raise InvalidRequest("headers", f"{size} bytes of header fields (cookies count) are more than {limit} bytes")


def check_value(argument: str, name: str, value: object) -> None:
    """Raise `InvalidRequest` unless a field may have this value (RFC 9110, section 5.5)."""
    if not isinstance(value, str) or _CONTROL.search(value) or value != value.strip():
        raise InvalidRequest(argument, f"the value of {name} is no text, or has control characters or outer spaces")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidRequest(argument, f"the value of {name} has characters outside of Latin-1") from None


def check_delay(delay: float | timedelta | datetime, now: datetime) -> datetime | float:
    """When a job is due: seconds from now, or an aware datetime. Raises `InvalidRequest`."""
    if isinstance(delay, datetime):
        if delay.tzinfo is None or delay.utcoffset() is None:
            raise InvalidRequest("delay", "a naive datetime does not say when: give it a time zone")
        if delay - now > _LONGEST_DELAY:
            raise InvalidRequest("delay", "more than ten years ahead")
        return 0.0 if delay <= now else delay.astimezone(UTC)
    if isinstance(delay, timedelta):
        delay = delay.total_seconds()
    if (
        isinstance(delay, bool)
        or not isinstance(delay, int | float)
        or (isinstance(delay, float) and math.isnan(delay))
    ):
        raise InvalidRequest("delay", f"seconds, a timedelta or an aware datetime is needed, not {delay!r}")
    if delay < 0:
        raise InvalidRequest("delay", f"{delay!r} lies in the past")
    if delay > _LONGEST_DELAY.total_seconds():
        raise InvalidRequest("delay", "more than ten years ahead")
    return float(delay)


def with_those_of(request: Request, given: Credentials) -> Credentials:
    """The credentials given, and those of the request being served that they don't replace."""
    wanted = CREDENTIAL_FIELDS - {name.lower() for name, _ in given.headers}
    theirs = tuple((name, value) for name, value in request.headers if name.lower() in wanted)
    for name, value in theirs:
        check_value("as_current_user", name, value)
    return Credentials(given.headers + theirs)


def check_merge(merge: str, owner: str | None, *, is_user: bool) -> None:
    """Raise `InvalidRequest` for an unknown way of merging, or one that could join another user's job."""
    if merge not in _MERGES:
        raise InvalidRequest("merge", f"{merge!r} is none of {', '.join(_MERGES)}")
    if merge != "never" and is_user and owner is None:
        raise InvalidRequest("merge", "with credentials it needs an owner: else one user would join another's job")


def check_number(name: str, value: object, least: float, *, whole: bool = False) -> None:
    """Raise `InvalidRequest` unless the value is a number from ``least`` on that arithmetic with times can bear."""
    number = None if isinstance(value, bool) or not isinstance(value, int | float) else value
    # Written so that NaN is refused as well.
    if number is None or not least <= number <= _LARGEST_NUMBER or (whole and not isinstance(number, int)):
        what = "whole number" if whole else "number"
        raise InvalidRequest(name, f"a {what} from {least:g} to {_LARGEST_NUMBER} is needed, not {value!r}")


def check_label(name: str, value: object) -> str:
    """A scope or an owner as it is, or `InvalidRequest`."""
    if not isinstance(value, str) or len(value) > _LONGEST_LABEL:
        raise InvalidRequest(name, f"text of at most {_LONGEST_LABEL} characters is needed, not {type(value).__name__}")
    if clean_text(value) != value:
        raise InvalidRequest(name, "contains NUL or a lone surrogate, which no store can keep")
    if _LABEL_CONTROL.search(value):
        raise InvalidRequest(name, "contains a control character")
    return value


def _check_method(method: str) -> None:
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise InvalidRequest("method", f"{method!r} is no HTTP method of 1 to 20 characters in upper case")
    if method == "CONNECT":
        raise InvalidRequest("method", "CONNECT opens tunnels; it can't reach a route")


def _target(path: object, query: Mapping[str, Any] | None) -> str:
    if not isinstance(path, str):
        raise InvalidRequest("path", f"text is needed, not {path!r}")
    target = normalise(path)
    added = join_query(query) if query else ""
    if not added:
        return target
    return f"{target}{'&' if '?' in target else '?'}{added}"


def _content(
    method: str, form: Mapping[str, Any] | Iterable[tuple[str, Any]] | None, json: Any, body: bytes | str | None
) -> tuple[bytes, str | None]:
    given = [name for name, value in (("form", form), ("json", json), ("body", body)) if value is not None]
    if len(given) > 1:
        raise InvalidRequest(given[1], f"can't be given together with {given[0]}")
    if given and method == "GET":
        raise InvalidRequest(given[0], "GET carries no body; use query, or another method")
    if form is not None:
        pairs = form.items() if isinstance(form, Mapping) else form
        try:
            fields: list[tuple[Any, Any]] = [(name, value) for name, value in pairs if value is not None]
            return urlencode(fields, doseq=True).encode(), "application/x-www-form-urlencoded"
        except (TypeError, ValueError) as error:
            raise InvalidRequest("form", str(error)) from error
    if json is not None:
        try:
            return json_module.dumps(json, allow_nan=False).encode(), "application/json"
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidRequest("json", str(error)) from error
    if isinstance(body, str):
        try:
            return body.encode(), "text/plain; charset=utf-8"
        except UnicodeEncodeError as error:
            raise InvalidRequest("body", f"no text that UTF-8 can carry: {error.reason}") from error
    if body is not None and not isinstance(body, bytes | bytearray | memoryview):
        raise InvalidRequest("body", f"bytes or text is needed, not {type(body).__name__}")
    return bytes(body or b""), "application/octet-stream" if body is not None else None


def _fields(headers: Mapping[str, str]) -> tuple[Headers, Headers]:
    plain: list[tuple[str, str]] = []
    credentials: list[tuple[str, str]] = []
    if not isinstance(headers, Mapping):
        raise InvalidRequest("headers", f"a mapping of names to values is needed, not {type(headers).__name__}")
    for name, value in headers.items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise InvalidRequest("headers", f"{name!r} is no name of a header field")
        if name.lower() in _OWN_FIELDS:
            raise InvalidRequest("headers", f"{name} is set by the transport or the signer")
        check_value("headers", name, value)
        (credentials if name.lower() in CREDENTIAL_FIELDS else plain).append((name, value))
    return tuple(plain), tuple(credentials)
