"""Real servers in separate processes, on sockets that listen before the server starts.

A `Kind` describes a server and how to start it. `running` starts one for an app, waits until it responds, and ends it
afterwards.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

import trustme
from attrs import field, frozen

from tests.scenarios.client import Client

__all__ = ["KINDS", "Kind", "Server", "daphne", "gunicorn", "hypercorn", "python_server", "running", "uvicorn"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_START_TIMEOUT: Final = 60.0
_END_TIMEOUT: Final = 5.0
_LOG_SHOWN: Final = 6000


@frozen(kw_only=True)
class Kind:
    """A kind of server.

    - ``workers``: how many requests it serves at once
    - ``raw_path``: whether the application sees the target as sent
    - ``address``: how the application knows its own address: "learnt" from the socket, or "configured" with a host name
      that does not resolve and an address to connect to
    - ``host``: the address to which its socket is bound
    - ``verbs``: whether it accepts custom methods
    - ``only``: the prefix of the apps that it serves; empty for all of them
    - ``first``: further headers of the first request that the process gets
    - ``beside``: commands of further processes of the site, with the same environment
    """

    name: str
    command: Callable[[str, socket.socket, Path], list[str]] = field(repr=False)
    workers: int = 1
    raw_path: bool = True
    listens: Literal["tcp", "unix", "tls"] = "tcp"
    address: Literal["learnt", "configured"] = "learnt"
    host: str = "127.0.0.1"
    gateway: Literal["wsgi", "asgi"] = "wsgi"
    verbs: bool = True
    only: str = ""
    first: Mapping[str, str] = field(factory=dict)
    beside: tuple[list[str], ...] = ()

    def __str__(self) -> str:
        return self.name


@frozen
class Server:
    """A running server. ``log`` is the file with the output of the server and its app, and of the processes ``beside`` it."""

    kind: Kind
    process: subprocess.Popen[bytes]
    client: Client
    log: Path
    beside: tuple[subprocess.Popen[bytes], ...] = ()

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_SHOWN:]

    def wait_for_log(self, text: str, timeout: float) -> None:
        """Wait until the log contains a text, at most ``timeout`` seconds."""
        until = time.monotonic() + timeout
        while text not in self.log.read_text(encoding="utf-8", errors="replace"):
            assert time.monotonic() < until, self.tail()
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill the server and its workers, and the processes beside it, with SIGKILL."""
        for process in (self.process, *self.beside):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_START_TIMEOUT)


def python_server(server: str, *options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """A command for one of the servers of `tests.scenarios.serve`, with its options."""

    def command(app: str, listening: socket.socket, directory: Path) -> list[str]:
        arguments = [server, app, str(listening.fileno()), *options, *_certificate(directory)]
        return [sys.executable, "-m", "tests.scenarios.serve", *arguments]

    return command


def _certificate(directory: Path) -> list[str]:
    """The file with the certificate and the key of a server that uses TLS."""
    path = directory / "server.pem"
    return [str(path)] if path.exists() else []


def _runserver(app: str, listening: socket.socket, _directory: Path) -> list[str]:
    return [sys.executable, "-m", "tests.scenarios.runserver", app, str(listening.fileno())]


def gunicorn(*options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """A command for gunicorn with these options."""

    def command(app: str, listening: socket.socket, directory: Path) -> list[str]:
        base = ["--bind", f"fd://{listening.fileno()}", "--graceful-timeout", "1", "--no-control-socket"]
        for certificate in _certificate(directory):
            base += ["--certfile", certificate, "--keyfile", certificate]
        return [sys.executable, "-m", "gunicorn", *base, *options, app]

    return command


def uvicorn(*options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """A command for uvicorn with these options."""

    def command(app: str, listening: socket.socket, directory: Path) -> list[str]:
        base = ["--fd", str(listening.fileno()), "--log-level", "warning", "--timeout-graceful-shutdown", "1"]
        for certificate in _certificate(directory):
            base += ["--ssl-certfile", certificate, "--ssl-keyfile", certificate]
        return [sys.executable, "-m", "uvicorn", *base, *options, app]

    return command


def hypercorn(*options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """A command for hypercorn with these options."""

    def command(app: str, listening: socket.socket, directory: Path) -> list[str]:
        base = ["--bind", f"fd://{listening.fileno()}", "--graceful-timeout", "1"]
        for certificate in _certificate(directory):
            base += ["--certfile", certificate, "--keyfile", certificate]
        return [sys.executable, "-m", "hypercorn", *base, *options, app]

    return command


def daphne(*options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """A command for daphne with these options."""

    def command(app: str, listening: socket.socket, _directory: Path) -> list[str]:
        return [sys.executable, "-m", "daphne", "--fd", str(listening.fileno()), "-v", "0", *options, app]

    return command


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(name="wsgiref", command=python_server("wsgiref"), raw_path=False),
        Kind(name="werkzeug", command=python_server("werkzeug"), workers=40),
        Kind(name="runserver", command=_runserver, workers=40, raw_path=False, only="django"),
        Kind(name="waitress", command=python_server("waitress"), workers=4),
        Kind(name="gunicorn-sync", command=gunicorn("--workers=1")),
        Kind(name="gunicorn-sync-2", command=gunicorn("--workers=2"), workers=2),
        Kind(
            name="gunicorn-threads",
            command=gunicorn("--worker-class=gthread", "--threads=4"),
            workers=4,
            address="configured",
        ),
        Kind(name="uvicorn-h11", command=uvicorn("--http", "h11"), gateway="asgi", workers=40, address="configured"),
        Kind(name="uvicorn-httptools", command=uvicorn("--http", "httptools"), gateway="asgi", workers=40, verbs=False),
        Kind(name="hypercorn", command=hypercorn(), gateway="asgi", workers=40, address="configured"),
        Kind(name="granian", command=python_server("granian-asgi"), gateway="asgi", workers=40),
        Kind(
            name="granian-wsgi",
            command=python_server("granian-wsgi"),
            workers=4,
            raw_path=False,
            only="plain",
            address="configured",
        ),
        Kind(name="daphne", command=daphne(), gateway="asgi", workers=40),
        Kind(name="aiohttp", command=python_server("aiohttp"), gateway="asgi", workers=40, verbs=False, only="aiohttp"),
        Kind(name="gunicorn-unix", command=gunicorn("--workers=1"), listens="unix", address="configured"),
        Kind(name="gunicorn-tls", command=gunicorn("--workers=1"), listens="tls", address="configured"),
    )
}


@contextmanager
def running(kind: Kind, app: str, directory: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    """Run a server during the block. ``settings`` are environment variables; ``directory`` takes its log and certificates."""
    # The test's directory may be too long for the path of a unix socket.
    with tempfile.TemporaryDirectory() as short:
        server = _start(kind, app, directory, settings, f"{short}/app.sock")
        try:
            _wait_until_ready(server)
            yield server
        finally:
            server.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(_END_TIMEOUT)
            server.kill()


def _start(kind: Kind, app: str, directory: Path, settings: Mapping[str, str], unix_path: str) -> Server:
    log = directory / "server.log"
    with _listen(kind, directory, unix_path) as (listening, client, address), log.open("wb") as output:
        processes = [
            subprocess.Popen(
                command,
                cwd=_ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **address, **settings},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=passed,
                start_new_session=True,
            )
            for command, passed in (
                (kind.command(app, listening, directory), [listening.fileno()]),
                *((command, []) for command in kind.beside),
            )
        ]
    return Server(kind, processes[0], client, log, tuple(processes[1:]))


def _wait_until_ready(server: Server) -> None:
    # The socket already listens: the request waits in the backlog, or fails at once if the server has died.
    try:
        page = server.client.request("GET", "/ready", headers=server.kind.first, timeout=_START_TIMEOUT)
    except OSError as error:
        raise AssertionError(f"{server.kind} does not serve: {error}\n{server.tail()}") from error
    assert page.status == 200, server.tail()


@contextmanager
def _listen(kind: Kind, directory: Path, unix_path: str) -> Iterator[tuple[socket.socket, Client, dict[str, str]]]:
    """A listening socket, a client for it, and the settings with the app's address."""
    if kind.listens == "unix":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(unix_path)
            listening.listen(128)
            yield listening, Client(unix_path), _settings(kind, "http", f"unix:{unix_path}")
        return
    family = socket.AF_INET6 if ":" in kind.host else socket.AF_INET
    with socket.create_server((kind.host, 0), family=family, backlog=128) as listening:
        port = listening.getsockname()[1]
        local = ({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(kind.host, kind.host), port)
        if kind.listens == "tls":
            authority, certificate = trustme.CA(), directory / "server.pem"
            authority.issue_cert("shop.example", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
            authority.cert_pem.write_to_path(directory / "authority.pem")
            settings = _settings(kind, "https", f"https://127.0.0.1:{port}")
            if kind.address == "configured":
                settings["SCENARIO_AUTHORITY"] = str(directory / "authority.pem")
            yield listening, Client(local, ssl.create_default_context(cafile=directory / "authority.pem")), settings
        else:
            yield listening, Client(local), _settings(kind, "http", f"{_bracketed(local[0])}:{port}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _settings(kind: Kind, scheme: str, connect_to: str) -> dict[str, str]:
    if kind.address == "learnt":
        return {}
    return {"BACKJOB_BASE_URL": f"{scheme}://shop.example", "BACKJOB_CONNECT_TO": connect_to}
