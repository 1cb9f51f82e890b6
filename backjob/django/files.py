"""The files of jobs in one of Django's storages."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage, storages
from django.db import connections

from backjob.files import DirectoryFiles, MemoryFiles
from backjob.files.names import check_names
from backjob.overriding import override
from backjob.protocols import Files

ALIAS: Final = "backjob"
"""The storage that is used if STORAGES has it; otherwise it is the default one."""


def has_storage() -> bool:
    """Return whether the site has a place for files: without MEDIA_ROOT, Django's storage is the current directory."""
    if ALIAS in settings.STORAGES or settings.MEDIA_ROOT:
        return True
    storage = storages["default"]
    return not isinstance(storage, FileSystemStorage) or storage.location != str(Path.cwd())


def files_beside_database(alias: str) -> Files | None:
    """Return the directory beside the SQLite file of a database; None for another one."""
    options = connections[alias].settings_dict
    if options.get("ENGINE") != "django.db.backends.sqlite3":
        return None
    name = str(options["NAME"])
    return MemoryFiles() if ":memory:" in name or "mode=memory" in name else DirectoryFiles(f"{name}.files")


class StorageFiles(Files):
    """Keeps files in a storage of Django's setting STORAGES, below ``directory``.

    A storage that the web server serves is safe: each name has a random part of 128 bits, which backjob shows to no client.
    """

    def __init__(self, alias: str | None = None, directory: str = "backjob") -> None:
        self._alias = alias
        self._directory = directory

    @property
    def _storage(self) -> Storage:
        # Not kept, because a test may override STORAGES.
        return storages[self._alias or (ALIAS if ALIAS in settings.STORAGES else "default")]

    @override
    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        check_names(job_id, name)
        storage, path = self._storage, f"{self._directory}/{job_id}/{name}"
        storage.delete(path)
        try:
            saved = storage.save(path, File(cast("Any", content), name=name))
        except BaseException:
            with suppress(Exception):
                storage.delete(path)
            raise
        if saved != path:
            storage.delete(saved)
            if not storage.exists(path):  # otherwise another writer was first, and its file is the one that counts
                raise OSError(f"the storage has saved {path} under another name, {saved}")

    @override
    def open(self, job_id: str, name: str) -> BinaryIO:
        check_names(job_id, name)
        storage, path = self._storage, f"{self._directory}/{job_id}/{name}"
        if not storage.exists(path):  # not every storage raises FileNotFoundError
            raise FileNotFoundError(path)
        return cast("BinaryIO", storage.open(path, "rb"))

    @override
    def delete(self, job_id: str) -> None:
        check_names(job_id)
        storage, folder = self._storage, f"{self._directory}/{job_id}"
        try:
            _, names = storage.listdir(folder)
        except FileNotFoundError:
            return
        for name in names:
            storage.delete(f"{folder}/{name}")
        storage.delete(folder)  # a directory in a file system; in object storages there is none
