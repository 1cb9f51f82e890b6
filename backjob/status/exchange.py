"""The request and the response of a status route: content negotiation, parameters and header fields."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from http import HTTPStatus
from typing import Any, BinaryIO, Final
from urllib.parse import parse_qs, quote

from attrs import field, frozen

from backjob.http.targets import local_path
from backjob.model import Headers, JsonValue, Request, Response
from backjob.status.streaming.events import CONTENT_TYPE, json_bytes
from backjob.status.streaming.stream import Stream

JSON: Final = "application/json"

STOP_POLLING: Final = 286
"""htmx swaps in a response with this status and stops polling (https://htmx.org/docs/#polling)."""

_CHUNK: Final = 1 << 16
_URL_SAFE: Final = "/!$&'()*+,;=:@?%~"
_TOKEN: Final = re.compile(r"\.[^/]*")
_OFFSET: Final = re.compile(r"[0-9]{1,15}")
_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_LOCAL: Final = re.compile(r"/(?![/\\])[^\x00-\x20\x7f\\]{0,2000}")
"""A path of this host. Browsers read a backslash as a slash, and two slashes begin another host."""


def _once(value: Any) -> Any:
    """Return a function that calls the application's hook at most once; any other value stays."""
    return cache(value) if callable(value) else value


@frozen(eq=False)
class Visit:
    """A request for a status route.

    ``path`` is the path after the prefix. ``mount`` is the prefix as the browser sees it, with the application's mount
    point (SCRIPT_NAME, root_path), and ``origin`` the scheme and host before it. ``owner`` is the visitor, from the
    application's owner hook, or None; ``sees_all`` lets the visitor view every job, and ``manages_all`` also cancel, delete
    and run again. Pass functions to have them determined only for the routes that need them, at most once. ``in_thread``:
    a response occupies a thread until it is sent.
    """

    # The request's path contains the token.
    request: Request = field(
        repr=lambda request: f"<{request.method}, {', '.join(name for name, _ in request.headers)}>"
    )
    path: str = field(repr=lambda path: repr(_TOKEN.sub(".…", path)))
    owner: str | Callable[[], str | None] | None = field(converter=_once)
    mount: str
    sees_all: bool | Callable[[], bool] = field(default=False, converter=_once)
    in_thread: bool = True
    manages_all: bool | Callable[[], bool] = field(default=False, converter=_once)
    origin: str = ""

    def owns(self, job_owner: str | None) -> bool:
        """Return whether the visitor is this owner. Calls the hook only if the job has an owner."""
        # An owner hook may return "" for unknown visitors: they must not all become one owner.
        return bool(job_owner) and job_owner == self.visitor()

    def visitor(self) -> str | None:
        """Return the visitor. Raises what the application's hook raises."""
        return self.owner() if callable(self.owner) else self.owner

    def may_see_all(self) -> bool:
        """Return whether the visitor may view every job."""
        return (self.sees_all() if callable(self.sees_all) else self.sees_all) or self.may_manage_all()

    def may_manage_all(self) -> bool:
        """Return whether the visitor may view, cancel, delete and run again every job."""
        return self.manages_all() if callable(self.manages_all) else self.manages_all

    def mount_url(self) -> str:
        """Return the mount as part of a URL of this host."""
        return local_path(self.mount)


class Download:
    """The content of a file, in chunks. Iterate over it in a thread, or `read` it from an event loop's; then `close` it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self) -> bytes:
        """Return the next chunk, or nothing at the end. Blocks."""
        return self._file.read(_CHUNK)

    def __iter__(self) -> Iterator[bytes]:
        try:
            while chunk := self.read():
                yield chunk
        finally:
            self.close()

    def close(self) -> None:
        self._file.close()


@frozen
class StatusResponse(Response):
    """A complete response, or with a ``stream`` or a ``download`` the start of one; the adapter sends that and closes it.

    For HEAD, ``body`` is empty and Content-Length is that of GET.
    """

    stream: Stream | None = field(default=None, kw_only=True)
    download: Download | None = field(default=None, kw_only=True)


# --- the request ----------------------------------------------------------------------------------------------------


def preferred(accept: str | None, offered: tuple[str, ...]) -> str:
    """Return the offered media type that an Accept field prefers (RFC 9110, section 12.5.1), or the first if none fits.

    The most specific range decides a type's quality; on a tie, the type offered first wins. Only ``q`` is read.
    """
    ranges: dict[str, float] = {}
    for part in (accept or "*/*").split(","):
        media_range, *parameters = (text.strip().lower() for text in part.split(";"))
        weight = next((value[2:].strip() for value in parameters if value.startswith("q=")), "1")
        ranges[media_range] = float(weight) if _QUALITY.fullmatch(weight) else 0.0

    def quality(media_type: str) -> float:
        family = media_type.partition("/")[0]
        return next((ranges[key] for key in (media_type, f"{family}/*", "*/*") if key in ranges), 0.0)

    return max(offered, key=quality)


def is_for_person(request: Request) -> bool:
    """Return whether a person asks with a browser, and no program."""
    return preferred(request.header("accept"), (JSON, "text/html")) == "text/html"


def query_values(request: Request, name: str) -> list[str] | None:
    """Return all values of a query parameter, or None if the query can't be parsed."""
    try:
        return parse_qs(request.query, keep_blank_values=True, max_num_fields=20).get(name, [])
    except ValueError:
        return None


def back_path(request: Request, name: str = "back") -> str | None:
    """Return the parameter ``back``, the page of this host that a link leads back to, or None unless it is a local path."""
    values = query_values(request, name)
    return local_page(values[0]) if values and len(values) == 1 else None


def local_page(path: str | None) -> str | None:
    """Return the path of a page if it is one of this host, to which a link may lead back, otherwise None."""
    return path if path is not None and _LOCAL.fullmatch(path) else None


def is_asked(request: Request, name: str) -> bool:
    """Return whether a query parameter is ``1``."""
    return query_values(request, name) == ["1"]


def offset(request: Request) -> int | None:
    """Return the parameter ``offset``, by default 0, or None if it is not valid."""
    values = query_values(request, "offset")
    if values == []:
        return 0
    return int(values[0]) if values is not None and len(values) == 1 and _OFFSET.fullmatch(values[0]) else None


def resume_offset(request: Request) -> int | None:
    """Return where events resume: a browser that reconnects repeats its query and adds the id of the last event."""
    last = request.header("last-event-id") or ""
    return int(last) if _OFFSET.fullmatch(last) else offset(request)


# --- the response ---------------------------------------------------------------------------------------------------


def _headers(content_type: str, *more: tuple[str, str], caching: str = "no-store") -> Headers:
    return (
        ("Content-Type", content_type),
        ("Cache-Control", caching),
        ("Vary", "Accept, Accept-Language" if content_type.startswith("text/html") else "Accept"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
        *more,
    )


EVENT_HEADERS: Final = _headers(CONTENT_TYPE, ("X-Accel-Buffering", "no"), caching="no-store, no-transform")
"""Events must arrive at once, so proxies may not compress or buffer them; the last field is nginx's."""


def text_response(
    status: int, media_type: str, body: bytes, *more: tuple[str, str], caching: str = "no-store"
) -> StatusResponse:
    """Return a response in UTF-8."""
    charset = "" if media_type == JSON else "; charset=utf-8"  # JSON has no such parameter (RFC 8259, section 11)
    reason = "Stop Polling" if status == STOP_POLLING else HTTPStatus(status).phrase
    length = ("Content-Length", str(len(body)))
    headers = _headers(media_type + charset, length, *more, caching=caching)
    return StatusResponse(status, reason, headers, body)


def json_response(status: int, value: Mapping[str, JsonValue], *more: tuple[str, str]) -> StatusResponse:
    """Return a response in JSON."""
    return text_response(status, JSON, json_bytes(value), *more)


def error_response(status: int, text: str, *more: tuple[str, str]) -> StatusResponse:
    """Return an error in JSON."""
    return json_response(status, {"error": text}, *more)


def not_allowed(methods: tuple[str, ...]) -> StatusResponse:
    """Return the response to a request with another method."""
    return error_response(405, "method not allowed", ("Allow", ", ".join(methods)))


def redirect(status: int, path: str, query: str = "") -> StatusResponse:
    """Return a redirect to a path of this host."""
    target = f"{path}?{query}" if query else path
    return text_response(status, "text/plain", b"", ("Location", quote(target, safe=_URL_SAFE)))
