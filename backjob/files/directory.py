"""Files in a directory of this computer, or of a file system that all processes share."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final

from typing_extensions import override

from backjob.errors import InvalidRequest
from backjob.files.names import check_names
from backjob.protocols import Files

_CHUNK: Final = 1 << 18
_INCOMPLETE: Final = "."
"""How the names of files begin that are being written. No name that `check_names` allows begins so."""


class DirectoryFiles(Files):
    """Keeps files below a directory, which is made at the first use: a directory for each job, with mode 0700.

    Files have mode 0600. Give every process of the application the same directory, on every host. Raises `InvalidRequest` for
    a path that is empty.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        if not os.fspath(directory):
            raise InvalidRequest("directory", "must be the path of a directory")
        self.directory: Final = Path(directory).absolute()

    def spool_directory(self) -> Path:
        """Return the directory in which content is collected before it is kept. It is on the same disk."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.directory

    @override
    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        import shutil  # noqa: PLC0415 - takes its time to import, and few jobs make files

        check_names(job_id, name)
        folder = self.spool_directory() / job_id
        target = folder / name
        incomplete = folder / f"{_INCOMPLETE}{name}.{secrets.token_hex(4)}"
        try:
            with _created(incomplete) as file:
                shutil.copyfileobj(content, file, _CHUNK)
                file.flush()
                os.fsync(file.fileno())
            incomplete.replace(target)
        except BaseException:
            with suppress(OSError):
                incomplete.unlink()
            raise
        _sync(folder)

    @override
    def open(self, job_id: str, name: str) -> BinaryIO:
        check_names(job_id, name)
        return (self.directory / job_id / name).open("rb")

    @override
    def delete(self, job_id: str) -> None:
        import shutil  # noqa: PLC0415

        check_names(job_id)
        with suppress(FileNotFoundError):
            shutil.rmtree(self.directory / job_id)


def _created(path: Path) -> BinaryIO:
    """Create a file for its owner alone, in a directory that is made too."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return os.fdopen(os.open(path, flags, 0o600), "wb")
    except FileNotFoundError:  # another process has just deleted the directory, with an earlier file
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return os.fdopen(os.open(path, flags, 0o600), "wb")


def _sync(folder: Path) -> None:
    """Make new names in a directory durable, where the system can do that."""
    if os.name != "posix":
        return
    for directory in (folder, folder.parent):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
