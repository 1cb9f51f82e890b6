"""The files that come with the package: templates, scripts, styles, and the words of each language."""

from __future__ import annotations

from pkgutil import get_data  # importlib.resources does the same, but imports zipfile, tempfile and shutil


def packaged_file(path: str) -> bytes:
    """Return a file of ``backjob.status``, also from a package in a zip file. Raises `FileNotFoundError`."""
    content = get_data("backjob.status", path)
    if content is None:  # a loader that can't read files
        raise FileNotFoundError(path)
    return content
