"""How `SQLiteStore` creates its file: whatever the umask, through a link, and without dropping locks."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from backjob.errors import StoreUnavailable
from backjob.stores.sqlite import SQLiteStore

pytestmark = pytest.mark.skipif(os.name != "posix", reason="only POSIX systems have these modes")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("mask", [0o077, 0o277])
def test_the_user_can_read_and_write_the_file_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    with umask(mask):
        SQLiteStore(tmp_path / "jobs.db").close()
    assert mode(tmp_path / "jobs.db") == 0o600


def test_a_link_to_a_file_that_does_not_exist_yet_creates_it_for_the_user_alone(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").symlink_to(tmp_path / "data.db")
    with umask(0):
        SQLiteStore(tmp_path / "jobs.db").close()
    assert mode(tmp_path / "data.db") == 0o600


def test_opening_a_store_leaves_the_locks_of_other_connections_in_the_process_alone(tmp_path: Path) -> None:
    path = tmp_path / "jobs.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE other (id INTEGER)")
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            SQLiteStore(path, busy_timeout=0)
        write = f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0).execute('INSERT INTO other VALUES (1)')"
        child = subprocess.run([sys.executable, "-c", write], capture_output=True, text=True, timeout=60, check=False)
        assert "database is locked" in child.stderr
