"""The published contract: it fails for each of many broken stores, and its first line names the broken promise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from backjob import testing
from backjob.protocols import Clock, Store
from tests.contracts.broken import every
from tests.contracts.broken.faults import Fault
from tests.contracts.broken.lacking import KeepsNoList, ListsTheLiving

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 110
LONG: Final = 900
BEGINNING: Final = """
import json
from hypothesis import Phase, settings
from tests.contracts.broken import every
from tests.contracts.test_kit_faults import made
settings.register_profile("quick", phases=[Phase.generate], database=None)  # no shrinking
settings.load_profile("quick")
STORES = {fault.store.__name__: fault.store for fault in every.OF_ONE}
"""


def part_of(fault: Fault) -> type:
    """The part of the suite that has the test."""
    return next(part for part in testing.StoreContract.__mro__ if fault.test in vars(part))


def suite(fault: Fault, part: type) -> str:
    """The code of a test class for one of the broken stores, as a third party would write it."""
    return f"""
from {part.__module__} import {part.__name__}
class {name_of(fault)}({part.__name__}):
    patience = 1
    def make_store(self, clock):
        return made(STORES["{fault.store.__name__}"])(self.directory, clock)
del {part.__name__}
"""


def failures(directory: Path, program: str, *arguments: str, patience: float = PATIENCE) -> dict[str, list[str]]:
    """Run the program under pytest; return the messages of its failures by test class."""
    file, report = directory / "test_broken.py", directory / "report.xml"
    file.write_text(BEGINNING + program, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--tb=line",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        str(file),
    ]
    done = subprocess.run(
        [*command, *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    messages: dict[str, list[str]] = {}
    for case in ET.parse(report).iter("testcase"):
        name = case.attrib["classname"].rpartition(".")[2]
        messages.setdefault(name, [])
        messages[name] += [fault.attrib["message"] for fault in case if fault.tag in ("failure", "error")]
    return messages


def chosen(faults: Iterable[Fault]) -> list[str]:
    """The pytest arguments that select one test per fault."""
    return ["-k", " or ".join([f"({name_of(fault)} and {fault.test})" for fault in faults])]


def name_of(fault: Fault) -> str:
    return f"Test_{fault.store.__name__}_{fault.test}"


def first_lines(found: Mapping[str, list[str]]) -> list[str]:
    return [message.partition("\n")[0] for messages in found.values() for message in messages]


@pytest.mark.slow
def test_pytest_shows_the_broken_promise_first(tmp_path: Path) -> None:
    stores = ("BeatsAHundredAtMost", "HangsWhenClosedTwice", "JoinsFields", "ReadsThenClaims")
    faults = {fault.store.__name__: fault for fault in every.OF_ONE if fault.store.__name__ in stores}
    program = "".join([suite(fault, part_of(fault)) for fault in faults.values()])
    found = failures(tmp_path, program, *chosen(faults.values()))
    assert len(found) == len(stores)
    for fault in faults.values():
        assert any(f"promise broken: {fault.promise}" in line for line in first_lines({"": found[name_of(fault)]}))
    assert [line for line in first_lines(found) if "promise broken: " not in line] == []


@pytest.mark.nightly
@pytest.mark.timeout(LONG + 60)
@pytest.mark.parametrize("module", every.MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_other_failure_names_a_promise_too(module: ModuleType, tmp_path: Path) -> None:
    faults = [fault for fault in every.OF_ONE if fault.store.__module__ == module.__name__]
    found = failures(tmp_path, "".join([suite(fault, part_of(fault)) for fault in faults]), patience=LONG)
    assert [line for line in first_lines(found) if "promise broken: " not in line] == []


@pytest.mark.nightly
@pytest.mark.timeout(LONG + 60)
@pytest.mark.parametrize(
    ("test", "fewest"),
    [
        ("test_any_sequence_of_calls_matches_the_model", 15),
        ("test_any_race_has_one_claim_and_one_end", 6),
    ],
)
def test_generated_calls_alone_notice_many_faults(test: str, fewest: int, tmp_path: Path) -> None:
    """The known faults stand in for the unknown ones that these tests are for."""
    rare = ("costs", "errors", "hangs")
    one_each = {fault.store: fault for fault in every.OF_ONE if fault.module not in rare}.values()
    program = "".join([suite(fault, testing.StoreContract) for fault in one_each])
    found = failures(tmp_path, program, "-k", test, patience=LONG)
    assert [line for line in first_lines(found) if "promise broken: " not in line] == []
    assert len([name for name, messages in found.items() if messages]) >= fewest, found


@pytest.mark.slow
class TestAStoreThatListsNoEndedJobs(
    testing.StoreBasics, testing.MergesJobs, testing.DelaysJobs, testing.FindsSilentJobs
):
    def make_store(self, clock: Clock) -> Store:
        return ListsTheLiving(clock=clock)


def test_generated_tests_come_last(request: pytest.FixtureRequest) -> None:
    """A broken store keeps them busy for long."""
    name = TestAStoreThatListsNoEndedJobs.__name__
    tests = [item.name for item in request.session.items if f"::{name}::" in item.nodeid]
    if len(tests) < 100:
        pytest.skip("only some tests of the suite were chosen")
    assert tests[-2:] == ["test_any_race_has_one_claim_and_one_end", "test_any_sequence_of_calls_matches_the_model"]


class TestAStoreThatKeepsNoList(testing.StoreBasics):
    examples = 10

    def make_store(self, clock: Clock) -> Store:
        return KeepsNoList(clock=clock)
