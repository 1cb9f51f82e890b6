"""A process that is killed while it keeps a file leaves nothing that is not deleted with its job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from backjob.files import DirectoryFiles
from backjob.model import Status
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock
from tests.unit.core import bench

CHILD: Final = """
import os, signal, sys
from backjob.files import DirectoryFiles
from backjob.stores.sqlite import SQLiteStore
from backjob.testing import FakeClock
from backjob.worker.outcomes import Outcome
from tests.unit.core import bench

class Kills(DirectoryFiles):
    def write(self, job_id, name, content):
        class Content:
            def read(self, size=-1):
                if content.tell():
                    os.kill(os.getpid(), signal.SIGKILL)
                return content.read(1000)
        super().write(job_id, name, Content())

clock = FakeClock()
world = bench(store=SQLiteStore(sys.argv[1], clock=clock), clock=clock, files=Kills(sys.argv[2]))
running = world.run()
with running.active():
    world.jobs.finish(file=bytes(100_000), name="rows.csv")
world.engine.worker.end(running, Outcome(200))
"""


def test_a_killed_process_leaves_no_file_without_a_job(tmp_path: Path) -> None:
    path, files = tmp_path / "jobs.db", DirectoryFiles(tmp_path / "files")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), str(files.directory)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    left = [found for found in files.directory.rglob("*") if found.is_file()]
    assert len(left) == 1  # a part of it, under another name
    clock = FakeClock()
    store = SQLiteStore(path, clock=clock)
    try:
        world = bench(store=store, clock=clock, files=files)
        [state] = world.jobs.find()
        assert (state.status, state.file) == (Status.IN_PROGRESS, None)
        world.jobs.cancel(state.id)
        clock.advance(61 * 86400.0)
        assert world.jobs.cleanup() == 1
        assert not world.jobs.exists(state.id)
        assert [found for found in files.directory.rglob("*") if found.is_file()] == []
    finally:
        store.close()
