"""HDF5 files that anybody may have written: their groups, attributes and arrays, in memory.

h5py reads the structure alone, from bytes; arrays are views of these bytes.  So nothing is allocated for what
a file only claims to hold, and no filter, conversion, virtual dataset or external file has a part in it.
Only hard links are followed: the others may lead to any file.  All trouble is a ValueError.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check
from . import hdf5_text

# Bytes of an attribute; a config of that size takes 30 times as much when it is parsed.
LONGEST_TEXT = 1 << 20
_MOST_MEMBERS = 1 << 14  # of groups that are gone through, each time
_DEEPEST = 64  # group in groups

_FLOATS = {
    "IEEE_F16LE": "<f2", "IEEE_F32LE": "<f4", "IEEE_F64LE": "<f8",
    "IEEE_F16BE": ">f2", "IEEE_F32BE": ">f4", "IEEE_F64BE": ">f8",
}  # fmt: skip


class _RefusedError(ValueError):
    """What this module refuses, and not h5py."""


@contextmanager
def _reading() -> Iterator[None]:
    """Turn what h5py raises, which is of many classes, into ValueError."""
    try:
        yield
    except _RefusedError:
        raise
    except Exception as error:
        raise ValueError(f"not HDF5 that can be read ({_check.shorten(str(error))})") from error


class File:
    """An HDF5 file in memory.

    Groups are h5py's, to be handed to the methods only.

    Attributes
    ----------
    root : h5py.Group
    """

    def __init__(self, content: bytes) -> None:
        try:
            import h5py
        except ImportError as error:
            raise ImportError(
                "an HDF5 file needs the package h5py: pip install 'cython-lstm[keras]'"
            ) from error
        self._h5py = h5py
        self._content = content
        self._left = len(content)  # what its arrays may hold together
        self._members = 0  # that have been gone through
        with _reading():
            self._texts = hdf5_text.heaps(content)
            self.root = h5py.File(io.BytesIO(content), "r")

    def close(self) -> None:
        """Let go of the file; arrays stay."""
        with _reading():
            self.root.close()

    @_reading()
    def member(self, group: Any, path: str) -> Any:
        """Return a group or a dataset in a group, None if there is none."""
        for name in path.split("/"):
            if not name:
                continue
            if not isinstance(group, self._h5py.Group):
                return None
            link = group.get(name, getlink=True)
            if link is None:
                return None
            if not isinstance(link, self._h5py.HardLink):
                raise _RefusedError(f"{_check.describe(name)}: expected no link, got {type(link).__name__}")
            group = group[name]
        return group

    def group(self, group: Any, path: str) -> Any:
        """Return a group in a group, None if there is none."""
        member = self.member(group, path)
        return member if isinstance(member, self._h5py.Group) else None

    @_reading()
    def names(self, group: Any) -> list[str]:
        """Return the names of the members of a group."""
        self._members += len(group)
        if self._members > _MOST_MEMBERS:
            raise _RefusedError(f"expected at most {_MOST_MEMBERS} groups and arrays")
        return list(group)

    def walk(self, group: Any, ends: Callable[[str, Any], bool] = lambda *_: False) -> list[str]:
        """Return the paths of all datasets in a group and in the groups in it.

        A group that stands in several places is looked into once, so that there are no circles; one for which
        `ends` is true is not looked into.
        """
        found, rest, seen = [], [("", group)], {group}
        while rest:
            place, inner = rest.pop()
            if place.count("/") > _DEEPEST:
                raise ValueError(f"expected groups that are nested {_DEEPEST} times at most")
            for name in self.names(inner):
                path, member = f"{place}/{name}".lstrip("/"), self.member(inner, name)
                if not isinstance(member, self._h5py.Group):
                    found.append(path)
                elif member not in seen:
                    seen.add(member)
                    if not ends(path, member):
                        rest.append((path, member))
        return found

    @_reading()
    def shape(self, group: Any, path: str) -> tuple[int, ...] | None:
        """Return the shape that a dataset claims to have, None if there is none."""
        member = self.member(group, path)
        return tuple(member.shape) if isinstance(member, self._h5py.Dataset) else None

    @_reading()
    def array(self, group: Any, path: str) -> NDArray[Any]:
        """Return the numbers of a dataset, as a view of the file's bytes."""
        dataset, shown = self.member(group, path), _check.describe(path)
        if not isinstance(dataset, self._h5py.Dataset):
            raise _RefusedError(f"{shown}: expected an array, got none")
        plan = dataset.id.get_create_plist()
        offset = dataset.id.get_offset()
        contiguous = plan.get_layout() == self._h5py.h5d.CONTIGUOUS
        if not contiguous or plan.get_external_count() or offset is None:
            raise _RefusedError(
                f"{shown}: expected numbers that lie in one piece in the file, as Keras writes them"
            )
        stored = dataset.id.get_type()
        dtype = next((d for name, d in _FLOATS.items() if stored == getattr(self._h5py.h5t, name)), None)
        if dtype is None:
            raise _RefusedError(f"{shown}: expected float16, float32 or float64, got {stored.dtype}")
        count = math.prod(dataset.shape)
        size = count * np.dtype(dtype).itemsize
        self._left -= size
        if offset + size > len(self._content) or self._left < 0:
            raise _RefusedError(f"{shown}: claims more numbers than the file has room for, {dataset.shape}")
        array = np.frombuffer(self._content, dtype, count, offset).reshape(dataset.shape)
        return array.astype(f"=f{max(4, array.itemsize)}", copy=False)  # ours may be float32 or float64

    @_reading()
    def has(self, group: Any, name: str) -> bool:
        """Whether a group has an attribute of a name."""
        return bool(self._h5py.h5a.exists(group.id, name.encode()))

    @_reading()
    def text(self, group: Any, name: str) -> str | None:
        """Return a text that is an attribute, None if there is none."""
        if not self.has(group, name):
            return None
        address = self._h5py.h5o.get_info(group.id).addr
        text = hdf5_text.attribute(self._content, self._texts, address, name)
        if text is None or len(text) > LONGEST_TEXT:
            raise _RefusedError(f"{_check.describe(name)}: expected one text of at most {LONGEST_TEXT} bytes")
        return text.decode()
