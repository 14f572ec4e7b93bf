"""The product of two matrices, and rows that are added where they belong: kernels, definition, bits.

Sizes lie on both sides of every choice that the kernels make: few rows, which read b as it lies, blocks of
panels or the rows of a for each thread, panels of a part of b, and the transposed product of narrow b.
"""

import os
import signal

import numpy as np
import pytest
from conftest import (
    BUILDS,
    DTYPES,
    assert_close,
    assert_same_bits,
    denormals,
    functions_of,
    keeps_denormals,
    locked,
    signals,
    threads,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

from clstm import reference

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")

# N, K, M
SIZES = [
    *((1, 1, 1), (1, 40, 1), (2, 3, 1), (3, 7, 33), (1, 70, 2100), (4, 1, 5), (7, 17, 9), (5, 300, 17)),
    *((13, 64, 64), (31, 5, 100), (97, 16, 65), (200, 33, 40), (50, 900, 20), (130, 600, 3)),
    *((300, 40, 1), (300, 40, 2), (41, 500, 1), (41, 500, 3), (64, 30, 7), (70, 400, 8), (1000, 3, 4)),
]
# Worth more than one thread, by the way that it is shared.
SHARED = {
    "columns of few rows as they lie": (2, 500, 4200),
    "blocks of panels": (20, 300, 700),
    "rows": (600, 130, 70),
    "rows, panels of a part": (200, 1000, 70),
    "narrow": (20_000, 60, 4),
    "narrow, a row": (40_000, 110, 1),
}
LAYOUTS = ("rows", "columns", "apart", "columns apart")
THREADS = (2, 3, 5)


def laid_out(matrix, layout):
    """Return a copy with contiguous rows or columns, side by side or apart; NaN lies between."""
    if layout.startswith("columns"):
        return laid_out(matrix.T, "apart" if layout.endswith("apart") else "rows").T
    if layout == "rows":
        return locked(np.ascontiguousarray(matrix))
    wide = np.full((matrix.shape[0], matrix.shape[1] + 3), np.nan, matrix.dtype)
    wide[:, 1:-2] = matrix
    wide.flags.writeable = False
    return wide[:, 1:-2]


def draw(N, K, M, dtype, seed=0):
    """Draw a, b and a start."""
    rng = np.random.default_rng([seed, N, K, M])
    return tuple(rng.uniform(-1, 1, shape).astype(dtype) for shape in ((N, K), (K, M), (M,)))


def multiply(functions, a, b, start, layouts=("rows", "rows")):
    """Return the product, which is written whole, and nothing beside it."""
    wide = np.full((len(a), b.shape[1] + 2), np.nan, a.dtype)
    functions.product(
        laid_out(a, layouts[0]),
        laid_out(b, layouts[1]),
        None if start is None else locked(start),
        wide[:, 1:-1],
    )
    assert np.isnan(wide[:, [0, -1]]).all()
    return wide[:, 1:-1].copy()


def define(a, b, start):
    """Return the product of the definition, in float64."""
    return multiply(reference, *(None if part is None else part.astype(float) for part in (a, b, start)))


# ----------------------------------------------------------------------------------------------- the product


@pytest.mark.parametrize("started", [True, False], ids=["start", "zero"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_product_equals_the_definition(build, dtype, sizes, started):
    a, b, start = draw(*sizes, dtype)
    start = start if started else None
    expected = define(a, b, start)
    assert_close(multiply(functions_of(build, dtype), a, b, start), expected, "forward")


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_layout_changes_no_bit(build, dtype, sizes):
    a, b, start = draw(*sizes, dtype)
    functions = functions_of(build, dtype)
    expected = multiply(functions, a, b, start)
    for first in LAYOUTS:
        for second in LAYOUTS:
            assert_same_bits(
                multiply(functions, a, b, start, (first, second)), expected, f"{first}, {second}"
            )


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("name", SHARED)
def test_number_of_threads_changes_no_bit(build, dtype, name, layout):
    a, b, start = draw(*SHARED[name], dtype)
    functions = functions_of(build, dtype)
    with threads(1, build):
        expected = multiply(functions, a, b, start, (layout, "rows"))
    assert_close(expected, define(a, b, start), "forward")
    for n in THREADS:
        with threads(n, build):
            assert_same_bits(multiply(functions, a, b, start, (layout, "rows")), expected, f"{n} threads")


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_row_has_the_same_bits_in_any_batch(build, dtype, sizes):
    a, b, start = draw(*sizes, dtype)
    functions = functions_of(build, dtype)
    whole = multiply(functions, a, b, start)
    for size in {1, 2, 3, 5, 23, len(a) // 2}:
        for row in {0, len(a) // 3, max(0, len(a) - size)}:
            rows = slice(row, row + size)
            assert_same_bits(
                multiply(functions, a[rows], b, start), whole[rows], f"{size} rows from {row} on"
            )


@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    N=st.integers(0, 70),
    K=st.integers(0, 50),
    M=st.integers(0, 70),
    layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 2),
    started=st.booleans(),
    data=st.data(),
)
def test_product_of_any_shape_and_of_any_part_of_its_rows(build, dtype, N, K, M, layouts, started, data):
    a, b, start = draw(N, K, M, dtype)
    start = start if started else None
    functions = functions_of(build, dtype)
    whole = multiply(functions, a, b, start, layouts)
    assert_close(whole, define(a, b, start), "forward")
    rows = data.draw(st.lists(st.integers(0, N - 1), max_size=9)) if N else []
    assert_same_bits(multiply(functions, a[rows], b, start), whole[rows])


def test_product_without_terms_is_where_it_starts(implementation, dtype):
    functions = functions_of(implementation, dtype)
    a, b, start = draw(3, 0, 4, dtype)
    assert_same_bits(multiply(functions, a, b, start), np.stack([start] * 3))
    assert_same_bits(multiply(functions, a, b, None), np.zeros((3, 4), dtype))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_nan_stays_in_its_row_and_column(build, dtype, sizes):
    a, b, start = draw(*sizes, dtype)
    functions = functions_of(build, dtype)
    expected = multiply(functions, a, b, start)
    rows, columns = np.ones(len(a), bool), np.ones(len(start), bool)
    rows[len(a) // 2] = columns[len(start) // 2] = False
    a[~rows, -1] = np.nan
    start[~columns] = np.nan
    got = multiply(functions, a, b, start)
    assert np.isnan(got[~rows]).all()
    assert np.isnan(got[:, ~columns]).all()
    assert_same_bits(got[rows][:, columns], expected[rows][:, columns])


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("sizes", [(2, 9, 40), (50, 9, 40), (50, 9, 1), *SHARED.values()], ids=str)
def test_denormals_are_flushed_inside_and_left_to_the_caller(build, dtype, sizes, n):
    a, b, _ = draw(*sizes, dtype)
    tiny = np.finfo(dtype).tiny
    assert keeps_denormals()
    with threads(n, build):
        got = multiply(functions_of(build, dtype), a * tiny, b, None)
    assert keeps_denormals()
    assert not denormals(got)


@pytest.mark.parametrize("name", ["a", "b", "out"])
def test_none_and_the_wrong_dtype_are_refused_before_anything_is_written(build, dtype, name):
    a, b, start = draw(2, 3, 4, dtype)
    given_ = {"a": a, "b": b, "start": start, "out": np.full((2, 4), np.nan, dtype)}
    out, other = given_["out"], "float64" if dtype == "float32" else "float32"
    for value in (None, given_[name].astype(other)):
        with pytest.raises((TypeError, ValueError)):
            functions_of(build, dtype).product(**given_ | {name: value})
        assert np.isnan(out).all()
    functions_of(build, dtype).product(**given_)
    assert not np.isnan(out).any()


def test_matrix_that_lies_neither_way_is_refused(build, dtype):
    a, b, start = draw(4, 6, 4, dtype)
    out = np.empty((2, 4), dtype)
    with pytest.raises(ValueError, match="product: expected matrices whose rows or whose columns are contig"):
        functions_of(build, dtype).product(a[::2, ::2], b[:3], start, out)


# Of the numbers that there are only once, but are seen often, N or K is the length of an axis that would take
# the product minutes; by the way that it is shared.
LONG = {
    "rows": (10**10, 90, 90),
    "rows, panels of a part": (90, 10**10, 90),
    "blocks of panels": (20, 10**10, 700),
    "narrow": (300, 10**10, 2),
}


@posix
@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("name", LONG)
def test_ctrl_c_ends_a_product(dtype, name, n):
    functions, (N, K, M) = functions_of(BUILDS[0], dtype), LONG[name]
    numbers, size = np.ones(1000, dtype), np.dtype(dtype).itemsize
    a = as_strided(numbers, (N, K), (0, size) if N > K else (size, 0))
    b = as_strided(numbers, (K, M), (0, size))
    out = as_strided(np.empty(90 * 700, dtype), (N, M), (0 if N > K else M * size, size))
    handled = []

    def handler(*_):
        handled.append(None)
        if len(handled) == 2:
            raise KeyboardInterrupt
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    with threads(n), pytest.raises(KeyboardInterrupt), signals(handler, 0.1):
        functions.product(a, b, None, out)
    assert len(handled) == 2
    assert keeps_denormals()
    a, b, start = draw(100, 90, 90, dtype)
    with threads(n):
        assert_close(multiply(functions, a, b, start), define(a, b, start), "forward")


# ------------------------------------------------------------------------------------------------ added rows


def added(functions, places, rows, V):
    """Add rows to a table of ones, of which the columns beside it stay."""
    wide = np.ones((V, rows.shape[1] + 2), rows.dtype)
    functions.add_rows(laid_out(rows, "apart"), locked(places), wide[:, 1:-1])
    assert (wide[:, [0, -1]] == 1).all()
    return wide[:, 1:-1].copy()


@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    N=st.integers(0, 40),
    E=st.integers(0, 40),
    V=st.integers(1, 12),
)
def test_added_rows_have_the_bits_of_the_definition(build, dtype, N, E, V):
    rng = np.random.default_rng([N, E, V])
    places, rows = rng.integers(0, V, N), rng.standard_normal((N, E)).astype(dtype)
    expected = np.ones((V, E), dtype)
    for place, row in zip(places, rows, strict=True):
        expected[place] += row
    for functions in (functions_of(build, dtype), reference):
        assert_same_bits(added(functions, places, rows, V), expected)


def test_adding_rows_leaves_denormals_to_the_caller(build, dtype):
    rows = np.full((2, 5), np.finfo(dtype).tiny / 2, dtype)
    assert_same_bits(added(functions_of(build, dtype), np.array([0, 0]), rows, 1), np.ones((1, 5), dtype))
    assert keeps_denormals()
