"""The twins of five NumPy classes against recorded results of the originals, and `accelerate`.

tests/golden/numpy_classes.npz holds weights, inputs, outputs, caches and updated weights of the originals
(seed 42; D, H, T, O = 3, 5, 7, 2), ramp_training.npz the losses of 300 training steps.
"""

import copy
import operator
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, oracle, unchanged

import clstm
from clstm.compat import (
    accelerate,
    gate_inspection,
    last_state,
    sequence_regressor,
    step_readout,
    step_sequence,
)

GOLDEN = Path(__file__).parent / "golden"
D, H, T, O = 3, 5, 7, 2  # noqa: E741


def seeded(seed):
    """Seed the generator that the originals draw from, and return it."""
    np.random.seed(seed)  # noqa: NPY002
    return np.random


def golden(number):
    """Return the arrays of one class by their names."""
    with np.load(GOLDEN / "numpy_classes.npz") as archive:
        return {name[4:]: archive[name] for name in archive.files if name.startswith(number)}


def assert_parameters(model, expected, folder, compare=assert_same_bits):
    """Compare the parameters with those of a folder of the recorded ones."""
    names = [name for name in expected if name.startswith(f"{folder}/")]
    assert names
    for name in names:
        parameter = name.removeprefix(f"{folder}/")
        compare(getattr(model, parameter), expected[name], name=parameter)


def assert_golden(got, expected, name="array"):
    assert_close(np.array(got), expected, "golden", name)


def assert_golden_parameters(model, expected, folder):
    assert_parameters(model, expected, folder, lambda got, wanted, name: assert_golden(got, wanted, name))


# ----------------------------------------------------------------------------------------- recorded results


def test_sequence_regressor_is_the_original():
    seeded(42)
    model, expected = sequence_regressor.LSTM(D, H, T), golden("000")
    assert_parameters(model, expected, "init")
    for n in range(3):
        y_hat = model.forward(expected["x"])
        assert model.y_hat is y_hat
        assert model.x is expected["x"]
        assert_golden(y_hat, expected[f"y_hat_{n}"])
        if n == 0:
            for name in ("h", "C", "u", "z", "f", "i", "g", "o"):
                assert_golden(getattr(model, name), expected[f"cache/{name}"], name)
        assert model.backward(expected["y_true"], y_hat, lr=0.3) is None
    assert_golden_parameters(model, expected, "after")


def test_sequence_regressor_clips_every_gradient_as_the_original():
    seeded(42)
    model, expected = sequence_regressor.LSTM(D, H, T), golden("000")
    model.backward(expected["y_true"] + 100, model.forward(expected["x"]), lr=0.01)
    assert_golden_parameters(model, expected, "after_clipped")


def test_sequence_regressor_has_the_losses_of_the_original_over_300_training_steps():
    random = seeded(42)
    model = sequence_regressor.LSTM(1, 100, 250)
    losses = []
    for _ in range(300):
        start = random.randint(1, 701)
        y_pred = model.forward((np.arange(start, start + 250) / 1000).reshape(250, 1, 1))
        y_true = (start + 250) / 1000
        losses.append((0.5 * (y_pred - y_true) ** 2).item())
        model.backward(y_true, y_pred, lr=0.05)
    with np.load(GOLDEN / "ramp_training.npz") as archive:
        assert_golden(losses, archive["losses"])


def test_last_state_is_the_original_without_its_early_return():
    seeded(42)
    model, expected = last_state.LSTM(D, H), golden("001")
    assert_parameters(model, expected, "init")
    for n in range(3):
        h = model.forward(expected["x"])
        assert_golden(h, expected[f"h_{n}"])
        if n == 0:
            assert len(model.cache) == T
            *step, z = model.cache[-1]
            assert z.shape == (D + H, 1)
            assert_golden(np.concatenate(step, axis=1).T, expected["cache_last"])
            assert_same_bits(z[:H], step[7], "h_prev on top")
        assert model.backward(expected["dL_dh"], lr=0.2) is None
    assert_golden_parameters(model, expected, "after")


def test_step_readout_is_the_original():
    seeded(42)
    model, expected = step_readout.LSTM(D, H, O), golden("002")
    assert_parameters(model, expected, "init")
    y, h, c = model.forward(expected["x"], expected["h"], expected["c"])
    assert_golden(y, expected["y"], "y")
    assert_golden(h, expected["h_new"], "h")
    assert_golden(c, expected["c_new"], "c")


def test_step_sequence_is_the_original():
    seeded(42)
    model, expected = step_sequence.LSTM(D, H), golden("003")
    assert_parameters(model, expected, "init")
    h, C = model.forward(expected["x"], expected["h"], expected["C"])
    assert_golden(h, expected["h_new"], "h")
    assert_golden(C, expected["C_new"], "C")
    assert_golden(model.forward_sequence(expected["X"]), expected["outputs"])


def test_gate_inspection_is_the_original():
    seeded(42)
    model, expected = gate_inspection.LSTM(D, H, O), golden("004")
    of_cell = {name: value for name, value in expected.items() if name not in ("init/Why", "init/by")}
    assert_parameters(model.cell, of_cell, "init")
    assert_parameters(model, {name: expected[name] for name in ("init/Why", "init/by")}, "init")
    y, h_states, c_states, gate_values = model.forward(list(expected["inputs"]))
    assert_golden(y, expected["y"], "y")
    assert_golden(h_states, expected["h_states"], "h")
    assert_golden(c_states, expected["c_states"], "c")
    assert list(gate_values) == ["f", "i", "o"]
    for gate, values in gate_values.items():
        assert isinstance(values, list)
        assert_golden(values, expected[f"gate_{gate}"], gate)


def test_gate_inspection_cells_are_the_originals():
    expected = golden("004") | {name: golden("002")[name] for name in ("x", "h", "c")}
    seeded(42)
    cell = gate_inspection.LSTMCell(D, H)
    h_next, c_next, cache = cell.forward(expected["x"], expected["h"], expected["c"])
    assert_golden(h_next, expected["cell_h"], "h")
    assert_golden(c_next, expected["cell_c"], "c")
    seeded(42)
    rnn = gate_inspection.VanillaRNNCell(D, H)
    assert_same_bits(rnn.Wh, expected["rnn_Wh"], "Wh")
    assert_same_bits(rnn.bh, np.zeros((H, 1)), "bh")
    assert_golden(rnn.forward(expected["x"], expected["h"]), expected["rnn_h"])

    x, h_prev, c_prev, concat, f, i, c_tilde, c, o, h = cache
    for got, name in ((x, "x"), (h_prev, "h"), (c_prev, "c")):
        assert_same_bits(got, expected[name], name)
    assert_same_bits(concat, np.concatenate([x, h_prev]), "concat")
    assert_golden(f * c_prev + i * c_tilde, c)
    assert_golden(o * np.tanh(c), h)
    assert_same_bits(h, h_next)
    assert_same_bits(c, c_next)


def test_long_term_dependency_data_are_one_hot_vectors_before_noise():
    random = seeded(42)
    X, y = gate_inspection.generate_long_term_dependency_data(seq_length=20, num_samples=200, input_size=4)
    assert random.random() != seeded(42).random()
    assert len(X) == len(y) == 200
    assert all(len(sequence) == 20 for sequence in X)
    sequences, targets = np.array(X), np.array(y)
    assert sequences.shape == (200, 20, 4, 1)
    assert_same_bits(sequences[:, 0], targets)
    assert_same_bits(np.sort(targets[:, :, 0], axis=1), np.tile([0.0, 0, 0, 1], (200, 1)))
    assert (targets.sum(axis=0) > 0).all()
    assert_close(sequences[:, 1:].std(), np.float64(0.1), "sample mean")
    assert [v.shape for v in gate_inspection.generate_long_term_dependency_data(1, 1)[0][0]] == [(10, 1)]


def test_last_state_activations_and_their_derivatives():
    v = np.linspace(-5, 5, 21)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_bits(last_state.sigmoid(np.array([-1e4, 0.0, 1e4])), np.array([0.0, 0.5, 1.0]))
    assert_golden(last_state.sigmoid(v), 1 / (1 + np.exp(-v)))
    moved = v + 1e-30j
    assert_golden(last_state.dsigmoid(last_state.sigmoid(v)), (1 / (1 + np.exp(-moved))).imag / 1e-30)
    assert_golden(last_state.dtanh(np.tanh(v)), np.tanh(moved).imag / 1e-30)


# ----------------------------------------------------------------- what holds for all of them, by one table


@dataclass(frozen=True)
class Twin:
    """A class of `clstm.compat`: how to build it, the names of its parameters, how it runs over X (T, D)."""

    build: Any
    concat: str
    gates: dict  # from i, f, g, o to the names of weight and bias
    readout: tuple  # names of weight and bias, or nothing
    hidden_states: Any  # (model, X) -> (T, H)
    differentiate: Any  # (model, X) -> gradients of `loss`
    sequence: Any  # what the class takes in place of X

    def make(self, seed=0):
        """Build a model whose every parameter is of the order of 1."""
        model, rng = self.build(), np.random.default_rng(seed)
        for name in self.names:
            owner = self.owner(model, name)
            setattr(owner, name, rng.uniform(-1, 1, getattr(owner, name).shape))
        return model

    @property
    def names(self):
        return [name for pair in (*self.gates.values(), self.readout) for name in pair]

    @staticmethod
    def owner(model, name):
        return model if hasattr(model, name) else model.cell

    def values(self, model):
        return {name: getattr(self.owner(model, name), name).copy() for name in self.names}

    def expected_states(self, values, X):
        """Run an oracle on named parameters, which may be complex."""
        first, second = (slice(D), slice(D, None)) if self.concat == "xh" else (slice(H, None), slice(H))
        weights = np.concatenate([values[self.gates[gate][0]] for gate in "ifgo"])
        bias = np.concatenate([values[self.gates[gate][1]][:, 0] for gate in "ifgo"])
        params = {"weight_ih_l0": weights[:, first], "weight_hh_l0": weights[:, second], "bias_l0": bias}
        zeros = np.zeros((1, 1, H), np.result_type(weights, bias))
        return oracle("lstm", params, 1, False, X[:, None], (zeros, zeros), [len(X)])[0][:, 0]

    def loss(self, values, X):
        """Return half the squared distance from TARGET of what is read off, or of the last hidden state."""
        h = self.expected_states(values, X)[-1][:, None]
        y = values[self.readout[0]] @ h + values[self.readout[1]] if self.readout else h
        return 0.5 * ((y - TARGET[: len(y)]) ** 2).sum()


X = np.random.default_rng(1).standard_normal((T, D))
TARGET = np.random.default_rng(2).standard_normal((H, 1))


def by_steps(model, X):
    """Run one step after another; the last but one of what a step returns is the hidden state."""
    h = c = np.zeros((H, 1))
    states = []
    for x in X[:, :, None]:
        *_, h, c = model.forward(x, h, c)
        states.append(h[:, 0])
    return np.array(states)


def by_cells(cell, X):
    h = c = np.zeros((H, 1))
    states = []
    for x in X[:, :, None]:
        h, c, _ = cell.forward(x, h, c)
        states.append(h[:, 0])
    return np.array(states)


def forward_and_attribute(model, X):
    model.forward(X[:, :, None])
    return model.h[1:, :, 0]


def forward_and_cache(model, X):
    model.forward(X)
    return np.array([step[5][:, 0] for step in model.cache])


def forward_and_states(model, X):
    _, h_states, _, _ = model.forward(list(X[:, :, None]))
    return np.array(h_states)[:, :, 0]


def differentiate_regressor(model, X):
    return model.gradients(TARGET[:D], model.forward(X[:, :, None]))


def differentiate_last_state(model, X):
    return model.gradients(model.forward(X) - TARGET)


def at_the_end(value):
    """Return derivatives by every step, 0 but for the last."""
    return np.concatenate([np.zeros((T - 1, *value.shape)), value[None]])


def differentiate_readout(model, X):
    y, _, _ = model.forward_sequence(X[:, :, None])
    return model.gradients(at_the_end(y[-1] - TARGET[:O]))


def differentiate_sequence(model, X):
    return model.gradients(at_the_end(model.forward_sequence(X)[-1] - TARGET[:, 0]))


def differentiate_inspected(model, X):
    return model.gradients(model.forward(list(X[:, :, None]))[0] - TARGET[:O])


def differentiate_cells(cell, X):
    """Back-propagate through time by hand, as one does with a cell and its caches."""
    h = c = np.zeros((H, 1))
    caches = []
    for x in X[:, :, None]:
        h, c, cache = cell.forward(x, h, c)
        caches.append(cache)
    dh, dc, total = h - TARGET, np.zeros((H, 1)), {}
    for cache in reversed(caches):
        _, dh, dc, gradients = cell.backward(dh, dc, cache)
        total = {name: value + total.get(name, 0) for name, value in gradients.items()}
    return total


def gate_names(weight, bias, i="i", f="f", g="g", o="o"):
    return {
        gate: (weight.format(name), bias.format(name))
        for gate, name in (("i", i), ("f", f), ("g", g), ("o", o))
    }


COLUMNS = X[:, :, None]
TWINS = {
    "sequence_regressor": Twin(
        lambda: sequence_regressor.LSTM(D, H, T),
        "hx", gate_names("W_{}", "b_{}"), ("W_y", "b_y"),
        forward_and_attribute, differentiate_regressor, COLUMNS,
    ),
    "last_state": Twin(
        lambda: last_state.LSTM(D, H),
        "hx", gate_names("W{}", "b{}"), (),
        forward_and_cache, differentiate_last_state, X,
    ),
    "step_readout": Twin(
        lambda: step_readout.LSTM(D, H, O),
        "xh", gate_names("W{}", "W{}_bias", g="c"), ("Wy", "Wy_bias"),
        by_steps, differentiate_readout, COLUMNS,
    ),
    "step_sequence": Twin(
        lambda: step_sequence.LSTM(D, H),
        "hx", gate_names("W{}", "b{}", g="C"), (),
        by_steps, differentiate_sequence, X,
    ),
    "gate_inspection": Twin(
        lambda: gate_inspection.LSTM(D, H, O),
        "xh", gate_names("W{}", "b{}", g="c"), ("Why", "by"),
        forward_and_states, differentiate_inspected, COLUMNS,
    ),
    "gate_inspection cell": Twin(
        lambda: gate_inspection.LSTMCell(D, H),
        "xh", gate_names("W{}", "b{}", g="c"), (),
        by_cells, differentiate_cells, COLUMNS,
    ),
}  # fmt: skip


@pytest.fixture(params=TWINS.values(), ids=TWINS)
def twin(request):
    return request.param


def assert_states(twin, model):
    assert_close(twin.hidden_states(model, X), twin.expected_states(twin.values(model), X), "forward")


def test_hidden_states_are_those_of_the_equations(twin):
    assert_states(twin, twin.make())


def test_gradients_are_complex_step_derivatives(twin):
    model = twin.make()
    gradients, values = twin.differentiate(model, X), twin.values(model)
    assert sorted(gradients) == sorted(twin.names)
    for name, value in values.items():
        expected = np.zeros_like(value)
        for index in np.ndindex(value.shape):
            moved = value.astype(complex)
            moved[index] += 1e-30j
            expected[index] = twin.loss(values | {name: moved}, X).imag / 1e-30
        assert_close(gradients[name], expected, "backward", name)


@pytest.mark.parametrize(
    ("original", "sizes"),
    [
        (sequence_regressor.LSTM, (D, H, T)),
        (last_state.LSTM, (D, H)),
        (step_readout.LSTM, (D, H, O)),
        (step_sequence.LSTM, (D, H)),
        (gate_inspection.LSTM, (D, H, O)),
        (gate_inspection.LSTMCell, (D, H)),
    ],
)
def test_a_subclass_is_a_twin_as_well(original, sizes):
    class Mine(original):
        """Somebody's extension."""

    seeded(42)
    expected = original(*sizes)
    seeded(42)
    got = Mine(*sizes)
    assert expected._parameters
    for name in expected._parameters:
        assert_same_bits(getattr(got, name), getattr(expected, name), name)
    assert_same_bits(got.core.flat_params, expected.core.flat_params)
    assert Mine._lazy == original._lazy


def test_gradients_change_no_parameter(twin):
    model = twin.make()
    before = twin.values(model)
    twin.differentiate(model, X)
    for name, value in twin.values(model).items():
        assert_same_bits(value, before[name], name)


BACKWARD = {
    "sequence_regressor": lambda model: model.backward(TARGET[:D], model.forward(COLUMNS), lr=0.1),
    "last_state": lambda model: model.backward(model.forward(X) - TARGET, lr=0.1),
    "step_readout": lambda model: model.backward(
        at_the_end(model.forward_sequence(COLUMNS)[0][-1] - TARGET[:O]), lr=0.1
    ),
    "step_sequence": lambda model: model.backward(
        at_the_end(model.forward_sequence(X)[-1] - TARGET[:, 0]), lr=0.1
    ),
    "gate_inspection": lambda model: model.backward(model.forward(list(COLUMNS))[0] - TARGET[:O], lr=0.1),
}


@pytest.mark.parametrize("name", BACKWARD)
def test_backward_takes_a_step_against_the_gradients(name):
    twin, model = TWINS[name], TWINS[name].make()
    expected = {name: value - 0.1 * gradient for (name, value), gradient in _paired(twin, model)}
    assert BACKWARD[name](model) is None
    for parameter, value in twin.values(model).items():
        assert_close(value, expected[parameter], "backward", parameter)


def _paired(twin, model):
    gradients = twin.differentiate(model, X)
    return [((name, value), gradients[name]) for name, value in twin.values(model).items()]


# ------------------------------------------------------------------------------------------ live parameters


def change_an_element(model, name):
    getattr(model, name)[1, 0] += 0.5


def change_in_place(model, name):
    view = getattr(model, name)
    view -= 0.25


def change_through_the_attribute(model, name):
    """Do what ``model.Wf -= 0.25`` does: get, subtract in place, set."""
    setattr(model, name, operator.isub(getattr(model, name), 0.25))


def assign(model, name):
    setattr(model, name, getattr(model, name) * 2 + 0.1)


def assign_lists_of_integers(model, name):
    setattr(model, name, np.ones(getattr(model, name).shape, int).tolist())


@pytest.mark.parametrize(
    "change",
    [change_an_element, change_in_place, change_through_the_attribute, assign, assign_lists_of_integers],
)
def test_every_change_of_a_parameter_takes_effect_at_the_next_call(twin, change):
    model = twin.make()
    for name in twin.names:
        before, loss = twin.values(model), twin.loss(twin.values(model), X)
        change(twin.owner(model, name), name)
        after = twin.values(model)
        assert [other for other in twin.names if not np.array_equal(before[other], after[other])] == [name]
        assert twin.loss(after, X) != loss
        assert_states(twin, model)
        gradients = twin.differentiate(model, X)
        assert_close(gradients[name], twin.differentiate(_with(twin, after), X)[name], "backward", name)


def _with(twin, values):
    """Build another model with these parameters."""
    model = twin.build()
    for name, value in values.items():
        setattr(twin.owner(model, name), name, value)
    return model


def test_assigned_arrays_are_copied(twin):
    model, name = twin.make(), twin.names[0]
    owner = twin.owner(model, name)
    array = np.ones((H, D + H))
    setattr(owner, name, array)
    array[...] = 7
    assert_same_bits(getattr(owner, name), np.ones((H, D + H)))


@pytest.mark.parametrize(
    "value", [np.ones((D + H, H)), np.ones(H), np.ones((H, D + H + 1)), 1.0, [[1, 2], [3]]]
)
def test_an_array_of_another_shape_is_not_assigned(twin, value):
    model = twin.make()
    for name in twin.names:
        with unchanged(model.core), pytest.raises(ValueError, match=f"^{name}: expected"):
            setattr(twin.owner(model, name), name, value)


def test_core_shares_the_parameters(twin):
    model = twin.make()
    assert isinstance(model.core, clstm.LSTM)
    assert_same_bits(model.core(X)[0], twin.hidden_states(model, X))
    model.core.params["bias_l0"][H : 2 * H] = 3.0
    assert (getattr(twin.owner(model, twin.gates["f"][1]), twin.gates["f"][1]) == 3.0).all()
    with pytest.raises(AttributeError):
        model.core = None


# Gradients through the last forward pass once more.
AGAIN = {
    "sequence_regressor": lambda model: model.gradients(TARGET[:D], model.y_hat),
    "last_state": lambda model: model.gradients(TARGET),
    "step_readout": lambda model: model.gradients(at_the_end(TARGET[:O])),
    "step_sequence": lambda model: model.gradients(at_the_end(TARGET[:, 0])),
    "gate_inspection": lambda model: model.gradients(TARGET[:O]),
}


@pytest.mark.parametrize("name", AGAIN)
def test_using_the_core_leaves_the_pass_of_the_twin_alone(name):
    twin, model = TWINS[name], TWINS[name].make()
    twin.differentiate(model, X)
    expected = AGAIN[name](model)
    for _ in range(3):
        model.core(np.ones((2, 1, D)))
        model.core.forward(np.ones((T, 1, D)))
        model.core.backward(np.ones((T, 1, H)))
    for parameter, value in AGAIN[name](model).items():
        assert_same_bits(value, expected[parameter], parameter)


@pytest.mark.parametrize("name", AGAIN)
def test_gradients_of_the_core_are_those_of_the_twin(name):
    twin, model = TWINS[name], TWINS[name].make()
    gradients = twin.differentiate(model, X)
    for gate, bias in zip(("f", "o"), (slice(H, 2 * H), slice(3 * H, 4 * H)), strict=True):
        assert_same_bits(model.core.grads["bias_l0"][bias], gradients[twin.gates[gate][1]][:, 0])
    first = slice(D) if twin.concat == "xh" else slice(H, None)
    expected = np.concatenate([gradients[twin.gates[gate][0]][:, first] for gate in "ifgo"])
    assert_same_bits(np.ascontiguousarray(model.core.grads["weight_ih_l0"]), expected)


def test_trace_shows_gates_and_states(twin):
    model = twin.make()
    trace = model.trace(twin.sequence)
    assert isinstance(trace, clstm.Trace)
    assert_same_bits(trace.h[0, :, 0], twin.hidden_states(model, X))
    assert trace.f.shape == (1, T, 1, H)
    assert_close(trace.o * np.tanh(trace.c), trace.h, "forward")


def test_construction_draws_nothing_but_the_weights(twin):
    random = seeded(42)
    model = twin.build()
    following = random.random()
    drawn = sum(
        value.size
        for name, value in twin.values(model).items()
        if value.shape[1] > 1 or twin is TWINS["sequence_regressor"]
    )
    seeded(42).standard_normal(drawn)
    assert np.random.random() == following  # noqa: NPY002


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["deepcopy", "pickle"]
)
def test_a_copy_is_whole_and_independent(twin, clone):
    model = twin.make()
    twin.differentiate(model, X)
    other = clone(model)
    for name in twin.names:
        assert_same_bits(getattr(twin.owner(other, name), name), getattr(twin.owner(model, name), name))
        change_an_element(twin.owner(other, name), name)
    assert_states(twin, model)
    assert_states(twin, other)
    assert not np.array_equal(twin.hidden_states(model, X), twin.hidden_states(other, X))


# --------------------------------------------------------------------------------------------------- caches


def test_caches_belong_to_the_last_forward_whenever_they_are_asked_for():
    twin = TWINS["sequence_regressor"]
    eager, lazy = twin.make(), twin.make()
    names = ("h", "C", "u", "z", "f", "i", "g", "o")
    for model in (eager, lazy):
        model.forward(np.ones((T, D, 1)))
        model.forward(COLUMNS)
    expected = {name: getattr(eager, name).copy() for name in names}
    lazy.backward(np.zeros((D, 1)), lazy.y_hat, lr=1.0)
    lazy.W_f[...] = 0
    for name in names:
        assert_same_bits(getattr(lazy, name), expected[name], name)
        assert getattr(lazy, name) is getattr(lazy, name)
    kept = lazy.h
    lazy.forward(np.zeros((T, D, 1)))
    lazy.forward(np.zeros((T, D, 1)))
    assert_same_bits(kept, expected["h"])
    assert not np.array_equal(lazy.h, kept)


def test_changing_a_cache_or_the_input_does_not_disturb_backward():
    twin = TWINS["sequence_regressor"]
    model = twin.make()
    expected = differentiate_regressor(model, X)
    x = COLUMNS.copy()
    y_hat = model.forward(x)
    x[...] = 9
    for name in ("h", "C", "u", "z", "f", "i", "g", "o"):
        getattr(model, name)[...] = 9
    for name, value in model.gradients(TARGET[:D], y_hat).items():
        assert_same_bits(value, expected[name], name)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (sequence_regressor.LSTM(D, H, T), "h"),
        (sequence_regressor.LSTM(D, H, T), "f"),
        (last_state.LSTM(D, H), "cache"),
    ],
)
def test_there_is_no_cache_before_the_first_forward(model, name):
    with pytest.raises(AttributeError, match=f"^{name}: expected a call of forward"):
        getattr(model, name)


def test_sequence_regressor_reads_the_first_steps_of_a_longer_sequence():
    model = TWINS["sequence_regressor"].make()
    y_hat = model.forward(COLUMNS)
    longer = np.concatenate([COLUMNS, np.full((4, D, 1), np.nan)])
    assert_same_bits(model.forward(longer), y_hat)
    assert model.f.shape == (T, H, 1)


# ---------------------------------------------------------------------------------------- steps and columns

COLUMN_BATCH = np.random.default_rng(3).standard_normal((T, D, 4))


@pytest.mark.parametrize("name", ["step_readout", "step_sequence", "gate_inspection cell"])
def test_columns_side_by_side_are_a_batch(name):
    model = TWINS[name].make()
    rng = np.random.default_rng(4)
    x, h, c = COLUMN_BATCH[0], *rng.uniform(-1, 1, (2, H, 4))
    together = model.forward(x, h, c)
    for b in range(4):
        alone = model.forward(x[:, b : b + 1], h[:, b : b + 1], c[:, b : b + 1])
        for got, expected in zip(together, alone, strict=True):
            if not isinstance(got, tuple):
                assert_close(got[:, b : b + 1], expected, "forward")
            else:
                for part, expected_part in zip(got, expected, strict=True):
                    assert_close(part[:, b : b + 1], expected_part, "forward")


def run_cell(cell, B, seed=4, after=lambda _: None):
    """Run a cell over COLUMN_BATCH, call a function after each step; return the caches."""
    h, c = np.random.default_rng(seed).uniform(-1, 1, (2, H, B))
    caches = []
    for x in COLUMN_BATCH[:, :, :B]:
        h, c, cache = cell.forward(x, h, c)
        caches.append(cache)
        after(cache)
    return caches


def results_of(cell, cache, B):
    dh, dc = np.random.default_rng(5).standard_normal((2, H, B))
    dx, dh_prev, dc_prev, gradients = cell.backward(dh, dc, cache)
    return [dx, dh_prev, dc_prev, *gradients.values()]


@pytest.mark.parametrize("B", [1, 4])
def test_cell_goes_back_from_its_cache_alone(B):
    """In any order, whatever ran in between, as often as one likes, also from a copy of the cache."""
    cell = TWINS["gate_inspection cell"].make()
    expected = []
    run_cell(cell, B, after=lambda cache: expected.append(results_of(cell, cache, B)))
    assert not np.array_equal(expected[0][0], expected[1][0])
    caches = run_cell(cell, B)
    run_cell(cell, 2, seed=6)
    cell.core.forward(np.ones((T, 1, D)))
    cell.core.backward(np.ones((T, 1, H)))
    with unchanged(cell.core):
        for t in (T - 1, 0, 3, 3):
            for cache in (caches[t], copy.deepcopy(caches[t]), pickle.loads(pickle.dumps(caches[t]))):
                for got, wanted in zip(results_of(cell, cache, B), expected[t], strict=True):
                    assert_same_bits(np.ascontiguousarray(got), np.ascontiguousarray(wanted))


def test_kept_caches_of_a_cell_give_the_gradients_of_the_sequence():
    """The definition differentiates the whole sequence; two sequences are kept at once."""
    cell = TWINS["gate_inspection cell"].make()
    first, second = run_cell(cell, 4), run_cell(cell, 4, seed=6)
    for caches, seed in ((first, 4), (second, 6)):
        (dh, dc), total = np.zeros((2, H, 4)), {}
        for cache in reversed(caches):
            dh = dh + 1
            _, dh, dc, gradients = cell.backward(dh, dc, cache)
            total = {name: value + total.get(name, 0) for name, value in gradients.items()}
        h_0, c_0 = np.random.default_rng(seed).uniform(-1, 1, (2, H, 4))
        lstm = clstm.reference.LSTM.from_params(cell.core.state_dict())
        lstm.forward(COLUMN_BATCH.swapaxes(1, 2), (h_0.T[None], c_0.T[None]))
        _, (dh_0, dc_0) = lstm.backward(np.ones((T, 4, H)))
        assert_close(dh, dh_0[0].T, "backward", "dh_0")
        assert_close(dc, dc_0[0].T, "backward", "dc_0")
        for gate, name in enumerate(("Wi", "Wf", "Wc", "Wo")):
            rows = slice(gate * H, (gate + 1) * H)
            parts = [lstm.grads[part][rows] for part in ("weight_ih_l0", "weight_hh_l0")]
            assert_close(total[name], np.concatenate(parts, axis=1), "backward", name)


def test_rnn_cell_takes_columns_side_by_side():
    seeded(0)
    cell = gate_inspection.VanillaRNNCell(D, H)
    h = np.random.default_rng(4).uniform(-1, 1, (H, 4))
    together = cell.forward(COLUMN_BATCH[0], h)
    for b in range(4):
        expected = np.tanh(cell.Wh @ np.concatenate([COLUMN_BATCH[0, :, b], h[:, b]]) + cell.bh[:, 0])
        assert_close(together[:, b], expected, "forward")


@pytest.mark.parametrize("B", [1, 4])
def test_step_readout_runs_sequences_as_it_runs_steps(B):
    model = TWINS["step_readout"].make()
    x = COLUMN_BATCH[:, :, :B]
    h_0, c_0 = np.random.default_rng(5).uniform(-1, 1, (2, H, B))
    ys, h_n, c_n = model.forward_sequence(x, h_0, c_0)
    h, c = h_0, c_0
    for x_t, y_t in zip(x, ys, strict=True):
        y, h, c = model.forward(x_t, h, c)
        assert_close(y_t, y, "forward")
    assert_close(h_n, h, "forward")
    assert_close(c_n, c, "forward")
    assert ys.shape == (T, O, B)


def test_step_readout_gradients_add_up_over_columns_and_steps():
    model = TWINS["step_readout"].make()
    dy = np.random.default_rng(6).standard_normal((T, O, 4))
    model.forward_sequence(COLUMN_BATCH)
    together = model.gradients(dy)
    total = dict.fromkeys(together, 0)
    for b in range(4):
        model.forward_sequence(COLUMN_BATCH[:, :, b : b + 1])
        total = {name: total[name] + value for name, value in model.gradients(dy[:, :, b : b + 1]).items()}
    for name, value in together.items():
        assert_close(value, total[name], "backward", name)


@pytest.mark.parametrize("name", ["step_readout", "step_sequence"])
@pytest.mark.parametrize(
    "convert",
    [
        np.asfortranarray,
        lambda v: v.astype(np.float32),
        lambda v: v.astype(int),
        lambda v: v.tolist(),
        lambda v: np.repeat(v, 2, axis=1)[:, ::2],
        lambda v: v.astype(">f8"),
    ],
    ids=["fortran", "float32", "int", "list", "strided", "big-endian"],
)
def test_a_step_takes_whatever_holds_numbers(name, convert):
    model = TWINS[name].make()
    arguments = [np.arange(n, dtype=float)[:, None] / 4 for n in (D, H, H)]
    converted = [convert(argument) for argument in arguments]
    expected = model.forward(*(np.array(argument, dtype=float) for argument in converted))
    for got, wanted in zip(model.forward(*converted), expected, strict=True):
        assert_same_bits(np.ascontiguousarray(got), np.ascontiguousarray(wanted))


def test_steps_from_several_threads_do_not_mix():
    model = step_sequence.LSTM(4, 200)  # large enough for the kernel to give up the GIL
    sequences = np.random.default_rng(0).standard_normal((8, 50, 4, 1))

    def run(sequence):
        h = C = np.zeros((200, 1))
        for x in sequence:
            h, C = model.forward(x, h, C)
        return h

    expected = [run(sequence) for sequence in sequences]
    with ThreadPoolExecutor(4) as pool:
        assert all(
            np.array_equal(h, h_alone) for h, h_alone in zip(pool.map(run, sequences), expected, strict=True)
        )


def test_a_step_returns_new_arrays_and_leaves_its_arguments_alone():
    model = TWINS["step_sequence"].make()
    x, h, C = (np.full((n, 1), 0.5) for n in (D, H, H))
    first = model.forward(x, h, C)
    copies = [value.copy() for value in first]
    second = model.forward(x, *first)
    for got, expected in zip(first, copies, strict=True):
        assert_same_bits(got, expected)
    assert not np.array_equal(first[0], second[0])
    for value in (x, h, C):
        assert (value == 0.5).all()


def test_step_readout_prints_when_asked_to(capsys):
    model = TWINS["step_readout"].make()
    state = np.zeros((H, 1))
    quiet = model.forward(COLUMNS[0], state, state)
    assert capsys.readouterr().out == ""
    loud = model.forward(COLUMNS[0], state, state, verbose=True)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.endswith(":")]
    assert printed == [
        f"{name}:" for name in ("x", "h_prev", "c_prev", "f", "i", "c_tilde", "o", "c", "h", "y")
    ]
    for got, expected in zip(loud, quiet, strict=True):
        assert_same_bits(got, expected)


# ------------------------------------------------------------------------------------------------ bad input

STATE = np.zeros((H, 1))
BAD_CALLS = [
    ("sequence_regressor", lambda m: m.forward(np.ones(T)), r"x: expected shape \(T, 3, 1\), got \(7,\)"),
    ("sequence_regressor", lambda m: m.forward(COLUMNS[:-1]), "x: expected at least 7 time steps, got 6"),
    ("sequence_regressor", lambda m: m.forward([]), r"x: expected shape \(T, 3, 1\)"),
    ("sequence_regressor", lambda m: m.forward(X), r"x: expected shape \(T, 3, 1\), got \(7, 3\)"),
    (
        "sequence_regressor",
        lambda m: m.backward(np.ones(D), np.ones((D, 1))),
        r"y_true: expected shape \(3, 1\)",
    ),
    ("sequence_regressor", lambda m: m.backward(1.0, np.ones((D, 1))), "y_true: expected shape"),
    ("sequence_regressor", lambda m: m.backward(np.ones((D, 1)), np.ones((H, 1))), "y_pred: expected shape"),
    ("sequence_regressor", lambda m: m.backward(np.ones((D, 1)), np.ones((D, 1)), lr=np.nan), "lr: expected"),
    ("last_state", lambda m: m.forward([]), r"inputs: expected shape \(T, 3, 1\), got \(0,\)"),
    ("last_state", lambda m: m.forward(np.empty((0, D))), "inputs: expected at least 1 time step, got 0"),
    ("last_state", lambda m: m.forward(np.ones(D)), "inputs: expected shape"),
    (
        "last_state",
        lambda m: m.forward([np.ones((D, 1)), np.ones((H, 1))]),
        "inputs: expected an array of numbers",
    ),
    ("last_state", lambda m: m.backward(np.ones(H)), r"dL_dh: expected shape \(5, 1\), got \(5,\)"),
    (
        "step_readout",
        lambda m: m.forward(np.ones(D), STATE, STATE),
        r"x: expected shape \(3, B\), got \(3,\)",
    ),
    (
        "step_readout",
        lambda m: m.forward(COLUMNS[0], np.ones(H), STATE),
        r"h_prev: expected shape \(5, 1\), got \(5,\)",
    ),
    ("step_readout", lambda m: m.forward(COLUMNS[0], STATE, np.ones(H)), "c_prev: expected shape"),
    (
        "step_readout",
        lambda m: m.forward(COLUMNS[0], STATE, np.ones((H, 2))),
        r"c_prev: expected shape \(5, 1\), got \(5, 2\)",
    ),
    ("step_readout", lambda m: m.forward(COLUMNS[0].T, STATE, STATE), "x: expected shape"),
    ("step_readout", lambda m: m.forward_sequence([]), r"x: expected shape \(T, 3, B\)"),
    ("step_readout", lambda m: m.forward_sequence(np.ones((0, D, 1))), "x: expected at least 1 time step"),
    ("step_readout", lambda m: m.forward_sequence(COLUMNS, np.ones((H, 2))), "h_0: expected shape"),
    ("step_readout", lambda m: m.backward(np.ones((T, O))), r"dy: expected shape \(7, 2, 1\), got \(7, 2\)"),
    (
        "step_sequence",
        lambda m: m.forward(np.ones(D), STATE, STATE),
        r"x: expected shape \(3, B\), got \(3,\)",
    ),
    ("step_sequence", lambda m: m.forward(COLUMNS[0], STATE, np.ones(H)), "C_prev: expected shape"),
    ("step_sequence", lambda m: m.forward_sequence([]), r"X: expected shape \(T, 3\), got \(0,\)"),
    ("step_sequence", lambda m: m.forward_sequence(np.ones(D)), "X: expected shape"),
    ("step_sequence", lambda m: m.backward(np.ones(H)), r"dh: expected shape \(7, 5\), got \(5,\)"),
    ("gate_inspection", lambda m: m.forward([]), r"inputs: expected shape \(T, 3, 1\)"),
    ("gate_inspection", lambda m: m.forward(list(X)), r"inputs: expected shape \(T, 3, 1\), got \(7, 3\)"),
    ("gate_inspection", lambda m: m.backward(np.ones(O)), r"dy: expected shape \(2, 1\), got \(2,\)"),
    ("gate_inspection", lambda m: m.cell.forward(np.ones(D), STATE, STATE), "x: expected shape"),
    ("gate_inspection cell", lambda m: m.forward(COLUMNS[0], STATE, np.ones(H)), "c_prev: expected shape"),
    (
        "gate_inspection cell",
        lambda m: m.backward(np.ones(H), STATE, (COLUMNS[0], STATE, STATE)),
        "dh_next: expected shape",
    ),
]


@pytest.mark.parametrize(("name", "call", "message"), BAD_CALLS)
def test_bad_input_is_refused_before_anything_changes(name, call, message):
    twin, model = TWINS[name], TWINS[name].make()
    twin.differentiate(model, X)
    state = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    tape = model._tape
    with unchanged(model.core), pytest.raises(ValueError, match=f"^{message}"):
        call(model)
    assert model._tape is tape
    assert {name: value for name, value in vars(model).items() if not name.startswith("_")} == state


@pytest.mark.parametrize("name", ["step_readout", "step_sequence"])
def test_a_step_of_complex_numbers_or_text_is_refused(name):
    model = TWINS[name].make()
    for bad in (COLUMNS[0] * 1j, COLUMNS[0].astype(str), None):
        with pytest.raises(TypeError, match=r"^x: expected real numbers"):
            model.forward(bad, STATE, STATE)


@pytest.mark.parametrize(
    "call",
    [
        lambda: TWINS["sequence_regressor"].build().backward(np.ones((D, 1)), np.ones((D, 1))),
        lambda: TWINS["last_state"].build().backward(np.ones((H, 1))),
        lambda: TWINS["step_readout"].build().gradients(np.ones((T, O, 1))),
        lambda: TWINS["step_sequence"].build().gradients(np.ones((T, H))),
        lambda: TWINS["gate_inspection"].build().gradients(np.ones((O, 1))),
    ],
)
def test_backward_needs_a_forward_before_it(call):
    with pytest.raises(RuntimeError, match=r"^backward: expected a call of forward"):
        call()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: sequence_regressor.LSTM(0, 5, 7), "input_dim: expected at least 1"),
        (lambda: sequence_regressor.LSTM(1, 0, 7), "hidden_dim: expected at least 1"),
        (lambda: sequence_regressor.LSTM(1, 5, 0), "seq_len: expected at least 1"),
        (lambda: last_state.LSTM(0, 5), "input_size: expected at least 1"),
        (lambda: step_readout.LSTM(3, 5, 0), "output_size: expected at least 1"),
        (lambda: step_sequence.LSTM(3, -1), "hidden_size: expected at least 1"),
        (lambda: gate_inspection.LSTM(3, 5, 0), "output_size: expected at least 1"),
        (lambda: gate_inspection.LSTM(3, 0, 1), "hidden_size: expected at least 1"),
        (lambda: gate_inspection.VanillaRNNCell(3, 0), "hidden_size: expected at least 1"),
        (lambda: gate_inspection.generate_long_term_dependency_data(0), "seq_length: expected at least 1"),
        (
            lambda: gate_inspection.generate_long_term_dependency_data(5, -1),
            "num_samples: expected at least 0",
        ),
        (
            lambda: gate_inspection.generate_long_term_dependency_data(5, 5, 0),
            "input_size: expected at least 1",
        ),
    ],
)
def test_sizes_are_checked_before_anything_is_drawn(build, message):
    random = seeded(42)
    with pytest.raises(ValueError, match=f"^{message}"):
        build()
    drawn = random.random()
    assert drawn == seeded(42).random()


def test_constructors_have_the_defaults_of_the_originals():
    model = sequence_regressor.LSTM()
    assert (model.input_dim, model.hidden_dim, model.output_dim, model.seq_len) == (1, 100, 1, 50)
    model = step_readout.LSTM(D, H, O)
    assert (model.input_size, model.hidden_size, model.output_size) == (D, H, O)
    model = gate_inspection.LSTM(D, H, O)
    assert model.hidden_size == H
    assert isinstance(model.cell, gate_inspection.LSTMCell)
    for build in (
        last_state.LSTM,
        step_sequence.LSTM,
        gate_inspection.LSTMCell,
        gate_inspection.VanillaRNNCell,
    ):
        assert (build(D, H).input_size, build(D, H).hidden_size) == (D, H)


# ----------------------------------------------------------------------------------------------- accelerate


class Own:
    """Somebody's own class: one weight and one bias a gate, under names of its own."""

    def __init__(self, concat="xh", dtype=np.float64, bias_shape=(H, 1)):
        rng = np.random.default_rng(7)
        self.concat = concat
        for name in ("forget", "input", "candidate", "output"):
            setattr(self, f"W_{name}", rng.uniform(-1, 1, (H, D + H)).astype(dtype))
            setattr(self, f"b_{name}", rng.uniform(-1, 1, bias_shape).astype(dtype))

    def states(self):
        """Run over X as the author would, in plain NumPy."""
        h, c = np.zeros(H), np.zeros(H)
        states = []
        for x in X:
            z = np.concatenate([x, h] if self.concat == "xh" else [h, x])
            f, i, g, o = (
                getattr(self, f"W_{name}") @ z + getattr(self, f"b_{name}").ravel()
                for name in ("forget", "input", "candidate", "output")
            )
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            states.append(h)
        return np.array(states)


OWN_NAMES = {"i": "input", "f": "forget", "g": "candidate", "o": "output"}
OWN_GATES = {gate: (f"W_{name}", f"b_{name}") for gate, name in OWN_NAMES.items()}


@pytest.mark.parametrize("concat", ["xh", "hx"])
@pytest.mark.parametrize("bias_shape", [(H, 1), (H,)], ids=["column", "vector"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accelerated_object_computes_what_it_did(concat, bias_shape, dtype):
    own = Own(concat, dtype, bias_shape)
    expected, before = own.states(), dict(vars(own))
    lstm = accelerate(own, gates=OWN_GATES, concat=concat)
    assert isinstance(lstm, clstm.LSTM)
    assert lstm.dtype == dtype
    assert_close(lstm(X)[0], expected, "forward")
    for names in OWN_GATES.values():
        for name in names:
            assert_same_bits(getattr(own, name), before[name], name)


@pytest.mark.parametrize("concat", ["xh", "hx"])
def test_changes_in_place_are_seen_both_ways(concat):
    own = Own(concat)
    lstm = accelerate(own, gates=OWN_GATES, concat=concat)
    for names in OWN_GATES.values():
        for name in names:
            view = getattr(own, name)
            view *= 0.5
            view[1, 0] = 0.75
            assert_close(lstm(X)[0], own.states(), "forward", name)
    lstm.forward(X)
    lstm.backward(np.ones((T, H)))
    lstm.flat_params -= 0.1 * lstm.flat_grads
    assert_close(lstm(X)[0], own.states(), "forward")
    lstm.params["bias_l0"][H : 2 * H] = 1.5
    assert (own.b_forget == 1.5).all()


def test_parameters_that_are_assigned_show_in_the_object():
    own = Own("hx")
    lstm = accelerate(own, gates=OWN_GATES, concat="hx")
    views = dict(vars(own))
    lstm.params["bias_l0"] = np.arange(4 * H)
    assert_same_bits(own.b_candidate[:, 0], np.arange(2 * H, 3 * H, dtype=float))
    lstm.params.update({"weight_ih_l0": np.full((4 * H, D), 0.25)})
    assert (own.W_output[:, H:] == 0.25).all()
    lstm.flat_params = lstm.flat_params * 0.5
    assert (own.W_output[:, H:] == 0.125).all()
    assert all(getattr(own, name) is view for name, view in views.items())
    assert_close(lstm(X)[0], own.states(), "forward")
    own.W_forget = own.W_forget + 1  # is taken in before a new value is, which covers it
    lstm.params["weight_hh_l0"] = np.zeros((4 * H, H))
    assert (own.W_forget[:, :H] == 0).all()
    assert_close(lstm(X)[0], own.states(), "forward")


USES = {
    "call": lambda lstm: lstm(X)[0],
    "forward": lambda lstm: lstm.forward(X)[0],
    "trace": lambda lstm: lstm.trace(X).h[0],
    "step": lambda lstm: _by(lstm.step),
    "stream": lambda lstm: np.array([*map(lstm.stream().step, X)]),
    "state_dict": lambda lstm: _other(lstm)(X)[0],
    "flat_params": lambda lstm: (lstm.flat_params.sum(), lstm(X)[0])[1],
}


def _by(step):
    state, states = None, []
    for x in X:
        h, state = step(x, state)
        states.append(h)
    return np.array(states)


def _other(lstm):
    other = clstm.LSTM(D, H)
    other.load_state_dict(lstm.state_dict())
    return other


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_arrays_bound_later_are_taken_in_by_the_next_use(use):
    own = Own("hx")
    lstm = accelerate(own, gates=OWN_GATES, concat="hx")
    before = own.states()
    own.W_forget = own.W_forget - 0.1
    own.b_output = own.b_output * 2
    expected = own.states()
    assert not np.array_equal(before, expected)
    assert_close(use(lstm), expected, "forward")
    own.W_forget *= 0.5  # what was bound is live again, both ways
    assert_close(use(lstm), own.states(), "forward")
    expected = own.W_forget * 0.5
    lstm.flat_params *= 0.5
    assert_same_bits(own.W_forget, expected)


def test_backward_and_the_next_forward_use_arrays_bound_in_between():
    own = Own()
    lstm = accelerate(own, gates=OWN_GATES, concat="xh")
    for _ in range(3):  # the usual loop of somebody who binds new arrays
        y, _ = lstm.forward(X)
        assert_close(y, own.states(), "forward")
        lstm.backward(y)
        gradient = lstm.grads["weight_ih_l0"][H : 2 * H]
        own.W_forget = own.W_forget - 0.1 * np.concatenate([gradient, np.zeros((H, H))], axis=1)


def test_an_array_bound_later_that_does_not_fit_is_refused_and_nothing_taken_in():
    own = Own()
    lstm = accelerate(own, gates=OWN_GATES, concat="xh")
    storage, before = lstm.flat_params, lstm.flat_params.copy()
    fitting = own.W_forget = own.W_forget + 1
    own.b_output = np.ones(H)
    for use in (lambda: lstm(X), lambda: lstm.params, lambda: lstm.flat_params):
        with pytest.raises(ValueError, match=r"^b_output: expected shape \(5, 1\), got \(5,\)"):
            use()
        assert_same_bits(storage, before)
        assert own.W_forget is fitting
    own.b_output = np.ones((H, 1))
    assert_close(lstm(X)[0], own.states(), "forward")


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"]
)
def test_a_copy_of_both_follows_the_copy(clone):
    own = Own("hx")
    lstm = accelerate(own, gates=OWN_GATES, concat="hx")
    other_own, other = clone((own, lstm))
    other_own.W_forget += 0.5
    assert_close(lstm(X)[0], own.states(), "forward")
    assert_close(other(X)[0], other_own.states(), "forward")
    other_own.b_input -= 0.5
    assert_close(other(X)[0], other_own.states(), "forward")
    assert not np.array_equal(other(X)[0], lstm(X)[0])


@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda own: pickle.loads(pickle.dumps(own))], ids=["deepcopy", "pickle"]
)
def test_an_object_that_keeps_its_lstm_can_be_copied(clone):
    own = Own()
    own.lstm = accelerate(own, gates=OWN_GATES, concat="xh")
    other = clone(own)
    other.W_forget += 0.5
    assert_close(other.lstm(X)[0], other.states(), "forward")
    assert_close(own.lstm(X)[0], own.states(), "forward")


def test_a_twin_can_be_accelerated_too():
    twin = TWINS["step_sequence"]
    model = twin.make()
    lstm = accelerate(model, gates=twin.gates, concat="hx")
    model.Wf *= 0.5
    assert_close(lstm(X)[0], twin.hidden_states(model, X), "forward")


def test_an_accelerated_lstm_saves_what_a_plain_one_loads(tmp_path):
    own = Own("hx")
    lstm = accelerate(own, gates=OWN_GATES, concat="hx")
    own.W_forget = own.W_forget + 0.1
    lstm.save(tmp_path / "own.safetensors")
    assert_close(clstm.LSTM.load(tmp_path / "own.safetensors")(X)[0], own.states(), "forward")
    assert_close(type(lstm).load(tmp_path / "own.safetensors")(X)[0], own.states(), "forward")


def _own(**arrays):
    own = Own()
    for name, value in arrays.items():
        setattr(own, name, value)
    return own


class ReadOnly(Own):
    """Lets its arrays be set once."""

    def __setattr__(self, name, value):
        if name == "b_candidate" and hasattr(self, name):
            raise AttributeError("read-only")
        super().__setattr__(name, value)


BAD_OBJECTS = [
    (Own(), OWN_GATES, "x", ValueError, "concat: expected one of 'xh', 'hx'"),
    (Own(), {"i": OWN_GATES["i"]}, "xh", ValueError, "gates: expected exactly i, f, g, o; missing: f, g, o"),
    (Own(), [], "xh", TypeError, "gates: expected a mapping"),
    (Own(), OWN_GATES | {"f": "W_forget"}, "xh", ValueError, r"gates\['f'\]: expected a pair"),
    (
        Own(),
        OWN_GATES | {"f": ("W_forget", 3)},
        "xh",
        TypeError,
        "gates: expected names of attributes, got 3",
    ),
    (
        Own(),
        OWN_GATES | {"f": OWN_GATES["o"]},
        "xh",
        ValueError,
        "gates: expected eight different attributes",
    ),
    (Own(), OWN_GATES | {"f": ("W_f", "b_forget")}, "xh", TypeError, "W_f: expected an array .*, got None"),
    (_own(W_forget=[[1.0]]), OWN_GATES, "xh", TypeError, "W_forget: expected an array of float32 or float64"),
    (
        _own(W_forget=np.ones((H, D + H), int)),
        OWN_GATES,
        "xh",
        TypeError,
        "W_forget: expected an array of float32",
    ),
    (
        _own(W_forget=np.ones((H, D + H), "f4")),
        OWN_GATES,
        "xh",
        TypeError,
        "W_forget: expected float64 like W_input",
    ),
    (
        _own(W_forget=np.ones((D + H, H))),
        OWN_GATES,
        "xh",
        ValueError,
        r"W_forget: expected shape \(5, 8\), got \(8, 5\)",
    ),
    (_own(W_input=np.ones(H)), OWN_GATES, "xh", ValueError, r"W_input: expected shape \(H, D \+ H\)"),
    (
        _own(W_input=np.ones((D + H, H))),
        OWN_GATES,
        "xh",
        ValueError,
        r"W_input: expected shape \(H, D \+ H\) with",
    ),
    (
        _own(b_output=np.ones((1, H))),
        OWN_GATES,
        "xh",
        ValueError,
        r"b_output: expected shape \(5, 1\), got \(1, 5\)",
    ),
    (ReadOnly(), OWN_GATES, "xh", TypeError, "b_candidate: expected an attribute that can be set"),
]


@pytest.mark.parametrize(("own", "gates", "concat", "error", "message"), BAD_OBJECTS)
def test_what_cannot_be_accelerated_is_refused_and_left_as_it_was(own, gates, concat, error, message):
    before = dict(vars(own))
    copies = copy.deepcopy(before)
    with pytest.raises(error, match=f"^{message}"):
        accelerate(own, gates=gates, concat=concat)
    assert all(vars(own)[name] is value for name, value in before.items())
    for name, value in copies.items():
        assert np.array_equal(before[name], value)
