"""Where the files that jobs make are kept: a directory, or the memory of this process."""

from backjob.files.directory import DirectoryFiles
from backjob.files.memory import MemoryFiles

__all__ = ["DirectoryFiles", "MemoryFiles"]
