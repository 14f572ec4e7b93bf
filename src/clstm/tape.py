"""class Tape: what a forward pass leaves for its backward pass, as a value that can be kept.

The memory of its arrays comes from the pool of the kernels, and goes back when nobody holds them any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from numpy.typing import NDArray

from .cells import CellTape, Options, Schedule, State

Array = NDArray[Any]


class LayerTape(NamedTuple):
    """What one layer of a stack has left."""

    x: Array  # (T, B, I_k), after dropout
    mask: Array | None  # what its input was multiplied by
    cells: tuple[CellTape, ...]  # one a direction


@dataclass(frozen=True, eq=False, repr=False)
class Tape:
    """What `forward` leaves for `backward`; valid until the parameters change.

    Made by `clstm.LSTM.forward` and `clstm.RNN.forward`, read as ``layer.tape``, handed to
    ``layer.backward(..., tape=tape)``. Any number may live at once, in any number of threads.
    """

    owner: object  # the identity of the layer's storage
    layers: tuple[LayerTape, ...]
    state: State  # (num_layers * num_directions, B, R) and (..., H), before the first step
    schedule: Schedule  # of the forward direction
    options: Options | None  # of the cells
    batched: bool  # whether x came with an axis of rows,
    batch_first: bool  # and whether that was its first

    @property
    def shape(self) -> tuple[int, int, int]:
        """(T, B, I) of the input."""
        T, B, I = self.layers[0].x.shape  # noqa: E741
        return T, B, I

    def __repr__(self) -> str:
        T, B, I = self.shape  # noqa: E741
        return f"<Tape of {T} time steps of {B} rows of {I} inputs, {len(self.layers)} layers>"
