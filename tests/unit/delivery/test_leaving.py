"""The end of a process closes its monitors."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any, Final

import pytest

from backjob.delivery.leaving import leave_at_exit

_PATIENCE: Final = 60.0  # s


class Recorder:
    """Stands for a monitor: sends how often it was closed."""

    is_running = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def has_unclaimed(self, timeout: float) -> bool:
        return False

    def close(self, timeout: float) -> None:
        self.is_running = False
        self._connection.send("closed")


_kept: Final[list[Recorder]] = []


def work(connection: Connection) -> None:
    for _ in range(2):
        _kept.append(Recorder(connection))
        leave_at_exit(_kept[-1])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_multiprocessing_closes_its_monitors_once(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(writing,))
    process.start()
    writing.close()
    process.join(_PATIENCE)
    assert process.exitcode == 0
    seen = []
    while reading.poll(_PATIENCE):
        try:
            seen.append(reading.recv())
        except EOFError:
            break
    assert seen == ["closed", "closed"]
