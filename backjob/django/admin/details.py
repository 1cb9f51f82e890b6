"""The parts of a job's page in the admin, as HTML. Every text of a job is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _

from backjob.django.admin.states import own_language
from backjob.django.models import Job
from backjob.django.site import engine
from backjob.django.task_record import TaskRecord
from backjob.errors import InvalidRequest
from backjob.http.targets import local_path
from backjob.model import JobState, Status, clean_text
from backjob.output import from_line
from backjob.status.element import Shown, output_html
from backjob.status.words import run_line
from backjob.stores.values import load_result

_NOTHING = "-"


def element_of(job: Job) -> str:
    """Return the progress element of an unfinished job; "" for an ended one, or if there are no status routes."""
    cached: str | None = getattr(job, "_backjob_element", None)
    if cached is None:
        cached = job._backjob_element = _element(job)  # type: ignore[attr-defined]  # noqa: SLF001 - a page asks often
    return cached


def _element(job: Job) -> str:
    from backjob.django.templatetags.backjob import backjob_progress  # noqa: PLC0415 - only here

    if job.status >= Status.COMPLETED:
        return ""
    try:
        return backjob_progress(job.id, output=True)
    except (NoReverseMatch, InvalidRequest):
        return ""


def record_of(job: Job) -> TaskRecord | None:
    """Return the record of a job that runs a task of the Tasks framework."""
    return None if job.result is None else TaskRecord.of(load_result(job.result))


def preformatted(text: str) -> str:
    """Return a text as it is, with its line breaks."""
    return format_html('<pre class="backjob-text">{}</pre>', text) if text else _NOTHING


def output_of(job: Job) -> str:
    """Return the end of a job's output as it would look on a terminal, with its colours if the page loads `style_url`."""
    start, output = engine().tail(job.id)
    shown = Shown(truncated=output.truncated, tail=output.tail, language=own_language())
    text = clean_text(from_line(output.text) if start else output.text)
    if not text:
        return _NOTHING
    # The style sheet has colours only within this element, which stays empty of behaviour without its script.
    return format_html(
        '<backjob-progress class="backjob-static"><pre class="backjob-text">{}</pre></backjob-progress>',
        mark_safe(output_html(shown, text)),  # noqa: S308 - escaped there
    )


def style_url() -> str:
    """Return the URL of the progress element's style sheet, or "" if there are no status routes."""
    try:
        return local_path(reverse("backjob:status", args=["progress.css"]))
    except NoReverseMatch:
        return ""


def as_json(value: Any) -> str:
    """Return a value as readable JSON."""
    return preformatted(json.dumps(value, indent=2, ensure_ascii=False))


def result_of(state: JobState) -> str:
    """Return the result of a job, which for a task is its return value."""
    return _NOTHING if state.result is None else as_json(state.result)


def file_of(state: JobState) -> str:
    """Return the name, type and size of a job's file."""
    if state.file is None:
        return _NOTHING
    name, kind, size = (state.file.get(part) for part in ("name", "type", "size"))
    return format_html("{} ({}, {} B)", name, kind, size)


def earlier_runs_of(state: JobState) -> str:
    """Return a line for each earlier run: when it began and ended, in UTC, and why it ended."""
    lines = format_html_join("", "<li>{}</li>", ((run_line(entry, own_language()),) for entry in state.history))
    return format_html("<ol>{}</ol>", lines) if lines else _NOTHING


def arguments_of(record: TaskRecord) -> str:
    """Return the arguments of a task."""
    parts = [_argument(value) for value in record.args]
    parts += [f"{name}={_argument(value)}" for name, value in record.kwargs.items()]
    return preformatted(",\n".join(parts))


def _argument(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def errors_of(record: TaskRecord) -> str:
    """Return the traceback of each failed attempt, the last one open."""
    last = len(record.errors) - 1
    return (
        format_html_join(
            "", "{}", ((_error(entry, is_open=index == last),) for index, entry in enumerate(record.errors))
        )
        or _NOTHING
    )


def _error(entry: Mapping[str, Any], *, is_open: bool) -> SafeString:
    kind = str(entry["exception_class_path"]).removeprefix("builtins.")
    return format_html(
        '<details class="backjob-error"{}><summary>{}</summary><pre class="backjob-text">{}</pre></details>',
        SafeString(" open") if is_open else "",
        _("Run %(number)s: %(error)s") % {"number": entry.get("run", "?"), "error": kind},
        str(entry["traceback"]).rstrip(),
    )
