"""The language of the command line: on a terminal that of the environment, elsewhere English, so that scripts can rely on it."""

from __future__ import annotations

import os
from typing import Final, TextIO

from backjob.model import Status
from backjob.status.languages import ENGLISH, Language, language

_VARIABLES: Final = ("LC_ALL", "LC_MESSAGES", "LANG")


def language_for(stream: TextIO) -> Language:
    """Return the language for a stream: on a terminal that of the first of LC_ALL, LC_MESSAGES and LANG that is set.

    If the terminal can't show that language, it is English.
    """
    if not stream.isatty():
        return ENGLISH
    found = language(next((value for name in _VARIABLES if (value := os.environ.get(name))), ""))
    try:
        "".join(found.say(status.name.lower()) for status in Status).encode(stream.encoding or "utf-8")
    except UnicodeEncodeError:
        return ENGLISH
    return found
