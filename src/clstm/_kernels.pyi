"""The kernels: the functions of reference.py for float32 and float64, whole sequences a call, without the GIL.

Each takes arrays of one dtype; `forward["float"]` or `forward["double"]` is the function for one of them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

VECTOR_BYTES: int

def set_num_threads(n: int) -> None: ...
def forward(
    x: NDArray[Any],
    W_x: NDArray[Any],
    W_h: NDArray[Any],
    bias: NDArray[Any],
    h_0: NDArray[Any],
    c_0: NDArray[Any],
    lengths: NDArray[np.intp],
    reverse: bool,
    y: NDArray[Any],
    gates: NDArray[Any] | None,
    c: NDArray[Any] | None,
    h_n: NDArray[Any],
    c_n: NDArray[Any],
) -> None: ...
def backward(
    dy: NDArray[Any],
    dh_n: NDArray[Any],
    dc_n: NDArray[Any],
    x: NDArray[Any],
    W_x: NDArray[Any],
    W_h: NDArray[Any],
    h_0: NDArray[Any],
    c_0: NDArray[Any],
    lengths: NDArray[np.intp],
    reverse: bool,
    y: NDArray[Any],
    gates: NDArray[Any],
    c: NDArray[Any],
    dx: NDArray[Any],
    dW_x: NDArray[Any],
    dW_h: NDArray[Any],
    dbias: NDArray[Any],
    dh_0: NDArray[Any],
    dc_0: NDArray[Any],
) -> None: ...
def step(
    x: NDArray[Any],
    W_x: NDArray[Any],
    W_h: NDArray[Any],
    bias: NDArray[Any],
    h_prev: NDArray[Any],
    c_prev: NDArray[Any],
    h: NDArray[Any],
    c: NDArray[Any],
) -> None: ...
def rnn_forward(
    x: NDArray[Any],
    W_x: NDArray[Any],
    W_h: NDArray[Any],
    bias: NDArray[Any],
    h_0: NDArray[Any],
    lengths: NDArray[np.intp],
    y: NDArray[Any],
    h_n: NDArray[Any],
) -> None: ...
def rnn_backward(
    dy: NDArray[Any],
    dh_n: NDArray[Any],
    x: NDArray[Any],
    W_x: NDArray[Any],
    W_h: NDArray[Any],
    h_0: NDArray[Any],
    lengths: NDArray[np.intp],
    y: NDArray[Any],
    dx: NDArray[Any],
    dW_x: NDArray[Any],
    dW_h: NDArray[Any],
    dbias: NDArray[Any],
    dh_0: NDArray[Any],
) -> None: ...
def sigmoid(x: NDArray[Any], out: NDArray[Any]) -> None: ...
def tanh(x: NDArray[Any], out: NDArray[Any]) -> None: ...

@disjoint_base
class Step:
    def __new__(cls, W_x: NDArray[Any], W_h: NDArray[Any], bias: NDArray[Any]) -> Step: ...
    def try_step(self, x: Any, h_prev: Any, c_prev: Any, h: Any, c: Any) -> bool: ...

@disjoint_base
class Stream:
    def __new__(
        cls, num_layers: int, rows: int, input_size: int, hidden_size: int, single: bool, batched: bool
    ) -> Stream: ...
    def pack(self, k: int, W_x: NDArray[Any], W_h: NDArray[Any], bias: NDArray[Any]) -> None: ...
    def put_state(self, k: int, row: int, h: NDArray[Any], c: NDArray[Any]) -> None: ...
    def get_state(self, k: int, row: int, h: NDArray[Any], c: NDArray[Any]) -> None: ...
    def try_step(self, x: Any, out: Any) -> bool: ...
