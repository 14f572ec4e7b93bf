"""What the test files share: the one tolerance table, comparisons, cases for one layer, an oracle.

Every comparison takes its tolerance from `TOLERANCES`; no test body holds one.  "Relative" means: the largest
absolute difference, divided by the largest absolute value of the expected array.  float32 results are
compared with the definition run in float64 on the same float32 inputs.
"""

import contextlib
import importlib
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from functools import cache
from types import SimpleNamespace

# The definition's small products are slower on several BLAS threads, and many times so on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings

import clstm
from clstm import _dispatch, cells, reference

# No test times anything, and every run sees the same examples.
settings.register_profile("clstm", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("clstm")

# What is promised about numbers, by promise and dtype.
TOLERANCES = {
    # relative; float32 absolute on hidden states, which lie in (-1, 1), and relative on cells above 1
    "forward": {"float64": 1e-12, "float32": 2e-6},
    # relative
    "backward": {"float64": 1e-11, "float32": 2e-5},
    # relative
    "complex step": {"float64": 1e-12},
    # relative
    "torch": {"float64": 1e-11},
    # relative; what the original NumPy classes computed, in whatever order
    "golden": {"float64": 1e-12},
    # relative; a central difference with a step of 1e-6 is good to ten digits at best
    "central difference": {"float64": 1e-7},
    # units in the last place of the exact result
    "tanh": {"float64": 4.0, "float32": 4.0},
    # absolute: one unit in the last place of 1.0, 2.2e-16 and 1.2e-7
    "sigmoid": {name: float(np.finfo(name).eps) for name in ("float64", "float32")},
    # absolute, on the sample mean of at least 10 000 values of size 1
    "sample mean": {"float64": 0.03},
}

DTYPES = ("float32", "float64")
CTYPES = {"float32": "float", "float64": "double"}
BUILDS = _dispatch.runnable()
BACKENDS = ("numpy", "auto")
KINDS = {"lstm": cells.LSTM, "rnn": cells.RNN}
LAYERS = {"lstm": clstm.LSTM, "rnn": clstm.RNN}


def load_build(build):
    """Import the module of one kernel build."""
    return importlib.import_module(_dispatch.BUILDS[build])


def functions_of(build, dtype):
    """Return the functions of a kernel build for a dtype, or the definition's for "reference"."""
    if build == "reference":
        return reference
    module = load_build(build)
    return SimpleNamespace(**{name: getattr(module, name)[CTYPES[dtype]] for name in _dispatch.FUNCTIONS})


@contextlib.contextmanager
def threads(n, build=_dispatch.isa):
    """Let the calls of a build use n threads within the block."""
    kernels = load_build(build)
    before = clstm.get_num_threads() if build == _dispatch.isa else 1
    kernels.set_num_threads(n)
    try:
        yield
    finally:
        kernels.set_num_threads(before)


@contextlib.contextmanager
def signals(handler, first, interval=0.0):
    """Let a timer call a handler, once or again and again."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, first, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_python(code, *arguments, timeout=60, **environment):
    """Run code in a fresh interpreter with the package under test; a variable that is None is unset."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(clstm.__file__)))
    merged = os.environ | {"PYTHONPATH": folder} | environment
    kept = {name: value for name, value in merged.items() if value is not None}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=False, timeout=timeout)


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


@pytest.fixture(params=BUILDS)
def build(request):
    """Every kernel build that this processor runs."""
    return request.param


@pytest.fixture(params=KINDS)
def kind(request):
    """Every kind of cell, by its name."""
    return request.param


@pytest.fixture(params=("reference", *BUILDS))
def implementation(request):
    """The definition and every kernel build that this processor runs."""
    return request.param


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


# ---------------------------------------------------------------------------------------------- comparisons


def assert_close(got, expected, promise, name="array", scale=None):
    """Compare arrays under a promise of the tolerance table; the dtype of `got` picks the figure.

    Errors are relative to the largest number of the array, or to `scale`.
    """
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
    assert got.dtype.name in TOLERANCES[promise], f"{name}: dtype {got.dtype}"
    if not expected.size:
        return
    scale = np.abs(expected).max() if scale is None else scale
    if promise == "forward" and got.dtype == np.float32:
        scale = max(scale, 1.0)
    error = np.abs(got.astype(np.float64) - expected).max()
    assert np.isfinite(scale), f"{name}: the expected array holds {scale}"
    tolerance = TOLERANCES[promise][got.dtype.name]
    assert error <= tolerance * scale, (
        f"{name}: error {error:.3g} of {scale:.3g}, promised ({promise}) {tolerance:.3g}"
    )


def assert_same_bits(got, expected, name="array"):
    """Compare arrays for equality; NaN equals NaN."""
    assert got.shape == expected.shape, name
    assert got.dtype == expected.dtype, name
    np.testing.assert_array_equal(got, expected, err_msg=name)


def keeps_denormals():
    """Whether this thread computes with denormals and rounds to nearest, in scalars and in vectors."""
    tiny32, tiny64 = np.float32(1e-40), np.float64(1e-310)
    kept = [tiny32 * np.float32(1) == tiny32, tiny64 * 1.0 == tiny64, float(tiny64) * 0.5 > 0]
    kept += [(np.full(64, tiny) * tiny.dtype.type(0.5) > 0).all() for tiny in (tiny32, tiny64)]
    one = np.float32(1)
    kept += [
        one + np.float32(2**-24) == one,
        one + np.float32(1.5 * 2**-24) > one,
        -one - np.float32(2**-24) == -one,
    ]
    return all(kept)


def denormals(array):
    """Count the denormal numbers of an array."""
    return np.count_nonzero((array != 0) & (np.abs(array) < np.finfo(array.dtype).tiny))


FORWARD_RESULTS = ("y", "h_n", "c_n")
BACKWARD_RESULTS = ("dx", "dW_x", "dW_h", "dbias", "dh_0", "dc_0")


def assert_results_close(got, expected):
    """Compare what `run` returns with what the definition returns, each result under its own promise."""
    assert got.keys() == expected.keys()
    weights = [np.abs(expected[name]).max(initial=0) for name in ("dW_x", "dW_h", "dbias")]
    for promise, names in (("forward", FORWARD_RESULTS), ("backward", BACKWARD_RESULTS)):
        for name in names:
            if name in got:
                # A float32 gradient that is one number may be the small difference of large ones.
                alone = name in ("dW_x", "dW_h", "dbias") and got[name].size == 1 and got[name].itemsize == 4
                assert_close(got[name], expected[name], promise, name, max(weights) if alone else None)


# ----------------------------------------------------------- one layer in one direction, for the kernels


@dataclass(frozen=True)
class Case:
    """Inputs of forward and backward of one layer in one direction; an RNN's has cells that are not used."""

    kind: cells.Kind
    x: np.ndarray
    W_x: np.ndarray
    W_h: np.ndarray
    bias: np.ndarray
    h_0: np.ndarray
    c_0: np.ndarray
    lengths: np.ndarray
    reverse: bool
    dy: np.ndarray
    dh_n: np.ndarray
    dc_n: np.ndarray

    @property
    def dtype(self):
        return self.x.dtype

    @property
    def sizes(self):
        """T, B, I, H."""
        return (*self.x.shape, len(self.W_h))

    @property
    def inputs(self):
        """Names of the arrays that have a derivative."""
        return ("x", "W_x", "W_h", "bias", *(f"{name}_0" for name in self.kind.states))

    @property
    def is_real(self):
        """Which steps are no padding, shape (T, B)."""
        return np.arange(len(self.x))[:, None] < self.lengths

    @property
    def cell(self):
        return cells.Cell(self.kind, locked(self.W_x), locked(self.W_h), locked(self.bias))

    @property
    def schedule(self):
        return cells.Schedule(locked(self.lengths), self.reverse)

    def state(self, pattern):
        """Return the arrays of a state by a pattern for their names, such as "{}_0", read-only."""
        return tuple(locked(getattr(self, pattern.format(name))) for name in self.kind.states)

    def astype(self, dtype):
        names = [f.name for f in fields(self) if f.name not in ("kind", "lengths", "reverse")]
        return replace(self, **{name: getattr(self, name).astype(dtype) for name in names})


def make_case(T, B, I, H, dtype="float64", *, kind="lstm", reverse=False, lengths=None, seed=0):  # noqa: E741
    """Draw a case; `lengths` is None for full rows, "ragged" for random ones with 0 and T, or an array.

    Padding of x and dy is NaN, so that whatever reads it shows.
    """
    kind = KINDS[kind]
    G = len(kind.gates)
    rng = np.random.default_rng([seed, T, B, I, H])
    scale = 1.5 / np.sqrt(H)
    if lengths is None:
        lengths = np.full(B, T)
    elif isinstance(lengths, str):
        lengths = rng.integers(0, T + 1, B)
        lengths[rng.permutation(B)[:2]] = (T, 0)[:B]
    case = Case(
        kind=kind,
        x=rng.standard_normal((T, B, I)),
        W_x=rng.uniform(-1, 1, (I, G * H)) / np.sqrt(I),
        W_h=rng.uniform(-scale, scale, (H, G * H)),
        bias=rng.uniform(-1, 1, G * H),
        h_0=rng.uniform(-1, 1, (B, H)),
        c_0=rng.uniform(-2, 2, (B, H)),
        lengths=np.asarray(lengths, np.intp),
        reverse=reverse,
        dy=rng.standard_normal((T, B, H)),
        dh_n=rng.standard_normal((B, H)),
        dc_n=rng.standard_normal((B, H)),
    )
    case.x[~case.is_real] = np.nan
    case.dy[~case.is_real] = np.nan
    return case.astype(dtype)


def locked(array):
    """Return a read-only copy: a function that writes to an input, or takes no constant one, raises."""
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def nan_like(array):
    return np.full_like(array, np.nan)


def run_forward(functions, case, *, tape=True, strided=False):
    """Run forward into arrays full of NaN, of which everything but the tape's padding must be overwritten.

    With `strided`, y is the middle third of a wider array, as in a bidirectional layer; the rest must stay.
    """
    T, B, _, H = case.sizes
    G = len(case.kind.gates)
    wide = np.full((T, B, 3 * H), np.nan, case.dtype)
    results = {"y": wide[:, :, H : 2 * H] if strided else np.full((T, B, H), np.nan, case.dtype)}
    if tape and G > 1:
        results["gates"] = np.full((T, B, G * H), np.nan, case.dtype)
    if tape and "c" in case.kind.states:
        results["c"] = np.full((T, B, H), np.nan, case.dtype)
    left = cells.CellTape(**results)
    results |= {f"{name}_n": nan_like(case.h_0) for name in case.kind.states}
    final = tuple(results[f"{name}_n"] for name in case.kind.states)
    functions.forward(case.cell, locked(case.x), case.state("{}_0"), case.schedule, left, final)
    assert np.isnan(wide[:, :, :H]).all()
    assert np.isnan(wide[:, :, 2 * H :]).all()
    return results


def run_backward(functions, case, tape, *, strided=False, out=None):
    """Run backward on the result of `run_forward`, into arrays full of NaN, or into `out`."""
    H = len(case.W_h)
    left = {name: locked(tape[name]) for name in ("y", "gates", "c") if name in tape}
    dy = locked(case.dy)
    if strided:
        rest = nan_like(dy)
        left["y"], dy = (np.concatenate([rest, v, rest], axis=2)[:, :, H : 2 * H] for v in (left["y"], dy))
    out = out or {"d" + name: nan_like(getattr(case, name)) for name in case.inputs}
    functions.backward(
        case.cell, locked(case.x), case.state("{}_0"), case.schedule, cells.CellTape(**left),
        dy, case.state("d{}_n"), out["dx"], cells.Cell(case.kind, out["dW_x"], out["dW_h"], out["dbias"]),
        tuple(out[f"d{name}_0"] for name in case.kind.states),
    )  # fmt: skip
    return out


def run(functions, case, *, strided=False):
    """Run forward and backward; return all results by name."""
    tape = run_forward(functions, case, strided=strided)
    return tape | run_backward(functions, case, tape, strided=strided)


@cache
def case_and_expected(T, B, I, H, dtype, reverse, ragged, kind="lstm"):  # noqa: E741
    """Draw a case and run the definition on it in float64; tests share both, which are not to be changed."""
    case = make_case(T, B, I, H, dtype, kind=kind, reverse=reverse, lengths="ragged" if ragged else None)
    return case, run(reference, case.astype("float64"))


def loss(case, results):
    """Return the scalar whose derivatives by y and the final state are dy, dh_n and dc_n."""
    final = sum((getattr(case, f"d{name}_n") * results[f"{name}_n"]).sum() for name in case.kind.states)
    return (case.dy * results["y"])[case.is_real].sum() + final


def definition_loss(case):
    """Return `loss` of the definition's forward."""
    return loss(case, run_forward(reference, case, tape=False))


def complex_step_gradients(case, loss_of=definition_loss, names=None):
    """Differentiate a loss by every single input: imag(loss(v + 1e-30j)) / 1e-30."""
    gradients = {}
    for name in names or case.inputs:
        gradient = np.zeros_like(getattr(case, name))
        for index in np.ndindex(gradient.shape):
            if name == "x" and not case.is_real[index[:2]]:
                continue
            moved = case.astype(np.complex128)
            getattr(moved, name)[index] += 1e-30j
            gradient[index] = loss_of(moved).imag / 1e-30
        gradients["d" + name] = gradient
    return gradients


def assert_gradients_are_complex_step_derivatives(functions, case):
    """Compare every gradient of float64 functions with the complex-step derivative of the definition."""
    got, expected = run(functions, case), complex_step_gradients(case)
    for name, value in expected.items():
        assert_close(got[name], value, "complex step", name)


# ------------------------------------------------------------------------------------- the class as a whole


def oracle_step(kind, z, state):
    """Return the state of one row after a step with the pre-activations z."""

    def s(v):
        return 1 / (1 + np.exp(-v))

    if kind == "rnn":
        return (np.tanh(z),)
    i, f, g, o = np.split(z, 4)
    c = s(f) * state[1] + s(i) * np.tanh(g)
    return s(o) * np.tanh(c), c


def oracle(kind, params, num_layers, bidirectional, x, state, lengths, masks=None):
    """Run stacked layers row by row and step by step, from the named parameters; arrays may be complex.

    Written apart from `clstm.reference`, in PyTorch's layout.  `state` is a tuple of arrays (layers *
    directions, B, H), h first; `masks[k]` multiplies the input of layer k.  Returns y and the final state.
    """
    T, B, _ = x.shape
    final = tuple(part.copy() for part in state)
    for k in range(num_layers):
        outputs = []
        x = x if masks is None or masks[k] is None else x * masks[k]
        for d, suffix in enumerate(("", "_reverse") if bidirectional else ("",)):
            W, R = params[f"weight_ih_l{k}{suffix}"], params[f"weight_hh_l{k}{suffix}"]
            b = params.get(f"bias_l{k}{suffix}", np.zeros(len(W)))
            n = k * (1 + bidirectional) + d
            y = np.zeros((T, B, R.shape[1]), np.result_type(x, W, R, b, *state))
            for row in range(B):
                steps = range(lengths[row])
                now = tuple(part[n, row] for part in state)
                for t in reversed(steps) if d else steps:
                    now = oracle_step(kind, W @ x[t, row] + R @ now[0] + b, now)
                    y[t, row] = now[0]
                for part, value in zip(final, now, strict=True):
                    part[n, row] = value
            outputs.append(y)
        x = np.concatenate(outputs, axis=2)
    return x, final


def as_tuple(state):
    """Return a state as a tuple of arrays, also that of an RNN, which users have as one array."""
    return state if isinstance(state, tuple) else (state,)


def draw_inputs(layer, T, B, *, seed=0, ragged=False):
    """Draw x (T, B, I), state, lengths, dy and dstate for a time-major layer; padding is NaN."""
    rng = np.random.default_rng([seed, T, B])
    LD, H = layer.num_layers * layer.num_directions, layer.hidden_size
    lengths = np.full(B, T)
    if ragged:
        lengths = rng.integers(0, T + 1, B)
        lengths[rng.permutation(B)[:2]] = (T, 0)[:B]
    x, dy = (
        rng.standard_normal((T, B, layer.input_size)),
        rng.standard_normal((T, B, layer.num_directions * H)),
    )
    padding = np.arange(T)[:, None] >= lengths
    x[padding] = dy[padding] = np.nan
    states = (tuple(rng.uniform(-1, 1, (2, LD, B, H)).astype(layer.dtype)) for _ in range(2))
    state, dstate = (pair if isinstance(layer, clstm.LSTM) else pair[0] for pair in states)
    return SimpleNamespace(
        x=x.astype(layer.dtype), dy=dy.astype(layer.dtype), state=state, dstate=dstate, lengths=lengths,
        is_real=~padding,
    )  # fmt: skip


def snapshot(layer):
    """Freeze everything a layer holds, bit by bit, its tape and generator included."""
    named = {
        kind: {name: value.tobytes() for name, value in getattr(layer, kind).items()}
        for kind in ("params", "grads")
    }
    return pickle.dumps((sorted(layer.__getstate__().items()), layer.tape, named))


@contextlib.contextmanager
def unchanged(layer):
    """Assert that the block leaves a layer as it was."""
    before, views = snapshot(layer), {name: id(value) for name, value in layer.params.items()}
    tape = layer.tape
    yield
    assert snapshot(layer) == before
    assert layer.tape is tape
    assert {name: id(value) for name, value in layer.params.items()} == views


def build_layer(kind, *args, seed=0, build=None, **kwargs):
    """Make an LSTM or RNN whose every parameter is random; on one kernel build, if one is named.

    For the build "reference" it runs on the definition.
    """
    cls = LAYERS[kind]
    if build is not None:
        functions = functions_of(build, np.dtype(kwargs.get("dtype", np.float64)).name)
        if build != "reference":
            functions = SimpleNamespace(**vars(functions), Stream=load_build(build).Stream)
        cls = type(cls.__name__, (cls,), {"functions": functions})
    layer = cls(*args, rng=seed, **kwargs)
    rng = np.random.default_rng([seed, 1])
    layer.flat_params[...] = rng.uniform(-1, 1, layer.flat_params.size) / np.sqrt(layer.hidden_size)
    return layer


def build_lstm(*args, **kwargs):
    """Make an LSTM as `build_layer` does."""
    return build_layer("lstm", *args, **kwargs)


def build_lstm_on(build, *args, **kwargs):
    """Make an LSTM as `build_layer` does, on one kernel build."""
    return build_layer("lstm", *args, build=build, **kwargs)
