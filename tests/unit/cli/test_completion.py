"""Completion of the command line, as argcomplete sees it and in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from contextlib import closing
from pathlib import Path
from typing import Final

import pexpect
import pytest

from backjob.cli import main
from backjob.cli.completion import SHELLS, complete
from backjob.cli.parser import parser_of
from backjob.model import Draft, Request
from backjob.stores import open_store

pytest.importorskip("argcomplete", reason="completion needs it: pip install 'backjob[completion]'")

ROOT: Final = Path(__file__).parents[3]
TIMEOUT: Final = 60.0  # s
NAMES: Final = ("job-first", "job-second")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a store with two jobs."""
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with closing(open_store(url)) as store:
        for name in NAMES:
            store.create(Draft(id=name, request=Request("GET", "/work"), title=f"The {name}"))
    return url


@pytest.fixture
def environment(tmp_path: Path, url: str) -> dict[str, str]:
    """An environment in which ``backjob`` is this checkout's program and has that store."""
    program = tmp_path / "bin" / "backjob"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m backjob "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BACKJOB_")}
    return {
        **inherited,
        "PATH": path,
        "BACKJOB_STORE": url,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "TERM": "xterm",
    }


def completions(environment: dict[str, str], line: str) -> list[str]:
    """Return what the program offers for the end of this line."""
    words = subprocess.run(
        ["bash", "-c", "backjob 8>&1 9>/dev/null >/dev/null"],
        env=environment
        | {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return sorted(word.strip() for word in words.stdout.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("backjob wa", ["wait", "watch"]),
        ("backjob show job-", list(NAMES)),
        ("backjob list --before job-f", ["job-first"]),
        ("backjob list --status ru", ["running"]),
        ("backjob list --quie", ["--quiet"]),
        ("backjob completion ", sorted(SHELLS)),
        ("backjob show --store sqlite:///nothing.db job-", []),
        ("backjob show --store nonsense job-", []),
    ],
)
def test_commands_options_and_ids_are_completed(environment: dict[str, str], line: str, offered: list[str]) -> None:
    found = completions(environment, line)
    if line.endswith(" "):
        found = [word for word in found if not word.startswith("-")]
    assert found == offered


def test_a_command_that_no_shell_completes_loads_no_argcomplete(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "argcomplete"]:
        monkeypatch.delitem(sys.modules, name)
    complete(parser_of("backjob", None))
    assert main(["list", "-q", "--store", url]) == 0
    assert "argcomplete" not in sys.modules
    assert capsys.readouterr().out.split() == list(reversed(NAMES))


def test_without_argcomplete_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    assert main(["completion", "bash"]) == 78
    assert "pip install 'backjob[completion]'" in capsys.readouterr().err
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    complete(parser_of("backjob", None))  # a shell that asks is not told anything


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "setup"),
    [
        ("bash", ["--norc", "--noprofile"], 'bind "set bell-style none"; eval "$(backjob completion bash)"'),
        ("zsh", ["-f"], 'autoload -U compinit; compinit -D; eval "$(backjob completion zsh)"'),
    ],
)
def test_the_tab_key_completes_a_command_and_an_id(
    environment: dict[str, str], tmp_path: Path, name: str, options: list[str], setup: str
) -> None:
    with warnings.catch_warnings():
        # Python 3.12 and later warn about forks in a process with threads; the child only calls exec.
        warnings.simplefilter("ignore", DeprecationWarning)
        spawned = pexpect.spawn(
            shell(name), options, env=environment, cwd=str(tmp_path), encoding="utf-8", timeout=TIMEOUT
        )
    try:
        spawned.sendline(f"PS1='rea''dy> '; {setup}; echo set' 'up")
        spawned.expect("set up\r")
        spawned.expect("ready> ")
        spawned.send("backjob cance\t")
        spawned.expect("cancel")
        spawned.send("job-f\t")
        spawned.expect("irst")
    finally:
        spawned.close(force=True)


@pytest.mark.slow
def test_fish_completes_a_command_and_an_id(environment: dict[str, str], tmp_path: Path) -> None:
    code = "backjob completion fish | source; complete -C 'backjob cance'; complete -C 'backjob show job-f'"
    done = subprocess.run(
        [shell("fish"), "--no-config", "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["cancel", "job-first"]
    assert "The job-first" in done.stdout
