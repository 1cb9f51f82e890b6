"""The URL of a store: its scheme, path and options. Errors name the wrong part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import field, frozen

from backjob.errors import InvalidRequest

_TRUTHS: Final[Mapping[str, bool]] = {
    "yes": True, "true": True, "on": True, "1": True,
    "no": False, "false": False, "off": False, "0": False,
}  # fmt: skip


def yes_or_no(value: str) -> bool:
    """A boolean option: ``yes`` or ``no`` (or true, false, on, off, 1, 0)."""
    truth = _TRUTHS.get(value.lower())
    if truth is None:
        raise ValueError("expected yes or no")
    return truth


@frozen(eq=False)
class StoreURL:
    """A store's URL. ``location`` is the part between scheme and options. The repr shows no part that may be secret."""

    scheme: str
    location: str = field(repr=False)
    options: Mapping[str, str] = field(repr=False)

    @classmethod
    def parse(cls, url: str) -> StoreURL:
        """Parse a URL. Raises `InvalidRequest` if it has no scheme or repeats an option.

        No error repeats a part that may belong to a password in which a reserved character was not percent-encoded.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            raise InvalidRequest("store", "this is not a URL; percent-encode reserved characters") from None
        if "@" in parts.query:
            raise InvalidRequest("store", 'write a "?" in a password as %3F, and an "@" in an option as %40')
        try:
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            raise InvalidRequest("store", "this is not a URL: its options must be name=value, joined by &") from None
        if not parts.scheme:
            raise InvalidRequest("store", 'expected a URL such as "sqlite:///jobs.db" or "memory:"')
        if parts.fragment:
            raise InvalidRequest("store", 'write a "#" in the URL as %23')
        options: dict[str, str] = {}
        for name, value in pairs:
            if name in options:
                raise InvalidRequest("store", f"the option {name!r} appears twice")
            options[name] = value
        location = url.partition(":")[2].partition("?")[0]
        return cls(parts.scheme, location, options)

    def file_path(self) -> str:
        """The path of a file: relative after three slashes, absolute after four."""
        if not self.location.startswith("///"):
            raise InvalidRequest(
                "store",
                f'expected three slashes and a relative path after "{self.scheme}:", or four and an absolute path: '
                f"{self.scheme}:///jobs.db, {self.scheme}:////var/lib/app/jobs.db",
            )
        path = unquote(self.location[3:])
        if path in ("", ":memory:"):
            raise InvalidRequest("store", 'the URL names no file; for a store in memory, use "memory:"')
        return path

    def arguments(self, kinds: Mapping[str, Callable[[str], object]]) -> dict[str, object]:
        """The options as constructor arguments. ``kinds`` maps each known option to its converter."""
        arguments: dict[str, object] = {}
        for name, value in self.options.items():
            convert = kinds.get(name)
            if convert is None:
                known = ", ".join(sorted(kinds)) or "none"
                raise InvalidRequest("store", f"{self.scheme} has no option {name!r}; known options: {known}")
            try:
                arguments[name] = convert(value)
            except ValueError as error:
                raise InvalidRequest("store", f"invalid option {name}={value!r}: {error}") from None
        return arguments
