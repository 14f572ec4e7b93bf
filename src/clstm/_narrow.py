"""How weights that take fewer bytes than floats lie in memory: panels of words, which pyx/narrow.h reads.

A panel has 16 units with their four gates; a word of 32 bits holds consecutive rows of one column, the first
in its lowest bits: two bfloat16, or four bytes w + 128.  The layout is the same for every kernel build.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

UNITS = 16  # of a panel
# What words hold: a number by precision, as it is stored.
STORED: dict[str, np.dtype[Any]] = {"bfloat16": np.dtype(np.uint16), "int8": np.dtype(np.int8)}
_ALIGNMENT = 64  # bytes: of a vector, and of a line of a cache


def pack(values: Array) -> NDArray[np.uint32]:
    """Return a matrix as words (panels, ceil(rows / 2 or 4), 4, 16), aligned and read-only.

    Parameters
    ----------
    values : ndarray of shape (rows, 4H) of uint16, the bits of bfloat16, or of int8
    """
    rows, H, per = len(values), values.shape[1] // 4, 4 // values.itemsize
    panels, depth = -(-H // UNITS), -(-rows // per)
    padded = np.zeros((depth * per, 4, panels * UNITS), values.dtype)
    padded[:rows, :, :H] = values.reshape(rows, 4, H)
    if values.dtype == np.int8:
        padded = padded.view(np.uint8) ^ np.uint8(128)
    words = _empty((panels, depth, 4, UNITS))
    parts = words.view(padded.dtype).reshape(panels, depth, 4, UNITS, per)
    parts[...] = padded.reshape(depth, per, 4, panels, UNITS).transpose(3, 0, 2, 4, 1)
    words.flags.writeable = False
    return words


def unpack(words: NDArray[np.uint32], rows: int, hidden_size: int, stored: np.dtype[Any]) -> Array:
    """Return the matrix (rows, 4H) that `pack` got, of the dtype that it had."""
    panels, depth, per = words.shape[0], words.shape[1], 4 // stored.itemsize
    parts = words.view(np.dtype(f"u{stored.itemsize}")).reshape(panels, depth, 4, UNITS, per)
    padded = parts.transpose(1, 4, 2, 0, 3).reshape(depth * per, 4, panels * UNITS)
    values = padded[:rows, :, :hidden_size].reshape(rows, 4 * hidden_size)
    return (values ^ np.uint8(128)).view(np.int8) if stored == np.int8 else values


def _empty(shape: tuple[int, ...]) -> NDArray[np.uint32]:
    """Return an array whose first number is aligned."""
    size = int(np.prod(shape)) * 4
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(np.uint32).reshape(shape)
