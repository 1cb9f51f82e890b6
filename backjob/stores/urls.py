"""The URL of a store, taken apart: scheme, path and options, each refused by name where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import field, frozen

from backjob.errors import InvalidRequest

__all__ = ["StoreURL", "number", "text", "yes_or_no"]

_TRUTHS: Final[Mapping[str, bool]] = {
    "yes": True, "true": True, "on": True, "1": True,
    "no": False, "false": False, "off": False, "0": False,
}  # fmt: skip


def text(value: str) -> str:
    """An option that is taken as it stands."""
    return value


def number(value: str) -> float:
    """An option in seconds or the like."""
    return float(value)


def yes_or_no(value: str) -> bool:
    """An option that is ``yes`` or ``no`` (or true, false, on, off, 1, 0)."""
    truth = _TRUTHS.get(value.lower())
    if truth is None:
        raise ValueError("yes or no is expected")
    return truth


@frozen
class StoreURL:
    """A store's URL. ``location`` is all between the scheme and the options; its repr shows no part that may be secret."""

    scheme: str
    location: str = field(repr=False)
    options: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> StoreURL:
        """Take a URL apart; raises `InvalidRequest` for what has no scheme, or says an option twice."""
        try:
            parts = urlsplit(url)
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError as error:
            raise InvalidRequest("store", f"this is not a URL: {error}") from None
        if not parts.scheme:
            raise InvalidRequest("store", 'a URL is expected, such as "sqlite:///jobs.db" or "memory:"')
        if parts.fragment:
            raise InvalidRequest("store", 'a "#" in the URL must be written %23')
        options: dict[str, str] = {}
        for name, value in pairs:
            if name in options:
                raise InvalidRequest("store", f"the option {name!r} is given twice")
            options[name] = value
        location = url.partition(":")[2].partition("?")[0]
        return cls(parts.scheme, location, options)

    def file_path(self) -> str:
        """The path of a file: relative after three slashes, absolute after four."""
        if not self.location.startswith("///"):
            raise InvalidRequest(
                "store",
                f'after "{self.scheme}:" three slashes and a relative path are expected, or four and an absolute one: '
                f"{self.scheme}:///jobs.db, {self.scheme}:////var/lib/app/jobs.db",
            )
        path = unquote(self.location[3:])
        if path in ("", ":memory:"):
            raise InvalidRequest("store", 'the URL names no file; a store in memory is "memory:"')
        return path

    def arguments(self, kinds: Mapping[str, Callable[[str], object]]) -> dict[str, object]:
        """The options as constructor arguments; ``kinds`` names those that are known and converts each."""
        arguments: dict[str, object] = {}
        for name, value in self.options.items():
            convert = kinds.get(name)
            if convert is None:
                known = ", ".join(sorted(kinds)) or "none"
                raise InvalidRequest("store", f"{self.scheme} has no option {name!r}; known are: {known}")
            try:
                arguments[name] = convert(value)
            except ValueError as error:
                raise InvalidRequest("store", f"the option {name}={value!r} can't be read: {error}") from None
        return arguments
