"""For every test."""

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
    """Leave thousands of collected tests out of every later search for garbage, and shared with forked children."""
    gc.collect()
    gc.freeze()
