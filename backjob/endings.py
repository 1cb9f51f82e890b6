"""Writes a run's conclusion or a report, in a plainer form if the store refuses its text or result; and logs failures.

A table in MariaDB's utf8mb3 or latin1 refuses emoji, and a server refuses data that exceeds its packet size. The log has
the refused text.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final, TypeVar

from attrs import evolve

from backjob.errors import StoreError
from backjob.lifecycle import Conclusion, End, Requeue, concluded, ended, failed
from backjob.model import Expect, Job, Report, Status, clean_text
from backjob.protocols import Store

_REFUSED: Final = "(the store refused this text; it is in the log)"
_RESULT_REFUSED: Final = "(the store refused the result; see the log)"
_BEYOND_BMP: Final = re.compile(r"[\U00010000-\U0010ffff]")
_CURSOR_REFUSED: Final = "the store refused the cursor, so the job can't continue; see the log"
_LONGEST_LOGGED: Final = 10_000
_LONGEST_CAUSE: Final = 500
_LARGE: Final = 1 << 16

_log = logging.getLogger("backjob")

_Form = TypeVar("_Form")
_Answer = TypeVar("_Answer")


def write_end(store: Store, job: Job, expect: Expect, end: End) -> Job | None:
    """Write an end as `Store.change` does, with a plainer text or no result if necessary. Raises `StoreError`.

    ``job`` is as it was read before.
    """
    return _written(lambda form: store.change(job.id, expect, ended(form, job)), _ends(end), job.id, "end", end.text)


def write_conclusion(store: Store, job: Job, expect: Expect, conclusion: Conclusion, at: datetime) -> Job | None:
    """Write what follows a run of the job that ended ``at`` (UTC), as `Store.change` does. Raises `StoreError`.

    ``job`` is as it was read before. If the store refuses the cursor of a requeue, the job ends FAILED.
    """
    if isinstance(conclusion, End):
        return write_end(store, job, expect, conclusion)
    return _written(
        lambda form: store.change(job.id, expect, concluded(job, form, at)),
        _requeues(conclusion), job.id, "requeue", conclusion.reason,
    )  # fmt: skip


def log_conclusion(job: Job, conclusion: Conclusion, error: BaseException | None = None) -> None:
    """Log a failed run that is retried as a warning, and a final failure as an error; nothing else.

    ``job`` is as it was read before. The record has the fields of `log_fields`. The traceback of ``error`` is logged too.
    """
    if isinstance(conclusion, Requeue):
        if not conclusion.is_retry:
            return
        level, cause = logging.WARNING, conclusion.reason
        outcome = f"failed and is retried in {conclusion.delay:.3g} s"
    elif conclusion.status is Status.FAILED:
        level, cause = logging.ERROR, conclusion.text or job.status_text or "failed"
        outcome = "failed"
    else:
        return
    cause = " ".join(clean_text(cause[:_LONGEST_CAUSE]).split())  # in one line
    extra = log_fields(job, cause)
    _log.log(
        level, "job %s (%s, run %d) %s: %s", job.id, extra["path"], job.run, outcome, cause, extra=extra, exc_info=error
    )


def log_fields(job: Job, cause: str) -> dict[str, object]:
    """Return the fields of a record about a run: ``job_id``, ``path`` (without the query), ``run`` and ``cause``.

    With ``route`` and ``attempt`` they are those of `backjob.logging.job_fields` too.
    """
    path = job.path if job.request is None else job.request.path
    route = f"{job.method} {path or ''}"
    return {"job_id": job.id, "path": path, "run": job.run, "cause": cause, "route": route, "attempt": job.attempt}


def write_report(
    store: Store, job_id: str, token: str, report: Report, refused: Callable[[], object] = lambda: None
) -> bool:
    """Write a report as `Store.report` does, with a plainer text or none if necessary. Raises `StoreError`.

    ``refused`` is called if the store refuses the report as it is.
    """
    try:
        return store.report(job_id, token, report)
    except StoreError:
        raise
    except Exception:
        refused()
    # This tries the report itself again, and logs why it is refused.
    return _written(lambda form: store.report(job_id, token, form), _reports(report), job_id, "report", report.text)


def is_large(end: End) -> bool:
    """Return whether the end has a result of 64 KiB or more."""
    return end.result is not None and len(json.dumps(end.result)) >= _LARGE


def without_result(end: End) -> End:
    """Return the end with a text in place of its result."""
    return evolve(end, text=_RESULT_REFUSED if end.text is None else f"{end.text} {_RESULT_REFUSED}", result=None)


def _written(
    write: Callable[[_Form], _Answer], forms: Iterable[_Form], job_id: str, what: str, text: str | None
) -> _Answer:
    refusal: Exception | None = None
    for form in forms:
        try:
            return write(form)
        except StoreError:
            raise
        except Exception as error:
            if refusal is None:
                shown = None if text is None else text[:_LONGEST_LOGGED]
                _log.error(
                    "job %s: the store refuses its %s (%s: %s), so a plainer one is written; its text: %r",
                    job_id, what, type(error).__name__, error, shown,
                )  # fmt: skip
            refusal = error
    raise refusal if refusal is not None else ValueError("there is no form to write")


def _texts(text: str) -> Iterator[str]:
    """Yield ever plainer forms of a text."""
    yield _BEYOND_BMP.sub(lambda found: f"\\U{ord(found[0]):08x}", text)
    yield text.encode("ascii", "backslashreplace").decode()
    yield _REFUSED


def _ends(end: End) -> Iterator[End]:
    yield end
    if end.text is not None:
        yield from (evolve(end, text=text) for text in _texts(end.text))
    if end.result is not None:
        plain = without_result(end)
        yield plain
        yield evolve(plain, text=_RESULT_REFUSED)
    yield evolve(end, text=None, result=None)


def _requeues(requeue: Requeue) -> Iterator[Conclusion]:
    yield requeue
    yield from (evolve(requeue, reason=text) for text in _texts(requeue.reason))
    yield failed(_CURSOR_REFUSED)


def _reports(report: Report) -> Iterator[Report]:
    yield report
    if report.text is not None:
        yield from (evolve(report, text=text) for text in _texts(report.text))
    yield evolve(report, text=None)
