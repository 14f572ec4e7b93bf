"""Each kernel build against the definition, and the rules that both obey: padding, states, directions, NaN, inputs."""

import inspect

import numpy as np
import pytest
from conftest import (
    BUILDS,
    DTYPES,
    FORWARD_RESULTS,
    assert_close,
    assert_gradients_are_complex_step_derivatives,
    assert_results_close,
    assert_same_bits,
    case_and_expected,
    functions_of,
    load_build,
    make_case,
    run,
    run_backward,
    run_forward,
)
from hypothesis import given
from hypothesis import strategies as st

from clstm import _dispatch, reference

# Every pair of a batch and a hidden size; time and input sizes take turns, so that each meets each.
TIMES, BATCHES, INPUTS, HIDDEN = (
    (2, 7, 1, 40),
    (1, 2, 3, 7, 8, 33),
    (2, 5, 1, 20, 40),
    (1, 3, 7, 8, 9, 15, 16, 17, 33, 100),
)
PAIRS = [(B, H) for B in BATCHES for H in HIDDEN]
SIZES = [(TIMES[n % 4], B, INPUTS[n % 5], H) for n, (B, H) in enumerate(PAIRS)]
SIZES += [(1, 1, 1, 1), (40, 1, 1, 100), (2, 13, 3, 64), (3, 6, 7, 128), (3, 200, 2, 5)]
ROWS = [
    pytest.param(
        reverse, ragged, id=f"{'reverse' if reverse else 'forward'}-{'ragged' if ragged else 'full'}"
    )
    for reverse in (False, True)
    for ragged in (False, True)
]


def name_sizes(sizes):
    return "T{}-B{}-I{}-H{}".format(*sizes)


@pytest.mark.parametrize(("reverse", "ragged"), ROWS)
@pytest.mark.parametrize("sizes", SIZES, ids=name_sizes)
def test_kernels_equal_the_definition(build, dtype, sizes, reverse, ragged):
    case, expected = case_and_expected(*sizes, dtype, reverse, ragged)
    assert_results_close(run(functions_of(build, dtype), case), expected)


@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    T=st.integers(0, 9),
    B=st.integers(0, 14),
    I=st.integers(1, 9),
    H=st.integers(1, 36),
    reverse=st.booleans(),
    strided=st.booleans(),
    data=st.data(),
)
def test_kernels_equal_the_definition_for_any_lengths(build, dtype, T, B, I, H, reverse, strided, data):  # noqa: E741
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    case = make_case(T, B, I, H, dtype, reverse=reverse, lengths=lengths)
    assert_results_close(
        run(functions_of(build, dtype), case, strided=strided), run(reference, case.astype("float64"))
    )


@pytest.mark.parametrize("lengths", [None, "ragged"], ids=["full", "ragged"])
@pytest.mark.parametrize("sizes", [(5, 3, 2, 3), (1, 2, 2, 3), (4, 1, 1, 1)], ids=name_sizes)
def test_kernel_gradients_are_complex_step_derivatives(build, sizes, lengths):
    assert_gradients_are_complex_step_derivatives(
        functions_of(build, "float64"), make_case(*sizes, lengths=lengths)
    )


@pytest.mark.parametrize(("reverse", "ragged"), ROWS)
@pytest.mark.parametrize("sizes", [(7, 9, 5, 17), (3, 1, 2, 33), (1, 7, 3, 8)], ids=name_sizes)
def test_outputs_and_their_derivatives_may_be_slices(twin, dtype, sizes, reverse, ragged):
    case, _ = case_and_expected(*sizes, dtype, reverse, ragged)
    functions = functions_of(twin, dtype)
    whole, sliced = run(functions, case), run(functions, case, strided=True)
    for name, value in whole.items():
        assert_same_bits(sliced[name], value, name)


@pytest.mark.parametrize(("reverse", "ragged"), ROWS)
@pytest.mark.parametrize("sizes", [(7, 9, 5, 17), (40, 1, 1, 100), (2, 33, 5, 8)], ids=name_sizes)
def test_inference_gives_the_bits_of_training(twin, dtype, sizes, reverse, ragged):
    case, _ = case_and_expected(*sizes, dtype, reverse, ragged)
    functions = functions_of(twin, dtype)
    with_tape, without = run_forward(functions, case), run_forward(functions, case, tape=False)
    for name in FORWARD_RESULTS:
        assert_same_bits(without[name], with_tape[name], name)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("H", [1, 8, 17, 33])
@pytest.mark.parametrize("B", [3, 8, 13])
def test_tape_holds_gates_and_cells_of_the_real_steps_only(build, dtype, B, H, reverse):
    case, expected = case_and_expected(7, B, 5, H, dtype, reverse, True)
    tape = run_forward(functions_of(build, dtype), case)
    for name in ("gates", "c"):
        assert np.isnan(tape[name][~case.is_real]).all(), name
        assert_close(tape[name][case.is_real], expected[name][case.is_real], "forward", name)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("B", [2, 7, 16])
def test_padding_is_never_read_and_gives_zeros(twin, dtype, B, reverse):
    poisoned = make_case(6, B, 3, 9, dtype, reverse=reverse, lengths="ragged")
    clean = make_case(6, B, 3, 9, dtype, reverse=reverse, lengths="ragged")
    for name in ("x", "dy"):
        getattr(clean, name)[~clean.is_real] = 7
    functions = functions_of(twin, dtype)
    got, expected = run(functions, poisoned), run(functions, clean)
    for name, value in got.items():
        if name not in ("gates", "c"):
            assert np.isfinite(value).all(), name
            assert_same_bits(value, expected[name], name)
    for name in ("y", "dx"):
        assert (got[name][~poisoned.is_real] == 0).all(), name


def test_row_of_length_zero_passes_its_state_through(twin, dtype):
    case = make_case(4, 3, 2, 9, dtype, lengths=[4, 0, 2])
    got = run(functions_of(twin, dtype), case)
    for result, given_ in (("h_n", "h_0"), ("c_n", "c_0"), ("dh_0", "dh_n"), ("dc_0", "dc_n")):
        assert_same_bits(got[result][1], getattr(case, given_)[1], result)


def test_reverse_starts_at_each_rows_last_real_step(twin, dtype):
    case = make_case(6, 3, 2, 9, dtype, reverse=True, lengths=[6, 1, 4])
    functions = functions_of(twin, dtype)
    got = run_forward(functions, case)
    for b, length in enumerate(case.lengths):
        alone = make_case(length, 1, 2, 9, dtype)
        for name in ("W_x", "W_h", "bias"):
            getattr(alone, name)[...] = getattr(case, name)
        alone.x[...] = case.x[:length, b : b + 1][::-1]
        alone.h_0[...], alone.c_0[...] = case.h_0[b], case.c_0[b]
        flipped = run_forward(functions, alone)
        expected = run_forward(reference, alone.astype("float64"))
        assert_close(flipped["y"], expected["y"], "forward", "y")
        assert_close(got["y"][:length, b], expected["y"][::-1, 0], "forward", "y")
        assert_close(got["h_n"][b], expected["h_n"][0], "forward", "h_n")
        assert_close(got["c_n"][b], expected["c_n"][0], "forward", "c_n")


@pytest.mark.parametrize("sizes", [(0, 3, 2, 9), (4, 0, 2, 9), (0, 0, 1, 1)], ids=name_sizes)
def test_no_time_and_no_rows_are_legal(twin, dtype, sizes):
    case = make_case(*sizes, dtype)
    got = run(functions_of(twin, dtype), case)
    for name in ("dW_x", "dW_h", "dbias"):
        assert (got[name] == 0).all(), name
    assert_same_bits(got["h_n"], case.h_0)
    assert_same_bits(got["c_n"], case.c_0)
    assert_same_bits(got["dh_0"], case.dh_n)
    assert_same_bits(got["dc_0"], case.dc_n)


def test_rows_that_are_all_padding_are_legal(twin, dtype):
    got = run(functions_of(twin, dtype), make_case(3, 4, 2, 9, dtype, lengths=[0, 0, 0, 0]))
    for name in ("y", "dx", "dW_x", "dW_h", "dbias"):
        assert (got[name] == 0).all(), name


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("H", [1, 9, 16, 33])
def test_nan_stays_in_its_own_row(build, dtype, H, reverse):
    T, B = 4, 11
    functions = functions_of(build, dtype)
    clean = make_case(T, B, 3, H, dtype, reverse=reverse)
    expected = run(functions, clean)
    for row in range(B):
        case = make_case(T, B, 3, H, dtype, reverse=reverse)
        case.x[1, row, 2] = np.nan
        got = run(functions, case)
        others, after = np.arange(B) != row, slice(None, 2) if reverse else slice(1, None)
        before = slice(2, None) if reverse else slice(None, 1)
        for name in ("y", "dx"):
            assert_same_bits(got[name][:, others], expected[name][:, others], name)
        for name in ("h_n", "c_n", "dh_0", "dc_0"):
            assert_same_bits(got[name][others], expected[name][others], name)
        assert np.isnan(got["y"][after, row]).all()
        assert_same_bits(got["y"][before, row], expected["y"][before, row])
        assert np.isnan(got["h_n"][row]).all()
        assert np.isnan(got["c_n"][row]).all()


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (1, 1, 20, 100), (1, 8, 5, 33), (1, 33, 2, 7)], ids=name_sizes
)
def test_step_equals_forward_over_one_step(twin, dtype, sizes):
    _, B, _, H = sizes
    case, expected = case_and_expected(*sizes, dtype, False, False)
    h, c = np.full((2, B, H), np.nan, dtype)
    inputs = [case.x[0], case.W_x, case.W_h, case.bias, case.h_0, case.c_0]
    inputs = [value.copy() for value in inputs]
    for value in inputs:
        value.flags.writeable = False
    functions_of(twin, dtype).step(*inputs, h, c)
    assert_close(h, expected["h_n"], "forward", "h")
    assert_close(c, expected["c_n"], "forward", "c")


def test_same_call_gives_the_same_bits(build, dtype):
    case, _ = case_and_expected(7, 33, 5, 33, dtype, False, True)
    first, second = (run(functions_of(build, dtype), case) for _ in range(2))
    for name, value in first.items():
        assert_same_bits(second[name], value, name)


@pytest.mark.parametrize("scale", [1e3, 1e30], ids=["large", "huge"])
def test_saturated_gates_give_finite_results(twin, dtype, scale):
    case = make_case(5, 7, 3, 9, dtype)
    case.x[...] *= np.asarray(scale, dtype)
    got = run(functions_of(twin, dtype), case)
    for name, value in got.items():
        assert np.isfinite(value).all(), name
    assert np.abs(got["y"]).max() <= 1


def test_backward_overwrites_old_values(build, dtype):
    case, _ = case_and_expected(7, 9, 5, 17, dtype, False, True)
    functions = functions_of(build, dtype)
    forward = run_forward(functions, case)
    expected = run_backward(functions, case, forward)
    out = {name: np.full_like(value, 5) for name, value in expected.items()}
    functions.backward(
        case.dy, case.dh_n, case.dc_n, case.x, case.W_x, case.W_h, case.h_0, case.c_0, case.lengths, case.reverse,
        forward["y"], forward["gates"], forward["c"], *out.values(),
    )  # fmt: skip
    for name, value in out.items():
        assert_same_bits(value, expected[name], name)


@pytest.mark.parametrize("name", _dispatch.FUNCTIONS)
def test_twins_have_the_same_names_and_arguments(build, dtype, name):
    expected = inspect.signature(getattr(reference, name))
    got = inspect.signature(getattr(functions_of(build, dtype), name))
    assert [(p.name, p.default) for p in got.parameters.values()] == [
        (p.name, p.default) for p in expected.parameters.values()
    ]


@pytest.mark.parametrize("name", _dispatch.FUNCTIONS)
def test_kernels_refuse_none_and_the_wrong_dtype(build, dtype, name):
    case = make_case(2, 3, 2, 5, "float64" if dtype == "float32" else "float32")
    function = getattr(functions_of(build, dtype), name)
    first = case.x[0] if name == "step" else case.x
    arguments = [None] * (len(inspect.signature(getattr(reference, name)).parameters) - 1)
    with pytest.raises((TypeError, ValueError)):
        function(first, *arguments)
    with pytest.raises((TypeError, ValueError)):
        function(None, *arguments)


def test_builds_tell_their_vector_width(build):
    widths = {"baseline": [16], "x86_64_v3": [32, 64], "x86_64_v4": [64]}  # 64 if setup.py was told so
    assert load_build(build).VECTOR_BYTES in widths[build]
