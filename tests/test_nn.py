"""clstm.nn: layer, windows against their formulas, the model against central differences."""

import copy
import math
import pickle

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, central_difference

from clstm import nn

LEADING = [(), (5,), (2, 3), (0, 4)]


def build_dense(*args, **kwargs):
    """Make a dense layer whose every parameter is random, the bias included."""
    dense = nn.Dense(*args, rng=0, **kwargs)
    dense.flat_params[...] = np.random.default_rng(1).uniform(-1, 1, dense.flat_params.size)
    return dense


# ---------------------------------------------------------------------------------------------------- Dense


@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_dense_computes_its_formula(leading, dtype):
    dense = build_dense(3, 4, dtype=dtype)
    x = np.random.default_rng(2).standard_normal((*leading, 3)).astype(dtype)
    expected = np.einsum("oi,...i->...o", dense.params["weight"], x) + dense.params["bias"]
    assert_close(dense(x), expected, "forward")
    assert_same_bits(dense.forward(x), dense(x))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("leading", LEADING, ids=str)
def test_dense_gradients_are_central_differences(leading, bias):
    dense, rng = build_dense(3, 4, bias=bias), np.random.default_rng(2)
    x, dy = rng.standard_normal((*leading, 3)), rng.standard_normal((*leading, 4))
    dense.forward(x)
    dx = dense.backward(dy)

    def loss():
        return float((dy * dense(x)).sum())

    assert_close(dense.flat_grads, central_difference(loss, dense.flat_params), "central difference")
    assert_close(dx, central_difference(loss, x), "central difference")
    assert sorted(dense.grads) == (["bias", "weight"] if bias else ["weight"])


def test_dense_float32_gradients_equal_float64():
    single, double = build_dense(3, 4, dtype="float32"), build_dense(3, 4)
    double.flat_params[...] = single.flat_params
    rng = np.random.default_rng(2)
    x, dy = rng.standard_normal((6, 3)).astype("float32"), rng.standard_normal((6, 4)).astype("float32")
    single.forward(x)
    double.forward(x)
    assert_close(single.backward(dy), double.backward(dy), "backward")
    assert_close(single.flat_grads, double.flat_grads, "backward")


def test_dense_accumulates_on_demand():
    dense, dy = build_dense(3, 4), np.ones((5, 4))
    dense.forward(np.ones((5, 3)))
    dense.backward(dy)
    once = dense.flat_grads.copy()
    dense.backward(dy)
    assert_same_bits(dense.flat_grads, once)
    dense.backward(dy, accumulate=True)
    assert_same_bits(dense.flat_grads, 2 * once)


def test_dense_parameters_are_views_of_one_array():
    dense = build_dense(3, 4)
    assert dense.params["weight"].shape == (4, 3)
    assert dense.params["bias"].shape == (4,)
    dense.flat_params[...] = 0
    dense.params["bias"] += 2
    assert_same_bits(dense(np.ones(3)), np.full(4, 2.0))
    for named, flat in ((dense.params, dense.flat_params), (dense.grads, dense.flat_grads)):
        assert all(np.shares_memory(value, flat) for value in named.values())


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda dense: pickle.loads(pickle.dumps(dense))], ids=["copy", "pickle"]
)
def test_dense_copy_has_views_of_its_own(duplicate):
    dense = build_dense(3, 4)
    copied = duplicate(dense)
    assert_same_bits(copied.flat_params, dense.flat_params)
    copied.flat_params[...] = 0
    assert not copied(np.ones(3)).any()
    assert dense(np.ones(3)).any()


def test_dense_initial_weights():
    dense = nn.Dense(30, 20, rng=3)
    limit = math.sqrt(6 / 50)
    assert 0.9 * limit < np.abs(dense.params["weight"]).max() <= limit
    assert not dense.params["bias"].any()
    assert_same_bits(nn.Dense(30, 20, rng=np.random.default_rng(3)).flat_params, dense.flat_params)


def test_dense_tape_is_a_copy_and_a_call_leaves_it():
    dense = build_dense(1, 1)
    x = np.array([[2.0]])
    dense.forward(x)
    x[...] = 7
    dense(np.array([[9.0]]))
    dense.backward([[1.0]])
    assert dense.grads["weight"] == 2.0


def test_dense_state_dict_round_trip():
    dense, other = build_dense(3, 4), nn.Dense(3, 4)
    other.load_state_dict(dense.state_dict())
    assert_same_bits(other.flat_params, dense.flat_params)
    assert not np.shares_memory(dense.state_dict()["bias"], dense.flat_params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "state_dict: expected exactly weight, bias; missing: bias"),
        ({"extra": np.ones(3)}, "unexpected: extra"),
        ({"bias": np.ones(5)}, r"state_dict\['bias'\]: expected shape \(4,\), got \(5,\)"),
    ],
    ids=["missing", "extra", "misshapen"],
)
def test_dense_state_dict_that_does_not_fit_changes_nothing(change, message):
    dense = build_dense(3, 4)
    before = dense.flat_params.copy()
    given = {
        name: value for name, value in (nn.Dense(3, 4).state_dict() | change).items() if value is not None
    }
    with pytest.raises(ValueError, match=message):
        dense.load_state_dict(given)
    assert_same_bits(dense.flat_params, before)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: nn.Dense(0, 1), ValueError, "input_size: expected at least 1, got 0"),
        (lambda _: nn.Dense(1, 2.5), TypeError, "output_size: expected an integer, got 2.5"),
        (lambda _: nn.Dense(1, 1, bias=1), TypeError, "bias: expected True or False, got 1"),
        (lambda _: nn.Dense(1, 1, dtype=int), ValueError, "dtype: expected float32 or float64"),
        (lambda dense: dense(np.ones((5, 2))), ValueError, r"x: expected shape \(..., 3\), got \(5, 2\)"),
        (
            lambda dense: dense(np.ones((2, 5, 2))),
            ValueError,
            r"x: expected shape \(..., 3\), got \(2, 5, 2\)",
        ),
        (lambda dense: dense.forward(1.0), ValueError, r"x: expected shape \(..., 3\), got \(\)"),
        (
            lambda dense: dense(np.ones(3, complex)),
            TypeError,
            "x: expected real numbers, got dtype complex128",
        ),
        (
            lambda _: build_dense(3, 4).backward(np.ones(4)),
            RuntimeError,
            "backward: expected a call of forward before it",
        ),
        (
            lambda dense: dense.backward(np.ones((4, 4))),
            ValueError,
            r"dy: expected shape \(5, 4\), got \(4, 4\)",
        ),
        (
            lambda dense: dense.backward(np.ones((5, 4)), 1),
            TypeError,
            "accumulate: expected True or False, got 1",
        ),
    ],
)
def test_dense_refuses_bad_input(call, error, message):
    dense = build_dense(3, 4)
    dense.forward(np.ones((5, 3)))
    dense.flat_grads[...] = 7
    with pytest.raises(error, match=message):
        call(dense)
    assert (dense.flat_grads == 7).all()
    dense.backward(np.ones((5, 4)))  # the tape is still there


# -------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("features", [None, 1, 3], ids=["1-D", "F=1", "F=3"])
@pytest.mark.parametrize(("N", "input_steps", "horizon"), [(10, 4, 2), (6, 5, 1), (5, 1, 3)])
def test_windows_are_slices_of_the_series(N, input_steps, horizon, features):
    series = np.random.default_rng(0).standard_normal((N,) if features is None else (N, features))
    x, y = nn.windows(series, input_steps, horizon)
    n = N - input_steps - horizon + 1
    assert x.shape == (n, input_steps, features or 1)
    assert y.shape == ((n, horizon) if features is None else (n, horizon, features))
    for k in range(n):
        assert_same_bits(x[k].reshape(series[:input_steps].shape), series[k : k + input_steps])
        assert_same_bits(y[k], series[k + input_steps : k + input_steps + horizon])


def test_windows_take_no_memory_and_cannot_be_written_to():
    series = np.arange(10.0)
    for part in nn.windows(series, 4, 2):
        assert np.shares_memory(part, series)
        with pytest.raises(ValueError, match="read-only"):
            part[...] = 0


@pytest.mark.parametrize(
    ("series", "expected"),
    [(np.ones(5, "float32"), "float32"), (np.ones(5, int), "float64"), ([1, 2, 3, 4, 5], "float64")],
)
def test_windows_keep_or_choose_a_float_type(series, expected):
    assert [part.dtype.name for part in nn.windows(series, 2)] == [expected] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            (np.ones(5), 3, 3),
            ValueError,
            r"series: expected at least input_steps \+ horizon = 6 steps, got 5",
        ),
        ((np.ones((2, 3, 4)), 1, 1), ValueError, r"series: expected shape \(N, F\), got \(2, 3, 4\)"),
        ((np.ones(5), 0, 1), ValueError, "input_steps: expected at least 1, got 0"),
        ((np.ones(5), 1, 1.5), TypeError, "horizon: expected an integer, got 1.5"),
        ((["a"], 1, 1), TypeError, "series: expected real numbers"),
    ],
)
def test_windows_refuse_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        nn.windows(*arguments)


# ------------------------------------------------------------------------------------------------------ pad


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_padded_sequences_begin_with_what_they_were(dtype, batch_first):
    sequences = [np.arange(2 * n).reshape(n, 2).astype(dtype) for n in (3, 1, 0)]
    x, lengths = nn.pad(sequences, batch_first)
    assert x.dtype == dtype
    assert lengths.tolist() == [3, 1, 0]
    assert x.shape == (3, 3, 2)
    rows = x if batch_first else x.swapaxes(0, 1)
    for row, sequence in zip(rows, sequences, strict=True):
        assert_same_bits(np.ascontiguousarray(row[: len(sequence)]), sequence)
        assert not row[len(sequence) :].any()


@pytest.mark.parametrize(
    ("sequences", "error", "message"),
    [
        ([], TypeError, "sequences: expected a list of arrays"),
        (np.ones((2, 3)), TypeError, "sequences: expected a list of arrays"),
        ([[1.0], [[1.0]]], ValueError, r"sequences\[1\]: expected shape \(T,\), got \(1, 1\)"),
        (
            [[1], [1.5]],
            TypeError,
            r"sequences\[1\]: expected integers, as sequences\[0\] has, got dtype float64",
        ),
        ([[1.0], ["a"]], TypeError, r"sequences\[1\]: expected real numbers, got dtype <U1"),
    ],
)
def test_pad_refuses_bad_input(sequences, error, message):
    with pytest.raises(error, match=message):
        nn.pad(sequences)
