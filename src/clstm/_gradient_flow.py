"""How far a gradient reaches back in time: its measured size at every step, from a real backward pass.

The backward pass is taken one step at a time on a private copy of the layer, so that the derivative by the
state between two steps passes through our hands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check
from .lstm import LSTM, Trace
from .rnn import RNN

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
    layer: LSTM | RNN, x: ArrayLike, dy: ArrayLike | None = None, state: Any = None
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
    >>> flow.distance[-1], flow.dh.shape, flow.dh[0].round(12)
    (np.int64(30), (31,), np.float64(1.0))
    >>> shut = clstm.gradient_flow(clstm.LSTM(3, 8, forget_bias=-3.0, rng=0), x)
    >>> bool(shut.dc[-1] < 1e-9 * flow.dc[-1])
    True
    """
    if not isinstance(layer, LSTM | RNN):
        raise TypeError(f"layer: expected LSTM or RNN, got {_check.describe(layer)}")
    if isinstance(layer, LSTM) and (layer.num_layers > 1 or layer.bidirectional):
        raise ValueError(
            f"layer: expected one layer in one direction, for a state that all of the gradient passes through, got {layer!r}"
        )
    x_t, batched = layer._sequence("x", x, layer.input_size)
    T, B, _ = x_t.shape
    if T == 0:
        raise ValueError(f"x: expected at least one time step, got shape {np.shape(x)}")
    if dy is None:
        dy_t = np.zeros((T, B, layer.hidden_size))
        dy_t[-1] = 1 / np.sqrt(layer.hidden_size)
    else:
        dy_t = layer._output_derivative(dy, (T, B, layer.hidden_size), batched)
    initial: tuple[Array, ...]
    if isinstance(layer, LSTM):
        initial = layer._state("state (h_0, c_0)", state, B, batched)
    else:
        initial = (layer._state("state", state, B, batched)[None],)

    twin = _copy_in_float64(layer)
    trace = twin.trace(x_t, _pack(initial))
    parts = (trace.h, trace.c) if isinstance(trace, Trace) else (trace.h,)
    states = [
        np.concatenate([first, part[0]]) for first, part in zip(initial, parts, strict=True)
    ]  # (T + 1, B, H) each
    derivatives = [np.zeros_like(part) for part in states]  # by the state as the steps after it see it
    for t in reversed(range(T)):
        derivatives[0][t + 1] += dy_t[t]
        twin.forward(x_t[t : t + 1], _pack([part[t : t + 1] for part in states]))
        _, before = twin.backward(dstate=_pack([part[t + 1 : t + 2] for part in derivatives]))
        for part, value in zip(derivatives, before if isinstance(before, tuple) else (before,), strict=True):
            part[t] = value[0]
    if isinstance(trace, Trace):  # add the way of c_t through h_t
        derivatives[1][1:] += derivatives[0][1:] * trace.o[0] * (1 - np.tanh(trace.c[0]) ** 2)

    norms = [_norm(part)[::-1] if batched else _norm(part)[::-1, 0] for part in derivatives]
    return GradientFlow(np.arange(T + 1), norms[0], norms[1] if len(norms) == 2 else None)


def _copy_in_float64(layer: LSTM | RNN) -> LSTM | RNN:
    """Make a time-major layer with the same weights and a tape of its own."""
    kind = LSTM if isinstance(layer, LSTM) else RNN
    # "torch" is the initialisation that takes no time; what it draws is overwritten.
    twin = kind(
        layer.input_size, layer.hidden_size, bias=layer.bias, init="torch", rng=0, backend=layer.backend
    )
    twin.load_state_dict(layer.state_dict())
    return twin


def _pack(parts: Sequence[Array]) -> Any:
    """Make a state of its parts: the pair (h, c), or h alone."""
    return tuple(parts) if len(parts) == 2 else parts[0]


def _norm(vectors: Array) -> Array:
    """Compute the norm over the last axis; np.linalg.norm would square, and lose what is below 1e-162."""
    norms: Array = np.hypot.reduce(vectors, axis=-1)
    return norms
