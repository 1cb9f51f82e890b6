"""The progress element with a job's state in it: escaped HTML that also works before the script, or without it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from math import ceil
from typing import Final

from attrs import frozen

from backjob.model import JobState, JsonValue, Status, clean_text
from backjob.output import from_line, html_of, plain
from backjob.status.languages import ENGLISH, Language
from backjob.status.templates import attributes, fill, template
from backjob.status.words import attempt_note, run_line, text_of_state, utc, waiting_note, word_of

_LONGEST_HEADLINE: Final = 500
_SHORTEST_ESTIMATE: Final = 2.0  # s
_ATTRIBUTES: Final = "<!-- attributes -->"
_RUNS: Final = "<!-- runs -->"
_OUTPUT: Final = "<!-- output -->"
_END_OF_TEXT: Final = 5000  # characters, of which a long status text shows only the last line

# Browsers strip these characters before they parse a URL (https://url.spec.whatwg.org/#concept-basic-url-parser), and
# remove tabs and line breaks inside it, so "java\nscript:" would be a scheme.
_STRIPPED: Final = "".join(map(chr, range(0x21)))
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE | re.ASCII)


@frozen(eq=False, repr=False)
class Shown:
    """What the element shows besides the state.

    ``output`` is the end of the job's output; ``more``: there is output before it; ``truncated``: a part after it is missing,
    and ``tail`` is what follows that part.
    ``file``, ``show``, ``cancel`` and ``run_again`` are URLs of links and forms, or "": those of the file, of the job's page,
    and of what this visitor may do. ``label`` is the bar's name for screen readers, if it is not the usual one.
    """

    output: str = ""
    more: bool = False
    truncated: bool = False
    tail: str = ""
    file: str = ""
    show: str = ""
    cancel: str = ""
    run_again: str = ""
    label: str = ""
    language: Language = ENGLISH


def element_markup(state: JobState, shown: Shown, given: Mapping[str, str | None]) -> str:
    """Return the element as HTML, with these attributes and ``data-status``. A value of None leaves an attribute out."""
    language = shown.language
    output = clean_text(from_line(shown.output) if shown.more else shown.output)
    values = {name: clean_text(value) for name, value in _values(state, shown, plain(output)).items()}
    markup = fill(template("progress.html").strip(), values)
    runs = "".join(f"<li>{escape(clean_text(run_line(entry, language)))}</li>\n" for entry in state.history)
    marked = attributes({**given, "data-status": state.status.name.lower()})
    # No escaped value contains these places.
    return markup.replace(_RUNS, runs).replace(_ATTRIBUTES, marked).replace(_OUTPUT, output_html(shown, output))


def output_html(shown: Shown, output: str) -> str:
    """Return output as HTML for a ``<pre>``, with a marked gap before its tail."""
    lines = html_of(output)
    if not shown.truncated:
        return lines
    note = f'<span part="note">{escape(shown.language.say("truncated"))}</span>'
    return lines + note + html_of(clean_text(from_line(shown.tail)))


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


def shown_text(state: JobState, language: Language) -> str:
    """Return the status text, or why the job waits, or "" if that only repeats the word for the state."""
    return said_besides(state, "", language) or waiting_note(state, language)


def said_besides(state: JobState, output: str, language: Language) -> str:
    """Return the status text as one line, or "" if it only repeats the word for the state."""
    text = headline(plain(clean_text(text_of_state(state, language)[-_END_OF_TEXT:])), output)
    words = word_of(state.status, state.attempt, language), word_of(state.status, state.attempt)
    return "" if text.lower() in [word.lower() for word in words] else text


def _values(state: JobState, shown: Shown, output: str) -> dict[str, str]:
    language = shown.language
    word = word_of(state.status, state.attempt, language)
    text = said_besides(state, output, language)
    known = state.progress > 0 or state.status.is_final
    name = "" if state.file is None else str(state.file.get("name") or "")
    return {
        "word": word,
        "separator": language.say("separator"),
        "text": "" if state.status.is_final else text,
        "end": text if state.status.is_final else "",
        "label": shown.label or language.say("label"),
        "progress": str(state.progress) if known else "",
        "percent": language.say("percent", number=state.progress) if known else "",
        "unknown": "" if known else "yes",
        "time": _time(state, language),
        "attempt": attempt_note(state, language),
        "result": result_link(state.result) or "",
        "open": language.say("result"),
        "file": shown.file if name else "",
        "download": language.say("file", name=name),
        "show": shown.show,
        "show_word": language.say("show"),
        "run_again": shown.run_again if state.status.is_final else "",
        "run_again_word": language.say("run_again"),
        "cancel": "" if state.status.is_final else shown.cancel,
        "cancel_word": language.say("cancel"),
        "history": language.say("history") if state.history else "",
        "output": "yes" if shown.output or shown.truncated else "",
        "output_word": language.say("output"),
        "more": language.say("more") if shown.more else "",
    }


def _time(state: JobState, language: Language) -> str:
    """Return the time from the job's due time to its end or last update, with an estimate of the rest."""
    elapsed = ((state.end_time or state.updated_time) - state.start_time).total_seconds()
    if state.waiting_for == "due":
        return language.say("starts_at", time=f"{utc(state.start_time)} UTC")
    if elapsed < 0 or state.status is Status.STARTED:
        return ""
    shown = language.say("elapsed", time=language.duration(elapsed))
    if state.status.is_final or not 0 < state.progress < 100 or elapsed < _SHORTEST_ESTIMATE:
        return shown
    left = elapsed / state.progress * (100 - state.progress)
    step = 5 if left < 60 else 60  # s; a finer estimate would be false precision
    rest = language.duration(ceil(left / step) * step)
    return f"{shown} · {language.say('left', time=rest)}"
