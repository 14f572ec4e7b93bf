"""The comparisons of this suite can fail: they tell each wrong cell below from the right one."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    assert_gradients_are_complex_step_derivatives,
    assert_results_close,
    make_case,
    nan_like,
    run,
)

from clstm import reference


def mutate(forward=None, backward=None):
    """Return the definition with some arguments replaced on their way in."""

    def wrap(function, change):
        names = list(inspect.signature(function).parameters)

        def wrapped(*arguments):
            given = dict(zip(names, arguments, strict=True))
            function(**given | change(SimpleNamespace(**given)))

        return wrapped if change else function

    return SimpleNamespace(
        forward=wrap(reference.forward, forward), backward=wrap(reference.backward, backward)
    )


def after_backward(change):
    """Return the definition with results of backward changed on their way out, by all its arguments."""
    names = list(inspect.signature(reference.backward).parameters)

    def backward(*arguments):
        reference.backward(*arguments)
        change(SimpleNamespace(**dict(zip(names, arguments, strict=True))))

    return SimpleNamespace(forward=reference.forward, backward=backward)


def permute(weights, first, second):
    """Exchange two of the four blocks of columns."""
    blocks = np.split(weights, 4, axis=-1)
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return np.concatenate(blocks, axis=-1)


def exchange_gates(first, second):
    return mutate(
        lambda a: {"cell": a.cell._replace(**{
            name: permute(getattr(a.cell, name), first, second) for name in ("W_x", "W_h", "bias")
        })}
    )  # fmt: skip


def exchange_gates_of_gradient(name):
    def exchange(a):
        gradient = getattr(a.dcell, name)
        gradient[...] = permute(gradient, 0, 1)

    return after_backward(exchange)


def leave_first_step_out_of(name):
    """The first step's share of one weight gradient is missing; everything else is right."""

    def leave_out(a):
        t = -1 if a.schedule.reverse else 0
        # x enters dW_x alone, so with an identity in its place at the first step dW_x is that step's dz.
        T, B, _ = a.x.shape
        marker = np.zeros((T, B, B), a.x.dtype)
        marker[t] = np.eye(B)
        dz = np.empty((B, a.cell.W_h.shape[1]), a.x.dtype)
        reference.backward(
            a.cell._replace(W_x=np.zeros_like(dz)), marker, a.state, a.schedule, a.tape, a.dy, a.dfinal,
            nan_like(marker), a.cell._replace(W_x=dz, W_h=nan_like(a.dcell.W_h), bias=nan_like(a.dcell.bias)),
            tuple(map(nan_like, a.dstate)),
        )  # fmt: skip
        share = {"W_x": a.x[t].T @ dz, "W_h": a.state[0].T @ dz, "bias": dz.sum(axis=0)}[name]
        gradient = getattr(a.dcell, name)
        gradient -= share

    return after_backward(leave_out)


def first_step(v, reverse):
    """Return a copy of a sequence in which the first computed step is zero."""
    v = v.copy()
    v[-1 if reverse else 0] = 0
    return v


def hide_first_step(name):
    return mutate(backward=lambda a: {name: first_step(getattr(a, name), a.schedule.reverse)})


def later(v, first, reverse):
    """Return `v` one step on, and what then stands for its initial value: v_t is where v_prev belongs."""
    return (
        (np.concatenate([first[None], v[:-1]]), v[-1])
        if reverse
        else (np.concatenate([v[1:], first[None]]), v[0])
    )


def use_h_t_for_h_prev(a):
    y, h_0 = later(a.tape.y, a.state[0], a.schedule.reverse)
    # An RNN's gate is h_t, which stays.
    gates = a.tape.y if a.tape.gates is None else a.tape.gates
    return {"tape": a.tape._replace(y=y, gates=gates), "state": (h_0, *a.state[1:])}


def use_h_prev_for_h_t(a):
    """An RNN's h_t, as its gate, is the one of the step before; its h_prev is right."""
    gates, _ = later(a.tape.y, a.state[0], not a.schedule.reverse)
    return {"tape": a.tape._replace(gates=gates)}


def zero(parts, n):
    """Return a state in which part n is zero."""
    return tuple(0 * part if k == n else part for k, part in enumerate(parts))


def turn(a):
    return {"schedule": a.schedule._replace(reverse=not a.schedule.reverse)}


def with_bias(change):
    return mutate(lambda a: {"cell": a.cell._replace(bias=change(a.cell.bias))})


def transpose_blocks(a):
    blocks = np.split(a.cell.W_h, len(a.cell.kind.gates), axis=-1)
    return {"cell": a.cell._replace(W_h=np.concatenate([block.T for block in blocks], axis=-1))}


ANY = {
    **{f"first step left out of d{name}": leave_first_step_out_of(name) for name in ("W_x", "W_h", "bias")},
    "first step's output not seen": hide_first_step("dy"),
    "first step's input not seen": hide_first_step("x"),
    "last step's output not seen": mutate(
        backward=lambda a: {"dy": first_step(a.dy, not a.schedule.reverse)}
    ),
    "initial hidden state not seen": mutate(backward=lambda a: {"state": zero(a.state, 0)}),
    "dh_n ignored": mutate(backward=lambda a: {"dfinal": zero(a.dfinal, 0)}),
    "h_t in the place of h_prev": mutate(backward=use_h_t_for_h_prev),
    "W_h not transposed": mutate(backward=transpose_blocks),
    "direction ignored in forward": mutate(turn),
    "direction ignored in backward": mutate(backward=turn),
    "bias forgotten": with_bias(np.zeros_like),
    "bias rounded to float32": with_bias(lambda bias: bias.astype(np.float32).astype(bias.dtype)),
}
OWN = {
    "lstm": {
        **{
            f"gates {'ifgo'[p]} and {'ifgo'[q]} exchanged": exchange_gates(p, q)
            for p in range(4)
            for q in range(p)
        },
        **{
            f"gates exchanged in d{name} only": exchange_gates_of_gradient(name)
            for name in ("W_x", "W_h", "bias")
        },
        "initial cell not seen": mutate(backward=lambda a: {"state": zero(a.state, 1)}),
        "dc_n ignored": mutate(backward=lambda a: {"dfinal": zero(a.dfinal, 1)}),
        "dc_n and dh_n exchanged": mutate(backward=lambda a: {"dfinal": a.dfinal[::-1]}),
    },
    "rnn": {"h_prev in the place of h_t": mutate(backward=use_h_prev_for_h_t)},
}
MUTANTS = {(kind, name): mutant for kind, own in OWN.items() for name, mutant in (ANY | own).items()}
EACH_MUTANT = pytest.mark.parametrize(
    ("kind", "mutant"),
    [pytest.param(kind, mutant, id=f"{kind}-{name}") for (kind, name), mutant in MUTANTS.items()],
)
EACH_DIRECTION = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])


def example(kind, reverse):
    return make_case(4, 3, 2, 3, kind=kind, reverse=reverse)


@EACH_DIRECTION
@pytest.mark.parametrize(
    "wrap",
    [mutate, lambda: mutate(lambda _: {}, lambda _: {}), lambda: after_backward(id)],
    ids=["bare", "arguments", "results"],
)
def test_the_definition_itself_passes_both_comparisons(kind, wrap, reverse):
    case = example(kind, reverse)
    assert_results_close(run(wrap(), case), run(reference, case))
    assert_gradients_are_complex_step_derivatives(wrap(), case)


@EACH_DIRECTION
@EACH_MUTANT
def test_comparison_with_the_definition_fails_for(kind, mutant, reverse):
    case = example(kind, reverse)
    with pytest.raises(AssertionError, match=r"error .* promised"):
        assert_results_close(run(mutant, case), run(reference, case))


@EACH_DIRECTION
@EACH_MUTANT
def test_comparison_with_complex_step_fails_for(kind, mutant, reverse):
    with pytest.raises(AssertionError, match=r"error .* promised"):
        assert_gradients_are_complex_step_derivatives(mutant, example(kind, reverse))
