"""The status routes: the response to each request. Adapters only translate; `backjob.status.access` says who may do what."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Final
from urllib.parse import urlencode

from attrs import evolve, field, frozen

from backjob.errors import InvalidRequest, JobNotFound, StoreError, StoreUnavailable
from backjob.model import JobState, Output, Query, clean_text
from backjob.status.access import Opened, SignedElsewhere, is_like_token, opened
from backjob.status.changing import Changing
from backjob.status.download import download
from backjob.status.exchange import (
    EVENT_HEADERS,
    JSON,
    STOP_POLLING,
    StatusResponse,
    Visit,
    back_path,
    error_response,
    is_asked,
    is_for_person,
    json_response,
    not_allowed,
    offset,
    preferred,
    query_values,
    redirect,
    resume_offset,
    text_response,
)
from backjob.status.explaining import HTML, PAGE_POLICY, language_of, not_configured
from backjob.status.languages import LANGUAGES, language_file
from backjob.status.list_page import ListPage
from backjob.status.listing import Page, Search
from backjob.status.origins import preflight, shared_headers
from backjob.status.page import Links, asset, render, render_fragment
from backjob.status.source import CannotList, StatusSource
from backjob.status.streaming.events import output_as_dict
from backjob.status.whole_output import output_download

__all__ = ["Endpoints", "StatusResponse", "StatusSource", "Visit", "is_like_token", "not_configured"]

_log = logging.getLogger("backjob")

_ROUTE: Final = re.compile(
    r"/(?P<ref>(?P<id>[A-Za-z0-9_-]{1,128})(?:\.(?P<token>[A-Za-z0-9_.~=-]{1,512}))?)(?:/(?P<leaf>[a-z_]+))?"
)
_PLAIN: Final = "text/plain"
_STATIC: Final = {f"/{name}.js": "text/javascript" for name in ("progress", "terminal", "words", "list")} | {
    f"/{name}.css": "text/css" for name in ("progress", "list")
}
_LANGUAGE_FILES: Final = {f"/words.{tag}.json": tag for tag in LANGUAGES}
_STATIC_CACHING: Final = "public, max-age=3600"
_RETRY_AFTER: Final = ("Retry-After", "2")  # s
_READING: Final = ("GET", "HEAD")
_BAD_OFFSET: Final = error_response(400, "offset: must be a number of bytes, 0 or more")


@frozen(eq=False, repr=False)
class _Route:
    handle: Callable[[Endpoints, Visit, Opened], StatusResponse]
    methods: tuple[str, ...] = _READING


def _check_prefix(_endpoints: object, _attribute: object, value: str) -> None:
    if not value.startswith("/") or value.endswith("/") or "//" in value:
        raise InvalidRequest("status_prefix", f"must begin with a slash and not end with one, not {value!r}")


@frozen(eq=False, repr=False)
class Endpoints(Changing):
    """Responds to the status routes. Stateless, callable from any thread; ``respond`` may read the store.

    ``prefix`` is the path under which the application sees the routes: ``/backjob``.
    """

    prefix: str = field(validator=_check_prefix)

    def below(self, path: str) -> str | None:
        """Return the path after the prefix, for `Visit.path`, or None if the path is outside of these routes."""
        rest = path.removeprefix(self.prefix)
        return rest if path.startswith(self.prefix) and rest[:1] in ("", "/") else None

    def respond(self, visit: Visit) -> StatusResponse:
        """Return the response to a request."""
        try:
            response = self._preflight(visit) or self._route(visit)
        except SignedElsewhere:
            response = self.error(visit, 404, "other_key")
        except JobNotFound:
            response = self.error(visit, 404, "not_found")
        except CannotList:
            response = self.error(visit, 501, "no_list")
        except StoreUnavailable:
            response = self.error(visit, 503, "unavailable", _RETRY_AFTER)
        except StoreError as error:
            _log.error("a status page can't be shown: %s", error)
            response = not_configured(visit.request.header("accept"))
        return self._for_origin(visit, evolve(response, body=b"") if visit.request.method == "HEAD" else response)

    def _preflight(self, visit: Visit) -> StatusResponse | None:
        """Return the response to a preflight of a trusted origin, whatever the path; for any other request None."""
        headers = preflight(visit.request, self.jobs.trusted_origins) if visit.request.method == "OPTIONS" else None
        return None if headers is None else text_response(200, _PLAIN, b"", *headers)

    def _for_origin(self, visit: Visit, response: StatusResponse) -> StatusResponse:
        """Let a page of a trusted origin read the response."""
        trusted = self.jobs.trusted_origins
        if not trusted:
            return response
        vary = response.header("vary")
        headers = tuple(field for field in response.headers if field[0] != "Vary")
        varied = ("Vary", f"{vary}, Origin" if vary else "Origin")
        return evolve(response, headers=(*headers, varied, *shared_headers(visit.request, trusted)))

    def _route(self, visit: Visit) -> StatusResponse:
        if visit.path in ("", "/"):
            if visit.request.method not in _READING:
                return not_allowed(_READING)
            return self._list(visit) if visit.path else redirect(307, f"{visit.mount_url()}/", visit.request.query)
        found = _ROUTE.fullmatch(visit.path)  # also matches the static files' paths
        route = self._routes.get(found["leaf"] or "") if found else None
        if found is None or route is None:
            raise JobNotFound(visit.path)
        methods = _READING if visit.path in _STATIC or visit.path in _LANGUAGE_FILES else route.methods
        if visit.request.method not in methods:
            return not_allowed(methods)
        if visit.path in _STATIC:
            return text_response(200, _STATIC[visit.path], asset(visit.path[1:]), caching=_STATIC_CACHING)
        if visit.path in _LANGUAGE_FILES:
            return text_response(200, JSON, language_file(_LANGUAGE_FILES[visit.path]), caching=_STATIC_CACHING)
        try:
            job = opened(self.jobs, visit, found["ref"], found["id"], found["token"])
        except SignedElsewhere:
            raise
        except JobNotFound:
            if route.methods == ("POST",) and is_for_person(visit.request):
                return self.after_click(visit, found["leaf"], found["id"], found["token"])
            raise
        return route.handle(self, visit, evolve(job, state=self.shown(visit, job.state)))

    # --- the list ---------------------------------------------------------------------------------------------------

    def _list(self, visit: Visit) -> StatusResponse:
        sees_all, visitor = visit.may_see_all(), visit.visitor()
        try:
            search = Search.of(visit.request)
            query = search.query(None if sees_all else visitor)
        except InvalidRequest as error:
            return self.error(visit, 400, "bad_search", reason=str(error))
        # An owner hook may return "" for unknown visitors: they must not all become one owner.
        found = self._listed(visit, query) if visitor or sees_all else []
        states = [self.shown(visit, state) for state in found[: search.size]]
        is_json = not is_for_person(visit.request)
        base, site = (self.base_of(visit), "") if is_json else (visit.mount_url(), back_path(visit.request) or "")
        has_more = len(found) > len(states)
        following = search.url(base, before=states[-1].position, back=site) if has_more else None
        if is_json and following is not None and is_asked(visit.request, "absolute"):
            following += "&absolute=1"
        page = Page(states, following, lambda state: self.links_of(Opened(state.id, state, None, visit), base))
        if is_json:
            return json_response(200, page.as_dict())
        shown = ListPage(
            page,
            search,
            assets=base,
            language=language_of(visit),
            shows_owners=sees_all,
            is_anonymous=not (visitor or sees_all),
            back=search.url(base, back=site),
            site=site,
        )
        return text_response(200, HTML, shown.render(), PAGE_POLICY)

    def _listed(self, visit: Visit, query: Query) -> list[JobState]:
        """Return the jobs that match. The position of a job that this visitor may not see counts as that of a removed job."""
        if query.before is None or query.owner is None or self._is_own(visit, query.before):
            return self.jobs.listed(query)
        return [] if query.before_time is None else self.jobs.listed(evolve(query, before=None))

    def _is_own(self, visit: Visit, job_id: str) -> bool:
        try:
            return visit.owns(self.jobs.status(job_id).owner)
        except JobNotFound:
            return False

    # --- one job ----------------------------------------------------------------------------------------------------

    def _state(self, visit: Visit, opened: Opened) -> StatusResponse:
        if visit.request.method == "DELETE":
            return self.delete(visit, opened)
        if not is_for_person(visit.request):
            return json_response(200, self.as_dict(opened))
        return self._page(visit, opened)

    def _page(self, visit: Visit, opened: Opened) -> StatusResponse:
        mount, back = visit.mount_url(), back_path(visit.request)
        query = f"?{urlencode({'back': back})}" if back else ""
        links = self.links_of(opened, mount)
        start, chunk = self.jobs.tail(opened.state.id)
        body = render(
            opened.state,
            chunk.text,
            more=start > 0,
            truncated=chunk.truncated,
            tail=chunk.tail,
            links=Links(
                assets=mount,
                job=f"{mount}/{opened.ref}",
                # With no-referrer, browsers send "Origin: null" for a form, and without TLS no Sec-Fetch-Site either:
                # only a token can prove that the request comes from the owner's page.
                cancel=f"{links.form('cancel', 'cancel')}{query}" if opened.may_cancel() else None,
                run_again=f"{links.form('manage', 'run_again')}{query}" if links.may_run_again else None,
                stream=links.events,
                back=back,
            ),
            language=language_of(visit),
            page=self.jobs.page_template,
        )
        return text_response(200, HTML, body, PAGE_POLICY)

    def _fragment(self, visit: Visit, opened: Opened) -> StatusResponse:
        start, chunk = (
            self.jobs.tail(opened.state.id) if query_values(visit.request, "output") == ["1"] else (0, Output("", 0))
        )
        body = render_fragment(
            opened.state,
            chunk.text,
            more=start > 0,
            truncated=chunk.truncated,
            tail=chunk.tail,
            language=language_of(visit),
            file=f"{visit.mount_url()}/{opened.ref}/file",
        )
        status = STOP_POLLING if opened.state.status.is_final else 200
        return text_response(status, HTML, body, PAGE_POLICY)

    def _output(self, visit: Visit, opened: Opened) -> StatusResponse:
        if is_asked(visit.request, "download"):
            return output_download(
                opened.state.id,
                partial(self.jobs.output, opened.state.id),
                language_of(visit).say("truncated"),
                is_head=visit.request.method == "HEAD",
            )
        start = offset(visit.request)
        if start is None:
            return _BAD_OFFSET
        chunk = self.jobs.output(opened.state.id, start)
        if preferred(visit.request.header("accept"), (JSON, _PLAIN)) == _PLAIN:
            position = ("Backjob-Next-Offset", str(chunk.next_offset))
            return text_response(200, _PLAIN, clean_text(chunk.text).encode("utf-8"), position)
        return json_response(200, output_as_dict(chunk))

    def _events(self, visit: Visit, opened: Opened) -> StatusResponse:
        if not self.jobs.broadcast.limit(in_thread=visit.in_thread):
            raise JobNotFound(visit.path)
        start = resume_offset(visit.request)
        if start is None:
            return _BAD_OFFSET
        if visit.request.method == "HEAD":
            return StatusResponse(200, "OK", EVENT_HEADERS)
        output = query_values(visit.request, "output") != ["0"]
        links = self.links_of(opened, self.base_of(visit))
        stream = self.jobs.broadcast.open(
            opened.state.id, start, output=output, in_thread=visit.in_thread, links=links.as_dict
        )
        if stream is None:
            return error_response(503, "too many event streams are open", _RETRY_AFTER)
        stream.sees_errors = self.jobs.show_errors or visit.may_see_all()
        return StatusResponse(200, "OK", EVENT_HEADERS, stream=stream)

    def _file(self, visit: Visit, opened: Opened) -> StatusResponse:
        file = self.jobs.open_file(opened.state.id) if opened.state.file is not None else None
        if file is None:
            raise JobNotFound(visit.path)
        return download(opened.state, file, is_head=visit.request.method == "HEAD")

    _routes: ClassVar[Mapping[str, _Route]] = {
        "": _Route(_state, ("GET", "HEAD", "DELETE")),
        "fragment": _Route(_fragment),
        "output": _Route(_output),
        "events": _Route(_events),
        "file": _Route(_file),
        "cancel": _Route(Changing.cancel, ("POST",)),
        "run_again": _Route(Changing.run_again, ("POST",)),
        "delete": _Route(Changing.delete, ("POST",)),
    }
