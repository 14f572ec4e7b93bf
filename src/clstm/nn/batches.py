"""Sequences of unequal lengths as time-major batches: nothing here loops over rows or steps.

All sequences lie in one array, so that a batch is one indexed copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check, _dispatch

Array = NDArray[Any]
Rows = NDArray[np.intp]

# Batches whose rows are sorted by length together: enough for little padding, few enough for a random order.
POOL = 50


class Sequences:
    """N sequences as numbers that lie one after the other.

    Parameters
    ----------
    data : ndarray of shape (M, ...)
        All steps of all sequences.
    starts : ndarray of int of shape (N,)
        Where in it the first step of each is.
    lengths : ndarray of int of shape (N,)
    stride : int
        How far the steps of a sequence are apart.
    """

    def __init__(self, data: Array, starts: Rows, lengths: Rows, stride: int = 1) -> None:
        self.data, self.starts, self.lengths, self.stride = data, starts, lengths, stride

    @classmethod
    def of_array(cls, steps: Array, lengths: Rows, batch_first: bool) -> Sequences:
        """Take (T, N, ...) or (N, T, ...), of which rows beyond `lengths` are never looked at."""
        one, other = steps.shape[:2]
        data = steps.reshape(one * other, *steps.shape[2:])
        if batch_first:
            return cls(data, np.arange(one) * other, lengths)
        return cls(data, np.arange(other), lengths, other)

    @classmethod
    def of_list(cls, sequences: list[Array]) -> Sequences:
        """Take arrays (T_i, ...), whose shapes and dtypes fit."""
        lengths = np.array([len(sequence) for sequence in sequences], np.intp)
        return cls(np.concatenate(sequences), np.cumsum(lengths) - lengths, lengths)

    def __len__(self) -> int:
        return len(self.starts)

    def subset(self, rows: Rows) -> Sequences:
        """Return some of the sequences, on the same array."""
        return Sequences(self.data, self.starts[rows], self.lengths[rows], self.stride)

    def batch(self, rows: Rows, begin: int = 0, end: int | None = None) -> Array:
        """Return steps `begin` to `end` of some sequences as (T, B, ...).

        T is that of the longest; what lies beyond a sequence is a copy of its last step, or 0.
        """
        lengths = self.lengths[rows]
        end = int(lengths.max(initial=0)) if end is None else end
        steps = np.minimum(np.arange(begin, end)[:, None], np.maximum(lengths - 1, 0))
        index = self.starts[rows] + self.stride * steps
        picked = _dispatch.empty((*index.shape, *self.data.shape[1:]), self.data.dtype)
        if picked.size:
            np.take(self.data, index, axis=0, out=picked, mode="clip")
            picked[:, lengths == 0] = 0  # what stands at their beginning is padding, or another's
        return picked

    def steps(self) -> tuple[Rows, Rows]:
        """Return of each real step which sequence it belongs to, and its number there."""
        owner = np.repeat(np.arange(len(self)), self.lengths)
        return owner, np.arange(len(owner)) - np.repeat(np.cumsum(self.lengths) - self.lengths, self.lengths)

    def places(self, owner: Rows, step: Rows) -> Rows:
        """Return where in the data steps of sequences are."""
        return self.starts[owner] + self.stride * step

    def first(self, marked: NDArray[np.bool_]) -> tuple[int, int] | None:
        """Return sequence and step of the first real step that is marked (M,), if there is one."""
        if not marked.any():
            return None
        owner, step = self.steps()
        found = np.flatnonzero(marked[self.places(owner, step)])
        return (int(owner[found[0]]), int(step[found[0]])) if found.size else None

    def check_finite(self, name: str, where: Callable[[int, int], str]) -> None:
        """Refuse NaN and infinities in what is looked at; `where` names a sequence and a step."""
        if self.data.dtype.kind != "f" or np.isfinite(self.data).all():
            return
        finite = np.isfinite(self.data.reshape(len(self.data), -1))
        found = self.first(np.logical_not(finite.all(axis=1)))
        if found is not None:
            n, t = found
            values = np.ravel(self.data[self.starts[n] + self.stride * t])
            k = int(np.flatnonzero(~np.isfinite(values))[0])
            feature = f", feature {k}" if self.data.ndim > 1 else ""
            raise ValueError(f"{name}: expected finite numbers, got {values[k]} in {where(n, t)}{feature}")

    def check_range(self, name: str, high: int) -> None:
        """Refuse integers outside 0..high in what is looked at."""
        found = self.first((self.data < 0) | (self.data > high))
        if found is not None:
            n, t = found
            value = self.data[self.starts[n] + self.stride * t]
            raise ValueError(f"{name}: expected values in 0..{high}, got {value} in sequence {n}, step {t}")


def cut(lengths: Rows, batch_size: int, rng: np.random.Generator | None) -> list[Rows]:
    """Cut rows into batches: in a random order, rows of like lengths together; without `rng` in order."""
    N = len(lengths)
    batch_size = min(batch_size, max(N, 1))
    order = np.arange(N) if rng is None else rng.permutation(N)
    unequal = N > 0 and lengths.min() != lengths.max()
    if unequal:
        pool = np.arange(N) // (POOL * batch_size if rng else N)
        order = order[np.lexsort((lengths[order], pool))]
    batches = [order[start : start + batch_size] for start in range(0, N, batch_size)]
    if unequal and rng is not None:
        batches = [batches[n] for n in rng.permutation(len(batches))]
    return batches


def validity(lengths: Rows, T: int) -> NDArray[np.bool_] | None:
    """Return where (T, B) real steps are, or None if everywhere."""
    if lengths.size == 0 or lengths.min() >= T:
        return None
    return np.arange(T)[:, None] < lengths


def row_weights(name: str, given: Any, N: int) -> Array | None:
    """Return a weight for each sequence, none negative, not all of them 0."""
    if given is None:
        return None
    weights = _check.shaped(name, given, np.dtype(float), (N,))
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(f"{name}: expected finite weights of at least 0, and one above, got others")
    return weights


def sequences_of(
    name: str,
    given: Any,
    convert: Callable[[str, Any], Array],
    axes: tuple[int | str, ...],
    batch_first: bool,
    lengths: Any = None,
) -> Sequences:
    """Return what a user hands in as N sequences.

    Parameters
    ----------
    name : str
        Of the argument, for messages.
    given : array_like, or list of array_like
        All at once, or each by itself.
    convert : callable
        From name and value to an array; refuses other dtypes.
    axes : tuple of int and str
        Those of one sequence, such as ("T", 3); a string stands for any size.
    batch_first : bool
        Whether the first axis of an array is that of the sequences.
    lengths : array_like of int, optional
        For an array alone.
    """
    if isinstance(given, list | tuple) and not (given and np.isscalar(given[0])):
        listed = [convert(f"{name}[{n}]", sequence) for n, sequence in enumerate(given)]
        for n, sequence in enumerate(listed):
            _check.shape(f"{name}[{n}]", sequence, axes)
            if sequence.shape[1:] != listed[0].shape[1:]:
                _check.shape(f"{name}[{n}]", sequence, ("T", *listed[0].shape[1:]))
        if lengths is not None:
            raise ValueError(
                f"lengths: expected None with a list, whose sequences have theirs, got {name} a list"
            )
        if not listed:
            raise ValueError(f"{name}: expected at least one sequence, got none")
        return Sequences.of_list(listed)
    array = convert(name, given)
    both = ("N", "T", *axes[1:]) if batch_first else ("T", "N", *axes[1:])
    if array.ndim != len(both):
        hint = "; an array of one feature needs an axis of its own" if array.ndim == len(axes) else ""
        all_at_once, each = (", ".join(map(str, part)) for part in (both, axes))
        raise ValueError(
            f"{name}: expected shape ({all_at_once}) or a list of ({each}), got {array.shape}{hint}"
        )
    _check.shape(name, array, both)
    N, T = array.shape[:2] if batch_first else array.shape[1::-1]
    if N == 0:
        raise ValueError(f"{name}: expected at least one sequence, got shape {array.shape}")
    return Sequences.of_array(array, _check.lengths(lengths, T, N), batch_first)
