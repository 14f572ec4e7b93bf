"""What the layers that walk over sequences share: arguments and results in the layouts users have, weights, the tape's memory.

`LSTM` and `RNN` stand on it; it knows nothing of gates, directions or kernels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check
from ._parameters import Parameters

Array = NDArray[Any]


class Cell(NamedTuple):
    """The weights (or their gradients) of one layer in one direction, as the kernels take them; views of a flat array.

    There are n blocks of H columns: four gates, or one for a layer that has none.
    """

    W_x: Array  # (I_k, nH)
    W_h: Array  # (H, nH)
    bias: Array  # (nH,)


def draw_weights(cell: Cell, init: str, rng: np.random.Generator, bias: bool) -> None:
    """Fill a cell whose bias is 0.

    "torch": U(-1/sqrt(H), 1/sqrt(H)) for everything; "glorot": Glorot-uniform input weights, orthogonal
    recurrent blocks.
    """
    W_x, W_h, _ = cell
    H = len(W_h)
    if init == "torch":
        for part in cell if bias else (W_x, W_h):
            part[...] = rng.uniform(-1.0, 1.0, part.shape) / np.sqrt(H)
    else:
        limit = np.sqrt(6.0 / (len(W_x) + H))
        W_x[...] = rng.uniform(-limit, limit, W_x.shape)
        for block in np.split(W_h, W_h.shape[1] // H, axis=1):
            q, r = np.linalg.qr(rng.standard_normal((H, H)))
            block[...] = q * np.sign(np.diag(r))


class ArrayPool:
    """The arrays of a tape that is no longer needed, for the next one: fresh memory costs a page fault every 4 KB."""

    MOST_BYTES = 256 << 20

    def __init__(self) -> None:
        self._arrays: list[Array] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array with any content, like np.empty."""
        for n, array in enumerate(self._arrays):
            if array.shape == shape and array.dtype == dtype:
                return self._arrays.pop(n)
        return np.empty(shape, dtype)

    def replace(self, arrays: list[Array]) -> None:
        """Drop what is left and take these."""
        self._arrays = arrays if sum(array.nbytes for array in arrays) <= self.MOST_BYTES else []


class SequenceLayer(Parameters):
    """Base of the layers that map sequences to sequences."""

    input_size: int
    batch_first: bool

    def _sequence(self, name: str, value: ArrayLike, features: int) -> tuple[Array, bool]:
        """Return a sequence argument as (T, B, features), and whether it came with a batch axis."""
        given = _check.array(name, value, self.dtype)
        if given.ndim == 2:
            _check.shape(name, given, ("T", features))
            return given[:, None], False
        if given.ndim != 3:
            batched = f"(B, T, {features})" if self.batch_first else f"(T, B, {features})"
            raise ValueError(f"{name}: expected shape {batched} or (T, {features}), got {given.shape}")
        _check.shape(name, given, ("B", "T", features) if self.batch_first else ("T", "B", features))
        return (given.swapaxes(0, 1) if self.batch_first else given), True

    def _time_step(self, x_t: ArrayLike) -> tuple[Array, bool]:
        """Return the input of one time step as a contiguous (B, I), and whether it came with a batch axis."""
        x = _check.array("x_t", x_t, self.dtype)
        batched = x.ndim != 1
        _check.shape("x_t", x, ("B", self.input_size) if batched else (self.input_size,))
        return np.ascontiguousarray(x if batched else x[None]), batched

    def _output_derivative(self, dy: ArrayLike | None, shape: tuple[int, int, int], batched: bool) -> Array:
        """Return the derivative by an output of shape (T, B, features), laid out so; None means zeros."""
        if dy is None:
            return np.zeros(shape, self.dtype)
        T, B, features = shape
        expected = (B, T, features) if self.batch_first else shape
        given = _check.shaped("dy", dy, self.dtype, expected if batched else (T, features))
        return self._sequence("dy", given, features)[0]

    def _public(self, sequence: Array, batched: bool) -> Array:
        """Lay out a (T, B, features) result as the user's input was."""
        if not batched:
            return sequence[:, 0]
        return sequence.swapaxes(0, 1) if self.batch_first else sequence
