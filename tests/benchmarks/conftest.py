"""The sites that are measured, and the table that is printed in the end.

``BACKJOB_BENCHMARK_TABLE`` names a file to write the table to as well; ``BACKJOB_BENCHMARK_ENDED`` replaces the number
of ended jobs, where a million take too long to make.
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

_SERVED = [("sqlite", "waitress"), ("sqlite", "gunicorn-threads")] + [
    (store, "waitress") for store in STORES if store != "sqlite"
]
"""Which store is measured by which servers: the store does not care which one it is."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """Where each benchmark notes what it found."""
    return pytestconfig.stash[_TABLE]


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest) -> StoreKind:
    """One kind of store after the other."""
    return STORES[request.param]


@pytest.fixture(scope="module", params=_SERVED, ids=" ".join)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, table: Table) -> Iterator[Site]:
    """An empty store, by one server after the other."""
    store, server = request.param
    with open_site(STORES[store], server, tmp_path_factory.mktemp(server)) as opened:
        table.versions.add(opened.raw.version)
        yield opened


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """The name of the server under `site`."""
    return str(request.node.callspec.params["site"][1])


@pytest.fixture(scope="session")
def empty_site(store: StoreKind, tmp_path_factory: pytest.TempPathFactory, table: Table) -> Iterator[Site]:
    """An empty store, for comparison with a full one."""
    with open_site(store, "waitress", tmp_path_factory.mktemp("empty")) as opened:
        table.versions.add(opened.raw.version)
        yield opened


@pytest.fixture(scope="session")
def ended(store: StoreKind) -> int:
    """How many ended jobs stand in a full store."""
    return int(os.environ.get(_ENDED, "1000000"))


@pytest.fixture(scope="session")
def full_site(store: StoreKind, ended: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A store with many ended jobs."""
    with open_site(store, "waitress", tmp_path_factory.mktemp("full")) as opened:
        opened.start()
        opened.end_of_job()
        opened.rest()
        by_hand = open_raw(opened.store)
        by_hand.fill(ended)
        by_hand.close()
        listed = opened.jobs.find(limit=_LISTED)
        assert len({job.id for job in listed if opened.jobs.exists(job.id)}) == min(ended, _LISTED), "they are no jobs"
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    table = config.stash[_TABLE]
    if not table.figures:
        return
    text = table.text()
    terminalreporter.section("costs beside the same work done by hand")
    terminalreporter.write_line(text)
    if path := os.environ.get("BACKJOB_BENCHMARK_TABLE"):
        Path(path).write_text(f"{text}\n", encoding="utf-8")
