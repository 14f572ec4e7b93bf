"""class LSTM: long short-term memory networks; a declaration on top of architecture.py and layers.py."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from . import _check, reference
from .architecture import Architecture
from .architecture import Trace as Trace  # where pickles look for it
from .interop.methods import Exchanged
from .layers import SequenceLayer
from .parameters import Argument
from .quantized import QuantizedLSTM

Array = NDArray[Any]


def _forget_bias(name: str, value: Any) -> float | None:
    return None if value is None else _check.real(name, value)


class LSTM(Architecture, SequenceLayer[tuple[Array, Array]], Exchanged):
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
    reverse : bool, default False
        Every layer goes from each row's last step to its first (ONNX's direction "reverse"); y stands at the
        time index of its x, so Keras's output with ``go_backwards=True`` is ``y[::-1]``.
    dtype : float64 (default) or float32
        Of parameters, states and outputs.  float32 is about twice as fast.
    rng : None, int or numpy.random.Generator
        Source of the initial weights, of every dropout and of zoneout.
    forget_bias : float, optional
        Initial bias of the forget gate.  The default is 1 with ``init="glorot"`` and no change with
        ``init="torch"``.
    init : {"glorot", "torch"}
        "glorot": Glorot-uniform input weights, orthogonal recurrent weights, bias 0.
        "torch": U(-1/sqrt(H), 1/sqrt(H)) for everything.
    backend : {"auto", "numpy"}
        "auto" runs the compiled kernels, "numpy" the definition in `clstm.reference`.
    proj_size : int, default 0
        With R > 0, less than `hidden_size`, h is projected to R numbers, as in PyTorch (Sak et al. 2014).
    peepholes : bool, default False
        Gates i and f see c_prev, o sees c_t, each unit its own (Gers & Schmidhuber 2000).
    coupled : bool, default False
        f = 1 - i (ONNX's input_forget).  The forget gate's part of the parameters stays, is not read and has
        the gradient 0.
    activations : tuple of three, default ("sigmoid", "tanh", "tanh")
        Of the gates i, f, o; of the candidate g; of the cell on its way to h.  Each is one of sigmoid, tanh,
        relu, hard_sigmoid, softsign, softplus, elu, leaky_relu, thresholded_relu, scaled_tanh, affine,
        identity, or a pair of the name and a dict with ``alpha`` or ``beta``, such as ``("elu", {"alpha":
        0.5})``; formulas and defaults are ONNX's.
    gate_clip : float, optional
        Pre-activations are held in [-gate_clip, gate_clip] before their activation (ONNX's clip).  What a
        clip holds passes no gradient.
    cell_clip : float, optional
        c_t is held in [-cell_clip, cell_clip] (TensorFlow's).
    layer_norm : bool, default False
        x W_x, h W_h and c_t are normalised in each row (Ba et al. 2016).
    input_dropout, recurrent_dropout : float in [0, 1), default 0.0
        Probability with which `forward` zeroes each feature of a layer's input, each number of h_prev before
        the recurrent product; for a whole sequence or episode (Gal & Ghahramani 2016).
    zoneout : tuple of two floats in [0, 1), default (0.0, 0.0)
        Probability with which, in `forward`, each number of h, of c keeps the value that it had before the
        step; elsewhere the expectation is computed (Krueger et al. 2017).

    Attributes
    ----------
    flat_params, flat_grads : ndarrays of shape (n,)
        All parameters and their gradients, each in one contiguous array; `params` and `grads` are views of
        them. The arrays are live.  Assigning copies into them.
    params, grads : dict of str to ndarray
        ``weight_ih_l{k}{suf} (4H, I_k)``, ``weight_hh_l{k}{suf} (4H, H)`` and ``bias_l{k}{suf} (4H,)`` with
        suf = "" or "_reverse"; blocks of H rows in the order i, f, g, o.  Assigning to an entry copies in.
        With a projection, R stands in the place of H in ``weight_hh`` and there is ``weight_hr_l{k}{suf} (R,
        H)``; with peepholes ``weight_peephole_l{k}{suf} (3, H)``: i, f, o; with a layer norm
        ``layer_norm_x_l{k}{suf}``, ``layer_norm_h_l{k}{suf} (4H,)``: gains, and ``layer_norm_c_l{k}{suf} (2,
        H)``: gain and shift.
    tape : Tape or None
        What the last `forward` has left for `backward`, a value that can be kept.

    The constructor's arguments are attributes too; all kinds of dropout, `zoneout`, `batch_first` and
    `backend` can be set.

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

    file_class = "LSTM"

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
        reverse: bool = False,
        dtype: DTypeLike = np.float64,
        rng: int | np.random.Generator | None = None,
        forget_bias: float | None = None,
        init: str = "glorot",
        backend: str = "auto",
        proj_size: int = 0,
        peepholes: bool = False,
        coupled: bool = False,
        activations: tuple[Any, Any, Any] = ("sigmoid", "tanh", "tanh"),
        gate_clip: float | None = None,
        cell_clip: float | None = None,
        layer_norm: bool = False,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        zoneout: tuple[float, float] = (0.0, 0.0),
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
            reverse=reverse,
            dtype=dtype,
            forget_bias=forget_bias,
            init=init,
            backend=backend,
            proj_size=proj_size,
            peepholes=peepholes,
            coupled=coupled,
            activations=activations,
            gate_clip=gate_clip,
            cell_clip=cell_clip,
            layer_norm=layer_norm,
            input_dropout=input_dropout,
            recurrent_dropout=recurrent_dropout,
            zoneout=zoneout,
        )

    def _check_together(self) -> None:
        super()._check_together()
        if self.forget_bias is not None and not self.bias:
            raise ValueError(f"forget_bias: expected None without a bias, got {self.forget_bias}")
        if self.coupled and self.forget_bias is not None:
            raise ValueError(
                f"forget_bias: expected None with coupled=True, where f = 1 - i, got {self.forget_bias}"
            )

    def quantize(
        self, precision: str, *, x_range: float | None = None, x: ArrayLike | None = None
    ) -> QuantizedLSTM:
        """Return a layer for inference whose weights take half or a quarter of the bytes of float32.

        Parameters
        ----------
        precision : {"bfloat16", "int8"}
            "bfloat16": rounded weights, float32 for everything else.  "int8": weights of 8 bits, x and h as
            integers of up to 16.
        x_range : float, optional
            With "int8" the largest absolute value that x is to have.
        x : array_like with a last axis of input_size, optional
            Instead of it, sample data, whose largest absolute value is taken.

        Returns
        -------
        QuantizedLSTM
            It has copies of the weights; its docstring has more about both precisions.

        Raises
        ------
        ValueError, TypeError
            The layer cannot be quantized so, or an argument is not what it should be; the message has the
            reason.

        Examples
        --------
        >>> lstm = clstm.LSTM(3, 50, dtype="float32", rng=0)
        >>> lstm.flat_params.nbytes, lstm.quantize("bfloat16").nbytes, lstm.quantize("int8", x_range=4).nbytes
        (43200, 28448, 16736)
        """
        return QuantizedLSTM(self, precision, x_range=x_range, x=x, backend=self.backend)

    @classmethod
    def _sizes_of(cls, params: Mapping[str, ArrayLike]) -> dict[str, Any]:
        sizes = super()._sizes_of(params)
        if "weight_hr_l0" in params:
            sizes["hidden_size"] = len(np.asarray(params["weight_ih_l0"])) // 4
            sizes["proj_size"] = len(np.atleast_1d(params["weight_hr_l0"]))
        return sizes | {
            "peepholes": "weight_peephole_l0" in params,
            "layer_norm": "layer_norm_x_l0" in params,
        }

    def _initialise(self) -> None:
        super()._initialise()
        forget_bias = 1.0 if self.forget_bias is None and self.init == "glorot" else self.forget_bias
        if self.bias and forget_bias is not None and not self.coupled:
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
