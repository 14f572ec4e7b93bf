"""The comparisons of this suite can fail: they tell each wrong cell below from the right one."""

import inspect
import itertools
from functools import cache
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from conftest import (
    OPTIONS,
    assert_derivatives_close,
    assert_gradients_are_complex_step_derivatives,
    assert_results_close,
    complex_step_gradients,
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


def patched(forward=None, backward=None):
    """Return the definition with some of its own functions replaced by what is made of the right ones."""

    def wrap(function, changes):
        def wrapped(*arguments):
            right = {name: getattr(reference, name) for name in changes}
            wrong = {name: change(right[name]) for name, change in changes.items()}
            with mock.patch.multiple(reference, **wrong):
                function(*arguments)

        return wrapped if changes else function

    return SimpleNamespace(
        forward=wrap(reference.forward, forward), backward=wrap(reference.backward, backward)
    )


def use_h_t_for_h_prev(right):
    def step_backward(cell, x, state, masks, left, dafter):
        return right(cell, x, (left[0], *state[1:]), masks, left, dafter)

    return step_backward


def use_h_prev_for_h_t(right):
    """An RNN's h_t, in its derivative, is the one of the step before."""

    def step_backward(cell, x, state, masks, left, dafter):
        return right(cell, x, state, masks, (state[0], *left[1:]), dafter)

    return step_backward


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
    "h_t in the place of h_prev": patched(backward={"_step_backward": use_h_t_for_h_prev}),
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
    "rnn": {"h_prev in the place of h_t": patched(backward={"_step_backward": use_h_prev_for_h_t})},
}


def without_mask(name):
    return mutate(backward=lambda a: {"tape": a.tape._replace(masks=a.tape.masks._replace(**{name: None}))})


def with_option(where, **changes):
    return mutate(**{where: lambda a: {"cell": a.cell._replace(options=a.cell.options._replace(**changes))}})


def let_o_see_c_prev(right):
    def options_forward(cell, z, h_prev, c_prev, keep_h, keep_c):
        p_i, p_f, p_o = cell.peepholes
        z = z.copy()
        z[..., cell.kind.block("o", len(p_o))] += p_o * c_prev
        return right(
            cell._replace(peepholes=np.stack([p_i, p_f, 0 * p_o])), z, h_prev, c_prev, keep_h, keep_c
        )

    return options_forward


def forget_o_in_dc(right):
    """The way of c_t through the peephole of o is missing from its derivative."""

    def output_backward(cell, dh, z, c_prev):
        dz_o, dc, weights = right(cell, dh, z, c_prev)
        return dz_o, dc - cell.peepholes[2] * dz_o, weights

    return output_backward


def drop_mean_term(_):
    def normalise_backward(dn, n, scale):
        return scale * (dn - n * (dn * n).mean(axis=-1, keepdims=True))

    return normalise_backward


def drop_direction_term(right):
    return lambda dn, n, scale: right(dn, 0 * n, scale)


def let_gradient_pass(right):
    """Only the state before a step is dropped where an episode begins, not the derivative by it."""
    calls = itertools.cycle([right, lambda parts, _: parts])
    return lambda parts, where: next(calls)(parts, where)


def shift_resets(a):
    return {"schedule": a.schedule._replace(resets=np.roll(a.schedule.resets, 1, axis=0))}


def without_resets(a):
    return {"schedule": a.schedule._replace(resets=None)}


def exchange_activations(where):
    def exchange(a):
        gates, candidate, cell = a.cell.options.activations
        return {
            "cell": a.cell._replace(options=a.cell.options._replace(activations=(gates, cell, candidate)))
        }

    return mutate(**{where: exchange})


def scale_gradient(name):
    """One array's derivative is wrong by a little."""

    def scale(a):
        getattr(a.dcell, name)[...] *= 1 + 1e-9

    return after_backward(scale)


# Of an LSTM with options: those of the case, and what is wrong.
WITH_OPTIONS = {
    "peephole of o sees c_prev": ("peepholes", patched({"options_forward": let_o_see_c_prev})),
    "c_t's way through o forgotten": ("peepholes", patched(backward={"output_backward": forget_o_in_dc})),
    "dpeepholes": ("peepholes", scale_gradient("peepholes")),
    "dW_r": ("projection", scale_gradient("W_r")),
    "zoneout mask of h ignored in backward": ("zoneout", without_mask("zoneout_h")),
    "zoneout mask of c ignored in backward": ("zoneout", without_mask("zoneout_c")),
    "expected zoneout ignored in backward": (
        "expected zoneout", with_option("backward", zoneout=(0.0, 0.0)),
    ),
    "recurrent mask ignored in backward": ("recurrent dropout", without_mask("recurrent")),
    "mean dropped": ("layer norm", patched(backward={"_normalise_backward": drop_mean_term})),
    "direction dropped": ("layer norm", patched(backward={"_normalise_backward": drop_direction_term})),
    "dnorm_x": ("layer norm", scale_gradient("norm_x")),
    "dnorm_c": ("layer norm", scale_gradient("norm_c")),
    "gate clip passes gradient": ("gate clip", with_option("backward", gate_clip=np.inf)),
    "cell clip passes gradient": ("cell clip", with_option("backward", cell_clip=np.inf)),
    "cell clip ignored": ("cell clip", with_option("forward", cell_clip=np.inf)),
    "gates not coupled in backward": ("coupled", with_option("backward", coupled=False)),
    "activations exchanged": ("activations", exchange_activations("forward")),
    "slopes exchanged": ("activations", exchange_activations("backward")),
    "resets ignored": (None, mutate(without_resets)),
    "resets ignored in backward": (None, mutate(backward=without_resets)),
    "resets one step late": (None, mutate(shift_resets)),
    "gradient passes a reset": (None, patched(backward={"_dropped": let_gradient_pass})),
}  # fmt: skip
CASES = OPTIONS | {
    None: {},
    "activations": {"activations": ("sigmoid", "softsign", ("scaled_tanh", {"alpha": 1.2, "beta": 0.7}))},
}


@cache
def example_with_options(name, reverse):
    """Return a case, what the definition makes of it, and its derivatives by complex steps."""
    resets = np.zeros((4, 2), bool)
    resets[2, 0] = True
    case = make_case(4, 2, 2, 3, reverse=reverse, options=CASES[name], resets=None if name else resets)
    return case, run(reference, case), complex_step_gradients(case)


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
    [
        mutate,
        lambda: mutate(lambda _: {}, lambda _: {}),
        lambda: after_backward(id),
        lambda: patched({"_dropped": lambda right: right}, {"_dropped": lambda right: right}),
    ],
    ids=["bare", "arguments", "results", "functions"],
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


@EACH_DIRECTION
@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_both_comparisons_fail_with_options_for(name, reverse):
    option, mutant = WITH_OPTIONS[name]
    case, expected, derivatives = example_with_options(option, reverse)
    got = run(mutant, case)
    with pytest.raises(AssertionError, match=r"error .* promised"):
        assert_results_close(got, expected)
    with pytest.raises(AssertionError, match=r"error .* promised"):
        assert_derivatives_close(got, derivatives)
    assert_derivatives_close(expected, derivatives)
