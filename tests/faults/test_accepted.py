"""What `start()` has accepted stays, whatever becomes of the process; what it can not keep, it refuses."""

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


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("count", [1, 7])
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
    found = store.find(Query(scope="killed", status=Status.STARTED))
    requests = sorted((job.request.target, job.request.body) for job in found if job.request is not None)
    assert requests == [(f"/work?n={n}", b"rows=all") for n in range(count)]
    store.close()


REFUSED = f"""
import os, sys
from pathlib import Path
from backjob import BackJob
from backjob.errors import BackJobError
from backjob.signing import MessageSigner
from backjob.stores.sqlite import SQLiteStore

class Nothing:
    capacity = None
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
    jobs.monitor.ensure_running = lambda: None
    jobs.start("/work", as_current_user=False)
except BackJobError as error:
    print(type(error).__name__, str(error))
print("sent", Nothing.sent)
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that anybody can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
        directory.chmod(0o755)


def test_start_on_a_store_that_can_not_be_written_is_refused_and_sends_nothing(open_directory: Path) -> None:
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
    told, sent = done.stdout.splitlines()
    assert told.startswith(f"StoreUnusable {path}: "), (done.stdout, done.stderr)
    assert sent == "sent 0"
    open_directory.chmod(0o755)
    assert path.read_bytes() == before


def test_start_on_a_file_that_became_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    path.write_text("a letter to the editor\n" * 200)
    world = bench(store=SQLiteStore(path, create_table=False))
    with pytest.raises(StoreUnusable, match=str(path)):
        world.start()
    assert not world.transport.sent
    assert path.read_text() == "a letter to the editor\n" * 200
