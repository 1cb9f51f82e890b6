"""The examples of the docs with one mistake each, and which tests of a published contract fail for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from attrs import field, frozen

from tests.docs.pages import ROOT, blocks

_PATIENCE: Final = 100  # s


@frozen
class Mutant:
    """A mistake, the test of the contract that must find it, and what to replace in the example, as pairs of texts."""

    mistake: str
    test: str
    changes: tuple[tuple[str, str], ...] = field(repr=False)

    def __str__(self) -> str:
        return self.mistake

    def of(self, code: str) -> str:
        """The example with this mistake."""
        for old, new in self.changes:
            assert code.count(old) == 1, f"{self.mistake}: {code.count(old)} times {old!r}"
            code = code.replace(old, new)
        return code


def mutant(mistake: str, test: str, *changes: tuple[str, str]) -> Mutant:
    return Mutant(mistake, test, changes)


def example(page: str, title: str) -> str:
    """The code of the block with this title."""
    [code] = [block.code for block in blocks(ROOT / "docs" / page) if block.title == title]
    return code


def survivors(directory: Path, code: str, mutants: Sequence[Mutant], suite: str) -> list[str]:
    """The mistakes that their test does not find. ``suite`` is the code of the test class for the module ``{module}``."""
    for number, one in enumerate(mutants):
        (directory / f"mutant_{number}.py").write_text(one.of(code), encoding="utf-8")
    program = "".join(suite.format(module=f"mutant_{number}", name=f"Test{number}") for number in range(len(mutants)))
    (directory / "test_mutants.py").write_text(program, encoding="utf-8")
    found = _failed(directory, [f"test_mutants.py::Test{number}::{one.test}" for number, one in enumerate(mutants)])
    return [one.mistake for number, one in enumerate(mutants) if (f"Test{number}", one.test) not in found]


def _failed(directory: Path, tests: Iterable[str]) -> set[tuple[str, str]]:
    """Run these tests; return the class and the function of each that failed by an assertion or by the end of a wait."""
    report = directory / "report.xml"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--tb=short",
            "-p",
            "no:cacheprovider",
            "--junitxml",
            str(report),
            *tests,
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {
        (case.attrib["classname"].rpartition(".")[2], case.attrib["name"].partition("[")[0])
        for case in ET.parse(report).iter("testcase")
        if case.find("failure") is not None
    }
