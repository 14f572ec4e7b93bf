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
    "float32": {"weights": ""},
}

EPISODE_STEPS = 50  # between two resets of a row, on average

# "None behind the best peer by more than 3 per cent": the goal of each row that has no other one.
FLOOR = 0.97

# How `clstm.LSTM` is told to be several layers and directions; the arithmetic of each is the plain layer's.
SHAPING = {"num_layers", "bidirectional"}

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
    weights : {"", "bfloat16", "int8"}
        Format that the weights are quantised to, for inference; empty for those of `dtype`.
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
    weights: str = ""
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
        words += [_words(name, value) for name, value in self.options]
        words += [self.weights] if self.weights else []
        words += ["module"] if self.module else []
        words += [f"{self.threads} threads"] if self.threads > 1 else []
        return " ".join(words)

    @property
    def share_goal(self) -> float | None:
        """Least share of the limit of the machine, on one thread, or None without such a goal."""
        if self.threads > 1 or self.weights or self.group in ("step", "shape"):
            return None
        if self.H < 64 and (self.kind == "stream" or self.field == "compat"):  # mostly calls from Python
            return None
        if self.resets or self.module or not {name for name, _ in self.options} <= SHAPING:
            return None
        if self.B >= 8 and self.H >= 128:
            return 0.85
        return 0.70 if self.B == 1 or (self.B >= 8 and self.H >= 64) else None

    @property
    def field(self) -> str:
        """Who takes part.

        "compat": a class of `clstm.compat` and the one that it replaces.  "quantised": those with weights of
        fewer bits.  Empty: all others.
        """
        return "compat" if self.kind in COMPAT else "quantised" if self.weights else ""

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
    def layers(self) -> int:
        """Layers, one on top of another."""
        return int(dict(self.options).get("num_layers", 1))

    @property
    def directions(self) -> int:
        """Directions of each layer."""
        return 2 if dict(self.options).get("bidirectional") else 1

    @property
    def input_sizes(self) -> list[int]:
        """Inputs of each layer and direction."""
        above = self.directions * self.R
        return [I_k for k in range(self.layers) for I_k in [above if k else self.I] * self.directions]

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
        """Multiplications and additions of the matrix products.

        Training does three times as many; a regressor has no gradient of its input.
        """
        projection = self.H * self.R if self.R != self.H else 0
        sums = sum(4 * self.H * (I_k + self.R) + projection for I_k in self.input_sizes)
        if self.kind == "sequence_regressor":
            return 2 * self.steps * (3 * sums - 4 * self.H * self.I)
        return 2 * self.steps * (3 * sums if self.kind == "training" else sums)


def _words(option: str, value: Any) -> str:
    """Say what an argument of `clstm.LSTM` makes of the layer."""
    if option == "num_layers":
        return f"{value} layers"
    return option if value is True else f"{option} {value}"


def _row(
    group: str, kind: str, shape: str, peer_goal: float | None = FLOOR, tags: str = "", **further: Any
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
    # One step through LSTM.step, and through a call.
    _row("step", "step", "1 1 32 32", microseconds_goal=2.5),
    _row("step", "step", "1 1 128 128"),
    _row("step", "forward", "1 1 32 32", microseconds_goal=4.0),
    # Whole sequences.
    _row("forward", "forward", "1 250 64 64", 1.6, tags="short"),
    _row("forward", "forward", "1 250 1 100", 1.4),
    _row("forward", "forward", "1 250 128 128", 1.5, tags="short"),
    _row("forward", "forward", "1 250 200 200"),  # with vectors of 16 numbers an odd number of panels
    _row("forward", "forward", "1 250 256 256", 1.15),
    _row("forward", "forward", "1 250 512 512", 1.2),
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
            ("1 250 1 100", FLOOR, "reference"),
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
    # Two directions, and several layers.  On two threads: against one, and against torch on two.
    *(
        _row(
            group,
            kind,
            f"1 250 {H} {H}",
            options=options,
            threads=threads,
            yardstick="one thread" if threads > 1 else "",
            own_goal=own if threads > 1 else None,
            torch_goal=torch if threads > 1 else None,
        )
        for group, every_option, sizes, own, torch in (
            ("bidirectional", [{"bidirectional": True}], (64, 128, 256), 1.7, 2.0),
            ("stacked", [{"num_layers": 2}, {"num_layers": 3}], (128, 256), 1.6, 1.8),
        )
        for kind in ("forward", "training")
        for options in every_option
        for H in sizes
        for threads in (1, 2)
    ),
    # Weights of fewer bits: against our own float32, and int8 against the fastest of its peers.
    *(
        _row(
            "quantised",
            kind,
            f"1 {T} {H} {H}",
            peer if weights == "int8" else None,
            weights=weights,
            yardstick="float32",
            own_goal=own,
        )
        for weights, own_goals in (("bfloat16", (None, 1.5, 1.6, 1.6)), ("int8", (None, 1.8, 2.2, 2.2)))
        for kind, T in (("stream", 1), ("forward", 250))
        for H, own, peer in zip((64, 128, 256, 512), own_goals, (FLOOR, 1.5, 1.4, 1.1), strict=True)
    ),
    # PyTorch's module against the same one on the kernels.
    _row("module", "step", "1 1 128 128", None, module=True, module_goal=3.0, frozen_goal=8.0),
    _row("module", "training", "32 100 128 128", None, module=True, unequal=True, module_goal=3.0),
    _row("module", "training", "1 250 128 128", None, module=True, dtype="float64", module_goal=5.0),
    _row("module", "training", "32 50 128 128", None, module=True, dtype="float64", module_goal=1.5),
    _row("module", "training", "8 128 64 256", None, module=True, resets=True, module_goal=4.5),
    *(
        _row("module", kind, shape, None, module=True, module_goal=1.0, threads=threads)
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
    _row("threads", "forward", "1 250 512 512", threads=2, yardstick="one thread", own_goal=1.9),
    _row("threads", "training", "32 50 256 256", threads=2, yardstick="one thread", own_goal=1.7),
    _row("threads", "training", "64 50 512 512", threads=2, yardstick="one thread", own_goal=1.7),
    # Twins of NumPy classes; the ramp example first.
    _row("compat", "sequence_regressor", "1 250 1 100", 2.5, dtype="float64", class_goal=11.0, tags="short"),
    _row("compat", "sequence_regressor", "1 100 64 128", dtype="float64", class_goal=12.0),
    *(
        _row("compat", kind, shape, None, dtype="float64", class_goal=5.0)
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
