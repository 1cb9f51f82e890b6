"""The command ``flask backjob …``: `backjob.cli` with the jobs of the current application."""

from __future__ import annotations

import sys

import click
from flask.cli import with_appcontext

from backjob.cli.program import COMMANDS, main
from backjob.jobs import BackJob


def command(jobs: BackJob) -> click.Command:
    """Return a click command that passes its arguments to `backjob.cli`, ``--help`` included."""

    @click.command(
        "backjob",
        help="List, show, watch and cancel background jobs, and more.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=_complete)
    @with_appcontext
    def backjob(arguments: tuple[str, ...]) -> None:
        sys.exit(main(arguments, jobs=jobs, prog="flask backjob"))

    return backjob


def _complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the name of a command."""
    return [] if context.params.get("arguments") else [name for name in COMMANDS if name.startswith(incomplete)]
