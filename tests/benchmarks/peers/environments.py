"""The virtual environments of the contenders: made once, in a cache directory outside of the source tree, and used again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from tests.benchmarks.peers.contenders import Contender

__all__ = ["cache_directory", "program_of"]


def cache_directory() -> Path:
    """Where the environments are, unless the caller says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "backjob-peers"


def program_of(contender: Contender, name: str, cache: Path) -> str:
    """The path of a program in the contender's environment, which is made if it does not exist yet."""
    if not contender.packages:
        return str(Path(sys.executable).with_name(name))
    directory = cache / directory_name(contender)
    complete = directory / "complete"
    if not complete.exists():
        print(f"installing {', '.join(contender.packages)} in {directory}", file=sys.stderr, flush=True)
        venv.create(directory, with_pip=True, clear=True)
        command = [str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", *contender.packages]
        subprocess.run(command, check=True, timeout=600)
        complete.touch()
    return str(directory / "bin" / name)


def directory_name(contender: Contender) -> str:
    """The name of its environment: another one for other packages or another Python."""
    key = " ".join([sys.version, *contender.packages])
    name = contender.packages[0].partition("[")[0]
    return f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
