"""The public API: `BackJob`, which an application creates once."""

from backjob.jobs.engine import Engine
from backjob.jobs.facade import BackJob, Merge, StartOptions, engine_of
from backjob.jobs.options import Options

__all__ = ["BackJob", "Engine", "Merge", "Options", "StartOptions", "engine_of"]
