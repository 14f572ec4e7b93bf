"""class Dense: an affine map with the conventions of `clstm.LSTM` for parameters, gradients, tape and errors.

One block (I + 1, O) holds the weights and, in its last row, the bias; `params` and `grads` are views of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _check, _dispatch
from ..parameters import Argument, Parameters

Array = NDArray[Any]


class Dense(Parameters):
    """Affine map of the last axis, ``y = x @ weight.T + bias``, forward and backward.

    A row has the same bits in any batch, and results and gradients the same for every number of threads.

    Parameters
    ----------
    input_size, output_size : int
        Sizes I and O of the last axis of `x` and of `y`.
    bias : bool, default True
    dtype : float64 (default) or float32
    rng : None, int or numpy.random.Generator
        Source of the initial weights: Glorot-uniform, U(-a, a) with ``a = sqrt(6 / (I + O))``.  The bias
        starts at 0.
    backend : {"auto", "numpy"}, default "auto"
        "numpy" multiplies with NumPy, whose results depend on the batch.

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

    _derived = Parameters._derived | {"_tape", "_functions"}  # noqa: SLF001
    file_class = "Dense"

    input_size = Argument(partial(_check.integer, low=1))
    output_size = Argument(partial(_check.integer, low=1))
    bias = Argument(_check.boolean)
    backend = Argument(partial(_check.choice, allowed=("auto", "numpy")), settable=True, saved=False)

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        bias: bool = True,
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
        backend: str = "auto",
    ) -> None:
        self._set_up(
            {"input_size": input_size, "output_size": output_size, "bias": bias, "dtype": dtype}
            | {"backend": backend}
        )
        generator = _check.generator(rng)
        self._lay_out(np.zeros(self._num_params(), self.dtype))
        limit = np.sqrt(6.0 / (self.input_size + self.output_size))
        self.params["weight"][...] = generator.uniform(-limit, limit, self.params["weight"].shape)

    def _num_params(self) -> int:
        return (self.input_size + self.bias) * self.output_size

    def _num_arrays(self) -> int:
        return 1 + self.bias

    def _named_views(self, flat: Array) -> dict[str, Array]:
        block = flat.reshape(-1, self.output_size)
        weight = {"weight": block[: self.input_size].T}
        return weight | {"bias": block[-1]} if self.bias else weight

    @classmethod
    def _sizes_of(cls, params: Mapping[str, ArrayLike]) -> dict[str, Any]:
        shape = np.shape(params.get("weight", ()))
        if len(shape) != 2:
            raise ValueError(f"params: expected a matrix weight, got {_check.listed(params)}")
        return {"input_size": shape[1], "output_size": shape[0], "bias": "bias" in params}

    def _lay_out(self, flat_params: Array, flat_grads: Array | None = None) -> None:
        super()._lay_out(flat_params, flat_grads)
        self._tape: Array | None = None
        self.argument_changed()

    @property
    def functions(self) -> _dispatch.Backend:
        """What multiplies: the kernels or the definition."""
        return self._functions

    def argument_changed(self) -> None:
        """Choose the backend anew."""
        self._functions = _dispatch.backend(self.backend, self.dtype)

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

    def forward(self, x: ArrayLike, *, copy: bool = True) -> Array:
        """Map the last axis and keep what `backward` needs.

        Parameters
        ----------
        x : array_like of shape (..., I)
        copy : bool, default True
            Keep a copy of `x`.  With False `x` itself is kept, and must not change before `backward`.

        Returns and errors are those of calling the object.
        """
        given = self._input(x, copy=_check.boolean("copy", copy))
        y = self._map(given)
        self._tape = given
        return y

    def _map(self, x: Array) -> Array:
        params = self.params
        y = np.empty((*x.shape[:-1], self.output_size), self.dtype)
        self.functions.product(
            x.reshape(-1, self.input_size),
            params["weight"].T,
            params.get("bias"),
            y.reshape(-1, self.output_size),
        )
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
        params, product = self.params, self.functions.product
        dy_rows, x_rows = dy.reshape(-1, self.output_size), x.reshape(-1, self.input_size)
        fresh = np.empty_like(self._flat_grads)
        gradients = self._named_views(fresh)
        product(x_rows.T, dy_rows, None, gradients["weight"].T)
        if self.bias:  # the weight of an input that is always 1
            product(np.ones((1, len(x_rows)), self.dtype), dy_rows, None, gradients["bias"][np.newaxis])
        dx = np.empty(x.shape, self.dtype)
        product(dy_rows, params["weight"], None, dx.reshape(-1, self.input_size))
        self._take_gradients(fresh, accumulate)
        return dx
