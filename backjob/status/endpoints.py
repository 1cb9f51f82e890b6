"""The status routes: who may see a job, and what they are answered. Framework-neutral; adapters only translate.

A job is opened by its owner, or by a token made for this job and this right. An id alone opens nothing. Whoever may not
see a job is told exactly what is said of a job that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import ClassVar, Final, Protocol
from urllib.parse import parse_qs, quote

from attrs import evolve, field, frozen

from backjob.errors import InvalidRequest, JobNotFound, StoreUnavailable
from backjob.model import Headers, JobState, JsonValue, Output, Status, clean_text
from backjob.status.page import Links, asset, render, render_fragment
from backjob.status.streaming.broadcast import Broadcast
from backjob.status.streaming.events import CONTENT_TYPE, json_bytes, output_as_dict
from backjob.status.streaming.stream import Stream

__all__ = ["Answer", "Ask", "Endpoints", "StatusSource", "preferred", "same_origin"]

_ROUTE: Final = re.compile(
    r"/(?P<ref>(?P<id>[A-Za-z0-9_-]{1,128})(?:\.(?P<token>[A-Za-z0-9_.~=-]{1,512}))?)(?:/(?P<leaf>[a-z]+))?"
)
_TOKEN: Final = re.compile(r"\.[^/]*")
_OFFSET: Final = re.compile(r"[0-9]{1,15}")
_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_DEFAULT_PORTS: Final = {"http": ":80", "https": ":443"}

_JSON: Final = "application/json"
_HTML: Final = "text/html"
_PLAIN: Final = "text/plain"
_UTF_8: Final = "; charset=utf-8"
_STATIC: Final = {"/progress.js": "text/javascript", "/progress.css": "text/css", "/progress.d.ts": "text/plain"}
_STATIC_MAX_AGE: Final = 3600
_RETRY_AFTER: Final = 2

_STOP_POLLING: Final = 286  # htmx asks no more after it, and swaps it in (https://htmx.org/docs/#polling)

_PAGE_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
    "img-src data:; base-uri 'none'; frame-ancestors 'self'"
)


class StatusSource(Protocol):
    """What the status routes need of the `BackJob` facade."""

    @property
    def broadcast(self) -> Broadcast:
        """Its event streams."""
        ...

    def status(self, job_id: str) -> JobState:
        """The state of a job; raises `JobNotFound`."""
        ...

    def output(self, job_id: str, offset: int = 0) -> Output:
        """The next piece of a job's output from byte ``offset``, 64 KiB at most; at the end or past it an empty one."""
        ...

    def tail(self, job_id: str) -> tuple[int, Output]:
        """The last 64 KiB of output, behind the offset at which they begin."""
        ...

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; whether this call did it."""
        ...

    def rights(self, job_id: str, token: str) -> str | None:
        """What a token allows with this job: ``"view"``, ``"cancel"`` (and view), or None. Needs no store."""
        ...

    def status_url(self, job_id: str, cancel: bool = False) -> str:
        """The signed address of a job's status; its last segment is ``{id}.{token}``."""
        ...


def _header(headers: Headers, name: str) -> str | None:
    wanted = name.lower()
    values = [value for key, value in headers if key.lower() == wanted]
    return ", ".join(values) if values else None


@frozen
class Ask:
    """A request for a status route, as an adapter translates it.

    ``path`` is what follows the prefix, ``mount`` the prefix as the browser sees it, the application's own mount point
    (SCRIPT_NAME, root_path) included. ``owner`` is who asks, as the application's hook said, or None. ``sees_all``
    lets somebody watch every job, and cancel none. ``in_thread``: a response occupies a thread for as long as it lasts.
    """

    method: str
    path: str = field(repr=lambda path: repr(_TOKEN.sub(".…", path)))
    query: str
    headers: Headers = field(repr=lambda headers: "[" + ", ".join(name for name, _ in headers) + "]")
    owner: str | None
    mount: str
    sees_all: bool = False
    in_thread: bool = True

    def header(self, name: str) -> str | None:
        """The values of a header field, joined by ``", "``, or None. Case does not matter."""
        return _header(self.headers, name)


@frozen
class Answer:
    """A complete response, or with a ``stream`` its beginning: that is the body then, to be closed when it was sent.

    After HEAD ``body`` is empty, and Content-Length that of GET.
    """

    status: int
    headers: Headers
    body: bytes
    stream: Stream | None = None

    @property
    def reason(self) -> str:
        """The reason phrase of the status; htmx's has no standard to name one."""
        return "Stop Polling" if self.status == _STOP_POLLING else HTTPStatus(self.status).phrase

    def header(self, name: str) -> str | None:
        """The values of a header field, joined by ``", "``, or None. Case does not matter."""
        return _header(self.headers, name)


@frozen
class _Opened:
    """A job that this visitor may see. ``ref`` is how they named it."""

    ref: str = field(repr=False)
    state: JobState
    by_owner: bool
    right: str | None

    @property
    def may_cancel(self) -> bool:
        return self.by_owner or self.right == "cancel"


@frozen
class _Route:
    methods: tuple[str, ...]
    handle: Callable[[Endpoints, Ask, _Opened], Answer]


def _check_prefix(_endpoints: object, _attribute: object, value: str) -> None:
    if not value.startswith("/") or value.endswith("/") or "//" in value:
        raise InvalidRequest("status_prefix", f"must begin with a slash and not end with one, not {value!r}")


@frozen
class Endpoints:
    """Answers the status routes of one `BackJob`. Stateless, callable from any thread; ``answer`` may read the store.

    ``prefix`` is the path under which the application sees the routes: ``/backjob``.
    """

    jobs: StatusSource
    prefix: str = field(validator=_check_prefix)

    def below(self, path: str) -> str | None:
        """What of a path follows the prefix, for `Ask.path`; None if it does not belong to these routes."""
        rest = path.removeprefix(self.prefix)
        return rest if path.startswith(self.prefix) and rest.startswith("/") else None

    def answer(self, ask: Ask) -> Answer:
        """The answer to a request. Raises only what is a fault of the configuration (`StoreUnusable`)."""
        try:
            answer = self._route(ask)
        except JobNotFound:
            answer = _error(404, "not found")
        except StoreUnavailable:
            answer = _error(503, "the store does not answer at the moment", ("Retry-After", str(_RETRY_AFTER)))
        return evolve(answer, body=b"") if ask.method == "HEAD" else answer

    def _route(self, ask: Ask) -> Answer:
        media_type = _STATIC.get(ask.path)
        if media_type is not None:
            return _refuse_method(ask, ("GET", "HEAD")) or _static(ask.path, media_type)
        found = _ROUTE.fullmatch(ask.path)
        route = self._routes.get(found["leaf"] or "") if found else None
        if found is None or route is None:
            raise JobNotFound(ask.path)
        return _refuse_method(ask, route.methods) or route.handle(self, ask, self._open(ask, found))

    def _open(self, ask: Ask, found: re.Match[str]) -> _Opened:
        """The job, if this visitor may see it; else `JobNotFound`, whether it exists or not."""
        job_id, token = found["id"], found["token"]
        right = self.jobs.rights(job_id, token) if token else None
        if not (right or ask.owner or ask.sees_all):
            raise JobNotFound(job_id)
        state = self.jobs.status(job_id)
        # A hook that gives "" for a visitor it does not know must not make all of them one owner.
        by_owner = bool(ask.owner) and state.owner == ask.owner
        if not (right or by_owner or ask.sees_all):
            raise JobNotFound(job_id)
        return _Opened(found["ref"], state, by_owner, right)

    def _state(self, ask: Ask, opened: _Opened) -> Answer:
        if preferred(ask.header("accept"), (_JSON, _HTML)) == _JSON:
            return _json(200, opened.state.as_dict())
        return self._page(ask, opened)

    def _page(self, ask: Ask, opened: _Opened) -> Answer:
        job_id = opened.state.id
        mount = _mount(ask)
        cancel = None
        if opened.may_cancel:
            # Under no-referrer a browser says "Origin: null" with a form, and without TLS it sends no Sec-Fetch-Site
            # either: only a token can prove that the owner means it.
            ref = self.jobs.status_url(job_id, cancel=True).rpartition("/")[2]
            cancel = f"{mount}/{ref}/cancel"
        start, piece = self.jobs.tail(job_id)
        stream = self.jobs.broadcast.limit(in_thread=ask.in_thread) > 0
        links = Links(assets=mount, job=f"{mount}/{opened.ref}", cancel=cancel, stream=stream)
        body = render(opened.state, piece.text, more=start > 0, truncated=piece.truncated, links=links)
        return _answer(200, _HTML + _UTF_8, body, ("Content-Security-Policy", _PAGE_POLICY))

    def _fragment(self, ask: Ask, opened: _Opened) -> Answer:
        start, piece = self.jobs.tail(opened.state.id) if _values(ask.query, "output") == ["1"] else (0, Output("", 0))
        body = render_fragment(opened.state, piece.text, more=start > 0, truncated=piece.truncated)
        status = _STOP_POLLING if opened.state.status.is_final else 200
        return _answer(status, _HTML + _UTF_8, body, ("Content-Security-Policy", _PAGE_POLICY))

    def _output(self, ask: Ask, opened: _Opened) -> Answer:
        offset = _offset(ask.query)
        if offset is None:
            return _BAD_OFFSET
        piece = self.jobs.output(opened.state.id, offset)
        if preferred(ask.header("accept"), (_JSON, _PLAIN)) == _PLAIN:
            position = ("Backjob-Next-Offset", str(piece.next_offset))
            return _answer(200, _PLAIN + _UTF_8, clean_text(piece.text).encode("utf-8"), position)
        return _json(200, output_as_dict(piece))

    def _events(self, ask: Ask, opened: _Opened) -> Answer:
        if not self.jobs.broadcast.limit(in_thread=ask.in_thread):
            raise JobNotFound(ask.path)
        offset = _resumed(ask)
        if offset is None:
            return _BAD_OFFSET
        if ask.method == "HEAD":
            return Answer(200, _EVENTS, b"")
        output = _values(ask.query, "output") != ["0"]
        stream = self.jobs.broadcast.open(opened.state.id, offset, output=output, in_thread=ask.in_thread)
        if stream is None:
            return _error(503, "as many event streams are open as may be", ("Retry-After", str(_RETRY_AFTER)))
        return Answer(200, _EVENTS, b"", stream)

    def _cancel(self, ask: Ask, opened: _Opened) -> Answer:
        if not opened.may_cancel:
            return _error(403, "this address may watch the job, not cancel it")
        if opened.right != "cancel" and not same_origin(ask):
            return _error(403, "only a page of this site may cancel the job")
        self.jobs.cancel(opened.state.id)
        if preferred(ask.header("accept"), (_JSON, _HTML)) == _HTML:
            # The owner goes back to the plain address, so that the token to cancel stays out of the address bar.
            ref = opened.state.id if opened.by_owner else opened.ref
            return _answer(303, _PLAIN + _UTF_8, b"", ("Location", f"{_mount(ask)}/{ref}"))
        state = self.jobs.status(opened.state.id)
        if state.status is Status.CANCELLED:
            return _json(200, state.as_dict())
        return _json(409, {"error": f"not cancelled: the job is {state.status.name}", **state.as_dict()})

    _routes: ClassVar[Mapping[str, _Route]] = {
        "": _Route(("GET", "HEAD"), _state),
        "fragment": _Route(("GET", "HEAD"), _fragment),
        "output": _Route(("GET", "HEAD"), _output),
        "events": _Route(("GET", "HEAD"), _events),
        "cancel": _Route(("POST",), _cancel),
    }


# --- reading a request ----------------------------------------------------------------------------------------------


def preferred(accept: str | None, offered: tuple[str, ...]) -> str:
    """Which of the offered media types an Accept field likes best (RFC 9110, section 12.5.1); the first if none.

    The most specific range counts for a type; of equals the first offered wins. Parameters other than ``q`` are not read.
    """
    ranges: dict[str, float] = {}
    for part in (accept or "*/*").split(","):
        media_range, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight = next((value[2:].strip() for value in parameters if value.startswith("q=")), "1")
        ranges[media_range] = float(weight) if _QUALITY.fullmatch(weight) else 0.0

    def quality(media_type: str) -> float:
        family = media_type.partition("/")[0]
        return next((ranges[key] for key in (media_type, f"{family}/*", "*/*") if key in ranges), 0.0)

    return max(offered, key=quality)


def same_origin(ask: Ask) -> bool:
    """Whether a browser vouches that a page of this very site sent the request. No word of it is a no."""
    site = ask.header("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    scheme, _, authority = (ask.header("origin") or "").lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    host = (ask.header("host") or "").lower()
    return port is not None and bool(authority) and authority.removesuffix(port) == host.removesuffix(port)


def _values(query: str, name: str) -> list[str] | None:
    """The values of a parameter, of which there may be none; None for a query that can't be read."""
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=20).get(name, [])
    except ValueError:
        return None


def _offset(query: str) -> int | None:
    values = _values(query, "offset")
    if values == []:
        return 0
    return int(values[0]) if values is not None and len(values) == 1 and _OFFSET.fullmatch(values[0]) else None


def _resumed(ask: Ask) -> int | None:
    """Where events go on: a browser that connects again says which was the last it had, and has the same query still."""
    last = ask.header("last-event-id") or ""
    return int(last) if _OFFSET.fullmatch(last) else _offset(ask.query)


def _mount(ask: Ask) -> str:
    """The mount for a URL. One slash leads, however many came: two would name another host."""
    path = ask.mount.strip("/")
    return "/" + quote(path, safe="/%:@!$&'()*+,;=~", errors="replace") if path else ""


def _refuse_method(ask: Ask, methods: tuple[str, ...]) -> Answer | None:
    if ask.method in methods:
        return None
    return _error(405, "method not allowed", ("Allow", ", ".join(methods)))


# --- making an answer -----------------------------------------------------------------------------------------------


def _headers(content_type: str, *more: tuple[str, str], caching: str = "no-store") -> Headers:
    return (
        ("Content-Type", content_type),
        ("Cache-Control", caching),
        ("Vary", "Accept"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
        *more,
    )


def _answer(status: int, content_type: str, body: bytes, *more: tuple[str, str], caching: str = "no-store") -> Answer:
    length = ("Content-Length", str(len(body)))
    return Answer(status, _headers(content_type, length, *more, caching=caching), body)


def _json(status: int, value: Mapping[str, JsonValue], *more: tuple[str, str]) -> Answer:
    return _answer(status, _JSON, json_bytes(value), *more)


def _error(status: int, text: str, *more: tuple[str, str]) -> Answer:
    return _json(status, {"error": text}, *more)


_BAD_OFFSET: Final = _error(400, "offset: must be a number of bytes, 0 or more")

# No proxy is to compress or to collect what must arrive at once; the last field is nginx's.
_EVENTS: Final = _headers(CONTENT_TYPE, ("X-Accel-Buffering", "no"), caching="no-store, no-transform")


def _static(path: str, media_type: str) -> Answer:
    body = asset(path.removeprefix("/"))
    return _answer(200, media_type + _UTF_8, body, caching=f"public, max-age={_STATIC_MAX_AGE}")
