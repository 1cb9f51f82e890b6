"""The tasks, and how a web application uses them: Celery, with progress as a state of its own."""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import os
from typing import Any, Final

from celery import Celery

from tests.benchmarks.notes import END, FIRST_LINE, NotesWriter

_NAME: Final = os.environ["PEER_NAME"]
_notes: Final = NotesWriter(os.environ["PEER_NOTES"])

app: Final[Any] = Celery("peers", broker=os.environ["PEER_BROKER"], backend=os.environ["PEER_STORE"])
app.conf.update(
    task_default_queue=_NAME,
    control_exchange=_NAME,
    event_exchange=f"{_NAME}.events",
    broker_connection_retry_on_startup=True,
)
if app.conf.broker_url.startswith("amqp"):
    # As with every other contender, a task that was started is safe when the call returns.
    app.conf.broker_transport_options = {"confirm_publish": True}


@app.task
def nothing() -> None:
    _notes.note(FIRST_LINE)


@app.task(bind=True)
def reports(task: Any, count: int) -> None:
    _notes.note(FIRST_LINE)
    for number in range(count):
        task.update_state(state="PROGRESS", meta={"progress": number})
    _notes.note(END)


def start() -> str:
    return str(nothing.delay().id)


def start_reports(count: int) -> None:
    reports.delay(count)


def status(task_id: str) -> object:
    # A new object for each page, and what it read once is not read again.
    result = app.AsyncResult(task_id)
    return result.state, result.info


def close() -> None:
    """Delete the queue on a shared broker."""
    with app.connection_for_write() as connection:
        app.amqp.queues[_NAME](connection.default_channel).delete()
