"""The files of docs/django.md and docs/from-celery-progress.md work in a new project, and the tables of the former agree with the code."""

from __future__ import annotations

import ast
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, blocks

pytest.importorskip("django", reason="the page is about Django: pip install 'backjob[django]'")

KEY: Final = secrets.token_urlsafe(50)
PAGE: Final = ROOT / "docs" / "django.md"
REST: Final = re.compile(r"^(\w+) = \[\n((?:    .*\n)*?)    # …\n\]", re.MULTILINE)
"""A list whose beginning the page shows."""


def run(directory: Path, *arguments: str) -> str:
    """Run Python in that directory, without settings in the environment, and return the output."""
    kept = {name: value for name, value in os.environ.items() if name not in ("DJANGO_SETTINGS_MODULE", "SECRET_KEY")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env={**kept, "PYTHONPATH": str(ROOT), "SECRET_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("page", "tests"), [("django.md", 3), ("from-celery-progress.md", 1)])
def test_a_new_project_runs_jobs_with_the_files_of_the_page(tmp_path: Path, page: str, tests: int) -> None:
    run(tmp_path, "-m", "django", "startproject", "shop", ".")
    for block in blocks(ROOT / "docs" / page):
        if block.title == "shop/settings.py":
            code, lists = REST.subn(r"\1 = [\n\2    *\1,\n]", block.code)
            assert lists == 2
            with (tmp_path / block.title).open("a", encoding="utf-8") as settings:
                settings.write("\n" + code)
        elif block.title:
            (tmp_path / block.title).parent.mkdir(exist_ok=True)
            (tmp_path / block.title).write_text(block.code, encoding="utf-8")
    run(tmp_path, "manage.py", "migrate")
    run(tmp_path, "manage.py", "check", "--fail-level", "WARNING")
    assert f"Ran {tests} test" in run(tmp_path, "manage.py", "test")


def test_the_page_lists_exactly_the_checks() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "backjob" / "django").rglob("*.py"))
    listed = re.findall(r"^\| (backjob\.[EW]\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(set(re.findall(r"backjob\.[EW]\d{3}", code)))


def test_the_page_names_every_command() -> None:
    commands = ROOT / "backjob" / "django" / "management" / "commands"
    there = {path.stem for path in commands.glob("backjob_*.py")}
    assert set(re.findall(r"manage\.py (backjob_\w+)", PAGE.read_text(encoding="utf-8"))) == there


@pytest.mark.parametrize(
    "path", ["docs/django.md", "docs/from-celery-progress.md", "docs/examples/django_report/settings.py"]
)
def test_every_example_has_the_options_for_sqlite_that_the_check_asks_for(path: str) -> None:
    from backjob.django.checks import SQLITE_OPTIONS

    found = re.findall(
        r"OPTIONS\"[\]:] ?=? ?({\D+?\"timeout\".*?})", (ROOT / path).read_text(encoding="utf-8"), re.DOTALL
    )
    assert [ast.literal_eval(re.sub(r"#.*", "", one)) for one in found] == [SQLITE_OPTIONS]
