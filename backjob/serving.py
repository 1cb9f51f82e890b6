"""The request that this thread or task is serving, as the middleware that received it shows it to the core."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Final, Protocol

from backjob.model import Caller, Request

__all__ = ["FORWARDED_FIELDS", "Serving", "serving"]

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
    def mount(self) -> str:
        """The path under which the application is mounted: SCRIPT_NAME or root_path, percent-encoded."""
        ...


serving: ContextVar[Serving | None] = ContextVar("backjob_serving", default=None)
