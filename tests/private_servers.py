"""Servers that a test may kill and start again on the same data: a PostgreSQL, a MariaDB or a Redis of one test, on a
free port and in a directory of its own.

If a program is not installed, the test is skipped with the reason; in CI it fails.
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

_DEADLINE: Final = 30.0  # s
_POLL: Final = 0.02  # s
_PORTS: Final = range(10_000, 20_000)
"""Below the ports of outgoing connections, as are the ports 10,000 higher, which the nodes of a Redis Cluster use."""


@frozen(kw_only=True)
class ServerKind:
    """A kind of server. ``initialise`` is the command that fills a data directory, and ``command`` the one that serves it.

    ``programs`` lists the alternatives for each program. If the tests run as root, which these programs refuse, they run
    as ``user``. ``connect`` raises while the server does not answer.
    """

    name: str
    scheme: str
    programs: tuple[tuple[str, ...], ...]
    user: str
    initialise: Callable[[Path], list[str]] | None
    command: Callable[[Path, int], list[str]]
    connect: Callable[[int], None]
    location: str

    def __str__(self) -> str:
        return self.name

    def require(self) -> None:
        """Skip the test if a program is missing, or with ``CI`` in the environment, fail it."""
        __tracebackhide__ = True
        for alternatives in (*self.programs, ("ps",)):
            if _program(*alternatives) is None:
                reason = f"{self.name}: {' or '.join(alternatives)} is not installed"
                if os.environ.get("CI"):
                    pytest.fail(reason)
                pytest.skip(reason)

    @property
    def identity(self) -> _Identity | None:
        """The user that runs its programs; None for the user that runs the tests."""
        if os.geteuid() != 0:
            return None
        entry = pwd.getpwnam(self.user)
        return _Identity(entry.pw_uid, entry.pw_gid)


@frozen
class _Identity:
    uid: int
    gid: int


# --- the kinds ------------------------------------------------------------------------------------------------------


@cache
def _program(*alternatives: str) -> str | None:
    """The path of the first of these programs that is installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4))
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin", *map(str, reversed(versions))])
    return next((found for name in alternatives if (found := shutil.which(name, path=path))), None)


def _found(*alternatives: str) -> str:
    program = _program(*alternatives)
    assert program is not None, alternatives
    return program


def _connect_to_postgres(port: int) -> None:
    import psycopg

    psycopg.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres", connect_timeout=5).close()


def _connect_to_mariadb(port: int) -> None:
    import pymysql

    pymysql.connect(
        host="127.0.0.1", port=port, user="root", database="test", connect_timeout=5, ssl_disabled=True
    ).close()


def _connect_to_redis(port: int) -> None:
    # Without a driver, because a server that loads its data answers too, but not with PONG.
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
    connect=_connect_to_postgres,
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
        # At its start it deletes the temporary tables in tmpdir, which therefore must not be shared with another server.
        *(f"--port={port}", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-grant-tables"),
        f"--tmpdir={directory}",
        *("--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M"),
    ],
    connect=_connect_to_mariadb,
    location="root@127.0.0.1:{port}/test?ssl_disabled=true",
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
    connect=_connect_to_redis,
    location="127.0.0.1:{port}/0",
)
PRIVATE_SERVERS: Final = (POSTGRES, MARIADB, REDIS)


# --- a running server -----------------------------------------------------------------------------------------------


@define(eq=False)
class PrivateServer:
    """A server of one test, running or not."""

    kind: ServerKind
    directory: Path
    port: int
    _process: subprocess.Popen[bytes] | None = None
    _guard: subprocess.Popen[bytes] | None = None
    _exit_pipe: int = field(default=-1)

    @property
    def url(self) -> str:
        """The URL of a store on it."""
        return self.url_by(self.port)

    def url_by(self, port: int) -> str:
        """The URL of a store on it through a proxy on this port."""
        return f"{self.kind.scheme}://{self.kind.location.format(port=port)}"

    @property
    def log(self) -> Path:
        return self.directory.with_name("log")

    @property
    def pids(self) -> list[int]:
        """The ids of its processes, the first one first."""
        assert self._process is not None
        return [self._process.pid, *_descendants(self._process.pid)]

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        assert self._process is None
        # All processes of the server inherit one end of a pipe. Its other end closes with the last of them.
        self._exit_pipe, kept_open = os.pipe()
        with self.log.open("ab") as log:
            self._process = _start(self.kind, self.kind.command(self.directory, self.port), log.fileno(), kept_open)
        os.close(kept_open)
        # Kills the server even if the process of the tests is killed.
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", f"read _; kill -9 {self._process.pid}"], stdin=subprocess.PIPE, start_new_session=True
        )
        pause, deadline = threading.Event(), time.monotonic() + _DEADLINE
        while True:
            try:
                self.kind.connect(self.port)
            except Exception as error:  # drivers have no common class
                assert self._process.poll() is None, self.log.read_text(errors="replace")[-4000:]
                if time.monotonic() >= deadline:
                    raise AssertionError(f"{self.kind} does not answer: {error}") from error
                pause.wait(_POLL)
            else:
                return

    def kill(self) -> None:
        """Kill all processes of the server, and wait until they are gone. May be called twice."""
        process, guard, self._process, self._guard = self._process, self._guard, None, None
        if process is None:
            return
        if guard is not None:
            guard.kill()
            guard.wait()
            assert guard.stdin is not None
            guard.stdin.close()
        process.send_signal(signal.SIGSTOP)  # so that it starts no more processes
        for pid in [*_descendants(process.pid), process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(_DEADLINE)
        _wait_for_end(self._exit_pipe)
        os.close(self._exit_pipe)


def _start(kind: ServerKind, command: list[str], log: int, kept_open: int | None = None) -> subprocess.Popen[bytes]:
    identity = kind.identity
    return subprocess.Popen(
        command,
        cwd="/",
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=[] if kept_open is None else [kept_open],
        start_new_session=True,
        user=None if identity is None else identity.uid,
        group=None if identity is None else identity.gid,
        extra_groups=None if identity is None else [],
    )


def _descendants(pid: int) -> list[int]:
    # By parent: each process of PostgreSQL has its own process group.
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
    assert ended.wait(_DEADLINE), "a process of the server is still alive"


@contextmanager
def _reserved_port() -> Iterator[int]:
    """A free TCP port. The UDP port of the same number reserves it, so no other test takes it while the server is down."""
    for port in random.sample(_PORTS, 100):
        with socket.socket(type=socket.SOCK_DGRAM) as reservation, socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                reservation.bind(("127.0.0.1", port))
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
            trial.close()
            yield port
            return
    raise AssertionError("no free port was found")


# --- data directories -----------------------------------------------------------------------------------------------


@frozen
class Templates:
    """Data directories that the servers' programs initialise once, to be copied for each server."""

    _directory: Path

    @classmethod
    @contextmanager
    def made(cls) -> Iterator[Templates]:
        """Templates for a fixture of the whole session."""
        with _directory_for_all() as directory:
            yield cls(directory)

    def copy_to(self, kind: ServerKind, directory: Path) -> None:
        """Create a server's data directory."""
        if kind.initialise is None:
            _make_directory(kind, directory)
            return
        template = self._directory / kind.name
        if not template.exists():
            _make_directory(kind, template)
            log = self._directory / f"{kind.name}.log"
            with log.open("wb") as output:
                process = _start(kind, kind.initialise(template), output.fileno())
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
    # Not in pytest's directory: another user must have access, and the path of a socket has to be short.
    with tempfile.TemporaryDirectory(prefix="backjob-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


@contextmanager
def private_server(kind: ServerKind, templates: Templates) -> Iterator[PrivateServer]:
    """A running server with an empty database."""
    kind.require()
    with _directory_for_all() as directory, _reserved_port() as port:
        templates.copy_to(kind, directory / "data")
        server = PrivateServer(kind, directory / "data", port)
        try:
            server.start()
            yield server
        finally:
            server.kill()
