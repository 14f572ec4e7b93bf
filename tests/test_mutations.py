"""The comparisons of this suite can fail: they tell each wrong LSTM below from the right one."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    assert_gradients_are_complex_step_derivatives,
    assert_results_close,
    make_case,
    run,
)

from clstm import reference

# Positions of the arguments of reference.forward and reference.backward.
FORWARD = ("x", "W_x", "W_h", "bias", "h_0", "c_0", "lengths", "reverse", "y", "gates", "c", "h_n", "c_n")
BACKWARD = (
    "dy", "dh_n", "dc_n", "x", "W_x", "W_h", "h_0", "c_0", "lengths", "reverse", "y", "gates", "c",
    "dx", "dW_x", "dW_h", "dbias", "dh_0", "dc_0",
)  # fmt: skip


def permute(weights, first, second):
    """Exchange two of the four blocks of columns."""
    blocks = np.split(weights, 4, axis=-1)
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return np.concatenate(blocks, axis=-1)


def first_step(v, reverse):
    """Return a copy of a sequence in which the first computed step is zero."""
    v = v.copy()
    v[-1 if reverse else 0] = 0
    return v


def later(v, first, reverse):
    """Return `v` one step on, and what then stands for its initial value: v_t is where v_prev belongs."""
    return (
        (np.concatenate([first[None], v[:-1]]), v[-1])
        if reverse
        else (np.concatenate([v[1:], first[None]]), v[0])
    )


def mutate(forward=None, backward=None):
    """Return the definition with some arguments replaced on their way in, or results on their way out."""

    def wrap(function, names, change):
        def wrapped(*arguments):
            given = dict(zip(names, arguments, strict=True))
            function(*(given | change(SimpleNamespace(**given))).values())

        return wrapped if change else function

    return SimpleNamespace(
        forward=wrap(reference.forward, FORWARD, forward),
        backward=wrap(reference.backward, BACKWARD, backward),
    )


def exchange_gates(first, second):
    return mutate(
        lambda a: {name: permute(getattr(a, name), first, second) for name in ("W_x", "W_h", "bias")}
    )


def exchange_gates_of_gradient(name):
    def backward(*arguments):
        reference.backward(*arguments)
        gradient = arguments[BACKWARD.index(name)]
        gradient[...] = permute(gradient, 0, 1)

    return SimpleNamespace(forward=reference.forward, backward=backward)


def leave_first_step_out_of(name):
    """The first step's share of one weight gradient is missing; everything else is right."""

    def backward(*arguments):
        a = SimpleNamespace(**dict(zip(BACKWARD, arguments, strict=True)))
        reference.backward(*arguments)
        t = -1 if a.reverse else 0
        # x enters dW_x alone, so with an identity in its place at the first step dW_x is that step's dz.
        T, B, _ = a.x.shape
        marker = np.zeros((T, B, B), a.x.dtype)
        marker[t] = np.eye(B)
        dz = np.empty((B, a.W_h.shape[1]), a.x.dtype)
        rest = [np.empty_like(v) for v in (marker, a.dW_h, a.dbias, a.dh_0, a.dc_0)]
        given = dict(zip(BACKWARD, arguments, strict=True)) | {
            "x": marker,
            "W_x": np.zeros_like(dz),
            "dW_x": dz,
        }
        given |= dict(zip(("dx", "dW_h", "dbias", "dh_0", "dc_0"), rest, strict=True))
        reference.backward(*given.values())
        share = {"dW_x": a.x[t].T @ dz, "dW_h": a.h_0.T @ dz, "dbias": dz.sum(axis=0)}[name]
        gradient = arguments[BACKWARD.index(name)]
        gradient -= share

    return SimpleNamespace(forward=reference.forward, backward=backward)


def use_h_t_for_h_prev(a):
    y, h_0 = later(a.y, a.h_0, a.reverse)
    return {"y": y, "h_0": h_0}


MUTANTS = {
    **{
        f"gates {'ifgo'[p]} and {'ifgo'[q]} exchanged": exchange_gates(p, q)
        for p in range(4)
        for q in range(p)
    },
    **{
        f"gates exchanged in {name} only": exchange_gates_of_gradient(name)
        for name in ("dW_x", "dW_h", "dbias")
    },
    **{f"first step left out of {name}": leave_first_step_out_of(name) for name in ("dW_x", "dW_h", "dbias")},
    "first step's output not seen": mutate(backward=lambda a: {"dy": first_step(a.dy, a.reverse)}),
    "first step's input not seen": mutate(backward=lambda a: {"x": first_step(a.x, a.reverse)}),
    "last step's output not seen": mutate(backward=lambda a: {"dy": first_step(a.dy, not a.reverse)}),
    "initial hidden state not seen": mutate(backward=lambda a: {"h_0": np.zeros_like(a.h_0)}),
    "initial cell not seen": mutate(backward=lambda a: {"c_0": np.zeros_like(a.c_0)}),
    "dc_n ignored": mutate(backward=lambda a: {"dc_n": np.zeros_like(a.dc_n)}),
    "dh_n ignored": mutate(backward=lambda a: {"dh_n": np.zeros_like(a.dh_n)}),
    "dc_n and dh_n exchanged": mutate(backward=lambda a: {"dc_n": a.dh_n, "dh_n": a.dc_n}),
    "h_t in the place of h_prev": mutate(backward=use_h_t_for_h_prev),
    "direction ignored in forward": mutate(lambda a: {"reverse": not a.reverse}),
    "direction ignored in backward": mutate(backward=lambda a: {"reverse": not a.reverse}),
    "bias forgotten": mutate(lambda a: {"bias": np.zeros_like(a.bias)}),
    "bias rounded to float32": mutate(lambda a: {"bias": a.bias.astype(np.float32).astype(a.bias.dtype)}),
}
CASES = [pytest.param(False, id="forward"), pytest.param(True, id="reverse")]


def example(reverse):
    return make_case(4, 3, 2, 3, reverse=reverse)


@pytest.mark.parametrize("reverse", CASES)
def test_the_definition_itself_passes_both_comparisons(reverse):
    case = example(reverse)
    assert_results_close(run(mutate(), case), run(reference, case))
    assert_gradients_are_complex_step_derivatives(mutate(), case)


@pytest.mark.parametrize("reverse", CASES)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_comparison_with_the_definition_fails_for(mutant, reverse):
    case = example(reverse)
    with pytest.raises(AssertionError, match=r"error .* promised"):
        assert_results_close(run(MUTANTS[mutant], case), run(reference, case))


@pytest.mark.parametrize("reverse", CASES)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_comparison_with_complex_step_fails_for(mutant, reverse):
    with pytest.raises(AssertionError, match=r"error .* promised"):
        assert_gradients_are_complex_step_derivatives(MUTANTS[mutant], example(reverse))
