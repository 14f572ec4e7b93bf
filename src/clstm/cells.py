"""Kinds of cells as data, and the records that both backends take: what is computed, when, what is left.

Plain values, read alike by reference.py and the kernels.  Sizes: T, B, I, H = time steps, batch rows, inputs,
hidden units; G = gates of a kind.  A state is a tuple of arrays (B, H), one for each of the kind's `states`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]
State = tuple[Array, ...]


class Kind(NamedTuple):
    """What all cells of a kind have in common."""

    name: str
    gates: str  # a letter for each block of H columns of the weights, in the order of the storage
    states: tuple[str, ...]  # h, which is also the output, comes first

    def block(self, gate: str, hidden_size: int) -> slice:
        """Return the columns of a gate."""
        n = self.gates.index(gate)
        return slice(n * hidden_size, (n + 1) * hidden_size)


LSTM = Kind("lstm", "ifgo", ("h", "c"))
RNN = Kind("rnn", "h", ("h",))


class Cell(NamedTuple):
    """What one layer in one direction computes; also the gradients by its weights."""

    kind: Kind
    W_x: Array  # (I, GH)
    W_h: Array  # (H, GH)
    bias: Array  # (GH,)

    def astype(self, dtype: DTypeLike) -> Cell:
        """Return a copy with contiguous weights of a dtype."""
        return Cell(
            self.kind, *(np.array(part, dtype, order="C") for part in (self.W_x, self.W_h, self.bias))
        )

    def copy_in(self, other: Cell) -> None:
        """Take the values of another cell."""
        self.W_x[...], self.W_h[...], self.bias[...] = other.W_x, other.W_h, other.bias


class Schedule(NamedTuple):
    """Which steps are run, and in which order."""

    lengths: NDArray[Any]  # (B,), intp: real steps of each row, at most T
    reverse: bool  # from each row's last real step to its first


class CellTape(NamedTuple):
    """What a cell leaves behind step by step, at the time index of the step; arrays may be views."""

    y: Array  # (T, B, H): h of every step; 0 on padding
    gates: Array | None = None  # (T, B, GH) after their activation, None for a kind whose one gate is h
    c: Array | None = None  # (T, B, H), None for a kind without it

    def at(self, t: int) -> CellTape:
        """Return what one step has left."""
        one = slice(t, t + 1)
        gates, c = (None if part is None else part[one] for part in (self.gates, self.c))
        return CellTape(self.y[one], gates, c)
