"""gunicorn's configuration for a site that drains its workers: ``gunicorn -c``. ``SITE`` is the module with its jobs."""

from __future__ import annotations

import os
from importlib import import_module


def post_worker_init(_worker: object) -> None:
    """Hand long work over when this worker gets a signal to stop."""
    import_module(os.environ["SITE"]).jobs.drain_on_signals()
