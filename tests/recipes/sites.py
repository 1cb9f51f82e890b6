"""Starts the servers of `docs/recipes/`, from the very files that docs/production.md shows, on free ports of loopback."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from attrs import field, frozen

from tests.ports import free_port
from tests.scenarios.client import Client
from tests.scenarios.fronts import found

__all__ = ["NGINX", "RECIPES", "Site", "option", "variables"]

_ROOT: Final = Path(__file__).resolve().parents[2]
RECIPES: Final = _ROOT / "docs" / "recipes"
_ADDRESS: Final = "127.0.0.1:8000"  # the application's in all recipes
_WAIT: Final = 40.0
_LOG_SHOWN: Final = 5000
NGINX: Final = """
daemon off;
pid {directory}/nginx.pid;
{user}
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    include {directory}/nginx.conf;
}}
"""


def option(unit: str, name: str) -> str:
    """The value of an option of a systemd unit."""
    [value] = options(RECIPES / unit, name)
    return value


def options(unit: Path, name: str) -> list[str]:
    """The values of an option that a systemd unit may repeat."""
    lines = unit.read_text(encoding="utf-8").splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def variables(file: str) -> dict[str, str]:
    """The variables of an environment file, as systemd reads it."""
    lines = (RECIPES / file).read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("=") for line in lines if not line.startswith("#")]
    return {name: shlex.split(value)[0] for name, _, value in pairs}


@frozen
class Site:
    """An installed site: the recipes' files in a directory, with free ports instead of 8000 and 80, and one key."""

    directory: Path
    upstream: int = field(factory=free_port)
    front: int = field(factory=free_port)
    key: str = field(factory=lambda: secrets.token_urlsafe(32), repr=False)

    def __attrs_post_init__(self) -> None:
        self.directory.mkdir(exist_ok=True)
        for path in RECIPES.glob("*.*"):
            text = path.read_text(encoding="utf-8").replace(_ADDRESS, f"127.0.0.1:{self.upstream}")
            text = text.replace("listen 80;", f"listen 127.0.0.1:{self.front};")
            (self.directory / path.name).write_text(text, encoding="utf-8")

    @property
    def client(self) -> Client:
        """A browser, which connects to the proxy."""
        return Client(("127.0.0.1", self.front))

    # --- processes ---------------------------------------------------------------------------------------------------

    @contextmanager
    def gunicorn(self, command: Sequence[str] = (), **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command of `shop.service`, or another one, with the variables of `shop.env`."""
        environment = {**variables("shop.env"), "FLASK_SECRET_KEY": self.key, **settings}
        command = command or shlex.split(option("shop.service", "ExecStart"))
        with self._running(_with_this_python(command), environment, "gunicorn.log") as process:
            yield process

    @contextmanager
    def uvicorn(self, listening: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
        """The command of `shop-uvicorn.service`, with the variables of its file, and a socket that systemd would keep."""
        environment = {**variables("shop-uvicorn.env"), "BACKJOB_KEY": self.key}
        line = option("shop-uvicorn.service", "ExecStart").replace("--fd 3", f"--fd {listening.fileno()}")
        command = _with_this_python(shlex.split(line))
        with self._running(command, environment, "uvicorn.log", [listening.fileno()]) as process:
            yield process

    def listen(self) -> socket.socket:
        """The socket of `shop-uvicorn.socket`."""
        assert option("shop-uvicorn.socket", "ListenStream") == _ADDRESS
        return socket.create_server(("127.0.0.1", self.upstream), backlog=128)

    @contextmanager
    def nginx(self) -> Iterator[None]:
        """Nginx with the site of `nginx.conf`."""
        config = self.directory / "main.conf"
        user = "user root;" if os.geteuid() == 0 else ""
        config.write_text(NGINX.format(directory=self.directory, user=user), encoding="utf-8")
        log = str(self.directory / "nginx-error.log")
        with self._running([found("nginx"), "-e", log, "-p", str(self.directory), "-c", str(config)], {}, "nginx.log"):
            yield

    @contextmanager
    def caddy(self, upstreams: str = "") -> Iterator[None]:
        """Caddy with the `Caddyfile`."""
        settings = {
            "SITE": f"http://127.0.0.1:{self.front}, http://shop.example:{self.front}",
            "UPSTREAM": upstreams or f"127.0.0.1:{self.upstream}",
            "HOME": str(self.directory),
            "XDG_DATA_HOME": str(self.directory),
            "XDG_CONFIG_HOME": str(self.directory),
        }
        config = self.directory / "Caddyfile"
        text = "{\n\tadmin off\n}\n" + (RECIPES / "Caddyfile").read_text(encoding="utf-8")
        config.write_text(text, encoding="utf-8")
        command = [found("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]
        with self._running(command, settings, "caddy.log"):
            yield

    @contextmanager
    def _running(
        self, command: Sequence[str], environment: Mapping[str, str], log: str, pass_fds: Sequence[int] = ()
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a process in the site's directory, as systemd does, and end it with its children after the block."""
        own = {name: value.replace("/var/lib/shop", str(self.directory)) for name, value in environment.items()}
        with (self.directory / log).open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(_ROOT), **own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                start_new_session=True,
            )
        with ExitStack() as ending:
            ending.callback(process.wait, _WAIT)
            ending.callback(_kill, process)
            yield process

    def reload(self, server: subprocess.Popen[bytes]) -> None:
        """Run `systemctl reload shop`."""
        for line in options(self.directory / "shop.service", "ExecReload"):
            subprocess.run(shlex.split(line.replace("$MAINPID", str(server.pid))), check=True, timeout=_WAIT)

    # --- a visitor ---------------------------------------------------------------------------------------------------

    def wait_until_ready(self) -> None:
        """Wait for the home page."""
        self.until(self.is_ready)

    def is_ready(self) -> bool:
        """Whether the home page comes through the proxy."""
        try:
            return self.client.get("/").status == 200
        except OSError:
            return False

    def press(self, target: str) -> str:
        """Press a button, past the proxy, so that it is this server that runs the job. Returns the job's status address."""
        page = Client(("127.0.0.1", self.upstream)).request("POST", target, body=b"")
        assert page.status == 202, (page.text, self.logs())
        url: str = page.json()["url"]
        return url

    def state(self, url: str) -> dict[str, Any]:
        """The state of a job."""
        page = self.client.get(url, headers={"Accept": "application/json"})
        assert page.status == 200, (page.status, page.text, self.logs())
        state: dict[str, Any] = page.json()
        return state

    def rows(self, url: str) -> list[int]:
        """The rows that a job has printed so far."""
        page = self.client.get(f"{url}/output", headers={"Accept": "text/plain"})
        assert page.status == 200, (page.status, page.text, self.logs())
        whole_lines = page.text.rpartition("\n")[0]  # print() may have written only the beginning of the last one
        return [int(line.removeprefix("row ")) for line in whole_lines.splitlines()]

    def until(self, condition: Callable[[], bool]) -> None:
        """Poll a condition until it is satisfied. If it never is, the error shows the logs."""
        deadline = time.monotonic() + _WAIT
        while not condition():
            assert time.monotonic() < deadline, self.logs()
            time.sleep(0.02)

    def logs(self) -> str:
        """The end of each log."""
        texts = {path.name: path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log"))}
        return "\n".join(f"== {name}\n{text[-_LOG_SHOWN:]}" for name, text in texts.items())


def _with_this_python(command: Sequence[str]) -> list[str]:
    """A command whose program is in /srv/shop/.venv, with the environment of this Python instead."""
    program, *arguments = command
    return [sys.executable, "-m", Path(program).name, *arguments]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, which are in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
