"""Merge keys: until when each keeps other calls of ``start()`` from making another job."""

from __future__ import annotations

from typing import Final

LASTING: Final = "key:"
"""The beginning of a merge key that belongs to its job until the job is removed."""


def waits_until_sent(merge_key: str | None) -> bool:
    """Whether the merge key joins only jobs that are not sent yet, so that it must be freed before sending."""
    return merge_key is not None and merge_key.startswith("pending:")


def lasts(merge_key: str | None) -> bool:
    """Whether the merge key outlives the end of its job."""
    return merge_key is not None and merge_key.startswith(LASTING)
