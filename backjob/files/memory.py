"""Files in the memory of this process, beside jobs that are kept there too."""

from __future__ import annotations

import io
import threading
from typing import BinaryIO

from backjob.files.names import check_names
from backjob.overriding import override
from backjob.protocols import Files


class MemoryFiles(Files):
    """Keeps files in memory: for tests and demos. They are lost when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, dict[str, bytes]] = {}

    @override
    def write(self, job_id: str, name: str, content: BinaryIO) -> None:
        check_names(job_id, name)
        data = content.read()
        with self._lock:
            self._files.setdefault(job_id, {})[name] = data

    @override
    def open(self, job_id: str, name: str) -> BinaryIO:
        check_names(job_id, name)
        with self._lock:
            data = self._files.get(job_id, {}).get(name)
        if data is None:
            raise FileNotFoundError(f"job {job_id} has no file {name!r}")
        return io.BytesIO(data)

    @override
    def delete(self, job_id: str) -> None:
        check_names(job_id)
        with self._lock:
            self._files.pop(job_id, None)
