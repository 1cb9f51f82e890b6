"""A parser of event streams, as browsers have it (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["EventSource"]

_FINAL: Final = "end"


class EventSource:
    """Parses a stream chunk by chunk. ``events`` are (name, data, last event id)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str]] = []
        self.last_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the stream, split anywhere."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._line(line.decode("utf-8"))

    def read(self, chunks: Iterable[bytes]) -> EventSource:
        """Parse a whole stream."""
        for chunk in chunks:
            self.feed(chunk)
        return self

    def _line(self, line: str) -> None:
        if not line:
            if self._data:
                self.events.append((self._name, "\n".join(self._data), self.last_id))
            self._name, self._data = "", []
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not field:
            self.comments += 1
        elif field == "event":
            self._name = value
        elif field == "data":
            self._data.append(value)
        elif field == "id":
            self.last_id = value
        elif field == "retry":
            self.retry = int(value)

    # --- the events of a job -----------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.events]

    @property
    def text(self) -> str:
        """All output, concatenated."""
        return "".join(json.loads(data)["text"] for name, data, _ in self.events if name == "output")

    @property
    def states(self) -> list[Any]:
        """All states, the final one included."""
        return [json.loads(data) for name, data, _ in self.events if name != "output"]

    @property
    def has_ended(self) -> bool:
        return _FINAL in self.names
