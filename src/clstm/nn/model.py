"""class SequenceModel: an LSTM with a dense read-out of its final hidden state, and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

from .. import _check
from ..lstm import LSTM
from ..parameters import Saved
from .dense import Dense
from .losses import mse_loss
from .optimisers import Adam, clip_grad_norm

Array = NDArray[Any]


class SequenceModel(Saved):
    """From a sequence to one vector: ``head(h_n)`` with the final hidden state of the LSTM's last layer.

    Parameters
    ----------
    lstm : clstm.LSTM
        It also decides how sequences are laid out: (T, B, I), or (B, T, I) with ``batch_first=True``.
    head : Dense
        Its `input_size` is the hidden size of the LSTM (twice that if bidirectional), its dtype the LSTM's.

    Attributes
    ----------
    lstm, head : as given
    layers : list
        ``[lstm, head]``, for an optimiser.

    Raises
    ------
    ValueError, TypeError
        The two do not fit together.

    Examples
    --------
    Forecast the next 3 values of a series from the last 20:

    >>> import clstm, numpy as np
    >>> from clstm import nn
    >>> series = np.sin(np.arange(200) / 5)
    >>> x, y = nn.windows(series, input_steps=20, horizon=3)
    >>> model = nn.SequenceModel(clstm.LSTM(1, 8, batch_first=True, rng=0), nn.Dense(8, 3, rng=1))
    >>> losses = model.fit(x, y, epochs=20, lr=0.01, rng=2)
    >>> bool(losses[-1] < 0.1 * losses[0])
    True
    >>> model(series[-20:, None]).shape
    (3,)
    """

    file_class = "SequenceModel"

    def __init__(self, lstm: LSTM, head: Dense) -> None:
        _check.instance("lstm", lstm, LSTM)
        _check.instance("head", head, Dense)
        features = lstm.num_directions * lstm.output_size
        if head.input_size != features:
            raise ValueError(
                f"head: expected input_size {features}, the LSTM's output, got {head.input_size}"
            )
        if head.dtype != lstm.dtype:
            raise ValueError(f"head: expected dtype {lstm.dtype}, the LSTM's, got {head.dtype}")
        self.lstm = lstm
        self.head = head

    @property
    def layers(self) -> list[LSTM | Dense]:
        """The layers that have parameters."""
        return [self.lstm, self.head]

    def __repr__(self) -> str:
        return f"SequenceModel({self.lstm!r}, {self.head!r})"

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Check the arguments of `load` that are not part of a file: those of the LSTM."""
        LSTM.check_options(options)

    def file_content(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return arguments and arrays of both parts; names begin with "lstm." and "head."."""
        arguments: dict[str, Any] = {}
        tensors: dict[str, Array] = {}
        for part, layer in (("lstm", self.lstm), ("head", self.head)):
            arguments[part], named = layer.file_content()
            tensors |= {f"{part}.{name}": value for name, value in named.items()}
        return arguments, tensors

    @classmethod
    def from_file(
        cls,
        arguments: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], dict[str, Array]],
        **options: Any,
    ) -> Self:
        """Make a model of what a file holds; `options` are the LSTM's."""
        _check.entries("arguments", arguments, ("lstm", "head"), True)

        def of(part: str, named: Mapping[str, Any]) -> dict[str, Any]:
            return {
                name.removeprefix(f"{part}."): value
                for name, value in named.items()
                if name.startswith(f"{part}.")
            }

        stray = [name for name in shapes if not name.startswith(("lstm.", "head."))]
        if stray:
            raise ValueError(
                f"tensors: expected names that begin with lstm. or head., got {_check.listed(stray)}"
            )
        return cls(
            LSTM.from_file(arguments["lstm"], of("lstm", shapes), lambda: of("lstm", read()), **options),
            Dense.from_file(arguments["head"], of("head", shapes), lambda: of("head", read())),
        )

    def _features(self, h_n: Array) -> Array:
        """Join the directions of the last layer: (layers * D, ..., H) to (..., D * H)."""
        return np.concatenate(tuple(h_n[-self.lstm.num_directions :]), axis=-1)

    def __call__(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Predict without keeping anything; no dropout.

        Parameters
        ----------
        x : array_like of shape (T, B, I), (B, T, I) with ``batch_first``, or (T, I) for one sequence
        lengths : array_like of int of shape (B,), optional
            Number of real steps of each sequence.

        Returns
        -------
        ndarray of shape (B, O), or (O,) for one sequence

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type.
        """
        _, (h_n, _) = self.lstm(x, lengths=lengths)
        return self.head(self._features(h_n))

    def forward(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Array:
        """Predict, apply dropout, and keep what `backward` needs.

        Parameters, returns and errors are those of calling the object.
        """
        _, (h_n, _) = self.lstm.forward(x, lengths=lengths)
        return self.head.forward(self._features(h_n))

    def backward(self, dprediction: ArrayLike, accumulate: bool = False) -> Array:
        """Back-propagate through the last `forward` and fill the gradients of both layers.

        Parameters
        ----------
        dprediction : array_like of the shape of the prediction
            Derivative of the loss by it.
        accumulate : bool, default False
            Add to the gradients instead of overwriting them.

        Returns
        -------
        dx : ndarray of the shape of x

        Raises
        ------
        RuntimeError
            There was no `forward` before.
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        dfeatures = self.head.backward(dprediction, accumulate)
        D, H = self.lstm.num_directions, self.lstm.output_size
        dh_n = np.zeros((self.lstm.num_layers * D, *dfeatures.shape[:-1], H), self.lstm.dtype)
        dh_n[-D:] = np.stack(np.split(dfeatures, D, axis=-1))
        return self.lstm.backward(dstate=(dh_n, None), accumulate=accumulate)[0]

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        epochs: int,
        batch_size: int = 32,
        lr: float = 1e-3,
        optimiser: Adam | None = None,
        max_norm: float | None = 1.0,
        lengths: ArrayLike | None = None,
        rng: int | np.random.Generator | None = None,
        progress: bool = False,
    ) -> NDArray[np.float64]:
        """Train on sequences and targets: mean squared error, mini-batches in a new random order each epoch.

        Parameters
        ----------
        x : array_like of shape (T, N, I), or (N, T, I) with ``batch_first``
            N sequences.
        y : array_like of shape (N, O)
            What each sequence leads to.
        epochs : int
            Number of times that all sequences are gone through.
        batch_size : int, default 32
            Sequences a step; the last batch of an epoch may be smaller.
        lr : float, default 1e-3
            Step size of the `Adam` that is made when no `optimiser` is given.
        optimiser : Adam, optional
            Continue with its running means, over several calls.
        max_norm : float or None, default 1.0
            Clip the norm of the gradients; None leaves them as they are.
        lengths : array_like of int of shape (N,), optional
            Number of real steps of each sequence.
        rng : None, int or numpy.random.Generator
            Source of the order.
        progress : bool, default False
            Show a progress bar with the loss on the standard error stream.

        Returns
        -------
        ndarray of shape (epochs,), float64
            Mean loss of each epoch, as it was when its batches came by.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape, range or type.
        FloatingPointError
            A loss is not finite; the parameters are those of the step before.
        """
        lstm = self.lstm
        axis = 0 if lstm.batch_first else 1
        sequences = _check.array("x", x, lstm.dtype)
        _check.shape(
            "x", sequences, ("N", "T", lstm.input_size) if lstm.batch_first else ("T", "N", lstm.input_size)
        )
        N, T = sequences.shape[axis], sequences.shape[1 - axis]
        if N == 0:
            raise ValueError(f"x: expected at least one sequence, got shape {sequences.shape}")
        targets = _check.shaped("y", y, lstm.dtype, (N, self.head.output_size))
        epochs = _check.integer("epochs", epochs, 1)
        batch_size = _check.integer("batch_size", batch_size, 1)
        max_norm = None if max_norm is None else _check.positive("max_norm", max_norm)
        steps = _check.lengths(lengths, T, N)
        rng = _check.generator(rng)
        progress = _check.boolean("progress", progress)
        lr = _check.positive("lr", lr)
        if optimiser is None:
            optimiser = Adam(self.layers, lr)
        _check.instance("optimiser", optimiser, Adam)

        losses = np.zeros(epochs)
        bar = tqdm(range(epochs), desc="training", unit="epoch", disable=not progress)
        for epoch in bar:
            order = rng.permutation(N)
            for start in range(0, N, batch_size):
                rows = order[start : start + batch_size]
                batch = sequences[rows] if lstm.batch_first else sequences[:, rows]
                prediction = self.forward(batch, steps[rows])
                loss, dprediction = mse_loss(prediction, targets[rows])
                if not np.isfinite(loss):
                    raise FloatingPointError(f"fit: expected a finite loss, got {loss} in epoch {epoch + 1}")
                self.backward(dprediction)
                if max_norm is not None:
                    clip_grad_norm(self.layers, max_norm)
                optimiser.step()
                losses[epoch] += loss * len(rows) / N
            bar.set_postfix(loss=f"{losses[epoch]:.3g}", refresh=False)
        return losses
