"""What a contestant is, the problem that all get, and the two of this package: kernels and NumPy definition.

All get the same arrays and weights, compute hidden states for all steps and the final state from a given
initial state, and in training every gradient: of the input, the initial state and all weights.  In a stream
they take one step from the state that their last step left.  Whatever can be prepared once, before many
calls, is prepared outside the timed call.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import clstm

from .cases import SHAPING, Case

Array = NDArray[Any]
Results = dict[str, Array]

DROPOUT_SEED = 3  # what clstm draws its masks from; the first one is that of `Problem.recurrent_mask`
STREAM_STEPS = 3  # steps of a stream that are verified: more than one, so that the state has to come back


@dataclass(frozen=True)
class Problem:
    """A case with its numbers; D = layers * directions, of which most cases have one.

    Attributes
    ----------
    x : ndarray of shape (T, B, I)
        In a stream T is STREAM_STEPS.
    h_0, c_0 : ndarrays of shape (D, B, R) and (D, B, H)
        R is the size of the projection, or H.
    dy : ndarray of shape (T, B, directions * R)
        Derivative of the loss by the hidden states.
    lengths : ndarray of shape (B,), or None
    resets : ndarray of bool of shape (T, B), or None
        Where episodes begin.
    weights : dict
        ``weight_ih_l0 (4H, I)``, ``weight_hh_l0 (4H, R)``, ``bias_l0 (4H,)``; gate order i, f, g, o.  With
        options those that `clstm.LSTM` has beside them.  In rows of fewer bits these are what is quantised.
    """

    case: Case
    x: Array
    h_0: Array
    c_0: Array
    dy: Array
    lengths: NDArray[np.intp] | None
    resets: NDArray[np.bool_] | None
    weights: dict[str, Array]

    @classmethod
    def of(cls, case: Case) -> Problem:
        """Draw the numbers of a case, the same ones every time."""
        rng = np.random.default_rng(0)
        T = STREAM_STEPS if case.kind == "stream" else case.T
        D = case.layers * case.directions
        shapes = [(T, case.B, case.I), (D, case.B, case.R), (D, case.B, case.H)]
        shapes.append((T, case.B, case.directions * case.R))
        x, h_0, c_0, dy = (rng.standard_normal(shape).astype(case.dtype) for shape in shapes)
        if case.last_step:
            dy[:-1] = 0.0
        weights = clstm.LSTM(case.I, case.H, dtype=case.dtype, rng=rng, **dict(case.options)).state_dict()
        matrices = ("weight_ih", "weight_hh", "weight_hr")
        for name in [name for name in weights if not name.startswith(matrices)]:  # what begins as a constant
            weights[name] += rng.uniform(-0.1, 0.1, weights[name].shape).astype(case.dtype)
        if "layer_norm_h_l0" in weights:  # chaotic at 1: rounding grows from step to step, whoever computes
            weights["layer_norm_h_l0"] *= 0.5
        return cls(case, x, np.tanh(h_0), c_0, dy, case.lengths(), case.begins(), weights)

    def expected(self) -> Results:
        """Return what the definition computes in float64, by the names that `Contestant.results` uses."""
        kind = "forward" if self.case.kind in ("stream", "step") else self.case.kind
        case = replace(self.case, kind=kind, T=len(self.x), dtype="float64", weights="")
        numbers = {name: getattr(self, name).astype(np.float64) for name in ("x", "h_0", "c_0", "dy")}
        return NumPy(replace(self, case=case, **numbers)).verified()

    @property
    def x_range(self) -> float:
        """The largest size of a number of x: what is measured on samples before x is quantised."""
        return float(np.abs(self.x).max())

    def recurrent_mask(self) -> Array | None:
        """Return what the first training call of clstm multiplies h_prev by, (B, R), or None without dropout.

        What is random is verified so: a contestant takes this mask in its first call, and draws its own in
        each further one, as clstm does.
        """
        if self.case.kind != "training" or not self.case.recurrent_dropout:
            return None
        lstm = NumPy(self).lstm
        lstm.forward(self.x[:1])
        mask: Array = lstm.tape.layers[0].cells[0].masks.recurrent[0]
        return mask


def masks(first: Any, draw: Callable[[], Any]) -> Callable[[], Any]:
    """Return what hands out `first` in its first call and draws in each further one."""
    given = [first]
    return lambda: given.pop() if given else draw()


class Contestant:
    """What all have in common.

    Attributes
    ----------
    name : str
        In the table and for ``--contestants``.
    modules : tuple of str
        What has to be installed.
    is_peer : bool
        Whether this package is to be compared with it.
    arithmetic : str
        What it computes in, where the case does not say it: a key of `measure.TOLERANCES`.
    call : callable
        What is timed; takes nothing and returns the results in the library's own form.
    scope : callable
        Returns a context manager that is entered once around many calls, outside the time.
    problem : Problem
    x_t : ndarray of shape (B, I)
        In a stream: the input of the next step, for `call` to read.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    is_peer: ClassVar[bool] = True
    arithmetic: ClassVar[str] = ""
    call: Callable[[], Any]
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.x_t = problem.x[0].copy()

    @classmethod
    def missing(cls) -> list[str]:
        """Return the modules that are not installed."""
        return [module for module in cls.modules if importlib.util.find_spec(module) is None]

    @classmethod
    def supports(cls, case: Case) -> bool:  # noqa: ARG003
        """Tell whether the library can do this case."""
        return True

    @classmethod
    def precision(cls, case: Case) -> str:
        """Return what it computes a case in: a key of `measure.TOLERANCES`."""
        return cls.arithmetic or case.weights or case.dtype

    def results(self, output: Any) -> Results:
        """Name what `call` returned: y, h_n, c_n, shaped as dy, h_0, c_0; in training every gradient too."""
        raise NotImplementedError

    def verified(self) -> Results:
        """Return what is to be verified: one call, or the first steps of the stream; call it first."""
        with self.scope():
            if self.problem.case.kind != "stream":
                return self.results(self.call())
            steps = []
            for x_t in self.problem.x:
                self.x_t[...] = x_t
                steps.append({name: value.copy() for name, value in self.results(self.call()).items()})
        return steps[-1] | {"y": np.concatenate([step["y"] for step in steps])}


class Clstm(Contestant):
    """The kernels of this package."""

    name = "clstm"
    lstm_class: ClassVar[Callable[..., Any]] = clstm.LSTM

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        case, x, state = problem.case, problem.x, (problem.h_0, problem.c_0)
        arguments = (x, state, problem.lengths, problem.resets)
        self.lstm = lstm = type(self).lstm_class(
            case.I, case.H, dtype=case.dtype, rng=DROPOUT_SEED, **dict(case.options)
        )
        lstm.load_state_dict(problem.weights)
        layer = self._quantised() if case.weights else lstm
        if case.kind == "stream":
            self.stream = layer.stream(case.B, state)
            out = np.empty((case.B, case.directions * case.R), case.dtype)
            self.call = partial(self.stream.step, self.x_t, out)
        elif case.kind == "step":
            self.call = partial(layer.step, x[0], state)
        elif case.kind == "forward":
            self.call = partial(layer, *arguments)
        else:
            self.call = lambda: (lstm.forward(*arguments), lstm.backward(problem.dy))
        self.scope = self._with_threads

    def _quantised(self) -> Any:
        """Return the layer with weights of fewer bits; those of 8 want to know how large x may be."""
        further = {"x_range": self.problem.x_range} if self.problem.case.weights == "int8" else {}
        return self.lstm.quantize(self.problem.case.weights, **further)

    @contextlib.contextmanager
    def _with_threads(self) -> Iterator[None]:
        before = clstm.get_num_threads()
        clstm.set_num_threads(self.problem.case.threads)
        try:
            yield
        finally:
            clstm.set_num_threads(before)

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        kind = self.problem.case.kind
        if kind == "stream":
            h, c = self.stream.state
            return {"y": output[None], "h_n": h, "c_n": c}
        (y, (h_n, c_n)), backward = output if kind == "training" else (output, None)
        results = {"y": y if y.ndim == 3 else y[None], "h_n": h_n, "c_n": c_n}
        if backward is not None:
            dx, (dh_0, dc_0) = backward
            results |= {"dx": dx, "dh_0": dh_0, "dc_0": dc_0}
            results |= {f"d{name}": value for name, value in self.lstm.grads.items()}
        return results


class NumPy(Clstm):
    """The definition, in plain NumPy; in a stream the few lines written by hand that are faster there."""

    name = "numpy"
    lstm_class = clstm.reference.LSTM

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.scope = nullcontext
        if problem.case.kind == "stream":
            self.call = self._steps()

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Tell whether it is to be timed.

        Its BLAS has one thread, and what is written by hand for a stream no options; several layers or
        directions take it a multiple of one, and seconds.
        """
        if case.threads > 1 or any(name in SHAPING for name, _ in case.options):
            return False
        return not (case.kind == "stream" and case.options)

    def _steps(self) -> Callable[[], Any]:
        x_t, h, c, H = self.x_t, self.problem.h_0[0], self.problem.c_0[0], self.problem.case.H
        W, R, bias = (self.problem.weights[name].T for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"))

        def step() -> Any:
            nonlocal h, c
            z = x_t @ W + h @ R + bias
            g = np.tanh(z[:, 2 * H : 3 * H])
            s = 1.0 / (1.0 + np.exp(-z))
            c = s[:, H : 2 * H] * c + s[:, :H] * g
            h = s[:, 3 * H :] * np.tanh(c)
            return h, c

        return step

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        if self.problem.case.kind != "stream":
            return super().results(output)
        h, c = output
        return {"y": h[None], "h_n": h[None], "c_n": c[None]}
