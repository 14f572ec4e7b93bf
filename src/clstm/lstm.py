"""class LSTM: long short-term memory networks; a declaration on top of layers.py."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _check, cells, reference
from .layers import SequenceLayer
from .parameters import Argument

Array = NDArray[Any]


@dataclass(frozen=True)
class Trace:
    """Gates and states of every step, as `LSTM.trace` returns them.

    Attributes
    ----------
    i, f, g, o : ndarrays of shape (num_layers * num_directions, T, B, H)
        Input gate, forget gate, candidate and output gate, after their activation.
    c, h : ndarrays of the same shape
        Cell and hidden state after the step.

    Time is the second axis also for ``batch_first=True``; for one unbatched sequence the axis B is absent.
    Layer 0 forward, layer 0 reverse, layer 1 forward, ...  The reverse direction is stored at the original
    time index. Padding is 0.
    """

    i: Array
    f: Array
    g: Array
    o: Array
    c: Array
    h: Array


def _forget_bias(name: str, value: Any) -> float | None:
    return None if value is None else _check.real(name, value)


class LSTM(SequenceLayer[tuple[Array, Array]]):
    """Long short-term memory network on the CPU, forward and backward.

    Parameters
    ----------
    input_size, hidden_size : int
        Number of features of the input, number of hidden units of each layer and direction.
    num_layers : int, default 1
        Stacked layers; each further one reads the hidden states of the one below.
    bias : bool, default True
    batch_first : bool, default False
        Sequences are ``(B, T, I)`` instead of ``(T, B, I)``.  States are never batch-first.
    dropout : float in [0, 1), default 0.0
        Probability with which `forward` zeroes each value that goes from one layer to the next.
    bidirectional : bool, default False
        Adds a second direction to each layer; outputs are concatenated, forward first.
    dtype : float64 (default) or float32
        Of parameters, states and outputs.  float32 is about twice as fast.
    rng : None, int or numpy.random.Generator
        Source of the initial weights and of dropout.
    forget_bias : float, optional
        Initial bias of the forget gate.  The default is 1 with ``init="glorot"`` and no change with
        ``init="torch"``.
    init : {"glorot", "torch"}
        "glorot": Glorot-uniform input weights, orthogonal recurrent weights, bias 0.
        "torch": U(-1/sqrt(H), 1/sqrt(H)) for everything.
    backend : {"auto", "numpy"}
        "auto" runs the compiled kernels, "numpy" the definition in `clstm.reference`.

    Attributes
    ----------
    flat_params, flat_grads : ndarrays of shape (n,)
        All parameters and their gradients, each in one contiguous array; `params` and `grads` are views of
        them. The arrays are live.  Assigning copies into them.
    params, grads : dict of str to ndarray
        ``weight_ih_l{k}{suf} (4H, I_k)``, ``weight_hh_l{k}{suf} (4H, H)`` and ``bias_l{k}{suf} (4H,)`` with
        suf = "" or "_reverse"; blocks of H rows in the order i, f, g, o.  Assigning to an entry copies in.
    tape : Tape or None
        What the last `forward` has left for `backward`, a value that can be kept.

    The constructor's arguments are attributes too; `dropout`, `batch_first` and `backend` can be set.

    Notes
    -----
    The equations, forward and backward, are in `clstm.reference`.  Calling the object and `step` change
    nothing in it, so any number of threads may do so at once.  `forward` leaves a tape in the thread that
    called it, so `forward` and `backward` may run in several threads, too; what they add to `grads` is added
    one thread at a time.

    Examples
    --------
    >>> import clstm, numpy as np
    >>> lstm = clstm.LSTM(3, 5, rng=0)
    >>> x = np.ones((7, 2, 3))
    >>> y, (h_n, c_n) = lstm.forward(x)
    >>> y.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    >>> dx, (dh_0, dc_0) = lstm.backward(np.ones_like(y))
    >>> lstm.grads["weight_hh_l0"].shape
    (20, 5)
    """

    kind = cells.LSTM
    file_class = "LSTM"
    _trace = Trace

    forget_bias = Argument(_forget_bias)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
        forget_bias: float | None = None,
        init: str = "glorot",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            rng,
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            dtype=dtype,
            forget_bias=forget_bias,
            init=init,
            backend=backend,
        )

    def _check_together(self) -> None:
        if self.forget_bias is not None and not self.bias:
            raise ValueError(f"forget_bias: expected None without a bias, got {self.forget_bias}")

    def _initialise(self) -> None:
        super()._initialise()
        forget_bias = 1.0 if self.forget_bias is None and self.init == "glorot" else self.forget_bias
        if self.bias and forget_bias is not None:
            for cell in self.cells:
                cell.bias[self.kind.block("f", self.hidden_size)] = forget_bias


class ReferenceLSTM(LSTM):
    """`clstm.LSTM` with ``backend="numpy"`` fixed: the same class on the definition in `clstm.reference`.

    Takes the constructor arguments of `clstm.LSTM` except `backend`.
    """

    backend = Argument(partial(_check.choice, allowed=("numpy",)), settable=True, saved=False)
    _table = LSTM._table | {"backend": backend}  # noqa: SLF001
    defaults = LSTM.defaults | {"backend": "numpy"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, backend="numpy")


reference.LSTM = ReferenceLSTM
