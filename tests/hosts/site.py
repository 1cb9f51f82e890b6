"""One site on several hosts: gunicorn on each, nginx in front as in `docs/recipes/balancer.conf`, one PostgreSQL behind."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import psycopg
from attrs import define, evolve, frozen

from backjob.protocols import Store
from backjob.stores import open_store
from tests.hosts.network import Host, Network, network
from tests.private_servers import POSTGRES, ServerKind, Templates, private_server
from tests.recipes.sites import NGINX, RECIPES
from tests.scenarios.client import WAIT, Client
from tests.scenarios.fronts import found
from tests.scenarios.sites import KEY

__all__ = ["HostedSite", "Server", "hosted_site"]

_ROOT: Final = Path(__file__).parents[2]
_PORT: Final = 8000
_FRONT_PORT: Final = 8080


@define
class Server:
    """gunicorn on a host. Actions write their lines to ``directory / "runs"``, see `tests.faults.killed_app`."""

    host: Host
    directory: Path
    environment: dict[str, str]
    threads: int
    _process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> Client:
        """A client that connects to this host, past the balancer."""
        return Client((self.host.address, _PORT))

    def start(self) -> None:
        """Start it, and wait until it responds."""
        command = [sys.executable, "-m", "gunicorn", "--bind", f"0.0.0.0:{_PORT}", "--worker-class", "gthread"]
        command += ["--threads", str(self.threads), "--no-control-socket", "tests.faults.killed_app:app"]
        with (self.directory / "server.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.host.command(command),
                cwd=_ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + WAIT
        while not self.responds():
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.05)

    def responds(self) -> bool:
        with suppress(OSError):
            return self.client.get("/ready", timeout=2).status == 200
        return False

    def kill(self) -> None:
        """Kill every process on the host."""
        self.host.kill()
        if self._process is not None:
            self._process.wait(WAIT)

    def lines(self) -> list[list[str]]:
        """The lines that actions wrote here: what happened, the job, its run, the process."""
        path = self.directory / "runs"
        return [line.split() for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    def has_run(self, word: str, job_id: str) -> bool:
        """Whether a line says so of a job."""
        return any(line[:2] == [word, job_id] for line in self.lines())

    def tail(self) -> str:
        """The end of the log."""
        log = (self.directory / "server.log").read_text(encoding="utf-8", errors="replace")
        return f"== {self.host.name}\n{log[-3000:]}"


@frozen
class HostedSite:
    """``client`` connects to the balancer. ``store`` reads the jobs, and ends none."""

    servers: tuple[Server, ...]
    client: Client
    store: Store

    def start_one(self, target: str) -> list[str]:
        """Start jobs by a request through the balancer, like a visitor who tries again after an error. Returns their ids."""
        deadline = time.monotonic() + WAIT
        while True:
            with suppress(OSError):
                page = self.client.get(target, timeout=10)
                if page.status == 200:
                    return page.text.split()
            assert time.monotonic() < deadline, self.logs()

    def logs(self) -> str:
        return "\n".join(server.tail() for server in self.servers)


@contextmanager
def hosted_site(directory: Path, *, hosts: int, threads: int, **settings: str) -> Iterator[HostedSite]:
    """Run the site during the block. All is removed afterwards, also if the block or the start fails."""
    with ExitStack() as stack:
        made = stack.enter_context(network(hosts))
        templates = stack.enter_context(Templates.made())
        url = stack.enter_context(private_server(_postgres(made), templates)).url
        store = stack.enter_context(closing(open_store(url)))
        servers = []
        for host in made.hosts:
            own = directory / host.name
            own.mkdir()
            environment = {"BACKJOB_STORE": url, "BACKJOB_KEY": KEY, "RUNS": str(own / "runs"), **settings}
            server = Server(host, own, environment, threads)
            stack.callback(server.kill)
            server.start()
            servers.append(server)
        stack.enter_context(_balancer(directory, made))
        yield HostedSite(tuple(servers), Client((made.address, _FRONT_PORT)), store)


def _postgres(made: Network) -> ServerKind:
    """A PostgreSQL that the hosts reach."""
    initialise, command = POSTGRES.initialise, POSTGRES.command
    assert initialise is not None

    def reachable(path: Path) -> list[str]:
        rule = f"echo 'host all all {made.address}/24 trust' >> {shlex.quote(str(path))}/pg_hba.conf"
        return ["/bin/sh", "-c", f"{shlex.join(initialise(path))} && {rule}"]

    def connect(port: int) -> None:
        psycopg.connect(host=made.address, port=port, user="postgres", dbname="postgres", connect_timeout=5).close()

    return evolve(
        POSTGRES,
        initialise=reachable,
        command=lambda path, port: [*command(path, port), "-c", f"listen_addresses={made.address}"],
        connect=connect,
        location=f"postgres@{made.address}:{{port}}/postgres",
    )


@contextmanager
def _balancer(directory: Path, made: Network) -> Iterator[None]:
    text = (RECIPES / "balancer.conf").read_text(encoding="utf-8")
    for number, host in enumerate(made.hosts):
        text, replaced = re.subn(rf"10\.0\.0\.{11 + number}:8000", f"{host.address}:{_PORT}", text)
        assert replaced == 1
    text = text.replace("listen 80;", f"listen {made.address}:{_FRONT_PORT};")
    (directory / "nginx.conf").write_text(text, encoding="utf-8")
    main = directory / "main.conf"
    main.write_text(NGINX.format(directory=directory, user="user root;"), encoding="utf-8")
    log = directory / "nginx.log"
    command = [found("nginx"), "-e", str(log), "-p", str(directory), "-c", str(main)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        deadline = time.monotonic() + WAIT
        client = Client((made.address, _FRONT_PORT))
        while True:
            with suppress(OSError):
                if client.get("/ready").status == 200:
                    break
            assert time.monotonic() < deadline, log.read_text(encoding="utf-8")
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(WAIT)
