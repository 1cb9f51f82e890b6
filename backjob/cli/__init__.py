"""The command line: ``backjob …``."""

from backjob.cli.commands import main

__all__ = ["main"]
