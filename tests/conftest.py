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
import time
import tracemalloc
from dataclasses import dataclass, fields, replace
from functools import cache
from types import SimpleNamespace
from unittest import mock

# The definition's small products are slower on several BLAS threads, and many times so on a busy machine.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st

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
    # relative; gradients of a sequence with resets against those of its pieces, which are summed otherwise
    "pieces": {"float64": 1e-12},
    # relative
    "torch": {"float64": 1e-11},
    # as forward; ONNX Runtime has float32 alone, and approximations of its own; float64 is ONNX's reference
    "onnx": {"float32": 1e-5, "float64": 1e-12},
    # as float32 forward; Keras computes as its backend does, which is torch here
    "keras": {"float32": 1e-5, "float64": 1e-11},
    # relative; what the original NumPy classes computed, in whatever order
    "golden": {"float64": 1e-12},
    # relative; a central difference with a step of 1e-6 is good to ten digits at best
    "central difference": {"float64": 1e-7},
    # relative; numbers that `clstm predict` writes with eight digits
    "written": {"float64": 1e-7},
    # units in the last place of the exact result
    "tanh": {"float64": 4.0, "float32": 4.0},
    # absolute: one unit in the last place of 1.0, 2.2e-16 and 1.2e-7
    "sigmoid": {name: float(np.finfo(name).eps) for name in ("float64", "float32")},
    # absolute, on hidden states; quantized weights against those of float32, random ones of size 1 / sqrt(H)
    "bfloat16": {"float32": 5e-3},
    "int8": {"float32": 1e-2},
    # absolute, on hidden states; integers may be rounded apart where h differs in its last bits
    "int8 definition": {"float32": 1e-5},
    # relative; what a forecast or a classifier scores with quantized weights
    "bfloat16 score": {"float64": 5e-3},
    "int8 score": {"float64": 1e-2},
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
    return SimpleNamespace(
        **{name: getattr(module, name)[CTYPES[dtype]] for name in _dispatch.FUNCTIONS},
        **{name: getattr(module, name) for name in _dispatch.FOR_BOTH},
    )


@contextlib.contextmanager
def threads(n, build=_dispatch.isa):
    """Let the calls of a build use n threads within the block."""
    kernels = load_build(build)
    before = clstm.get_num_threads() if build == _dispatch.isa else 1
    kernels.set_num_threads(n, wait=True)
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


# -------------------------------------------------------------------------------------------- hostile files

_watched = []  # lists of what is opened, imported and run, while somebody looks


def _watch(event, arguments):
    for seen in _watched:
        if event in {
            "open",
            "import",
            "exec",
            "compile",
            "os.system",
            "subprocess.Popen",
            "pickle.find_class",
        }:
            seen.append((event, str(arguments[0]) if arguments else ""))


@cache
def _install_watch():
    """Audit hooks cannot be removed, so there is one."""
    sys.addaudithook(_watch)


def assert_refused(read, path, match=None):
    """Read a hostile file: one class of error, soon, with little memory; nothing but the file opened or run.

    One second and 64 MB above the size of the file are promised; a busy machine gets 5 s.
    """
    _install_watch()
    seen = []
    before = time.process_time()
    with pytest.raises(clstm.FileFormatError, match=match):
        read(path)
    elapsed = time.process_time() - before
    tracemalloc.start()
    try:
        _watched.append(seen)
        with pytest.raises(clstm.FileFormatError, match=match) as caught:
            read(path)
        memory = tracemalloc.get_traced_memory()[1]
    finally:
        _watched.remove(seen)
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 2000
    assert set(seen) <= {("open", str(path))}, seen
    assert elapsed < 5
    assert memory < os.path.getsize(path) + 64_000_000
    return caught.value


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
    if promise in ("forward", "onnx", "keras") and got.dtype == np.float32:
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
EXTRAS = ("peepholes", "W_r", "norm_x", "norm_h", "norm_c")  # arrays of a cell with options
WEIGHTS = ("dW_x", "dW_h", "dbias", *(f"d{name}" for name in EXTRAS))
BACKWARD_RESULTS = ("dx", *WEIGHTS, "dh_0", "dc_0")


def assert_results_close(got, expected):
    """Compare what `run` returns with what the definition returns, each result under its own promise."""
    assert got.keys() == expected.keys()
    weights = [np.abs(expected[name]).max(initial=0) for name in WEIGHTS if name in expected]
    for promise, names in (("forward", FORWARD_RESULTS), ("backward", BACKWARD_RESULTS)):
        for name in names:
            if name in got:
                # A float32 gradient that is one number may be the small difference of large ones.
                alone = name in WEIGHTS and got[name].size == 1 and got[name].itemsize == 4
                assert_close(got[name], expected[name], promise, name, max(weights) if alone else None)


# ---------------------------------------------------------------------------------------------- the options

# As the constructor takes them, but for `proj_size`, which is a share of the hidden units, and for "drawn":
# False, which asks for the expectation of zoneout.  `resets` are no option, and drawn by themselves.
SPECS = {
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "hard_sigmoid": ("hard_sigmoid", {"alpha": 0.3}),
    "softsign": "softsign",
    "softplus": "softplus",
    "elu": ("elu", {"alpha": 0.7}),
    "leaky_relu": ("leaky_relu", {"alpha": 0.1}),
    "thresholded_relu": ("thresholded_relu", {"alpha": 0.2}),
    "scaled_tanh": ("scaled_tanh", {"alpha": 1.2, "beta": 0.7}),
    "affine": ("affine", {"alpha": 0.3, "beta": 0.4}),
    "identity": "identity",
}
CORNERS = {"relu", "elu", "leaky_relu", "thresholded_relu"}  # at 0, the last one at alpha
ZEROS = CORNERS | {"hard_sigmoid"}  # what may be exactly 0, or has a corner there
# Every activation in every place once, and nowhere two that would make a corner of an exact 0.
ACTIVATIONS = {
    f"{gates}, {candidate}, {cell}": {"activations": (SPECS[gates], SPECS[candidate], SPECS[cell])}
    for gates, candidate, cell in (
        ("relu", "tanh", "sigmoid"),
        ("hard_sigmoid", "softsign", "scaled_tanh"),
        ("softsign", "identity", "relu"),
        ("softplus", "hard_sigmoid", "tanh"),
        ("elu", "scaled_tanh", "softsign"),
        ("leaky_relu", "sigmoid", "softplus"),
        ("thresholded_relu", "affine", "identity"),
        ("scaled_tanh", "softplus", "hard_sigmoid"),
        ("affine", "relu", "affine"),
        ("identity", "sigmoid", "elu"),
        ("tanh", "leaky_relu", "tanh"),
        ("sigmoid", "thresholded_relu", "sigmoid"),
        ("sigmoid", "elu", "tanh"),
        ("sigmoid", "sigmoid", "leaky_relu"),
        ("sigmoid", "sigmoid", "thresholded_relu"),
    )
}
OPTIONS = {
    "peepholes": {"peepholes": True},
    "projection": {"proj_size": 0.6},
    "coupled": {"coupled": True},
    "gate clip": {"gate_clip": 0.7},
    "cell clip": {"cell_clip": 0.6},
    "layer norm": {"layer_norm": True},
    "recurrent dropout": {"recurrent_dropout": 0.4},
    "zoneout": {"zoneout": (0.3, 0.4)},
    "zoneout of h": {"zoneout": (0.3, 0.0)},
    "zoneout of c": {"zoneout": (0.0, 0.4)},
    "expected zoneout": {"zoneout": (0.3, 0.4), "drawn": False},
}
# All of them, twice, since coupled gates and a layer norm do not go together; none has a corner.
TOGETHER = {
    "all but coupled": {
        "activations": ("softsign", SPECS["scaled_tanh"], "softsign"), "peepholes": True, "proj_size": 0.6,
        "layer_norm": True, "recurrent_dropout": 0.4, "zoneout": (0.3, 0.4),
    },
    "all but layer norm": {
        "activations": ("sigmoid", "softsign", SPECS["scaled_tanh"]), "peepholes": True, "proj_size": 0.6,
        "coupled": True, "recurrent_dropout": 0.4, "zoneout": (0.3, 0.4), "drawn": False,
    },
}  # fmt: skip


def random_options(pick):
    """Make any combination of all options; `pick` chooses one of a sequence."""
    gates, candidate, cell = (pick([*SPECS]) for _ in range(3))
    if {gates, candidate} & ZEROS and cell in ZEROS:
        cell = "tanh"
    options = {
        "activations": (SPECS[gates], SPECS[candidate], SPECS[cell]),
        "peepholes": pick([False, True]),
        "proj_size": pick([0, 0.6]),
        "layer_norm": pick([False, True]),
        "gate_clip": pick([None, 0.7, 2.0]),
        "cell_clip": pick([None, 0.6]),
        "recurrent_dropout": pick([0.0, 0.4]),
        "zoneout": (pick([0.0, 0.3]), pick([0.0, 0.4])),
        "drawn": pick([True, False]),
    }
    options["coupled"] = pick([False, True]) and not options["layer_norm"]
    if options["coupled"] and gates in ZEROS:  # f is 1 where i is 0, so that a cell stays on its clip
        options["cell_clip"] = None
    return options


def options_of_seed(seed):
    """Return a random combination of options."""
    rng = np.random.default_rng(seed)
    return random_options(lambda values: values[rng.integers(len(values))])


any_options = st.composite(lambda draw: random_options(lambda values: draw(st.sampled_from(values))))


def as_arguments(options, H):
    """Return the arguments of an LSTM of H units for some options; outside `forward` nothing is drawn."""
    arguments = {name: value for name, value in options.items() if name != "drawn"}
    return arguments | {"proj_size": int(arguments.get("proj_size", 0) * H)}


def distance_to_corners(case):
    """Return how near the definition comes to where a function has no derivative, nor perhaps a limit."""
    nearest = [np.inf]
    clip, activate = reference._clip, reference._activate

    def noted_clip(x, low, high):
        nearest.extend(np.abs(x.real - end).min(initial=np.inf) for end in (low, high))
        return clip(x, low, high)

    def noted_activate(activation, x, *limit):
        if activation.name in CORNERS:
            corner = activation.alpha if activation.name == "thresholded_relu" else 0
            nearest.append(np.abs(x.real - corner).min(initial=np.inf))
        return activate(activation, x, *limit)

    with mock.patch.multiple(reference, _clip=noted_clip, _activate=noted_activate):
        run_forward(reference, case, tape=False)
    return min(nearest)


# ----------------------------------------------------------- one layer in one direction, for the kernels


NO_MASKS = cells.Masks()


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
    options: cells.Options | None = None
    peepholes: np.ndarray | None = None
    W_r: np.ndarray | None = None
    norm_x: np.ndarray | None = None
    norm_h: np.ndarray | None = None
    norm_c: np.ndarray | None = None
    resets: np.ndarray | None = None
    masks: cells.Masks = NO_MASKS

    @property
    def dtype(self):
        return self.x.dtype

    @property
    def sizes(self):
        """T, B, I, H."""
        return (*self.x.shape, self.cell.hidden_size)

    @property
    def weights(self):
        """Names of the arrays of the cell."""
        extras = (name for name in EXTRAS if getattr(self, name) is not None)
        return ("W_x", "W_h", "bias", *extras)

    @property
    def inputs(self):
        """Names of the arrays that have a derivative."""
        return ("x", *self.weights, *(f"{name}_0" for name in self.kind.states))

    @property
    def is_real(self):
        """Which steps are no padding, shape (T, B)."""
        return np.arange(len(self.x))[:, None] < self.lengths

    @property
    def cell(self):
        return self.cell_of({name: locked(getattr(self, name)) for name in self.weights})

    def cell_of(self, arrays):
        """Return a cell on other arrays."""
        return cells.Cell(self.kind, options=self.options, **arrays)

    @property
    def schedule(self):
        resets = None if self.resets is None else locked(self.resets)
        return cells.Schedule(locked(self.lengths), self.reverse, resets)

    def state(self, pattern):
        """Return the arrays of a state by a pattern for their names, such as "{}_0", read-only."""
        return tuple(locked(getattr(self, pattern.format(name))) for name in self.kind.states)

    def astype(self, dtype):
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("lengths", "resets")}
        arrays = {name: value for name, value in arrays.items() if isinstance(value, np.ndarray)}
        masks = self.map_masks(lambda mask: mask.astype(dtype))
        return replace(self, masks=masks, **{name: value.astype(dtype) for name, value in arrays.items()})

    def map_masks(self, change):
        """Return changed masks, of which those whose steps are alike stay so."""
        return cells.Masks(*(
            mask if mask is None
            else np.broadcast_to(change(mask[0]), mask.shape) if len(mask) and not mask.strides[0]
            else change(mask)
            for mask in self.masks
        ))  # fmt: skip


def make_case(
    T,
    B,
    I,  # noqa: E741
    H,
    dtype="float64",
    *,
    kind="lstm",
    reverse=False,
    lengths=None,
    seed=0,
    options=None,
    resets=None,
):
    """Draw a case; `lengths` is None for full rows, "ragged" for random ones with 0 and T, or an array.

    `options` are like those of `OPTIONS`, `resets` are "random" or an array (T, B).  Padding of x and dy is
    NaN, so that whatever reads it shows.  A case that comes close to a corner is drawn again.
    """
    for again in range(100):
        case = _draw_case(T, B, I, H, kind, reverse, lengths, [seed, T, B, I, H, *[again] * (again > 0)])
        case = _with_options(case, options or {}, resets, np.random.default_rng([seed, again]))
        # Far beyond any rounding.
        if case.options is None or distance_to_corners(case) > 1e-4:
            return case.astype(dtype)
    raise AssertionError(f"expected a case away from every corner, got none for {options}")


def _draw_case(T, B, I, H, kind, reverse, lengths, seed):  # noqa: E741
    kind = KINDS[kind]
    G = len(kind.gates)
    rng = np.random.default_rng(seed)
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
    return case


def _with_options(case, options, resets, rng):
    """Return a case with arrays, masks and resets added, and h cut to the numbers of a projection."""
    T, B, _, H = case.sizes
    R = max(1, int(options["proj_size"] * H)) if options.get("proj_size") else H
    new = {}
    if isinstance(resets, str):
        new["resets"] = rng.random((T, B)) < 0.3
    elif resets is not None:
        new["resets"] = np.asarray(resets, bool)
    if options.get("drawn", True):
        new["masks"] = _draw_masks(options, T, B, R, H, rng, alike="resets" not in new)
    if options.get("peepholes"):
        new["peepholes"] = rng.uniform(-1, 1, (3, H))
    if R != H or options.get("proj_size"):
        new["W_r"] = rng.uniform(-1.5, 1.5, (H, R)) / np.sqrt(H)
        new |= {name: getattr(case, name)[..., :R].copy() for name in ("h_0", "dy", "dh_n")}
        new["W_h"] = case.W_h[:R] * np.sqrt(H / R)
    if options.get("layer_norm"):
        new |= {name: rng.uniform(0.5, 1.5, 4 * H) for name in ("norm_x", "norm_h")}
        new["norm_c"] = np.stack([rng.uniform(0.5, 1.5, H), rng.uniform(-1, 1, H)])
    names = ("activations", "gate_clip", "cell_clip", "coupled", "zoneout")
    given = clstm.LSTM(1, 2, **{name: options[name] for name in names if name in options}).cells[0].options
    if given is not None or new.keys() & {*EXTRAS}:
        new["options"] = given or cells.Options()
    return replace(case, **new)


def _draw_masks(options, T, B, R, H, rng, alike):
    """Draw what training would; recurrent dropout anew for each step, or once if all steps are alike."""

    def ones(p, *shape):
        return (rng.random(shape) < p).astype(float)

    p, (p_h, p_c) = options.get("recurrent_dropout", 0), options.get("zoneout", (0, 0))
    recurrent = ones(1 - p, *(() if alike else (T,)), B, R)
    if options.get("layer_norm"):  # N of one number times W_h hardly depends on it: rounding is all there is
        recurrent[..., :2] = 1
    return cells.Masks(
        np.broadcast_to(recurrent / (1 - p), (T, B, R)) if p else None,
        ones(p_h, T, B, R) if p_h else None,
        ones(p_c, T, B, H) if p_c else None,
    )


def case_of_any_options(data, options, *, least_rows=0, most=(5, 3, 3, 5), dtype="float64"):
    """Draw a case of any sizes, lengths, resets and direction.

    A layer norm of x W_x with one input, or of h W_h with one number of h, hardly depends on it: there is
    nothing left of its derivative but the small difference of large numbers.
    """
    lowest = (0, least_rows, *((2, 4) if options["layer_norm"] else (1, 1)))
    T, B, I, H = (data.draw(st.integers(*ends)) for ends in zip(lowest, most, strict=True))  # noqa: E741
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    resets, reverse = data.draw(st.sampled_from([None, "random"])), data.draw(st.booleans())
    with np.errstate(all="ignore"):  # gates that are not bounded may let a cell grow beyond every float
        case = make_case(T, B, I, H, dtype, reverse=reverse, lengths=lengths, options=options, resets=resets)
        assume(is_well_conditioned(case))
    return case


def is_well_conditioned(case):
    """Whether the definition itself keeps well within what is promised when it is run in the case's dtype."""
    got, expected = run(reference, case), run(reference, case.astype("float64"))
    names = [name for name in (*FORWARD_RESULTS, *BACKWARD_RESULTS) if name in got and got[name].size]
    for name in names:
        promise = "forward" if name in FORWARD_RESULTS else "backward"
        tolerance, scale = TOLERANCES[promise][got[name].dtype.name] / 8, np.abs(expected[name]).max()
        if not np.isfinite(scale) or not np.abs(got[name] - expected[name]).max() <= tolerance * scale:
            return False
    return True


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
    T, B, R = case.dy.shape
    wide = np.full((T, B, 3 * R), np.nan, case.dtype)
    y = wide[:, :, R : 2 * R] if strided else np.full((T, B, R), np.nan, case.dtype)
    masks = case.map_masks(locked)
    left = cells.CellTape(y, masks=masks)
    if tape:
        left = cells.new_tape(case.cell, y, lambda shape, dtype: np.full(shape, np.nan, dtype), masks)
    results = {name: part for name, part in zip(left._fields[:5], left, strict=False) if part is not None}
    results |= {f"{name}_n": nan_like(getattr(case, f"{name}_0")) for name in case.kind.states}
    final = tuple(results[f"{name}_n"] for name in case.kind.states)
    functions.forward(case.cell, locked(case.x), case.state("{}_0"), case.schedule, left, final)
    assert np.isnan(wide[:, :, :R]).all()
    assert np.isnan(wide[:, :, 2 * R :]).all()
    return results


def run_backward(functions, case, tape, *, strided=False, out=None):
    """Run backward on the result of `run_forward`, into arrays full of NaN, or into `out`."""
    left = {name: locked(tape[name]) for name in cells.CellTape._fields if name in tape}
    dy = locked(case.dy)
    if strided:
        rest, R = nan_like(dy), dy.shape[2]
        left["y"], dy = (np.concatenate([rest, v, rest], axis=2)[:, :, R : 2 * R] for v in (left["y"], dy))
    out = out or {"d" + name: nan_like(getattr(case, name)) for name in case.inputs}
    functions.backward(
        case.cell, locked(case.x), case.state("{}_0"), case.schedule,
        cells.CellTape(**left, masks=case.map_masks(locked)), dy, case.state("d{}_n"), out["dx"],
        case.cell_of({name: out["d" + name] for name in case.weights}),
        tuple(out[f"d{name}_0"] for name in case.kind.states),
    )  # fmt: skip
    return out


def run(functions, case, *, strided=False):
    """Run forward and backward; return all results by name."""
    tape = run_forward(functions, case, strided=strided)
    return tape | run_backward(functions, case, tape, strided=strided)


@cache
def case_and_expected(T, B, I, H, dtype, reverse, ragged, kind="lstm", option=None, resets=None):  # noqa: E741
    """Draw a case and run the definition on it in float64; tests share both, which are not to be changed.

    `option` is one of the names of `OPTIONS`, `ACTIVATIONS` and `TOGETHER`.
    """
    case = make_case(
        T, B, I, H, dtype, kind=kind, reverse=reverse, lengths="ragged" if ragged else None, resets=resets,
        options=None if option is None else (OPTIONS | ACTIVATIONS | TOGETHER)[option],
    )  # fmt: skip
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


def central_difference(loss, array, step=1e-6):
    """Differentiate a scalar function of nothing by every element of an array that it reads."""
    gradient = np.zeros(array.shape)
    for index in np.ndindex(array.shape):
        before = array[index]
        array[index] = before + step
        above = loss()
        array[index] = before - step
        gradient[index] = (above - loss()) / (2 * step)
        array[index] = before
    return gradient


def assert_gradients_are_complex_step_derivatives(functions, case):
    """Compare every gradient of float64 functions with the complex-step derivative of the definition."""
    assert_derivatives_close(run(functions, case), complex_step_gradients(case))


def assert_derivatives_close(got, expected):
    """Compare the gradients that `run` returns with complex-step derivatives."""
    for name, value in expected.items():
        assert_close(got[name], value, "complex step", name)


# ------------------------------------------------------------------------------------- the class as a whole


def oracle_step(kind, z, state, peepholes, projection):
    """Return the state of one row after a step with the pre-activations z."""

    def s(v):
        return 1 / (1 + np.exp(-v))

    if kind == "rnn":
        return (np.tanh(z),)
    i, f, g, o = np.split(z, 4)
    p_i, p_f, p_o = peepholes
    c = s(f + p_f * state[1]) * state[1] + s(i + p_i * state[1]) * np.tanh(g)
    return projection @ (s(o + p_o * c) * np.tanh(c)), c


def oracle(kind, params, num_layers, bidirectional, x, state, lengths, masks=None, resets=None):
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
            H = len(W) // (4 if kind == "lstm" else 1)
            b = params.get(f"bias_l{k}{suffix}", np.zeros(len(W)))
            peepholes = params.get(f"weight_peephole_l{k}{suffix}", np.zeros((3, H)))
            projection = params.get(f"weight_hr_l{k}{suffix}", np.eye(H))
            n = k * (1 + bidirectional) + d
            y = np.zeros((T, B, R.shape[1]), np.result_type(x, *params.values(), *state))
            for row in range(B):
                steps = range(lengths[row])
                now = tuple(part[n, row] for part in state)
                for t in reversed(steps) if d else steps:
                    first = t + 1 if d else t  # of an episode, if the step before was in another one
                    if resets is not None and first < lengths[row] and resets[first, row]:
                        now = tuple(np.zeros_like(part) for part in now)
                    now = oracle_step(kind, W @ x[t, row] + R @ now[0] + b, now, peepholes, projection)
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
    """Draw x (T, B, I), state, lengths, dy, dstate and resets for a time-major layer; padding is NaN."""
    rng = np.random.default_rng([seed, T, B])
    LD, R = layer.num_layers * layer.num_directions, layer.output_size
    sizes = (R, layer.hidden_size)[: len(layer.kind.states)]
    lengths = np.full(B, T)
    if ragged:
        lengths = rng.integers(0, T + 1, B)
        lengths[rng.permutation(B)[:2]] = (T, 0)[:B]
    x, dy = (
        rng.standard_normal((T, B, layer.input_size)),
        rng.standard_normal((T, B, layer.num_directions * R)),
    )
    padding = np.arange(T)[:, None] >= lengths
    x[padding] = dy[padding] = np.nan
    states = (tuple(rng.uniform(-1, 1, (LD, B, n)).astype(layer.dtype) for n in sizes) for _ in range(2))
    state, dstate = (parts if len(parts) > 1 else parts[0] for parts in states)
    return SimpleNamespace(
        x=x.astype(layer.dtype), dy=dy.astype(layer.dtype), state=state, dstate=dstate, lengths=lengths,
        is_real=~padding, resets=rng.random((T, B)) < 0.3,
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
        cls = type(cls.__name__, (cls,), {"functions": functions})
    layer = cls(*args, rng=seed, **kwargs)
    rng = np.random.default_rng([seed, 1])
    layer.flat_params[...] = rng.uniform(-1, 1, layer.flat_params.size) / np.sqrt(layer.hidden_size)
    return layer


def quantized_on(build, lstm, precision, *, dot=False, **kwargs):
    """Quantize a layer for one kernel build, or for the definition, "reference".

    dot: with the instruction for bytes that not every processor has.
    """
    if build == "reference":
        return clstm.QuantizedLSTM(lstm, precision, backend="numpy", **kwargs)
    namespace = {"functions": functions_of(build, "float32")}
    before = load_build(build).use_dot(dot)
    try:
        small = type("QuantizedLSTM", (clstm.QuantizedLSTM,), namespace)(lstm, precision, **kwargs)
    finally:
        load_build(build).use_dot(before)
    return small


def build_lstm(*args, **kwargs):
    """Make an LSTM as `build_layer` does."""
    return build_layer("lstm", *args, **kwargs)


def build_lstm_on(build, *args, **kwargs):
    """Make an LSTM as `build_layer` does, on one kernel build."""
    return build_layer("lstm", *args, build=build, **kwargs)
