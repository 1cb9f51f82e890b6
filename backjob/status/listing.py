"""The list of jobs: what its parameters select, and the list as JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlencode

from attrs import frozen

from backjob.errors import InvalidRequest
from backjob.model import JobState, JsonValue, Query, Request, Status, is_storable, parse_position
from backjob.status.exchange import back_path, query_values
from backjob.status.links import JobLinks, Linked

PARAMETERS: Final = ("status", "queue", "q", "before", "limit")
_DEFAULT_LIMIT: Final = 50
_MOST: Final = 100
_LONGEST: Final = {"before": 160}
_LONGEST_OTHER: Final = 100
_NUMBER: Final = re.compile(r"[0-9]{1,4}")


@frozen(eq=False, repr=False)
class Search:
    """The parameters of the list, as the visitor gave them. Empty: not given."""

    status: str = ""
    queue: str = ""
    q: str = ""
    before: str = ""
    limit: str = ""
    back: str = ""
    """The page of this site that the list leads back to."""

    @classmethod
    def of(cls, request: Request) -> Search:
        """Read the parameters of a request. Raises `InvalidRequest` naming the parameter."""
        given: dict[str, str] = {}
        for name in PARAMETERS:
            values = query_values(request, name)
            if values is None:
                raise InvalidRequest("query", "has too many parameters")
            if len(values) > 1:
                raise InvalidRequest(name, "must be given once")
            text = values[0].strip() if values else ""
            longest = _LONGEST.get(name, _LONGEST_OTHER)
            if len(text) > longest or not is_storable(text):
                raise InvalidRequest(name, f"must be text of at most {longest} characters")
            given[name] = text
        return cls(**given, back=back_path(request) or "")

    @property
    def is_filtered(self) -> bool:
        """Whether it may leave out jobs, apart from those of other pages."""
        return bool(self.status or self.queue or self.q)

    def query(self, owner: str | None) -> Query:
        """Return the query for one page and the job after it. Raises `InvalidRequest` naming the parameter."""
        before, created = parse_position(self.before) if self.before else (None, None)
        return Query(
            status=self._status(),
            owner=owner,
            queue=self.queue or None,
            text=self.q,
            before=before,
            before_time=created,
            limit=self.size + 1,
        )

    @property
    def size(self) -> int:
        """How many jobs a page has at most. Raises `InvalidRequest`."""
        if not self.limit:
            return _DEFAULT_LIMIT
        size = int(self.limit) if _NUMBER.fullmatch(self.limit) else 0
        if not 1 <= size <= _MOST:
            raise InvalidRequest("limit", f"must be a number from 1 to {_MOST}")
        return size

    def _status(self) -> Status | None:
        if not self.status:
            return None
        status = Status.__members__.get(self.status.upper())
        if status is None:
            names = ", ".join(name.lower() for name in Status.__members__)
            raise InvalidRequest("status", f"must be one of {names}")
        return status

    def url(self, base: str, **changes: str) -> str:
        """Return the URL of the list with these parameters, and with changed ones; empty ones are left out."""
        given = {name: getattr(self, name) for name in (*PARAMETERS, "back")} | changes
        query = urlencode({name: text for name, text in given.items() if text})
        return f"{base}/?{query}" if query else f"{base}/"


@frozen(eq=False, repr=False)
class Page:
    """One page of the list. ``links(state)`` are the job's links for this visitor; ``next`` is the next page's URL."""

    jobs: Sequence[JobState]
    next: str | None
    links: Callable[[JobState], JobLinks]

    def as_dict(self) -> dict[str, JsonValue]:
        """Return the page, JSON-ready."""
        return {"jobs": [with_links(state, self.links(state)) for state in self.jobs], "next": self.next}


def with_links(state: JobState, links: JobLinks) -> dict[str, JsonValue]:
    """Return the state with its links, JSON-ready."""
    return {**state.as_dict(), "links": links.as_dict(Linked.of(state))}
