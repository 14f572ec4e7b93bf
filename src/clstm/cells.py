"""Kinds of cells as data, and the records that both backends take: what is computed, when, what is left.

Plain values, read alike by reference.py and the kernels.  Sizes: T, B, I, H = time steps, batch rows, inputs,
hidden units; R = numbers of h, which is H without a projection; G = gates of a kind.  A state is a tuple of
arrays, one for each of the kind's `states`: h (B, R) first, then c (B, H).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _narrow

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


class Activation(NamedTuple):
    """A function of one number, by its name in reference.py."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0


SIGMOID, TANH = Activation("sigmoid"), Activation("tanh")

# The parameters of each activation and their defaults, those of ONNX.
ACTIVATIONS: dict[str, dict[str, float]] = {
    "sigmoid": {},
    "tanh": {},
    "relu": {},
    "hard_sigmoid": {"alpha": 0.2, "beta": 0.5},
    "softsign": {},
    "softplus": {},
    "elu": {"alpha": 1.0},
    "leaky_relu": {"alpha": 0.01},
    "thresholded_relu": {"alpha": 1.0},
    "scaled_tanh": {"alpha": 1.0, "beta": 1.0},
    "affine": {"alpha": 1.0, "beta": 0.0},
    "identity": {},
}


class Options(NamedTuple):
    """How an LSTM differs from its four equations, apart from the arrays in `Cell`."""

    activations: tuple[Activation, Activation, Activation] = (SIGMOID, TANH, TANH)  # gates, candidate, cell
    gate_clip: float = math.inf
    cell_clip: float = math.inf
    coupled: bool = False
    zoneout: tuple[float, float] = (0.0, 0.0)  # of h and c: what is kept where nothing has been drawn


class Held:
    """How many numbers of x and of states were held within their range; a count that all cells share.

    Attributes
    ----------
    count : ndarray of shape (1,) of intp
        Backends add to it.
    """

    def __init__(self) -> None:
        self.count = np.zeros(1, np.intp)
        self._told = False

    def tell(self) -> None:
        """Warn, the first time that there is a reason to."""
        if self.count[0] and not self._told:
            self._told = True
            warnings.warn(
                f"x: expected numbers within the range that the layer was quantized for, and states within "
                f"-1..1; {int(self.count[0]):,} beyond it were held to its ends, and more will not be told",
                stacklevel=4,
            )


class Narrow(NamedTuple):
    """What `W_x` and `W_h` of a cell are where they take fewer bytes than floats: words of `_narrow.pack`.

    They do not change.  The arithmetic is that of 1b and 1q in reference.py.
    """

    precision: str  # "bfloat16" or "int8"
    input_size: int  # I
    output_size: int  # R
    # Of int8 alone.
    scale_x: Array | None = None  # (4H,) float32: what 1 in a column of W_x, and of W_h, is worth
    scale_h: Array | None = None
    x_range: float = math.inf  # numbers of x are held within it
    levels: tuple[int, int] = (0, 0)  # the integers that it, and 1 of h, become
    held: Held | None = None


class Cell(NamedTuple):
    """What one layer in one direction computes; also the gradients by its weights."""

    kind: Kind
    W_x: Array  # (I, GH)
    W_h: Array  # (R, GH)
    bias: Array  # (GH,)
    options: Options | None = None  # None if the cell has none, nor any of the arrays below
    peepholes: Array | None = None  # (3, H): i, f, o
    W_r: Array | None = None  # (H, R)
    norm_x: Array | None = None  # (4H,), gain
    norm_h: Array | None = None  # (4H,), gain
    norm_c: Array | None = None  # (2, H): gain, shift
    narrow: Narrow | None = None  # None if W_x and W_h are floats

    @property
    def input_size(self) -> int:
        """I."""
        return len(self.W_x) if self.narrow is None else self.narrow.input_size

    @property
    def output_size(self) -> int:
        """R."""
        return len(self.W_h) if self.narrow is None else self.narrow.output_size

    @property
    def hidden_size(self) -> int:
        """H."""
        return len(self.bias) // len(self.kind.gates)

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Numbers of each part of the state in one row: R, and for an LSTM H."""
        return (self.output_size, self.hidden_size)[: len(self.kind.states)]

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Those of its parts that are arrays."""
        return tuple(part for part in self if isinstance(part, np.ndarray))

    def map(self, function: Callable[[Array], Array]) -> Cell:
        """Return a cell of what a function makes of each array."""
        arrays: dict[str, Any] = {
            name: function(part)
            for name, part in zip(self._fields, self, strict=True)
            if isinstance(part, np.ndarray)
        }
        return self._replace(**arrays)

    def astype(self, dtype: DTypeLike) -> Cell:
        """Return a copy with contiguous weights of a dtype; a cell of narrow ones, which stay, itself."""
        return self if self.narrow else self.map(lambda part: np.array(part, dtype, order="C"))

    def unpacked(self) -> Cell:
        """Return a cell whose W_x (I, GH) and W_h (R, GH) are the weights, or their integers, as floats."""
        if self.narrow is None:
            return self
        stored, dtype = _narrow.STORED[self.narrow.precision], self.bias.dtype
        W_x, W_h = (
            _narrow.unpack(words, rows, self.hidden_size, stored)
            for words, rows in ((self.W_x, self.input_size), (self.W_h, self.output_size))
        )
        if self.narrow.precision == "int8":
            return self._replace(W_x=W_x.astype(float), W_h=W_h.astype(float))
        W_x, W_h = ((W.astype(np.uint32) << 16).view(np.float32) for W in (W_x, W_h))
        return self._replace(W_x=W_x.astype(dtype), W_h=W_h.astype(dtype), narrow=None)

    def copy_in(self, other: Cell) -> None:
        """Take the values of another cell."""
        if other is self:
            return
        for own, new in zip(self.arrays, other.arrays, strict=True):
            own[...] = new


class Schedule(NamedTuple):
    """Which steps are run, in which order, and where the state begins anew."""

    lengths: NDArray[Any]  # (B,), intp: real steps of each row, at most T
    reverse: bool  # from each row's last real step to its first
    resets: NDArray[np.bool_] | None = None  # (T, B), C order: where an episode begins

    def copy(self) -> Schedule:
        """Return one with arrays of its own."""
        resets = None if self.resets is None else self.resets.copy()
        return Schedule(self.lengths.copy(), self.reverse, resets)


class Masks(NamedTuple):
    """What has been drawn for a forward pass in training; an array whose steps are alike has strides of 0."""

    recurrent: Array | None = None  # (T, B, R): what h_prev is multiplied by before the product
    # Of a cell with such a zoneout.
    zoneout_h: Array | None = None  # (T, B, R): 1 where h keeps its value, else 0
    zoneout_c: Array | None = None  # (T, B, H), for c


class CellTape(NamedTuple):
    """What a cell leaves behind step by step, at the time index of the step; arrays may be views.

    `forward` fills those of the first five that are not None.  For `backward` a cell without options leaves
    y, gates and c as far as its kind has them, a cell with options y, c, z and norms; its tape has room for
    its gates or for z, not for both.
    """

    y: Array  # (T, B, R): h of every step; 0 on padding
    gates: Array | None = None  # (T, B, GH) after their activation, None for a kind whose one gate is h
    c: Array | None = None  # (T, B, H), None for a kind without it
    z: Array | None = None  # (T, B, 4H): what the gates are activations of, before a clip
    norms: Array | None = None  # (T, B, 8H + 2): N(x W_x), N(h W_h), and one over the root of each
    masks: Masks = Masks()  # IN

    def at(self, t: int) -> CellTape:
        """Return what one step has left."""
        one = slice(t, t + 1)
        gates, c, z, norms = (None if part is None else part[one] for part in self[1:5])
        masks = Masks(*(None if mask is None else mask[one] for mask in self.masks))
        return CellTape(self.y[one], gates, c, z, norms, masks)


def new_tape(
    cell: Cell,
    y: Array,
    empty: Callable[[tuple[int, ...], np.dtype[Any]], Array],
    masks: Masks = Masks(),  # noqa: B008
) -> CellTape:
    """Return a tape with arrays for everything that `backward` of a cell reads."""
    if len(cell.kind.gates) == 1:
        return CellTape(y, masks=masks)
    (T, B, _), H, width, dtype = y.shape, cell.hidden_size, len(cell.bias), y.dtype
    c = empty((T, B, H), dtype)
    if cell.options is None:
        return CellTape(y, empty((T, B, width), dtype), c, masks=masks)
    norms = None if cell.norm_x is None else empty((T, B, 2 * width + 2), dtype)
    return CellTape(y, None, c, empty((T, B, width), dtype), norms, masks)
