"""The examples of docs/engines.md run with the engines' own workers, on a private Redis server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, blocks
from tests.private_servers import REDIS, PrivateServer, Templates, private_server

pytestmark = [pytest.mark.slow, pytest.mark.services]

_CELERY, _ANY, *_ = [block.code for block in blocks(ROOT / "docs" / "engines.md") if block.title == "shop.py"]
_CODE: Final = {block.title: block.code for block in blocks(ROOT / "docs" / "engines.md") if block.title}
_IN_CODE: Final = "redis://127.0.0.1:6379/0"
_PYTHON: Final = Path(sys.executable).parent
_START: Final = """
from shop import jobs
job_id = jobs.start("/reports/run", as_current_user=False, queue="heavy")
"""
_END: Final = """
state = jobs.join(job_id, 60)
print(state.status.name, jobs.output(job_id).text)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PrivateServer]:
    """A Redis server."""
    with Templates.made() as templates, private_server(REDIS, templates) as server:
        yield server


def environment(server: PrivateServer) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        "PYTHONPATH": str(ROOT),
        "SECRET_KEY": "the secret of this page, e1b6b4f8a7d05c",
        "BROKER_URL": server.url,
        "OBJC_DISABLE_INITIALIZE_FORK_SAFETY": "YES",
    }


@contextmanager
def worker(command: list[str], directory: Path, variables: Mapping[str, str]) -> Iterator[None]:
    """Run a worker during the block."""
    with (directory / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [str(_PYTHON / command[0]), *command[1:]],
            cwd=directory,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(code: str, directory: Path, variables: Mapping[str, str]) -> str:
    """The output of a program."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env=variables,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    log = directory / "worker.log"
    assert done.returncode == 0, done.stderr + (log.read_text(errors="replace") if log.exists() else "")
    return done.stdout


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("by_rq", ["rq", "worker", "heavy", "--url", _IN_CODE]),
        pytest.param(
            "by_dramatiq",
            ["dramatiq", "by_dramatiq", "--processes", "1", "--threads", "1"],
            marks=pytest.mark.nightly,
        ),
        pytest.param("by_huey", ["huey_consumer", "by_huey.huey", "--workers", "4"], marks=pytest.mark.nightly),
    ],
)
def test_an_engine_of_ten_lines_runs_a_job_in_its_worker(
    server: PrivateServer, tmp_path: Path, module: str, command: list[str]
) -> None:
    for name, code in ((f"{module}.py", _CODE[f"{module}.py"]), ("shop.py", _ANY.replace("by_rq", module))):
        (tmp_path / name).write_text(code.replace(_IN_CODE, server.url))
    assert " ".join(command[:2]) in (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    variables = environment(server)
    with worker([word.replace(_IN_CODE, server.url) for word in command], tmp_path, variables):
        assert run(_START + _END, tmp_path, variables).startswith(
            "COMPLETED written by process "
        )  # there is no web server


def test_a_command_runs_a_job_in_its_own_process(server: PrivateServer, tmp_path: Path) -> None:
    (tmp_path / "by_nothing.py").write_text("def dispatch(job_id): pass\n")
    (tmp_path / "shop.py").write_text(_ANY.replace("by_rq", "by_nothing"))
    variables = environment(server)
    job_id = run(_START + "print(job_id)", tmp_path, variables).strip()
    command = ["deliver", job_id, "--app", "shop:jobs", "--in-process", "--json"]
    state = json.loads(run(f"import sys; from backjob.cli import main; sys.exit(main({command}))", tmp_path, variables))
    assert state["status_name"] == "COMPLETED"


def test_celery_runs_a_job_of_a_flask_application(server: PrivateServer, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(_CELERY)
    variables = environment(server)
    with worker(["celery", "-A", "shop:celery", "worker", "--concurrency", "1"], tmp_path, variables):
        job_id = run(_START + "print(job_id)", tmp_path, variables).strip()  # this program ends at once
        end = f"from shop import jobs; job_id = {job_id!r}\n{_END}"
        assert run(end, tmp_path, variables) == "COMPLETED The report is ready.\n"


def test_a_celery_worker_of_a_django_site_has_the_task(server: PrivateServer, tmp_path: Path) -> None:
    site = tmp_path / "shop"
    site.mkdir()
    (site / "__init__.py").write_text("from shop.celery import app\n")
    (site / "celery.py").write_text(_CODE["shop/celery.py"])
    more = """
        import os
        SECRET_KEY = os.environ["SECRET_KEY"]
        INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "backjob.django"]
        ROOT_URLCONF = "shop.urls"
        MIDDLEWARE = ["backjob.django.middleware.BackJobMiddleware"]
        DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.db"}}
        USE_TZ = True
    """
    (site / "urls.py").write_text("urlpatterns = []\n")
    (site / "settings.py").write_text(_CODE["shop/settings.py"] + textwrap.dedent(more))
    # As the worker does it.
    code = """
        from shop.celery import app
        app.loader.import_default_modules()
        from backjob.django import jobs
        print("backjob.deliver" in app.tasks, list(app.backjob_tasks["backjob.deliver"].attached) == [jobs])
    """
    assert run(textwrap.dedent(code), tmp_path, environment(server)) == "True True\n"
