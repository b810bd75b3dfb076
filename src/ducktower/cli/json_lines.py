"""JSON as Arrow's reader wants it: one object a line, whether the file has lines or one array.

Owns the cutting of an array into its objects. Must never look into them.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator

from .readable import Readable

__all__ = ["JsonLines"]

_CHUNK_BYTES = 1024 * 1024
_OBJECT_CHARACTERS_MAX = 64 * 1024 * 1024
_SPACE = " \t\r\n"


class JsonLines(Readable):
    """A readable file of JSON lines over another one, which `read` yields piece by piece."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._pieces = _lines(read)
        self._rest = b""

    def read(self, size: int = _CHUNK_BYTES) -> bytes:
        """Return at most `size` bytes, fewer only at the end.

        Raises:
            ValueError: the array is not one of objects, or is cut short.
        """
        parts = [self._rest]
        have = len(self._rest)
        while have < size and (piece := next(self._pieces, None)) is not None:
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._rest = data[size:]
        return data[:size]


def _lines(read: Callable[[int], bytes]) -> Iterator[bytes]:
    data = read(_CHUNK_BYTES).lstrip(codecs.BOM_UTF8).lstrip()
    while not data and (more := read(_CHUNK_BYTES)):
        data = more.lstrip()
    if not data.startswith(b"["):
        while data:
            yield data
            data = read(_CHUNK_BYTES)
        return
    decode = codecs.getincrementaldecoder("utf-8")().decode
    yield from _objects(decode(data[1:]), lambda: decode(read(_CHUNK_BYTES)))


def _objects(text: str, more: Callable[[], str]) -> Iterator[bytes]:
    """Yield the objects of an array whose opening bracket has been taken off, as lines."""
    scan = json.JSONDecoder().raw_decode
    at = 0
    while True:
        while at < len(text) and text[at] in _SPACE + ",":
            at += 1
        if at < len(text):
            if text[at] == "]":
                return
            if text[at] != "{":
                raise ValueError("a JSON array must hold objects, one for each row")
            try:
                _, end = scan(text, at)
            except json.JSONDecodeError:
                if len(text) - at > _OBJECT_CHARACTERS_MAX:
                    raise
            else:
                # Line breaks inside an object stand between its parts: in strings they are escaped.
                yield text[at:end].replace("\r", " ").replace("\n", " ").encode() + b"\n"
                at = end
                continue
        added = more()
        if not added:
            raise ValueError("the JSON array is cut short, or an object in it is malformed")
        text, at = text[at:] + added, 0
