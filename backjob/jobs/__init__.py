"""The public API: `BackJob`, which an application creates once."""

from backjob.jobs.engine import Engine
from backjob.jobs.facade import BackJob, application_of, engine_of, set_up_for_command
from backjob.jobs.lazy import LazyEngine, check_without_engine
from backjob.jobs.options import Options
from backjob.jobs.storing import Merge, StartOptions, check_options

__all__ = [
    "BackJob",
    "Engine",
    "LazyEngine",
    "Merge",
    "Options",
    "StartOptions",
    "application_of",
    "check_options",
    "check_without_engine",
    "engine_of",
    "set_up_for_command",
]
