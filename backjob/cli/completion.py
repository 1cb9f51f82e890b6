"""Completion of commands, options and job ids in bash, zsh and fish, by argcomplete (the extra ``completion``)."""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from typing import Any, Final

from backjob.cli.opening import Source
from backjob.errors import MissingExtra
from backjob.status.words import word_of

SHELLS: Final = ("bash", "zsh", "fish")

_MOST: Final = 100


def complete(parser: ArgumentParser) -> None:
    """Print the completions and exit, if a shell asks for them. Otherwise do nothing, and import nothing."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete  # noqa: PLC0415 - only for shells
    except ModuleNotFoundError:
        return
    argcomplete.autocomplete(parser)


def complete_with(action: Action, completer: Callable[..., Mapping[str, str] | list[str]]) -> None:
    """Complete the values of an option or argument with this function."""
    action.completer = completer  # type: ignore[attr-defined]


def job_ids(parsed_args: Namespace, **_: Any) -> Mapping[str, str]:
    """Return the ids of the newest jobs, each with its state and title. Return none if the store can't be read."""
    try:
        with Source(parsed_args.jobs, parsed_args.app, parsed_args.store).open() as jobs:
            found = jobs.find(limit=_MOST)
    except Exception:
        return {}
    return {state.id: f"{word_of(state.status, state.attempt)}: {state.title}" for state in found}


def shell_code(shell: str) -> str:
    """Return the code that a shell evaluates. Raises `MissingExtra` without argcomplete."""
    try:
        from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise MissingExtra("shell completion", "completion") from error
    return str(shellcode(["backjob"], shell=shell))
