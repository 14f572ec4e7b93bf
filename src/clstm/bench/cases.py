"""The one table of cases: which shapes are run, as what, how much arithmetic that is, and what is the goal.

Shapes are written B T I H: batch rows, time steps, inputs, hidden units.  Every goal of a ratio is "the
other's time over clstm's is at least so much".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What clstm itself runs beside a row, for the ratio to its own time: by name, what is different there.
YARDSTICKS: dict[str, dict[str, Any]] = {
    "full lengths": {"unequal": False},
    "one thread": {"threads": 1},
    "every step": {"last_step": False},
    "no resets": {"resets": False},
    "no options": {"options": ()},
}

EPISODE_STEPS = 50  # between two resets of a row, on average

COMPAT = ("sequence_regressor", "step_readout", "step_sequence")


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    group : str
        The heading it is printed under.
    kind : {"stream", "step", "forward", "training"} or a name in COMPAT
        One time step of a stream that keeps its state; one time step from a given state; whole sequences
        without a tape; forward and backward with every gradient.  A class of `clstm.compat`: a training step
        of `sequence_regressor`, one time step of the others.
    B, T, I, H : int
    dtype : {"float32", "float64"}
    unequal : bool
        The rows have lengths of their own, uniform in 1..T.
    last_step : bool
        The loss looks at the last time step alone.
    resets : bool
        Episodes begin in the middle of the rows, every EPISODE_STEPS steps on average.
    options : tuple of pairs (str, value)
        Further arguments of `clstm.LSTM`, by name.
    module : bool
        ``torch.nn.LSTM`` stands against the same module on the kernels, as it is and frozen.
    threads : int
        For each contestant.
    yardstick : str
        A key of YARDSTICKS, or empty.
    peer_goal, torch_goal, own_goal, class_goal : float, optional
        Time of the fastest peer, of ``torch``, of the yardstick and of the class that a twin replaces, over
        clstm's.
    module_goal, frozen_goal : float, optional
        Time of ``torch`` over that of the module on the kernels, and of the frozen one.
    microseconds_goal : float, optional
        The most that a call may take.
    tags : tuple of str
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
    last_step: bool = False
    resets: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    module: bool = False
    threads: int = 1
    yardstick: str = ""
    peer_goal: float | None = None
    torch_goal: float | None = None
    own_goal: float | None = None
    class_goal: float | None = None
    module_goal: float | None = None
    frozen_goal: float | None = None
    microseconds_goal: float | None = None
    tags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the row is called, and what ``--rows`` looks into."""
        words = [self.kind, *map(str, (self.B, self.T, self.I, self.H)), self.dtype]
        words += ["lengths"] if self.unequal else []
        words += ["last step"] if self.last_step else []
        words += ["resets"] if self.resets else []
        words += [name if value is True else f"{name} {value}" for name, value in self.options]
        words += ["module"] if self.module else []
        words += [f"{self.threads} threads"] if self.threads > 1 else []
        return " ".join(words)

    @property
    def share_goal(self) -> float | None:
        """Least share of the limit of the machine, on one thread, or None without such a goal."""
        if self.threads > 1 or self.H == 1 or self.is_compat or self.group in ("step", "shape"):
            return None
        if self.resets or self.options or self.module:
            return None
        if self.B == 1:
            return 0.70
        return 0.85 if self.B >= 32 and self.H >= 128 else None

    @property
    def is_compat(self) -> bool:
        """Whether a class of `clstm.compat` runs, beside the one that it replaces."""
        return self.kind in COMPAT

    def own_case(self) -> Case | None:
        """Return what clstm runs beside this row, if anything."""
        return replace(self, **YARDSTICKS[self.yardstick]) if self.yardstick else None

    def lengths(self) -> NDArray[np.intp] | None:
        """Return the number of real steps of each row, or None if it is T for all."""
        if not self.unequal:
            return None
        return np.random.default_rng(1).integers(1, self.T + 1, self.B).astype(np.intp)

    def begins(self) -> NDArray[np.bool_] | None:
        """Return where episodes begin, (T, B), or None without resets."""
        if not self.resets:
            return None
        return np.random.default_rng(2).random((self.T, self.B)) < 1 / EPISODE_STEPS

    @property
    def R(self) -> int:
        """Numbers of h: the size of the projection, or H."""
        return int(dict(self.options).get("proj_size", 0)) or self.H

    @property
    def recurrent_dropout(self) -> float:
        """Probability that a number of h_prev is dropped in training."""
        return float(dict(self.options).get("recurrent_dropout", 0.0))

    @property
    def steps(self) -> int:
        """Real time steps, summed over the rows of the batch."""
        lengths = self.lengths()
        return self.B * self.T if lengths is None else int(lengths.sum())

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products; training does three times as many."""
        projection = self.H * self.R if self.R != self.H else 0
        forward = 2 * self.steps * (4 * self.H * (self.I + self.R) + projection)
        return 3 * forward if self.kind in ("training", "sequence_regressor") else forward


def _row(
    group: str, kind: str, shape: str, peer_goal: float | None = None, tags: str = "", **further: Any
) -> Case:
    """Write a case in one line; `further` are other attributes of it, `options` as a dict."""
    B, T, I, H = map(int, shape.split())  # noqa: E741
    further["options"] = tuple(further.get("options", {}).items())
    return Case(group, kind, B, T, I, H, peer_goal=peer_goal, tags=tuple(tags.split()), **further)


CASES = [
    # One step through LSTM.stream; the row of one unit is what a call from Python costs.
    _row("stream", "stream", "1 1 1 1", microseconds_goal=1.0, tags="short"),
    _row("stream", "stream", "1 1 32 32", 8.0, torch_goal=40.0, tags="short"),
    _row("stream", "stream", "1 1 64 64", 6.0, torch_goal=30.0),
    _row("stream", "stream", "1 1 128 128", 4.0, torch_goal=20.0, tags="short"),
    _row("stream", "stream", "1 1 256 256", 1.5, torch_goal=8.0),
    _row("stream", "stream", "32 1 128 128"),
    _row("stream", "stream", "1 1 128 128", dtype="float64"),
    # One step through LSTM.step.
    _row("step", "step", "1 1 32 32"),
    _row("step", "step", "1 1 128 128"),
    # Whole sequences.
    _row("forward", "forward", "1 250 64 64", 1.8, tags="short"),
    _row("forward", "forward", "1 250 1 100", 1.4),
    _row("forward", "forward", "1 250 128 128", 1.5, tags="short"),
    _row("forward", "forward", "1 250 256 256", 1.3),
    _row("forward", "forward", "1 250 512 512", 1.7),
    _row("forward", "forward", "8 100 128 128", 1.15),
    _row("forward", "forward", "32 50 64 64", 1.4),
    _row("forward", "forward", "32 50 128 128", 1.08, tags="short"),
    _row("forward", "forward", "32 50 256 256", 1.03),
    _row("forward", "forward", "64 50 512 512", 1.0),
    _row("forward", "forward", "128 25 1024 1024", 1.0),
    # Forward and backward.
    _row("training", "training", "1 250 1 100", 2.0, tags="short"),
    _row("training", "training", "1 250 64 64", 2.2),
    _row("training", "training", "1 250 128 128", 1.5),
    _row("training", "training", "1 250 256 256", 1.4),
    _row("training", "training", "8 100 128 128", 1.3),
    _row("training", "training", "32 50 32 64", 1.6),
    _row("training", "training", "32 50 128 128", 1.2, tags="short reference"),
    _row("training", "training", "32 50 256 256", 1.12),
    _row("training", "training", "64 50 512 512", 1.1),
    _row("training", "training", "128 25 1024 1024", 1.05),
    # The default dtype.
    *(
        _row("float64", kind, shape, peer, dtype="float64", tags=tags if kind == "training" else "")
        for kind in ("forward", "training")
        for shape, peer, tags in (
            ("1 250 32 32", 6.0, "short"),
            ("1 250 1 100", None, "reference"),
            ("1 250 128 128", 2.5, ""),
            ("32 50 128 128", 1.25, ""),
            ("32 50 256 256", 1.15, ""),
            ("64 50 512 512", 1.0, ""),
            ("128 25 1024 1024", 1.0, ""),
        )
    ),
    # Rows of unequal lengths: at most 0.7 of the time that full lengths take.
    _row("lengths", "forward", "8 100 32 32", unequal=True, yardstick="full lengths"),
    _row("lengths", "forward", "32 100 128 128", unequal=True, yardstick="full lengths"),
    _row(
        "lengths",
        "training",
        "8 100 32 32",
        10.0,
        unequal=True,
        yardstick="full lengths",
        own_goal=1 / 0.7,
        tags="short",
    ),
    _row(
        "lengths", "training", "32 100 128 128", 4.0, unequal=True, yardstick="full lengths", own_goal=1 / 0.7
    ),
    # Episodes that begin in the middle of a row: at most 1.05 times what it takes without.  PPO's shapes.
    *(
        _row("resets", kind, shape, torch_goal=goal, resets=True, yardstick="no resets", own_goal=1 / 1.05)
        for kind, shape, goal in (
            ("forward", "8 128 64 256", None),
            ("forward", "8 128 64 64", None),
            ("training", "8 128 64 256", 4.5),
            ("training", "8 128 64 64", 8.0),
        )
    ),
    # What a layer has beside the four equations.
    *(
        _row(
            "options",
            kind,
            "32 50 128 128",
            torch_goal=3.0 if kind == "training" else None,
            options=options,
            yardstick="no options",
        )
        for kind in ("forward", "training")
        for options in (
            {"peepholes": True},
            {"proj_size": 64},
            {"layer_norm": True},
            {"recurrent_dropout": 0.25},
        )
        if kind == "training" or "recurrent_dropout" not in options  # it is for training alone
    ),
    # PyTorch's module against the same one on the kernels.
    _row("module", "step", "1 1 128 128", module=True, module_goal=3.0, frozen_goal=8.0),
    _row("module", "training", "32 100 128 128", module=True, unequal=True, module_goal=3.0),
    _row("module", "training", "1 250 128 128", module=True, dtype="float64", module_goal=5.0),
    _row("module", "training", "32 50 128 128", module=True, dtype="float64", module_goal=1.5),
    _row("module", "training", "8 128 64 256", module=True, resets=True, module_goal=4.5),
    *(
        _row("module", kind, shape, module=True, module_goal=1.0, threads=threads)
        for kind, shape, threads in (
            ("forward", "32 50 128 128", 1),
            ("forward", "64 50 512 512", 1),
            ("training", "32 50 128 128", 1),
            ("training", "64 50 512 512", 1),
            ("training", "128 25 1024 1024", 1),
            ("training", "1 250 128 128", 2),
            ("training", "32 50 128 128", 2),
            ("training", "64 50 512 512", 2),
        )
    ),
    # Two threads against one.
    _row("threads", "forward", "1 250 512 512", threads=2, yardstick="one thread", own_goal=2.0),
    _row("threads", "training", "32 50 256 256", threads=2, yardstick="one thread", own_goal=1.7),
    _row("threads", "training", "64 50 512 512", threads=2, yardstick="one thread", own_goal=1.7),
    # Twins of NumPy classes; the ramp example first.
    _row("compat", "sequence_regressor", "1 250 1 100", 2.5, dtype="float64", class_goal=12.0, tags="short"),
    _row("compat", "sequence_regressor", "1 100 64 128", dtype="float64", class_goal=12.0),
    *(
        _row("compat", kind, shape, dtype="float64", class_goal=5.0)
        for kind in ("step_readout", "step_sequence")
        for shape in ("1 1 3 5", "1 1 64 128")
    ),
    # Gradients that fade to denormal numbers: at most 1.3 times what it takes when they do not.
    _row("denormals", "training", "1 600 256 256", last_step=True, yardstick="every step", own_goal=1 / 1.3),
]

QUICK_FLOPS = 1e10  # --quick leaves out the rows above it


def of_shape(shape: Sequence[int], dtype: str, threads: int) -> list[Case]:
    """Return the rows for one shape B T I H that the user asks for."""
    B, T, I, H = shape  # noqa: E741
    yardstick = "one thread" if threads > 1 else ""
    kinds = (["stream", "step"] if T == 1 else []) + ["forward", "training"]
    cases = [Case("shape", kind, B, T, I, H, dtype, threads=threads, yardstick=yardstick) for kind in kinds]
    if B > 1 and T > 1:
        cases += [replace(case, unequal=True, yardstick=yardstick or "full lengths") for case in cases]
    return cases
