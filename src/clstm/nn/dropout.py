"""class Dropout: zeros at random while a model is trained; it has no parameters, and works in any dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _check
from .._masks import dropout_mask
from ..parameters import Saved

Array = NDArray[Any]


class _Tape(NamedTuple):
    """What `forward` leaves for `backward`."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    mask: Array | None


class Dropout(Saved):
    """Inverted dropout: in `forward` each number is 0 with probability p, else divided by 1 - p.

    Calling the object changes nothing, so that predictions need no other scale.

    Parameters
    ----------
    p : float in [0, 1)
    rng : None, int or numpy.random.Generator
        What the masks are drawn from.

    Attributes
    ----------
    p, rng
        As given, the generator of a seed; they may be set.
    flat_params, flat_grads : ndarrays of shape (0,)

    Notes
    -----
    Source: N. Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting", JMLR
    15, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from clstm.nn import Dropout
    >>> dropout = Dropout(0.5, rng=0)
    >>> dropout.forward(np.ones(6)), dropout.backward(np.ones(6)), dropout(np.ones(6))
    (array([2., 0., 0., 0., 2., 2.]), array([2., 0., 0., 0., 2., 2.]), array([1., 1., 1., 1., 1., 1.]))
    """

    file_class = "Dropout"
    keeps_size: ClassVar[bool] = True

    def __init__(self, p: float, *, rng: int | np.random.Generator | None = None) -> None:
        self.p = p
        self._rng = _check.generator(rng)
        self.flat_params = np.zeros(0)
        self.flat_grads = np.zeros(0)
        self._tape: _Tape | None = None

    @property
    def p(self) -> float:
        """How likely a number becomes 0."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        self._p = _check.fraction("p", value)

    @property
    def rng(self) -> np.random.Generator:
        """What the masks are drawn from."""
        return self._rng

    @rng.setter
    def rng(self, value: np.random.Generator) -> None:
        _check.instance("rng", value, np.random.Generator)
        self._rng = value

    def __repr__(self) -> str:
        return f"Dropout({self.p})"

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but what the last `forward` has left."""
        return self.__dict__ | {"_tape": None}

    def __call__(self, x: ArrayLike) -> Array:
        """Return x.

        Parameters
        ----------
        x : array_like of any shape
            float32 stays float32; everything else becomes float64.

        Returns
        -------
        ndarray of the shape of x
            If `x` needs no conversion it is `x` itself.

        Raises
        ------
        ValueError, TypeError
            `x` holds no real numbers.
        """
        return _floating(x)

    def forward(self, x: ArrayLike) -> Array:
        """Draw a mask, multiply by it, and keep it for `backward`.

        Parameters and errors are those of calling the object.

        Returns
        -------
        ndarray of the shape of x
            With ``p = 0`` nothing is drawn and it is what a call returns.
        """
        given = _floating(x)
        mask = dropout_mask(self._rng, given.shape, self.p, given.dtype)
        self._tape = _Tape(given.shape, given.dtype, mask)
        return given if mask is None else given * mask

    def backward(self, dy: ArrayLike, accumulate: bool = False) -> Array:
        """Back-propagate through the last `forward`: its mask once more.

        Parameters
        ----------
        dy : array_like of the shape of y
            Derivative of the loss by `y`.
        accumulate : bool, default False
            As every layer has it; there are no gradients to be added to.

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
        if self._tape is None:
            raise RuntimeError("backward: expected a call of forward before it, got none")
        dx = _check.shaped("dy", dy, self._tape.dtype, self._tape.shape)
        _check.boolean("accumulate", accumulate)
        return dx if self._tape.mask is None else dx * self._tape.mask

    # ------------------------------------------------------------------------------------------------ files

    def file_content(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the arguments, as JSON has them, and no arrays."""
        return {"p": self.p}, {}

    @classmethod
    def from_file(
        cls,
        arguments: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], dict[str, Array]],
        **options: Any,
    ) -> Self:
        """Make an object of what a file holds."""
        cls.check_options(options)
        _check.entries("arguments", arguments, ("p",), True)
        _check.entries("tensors", shapes, (), True)
        layer = cls(arguments["p"])
        read()  # so that damage shows
        return layer


def _floating(x: ArrayLike) -> Array:
    """Return an array of float32 if that is what x holds, else of float64."""
    single = getattr(x, "dtype", None) == np.float32
    return _check.array("x", x, np.dtype(np.float32 if single else np.float64))
