"""The list of jobs as escaped HTML that works without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from attrs import frozen

from backjob.model import JobState, Status, clean_text
from backjob.status.element import shown_text
from backjob.status.languages import ENGLISH, Language
from backjob.status.links import JobLinks
from backjob.status.listing import Page, Search
from backjob.status.templates import fill, template
from backjob.status.times import run_seconds
from backjob.status.words import utc, word_of

_ROW: Final = re.compile(r"<!-- row -->(.*)<!-- /row -->", re.DOTALL)
_ROWS: Final = "<!-- rows -->"
_OPTION: Final = re.compile(r"<!-- option -->(.*)<!-- /option -->", re.DOTALL)
_OPTIONS: Final = "<!-- options -->"
_LONGEST_TEXT: Final = 200

_WORDS: Final = (
    *("jobs", "job", "owner", "state", "progress", "created", "duration", "all_states", "search"),
    *("filter", "older", "newer", "cancel", "run_again", "delete", "back"),
)


@frozen(eq=False, repr=False)
class ListPage:
    """The page to render. ``assets`` is the prefix of progress.css; ``shows_owners``: it lists the jobs of everyone."""

    page: Page
    search: Search
    assets: str
    shows_owners: bool = False
    is_anonymous: bool = False
    back: str = ""
    """The URL of this page, to which its forms and the pages of its jobs return."""
    site: str = ""
    """The application's page to which this one leads back, if any."""
    language: Language = ENGLISH

    def render(self) -> bytes:
        """Return the page in UTF-8."""
        page = template("list.html")
        row, option = _part(_ROW, page), _part(_OPTION, page)
        frame = _OPTION.sub(_OPTIONS, _ROW.sub(_ROWS, page))
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
            **self._words(),
            "lang": self.language.tag,
            "assets": self.assets,
            "queue": self.search.queue,
            "q": self.search.q,
            "back": self.search.back,
            "has_jobs": "yes" if has_jobs else "",
            "nothing": "" if has_jobs else self.language.say(nothing),
            "next": self.page.next or "",
            "first": "" if is_first else self.search.url(self.assets, before="", back=self.site),
            "site": self.site,
        }

    def _words(self) -> dict[str, str]:
        return {f"say_{word}": self.language.say(word) for word in _WORDS}

    def _option(self, status: Status) -> dict[str, str]:
        name = status.name.lower()
        return {
            "name": name,
            "word": word_of(status, 1, self.language),
            "selected": "yes" if self.search.status.lower() == name else "",
        }

    def _row(self, state: JobState) -> dict[str, str]:
        links = self.page.links(state)
        known = state.progress > 0 or state.status.is_final
        return {
            **self._words(),
            "name": state.status.name.lower(),
            "word": word_of(state.status, state.attempt, self.language),
            "title": state.title or state.id,
            "method": state.method,
            "path": state.path,
            "owner": (state.owner or "") if self.shows_owners else "",
            "open": f"{self.assets}/{state.id}?{self._returning('back')}",
            "percent": self.language.say("percent", number=state.progress) if known else "",
            "value": str(state.progress) if known else "",
            "time": self._duration(state),
            "created": "" if state.created_time is None else f"{utc(state.created_time)} UTC",
            "created_iso": "" if state.created_time is None else state.created_time.isoformat(timespec="seconds"),
            "text": shown_text(state, self.language)[:_LONGEST_TEXT],
            **self._forms(state, links),
        }

    def _duration(self, state: JobState) -> str:
        """Return how long the job has been running, or took."""
        seconds = run_seconds(state, state.updated_time)
        return "" if seconds is None else self.language.duration(seconds)

    def _forms(self, state: JobState, links: JobLinks) -> dict[str, str]:
        back, name = f"?{self._returning('then')}", "" if state.file is None else str(state.file.get("name") or "")
        has_ended, manages = state.status.is_final, links.right == "manage"
        return {
            "cancel": f"{links.form('cancel', 'cancel')}{back}" if links.right != "view" and not has_ended else "",
            "run_again": (
                f"{links.form('manage', 'run_again')}?{self._returning('back')}"
                if links.may_run_again and has_ended
                else ""
            ),
            "file": f"{self.assets}/{state.id}/file" if name else "",
            "download": self.language.say("file", name=name),
            "delete": f"{links.form('manage', 'delete')}{back}" if manages and has_ended else "",
        }

    def _returning(self, name: str) -> str:
        """Return the query with which another page leads back to this one."""
        return f"{name}={quote(self.back, safe='')}"


def _part(pattern: re.Pattern[str], page: str) -> str:
    found = pattern.search(page)
    return found[1] if found else ""


def _filled(part: str, values: Mapping[str, str]) -> str:
    return fill(part, {name: clean_text(value) for name, value in values.items()})
