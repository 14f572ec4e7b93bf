"""Weights that lie as PyTorch has them, column after column, give the same bits; so do fewer results."""

import numpy as np
import pytest
from conftest import (
    OPTIONS,
    TOGETHER,
    assert_same_bits,
    functions_of,
    load_build,
    locked,
    make_case,
    nan_like,
    run_backward,
    run_forward,
    threads,
)

from clstm import cells

# T, B, I, H around a vector's width, packed and not, shared by rows and by units.
SIZES = [
    (1, 1, 1, 1),
    (1, 1, 5, 3),
    (1, 1, 16, 16),
    (1, 3, 33, 20),
    (3, 1, 17, 33),
    (4, 5, 1, 7),
    (6, 2, 40, 4),
    (32, 64, 24, 16),
    (9, 3, 20, 300),
]
EITHER = {**OPTIONS, **TOGETHER}


def by_column(cell):
    return cell._replace(W_x=np.asfortranarray(cell.W_x), W_h=np.asfortranarray(cell.W_h))


def run_with(functions, case, cell, *, order="C", leave_out=()):
    """Forward and backward of a case with another cell; gradients in either order, and not those left out."""
    tape = run_forward(functions, case)
    T, B, R = case.dy.shape
    left = cells.new_tape(cell, np.empty((T, B, R), case.dtype), np.zeros, case.map_masks(locked))
    final = tuple(nan_like(part) for part in case.state("{}_0"))
    functions.forward(cell, locked(case.x), case.state("{}_0"), case.schedule, left, final)
    results = dict(zip(("y", "h_n", "c_n"), (left.y, *final), strict=False))
    dcell = case.cell.map(nan_like)
    if order == "F":
        dcell = by_column(dcell)
    dx, dstate = nan_like(case.x), tuple(nan_like(part) for part in final)
    functions.backward(
        cell, locked(case.x), case.state("{}_0"), case.schedule, left, locked(case.dy), case.state("d{}_n"),
        None if "dx" in leave_out else dx, None if "dcell" in leave_out else dcell, dstate,
    )  # fmt: skip
    results |= {"dx": dx} if "dx" not in leave_out else {}
    if "dcell" not in leave_out:
        results |= {f"d{name}": getattr(dcell, name) for name in case.weights}
    results |= dict(zip(("dh_0", "dc_0"), dstate, strict=False))
    return results, {**tape, **run_backward(functions, case, tape)}


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "-".join(map(str, size)))
@pytest.mark.parametrize("team", [1, 2])
def test_columns_give_the_bits_of_rows(build, dtype, kind, size, team):
    case = make_case(*size, dtype, kind=kind, seed=sum(size), lengths="ragged" if size[1] > 1 else None)
    functions = functions_of(build, dtype)
    with threads(team, build):
        got, expected = run_with(functions, case, by_column(case.cell), order="F")
    for name, value in got.items():
        assert_same_bits(value, expected[name], name)


@pytest.mark.parametrize("option", EITHER)
def test_columns_give_the_bits_of_rows_with_every_option(build, option):
    case = make_case(5, 4, 7, 19, "float64", seed=3, options=EITHER[option])
    got, expected = run_with(functions_of(build, "float64"), case, by_column(case.cell), order="F")
    for name, value in got.items():
        assert_same_bits(value, expected[name], name)


@pytest.mark.parametrize("size", SIZES[:6], ids=lambda size: "-".join(map(str, size)))
def test_a_step_with_columns_has_the_bits_of_one_with_rows(build, dtype, kind, size):
    case = make_case(1, *size[1:], dtype, kind=kind, seed=5)
    functions = functions_of(build, dtype)
    results = []
    for cell in (case.cell, by_column(case.cell)):
        final = tuple(nan_like(part) for part in case.state("{}_0"))
        functions.step(cell, np.ascontiguousarray(case.x[0]), case.state("{}_0"), final)
        results.append(final)
    for got, expected in zip(*results, strict=True):
        assert_same_bits(got, expected)


@pytest.mark.parametrize("leave_out", [("dx",), ("dcell",), ("dx", "dcell")], ids="+".join)
@pytest.mark.parametrize("option", [None, *EITHER])
def test_what_is_left_out_changes_nothing_else(implementation, option, leave_out):
    options = {} if option is None else EITHER[option]
    case = make_case(5, 4, 7, 19, "float64", seed=4, options=options, lengths="ragged")
    functions = functions_of(implementation, "float64")
    got, expected = run_with(functions, case, case.cell, leave_out=leave_out)
    assert ("dx" in got) is ("dx" not in leave_out)
    for name, value in got.items():
        assert_same_bits(value, expected[name], name)


def test_weights_with_gaps_are_refused(build):
    case = make_case(2, 2, 3, 4, "float64")
    wide = np.zeros((6, 16))
    with pytest.raises(ValueError, match="cell: expected matrices that are contiguous"):
        load_build(build).step["double"](
            case.cell._replace(W_x=wide[::2]), case.x[0].copy(), case.state("{}_0"), case.state("d{}_n")
        )
