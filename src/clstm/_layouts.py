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
        return given[:, None], False
    axes = ("B", "T", features) if batch_first else ("T", "B", features)
    if given.ndim != 3:
        raise ValueError(
            f"{name}: expected shape ({', '.join(map(str, axes))}) or (T, {features}), got {given.shape}"
        )
    _check.shape(name, given, axes)
    return (given.swapaxes(0, 1) if batch_first else given), True


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


def state_parts(
    kind: Kind,
    name: str,
    symbols: str,
    given: Any,
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    batched: bool,
    *,
    partial: bool = False,
) -> State:
    """Return a state, or the derivative by one, as contiguous arrays of `shape`; None means zeros.

    A kind with one state has it as an array, one with more as a tuple, which messages write with `symbols`,
    such as "{}_0". With `partial` a part alone may be None too.
    """
    if given is None:
        return tuple([np.zeros(shape, dtype) for _ in kind.states])
    expected = shape if batched else (shape[0], shape[2])
    if len(kind.states) == 1:
        return (_state_part(name, given, shape, expected, dtype),)
    if not isinstance(given, tuple | list) or len(given) != len(kind.states):
        wanted = ", ".join(symbols.format(part) for part in kind.states)
        raise ValueError(f"{name}: expected a pair ({wanted}), got {_check.describe(given)}")
    return tuple(
        [
            np.zeros(shape, dtype)
            if part is None and partial
            else _state_part(f"{name}[{n}]", part, shape, expected, dtype)
            for n, part in enumerate(given)
        ]
    )


def _state_part(
    name: str, value: Any, shape: tuple[int, int, int], expected: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    part = _check.shaped(name, value, dtype, expected)
    if not part.flags.c_contiguous:
        part = np.ascontiguousarray(part)
    return part if shape is expected else part.reshape(shape)


def state_as_given(state: State, batched: bool) -> Any:
    """Return a state as users have it: an array or a tuple, without the batch axis where they gave none."""
    parts = state if batched else tuple([part[:, 0] for part in state])
    return parts[0] if len(parts) == 1 else parts
