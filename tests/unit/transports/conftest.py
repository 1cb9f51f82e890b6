"""For all tests of transports."""

from __future__ import annotations

import pytest

from tests.unit.transports.threads import note_earlier_threads


@pytest.fixture(autouse=True)
def _only_threads_of_this_test() -> None:
    note_earlier_threads()
