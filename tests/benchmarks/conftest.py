"""The sites to measure, and the table printed at the end.

``BACKJOB_BENCHMARK_FIGURES`` names a file for the figures, of which `tests.benchmarks.table` prints one table. ``BACKJOB_BENCHMARK_ENDED`` is the number of ended jobs, for
machines where a million take too long to create.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.kinds import STORES, StoreKind, open_raw
from tests.benchmarks.site import Site, open_site
from tests.benchmarks.table import Table

_TABLE = pytest.StashKey[Table]()
_ENDED = "BACKJOB_BENCHMARK_ENDED"
_LISTED = 200


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """The table to which each benchmark adds its figures."""
    return pytestconfig.stash[_TABLE]


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest) -> StoreKind:
    """Each kind of store."""
    return STORES[request.param]


@pytest.fixture(scope="session")
def empty_site(store: StoreKind, tmp_path_factory: pytest.TempPathFactory, table: Table) -> Iterator[Site]:
    """A site with an empty store, to compare with a full one."""
    with open_site(store, "waitress", tmp_path_factory.mktemp("empty")) as opened:
        table.versions.add(opened.raw.version)
        yield opened


@pytest.fixture(scope="session")
def ended(store: StoreKind) -> int:
    """The number of ended jobs in a full store."""
    return int(os.environ.get(_ENDED, "1000000"))


@pytest.fixture(scope="session")
def full_site(store: StoreKind, ended: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site with many ended jobs."""
    with open_site(store, "waitress", tmp_path_factory.mktemp("full")) as opened:
        opened.start()
        opened.end_of_job()
        opened.drain()
        raw = open_raw(opened.store)
        raw.fill(ended)
        raw.close()
        listed = opened.jobs.find(limit=_LISTED)
        assert len({job.id for job in listed if opened.jobs.exists(job.id)}) == min(ended, _LISTED), (
            "the copied rows are not valid jobs"
        )
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash[_TABLE]
    if not table.figures:
        return
    text = table.text()
    terminalreporter.section("costs, compared with the same work without backjob")
    terminalreporter.write_line(text)
    if path := os.environ.get("BACKJOB_BENCHMARK_FIGURES"):
        table.write(Path(path))
