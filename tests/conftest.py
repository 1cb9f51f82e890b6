"""Settings for all tests."""

from __future__ import annotations

import gc

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("backjob", deadline=None, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("backjob")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collection, so that it is faster and forked children share their memory."""
    gc.collect()
    gc.freeze()
