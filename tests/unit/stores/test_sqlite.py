"""`SQLiteStore` beyond the contract: bad files, forks, kills, other processes, and its connections."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from backjob.errors import InvalidRequest, StoreError, StoreUnavailable, StoreUnusable
from backjob.lifecycle import claimed, completed, ended
from backjob.model import Draft, Expect, Query, Report, Request, Status
from backjob.protocols import Store
from backjob.stores.sqlite import SQLiteStore
from backjob.stores.sqlite import connections as connections_module
from backjob.stores.sqlite.connections import Connections, Reading, Transaction, Writing
from backjob.testing import FakeClock

PATIENCE = 60


def draft(job_id: str, **fields: Any) -> Draft:
    return Draft(id=job_id, request=Request("GET", "/work"), **fields)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(path, clock=FakeClock())) as store:
        yield store


def sql(path: Path, *statements: str) -> list[Any]:
    """Execute statements on the file without the store; return the rows of the last one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements[:-1]:
            connection.execute(statement)
        return connection.execute(statements[-1]).fetchall()


# --- files that are not as they should be ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        ({"path": ""}, "path"),
        ({"path": ":memory:"}, "path"),
        ({"durability": "total"}, "durability"),
        ({"busy_timeout": -1}, "busy_timeout"),
        ({"busy_timeout": float("nan")}, "busy_timeout"),
        ({"table_name": ""}, "table_name"),
        ({"table_name": "1st"}, "table_name"),
        ({"table_name": "a b"}, "table_name"),
        ({"table_name": 'a"; DROP TABLE b; --'}, "table_name"),
        ({"table_name": "größe"}, "table_name"),
        ({"table_name": "sqlite_jobs"}, "table_name"),
        ({"table_name": "jobs\n"}, "table_name"),
    ],
)
def test_an_invalid_argument_is_refused_by_name(tmp_path: Path, arguments: dict[str, Any], refused: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SQLiteStore(**{"path": tmp_path / "jobs.db", **arguments})
    assert caught.value.argument == refused
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=r"no directory.*nowhere"):
        SQLiteStore(tmp_path / "nowhere" / "jobs.db")


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_no_other_user_can_read_the_files(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with closing(SQLiteStore(path)) as store:
            store.create(Draft(id="job", request=Request("GET", "/work")))
            files = sorted(path.parent.glob(f"{path.name}*"))
            assert [file.name.removeprefix(path.name) for file in files] == ["", "-shm", "-wal"]
            assert [oct(file.stat().st_mode & 0o777) for file in files] == ["0o600"] * 3
    finally:
        os.umask(before)


def test_the_mode_of_an_existing_file_stays(path: Path) -> None:
    path.touch()
    path.chmod(0o640)
    SQLiteStore(path).close()
    assert oct(path.stat().st_mode & 0o777) == "0o640"


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable, match=str(tmp_path)):
        SQLiteStore(tmp_path)


def test_a_file_that_is_not_a_database_is_not_touched(path: Path) -> None:
    text = "Dear diary, " * 1000
    path.write_text(text)
    with pytest.raises(StoreUnusable, match=f"{path.name}: this file is not an SQLite database"):
        SQLiteStore(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    "layout",
    [
        "CREATE TABLE backjob (id TEXT, status INTEGER)",
        "CREATE TABLE backjob_output (id TEXT)",
    ],
)
def test_a_table_of_another_layout_is_refused(path: Path, layout: str) -> None:
    sql(path, layout)
    with pytest.raises(StoreUnusable, match=r"jobs\.db: the tables of 'backjob' have another layout.*table_name"):
        SQLiteStore(path)
    assert len(sql(path, "SELECT name FROM sqlite_master WHERE type = 'table'")) == 1


def test_an_additional_column_is_another_layout(path: Path, store: SQLiteStore) -> None:
    sql(path, "ALTER TABLE backjob ADD COLUMN colour TEXT")
    with pytest.raises(StoreUnusable, match="another layout"):
        SQLiteStore(path)


def test_a_damaged_database_is_reported_as_such(path: Path, store: SQLiteStore) -> None:
    for number in range(200):
        store.create(draft(f"{number}"))
    store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    with pytest.raises(StoreUnusable, match=r"jobs\.db: the database is corrupt"):
        SQLiteStore(path).find(Query())


def test_without_create_table_the_file_is_not_touched_until_the_first_call(path: Path) -> None:
    store = SQLiteStore(path, create_table=False)
    assert not path.exists()
    with pytest.raises(StoreUnusable, match="no such file"):
        store.get("job")
    assert not path.exists()
    sql(path, "CREATE TABLE mine (x)")
    with pytest.raises(StoreUnusable, match=r"no table 'backjob'.*create_table=True"):
        store.create(draft("job"))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SQLiteStore.schema())
    store.create(draft("job"))
    assert store.get("job") is not None
    store.close()


def test_a_file_that_was_deleted_is_not_recreated_silently(path: Path, store: SQLiteStore) -> None:
    store.create(draft("job"))
    store.close()
    path.unlink()
    with pytest.raises(StoreUnusable, match="no such file"):
        store.get("job")
    assert not path.exists()


def as_nobody(call: Callable[[], object]) -> str:
    """The error that the call raises in an unprivileged child process, as "Kind: text", or an empty text."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setegid(65534)
                os.seteuid(65534)
            call()
            text = ""
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def test_a_file_that_cannot_be_written_is_reported_with_what_to_do(open_directory: Path) -> None:
    path = open_directory / "jobs.db"
    SQLiteStore(path).close()
    path.chmod(0o444)
    open_directory.chmod(0o555)
    message = as_nobody(lambda: SQLiteStore(path).create(draft("job")))
    assert message.startswith(f"StoreUnusable: {path}: "), message
    assert "writable" in message or "check the permissions" in message


def test_a_directory_that_cannot_be_written_is_reported(open_directory: Path) -> None:
    open_directory.chmod(0o555)
    message = as_nobody(lambda: SQLiteStore(open_directory / "jobs.db"))
    assert message.startswith(f"StoreUnusable: {open_directory}/jobs.db: can't be opened or created"), message


def test_several_stores_share_a_file_with_other_tables(path: Path) -> None:
    sql(path, "PRAGMA user_version = 42", "CREATE TABLE mine (x)", "INSERT INTO mine VALUES (1)")
    first, second = SQLiteStore(path, table_name="order"), SQLiteStore(path, table_name="Jobs_2")
    first.create(draft("job"))
    assert second.get("job") is None
    assert sql(path, "SELECT x FROM mine") == [(1,)]
    assert sql(path, "PRAGMA user_version") == [(42,)]
    first.close()
    second.close()


def test_a_relative_path_survives_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore("a ?#%41ü.db")
    monkeypatch.chdir("/")
    store.create(draft("job"))
    assert (tmp_path / "a ?#%41ü.db").is_file()
    store.close()


def test_durability_sets_how_commits_are_synchronised(path: Path) -> None:
    for durability, level in (("process", 1), ("power", 2)):
        store = SQLiteStore(path, durability=durability)  # type: ignore[arg-type]
        assert store._connections.read("PRAGMA synchronous") == [(level,)]
        assert store._connections.read("PRAGMA journal_mode") == [("wal",)]
        store.close()


def test_the_end_erases_the_request_from_the_tables(path: Path, store: SQLiteStore) -> None:
    request = Request("POST", "/work", (("X-Secret", "one"),), b"secret body")
    for job_id, key in (("first", None), ("second", "key")):
        store.create(Draft(id=job_id, request=request, sealed=b"sealed"), key)
    store.create(Draft(id="merged", request=request), "key")
    assert sql(path, "SELECT body FROM backjob_body") == [(b"secret body",)] * 2
    for job_id in ("first", "second"):
        store.change(job_id, Expect(), ended(completed()))
    assert sql(path, "SELECT * FROM backjob_body") == []
    assert sql(path, "SELECT DISTINCT request, sealed FROM backjob") == [(None, None)]


# --- locks ----------------------------------------------------------------------------------------------------------


def test_a_file_locked_too_long_is_unavailable_and_then_works_again(path: Path) -> None:
    store = SQLiteStore(path, busy_timeout=0.05)
    store.create(draft("job"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for call in (
            lambda: store.create(draft("second")),
            lambda: store.create(draft("second"), "key"),
            lambda: store.change("job", *claimed("token", 1, 18)),
            lambda: store.take_due("me", 5, 5),
        ):
            with pytest.raises(StoreUnavailable, match="locked"):
                call()
        job = store.get("job")
        assert job is not None
        assert job.status is Status.STARTED
        other.execute("ROLLBACK")
    assert [job.id for job in store.take_due("me", 5, 5)] == ["job"]
    store.close()


def test_a_call_that_has_left_some_jobs_misleads_no_other_one(store: SQLiteStore) -> None:
    for number in range(3):
        store.create(draft(f"{number}", label="mine"))
    assert len(store.take_due("me", 5, 1)) == 1
    assert store.take_due("me", 5, 0) == []
    assert len(store.take_due("me", 5, 1)) == 1
    assert store.take_due("me", 5, 1, frozenset(("another",))) == []
    assert len(store.take_due("me", 5, 10)) == 1
    assert store.take_due("me", 5, 10) == []


def test_a_thread_that_waits_too_long_for_its_turn_gets_an_error(path: Path) -> None:
    store = SQLiteStore(path, busy_timeout=0.05)
    with ThreadPoolExecutor() as threads:
        with Transaction(store._connections), pytest.raises(StoreUnavailable, match="other threads"):
            threads.submit(store.create, draft("job")).result(PATIENCE)
        store.create(draft("job"))
    store.close()


class InterruptedTurn:
    """A lock whose owner is interrupted by a signal handler at the moment in which it gets the lock."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.release = self.lock.release

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.lock.acquire(blocking, timeout)
        raise KeyboardInterrupt


@pytest.mark.parametrize("forks", [False, True])
def test_a_signal_handler_that_raises_leaves_the_turn_to_other_threads(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, forks: bool
) -> None:
    turn = InterruptedTurn()
    with monkeypatch.context() as patched:
        patched.setattr(store._connections.state.get(), "turn", turn)
        with pytest.raises(KeyboardInterrupt):
            store._connections.pause() if forks else store.create(draft("job"))
    with ThreadPoolExecutor() as threads:
        assert threads.submit(turn.lock.acquire, blocking=False).result(PATIENCE)
    assert store.get("job") is None


def test_an_exception_in_a_transaction_rolls_back(store: SQLiteStore) -> None:
    store.create(draft("job"))
    store.change("job", *claimed("token", 1, 18))
    with pytest.raises(InvalidRequest):
        store.create(draft("job"), "key")
    sql(store._connections.path, "DROP TABLE backjob_output")
    with pytest.raises(StoreUnusable, match="no such table"):
        store.report("job", "token", Report(progress=50, output="lost"))
    job = store.get("job")
    assert job is not None
    assert (job.progress, job.output_size, job.version) == (0, 0, 2)


def test_a_beat_needs_no_connection_that_others_use(path: Path, store: SQLiteStore) -> None:
    store.create(draft("job"))
    store.change("job", *claimed("token", 1, 18))
    with ExitStack() as stack:
        for _ in range(30):
            connection = stack.enter_context(Reading(store._connections))
            connection.execute("BEGIN")
            connection.execute("SELECT * FROM backjob").fetchone()
        assert store.beat({"job": "token", "other": "token"}, 60, frozenset()) == {"other"}


def test_a_lease_is_renewed_from_the_moment_of_the_write(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    store = SQLiteStore(path, clock=clock, busy_timeout=PATIENCE)
    store.create(draft("job"))
    store.change("job", *claimed("token", 1, 18))
    waiting = threading.Event()
    kind = type(store._connections.state.get())
    take_turn = kind.take_turn

    def tell_and_take(process: Any, timeout: float) -> bool:
        waiting.set()
        return take_turn(process, timeout)

    with ThreadPoolExecutor(1) as pool:
        with Transaction(store._connections):
            monkeypatch.setattr(kind, "take_turn", tell_and_take)
            stale = pool.submit(store.beat, {"job": "token"}, 18, frozenset[str]())
            assert waiting.wait(PATIENCE)
            clock.advance(15)
        assert stale.result(PATIENCE) == frozenset()
    job = store.get("job")
    assert job is not None
    assert job.lease_until == clock.now() + timedelta(seconds=18)
    store.close()


def test_a_beat_of_many_jobs_is_one_transaction(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        store.create(draft(f"{number}"))
        store.change(f"{number}", *claimed("token", 1, 18))
    transactions: list[Transaction] = []
    enter = Transaction.__enter__

    def counted(transaction: Transaction) -> sqlite3.Connection:
        transactions.append(transaction)
        return enter(transaction)

    monkeypatch.setattr(Transaction, "__enter__", counted)
    monkeypatch.delattr(Connections, "write")
    assert store.beat(dict.fromkeys([f"{number}" for number in range(51)], "token"), 60, frozenset()) == {"50"}
    assert len(transactions) == 1


# --- connections ----------------------------------------------------------------------------------------------------


def open_files(path: Path) -> int:
    """The number of descriptors of this process that are open on the database file."""
    directory = Path("/proc/self/fd")
    if not directory.is_dir():
        pytest.skip("open descriptors are counted in /proc")
    return sum(os.path.realpath(entry) == str(path) for entry in directory.iterdir())


def in_threads(count: int, call: Callable[[], object]) -> None:
    """Make the call from this many threads at the same moment."""
    barrier = threading.Barrier(count, timeout=PATIENCE)
    done: list[bool] = []

    def run() -> None:
        barrier.wait()
        call()
        done.append(True)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(done) == count


def test_a_new_store_has_no_open_connection(path: Path, store: SQLiteStore) -> None:
    assert open_files(path) == 0


def test_ended_threads_leave_no_connections_open(path: Path, store: SQLiteStore) -> None:
    for _ in range(30):
        in_threads(1, lambda: store.get("job"))
    assert open_files(path) == 1


def test_at_most_eight_connections_stay_open(path: Path, store: SQLiteStore) -> None:
    barrier = threading.Barrier(20, timeout=PATIENCE)

    def use_one() -> None:
        with Reading(store._connections):
            barrier.wait()

    in_threads(20, use_one)
    # SQLite keeps a descriptor open until no connection of the process has a lock on the file.
    assert len(store._connections.state.get().idle) == 8
    store.close()
    assert open_files(path) == 0


def test_writers_that_wait_for_each_other_hold_no_connections(
    path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create(draft("job"))
    waiting = threading.Semaphore(0)
    kind = type(store._connections.state.get())
    take_turn = kind.take_turn

    def tell_and_take(process: Any, timeout: float) -> bool:
        waiting.release()
        return take_turn(process, timeout)

    threads = [threading.Thread(target=store.create, args=(draft(f"{number}"),)) for number in range(4)]
    with Writing(store._connections):
        monkeypatch.setattr(kind, "take_turn", tell_and_take)
        for thread in threads:
            thread.start()
        for _ in threads:
            assert waiting.acquire(timeout=PATIENCE)
        assert open_files(path) == 1
    for thread in threads:
        thread.join(PATIENCE)
    assert len(store._connections.state.get().idle) == 1  # it has seen all writes, and need not read them again
    assert len(store.find(Query())) == 5


def test_a_closed_store_still_works_and_keeps_no_connection_open(path: Path, store: SQLiteStore) -> None:
    store.create(draft("job"))
    store.close()
    assert store.get("job") is not None
    assert open_files(path) == 0


# --- forks, kills and other processes -------------------------------------------------------------------------------


def in_child(call: Callable[[], object]) -> int:
    """The exit code of a forked child that makes the call: 0 if it returns True."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if call() is True else 2
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_after_a_fork_parent_and_child_both_work(store: SQLiteStore) -> None:
    store.create(draft("before"))

    def child() -> bool:
        store.create(draft("child"))
        return store.change("before", *claimed("child", 1, 18)) is not None and len(store.find(Query())) == 2

    for _ in range(3):
        store.get("before")
        assert in_child(child) == 0
        job = store.get("before")
        assert job is not None
        assert job.token == "child"
        assert store.change("before", Expect(token="child"), ended(completed())) is not None
        sql(store._connections.path, "DELETE FROM backjob")
        store.create(draft("before"))


def test_a_fork_waits_for_a_write_in_progress(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SQLiteStore(path, busy_timeout=PATIENCE)
    writing, forking = threading.Event(), threading.Event()
    pause = Connections.pause

    def tell_and_pause(connections: Connections) -> Callable[[], None]:
        forking.set()
        return pause(connections)

    monkeypatch.setattr(Connections, "pause", tell_and_pause)

    def write() -> None:
        with Transaction(store._connections) as connection:
            writing.set()
            assert forking.wait(PATIENCE)
            connection.execute("UPDATE backjob SET progress = 1")

    thread = threading.Thread(target=write)
    thread.start()
    assert writing.wait(PATIENCE)
    assert in_child(lambda: store.create(draft("child")).id == "child") == 0
    thread.join(PATIENCE)
    assert store.get("child") is not None
    store.close()


def test_no_call_begins_while_one_of_two_threads_still_forks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child would inherit SQLite's locks of that call, for ever held."""
    store = SQLiteStore(path, busy_timeout=PATIENCE)
    connections = store._connections
    reading = connections.state.get().reading
    forks, forked, waits, may_end = (threading.Event() for _ in range(4))
    wait, wait_for = reading.wait, reading.wait_for

    def wait_for_readers(predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        is_true = wait_for(predicate, timeout)
        forks.set()
        return is_true

    def wait_for_forks(timeout: float | None = None) -> bool:
        waits.set()
        return wait(timeout)

    def fork() -> None:
        resume = connections.pause()
        forked.set()
        assert may_end.wait(PATIENCE)
        resume()

    with ThreadPoolExecutor() as threads:
        end_first = connections.pause()
        monkeypatch.setattr(reading, "wait_for", wait_for_readers)
        second = threads.submit(fork)
        assert forks.wait(PATIENCE)
        end_first()
        assert forked.wait(PATIENCE)
        monkeypatch.setattr(reading, "wait", wait_for_forks)
        reader = threads.submit(store.get, "job")
        reader.add_done_callback(lambda _: waits.set())
        assert waits.wait(PATIENCE)
        has_read = reader.done()
        may_end.set()
        second.result(PATIENCE)
        assert (has_read, reader.result(PATIENCE)) == (False, None)
    store.close()


def test_a_signal_handler_that_raises_while_a_fork_waits_blocks_no_later_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python ignores the error of a fork's hook, so the process goes on."""
    stores = [SQLiteStore(tmp_path / name, busy_timeout=PATIENCE) for name in ("one.db", "two.db")]
    calls = count(1)

    def close_idle(_: Connections) -> None:
        if next(calls) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Connections, "close_idle", close_idle)
        with pytest.raises(KeyboardInterrupt):
            connections_module._before_fork()
    connections_module._after_fork()
    for store in stores:
        with ThreadPoolExecutor() as threads:
            assert threads.submit(store.create, draft("job")).result(PATIENCE).id == "job"
            assert threads.submit(store.get, "job").result(PATIENCE) is not None
        store.close()


def test_a_forked_child_neither_uses_nor_closes_inherited_connections(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.get("job")
    connections = store._connections
    # As uwsgi does, which forks without calling Python's hooks.
    monkeypatch.setattr(type(connections), "pause", lambda self: lambda: None)
    inherited = connections.state.get().idle[0]

    def child() -> bool:
        store.create(draft("child"))
        connections.close()
        inherited.execute("SELECT 1")  # raises if it is closed
        return inherited not in connections.state.get().idle

    assert in_child(child) == 0
    assert connections.state.get().idle == [inherited]
    assert store.get("child") is not None


WRITER = """
import sys
from backjob.lifecycle import claimed
from backjob.model import Draft, Report, Request
from backjob.stores.sqlite import SQLiteStore

store = SQLiteStore(sys.argv[1])
number = 0
while True:
    store.create(Draft(id=str(number), request=Request("GET", "/work")))
    store.change(str(number), *claimed("token", 1, 18))
    store.report(str(number), "token", Report(progress=50, output="line\\n"))
    print(number, flush=True)
    number += 1
"""


def test_accepted_jobs_survive_sigkill(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline().strip() for _ in range(100)]
        process.send_signal(signal.SIGKILL)
        printed += process.stdout.read().split()
        assert process.wait(PATIENCE) == -signal.SIGKILL
    store = SQLiteStore(path)
    for job_id in printed:
        job = store.get(job_id)
        assert job is not None, f"job {job_id} was accepted, and is gone"
        assert (job.status, job.progress, job.output_size) == (Status.IN_PROGRESS, 50, 5)
        assert store.output(job_id).text == "line\n"
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]
    store.close()


CLAIMER = """
import sys
from backjob.lifecycle import claimed
from backjob.model import Draft, Request
from backjob.stores.sqlite import SQLiteStore

sys.stdin.readline()
store = SQLiteStore(sys.argv[1])
won = []
for number in range(100):
    job = store.create(Draft(id=f"{sys.argv[2]}/{number}", request=Request("GET", "/work")), f"key {number}")
    if store.change(job.id, *claimed(sys.argv[2], 1, 18)):
        won.append(number)
print(*won)
"""


@pytest.mark.slow
def test_processes_that_create_a_file_at_once_share_it(path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, path, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("a", "b", "c", "d")
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    won: list[str] = []
    for process in processes:
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
        won += output.split()
    assert sorted(won, key=int) == [f"{number}" for number in range(100)]
    store: Store = SQLiteStore(path)
    assert len(store.find(Query(limit=1000))) == 100
    store.close()


# --- a million ended jobs -------------------------------------------------------------------------------------------


LIVING = (Status.STARTED, Status.IN_PROGRESS)
ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


def searches() -> Iterator[tuple[Query, str]]:
    """Every kind of search, with the index that keeps it from reading the whole table."""
    for owner in (None, "o"):
        for scope in (None, "s"):
            for status in (None, *LIVING):
                yield Query(owner=owner, scope=scope, status=status, overdue=True), "living"
            for status in LIVING:
                yield Query(owner=owner, scope=scope, status=status), "living"
            for status in ENDED:
                yield (
                    Query(owner=owner, scope=scope, status=status),
                    "owned" if owner else "scoped" if scope else "ended",
                )
            for status in ENDED:
                yield Query(owner=owner, scope=scope, status=status, expired=(1, 1), has_file=True), "ageing"
    yield Query(owner="o", queue="exports", text="invoice"), "owned"
    yield Query(owner="o", before="job", before_time=FakeClock().now()), "owned"
    yield Query(owner="o"), "owned"
    yield Query(owner="o", scope="s"), "owned"
    yield Query(scope="s"), "scoped"


@pytest.mark.parametrize(("query", "index"), list(searches()))
def test_every_search_uses_its_index(store: SQLiteStore, query: Query, index: str) -> None:
    names = ("owner", "scope", "status", "queue", "text", "before")
    values = {name: getattr(query, name) for name in names} | {
        "now": 0,
        "limit": 10,
        "ended_before": 0,
        "before_time": 0,
    }
    plan = store._connections.read(f"EXPLAIN QUERY PLAN {store._sql.search(query)}", values)
    steps = " ".join(row[3] for row in plan)
    assert f"backjob_{index}" in steps, steps
    assert "SCAN" not in steps, steps
    if query.overdue:
        assert "backjob_undelivered (deliver_by<?)" in steps, steps
        assert "backjob_expiring (expires<?)" in steps, steps


def test_every_other_query_uses_its_index(store: SQLiteStore) -> None:
    values = dict.fromkeys(("now", "first", "last", "lessee", "until", "limit", "job", "begin", "end"), 1)
    for statement, parameters in (
        *[
            (statement, values | named)
            for template in (store._sql.due_times, store._sql.take_due)
            for labels in (None, frozenset(("a", "b")))
            for full in (frozenset[str](), frozenset(("exports",)))
            for queues in (None, frozenset(("mails",)))
            for statement, named in [store._sql.search_due(template, labels, full, queues)]
        ],
        (store._sql.chunks, values),
        (store._sql.ageing, (2, 1, 1)),
        (store._sql.holder, ("key",)),
        (store._sql.get, ("id",)),
        (store._sql.report, (1, None, None, 0, False, "id", "token")),
        (store._sql.drop_body, (1,)),
        (store._sql.beat, (1, None, "id", "token")),
        (store._sql.runs, ("id", "token")),
        (store._sql.drop_chunks, (1,)),
        (store._sql.add_chunk, (1, b"x", "id")),
        (store._sql.add_tail, (-1, b"x", "id")),
        (store._sql.drop_tail, ("id",)),
        (store._sql.tail, (1,)),
        (store._sql.delete, ("id",)),
    ):
        plan = store._connections.read(f"EXPLAIN QUERY PLAN {statement}", parameters)
        steps = [row[3] for row in plan if row[3] != "SCAN CONSTANT ROW"]
        assert any(step.startswith("SEARCH") for step in steps), steps
        assert not any(step.startswith("SCAN") and "subquery" not in step for step in steps), steps


def test_only_a_delivery_reads_the_body_of_a_request(tmp_path: Path) -> None:
    with closing(SQLiteStore(tmp_path / "jobs.db")) as store:
        store.create(Draft(id="job", request=Request("POST", "/work", body=b"body"), scope="s"))
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
            connection.execute("DROP TABLE backjob_body")
        assert store.get("job") is not None
        assert len(store.find(Query())) == store.count(Query(scope="s")) == 1
        assert store.change("job", *claimed("token", 1, 18)) is not None
        assert store.report("job", "token", Report(progress=5, output="line"))
        with pytest.raises(StoreError):
            store.get("job", body=True)
