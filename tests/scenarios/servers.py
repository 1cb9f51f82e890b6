"""Real servers, each in processes of its own, on sockets that are listening before the server is started.

A `Kind` says how a server is started and what is special about it; `running` starts one for an app, waits until it
answers, and ends it.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

import trustme
from attrs import field, frozen

from tests.scenarios.client import Client

__all__ = ["KINDS", "Kind", "Server", "daphne", "gunicorn", "running"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_START_TIMEOUT: Final = 30.0
_END_TIMEOUT: Final = 5.0
_LOG_SHOWN: Final = 6000


@frozen(kw_only=True)
class Kind:
    """A server. ``workers`` is how many requests it can serve at once; ``raw_path`` whether it shows the target as sent.

    ``address`` says how its application knows its own address: "learnt" from the socket, or "configured" with a host
    name that leads nowhere and an address to connect to. ``host`` is what its socket is bound to. ``verbs`` is whether it
    takes methods of one's own. ``only`` is what the names of the apps begin with that it serves, if not all.
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

    def __str__(self) -> str:
        return self.name


@frozen
class Server:
    """A running server. ``log`` is the file of what it and its app say."""

    kind: Kind
    process: subprocess.Popen[bytes]
    client: Client
    log: Path

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-_LOG_SHOWN:]

    def kill(self) -> None:
        """End it without a warning, its workers too."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_END_TIMEOUT)


def _python(server: str) -> Callable[[str, socket.socket, Path], list[str]]:
    def command(app: str, listening: socket.socket, _directory: Path) -> list[str]:
        return [sys.executable, "-m", "tests.scenarios.serve", server, app, str(listening.fileno())]

    return command


def _runserver(app: str, listening: socket.socket, _directory: Path) -> list[str]:
    return [sys.executable, "-m", "tests.scenarios.runserver", app, str(listening.fileno())]


def gunicorn(*options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """The command of gunicorn with these options."""

    def command(app: str, listening: socket.socket, directory: Path) -> list[str]:
        own = ["--bind", f"fd://{listening.fileno()}", "--graceful-timeout", "1", "--no-control-socket"]
        if (directory / "server.pem").exists():
            own += ["--certfile", str(directory / "server.pem"), "--keyfile", str(directory / "server.pem")]
        return [sys.executable, "-m", "gunicorn", *own, *options, app]

    return command


def uvicorn(*options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """The command of uvicorn with these options."""

    def command(app: str, listening: socket.socket, _directory: Path) -> list[str]:
        own = ["--fd", str(listening.fileno()), "--log-level", "warning", "--timeout-graceful-shutdown", "1"]
        return [sys.executable, "-m", "uvicorn", *own, *options, app]

    return command


def hypercorn(*options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """The command of hypercorn with these options."""

    def command(app: str, listening: socket.socket, _directory: Path) -> list[str]:
        own = ["--bind", f"fd://{listening.fileno()}", "--graceful-timeout", "1"]
        return [sys.executable, "-m", "hypercorn", *own, *options, app]

    return command


def daphne(*options: str) -> Callable[[str, socket.socket, Path], list[str]]:
    """The command of daphne with these options."""

    def command(app: str, listening: socket.socket, _directory: Path) -> list[str]:
        return [sys.executable, "-m", "daphne", "--fd", str(listening.fileno()), "-v", "0", *options, app]

    return command


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(name="wsgiref", command=_python("wsgiref"), raw_path=False),
        Kind(name="werkzeug", command=_python("werkzeug"), workers=40),
        Kind(name="runserver", command=_runserver, workers=40, raw_path=False, only="django"),
        Kind(name="waitress", command=_python("waitress"), workers=4),
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
        Kind(name="granian", command=_python("granian-asgi"), gateway="asgi", workers=40),
        Kind(name="granian-wsgi", command=_python("granian-wsgi"), workers=4, raw_path=False, only="plain"),
        Kind(name="daphne", command=daphne(), gateway="asgi", workers=40),
        Kind(name="gunicorn-unix", command=gunicorn("--workers=1"), listens="unix", address="configured"),
        Kind(name="gunicorn-tls", command=gunicorn("--workers=1"), listens="tls", address="configured"),
    )
}


@contextmanager
def running(kind: Kind, app: str, directory: Path, settings: Mapping[str, str]) -> Iterator[Server]:
    """The server within its block. ``settings`` are environment variables; ``directory`` is for its log and the like."""
    # A unix socket is not below the test's own directory, whose name may be longer than the path of one can be.
    with tempfile.TemporaryDirectory() as short:
        server = _started(kind, app, directory, settings, f"{short}/app.sock")
        try:
            _wait_until_ready(server)
            yield server
        finally:
            server.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(_END_TIMEOUT)
            server.kill()


def _started(kind: Kind, app: str, directory: Path, settings: Mapping[str, str], unix_path: str) -> Server:
    log = directory / "server.log"
    with _listening(kind, directory, unix_path) as (listening, client, address), log.open("wb") as output:
        process = subprocess.Popen(
            kind.command(app, listening, directory),
            cwd=_ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **address, **settings},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[listening.fileno()],
            start_new_session=True,
        )
    return Server(kind, process, client, log)


def _wait_until_ready(server: Server) -> None:
    # The socket listens already: this waits in its backlog, or fails at once if the server has died.
    try:
        page = server.client.request("GET", "/ready", timeout=_START_TIMEOUT)
    except OSError as error:
        raise AssertionError(f"{server.kind} does not serve: {error}\n{server.tail()}") from error
    assert page.status == 200, server.tail()


@contextmanager
def _listening(kind: Kind, directory: Path, unix_path: str) -> Iterator[tuple[socket.socket, Client, dict[str, str]]]:
    """A listening socket, a client for it, and the settings by which the app knows its address."""
    if kind.listens == "unix":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(unix_path)
            listening.listen(128)
            yield listening, Client(unix_path), _settings(kind, "http", f"unix:{unix_path}")
        return
    family = socket.AF_INET6 if ":" in kind.host else socket.AF_INET
    with socket.create_server((kind.host, 0), family=family, backlog=128) as listening:
        port = listening.getsockname()[1]
        local = ("::1" if family == socket.AF_INET6 else "127.0.0.1", port)
        if kind.listens == "tls":
            authority, certificate = trustme.CA(), directory / "server.pem"
            authority.issue_cert("shop.example", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
            authority.cert_pem.write_to_path(directory / "authority.pem")
            own = _settings(kind, "https", f"https://127.0.0.1:{port}")
            # An application that learns its address takes the authorities of the system, as OpenSSL's variable says.
            own["SSL_CERT_FILE" if kind.address == "learnt" else "SCENARIO_AUTHORITY"] = str(
                directory / "authority.pem"
            )
            yield listening, Client(local, ssl.create_default_context(cafile=directory / "authority.pem")), own
        else:
            yield listening, Client(local), _settings(kind, "http", f"127.0.0.1:{port}")


def _settings(kind: Kind, scheme: str, connect_to: str) -> dict[str, str]:
    if kind.address == "learnt":
        return {}
    return {"BACKJOB_BASE_URL": f"{scheme}://shop.example", "BACKJOB_CONNECT_TO": connect_to}
