"""Settings for all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

_FAULTS: Final = Path(__file__).parent / "faults"

for name, examples in (("ci", 100), ("quick", 25)):
    settings.register_profile(name, deadline=None, max_examples=examples, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("ci" if os.environ.get("CI") else "quick")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Exclude the collected tests from garbage collection, so that it is faster and forked children share their memory."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest tests first, so that at the end no process works alone."""
    items.sort(key=lambda item: not item.path.is_relative_to(_FAULTS))


def pytest_xdist_auto_num_workers() -> int:
    """Run one process more than there are cores: tests often wait for a server."""
    return (os.cpu_count() or 1) + 1
