"""The definition of every kind of cell: exact gradients by complex steps; a second oracle agrees."""

import inspect

import numpy as np
import pytest
from conftest import (
    KINDS,
    TOLERANCES,
    assert_close,
    assert_gradients_are_complex_step_derivatives,
    assert_same_bits,
    make_case,
    oracle,
    run,
    run_forward,
)
from hypothesis import given
from hypothesis import strategies as st

import clstm
from clstm import reference

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
    data=st.data(),
)
def test_forward_agrees_with_an_oracle_that_loops_over_rows(kind, T, B, I, H, reverse, data):  # noqa: E741
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    case = make_case(T, B, I, H, kind=kind, reverse=reverse, lengths=lengths)
    suffix = "_reverse" if reverse else ""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_l0")
    params = {name + suffix: v.T for name, v in zip(names, (case.W_x, case.W_h, case.bias), strict=True)}
    if reverse:  # the oracle runs a reverse direction beside a forward one
        params |= {name: np.zeros_like(params[name + suffix]) for name in names}
    state = tuple(np.stack([part] * (1 + reverse)) for part in case.state("{}_0"))
    y, final = oracle(kind, params, 1, reverse, case.x, state, case.lengths)
    got = run_forward(reference, case, tape=False)
    assert_close(got["y"], y[:, :, -H:], "forward", "y")
    for part, expected in zip(case.kind.states, final, strict=True):
        assert_close(got[f"{part}_n"], expected[-1], "forward", part)


def test_nothing_casts_to_float(kind):
    case = make_case(3, 2, 2, 3, kind=kind, lengths=[3, 1]).astype(np.complex128)
    result = run(reference, case)
    assert {value.dtype for value in result.values()} == {np.dtype(np.complex128)}


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
