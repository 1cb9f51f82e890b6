"""The files in the sdist and the wheel, and an installation of the wheel."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path
from typing import Final

import pytest
from attrs import frozen

from tests.unit.testing.test_plugin import LOADERS

ROOT: Final = Path(__file__).resolve().parents[2]
MEBIBYTE: Final = 1 << 20
MAX_INSTALLED_SIZE: Final = 3 * MEBIBYTE
TIMEOUT: Final = 110.0

PART_OF_VENV: Final = {"pip", "setuptools"}
CORE: Final = {"backjob", "attrs", "h11", "typing-extensions"}

# To build and to install both takes some commands, which a busy machine runs slowly.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(5 * TIMEOUT)]


@frozen
class Built:
    """An sdist, and the wheel built from it."""

    sdist: Path
    wheel: Path

    def files_of_sdist(self) -> set[str]:
        with tarfile.open(self.sdist) as archive:
            return {member.name.partition("/")[2] for member in archive if member.isfile()}

    def files_of_wheel(self) -> set[str]:
        with zipfile.ZipFile(self.wheel) as archive:
            return set(archive.namelist())


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Return the standard output of a command; fail with all its output if its exit code is not 0."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BACKJOB_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**inherited, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    directory = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT, cwd=directory)
    [sdist], [wheel] = directory.glob("*.tar.gz"), directory.glob("*.whl")
    return Built(sdist, wheel)


@pytest.fixture(scope="module")
def python(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python in an environment with only the wheel and its dependencies."""
    directory = tmp_path_factory.mktemp("venv")
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-compile", built.wheel, cwd=directory)
    return python


def package_files() -> set[str]:
    """Return every file of the package in the checkout."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "backjob").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_wheel_has_every_file_of_the_package_and_no_others(built: Built) -> None:
    in_the_package = {name for name in built.files_of_wheel() if ".dist-info/" not in name}
    assert in_the_package == package_files()
    assert {
        "backjob/py.typed",
        "backjob/status/static/progress.js",
        "backjob/status/static/page.html",
        "backjob/django/locale/de/LC_MESSAGES/django.mo",
        "backjob/django/static/backjob/admin.css",
        "backjob/django/templates/admin/backjob/job/change_form.html",
    } <= in_the_package


def test_the_wheel_has_the_licence_and_the_entry_point(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        [points] = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        assert "backjob = backjob.cli:main" in archive.read(points).decode()
    assert any(name.endswith("/LICENSE") for name in built.files_of_wheel())


def test_the_sdist_has_the_sources_docs_and_tests(built: Built) -> None:
    files = built.files_of_sdist()
    needed = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "mkdocs.yml", "docs/index.md"}
    assert needed | package_files() <= files
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("*.py")}
    assert tests <= files
    assert not [name for name in files if "__pycache__" in name or name.endswith((".db", ".pyc"))]


def test_the_installation_has_only_the_core_dependencies(python: Path, tmp_path: Path) -> None:
    code = "from importlib.metadata import distributions; print(*{one.name for one in distributions()})"
    names = {name.lower().replace("_", "-") for name in run(python, "-c", code, cwd=tmp_path).split()}
    assert names - PART_OF_VENV == CORE


def test_the_installation_is_small(python: Path) -> None:
    [packages] = (python.parents[1] / "lib").glob("python*/site-packages")
    sizes = {
        path: path.stat().st_size
        for path in packages.rglob("*")
        if path.is_file()
        and path.relative_to(packages).parts[0].partition("-")[0]
        not in {*PART_OF_VENV, "pkg_resources", "_distutils_hack"}
    }
    assert sum(sizes.values()) < MAX_INSTALLED_SIZE


def test_the_installed_package_can_be_imported_without_a_framework(python: Path, tmp_path: Path) -> None:
    code = "import backjob, backjob.wsgi, backjob.cli, sys; print(backjob.__file__, 'flask' in sys.modules)"
    file, flask = run(python, "-I", "-c", code, cwd=tmp_path).split()
    assert Path(file).is_relative_to(python.parents[1])
    assert flask == "False"


def test_the_installed_demo_runs_a_job(python: Path, tmp_path: Path) -> None:
    printed = run(python.with_name("backjob"), "demo", "--once", cwd=tmp_path)
    assert "COMPLETED" in printed
    assert list(tmp_path.iterdir()) == []


def test_failures_of_the_installed_suites_show_values(built: Built, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(built.wheel) as archive:
        archive.extractall(site)
    (tmp_path / "test_loaders.py").write_text(
        f"import backjob\nassert backjob.__file__.startswith({str(site)!r})\n{LOADERS}", encoding="utf-8"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_loaders.py"]
    assert "1 passed" in run(*command, cwd=tmp_path, PYTHONPATH=str(site))
