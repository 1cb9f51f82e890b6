"""Server-sent events as bytes (WHATWG HTML, section 9.2.5). Sans-IO."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from backjob.model import JsonValue, Output

CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"

PREAMBLE: Final = b"retry: 2000\n\n"
"""Makes the client wait 2 s before it reconnects. As the first bytes of the body it also makes servers send the header."""

HEARTBEAT: Final = b":\n\n"
"""A comment: it keeps proxies from closing a silent connection, and fails if the client has left."""


def json_bytes(value: Mapping[str, JsonValue]) -> bytes:
    """Return JSON on one line, in ASCII: a lone surrogate in a text is escaped and never an error."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False).encode("ascii")


def event(name: str, value: Mapping[str, JsonValue]) -> bytes:
    """Return an event without an id; `numbered` adds that."""
    return b"event: %s\ndata: %s\n\n" % (name.encode("ascii"), json_bytes(value))


def numbered(offset: int, encoded: bytes) -> bytes:
    """Return an event whose id is the offset (bytes) in the output at which the client resumes."""
    return b"id: %d\n%s" % (offset, encoded)


def linked(encoded: bytes, links: Mapping[str, JsonValue]) -> bytes:
    """Return the event of a state with one client's ``links`` in its data: the rest was encoded once for all clients."""
    return encoded.removesuffix(b"}\n\n") + b', "links": %s}\n\n' % json_bytes(links)


def output_as_dict(output: Output) -> dict[str, JsonValue]:
    """Return a chunk of output, JSON-ready."""
    return {
        "text": output.text,
        "next_offset": output.next_offset,
        "truncated": output.truncated,
        "tail": output.tail,
    }


def output_event(output: Output) -> bytes:
    """Return the event for a chunk of output, with its id."""
    return numbered(output.next_offset, event("output", output_as_dict(output)))
