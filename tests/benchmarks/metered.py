"""Stores on servers of their own, whose processor time is measured: no other test uses them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from attrs import evolve, frozen

from tests.private_servers import MARIADB, POSTGRES, REDIS, PrivateServer, ServerKind, Templates, private_server

__all__ = ["METERED", "MeteredStore", "busy_time", "metered_store", "processor_time"]

_TICK: Final = os.sysconf("SC_CLK_TCK")


def _redis_command(directory: Path, port: int) -> list[str]:
    return [*REDIS.command(directory, port), "--appendfsync", "everysec"]


METERED: Final[dict[str, ServerKind | None]] = {
    "SQLite": None,
    "PostgreSQL": POSTGRES,
    "MariaDB": MARIADB,
    "Redis": evolve(REDIS, command=_redis_command),
}
"""The kinds of store: the server of each, or None. The servers have their default configuration, and Redis `appendfsync everysec`."""


@frozen
class MeteredStore:
    """A store for one measurement."""

    name: str
    url: str
    _server: PrivateServer | None

    def processor_time(self) -> float:
        """The processor time (s) that its server has used so far; 0 without a server."""
        return 0.0 if self._server is None else processor_time(self._server.pids)


def processor_time(pids: Iterable[int]) -> float:
    """The processor time (s) of these processes, and of the children of the first one that have ended."""
    ticks = 0
    for number, pid in enumerate(pids):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            ticks += sum(map(int, fields[11 : 15 if number == 0 else 13]))
    return ticks / _TICK


def busy_time() -> float:
    """The processor time (s) that all programs of this machine have used so far."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICK


@contextmanager
def metered_store(name: str, directory: Path) -> Iterator[MeteredStore]:
    """A new, empty store of a kind in `METERED`. Skips the test if the server's program is not installed."""
    kind = METERED[name]
    if kind is None:
        yield MeteredStore(name, f"sqlite:///{directory / 'metered.db'}?busy_timeout=60", None)
        return
    with Templates.made() as templates, private_server(kind, templates) as server:
        yield MeteredStore(name, server.url, server)
