"""clstm.nn losses: values against formulas in Python's floats, derivatives by differences, PyTorch's."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, central_difference, locked

from clstm import nn
from clstm.nn import losses

QUANTILES = (0.1, 0.5, 0.8)


def pinball(errors):
    return [max(q * e, (q - 1) * e) for q, e in zip(QUANTILES, errors, strict=True)]


def huber(e, delta):
    return e * e / 2 if abs(e) <= delta else delta * (abs(e) - delta / 2)


def log_odds_loss(z, t):
    p = 1 / (1 + math.exp(-z))
    return -t * math.log(p) - (1 - t) * math.log(1 - p)


def each(loss):
    """Return the losses of a row, element by element."""
    return lambda p, t: [loss(a, b) for a, b in zip(p, t, strict=True)]


# By name: the loss, and the losses of one row of numbers.
FORMULAS = {
    "mse": (nn.mse_loss, each(lambda p, t: (p - t) ** 2)),
    "l1": (nn.l1_loss, each(lambda p, t: abs(p - t))),
    "huber": (partial(nn.huber_loss, delta=0.7), each(lambda p, t: huber(p - t, 0.7))),
    "quantile": (
        partial(nn.quantile_loss, quantiles=QUANTILES),
        lambda p, t: [sum(pinball([b - a for a in p[3 * m : 3 * m + 3]])) / 3 for m, b in enumerate(t)],
    ),
    "cross_entropy": (nn.cross_entropy, lambda p, t: [math.log(sum(map(math.exp, p))) - p[t[0]]]),
    "binary_cross_entropy": (nn.binary_cross_entropy, each(log_odds_loss)),
}


def draw(name, leading, dtype="float64", seed=0, O=6):  # noqa: E741
    """Draw a prediction with these leading axes and O features, and its target."""
    rng = np.random.default_rng(seed)
    prediction = rng.standard_normal((*leading, O)).astype(dtype)
    if name == "cross_entropy":
        return prediction, rng.integers(0, O, leading)
    if name == "binary_cross_entropy":
        return prediction, rng.random(prediction.shape).astype(dtype)
    shape = (*leading, O // len(QUANTILES)) if name == "quantile" else prediction.shape
    return prediction, rng.standard_normal(shape).astype(dtype)


def draw_weight(which, target):
    """Draw weights for rows or for elements of a target, one of them 0."""
    shape = {"none": None, "rows": target.shape[:1], "elements": target.shape}[which]
    if shape is None:
        return None
    weight = np.random.default_rng(7).uniform(0.5, 2, shape)
    weight.flat[1] = 0
    return weight


def expected_loss(name, prediction, target, weight):
    """Average row by row in Python's floats."""
    rows = FORMULAS[name][1]
    given = zip(prediction.tolist(), target.reshape(len(target), -1).tolist(), strict=True)
    found = np.array([rows(p, t) for p, t in given])
    weights = np.ones(found.shape)
    if weight is not None:
        weights *= weight.reshape(len(weight), -1)
    pairs = list(zip(weights.flat, found.flat, strict=True))
    return math.fsum(w * value for w, value in pairs) / math.fsum(w for w, _ in pairs)


@pytest.fixture(params=FORMULAS)
def name(request):
    return request.param


@pytest.mark.parametrize("which", ["none", "rows", "elements"])
def test_value_is_the_weighted_mean_of_the_formula(name, which, dtype):
    prediction, target = draw(name, (5,), dtype)
    weight = draw_weight(which, target)
    value, _ = FORMULAS[name][0](prediction, target, weight)
    assert isinstance(value, float)
    assert_close(np.array(value, dtype), np.array(expected_loss(name, prediction, target, weight)), "forward")


@pytest.mark.parametrize("which", ["none", "rows", "elements"])
def test_derivative_is_a_central_difference(name, which):
    loss = FORMULAS[name][0]
    prediction, target = draw(name, (5,))
    weight = draw_weight(which, target)
    _, derivative = loss(prediction, target, weight)
    expected = central_difference(lambda: loss(prediction, target, weight)[0], prediction)
    assert_close(derivative, expected, "central difference")


def test_float32_stays_and_comes_close_to_float64(name):
    loss = FORMULAS[name][0]
    prediction, target = draw(name, (50,), "float32")
    value, derivative = loss(prediction, target)
    wide_value, wide = loss(prediction.astype("float64"), target)
    assert derivative.dtype == np.float32
    assert_close(np.array(value, "float32"), np.array(wide_value), "forward")
    assert_close(derivative, wide, "backward")


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["T B O", "B T O"])
def test_lengths_leave_padding_out_whatever_is_there(name, batch_first, weighted, dtype):
    loss = FORMULAS[name][0]
    T, B, lengths = 4, 3, [2, 4, 0]
    real = np.arange(T)[:, None] < lengths
    real = real.T if batch_first else real
    prediction, target = draw(name, (B, T) if batch_first else (T, B), dtype)
    weight = np.random.default_rng(3).random(real.shape) if weighted else None
    kept = (a if a is None else a[real] for a in (prediction, target, weight))
    value, derivative = loss(*kept)
    prediction[~real] = np.nan
    target[~real] = -1 if name == "cross_entropy" else np.nan
    if weighted:
        weight[~real] = np.nan
    masked_value, masked = loss(prediction, target, weight, lengths=lengths, batch_first=batch_first)
    assert masked_value == value
    assert_same_bits(masked[real], derivative)
    assert not masked[~real].any()


def test_full_lengths_change_nothing(name):
    loss = FORMULAS[name][0]
    prediction, target = draw(name, (4, 3))
    value, derivative = loss(prediction, target)
    same_value, same = loss(prediction, target, lengths=[4, 4, 4])
    assert same_value == value
    assert_same_bits(same, derivative)


@pytest.mark.parametrize("O", [3, 6, 99])
def test_many_rows_are_the_mean_of_their_halves(name, O):  # noqa: E741
    """Rows are gone through in blocks; one row of 99 classes is summed otherwise than one of 3."""
    loss = FORMULAS[name][0]
    n = 3 * losses._BLOCK // O
    prediction, target = draw(name, (n,), O=O)
    weight = np.random.default_rng(1).random(n)
    value, derivative = loss(prediction, target, weight)
    halves = [slice(None, n // 2), slice(n // 2, None)]
    parts = [loss(prediction[half], target[half], weight[half]) for half in halves]
    shares = [weight[half].sum() / weight.sum() for half in halves]
    assert_close(
        np.array(value), np.array(sum(s * v for s, (v, _) in zip(shares, parts, strict=True))), "forward"
    )
    assert_close(
        derivative, np.concatenate([s * d for s, (_, d) in zip(shares, parts, strict=True)]), "forward"
    )


def test_inputs_are_not_changed(name, dtype):
    prediction, target = draw(name, (5,), dtype)
    FORMULAS[name][0](locked(prediction), locked(target), locked(np.ones(5)))


def test_arrays_in_any_order_of_memory_and_of_any_type_are_taken(name):
    loss = FORMULAS[name][0]
    prediction, target = draw(name, (5,))
    value, derivative = loss(prediction, target)
    for given in (np.asfortranarray(prediction), prediction.tolist()):
        same_value, same = loss(given, target.tolist())
        assert same_value == value
        assert_same_bits(same, derivative)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_loss_that_is_not_finite_comes_without_a_warning(name, bad, dtype):
    prediction, target = draw(name, (5,), dtype)
    prediction[2] = bad
    value, _ = FORMULAS[name][0](prediction, target)
    assert math.isnan(value) or value >= 0


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", [name for name in FORMULAS if name != "quantile"])
def test_losses_are_those_of_torch(name, weighted):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    by_name = {
        "mse": functional.mse_loss,
        "l1": functional.l1_loss,
        "huber": partial(functional.huber_loss, delta=0.7),
        "cross_entropy": functional.cross_entropy,
        "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
    }
    T, B, lengths = 4, 3, [2, 4, 1]
    real = np.arange(T)[:, None] < lengths
    prediction, target = draw(name, (T, B))
    weight = draw_weight("elements", real) if weighted else None
    value, derivative = FORMULAS[name][0](prediction, target, weight, lengths=lengths)

    leaf = torch.tensor(prediction, requires_grad=True)
    rows = by_name[name](leaf[real], torch.tensor(target[real]), reduction="none").reshape(real.sum(), -1)
    counted = torch.ones(len(rows)).double() if weight is None else torch.tensor(weight[real])
    expected = (rows.mean(axis=1) * counted).sum() / counted.sum()
    expected.backward()
    assert_close(np.array(value), expected.detach().numpy(), "torch")
    assert_close(derivative, leaf.grad.numpy(), "torch")


def test_the_quantile_loss_at_the_median_is_half_the_absolute_error():
    prediction, target = draw("mse", (5,))
    value, derivative = nn.quantile_loss(prediction, target, quantiles=[0.5])
    absolute, slope = nn.l1_loss(prediction, target)
    assert_close(np.array(2 * value), np.array(absolute), "forward")
    assert_same_bits(2 * derivative, slope)


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_the_quantile_loss_is_least_at_the_quantile(q):
    sample = np.random.default_rng(0).standard_normal(1001)
    guesses = np.sort(sample)[::10]
    found = [nn.quantile_loss(np.full(1001, g)[:, None], sample, quantiles=[q])[0] for g in guesses]
    assert guesses[np.argmin(found)] == np.quantile(sample, q)


def test_the_quantiles_of_one_element_lie_side_by_side():
    prediction, target = draw("quantile", (5,))
    value, derivative = nn.quantile_loss(prediction, target, quantiles=QUANTILES)
    apart, slope = nn.quantile_loss(prediction.reshape(5, 2, 3), target, quantiles=QUANTILES)
    assert apart == value
    assert_same_bits(slope.reshape(5, 6), derivative)


def test_classes_of_huge_scores_have_a_finite_loss(dtype):
    loss, dprediction = nn.cross_entropy(np.array([[1e4, -1e4], [-1e4, 1e4]], dtype), [0, 0])
    assert loss == 1e4
    assert_same_bits(dprediction, np.array([[0.0, 0.0], [-0.5, 0.5]], dtype))


def test_answers_of_huge_scores_have_a_finite_loss(dtype):
    loss, dprediction = nn.binary_cross_entropy(np.array([1e4, -1e4, 1e4, -1e4], dtype), [1, 0, 0, 1])
    assert loss == 5e3
    assert_same_bits(dprediction, np.array([0, 0, 0.25, -0.25], dtype))


def test_small_losses_of_answers_keep_their_digits():
    loss, _ = nn.binary_cross_entropy([40.0], [True])
    assert_close(np.array(loss), np.array(math.exp(-40)), "forward")


@pytest.mark.parametrize("O", [1, 3, 64, 65, 300])
def test_softmax_is_its_formula(O, dtype):  # noqa: E741
    scores = np.random.default_rng(0).standard_normal((2, 3, O)).astype(dtype)
    got = nn.softmax(locked(scores))
    odds = np.exp(scores.astype("float64"))
    assert got.dtype == scores.dtype
    assert_close(got, odds / odds.sum(axis=-1, keepdims=True), "forward")


def test_softmax_less_one_at_the_class_is_the_derivative_of_cross_entropy():
    scores, classes = draw("cross_entropy", (5,))
    expected = nn.softmax(scores)
    expected[np.arange(5), classes] -= 1
    assert_close(nn.cross_entropy(scores, classes)[1], expected / 5, "forward")


def test_sigmoid_is_its_formula_also_far_out(dtype):
    scores = np.array([[-80.0, -20.0, -1.0], [0.0, 3.0, 1e4]], dtype)
    expected = np.array([[1 / (1 + math.exp(-z)) for z in row] for row in scores.tolist()])
    got = nn.sigmoid(locked(scores))
    assert got.dtype == scores.dtype
    assert_close(got / expected.astype(dtype), np.ones((2, 3)), "forward")  # relative to each number
    assert nn.sigmoid(np.array([-1e4], dtype)) == 0


@pytest.mark.parametrize("function", [nn.softmax, nn.sigmoid])
def test_probabilities_of_nan_are_nan_in_their_row_only(function):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = function([[0.0, 1.0], [np.nan, np.nan]])
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[0]).all()


def test_every_loss_has_a_name():
    assert {nn.LOSSES[name] for name in FORMULAS} == {
        getattr(loss, "func", loss) for loss, _ in FORMULAS.values()
    }
    assert list(nn.LOSSES) == list(FORMULAS)


TWO = np.ones((2, 3))
STEPS = np.ones((4, 2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: nn.mse_loss(np.ones((3, 1)), np.ones(3)),
            ValueError,
            r"target: expected shape \(3, 1\), got \(3,\)$",
        ),
        (lambda: nn.mse_loss(TWO, TWO[:1]), ValueError, r"target: expected shape \(2, 3\), got \(1, 3\)$"),
        (
            lambda: nn.mse_loss(TWO, [0, 2]),
            ValueError,
            r"target: expected shape \(2, 3\), got \(2,\); for labels of classes there is cross_entropy",
        ),
        (
            lambda: nn.l1_loss(np.ones((0, 2)), np.ones((0, 2))),
            ValueError,
            r"prediction: expected at least one element, got shape \(0, 2\)",
        ),
        (lambda: nn.mse_loss(TWO[0], ["a", "b", "c"]), TypeError, "target: expected real numbers"),
        (
            lambda: nn.mse_loss(np.ones(2, complex), np.ones(2)),
            TypeError,
            "prediction: expected real numbers, got dtype complex128",
        ),
        (
            lambda: nn.mse_loss(TWO, TWO, np.ones(3)),
            ValueError,
            r"weight: expected shape \(2,\) or \(2, 3\), got \(3,\)",
        ),
        (
            lambda: nn.mse_loss(TWO, TWO, [1, -1]),
            ValueError,
            "weight: expected finite numbers of at least 0, got -1 to 1",
        ),
        (
            lambda: nn.mse_loss(TWO, TWO, [1, np.inf]),
            ValueError,
            "weight: expected finite numbers of at least 0, got 1 to inf",
        ),
        (
            lambda: nn.mse_loss(TWO, TWO, [1, np.nan]),
            ValueError,
            "weight: expected finite numbers of at least 0, got nan to nan",
        ),
        (
            lambda: nn.mse_loss(TWO, TWO, [0, 0]),
            ValueError,
            "weight: expected a number above 0 among the weights, got only 0",
        ),
        (
            lambda: nn.mse_loss(STEPS, STEPS, [1, 1], lengths=[1, 2]),
            ValueError,
            r"weight: expected shape \(4, 2\) or \(4, 2, 3\), got \(2,\)",
        ),
        (
            lambda: nn.mse_loss(STEPS, STEPS, lengths=[1, 5]),
            ValueError,
            r"lengths: expected values in 0..4, got 1..5",
        ),
        (
            lambda: nn.mse_loss(STEPS, STEPS, lengths=[1, 2], batch_first=True),
            ValueError,
            r"lengths: expected shape \(4,\), got \(2,\)",
        ),
        (
            lambda: nn.mse_loss(STEPS, STEPS, lengths=[0, 0]),
            ValueError,
            "lengths: expected at least one real step, got 0 for every sequence",
        ),
        (
            lambda: nn.mse_loss(np.ones(3), np.ones(3), lengths=[3]),
            ValueError,
            r"prediction: expected shape \(T, B\), got \(3,\)",
        ),
        (
            lambda: nn.mse_loss(TWO, TWO, batch_first=1),
            TypeError,
            "batch_first: expected True or False, got 1",
        ),
        (lambda: nn.huber_loss(TWO, TWO, delta=0), ValueError, "delta: expected a number above 0, got 0"),
        (
            lambda: nn.quantile_loss(TWO, [1, 1], quantiles=(0.1, 1.0)),
            ValueError,
            r"quantiles\[1\]: expected a number in \(0, 1\), got 1.0",
        ),
        (
            lambda: nn.quantile_loss(TWO, [1, 1], quantiles=0.5),
            TypeError,
            "quantiles: expected a sequence of numbers, got 0.5",
        ),
        (
            lambda: nn.quantile_loss(TWO, [1, 1], quantiles=()),
            ValueError,
            "quantiles: expected at least one number, got none",
        ),
        (
            lambda: nn.quantile_loss(TWO, [1, 1], quantiles=(0.1, 0.9)),
            ValueError,
            r"prediction: expected a last axis of 2 quantiles for each element of the target, got shape",
        ),
        (
            lambda: nn.quantile_loss(TWO, TWO),
            ValueError,
            r"target: expected shape \(2, 1\) or \(2,\), got \(2, 3\)",
        ),
        (
            lambda: nn.cross_entropy(np.ones(3), [0]),
            ValueError,
            r"prediction: expected shape \(N, O\), got \(3,\)",
        ),
        (
            lambda: nn.cross_entropy(TWO, [[0], [1]], lengths=[1, 1]),
            ValueError,
            r"prediction: expected shape \(T, B, O\), got \(2, 3\)",
        ),
        (
            lambda: nn.cross_entropy(np.ones((0, 3)), []),
            ValueError,
            r"prediction: expected at least one element, got shape \(0, 3\)",
        ),
        (lambda: nn.cross_entropy(TWO, [0]), ValueError, r"target: expected shape \(2,\), got \(1,\)"),
        (lambda: nn.cross_entropy(TWO, [0, 3]), ValueError, r"target: expected values in 0..2, got 0..3"),
        (lambda: nn.cross_entropy(TWO, [-1, 0]), ValueError, r"target: expected values in 0..2, got -1..0"),
        (
            lambda: nn.cross_entropy(TWO, [0.0, 1.0]),
            TypeError,
            "target: expected integers, got dtype float64",
        ),
        (
            lambda: nn.cross_entropy(TWO, ["a", "b"]),
            TypeError,
            "target: expected integers, got dtype <U1",
        ),
        (
            lambda: nn.binary_cross_entropy([0.0, 0.0], [1, 2]),
            ValueError,
            r"target: expected values in \[0, 1\], got 1 to 2",
        ),
        (
            lambda: nn.binary_cross_entropy([0.0, 0.0], [1, np.nan]),
            ValueError,
            r"target: expected values in \[0, 1\], got nan to nan",
        ),
        (
            lambda: nn.softmax(1.0),
            ValueError,
            r"scores: expected shape \(..., O\) with at least one class, got \(\)",
        ),
        (
            lambda: nn.softmax(np.ones((2, 0))),
            ValueError,
            r"scores: expected shape \(..., O\) with at least one class, got \(2, 0\)",
        ),
        (lambda: nn.sigmoid("a"), TypeError, "scores: expected real numbers"),
    ],
)
def test_losses_refuse_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
