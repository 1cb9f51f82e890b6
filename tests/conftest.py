"""Settings for all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.order import arranged
from tests.selection import excluded_markers, is_excluded

for name, examples in (("ci", 100), ("quick", 25)):
    settings.register_profile(name, deadline=None, max_examples=examples, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("ci" if os.environ.get("CI") else "quick")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage meanwhile, nor the collected tests later: that is faster, and forked children share their memory."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> list[pytest.Item] | None:
    """Do not collect what `-m` excludes: most tests have such markers, and each process would collect all of them."""
    return [] if name.lower().startswith("test") and is_excluded(collector, obj) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Arrange the tests of this run, after all plugins have chosen and sorted them."""
    items[:] = arranged(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run one process more than there are cores; twice as many with slow tests, which often wait for a server or a browser."""
    cores = os.cpu_count() or 1
    return cores + 1 if "slow" in excluded_markers(config) else 2 * cores
