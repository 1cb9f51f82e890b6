"""Hosts of a network of their own: network namespaces on one bridge, each with an address, made by iproute2.

A host shares the file system and the process ids with the machine, but not its network: a test can pull its cable.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from attrs import frozen

from tests.scenarios.client import WAIT

__all__ = ["Host", "Network", "network", "require"]

_COMMAND_TIMEOUT: Final = 20.0
_NAMES: Final = re.compile(r"bj(\d+)[a-z]?")
"""The names of bridges and namespaces, with the process id of the tests that made them."""


@frozen
class Host:
    """A host. ``namespace`` is also the name of the near end of its cable."""

    namespace: str
    address: str

    @property
    def name(self) -> str:
        """A letter."""
        return self.namespace[-1]

    def command(self, command: Sequence[str]) -> list[str]:
        """The command that runs this command on the host."""
        return ["ip", "netns", "exec", self.namespace, *command]

    def cut_off(self) -> None:
        """Pull the cable: what is sent to the host, or by it, is lost without notice."""
        _ip("link", "set", self.namespace, "down")

    def reconnect(self) -> None:
        """Plug the cable in again."""
        _ip("link", "set", self.namespace, "up")

    def kill(self) -> None:
        """Kill all processes on the host, and wait until they are gone."""
        _kill_all(self.namespace)


@frozen
class Network:
    """``address`` is this machine's in the network of the hosts."""

    address: str
    hosts: tuple[Host, ...]


def require() -> None:
    """Skip the test unless this process may make namespaces. If only a program is missing, fail it with ``CI`` set."""
    __tracebackhide__ = True
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    if shutil.which("ip") is None:
        reason = "iproute2 is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    trial = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "bj0", "type", "bridge"],
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT,
        check=False,
    )
    if trial.returncode:
        pytest.skip(f"this container may not make network namespaces: {trial.stderr.strip()}")


@contextmanager
def network(hosts: int) -> Iterator[Network]:
    """A new network with so many hosts. At the end their processes are killed, and everything is removed.

    It also removes what tests left behind that were killed themselves.
    """
    for name in [*_namespaces(), *_bridges()]:
        found = _NAMES.fullmatch(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            _remove(name)
    bridge, prefix = f"bj{os.getpid()}", _free_prefix()
    with ExitStack() as stack:
        stack.callback(_remove, bridge)
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{prefix}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        made = []
        for number in range(hosts):
            host = Host(f"{bridge}{chr(ord('a') + number)}", f"{prefix}.{11 + number}")
            stack.callback(_remove, host.namespace)
            _add(host, bridge)
            made.append(host)
        yield Network(f"{prefix}.1", tuple(made))


def _add(host: Host, bridge: str) -> None:
    _ip("netns", "add", host.namespace)
    _ip("link", "add", host.namespace, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
    _ip("link", "set", host.namespace, "master", bridge, "up")
    for options in (
        ("link", "set", "lo", "up"),
        ("addr", "add", f"{host.address}/24", "dev", "eth0"),
        ("link", "set", "eth0", "up"),
    ):
        _ip("-netns", host.namespace, *options)


def _remove(name: str) -> None:
    """Remove a host's namespace with all its processes, or a bridge, if it exists."""
    if name in _namespaces():
        _kill_all(name)
        _ip("netns", "delete", name)
    with suppress(subprocess.CalledProcessError):  # a cable goes with its far end, a little later
        _ip("link", "delete", name)


def _kill_all(namespace: str) -> None:
    deadline = time.monotonic() + WAIT
    while pids := _ip("netns", "pids", namespace).split():
        assert time.monotonic() < deadline, f"processes {pids} on the host {namespace} do not end"
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.01)  # they end soon


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines()]


def _bridges() -> list[str]:
    return [link["ifname"] for link in _listed("-json", "link", "show", "type", "bridge")]


def _free_prefix() -> str:
    """The first three numbers of addresses, 10.x.y, that this machine does not use yet."""
    used = {".".join(address["local"].split(".")[:3]) for link in _listed("-json", "addr") for address in _of(link)}
    start = os.getpid()
    candidates = (f"10.{64 + (number >> 8) % 128}.{number % 256}" for number in range(start, start + 256))
    return next(prefix for prefix in candidates if prefix not in used)


def _of(link: dict[str, Any]) -> list[dict[str, Any]]:
    return [address for address in link.get("addr_info", []) if address.get("local")]


def _listed(*arguments: str) -> list[dict[str, Any]]:
    return [link for link in json.loads(_ip(*arguments) or "[]") if link]


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=_COMMAND_TIMEOUT, check=True)
    return done.stdout
