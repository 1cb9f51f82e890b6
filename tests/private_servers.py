"""Servers that a test may kill: a PostgreSQL, a MariaDB and a Redis of its own, each on a free port and a directory of
its own, killed without a warning and started again on the same data.

Where the programs are not installed a developer's test skips, with the reason; in CI it fails.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from attrs import define, field, frozen

__all__ = [
    "MARIADB",
    "POSTGRES",
    "PRIVATE_SERVERS",
    "REDIS",
    "PrivateServer",
    "ServerKind",
    "Templates",
    "private_server",
]

_DEADLINE: Final = 30.0
_POLL: Final = 0.02
_PORTS: Final = range(10_000, 22_000)
"""Below those that systems give to outgoing connections, and so are they with the 10,000 that a Redis Cluster adds for its
bus: nobody takes the port while its server is down.
"""


@frozen(kw_only=True)
class ServerKind:
    """A sort of server. Everything is told its directory: ``initialise`` fills it once, ``command`` serves it.

    ``programs`` has alternatives for each program that is needed; ``user`` runs it where the tests run as root, which
    these programs refuse. ``answers`` connects, and raises while nobody answers.
    """

    name: str
    scheme: str
    programs: tuple[tuple[str, ...], ...]
    user: str
    initialise: Callable[[Path], list[str]] | None
    command: Callable[[Path, int], list[str]]
    answers: Callable[[int], None]
    location: str

    def __str__(self) -> str:
        return self.name

    def require(self) -> None:
        """Skip the test where a program is missing; with ``CI`` in the environment it fails."""
        __tracebackhide__ = True
        for alternatives in (*self.programs, ("ps",)):
            if _program(*alternatives) is None:
                reason = f"{self.name}: {' or '.join(alternatives)} is not installed"
                if os.environ.get("CI"):
                    pytest.fail(reason)
                pytest.skip(reason)

    @property
    def identity(self) -> _Identity | None:
        """Whom its programs run as; None for whoever runs the tests."""
        if os.geteuid() != 0:
            return None
        entry = pwd.getpwnam(self.user)
        return _Identity(entry.pw_uid, entry.pw_gid)


@frozen
class _Identity:
    uid: int
    gid: int


# --- the three ------------------------------------------------------------------------------------------------------


@cache
def _program(*alternatives: str) -> str | None:
    """Where one of these is: on the path, or where a system keeps servers."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4))
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *map(str, reversed(versions))])
    return next((found for name in alternatives if (found := shutil.which(name, path=path))), None)


def _found(*alternatives: str) -> str:
    program = _program(*alternatives)
    assert program is not None, alternatives
    return program


def _postgres_answers(port: int) -> None:
    import psycopg

    psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres", connect_timeout=5).close()


def _mariadb_answers(port: int) -> None:
    import pymysql

    pymysql.connect(host="127.0.0.1", port=port, user="root", database="test", connect_timeout=5).close()


def _redis_answers(port: int) -> None:
    # Without a driver: while it loads its data it answers, but not with a PONG.
    with socket.create_connection(("127.0.0.1", port), 5) as connection:
        connection.sendall(b"PING\r\n")
        if not connection.recv(64).startswith(b"+PONG"):
            raise OSError("still loading")


_MARIADBD: Final = ("mariadbd", "mysqld")
_REDIS: Final = ("redis-server", "valkey-server")

POSTGRES: Final = ServerKind(
    name="PostgreSQL",
    scheme="postgresql+psycopg",
    programs=(("initdb",), ("postgres",)),
    user="postgres",
    initialise=lambda directory: [
        *(_found("initdb"), "--pgdata", str(directory), "--username=postgres", "--auth=trust"),
        *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
    ],
    command=lambda directory, port: [
        *(_found("postgres"), "-D", str(directory), "-p", str(port), "-c", "listen_addresses=127.0.0.1"),
        *("-c", "unix_socket_directories=", "-c", "fsync=on", "-c", "synchronous_commit=on"),
    ],
    answers=_postgres_answers,
    location="postgres@127.0.0.1:{port}/postgres",
)
MARIADB: Final = ServerKind(
    name="MariaDB",
    scheme="mariadb+pymysql",
    programs=(("mariadb-install-db",), _MARIADBD),
    user="mysql",
    initialise=lambda directory: [
        *(_found("mariadb-install-db"), "--no-defaults", f"--datadir={directory}", "--skip-name-resolve"),
        *("--auth-root-authentication-method=normal", "--innodb-log-file-size=16M", f"--tmpdir={directory}"),
    ],
    command=lambda directory, port: [
        *(_found(*_MARIADBD), "--no-defaults", f"--datadir={directory}", f"--socket={directory}/socket"),
        # At its start it deletes the temporary tables in tmpdir: in one of its own, none of another server's.
        *(f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-grant-tables"),
        f"--tmpdir={directory}",
        *("--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M"),
    ],
    answers=_mariadb_answers,
    location="root@127.0.0.1:{port}/test",
)
REDIS: Final = ServerKind(
    name="Redis",
    scheme="redis",
    programs=(_REDIS,),
    user="nobody",
    initialise=None,
    command=lambda directory, port: [
        *(_found(*_REDIS), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory)),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--daemonize", "no"),
    ],
    answers=_redis_answers,
    location="127.0.0.1:{port}/0",
)
PRIVATE_SERVERS: Final = (POSTGRES, MARIADB, REDIS)


# --- a running one --------------------------------------------------------------------------------------------------


@define(eq=False)
class PrivateServer:
    """A server of one test, in its directory and on its port, running or not."""

    kind: ServerKind
    directory: Path
    port: int
    _process: subprocess.Popen[bytes] | None = None
    _guard: subprocess.Popen[bytes] | None = None
    _gone: int = field(default=-1)

    @property
    def url(self) -> str:
        """A store's URL for it."""
        return self.url_by(self.port)

    def url_by(self, port: int) -> str:
        """A store's URL for it by way of a proxy that listens on this port."""
        return f"{self.kind.scheme}://{self.kind.location.format(port=port)}"

    @property
    def log(self) -> Path:
        return self.directory.with_name("log")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        # Every process of the server inherits the end of a pipe: its other end closes with the last of them.
        self._gone, held = os.pipe()
        with self.log.open("ab") as log:
            self._process = _started(self.kind, self.kind.command(self.directory, self.port), log.fileno(), held)
        os.close(held)
        # Whatever becomes of the tests' own process, this does not outlive it.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", f"read _; kill -9 {self._process.pid}"], stdin=subprocess.PIPE, start_new_session=True
        )
        looks, deadline = threading.Event(), time.monotonic() + _DEADLINE
        while True:
            try:
                self.kind.answers(self.port)
            except Exception as error:  # each driver has its own
                assert self._process.poll() is None, self.log.read_text(errors="replace")[-4000:]
                if time.monotonic() >= deadline:
                    raise AssertionError(f"{self.kind} does not answer: {error}") from error
                looks.wait(_POLL)
            else:
                return

    def kill(self) -> None:
        """End all of its processes without a warning, and wait until they are gone. Calling it twice does no harm."""
        process, guard, self._process, self._guard = self._process, self._guard, None, None
        if process is None:
            return
        if guard is not None:
            guard.kill()
            guard.wait()
            assert guard.stdin is not None
            guard.stdin.close()
        process.send_signal(signal.SIGSTOP)  # so that it starts no more of them
        for pid in [*_descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(_DEADLINE)
        _wait_for_end(self._gone)
        os.close(self._gone)


def _started(kind: ServerKind, command: list[str], log: int, held: int | None = None) -> subprocess.Popen[bytes]:
    identity = kind.identity
    return subprocess.Popen(
        command,
        cwd="/",
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=[] if held is None else [held],
        start_new_session=True,
        user=None if identity is None else identity.uid,
        group=None if identity is None else identity.gid,
        extra_groups=None if identity is None else [],
    )


def _descendants(pid: int) -> list[int]:
    # PostgreSQL's processes are each in a group of its own.
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=10)
    children: dict[int, list[int]] = {}
    for line in listing.stdout.splitlines():
        child, parent = map(int, line.split())
        children.setdefault(parent, []).append(child)
    found, unseen = [], [pid]
    while unseen:
        of_this = children.get(unseen.pop(), [])
        found += of_this
        unseen += of_this
    return found


def _wait_for_end(pipe: int) -> None:
    ended = threading.Event()

    def read() -> None:
        os.read(pipe, 1)
        ended.set()

    threading.Thread(target=read, daemon=True).start()
    assert ended.wait(_DEADLINE), "some process of the server lives on"


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                trial.bind(("127.0.0.1", port))
                return port
    raise AssertionError("no free port was found")


# --- where its data begin -------------------------------------------------------------------------------------------


@frozen
class Templates:
    """Data directories as the servers' own programs make them: made once, and copied for each server."""

    _directory: Path

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[Templates]:
        """Within its block; for a fixture of the whole session."""
        with _directory_for_all() as directory:
            yield cls(directory)

    def copy_to(self, kind: ServerKind, directory: Path) -> None:
        """Begin a server's data in a directory that does not exist yet."""
        if kind.initialise is None:
            _make_directory(kind, directory)
            return
        template = self._directory / kind.name
        if not template.exists():
            _make_directory(kind, template)
            log = self._directory / f"{kind.name}.log"
            with log.open("wb") as output:
                process = _started(kind, kind.initialise(template), output.fileno())
            try:
                code = process.wait(_DEADLINE)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert code == 0, log.read_text(errors="replace")[-4000:]
        subprocess.run(["cp", "-a", str(template), str(directory)], check=True, timeout=_DEADLINE)


def _make_directory(kind: ServerKind, directory: Path) -> None:
    directory.mkdir(mode=0o700)
    identity = kind.identity
    if identity is not None:
        os.chown(directory, identity.uid, identity.gid)


@contextmanager
def _directory_for_all() -> Iterator[Path]:
    # Not below the tests' own directory: another user must reach it, and a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="backjob-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@contextmanager
def private_server(kind: ServerKind, templates: Templates) -> Iterator[PrivateServer]:
    """A running server within its block, on an empty database."""
    kind.require()
    with _directory_for_all() as directory:
        templates.copy_to(kind, directory / "data")
        server = PrivateServer(kind, directory / "data", _free_port())
        try:
            server.start()
            yield server
        finally:
            server.kill()
