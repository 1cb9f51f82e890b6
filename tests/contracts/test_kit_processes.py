"""The published suite fails for each of the stores that break a promise to processes that take turns, and names it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from backjob.stores.sqlite import SQLiteStore
from backjob.testing._stores.children import Children
from tests.contracts import broken_files
from tests.contracts.broken_files import FAULTS
from tests.contracts.broken_promises import broken_promise_of_processes


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Children]:
    children = Children(tmp_path_factory.mktemp("processes"), patience=60)
    yield children
    children.end()


@pytest.mark.slow
@pytest.mark.parametrize("store", FAULTS, ids=lambda store: store.__name__)
def test_a_fault_between_processes_is_named(store: type[SQLiteStore], children: Children, tmp_path: Path) -> None:
    test, promise = FAULTS[store]
    address = json.dumps([store.__name__, f"{tmp_path}/jobs.db"])
    opener = f"{broken_files.__name__}:opened_badly"
    found = broken_promise_of_processes(test, opener, address, tmp_path, children)
    assert f"promise broken: {promise}" in found.partition("\n")[0], found
