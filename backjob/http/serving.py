"""The request that this thread or task is serving, as the middleware that received it shows it to the core."""

from __future__ import annotations

import codecs
import re
from contextvars import ContextVar
from typing import Final, Protocol

from backjob.model import Caller, Request

__all__ = ["FORWARDED_FIELDS", "Serving", "serving", "text_decoder"]

FORWARDED_FIELDS: Final = (
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Proto",
    "X-Real-IP",
)
"""What proxies add to a request to tell of its client; a worker request shows those of its starting request again."""

_CHARSET: Final = re.compile(r"charset=\"?([A-Za-z0-9._:-]+)", re.IGNORECASE)


class Serving(Protocol):
    """An adapter's view of the request being served. Translated only when somebody asks: most requests start no job."""

    @property
    def request(self) -> Request:
        """Method, target and headers; the body stays where it is."""
        ...

    @property
    def caller(self) -> Caller:
        """What the server saw around it."""
        ...

    @property
    def origin(self) -> str:
        """``scheme://host`` as the application's framework builds its URLs with; the host is as the client said it."""
        caller = self.caller
        return f"{caller.scheme}://{caller.host}"

    @property
    def mount(self) -> str:
        """The path under which the application is mounted: SCRIPT_NAME or root_path, percent-encoded."""
        ...


serving: ContextVar[Serving | None] = ContextVar("backjob_serving", default=None)


def text_decoder(status: int, content_type: str, *, has_length: bool) -> codecs.IncrementalDecoder | None:
    """What decodes an action's response body into output, or None if that is none: of a streamed text only, and a 2xx.

    A body with a Content-Length was made to be shown as a page; one without comes piece by piece, and tells progress.
    """
    if has_length or not 200 <= status < 300 or not content_type.lower().startswith("text/"):
        return None
    found = _CHARSET.search(content_type)
    try:
        return codecs.getincrementaldecoder(found.group(1) if found else "utf-8")("replace")
    except LookupError:
        return codecs.getincrementaldecoder("utf-8")("replace")
