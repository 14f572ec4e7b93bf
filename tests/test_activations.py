"""sigmoid and tanh of the kernels: error, range, saturation, NaN, in each lane of a vector, in each tail."""

import numpy as np
import pytest
from conftest import CTYPES, TOLERANCES, assert_same_bits, load_build

FUNCTIONS = ("sigmoid", "tanh")


def apply(build, name, x):
    """Run one activation of a build over a contiguous array."""
    out = np.full_like(x, 123)
    getattr(load_build(build), name)[CTYPES[x.dtype.name]](x, out)
    return out


def exact(name, x):
    """Return the function's value in the next wider type."""
    wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    if name == "tanh":
        return np.tanh(wide)
    return np.where(wide < 0, np.exp(-np.abs(wide)), 1) / (1 + np.exp(-np.abs(wide)))


def sweep(dtype):
    """Cover both signs, all magnitudes from the smallest normal number on, and the bent part densely."""
    rng = np.random.default_rng(7)
    limits = np.finfo(dtype)
    magnitudes = np.exp(rng.uniform(np.log(float(limits.tiny)), np.log(100.0), 40_000))
    parts = [
        magnitudes,
        -magnitudes,
        rng.uniform(-25, 25, 100_000),
        np.linspace(-2, 2, 40_001),
        np.linspace(-100, 100, 40_001),
    ]
    x = np.concatenate(parts).astype(dtype)
    return x[(np.abs(x) >= limits.tiny) | (x == 0)]


def test_tanh_error_is_a_few_units_in_the_last_place(build, dtype):
    x = sweep(dtype)
    got, expected = apply(build, "tanh", x), exact("tanh", x)
    error = np.abs(got - expected) / np.spacing(np.abs(expected).astype(dtype))
    assert error.max() <= TOLERANCES["tanh"][dtype], f"at x = {x[error.argmax()]!r}"


def test_sigmoid_error_is_one_unit_in_the_last_place_of_one(build, dtype):
    x = sweep(dtype)
    error = np.abs(apply(build, "sigmoid", x) - exact("sigmoid", x))
    assert error.max() <= TOLERANCES["sigmoid"][dtype], f"at x = {x[error.argmax()]!r}"


@pytest.mark.parametrize(("name", "low"), [("sigmoid", 0), ("tanh", -1)])
def test_results_stay_in_their_range(build, dtype, name, low):
    got = apply(build, name, sweep(dtype))
    assert got.min() >= low
    assert got.max() <= 1


@pytest.mark.parametrize(("name", "low"), [("sigmoid", 0), ("tanh", -1)])
@pytest.mark.parametrize("magnitude", [50, 89, 100, 800, 1e4, 1e30, "max", np.inf], ids=str)
def test_large_arguments_saturate_exactly(build, dtype, name, low, magnitude):
    x = np.full(70, np.finfo(dtype).max if magnitude == "max" else magnitude, dtype)
    assert (apply(build, name, x) == 1).all()
    assert (apply(build, name, -x) == low).all()


def test_odd_and_even_values_at_zero(build, dtype):
    zeros = np.zeros(70, dtype)
    assert (apply(build, "tanh", zeros) == 0).all()
    assert (apply(build, "sigmoid", zeros) == 0.5).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_tanh_and_sigmoid_are_symmetric(build, dtype, name):
    x = sweep(dtype)
    got, mirrored = apply(build, name, x), apply(build, name, -x)
    if name == "tanh":
        assert_same_bits(mirrored, -got)
    else:
        assert np.abs(got.astype(np.longdouble) + mirrored - 1).max() <= 2 * TOLERANCES["sigmoid"][dtype]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    "special", [np.nan, -np.nan, np.inf, -np.inf], ids=["nan", "negative-nan", "inf", "negative-inf"]
)
def test_specials_stay_in_their_own_lane(build, dtype, name, special):
    lanes = load_build(build).VECTOR_BYTES // np.dtype(dtype).itemsize
    expected_special = {"sigmoid": {np.inf: 1, -np.inf: 0}, "tanh": {np.inf: 1, -np.inf: -1}}[name].get(
        special, np.nan
    )
    for n in range(1, 3 * lanes + 2):
        x = np.linspace(-3, 3, n, dtype=dtype)
        clean = apply(build, name, x)
        for position in range(n):
            dirty = x.copy()
            dirty[position] = special
            expected = clean.copy()
            expected[position] = expected_special
            assert_same_bits(apply(build, name, dirty), expected, f"{n} values, special at {position}")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_value_does_not_depend_on_its_lane(build, dtype, name):
    x = sweep(dtype)[:5000]
    whole = apply(build, name, x)
    for n in (1, 3, 7, 31):
        assert_same_bits(
            np.concatenate([apply(build, name, x[k : k + n].copy()) for k in range(0, len(x), n)]), whole
        )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_values_are_legal_and_neighbours_are_left_alone(build, dtype, name):
    for n in range(70):
        x, room = np.linspace(-1, 1, n, dtype=dtype), np.full(n + 20, 123, dtype)
        getattr(load_build(build), name)[CTYPES[dtype]](x, room[10 : 10 + n])
        assert (room[:10] == 123).all()
        assert (room[10 + n :] == 123).all()
        assert (room[10 : 10 + n] != 123).all()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_place_is_the_same(build, dtype, name):
    x = sweep(dtype)[:1000]
    expected = apply(build, name, x)
    getattr(load_build(build), name)[CTYPES[dtype]](x, x)
    assert_same_bits(x, expected)
