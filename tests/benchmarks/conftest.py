"""The sites that are measured, and the table that is printed in the end.

``BACKJOB_BENCHMARK_TABLE`` names a file to write the table to as well; ``BACKJOB_BENCHMARK_ENDED`` replaces the number
of ended jobs, where a million take too long to make.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.benchmarks.raw import fill
from tests.benchmarks.site import Site, open_site
from tests.benchmarks.table import Table

_TABLE = pytest.StashKey[Table]()
_ENDED = "BACKJOB_BENCHMARK_ENDED"


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TABLE] = Table()


@pytest.fixture(scope="session")
def table(pytestconfig: pytest.Config) -> Table:
    """Where each benchmark notes what it found."""
    return pytestconfig.stash[_TABLE]


@pytest.fixture(scope="module", params=["waitress", "gunicorn-threads"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An empty store, by one server after the other."""
    directory = tmp_path_factory.mktemp(request.param)
    with open_site(request.param, directory, directory / "jobs.db") as opened:
        yield opened


@pytest.fixture
def server(request: pytest.FixtureRequest) -> str:
    """The name of the server under `site`."""
    return str(request.node.callspec.params["site"])


@pytest.fixture(scope="session")
def ended() -> int:
    """How many ended jobs stand in a full store."""
    return int(os.environ.get(_ENDED, "1000000"))


@pytest.fixture(scope="session")
def empty_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An empty store, for comparison with a full one."""
    directory = tmp_path_factory.mktemp("empty")
    with open_site("waitress", directory, directory / "jobs.db") as opened:
        yield opened


@pytest.fixture(scope="session")
def full_site(ended: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A store with many ended jobs."""
    directory: Path = tmp_path_factory.mktemp("full")
    with open_site("waitress", directory, directory / "jobs.db") as opened:
        opened.start()
        opened.end_of_job()
        fill(opened.store, ended)
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
