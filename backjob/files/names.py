"""The names under which files are kept."""

from __future__ import annotations

import re
from typing import Final

from backjob.errors import InvalidRequest

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")


def check_names(job_id: str, name: str = "file") -> None:
    """Raise `InvalidRequest` unless both names are safe as segments of a path."""
    for argument, value in (("job_id", job_id), ("name", name)):
        if not _NAME.fullmatch(value):
            raise InvalidRequest(argument, f"must be 1 to 128 characters from A-Z, a-z, 0-9, _ and -, not {value!r}")
