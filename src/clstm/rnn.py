"""class RNN: plain tanh recurrent networks, to compare an LSTM with; a declaration on top of layers.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import cells
from .layers import SequenceLayer

Array = NDArray[Any]


# Options of an LSTM, and why an RNN has them not.
_REFUSED = {
    "forget_bias": "a plain RNN has no forget gate",
    "peepholes": "a plain RNN has no cell that gates could see",
    "coupled": "a plain RNN has no gates that could be coupled",
    "cell_clip": "a plain RNN has no cell",
    "zoneout": "a plain RNN is regularised by `recurrent_dropout`",
    **dict.fromkeys(
        ("proj_size", "activations", "gate_clip", "layer_norm"),
        "a plain RNN is here to compare with, as h_t = tanh(z)",
    ),
}


@dataclass(frozen=True)
class RNNTrace:
    """Hidden states of every step, as `RNN.trace` returns them; laid out like `clstm.Trace`.

    Attributes
    ----------
    h : ndarray of shape (num_layers * num_directions, T, B, H)
        Hidden state after the step.

    Time is the second axis also for ``batch_first=True``; for one unbatched sequence the axis B is absent.
    Padding is 0.
    """

    h: Array


class RNN(SequenceLayer[Array]):
    """Plain recurrent network with tanh units (Elman 1990) on the CPU, to compare an LSTM with.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype, rng,
    init, backend
        As for `clstm.LSTM`.
    input_dropout, recurrent_dropout
        As for `clstm.LSTM`.  Its other options are refused: they act on gates and cells.

    Attributes
    ----------
    flat_params, flat_grads, params, grads, tape
        As those of `clstm.LSTM`, with one block of H rows where it has four: ``weight_ih_l{k}{suf} (H,
        I_k)``, ``weight_hh_l{k}{suf} (H, H)`` and ``bias_l{k}{suf} (H,)``.

    Notes
    -----
    The equations, forward and backward, are in `clstm.reference`.  The state is the array ``h``, as in
    ``torch.nn.RNN``, where an LSTM has the pair ``(h, c)``.  All else is as for `clstm.LSTM`.

    Examples
    --------
    >>> import clstm, numpy as np
    >>> rnn = clstm.RNN(3, 5, rng=0)
    >>> y, h_n = rnn.forward(np.ones((7, 2, 3)))
    >>> y.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    >>> dx, dh_0 = rnn.backward(np.ones_like(y))
    >>> rnn.grads["weight_hh_l0"].shape
    (5, 5)
    """

    kind = cells.RNN
    file_class = "RNN"
    _trace = RNNTrace

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
        reverse: bool = False,
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
        init: str = "glorot",
        backend: str = "auto",
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        for name in options:
            reason = _REFUSED.get(name, "nothing has one of this name")
            raise TypeError(f"{name}: expected no such argument for an RNN; {reason}")
        super().__init__(
            rng,
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            reverse=reverse,
            dtype=dtype,
            init=init,
            backend=backend,
            input_dropout=input_dropout,
            recurrent_dropout=recurrent_dropout,
        )
