"""clstm.nn: layer, loss, optimiser, windows against their formulas, the model against central differences."""

import copy
import math
import pickle

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, build_lstm, unchanged

import clstm
from clstm import nn

LEADING = [(), (5,), (2, 3), (0, 4)]


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


# ------------------------------------------------------------------------------------------ loss, optimiser


def test_mse_loss_and_its_derivative(dtype):
    rng = np.random.default_rng(0)
    prediction, target = (rng.standard_normal((3, 4)).astype(dtype) for _ in range(2))
    loss, dprediction = nn.mse_loss(prediction, target)
    assert isinstance(loss, float)
    expected = sum((float(p) - float(t)) ** 2 for p, t in zip(prediction.flat, target.flat, strict=True)) / 12
    assert_close(np.array(loss, dtype), np.array(expected), "forward")
    wide = prediction.astype("float64")
    derivative = central_difference(lambda: nn.mse_loss(wide, target)[0], wide)
    assert_close(dprediction, derivative, "central difference" if dtype == "float64" else "backward")


@pytest.mark.parametrize(
    ("prediction", "target", "error", "message"),
    [
        (np.ones((3, 1)), np.ones(3), ValueError, r"target: expected shape \(3, 1\), got \(3,\)"),
        (
            np.ones((0, 2)),
            np.ones((0, 2)),
            ValueError,
            r"prediction: expected at least one element, got shape \(0, 2\)",
        ),
        (np.ones(2), ["a", "b"], TypeError, "target: expected real numbers"),
        (
            np.ones(2, complex),
            np.ones(2),
            TypeError,
            "prediction: expected real numbers, got dtype complex128",
        ),
    ],
)
def test_mse_loss_refuses_bad_input(prediction, target, error, message):
    with pytest.raises(error, match=message):
        nn.mse_loss(prediction, target)


def test_cross_entropy_and_its_derivative(dtype):
    """Row by row in Python's floats."""
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((5, 3)).astype(dtype), [2, 0, 1, 1, 2]
    loss, dprediction = nn.cross_entropy(prediction, target)
    assert isinstance(loss, float)
    odds = [[math.exp(score) for score in row] for row in prediction.tolist()]
    expected = -sum(math.log(row[k] / sum(row)) for row, k in zip(odds, target, strict=True)) / 5
    assert_close(np.array(loss, dtype), np.array(expected), "forward")
    wide = prediction.astype("float64")
    derivative = central_difference(lambda: nn.cross_entropy(wide, target)[0], wide)
    assert_close(dprediction, derivative, "central difference" if dtype == "float64" else "backward")


def test_cross_entropy_of_huge_scores_is_finite():
    loss, dprediction = nn.cross_entropy([[1e4, -1e4], [-1e4, 1e4]], [0, 0])
    assert loss == 1e4
    assert_same_bits(dprediction, np.array([[0.0, 0.0], [-0.5, 0.5]]))


@pytest.mark.parametrize(
    ("prediction", "target", "error", "message"),
    [
        (np.ones(3), [0], ValueError, r"prediction: expected shape \(N, O\), got \(3,\)"),
        (np.ones((0, 3)), [], ValueError, r"prediction: expected at least one element, got shape \(0, 3\)"),
        (np.ones((2, 3)), [0], ValueError, r"target: expected shape \(2,\), got \(1,\)"),
        (np.ones((2, 3)), [0, 3], ValueError, r"target: expected values in 0..2, got 0..3"),
        (np.ones((2, 3)), [-1, 0], ValueError, r"target: expected values in 0..2, got -1..0"),
        (np.ones((2, 3)), [0.0, 1.0], TypeError, "target: expected integers, got dtype float64"),
        (
            np.ones((2, 3), complex),
            [0, 1],
            TypeError,
            "prediction: expected real numbers, got dtype complex128",
        ),
    ],
)
def test_cross_entropy_refuses_bad_input(prediction, target, error, message):
    with pytest.raises(error, match=message):
        nn.cross_entropy(prediction, target)


def test_adam_takes_the_steps_of_its_formula(dtype):
    """Element by element in Python's floats, from algorithm 1 of the paper."""
    layers = [build_dense(2, 3, dtype=dtype), build_dense(1, 2, dtype=dtype)]
    arrays = [layer.flat_params for layer in layers]
    lr, beta_1, beta_2, eps = 0.01, 0.8, 0.95, 1e-6
    adam = nn.Adam(layers, lr, (beta_1, beta_2), eps)
    rng = np.random.default_rng(0)
    gradients = [[rng.standard_normal(p.size).astype(dtype) for p in arrays] for _ in range(4)]
    expected = [p.astype("float64") for p in arrays]
    for n, p in enumerate(expected):
        for k in range(p.size):
            m = v = 0.0
            for t, step in enumerate(gradients, 1):
                g = float(step[n][k])
                m = beta_1 * m + (1 - beta_1) * g
                v = beta_2 * v + (1 - beta_2) * g**2
                p[k] -= lr * (m / (1 - beta_1**t)) / (math.sqrt(v / (1 - beta_2**t)) + eps)
    for step in gradients:
        for layer, g in zip(layers, step, strict=True):
            layer.flat_grads[...] = g
        adam.step()
    for layer, array, p in zip(layers, arrays, expected, strict=True):
        assert layer.flat_params is array
        assert_close(array, p, "forward")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda d: nn.Adam(d), TypeError, "layers: expected a list of layers, got Dense"),
        (
            lambda d: nn.Adam([d, 3]),
            TypeError,
            "layers: expected objects with flat_params and flat_grads, got 3",
        ),
        (lambda d: nn.Adam([d, d]), ValueError, "layers: expected each layer once"),
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
        (lambda d: nn.clip_grad_norm([d], 0.0), ValueError, "max_norm: expected a number above 0, got 0.0"),
    ],
)
def test_optimisers_refuse_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make(nn.Dense(1, 1))


def test_clip_grad_norm_scales_all_layers_together(dtype):
    layers = [build_dense(2, 3, dtype=dtype), build_lstm(2, 3, dtype=dtype)]
    for n, layer in enumerate(layers):
        layer.flat_grads[...] = np.random.default_rng(n).standard_normal(layer.flat_grads.size)
    before = np.concatenate([layer.flat_grads for layer in layers])
    norm = np.array(math.sqrt(math.fsum(float(g) ** 2 for g in before)))

    assert_close(np.array(nn.clip_grad_norm(layers, 1e3)), norm, "forward")
    assert_same_bits(np.concatenate([layer.flat_grads for layer in layers]), before)
    assert_close(np.array(nn.clip_grad_norm(layers, 0.5)), norm, "forward")
    assert_close(
        np.concatenate([layer.flat_grads for layer in layers]),
        before.astype("float64") * (0.5 / norm),
        "forward",
    )


def test_clip_grad_norm_leaves_what_is_not_finite():
    dense = nn.Dense(1, 1)
    dense.flat_grads[...] = np.inf, 1.0
    assert nn.clip_grad_norm([dense], 1.0) == np.inf
    assert_same_bits(dense.flat_grads, np.array([np.inf, 1.0]))


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


# -------------------------------------------------------------------------------------------- SequenceModel


def build_model(output_size=2, dtype="float64", **kwargs):
    """Make a model on an LSTM with 2 inputs and 3 hidden units, every parameter random."""
    lstm = build_lstm(2, 3, dtype=dtype, **kwargs)
    return nn.SequenceModel(lstm, build_dense(3 * lstm.num_directions, output_size, dtype=dtype))


def draw_task(dtype="float64", *, N=7, T=5, seed=0):
    """Draw sequences (N, T, 2) and targets (N, 2) that depend on them."""
    x = np.random.default_rng(seed).standard_normal((N, T, 2))
    return x.astype(dtype), np.stack([x[:, -1, 0], x.mean(axis=(1, 2))], axis=1).astype(dtype)


@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=["full", "ragged"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["T B I", "B T I"])
@pytest.mark.parametrize(
    ("num_layers", "bidirectional"), [(1, False), (2, True)], ids=["one layer", "two layers, both ways"]
)
def test_model_gradients_are_central_differences(num_layers, bidirectional, batch_first, lengths):
    model = build_model(num_layers=num_layers, bidirectional=bidirectional, batch_first=batch_first)
    x = np.random.default_rng(0).standard_normal((3, 5, 2))
    dprediction = np.random.default_rng(1).standard_normal((3, 2))
    x = x if batch_first else np.ascontiguousarray(x.swapaxes(0, 1))
    model.forward(x, lengths)
    dx = model.backward(dprediction)

    def loss():
        return float((dprediction * model(x, lengths)).sum())

    for layer in model.layers:
        assert_close(layer.flat_grads, central_difference(loss, layer.flat_params), "central difference")
    assert_close(dx, central_difference(loss, x), "central difference")


def test_model_reads_the_last_real_step(dtype):
    model = build_model(dtype=dtype, batch_first=True)
    x, _ = draw_task(dtype)
    x[:, 3:] = np.nan
    assert_same_bits(model(x, lengths=[3] * 7), model(x[:, :3]))
    y, _ = model.lstm(x[:, :3])
    assert_same_bits(model(x[:, :3]), model.head(y[:, -1]))


def test_model_takes_one_sequence():
    model = build_model(batch_first=True)
    x, _ = draw_task()
    assert_close(model(x[0]), model(x[:1])[0], "forward")
    assert_same_bits(model.forward(x[0]), model(x[0]))
    assert model.backward(np.ones(2)).shape == (5, 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: nn.SequenceModel(nn.Dense(1, 1), nn.Dense(1, 1)),
            TypeError,
            "lstm: expected LSTM, got Dense",
        ),
        (
            lambda: nn.SequenceModel(clstm.LSTM(1, 2), clstm.LSTM(1, 2)),
            TypeError,
            "head: expected Dense, got LSTM",
        ),
        (
            lambda: nn.SequenceModel(clstm.LSTM(1, 2, bidirectional=True), nn.Dense(2, 1)),
            ValueError,
            "head: expected input_size 4, the LSTM's output, got 2",
        ),
        (
            lambda: nn.SequenceModel(clstm.LSTM(1, 2), nn.Dense(2, 1, dtype="float32")),
            ValueError,
            "head: expected dtype float64, the LSTM's, got float32",
        ),
        (
            lambda: build_model().backward(np.ones(2)),
            RuntimeError,
            "backward: expected a call of forward before it",
        ),
    ],
)
def test_model_refuses_what_does_not_fit(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_fit_learns(dtype, backend):
    model = build_model(dtype=dtype, batch_first=True, backend=backend)
    x, y = draw_task(dtype, N=40)
    losses = model.fit(x, y, epochs=30, batch_size=8, lr=0.03, rng=0)
    assert losses.shape == (30,)
    assert losses.dtype == np.float64
    assert losses[-1] < 0.2 * losses[0]
    assert nn.mse_loss(model(x), y)[0] < 0.2 * losses[0]


def test_fit_is_the_same_on_kernels_and_definition():
    x, y = draw_task()
    losses = {
        backend: build_model(batch_first=True, backend=backend).fit(x, y, epochs=5, batch_size=3, rng=0)
        for backend in ("auto", "numpy")
    }
    assert_close(losses["auto"], losses["numpy"], "backward")


def test_fit_repeats_with_the_same_seed_and_either_layout():
    x, y = draw_task()
    batch_first, again, other = (build_model(batch_first=True) for _ in range(3))
    time_major = build_model(batch_first=False)
    losses = batch_first.fit(x, y, epochs=3, batch_size=3, rng=0)
    assert_same_bits(again.fit(x, y, epochs=3, batch_size=3, rng=0), losses)
    assert_close(time_major.fit(x.swapaxes(0, 1), y, epochs=3, batch_size=3, rng=0), losses, "forward")
    assert not np.array_equal(other.fit(x, y, epochs=3, batch_size=3, rng=1), losses)


def test_fit_reports_the_mean_over_sequences_whatever_the_last_batch():
    model = build_model(batch_first=True)
    x, y = draw_task()
    # Too small a step to change a parameter.
    losses = model.fit(x, y, epochs=2, batch_size=4, lr=1e-300, rng=0)
    assert_close(losses, np.full(2, nn.mse_loss(model(x), y)[0]), "forward")


def test_fit_continues_with_a_given_optimiser():
    x, y = draw_task()
    whole, parts = build_model(batch_first=True), build_model(batch_first=True)
    losses = whole.fit(x, y, epochs=4, batch_size=3, lr=0.01, rng=0)
    adam, rng = nn.Adam(parts.layers, 0.01), np.random.default_rng(0)
    continued = [parts.fit(x, y, epochs=2, batch_size=3, optimiser=adam, rng=rng) for _ in range(2)]
    assert_same_bits(np.concatenate(continued), losses)


def test_fit_never_reads_padding():
    x, y = draw_task()
    lengths = [5, 3, 1, 2, 4, 5, 2]
    padded, zeroed = x.copy(), x.copy()
    for row, length in enumerate(lengths):
        padded[row, length:], zeroed[row, length:] = np.nan, 0
    losses = [
        build_model(batch_first=True).fit(given, y, epochs=2, batch_size=3, lengths=lengths, rng=0)
        for given in (padded, zeroed)
    ]
    assert_same_bits(*losses)


def test_fit_clips_the_gradients():
    x, y = draw_task()
    model = build_model(batch_first=True)
    model.fit(x, y, epochs=1, max_norm=1e-3, rng=0)
    norm = np.sqrt(sum(np.square(layer.flat_grads).sum() for layer in model.layers))
    assert_close(norm, 1e-3, "forward")
    model.fit(x, y, epochs=1, max_norm=None, rng=0)
    assert np.sqrt(sum(np.square(layer.flat_grads).sum() for layer in model.layers)) > 1e-2


def test_fit_prints_nothing_unless_asked(capsys):
    x, y = draw_task()
    model = build_model(batch_first=True)
    model.fit(x, y, epochs=2, rng=0)
    assert capsys.readouterr() == ("", "")
    model.fit(x, y, epochs=2, rng=0, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "2/2" in err
    assert "loss=" in err


def test_fit_stops_at_a_loss_that_is_not_finite():
    model = build_model(batch_first=True)
    x, y = draw_task()
    y[0, 0] = np.nan
    before = [layer.flat_params.copy() for layer in model.layers]
    with pytest.raises(FloatingPointError, match="fit: expected a finite loss, got nan in epoch 1"):
        model.fit(x, y, epochs=2, rng=0)
    for layer, params in zip(model.layers, before, strict=True):
        assert_same_bits(layer.flat_params, params)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": np.ones((7, 5, 3))}, ValueError, r"x: expected shape \(N, T, 2\), got \(7, 5, 3\)"),
        ({"x": np.ones((5, 2))}, ValueError, r"x: expected shape \(N, T, 2\), got \(5, 2\)"),
        ({"x": np.ones((0, 5, 2))}, ValueError, r"x: expected at least one sequence, got shape \(0, 5, 2\)"),
        ({"y": np.ones(7)}, ValueError, r"y: expected shape \(7, 2\), got \(7,\)"),
        ({"y": np.ones((6, 2))}, ValueError, r"y: expected shape \(7, 2\), got \(6, 2\)"),
        ({"epochs": 0}, ValueError, "epochs: expected at least 1, got 0"),
        ({"batch_size": 1.5}, TypeError, "batch_size: expected an integer, got 1.5"),
        ({"lr": -1}, ValueError, "lr: expected a number above 0, got -1"),
        ({"optimiser": "adam"}, TypeError, "optimiser: expected Adam, got 'adam'"),
        ({"max_norm": 0}, ValueError, "max_norm: expected a number above 0, got 0"),
        ({"lengths": [6] * 7}, ValueError, r"lengths: expected values in 0..5, got 6..6"),
        ({"rng": "seed"}, TypeError, "rng: expected an integer, got 'seed'"),
        ({"progress": 1}, TypeError, "progress: expected True or False, got 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_fit_refuses_bad_input_before_any_work(change, error, message):
    model = build_model(batch_first=True)
    x, y = draw_task()
    head = model.head.flat_params.copy()
    with unchanged(model.lstm), pytest.raises(error, match=message):
        model.fit(**({"x": x, "y": y, "epochs": 1} | change))
    assert_same_bits(model.head.flat_params, head)
