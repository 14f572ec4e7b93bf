"""class Examples: sequences with what they lead to, as training takes them, checked once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .batches import Rows, Sequences, row_weights, sequences_of, validity
from .checkpoints import digest

if TYPE_CHECKING:
    from .chain import Chain

Array = NDArray[Any]


class Piece(NamedTuple):
    """Some steps of some sequences, with the rows that a loss is taken of."""

    x: Array  # (T, B, ...)
    lengths: Rows
    valid: NDArray[np.bool_] | None  # (T, B), for targets at each step, if there is padding
    y: Array  # (n, ...)
    weight: Array | None  # (n,)

    @property
    def total(self) -> float:
        """What the rows weigh together."""
        return float(len(self.y)) if self.weight is None else float(self.weight.sum())

    def rows_of(self, prediction: Array) -> Array:
        """Return the predictions (n, O) that belong to y."""
        if prediction.ndim == 2:
            return prediction
        if self.valid is not None:
            return prediction[self.valid]
        return prediction.reshape(-1, prediction.shape[-1])

    def laid_out(self, d: Array, shape: tuple[int, ...]) -> Array:
        """Return derivatives by those rows as one by the prediction, 0 on padding."""
        if self.valid is None:
            return d.reshape(shape)
        result = np.zeros(shape, d.dtype)
        result[self.valid] = d
        return result


class Examples:
    """N sequences, a target for each or for each of their steps, and perhaps weights.

    Parameters
    ----------
    x : Sequences
    y : Sequences if there is a target at each step, else ndarray (N, ...)
    weights : ndarray of shape (N,) or None
    """

    def __init__(self, x: Sequences, y: Sequences | Array, weights: Array | None) -> None:
        self.x, self.y, self.weights = x, y, weights

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def of(
        cls, model: Chain, names: tuple[str, str, str], x: Any, y: Any, weights: Any, lengths: Any
    ) -> Examples:
        """Check what a user hands in; `names` are those of x, y and the weights in messages."""
        sequences = model.sequences(names[0], x, lengths)
        N = len(sequences)
        if not sequences.lengths.any():
            raise ValueError(f"{names[0]}: expected at least one step, got none")
        targets: Sequences | Array
        if model.readout == "each":
            targets = _targets_of_steps(
                model, names[1], y, sequences, None if lengths is None else sequences.lengths
            )
        else:
            targets = target_array(names[1], y, model.dtype)
            if targets.ndim == 0 or len(targets) != N:
                raise ValueError(
                    f"{names[1]}: expected a target for each of {N} sequences, got shape {targets.shape}"
                    + _other_layout(names[0], x, targets.shape, model.batch_first)
                )
            Sequences.of_array(targets[:, None], np.ones(N, np.intp), True).check_finite(
                names[1], lambda n, _: f"row {n}"
            )
        return cls(sequences, targets, row_weights(names[2], weights, N))

    def subset(self, rows: Rows) -> Examples:
        """Return some of the examples."""
        y = self.y.subset(rows) if isinstance(self.y, Sequences) else self.y[rows]
        return Examples(self.x.subset(rows), y, None if self.weights is None else self.weights[rows])

    def extremes(self) -> Examples:
        """Return the sequences that tell whether all fit, each with some weight.

        They are the longest, and those with the smallest and the largest target.
        """
        if isinstance(self.y, Sequences):
            owner, step = self.y.steps()
            values = self.y.data[self.y.places(owner, step)]
        else:
            owner, values = np.arange(len(self)), self.y
        rows = [int(self.x.lengths.argmax())]
        if values.size:
            flat = values.reshape(len(values), -1)
            rows += [int(owner[flat.min(axis=1).argmin()]), int(owner[flat.max(axis=1).argmax()])]
        found = self.subset(np.unique(rows))
        return found if self.weights is None else Examples(found.x, found.y, np.ones(len(found)))

    def piece(self, rows: Rows, begin: int = 0, end: int | None = None) -> Piece:
        """Return steps `begin` to `end` of some sequences, all of them by default."""
        x = self.x.batch(rows, begin, end)
        lengths = np.clip(self.x.lengths[rows] - begin, 0, len(x))
        weight = None if self.weights is None else self.weights[rows]
        if not isinstance(self.y, Sequences):
            return Piece(x, lengths, None, self.y[rows], weight)
        valid = validity(lengths, len(x))
        y = self.y.batch(rows, begin, end)
        if weight is not None:
            weight = np.broadcast_to(weight, x.shape[:2])
            weight = weight.reshape(-1) if valid is None else weight[valid]
        return Piece(x, lengths, valid, y.reshape(-1, *y.shape[2:]) if valid is None else y[valid], weight)

    def digest(self) -> str:
        """Name the data: the same for the same sequences and targets alone."""
        arrays = [self.x.data, self.x.starts, self.x.lengths]
        arrays += [self.y.data, self.y.starts] if isinstance(self.y, Sequences) else [self.y]
        arrays += [] if self.weights is None else [self.weights]
        return digest([np.asarray(array) for array in arrays])


def _other_layout(name: str, x: Any, shape: tuple[int, ...], batch_first: bool) -> str:
    """Say so if there are as many targets as the other axis of x has sequences."""
    if not shape or shape[0] not in getattr(x, "shape", ())[:2]:
        return ""
    read, other = ("(N, T, ...)", "(T, N, ...)") if batch_first else ("(T, N, ...)", "(N, T, ...)")
    return f"; {name} is read as {read}, as {other} by recurrent layers with batch_first={not batch_first}"


def target_array(name: str, value: Any, dtype: np.dtype[Any]) -> Array:
    """Return targets as an array: integers stay, real numbers get the model's dtype."""
    given = _check.as_array(name, value, "numbers")
    if given.dtype.kind in "OUS":
        raise TypeError(
            f"{name}: expected numbers, got dtype {given.dtype}; of labels, np.unique(labels, "
            "return_inverse=True) makes classes"
        )
    if given.dtype.kind in "iub":
        return given.astype(np.intp, copy=False)
    return _check.array(name, value, dtype)


def _targets_of_steps(model: Chain, name: str, y: Any, x: Sequences, lengths: Rows | None) -> Sequences:
    """Return targets for each step of each sequence."""
    listed = isinstance(y, list | tuple) and len(y) > 0
    first = _check.as_array(f"{name}[0]", y[0], "numbers") if listed else _check.as_array(name, y, "numbers")
    inner = first.shape[1 if listed else 2 :]
    axes = ("T", *(f"O{n}" if n else "O" for n in range(len(inner))))
    found = sequences_of(
        name, y, lambda own, value: target_array(own, value, model.dtype), axes, model.batch_first, lengths
    )
    if len(found) != len(x):
        raise ValueError(f"{name}: expected targets for {len(x)} sequences, got {len(found)}")
    wrong = np.flatnonzero(found.lengths != x.lengths)
    if wrong.size:
        n = int(wrong[0])
        raise ValueError(
            f"{name}: expected {x.lengths[n]} steps in sequence {n}, as x has, got {found.lengths[n]}"
        )
    found.check_finite(name, lambda n, t: f"sequence {n}, step {t}")
    return found
