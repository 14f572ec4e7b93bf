"""Arguments and results between the layouts that users have and (T, B, features) inside.

A layer's dtype is `dtype`; `batched` tells whether the user gave an axis of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check
from .cells import Kind, State

Array = NDArray[Any]


def time_major(
    name: str, value: ArrayLike, features: int, dtype: np.dtype[Any], batch_first: bool
) -> tuple[Array, bool]:
    """Return a sequence argument as (T, B, features), and whether it came with a batch axis."""
    given = _check.array(name, value, dtype)
    if given.ndim == 2:
        _check.shape(name, given, ("T", features))
        return time_major_view(given, batch_first, False), False
    axes = ("B", "T", features) if batch_first else ("T", "B", features)
    if given.ndim != 3:
        raise ValueError(
            f"{name}: expected shape ({', '.join(map(str, axes))}) or (T, {features}), got {given.shape}"
        )
    _check.shape(name, given, axes)
    return time_major_view(given, batch_first, True), True


def time_major_view(given: Array, batch_first: bool, batched: bool) -> Array:
    """Return a sequence in the user's layout as (T, B, features)."""
    if not batched:
        return given[:, None]
    return given.swapaxes(0, 1) if batch_first else given


def one_step(name: str, value: ArrayLike, features: int, dtype: np.dtype[Any]) -> tuple[Array, bool]:
    """Return the input of one time step as a contiguous (B, features), and whether it had a batch axis."""
    x = _check.array(name, value, dtype)
    batched = x.ndim != 1
    _check.shape(name, x, ("B", features) if batched else (features,))
    return np.ascontiguousarray(x if batched else x[None]), batched


def derivative(
    dy: ArrayLike | None, shape: tuple[int, int, int], dtype: np.dtype[Any], batch_first: bool, batched: bool
) -> Array:
    """Return the derivative by an output of shape (T, B, features), laid out so; None means zeros."""
    if dy is None:
        return np.zeros(shape, dtype)
    T, B, features = shape
    expected = (B, T, features) if batch_first else shape
    given = _check.shaped("dy", dy, dtype, expected if batched else (T, features))
    return time_major("dy", given, features, dtype, batch_first)[0]


def as_given(steps: Array, batch_first: bool, batched: bool) -> Array:
    """Lay out a (T, B, features) result as the user's input was."""
    if not batched:
        return steps[:, 0]
    return steps.swapaxes(0, 1) if batch_first else steps


def resets(value: ArrayLike, shape: tuple[int, int], batch_first: bool, batched: bool) -> Any:
    """Return where episodes begin as an array (T, B) in C order, or None if nowhere."""
    given = _check.booleans("resets", value)
    if not batched:
        _check.shape("resets", given, shape[:1])
        given = given[:, None]
    elif batch_first:
        _check.shape("resets", given, shape[::-1])
        given = given.T
    else:
        _check.shape("resets", given, shape)
    return np.ascontiguousarray(given) if given.any() else None


def state_parts(
    name: str,
    symbols: str,
    given: Any,
    layers: int,
    rows: int,
    sizes: tuple[int, ...],
    kind: Kind,
    dtype: np.dtype[Any],
    batched: bool,
    *,
    partial: bool = False,
) -> State:
    """Return a state, or the derivative by one, as contiguous (layers, rows, size) arrays; None means zeros.

    A kind with one state has it as an array, one with more as a tuple, which messages write with `symbols`,
    such as "{}_0". With `partial` a part alone may be None too.
    """
    if given is None:
        return tuple([np.zeros((layers, rows, size), dtype) for size in sizes])
    if len(sizes) == 1:
        return (_state_part(name, given, layers, rows, sizes[0], dtype, batched),)
    if not isinstance(given, tuple | list) or len(given) != len(sizes):
        wanted = ", ".join(symbols.format(part) for part in kind.states)
        raise ValueError(f"{name}: expected a pair ({wanted}), got {_check.describe(given)}")
    return tuple(
        [
            np.zeros((layers, rows, sizes[n]), dtype)
            if part is None and partial
            else _state_part(f"{name}[{n}]", part, layers, rows, sizes[n], dtype, batched)
            for n, part in enumerate(given)
        ]
    )


def _state_part(
    name: str, value: Any, layers: int, rows: int, size: int, dtype: np.dtype[Any], batched: bool
) -> Array:
    part = _check.shaped(name, value, dtype, (layers, rows, size) if batched else (layers, size))
    if not part.flags.c_contiguous:
        part = np.ascontiguousarray(part)
    return part if batched else part.reshape(layers, rows, size)


def state_as_given(state: State, batched: bool) -> Any:
    """Return a state as users have it: an array or a tuple, without the batch axis where they gave none."""
    parts = state if batched else tuple([part[:, 0] for part in state])
    return parts[0] if len(parts) == 1 else parts
