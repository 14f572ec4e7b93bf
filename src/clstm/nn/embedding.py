"""class Embedding: a vector for each of some integers, with the conventions of `nn.Dense`.

The gradients by one vector are added in the order of x, so that they have the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import _check, _dispatch
from ..parameters import Argument, Parameters

Array = NDArray[Any]


def _index_or_none(name: str, value: object) -> int | None:
    return None if value is None else _check.integer(name, value, 0)


class Embedding(Parameters):
    """A table of vectors: the integer ``x`` becomes ``weight[x]``, forward and backward.

    Parameters
    ----------
    num_embeddings : int
        V: the integers are 0 to V - 1.
    embedding_dim : int
        Numbers E of a vector.
    padding_idx : int, optional
        An integer that means nothing: its vector begins with 0 and gets no gradient.
    dtype : float64 (default) or float32
    rng : None, int or numpy.random.Generator
        Source of the initial vectors, which are standard normal, as PyTorch's are.
    backend : {"auto", "numpy"}, default "auto"
        "numpy" adds up gradients with NumPy, to the same bits but for denormal numbers.

    Attributes
    ----------
    flat_params, flat_grads : ndarrays of shape (V E,)
        The vectors and their gradients; `params` and `grads` are views of them.
    params, grads : dict of str to ndarray
        ``weight (V, E)``, PyTorch's name and shape.  The arrays are live: change them in place.
    takes_indices : bool
        True: a model that begins with this layer takes integers, without an axis of features.

    Examples
    --------
    >>> import numpy as np
    >>> from clstm.nn import Embedding
    >>> embedding = Embedding(3, 2, rng=0)
    >>> y = embedding.forward([[0, 2], [2, 2]])
    >>> embedding.backward(np.ones_like(y))
    >>> y.shape, embedding.grads["weight"]
    ((2, 2, 2), array([[1., 1.],
           [0., 0.],
           [3., 3.]]))
    """

    _derived = Parameters._derived | {"_tape", "_functions"}  # noqa: SLF001
    file_class = "Embedding"
    takes_indices: ClassVar[bool] = True

    num_embeddings = Argument(partial(_check.integer, low=1))
    embedding_dim = Argument(partial(_check.integer, low=1))
    padding_idx = Argument(_index_or_none)
    backend = Argument(partial(_check.choice, allowed=("auto", "numpy")), settable=True, saved=False)

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        padding_idx: int | None = None,
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
        backend: str = "auto",
    ) -> None:
        self._set_up(
            {"num_embeddings": num_embeddings, "embedding_dim": embedding_dim, "padding_idx": padding_idx}
            | {"dtype": dtype, "backend": backend}
        )
        generator = _check.generator(rng)
        self._lay_out(np.zeros(self._num_params(), self.dtype))
        weight = self.params["weight"]
        weight[...] = generator.standard_normal(weight.shape)
        if self.padding_idx is not None:
            weight[self.padding_idx] = 0

    @property
    def output_size(self) -> int:
        """Numbers of a vector, `embedding_dim`."""
        return self.embedding_dim

    @property
    def functions(self) -> _dispatch.Backend:
        """What adds up the gradients: the kernels or the definition."""
        return self._functions

    def argument_changed(self) -> None:
        """Choose the backend anew."""
        self._functions = _dispatch.backend(self.backend, self.dtype)

    def _check_together(self) -> None:
        if self.padding_idx is not None and self.padding_idx >= self.num_embeddings:
            raise ValueError(
                f"padding_idx: expected at most {self.num_embeddings - 1}, got {self.padding_idx}"
            )

    def _num_params(self) -> int:
        return self.num_embeddings * self.embedding_dim

    def _num_arrays(self) -> int:
        return 1

    def _named_views(self, flat: Array) -> dict[str, Array]:
        return {"weight": flat.reshape(self.num_embeddings, self.embedding_dim)}

    @classmethod
    def _sizes_of(cls, params: Mapping[str, ArrayLike]) -> dict[str, Any]:
        shape = np.shape(params.get("weight", ()))
        if len(shape) != 2:
            raise ValueError(f"params: expected a matrix weight, got {_check.listed(params)}")
        return {"num_embeddings": shape[0], "embedding_dim": shape[1]}

    def _lay_out(self, flat_params: Array, flat_grads: Array | None = None) -> None:
        super()._lay_out(flat_params, flat_grads)
        self._tape: NDArray[np.intp] | None = None
        self.argument_changed()

    def __call__(self, x: ArrayLike) -> Array:
        """Look vectors up without keeping anything.

        Parameters
        ----------
        x : array_like of int of any shape
            Values from 0 to V - 1.

        Returns
        -------
        ndarray of shape (*x.shape, E)

        Raises
        ------
        ValueError, TypeError
            `x` holds anything else; the message names the first value that is out of range, and its place.
        """
        return self._look_up(_check.indices("x", x, self.num_embeddings - 1))

    def forward(self, x: ArrayLike) -> Array:
        """Look vectors up and keep what `backward` needs, a copy of `x`.

        Parameters, returns and errors are those of calling the object.
        """
        given = _check.indices("x", x, self.num_embeddings - 1, copy=True)
        y = self._look_up(given)
        self._tape = given
        return y

    def _look_up(self, x: NDArray[np.intp]) -> Array:
        vectors: Array = self.params["weight"].take(x, axis=0)
        return vectors

    def backward(self, dy: ArrayLike, accumulate: bool = False) -> None:
        """Back-propagate through the last `forward` and fill `grads`.

        Parameters
        ----------
        dy : array_like of shape (*x.shape, E)
            Derivative of the loss by `y`.
        accumulate : bool, default False
            Add to `grads` instead of overwriting them.

        Returns
        -------
        None
            There is no derivative by integers.

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
        dy = _check.shaped("dy", dy, self.dtype, (*x.shape, self.embedding_dim))
        accumulate = _check.boolean("accumulate", accumulate)
        dweight = self.grads["weight"]
        with self._adding:
            if not accumulate:
                dweight[...] = 0
            self.functions.add_rows(dy.reshape(-1, self.embedding_dim), x.reshape(-1), dweight)
            if self.padding_idx is not None:
                dweight[self.padding_idx] = 0
