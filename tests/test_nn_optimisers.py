"""clstm.nn optimisers and clipping: step by step against formulas in Python's floats, and PyTorch's."""

import copy
import json
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, build_lstm

from clstm import nn
from clstm.nn import flat

STEPS = 20

# Arguments of each class, and PyTorch's name of it where the arguments have the same names.
CASES = {
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD, decay": ("SGD", {"lr": 0.1, "weight_decay": 0.05}),
    "SGD, momentum": ("SGD", {"lr": 0.1, "momentum": 0.8}),
    "SGD, all": ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    "Adam": ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}),
    "Adam, defaults": ("Adam", {}),
    "AdamW": ("AdamW", {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    "RMSProp": ("RMSProp", {"lr": 0.01, "alpha": 0.9, "eps": 1e-6}),
    "RMSProp, momentum": ("RMSProp", {"lr": 0.01, "alpha": 0.9, "eps": 1e-6, "momentum": 0.8}),
}


@pytest.fixture(params=CASES)
def case(request):
    """Return a class and its arguments."""
    name, arguments = CASES[request.param]
    return nn.OPTIMISERS[name], arguments


def build(params, dtype=None):
    """Make what an optimiser needs of a layer."""
    params = np.array(params, dtype)
    return SimpleNamespace(flat_params=params, flat_grads=np.zeros_like(params))


def draw(sizes=(6, 3), dtype="float64", steps=STEPS, seed=0):
    """Draw layers and their gradients at each step."""
    rng = np.random.default_rng(seed)
    layers = [build(rng.standard_normal(size), dtype) for size in sizes]
    return layers, [[rng.standard_normal(size).astype(dtype) for size in sizes] for _ in range(steps)]


def train(optimiser, gradients):
    """Take a step for each set of gradients."""
    for given in gradients:
        for layer, g in zip(optimiser.layers, given, strict=True):
            layer.flat_grads[...] = g
        optimiser.step()


def sgd(p, gradients, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    b = 0.0
    for g in gradients:
        g = g + weight_decay * p
        b = momentum * b + g
        p = p - lr * (g + momentum * b if nesterov else b)
    return p


def adam(p, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        p = p - lr * weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        p = p - lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


def rmsprop(p, gradients, lr, alpha, eps, momentum=0.0):
    v = b = 0.0
    for g in gradients:
        v = alpha * v + (1 - alpha) * g**2
        b = momentum * b + g / (math.sqrt(v) + eps)
        p = p - lr * b
    return p


FORMULAS = {"SGD": sgd, "Adam": adam, "AdamW": adam, "RMSProp": rmsprop}


def test_steps_are_those_of_the_formula(case, dtype):
    made, arguments = case
    layers, gradients = draw(dtype=dtype)
    arrays = [layer.flat_params for layer in layers]
    expected = [
        [
            FORMULAS[made.__name__](p, [float(g[n][k]) for g in gradients], **arguments)
            for k, p in enumerate(layer.flat_params.tolist())
        ]
        for n, layer in enumerate(layers)
    ]
    train(made(layers, **arguments), gradients)
    for layer, array, values in zip(layers, arrays, expected, strict=True):
        assert layer.flat_params is array
        assert_close(array, values, "forward")


def test_steps_are_those_of_torch(case):
    torch = pytest.importorskip("torch")
    made, arguments = case
    layers, gradients = draw()
    parameters = [torch.nn.Parameter(torch.tensor(layer.flat_params)) for layer in layers]
    theirs = {"RMSProp": "RMSprop"}.get(made.__name__, made.__name__)
    peer = getattr(torch.optim, theirs)(parameters, **arguments)
    for given in gradients:
        for parameter, g in zip(parameters, given, strict=True):
            parameter.grad = torch.tensor(g)
        peer.step()
    train(made(layers, **arguments), gradients)
    for layer, parameter in zip(layers, parameters, strict=True):
        assert_close(layer.flat_params, parameter.detach().numpy(), "forward")


def test_a_long_array_is_the_sum_of_its_pieces(case, dtype):
    made, arguments = case
    (long,), gradients = draw((2 * flat.PIECE + 5,), dtype, steps=3)
    cuts = [0, 7, flat.PIECE + 1, long.flat_params.size]
    parts = [build(long.flat_params[a:b]) for a, b in pairwise(cuts)]
    train(made([long], **arguments), gradients)
    train(made(parts, **arguments), [np.split(g, cuts[1:-1]) for (g,) in gradients])
    assert_same_bits(long.flat_params, np.concatenate([part.flat_params for part in parts]))


def test_layers_without_parameters_and_of_both_dtypes_go_together(case):
    made, arguments = case
    layers, gradients = draw((4, 0, 3))
    layers[2] = build(layers[2].flat_params, "float32")
    alone = build(layers[0].flat_params)
    train(made([alone], **arguments), [given[:1] for given in gradients])
    train(made(layers, **arguments), gradients)
    assert_same_bits(layers[0].flat_params, alone.flat_params)
    assert layers[2].flat_params.dtype == np.float32
    made([build([])], **arguments).step()


def test_gradients_stay_as_they_are(case):
    made, arguments = case
    layers, gradients = draw(steps=1)
    train(made(layers, **arguments), gradients)
    for layer, g in zip(layers, gradients[0], strict=True):
        assert_same_bits(layer.flat_grads, g)


def test_a_loaded_state_continues_with_the_same_bits(case, dtype):
    made, arguments = case
    layers, gradients = draw(dtype=dtype)
    whole = made(layers, **arguments)
    train(whole, gradients[:7])
    whole.lr *= 0.5
    resumed = [build(layer.flat_params) for layer in layers]
    state = copy.deepcopy(whole.state_dict())
    train(whole, gradients[7:])
    again = nn.OPTIMISERS[state["class"]](resumed, **json.loads(json.dumps(whole.arguments)))
    again.load_state_dict(state)
    train(again, gradients[7:])
    for layer, other in zip(layers, resumed, strict=True):
        assert_same_bits(other.flat_params, layer.flat_params)


def test_a_state_is_a_copy_and_is_copied_in(case):
    made, arguments = case
    layers, gradients = draw()
    optimiser = made(layers, **arguments)
    train(optimiser, gradients[:2])
    state = optimiser.state_dict()
    before = copy.deepcopy(state)
    train(optimiser, gradients[2:4])
    np.testing.assert_equal(state, before)
    optimiser.load_state_dict(state)
    train(optimiser, gradients[4:])
    np.testing.assert_equal(state, before)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"class": "SGD"}, ValueError, r"state_dict\['class'\]: expected one of 'Adam', got 'SGD'"),
        ({"t": -1}, ValueError, r"state_dict\['t'\]: expected at least 0, got -1"),
        ({"t": 2.5}, TypeError, r"state_dict\['t'\]: expected an integer, got 2.5"),
        ({"lr": None}, TypeError, r"state_dict\['lr'\]: expected a number, got None"),
        ({"extra": 1}, ValueError, "state_dict: expected exactly class, lr, t, arrays; .* unexpected: extra"),
        (
            {"arrays": []},
            ValueError,
            r"state_dict\['arrays'\]: expected a list of 2 dictionaries, one a layer",
        ),
        (
            {"arrays": [{"m": np.ones(6), "v": np.ones(6)}, {"m": np.ones(3)}]},
            ValueError,
            r"state_dict\['arrays'\]\[1\]: expected exactly m, v; missing: v",
        ),
        (
            {"arrays": [{"m": np.ones(6), "v": np.ones(6)}, {"m": np.ones(3), "v": np.ones(4)}]},
            ValueError,
            r"state_dict\['arrays'\]\[1\]\['v'\]: expected shape \(3,\), got \(4,\)",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, error, message):
    layers, gradients = draw()
    optimiser = nn.Adam(layers)
    train(optimiser, gradients[:2])
    before = optimiser.state_dict()
    with pytest.raises(error, match=message):
        optimiser.load_state_dict(before | {"lr": 7.0, "t": 5} | change)
    np.testing.assert_equal(optimiser.state_dict(), before)


def test_the_step_size_may_be_set_between_steps():
    layers, gradients = draw()
    optimiser = nn.SGD(layers, 0.1)
    before = layers[0].flat_params.copy()
    optimiser.lr = 0
    train(optimiser, gradients[:1])
    assert_same_bits(layers[0].flat_params, before)
    optimiser.lr = 2.0
    train(optimiser, gradients[:1])
    assert_close(layers[0].flat_params, before - 2 * gradients[0][0], "forward")
    with pytest.raises(ValueError, match="lr: expected a number of at least 0, got -1"):
        optimiser.lr = -1
    assert optimiser.lr == 2.0
    assert optimiser.arguments["lr"] == 0.1


def test_arguments_are_a_copy():
    optimiser = nn.Adam(draw()[0])
    optimiser.arguments["betas"][0] = 7
    assert optimiser.arguments["betas"] == [0.9, 0.999]
    assert repr(optimiser) == "Adam(lr=0.001, betas=[0.9, 0.999], eps=1e-08)"


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_gradients_that_are_not_finite_raise_no_warning(case, bad, dtype):
    made, arguments = case
    layers, gradients = draw(dtype=dtype, steps=2)
    with np.errstate(over="ignore"):
        gradients[0][0][1] = bad
    train(made(layers, **arguments), gradients)
    assert np.isfinite(layers[1].flat_params).all()


@pytest.mark.parametrize(
    ("name", "arguments"), [("Adam", {}), ("SGD", {"momentum": 0.9}), ("RMSProp", {"momentum": 0.9})]
)
def test_what_decays_becomes_zero_before_it_is_denormal(name, arguments):
    layers, gradients = draw(dtype="float32", steps=1)
    optimiser = nn.OPTIMISERS[name](layers, **arguments)
    train(optimiser, gradients)
    for layer in layers:
        layer.flat_grads[...] = 0
    decaying = [arrays["m" if name == "Adam" else "b"] for arrays in optimiser.arrays]
    tiny = np.finfo("float32").tiny
    for _ in range(1200):
        optimiser.step()
        assert all((array == 0) | (np.abs(array) >= tiny) for array in np.concatenate(decaying))
    assert not np.concatenate(decaying).any()


def test_an_optimiser_of_ones_own_has_a_few_lines():
    class SignDescent(nn.Optimiser):
        def __init__(self, layers, lr=0.5):
            super().__init__(layers, lr, {})

        def update(self, p, g, state, scratch):
            np.sign(g, out=scratch[0])
            scratch[0] *= self.lr
            p -= scratch[0]

    layer = build([1.0, 2.0, 3.0])
    layer.flat_grads[...] = 7.0, -3.0, 0.0
    optimiser = SignDescent([layer])
    optimiser.step()
    assert_same_bits(layer.flat_params, np.array([0.5, 2.5, 3.0]))
    assert optimiser.state_dict() == {"class": "SignDescent", "lr": 0.5, "t": 1, "arrays": [{}]}


def test_optimisers_take_real_layers(dtype):
    layers = [build_lstm(2, 3, dtype=dtype), nn.Dense(3, 1, dtype=dtype)]
    before = [layer.flat_params.copy() for layer in layers]
    for layer in layers:
        layer.flat_grads[...] = 1
    nn.Adam(layers, lr=0.5).step()
    for layer, params in zip(layers, before, strict=True):
        assert_close(layer.flat_params, params - 0.5 / (1 + 1e-8), "forward")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: nn.Adam(d), TypeError, "layers: expected a list of layers, got Dense"),
        (lambda _: nn.Adam([]), ValueError, "layers: expected at least one layer, got none"),
        (
            lambda d: nn.Adam([d, 3]),
            TypeError,
            "layers: expected objects with flat_params and flat_grads, got 3",
        ),
        (lambda d: nn.Adam([d, d]), ValueError, "layers: expected each layer once"),
        (
            lambda _: nn.Adam([SimpleNamespace(flat_params=[1.0], flat_grads=[1.0])]),
            TypeError,
            r"flat_params: expected an array of float32 or float64, got \[1.0\]",
        ),
        (
            lambda _: nn.Adam([build([[1.0]])]),
            ValueError,
            r"flat_params: expected shape \(n,\), got \(1, 1\)",
        ),
        (
            lambda _: nn.Adam([build([1])]),
            TypeError,
            "flat_params: expected an array of float32 or float64, got array of shape .* int64",
        ),
        (
            lambda _: nn.Adam([SimpleNamespace(flat_params=np.ones(4)[::2], flat_grads=np.ones(2))]),
            ValueError,
            "flat_params: expected a contiguous, writable array",
        ),
        (
            lambda _: nn.Adam([SimpleNamespace(flat_params=np.ones(4), flat_grads=np.ones(3))]),
            ValueError,
            r"flat_grads: expected an array of shape \(4,\) and dtype float64, as flat_params is, got",
        ),
        (lambda d: nn.Adam([d], lr=0), ValueError, "lr: expected a number above 0, got 0"),
        (lambda d: nn.Adam([d], lr="fast"), TypeError, "lr: expected a number, got 'fast'"),
        (
            lambda d: nn.Adam([d], betas=0.9),
            ValueError,
            r"betas: expected a pair \(beta_1, beta_2\), got 0.9",
        ),
        (
            lambda d: nn.Adam([d], betas=(0.9, 1.0)),
            ValueError,
            r"betas\[1\]: expected a number in \[0, 1\), got 1.0",
        ),
        (lambda d: nn.Adam([d], eps=-1.0), ValueError, "eps: expected a number above 0, got -1.0"),
        (
            lambda d: nn.AdamW([d], weight_decay=-1),
            ValueError,
            "weight_decay: expected a number of at least 0, got -1",
        ),
        (
            lambda d: nn.SGD([d], nesterov=True),
            ValueError,
            "momentum: expected a number above 0 with nesterov, got 0",
        ),
        (lambda d: nn.SGD([d], momentum=1), ValueError, r"momentum: expected a number in \[0, 1\), got 1"),
        (lambda d: nn.SGD([d], nesterov=1), TypeError, "nesterov: expected True or False, got 1"),
        (lambda d: nn.RMSProp([d], alpha=1), ValueError, r"alpha: expected a number in \[0, 1\), got 1"),
        (lambda d: nn.clip_grad_norm([d], 0.0), ValueError, "max_norm: expected a number above 0, got 0.0"),
        (lambda _: nn.clip_grad_norm([], 1.0), ValueError, "layers: expected at least one layer, got none"),
        (lambda d: nn.clip_grad_value([d], -1), ValueError, "max_value: expected a number above 0, got -1"),
    ],
)
def test_optimisers_and_clipping_refuse_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make(nn.Dense(1, 1))


# ----------------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("sizes", [(9, 1, 88), (flat.PIECE + 3, 0, 5)], ids=["short", "long"])
def test_clip_grad_norm_scales_all_layers_together(sizes, dtype):
    layers, (gradients,) = draw(sizes, dtype, steps=1)
    for layer, g in zip(layers, gradients, strict=True):
        layer.flat_grads[...] = g
    before = np.concatenate(gradients)
    norm = np.array(math.sqrt(math.fsum(float(g) ** 2 for g in before)))

    assert_close(np.array(nn.clip_grad_norm(layers, 1e3)), norm, "forward")
    assert_same_bits(np.concatenate([layer.flat_grads for layer in layers]), before)
    assert_close(np.array(nn.clip_grad_norm(layers, 0.5)), norm, "forward")
    assert_close(
        np.concatenate([layer.flat_grads for layer in layers]),
        before.astype("float64") * (0.5 / norm),
        "forward",
    )


def test_clip_grad_norm_of_large_float32_numbers_is_finite():
    layer = build(np.zeros(2), "float32")
    layer.flat_grads[...] = 3e30, 4e30
    assert_close(np.array(nn.clip_grad_norm([layer], 1.0), "float32"), 5e30, "forward")
    assert_close(layer.flat_grads, [0.6, 0.8], "forward")


@pytest.mark.parametrize("bad", [np.inf, np.nan, 1e200])
def test_clip_grad_norm_leaves_what_is_not_finite(bad):
    layer = build(np.zeros(2))
    layer.flat_grads[...] = bad, 1.0
    assert not math.isfinite(nn.clip_grad_norm([layer], 1.0))
    assert_same_bits(layer.flat_grads, np.array([bad, 1.0]))


def test_clip_grad_value_limits_every_gradient(dtype):
    layers = [build(np.zeros(4), dtype), build([], dtype)]
    layers[0].flat_grads[...] = 3, -0.25, -np.inf, np.nan
    assert nn.clip_grad_value(layers, 0.5) is None
    assert_same_bits(layers[0].flat_grads, np.array([0.5, -0.25, -0.5, np.nan], dtype))
