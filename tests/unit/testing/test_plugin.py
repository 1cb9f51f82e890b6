"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[3]
PLUGIN: Final = "backjob.testing.plugin"

APPLICATION: Final = """
import secrets
from flask import Flask
from backjob.flask import BackJob

app = Flask(__name__)
app.config.update(SECRET_KEY=secrets.token_hex(), TESTING=True)
jobs = BackJob()

@app.get("/work")
def work():
    return {"rows": 3}

@app.post("/export")
def export():
    return jobs.start("work", as_current_user=False)
"""
CONFTEST: Final = """
import pytest
import shop

@pytest.fixture
def backjob_app(tmp_path):
    if not hasattr(shop.app, "backjob_is_set_up"):
        shop.app.config["BACKJOB_STORE"] = f"sqlite:///{tmp_path}/jobs.db"
        shop.jobs.init_app(shop.app)
        shop.app.backjob_is_set_up = True
    return shop.jobs, shop.app
"""
TESTS: Final = """
import shop

def test_recorded(backjob_recorded):
    shop.app.test_client().post("/export")
    assert [job.request.target for job in backjob_recorded] == ["/work"]

def test_immediate(backjob_immediate):
    job_id = shop.app.test_client().post("/export").text
    with shop.app.app_context():
        assert backjob_immediate.status(job_id).result == {"rows": 3}
"""


def run_pytest(directory: Path) -> str:
    options = ["-q", "-p", "no:cacheprovider"]
    if not any(one.value == PLUGIN for one in entry_points(group="pytest11")):
        options += ["-p", PLUGIN]  # in a checkout that is not installed
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(directory)],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.stdout + done.stderr


LOADERS: Final = """
import importlib, pkgutil
from backjob import testing

def test_each_module_is_rewritten():
    names = [module.name for module in pkgutil.walk_packages(testing.__path__, "backjob.testing.")]
    loaders = {name: type(importlib.import_module(name).__loader__).__name__ for name in names}
    del loaders["backjob.testing.plugin"]
    assert len(loaders) > 30
    assert set(loaders.values()) == {"AssertionRewritingHook"}, loaders
"""


@pytest.mark.slow
def test_failures_of_every_suite_show_values_if_the_plugin_is_loaded_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "test_loaders.py"
    file.write_text(LOADERS, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", PLUGIN, str(file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_the_fixtures_run_and_record_the_jobs_of_the_users_application(tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name, text in {"shop": APPLICATION, "conftest": CONFTEST, "test_shop": TESTS}.items():
        (site / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "test_without.py").write_text("def test_it(backjob_immediate): pass", encoding="utf-8")
    output = run_pytest(tmp_path)
    assert "2 passed, 1 error" in output
    assert "override the fixture backjob_app" in output


def test_the_plugin_is_an_entry_point_and_imports_no_more_than_the_package_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"backjob": PLUGIN}
    code = (
        "import sys, pytest, backjob; before = set(sys.modules);"
        f"import {PLUGIN}; print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["backjob.testing", PLUGIN, "pkgutil"]
