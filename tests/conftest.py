"""Settings for all tests."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

for name, examples in (("ci", 100), ("quick", 25)):
    settings.register_profile(name, deadline=None, max_examples=examples, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("ci" if os.environ.get("CI") else "quick")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collection, so that it is faster and forked children share their memory."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers() -> int:
    """Run one process more than there are cores: tests often wait for a server."""
    return (os.cpu_count() or 1) + 1
