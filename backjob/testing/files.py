"""The contract of a place for files, as a pytest suite.

class TestMyFiles(FilesContract):
    def make_files(self) -> Files:
        return MyFiles(BUCKET)
"""

# ruff: noqa: S101 - a suite for pytest asserts

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, ClassVar, Final, cast

import pytest

from backjob.overriding import override
from backjob.protocols import Files

__all__ = ["FilesContract"]

_JOB: Final = "kQ3xY_0aB-9zLmN4pRsT7uVw"
_OTHER: Final = _JOB[:-1]
"""The id of another job, with which the first one's begins."""
_SIZES: Final = (0, 1, 1 << 16, (1 << 20) + 1)
_LARGE: Final = 32 << 20
_MOST_MEMORY: Final = 16 << 20
_WRITERS: Final = 6


class _Failing(io.RawIOBase):
    """Content that fails after its first bytes."""

    def __init__(self) -> None:
        self._reads = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int:
        self._reads += 1
        if self._reads > 1:
            raise ConnectionError("the content can't be read on")
        buffer[:4] = b"half"
        return 4


class _Endless(io.RawIOBase):
    """A large content that is made while it is read."""

    def __init__(self, size: int) -> None:
        self._left = size

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any, /) -> int:
        count = min(len(buffer), self._left)
        buffer[:count] = bytes(count)
        self._left -= count
        return count


class FilesContract:
    """Every promise of the `Files` protocol. Subclass this and implement ``make_files``.

    Each call returns another object for the same place, as in another process; the place may have files of other tests. With
    ``in_memory`` true the files are this object's alone, so that the tests of other processes and of large files are skipped.
    The first line of a failure names the broken promise. Needs pytest.
    """

    in_memory: ClassVar[bool] = False

    def make_files(self) -> Files:
        """Return the files to test."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _clean_files(self) -> Iterator[None]:
        """Delete what a test leaves."""
        yield
        files = self.make_files()
        for job_id in (_JOB, _OTHER):
            files.delete(job_id)

    # --- writing and reading --------------------------------------------------------------------------------------------

    def test_a_file_has_the_content_that_was_written(self) -> None:
        files = self.make_files()
        for size in _SIZES:
            content = bytes(range(256)) * (size // 256 + 1)
            files.write(_JOB, f"1-size{size}", io.BytesIO(content[:size]))
            is_same = _read(files, _JOB, f"1-size{size}") == content[:size]
            assert is_same, f"a file of {size} bytes must stay as it is"

    def test_a_file_can_be_read_in_chunks(self) -> None:
        files = self.make_files()
        files.write(_JOB, "1-chunks", io.BytesIO(b"abcdefgh"))
        with files.open(_JOB, "1-chunks") as file:
            chunks = [file.read(3), file.read(3), file.read(3), file.read(3)]
        assert chunks == [b"abc", b"def", b"gh", b""], "read(3) must return the next 3 bytes, and nothing at the end"

    def test_another_object_finds_the_file(self) -> None:
        if self.in_memory:
            pytest.skip("in memory")
        self.make_files().write(_JOB, "1-shared", io.BytesIO(b"shared"))
        found = _read(self.make_files(), _JOB, "1-shared")
        assert found == b"shared", "another process must find the file as soon as write() has returned"

    def test_a_later_write_replaces_the_file(self) -> None:
        files = self.make_files()
        files.write(_JOB, "1-again", io.BytesIO(b"a longer earlier content"))
        files.write(_JOB, "1-again", io.BytesIO(b"later"))
        assert _read(files, _JOB, "1-again") == b"later", "a later write must replace the whole file"

    def test_files_of_other_names_and_jobs_are_others(self) -> None:
        files = self.make_files()
        for job_id, name in ((_JOB, "1-a"), (_JOB, "2-a"), (_OTHER, "1-a")):
            files.write(job_id, name, io.BytesIO(f"{job_id} {name}".encode()))
        for job_id, name in ((_JOB, "1-a"), (_JOB, "2-a"), (_OTHER, "1-a")):
            found = _read(files, job_id, name)
            assert found == f"{job_id} {name}".encode(), "each job and each name must have a file of its own"

    def test_a_large_file_is_never_whole_in_memory(self) -> None:
        if self.in_memory:
            pytest.skip("in memory")
        files = self.make_files()
        tracemalloc.start()
        try:
            files.write(_JOB, "1-large", cast("BinaryIO", io.BufferedReader(_Endless(_LARGE))))
            size = 0
            with files.open(_JOB, "1-large") as file:
                while chunk := file.read(1 << 16):
                    size += len(chunk)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert size == _LARGE, "a large file must be complete"
        assert peak < _MOST_MEMORY, "a large file must be written and read in chunks"

    # --- what there is not ------------------------------------------------------------------------------------------------

    def test_a_file_that_does_not_exist_is_not_found(self) -> None:
        files = self.make_files()
        files.write(_JOB, "1-one", io.BytesIO(b"x"))
        for job_id, name in ((_JOB, "2-one"), (_JOB, "1-on"), (_OTHER, "1-one")):
            _assert_missing(files, job_id, name, "open() must raise FileNotFoundError for a file that does not exist")

    def test_content_that_fails_leaves_no_file(self) -> None:
        files = self.make_files()
        with pytest.raises(ConnectionError):
            files.write(_JOB, "1-half", cast("BinaryIO", io.BufferedReader(_Failing(), 4)))
        _assert_missing(files, _JOB, "1-half", "a write that fails must leave no part of the file")

    def test_content_that_fails_leaves_the_earlier_file(self) -> None:
        files = self.make_files()
        files.write(_JOB, "1-kept", io.BytesIO(b"earlier"))
        with pytest.raises(ConnectionError):
            files.write(_JOB, "1-kept", cast("BinaryIO", io.BufferedReader(_Failing(), 4)))
        try:
            found: bytes | None = _read(files, _JOB, "1-kept")
        except FileNotFoundError:
            found = None
        assert found in (b"earlier", None), "a write that fails must leave the whole earlier file, or none"

    # --- deleting -----------------------------------------------------------------------------------------------------------

    def test_delete_removes_all_files_of_the_job_and_no_others(self) -> None:
        files = self.make_files()
        for job_id, name in ((_JOB, "1-a"), (_JOB, "2-b"), (_OTHER, "1-a")):
            files.write(job_id, name, io.BytesIO(b"x"))
        (files if self.in_memory else self.make_files()).delete(_JOB)
        for name in ("1-a", "2-b"):
            _assert_missing(files, _JOB, name, "delete() must remove every file of the job")
        assert _read(files, _OTHER, "1-a") == b"x", "delete() must leave the files of other jobs"

    def test_delete_without_files_has_no_effect(self) -> None:
        files = self.make_files()
        files.delete(_JOB)
        files.write(_JOB, "1-a", io.BytesIO(b"x"))
        files.delete(_JOB)
        files.delete(_JOB)
        files.write(_JOB, "1-a", io.BytesIO(b"again"))
        assert _read(files, _JOB, "1-a") == b"again", "a job can have a file again after delete()"

    def test_an_open_file_that_is_deleted_is_never_cut_silently(self) -> None:
        files = self.make_files()
        content = bytes(1 << 20)
        files.write(_JOB, "1-open", io.BytesIO(content))
        with files.open(_JOB, "1-open") as file:
            start = file.read(10)
            files.delete(_JOB)
            try:
                rest = file.read()
            except Exception:
                return
        is_same = start + rest == content
        assert is_same, "an open file must be read to its end, or raise an error"

    # --- at the same time -----------------------------------------------------------------------------------------------------

    def test_several_files_of_a_job_are_written_at_once(self) -> None:
        """As by two runs of a job, one of which is lost; each gives its file a name of its own."""
        files = self.make_files()
        contents = {f"{number}-race": bytes([number]) * (1 << 18) for number in range(_WRITERS)}
        with ThreadPoolExecutor(_WRITERS) as pool:
            list(pool.map(lambda name: files.write(_JOB, name, io.BytesIO(contents[name])), contents))
        # Compared before the assertion: pytest would describe how large contents differ, which takes minutes.
        is_same = {name: _read(files, _JOB, name) for name in contents} == contents
        assert is_same, "files that are written at once must all be there, each with its whole content"


def _read(files: Files, job_id: str, name: str) -> bytes:
    with files.open(job_id, name) as file:
        found = file.read()
    assert isinstance(found, bytes), "open() must return a file in binary mode"
    return found


def _assert_missing(files: Files, job_id: str, name: str, promise: str) -> None:
    try:
        files.open(job_id, name).close()
    except FileNotFoundError:
        return
    except Exception as error:
        raise AssertionError(promise) from error
    raise AssertionError(promise)
