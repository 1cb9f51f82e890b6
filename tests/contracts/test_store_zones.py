"""Processes and server sessions in different time zones agree on every moment to the microsecond."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from threading import Timer
from typing import Any, Final

import pytest

from backjob.errors import StoreError
from tests.shared_stores import BY_NAME, SHARED_STORES, SharedStore, with_options

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 60
DUE: Final = "2031-07-01T03:04:05.999999+05:30"
WINTER: Final = "2031-01-01T00:00:00.000001-11:00"

pytestmark = pytest.mark.slow

# The URL option that sets a session's zone, for each driver.
SESSION_ZONES: Final = {
    "PostgreSQL": [
        {"options": "-c%20timezone%3DPacific/Kiritimati"},
        {"options": "-c%20timezone%3DAmerica/St_Johns%20-c%20datestyle%3DGerman"},
    ],
    "MariaDB": [
        {"init_command": "SET%20time_zone%3D%27%2B13:00%27"},
        {"init_command": "SET%20time_zone%3D%27-11:30%27"},
    ],
}


class Zone:
    """A process in a time zone, with the store at a URL."""

    def __init__(self, stack: ExitStack, url: str, zone: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.contracts.zone_child", url],
            env={**os.environ, "TZ": zone, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        timer = Timer(PATIENCE, process.kill)
        timer.start()
        stack.callback(timer.cancel)
        self._process = stack.enter_context(process)
        self.offset = self._hear()["zone"]

    def see(self, step: str, job_id: str = "job", *arguments: str | float) -> dict[str, Any]:
        """The result of a step in the process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([step, job_id, *arguments]) + "\n")
        self._process.stdin.flush()
        seen = self._hear()
        assert set(seen.pop("zones", [])) <= {"UTC"}, seen
        return seen

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process has ended; see its standard error"
        answer: dict[str, Any] = json.loads(line)
        return answer


def but_for_reading(times: dict[str, Any]) -> dict[str, Any]:
    """The moments of a job that don't depend on when it was read."""
    return {name: value for name, value in times.items() if name not in ("read_time", "taken")}


def agree(one_url: str, other_url: str) -> None:
    with ExitStack() as stack:
        one, other = Zone(stack, one_url, "Pacific/Kiritimati"), Zone(stack, other_url, "America/St_Johns")
        assert one.offset == "+1400"
        assert other.offset in ("-0330", "-0230")  # the latter in summer
        life_in_two_zones(one, other)
        due_in_two_zones(one, other)


def life_in_two_zones(one: Zone, other: Zone) -> None:
    """The other process reads what one process writes."""
    created = one.see("create")
    assert but_for_reading(other.see("get")) == but_for_reading(created)
    taken = other.see("take")
    assert taken["taken"] == ["job"], "a job that is due in one zone is due in every zone"
    assert but_for_reading(one.see("get")) == but_for_reading(taken)
    assert one.see("take")["taken"] == [], "a lease is valid in every zone"
    lease = datetime.fromisoformat(taken["lease_until"]) - datetime.fromisoformat(taken["read_time"])
    assert lease == timedelta(seconds=3600, microseconds=1)
    claimed = one.see("claim")
    assert but_for_reading(other.see("get")) == but_for_reading(claimed)
    assert other.see("overdue")["overdue"] == [], "a job that was just claimed is overdue in no zone"
    reported = other.see("report")
    assert but_for_reading(one.see("get")) == but_for_reading(reported)
    lease = datetime.fromisoformat(reported["lease_until"]) - datetime.fromisoformat(reported["updated_time"])
    assert lease == timedelta(seconds=3600, microseconds=1)
    assert one.see("overdue")["overdue"] == []
    ended = one.see("end")
    assert but_for_reading(other.see("get")) == but_for_reading(ended)
    purged = other.see("purge")
    assert purged["purged"] == 0, "a job that just ended is purged in no zone"

    order = [created["created_time"], taken["read_time"], claimed["updated_time"], reported["updated_time"]]
    moments = [datetime.fromisoformat(moment) for moment in (*order, ended["end_time"], purged["read_time"])]
    assert all(before <= after for before, after in pairwise(moments)), "all processes use the same clock"
    assert moments[-1] - moments[0] < timedelta(minutes=30), "no reading is off by a zone's offset"


def due_in_two_zones(one: Zone, other: Zone) -> None:
    """A moment that the application passes is the same in every zone, to the microsecond."""
    created, there = one.see("create", "later", DUE), other.see("get", "later")
    assert created["start_time"] == there["start_time"] == "2031-06-30T21:34:05.999999+00:00"
    assert created["expires"] == there["expires"] == "2031-06-30T21:34:05.999999+00:00"
    moved, here = other.see("move", "later", WINTER), one.see("get", "later")
    assert here["start_time"] == moved["start_time"] == "2031-01-01T11:00:00.000001+00:00"
    assert here["expires"] == moved["expires"] == there["expires"]


@pytest.fixture
def url(shared: SharedStore, tmp_path: Path) -> Iterator[str]:
    with shared.place(tmp_path) as url:
        yield url


@pytest.mark.parametrize("shared", SHARED_STORES, ids=str)
def test_processes_in_two_zones_agree(shared: SharedStore, url: str) -> None:
    agree(url, url)


@pytest.mark.parametrize("shared", [BY_NAME[name] for name in SESSION_ZONES], ids=str)
def test_sessions_of_the_server_in_two_zones_agree(shared: SharedStore, url: str) -> None:
    one, other = [with_options(url, **options) for options in SESSION_ZONES[shared.name]]
    agree(one, other)


@pytest.mark.parametrize("shared", [BY_NAME[name] for name in SESSION_ZONES], ids=str)
def test_the_server_uses_the_zone_of_the_session(shared: SharedStore, url: str) -> None:
    """Without this, the previous test would prove nothing."""
    (option,) = SESSION_ZONES[shared.name][0]
    nowhere = {"options": "-c%20timezone%3DNo/Where", "init_command": "SET%20time_zone%3D%27No/Where%27"}[option]
    with pytest.raises(StoreError), shared.open(with_options(url, **{option: nowhere})) as store:
        store.get("job")
