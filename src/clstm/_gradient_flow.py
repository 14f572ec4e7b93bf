"""How far a gradient reaches back in time: its measured size at every step, from a real backward pass.

The tape of one forward pass is walked back one step at a time, so that the derivative by the state between
two steps passes through our hands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, _dispatch, _layouts, reference
from .cells import Cell, CellTape, Schedule, new_tape
from .layers import SequenceLayer

Array = NDArray[Any]


@dataclass(frozen=True)
class GradientFlow:
    """Norms of the derivatives of a loss by the states of every step, as `gradient_flow` returns them.

    Attributes
    ----------
    distance : ndarray of shape (T + 1,), intp
        Time steps back from the last one, 0 to T.  At distance k stands the state after step ``T - k``; T is
        the initial state.
    dh : ndarray of shape (T + 1, B), float64
        Euclidean norm, over the hidden units, of dL/dh_t in each row.  For one unbatched sequence the axis B
        is absent.
    dc : ndarray of the same shape, or None
        The same of dL/dc_t; None for a layer without cells.
    """

    distance: NDArray[np.intp]
    dh: Array
    dc: Array | None


def gradient_flow(
    layer: SequenceLayer[Any], x: ArrayLike, dy: ArrayLike | None = None, state: Any = None
) -> GradientFlow:
    """Measure how much of a gradient arrives at each time step.

    Parameters
    ----------
    layer : clstm.LSTM or clstm.RNN
        One layer in one direction.  It stays as it is: tape and gradients too.
    x : array_like of shape (T, B, I), (B, T, I) with ``batch_first``, or (T, I) for one sequence
        At least one time step.
    dy : array_like of the shape of y, optional
        Derivative of the loss L by the output.  Without it, ``L = sum of h_T / sqrt(H)``, over units and
        rows: in each row the derivative by the last hidden state has the norm 1, so that every norm is the
        part of it that has come so far.
    state : as the layer takes it, optional
        Initial state, zeros if omitted.

    Returns
    -------
    GradientFlow
        The norms, ordered by distance from the last step.

    Raises
    ------
    ValueError, TypeError
        The LSTM has several layers or directions, there is no time step, or an argument has the wrong shape
        or type.

    Notes
    -----
    The derivatives are total ones, the ``dh_t`` and ``dc_t`` of equation 4' in `clstm.reference`: dL/dh_t
    counts the output at t and everything that later steps make of h_t; dL/dc_t also counts what c_t does
    through h_t.  By the initial state they are what `backward` returns.

    Everything is computed in float64, whatever the layer's dtype: float32 has no number between 0 and 1e-45,
    and plain RNNs get there within tens of steps.

    Examples
    --------
    >>> import clstm, numpy as np
    >>> x = np.random.default_rng(0).standard_normal((30, 3))
    >>> flow = clstm.gradient_flow(clstm.LSTM(3, 8, forget_bias=3.0, rng=0), x)
    >>> int(flow.distance[-1]), flow.dh.shape, float(flow.dh[0].round(12))
    (30, (31,), 1.0)
    >>> shut = clstm.gradient_flow(clstm.LSTM(3, 8, forget_bias=-3.0, rng=0), x)
    >>> bool(shut.dc[-1] < 1e-9 * flow.dc[-1])
    True
    """
    if not isinstance(layer, SequenceLayer):
        raise TypeError(f"layer: expected LSTM or RNN, got {_check.describe(layer)}")
    if layer.num_layers > 1 or layer.bidirectional or layer.reverse:
        raise ValueError(
            "layer: expected one layer in one direction, for a state that all gradient passes through, "
            f"got {layer!r}"
        )
    batch_first, sizes = layer.batch_first, layer.cells[0].state_sizes
    x_t, batched = _layouts.time_major("x", x, layer.input_size, layer.dtype, batch_first)
    T, B, _ = x_t.shape
    if T == 0:
        raise ValueError(f"x: expected at least one time step, got shape {np.shape(x)}")
    if dy is None:
        dy_t = np.zeros((T, B, sizes[0]))
        dy_t[-1] = 1 / np.sqrt(sizes[0])
    else:
        dy_t = _layouts.derivative(dy, (T, B, sizes[0]), layer.dtype, batch_first, batched).astype(np.float64)
    initial = _layouts.state_parts("state", "{}_0", state, 1, B, sizes, layer.kind, layer.dtype, batched)

    # In float64 on a copy of the weights; each array begins with the initial state, so the state before step
    # t has index t.
    functions = _dispatch.backend(layer.backend, np.dtype(np.float64))
    cell, x64 = layer.cells[0].astype(np.float64), x_t.astype(np.float64)
    states = [np.concatenate([part, np.empty((T, *part.shape[1:]))]) for part in initial]  # (T + 1, B, n)
    left = new_tape(cell, states[0][1:], np.empty)
    if left.c is not None:
        left = left._replace(c=states[1][1:])
    final = tuple(np.empty_like(part[0]) for part in states)
    functions.forward(
        cell, x64, tuple(part[0] for part in states), Schedule(np.full(B, T, np.intp), False), left, final
    )

    derivatives = [np.zeros_like(part) for part in states]  # by the state as the steps after it see it
    one, zero = Schedule(np.ones(B, np.intp), False), np.zeros((1, B, sizes[0]))
    dx, dcell = np.empty_like(x64[:1]), cell.astype(np.float64)
    for t in reversed(range(T)):
        derivatives[0][t + 1] += dy_t[t]
        functions.backward(
            cell, x64[t : t + 1], tuple(part[t] for part in states), one,
            left.at(t),
            zero, tuple(part[t + 1] for part in derivatives),
            dx, dcell, tuple(part[t] for part in derivatives),
        )  # fmt: skip
    for t in range(T) if left.c is not None else ():  # add the way of c_t through h_t
        derivatives[1][t + 1] += _through_output(cell, left.at(t), states[1][t], derivatives[0][t + 1])

    norms = [_norm(part)[::-1] if batched else _norm(part)[::-1, 0] for part in derivatives]
    return GradientFlow(np.arange(T + 1), norms[0], norms[1] if len(norms) == 2 else None)


def _norm(vectors: Array) -> Array:
    """Compute the norm over the last axis; np.linalg.norm would square, and lose what is below 1e-162."""
    norms: Array = np.hypot.reduce(vectors, axis=-1)
    return norms


def _through_output(cell: Cell, left: CellTape, c_prev: Array, dh: Array) -> Array | float:
    """Return the derivative by c_t through h_t, of one step."""
    if left.gates is not None and left.c is not None:
        o = left.gates[0][:, cell.kind.block("o", cell.hidden_size)]
        through: Array = dh * o * (1 - np.tanh(left.c[0]) ** 2)
        return through
    p_h, p_c = (0.0, 0.0) if cell.options is None else cell.options.zoneout
    if left.z is None or p_c > 0:  # h_t does not see what zoneout makes of the cell
        return 0.0
    return reference.output_backward(cell, (1 - p_h) * dh, left.z[0], c_prev)[1]
