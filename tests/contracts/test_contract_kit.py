"""The published contract: it fails for each of many broken stores, and its first line names the broken promise."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from backjob import testing
from backjob.protocols import Clock, Store
from tests.contracts.broken_stores import FAULTS, SHARING_FAULTS, Fault, HangsInAChild, KeepsNoList, ListsTheLiving

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 110
PARTS: Final = {
    "CreateCalls": "backjob.testing._stores.creating",
    "ChangeCalls": "backjob.testing._stores.changing",
    "RunCalls": "backjob.testing._stores.requeueing",
    "LeaseCalls": "backjob.testing._stores.leasing",
    "SlotCalls": "backjob.testing._stores.slots",
    "ReportCalls": "backjob.testing._stores.reporting",
    "OutputCalls": "backjob.testing._stores.reporting",
    "DeleteCalls": "backjob.testing._stores.deleting",
    "TailCalls": "backjob.testing._stores.tails",
    "TextCalls": "backjob.testing._stores.texts",
    "ForkCalls": "backjob.testing._stores.forks",
    "Races": "backjob.testing._stores.races",
    **dict.fromkeys(("MergesJobs", "DelaysJobs", "FindsJobs", "PurgesJobs", "StoreContract"), "backjob.testing"),
}

BEGINNING: Final = """
import json
from hypothesis import Phase, settings
from tests.contracts import broken_stores
settings.register_profile("quick", phases=[Phase.generate], database=None)  # no shrinking
settings.load_profile("quick")
"""


def suite(store: str, part: str) -> str:
    """The code of a test class for one of the broken stores, as a third party would write it."""
    return f"""
from {PARTS[part]} import {part}
class Test_{store}_{part}({part}):
    patience = 1
    def make_store(self, clock):
        return broken_stores.{store}(clock=clock)
del {part}
"""


def failures(directory: Path, program: str, *arguments: str) -> dict[str, list[str]]:
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
        timeout=PATIENCE,
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
    return ["-k", " or ".join(f"({name_of(fault)} and {fault.test})" for fault in faults)]


def name_of(fault: Fault) -> str:
    return f"Test_{fault.store.__name__}_{fault.part}"


def check_named(fault: Fault, found: Mapping[str, list[str]]) -> None:
    """Check that a failure names the promise in its first line, and that every failure's first line names one."""
    lines = [message.partition("\n")[0] for message in found[name_of(fault)]]
    assert any(f"promise broken: {fault.promise}" in line for line in lines), (fault, lines)
    assert [line for line in lines if "promise broken: " not in line] == [], fault


@pytest.mark.slow
def test_each_broken_promise_is_reported_by_name(tmp_path: Path) -> None:
    found = failures(tmp_path, "".join(suite(fault.store.__name__, fault.part) for fault in FAULTS), *chosen(FAULTS))
    assert len(FAULTS) >= 110
    for fault in FAULTS:
        check_named(fault, found)


@pytest.mark.nightly
def test_every_other_failure_names_a_promise_too(tmp_path: Path) -> None:
    found = failures(tmp_path, "".join(suite(fault.store.__name__, fault.part) for fault in FAULTS))
    for fault in FAULTS:
        check_named(fault, found)


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("test", "fewest"),
    [
        ("test_any_sequence_of_calls_matches_the_model", 15),
        ("test_any_race_has_one_claim_and_one_end", 6),
    ],
)
def test_generated_calls_alone_notice_many_faults(test: str, fewest: int, tmp_path: Path) -> None:
    """The known faults stand in for the unknown ones that these tests are for."""
    found = failures(tmp_path, "".join(suite(fault.store.__name__, "StoreContract") for fault in FAULTS), "-k", test)
    lines = {name: [message.partition("\n")[0] for message in messages] for name, messages in found.items()}
    assert [line for messages in lines.values() for line in messages if "promise broken: " not in line] == []
    assert len([name for name, messages in lines.items() if messages]) >= fewest, lines


@pytest.mark.slow
def test_each_promise_broken_between_processes_is_reported_by_name(tmp_path: Path) -> None:
    classes = "".join(
        f"""
class {name_of(fault)}(SharesJobs):
    opener = "tests.contracts.broken_stores:opened_badly"
    patience = {2 if fault.store is HangsInAChild else 60}
    processes = {2 if fault.promise.startswith(("a shared", "calls")) else 4}
    def address(self):
        return json.dumps(["{fault.store.__name__}", f"{{self.directory}}/jobs.db"])
"""
        for fault in SHARING_FAULTS
    )
    program = f"from backjob.testing import SharesJobs\n{classes}del SharesJobs"
    found = failures(tmp_path, program, *chosen(SHARING_FAULTS))
    for fault in SHARING_FAULTS:
        check_named(fault, found)


class TestAStoreThatListsNoEndedJobs(
    testing.StoreBasics, testing.MergesJobs, testing.DelaysJobs, testing.FindsSilentJobs
):
    def make_store(self, clock: Clock) -> Store:
        return ListsTheLiving(clock=clock)


class TestAStoreThatKeepsNoList(testing.StoreBasics):
    examples = 10

    def make_store(self, clock: Clock) -> Store:
        return KeepsNoList(clock=clock)
