"""The list of jobs as escaped HTML that works without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from attrs import field, frozen

from backjob.model import JobState, Status, clean_text
from backjob.status.links import JobLinks
from backjob.status.listing import Page, Search
from backjob.status.page import asset, duration, fill, headline
from backjob.status.words import WORDS, utc, word_of

_ROW: Final = re.compile(r"<!-- row -->(.*)<!-- /row -->", re.DOTALL)
_ROWS: Final = "<!-- rows -->"
_OPTION: Final = re.compile(r"<!-- option -->(.*)<!-- /option -->", re.DOTALL)
_OPTIONS: Final = "<!-- options -->"
_LONGEST_ERROR: Final = 200

LIST_WORDS: Final = {
    "jobs": "Background jobs",
    "job": "Job",
    "route": "Route",
    "state": "State",
    "progress": "Progress",
    "begun": "Started",
    "duration": "Duration",
    "error": "Error",
    "owner": "Owner",
    "actions": "Actions",
    "all_states": "All states",
    "search": "Search",
    "filter": "Filter",
    "older": "Older jobs",
    "newest": "Newest jobs",
    "no_jobs": "There are no jobs yet.",
    "no_matches": "No job matches.",
    "no_login": "This page lists the jobs of the user who is logged in.",
    "cancel": "Cancel",
    "run_again": "Run again",
    "delete": "Delete",
}
"""The words of the list."""


@frozen
class ListPage:
    """The page to render. ``assets`` is the prefix of progress.css; ``shows_owners``: it lists the jobs of everyone."""

    page: Page
    search: Search
    assets: str
    shows_owners: bool = False
    is_anonymous: bool = False
    back: str = field(default="", repr=False)
    """The URL of this page, to which its forms return."""

    def render(self) -> bytes:
        """Return the page in UTF-8."""
        template = asset("list.html").decode("utf-8")
        row, option = _part(_ROW, template), _part(_OPTION, template)
        frame = _OPTION.sub(_OPTIONS, _ROW.sub(_ROWS, template))
        rows = "".join(_filled(row, self._row(state)) for state in self.page.jobs)
        options = "".join(_filled(option, self._option(status)) for status in Status)
        filled = _filled(frame, self._values())
        return filled.replace(_OPTIONS, options).replace(_ROWS, rows).encode("utf-8")

    def _values(self) -> dict[str, str]:
        has_jobs = bool(self.page.jobs)
        is_first = not self.search.before
        nothing = (
            "no_login" if self.is_anonymous else "no_matches" if self.search.is_filtered or not is_first else "no_jobs"
        )
        return {
            **_WORD_VALUES,
            "assets": self.assets,
            "queue": self.search.queue,
            "q": self.search.q,
            "has_jobs": "yes" if has_jobs else "",
            "owners": "yes" if self.shows_owners else "",
            "nothing": "" if has_jobs else LIST_WORDS[nothing],
            "next": self.page.next or "",
            "first": "" if is_first else self.search.url(self.assets, before=""),
        }

    def _option(self, status: Status) -> dict[str, str]:
        name = status.name.lower()
        return {"name": name, "word": WORDS[status], "selected": "yes" if self.search.status.lower() == name else ""}

    def _row(self, state: JobState) -> dict[str, str]:
        links = self.page.links(state)
        known = state.progress > 0 or state.status.is_final
        has_failed = state.status is Status.FAILED
        return {
            **_WORD_VALUES,
            "name": state.status.name.lower(),
            "word": word_of(state.status, state.attempt),
            "title": state.title or state.id,
            "method": state.method,
            "path": state.path,
            "owners": "yes" if self.shows_owners else "",
            "owner": state.owner or "",
            "open": f"{self.assets}/{state.id}",
            "percent": f"{state.progress}%" if known else "",
            "value": str(state.progress) if known else "",
            "time": _duration(state),
            "begun": "" if state.created_time is None else f"{utc(state.created_time)} UTC",
            "begun_iso": "" if state.created_time is None else state.created_time.isoformat(timespec="seconds"),
            "error": headline(state.status_text, "")[:_LONGEST_ERROR] if has_failed else "",
            **self._forms(state, links),
        }

    def _forms(self, state: JobState, links: JobLinks) -> dict[str, str]:
        back = f"?back={quote(self.back, safe='')}"
        has_ended, manages = state.status.is_final, links.right == "manage"
        return {
            "cancel": f"{links.form('cancel', 'cancel')}{back}" if links.right != "view" and not has_ended else "",
            "run_again": links.form("manage", "run_again") if manages and has_ended and state.keeps_request else "",
            "delete": f"{links.form('manage', 'delete')}{back}" if manages and has_ended else "",
        }


_WORD_VALUES: Final = {f"say_{name}": text for name, text in LIST_WORDS.items()}


def _duration(state: JobState) -> str:
    """Return how long the job has been running, or took."""
    begun = state.claimed_time
    if begun is None or state.status is Status.STARTED:
        return ""
    return duration(max(0.0, ((state.end_time or state.updated_time) - max(begun, state.start_time)).total_seconds()))


def _part(pattern: re.Pattern[str], template: str) -> str:
    found = pattern.search(template)
    return found[1] if found else ""


def _filled(template: str, values: Mapping[str, str]) -> str:
    return fill(template, {name: clean_text(value) for name, value in values.items()})
