"""What optimisers and clipping see of layers: flat arrays, taken piece by piece.

A piece of every array that an update reads fits into the cache of one core together with the others, so that
memory is read and written once, however many operations an update has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import _check

Array = NDArray[Any]

PIECE = 32768  # elements


class Trainable(Protocol):
    """What an optimiser needs of a layer: two arrays of one shape (n,), where n may be 0."""

    flat_params: Array
    flat_grads: Array


def trainable(layers: Iterable[Trainable]) -> list[Trainable]:
    """Return the layers as a list; each must offer flat arrays, and come once: it would be updated twice.

    Raises
    ------
    ValueError, TypeError
        There is no layer, one comes twice, or its arrays are not flat, not alike or hold no real numbers.
    """
    if not isinstance(layers, Iterable):
        raise TypeError(f"layers: expected a list of layers, got {_check.describe(layers)}")
    given = list(layers)
    if not given:
        raise ValueError("layers: expected at least one layer, got none")
    for layer in given:
        if not (hasattr(layer, "flat_params") and hasattr(layer, "flat_grads")):
            raise TypeError(
                f"layers: expected objects with flat_params and flat_grads, got {_check.describe(layer)}"
            )
        params = _check.flat("flat_params", layer.flat_params)
        grads = _check.flat("flat_grads", layer.flat_grads)
        if params.shape != grads.shape or params.dtype != grads.dtype:
            raise ValueError(
                f"flat_grads: expected an {_check.describe(params)}, as flat_params is, "
                f"got {_check.describe(grads)}"
            )
    if len({id(layer) for layer in given}) != len(given):
        raise ValueError("layers: expected each layer once, got one twice")
    return given


def pieces(*arrays: Array) -> Iterator[list[Array]]:
    """Cut flat arrays of one size into views of at most `PIECE` elements, all at the same places."""
    for start in range(0, arrays[0].size, PIECE):
        yield [array[start : start + PIECE] for array in arrays]


def scratch(layers: Iterable[Trainable], number: int) -> dict[np.dtype[Any], list[Array]]:
    """Make arrays for intermediate results, `number` for each dtype, no longer than the layers need."""
    longest: dict[np.dtype[Any], int] = {}
    for layer in layers:
        params = layer.flat_params
        longest[params.dtype] = max(longest.get(params.dtype, 0), min(params.size, PIECE))
    return {dtype: [np.empty(size, dtype) for _ in range(number)] for dtype, size in longest.items()}
