"""class Online: learning from one example at a time, with a state that is carried along."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _check
from .clipping import clip_grad_norm
from .examples import target_array
from .training import NO_LIMIT, loss_and_derivative, loss_of, optimiser_of

if TYPE_CHECKING:
    from .chain import Chain

Array = NDArray[Any]


class Online:
    """Predicts and learns step by step; made by `SequenceModel.online`.

    Each `learn_one` goes back over the last k steps, with the present parameters, from the state before them:
    the memory and time of a step do not grow.

    Attributes
    ----------
    model : SequenceModel
        Changed in place.
    optimiser : object
    update : int
        Updates done so far.

    Examples
    --------
    A series that is predicted one step ahead while it is learned:

    >>> import clstm, numpy as np
    >>> from clstm import nn
    >>> model = nn.SequenceModel([clstm.LSTM(1, 8, rng=0), nn.Dense(8, 1, rng=1)])
    >>> online = model.online(k=10, optimiser="adam", lr=0.01)
    >>> series = np.sin(np.arange(1000) / 5)
    >>> losses = [online.learn_one([now], [later]) for now, later in zip(series[:-1], series[1:])]
    >>> bool(np.mean(losses[-100:]) < 0.1 * np.mean(losses[:100]))
    True
    """

    def __init__(
        self,
        model: Chain,
        k: int,
        loss: Any,
        optimiser: Any,
        lr: float | None,
        max_norm: float | None,
    ) -> None:
        self.model = model
        self._k = _check.integer("k", k, 1)
        self._loss = loss_of(loss)
        self._max_norm = None if max_norm is None else _check.positive("max_norm", max_norm)
        self.optimiser = optimiser_of(optimiser, model.layers, lr)
        self.update = 0
        self.reset()

    def reset(self) -> None:
        """Begin a new sequence: forget the state, keep what was learned."""
        self._window: Array | None = None  # (k, 1, ...), of which the last _held steps are there
        self._held = 0
        self._before = self._present = self.model.zero_states(1)  # states before the window, and after it

    def predict_one(self, x: ArrayLike) -> Array:
        """Predict from the next step, without taking it.

        Parameters
        ----------
        x : array_like of shape (I,)
            An integer for a model that begins with an `Embedding`.

        Returns
        -------
        ndarray of shape (O,)

        Raises
        ------
        ValueError, TypeError
            x has the wrong shape or type, or is not finite.
        """
        return self._row(self.model.run_steps(self._step(x), _ONE, self._present)[0])

    def learn_one(self, x: ArrayLike, y: ArrayLike | None = None) -> float | None:
        """Take the next step and learn what it leads to.

        Parameters
        ----------
        x : array_like of shape (I,)
        y : array_like, optional
            The target of this step, as `fit` takes those of a row; without it the step is taken and nothing
            learned.

        Returns
        -------
        float or None
            The loss before the update.

        Raises
        ------
        ValueError, TypeError
            An argument has the wrong shape or type, or is not finite.
        FloatingPointError
            The loss or a gradient is not finite.  After an exception everything is as it was.
        """
        x_t = self._step(x)
        if self._window is None:
            self._window = np.zeros((self._k, *x_t.shape[1:]), x_t.dtype)
        window = np.concatenate((self._window[1:], x_t))
        held = min(self._held + 1, self._k)
        before = self._before
        if held == self._held:  # the oldest step leaves
            before = self.model.run_steps(self._window[:1], _ONE, before)[1]
        value: float | None = None
        if y is None:
            present = self.model.run_steps(x_t, _ONE, self._present)[1]
        else:
            value, present = self._learn(window[-held:], before, y)
        self._window, self._held, self._before, self._present = window, held, before, present
        return value

    def _learn(self, window: Array, before: Any, y: ArrayLike) -> tuple[float, Any]:
        """Change the parameters by the loss at the last step of a window; return it and the state after."""
        model = self.model
        target = target_array("y", y, model.dtype)[None]
        if target.dtype.kind == "f" and not np.isfinite(target).all():
            raise ValueError(f"y: expected finite numbers, got {_check.describe(y)}")
        prediction, present = model.forward_steps(window, np.array([len(window)]), before)
        value, d_row = loss_and_derivative(self._loss, self._row(prediction)[None], target)
        d = np.zeros_like(prediction)
        d[-1] = d_row
        model.backward_steps(d, input_gradient=False)
        norm = clip_grad_norm(model.layers, self._max_norm or NO_LIMIT)
        if not math.isfinite(value + norm):
            raise FloatingPointError(
                f"learn_one: expected finite numbers, got a loss of {value} and a norm of the gradients of "
                f"{norm} in update {self.update + 1}; a smaller lr or max_norm may help"
            )
        self.optimiser.step()
        self.update += 1
        return value, present

    def _row(self, prediction: Array) -> Array:
        """Return the prediction (O,) of the last step of one row, with either read-out."""
        result: Array = prediction[-1] if prediction.ndim == 2 else prediction[-1, 0]
        return result

    def _step(self, x: ArrayLike) -> Array:
        """Return one step as (1, 1, ...)."""
        model = self.model
        given = model.convert("x", x)
        _check.shape("x", given, () if model.takes_indices else (model.input_size or "I",))
        if given.dtype.kind == "f" and not np.isfinite(given).all():
            raise ValueError(f"x: expected finite numbers, got {_check.describe(x)}")
        return given[None, None]


_ONE = np.ones(1, np.intp)
