"""class Dense: an affine map with the conventions of `clstm.LSTM` for parameters, gradients, tape and errors.

One block (I + 1, O) holds the weights and, in its last row, the bias; `params` and `grads` are views of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _check
from .._parameters import Parameters

Array = NDArray[Any]


class Dense(Parameters):
    """Affine map of the last axis, ``y = x @ weight.T + bias``, forward and backward.

    Parameters
    ----------
    input_size, output_size : int
        Sizes I and O of the last axis of `x` and of `y`.
    bias : bool, default True
    dtype : float64 (default) or float32
    rng : None, int or numpy.random.Generator
        Source of the initial weights: Glorot-uniform, U(-a, a) with ``a = sqrt(6 / (I + O))``.  The bias
        starts at 0.

    Attributes
    ----------
    flat_params, flat_grads : ndarrays of shape (n,)
        All parameters and their gradients, each in one contiguous array; `params` and `grads` are views of
        them.
    params, grads : dict of str to ndarray
        ``weight (O, I)`` and ``bias (O,)``, PyTorch's names and shapes.  The arrays are live: change them in
        place.

    Examples
    --------
    >>> import numpy as np
    >>> from clstm.nn import Dense
    >>> dense = Dense(3, 2, rng=0)
    >>> y = dense.forward(np.ones((5, 4, 3)))
    >>> dx = dense.backward(np.ones_like(y))
    >>> y.shape, dx.shape, dense.grads["bias"]
    ((5, 4, 2), (5, 4, 3), array([20., 20.]))
    """

    flat_params: Array
    flat_grads: Array
    params: dict[str, Array]
    grads: dict[str, Array]

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
    ) -> None:
        self.input_size = _check.integer("input_size", input_size, 1)
        self.output_size = _check.integer("output_size", output_size, 1)
        self.bias = _check.boolean("bias", bias)
        self.dtype = _check.float_dtype(dtype)
        rng = _check.generator(rng)
        self.flat_params = np.zeros((self.input_size + self.bias) * self.output_size, self.dtype)
        self.flat_grads = np.zeros_like(self.flat_params)
        self._lay_out()
        limit = np.sqrt(6.0 / (self.input_size + self.output_size))
        self.params["weight"][...] = rng.uniform(-limit, limit, self.params["weight"].shape)

    def _lay_out(self) -> None:
        """Make the views of the flat arrays; there is no tape yet."""
        self.params, self.grads = self._views(self.flat_params), self._views(self.flat_grads)
        self._tape: Array | None = None

    def _views(self, flat: Array) -> dict[str, Array]:
        """Name the parts of a flat array."""
        block = flat.reshape(-1, self.output_size)
        weight = {"weight": block[: self.input_size].T}
        return weight | {"bias": block[-1]} if self.bias else weight

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the views, which `__setstate__` makes anew, and the tape."""
        return {
            name: value for name, value in self.__dict__.items() if name not in ("params", "grads", "_tape")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lay_out()

    def __repr__(self) -> str:
        return f"Dense({self.input_size}, {self.output_size}, bias={self.bias}, dtype={self.dtype.name!r})"

    def _input(self, x: ArrayLike, *, copy: bool = False) -> Array:
        given = _check.array("x", x, self.dtype, copy=copy)
        if given.ndim == 0 or given.shape[-1] != self.input_size:
            _check.shape("x", given, ("...", self.input_size))
        return given

    def __call__(self, x: ArrayLike) -> Array:
        """Map the last axis without keeping anything.

        Parameters
        ----------
        x : array_like of shape (..., I)

        Returns
        -------
        ndarray of shape (..., O)

        Raises
        ------
        ValueError, TypeError
            `x` has the wrong last axis or holds no real numbers.
        """
        return self._map(self._input(x))

    def forward(self, x: ArrayLike) -> Array:
        """Map the last axis and keep what `backward` needs, a copy of `x`.

        Parameters, returns and errors are those of calling the object.
        """
        given = self._input(x, copy=True)
        y = self._map(given)
        self._tape = given
        return y

    def _map(self, x: Array) -> Array:
        y: Array = x @ self.params["weight"].T
        if self.bias:
            y += self.params["bias"]
        return y

    def backward(self, dy: ArrayLike, accumulate: bool = False) -> Array:
        """Back-propagate through the last `forward` and fill `grads`.

        Parameters
        ----------
        dy : array_like of shape (..., O)
            Derivative of the loss by `y`.
        accumulate : bool, default False
            Add to `grads` instead of overwriting them.

        Returns
        -------
        dx : ndarray of shape (..., I)
            Derivative of the loss by `x`.

        Raises
        ------
        RuntimeError
            There was no `forward` before.
        ValueError, TypeError
            An argument has the wrong shape or type.
        """
        x = self._tape
        if x is None:
            raise RuntimeError("backward: expected a call of forward before it, got none")
        dy = _check.shaped("dy", dy, self.dtype, (*x.shape[:-1], self.output_size))
        accumulate = _check.boolean("accumulate", accumulate)
        dy_rows = dy.reshape(-1, self.output_size)
        if not accumulate:
            self.flat_grads[...] = 0
        self.grads["weight"][...] += dy_rows.T @ x.reshape(-1, self.input_size)
        if self.bias:
            self.grads["bias"][...] += dy_rows.sum(axis=0)
        dx: Array = dy @ self.params["weight"]
        return dx
