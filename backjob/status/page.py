"""The status page and the fragment: a job's state as escaped HTML that works without JavaScript."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from html import escape
from importlib.resources import files
from math import ceil
from typing import Final

from attrs import frozen

from backjob.model import JobState, JsonValue, Status, clean_text
from backjob.output import from_line, html_of, plain
from backjob.status.words import EARLIER_RUNS, attempt_note, run_line, utc, word_of

_LONGEST_HEADLINE: Final = 500
_UNITS: Final = (("day", 86400), ("hr", 3600), ("min", 60), ("sec", 1))
_SHORTEST_ESTIMATE: Final = 2.0  # s
_RUNS: Final = "<!-- runs -->"
_OUTPUT: Final = "<!-- output -->"
_END_OF_TEXT: Final = 5000  # characters, of which a long status text shows only the last line

_SECTION: Final = re.compile(r"\{\{#(\w+)\}\}(.*?)\{\{/\1\}\}", re.DOTALL)
_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")

# Browsers strip these characters before they parse a URL (https://url.spec.whatwg.org/#concept-basic-url-parser), and
# remove tabs and line breaks inside it, so "java\nscript:" would be a scheme.
_STRIPPED: Final = "".join(map(chr, range(0x21)))
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE | re.ASCII)

_ERROR: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Background job</title>
<link rel="icon" href="data:,">
<h1>Background job</h1>
<p>{{text}}</p>
"""


@frozen
class Links:
    """The URL paths that the page links to.

    ``assets`` is the prefix of progress.js and progress.css. ``job`` is the job's URL, with the visitor's token if any.
    ``cancel`` is the target of the form to cancel, or None if this visitor may not cancel. ``stream``: use events.
    """

    assets: str
    job: str
    cancel: str | None = None
    stream: bool = False


@cache
def asset(name: str) -> bytes:
    """Return a static file of the package."""
    return files("backjob.status").joinpath("static", name).read_bytes()


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return the template with each ``{{name}}`` replaced by its escaped value.

    ``{{#name}}…{{/name}}`` is kept only if the value is not empty. Values are not parsed as templates.
    """
    kept = _SECTION.sub(lambda found: found[2] if values[found[1]] else "", template)
    return _PLACE.sub(lambda found: escape(values[found[1]]), kept)


def headline(text: str, output: str) -> str:
    """Return the status text beside the bar: all of it, or its last line if it is long or repeats the output below.

    The status text of a job that sets none is the end of its output.
    """
    text = text.strip()
    if len(text) > _LONGEST_HEADLINE or text in output:
        return text.rpartition("\n")[2][:_LONGEST_HEADLINE]
    return text


def result_link(result: JsonValue) -> str | None:
    """Return the ``href`` of a result if it is safe to follow (http, https or relative), otherwise None."""
    href = result.get("href") if isinstance(result, Mapping) else None
    if not isinstance(href, str):
        return None
    href = href.strip(_STRIPPED)
    if not href or _CONTROL.search(href):
        return None
    scheme = _SCHEME.match(href)
    return href if scheme is None or scheme[1].lower() in ("http", "https") else None


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``2 hr 5 min``. The element uses the page's language."""
    rest = int(seconds)
    largest = next((index for index, (_, size) in enumerate(_UNITS) if rest >= size), len(_UNITS) - 1)
    shown: list[str] = []
    for unit, size in _UNITS[largest : largest + 2]:
        count, rest = divmod(rest, size)
        if count or not shown:
            shown.append(f"{count} {unit}{'s' if unit == 'day' and count > 1 else ''}")
    return " ".join(shown)


def render(state: JobState, output: str, *, more: bool, truncated: bool, links: Links) -> bytes:
    """Return the page in UTF-8. ``output`` is the end of the job's output; ``more``: there is output before it."""
    output = from_line(output) if more else output
    values = _values(state, output, more=more, truncated=truncated) | {
        "title": state.scope or "Background job",
        "refresh": "" if state.status.is_final else "yes",
        "assets": links.assets,
        "job": links.job,
        "stream": "yes" if links.stream else "",
        "cancel": "" if state.status.is_final or links.cancel is None else links.cancel,
    }
    template = _template("page.html").replace("{{>progress}}", _template("progress.html").strip())
    return _completed(_filled(template, values), state, output)


def render_fragment(state: JobState, output: str, *, more: bool, truncated: bool) -> bytes:
    """Return HTML in UTF-8 for another page: the element as without JavaScript, and without ``src``."""
    output = from_line(output) if more else output
    values = _values(state, output, more=more, truncated=truncated) | {"job": "", "stream": "", "cancel": ""}
    return _completed(_filled(_template("progress.html"), values), state, output)


def render_error(text: str) -> bytes:
    """Return a page with one sentence, in UTF-8. It loads nothing, so it also works while jobs are not configured."""
    return fill(_ERROR, {"text": text[:1].upper() + text[1:]}).encode("utf-8")


def _values(state: JobState, output: str, *, more: bool, truncated: bool) -> dict[str, str]:
    word = word_of(state.status, state.attempt)
    text = headline(plain(clean_text(state.status_text[-_END_OF_TEXT:])), plain(output))
    suffix = "" if text.lower() in ("", word.lower()) else f": {text}"
    known = state.progress > 0 or state.status.is_final
    return {
        "name": state.status.name.lower(),
        "word": word,
        "text": "" if state.status.is_final else suffix,
        "end": suffix if state.status.is_final else "",
        "progress": str(state.progress) if known else "",
        "percent": f"{state.progress}%" if known else "",
        "unknown": "" if known else "yes",
        "time": _time(state),
        "attempt": attempt_note(state),
        "history": EARLIER_RUNS if state.history else "",
        "output": "yes" if output else "",
        "more": "yes" if more else "",
        "truncated": "yes" if truncated else "",
        "result": result_link(state.result) or "",
    }


def _time(state: JobState) -> str:
    """Return the time from the job's due time to its end or last update, with an estimate of the rest."""
    elapsed = ((state.end_time or state.updated_time) - state.start_time).total_seconds()
    if state.waiting_for == "due":
        return f"starts at {utc(state.start_time)} UTC"
    if elapsed < 0 or state.status is Status.STARTED:
        return ""
    if state.status.is_final or not 0 < state.progress < 100 or elapsed < _SHORTEST_ESTIMATE:
        return duration(elapsed)
    left = elapsed / state.progress * (100 - state.progress)
    step = 5 if left < 60 else 60  # s; a finer estimate would be false precision
    return f"{duration(elapsed)} · about {duration(ceil(left / step) * step)} left"


def _completed(page: str, state: JobState, output: str) -> bytes:
    """Return the page in UTF-8 with the list of earlier runs and the output. No escaped value contains their places."""
    runs = "".join(f"<li>{escape(clean_text(run_line(entry)))}</li>\n" for entry in state.history)
    shown = html_of(clean_text(output))
    return page.replace(_RUNS, runs).replace(_OUTPUT, shown).encode("utf-8")


def _template(name: str) -> str:
    return asset(name).decode("utf-8")


def _filled(template: str, values: Mapping[str, str]) -> str:
    return fill(template, {name: clean_text(value) for name, value in values.items()})
