"""The command ``flask backjob …``: `backjob.cli` with the jobs of the current application."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click
from flask.cli import with_appcontext
from typing_extensions import override

from backjob.jobs import BackJob

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_PROG: Final = "flask backjob"


def command(jobs: BackJob) -> click.Command:
    """Return a click command that passes its arguments to `backjob.cli`, ``--help`` included."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return _complete(jobs, context.params.get("arguments") or (), incomplete)

    class Command(click.Command):
        @override
        def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
            """Complete an option; click knows none of the commands' own."""
            return complete(ctx, self.params[0], incomplete)

    @click.command(
        "backjob",
        cls=Command,
        help="List, show, watch and cancel background jobs, and more.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=complete)
    @with_appcontext
    def backjob(arguments: tuple[str, ...]) -> None:
        from backjob.cli import main  # noqa: PLC0415 - a server never runs commands

        sys.exit(main(arguments, jobs=jobs, prog=_PROG))

    return backjob


def _complete(jobs: BackJob, words: tuple[str, ...], incomplete: str) -> list[CompletionItem]:
    """Complete a command, its options, and the ids of jobs."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only for shells

    from backjob.cli.completion import candidates  # noqa: PLC0415
    from backjob.cli.parser import parser_of  # noqa: PLC0415

    found = candidates(parser_of(_PROG, jobs), words, incomplete)
    return [CompletionItem(word, help=text) for word, text in found.items()]
