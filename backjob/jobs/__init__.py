"""The public API: `BackJob`, which an application creates once."""

from backjob.jobs.facade import BackJob, Merge, StartOptions

__all__ = ["BackJob", "Merge", "StartOptions"]
