"""Every example of README and docs is code, and those that are files or applications run as they are printed."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.pages import PAGES, README, ROOT, Block, blocks, flask_example

PYTHON_BLOCKS = [block for page in PAGES for block in blocks(page) if block.language in ("python", "py")]
PAGES_WITH_FILES = sorted({block.page.name for block in PYTHON_BLOCKS if block.title.startswith("test_")})
LONG = (
    "batch",
    "sequence",
    "race",
    "filter",
    "many_changes",
    "threads",
    "among",
    "midst",
    "identical",
    "pieces",
    "by_one",
    "Shared",
)
QUICK = {"own-store.md": " and ".join(f"not {word}" for word in LONG)}
"""Pages whose tests take long, and which of them are quick."""


def run_files_of(page: str, directory: Path, *options: str, patience: float = 100.0) -> None:
    """Save the page's files and the README's application, and run pytest there as a reader would."""
    (directory / "app.py").write_text(flask_example(), encoding="utf-8")
    for block in blocks(ROOT / "docs" / page):
        if block.title:
            (directory / block.title).write_text(block.code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *options],
        cwd=directory,
        env={name: value for name, value in os.environ.items() if name not in ("PYTEST_ADDOPTS", "SECRET_KEY")}
        | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=str)
def test_a_python_block_compiles_and_knows_its_imports(block: Block) -> None:
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
    """The block so that ``return`` may stand in it, as it does in excerpts of a view; a whole file stays as it is."""
    if "from __future__" in code:
        return code
    return "def page():\n" + textwrap.indent(code, "    ")


def test_there_are_pages_with_files() -> None:
    assert {"testing.md", "own-store.md", "own-transport.md", "own-signer.md"} <= set(PAGES_WITH_FILES)


@pytest.mark.parametrize("page", PAGES_WITH_FILES)
def test_the_files_of_a_page_pass_their_own_tests(page: str, tmp_path: Path) -> None:
    run_files_of(page, tmp_path, *(("-k", QUICK[page]) if page in QUICK else ()))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", sorted(QUICK))
def test_the_files_of_a_page_pass_their_slow_tests_too(page: str, tmp_path: Path) -> None:
    run_files_of(page, tmp_path, patience=280.0)


def test_the_quickstart_has_the_very_application_of_the_readme() -> None:
    assert [block.code for block in blocks(ROOT / "docs" / "quickstart.md") if block.title == "app.py"] == [
        flask_example()
    ]


@pytest.mark.parametrize("marker", ["demo-command", "test-command"])
def test_the_readme_has_its_command_in_a_single_line(marker: str) -> None:
    [command] = [block for block in blocks(README) if block.marker == marker]
    assert command.language == "sh"
    assert len(command.code.splitlines()) == 1
    assert command.code.startswith("python3 -m venv .venv && ")
