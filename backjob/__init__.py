"""Start a route of your own web application in the background, by a request to itself, and watch its progress."""

from __future__ import annotations

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
