"""The definition of every kind of cell: exact gradients by complex steps; a second oracle agrees."""

import inspect

import numpy as np
import pytest
from conftest import (
    ACTIVATIONS,
    KINDS,
    OPTIONS,
    SPECS,
    TOGETHER,
    TOLERANCES,
    any_options,
    assert_close,
    assert_gradients_are_complex_step_derivatives,
    assert_same_bits,
    case_of_any_options,
    make_case,
    oracle,
    run,
    run_forward,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import clstm
from clstm import cells, reference

# T, B, I, H
SIZES = [
    pytest.param((5, 3, 2, 3), id="general"),
    pytest.param((1, 3, 2, 3), id="T=1"),
    pytest.param((5, 1, 2, 3), id="B=1"),
    pytest.param((4, 2, 3, 1), id="H=1"),
    pytest.param((4, 2, 1, 3), id="I=1"),
    pytest.param((1, 1, 1, 1), id="all-1"),
    pytest.param((2, 4, 5, 2), id="wide-input"),
]
DIRECTIONS = [pytest.param(False, id="forward"), pytest.param(True, id="reverse")]
EACH_KIND = pytest.mark.parametrize("kind", KINDS)  # for hypothesis, which is given no fixture
LENGTHS = [pytest.param(None, id="full"), pytest.param("ragged", id="ragged")]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("reverse", DIRECTIONS)
@pytest.mark.parametrize("sizes", SIZES)
def test_gradients_are_complex_step_derivatives(kind, sizes, reverse, lengths):
    case = make_case(*sizes, kind=kind, reverse=reverse, lengths=lengths)
    assert_gradients_are_complex_step_derivatives(reference, case)


@pytest.mark.parametrize(
    ("kind", "only"),
    [(name, f"d{v}") for name, kind in KINDS.items() for v in ("y", *map("{}_n".format, kind.states))],
)
@pytest.mark.parametrize("reverse", DIRECTIONS)
def test_each_way_into_the_loss_alone_has_exact_gradients(kind, only, reverse):
    case = make_case(4, 3, 2, 3, kind=kind, reverse=reverse, lengths=[4, 2, 3])
    for name in {"dy", "dh_n", "dc_n"} - {only}:
        getattr(case, name)[...] = 0
    assert_gradients_are_complex_step_derivatives(reference, case)


@EACH_KIND
@given(
    T=st.integers(0, 4),
    B=st.integers(0, 3),
    I=st.integers(1, 3),
    H=st.integers(1, 3),
    reverse=st.booleans(),
    data=st.data(),
)
def test_gradients_are_complex_step_derivatives_for_any_lengths(kind, T, B, I, H, reverse, data):  # noqa: E741
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    assert_gradients_are_complex_step_derivatives(
        reference, make_case(T, B, I, H, kind=kind, reverse=reverse, lengths=lengths)
    )


@EACH_KIND
@given(
    T=st.integers(0, 6),
    B=st.integers(0, 4),
    I=st.integers(1, 4),
    H=st.integers(1, 5),
    reverse=st.booleans(),
    peepholes=st.booleans(),
    proj_size=st.sampled_from([0, 0.6]),
    data=st.data(),
)
def test_forward_agrees_with_an_oracle_that_loops_over_rows(
    kind,
    T,
    B,
    I,  # noqa: E741
    H,
    reverse,
    peepholes,
    proj_size,
    data,
):
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    resets = data.draw(st.lists(st.lists(st.booleans(), min_size=B, max_size=B), min_size=T, max_size=T))
    options = {"peepholes": peepholes, "proj_size": proj_size} if kind == "lstm" else {}
    case = make_case(
        T, B, I, H, kind=kind, reverse=reverse, lengths=lengths, options=options,
        resets=np.reshape(resets, (T, B)),
    )  # fmt: skip
    suffix = "_reverse" if reverse else ""
    names = {"W_x": "weight_ih", "W_h": "weight_hh", "bias": "bias", "W_r": "weight_hr"}
    params = {
        f"{names.get(name, 'weight_peephole')}_l0{suffix}": getattr(case, name).T for name in case.weights
    }
    params = {name: value.T if "peephole" in name else value for name, value in params.items()}
    if reverse:  # the oracle runs a reverse direction beside a forward one
        params |= {name.removesuffix(suffix): np.zeros_like(value) for name, value in params.items()}
    state = tuple(np.stack([part] * (1 + reverse)) for part in case.state("{}_0"))
    y, final = oracle(kind, params, 1, reverse, case.x, state, case.lengths, resets=case.resets)
    got = run_forward(reference, case, tape=False)
    assert_close(got["y"], y[:, :, -case.dy.shape[2] :], "forward", "y")
    for part, expected in zip(case.kind.states, final, strict=True):
        assert_close(got[f"{part}_n"], expected[-1], "forward", part)


# -------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("resets", [None, "random"], ids=["one-episode", "resets"])
@pytest.mark.parametrize("reverse", DIRECTIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_has_exact_gradients(name, reverse, resets):
    case = make_case(4, 2, 2, 4, reverse=reverse, lengths=[4, 3], options=OPTIONS[name], resets=resets)
    assert_gradients_are_complex_step_derivatives(reference, case)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_has_exact_gradients_in_every_place(name):
    case = make_case(3, 2, 2, 3, options=ACTIVATIONS[name], lengths=[3, 2])
    assert_gradients_are_complex_step_derivatives(reference, case)


@pytest.mark.parametrize("reverse", DIRECTIONS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("dropout", [0.0, 0.4], ids=["undropped", "dropout"])
def test_resets_of_every_kind_have_exact_gradients(kind, reverse, lengths, dropout):
    options = {"recurrent_dropout": dropout}
    case = make_case(
        5, 3, 2, 3, kind=kind, reverse=reverse, lengths=lengths, options=options, resets="random"
    )
    assert case.resets.any()
    assert_gradients_are_complex_step_derivatives(reference, case)


@settings(max_examples=40)
@given(options=any_options(), data=st.data())
def test_any_options_together_have_exact_gradients(options, data):
    assert_gradients_are_complex_step_derivatives(reference, case_of_any_options(data, options))


@pytest.mark.parametrize("name", TOGETHER)
def test_an_output_does_not_see_another_episode_nor_its_gradient(name):
    options = TOGETHER[name]
    for reverse in (False, True):
        resets = np.zeros((5, 1), bool)
        resets[2] = True
        case = make_case(5, 1, 2, 4, reverse=reverse, options=options, resets=resets)
        case.dy[2:], case.dy[:2] = (0, 1) if reverse else (1, 0)  # the loss sees the later episode, then none
        for part in ("dh_n", "dc_n"):
            getattr(case, part)[...] = 0
        dx = run(reference, case)["dx"]
        seen = slice(None, 2) if reverse else slice(2, None)
        assert (dx[seen] != 0).all()
        dx[seen] = 0
        assert (dx == 0).all()


def test_what_a_clip_holds_passes_no_gradient():
    case = make_case(1, 2, 2, 4, options={"cell_clip": 1e-3})
    got = run(reference, case)
    assert (np.abs(got["c"]) == 1e-3).all()
    for name in ("dc_0",):
        assert (got[name] == 0).all()
    gates = np.split(got["dbias"], 4)
    assert all((gate == 0).all() for gate in gates[:3])
    assert (gates[3] != 0).all()  # o is no part of the cell
    case = make_case(1, 2, 2, 4, options={"gate_clip": 1e-3})
    assert (run(reference, case)["dx"] == 0).all()


def test_coupled_gates_do_not_read_the_forget_gates_weights():
    case = make_case(3, 2, 2, 4, options={"coupled": True, "peepholes": True})
    got = run(reference, case)
    forget = cells.LSTM.block("f", 4)
    for name in ("W_x", "W_h", "bias"):
        assert (got[f"d{name}"][..., forget] == 0).all()
        getattr(case, name)[..., forget] = 7
    assert (got["dpeepholes"][1] == 0).all()
    case.peepholes[1] = 7
    again = run(reference, case)
    for name in ("y", "dx", "dh_0", "dc_0"):
        assert_same_bits(again[name], got[name], name)


FORMULAS = {  # of ONNX, for one number
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "relu": lambda x: max(0.0, x),
    "hard_sigmoid": lambda x, alpha, beta: max(0.0, min(1.0, alpha * x + beta)),
    "softsign": lambda x: x / (1 + abs(x)),
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "elu": lambda x, alpha: x if x >= 0 else alpha * (np.exp(x) - 1),
    "leaky_relu": lambda x, alpha: x if x >= 0 else alpha * x,
    "thresholded_relu": lambda x, alpha: x if x > alpha else 0.0,
    "scaled_tanh": lambda x, alpha, beta: alpha * np.tanh(beta * x),
    "affine": lambda x, alpha, beta: alpha * x + beta,
    "identity": lambda x: x,
}


def parameters_of(name):
    """Return the defaults of an activation, and another set of its parameters."""
    defaults = cells.ACTIVATIONS[name]
    other = SPECS[name][1] if isinstance(SPECS[name], tuple) else {}
    return [defaults, defaults | other]


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_are_those_of_their_formulas(name):
    assert FORMULAS.keys() == cells.ACTIVATIONS.keys()
    x = np.linspace(-6, 6, 97)
    for values in parameters_of(name):
        got = reference.function(cells.Activation(name, **values), x)
        assert_close(got, np.array([FORMULAS[name](v, **values) for v in x]), "forward", name)


@pytest.mark.parametrize("name", FORMULAS)
def test_slopes_are_complex_step_derivatives(name):
    x = np.linspace(-6, 6, 98)  # no corner among them
    for values in parameters_of(name):
        activation = cells.Activation(name, **values)
        expected = reference.function(activation, x + 1e-30j).imag / 1e-30
        assert_close(reference.slope(activation, x), expected, "complex step", name)


@pytest.mark.parametrize("name", FORMULAS)
def test_activations_and_slopes_keep_nan_and_overflow_nowhere(name):
    x = np.array([np.nan, -1e300, 1e300])
    activation = cells.Activation(name, **cells.ACTIVATIONS[name])
    with np.errstate(all="raise", under="ignore"):
        both = [of(activation, x) for of in (reference.function, reference.slope)]
    for got in both:
        assert np.isnan(got[0])
        assert np.isfinite(got[1:]).all()


def test_nothing_casts_to_float(kind):
    case = make_case(3, 2, 2, 3, kind=kind, lengths=[3, 1]).astype(np.complex128)
    result = run(reference, case)
    assert {value.dtype for value in result.values()} == {np.dtype(np.complex128)}


@pytest.mark.parametrize("name", TOGETHER | ACTIVATIONS)
def test_nothing_casts_to_float_with_options(name):
    options = (TOGETHER | ACTIVATIONS)[name]
    for dtype in (np.complex128, np.float32):
        case = make_case(3, 2, 2, 4, lengths=[3, 1], options=options, resets="random").astype(dtype)
        result = run(reference, case)
        assert {value.dtype for value in result.values()} == {np.dtype(dtype)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_sigmoid_keeps_shape_and_dtype(dtype):
    x = np.linspace(-5, 5, 12, dtype=dtype).reshape(3, 4)
    result = reference.sigmoid(x)
    assert (result.shape, result.dtype) == (x.shape, x.dtype)


def test_sigmoid_is_stable_at_both_ends():
    with np.errstate(all="raise"):
        assert_same_bits(
            reference.sigmoid(np.array([-1e300, -800.0, 0.0, 800.0, 1e300])),
            np.array([0.0, 0.0, 0.5, 1.0, 1.0]),
        )


def test_sigmoid_agrees_with_its_other_formula():
    x = np.linspace(-30, 30, 601)
    error = np.abs(reference.sigmoid(x) - 1 / (1 + np.exp(-x.astype(np.longdouble))))
    assert error.max() <= TOLERANCES["sigmoid"]["float64"]


def test_module_offers_the_class_on_top_of_it():
    lstm = reference.LSTM(2, 3, rng=0)
    assert isinstance(lstm, clstm.LSTM)
    assert lstm.backend == "numpy"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        reference.nonsense  # noqa: B018


def test_docstring_derives_the_backward_pass_and_names_its_sources():
    text = inspect.getdoc(reference)
    for part in ("Hochreiter", "Gers", "1997", "2000", "(B, 4H)", "dc_next * f_next"):
        assert part in text
