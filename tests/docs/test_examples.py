"""Every Python block of README and docs compiles, and the files that pages show pass their own tests."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import PAGES, README, ROOT, Block, blocks

PYTHON_BLOCKS = [block for page in PAGES for block in blocks(page) if block.language in ("python", "py")]
PAGES_WITH_FILES = sorted({block.page.name for block in PYTHON_BLOCKS if block.title.startswith("test_")})
LONG = ("batch", "sequence", "race", "filter", "many_changes", "threads", "among", "identical", "by_one", "Shared")  # fmt: skip
QUICK = f"not indexed_store or not ({' or '.join(LONG)})"
"""Deselects the long tests of own-store.md."""


def run_the_files_of(pages: list[str], directory: Path, *options: str, timeout: float) -> None:
    """Save the files of the pages and of the Quickstart into one directory, and run pytest there as a reader would."""
    for block in (block for page in ("quickstart.md", *pages) for block in blocks(ROOT / "docs" / page) if block.title):
        file = directory / block.title
        assert not file.exists(), f"{block}: another page has a file of this name"
        file.parent.mkdir(exist_ok=True)
        file.write_text(block.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *_plugin(), *options],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name not in ("PYTEST_ADDOPTS", "SECRET_KEY")}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def _plugin() -> list[str]:
    """The options that load our plugin, which has no entry point in a checkout that is not installed."""
    name = "backjob.testing.plugin"
    return [] if any(one.value == name for one in entry_points(group="pytest11")) else ["-p", name]


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=str)
def test_a_python_block_compiles_and_its_imports_exist(block: Block) -> None:
    tree = ast.parse(textwrap.dedent(_as_function(block.code)), str(block))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "backjob":
            module = __import__(node.module or "", fromlist=["*"])
            missing = [name.name for name in node.names if not _has(module, name.name)]
            assert not missing, f"{node.module} has no {missing}"


def _has(module: ModuleType, name: str) -> bool:
    return hasattr(module, name) or (
        hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.{name}") is not None
    )


def _as_function(code: str) -> str:
    """Wrap the block into a function, because excerpts of a view contain ``return``; a whole file stays as it is."""
    if "from __future__" in code:
        return code
    return "def page():\n" + textwrap.indent(code, "    ")


@pytest.mark.slow
def test_the_files_of_all_pages_pass_their_own_tests(tmp_path: Path) -> None:
    assert {"testing.md", "own-store.md", "own-transport.md", "own-signer.md"} <= set(PAGES_WITH_FILES)
    run_the_files_of(PAGES_WITH_FILES, tmp_path, "-k", QUICK, timeout=100)


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_the_store_of_own_store_passes_its_long_tests(tmp_path: Path) -> None:
    run_the_files_of(["own-store.md"], tmp_path, timeout=280)


@pytest.mark.parametrize("marker", ["demo-command", "test-command"])
def test_a_command_of_the_readme_is_a_single_line(marker: str) -> None:
    [command] = [block for block in blocks(README) if block.marker == marker]
    assert command.language == "sh"
    assert len(command.code.splitlines()) == 1
    assert command.code.startswith("python3 -m venv .venv && ")
