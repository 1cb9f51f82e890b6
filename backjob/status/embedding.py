"""The progress element for an application's own template: with the job's state in it, so that it works without the script."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Final, Protocol
from urllib.parse import urlencode

from attrs import evolve, frozen

from backjob.errors import BackJobError
from backjob.model import JobState
from backjob.process import in_event_loop
from backjob.status.element import Shown, element_markup, shown_text
from backjob.status.exchange import local_page
from backjob.status.hiding import without_errors
from backjob.status.languages import language
from backjob.status.templates import attributes, fill
from backjob.status.words import word_of

__all__ = ["ElementOptions", "Markup", "element", "text_of"]

_log: Final = logging.getLogger("backjob")

_FILES: Final = (
    '<link rel="stylesheet" href="{{assets}}/progress.css"><script src="{{assets}}/progress.js" defer></script>'
)
_WITHOUT_STATE: Final = '<a part="show" href="{{show}}">{{word}}</a></backjob-progress>'


class Markup(str):
    """HTML that templates insert as it is: Jinja, Django and MarkupSafe call `__html__`."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


@frozen(kw_only=True, eq=False, repr=False)
class ElementOptions:
    """The attributes of the element; see `BackJob.element`."""

    output: bool = False
    cancel: bool = False
    stream: bool = False
    label: str = ""
    on_done_href: str | None = None
    texts: Mapping[str, str] | None = None
    lang: str | None = None


class EmbeddedJobs(Protocol):
    """The operations of the engine that the element needs."""

    @property
    def show_errors(self) -> bool: ...

    def status(self, job_id: str) -> JobState: ...

    def status_url(self, job_id: str, cancel: bool = False) -> str: ...

    def page_path(self) -> str | None: ...

    def has_streams(self) -> bool: ...


def element(jobs: EmbeddedJobs, job_id: str, options: ElementOptions, *, assets: str | None = None) -> Markup:
    """Return the element with its script and style. ``assets`` is their prefix, if it is not that of the job's URL.

    It contains the state and a link to the job's page. It contains only the link if the state can't be read now, or if reading
    it would block an event loop: a page does not fail or wait because of its progress bar.
    """
    source = jobs.status_url(job_id, options.cancel)
    spoken = language(options.lang or "")
    given: dict[str, str | None] = {
        "src": source,
        "output": "" if options.output else None,
        "cancel": "" if options.cancel else None,
        "stream": "" if options.stream and jobs.has_streams() else None,
        "label": options.label or None,
        "on-done-href": options.on_done_href,
        "texts": json.dumps(dict(options.texts), default=str) if options.texts else None,
        "lang": options.lang or None,
    }
    files = fill(_FILES, {"assets": source.rpartition("/")[0] if assets is None else assets})
    state, page = _state_of(jobs, job_id), local_page(jobs.page_path())
    back = f"?{urlencode({'back': page})}" if page else ""
    if state is None:
        link = fill(_WITHOUT_STATE, {"show": f"{source}{back}", "word": spoken.say("show")})
        return Markup(f"{files}<backjob-progress{attributes(given)}>{link}")
    shown = Shown(
        file=f"{source}/file",
        show=f"{source}{back}",
        label=options.label,
        language=spoken,
    )
    # Only phrasing content: forms and lists would end a paragraph or a form of the application around the element, and the
    # parser would leave the rest behind it. The job's page has the buttons and the earlier runs.
    return Markup(files + element_markup(evolve(state, history=()), shown, given))


def text_of(jobs: EmbeddedJobs, state: JobState, lang: str) -> str:
    """Return what visitors read about a job, in this language: its text, why it waits, or the word for its status."""
    shown = state if jobs.show_errors else without_errors(state)
    spoken = language(lang)
    return shown_text(shown, spoken) or word_of(shown.status, shown.attempt, spoken)


def _state_of(jobs: EmbeddedJobs, job_id: str) -> JobState | None:
    if in_event_loop():
        return None
    try:
        state = jobs.status(job_id)
    except BackJobError as error:
        _log.info("the progress element of a page has no state: %s", error)
        return None
    return state if jobs.show_errors else without_errors(state)
