"""Start a route of your own web application in the background, by a request to itself, and watch its progress."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from backjob.errors import (
    AddressUnknown,
    BackgroundOnly,
    BackJobError,
    CommandFailed,
    ConnectionLost,
    DeliveryRefused,
    InvalidRequest,
    JobContinued,
    JobEnded,
    JobExit,
    JobFailed,
    JobNotFound,
    JobRetried,
    MissingExtra,
    NoCurrentRequest,
    NotSent,
    SignatureError,
    SlotTaken,
    StoreError,
    StoreUnavailable,
    StoreUnusable,
    TooDeep,
    TooManyJobs,
    TransportError,
    UnknownKey,
)

if TYPE_CHECKING:
    from backjob.jobs import BackJob
    from backjob.model import JobState, Output, Status

__all__ = [
    "AddressUnknown",
    "BackJob",
    "BackJobError",
    "BackgroundOnly",
    "CommandFailed",
    "ConnectionLost",
    "DeliveryRefused",
    "InvalidRequest",
    "JobContinued",
    "JobEnded",
    "JobExit",
    "JobFailed",
    "JobNotFound",
    "JobRetried",
    "JobState",
    "MissingExtra",
    "NoCurrentRequest",
    "NotSent",
    "Output",
    "SignatureError",
    "SlotTaken",
    "Status",
    "StoreError",
    "StoreUnavailable",
    "StoreUnusable",
    "TooDeep",
    "TooManyJobs",
    "TransportError",
    "UnknownKey",
]

__version__ = "0.1.0"

_MODULES = {
    "BackJob": "backjob.jobs",
    "JobState": "backjob.model",
    "Output": "backjob.model",
    "Status": "backjob.model",
}
"""Where the names are that are imported at their first use: code that needs one part of the package does not load all of it."""

if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
