"""The status routes: who may see a job, and the response to each request. Adapters only translate.

A job can be seen by its owner, or with a token for this job and this right; the id alone is not enough. Visitors who
may not see a job get the same response as for a job that does not exist.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from typing import BinaryIO, ClassVar, Final, Protocol
from urllib.parse import urlencode

from attrs import evolve, field, frozen

from backjob.errors import InvalidRequest, JobNotFound, StoreError, StoreUnavailable
from backjob.model import JobState, Output, Status, clean_text
from backjob.status.download import download
from backjob.status.exchange import (
    EVENT_HEADERS,
    JSON,
    STOP_POLLING,
    StatusResponse,
    Visit,
    back_path,
    error_response,
    json_response,
    offset,
    preferred,
    query_values,
    resume_offset,
    same_origin,
    text_response,
)
from backjob.status.hiding import has_hidden_errors, without_errors
from backjob.status.languages import ENGLISH, LANGUAGES, Language, accepted_language, language_file
from backjob.status.page import Links, asset, render, render_error, render_fragment
from backjob.status.streaming.broadcast import Broadcast
from backjob.status.streaming.events import output_as_dict

__all__ = ["Endpoints", "StatusResponse", "StatusSource", "Visit", "is_like_token", "not_configured"]

_log = logging.getLogger("backjob")

_ROUTE: Final = re.compile(
    r"/(?P<ref>(?P<id>[A-Za-z0-9_-]{1,128})(?:\.(?P<token>[A-Za-z0-9_.~=-]{1,512}))?)(?:/(?P<leaf>[a-z]+))?"
)
_HTML: Final = "text/html"
_PLAIN: Final = "text/plain"
_STATIC: Final = {"/progress.js": "text/javascript", "/terminal.js": "text/javascript", "/progress.css": "text/css"}
_LANGUAGE_FILES: Final = {f"/words.{tag}.json": tag for tag in LANGUAGES}
_STATIC_CACHING: Final = "public, max-age=3600"
_RETRY_AFTER: Final = ("Retry-After", "2")  # s
_PAGE_POLICY: Final = (
    "Content-Security-Policy",
    (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; form-action 'self'; "
        "img-src data:; base-uri 'none'; frame-ancestors 'self'"
    ),
)
_LIKE_TOKEN: Final = re.compile(r"[vc][A-Za-z0-9_-]{22}")
# For programs, whose error messages stay.
_ERRORS: Final = {"not_found": "not found", "unavailable": "the store is not available at the moment"}
_BAD_OFFSET: Final = error_response(400, "offset: must be a number of bytes, 0 or more")


class StatusSource(Protocol):
    """The operations of the engine that the status routes use."""

    @property
    def broadcast(self) -> Broadcast: ...

    def status(self, job_id: str) -> JobState: ...

    def output(self, job_id: str, offset: int = 0) -> Output: ...

    def tail(self, job_id: str) -> tuple[int, Output]: ...

    def cancel(self, job_id: str) -> bool: ...

    def rights(self, job_id: str, token: str) -> str | None: ...

    def status_url(self, job_id: str, cancel: bool = False) -> str: ...

    @property
    def show_errors(self) -> bool: ...

    def open_file(self, job_id: str) -> BinaryIO | None: ...


@frozen
class _Opened:
    """A job that this visitor may see. ``ref`` is the id, with the token if the URL has one."""

    ref: str = field(repr=False)
    state: JobState
    right: str | None
    visit: Visit = field(repr=False)
    by_owner: bool | None = None
    """Whether the owner asks; None if the token made it unnecessary to find out."""

    def is_by_owner(self) -> bool:
        return self.visit.owns(self.state.owner) if self.by_owner is None else self.by_owner

    def may_cancel(self) -> bool:
        return self.right == "cancel" or self.is_by_owner()


@frozen
class _Route:
    handle: Callable[[Endpoints, Visit, _Opened], StatusResponse]
    methods: tuple[str, ...] = ("GET", "HEAD")


class _SignedElsewhere(JobNotFound):
    """The token has the form of ours, but none of our keys made it. That says nothing about the job."""


def is_like_token(token: str) -> bool:
    """Whether a text has the form of a token in a status URL, whichever key signed it."""
    return _LIKE_TOKEN.fullmatch(token) is not None


def not_configured(accept: str | None) -> StatusResponse:
    """Return the response to every status request while jobs can't be used. The reason is in the log alone."""
    return _explained(503, "not_configured", accept, ENGLISH)


def _explained(
    status: int,
    word: str,
    accept: str | None,
    language: Language,
    *more: tuple[str, str],
    assets: str = "",
    back: str = "",
) -> StatusResponse:
    """Return an error: a page for a person, otherwise JSON in English. ``word`` is its name in the table of words."""
    if preferred(accept, (JSON, _HTML)) == JSON:
        return error_response(status, _ERRORS.get(word) or ENGLISH.say(word)[:1].lower() + ENGLISH.say(word)[1:], *more)
    body = render_error(language.say(word), language=language, assets=assets, back=back)
    return text_response(status, _HTML, body, _PAGE_POLICY, *more)


def _language_of(visit: Visit) -> Language:
    return accepted_language(visit.request.header("accept-language"))


def _check_prefix(_endpoints: object, _attribute: object, value: str) -> None:
    if not value.startswith("/") or value.endswith("/") or "//" in value:
        raise InvalidRequest("status_prefix", f"must begin with a slash and not end with one, not {value!r}")


@frozen
class Endpoints:
    """Responds to the status routes. Stateless, callable from any thread; ``respond`` may read the store.

    ``prefix`` is the path under which the application sees the routes: ``/backjob``.
    """

    jobs: StatusSource
    prefix: str = field(validator=_check_prefix)

    def below(self, path: str) -> str | None:
        """Return the path after the prefix, for `Visit.path`, or None if the path is outside of these routes."""
        rest = path.removeprefix(self.prefix)
        return rest if path.startswith(self.prefix) and rest.startswith("/") else None

    def respond(self, visit: Visit) -> StatusResponse:
        """Return the response to a request."""
        try:
            response = self._route(visit)
        except _SignedElsewhere:
            response = self._error(visit, 404, "other_key")
        except JobNotFound:
            response = self._error(visit, 404, "not_found")
        except StoreUnavailable:
            response = self._error(visit, 503, "unavailable", _RETRY_AFTER)
        except StoreError as error:
            _log.error("a status page can't be shown: %s", error)
            response = not_configured(visit.request.header("accept"))
        return evolve(response, body=b"") if visit.request.method == "HEAD" else response

    def _error(self, visit: Visit, status: int, word: str, *more: tuple[str, str]) -> StatusResponse:
        """Return an error as a page that leads back, or as JSON."""
        accept, language = visit.request.header("accept"), _language_of(visit)
        assets, back = visit.mount_url(), back_path(visit.request) or ""
        return _explained(status, word, accept, language, *more, assets=assets, back=back)

    def _route(self, visit: Visit) -> StatusResponse:
        found = _ROUTE.fullmatch(visit.path)  # also matches the static files' paths
        route = self._routes.get(found["leaf"] or "") if found else None
        if found is None or route is None:
            raise JobNotFound(visit.path)
        if visit.request.method not in route.methods:
            return error_response(405, "method not allowed", ("Allow", ", ".join(route.methods)))
        if visit.path in _STATIC:
            return text_response(200, _STATIC[visit.path], asset(visit.path[1:]), caching=_STATIC_CACHING)
        if visit.path in _LANGUAGE_FILES:
            return text_response(200, JSON, language_file(_LANGUAGE_FILES[visit.path]), caching=_STATIC_CACHING)
        return route.handle(self, visit, self._open(visit, found))

    def _open(self, visit: Visit, found: re.Match[str]) -> _Opened:
        """Return the job if this visitor may see it; otherwise raise `JobNotFound`, whether the job exists or not."""
        job_id, token = found["id"], found["token"]
        right = self.jobs.rights(job_id, token) if token else None
        if right:
            return _Opened(found["ref"], self._shown(visit, self.jobs.status(job_id)), right, visit)
        visitor = visit.visitor()
        sees_all = visit.may_see_all()
        if not (visitor or sees_all):
            raise _SignedElsewhere(job_id) if token and is_like_token(token) else JobNotFound(job_id)
        state = self.jobs.status(job_id)
        # An owner hook may return "" for unknown visitors: they must not all become one owner.
        by_owner = bool(visitor) and state.owner == visitor
        if not (by_owner or sees_all):
            raise JobNotFound(job_id)
        return _Opened(found["ref"], self._shown(visit, state), None, visit, by_owner)

    def _shown(self, visit: Visit, state: JobState) -> JobState:
        """Return the state as this visitor may see it: unexpected errors are for staff."""
        if not has_hidden_errors(state) or self.jobs.show_errors or visit.may_see_all():
            return state
        return without_errors(state)

    def _state(self, visit: Visit, opened: _Opened) -> StatusResponse:
        if preferred(visit.request.header("accept"), (JSON, _HTML)) == JSON:
            return json_response(200, opened.state.as_dict())
        return self._page(visit, opened)

    def _page(self, visit: Visit, opened: _Opened) -> StatusResponse:
        job_id = opened.state.id
        mount = visit.mount_url()
        cancel = None
        if opened.may_cancel():
            # With no-referrer, browsers send "Origin: null" for a form, and without TLS no Sec-Fetch-Site either:
            # only a token can prove that the request comes from the owner's page.
            ref = self.jobs.status_url(job_id, cancel=True).rpartition("/")[2]
            cancel = f"{mount}/{ref}/cancel"
        back = back_path(visit.request)
        if cancel and back:
            cancel += f"?{urlencode({'back': back})}"
        start, chunk = self.jobs.tail(job_id)
        stream = self.jobs.broadcast.limit(in_thread=visit.in_thread) > 0
        links = Links(assets=mount, job=f"{mount}/{opened.ref}", cancel=cancel, stream=stream, back=back)
        body = render(
            opened.state,
            chunk.text,
            more=start > 0,
            truncated=chunk.truncated,
            links=links,
            language=_language_of(visit),
        )
        return text_response(200, _HTML, body, _PAGE_POLICY)

    def _fragment(self, visit: Visit, opened: _Opened) -> StatusResponse:
        start, chunk = (
            self.jobs.tail(opened.state.id) if query_values(visit.request, "output") == ["1"] else (0, Output("", 0))
        )
        body = render_fragment(
            opened.state,
            chunk.text,
            more=start > 0,
            truncated=chunk.truncated,
            language=_language_of(visit),
            file=f"{visit.mount_url()}/{opened.ref}/file",
        )
        status = STOP_POLLING if opened.state.status.is_final else 200
        return text_response(status, _HTML, body, _PAGE_POLICY)

    def _output(self, visit: Visit, opened: _Opened) -> StatusResponse:
        start = offset(visit.request)
        if start is None:
            return _BAD_OFFSET
        chunk = self.jobs.output(opened.state.id, start)
        if preferred(visit.request.header("accept"), (JSON, _PLAIN)) == _PLAIN:
            position = ("Backjob-Next-Offset", str(chunk.next_offset))
            return text_response(200, _PLAIN, clean_text(chunk.text).encode("utf-8"), position)
        return json_response(200, output_as_dict(chunk))

    def _events(self, visit: Visit, opened: _Opened) -> StatusResponse:
        if not self.jobs.broadcast.limit(in_thread=visit.in_thread):
            raise JobNotFound(visit.path)
        start = resume_offset(visit.request)
        if start is None:
            return _BAD_OFFSET
        if visit.request.method == "HEAD":
            return StatusResponse(200, "OK", EVENT_HEADERS)
        output = query_values(visit.request, "output") != ["0"]
        stream = self.jobs.broadcast.open(opened.state.id, start, output=output, in_thread=visit.in_thread)
        if stream is None:
            return error_response(503, "too many event streams are open", _RETRY_AFTER)
        stream.sees_errors = self.jobs.show_errors or visit.may_see_all()
        return StatusResponse(200, "OK", EVENT_HEADERS, stream=stream)

    def _file(self, visit: Visit, opened: _Opened) -> StatusResponse:
        file = self.jobs.open_file(opened.state.id) if opened.state.file is not None else None
        if file is None:
            raise JobNotFound(visit.path)
        return download(opened.state, file, is_head=visit.request.method == "HEAD")

    def _cancel(self, visit: Visit, opened: _Opened) -> StatusResponse:
        if not opened.may_cancel():
            return error_response(403, "with this URL you may view the job, but not cancel it")
        if opened.right != "cancel" and not same_origin(visit.request):
            return error_response(403, "only a page of this site may cancel the job")
        self.jobs.cancel(opened.state.id)
        if preferred(visit.request.header("accept"), (JSON, _HTML)) == _HTML:
            # Redirect the owner to the URL without a token, so that the token to cancel stays out of the address bar.
            ref = opened.state.id if opened.is_by_owner() else opened.ref
            back = back_path(visit.request)
            query = f"?{urlencode({'back': back})}" if back else ""
            return text_response(303, _PLAIN, b"", ("Location", f"{visit.mount_url()}/{ref}{query}"))
        state = self._shown(visit, self.jobs.status(opened.state.id))
        if state.status is Status.CANCELLED:
            return json_response(200, state.as_dict())
        return json_response(409, {"error": f"not cancelled: the job is {state.status.name}", **state.as_dict()})

    _routes: ClassVar[Mapping[str, _Route]] = {
        "": _Route(_state),
        "fragment": _Route(_fragment),
        "output": _Route(_output),
        "events": _Route(_events),
        "file": _Route(_file),
        "cancel": _Route(_cancel, ("POST",)),
    }
