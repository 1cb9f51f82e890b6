"""Checks the arguments of ``start()`` and builds the request, before anything is stored or sent."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias, TypeGuard
from urllib.parse import urlencode

from attrs import frozen

from backjob.errors import InvalidRequest
from backjob.http.targets import join_query, normalise
from backjob.http.values import json_text, pairs_of
from backjob.model import Credentials, Headers, Request, Seconds, clean_text, in_seconds

CREDENTIAL_FIELDS: Final = frozenset({"authorization", "cookie"})
MAX_HEADERS: Final = 8192
"""Bytes of all header fields together: with more, servers answer 431 or reset the connection."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_METHOD: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Z]{1,20}")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
OWN_FIELDS: Final = frozenset(
    {
        # Set by the transport (RFC 9112, section 6; RFC 9110, section 7.6.1) …
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
        # … and by the signer.
        "content-digest",
        "backjob-credentials",
        "signature",
        "signature-input",
    }
)
"""Header fields that backjob sets itself, in lower case."""
_SPACE: Final = " \t"  # the only optional white space (RFC 9110, section 5.6.3); str.strip() takes \x85 and \xa0 too
_MERGES: Final = ("never", "pending", "unfinished")
_MAX_LABEL: Final = 255
_LABEL_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_MAX_NUMBER: Final = 10**9
_MAX_DELAY: Final = timedelta(days=3660)


_Form: TypeAlias = Mapping[str, Any] | Iterable[tuple[str, Any]]


@frozen(eq=False, repr=False)
class Limits:
    """The maximum size of a worker request, in bytes."""

    body: int
    headers: int = MAX_HEADERS


@frozen(eq=False, repr=False)
class Content:
    """The method, body and header fields that ``start()`` was given, unchecked."""

    method: str = "GET"
    form: _Form | None = None
    json: Any = None
    body: bytes | str | None = None
    headers: Mapping[str, str] | None = None


def build_request(
    path: object,
    query: Mapping[str, Any] | None,
    content: Content,
    limits: Limits,
    credential_headers: Iterable[str] = (),
) -> tuple[Request, Credentials]:
    """Return the request and, apart from it, the credentials among ``headers``. Raises `InvalidRequest`.

    ``credential_headers`` are the names of fields that are credentials besides Cookie and Authorization.
    """
    _check_method(content.method)
    target = _target(path, query)
    if len(target) > limits.headers:
        raise InvalidRequest(
            "query" if query else "path", f"makes a target of {len(target)} bytes, more than {limits.headers}"
        )
    body, content_type = _encoded(content)
    if len(body) > limits.body:
        raise InvalidRequest("body", f"has {len(body)} bytes, more than max_body={limits.body}")
    fields: Headers = ()
    credentials: Headers = ()
    if content.headers:
        names = CREDENTIAL_FIELDS | {canonical_name(name) for name in credential_headers}
        fields, credentials = _split_fields(content.headers, names)
    if content_type is not None and not any(name.lower() == "content-type" for name, _ in fields):
        fields = (*fields, ("Content-Type", content_type))
    check_size(fields + credentials, limits.headers)
    return Request(content.method, target, fields, body), Credentials(credentials)


def check_size(headers: Headers, limit: int) -> None:
    """Raise `InvalidRequest` if the header fields take more than ``limit`` bytes on the wire."""
    size = sum([len(name) + len(value) + 4 for name, value in headers])
    if size > limit:
        raise InvalidRequest(
            "headers",
            f"header fields, cookies included, have {size} bytes, more than MAX_HEADERS={limit}; "
            "increase that setting if your server and proxies accept larger ones",
        )


def is_field_name(name: object) -> TypeGuard[str]:
    """Return whether a header field may have this name (RFC 9110, section 5.1)."""
    return isinstance(name, str) and _TOKEN.fullmatch(name) is not None


def canonical_name(name: str) -> str:
    """Return the name by which fields are compared: WSGI does not distinguish ``X-User`` from ``X_USER``."""
    return name.lower().replace("_", "-")


def check_value(argument: str, name: str, value: object) -> None:
    """Raise `InvalidRequest` unless a field may have this value (RFC 9110, section 5.5)."""
    if not isinstance(value, str) or _CONTROL.search(value) or value != value.strip(_SPACE):
        raise InvalidRequest(
            argument, f"the value of {name} must be text without control characters and without spaces around it"
        )
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise InvalidRequest(argument, f"the value of {name} must be text in Latin-1") from None


def check_delay(delay: Seconds | datetime, now: datetime) -> datetime | float:
    """Return when the job is due, in seconds from now or as an aware datetime. Raises `InvalidRequest`."""
    if isinstance(delay, datetime):
        if delay.tzinfo is None or delay.utcoffset() is None:
            raise InvalidRequest("delay", "a naive datetime is ambiguous: give it a time zone")
        if delay - now > _MAX_DELAY:
            raise InvalidRequest("delay", "more than ten years ahead")
        return 0.0 if delay <= now else delay.astimezone(UTC)
    seconds = in_seconds(delay)
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or (isinstance(seconds, float) and math.isnan(seconds))
    ):
        raise InvalidRequest("delay", f"must be seconds, a timedelta or an aware datetime, not {delay!r}")
    if seconds < 0:
        raise InvalidRequest("delay", f"{seconds!r} is in the past")
    if seconds > _MAX_DELAY.total_seconds():
        raise InvalidRequest("delay", "more than ten years ahead")
    return float(seconds)


def check_merge(merge: str) -> None:
    """Raise `InvalidRequest` for an unknown mode."""
    if merge not in _MERGES:
        raise InvalidRequest("merge", f"must be one of {', '.join(_MERGES)}, not {merge!r}")


def check_number(name: str, value: object, least: float, *, most: int = _MAX_NUMBER, whole: bool = False) -> None:
    """Raise `InvalidRequest` unless the value is a number from ``least`` to ``most``, by default 10⁹."""
    number = None if isinstance(value, bool) or not isinstance(value, int | float) else value
    if number is None or not least <= number <= most or (whole and not isinstance(number, int)):
        kind = "whole number" if whole else "number"
        raise InvalidRequest(name, f"must be a {kind} from {least:g} to {most}, not {value!r}")


def check_label(name: str, value: object) -> str:
    """Return a scope or an owner unchanged. Raises `InvalidRequest` for an invalid one."""
    if not isinstance(value, str) or len(value) > _MAX_LABEL:
        raise InvalidRequest(name, f"must be text of at most {_MAX_LABEL} characters")
    if clean_text(value) != value:
        raise InvalidRequest(name, "contains NUL or a lone surrogate, which no store can keep")
    if _LABEL_CONTROL.search(value):
        raise InvalidRequest(name, "contains a control character")
    return value


def _check_method(method: str) -> None:
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise InvalidRequest("method", f"must be an HTTP method of 1 to 20 upper-case characters, not {method!r}")
    if method == "CONNECT":
        raise InvalidRequest("method", "CONNECT opens a tunnel through a proxy; it can't reach a route")


def _target(path: object, query: Mapping[str, Any] | None) -> str:
    if not isinstance(path, str):
        raise InvalidRequest("path", f"must be text, not {path!r}")
    target = normalise(path)
    added = join_query(query) if query else ""
    if not added:
        return target
    return f"{target}{'&' if '?' in target else '?'}{added}"


def _encoded(content: Content) -> tuple[bytes, str | None]:
    """Return the body, and the media type to declare."""
    form, json, body = content.form, content.json, content.body
    if form is json is body is None:
        return b"", None
    given = [name for name, value in (("form", form), ("json", json), ("body", body)) if value is not None]
    if len(given) > 1:
        raise InvalidRequest(given[1], f"can't be combined with {given[0]}")
    if content.method == "GET":
        raise InvalidRequest(given[0], "GET has no body; use query, or another method")
    if form is not None:
        try:
            return urlencode(pairs_of("form", form)).encode(), "application/x-www-form-urlencoded"
        except UnicodeEncodeError as error:
            raise InvalidRequest("form", f"can't be encoded in UTF-8: {error.reason}") from error
    if json is not None:
        return json_text("json", json).encode(), "application/json"
    if isinstance(body, str):
        try:
            return body.encode(), "text/plain; charset=utf-8"
        except UnicodeEncodeError as error:
            raise InvalidRequest("body", f"can't be encoded in UTF-8: {error.reason}") from error
    if not isinstance(body, bytes | bytearray | memoryview):
        raise InvalidRequest("body", f"must be bytes or text, not {type(body).__name__}")
    return bytes(body), "application/octet-stream"


def _split_fields(headers: Mapping[str, str], secret: frozenset[str]) -> tuple[Headers, Headers]:
    plain: list[tuple[str, str]] = []
    credentials: list[tuple[str, str]] = []
    if not isinstance(headers, Mapping):
        raise InvalidRequest("headers", f"must be a mapping of names to values, not {type(headers).__name__}")
    for name, value in headers.items():
        if not is_field_name(name):
            raise InvalidRequest("headers", f"{name!r} is not the name of a header field")
        if name.lower() in OWN_FIELDS:
            raise InvalidRequest("headers", f"{name} is set by backjob itself")
        check_value("headers", name, value)
        (credentials if canonical_name(name) in secret else plain).append((name, value))
    return tuple(plain), tuple(credentials)
