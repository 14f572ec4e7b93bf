"""The one table of cases: which shapes are run, as what, and how much arithmetic each is.

Shapes are written B T I H: batch rows, time steps, inputs, hidden units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    group : str
        The heading it is printed under.
    kind : {"step", "forward", "training"}
        One time step with a given state; whole sequences without a tape; forward and backward with every gradient.
    B, T, I, H : int
    dtype : {"float32", "float64"}
    unequal : bool
        The rows have lengths of their own, uniform in 1..T.
    also : tuple of str
        Further names under which ``--group`` finds it.
    """

    group: str
    kind: str
    B: int
    T: int
    I: int  # noqa: E741
    H: int
    dtype: str = "float32"
    unequal: bool = False
    also: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the row is called, and what ``--rows`` looks into."""
        lengths = " lengths" if self.unequal else ""
        return f"{self.kind} {self.B} {self.T} {self.I} {self.H} {self.dtype}{lengths}"

    def lengths(self) -> NDArray[np.intp] | None:
        """Return the number of real steps of each row, or None if it is T for all."""
        if not self.unequal:
            return None
        return np.random.default_rng(1).integers(1, self.T + 1, self.B).astype(np.intp)

    @property
    def steps(self) -> int:
        """Real time steps, summed over the rows of the batch."""
        lengths = self.lengths()
        return self.B * self.T if lengths is None else int(lengths.sum())

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products; training does three times those of the forward pass."""
        forward = 2 * self.steps * 4 * self.H * (self.I + self.H)
        return 3 * forward if self.kind == "training" else forward


def _cases(group: str, kind: str, shapes: str, dtype: str = "float32", unequal: bool = False) -> list[Case]:
    cases = []
    for shape in shapes.split(","):
        B, T, I, H = map(int, shape.split())  # noqa: E741
        cases.append(Case(group, kind, B, T, I, H, dtype, unequal))
    return cases


CASES = [
    # One step, through LSTM.step.
    *_cases("step", "step", "1 1 32 32, 1 1 64 64, 1 1 128 128, 1 1 256 256, 1 1 512 512, 32 1 128 128"),
    *_cases("step", "step", "1 1 32 32, 1 1 128 128", "float64"),
    # Whole sequences.
    *_cases("forward", "forward", "1 1 32 32, 1 1 128 128, 1 1 256 256, 1 1 512 512"),
    *_cases("forward", "forward", "1 250 1 100, 1 250 64 64, 1 250 128 128, 1 250 256 256, 1 250 512 512"),
    *_cases("forward", "forward", "8 100 128 128, 8 100 512 512"),
    *_cases("forward", "forward", "32 50 64 64, 32 50 128 128, 32 50 256 256, 64 50 512 512, 128 25 1024 1024"),
    # Forward and backward.
    *_cases("training", "training", "1 250 1 100, 1 250 64 64, 1 250 128 128, 1 250 256 256"),
    *_cases("training", "training", "8 100 128 128, 32 50 32 64"),
    Case("training", "training", 32, 50, 128, 128, also=("reference",)),
    *_cases("training", "training", "32 50 256 256, 64 50 512 512, 128 25 1024 1024"),
    # The default dtype.
    *_cases("float64", "forward", "1 250 1 100, 1 250 32 32, 1 250 128 128, 8 100 32 32", "float64"),
    *_cases("float64", "forward", "32 50 128 128, 32 50 256 256, 64 50 512 512, 128 25 1024 1024", "float64"),
    Case("float64", "training", 1, 250, 1, 100, "float64", also=("reference",)),
    *_cases("float64", "training", "1 250 32 32, 1 250 128 128, 8 100 32 32", "float64"),
    *_cases("float64", "training", "32 50 128 128, 32 50 256 256, 64 50 512 512, 128 25 1024 1024", "float64"),
    # Rows of unequal lengths, each beside the same shape with full lengths.
    *_cases("lengths", "forward", "8 100 32 32"),
    *_cases("lengths", "forward", "8 100 32 32", unequal=True),
    *_cases("lengths", "forward", "32 100 128 128"),
    *_cases("lengths", "forward", "32 100 128 128", unequal=True),
    *_cases("lengths", "training", "8 100 32 32"),
    *_cases("lengths", "training", "8 100 32 32", unequal=True),
    *_cases("lengths", "training", "32 100 128 128"),
    *_cases("lengths", "training", "32 100 128 128", unequal=True),
]

QUICK_FLOPS = 1e10  # --quick leaves out the rows above it


def of_shape(shape: Sequence[int], dtype: str) -> list[Case]:
    """Return the rows for one shape B T I H that the user asks for."""
    B, T, I, H = shape  # noqa: E741
    kinds = (["step"] if T == 1 else []) + ["forward", "training"]
    cases = [Case("shape", kind, B, T, I, H, dtype) for kind in kinds]
    if B > 1 and T > 1:
        cases += [Case("shape", kind, B, T, I, H, dtype, unequal=True) for kind in kinds]
    return cases
