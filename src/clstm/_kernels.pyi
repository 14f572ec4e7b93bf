"""The kernels: the functions of reference.py for float32 and float64, without the GIL.

Each takes records of cells.py, all of whose arrays have one dtype; `forward["float"]` or `forward["double"]`
is the function for one of them.
"""

import sys
from collections.abc import Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from .cells import Cell, CellTape, Schedule, State

ACTIVATIONS: dict[str, int]
KINDS: dict[str, int]
VECTOR_BYTES: int

def set_num_threads(n: int) -> None: ...
def forward(
    cell: Cell, x: NDArray[Any], state: State, schedule: Schedule, tape: CellTape, final: State
) -> None: ...
def step(cell: Cell, x: NDArray[Any], state: State, final: State) -> None: ...
def backward(
    cell: Cell,
    x: NDArray[Any],
    state: State,
    schedule: Schedule,
    tape: CellTape,
    dy: NDArray[Any],
    dfinal: State,
    dx: NDArray[Any],
    dcell: Cell,
    dstate: State,
) -> None: ...
def product(a: NDArray[Any], b: NDArray[Any], start: NDArray[Any] | None, out: NDArray[Any]) -> None: ...
def add_rows(rows: NDArray[Any], places: NDArray[np.intp], out: NDArray[Any]) -> None: ...
def sigmoid(x: NDArray[Any], out: NDArray[Any]) -> None: ...
def tanh(x: NDArray[Any], out: NDArray[Any]) -> None: ...

@final
class Stream:
    def __new__(cls, cells: Sequence[Cell], rows: int, axes: str, packed: bool) -> Stream: ...
    def pack(self) -> None: ...
    def put_states(self, k: int, rows: NDArray[np.intp], state: State) -> None: ...
    def get_states(self, k: int, rows: NDArray[np.intp], state: State) -> None: ...
    def try_step(self, x: Any, out: Any) -> bool: ...
    def try_step_from(self, x: Any, h_prev: Any, c_prev: Any, h: Any, c: Any) -> bool: ...

@final
class Block:
    def __new__(cls, size: int) -> Block: ...
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
