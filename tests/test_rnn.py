"""class RNN, its definition and its kernels: exact gradients, kernel = definition = torch.nn.RNN, invariance, bad input."""

import copy
import os
import pickle
import re
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import conftest
import numpy as np
import pytest
from conftest import (
    BUILDS,
    DTYPES,
    assert_close,
    assert_same_bits,
    complex_step_gradients,
    denormals,
    functions_of,
    keeps_denormals,
    locked,
    signals,
    unchanged,
)
from hypothesis import given
from hypothesis import strategies as st

import clstm
from clstm import reference

INPUTS = ("x", "W_x", "W_h", "bias", "h_0")
LENGTHS = [pytest.param(None, id="full"), pytest.param("ragged", id="ragged")]
# Small enough to differentiate by every single input.
SMALL = [(5, 3, 2, 3), (1, 3, 2, 3), (5, 1, 2, 3), (4, 2, 3, 1), (4, 2, 1, 3), (1, 1, 1, 1)]
# Around a vector's width; then more than one chunk, and products so deep that they are walked in blocks.
SIZES = [(T, B, I, H) for T, B, I in ((7, 5, 3), (1, 3, 9), (6, 1, 2)) for H in (1, 3, 7, 8, 9, 16, 17, 33)]  # noqa: E741
SIZES += [(40, 1, 1, 100), (30, 13, 40, 70), (3, 200, 2, 5), (2, 7, 300, 9), (3, 8, 2, 300)]


def name_sizes(sizes):
    return "T{}-B{}-I{}-H{}".format(*sizes)


def make_case(T, B, I, H, dtype="float64", **kwargs):  # noqa: E741
    """Draw a case as for an LSTM and keep the weights of one block of H columns; its cells and `reverse` are not used."""
    case = conftest.make_case(T, B, I, H, dtype, **kwargs)
    return replace(
        case, **{name: np.ascontiguousarray(getattr(case, name)[..., :H]) for name in ("W_x", "W_h", "bias")}
    )


def run_forward(functions, case):
    """Run forward into arrays full of NaN."""
    y, h_n = np.full_like(case.dy, np.nan), np.full_like(case.h_0, np.nan)
    functions.rnn_forward(*(locked(getattr(case, name)) for name in (*INPUTS, "lengths")), y, h_n)
    return {"y": y, "h_n": h_n}


def run(functions, case):
    """Run forward and backward; return all results by name."""
    results = run_forward(functions, case)
    names = ("dy", "dh_n", "x", "W_x", "W_h", "h_0", "lengths")
    gradients = {"d" + name: np.full_like(getattr(case, name), np.nan) for name in INPUTS}
    given_ = [locked(getattr(case, name)) for name in names]
    functions.rnn_backward(*given_, locked(results["y"]), *gradients.values())
    return results | gradients


def loss(case):
    """Return the scalar whose derivatives by y and h_n are dy and dh_n."""
    result = run_forward(reference, case)
    return (case.dy * result["y"])[case.is_real].sum() + (case.dh_n * result["h_n"]).sum()


def assert_gradients_are_complex_step_derivatives(functions, case):
    got, expected = run(functions, case), complex_step_gradients(case, loss, INPUTS)
    for name, value in expected.items():
        assert_close(got[name], value, "complex step", name)


def assert_results_close(got, expected):
    for name, value in expected.items():
        assert_close(got[name], value, "backward" if name.startswith("d") else "forward", name)


def make_rnn(case, **kwargs):
    """Make an RNN that has the weights of a case."""
    rnn = clstm.RNN(case.x.shape[2], len(case.W_h), dtype=case.dtype, **kwargs)
    rnn.params["weight_ih_l0"][...], rnn.params["weight_hh_l0"][...] = case.W_x.T, case.W_h.T
    if rnn.bias:
        rnn.params["bias_l0"][...] = case.bias
    return rnn


def make_rnn_on(build, case):
    """Make an RNN as `make_rnn` does, on one kernel build."""
    rnn = make_rnn(case)
    rnn._functions = functions_of(build, case.dtype.name)
    return rnn


# ------------------------------------------------------------------------------------------- the definition


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("sizes", SMALL, ids=name_sizes)
def test_gradients_are_complex_step_derivatives(sizes, lengths):
    assert_gradients_are_complex_step_derivatives(reference, make_case(*sizes, lengths=lengths))


@pytest.mark.parametrize("only", ["dy", "dh_n"])
def test_each_way_into_the_loss_alone_has_exact_gradients(only):
    case = make_case(4, 3, 2, 3, lengths=[4, 2, 3])
    getattr(case, {"dy": "dh_n", "dh_n": "dy"}[only])[...] = 0
    assert_gradients_are_complex_step_derivatives(reference, case)


@pytest.mark.parametrize("time", [0, -1], ids=["first", "last"])
def test_loss_at_one_end_of_time_has_exact_gradients(twin, time):
    case = make_case(5, 2, 2, 3)
    kept = case.dy[time].copy()
    case.dy[...], case.dh_n[...] = 0, 0
    case.dy[time] = kept
    assert_gradients_are_complex_step_derivatives(functions_of(twin, "float64"), case)


def test_first_step_contributes_to_weight_gradients(twin):
    case = make_case(1, 2, 2, 3)
    expected = complex_step_gradients(case, loss, INPUTS)
    assert (
        np.abs(expected["dW_h"]).min() > 0
    )  # h_0 is not zero, so that leaving the first step out would show
    got = run(functions_of(twin, "float64"), case)
    for name in ("dW_x", "dW_h", "dbias"):
        assert_close(got[name], expected[name], "complex step", name)


def test_last_step_is_differentiated_with_the_state_after_it(twin):
    case = make_case(3, 2, 2, 3)
    got = run(functions_of(twin, "float64"), case)
    dz = (case.dy[-1] + case.dh_n) * (1 - got["y"][-1] ** 2)
    assert_close(got["dx"][-1], dz @ case.W_x.T, "backward", "dx")


@given(T=st.integers(0, 6), B=st.integers(0, 4), I=st.integers(1, 4), H=st.integers(1, 5), data=st.data())
def test_forward_agrees_with_a_loop_over_rows(T, B, I, H, data):  # noqa: E741
    case = make_case(T, B, I, H, lengths=data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B)))
    got = run_forward(reference, case)
    for row, length in enumerate(case.lengths):
        h = case.h_0[row]
        for t in range(length):
            h = np.tanh(
                np.concatenate([case.x[t, row], h, [1]])
                @ np.concatenate([case.W_x, case.W_h, case.bias[None]])
            )
            assert_close(got["y"][t, row], h, "forward", "y")
        assert_close(got["h_n"][row], h, "forward", "h_n")


def test_nothing_in_the_definition_casts_to_float():
    result = run(reference, make_case(3, 2, 2, 3, lengths=[3, 1]).astype(np.complex128))
    assert {value.dtype for value in result.values()} == {np.dtype(np.complex128)}


def _wrong(**changed):
    """Return the definition with some arguments of rnn_backward computed from the others."""
    names = ("dy", "dh_n", "x", "W_x", "W_h", "h_0", "lengths", "y", "dx", "dW_x", "dW_h", "dbias", "dh_0")

    def backward(*arguments):
        given_ = dict(zip(names, arguments, strict=True))
        new = {name: change(SimpleNamespace(**given_)) for name, change in changed.items()}
        reference.rnn_backward(*(given_ | new).values())

    return SimpleNamespace(rnn_forward=reference.rnn_forward, rnn_backward=backward)


MUTANTS = {
    "h_0 not seen": _wrong(h_0=lambda a: np.zeros_like(a.h_0)),
    "dh_n ignored": _wrong(dh_n=lambda a: np.zeros_like(a.dh_n)),
    "W_h not transposed": _wrong(W_h=lambda a: a.W_h.T),
    "first step's input not seen": _wrong(x=lambda a: np.concatenate([0 * a.x[:1], a.x[1:]])),
    "first step's output not seen": _wrong(dy=lambda a: np.concatenate([0 * a.dy[:1], a.dy[1:]])),
    "last step's output not seen": _wrong(dy=lambda a: np.concatenate([a.dy[:-1], 0 * a.dy[-1:]])),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_comparisons_fail_for(mutant):
    case = make_case(4, 3, 2, 3)
    with pytest.raises(AssertionError, match=r"error .* promised"):
        assert_results_close(run(MUTANTS[mutant], case), run(reference, case))
    with pytest.raises(AssertionError, match=r"error .* promised"):
        assert_gradients_are_complex_step_derivatives(MUTANTS[mutant], case)


# ---------------------------------------------------------------------------------------------- the kernels


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("sizes", SIZES, ids=name_sizes)
def test_kernels_equal_the_definition(build, dtype, sizes, lengths):
    case = make_case(*sizes, dtype, lengths=lengths)
    assert_results_close(run(functions_of(build, dtype), case), run(reference, case.astype("float64")))


@given(
    build=st.sampled_from(BUILDS), dtype=st.sampled_from(DTYPES), T=st.integers(0, 9), B=st.integers(0, 14),
    I=st.integers(1, 9), H=st.integers(1, 36), data=st.data(),
)  # fmt: skip
def test_kernels_equal_the_definition_for_any_lengths(build, dtype, T, B, I, H, data):  # noqa: E741
    case = make_case(
        T, B, I, H, dtype, lengths=data.draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    )
    assert_results_close(run(functions_of(build, dtype), case), run(reference, case.astype("float64")))


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("sizes", SMALL, ids=name_sizes)
def test_kernel_gradients_are_complex_step_derivatives(build, sizes, lengths):
    assert_gradients_are_complex_step_derivatives(
        functions_of(build, "float64"), make_case(*sizes, lengths=lengths)
    )


@pytest.mark.parametrize("B", [2, 7, 16])
def test_padding_is_never_read_and_gives_zeros(twin, dtype, B):
    case = make_case(6, B, 3, 9, dtype, lengths="ragged")  # NaN on padding
    got = run(functions_of(twin, dtype), case)
    for name, value in got.items():
        assert np.isfinite(value).all(), name
    for name in ("y", "dx"):
        assert (got[name][~case.is_real] == 0).all(), name


def test_row_of_length_zero_passes_its_state_through(twin, dtype):
    case = make_case(4, 3, 2, 9, dtype, lengths=[4, 0, 2])
    got = run(functions_of(twin, dtype), case)
    assert_same_bits(got["h_n"][1], case.h_0[1])
    assert_same_bits(got["dh_0"][1], case.dh_n[1])


@pytest.mark.parametrize("sizes", [(0, 3, 2, 9), (4, 0, 2, 9), (0, 0, 1, 1)], ids=name_sizes)
def test_no_time_and_no_rows_are_legal(twin, dtype, sizes):
    case = make_case(*sizes, dtype)
    got = run(functions_of(twin, dtype), case)
    for name in ("dW_x", "dW_h", "dbias"):
        assert (got[name] == 0).all(), name
    assert_same_bits(got["h_n"], case.h_0)
    assert_same_bits(got["dh_0"], case.dh_n)


@pytest.mark.parametrize("H", [1, 9, 16, 33])
def test_nan_stays_in_its_own_row(build, dtype, H):
    T, B = 30, 11  # several chunks
    functions = functions_of(build, dtype)
    expected = run(functions, make_case(T, B, 3, H, dtype))
    for row in range(B):
        case = make_case(T, B, 3, H, dtype)
        case.x[14, row, 2] = np.nan
        got = run(functions, case)
        others = np.arange(B) != row
        for name in ("y", "dx"):
            assert_same_bits(got[name][:, others], expected[name][:, others], name)
        for name in ("h_n", "dh_0"):
            assert_same_bits(got[name][others], expected[name][others], name)
        assert_same_bits(got["y"][:14, row], expected["y"][:14, row])
        assert np.isnan(got["y"][14:, row]).all()
        assert np.isnan(got["h_n"][row]).all()


def test_same_call_gives_the_same_bits(build, dtype):
    case = make_case(17, 33, 5, 33, dtype, lengths="ragged")
    first, second = (run(functions_of(build, dtype), case) for _ in range(2))
    for name, value in first.items():
        assert_same_bits(second[name], value, name)


@pytest.mark.parametrize("scale", [1e3, 1e30], ids=["large", "huge"])
def test_saturated_units_give_finite_results(twin, dtype, scale):
    case = make_case(5, 7, 3, 9, dtype)
    case.x[...] *= np.asarray(scale, dtype)
    got = run(functions_of(twin, dtype), case)
    for name, value in got.items():
        assert np.isfinite(value).all(), name
    assert np.abs(got["y"]).max() <= 1


# ----------------------------------------------------------------------------------------------- invariance


@given(
    build=st.sampled_from(BUILDS), dtype=st.sampled_from(DTYPES), B=st.integers(1, 25), I=st.integers(1, 9),
    H=st.sampled_from([1, 5, 8, 16, 19, 33, 70, 130]), data=st.data(),
)  # fmt: skip
def test_row_has_the_same_bits_whatever_its_batch(build, dtype, B, I, H, data):  # noqa: E741
    case = make_case(9, B, I, H, dtype, lengths="ragged")
    rows = data.draw(st.lists(st.integers(0, B - 1), min_size=1, max_size=B))
    rnn = make_rnn_on(build, case)
    y, h_n = rnn(case.x, case.h_0[None], case.lengths)
    part, part_h_n = rnn(case.x[:, rows], case.h_0[None, rows], case.lengths[rows])
    assert_same_bits(part, y[:, rows])
    assert_same_bits(part_h_n, h_n[:, rows])


@given(
    build=st.sampled_from(BUILDS), dtype=st.sampled_from(DTYPES), B=st.integers(1, 9), I=st.integers(1, 9),
    H=st.sampled_from([1, 5, 8, 16, 19, 33, 70, 130]),
    chunks=st.lists(st.tuples(st.integers(0, 25), st.sampled_from(["call", "forward", "trace", "step"])), max_size=5),
)  # fmt: skip
def test_one_call_has_the_bits_of_any_chunks(build, dtype, B, I, H, chunks):  # noqa: E741
    case = make_case(sum(steps for steps, _ in chunks), B, I, H, dtype)
    rnn, state, t = make_rnn_on(build, case), case.h_0[None], 0
    y, h_n = rnn(case.x, state)
    for steps, way in chunks:
        x, t = case.x[t : t + steps], t + steps
        if way == "step":
            got = np.empty((steps, B, H), dtype)
            for x_t, h_t in zip(x, got, strict=True):
                h_t[...], state = rnn.step(x_t, state)
        elif way == "trace":
            got = rnn.trace(x, state).h[0]
            state = got[None, -1] if steps else state
        else:
            got, state = (rnn if way == "call" else rnn.forward)(x, state)
        assert_same_bits(got, y[t - steps : t], way)
    assert_same_bits(state, h_n)


def test_chunks_of_unequal_rows_have_the_bits_of_one_call(build, dtype):
    case = make_case(12, 9, 3, 19, dtype, lengths="ragged")
    rnn, state = make_rnn_on(build, case), case.h_0[None]
    y, h_n = rnn(case.x, state, case.lengths)
    for start, end in pairwise((0, 1, 5, 12)):
        got, state = rnn(case.x[start:end], state, np.clip(case.lengths - start, 0, end - start))
        assert_same_bits(got, y[start:end])
    assert_same_bits(state, h_n)


# ------------------------------------------------------------------------------------------------ the class


@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
def test_class_equals_the_definition(dtype, backend, bias, batch_first):
    case = make_case(6, 4, 3, 5, dtype, lengths="ragged")
    case.bias[...] *= bias
    expected = run(reference, case.astype("float64"))
    rnn = make_rnn(case, bias=bias, batch_first=batch_first, backend=backend)
    turn = (lambda v: v.swapaxes(0, 1)) if batch_first else (lambda v: v)
    for call in (rnn, rnn.forward):
        y, h_n = call(turn(case.x), case.h_0[None], case.lengths.tolist())
        assert_close(turn(y), expected["y"], "forward", "y")
        assert_close(h_n[0], expected["h_n"], "forward", "h_n")
    trace = rnn.trace(turn(case.x), case.h_0[None], case.lengths)
    assert_same_bits(trace.h[0], turn(y))
    dx, dh_0 = rnn.backward(turn(case.dy), case.dh_n[None])
    assert_close(turn(dx), expected["dx"], "backward", "dx")
    assert_close(dh_0[0], expected["dh_0"], "backward", "dh_0")
    for name, part in (("weight_ih_l0", "dW_x"), ("weight_hh_l0", "dW_h"), ("bias_l0", "dbias"))[: 2 + bias]:
        assert_close(rnn.grads[name], expected[part].T, "backward", name)
    assert list(rnn.grads) == ["weight_ih_l0", "weight_hh_l0", "bias_l0"][: 2 + bias]


@pytest.mark.parametrize("batch_first", [False, True], ids=["time-first", "batch-first"])
def test_one_sequence_is_a_batch_of_one_without_its_axis(dtype, backend, batch_first):
    case = make_case(6, 1, 3, 5, dtype)
    whole, rnn = (make_rnn(case, backend=backend, batch_first=first) for first in (False, batch_first))
    expected, expected_h = whole.forward(case.x, case.h_0[None])
    expected_dx, expected_dh = whole.backward(case.dy, case.dh_n[None])
    y, h_n = rnn.forward(case.x[:, 0], case.h_0)
    dx, dh_0 = rnn.backward(case.dy[:, 0], case.dh_n)
    assert_same_bits(y, expected[:, 0])
    assert_same_bits(h_n, expected_h[:, 0])
    assert_same_bits(dx, expected_dx[:, 0])
    assert_same_bits(dh_0, expected_dh[:, 0])
    assert_same_bits(rnn.flat_grads, whole.flat_grads)
    assert_same_bits(rnn.trace(case.x[:, 0], case.h_0).h, expected[None, :, 0])
    h_t, h = rnn.step(case.x[0, 0], case.h_0)
    assert_same_bits(h_t, expected[0, 0])
    assert_same_bits(h, expected[0])


def test_trace_is_laid_out_like_that_of_an_lstm(backend):
    x = np.ones((6, 2, 3))
    for value in (x, x[:, 0]):
        shapes = [make(3, 5, backend=backend).trace(value).h.shape for make in (clstm.RNN, clstm.LSTM)]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
@pytest.mark.parametrize("sizes", [(7, 5, 4, 9), (1, 1, 1, 1), (20, 3, 2, 33)], ids=name_sizes)
def test_float64_equals_torch(backend, sizes, bias, ragged):
    torch = pytest.importorskip("torch")
    T, B, I, H = sizes  # noqa: E741
    lengths = np.random.default_rng(1).integers(1, T + 1, B) if ragged else None
    case = make_case(*sizes, lengths=lengths)
    rnn, twin = make_rnn(case, bias=bias, backend=backend), torch.nn.RNN(I, H, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for name, value in twin.named_parameters():
            if name == "bias_hh_l0":
                value.zero_()
            else:
                value.copy_(torch.from_numpy(rnn.params[name.replace("bias_ih", "bias")].copy()))
    x, h_0 = (torch.tensor(np.nan_to_num(v), requires_grad=True) for v in (case.x, case.h_0[None]))
    if ragged:
        pack, unpack = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
        packed, h_n = twin(pack(x, torch.from_numpy(lengths), enforce_sorted=False), h_0)
        y, _ = unpack(packed, total_length=T)
    else:
        y, h_n = twin(x, h_0)
    (
        (y * torch.from_numpy(np.nan_to_num(case.dy))).sum() + (h_n * torch.from_numpy(case.dh_n[None])).sum()
    ).backward()

    got_y, got_h = rnn.forward(case.x, case.h_0[None], lengths)
    dx, dh_0 = rnn.backward(case.dy, case.dh_n[None])
    pairs = [(got_y, y.detach()), (got_h, h_n.detach()), (dx, x.grad), (dh_0, h_0.grad)]
    pairs += [
        (rnn.grads[re.sub("bias_[ih]h", "bias", name)], value.grad) for name, value in twin.named_parameters()
    ]
    for got, expected in pairs:
        assert_close(got, expected.numpy(), "torch")


def test_accumulate_adds_to_the_gradients(backend):
    case = make_case(4, 3, 2, 5)
    rnn = make_rnn(case, backend=backend)
    rnn.forward(case.x)
    rnn.backward(case.dy)
    once = rnn.flat_grads.copy()
    rnn.backward(case.dy)
    assert_same_bits(rnn.flat_grads, once)
    rnn.backward(case.dy, accumulate=True)
    assert_same_bits(rnn.flat_grads, once + once)


@pytest.mark.parametrize("missing", ["dy", "dstate"])
def test_missing_derivative_counts_as_zero(backend, missing):
    case = make_case(4, 3, 2, 5)
    rnn = make_rnn(case, backend=backend)
    rnn.forward(case.x)
    given_ = {"dy": case.dy, "dstate": case.dh_n[None]}
    expected = rnn.backward(**(given_ | {missing: np.zeros_like(given_[missing])}))
    del given_[missing]
    for got, value in zip(rnn.backward(**given_), expected, strict=True):
        assert_same_bits(got, value)


def test_tape_holds_copies(backend):
    case, twin = make_case(4, 3, 2, 5), make_case(4, 3, 2, 5)
    rnn = make_rnn(case, backend=backend)
    state, lengths = case.h_0[None], case.lengths.copy()
    y, h_n = rnn.forward(case.x, state, lengths)
    expected = rnn.backward(case.dy)
    for array in (case.x, state, lengths, y, h_n):
        array[...] = 3
    rnn(twin.x)  # inference touches no tape
    for got, value in zip(rnn.backward(case.dy), expected, strict=True):
        assert_same_bits(got, value)
    rnn.forward(twin.x, twin.h_0[None])  # the memory of the tape before is used again
    for got, value in zip(rnn.backward(case.dy), expected, strict=True):
        assert_same_bits(got, value)


def test_inputs_are_never_modified(backend):
    case = make_case(4, 3, 2, 5, lengths="ragged")
    rnn = make_rnn(case, backend=backend)
    x, state, lengths, dy, dstate = map(
        locked, (case.x, case.h_0[None], case.lengths, case.dy, case.dh_n[None])
    )
    for call in (rnn, rnn.forward, rnn.trace):
        call(x, state, lengths)
    rnn.backward(dy, dstate)
    rnn.step(x[0], state)


def test_params_and_grads_are_views_that_cover_one_flat_array(dtype):
    rnn = clstm.RNN(3, 5, dtype=dtype)
    for flat, named in ((rnn.flat_params, rnn.params), (rnn.flat_grads, rnn.grads)):
        assert {name: value.shape for name, value in named.items()} == {
            "weight_ih_l0": (5, 3), "weight_hh_l0": (5, 5), "bias_l0": (5,),
        }  # fmt: skip
        flat[...] = np.arange(flat.size)
        assert sorted(np.concatenate([value.ravel() for value in named.values()])) == list(
            range(5 * (3 + 5 + 1))
        )
        assert flat.dtype == dtype


def test_change_of_a_parameter_shows_in_the_next_call(backend):
    rnn = clstm.RNN(3, 5, rng=0, backend=backend)
    x = np.ones((2, 1, 3))
    before, _ = rnn(x)
    rnn.params["bias_l0"] += 1
    assert (rnn(x)[0] != before).all()


def test_state_dict_goes_round():
    first, second = clstm.RNN(3, 5, rng=0), clstm.RNN(3, 5, rng=1)
    second.load_state_dict(first.state_dict())
    assert_same_bits(second.flat_params, first.flat_params)
    with pytest.raises(ValueError, match="state_dict: expected exactly weight_ih_l0, weight_hh_l0, bias_l0"):
        second.load_state_dict({})


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["deepcopy", "pickle"]
)
def test_copy_has_parameters_and_views_of_its_own(duplicate, dtype, backend):
    case = make_case(4, 3, 2, 5, dtype)
    rnn = make_rnn(case, backend=backend)
    rnn.forward(case.x)
    rnn.backward(case.dy)
    twin = duplicate(rnn)
    assert repr(twin) == repr(rnn)
    assert_same_bits(twin.flat_grads, rnn.flat_grads)
    assert_same_bits(twin(case.x)[0], rnn(case.x)[0])
    with pytest.raises(RuntimeError, match="forward"):  # the tape stays behind
        twin.backward(case.dy)
    twin.params["bias_l0"][...] = 7
    assert (twin.flat_params == 7).sum() == 5
    assert not (rnn.flat_params == 7).any()


def test_repr_shows_the_arguments():
    assert (
        repr(clstm.RNN(3, 5, dtype="float32"))
        == "RNN(3, 5, bias=True, batch_first=False, init='glorot', dtype='float32')"
    )


def test_initial_weights_are_those_that_are_promised():
    rnn = clstm.RNN(3, 50, rng=0)
    assert_same_bits(rnn.flat_params, clstm.RNN(3, 50, rng=np.random.default_rng(0)).flat_params)
    W = rnn.params["weight_hh_l0"]
    assert_close(W @ W.T, np.eye(50), "forward", "orthogonal weights")
    limit = np.sqrt(6 / 53)
    assert 0.9 * limit < np.abs(rnn.params["weight_ih_l0"]).max() <= limit
    assert (rnn.params["bias_l0"] == 0).all()
    flat = clstm.RNN(3, 50, rng=0, init="torch").flat_params
    assert 0.9 / np.sqrt(50) < np.abs(flat).max() <= 1 / np.sqrt(50)
    assert (flat[-50:] != 0).all()


# ------------------------------------------------------------------------------------------------ bad input

x, h = np.zeros((4, 2, 3)), np.zeros((1, 2, 5))
CALLS = {
    "x: expected shape (T, B, 3) or (T, 3), got (3,)": (ValueError, (np.zeros(3),)),
    "x: expected shape (T, B, 3), got (4, 2, 4)": (ValueError, (np.zeros((4, 2, 4)),)),
    "x: expected real numbers, got dtype complex128": (TypeError, (x.astype(complex),)),
    "state: expected shape (1, 2, 5), got (2, 5)": (ValueError, (x, h[0])),
    "state: expected shape (1, 2, 5), got (2, 1, 2, 5)": (ValueError, (x, (h, h))),
    "state: expected shape (1, 5), got (1, 2, 5)": (ValueError, (x[:, 0], h)),
    "state: expected real numbers, got dtype complex128": (TypeError, (x, h.astype(complex))),
    "lengths: expected shape (2,), got (1,)": (ValueError, (x, h, [4])),
    "lengths: expected values in 0..4, got 1..5": (ValueError, (x, h, [1, 5])),
}
BACKWARD = {
    "dy: expected shape (4, 2, 5), got (4, 2, 6)": (ValueError, (np.zeros((4, 2, 6)),)),
    "dy: expected real numbers, got dtype complex128": (TypeError, (np.zeros((4, 2, 5), complex),)),
    "dstate: expected shape (1, 2, 5), got (2, 5)": (ValueError, (None, h[0])),
    "dy, dstate: expected at least one of them, got None for both": (ValueError, ()),
    "accumulate: expected True or False, got 1": (TypeError, (np.zeros((4, 2, 5)), h, 1)),
}
STEPS = {
    "x_t: expected shape (B, 3), got (2, 4)": (ValueError, (np.zeros((2, 4)),)),
    "x_t: expected shape (3,), got (4,)": (ValueError, (np.zeros(4),)),
    "state: expected shape (1, 2, 5), got (1, 5)": (ValueError, (x[0], h[:, 0])),
}
REFUSED = [
    *((call, *case) for call in ("__call__", "forward", "trace") for case in CALLS.items()),
    *(("backward", *case) for case in BACKWARD.items()),
    *(("step", *case) for case in STEPS.items()),
]


@pytest.mark.parametrize(
    ("call", "message", "case"), REFUSED, ids=[f"{call}-{message}" for call, message, _ in REFUSED]
)
def test_bad_input_is_named_and_changes_nothing(backend, call, message, case):
    rnn = clstm.RNN(3, 5, rng=0, backend=backend)
    rnn.forward(np.ones((4, 2, 3)))
    rnn.backward(np.ones((4, 2, 5)))
    error, arguments = case
    with unchanged(rnn), pytest.raises(error, match=f"^{re.escape(message)}$"):
        getattr(rnn, call)(*arguments)


def test_backward_before_forward(backend):
    rnn = clstm.RNN(3, 5, backend=backend)
    rnn(x)
    with (
        unchanged(rnn),
        pytest.raises(RuntimeError, match=r"^backward: expected a call of forward before it, got none$"),
    ):
        rnn.backward(np.zeros((4, 2, 5)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "hidden_size: expected at least 1, got 0"),
        ({"input_size": 2.0}, TypeError, "input_size: expected an integer, got 2.0"),
        ({"bias": 1}, TypeError, "bias: expected True or False, got 1"),
        ({"batch_first": None}, TypeError, "batch_first: expected True or False, got None"),
        ({"dtype": "float16"}, ValueError, "dtype: expected float32 or float64, got 'float16'"),
        ({"init": "xavier"}, ValueError, "init: expected one of 'glorot', 'torch', got 'xavier'"),
        ({"backend": "cuda"}, ValueError, "backend: expected one of 'auto', 'numpy', got 'cuda'"),
        ({"rng": "seed"}, TypeError, "rng: expected an integer, got 'seed'"),
    ],
)
def test_constructor_refuses(arguments, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        clstm.RNN(**{"input_size": 3, "hidden_size": 5} | arguments)


# ----------------------------------------------------------------------------- denormals, signals, warnings


def use(rnn, scale):
    """Call everything that computes; yield after each."""
    values = np.full((4, 2, 3), scale, rnn.dtype)
    for call in (rnn, rnn.forward, rnn.trace):
        yield call(values)
    yield rnn.backward(np.full((4, 2, 17), scale, rnn.dtype))
    yield rnn.step(values[0])


def test_calls_leave_denormals_to_the_caller(build, dtype):
    rnn = make_rnn_on(build, make_case(1, 1, 3, 17, dtype))
    assert keeps_denormals()
    for _ in use(rnn, np.finfo(dtype).tiny / 2):
        assert keeps_denormals()


def test_no_warning_comes_from_the_kernels(build, dtype):
    rnn = make_rnn_on(build, make_case(1, 1, 3, 17, dtype))
    with np.errstate(all="raise"):
        for value in (0.0, np.finfo(dtype).smallest_subnormal, 1e30, np.finfo(dtype).max, np.inf, np.nan):
            for _ in use(rnn, value):
                assert np.float64(2) / np.float64(3) > 0  # NumPy looks at the flags here


def test_gradients_of_a_last_step_loss_are_right_and_hold_no_denormals(build, dtype):
    case = make_case(600, 3, 4, 16, dtype)
    case.W_h[...] *= np.asarray(
        0.3, dtype
    )  # the gradient passes through all denormals on its way to the first step
    case.dy[:-1], case.dh_n[...] = 0, 0
    got = run(functions_of(build, dtype), case)
    with np.errstate(under="ignore"):
        expected = run(reference, case.astype("float64"))
        assert denormals(expected["dx"].astype(dtype)) > 0
    for name in ("dx", "dW_x", "dW_h", "dbias"):
        assert denormals(got[name]) == 0, name
        assert_close(got[name], expected[name], "backward", name)
    assert (got["dh_0"] == 0).all()
    assert (got["dx"][0] == 0).all()
    assert (got["dx"][-1] != 0).all()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
@pytest.mark.parametrize("call", ["__call__", "backward"])
def test_signal_handlers_run_within_a_call_see_denormals_and_may_end_it(dtype, call):
    answers = []

    def handler(*_):
        answers.append(keeps_denormals())
        if (
            len(answers) == 2
        ):  # a call that does not look for signals lets the handler run once, when it is over
            raise KeyboardInterrupt

    rnn = clstm.RNN(4, 300, dtype=dtype, rng=0)
    rnn.forward(np.ones((30_000, 1, 4), dtype))
    steps, dstate = np.broadcast_to(np.ones(1, dtype), (300_000, 1, 4)), np.ones((1, 1, 300), dtype)
    with unchanged(rnn), pytest.raises(KeyboardInterrupt), signals(handler, 0.01, 0.01):
        rnn(steps) if call == "__call__" else rnn.backward(dstate=dstate)
    assert answers == [True, True]
    assert keeps_denormals()
