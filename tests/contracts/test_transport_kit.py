"""The published contract of transports finds each of many mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.contracts.broken_transports import BROKEN_TRANSPORTS
from tests.contracts.mutants import example, survivors

SUITE: Final = """
import {module}
from backjob.testing import TransportContract
class {name}(TransportContract):
    patience = 0.5
    def make_transport(self, base_url):
        return {module}.ThreadTransport(base_url)
del TransportContract
"""


@pytest.mark.slow
def test_the_contract_finds_each_mistake(tmp_path: Path) -> None:
    code = example("own-transport.md", "thread_transport.py")
    assert survivors(tmp_path, code, BROKEN_TRANSPORTS, SUITE) == []
