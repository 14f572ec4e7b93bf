"""Texts that are attributes of an object in an HDF5 file, read from the file's bytes.

HDF5 itself takes as much memory as a text of variable length claims to need, and walks without end through a
heap of texts that is damaged: so `heaps` comes before HDF5 reads anything, and `attribute` in place of its
functions.  See the HDF5 File Format Specification; what Keras never writes is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

Heaps = dict[int, dict[int, tuple[int, int]]]  # place and size of texts, by the place of the heap and number

_HEAP = b"GCOL\x01"
_CONTINUATION, _ATTRIBUTE = 0x10, 0x0C
_STRING, _VARIABLE = 3, 9
_MOST_TEXTS = 1 << 16
_MOST_MESSAGES = 1 << 7  # in a header


def heaps(content: bytes) -> Heaps:
    """Find the texts of a file; refuse damaged heaps, and sizes that have not 8 bytes."""
    sizes = content[13:15] if content[8:9] in (b"\0", b"\1") else content[9:11]
    if sizes != b"\x08\x08":
        raise ValueError("expected offsets and lengths of 8 bytes")
    found: Heaps = {}
    begin, items = content.find(_HEAP), 0
    while begin >= 0:
        texts = found[begin] = {}
        for index, place, size in _heap(content, begin):
            texts.setdefault(index, (place, size))
            items += 1
            if items > _MOST_TEXTS:
                raise ValueError(f"expected at most {_MOST_TEXTS} texts")
        begin = content.find(_HEAP, begin + 1)
    return found


def attribute(content: bytes, texts: Heaps, address: int, name: str) -> bytes | None:
    """Return an attribute in the header of an object, None for what is no single text."""
    for kind, body in _messages(content, address):
        if kind == _ATTRIBUTE:
            label, *parts = _parts(body)
            if label == name:
                return _text(content, texts, *parts)
    return None


def _number(content: bytes, place: int, size: int) -> int:
    """Return an integer of some bytes, which must be there."""
    if not 0 <= place <= len(content) - size:
        raise ValueError("ends too early")
    return int.from_bytes(content[place : place + size], "little")


def _heap(content: bytes, begin: int) -> Iterator[tuple[int, int, int]]:
    """Go through a heap: index, place and size of each text."""
    place, end = begin + 16, begin + _number(content, begin + 8, 8)
    if end > len(content):
        raise ValueError("a heap of texts is larger than the file")
    while place + 16 <= end:
        index, size = _number(content, place, 2), _number(content, place + 8, 8)
        step = 16 + (size + 7) // 8 * 8 if index else size  # index 0 is free space, its head included
        if step < 16 or place + step > end:
            raise ValueError("a heap of texts is damaged")
        yield index, place + 16, size
        place += step


def _messages(content: bytes, address: int) -> Iterator[tuple[int, bytes]]:
    """Go through the header of an object, of version 1 or 2: kind and body of each message."""
    is_first = _number(content, address, 1) == 1
    if is_first:
        blocks = [(address + 16, _number(content, address + 8, 4))]
        head = 8
    else:
        flags = _number(content, address + 5, 1)
        start = address + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        blocks = [(start + width, _number(content, start, width))]
        head = 6 if flags & 4 else 4
    items = 0
    for start, size in blocks:  # which grows
        place, end = start, start + size
        while place + head <= end:
            kind = _number(content, place, 2 if is_first else 1)
            length = _number(content, place + (2 if is_first else 1), 2)
            is_shared = _number(content, place + (4 if is_first else 3), 1) & 2
            place += head + length
            items += 1
            if place > min(end, len(content)) or items > _MOST_MESSAGES:
                raise ValueError("the header of an object is damaged")
            body = content[place - length : place]
            if kind == _CONTINUATION:
                offset, more = _number(body, 0, 8), _number(body, 8, 8)
                # From version 2 on, a block has a signature at its beginning and a checksum at its end.
                blocks.append((offset, more) if is_first else (offset + 4, more - 8))
            elif not is_shared:
                yield kind, body


def _parts(body: bytes) -> tuple[str, bytes, bytes, bytes]:
    """Return name, type, shape and data of an attribute; no type for one that is shared."""
    version = _number(body, 0, 1)
    sizes = [_number(body, place, 2) for place in (2, 4, 6)]
    place, parts = (9 if version == 3 else 8), []
    for size in sizes:
        parts.append(body[place : place + size])
        place += (size + 7) // 8 * 8 if version == 1 else size
    is_shared = version > 1 and _number(body, 1, 1)
    return parts[0].split(b"\0")[0].decode(), b"" if is_shared else parts[1], parts[2], body[place:]


def _text(content: bytes, texts: Heaps, kind: bytes, space: bytes, data: bytes) -> bytes | None:
    """Return the value of an attribute if it is one text."""
    rank = _number(space, 1, 1)
    dimensions = [_number(space, (8 if _number(space, 0, 1) == 1 else 4) + 8 * n, 8) for n in range(rank)]
    if not kind or any(dimension != 1 for dimension in dimensions):
        return None
    if _number(kind, 0, 1) & 0xF == _STRING:
        return data[: _number(kind, 4, 4)].split(b"\0")[0]
    if _number(kind, 0, 1) & 0xF != _VARIABLE or _number(kind, 1, 1) & 0xF != 1:
        return None
    length, heap, wanted = _number(data, 0, 4), _number(data, 4, 8), _number(data, 12, 4)
    if heap not in texts:
        raise ValueError("a text is not in a heap")
    place, size = texts[heap].get(wanted, (0, -1))
    if length > size:
        raise ValueError("a text is missing")
    return content[place : place + length]
