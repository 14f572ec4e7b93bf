"""What a model needs of a layer, and what it may offer besides; nothing else in this package knows more.

A layer of one's own is a class with these names; it need not derive from anything.
"""

from __future__ import annotations

import inspect
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from .. import _check
from ..layers import SequenceLayer

Array = NDArray[Any]


@runtime_checkable
class Layer(Protocol):
    """Maps the last axis of an array, forward and backward.

    A layer whose `forward` has a parameter `lengths` runs over time: its x is (T, B, F), and what lies beyond
    a row's length means nothing.  No layer changes its x or dy, which others may have kept.  It may offer
    `input_size` and `output_size`, which a model compares, or ``keeps_size = True`` where both are whatever
    comes; `dtype`, `rng`, a generator that it draws from, and what `clstm.parameters.Saved` asks for, to be
    saved.
    """

    flat_params: Array
    flat_grads: Array

    def __call__(self, x: Any, /) -> Any:
        """Return y (..., O) of x (..., I), keeping nothing."""

    def forward(self, x: Any, /) -> Any:
        """Return y and keep what `backward` needs."""

    def backward(self, dy: Any, /, *, accumulate: bool = False) -> Any:
        """Fill or add to `flat_grads`, return dx; None where x has no derivative."""


def named_params(layer: Layer) -> dict[str, Array]:
    """Return copies of a layer's parameters by name; those of a layer without names are "flat_params"."""
    if hasattr(layer, "state_dict"):
        named: dict[str, Array] = layer.state_dict()
        return named
    return {"flat_params": layer.flat_params.copy()} if layer.flat_params.size else {}


def runs_over_time(layer: Layer) -> bool:
    """Whether a layer takes lengths; the others map each step by itself."""
    return isinstance(layer, SequenceLayer) or "lengths" in inspect.signature(layer.forward).parameters


def sizes_of(layer: Layer, before: int | None = None) -> tuple[int | None, int | None]:
    """Return the sizes of the last axis of x and y, None where nobody says; `before` is what comes in."""
    if getattr(layer, "keeps_size", False):
        return before, before
    out: int | None = getattr(layer, "output_size", None)
    if isinstance(layer, SequenceLayer):
        out = layer.num_directions * layer.output_size
    return getattr(layer, "input_size", None), out


def sizes_of_all(layers: list[Any]) -> tuple[int | None, int | None]:
    """Return the sizes of the last axis before the first and after the last of some layers."""
    first = next((layer for layer in layers if not getattr(layer, "keeps_size", False)), layers[0])
    known: int | None = None
    for layer in layers:
        known = sizes_of(layer, known)[1]
    return sizes_of(first)[0], known


def check_layers(layers: Any) -> list[Any]:
    """Return the layers of a model as a list, each once, with sizes and dtypes that fit."""
    if isinstance(layers, str) or not hasattr(layers, "__iter__"):
        raise TypeError(f"layers: expected a list of layers, got {_check.describe(layers)}")
    given = list(layers)
    for n, layer in enumerate(given):
        if isinstance(layer, type) or not isinstance(layer, Layer):
            raise TypeError(
                f"layers[{n}]: expected an object with flat_params, flat_grads, forward and backward, "
                f"got {_check.describe(layer)}"
            )
    if not any(map(runs_over_time, given)):
        raise ValueError(
            "layers: expected at least one layer that runs over time, such as LSTM, "
            f"got {_check.listed([type(layer).__name__ for layer in given]) or 'none'}"
        )
    if len({id(layer) for layer in given}) != len(given):
        raise ValueError("layers: expected each layer once, got one twice")
    known: int | None = None
    first: Any = None
    for n, layer in enumerate(given):
        size_in, size_out = sizes_of(layer, known)
        if n and getattr(layer, "takes_indices", False):
            raise ValueError(
                f"layers[{n}]: expected {type(layer).__name__}, which takes indices, to be first"
            )
        if known is not None and size_in is not None and size_in != known:
            raise ValueError(
                f"layers[{n}]: expected input_size {known}, the output of the layer before, got {size_in}"
            )
        known = size_out
        dtype = getattr(layer, "dtype", None)
        first = dtype if first is None else first
        if dtype is not None and first is not None and dtype != first:  # a dtype equals None
            raise ValueError(f"layers[{n}]: expected dtype {first}, that of the layers before, got {dtype}")
    layouts = {layer.batch_first for layer in given if isinstance(layer, SequenceLayer)}
    if len(layouts) > 1:
        raise ValueError("layers: expected the same batch_first in all recurrent layers, got both")
    return given
