"""Where an application keeps the files of its jobs."""

from __future__ import annotations

from typing import Final

from backjob.files import DirectoryFiles, MemoryFiles
from backjob.jobs.options import LOSES_JOBS, Options
from backjob.protocols import Capability, Files, Store, lacks
from backjob.stores.memory import MemoryStore

_NO_PLACE: Final = (
    "there is no place for it: set FILES to a directory that all processes share, or to an object with the methods of "
    "`backjob.protocols.Files`"
)


def files_beside(store: Store) -> Files | None:
    """Return where the files of a store's jobs are kept by default: beside it; None if there is no such place."""
    if Capability.RETENTION in lacks(store):
        return None
    while (inner := getattr(store, "store", None)) is not None:
        store = inner  # behind a cache
    if isinstance(store, MemoryStore):
        return MemoryFiles()
    directory = getattr(store, "files_directory", None)
    return None if directory is None else DirectoryFiles(directory)


def refusal_of(options: Options) -> str:
    """Return why no files are kept, with the remedy."""
    return LOSES_JOBS if Capability.RETENTION in lacks(options.store) else _NO_PLACE
