"""The passes over tensors: what a module of PyTorch asks of the kernels, nothing of autograd.

Tensors are on the CPU, of one dtype, float32 or float64; the kernels read and write their memory, nothing is
copied but what lies with gaps.  An `Extent` knows how a user's sequences are laid out; inside they are
time-major.  Weights come in the order of PyTorch's `_flat_weights`: for each layer and direction w_ih (4H,
I_k), w_hh (4H, R), b_ih, b_hh (4H,) and w_hr (R, H), as far as there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _check, _dispatch, _layouts, cells

Array = NDArray[Any]


class Structure(NamedTuple):
    """What the weights of a module are."""

    layers: int
    directions: int
    bias: bool
    projection: bool

    @property
    def weights_per_cell(self) -> int:
        """How many tensors a layer has in one direction."""
        return 2 + 2 * self.bias + self.projection


def shapes(structure: Structure, I: int, H: int, R: int) -> list[tuple[int, ...]]:  # noqa: E741
    """Return those of the weights, for I inputs, H units and R numbers of h."""
    found: list[tuple[int, ...]] = []
    for k in range(structure.layers):
        below = R * structure.directions if k else I
        cell = [(4 * H, below), (4 * H, R), *[(4 * H,)] * (2 * structure.bias)]
        found += (cell + [(R, H)] * structure.projection) * structure.directions
    return found


class Extent(NamedTuple):
    """How sequences are laid out, which of their steps are real, and where episodes begin."""

    batched: bool = True  # x has an axis of rows,
    batch_first: bool = False  # and that is its first
    timed: bool = True  # x has an axis of time steps
    lengths: Array | None = None  # (B,), intp; None: all T of each row
    resets: Array | None = None  # (T, B), bool, C order
    batch_sizes: Tensor | None = None  # rows of each step, of a PackedSequence; then there are lengths

    def schedules(self, T: int, B: int, directions: int) -> Sequence[cells.Schedule]:
        """Return one for each direction."""
        if self.lengths is None and self.resets is None:
            return _full(T, B)
        lengths = _full(T, B)[0].lengths if self.lengths is None else self.lengths
        return [cells.Schedule(lengths, bool(d), self.resets) for d in range(directions)]

    def time_major(self, x: Tensor) -> Array:
        """Return a sequence as an array (T, B, features) with contiguous rows; a view, if they are."""
        if self.batch_sizes is not None:
            return pad(x, self.batch_sizes).numpy()
        array: Array = x.numpy()
        if array.strides[-1] != array.itemsize:
            array = np.ascontiguousarray(array)
        if self is FULL:
            return array
        array = array if self.timed else array[None]
        return _layouts.time_major_view(array, self.batch_first, self.batched)

    def as_given(self, steps: Array) -> Tensor:
        """Return an array (T, B, features) as a sequence in the layout of x."""
        if self is FULL:
            return torch.from_numpy(steps)
        if self.batch_sizes is not None:
            return pack(torch.from_numpy(steps), self.lengths)
        given = _layouts.as_given(steps, self.batch_first, self.batched)
        return torch.from_numpy(given if self.timed else given[0])

    def state(self, part: Tensor | None, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
        """Return a part of a state as a contiguous array of a shape; None means zeros."""
        if part is None:
            return np.zeros(shape, dtype)
        array: Array = part.numpy()
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        return array if array.shape == shape else array.reshape(shape)

    def state_as_given(self, part: Array) -> Tensor:
        """Return a part of a state in the layout of the user's."""
        if self is not FULL:
            part = part if self.timed else part[0]
            part = part if self.batched else part[..., 0, :]
        return torch.from_numpy(part)


# By whether there is an axis of rows, and whether it comes first; the commonest has a name.
FULL = Extent()
_PLAIN = {(False, False): Extent(batched=False), (True, False): FULL, (True, True): Extent(batch_first=True)}


@lru_cache(256)
def _full(T: int, B: int) -> tuple[cells.Schedule, cells.Schedule]:
    """Return a schedule of all steps of each row, forward and reverse."""
    lengths = np.full(B, T, np.intp)
    lengths.flags.writeable = False
    return cells.Schedule(lengths, False), cells.Schedule(lengths, True)


_PROJECTED = cells.Options()  # of a cell that has no option but its projection


def pad(data: Tensor, batch_sizes: Tensor) -> Tensor:
    """Return the data of a PackedSequence as (T, B, features)."""
    padded: Tensor = torch._VF._pad_packed_sequence(data, batch_sizes, False, 0.0, len(batch_sizes))[0]  # type: ignore[attr-defined]  # noqa: SLF001
    return padded


def pack(steps: Tensor, lengths: Array | None) -> Tensor:
    """Return the data of a PackedSequence with steps (T, B, features), of rows from long to short."""
    packed: Tensor = torch._VF._pack_padded_sequence(steps, torch.from_numpy(lengths), False)[0]  # type: ignore[attr-defined]  # noqa: SLF001
    return packed


class Weights:
    """Views of a module's weights as cells, and what tells whether they still are that.

    Nothing is copied but the sum of the two biases, which `cells` makes anew each time.  The views keep the
    memory alive, so that no other weight can ever lie where one of these did.

    Attributes
    ----------
    structure : Structure
    tensors : list of Tensor
    dtype : torch.dtype
    functions : module or namespace
        The kernels' functions for this dtype.
    sizes : tuple of int
        R and H.
    states : int
        How many layers and directions have one.
    short : callable or None
        What runs short calls at addresses, if they have been prepared.
    short_size : int
        Numbers of x that it takes at most.
    """

    def __init__(self, structure: Structure, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
        self.structure, self.tensors, self.dtype = structure, list(tensors), tensors[0].dtype
        n, projection = structure.weights_per_cell, structure.projection
        pairs = zip(names, tensors, strict=True)
        self._seen = [(name, weight, weight.data_ptr(), weight.shape) for name, weight in pairs]
        self._has_gaps = not all(w.is_contiguous() for w in tensors)
        self._cells, self._biases = [], []
        for k in range(0, len(tensors), n):
            W_x, W_h, *others = (w.detach().contiguous().numpy() for w in tensors[k : k + n])
            bias = np.zeros(len(W_x), W_x.dtype)
            if structure.bias:
                self._biases.append((others[0], others[1], bias))
            more = (_PROJECTED, None, others[-1].T) if projection else ()
            self._cells.append(cells.Cell(cells.LSTM, W_x.T, W_h.T, bias, *more))
        self.functions = _dispatch.backend("auto", W_x.dtype)
        self.sizes = (W_h.shape[1], len(W_h) // 4)
        self.states = structure.layers * structure.directions
        self.short: Any = None
        self.short_size = 0

    def prepare(self) -> None:
        """Prepare short calls, which pays for weights that are kept."""
        self.short, self.short_size = _short_way(self, self._cells, False)

    def are(self, parameters: dict[str, Any]) -> bool:
        """Whether the parameters of a module are these, on the same memory."""
        for name, weight, address, shape in self._seen:
            own: Any = parameters.get(name)
            if own is not weight or own.data_ptr() != address:
                return False
            if own.shape != shape or not own.is_contiguous():
                return False
        return not self._has_gaps

    def cells(self) -> list[cells.Cell]:
        """Return the cells as the weights are now."""
        for b_ih, b_hh, bias in self._biases:
            np.add(b_ih, b_hh, bias)
        if not self.structure.projection:
            return self._cells
        return [cell._replace(W_r=np.ascontiguousarray(cell.W_r)) for cell in self._cells]


def _short_way(weights: Weights | Frozen, layers: Sequence[cells.Cell], packed: bool) -> tuple[Any, int]:
    """Return what runs short calls, and how many numbers of x it takes; none of cells it is not for."""
    if weights.structure.directions > 1 or weights.structure.projection:
        return None, 0
    engine = weights.functions.Stream(layers, 1, "f", packed)
    return engine.try_addresses, engine.most_rows * len(layers[0].W_x)


def weights_of(structure: Structure, tensors: Sequence[Tensor]) -> Weights:
    """Return the views of weights that belong to no module."""
    return Weights(structure, [""] * len(tensors), tensors)


def _room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array for a tape: a large one from the kernels' pool, a small one sooner from NumPy."""
    return (np.empty if math.prod(shape) < 1 << 14 else _dispatch.empty)(shape, dtype)


def run(
    weights: Weights | Frozen,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    extent: Extent,
    masks: Sequence[Tensor] = (),
    tape: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run all layers over x: y (T, B, D R), h_n (L D, B, R) and c_n (L D, B, H), laid out as `extent` says.

    What lies between layer k and the next is multiplied by ``masks[k]``.  `tape` takes what `run_back` needs:
    y, which is not the one that is returned, and for each direction gates and c, layer after layer.
    """
    L, D, _, _ = weights.structure
    R, H = weights.sizes
    layers, run_passes = weights.cells(), weights.functions.forward_all
    below = extent.time_major(x)
    T, B, _ = below.shape
    dtype = below.dtype
    shape_h, shape_c = (L * D, B, R), (L * D, B, H)
    h_first, c_first = extent.state(h_0, shape_h, dtype), extent.state(c_0, shape_c, dtype)
    h_last, c_last = np.empty(shape_h, dtype), np.empty(shape_c, dtype)
    schedules = extent.schedules(T, B, D)
    passes: list[tuple[Any, ...]] = []  # that have not been run
    for k in range(L):
        if k and (D > 1 or masks):  # what is below must be there as a whole
            run_passes(tuple(passes), D == 1)
            passes = []
        if k and masks:
            below = below * masks[k - 1].numpy()
        if tape is None:
            y = np.empty((T, B, D * R), dtype)
        else:
            y = _room((T, B, D * R), dtype)
            tape.append(torch.from_numpy(y))
        for d in range(D):
            n = k * D + d
            left = cells.CellTape(y if D == 1 else y[:, :, d * R : (d + 1) * R])
            if tape is not None:
                left = cells.new_tape(layers[n], left.y, _room)
                tape += [torch.from_numpy(part) for part in (left.gates, left.z, left.c) if part is not None]
            passes.append((
                layers[n], below, (h_first[n], c_first[n]), schedules[d], left, (h_last[n], c_last[n]),
            ))  # fmt: skip
        below = y
    run_passes(tuple(passes), D == 1)
    # Whoever changes an output in place does not change the tape.
    result = below if tape is None or extent.batch_sizes is not None else below.copy()
    return extent.as_given(result), extent.state_as_given(h_last), extent.state_as_given(c_last)


def run_plain(
    weights: Weights | Frozen,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    extent: Extent,
    masks: Sequence[Tensor] = (),
    tape: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run as `run` tensors known to be plain ones, of the right type and shapes, on the CPU, or no state.

    What is short, and lies without gaps, is run at its address, in less time than an array takes to make.
    """
    found = None
    if x.numel() <= weights.short_size and not masks and extent.lengths is None and extent.resets is None:
        start, h_start, c_start = x.data_ptr(), 0, 0
        fits = start and x.is_contiguous()
        if h_0 is not None and c_0 is not None:
            h_start, c_start = h_0.data_ptr(), c_0.data_ptr()
            fits = fits and h_start and c_start and h_0.is_contiguous() and c_0.is_contiguous()
        if fits:
            weights.cells()  # the sums of biases
            found = weights.short(
                x.shape, extent.timed, extent.batch_first, start, h_start, c_start, tape is not None
            )
    if found is None:
        return run(weights, x, h_0, c_0, extent, masks, tape)
    y, h, c, left = found
    if tape is not None:
        tape += map(torch.from_numpy, left)
    if not extent.timed:
        h, c = h[0], c[0]
    return torch.from_numpy(y), torch.from_numpy(h), torch.from_numpy(c)


def run_back(
    weights: Weights,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    extent: Extent,
    masks: Sequence[Tensor],
    tape: Sequence[Tensor],
    dy: Tensor | None,
    dh_n: Tensor | None,
    dc_n: Tensor | None,
    want_x: bool,
    want_weights: bool,
) -> tuple[Tensor | None, Tensor, Tensor, list[Tensor]]:
    """Walk `run` back: dx, dh_0, dc_0 and the gradients by the weights; None and [] for what nobody wants."""
    structure, layers = weights.structure, weights.cells()
    L, D, n = structure.layers, structure.directions, structure.weights_per_cell
    R, H = weights.sizes
    first = extent.time_major(x)
    T, B, _ = first.shape
    dtype = first.dtype
    shape_h, shape_c = (L * D, B, R), (L * D, B, H)
    h_first, c_first = extent.state(h_0, shape_h, dtype), extent.state(c_0, shape_c, dtype)
    dh_last, dc_last = extent.state(dh_n, shape_h, dtype), extent.state(dc_n, shape_c, dtype)
    dh_first, dc_first = np.empty(shape_h, dtype), np.empty(shape_c, dtype)
    d_above: Any = np.zeros((T, B, D * R), dtype) if dy is None else extent.time_major(dy)
    gradients = [w.new_empty(w.shape) for w in weights.tensors] if want_weights else []
    schedules = extent.schedules(T, B, D)
    passes: list[tuple[Any, ...]] = []  # that have not been walked back
    dcells: list[cells.Cell | None] = [None] * (L * D)
    for k in reversed(range(L)):
        y, left = tape[k * (1 + 2 * D)].numpy(), tape[k * (1 + 2 * D) + 1 : (k + 1) * (1 + 2 * D)]
        below = tape[(k - 1) * (1 + 2 * D)].numpy() if k else first
        if k and masks:
            below = below * masks[k - 1].numpy()
        dx_k = [np.empty(below.shape, dtype) if k or want_x else None for _ in range(D)]
        for d in range(D):
            c = k * D + d
            gates, cell = left[2 * d].numpy(), left[2 * d + 1].numpy()
            y_d = y if D == 1 else y[:, :, d * R : (d + 1) * R]
            options = structure.projection
            cell_tape = cells.CellTape(y_d, None if options else gates, cell, gates if options else None)
            dcells[c] = _gradient_cell(structure, layers[c], gradients[c * n : (c + 1) * n])
            passes.append((
                layers[c], below, (h_first[c], c_first[c]), schedules[d], cell_tape,
                d_above[:, :, d * R : (d + 1) * R], (dh_last[c], dc_last[c]), dx_k[d], dcells[c],
                (dh_first[c], dc_first[c]),
            ))  # fmt: skip
        if k == 0 or D > 1 or masks:  # what is above must be there as a whole
            weights.functions.backward_all(tuple(passes), D == 1)
            passes = []
        d_above = dx_k[0]
        if D > 1 and d_above is not None:
            d_above += dx_k[1]
        if k and masks:
            d_above = d_above * masks[k - 1].numpy()
    for c, dcell in enumerate(dcells):
        if dcell is not None:
            _finish(structure, dcell, gradients[c * n : (c + 1) * n])
    dx = extent.as_given(d_above) if want_x else None
    return dx, extent.state_as_given(dh_first), extent.state_as_given(dc_first), gradients


def _gradient_cell(structure: Structure, cell: cells.Cell, gradients: list[Tensor]) -> cells.Cell | None:
    """Return where the kernels write gradients: into these tensors, as far as they have the layout."""
    if not gradients:
        return None
    bias = gradients[2].numpy() if structure.bias else np.empty_like(cell.bias)
    W_r = None if cell.W_r is None else np.empty_like(cell.W_r)
    return cells.Cell(
        cells.LSTM, gradients[0].numpy().T, gradients[1].numpy().T, bias, cell.options, None, W_r
    )


def _finish(structure: Structure, dcell: cells.Cell, gradients: list[Tensor]) -> None:
    """Write what the kernels have no place for: the second bias and the projection."""
    if structure.bias:
        gradients[3].copy_(gradients[2])
    if dcell.W_r is not None:
        gradients[-1].numpy()[...] = dcell.W_r.T


def sizes_of(x: Tensor, batched: bool, batch_first: bool) -> tuple[int, int]:
    """Return T and B of a sequence."""
    if not batched:
        return x.shape[0], 1
    return (x.shape[1], x.shape[0]) if batch_first else (x.shape[0], x.shape[1])


def extent_of(x: Tensor, batched: bool, batch_first: bool, lengths: Any, resets: Any) -> Extent:
    """Check what a user says of a sequence beside its layout."""
    if lengths is None and resets is None:
        return _PLAIN[batched, batch_first]
    T, B = sizes_of(x, batched, batch_first)
    lengths = None if lengths is None else _check.lengths(lengths, T, B)
    resets = None if resets is None else _layouts.resets(resets, (T, B), batch_first, batched)
    # Copies, for the way back reads them again, when a user may have other episodes in the same memory.
    lengths, resets = (None if given is None else given.copy() for given in (lengths, resets))
    return Extent(batched, batch_first, lengths=lengths, resets=resets)


def extent_of_packed(batch_sizes: Tensor) -> Extent:
    """Return the layout of a PackedSequence: rows from long to short."""
    sizes = batch_sizes.numpy()
    lengths = np.zeros(sizes[0], np.intp)
    for size in sizes:
        lengths[:size] += 1
    return Extent(lengths=lengths, batch_sizes=batch_sizes)


class Frozen:
    """Weights as they were, packed for short calls; attributes as of `Weights`."""

    def __init__(self, weights: Weights) -> None:
        self.structure, self.dtype, self.sizes = weights.structure, weights.dtype, weights.sizes
        self.states = weights.states
        self.functions = weights.functions
        self._cells = [cell.astype(cell.W_x.dtype) for cell in weights.cells()]
        self.short, self.short_size = _short_way(self, self._cells, True)

    def cells(self) -> list[cells.Cell]:
        """Return the cells as they were."""
        return self._cells
