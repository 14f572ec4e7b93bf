"""Each kernel build against the definition, for every kind of cell, and the rules that both obey.

The rules: padding, states, directions, NaN, inputs that stay as they are, one interface.
"""

import inspect

import numpy as np
import pytest
from conftest import (
    ACTIVATIONS,
    BACKWARD_RESULTS,
    BUILDS,
    DTYPES,
    FORWARD_RESULTS,
    KINDS,
    OPTIONS,
    TOGETHER,
    any_options,
    assert_close,
    assert_gradients_are_complex_step_derivatives,
    assert_results_close,
    assert_same_bits,
    case_and_expected,
    case_of_any_options,
    complex_step_gradients,
    functions_of,
    load_build,
    locked,
    make_case,
    nan_like,
    run,
    run_backward,
    run_forward,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from clstm import _dispatch, cells, reference

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
# More than one chunk, and products so deep that they are walked in blocks.
SIZES += [(30, 13, 40, 70), (2, 7, 300, 9), (3, 8, 2, 300)]
ROWS = [
    pytest.param(
        reverse, ragged, id=f"{'reverse' if reverse else 'forward'}-{'ragged' if ragged else 'full'}"
    )
    for reverse in (False, True)
    for ragged in (False, True)
]
EACH_KIND = pytest.mark.parametrize("kind", KINDS)  # for hypothesis, which is given no fixture


def name_sizes(sizes):
    return "T{}-B{}-I{}-H{}".format(*sizes)


@pytest.mark.parametrize(("reverse", "ragged"), ROWS)
@pytest.mark.parametrize("sizes", SIZES, ids=name_sizes)
def test_kernels_equal_the_definition(kind, build, dtype, sizes, reverse, ragged):
    case, expected = case_and_expected(*sizes, dtype, reverse, ragged, kind)
    assert_results_close(run(functions_of(build, dtype), case), expected)


@pytest.mark.parametrize("B", [1, 7])
@pytest.mark.parametrize("H", range(33, 48))
def test_kernels_equal_the_definition_whatever_the_last_vector_holds(build, dtype, B, H):
    case, expected = case_and_expected(3, B, 2, H, dtype, False, False, "lstm")
    assert_results_close(run(functions_of(build, dtype), case), expected)


@EACH_KIND
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
def test_kernels_equal_the_definition_for_any_lengths(kind, build, dtype, T, B, I, H, reverse, strided, data):  # noqa: E741
    lengths = data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    case = make_case(T, B, I, H, dtype, kind=kind, reverse=reverse, lengths=lengths)
    assert_results_close(
        run(functions_of(build, dtype), case, strided=strided), run(reference, case.astype("float64"))
    )


@pytest.mark.parametrize(("reverse", "lengths"), [(False, None), (False, "ragged"), (True, "ragged")])
@pytest.mark.parametrize(
    "sizes",
    [(5, 3, 2, 3), (1, 3, 2, 3), (5, 1, 2, 3), (4, 2, 3, 1), (4, 2, 1, 3), (1, 1, 1, 1)],
    ids=name_sizes,
)
def test_kernel_gradients_are_complex_step_derivatives(kind, build, sizes, reverse, lengths):
    case = make_case(*sizes, kind=kind, reverse=reverse, lengths=lengths)
    assert_gradients_are_complex_step_derivatives(functions_of(build, "float64"), case)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("time", [0, -1], ids=["first", "last"])
def test_loss_at_one_end_of_time_has_exact_gradients(kind, implementation, time, reverse):
    case = make_case(5, 2, 2, 3, kind=kind, reverse=reverse)
    kept = case.dy[time].copy()
    for name in ("dy", "dh_n", "dc_n"):
        getattr(case, name)[...] = 0
    case.dy[time] = kept
    assert_gradients_are_complex_step_derivatives(functions_of(implementation, "float64"), case)


def test_first_step_contributes_to_weight_gradients(kind, implementation):
    case = make_case(1, 2, 2, 3, kind=kind)
    expected = complex_step_gradients(case)
    # h_0 is not zero, so that leaving the first step out would show.
    assert np.abs(expected["dW_h"]).min() > 0
    got = run(functions_of(implementation, "float64"), case)
    for name in ("dW_x", "dW_h", "dbias"):
        assert_close(got[name], expected[name], "complex step", name)


@pytest.mark.parametrize(("reverse", "ragged"), ROWS)
@pytest.mark.parametrize("sizes", [(7, 9, 5, 17), (3, 1, 2, 33), (1, 7, 3, 8)], ids=name_sizes)
def test_outputs_and_their_derivatives_may_be_slices(kind, implementation, dtype, sizes, reverse, ragged):
    case, _ = case_and_expected(*sizes, dtype, reverse, ragged, kind)
    functions = functions_of(implementation, dtype)
    whole, sliced = run(functions, case), run(functions, case, strided=True)
    for name, value in whole.items():
        assert_same_bits(sliced[name], value, name)


@pytest.mark.parametrize(("reverse", "ragged"), ROWS)
@pytest.mark.parametrize("sizes", [(7, 9, 5, 17), (40, 1, 1, 100), (2, 33, 5, 8)], ids=name_sizes)
def test_inference_gives_the_bits_of_training(kind, implementation, dtype, sizes, reverse, ragged):
    case, _ = case_and_expected(*sizes, dtype, reverse, ragged, kind)
    functions = functions_of(implementation, dtype)
    with_tape, without = run_forward(functions, case), run_forward(functions, case, tape=False)
    for name in FORWARD_RESULTS:
        if name in with_tape:
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
def test_padding_is_never_read_and_gives_zeros(kind, implementation, dtype, B, reverse):
    poisoned = make_case(6, B, 3, 9, dtype, kind=kind, reverse=reverse, lengths="ragged")
    clean = make_case(6, B, 3, 9, dtype, kind=kind, reverse=reverse, lengths="ragged")
    for name in ("x", "dy"):
        getattr(clean, name)[~clean.is_real] = 7
    functions = functions_of(implementation, dtype)
    got, expected = run(functions, poisoned), run(functions, clean)
    for name, value in got.items():
        if name not in ("gates", "c"):
            assert np.isfinite(value).all(), name
            assert_same_bits(value, expected[name], name)
    for name in ("y", "dx"):
        assert (got[name][~poisoned.is_real] == 0).all(), name


def test_row_of_length_zero_passes_its_state_through(kind, implementation, dtype):
    case = make_case(4, 3, 2, 9, dtype, kind=kind, lengths=[4, 0, 2])
    got = run(functions_of(implementation, dtype), case)
    for part in case.kind.states:
        assert_same_bits(got[f"{part}_n"][1], getattr(case, f"{part}_0")[1], part)
        assert_same_bits(got[f"d{part}_0"][1], getattr(case, f"d{part}_n")[1], f"d{part}")


def test_reverse_starts_at_each_rows_last_real_step(kind, implementation, dtype):
    case = make_case(6, 3, 2, 9, dtype, kind=kind, reverse=True, lengths=[6, 1, 4])
    functions = functions_of(implementation, dtype)
    got = run_forward(functions, case)
    for b, length in enumerate(case.lengths):
        alone = make_case(length, 1, 2, 9, dtype, kind=kind)
        for name in ("W_x", "W_h", "bias"):
            getattr(alone, name)[...] = getattr(case, name)
        alone.x[...] = case.x[:length, b : b + 1][::-1]
        alone.h_0[...], alone.c_0[...] = case.h_0[b], case.c_0[b]
        flipped = run_forward(functions, alone)
        expected = run_forward(reference, alone.astype("float64"))
        assert_close(flipped["y"], expected["y"], "forward", "y")
        assert_close(got["y"][:length, b], expected["y"][::-1, 0], "forward", "y")
        for part in case.kind.states:
            assert_close(got[f"{part}_n"][b], expected[f"{part}_n"][0], "forward", part)


@pytest.mark.parametrize("sizes", [(0, 3, 2, 9), (4, 0, 2, 9), (0, 0, 1, 1)], ids=name_sizes)
def test_no_time_and_no_rows_are_legal(kind, implementation, dtype, sizes):
    case = make_case(*sizes, dtype, kind=kind)
    got = run(functions_of(implementation, dtype), case)
    for name in ("dW_x", "dW_h", "dbias"):
        assert (got[name] == 0).all(), name
    for part in case.kind.states:
        assert_same_bits(got[f"{part}_n"], getattr(case, f"{part}_0"), part)
        assert_same_bits(got[f"d{part}_0"], getattr(case, f"d{part}_n"), f"d{part}")


def test_rows_that_are_all_padding_are_legal(kind, implementation, dtype):
    case = make_case(3, 4, 2, 9, dtype, kind=kind, lengths=[0, 0, 0, 0])
    got = run(functions_of(implementation, dtype), case)
    for name in ("y", "dx", "dW_x", "dW_h", "dbias"):
        assert (got[name] == 0).all(), name


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("H", [1, 9, 16, 33])
def test_nan_stays_in_its_own_row(kind, build, dtype, H, reverse):
    T, B, when = 30, 11, 14  # several chunks
    functions = functions_of(build, dtype)
    clean = make_case(T, B, 3, H, dtype, kind=kind, reverse=reverse)
    expected = run(functions, clean)
    states = clean.kind.states
    for row in range(B):
        case = make_case(T, B, 3, H, dtype, kind=kind, reverse=reverse)
        case.x[when, row, 2] = np.nan
        got = run(functions, case)
        others = np.arange(B) != row
        before, after = slice(None, when), slice(when, None)
        if reverse:
            before, after = slice(when + 1, None), slice(None, when + 1)
        for name in ("y", "dx"):
            assert_same_bits(got[name][:, others], expected[name][:, others], name)
        for name in (*(f"{part}_n" for part in states), *(f"d{part}_0" for part in states)):
            assert_same_bits(got[name][others], expected[name][others], name)
        assert np.isnan(got["y"][after, row]).all()
        assert_same_bits(got["y"][before, row], expected["y"][before, row])
        for part in states:
            assert np.isnan(got[f"{part}_n"][row]).all(), part


@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (1, 1, 20, 100), (1, 8, 5, 33), (1, 33, 2, 7)], ids=name_sizes
)
def test_step_equals_forward_over_one_step(kind, implementation, dtype, sizes):
    case, expected = case_and_expected(*sizes, dtype, False, False, kind)
    after = tuple(map(nan_like, case.state("{}_0")))
    functions_of(implementation, dtype).step(case.cell, locked(case.x[0]), case.state("{}_0"), after)
    for part, value in zip(case.kind.states, after, strict=True):
        assert_close(value, expected[f"{part}_n"], "forward", part)


def test_same_call_gives_the_same_bits(kind, build, dtype):
    case, _ = case_and_expected(17, 33, 5, 33, dtype, False, True, kind)
    first, second = (run(functions_of(build, dtype), case) for _ in range(2))
    for name, value in first.items():
        assert_same_bits(second[name], value, name)


@pytest.mark.parametrize("scale", [1e3, 1e30], ids=["large", "huge"])
def test_saturated_units_give_finite_results(kind, implementation, dtype, scale):
    case = make_case(5, 7, 3, 9, dtype, kind=kind)
    case.x[...] *= np.asarray(scale, dtype)
    got = run(functions_of(implementation, dtype), case)
    for name, value in got.items():
        assert np.isfinite(value).all(), name
    assert np.abs(got["y"]).max() <= 1


def test_backward_overwrites_old_values(kind, implementation, dtype):
    case, _ = case_and_expected(7, 9, 5, 17, dtype, False, True, kind)
    functions = functions_of(implementation, dtype)
    tape = run_forward(functions, case)
    expected = run_backward(functions, case, tape)
    old = {name: np.full_like(value, 5) for name, value in expected.items()}
    for name, value in run_backward(functions, case, tape, out=old).items():
        assert_same_bits(value, expected[name], name)


# -------------------------------------------------------------------------------------------------- options

# T, B, I, H; those of a layer norm leave it two numbers at least, see `case_of_any_options`.
OPTION_SIZES = [(5, 3, 2, 33), (1, 9, 3, 16), (4, 1, 7, 17), (3, 2, 5, 1), (2, 7, 2, 15), (1, 1, 1, 1)]
NORM_SIZES = [(5, 3, 2, 33), (1, 9, 3, 16), (4, 1, 7, 17), (3, 2, 5, 7), (2, 7, 2, 15)]
# Each with every direction and kind of row in turn, and with resets in every other case.
ALONE = [
    pytest.param(
        name, sizes, bool(n % 2), bool(n // 2 % 2), "random" if n % 4 in (0, 3) else None,
        id=f"{name}-{name_sizes(sizes)}",
    )
    for m, name in enumerate([*OPTIONS, *TOGETHER])
    for n, sizes in enumerate(NORM_SIZES if "norm" in name or "all" in name else OPTION_SIZES, start=m)
]  # fmt: skip


@pytest.mark.parametrize(("name", "sizes", "reverse", "ragged", "resets"), ALONE)
def test_kernels_equal_the_definition_with_each_option(build, dtype, name, sizes, reverse, ragged, resets):
    case, expected = case_and_expected(*sizes, dtype, reverse, ragged, "lstm", name, resets)
    assert_results_close(run(functions_of(build, dtype), case, strided=reverse), expected)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_kernels_equal_the_definition_with_each_activation_in_every_place(build, dtype, name):
    for sizes in ((3, 2, 3, 17), (2, 1, 2, 8)):
        case, expected = case_and_expected(*sizes, dtype, False, True, "lstm", name)
        assert_results_close(run(functions_of(build, dtype), case), expected)


@pytest.mark.parametrize(("reverse", "ragged"), ROWS)
@pytest.mark.parametrize("sizes", [(7, 3, 2, 9), (30, 13, 4, 33), (5, 1, 1, 1)], ids=name_sizes)
def test_kernels_equal_the_definition_with_resets(kind, build, dtype, sizes, reverse, ragged):
    case, expected = case_and_expected(*sizes, dtype, reverse, ragged, kind, None, "random")
    assert_results_close(run(functions_of(build, dtype), case), expected)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("resets", [None, "random"], ids=["one-episode", "resets"])
def test_kernels_equal_the_definition_with_recurrent_dropout_of_an_rnn(build, dtype, reverse, resets):
    case, expected = case_and_expected(5, 4, 3, 17, dtype, reverse, True, "rnn", "recurrent dropout", resets)
    assert_results_close(run(functions_of(build, dtype), case), expected)


@settings(max_examples=80)
@given(
    build=st.sampled_from(BUILDS),
    dtype=st.sampled_from(DTYPES),
    options=any_options(),
    strided=st.booleans(),
    data=st.data(),
)
def test_kernels_equal_the_definition_with_any_options_together(build, dtype, options, strided, data):
    case = case_of_any_options(data, options, most=(5, 9, 6, 36), dtype=dtype)
    got = run(functions_of(build, dtype), case, strided=strided)
    assert_results_close(got, run(reference, case.astype("float64")))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", [*OPTIONS, *TOGETHER])
def test_padding_is_never_read_nor_written_with_options(implementation, dtype, name, reverse):
    """Nor are masks on padding, nor resets."""
    options = (OPTIONS | TOGETHER)[name]
    poisoned, clean = (
        make_case(
            6, 5, 3, 9, dtype, reverse=reverse, lengths=[0, 6, 3, 1, 5], options=options, resets="random"
        )
        for _ in range(2)
    )
    for case, value in ((poisoned, np.nan), (clean, 7)):
        for array in (case.x, case.dy, *(mask for mask in case.masks if mask is not None)):
            array[~case.is_real] = value
        case.resets[~case.is_real] = value == 7
    functions = functions_of(implementation, dtype)
    got, expected = run(functions, poisoned), run(functions, clean)
    for name in (*FORWARD_RESULTS, *BACKWARD_RESULTS):
        if name in got:
            assert np.isfinite(got[name]).all(), name
            assert_same_bits(got[name], expected[name], name)
    for name in ("gates", "c", "z", "norms"):
        if name in got:
            assert np.isnan(got[name][~poisoned.is_real]).all(), name
            assert np.isfinite(got[name][poisoned.is_real]).all(), name


@pytest.mark.parametrize("name", [*OPTIONS, *TOGETHER])
def test_tapes_of_training_and_of_tracing_and_none_give_the_same_bits(implementation, dtype, name):
    case, expected = case_and_expected(4, 3, 5, 17, dtype, False, True, "lstm", name, "random")
    functions = functions_of(implementation, dtype)
    with_tape, without = run_forward(functions, case), run_forward(functions, case, tape=False)
    T, B, _, H = case.sizes
    blank = [np.full((T, B, n), np.nan, dtype) for n in (case.dy.shape[2], 4 * H, H)]
    traced = cells.CellTape(*blank, masks=case.masks)
    final = tuple(map(nan_like, case.state("{}_0")))
    functions.forward(case.cell, locked(case.x), case.state("{}_0"), case.schedule, traced, final)
    for result in ("y", "h_n", "c_n"):
        assert_same_bits(without[result], with_tape[result], result)
    for result, value in zip(("y", "h_n", "c_n"), (traced.y, *final), strict=True):
        assert_same_bits(value, with_tape[result], result)
    assert_same_bits(traced.c, with_tape["c"])
    if case.options is None:
        assert_same_bits(traced.gates, with_tape["gates"])
        return
    assert_close(with_tape["z"][case.is_real], expected["z"][case.is_real], "forward", "z")
    gates = cells.CellTape(*map(nan_like, traced[:3]), masks=case.astype("float64").masks)
    gates = gates._replace(gates=np.full((T, B, 4 * H), np.nan))
    exact = case.astype("float64")
    blank = tuple(map(nan_like, exact.state("{}_0")))
    reference.forward(exact.cell, exact.x, exact.state("{}_0"), exact.schedule, gates, blank)
    assert_close(traced.gates[case.is_real], gates.gates[case.is_real], "forward", "gates")
    assert np.isnan(traced.gates[~case.is_real]).all()


@pytest.mark.parametrize("name", [*OPTIONS, *TOGETHER])
def test_step_equals_forward_over_one_step_with_options(implementation, dtype, name):
    options = (OPTIONS | TOGETHER)[name] | {"drawn": False}
    for sizes in ((1, 3, 4, 17), (1, 1, 2, 4)):
        case = make_case(*sizes, dtype, options=options)
        expected = run_forward(reference, case.astype("float64"))
        after = tuple(map(nan_like, case.state("{}_0")))
        functions_of(implementation, dtype).step(case.cell, locked(case.x[0]), case.state("{}_0"), after)
        for part, value in zip(case.kind.states, after, strict=True):
            assert_close(value, expected[f"{part}_n"], "forward", part)


@pytest.mark.parametrize("name", [*OPTIONS, *TOGETHER])
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_nan_stays_in_its_own_row_and_episode_with_options(implementation, dtype, name, reverse):
    functions = functions_of(implementation, dtype)
    resets = np.zeros((6, 5), bool)
    resets[3] = True
    options = (OPTIONS | TOGETHER)[name]
    clean = make_case(6, 5, 3, 17, dtype, reverse=reverse, options=options, resets=resets)
    expected = run(functions, clean)
    case = make_case(6, 5, 3, 17, dtype, reverse=reverse, options=options, resets=resets)
    row, others, other_episode = 2, np.arange(5) != 2, slice(3, None) if not reverse else slice(None, 3)
    case.x[4 if reverse else 1, row, 2] = np.nan
    got = run(functions, case)
    for result in ("y", "dx"):
        assert_same_bits(got[result][:, others], expected[result][:, others], result)
        assert_same_bits(got[result][other_episode, row], expected[result][other_episode, row], result)
    for result in ("h_n", "c_n"):
        assert_same_bits(got[result], expected[result], result)
    assert np.isnan(got["y"][4 if reverse else 1, row]).any()


def test_backward_overwrites_old_values_with_options(implementation, dtype):
    for name in TOGETHER:
        case, _ = case_and_expected(5, 3, 2, 17, dtype, False, True, "lstm", name, "random")
        functions = functions_of(implementation, dtype)
        tape = run_forward(functions, case)
        expected = run_backward(functions, case, tape)
        old = {result: np.full_like(value, 5) for result, value in expected.items()}
        for result, value in run_backward(functions, case, tape, out=old).items():
            assert_same_bits(value, expected[result], result)


# -------------------------------------------------------------------------------------- the interface of both


def names_and_defaults(function):
    return [(p.name, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", _dispatch.FUNCTIONS)
def test_functions_have_the_names_and_arguments_of_the_definition(build, dtype, name):
    expected = names_and_defaults(getattr(reference, name))
    assert names_and_defaults(getattr(functions_of(build, dtype), name)) == expected


def test_streams_have_the_methods_and_arguments_of_the_definition(build):
    own, theirs = load_build(build).Stream, reference.Stream
    methods = {name for name in vars(theirs) if not name.startswith("_")}
    states, ways = {"pack", "put_states", "get_states", "try_reset"}, {"run", "addresses", "columns"}
    assert methods == states | {"try_step", "most_rows"} | {f"try_{way}" for way in ways}
    assert methods == {name for name in vars(own) if not name.startswith("_")}
    for name in methods - {"most_rows"}:
        assert names_and_defaults(getattr(own, name)) == names_and_defaults(getattr(theirs, name)), name
    cell = make_case(1, 1, 2, 3).cell
    for stream in (own, theirs):
        stream(cells=[cell], rows=1, axes="f", packed=True)


def test_kernels_know_every_kind_of_cell_and_its_number_of_gates(build):
    kinds = [value for value in vars(cells).values() if isinstance(value, cells.Kind)]
    assert list(KINDS.values()) == kinds
    assert {kind.name: len(kind.gates) for kind in kinds} == load_build(build).KINDS


def test_kernels_know_every_activation_by_its_number(build):
    assert {name: n for n, name in enumerate(cells.ACTIVATIONS)} == load_build(build).ACTIVATIONS


def arguments_of(name, case):
    """Return what a function takes by name; what it writes to is full of NaN."""
    left = run_forward(reference, case)
    tape = cells.CellTape(left["y"], left.get("gates"), left.get("c"))
    state, blank = case.state("{}_0"), tuple(map(nan_like, case.state("{}_0")))
    if name == "step":
        return {"cell": case.cell, "x": locked(case.x[0]), "state": state, "final": blank}
    given_ = {"cell": case.cell, "x": locked(case.x), "state": state, "schedule": case.schedule}
    if name == "forward":
        tape = cells.CellTape(*(None if part is None else nan_like(part) for part in tape[:5]))
        return given_ | {"tape": tape, "final": blank}
    dcell = cells.Cell(case.kind, *map(nan_like, (case.W_x, case.W_h, case.bias)))
    return given_ | {
        "tape": tape, "dy": locked(case.dy), "dfinal": case.state("d{}_n"),
        "dx": nan_like(case.x), "dcell": dcell, "dstate": blank,
    }  # fmt: skip


WRITTEN = {"forward": ("tape", "final"), "backward": ("dx", "dcell", "dstate"), "step": ("final",)}


@pytest.mark.parametrize("name", WRITTEN)
def test_kernels_refuse_none_and_the_wrong_dtype_before_they_write(kind, build, dtype, name):
    other = "float64" if dtype == "float32" else "float32"
    given_, wrong = (arguments_of(name, make_case(2, 3, 2, 5, d, kind=kind)) for d in (dtype, other))
    function = getattr(functions_of(build, dtype), name)
    for argument in given_:
        for value in (None, wrong[argument]):
            if argument == "schedule" and value is not None:  # of whatever dtype
                continue
            if argument in ("dx", "dcell") and value is None:  # nobody asks for them
                continue
            with pytest.raises((TypeError, ValueError)):
                function(**given_ | {argument: value})
            for result in WRITTEN[name]:
                parts = [given_[result]] if isinstance(given_[result], np.ndarray) else given_[result]
                for part in parts:
                    assert not isinstance(part, np.ndarray) or np.isnan(part).all(), f"{argument}: {result}"
    function(**given_)


def test_builds_tell_their_vector_width(build):
    widths = {"baseline": [16], "x86_64_v3": [32, 64], "x86_64_v4": [64]}  # 64 if setup.py was told so
    assert load_build(build).VECTOR_BYTES in widths[build]


def without_parts(record):
    """Yield copies of a record, or of a tuple of arrays, in which one part that is an array is None."""
    for n, part in enumerate(record):
        if isinstance(part, np.ndarray):
            parts = [None if k == n else each for k, each in enumerate(record)]
            yield type(record)(*parts) if hasattr(record, "_fields") else tuple(parts)


@pytest.mark.parametrize("name", WRITTEN)
def test_kernels_refuse_records_with_a_part_that_is_none(kind, build, dtype, name):
    given_ = arguments_of(name, make_case(2, 3, 2, 5, dtype, kind=kind))
    function = getattr(functions_of(build, dtype), name)
    for argument, record in given_.items():
        # Of what forward leaves on its tape, gates and c may be None.
        if isinstance(record, tuple) and (name, argument) != ("forward", "tape"):
            for wrong in without_parts(record):
                with pytest.raises((IndexError, TypeError, ValueError)):
                    function(**given_ | {argument: wrong})


# --------------------------------------------------------------------------- numbers that are not finite


@pytest.mark.parametrize("name", cells.ACTIVATIONS)
def test_nan_reaches_the_gradients_that_it_reaches_in_the_definition(build, dtype, name):
    case = make_case(3, 2, 3, 5, dtype, options={"activations": (name, name, "tanh")})
    case.x[1, 0, 1] = np.nan
    got, expected = (run(functions_of(which, dtype), case) for which in (build, "reference"))
    assert np.isnan(expected["dx"]).any()
    for result in expected.keys() & {*BACKWARD_RESULTS}:
        np.testing.assert_array_equal(np.isnan(got[result]), np.isnan(expected[result]), result)


def test_padding_of_a_layer_norm_does_not_grow_over_many_steps(build):
    """A gate of 1.5 in the padding, 400 times, is more than float32 holds."""
    gates = ("affine", {"alpha": 0.1, "beta": 1.5})
    options = {"layer_norm": True, "activations": (gates, "tanh", "tanh"), "cell_clip": 1.0}
    case = make_case(400, 2, 3, 5, "float32", options=options)
    case.bias[5:10] = -7
    got, expected = (run(functions_of(which, "float32"), case) for which in (build, "reference"))
    assert np.isfinite(expected["dx"]).all()
    assert np.isfinite(got["dx"]).all()


def test_an_infinite_state_is_clipped(implementation, dtype):
    case = make_case(3, 2, 3, 5, dtype, options={"cell_clip": 1.5})
    case.c_0[0, 2] = np.inf
    y = run_forward(functions_of(implementation, dtype), case)["y"]
    assert np.isfinite(y).all()


def test_streams_that_read_weights_in_place_refuse_options(build):
    case = make_case(1, 1, 2, 3, options={"peepholes": True})
    with pytest.raises(ValueError, match="packed: expected True"):
        load_build(build).Stream([case.cell], 1, "f", False)
