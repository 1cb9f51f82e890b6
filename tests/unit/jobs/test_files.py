"""The files of jobs: from finish() to their deletion, and what a crash leaves."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from backjob.errors import InvalidRequest
from backjob.files import DirectoryFiles, MemoryFiles
from backjob.jobs.states import file_of
from backjob.model import Changes, Expect, Job, Status
from backjob.stores.cache import CacheStore
from backjob.stores.sqlite import SQLiteStore
from backjob.worker.outcomes import Outcome
from backjob.worker.running import Running
from tests.contracts.dict_cache import DictCache
from tests.unit.core import Bench, bench

DAY = 86400.0


@pytest.fixture
def files(tmp_path: Path) -> DirectoryFiles:
    return DirectoryFiles(tmp_path / "files")


@pytest.fixture
def world(files: DirectoryFiles) -> Bench:
    return bench(files=files)


def finish(world: Bench, running: Running, **given: Any) -> None:
    with running.active():
        world.jobs.finish("Exported", **given)


def finished(world: Bench, **given: Any) -> Job:
    running = world.run()
    finish(world, running, **given)
    world.engine.worker.end(running, Outcome(200))
    return world.job(running.job.id)


def content(world: Bench, job: Job) -> bytes:
    with world.jobs.open_file(job.id) as file:
        return file.read()


def paths(files: DirectoryFiles) -> list[Path]:
    return sorted(path for path in files.directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path,
        str,
        lambda path: path.open("rb"),
        lambda path: path.read_bytes(),
        lambda path: bytearray(path.read_bytes()),
        lambda path: io.BytesIO(path.read_bytes()),
    ],
)
def test_finish_takes_a_path_an_open_file_or_bytes(world: Bench, tmp_path: Path, make: Callable[[Path], Any]) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n")
    given = make(path)
    job = finished(world, file=given, name="report.csv")
    if hasattr(given, "close"):
        given.close()
    assert (job.status, job.status_text) == (Status.COMPLETED, "Exported")
    assert file_of(job) == {"name": "report.csv", "type": "text/csv", "size": 4}
    assert content(world, job) == b"a,b\n"


def test_the_name_is_that_of_the_path_unless_one_is_given(world: Bench, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"")
    assert (file_of(finished(world, file=path)) or {})["name"] == "rows.csv"
    with path.open("rb") as file:
        assert (file_of(finished(world, file=file)) or {})["name"] == "rows.csv"


def test_a_job_whose_file_is_missing_has_none_to_open(world: Bench, files: DirectoryFiles) -> None:
    job, without = finished(world, file=b"a", name="a.txt"), finished(world)
    with asyncio.run(world.jobs.aopen_file(job.id)) as file:
        assert file.read() == b"a"
    files.delete(job.id)
    for job_id in (job.id, without.id):
        with pytest.raises(InvalidRequest, match="no file"):
            world.jobs.open_file(job_id)


def test_the_file_is_copied_at_once(world: Bench, tmp_path: Path) -> None:
    running = world.run()
    with tempfile.NamedTemporaryFile(dir=tmp_path, suffix=".txt") as file:
        file.write(b"kept")
        file.flush()
        finish(world, running, file=Path(file.name), name="a.txt")
    world.engine.worker.end(running, Outcome(200))
    assert content(world, world.job(running.job.id)) == b"kept"


@pytest.mark.parametrize(
    ("given", "argument", "words"),
    [
        ({"file": b"x"}, "name", "give the file a name"),
        ({"file": 5, "name": "x"}, "file", "must be a path"),
        ({"file": io.StringIO("text"), "name": "x"}, "file", "binary mode"),
        ({"file": b"12345678901", "name": "x"}, "file", "MAX_FILE"),
    ],
)
def test_what_is_no_file_is_refused_and_the_action_may_go_on(given: Any, argument: str, words: str) -> None:
    world = bench(files=MemoryFiles(), max_file=10)
    running = world.run()
    with running.active():
        with pytest.raises(InvalidRequest, match=words) as caught:
            world.jobs.finish("Exported", **given)
        assert caught.value.argument == argument
        assert (running.finish, running.file) == (None, None)
        world.jobs.finish("without a file")
    world.engine.worker.end(running, Outcome(200))
    assert world.job(running.job.id).status_text == "without a file"


def test_a_path_that_is_not_there_raises_the_systems_error(world: Bench, tmp_path: Path) -> None:
    running = world.run()
    with running.active(), pytest.raises(FileNotFoundError):
        world.jobs.finish(file=tmp_path / "missing", name="x")
    assert running.finish is None


def test_only_the_action_itself_may_give_its_job_a_file(world: Bench) -> None:
    job_id = world.start()
    with pytest.raises(InvalidRequest, match="only the job's own action"):
        world.jobs.finish(job_id=job_id, file=b"x", name="x")
    assert world.job(job_id).status is Status.STARTED


def test_outside_of_a_job_finish_does_nothing(world: Bench) -> None:
    assert world.jobs.finish(file=b"x", name="x") == ""


def test_a_store_that_may_lose_jobs_keeps_no_file() -> None:
    store = CacheStore(DictCache())
    with pytest.raises(InvalidRequest, match="may lose jobs"):
        bench(store=store, files=MemoryFiles())
    world = bench(store=CacheStore(DictCache()))
    running = world.run()
    with running.active(), pytest.raises(InvalidRequest, match="may lose jobs"):
        world.jobs.finish(file=b"x", name="x")


def test_files_are_beside_an_sqlite_file(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "jobs.db")
    try:
        files = bench(store=store).engine.files
        assert isinstance(files, DirectoryFiles)
        assert files.directory == tmp_path / "jobs.db.files"
        assert not files.directory.exists()
    finally:
        store.close()


def test_a_job_that_fails_after_all_has_no_file(world: Bench, files: DirectoryFiles) -> None:
    running = world.run()
    finish(world, running, file=b"x", name="x")
    world.engine.worker.end(running, Outcome(error=KeyError("x")))
    job = world.job(running.job.id)
    assert (job.status, job.file, paths(files)) == (Status.FAILED, None, [])


def test_the_state_shows_no_file_before_the_job_has_succeeded(world: Bench) -> None:
    running = world.run()
    described = {"name": "x", "type": "text/csv", "size": None, "key": "1-x"}
    world.store.change(running.job.id, Expect(), Changes(file=described))
    assert world.jobs.status(running.job.id).file is None
    world.jobs.cancel(running.job.id)
    assert world.jobs.status(running.job.id).file is None
    assert world.engine.open_file(running.job.id) is None


# --- crashes and outages ----------------------------------------------------------------------------------------------


class _Killed(BaseException):
    pass


class _FaultyFiles(MemoryFiles):
    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.written: list[str] = []

    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        self.written.append(name)
        if self.error is not None:
            raise self.error
        super().write(job_id, name, content)

    def delete(self, job_id: str) -> None:
        if self.error is not None:
            raise self.error
        super().delete(job_id)


def test_the_row_names_the_file_before_its_content_is_written() -> None:
    files = _FaultyFiles()
    world = bench(files=files)
    running = world.run()
    finish(world, running, file=b"x", name="x.csv")
    files.error = _Killed()
    with pytest.raises(_Killed):
        world.engine.worker.end(running, Outcome(200))
    running.drop_file()
    job = world.job(running.job.id)
    assert job.status is Status.IN_PROGRESS
    assert job.file == {"name": "x.csv", "type": "text/csv", "size": None, "key": files.written[0]}


def test_a_file_that_cannot_be_written_fails_the_job(caplog: pytest.LogCaptureFixture) -> None:
    files = _FaultyFiles()
    world = bench(files=files)
    files.error = OSError(28, "No space left on device")
    job = finished(world, file=b"x", name="x.csv")
    assert (job.status, job.error) == (Status.FAILED, "unexpected")
    assert "No space left on device" in (job.status_text or "")
    assert file_of(job) is None


def test_an_outage_of_the_store_delays_the_file_and_the_end(world: Bench, files: DirectoryFiles) -> None:
    running = world.run()
    finish(world, running, file=b"x", name="x.csv")
    world.store.down.add("change")
    world.engine.worker.end(running, Outcome(200))
    assert paths(files) == []
    world.store.down.clear()
    world.step(2.0)
    job = world.job(running.job.id)
    assert (job.status, content(world, job)) == (Status.COMPLETED, b"x")
    assert len(paths(files)) == 1


def test_a_job_that_is_cancelled_first_keeps_no_file(world: Bench, files: DirectoryFiles) -> None:
    running = world.run()
    finish(world, running, file=b"x", name="x.csv")
    world.jobs.cancel(running.job.id)
    world.engine.worker.end(running, Outcome(200))
    assert (world.job(running.job.id).status, paths(files)) == (Status.CANCELLED, [])


@pytest.mark.parametrize("end", ["cancel", "delete"])
def test_a_job_that_ends_while_its_file_is_written_keeps_no_file(world: Bench, files: DirectoryFiles, end: str) -> None:
    running = world.run()
    finish(world, running, file=b"x", name="x.csv")
    write = files.write

    def ending(job_id: str, name: str, content: BinaryIO) -> None:
        getattr(world.jobs, end)(job_id)
        write(job_id, name, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "write", ending)
        world.engine.worker.end(running, Outcome(200))
    assert world.jobs.exists(running.job.id) is (end == "cancel")
    assert paths(files) == []


def test_the_file_of_a_later_run_replaces_that_of_an_earlier_one(world: Bench, files: DirectoryFiles) -> None:
    world.start(retries=1, retry_delay=1)
    world.step()
    first = world.receive()
    described = {"name": "old.csv", "type": "text/csv", "size": None, "key": "1-old"}
    assert world.store.change(first.job.id, Expect(token=first.token), Changes(file=described)) is not None
    files.write(first.job.id, "1-old", io.BytesIO(b"old"))
    world.engine.worker.end(first, Outcome(500))
    world.step(2.0)
    second = world.receive()
    finish(world, second, file=b"new", name="new.csv")
    world.engine.worker.end(second, Outcome(200))
    job = world.job(second.job.id)
    assert ((file_of(job) or {})["name"], content(world, job)) == ("new.csv", b"new")
    world.step(31 * DAY)
    assert paths(files) == []


def test_a_later_run_without_a_file_shows_none(world: Bench, files: DirectoryFiles) -> None:
    world.start(retries=1, retry_delay=1)
    world.step()
    first = world.receive()
    world.store.change(first.job.id, Expect(), Changes(file={"name": "x", "type": "t", "size": None, "key": "1-old"}))
    world.engine.worker.end(first, Outcome(500))
    world.step(2.0)
    world.engine.worker.end(world.receive(), Outcome(200))
    job = world.job(first.job.id)
    assert (job.status, file_of(job)) == (Status.COMPLETED, None)


# --- deletion -----------------------------------------------------------------------------------------------------------


def test_files_are_deleted_with_their_jobs(world: Bench, files: DirectoryFiles) -> None:
    old = [finished(world, file=b"x", name="x.csv").id for _ in range(3)]
    world.step(29 * DAY)
    young = finished(world, file=b"y", name="y.csv")
    assert len(paths(files)) == 4
    world.clock.advance(2 * DAY)
    assert world.jobs.cleanup() == 3
    assert [world.jobs.exists(job_id) for job_id in old] == [False] * 3
    assert [path.read_bytes() for path in paths(files)] == [b"y"]
    assert content(world, young) == b"y"


def test_many_files_are_deleted_in_batches(monkeypatch: pytest.MonkeyPatch, world: Bench) -> None:
    monkeypatch.setattr("backjob.delivery.parts._BATCH", 2)
    for _ in range(5):
        finished(world, file=b"x", name="x.csv")
    world.clock.advance(31 * DAY)
    assert world.jobs.cleanup() == 5


def test_jobs_with_a_file_stay_if_files_is_taken_away_and_the_log_says_once_what_to_set(
    monkeypatch: pytest.MonkeyPatch, world: Bench, files: DirectoryFiles, caplog: pytest.LogCaptureFixture
) -> None:
    job = finished(world, file=b"x", name="x.csv")
    monkeypatch.setattr("backjob.jobs.adapting.files_beside", lambda _store: None)
    without = bench(clock=world.clock, store=world.store.store)
    assert without.jobs.cleanup() == 0
    assert caplog.messages == []
    world.clock.advance(31 * DAY)
    assert (without.jobs.cleanup(), without.jobs.cleanup()) == (0, 0)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "set it to the place" in caplog.text
    again = bench(clock=world.clock, store=world.store.store, files=files)
    assert (again.jobs.cleanup(), world.jobs.exists(job.id), paths(files)) == (1, False, [])


def test_a_job_stays_while_its_file_cannot_be_deleted(caplog: pytest.LogCaptureFixture) -> None:
    files = _FaultyFiles()
    world = bench(files=files)
    job = finished(world, file=b"x", name="x.csv")
    world.clock.advance(31 * DAY)
    files.error = OSError("unreachable")
    assert world.jobs.cleanup() == 0
    assert world.jobs.exists(job.id)
    assert "can't be deleted" in caplog.text
    files.error = None
    assert world.jobs.cleanup() == 1
    assert not world.jobs.exists(job.id)


def test_a_file_that_is_gone_is_none_and_the_log_says_so(
    world: Bench, files: DirectoryFiles, caplog: pytest.LogCaptureFixture
) -> None:
    job = finished(world, file=b"x", name="x.csv")
    files.delete(job.id)
    assert world.engine.open_file(job.id) is None
    assert "can't be read" in caplog.text


def test_a_directory_and_its_files_are_for_their_owner_alone(world: Bench, files: DirectoryFiles) -> None:
    finished(world, file=b"x", name="x.csv")
    [path] = paths(files)
    assert [oct(one.stat().st_mode & 0o777) for one in (files.directory, path.parent, path)] == [
        "0o700",
        "0o700",
        "0o600",
    ]
    assert "x.csv" not in str(path.relative_to(files.directory))
