"""An accepted job survives the death of its process, and `start()` refuses what it can't store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backjob import Status
from backjob.errors import StoreUnusable
from backjob.model import Query
from backjob.stores.sqlite import SQLiteStore
from tests.scenarios.client import WAIT
from tests.scenarios.sites import KEY
from tests.unit.core import bench

ROOT = Path(__file__).parents[2]

ACCEPTING = f"""
import os, signal, sys
from backjob import BackJob
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore
from backjob.transports.sockets import SocketTransport

store = SQLiteStore(sys.argv[1], durability=sys.argv[2])
jobs = BackJob(store, SocketTransport("http://127.0.0.1:9"), MessageSigner({KEY!r}))
for n in range(int(sys.argv[3])):
    job_id = jobs.start("/work", {{"n": n}}, method="POST", body=b"rows=all", scope="killed", as_current_user=False)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("durability", "count"),
    [
        ("process", 7),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("process", 1), ("power", 1), ("power", 7)]),
    ],
)
def test_a_job_survives_sigkill_right_after_start(tmp_path: Path, durability: str, count: int) -> None:
    path = tmp_path / "jobs.db"
    done = subprocess.run(
        [sys.executable, "-c", ACCEPTING, path, durability, str(count)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")
    store = SQLiteStore(path)
    ids = [job.id for job in store.find(Query(scope="killed", status=Status.STARTED))]
    found = [job for job_id in ids if (job := store.get(job_id, body=True)) is not None]
    requests = sorted((job.request.target, job.request.body) for job in found if job.request is not None)
    assert requests == [(f"/work?n={n}", b"rows=all") for n in range(count)]
    store.close()


REFUSED = f"""
import os, sys
from pathlib import Path
from backjob import BackJob
from backjob.errors import BackJobError
from backjob.jobs import engine_of
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore

class Nothing:
    capacity = None
    in_process = True
    sent = 0
    def send(self, delivery):
        Nothing.sent += 1
        raise RuntimeError
    def close(self):
        pass

path = Path(sys.argv[1])
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
try:
    jobs = BackJob(SQLiteStore(path, create_table=False), Nothing(), MessageSigner({KEY!r}))
    engine_of(jobs).monitor.ensure_running = lambda: None
    jobs.start("/work", as_current_user=False)
except BackJobError as error:
    print(type(error).__name__, str(error))
print("sent", Nothing.sent)
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that any user can enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
        directory.chmod(0o755)


def test_start_with_a_read_only_store_fails_and_sends_nothing(open_directory: Path) -> None:
    path = open_directory / "jobs.db"
    SQLiteStore(path).close()
    before = path.read_bytes()
    path.chmod(0o444)
    open_directory.chmod(0o555)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, path],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )
    error, sent = done.stdout.splitlines()
    assert error.startswith(f"StoreUnusable {path}: "), (done.stdout, done.stderr)
    assert sent == "sent 0"
    open_directory.chmod(0o755)
    assert path.read_bytes() == before


def test_start_with_a_file_that_is_not_a_database_fails(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_text("a letter to the editor\n" * 200)
    world = bench(store=SQLiteStore(path, create_table=False))
    with pytest.raises(StoreUnusable, match=str(path)):
        world.start()
    assert not world.transport.sent
    assert path.read_text() == "a letter to the editor\n" * 200
