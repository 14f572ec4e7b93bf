"""The definition of the LSTM, and of the plain RNN: forward and backward in plain NumPy, one equation a line.

The compiled kernels offer the same functions and are tested against these.  NumPy is all that is needed, and
nothing here casts to float, so a complex step through `forward` yields exact derivatives.

Notation
--------
T, B, I, H = time steps, batch rows, inputs, hidden units.  One layer in one direction has the weights ``W_x
(I, 4H)``, ``W_h (H, 4H)`` and ``bias (4H,)``, whose columns are four blocks of H in the order i, f, g, o:
input gate, forget gate, candidate, output gate.  ``*`` is element-wise, ``@`` the matrix product, ``s`` the
sigmoid.

The forward pass, for one time step, from ``h_prev`` and ``c_prev``, all of shape (B, H)::

    1   z = x_t @ W_x + h_prev @ W_h + bias     (B, 4H)    pre-activations
    2   i, f, o = s(z_i), s(z_f), s(z_o)        (B, H)     gates, each in (0, 1)
        g       = tanh(z_g)                     (B, H)     candidate, in (-1, 1)
    3   c_t = f * c_prev + i * g                (B, H)     cell: keep some of the old, take some of the new
    4   h_t = o * tanh(c_t)                     (B, H)     hidden state, which is also the output y_t

The backward pass.  Write ``dv`` for the derivative of a scalar loss by ``v``; it has the shape of ``v``.  The
loss sees ``h_t`` in two ways, through the output ``y_t`` and through ``z`` of the step after, so both
contributions add up; the same
holds for ``c_t``.  Walking from the last step to the first, with the equation that each line differentiates::

    4'  dh_t  = dy_t + dz_next @ W_h.T                      (1, one step later, is where h_t went)
        do    = dh_t * tanh(c_t)
        dc_t  = dc_next * f_next + dh_t * o * (1 - tanh(c_t)^2)
    3'  di, dg, df = dc_t * g, dc_t * i, dc_t * c_prev
    2'  dz_i  = di * i * (1 - i)                            s' = s (1 - s); f and o alike
        dz_g  = dg * (1 - g^2)                              tanh' = 1 - tanh^2
    1'  dx_t  = dz @ W_x.T                                  (B, I)
        dW_x += x_t.T @ dz                                  (I, 4H)   a weight is used at every step: its
        dW_h += h_prev.T @ dz                               (H, 4H)   derivative is the sum over the steps,
        dbias += sum of dz over the rows                    (4H,)     the first one (h_prev = h_0) included

What is left after the first step, ``dz @ W_h.T`` and ``dc * f``, is the derivative by the initial state.  At
the last step there is no step after; the derivative by the final state ``(h_n, c_n)``, which the caller
gives, stands in its place. The factor ``f`` on the way of ``dc`` is the only thing between a loss and a cell
many steps back: with ``f`` near 1 the gradient neither vanishes nor explodes.  That is what the architecture
is for.

Rows of different lengths: row b takes part in its first ``lengths[b]`` steps, and its state passes by
unchanged afterwards.  In the reverse direction it starts at its own last real step.  What lies beyond is
padding: never read, and 0 in every output.

Episodes: where ``resets`` says that one begins, step 0 comes before the others::

    0   h_prev, c_prev = 0                                  and no derivative passes: 0' dh, dc = 0 as well

The reverse direction does the same where it leaves the first step of an episode, so that what it computes
for the episode before starts from 0.

Dropout: x_t may stand for ``x_t * m_x`` (between layers a mask for each step, else one for each episode),
and ``h_prev`` in 1 for ``h_prev * m_h``, one mask for each episode, with values 0 or 1 / (1 - p).  On the
way back the same mask is multiplied once more.

An LSTM with options
--------------------
R numbers of h, which are H without a projection; ``W_h`` is (R, 4H).  ``act``, ``act_g``, ``act_c`` are the
activations of the gates, the candidate and the cell; ``clip_a(v)`` holds v in [-a, a] and passes no
derivative where it does.  Each line replaces or follows the equation of its number; without the option it
falls away::

    1n  z   = gain_x * N(x_t @ W_x) + gain_h * N(h_prev @ W_h) + bias       layer norm: N over 4H in a row,
        N(a) = (a - mean a) / sqrt(mean (a - mean a)^2 + 1e-5)
    1p  z_i, z_f += p_i * c_prev, p_f * c_prev                              peepholes; z_o waits for c_new
    2   i, f = act(clip_a(z_i)), act(clip_a(z_f));  g = act_g(clip_a(z_g))
    2c  f   = 1 - i                                                         coupled; z_f is not read
    3   c_new = clip_b(f * c_prev + i * g)                                  cell clip
    1p  z_o += p_o * c_new;  2  o = act(clip_a(z_o))
    3z  c_t = k_c * c_prev + (1 - k_c) * c_new                              zoneout: k is 0 or 1 where it has
                                                                            been drawn, else its probability
    4n  m   = gain_c * N(c_new) + shift_c                                   layer norm, N over the H units;
                                                                            else m = c_new
    4   h_new = o * act_c(m)                                (B, H)
    4r  h_new = h_new @ W_r                                 (B, R)          projection
    4z  h_t = k_h * h_prev + (1 - k_h) * h_new              (B, R)          h_prev before its mask

Zoneout stands around the whole cell: h and the peephole of o see the new cell, not the one that is kept.
Back, in the opposite order, from ``dh`` and ``dc_t``, which the loss and the later steps ask of ``h_t`` and
``c_t``::

    4z' dh_new = (1 - k_h) * dh;  dh_prev = k_h * dh                        to which 1' adds
    4r' dW_r += h_new.T @ dh_new;  dh_new = dh_new @ W_r.T                  h_new from before 4r
    4'  do  = dh_new * act_c(m);  dm = dh_new * o * act_c'(m)
    2'  dz_o = do * act'(z_o)                                               0 where clipped, here and below
    4n' dgain_c += dm * n;  dshift_c += dm;  with n = N(c_new), dn = dm * gain_c and s = 1 / sqrt(...):
        dc_new = s * (dn - mean dn - n * mean(dn * n))                      N has taken away mean and length
    1p' dc_new += p_o * dz_o;  dp_o += dz_o * c_new
    3z' dc_new += (1 - k_c) * dc_t;  dc_prev = k_c * dc_t
    3'  dc_new = 0 where clipped;  di, dg, df = dc_new * g, dc_new * i, dc_new * c_prev
        dc_prev += dc_new * f
    2c' di -= df;  dz_f = 0
    2'  dz_i, dz_f, dz_g = di * act'(z_i), df * act'(z_f), dg * act_g'(z_g)
    1p' dp_i, dp_f += dz_i * c_prev, dz_f * c_prev;  dc_prev += p_i * dz_i + p_f * dz_f
    1n' dgain_x += dz * n_x, and from dz * gain_x by the formula of 4n' the derivative by x_t @ W_x, which
        takes the place of dz in dx_t and dW_x of 1'; likewise gain_h, h_prev @ W_h, dW_h

Weights of fewer bytes
----------------------
For inference alone, in float32.  Of bfloat16, in which the upper half of a float is kept::

    1b  W_x, W_h, rounded to 8 significant bits, to nearest, ties to even; then 1

Of bytes: V is the matrix of the integers from -127 to 127, and s its scales, one for each column.  Sums over
integers are exact, and none exceeds 31 bits::

    1q  V   = rint(W / s)  with  s = max |W| / 127                          over the rows of a column
        q_x = rint(n_x / r * x_t), held within -n_x .. n_x                  r: the range of x
        q_h = rint(n_h * h_prev),  held within -n_h .. n_h                  h lies in (-1, 1)
        n_x = min(257 * 127, (2^31 - 1) // (127 I));  n_h with R            two bytes, both within -127 .. 127
        z   = s_x * (r / n_x) * (q_x @ V_x) + s_h * (1 / n_h) * (q_h @ V_h) + bias

With a layer norm, the two products are what N is taken of, as in 1n.  W_r stays a float.

The plain RNN
-------------
To compare with: no gates, no cell; weights ``W_x (I, H)``, ``W_h (H, H)`` and ``bias (H,)``.  Forward::

    5   z   = x_t @ W_x + h_prev @ W_h + bias   (B, H)     pre-activations
    6   h_t = tanh(z)                           (B, H)     hidden state, which is also the output y_t

Backward, from the last step to the first, by the same argument: the loss sees ``h_t`` through ``y_t`` and
through ``z`` of the
step after::

    6'  dh_t  = dy_t + dz_next @ W_h.T                      (5, one step later, is where h_t went)
        dz    = dh_t * (1 - h_t^2)                          tanh' = 1 - tanh^2; nothing but y need be kept
    5'  dx_t  = dz @ W_x.T                                  (B, I)
        dW_x += x_t.T @ dz                                  (I, H)    sums over the steps, as in 1'
        dW_h += h_prev.T @ dz                               (H, H)
        dbias += sum of dz over the rows                    (H,)

Each step back multiplies the gradient by ``(1 - h_t^2)``, at most 1, and by ``W_h.T``: a product of as many
matrices as there
are steps, which vanishes or explodes.  There is no way around it as there is along the cell of an LSTM.

Sources
-------
S. Hochreiter, J. Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997 (cell and gates).
F. A. Gers, J. Schmidhuber, F. Cummins, "Learning to forget: continual prediction with LSTM", Neural
Computation 12(10), 2000 (the forget gate).
J. L. Elman, "Finding structure in time", Cognitive Science 14(2), 1990 (the plain RNN).
F. A. Gers, J. Schmidhuber, "Recurrent nets that time and count", IJCNN 2000 (peepholes).
H. Sak, A. Senior, F. Beaufays, "Long short-term memory recurrent neural network architectures for large scale
acoustic modeling", Interspeech 2014 (projection).
J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer normalization", arXiv:1607.06450, 2016 (equations 20 to 22).
Y. Gal, Z. Ghahramani, "A theoretically grounded application of dropout in recurrent neural networks", NIPS
2016 (one mask for a whole sequence).
D. Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations", ICLR 2017.
ONNX, operator LSTM (activations, clip, input_forget); TensorFlow, LSTMCell (the clip of the cell).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EPSILON",
    "Stream",
    "add_rows",
    "backward",
    "backward_all",
    "bfloat16",
    "forward",
    "forward_all",
    "function",
    "int8",
    "integers",
    "levels",
    "product",
    "sigmoid",
    "slope",
    "step",
]

Array = NDArray[Any]
State = tuple[Array, ...]
Rows = slice | NDArray[np.intp]

EPSILON = 1e-5  # under the root of a layer norm
ROUNDING = 1.000001  # what it may add to a number that is as large as its range


# ------------------------------------------------------------------------------------------------ activations


def sigmoid(x: Array) -> Array:
    """Compute the logistic function ``1 / (1 + exp(-x))`` without overflow.

    Parameters
    ----------
    x : ndarray of any shape, real or complex

    Returns
    -------
    ndarray of the same shape and dtype
        Written as ``(1 + tanh(x / 2)) / 2``, which is the same function, is analytic and never overflows.

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    half = x.dtype.type(0.5)
    s: Array = half + half * np.tanh(half * x)
    return s


def _where(condition: Any, a: Any, b: Any) -> Array:
    chosen: Array = np.where(condition, a, b)
    return chosen


def _clip(x: Array, low: float, high: float) -> Array:
    """Hold x, of a complex number the real part, within low..high; NaN stays NaN."""
    return _where(x.real < low, low, _where(x.real > high, high, x))


def _abs(x: Array) -> Array:
    """|x| for real x, differentiable by a complex step."""
    return _where(x.real < 0, -x, x)


def function(activation: Any, x: Array) -> Array:
    """Return f(x) by the name of an activation; the functions are those of ONNX.

    Parameters
    ----------
    activation : clstm.cells.Activation
        ``name``, ``alpha`` and ``beta``, of which a function reads what it has.
    x : ndarray of any shape, real or complex
    """
    a, b = activation.alpha, activation.beta
    y: Array = np.tanh(x)
    match activation.name:
        case "sigmoid":
            y = sigmoid(x)
        case "relu":
            y = _where(x.real < 0, 0, x)
        case "hard_sigmoid":
            y = _clip(a * x + b, 0, 1)
        case "softsign":
            y = x / (1 + _abs(x))
        case "softplus":
            y = _where(x.real > 0, x, 0) + np.log1p(np.exp(-_abs(x)))
        case "elu":
            y = _where(x.real > 0, x, a * np.expm1(_where(x.real > 0, 0, x)))
        case "leaky_relu":
            y = _where(x.real < 0, a * x, x)
        case "thresholded_relu":
            y = _where(x.real <= a, 0, x)
        case "scaled_tanh":
            y = a * np.tanh(b * x)
        case "affine":
            y = a * x + b
        case "identity":
            y = x
    return y


def slope(activation: Any, x: Array) -> Array:
    """Return f'(x) for real x; at a corner it is that of the left side.

    Parameters and the order of the functions are those of `function`.
    """
    a, b = activation.alpha, activation.beta
    zero = _where(np.isnan(x), x, 0)  # NaN stays NaN
    y: Array = 1 - np.tanh(x) ** 2
    match activation.name:
        case "sigmoid":
            y = sigmoid(x) * (1 - sigmoid(x))
        case "relu":
            y = _where(x > 0, 1, zero)
        case "hard_sigmoid":
            y = _where((a * x + b > 0) & (a * x + b < 1), a, zero)
        case "softsign":
            y = (1 / (1 + _abs(x))) ** 2  # the square of the rest may overflow
        case "softplus":
            y = sigmoid(x)
        case "elu":
            y = _where(x > 0, 1, a * np.exp(_where(x > 0, 0, x)))
        case "leaky_relu":
            y = _where(x > 0, 1, a + zero)
        case "thresholded_relu":
            y = _where(x > a, 1, zero)
        case "scaled_tanh":
            y = a * b * (1 - np.tanh(b * x) ** 2)
        case "affine":
            y = a + zero
        case "identity":
            y = 1 + zero
    return y


def _activate(activation: Any, x: Array, clip: float = np.inf) -> Array:
    """f(x), x held in [-clip, clip] before."""
    return function(activation, _clip(x, -clip, clip))


def _slope(activation: Any, x: Array, clip: float = np.inf) -> Array:
    """f'(x), 0 where the clip holds x."""
    return _where(np.abs(x) > clip, 0, slope(activation, _clip(x, -clip, clip)))


def _normalise(a: Array) -> tuple[Array, Array]:
    """N(a) over the last axis, and one over the root."""
    centred = a - a.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + EPSILON)
    return centred * scale, scale


def _normalise_backward(dn: Array, n: Array, scale: Array) -> Array:
    """Return da for n = N(a): what is left of dn beside the mean and the direction of n."""
    da: Array = scale * (dn - dn.mean(axis=-1, keepdims=True) - n * (dn * n).mean(axis=-1, keepdims=True))
    return da


# ------------------------------------------------------------------------------------------------ one product


def product(a: Array, b: Array, start: Array | None, out: Array) -> None:
    """Multiply two matrices: ``out = start + a @ b``, for layers without time.

    Parameters
    ----------
    a : ndarray of shape (N, K), IN
    b : ndarray of shape (K, M), IN
        Of both, either the rows or the columns are contiguous.
    start : ndarray of shape (M,), contiguous, or None for zeros, IN
        Added to each row.
    out : ndarray of shape (N, M) with contiguous rows, OUT
        Must not overlap the others.

    Examples
    --------
    >>> out = np.empty((1, 2))
    >>> product(np.array([[1.0, 2.0]]), np.eye(2), np.array([10.0, 20.0]), out)
    >>> out
    array([[11., 22.]])
    """
    out[...] = a @ b if start is None else a @ b + start


def add_rows(rows: Array, places: NDArray[np.intp], out: Array) -> None:
    """Add each row where it belongs, in order: ``out[places[n]] += rows[n]``.

    Parameters
    ----------
    rows : ndarray of shape (N, E) with contiguous rows, IN
    places : ndarray of shape (N,) of int, contiguous, IN
        Each in 0..V - 1; any may come again.
    out : ndarray of shape (V, E) with contiguous rows, IN and OUT

    Examples
    --------
    >>> out = np.zeros((3, 1))
    >>> add_rows(np.array([[1.0], [2.0], [4.0]]), np.array([2, 0, 2]), out)
    >>> out.ravel()
    array([2., 0., 5.])
    """
    np.add.at(out, places, rows)


# ------------------------------------------------------------------------------------ weights of fewer bytes


def bfloat16(W: Array) -> NDArray[np.uint16]:
    """Round finite numbers to bfloat16, by way of float32, to nearest, ties to even: equation 1b.

    Parameters
    ----------
    W : ndarray of any shape

    Returns
    -------
    ndarray of the same shape
        The upper halves of the bits of float32; what is too large becomes infinite.

    Examples
    --------
    >>> [hex(bits) for bits in bfloat16(np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8]))]
    ['0x3f80', '0x3f80', '0x3f82']
    """
    bits = W.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def int8(W: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return finite weights as integers and the scale of each column: V and s of equation 1q.

    Parameters
    ----------
    W : ndarray of shape (rows, columns)

    Examples
    --------
    >>> V, s = int8(np.array([[1.0, 0.0], [-0.5, 0.0]]))
    >>> V.tolist(), s.round(4).tolist()
    ([[127, 0], [-64, 0]], [0.007899999618530273, 0.0])
    """
    scale = (np.abs(W).max(axis=0) / 127).astype(np.float32)
    divisor = np.where(scale > 0, scale, 1).astype(float)
    return np.clip(np.rint(W / divisor), -127, 127).astype(np.int8), scale


def levels(depth: int) -> int:
    """Return the largest integer that an activation may become in a sum of so many: n of equation 1q."""
    return int(min(257 * 127, (2**31 - 1) // (127 * depth)))


def integers(a: Array, factor: Any, n: int) -> NDArray[np.float64]:
    """Return numbers as integers within -n .. n: q of equation 1q.  A row with NaN is NaN as a whole."""
    held = np.clip(factor * a, -n, n)
    spoilt = np.isnan(held).any(axis=-1, keepdims=True)
    return np.where(spoilt, np.nan, np.rint(held)).astype(float)


# -------------------------------------------------------------------------------------------------- the cells


def pre_activations(cell: Any, x: Array, h: Array) -> tuple[Array, Array | None]:
    """Return z, and with a layer norm what its tape keeps: equations 1, 1n and 5."""
    product_x, product_h = _products(cell, x, h)
    if cell.norm_x is None:
        return product_x + product_h + cell.bias, None  # 1
    n_x, scale_x = _normalise(product_x)  # 1n
    n_h, scale_h = _normalise(product_h)
    norms = np.concatenate([n_x, n_h, scale_x, scale_h], axis=-1)
    return cell.norm_x * n_x + cell.norm_h * n_h + cell.bias, norms


def _products(cell: Any, x: Array, h: Array) -> tuple[Array, Array]:
    """Return x @ W_x and h @ W_h, as they are, or of integers: equation 1q."""
    narrow = cell.narrow
    if narrow is None:
        return x @ cell.W_x, h @ cell.W_h
    n_x, n_h = narrow.levels
    return (
        _integer_product(x, cell.W_x, narrow.scale_x, narrow.x_range, n_x, narrow.held),
        _integer_product(h, cell.W_h, narrow.scale_h, 1.0, n_h, narrow.held),
    )


def _integer_product(a: Array, V: Array, scale: Array, limit: float, n: int, held: Any) -> Array:
    """Return what an exact sum over integers is worth: equation 1q.  Numbers beyond the limit are counted."""
    held.count += np.count_nonzero(np.abs(a) > limit * ROUNDING)
    q = integers(a, a.dtype.type(n / limit), n)
    product: Array = scale * np.float32(limit / n) * (q @ V).astype(a.dtype)
    return product


def lstm_forward(z: Array, c_prev: Array) -> tuple[Array, State]:
    """Return the gates i, f, g, o side by side and (h_t, c_t): equations 2 to 4."""
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
    i, f, o = sigmoid(z_i), sigmoid(z_f), sigmoid(z_o)  # 2
    g = np.tanh(z_g)
    c_t = f * c_prev + i * g  # 3
    h_t = o * np.tanh(c_t)  # 4
    return np.concatenate([i, f, g, o], axis=-1), (h_t, c_t)


def lstm_backward(dh: Array, dc_carry: Array, gates: Array, c_t: Array, c_prev: Array) -> tuple[Array, State]:
    """Return dz and what is handed to dc of the step before: equations 4' to 2'."""
    i, f, g, o = np.split(gates, 4, axis=-1)
    tanh_c = np.tanh(c_t)
    do = dh * tanh_c  # 4'
    dc = dc_carry + dh * o * (1 - tanh_c**2)
    di, dg, df = dc * g, dc * i, dc * c_prev  # 3'
    dz = [di * i * (1 - i), df * f * (1 - f), dg * (1 - g**2), do * o * (1 - o)]  # 2'
    return np.concatenate(dz, axis=-1), (dc * f,)


def rnn_forward(z: Array) -> Array:
    """Return h_t: equation 6."""
    h_t: Array = np.tanh(z)  # 6
    return h_t


def rnn_backward(dh: Array, h_t: Array) -> Array:
    """Return dz: equation 6'."""
    dz: Array = dh * (1 - h_t**2)  # 6'
    return dz


# ------------------------------------------------------------------------------------- an LSTM with options


def _cell_of_gates(cell: Any, z: Array, c_prev: Array) -> tuple[Array, ...]:
    """Return i, f, g, the cell before its clip, and after it: equations 2 and 3 with options."""
    options = cell.options
    gate, candidate, _ = options.activations
    z_i, z_f, z_g, _ = np.split(z, 4, axis=-1)
    i = _activate(gate, z_i, options.gate_clip)  # 2
    f = 1 - i if options.coupled else _activate(gate, z_f, options.gate_clip)
    g = _activate(candidate, z_g, options.gate_clip)
    c_new = f * c_prev + i * g  # 3
    return i, f, g, c_new, _clip(c_new, -options.cell_clip, options.cell_clip)


def _zone_out(keep: Array | float, before: Array, new: Array) -> Array:
    """Return what zoneout keeps of a state."""
    return new if isinstance(keep, float) and keep == 0.0 else keep * before + (1 - keep) * new


def options_forward(
    cell: Any, z: Array, h_prev: Array, c_prev: Array, keep_h: Array | float, keep_c: Array | float
) -> tuple[Array, Array, State]:
    """Return z with the terms of the peepholes, the gates and (h_t, c_t): equations 2 to 4z."""
    options = cell.options
    gate, _, outer = options.activations
    z_i, z_f, z_g, z_o = np.split(z, 4, axis=-1)
    if cell.peepholes is not None:
        p_i, p_f, p_o = cell.peepholes
        z_i, z_f = z_i + p_i * c_prev, z_f + p_f * c_prev  # 1p
    i, f, g, _, c_new = _cell_of_gates(cell, np.concatenate([z_i, z_f, z_g, z_o], axis=-1), c_prev)
    if cell.peepholes is not None:
        z_o = z_o + p_o * c_new  # 1p
    o = _activate(gate, z_o, options.gate_clip)  # 2
    c_t = _zone_out(keep_c, c_prev, c_new)  # 3z
    seen = c_new if cell.norm_c is None else cell.norm_c[0] * _normalise(c_new)[0] + cell.norm_c[1]  # 4n
    h_new = o * _activate(outer, seen)  # 4
    if cell.W_r is not None:
        h_new = h_new @ cell.W_r  # 4r
    h_t = _zone_out(keep_h, h_prev, h_new)  # 4z
    return (
        np.concatenate([z_i, z_f, z_g, z_o], axis=-1),
        np.concatenate([i, f, g, o], axis=-1),
        (h_t, c_t),
    )


def output_backward(cell: Any, dh: Array, z: Array, c_prev: Array) -> tuple[Array, Array, dict[str, Array]]:
    """Return dz_o, the derivative by the new cell through h, and those by weights: equations 4r' to 2'.

    dh (B, R) is the derivative by what zoneout lets through of h_t.
    """
    options = cell.options
    gate, _, outer = options.activations
    z_o = np.split(z, 4, axis=-1)[3]
    c_new = _cell_of_gates(cell, z, c_prev)[4]
    n_c, scale = (c_new, None) if cell.norm_c is None else _normalise(c_new)
    seen = c_new if cell.norm_c is None else cell.norm_c[0] * n_c + cell.norm_c[1]
    o, a = _activate(gate, z_o, options.gate_clip), _activate(outer, seen)
    weights = {}
    if cell.W_r is not None:
        weights["W_r"] = (o * a).T @ dh  # 4r'
        dh = dh @ cell.W_r.T
    dz_o = dh * a * _slope(gate, z_o, options.gate_clip)  # 4', 2'
    dc = dh * o * _slope(outer, seen)
    if scale is not None:
        weights["norm_c"] = np.stack([(dc * n_c).sum(axis=0), dc.sum(axis=0)])  # 4n'
        dc = _normalise_backward(dc * cell.norm_c[0], n_c, scale)
    if cell.peepholes is not None:
        dc = dc + cell.peepholes[2] * dz_o  # 1p'
    return dz_o, dc, weights


def options_backward(
    cell: Any, dh: Array, dc_t: Array, z: Array, c_prev: Array, keep_h: Array | float, keep_c: Array | float
) -> tuple[Array, State, dict[str, Array]]:
    """Return dz, what goes to h_prev and c_prev beside it, and derivatives by weights: 4z' to 1p'."""
    options = cell.options
    gate, candidate, _ = options.activations
    z_i, z_f, z_g, _ = np.split(z, 4, axis=-1)
    i, f, g, unclipped, c_new = _cell_of_gates(cell, z, c_prev)
    dz_o, dc, weights = output_backward(cell, (1 - keep_h) * dh, z, c_prev)  # 4z'
    dc = dc + (1 - keep_c) * dc_t  # 3z'
    dc = _where(np.abs(unclipped) > options.cell_clip, 0, dc)
    di, dg, df = dc * g, dc * i, dc * c_prev  # 3'
    if options.coupled:
        di, df = di - df, np.zeros_like(df)
    dz_i = di * _slope(gate, z_i, options.gate_clip)  # 2'
    dz_f = df * _slope(gate, z_f, options.gate_clip)
    dz_g = dg * _slope(candidate, z_g, options.gate_clip)
    dc_prev = dc * f + keep_c * dc_t
    if cell.peepholes is not None:
        p_i, p_f, _ = cell.peepholes
        dc_prev = dc_prev + p_i * dz_i + p_f * dz_f  # 1p'
        weights["peepholes"] = np.stack(
            [(dz_i * c_prev).sum(axis=0), (dz_f * c_prev).sum(axis=0), (dz_o * c_new).sum(axis=0)]
        )
    return np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=-1), (keep_h * dh, dc_prev), weights


# --------------------------------------------------------------------------------------- one step of any cell


def _step_forward(cell: Any, x: Array, state: Any, masks: Any) -> tuple[dict[str, Any], State]:
    """Return what is left on the tape, by name, and the state after a step."""
    recurrent, keep_h, keep_c = masks
    z, norms = pre_activations(cell, x, state[0] if recurrent is None else state[0] * recurrent)  # 1, 5
    if cell.kind.name == "rnn":
        return {}, (rnn_forward(z),)
    if cell.options is None:
        gates, after = lstm_forward(z, state[1])
        return {"gates": gates, "c": after[1]}, after
    h_prev, c_prev = state
    keep_h, keep_c = _zoneout(cell, keep_h, keep_c)
    z, gates, after = options_forward(cell, z, h_prev, c_prev, keep_h, keep_c)
    return {"z": z, "gates": gates, "c": after[1], "norms": norms}, after


def _step_backward(
    cell: Any, x: Array, state: Any, masks: Any, left: Any, dafter: Any
) -> tuple[Array, dict[str, Array], State]:
    """Walk one step back: dx, the derivatives by the weights, by name, and those by the state before it."""
    recurrent, keep_h, keep_c = masks
    y_t, gates, c_t, z, norms = left
    seen = state[0] if recurrent is None else state[0] * recurrent
    weights: dict[str, Array] = {}
    beside: Array | float = 0.0  # what goes to h_prev past the product
    carries: Any  # what goes to the rest of the state
    if cell.kind.name == "rnn":
        dz, carries = rnn_backward(dafter[0], y_t), ()
    elif cell.options is None:
        dz, carries = lstm_backward(dafter[0], dafter[1], gates, c_t, state[1])
    else:
        keep_h, keep_c = _zoneout(cell, keep_h, keep_c)
        dz, (beside, *carries), weights = options_backward(
            cell, dafter[0], dafter[1], z, state[1], keep_h, keep_c
        )
    weights["bias"] = dz.sum(axis=0)  # 1', 5'
    dz_x = dz_h = dz
    if norms is not None:
        n_x, n_h = np.split(norms[:, :-2], 2, axis=-1)
        weights["norm_x"], weights["norm_h"] = (dz * n_x).sum(axis=0), (dz * n_h).sum(axis=0)  # 1n'
        dz_x = _normalise_backward(dz * cell.norm_x, n_x, norms[:, -2:-1])
        dz_h = _normalise_backward(dz * cell.norm_h, n_h, norms[:, -1:])
    weights["W_x"], weights["W_h"] = x.T @ dz_x, seen.T @ dz_h
    dseen = dz_h @ cell.W_h.T
    dh_prev = (dseen if recurrent is None else dseen * recurrent) + beside
    return dz_x @ cell.W_x.T, weights, (dh_prev, *carries)


def _zoneout(cell: Any, keep_h: Array | None, keep_c: Array | None) -> tuple[Array | float, Array | float]:
    """Return what is kept of h and of c: what was drawn, or the expectation."""
    p_h, p_c = cell.options.zoneout
    return (p_h if keep_h is None else keep_h), (p_c if keep_c is None else keep_c)


# --------------------------------------------------------------------------------------- the walk over time


def _steps(schedule: Any) -> Iterator[tuple[Any, Rows, int]]:
    """Yield (time index, rows, step) in the order of computation; one time index a row if they differ."""
    lengths, reverse = schedule.lengths, schedule.reverse
    longest = int(lengths.max(initial=0))
    if np.all(lengths == longest):
        for s in range(longest):
            yield (longest - 1 - s if reverse else s), slice(None), s
        return
    for s in range(longest):
        rows = np.flatnonzero(s < lengths)
        yield (lengths[rows] - 1 - s if reverse else s), rows, s


def _begins(schedule: Any, t: Any, rows: Rows, s: int) -> Any:
    """Tell for which rows an episode begins with step s, in its order; shape (rows, 1), or None for none.

    The reverse direction begins one where it leaves the first step of another.
    """
    if schedule.resets is None or (schedule.reverse and s == 0):
        return None
    begins = schedule.resets[t + 1 if schedule.reverse else t, rows][:, None]
    return begins if begins.any() else None


def _dropped(parts: State, where: Any) -> State:
    """Return the parts of a state, or of a derivative by one, with 0 where an episode begins."""
    return parts if where is None else tuple(_where(where, 0, part) for part in parts)


def _masks_at(masks: Any, t: Any, rows: Rows) -> Any:
    return tuple(None if mask is None else mask[t, rows] for mask in masks)


def forward(cell: Any, x: Array, state: State, schedule: Any, tape: Any, final: State) -> None:
    """Run one layer in one direction over whole sequences.

    The equations are numbered as in the module's docstring.  Arrays marked OUT are given by the caller and
    overwritten.

    Parameters
    ----------
    cell : clstm.cells.Cell
        Its kind, ``W_x (I, GH)``, ``W_h (R, GH)``, ``bias (GH,)``, and its options.
    x : ndarray of shape (T, B, I)
    state : tuple of ndarrays of shape (B, R) and (B, H)
        Before the first step: (h, c), or (h,) for an RNN.
    schedule : clstm.cells.Schedule
        ``lengths (B,)``, the real steps of each row; ``reverse``: walk each row from its last real step to
        its first; ``resets (T, B)`` or None: where an episode begins.
    tape : OUT, clstm.cells.CellTape
        ``y (T, B, R)``: hidden states at their time index, 0 on padding.  ``gates (T, B, GH)``, ``c (T, B,
        H)``, ``z`` and ``norms``, or None: what `backward` reads besides; padding is left as it is.
        ``masks``, IN: what has been drawn.
    final : OUT, tuple of ndarrays of shape (B, R) and (B, H)
        State after each row's last step.

    Examples
    --------
    One unit that has learnt nothing yet, over two steps:

    >>> from clstm.cells import LSTM, Cell, CellTape, Schedule
    >>> cell = Cell(LSTM, np.ones((1, 4)), np.zeros((1, 4)), np.zeros(4))
    >>> x, state, final = np.ones((2, 1, 1)), (np.zeros((1, 1)),) * 2, (np.empty((1, 1)), np.empty((1, 1)))
    >>> tape = CellTape(np.empty((2, 1, 1)))
    >>> forward(cell, x, state, Schedule(np.array([2]), False), tape, final)
    >>> tape.y.ravel().round(4)
    array([0.3696, 0.5453])
    """
    cell = cell.unpacked()
    tape.y[...] = 0
    for part, first in zip(final, state, strict=True):
        part[...] = first
    for t, rows, s in _steps(schedule):
        before = _dropped(tuple(part[rows] for part in final), _begins(schedule, t, rows, s))  # 0
        left, after = _step_forward(cell, x[t, rows], before, _masks_at(tape.masks, t, rows))
        for part, value in zip(final, after, strict=True):
            part[rows] = value
        tape.y[t, rows] = after[0]
        for name, value in left.items():
            if getattr(tape, name) is not None:
                getattr(tape, name)[t, rows] = value


def backward(
    cell: Any,
    x: Array,
    state: State,
    schedule: Any,
    tape: Any,
    dy: Array,
    dfinal: State,
    dx: Array | None,
    dcell: Any,
    dstate: State,
) -> None:
    """Walk `forward` back: from the derivatives of a loss by the outputs to those by everything else.

    The equations are numbered as in the module's docstring.  Arrays marked OUT are given by the caller and
    overwritten.

    Parameters
    ----------
    cell, x, state, schedule : as given to `forward`
    tape : as `forward` left it
    dy : ndarray of shape (T, B, R)
        Derivative of the loss by y, without what flows through later steps.  Padding is not read.
    dfinal : tuple of ndarrays of shape (B, R) and (B, H)
        Derivatives by the final state.
    dx : OUT, ndarray of shape (T, B, I), or None
        0 on padding.
    dcell : OUT, clstm.cells.Cell, or None
        Derivatives by the weights.
    dstate : OUT, tuple of ndarrays of shape (B, R) and (B, H)
    """
    for out in (() if dx is None else (dx,)) + (() if dcell is None else dcell.arrays):
        out[...] = 0
    for part, last in zip(dstate, dfinal, strict=True):
        part[...] = last  # what the steps after the current one ask of h and of c
    states = (tape.y,) if tape.c is None else (tape.y, tape.c)
    for t, rows, s in reversed(list(_steps(schedule))):
        begins = _begins(schedule, t, rows, s)
        t_prev = t + 1 if schedule.reverse else t - 1
        before = tuple(part[t_prev, rows] for part in states) if s else tuple(part[rows] for part in state)
        before = _dropped(before, begins)
        left = tuple(None if part is None else part[t, rows] for part in tape[:5])
        dafter = tuple(part[rows] for part in dstate)
        dx_t, weights, dbefore = _step_backward(
            cell, x[t, rows], before, _masks_at(tape.masks, t, rows), left,
            (dy[t, rows] + dafter[0], *dafter[1:]),  # 4' and 6'
        )  # fmt: skip
        if dx is not None:
            dx[t, rows] = dx_t
        for name, value in () if dcell is None else weights.items():
            getattr(dcell, name)[...] += value
        for part, value in zip(dstate, _dropped(dbefore, begins), strict=True):
            part[rows] = value


def forward_all(passes: Sequence[tuple[Any, ...]], stacked: bool) -> None:  # noqa: ARG001
    """Run several passes, of which none, or each the last one, leaves what the next one reads.

    Parameters
    ----------
    passes : sequence of tuples
        The arguments of `forward` for each: of the directions of a layer, for example.
    stacked : bool
        Each pass reads as x what the one before it writes to ``tape.y``, with the same schedule.
    """
    for arguments in passes:
        forward(*arguments)


def backward_all(passes: Sequence[tuple[Any, ...]], stacked: bool) -> None:  # noqa: ARG001
    """Walk several passes back.

    Parameters
    ----------
    passes : sequence of tuples
        The arguments of `backward` for each.
    stacked : bool
        Each pass reads as dy what the one before it writes to dx, with the same schedule.
    """
    for arguments in passes:
        backward(*arguments)


def step(cell: Any, x: Array, state: State, final: State) -> None:
    """Run one layer over one time step: `forward` with T = 1, without a time axis and without lengths.

    Parameters
    ----------
    cell : clstm.cells.Cell
    x : ndarray of shape (B, I)
    state : tuple of ndarrays of shape (B, R) and (B, H)
    final : OUT, tuple of ndarrays of the same shapes
    """
    _, after = _step_forward(cell.unpacked(), x, state, (None, None, None))
    for part, value in zip(final, after, strict=True):
        part[...] = value


class Stream:
    """Stacked layers and their state, for one step after the other: what `clstm.Stream` stands on.

    Parameters
    ----------
    cells : sequence of clstm.cells.Cell
        One a layer.
    rows : int
    axes : {"f", "bf"}
        What arguments look like: (features,) or (rows, features).
    packed : bool
        Take snapshots of the weights, see `pack`; else they are read where they lie.
    """

    def __init__(self, cells: Any, rows: int, axes: str, packed: bool) -> None:
        self._given = self._cells = tuple(cells)
        self._rows, self._axes = rows, axes
        self._sizes = (cells[0].input_size, cells[-1].output_size)
        self._states = [
            tuple(np.zeros((rows, n), cell.bias.dtype) for n in cell.state_sizes) for cell in self._given
        ]
        if packed:
            self.pack()

    def pack(self) -> None:
        """Take a snapshot of the present weights of every layer."""
        self._cells = tuple(cell.astype(cell.bias.dtype) for cell in self._given)

    def put_states(self, k: int, rows: NDArray[np.intp], state: State) -> None:
        """Set the state of n rows of layer k from arrays (n, R) and (n, H)."""
        for part, value in zip(self._states[k], state, strict=True):
            part[rows] = value

    def get_states(self, k: int, rows: NDArray[np.intp], state: State) -> None:
        """Copy the state of n rows of layer k to arrays (n, R) and (n, H)."""
        for value, part in zip(state, self._states[k], strict=True):
            value[...] = part[rows]

    def _fits(self, array: Any, features: int) -> bool:
        """Tell whether an argument can be taken as it is."""
        shape = (features,) if self._axes == "f" else (self._rows, features)
        return (
            isinstance(array, np.ndarray)
            and array.shape == shape
            and array.dtype == self._given[0].bias.dtype
            and array.flags.c_contiguous
            and array.flags.aligned
        )

    def try_step(self, x: Any, out: Any) -> Any:
        """Step all layers from x (rows, I) to out (rows, R), on the axes of this stream.

        `out` may be None for a new array. Returns the array; None, with nothing changed, if either is no
        contiguous array of that shape and of the stream's dtype.
        """
        if out is None:
            R = self._sizes[1]
            out = np.empty(R if self._axes == "f" else (self._rows, R), self._given[0].bias.dtype)
        if not (self._fits(x, self._sizes[0]) and self._fits(out, self._sizes[1]) and out.flags.writeable):
            return None
        below = np.asarray(x).reshape(-1, self._sizes[0])
        for cell, state in zip(self._cells, self._states, strict=True):
            step(cell, below, state, state)
            below = state[0]
        if self._cells[0].narrow is not None and self._cells[0].narrow.held is not None:
            self._cells[0].narrow.held.tell()
        out[...] = below.reshape(out.shape)
        return out

    def try_reset(self, rows: Any) -> bool:
        """Set the state of some rows to 0, None for all; of others than in an array of intp only the kernels.

        Returns False, with nothing changed, for anything else.
        """
        if rows is not None and not (isinstance(rows, np.ndarray) and rows.dtype == np.intp):
            return False
        for part in (part for state in self._states for part in state):
            part[slice(None) if rows is None else rows] = 0
        return True

    # The short ways of the kernels.  There is none here: whatever comes goes the way of `forward`.

    most_rows = 0

    def try_run(self, x: Any, state: Any, timed: bool, batch_first: bool) -> None:
        """Run a short call from a given state, or return None."""

    def try_addresses(
        self,
        shape: tuple[int, ...],
        timed: bool,
        batch_first: bool,
        x: int,
        h_0: int,
        c_0: int,
        keep: bool,
    ) -> None:
        """Run it where its arguments lie, or return None."""

    def try_columns(self, x: Any, h_prev: Any, c_prev: Any) -> None:
        """Step columns (n, 1) from a given state, or return None."""


LSTM: Any  # clstm.LSTM on these functions; lstm.py, which stands above this file, puts it here
