"""Reading protobuf messages without a library: what a file holds costs no more memory than it is long.

Libraries make an object of each two bytes that ask for one.  Here a message is a place in the content; its
fields are looked up when somebody asks for them, and what a file may cost in all is counted in a `Budget`.
Numbers of fields, and what they mean, are the caller's business.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5  # wire types; 3 and 4 are groups, which nobody writes

_LONGEST_TEXT = 1 << 16
# Bytes of packed integers that are decoded at once.
_BLOCK = 1 << 16


class Budget:
    """What may be spent on a file in all: steps, each of about a microsecond, and bytes of memory."""

    def __init__(self, steps: int, memory: int) -> None:
        self._steps = steps
        self._memory = memory

    def step(self) -> None:
        """Count a field or a node that is looked at."""
        self._steps -= 1
        if self._steps < 0:
            raise ValueError("it has more fields and nodes than would be read in a second")

    def take(self, size: int) -> None:
        """Count memory before it is allocated."""
        self._memory -= size
        if self._memory < 0:
            raise ValueError("what its graph computes is much larger than the file")


class Message:
    """A message in a content.

    Every method takes the number of a field; what is absent is None, or empty if it can stand repeatedly.

    Raises
    ------
    ValueError
        It is malformed, has a field of another type than what is asked for, or a single field twice.
    """

    __slots__ = ("_budget", "_content", "_found", "_place")

    def __init__(self, content: bytes, budget: Budget, start: int = 0, stop: int | None = None) -> None:
        self._content = content
        self._budget = budget
        self._place = start, len(content) if stop is None else stop
        self._found: dict[int, list[tuple[int, int, int]]] | None = None

    @property
    def _fields(self) -> dict[int, list[tuple[int, int, int]]]:
        """Wire type of each field of a number; its value and 0, or where it starts and stops."""
        if self._found is None:
            self._found = self._read()
        return self._found

    def _read(self) -> dict[int, list[tuple[int, int, int]]]:
        fields: dict[int, list[tuple[int, int, int]]] = {}
        at, stop = self._place
        while at < stop:
            self._budget.step()
            tag, at = self._varint(at, stop)
            number, wire = tag >> 3, tag & 7
            if wire == _VARINT:
                value, at = self._varint(at, stop)
                field = (wire, value, 0)
            else:
                if wire == _BYTES:
                    size, at = self._varint(at, stop)
                elif wire in (_FOUR, _EIGHT):
                    size = 4 if wire == _FOUR else 8
                else:
                    raise ValueError(f"field {number} has the unknown type {wire}")
                field = (wire, at, at + size)
                at += size
                if at > stop:
                    raise ValueError("it is truncated, or a size in it is wrong")
            fields.setdefault(number, []).append(field)
        return fields

    def _varint(self, at: int, stop: int) -> tuple[int, int]:
        """Return an integer of 64 bits without a sign, and where it ends."""
        value = shift = 0
        while at < stop and shift < 70:
            byte = self._content[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFF_FFFF_FFFF_FFFF, at
            shift += 7
        raise ValueError("it is truncated, or a number in it is wrong")

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def _one(self, number: int, wire: int) -> tuple[int, int] | None:
        """Return a field that must not stand twice."""
        found = self._all(number, wire)
        if len(found) > 1:
            raise ValueError(f"expected field {number} once, got it {len(found)} times")
        return found[0] if found else None

    def _all(self, number: int, wire: int) -> list[tuple[int, int]]:
        fields = self._fields.get(number)
        if fields is None:
            return []
        if any(field[0] != wire for field in fields):
            raise ValueError(f"field {number} has another type than expected")
        return [field[1:] for field in fields]

    def integer(self, number: int) -> int | None:
        """Return an integer with a sign."""
        found = self._one(number, _VARINT)
        return None if found is None else _signed(found[0])

    def real(self, number: int) -> float | None:
        """Return a number of 32 bits."""
        found = self._one(number, _FOUR)
        return None if found is None else float(struct.unpack_from("<f", self._content, found[0])[0])

    def text(self, number: int) -> str:
        """Return a text, which is empty if it is absent."""
        found = self._one(number, _BYTES)
        return "" if found is None else self._decode(*found)

    def texts(self, number: int) -> tuple[str, ...]:
        """Return all texts of a field."""
        return tuple(self._decode(*place) for place in self._all(number, _BYTES))

    def _decode(self, start: int, stop: int) -> str:
        if stop - start > _LONGEST_TEXT:
            raise ValueError(f"expected names of at most {_LONGEST_TEXT} bytes, got one of {stop - start}")
        return self._content[start:stop].decode()  # a UnicodeDecodeError is a ValueError

    def message(self, number: int) -> Message | None:
        """Return a message in this one."""
        found = self._one(number, _BYTES)
        return None if found is None else Message(self._content, self._budget, *found)

    def messages(self, number: int) -> tuple[Message, ...]:
        """Return all messages of a field."""
        return tuple(Message(self._content, self._budget, *place) for place in self._all(number, _BYTES))

    def numbers(self, number: int, dtype: str) -> Array:
        """Return an array of all numbers of a field, of 32 or 64 bits, as a view if it can be one."""
        wire = _FOUR if np.dtype(dtype).itemsize == 4 else _EIGHT
        places = [field[1:] for field in self._fields.get(number, []) if field[0] in (wire, _BYTES)]
        if len(places) != len(self._fields.get(number, [])):
            raise ValueError(f"field {number} has another type than expected")
        if len(places) == 1:
            return self._view(places[0][0], places[0][1], dtype)
        self._budget.take(sum(stop - start for start, stop in places))
        parts = [self._view(start, stop, dtype) for start, stop in places]
        return np.concatenate([np.empty(0, dtype), *parts])

    def raw(self, number: int, dtype: str) -> Array | None:
        """Return bytes as an array that is a view of the content."""
        found = self._one(number, _BYTES)
        return None if found is None else self._view(*found, dtype)

    def _view(self, start: int, stop: int, dtype: str) -> Array:
        count, rest = divmod(stop - start, np.dtype(dtype).itemsize)
        if rest:
            raise ValueError(
                f"expected numbers of {np.dtype(dtype).itemsize} bytes, got {stop - start} bytes"
            )
        return np.frombuffer(self._content, dtype, count, start) if count else np.empty(0, dtype)

    def integers(self, number: int, dtype: str = "<i8") -> Array:
        """Return all integers of a field, packed or one by one; `dtype` must hold them."""
        limits, parts = np.iinfo(dtype), []
        for wire, *place in self._fields.get(number, []):
            if wire not in (_VARINT, _BYTES):
                raise ValueError(f"field {number} has another type than expected")
            blocks = self._unpacked(*place) if wire == _BYTES else [np.array([_signed(place[0])])]
            for block in blocks:
                if block.size and not limits.min <= block.min() <= block.max() <= limits.max:
                    raise ValueError(f"expected integers in {limits.min}..{limits.max}, got others")
                self._budget.take(2 * block.size * np.dtype(dtype).itemsize)  # once more when they are joined
                parts.append(block.astype(dtype))
        return np.concatenate([np.empty(0, dtype), *parts])

    def _unpacked(self, start: int, stop: int) -> Iterator[NDArray[np.int64]]:
        """Decode packed integers, block by block."""
        while start < stop:
            encoded = np.frombuffer(self._content, np.uint8, min(stop - start, _BLOCK), start)
            ends = np.flatnonzero(encoded < 128) + 1
            begins = np.concatenate([[0], ends[:-1]])
            sizes = ends - begins
            if not sizes.size or sizes.max() > 10:
                raise ValueError("it is truncated, or a number in it is wrong")
            values = np.zeros(sizes.size, np.uint64)
            for n in range(int(sizes.max())):
                longer = sizes > n
                bits = encoded[begins[longer] + n].astype(np.uint64) & np.uint64(127)
                values[longer] |= bits << np.uint64(7 * n)
            yield values.view(np.int64)
            start += int(ends[-1])


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
