"""systemd itself restarts and reloads the recipes' services, with jobs in hand.

A user's manager does it, since a system's one would have to be process 1. It gets the recipes' unit files, without the user and the
state directory that only the system's manager can provide.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from attrs import evolve

from tests.recipes.sites import Site
from tests.recipes.test_recipes import check_both, started
from tests.scenarios.fronts import found, require

_ROOT: Final = Path(__file__).resolve().parents[2]
_WAIT: Final = 90.0

# systemd refuses to start, and systemctl to work, unless this directory shows that a systemd runs. Here it does so for them only.
_PRETENDING: Final = (
    "unshare", "--mount", "--propagation", "private", "sh", "-c",
    'mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system && exec "$@"', "sh",
)  # fmt: skip

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(240)]


def may_mount() -> bool:
    return subprocess.run([*_PRETENDING, "true"], capture_output=True, check=False).returncode == 0


def install(site: Site) -> None:
    """Write the unit files and their environment files, with this site's directory and key."""
    units = site.directory / "config" / "systemd" / "user"
    units.mkdir(parents=True)
    for name in ("shop.env", "shop-uvicorn.env"):
        text = (site.directory / name).read_text(encoding="utf-8").replace("/var/lib/shop", str(site.directory))
        (site.directory / name).write_text(text.replace("put-32-random-bytes-here", site.key), encoding="utf-8")
    for path in site.directory.glob("shop*.s[eo][rc]*"):
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if not line.startswith(("User=", "StateDirectory=")))
        text = text.replace("/srv/shop/.venv/bin/", f"{sys.executable} -m ").replace("/etc/", f"{site.directory}/")
        text = text.replace(
            "WorkingDirectory=/srv/shop", f"Environment=PYTHONPATH={_ROOT}\nWorkingDirectory={site.directory}"
        )
        (units / path.name).write_text(text + "\n", encoding="utf-8")


@contextmanager
def systemd(site: Site) -> Iterator[dict[str, str]]:
    """Run a user's systemd. Yields the environment in which systemctl finds it."""
    runtime = site.directory / "run"
    runtime.mkdir(mode=0o700)
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(runtime), "XDG_CONFIG_HOME": str(site.directory / "config")}
    environment.pop("DBUS_SESSION_BUS_ADDRESS", None)
    with (site.directory / "systemd.log").open("wb") as log:
        command = [*_PRETENDING, found("systemd"), "--user", "--unit=basic.target"]
        manager = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        site.until((runtime / "systemd" / "private").exists)
        yield environment
    finally:
        systemctl(site, environment, "exit")
        manager.wait(_WAIT)


def systemctl(site: Site, environment: dict[str, str], *arguments: str) -> None:
    command = [*_PRETENDING, found("systemctl"), "--user", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_WAIT)
    assert done.returncode == 0, (done.stderr, site.logs())


@pytest.mark.parametrize(("service", "verb"), [("shop", "restart"), ("shop", "reload"), ("shop-uvicorn", "restart")])
def test_systemd_deploys_a_recipe_and_the_next_process_continues_the_job(
    tmp_path: Path, service: str, verb: str
) -> None:
    require("systemd", "systemctl", "unshare", "curl")
    if not may_mount():
        pytest.skip("only root may mount what systemd looks for")
    site = Site(tmp_path)
    site = evolve(site, front=site.upstream)  # without a proxy
    install(site)
    with systemd(site) as environment:
        if service == "shop-uvicorn":
            systemctl(site, environment, "start", "shop-uvicorn.socket")
        systemctl(site, environment, "start", service)
        rows, report = started(site)
        systemctl(site, environment, verb, service)
        check_both(site, rows, report)
        systemctl(site, environment, "stop", service)
