"""The package's static files, and the little template language of its HTML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from html import escape
from typing import Final

from backjob.status.packaged import packaged_file

_SECTION: Final = re.compile(r"\{\{#(\w+)\}\}(.*?)\{\{/\1\}\}", re.DOTALL)
_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")


@cache
def asset(name: str) -> bytes:
    """Return a static file of the package."""
    return packaged_file(f"static/{name}")


@cache
def template(name: str) -> str:
    """Return a template of the package."""
    return asset(name).decode("utf-8")


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return the template with each ``{{name}}`` replaced by its escaped value.

    ``{{#name}}…{{/name}}`` is kept only if the value is not empty. Values are not parsed as templates.
    """
    kept, count = text, 1
    while count:  # sections may contain others
        kept, count = _SECTION.subn(lambda found: found[2] if values[found[1]] else "", kept)
    return _PLACE.sub(lambda found: escape(values[found[1]]), kept)


def places(text: str) -> set[str]:
    """Return the names of all values and sections of a template."""
    return {*_PLACE.findall(text), *(name for name in re.findall(r"\{\{[#/](\w+)\}\}", text))}


def attributes(values: Mapping[str, str | None]) -> str:
    """Return HTML attributes, each after a space. A value of ``""`` gives the name alone, None nothing."""
    return "".join(
        f' {name}="{escape(value)}"' if value else f" {name}" for name, value in values.items() if value is not None
    )
