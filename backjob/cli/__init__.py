"""The command line, for ``backjob`` and for the commands of frameworks."""

from backjob.cli.program import main

__all__ = ["main"]
