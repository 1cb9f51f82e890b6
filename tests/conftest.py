"""For every test."""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("backjob", deadline=None, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("backjob")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave thousands of collected tests out of every later search for garbage, and shared with forked children."""
    gc.collect()
    gc.freeze()
