"""The cost of importing and installing the package, and the memory of a job in flight."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from importlib.metadata import Distribution, distribution, requires
from pathlib import Path

import pytest

import backjob
from tests.benchmarks.notes import KEY
from tests.benchmarks.table import Figure, Table, seconds

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]

_ROOT = Path(__file__).resolve().parents[2]
_IN_FLIGHT = 2000
_RUNS = 15
_DEPENDENCIES = ("attrs", "h11", "typing-extensions")
_BACKJOB_MADE = f"""
from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores.memory import MemoryStore
from backjob.transports.sockets import SocketTransport
BackJob(MemoryStore(), SocketTransport, MessageSigner({KEY!r}))
"""


def test_memory_of_a_job_in_flight(tmp_path: Path, table: Table) -> None:
    command = [sys.executable, "-m", "tests.benchmarks.in_flight", str(_IN_FLIGHT), str(tmp_path)]
    found = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert found.returncode == 0, found.stderr
    traced, resident = map(float, found.stdout.split())
    table.add(
        Figure(
            what=f"memory of a GET job in flight, {_IN_FLIGHT:,} at once",
            measured=traced / 1024,
            target=4,
            unit="KiB",
            beside=f"traced in the whole process; {resident / 1024:.1f} KiB resident, tracing included",
        )
    )


def test_time_to_import(tmp_path: Path, table: Table) -> None:
    # As in an installed package, the bytecode is compiled once.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(tmp_path)

    def run(statement: str) -> float:
        before = _processor_time_of_children()
        subprocess.run([sys.executable, "-c", statement], cwd=_ROOT, env=environment, check=True)
        return _processor_time_of_children() - before

    statements = ("import attrs, h11, backjob", _BACKJOB_MADE, "import attrs, h11", "pass")
    for statement in statements:
        run(statement)
    found = [[run(statement) for statement in statements] for _ in range(_RUNS)]
    ours, made, libraries, nothing = (min(column) for column in zip(*found, strict=True))
    beside = f"attrs and h11 alone, with {seconds(nothing)} of Python; processor time, the minimum of {_RUNS}"
    for what, measured in (("import backjob", ours), ("import backjob and make a BackJob", made)):
        table.add(
            Figure(
                what=f"{what}, beyond attrs and h11",
                measured=(measured - libraries) * 1000,
                target=30,
                unit="ms",
                medians=f"{seconds(measured)} : {seconds(libraries)}",
                beside=beside,
            )
        )


def test_size_as_installed(table: Table) -> None:
    found = [path for path in Path(backjob.__file__).parent.rglob("*") if path.is_file()]
    # Of the bytecode, what pip makes: not that of other Pythons, nor of pytest.
    bytecode = f".{sys.implementation.cache_tag}.pyc"
    own = sum(path.stat().st_size for path in found if path.suffix != ".pyc" or path.name.endswith(bytecode))
    others = {name: _size(distribution(name)) for name in _DEPENDENCIES}
    for name in _DEPENDENCIES:
        assert not requires(name), f"{name} has dependencies"
    table.add(
        Figure(
            what="installed size beyond the standard library",
            measured=sum(others.values(), own) / 1e6,
            target=3,
            unit="MB",
            beside=", ".join(f"{name} {size / 1e6:.2f}" for name, size in {"backjob": own, **others}.items())
            + ", bytecode included",
        )
    )


def _processor_time_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _size(installed: Distribution) -> int:
    paths = [Path(str(installed.locate_file(file))) for file in installed.files or []]
    return sum(path.stat().st_size for path in paths if path.is_file())
