"""The files of jobs in one of Django's storages."""

from __future__ import annotations

from typing import Any, BinaryIO, Final, cast

from django.conf import settings
from django.core.files import File
from django.core.files.storage import Storage, storages
from typing_extensions import override

from backjob.files.names import check_names
from backjob.protocols import Files

ALIAS: Final = "backjob"
"""The storage that is used if STORAGES has it; otherwise it is the default one."""


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
        saved = storage.save(path, File(cast("Any", content), name=name))
        if saved != path:
            storage.delete(saved)
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
