"""Optimisers: they change the flat arrays of layers in place and know nothing else of them.

The formulas are PyTorch's.  `Optimiser` has everything that they share; a class of its own has the few lines
of its update, which work in place on pieces of the arrays.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .flat import Trainable, pieces, scratch, trainable
from .parts import Check, Part

Array = NDArray[Any]


# Running means of parameters whose gradients have become 0, rare rows of an embedding say, decay to denormals
# and stay such; many processors take a hundred times as long for these.
_STEPS_BETWEEN_FLUSHES = 64


class Optimiser(Part):
    """Base of the optimisers: layers, step size, state and the walk over the parameters.

    A class of its own defines `update` and hands its arguments on.

    Parameters
    ----------
    layers : iterable of layers
        Objects with `flat_params` and `flat_grads`, such as `clstm.LSTM` and `Dense`.
    lr : float above 0
        Step size.
    arguments : mapping of str to what JSON has
        The other arguments of the constructor, checked.
    state : iterable of str, default ()
        Names of the arrays that are kept for each layer from step to step; all start at 0.
    scratch_arrays : int, default 1
        Number of arrays that an update needs for intermediate results.

    Attributes
    ----------
    layers : list
    lr : float
        May be set between steps, to 0 too.
    t : int
        Number of steps taken.
    arrays : list of dict of str to ndarray
        What is kept for each layer.
    arguments : dict
        Arguments of the constructor but for the layers; `lr` as it was given.
    """

    def __init__(
        self,
        layers: Iterable[Trainable],
        lr: float,
        arguments: Mapping[str, Any],
        state: Iterable[str] = (),
        scratch_arrays: int = 1,
    ) -> None:
        super().__init__({"lr": _check.positive("lr", lr)} | dict(arguments))
        self.layers = trainable(layers)
        self.lr = self._arguments["lr"]
        self.t = 0
        names = list(state)
        self.arrays = [{name: np.zeros_like(layer.flat_params) for name in names} for layer in self.layers]
        self._scratch = scratch(self.layers, scratch_arrays)

    @property
    def lr(self) -> float:
        """Step size of the next step."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _check.non_negative("lr", value)

    @abstractmethod
    def update(self, p: Array, g: Array, state: list[Array], scratch: list[Array]) -> None:
        """Change a piece of the parameters in place.

        Parameters
        ----------
        p, g : ndarrays of shape (n,)
            Parameters and their gradients, which are not to be changed.
        state : list of ndarrays of shape (n,)
            What is kept, in the order in which it was named; changed in place.
        scratch : list of ndarrays of shape (n,)
            For intermediate results.
        """

    def step(self) -> None:
        """Change the parameters of every layer by its gradients, once."""
        self.t += 1
        # Whether gradients and parameters are finite is for others to find out.
        with np.errstate(all="ignore"):
            for layer, arrays in zip(self.layers, self.arrays, strict=True):
                params = layer.flat_params
                scratch = self._scratch[params.dtype]
                for p, g, *state in pieces(params, layer.flat_grads, *arrays.values()):
                    self.update(p, g, state, [array[: p.size] for array in scratch])
                    if self.t % _STEPS_BETWEEN_FLUSHES == 0:
                        _flush(state)

    def state_checks(self) -> dict[str, Check]:
        """Return the names of the attributes that training changes, each with the check of a new value."""
        return {"lr": _check.non_negative, "t": partial(_check.integer, low=0), "arrays": self._checked}

    def _checked(self, label: str, given: Any) -> list[dict[str, Array]]:
        """Return copies of the arrays of a state."""
        if not isinstance(given, list | tuple) or len(given) != len(self.arrays):
            raise ValueError(
                f"{label}: expected a list of {len(self.arrays)} dictionaries, one a layer, "
                f"got {_check.describe(given)}"
            )
        checked = []
        for n, (own, values) in enumerate(zip(self.arrays, given, strict=True)):
            _check.entries(f"{label}[{n}]", values, own, True)
            checked.append(
                {
                    name: _check.shaped(
                        f"{label}[{n}][{name!r}]", values[name], array.dtype, array.shape
                    ).copy()
                    for name, array in own.items()
                }
            )
        return checked


def _flush(state: list[Array]) -> None:
    """Set to 0 what decay would soon make denormal."""
    for array in state:
        limits = np.finfo(array.dtype)
        array[np.abs(array) < limits.tiny / limits.eps] = 0


class SGD(Optimiser):
    """Stochastic gradient descent, with momentum and weight decay on demand.

    Parameters
    ----------
    layers : iterable of layers
        Objects with `flat_params` and `flat_grads`, such as `clstm.LSTM` and `Dense`.
    lr : float, default 1e-2
        Step size; the attribute may be changed between steps.
    momentum : float in [0, 1), default 0
    nesterov : bool, default False
        Look ahead by one step of momentum.
    weight_decay : float, default 0
        Factor of an L2 penalty.

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be, or `nesterov` comes without momentum.

    Notes
    -----
    A step, for the gradient g of each parameter p::

        g = g + weight_decay p
        b = momentum b + g
        p = p - lr b                    or, with nesterov,  p - lr (g + momentum b)

    Source: I. Sutskever, J. Martens, G. Dahl, G. Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013, in the form of `torch.optim.SGD`.

    Examples
    --------
    >>> from clstm.nn import SGD, Dense
    >>> dense = Dense(1, 1, bias=False)
    >>> dense.flat_params[...], dense.flat_grads[...] = 3.0, 2.0
    >>> SGD([dense], lr=0.5).step()
    >>> dense.flat_params
    array([2.])
    """

    def __init__(
        self,
        layers: Iterable[Trainable],
        lr: float = 1e-2,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self._momentum = _check.fraction("momentum", momentum)
        self._nesterov = _check.boolean("nesterov", nesterov)
        self._weight_decay = _check.non_negative("weight_decay", weight_decay)
        if self._nesterov and not self._momentum:
            raise ValueError(f"momentum: expected a number above 0 with nesterov, got {momentum}")
        arguments = {
            "momentum": self._momentum, "nesterov": self._nesterov, "weight_decay": self._weight_decay
        }  # fmt: skip
        super().__init__(layers, lr, arguments, ["b"] if self._momentum else [], 2)

    def update(self, p: Array, g: Array, state: list[Array], scratch: list[Array]) -> None:
        """Change a piece of the parameters in place."""
        decayed, step = scratch
        if self._weight_decay:
            np.multiply(p, self._weight_decay, out=decayed)
            decayed += g
            g = decayed
        if self._momentum:
            (b,) = state
            b *= self._momentum
            b += g
            if self._nesterov:
                np.multiply(b, self._momentum, out=step)
                step += g
                g = step
            else:
                g = b
        np.multiply(g, self.lr, out=step)
        p -= step


class Adam(Optimiser):
    """Adam: steps scaled by running means of the gradient and of its square.

    Parameters
    ----------
    layers : iterable of layers
        Objects with `flat_params` and `flat_grads`, such as `clstm.LSTM` and `Dense`.
    lr : float, default 1e-3
        Step size; the attribute may be changed between steps.
    betas : pair of floats in [0, 1), default (0.9, 0.999)
        Decay rates of the two running means.
    eps : float, default 1e-8
        Added to the root in the denominator.

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Notes
    -----
    Step t, for the gradient g of each parameter p::

        m = beta_1 m + (1 - beta_1) g
        v = beta_2 v + (1 - beta_2) g^2
        p = p - lr m / (1 - beta_1^t) / (sqrt(v / (1 - beta_2^t)) + eps)

    Source: D. P. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    Examples
    --------
    The first step has the length `lr`, whatever the gradient:

    >>> from clstm.nn import Adam, Dense
    >>> dense = Dense(1, 1, rng=0)
    >>> dense.params["weight"][...] = 3.0
    >>> dense.grads["weight"][...] = 700.0
    >>> Adam([dense], lr=0.5).step()
    >>> dense.params["weight"].round(6)
    array([[2.5]])
    """

    def __init__(
        self,
        layers: Iterable[Trainable],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        pair = _check.pair("betas", betas, "(beta_1, beta_2)")
        self._betas = [_check.fraction(f"betas[{n}]", beta) for n, beta in enumerate(pair)]
        self._eps = _check.positive("eps", eps)
        super().__init__(layers, lr, {"betas": self._betas, "eps": self._eps}, ["m", "v"])

    def update(self, p: Array, g: Array, state: list[Array], scratch: list[Array]) -> None:
        """Change a piece of the parameters in place."""
        m, v = state
        (s,) = scratch
        beta_1, beta_2 = self._betas
        m *= beta_1
        np.multiply(g, 1.0 - beta_1, out=s)
        m += s
        v *= beta_2
        np.multiply(g, g, out=s)
        s *= 1.0 - beta_2
        v += s
        # Both corrections are numbers, so they go into eps and lr instead of into two arrays.
        correction = math.sqrt(1.0 - beta_2**self.t)
        np.sqrt(v, out=s)
        s += self._eps * correction
        np.divide(m, s, out=s)
        s *= self.lr * correction / (1.0 - beta_1**self.t)
        p -= s


class AdamW(Adam):
    """Adam with weight decay that does not pass through the running means.

    Parameters
    ----------
    layers, lr, betas, eps
        As for `Adam`.
    weight_decay : float, default 1e-2
        Share of each parameter, times `lr`, that a step takes away.

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Notes
    -----
    Each step begins with ``p = p - lr weight_decay p`` and goes on as that of `Adam`.

    Source: I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019, in the form of
    `torch.optim.AdamW`.

    Examples
    --------
    >>> from clstm.nn import AdamW, Dense
    >>> dense = Dense(1, 1, bias=False)
    >>> dense.flat_params[...] = 3.0
    >>> AdamW([dense], lr=0.5, weight_decay=0.1).step()  # its gradient is 0
    >>> dense.flat_params.round(6)
    array([2.85])
    """

    def __init__(
        self,
        layers: Iterable[Trainable],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        self._weight_decay = _check.non_negative("weight_decay", weight_decay)
        super().__init__(layers, lr, betas, eps)
        self._arguments["weight_decay"] = self._weight_decay

    def update(self, p: Array, g: Array, state: list[Array], scratch: list[Array]) -> None:
        """Change a piece of the parameters in place."""
        p *= 1.0 - self.lr * self._weight_decay
        super().update(p, g, state, scratch)


class RMSProp(Optimiser):
    """RMSProp: steps scaled by a running mean of the square of the gradient.

    Parameters
    ----------
    layers : iterable of layers
        Objects with `flat_params` and `flat_grads`, such as `clstm.LSTM` and `Dense`.
    lr : float, default 1e-2
        Step size; the attribute may be changed between steps.
    alpha : float in [0, 1), default 0.99
        Decay rate of the running mean.
    eps : float, default 1e-8
        Added to the root in the denominator.
    momentum : float in [0, 1), default 0

    Raises
    ------
    ValueError, TypeError
        An argument is not what it should be.

    Notes
    -----
    A step, for the gradient g of each parameter p::

        v = alpha v + (1 - alpha) g^2
        b = momentum b + g / (sqrt(v) + eps)
        p = p - lr b

    Source: T. Tieleman, G. Hinton, "Lecture 6.5: RMSProp", Neural networks for machine learning, 2012, in the
    form of `torch.optim.RMSprop`.

    Examples
    --------
    >>> from clstm.nn import Dense, RMSProp
    >>> dense = Dense(1, 1, bias=False)
    >>> dense.flat_params[...], dense.flat_grads[...] = 3.0, 700.0
    >>> RMSProp([dense], lr=0.5, alpha=0.75).step()
    >>> dense.flat_params.round(6)
    array([2.])
    """

    def __init__(
        self,
        layers: Iterable[Trainable],
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
    ) -> None:
        self._alpha = _check.fraction("alpha", alpha)
        self._eps = _check.positive("eps", eps)
        self._momentum = _check.fraction("momentum", momentum)
        arguments = {"alpha": self._alpha, "eps": self._eps, "momentum": self._momentum}
        super().__init__(layers, lr, arguments, ["v", "b"] if self._momentum else ["v"])

    def update(self, p: Array, g: Array, state: list[Array], scratch: list[Array]) -> None:
        """Change a piece of the parameters in place."""
        v, *rest = state
        (s,) = scratch
        v *= self._alpha
        np.multiply(g, g, out=s)
        s *= 1.0 - self._alpha
        v += s
        np.sqrt(v, out=s)
        s += self._eps
        np.divide(g, s, out=s)
        if rest:
            (b,) = rest
            b *= self._momentum
            b += s
            np.multiply(b, self.lr, out=s)
        else:
            s *= self.lr
        p -= s


# By the names that checkpoints have for them.
OPTIMISERS: dict[str, type[Any]] = {
    "SGD": SGD,
    "Adam": Adam,
    "AdamW": AdamW,
    "RMSProp": RMSProp,
}
