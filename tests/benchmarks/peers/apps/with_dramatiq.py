"""The tasks, and how a web application uses them: Dramatiq with results. It has no progress."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import os
from typing import Any, Final

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend
from dramatiq.results.errors import ResultMissing

from tests.benchmarks.notes import FIRST_LINE, NotesWriter

_notes: Final = NotesWriter(os.environ["PEER_NOTES"])
_url: Final = os.environ["PEER_STORE"]
_results: Final[Any] = RedisBackend(url=_url)
_broker: Final[Any] = RedisBroker(url=_url, namespace=os.environ["PEER_NAME"])
_broker.add_middleware(Results(backend=_results))
dramatiq.set_broker(_broker)


@dramatiq.actor(store_results=True)
def nothing() -> bool:
    _notes.note(FIRST_LINE)
    return True


def start() -> str:
    return str(nothing.send().message_id)


def status(message_id: str) -> object:
    message = nothing.message().copy(message_id=message_id)
    try:
        return _results.get_result(message)
    except ResultMissing:
        return None
