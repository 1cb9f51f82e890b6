"""nginx and Apache with two sites on one port: the default site is a stranger's, and `shop.example` is ours."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.scenarios.client import Client, wait_until
from tests.scenarios.servers import Kind, Server

__all__ = ["apache", "found", "nginx", "process", "require", "uwsgi"]

_ROOT: Final = Path(__file__).resolve().parents[2]
_MODULES: Final = Path("/usr/lib/apache2/modules")
_END_TIMEOUT: Final = 10.0


def require(*programs: str) -> None:
    """Skip the test if a program or a module of Apache is missing, or with ``CI`` in the environment, fail it."""
    __tracebackhide__ = True
    missing = [name for name in programs if _program(name) is None and not (_MODULES / name).exists()]
    if missing:
        reason = f"{missing[0]} is not installed"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def nginx(directory: Path, port: int, strangers_port: int, ours: str) -> Iterator[None]:
    """Run nginx during the block. ``ours`` are the directives for our site, such as ``proxy_pass …;``."""
    config = directory / "nginx.conf"
    paths = "".join(
        f"{name}_temp_path {directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(f"""
        daemon off;
        pid {directory}/nginx.pid;
        error_log {directory}/nginx.log;
        {"user root;" if os.geteuid() == 0 else ""}
        events {{}}
        http {{
            access_log off;
            {paths}
            server {{
                listen 127.0.0.1:{port} default_server;
                location / {{ proxy_pass http://127.0.0.1:{strangers_port}; }}
            }}
            server {{
                listen 127.0.0.1:{port};
                server_name shop.example;
                location / {{ {ours} }}
            }}
        }}
    """)
    command = [found("nginx"), "-e", f"{directory}/nginx.log", "-p", str(directory), "-c", str(config)]
    with process(command, directory / "nginx.out", {}) as running:
        wait_until(lambda: _answers(running, Client(("127.0.0.1", port)), directory / "nginx.out"))
        yield


def uwsgi(app: str, path: Path) -> list[str]:
    """The command for uWSGI on this unix socket, speaking its own protocol."""
    options = ["--socket", str(path), "--module", f"tests.scenarios.apps.{app}", "--master", "--threads", "4"]
    return [found("uwsgi"), *options, "--enable-threads", "--die-on-term", "--virtualenv", sys.prefix]


@contextmanager
def apache(
    directory: Path, port: int, strangers_port: int, app: str, environment: Mapping[str, str]
) -> Iterator[Server]:
    """Run Apache during the block, with our site in mod_wsgi. As root it runs as www-data, which gets the directory."""
    script, config = directory / "site.wsgi", directory / "apache.conf"
    variables = "".join(f"os.environ[{name!r}] = {value!r}\n" for name, value in environment.items())
    script.write_text(f"import os\n{variables}from tests.scenarios.apps.{app} import app as application\n")
    modules = ("mpm_event", "authz_core", "proxy", "proxy_http", "wsgi")
    loaded = "\n".join(f"LoadModule {name}_module {_MODULES}/mod_{name}.so" for name in modules)
    search = f"{_ROOT}:{sysconfig.get_path('purelib')}"
    config.write_text(f"""
        {loaded}
        ServerName default.example
        PidFile {directory}/apache.pid
        ErrorLog {directory}/server.log
        DefaultRuntimeDir {directory}
        WSGISocketPrefix {directory}/wsgi
        WSGIDaemonProcess ours threads=4 python-path={search}
        Listen 127.0.0.1:{port}
        <VirtualHost 127.0.0.1:{port}>
            ServerName stranger.example
            ProxyPass / http://127.0.0.1:{strangers_port}/
        </VirtualHost>
        <VirtualHost 127.0.0.1:{port}>
            ServerName shop.example
            WSGIProcessGroup ours
            WSGIApplicationGroup %{{GLOBAL}}
            WSGIPassAuthorization On
            WSGIScriptAlias / {script}
            <Directory {directory}>
                Require all granted
            </Directory>
        </VirtualHost>
    """)
    user = pwd.getpwnam("www-data") if os.geteuid() == 0 else None
    if user is not None:
        for path in (directory, *directory.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
    output, log = directory / "apache.out", directory / "server.log"
    kind, client = Kind(name="mod_wsgi", command=lambda *_: [], workers=4), Client(("127.0.0.1", port))
    command = [found("apache2"), "-f", str(config), "-D", "FOREGROUND"]
    with process(command, output, {}, user) as running:
        wait_until(lambda: _answers(running, client, output))
        yield Server(kind, running, client, log)


def _answers(process: subprocess.Popen[bytes], client: Client, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return client.get("/ready").text == "ready"
    except OSError:
        return False


@contextmanager
def process(
    command: list[str], log: Path, environment: Mapping[str, str], user: pwd.struct_passwd | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process during the block, as this user or as the one that runs the tests."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            user=user and user.pw_uid,
            group=user and user.pw_gid,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program(name: str) -> str | None:
    directories = [os.environ.get("PATH", ""), str(Path(sys.executable).parent), "/usr/sbin", "/usr/local/sbin"]
    return shutil.which(name, path=os.pathsep.join(directories))


def found(name: str) -> str:
    """The path of a program that `require` has found."""
    program = _program(name)
    assert program is not None, name
    return program
