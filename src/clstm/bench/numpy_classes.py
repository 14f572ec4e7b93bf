"""The rows of `clstm.compat`: each twin beside the class it replaces, as people write it, and the best NumPy.

All are float64, one row, column vectors.  A training step is forward, backward and the update of the weights
in place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import compat
from .contestants import Contestant, Problem, Results

Array = NDArray[Any]

WEIGHTS = ("W_f", "b_f", "W_i", "b_i", "W_g", "b_g", "W_o", "b_o", "W_y", "b_y")
LEARNING_RATE = 1e-9  # while timing, so that every call does the work of the first one
VERIFIED_RATE = 0.1


def _sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


class PlainRegressor:
    """What `sequence_regressor` replaces: four products a step, a loop over time, a list of everything."""

    W_f: Array
    W_i: Array
    W_g: Array
    W_o: Array
    W_y: Array
    b_f: Array
    b_i: Array
    b_g: Array
    b_o: Array
    b_y: Array

    def __init__(self, input_dim: int, hidden_dim: int, seq_len: int) -> None:
        D, H = input_dim, hidden_dim
        self.hidden_dim, self.seq_len = H, seq_len
        for name in WEIGHTS:
            rows = D if name.endswith("y") else H
            columns = 1 if name.startswith("b") else H if name == "W_y" else D + H
            setattr(self, name, np.random.randn(rows, columns) * 0.01)  # noqa: NPY002

    def forward(self, x: Array) -> Array:
        """Predict from the last hidden state."""
        h = c = np.zeros((self.hidden_dim, 1))
        self.steps: list[tuple[Array, ...]] = []
        for t in range(self.seq_len):
            z = np.vstack((h, x[t]))
            f = _sigmoid(self.W_f @ z + self.b_f)
            i = _sigmoid(self.W_i @ z + self.b_i)
            g = np.tanh(self.W_g @ z + self.b_g)
            o = _sigmoid(self.W_o @ z + self.b_o)
            c_prev, c = c, f * c + i * g
            u = np.tanh(c)
            h = o * u
            self.steps.append((z, f, i, g, o, c_prev, u))
        self.h = h
        y: Array = self.W_y @ h + self.b_y
        return y

    def backward(self, y_true: Array, y_pred: Array, lr: float) -> None:
        """Go back through all steps, clip, and take a step of SGD."""
        gradients = {name: np.zeros_like(getattr(self, name)) for name in WEIGHTS}
        dy = y_pred - y_true
        gradients["W_y"], gradients["b_y"] = dy @ self.h.T, dy
        dh, dc = self.W_y.T @ dy, np.zeros((self.hidden_dim, 1))
        for z, f, i, g, o, c_prev, u in reversed(self.steps):
            dc = dc + dh * o * (1 - u**2)
            dgates = {
                "f": dc * c_prev * f * (1 - f),
                "i": dc * g * i * (1 - i),
                "g": dc * i * (1 - g**2),
                "o": dh * u * o * (1 - o),
            }
            dz = np.zeros_like(z)
            for gate, da in dgates.items():
                gradients["W_" + gate] += da @ z.T
                gradients["b_" + gate] += da
                dz += getattr(self, "W_" + gate).T @ da
            dh, dc = dz[: self.hidden_dim], dc * f
        for name, gradient in gradients.items():
            np.clip(gradient, -5, 5, out=gradient)
            getattr(self, name)[...] -= lr * gradient


class BestRegressor(PlainRegressor):
    """The same as fast as NumPy can: all gates and inputs at once, few temporaries, one product for dW."""

    def __init__(self, input_dim: int, hidden_dim: int, seq_len: int) -> None:
        super().__init__(input_dim, hidden_dim, seq_len)
        H, n = hidden_dim, hidden_dim + input_dim
        # Gates f, i, o, g, so that the sigmoids are side by side.
        self.W, self.b = np.empty((4 * H, n)), np.empty((4 * H, 1))
        for k, gate in enumerate("fiog"):
            for whole, name in ((self.W, "W_" + gate), (self.b, "b_" + gate)):
                part = whole[k * H : (k + 1) * H]
                part[...] = getattr(self, name)
                setattr(self, name, part)

    def forward(self, x: Array) -> Array:
        """Predict from the last hidden state."""
        T, H = self.seq_len, self.hidden_dim
        self.x = x[:T, :, 0]
        W_h = np.ascontiguousarray(self.W[:, :H])
        self.a = self.x @ self.W[:, H:].T + self.b[:, 0]  # (T, 4H), pre-activations and then gates
        self.hs, self.c, self.u = np.zeros((T + 1, H)), np.zeros((T + 1, H)), np.empty((T, H))
        for t, a in enumerate(self.a):
            a += W_h @ self.hs[t]  # a view of self.a
            s, g, c = a[: 3 * H], a[3 * H :], self.c[t + 1]
            np.negative(s, out=s)
            np.exp(s, out=s)
            s += 1.0
            np.reciprocal(s, out=s)
            np.tanh(g, out=g)
            np.multiply(s[:H], self.c[t], out=c)
            c += s[H : 2 * H] * g
            np.tanh(c, out=self.u[t])
            np.multiply(s[2 * H :], self.u[t], out=self.hs[t + 1])
        self.h = self.hs[-1][:, None]
        y: Array = self.W_y @ self.h + self.b_y
        return y

    def backward(self, y_true: Array, y_pred: Array, lr: float) -> None:
        """Go back through all steps, clip, and take a step of SGD."""
        T, H = self.seq_len, self.hidden_dim
        dy = y_pred - y_true
        f, i, o, g = (self.a[:, k * H : (k + 1) * H] for k in range(4))
        # What the derivatives of the gates are multiplied with, for all steps at once.
        by_c = np.concatenate([self.c[:-1] * f * (1 - f), g * i * (1 - i), i * (1 - g**2)], axis=1)
        by_c = by_c.reshape(T, 3, H)
        by_h, carry = self.u * o * (1 - o), o * (1 - self.u**2)
        da = np.empty((T, 4, H))
        W_h = np.ascontiguousarray(self.W[:, :H].T)
        dh, dc = (self.W_y.T @ dy)[:, 0], np.zeros(H)
        for t in range(T - 1, -1, -1):
            dc += dh * carry[t]
            np.multiply(by_c[t, :2], dc, out=da[t, :2])
            np.multiply(by_h[t], dh, out=da[t, 2])
            np.multiply(by_c[t, 2], dc, out=da[t, 3])
            dh = W_h @ da[t].ravel()
            dc *= f[t]
        flat = da.reshape(T, 4 * H)
        dW = flat.T @ np.concatenate([self.hs[:-1], self.x], axis=1)
        gradients = (
            (self.W, dW),
            (self.b, flat.sum(axis=0)[:, None]),
            (self.W_y, dy @ self.h.T),
            (self.b_y, dy),
        )
        for weights, gradient in gradients:
            weights -= lr * np.clip(gradient, -5, 5)


class PlainStep:
    """What the step methods of `step_readout` and `step_sequence` replace."""

    def __init__(self, twin: Any) -> None:
        names = ("Wf", "Wi", "Wc" if hasattr(twin, "Wc") else "WC", "Wo")
        self.Wf, self.Wi, self.Wc, self.Wo = (np.array(getattr(twin, name), order="C") for name in names)
        self.bf, self.bi, self.bc, self.bo = (np.zeros((len(self.Wf), 1)) for _ in names)
        self.read_out = hasattr(twin, "Wy")
        if self.read_out:
            self.Wy, self.by = np.array(twin.Wy, order="C"), np.zeros((len(twin.Wy), 1))

    def forward(self, x: Array, h_prev: Array, c_prev: Array) -> tuple[Array, ...]:
        """Run one step: (y, h, c) on [x; h], or without a read-out (h, c) on [h; x]."""
        z = np.vstack((x, h_prev) if self.read_out else (h_prev, x))
        f = _sigmoid(self.Wf @ z + self.bf)
        i = _sigmoid(self.Wi @ z + self.bi)
        g = np.tanh(self.Wc @ z + self.bc)
        o = _sigmoid(self.Wo @ z + self.bo)
        c = f * c_prev + i * g
        h = o * np.tanh(c)
        return (self.Wy @ h + self.by, h, c) if self.read_out else (h, c)


class Twin(Contestant):
    """The class of `clstm.compat`."""

    name = "clstm"
    regressor: ClassVar[Callable[..., Any]] = compat.sequence_regressor.LSTM

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        case = problem.case
        before = np.random.get_state()  # noqa: NPY002
        np.random.seed(0)  # noqa: NPY002
        if case.kind == "sequence_regressor":
            self.model = type(self).regressor(case.I, case.H, case.T)
            self.columns = np.ascontiguousarray(problem.x.swapaxes(1, 2))
            self.call = partial(self._train, LEARNING_RATE)
        else:
            sizes = (case.I, case.H, case.I) if case.kind == "step_readout" else (case.I, case.H)
            self.model = self._stepper(getattr(compat, case.kind).LSTM(*sizes))
            self.column = np.ascontiguousarray(problem.x[0].T)
            self.state = [np.zeros((case.H, 1)), np.zeros((case.H, 1))]
            self.call = self._step
        np.random.set_state(before)  # noqa: NPY002

    def _stepper(self, twin: Any) -> Any:
        return twin

    @classmethod
    def supports(cls, case: Any) -> bool:
        """Tell whether the row is one of `clstm.compat`."""
        return bool(case.field == "compat")

    def _train(self, lr: float) -> Array:
        y: Array = self.model.forward(self.columns)
        self.model.backward(np.full(y.shape, 0.5), y, lr)
        return y

    def _step(self) -> Any:
        result = self.model.forward(self.column, *self.state)
        self.state[:] = result[-2:]
        return result

    def verified(self) -> Results:
        """Return the results of three steps, or of one training step, whose weights are then put back."""
        if self.problem.case.kind != "sequence_regressor":
            return {f"{n} after {k} steps": value for k in (1, 2, 3) for n, value in enumerate(self._step())}
        before = {name: getattr(self.model, name).copy() for name in WEIGHTS}
        results = {"y_hat": self._train(VERIFIED_RATE).copy()}
        for name, value in before.items():
            now = getattr(self.model, name)
            results["d" + name] = (value - now) / VERIFIED_RATE
            now[...] = value
        return results


class Original(Twin):
    """The class it replaces."""

    name = "plain_class"
    regressor = PlainRegressor

    def _stepper(self, twin: Any) -> Any:
        return PlainStep(twin)


class BestNumPy(Original):
    """The best NumPy for a training step."""

    name = "best_numpy"
    regressor = BestRegressor

    @classmethod
    def supports(cls, case: Any) -> bool:
        """Tell whether the row is a training step: a single one leaves nothing to be joined."""
        return bool(case.kind == "sequence_regressor")


CONTESTANTS: list[type[Contestant]] = [Twin, Original, BestNumPy]
