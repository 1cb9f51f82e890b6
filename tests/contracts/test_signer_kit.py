"""The published contract of signers finds each of many mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from tests.contracts.broken_signers import BROKEN_SIGNERS
from tests.contracts.mutants import example, survivors

SUITE: Final = """
import {module}
from backjob.testing import SignerContract
class {name}(SignerContract):
    def make_signer(self):
        return {module}.HMACSigner(b"b1Y8-vK2xQ_gq0Zr5tUw7LmN3oPaHs4E")
    def make_stranger(self):
        return {module}.HMACSigner(b"Xo5TgHq1_iWn8-eRkUz3McVb6YsLa0Pd")
    def secrets(self):
        return ("b1Y8-vK2xQ_gq0Zr5tUw7LmN3oPaHs4E",)
del SignerContract
"""


@pytest.mark.slow
def test_the_contract_finds_each_mistake(tmp_path: Path) -> None:
    code = example("own-signer.md", "hmac_signer.py")
    assert survivors(tmp_path, code, BROKEN_SIGNERS, SUITE) == []
