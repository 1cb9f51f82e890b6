"""Rules for modules that import-linter (in pyproject.toml) can't check: what an import loads at run time, and how long a module is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = (
    "flask", "django", "starlette", "sqlalchemy", "redis", "cryptography", "sqlite3", "werkzeug", "pytest",
    "opentelemetry", "prometheus_client", "structlog", "sentry_sdk", "backjob.telemetry",
    "asyncio",  # takes a third of the time of importing this package
    "argparse", "backjob.cli", "decimal", "importlib.resources", "shutil", "ssl", "subprocess", "tempfile",
    "uuid", "zipfile",
)  # fmt: skip
MOST_MODULES = 148
"""Of this package, for jobs. Each takes about 0.4 ms; add one where it makes the code clearer, and raise this number."""

SITE = """
import socket, sys, threading, time, urllib.request
import waitress.server
from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport
from backjob.wsgi import BackJobMiddleware

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/start":
        return [jobs.start("/work").encode()]
    if environ["PATH_INFO"] == "/work":
        print("works")
        jobs.update(50, "half of it")
        list(jobs.track(range(3)))
    return [b"done"]

jobs = BackJob(SQLiteStore(sys.argv[1]), SocketTransport, MessageSigner("k9fj3kd93jf93kd03kf93kd93kfla93kd9"))
listening = socket.create_server(("127.0.0.1", 0))
server = waitress.server.create_server(BackJobMiddleware(application, jobs), sockets=[listening], threads=4)
url = "http://127.0.0.1:%d" % listening.getsockname()[1]
threading.Thread(target=server.run, daemon=True).start()
at_first = set(sys.modules)
job_id = urllib.request.urlopen(url + "/start").read().decode()
until = time.monotonic() + 30
while not jobs.status(job_id).status.is_final and time.monotonic() < until:
    time.sleep(0.05)
assert jobs.status(job_id).status.name == "COMPLETED"
page = urllib.request.Request(url + jobs.status_url(job_id), headers={"Accept": "text/html"})
assert b"half of it" in urllib.request.urlopen(page).read()
assert b"half of it" in urllib.request.urlopen(url + jobs.status_url(job_id)).read()
print(*[name for name in sys.modules if name not in at_first and name.startswith("backjob")])
"""

FIRST_USES = """
import sys, threading
import backjob
sys.setswitchinterval(1e-5)
statements = [
    "backjob.BackJob", "backjob.JobState", "backjob.Output", "backjob.Status",
    "from backjob import BackJob, JobState", "from backjob.signing import MessageSigner",
    "from backjob.stores import open_store", "from backjob.transports.sockets import SocketTransport",
    "from backjob.wsgi import BackJobMiddleware", "from backjob.protocols import Store",
]
together = threading.Barrier(len(statements))
def run(statement):
    together.wait()
    exec(statement)
    done.append(statement)
done = []
threads = [threading.Thread(target=run, args=[statement]) for statement in statements]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(statements) - len(done))
"""


def output_of(program: str, *arguments: str) -> list[str]:
    """Run a program in a new interpreter, and return the words that it prints."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout.split()


def loaded_by(statement: str, prefixes: tuple[str, ...] = ("backjob",)) -> list[str]:
    """Return the modules that a statement loads, of those with one of these names or below them."""
    found = output_of(
        f"import attrs, h11, sys; at_first = set(sys.modules); {statement}; print(*{{*sys.modules}} - at_first)"
    )
    return [name for name in found if any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)]


def test_importing_the_package_loads_its_errors_alone() -> None:
    assert sorted(loaded_by("import backjob")) == ["backjob", "backjob.errors"]


def test_importing_the_package_loads_no_framework_and_no_driver() -> None:
    """Nor anything that few jobs need."""
    assert loaded_by("from backjob import BackJob", FRAMEWORKS) == []


def test_jobs_need_no_more_modules_than_today() -> None:
    assert len(loaded_by("from backjob import BackJob")) <= MOST_MODULES


@pytest.mark.parametrize(
    "name", ["protocols", "errors", "signing", "stores", "transports.sockets", "redaction", "testing"]
)
def test_a_part_of_the_package_loads_no_engine(name: str) -> None:
    assert loaded_by(f"import backjob.{name}", ("backjob.jobs", "backjob.delivery", "backjob.status")) == []


def test_a_flask_site_loads_no_command_line() -> None:
    assert loaded_by("import flask; import backjob.flask", ("backjob.cli",)) == []


def test_a_site_loads_everything_before_its_first_request(tmp_path: Path) -> None:
    assert output_of(SITE, str(tmp_path / "jobs.db")) == []


@pytest.mark.parametrize(
    ("url", "module"), [(None, "backjob.stores.sqlite"), ("redis://127.0.0.1", "redis"), ("mysql://", "sqlalchemy")]
)
def test_a_flask_site_loads_its_store_before_its_first_request(url: str | None, module: str) -> None:
    made = f"app = flask.Flask('site'); app.config['BACKJOB_STORE'] = {url!r}; backjob.flask.BackJob(app)"
    assert module in loaded_by(f"import flask; import backjob.flask; {made}", (module,))


def test_a_django_site_loads_its_store_before_its_first_request() -> None:
    configured = "settings.configure(INSTALLED_APPS=['django.contrib.contenttypes', 'backjob.django'])"
    made = "from backjob.django.middleware import BackJobMiddleware; BackJobMiddleware(print)"
    program = f"from django.conf import settings; {configured}; import django; django.setup(); {made}"
    assert "backjob.django.store" in loaded_by(program)


def test_threads_may_use_the_public_names_for_the_first_time_at_once() -> None:
    assert output_of(FIRST_USES) == ["0"]


def test_no_module_has_more_than_400_lines() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "backjob").rglob("*.py")}
    assert len(lines) > 100
    assert {str(path.relative_to(ROOT)): count for path, count in lines.items() if count > 400} == {}
