"""What training draws for each layer: dropout between layers, and what holds for a whole episode.

Everything is drawn here, before a backend runs, so that it is the same on every backend and for any number of
threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from .cells import Cell, Masks, Options, Schedule

Array = NDArray[Any]


class Drawn(NamedTuple):
    """What one layer of a stack is trained with."""

    input: Array | None  # what its input (T, B, I_k) is multiplied by; it may have fewer axes
    directions: tuple[Masks, ...]


NOTHING_DRAWN = Drawn(None, (Masks(), Masks()))


class Layer(Protocol):
    """What drawing asks of a layer."""

    @property
    def dropout(self) -> float: ...
    @property
    def input_dropout(self) -> float: ...
    @property
    def recurrent_dropout(self) -> float: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def cells(self) -> tuple[Cell, ...]: ...
    @property
    def num_directions(self) -> int: ...
    @property
    def num_layers(self) -> int: ...


def draw(layer: Layer, rng: np.random.Generator, schedule: Schedule, steps: tuple[int, int]) -> list[Drawn]:
    """Draw everything for one forward pass over (T, B) steps, layer by layer."""
    D, dtype = layer.num_directions, layer.dtype
    episodes = _Episodes(schedule, steps)
    drawn = []
    for k in range(layer.num_layers):
        cells = layer.cells[k * D : (k + 1) * D]
        features = len(cells[0].W_x)
        mask = dropout_mask(rng, (*steps, features), layer.dropout, dtype) if k else None
        held = dropout_mask(rng, (episodes.count, features), layer.input_dropout, dtype)
        if held is not None:
            held = episodes.spread(held)
            mask = held if mask is None else mask * held
        drawn.append(Drawn(mask, tuple(_masks(layer, cell, rng, episodes, steps) for cell in cells)))
    return drawn


class _Episodes:
    """The episodes of a batch, in which a sequence without resets is one."""

    def __init__(self, schedule: Schedule, steps: tuple[int, int]) -> None:
        self._steps = T, B = steps
        self.count, self._of_step = B, None
        if schedule.resets is not None:
            begins = schedule.resets & (np.arange(T)[:, None] < schedule.lengths)
            begins[0] = True
            number = np.cumsum(begins.T).reshape(B, T).T - 1  # row by row
            self.count, self._of_step = int(number[-1, -1]) + 1, number

    def spread(self, values: Array) -> Array:
        """Return values (count, n) as an array (T, B, n), a view where its steps are alike."""
        if self._of_step is None:
            return np.broadcast_to(values, (*self._steps, values.shape[1]))
        spread: Array = values[self._of_step]
        return spread


def dropout_mask(
    rng: np.random.Generator, shape: tuple[int, ...], p: float, dtype: np.dtype[Any]
) -> Array | None:
    """Draw 0 with probability p, else what keeps the mean; None for p = 0, without drawing."""
    if p == 0.0:
        return None
    mask: Array = (rng.random(shape) >= p).astype(dtype) / dtype.type(1.0 - p)
    return mask


def _zoneout(
    rng: np.random.Generator, shape: tuple[int, ...], p: float, dtype: np.dtype[Any]
) -> Array | None:
    """Draw 1, for what keeps its value, with probability p, else 0."""
    if p == 0.0:
        return None
    mask: Array = (rng.random(shape, np.float32) < p).astype(dtype)  # many numbers: half the time of float64
    return mask


def _masks(
    layer: Layer, cell: Cell, rng: np.random.Generator, episodes: _Episodes, steps: tuple[int, int]
) -> Masks:
    """Draw for one direction."""
    R, H, dtype = len(cell.W_h), cell.hidden_size, layer.dtype
    recurrent = dropout_mask(rng, (episodes.count, R), layer.recurrent_dropout, dtype)
    p_h, p_c = (cell.options or Options()).zoneout
    return Masks(
        None if recurrent is None else episodes.spread(recurrent),
        _zoneout(rng, (*steps, R), p_h, dtype),
        _zoneout(rng, (*steps, H), p_c, dtype),
    )
