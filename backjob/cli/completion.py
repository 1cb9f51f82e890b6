"""Completion of commands, options and job ids in bash, zsh and fish, by argcomplete (the extra ``completion``)."""

from __future__ import annotations

import os
from argparse import PARSER, Action, ArgumentParser, Namespace
from collections.abc import Callable, Mapping, Sequence
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


def candidates(parser: ArgumentParser, words: Sequence[str], incomplete: str) -> Mapping[str, str]:
    """Return what may follow these words, each with its help, for a framework that completes its own commands."""
    commands = next(action for action in parser._actions if action.nargs == PARSER)  # noqa: SLF001 - argparse has no other way
    choices: Mapping[str, ArgumentParser] = commands.choices  # type: ignore[assignment]
    if not words:
        helps = {action.dest: action.help or "" for action in commands._get_subactions()}  # type: ignore[attr-defined]  # noqa: SLF001
        return _beginning(incomplete, helps)
    if words[0] not in choices:
        return {}
    actions = choices[words[0]]._actions  # noqa: SLF001
    options = {name: action.help or "" for action in actions for name in action.option_strings}
    if incomplete.startswith("-"):
        return _beginning(incomplete, options)
    asked = [action for action in actions if action.nargs != 0 and words[-1] in action.option_strings]
    arguments = asked or [action for action in actions if not action.option_strings]
    completer = getattr(arguments[0], "completer", None) if arguments else None
    source = Namespace(**{name: parser.get_default(name) for name in ("jobs", "app", "store")})
    found = {} if completer is None else completer(parsed_args=source)
    return _beginning(incomplete, found if isinstance(found, Mapping) else dict.fromkeys(found, ""))


def _beginning(incomplete: str, words: Mapping[str, str]) -> Mapping[str, str]:
    return {word: text for word, text in words.items() if word.startswith(incomplete)}
