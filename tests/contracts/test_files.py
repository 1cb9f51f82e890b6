"""backjob's own places for files keep the published contract, and the contract notices what is broken."""

from __future__ import annotations

import inspect
import io
import shutil
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from backjob.errors import InvalidRequest
from backjob.files import DirectoryFiles, MemoryFiles
from backjob.protocols import Files
from backjob.testing import FilesContract


class TestDirectory(FilesContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> None:
        self._path = tmp_path / "kept" / "files"

    def make_files(self) -> Files:
        return DirectoryFiles(self._path)

    def test_nothing_incomplete_stays(self) -> None:
        self.test_content_that_fails_leaves_no_file()
        assert [path for path in self._path.rglob("*") if path.is_file()] == []


class TestMemory(FilesContract):
    in_memory = True

    @pytest.fixture(autouse=True)
    def _memory(self) -> None:
        self._files = MemoryFiles()

    def make_files(self) -> Files:
        return self._files


@pytest.mark.parametrize("name", ["", "..", "a/b", "a.b", "ä", "a" * 129, "a\0b", "/etc/passwd"])
@pytest.mark.parametrize("make", [MemoryFiles, lambda: DirectoryFiles("files")])
def test_a_name_that_could_leave_the_directory_is_refused(make: Any, name: str) -> None:
    files: Files = make()
    for call in (
        lambda: files.write(name, "file", io.BytesIO()),
        lambda: files.write("job", name, io.BytesIO()),
        lambda: files.open(name, "file"),
        lambda: files.open("job", name),
        lambda: files.delete(name),
    ):
        with pytest.raises(InvalidRequest, match="must be 1 to 128 characters"):
            call()


def test_a_directory_needs_a_path() -> None:
    with pytest.raises(InvalidRequest):
        DirectoryFiles("")


# --- broken places ----------------------------------------------------------------------------------------------------------


class _Plain(DirectoryFiles):
    """Writes a file where it is read."""

    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        folder = self.directory / job_id
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            shutil.copyfileobj(content, file)


class _Whole(DirectoryFiles):
    """Reads everything at once."""

    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        super().write(job_id, name, io.BytesIO(content.read()))


class _Appends(DirectoryFiles):
    """Appends to an earlier file."""

    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        try:
            with self.open(job_id, name) as file:
                earlier = file.read()
        except FileNotFoundError:
            earlier = b""
        super().write(job_id, name, io.BytesIO(earlier + content.read()))


class _OneName(DirectoryFiles):
    """Ignores the name."""

    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        super().write(job_id, "file", content)

    def open(self, job_id: str, name: str) -> BinaryIO:
        return super().open(job_id, "file")


class _OneJob(DirectoryFiles):
    """Takes one job for another whose id begins alike."""

    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        super().write(job_id[:8], name, content)

    def open(self, job_id: str, name: str) -> BinaryIO:
        return super().open(job_id[:8], name)

    def delete(self, job_id: str) -> None:
        super().delete(job_id[:8])


class _DeletesOne(DirectoryFiles):
    """Deletes only the first file."""

    def delete(self, job_id: str) -> None:
        for path in sorted((self.directory / job_id).glob("*"))[:1]:
            path.unlink()


class _DeletesByPrefix(DirectoryFiles):
    """Deletes the files of all jobs whose ids begin alike."""

    def delete(self, job_id: str) -> None:
        for folder in self.directory.glob(f"{job_id[:-1]}*"):
            shutil.rmtree(folder)


class _KeepsAll(DirectoryFiles):
    """Deletes nothing."""

    def delete(self, job_id: str) -> None:
        pass


class _DeleteRaises(DirectoryFiles):
    """Refuses to delete what does not exist."""

    def delete(self, job_id: str) -> None:
        shutil.rmtree(self.directory / job_id)


class _AsText(DirectoryFiles):
    """Opens files as text."""

    def open(self, job_id: str, name: str) -> Any:
        return (self.directory / job_id / name).open(encoding="latin-1", newline="")


class _Empty(DirectoryFiles):
    """Opens an empty file in place of a missing one."""

    def open(self, job_id: str, name: str) -> BinaryIO:
        try:
            return super().open(job_id, name)
        except FileNotFoundError:
            return io.BytesIO()


class _OwnError(DirectoryFiles):
    """Raises another error for a missing file."""

    def open(self, job_id: str, name: str) -> BinaryIO:
        try:
            return super().open(job_id, name)
        except FileNotFoundError:
            raise KeyError(name) from None


class _Truncates(DirectoryFiles):
    """Drops the last byte of large files."""

    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        data = content.read((1 << 20) + 1)
        super().write(job_id, name, io.BytesIO(data[: 1 << 20]))


BROKEN = (
    *(_Plain, _Whole, _Appends, _OneName, _OneJob, _DeletesOne, _DeletesByPrefix, _KeepsAll, _DeleteRaises, _AsText),
    *(_Empty, _OwnError, _Truncates),
)


def broken_promises(files: Files) -> list[str]:
    class Suite(FilesContract):
        def make_files(self) -> Files:
            return files

    suite, found = Suite(), []
    for name, test in inspect.getmembers(suite, inspect.ismethod):
        if name.startswith("test_"):
            try:
                test()
            except Exception:
                found.append(name)
    return found


@pytest.fixture(scope="module")
def noticed(tmp_path_factory: pytest.TempPathFactory) -> dict[type[DirectoryFiles], list[str]]:
    """The tests that fail for each of the broken places."""
    return {kind: broken_promises(kind(tmp_path_factory.mktemp("files"))) for kind in BROKEN}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda kind: str(kind.__doc__))
def test_the_contract_notices_a_broken_place(
    noticed: dict[type[DirectoryFiles], list[str]], broken: type[DirectoryFiles]
) -> None:
    assert noticed[broken] != []


def test_each_promise_is_broken_by_one_of_them(noticed: dict[type[DirectoryFiles], list[str]]) -> None:
    tests = {name for name in dir(FilesContract) if name.startswith("test_")}
    # These two can't be broken in a directory of this system.
    rest = {"test_another_object_finds_the_file", "test_an_open_file_that_is_deleted_is_never_cut_silently"}
    assert tests - {name for names in noticed.values() for name in names} <= rest
