"""What header fields say about a body: its type and charset, the name of an attachment (RFC 6266, RFC 8187)."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from backjob.model import clean_text

OCTETS: Final = "application/octet-stream"
"""The media type of bytes that have no other."""

_LONGEST_NAME: Final = 200  # bytes of UTF-8: file systems take 255, and browsers may add a number
_LONGEST_TYPE: Final = 200
_TYPE: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:[ \t]*;[\x20-\x7e]*)?", re.ASCII)
_PARAMETER: Final = re.compile(r';\s*([\w!#$&+.^`|~*-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;\s]*)', re.ASCII)
_QUOTED_PAIR: Final = re.compile(r"\\(.)")
_PERCENT_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
# Separators of paths, what Windows reserves, and every character that is invisible or changes the direction of text.
_NOT_IN_NAMES: Final = re.compile(
    r'[\x00-\x1f\x7f-\x9f/\\:*?"<>|\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffd]+'
)


def media_type(content_type: str) -> str:
    """Return the type of a Content-Type field in lower case, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def is_json(content_type: str) -> bool:
    """Whether the field names JSON: ``application/json``, or a type that ends in ``+json``."""
    kind = media_type(content_type)
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def charset_of(content_type: str, default: str = "utf-8") -> str:
    """Return the charset of a Content-Type field if Python knows it, otherwise the default."""
    charset = next((value for name, value in _parameters(content_type) if name == "charset"), default)
    try:
        "".encode(charset)  # LookupError also for a codec between bytes, such as "hex"
    except (LookupError, ValueError):
        return default
    return charset


class TextDecoder:
    """Decodes a text chunk by chunk, in the charset of its Content-Type field. Replaces what is not in that charset."""

    def __init__(self, content_type: str) -> None:
        try:
            self._decoder = codecs.getincrementaldecoder(charset_of(content_type))("replace")
        except LookupError:
            self._decoder = _utf_8()

    def decode(self, data: bytes, *, final: bool = False) -> str:
        """Return the text of the next chunk. Raises nothing."""
        try:
            return self._decoder.decode(data, final)
        except UnicodeError:  # no byte order mark, or a codec such as "idna", which replaces nothing
            self._decoder = _utf_8()
            return self._decoder.decode(data, final)


def _utf_8() -> codecs.IncrementalDecoder:
    return codecs.getincrementaldecoder("utf-8")("replace")


def is_attachment(disposition: str) -> bool:
    """Whether a Content-Disposition field asks clients to save the body as a file."""
    kind = disposition.partition(";")[0].strip().lower()
    return bool(kind) and kind != "inline"  # an unknown type means an attachment (RFC 6266, section 4.2)


def attachment_name(disposition: str) -> str | None:
    """Return the file name in a Content-Disposition field, not cleaned; None if it has none."""
    found = dict(reversed(list(_parameters(disposition))))  # of a repeated parameter the first counts
    extended = found.get("filename*", "")
    charset, _, rest = extended.partition("'")
    _, quote_, encoded = rest.partition("'")
    if quote_:
        try:
            return unquote_to_bytes(encoded).decode(charset)
        except (LookupError, ValueError):
            pass  # then the plain parameter
    name = found.get("filename")
    if name is None:
        return None
    try:
        return name.encode("latin-1").decode()  # many frameworks send UTF-8
    except UnicodeError:
        return name


def _parameters(field: str) -> Iterator[tuple[str, str]]:
    """Yield the parameters of a field, with names in lower case, and quoted values without their quotes."""
    for found in _PARAMETER.finditer(field):
        value = found[2]
        if value.startswith('"'):
            value = _QUOTED_PAIR.sub(r"\1", value[1:-1])
        yield found[1].lower(), value


def file_name(name: str, content_type: str = "") -> str:
    """Return a name that is safe to save a file under: one segment of a path, without control characters, never empty.

    A name without an extension gets the usual one of the content type.
    """
    # Only the last segment: some clients send a whole path.
    cleaned = clean_text(re.split(r"[/\\]", name.strip().rstrip("/\\"))[-1])
    cleaned = _NOT_IN_NAMES.sub("_", cleaned).strip(" .") or "file"
    stem, dot, extension = cleaned.rpartition(".")
    if not dot:
        from mimetypes import guess_extension  # noqa: PLC0415 - most jobs have no file

        stem, extension = cleaned, (guess_extension(media_type(content_type)) or "")[1:]
    elif len(extension.encode()) > 20:
        stem, extension = cleaned, ""
    room = _LONGEST_NAME - len(extension.encode()) - 1
    stem = stem.encode()[:room].decode(errors="ignore").rstrip(" .") or "file"
    return f"{stem}.{extension}" if extension else stem


def file_type(content_type: str | None, name: str = "") -> str:
    """Return a content type that is safe in a header field; without one, the usual type of the name's extension."""
    given = (content_type or "").strip()
    if len(given) <= _LONGEST_TYPE and _TYPE.fullmatch(given):
        return given
    from mimetypes import guess_type  # noqa: PLC0415 - most jobs have no file

    return guess_type(name)[0] or OCTETS


def attachment(name: str) -> str:
    """Return the value of a Content-Disposition field for a download under this name."""
    # Browsers may decode percent escapes in the plain form (RFC 6266, appendix D), so it has none.
    plain = _PERCENT_ESCAPE.sub("_", name.encode("ascii", "replace").decode().replace("?", "_"))
    plain = plain.replace("\\", "_").replace('"', "_")
    value = f'attachment; filename="{plain}"'
    return value if plain == name else f"{value}; filename*=UTF-8''{quote(name, safe='')}"
