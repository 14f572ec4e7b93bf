"""class Found: an LSTM in a file or an object of another system, before it is one of this package.

Readers build single layers in one direction or two as `Found`s and join them with `stack`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .._check import FileFormatError
from ..parameters import Parameters

Array = NDArray[Any]

# In one file or object.
MOST_LSTMS = 1000


class Found(NamedTuple):
    """What `clstm.LSTM.from_params` needs, and where it was found."""

    name: str  # of the layer, node or prefix, as a user writes it to select this one
    arguments: dict[str, Any]  # of clstm.LSTM, the sizes included
    params: dict[str, Array]  # weight_ih_l0 and so on; one bias, or two that are to be added, as PyTorch has
    trouble: str | None = None  # why it cannot be read; then sizes and params may be missing


def choose(path: object, found: Sequence[Found], name: str | None, argument: str) -> Found:
    """Return the LSTM of a name, or the only one; `argument` is what selects it in the caller's signature."""
    if not found:
        raise FileFormatError(path, "expected an LSTM in it, got none")
    names = _check.listed([each.name for each in found])
    joins = "; a list of names joins them" if len(found) > 1 and argument != "prefix" else ""
    if name is not None:
        fitting = [each for each in found if each.name == name]
        if len(fitting) != 1:
            got = _check.describe(name)
            raise FileFormatError(path, f"{argument}: expected one of {names}, got {got}{joins}")
    elif len(found) > 1:
        raise FileFormatError(path, f"expected {argument}= to select one of its LSTMs: {names}{joins}")
    else:
        fitting = list(found)
    if fitting[0].trouble is not None:
        place = f"{_check.describe(fitting[0].name)}: " if fitting[0].name else ""
        raise FileFormatError(path, f"{place}{fitting[0].trouble}")
    return fitting[0]


def check_count(path: object, count: int) -> None:
    """Refuse more LSTMs than anybody has."""
    if count > MOST_LSTMS:
        raise FileFormatError(path, f"expected at most {MOST_LSTMS} LSTMs, got more")


def stack(path: object, layers: Sequence[Found]) -> Found:
    """Join LSTMs of which each reads the output of the one before."""
    first = layers[0]
    same = {name: value for name, value in first.arguments.items() if name != "input_size"}
    params: dict[str, Array] = {}
    directions = 2 if first.arguments.get("bidirectional") else 1
    size = first.arguments["input_size"]
    for k, layer in enumerate(layers):
        others = {name: value for name, value in layer.arguments.items() if name != "input_size"}
        if others != same:
            differing = [name for name in {**same, **others} if same.get(name) != others.get(name)]
            raise FileFormatError(
                path,
                f"{_check.describe(layer.name)}: expected the {', '.join(differing)} of the layer below "
                f"({', '.join(f'{name}={same.get(name)!r}' for name in differing)}), got "
                f"{', '.join(f'{name}={others.get(name)!r}' for name in differing)}",
            )
        if layer.arguments["input_size"] != size:
            raise FileFormatError(
                path,
                f"{_check.describe(layer.name)}: expected {size} inputs, the outputs of the layer below, "
                f"got {layer.arguments['input_size']}",
            )
        params |= {name.replace("_l0", f"_l{k}"): value for name, value in layer.params.items()}
        size = directions * (same.get("proj_size") or same["hidden_size"])
    arguments = first.arguments | {"num_layers": len(layers)}
    return Found(", ".join(layer.name for layer in layers), arguments, params)


def check_biases(params: Mapping[str, Array]) -> None:
    """Refuse two biases that are finite, while their sum is not."""
    for name, bias in params.items():
        if name.startswith("bias_ih"):
            try:
                with np.errstate(over="raise", invalid="ignore"):
                    bias + params[name.replace("_ih", "_hh")]
            except FloatingPointError:
                raise ValueError("expected biases whose sums are finite") from None


def refuse_options(layer: Parameters, names: Iterable[str], system: str) -> None:
    """Refuse to write a layer whose options of these names another system has not."""
    for name in names:
        default, value = layer.defaults[name], getattr(layer, name)
        if value != default:
            raise ValueError(f"{name}: expected {default!r}, for {system} has nothing else, got {value!r}")


def regroup(array: Array, order: str, axis: int = 0) -> Array:
    """Bring the blocks of gates on an axis from `order`, such as "iofg" or "iof", to i, f, g, o."""
    blocks = np.split(array, len(order), axis)
    return np.concatenate([blocks[order.index(gate)] for gate in _present(order)], axis)


def regroup_to(array: Array, order: str, axis: int = 0) -> Array:
    """Bring the blocks of gates on an axis from i, f, g, o to `order`, such as "iofg" or "iof"."""
    blocks = np.split(array, len(order), axis)
    return np.concatenate([blocks[_present(order).index(gate)] for gate in order], axis)


def _present(order: str) -> str:
    return "".join(gate for gate in "ifgo" if gate in order)
