"""gradcheck passes what is right, and says of what is wrong which parameter, entry and time step it is."""

import re
from dataclasses import FrozenInstanceError
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
from conftest import BACKENDS, build_lstm

import clstm
from clstm import GradientReport, gradcheck

D, H, T = 2, 3, 5
GATES = ("Wf", "Wi", "Wg", "Wo", "bf", "bi", "bg", "bo")
ALL = (*GATES, "x")


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


class NaiveLSTM:
    """A from-scratch LSTM on columns, z = [h; x], with back-propagation through time from the last state."""

    def __init__(self, dtype="float64", fault=None):
        rng = np.random.default_rng(1)
        for gate in "figo":
            setattr(self, f"W{gate}", rng.normal(0, 0.5, (H, H + D)).astype(dtype))
            setattr(self, f"b{gate}", rng.normal(0, 0.5, (H, 1)).astype(dtype))
        self.fault = fault

    def forward(self, x):
        h, c = np.zeros((H, 1), x.dtype), np.zeros((H, 1), x.dtype)
        self.cache = []
        for x_t in x:
            z, c_prev = np.vstack([h, x_t]), c
            f, i, o = (sigmoid(getattr(self, f"W{gate}") @ z + getattr(self, f"b{gate}")) for gate in "fio")
            g = np.tanh(self.Wg @ z + self.bg)
            c = f * c_prev + i * g
            h = o * np.tanh(c)
            self.cache.append((z, f, i, g, o, c, c_prev, h))
        return h

    def gradients(self, dh):
        grads = {name: np.zeros_like(getattr(self, name)) for name in GATES}
        dx = np.zeros((len(self.cache), D, 1), dh.dtype)
        dc = np.zeros_like(dh)
        for t in reversed(range(self.fault == "first step", len(self.cache))):
            z, f, i, g, o, c, c_prev, h = self.cache[t]
            dc = dc + dh * o * (1 - np.tanh(c) ** 2)
            da = {
                "f": dc * c_prev * f * (1 - f),
                "i": dc * g * i * (1 - i),
                "g": dc * i * (1 - g**2),
                "o": dh * np.tanh(c) * o * (1 - o),
            }
            if self.fault == "h_t":
                z = np.vstack([h, z[H:]])
            for gate in "figo":
                grads[f"W{gate}"] += da[gate] @ z.T
                grads[f"b{gate}"] += da[gate]
            dz = sum(getattr(self, f"W{gate}").T @ da[gate] for gate in "figo")
            dh, dx[t] = dz[:H], dz[H:]
            dc = np.zeros_like(dc) if self.fault == "dc" else dc * f
        return grads | {"x": dx}

    def backward(self, dh, lr):
        grads = self.gradients(dh)
        for n, name in enumerate(GATES):  # authors write both
            if n % 2:
                setattr(self, name, getattr(self, name) - lr * grads[name])
            else:
                getattr(self, name)[...] -= lr * grads[name]


X = np.random.default_rng(2).normal(size=(T, D, 1))
TARGET = np.array([[0.5], [-0.3], [0.2]])


def loss(model, x):
    return 0.5 * np.sum((model.forward(x) - TARGET.astype(x.dtype)) ** 2)


def gradients(model, x):
    return model.gradients(model.forward(x) - TARGET.astype(x.dtype))


def train(model, x):
    model.backward(model.forward(x) - TARGET, lr=0.1)


def loss_that_needs_floats(model, x):
    h = np.zeros((H, 1))
    h[...] = model.forward(x)
    return float(0.5 * np.sum((h - TARGET) ** 2))


def loss_that_drops_the_imaginary_part(model, x):
    return 0.5 * np.sum(np.abs(model.forward(x) - TARGET) ** 2)


FLOATS_ONLY = (loss_that_needs_floats, loss_that_drops_the_imaginary_part)


def check(fault=None, loss=loss, **options):
    return gradcheck(NaiveLSTM(fault=fault), loss, gradients, X, **options)


def by_name(report):
    return {failure.parameter: failure for failure in report.failures}


def arrays_of(model):
    return {name: getattr(model, name) for name in GATES}


@pytest.fixture
def untouched():
    """Make a model; its parameters must stay the same arrays with the same bits."""
    model = NaiveLSTM()
    arrays, bits = arrays_of(model), {name: array.tobytes() for name, array in arrays_of(model).items()}
    yield model
    for name, array in arrays_of(model).items():
        assert array is arrays[name]
        assert array.tobytes() == bits[name]


# ------------------------------------------------------------------------------------------ right gradients


def test_right_gradients_pass_by_complex_step(untouched):
    report = gradcheck(untouched, loss, gradients, X)
    assert report == GradientReport("complex step", ALL, 4 * H * (H + D) + 4 * H + T * D, (), ())
    assert report.ok
    assert str(report) == f"All gradients are right: {', '.join(ALL)}; 82 entries by complex step."


@pytest.mark.parametrize("loss", FLOATS_ONLY)
def test_right_gradients_pass_by_central_differences_where_floats_are_needed(loss, untouched):
    report = gradcheck(untouched, loss, gradients, X)
    assert report.ok
    assert report.method == "central differences"
    assert "The complex step does not work here" in str(report)


def test_report_says_why_there_is_no_complex_step():
    assert "ComplexWarning" in check(loss=loss_that_needs_floats).notes[0]
    assert "something drops the imaginary part" in check(loss=loss_that_drops_the_imaginary_part).notes[0]


def test_penalty_whose_imaginary_part_is_lost_is_not_taken_for_right():
    def penalised(model, x):
        return loss(model, x) + 1e-3 * np.abs(model.Wg).sum()

    assert not gradcheck(NaiveLSTM(), penalised, gradients, X).ok

    def penalised_gradients(model, x):
        grads = gradients(model, x)
        return grads | {"Wg": grads["Wg"] + 1e-3 * np.sign(model.Wg)}

    assert gradcheck(NaiveLSTM(), penalised, penalised_gradients, X).ok


@pytest.mark.parametrize("loss", [loss, loss_that_drops_the_imaginary_part])
def test_float32_parameters_are_checked_to_their_precision(loss):
    right = gradcheck(NaiveLSTM("float32"), loss, gradients, X.astype("float32"))
    wrong = gradcheck(NaiveLSTM("float32", "dc"), loss, gradients, X.astype("float32"))
    assert right.ok
    assert not wrong.ok
    assert any("better check in float64" in note for note in right.notes) == (
        right.method == "central differences"
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_lstm_and_rnn_pass(backend, dtype):
    weights = np.random.default_rng(3).normal(size=(4, 2, 6))
    for layer in (
        build_lstm(2, 3, 2, bidirectional=True, backend=backend, dtype=dtype),
        clstm.RNN(2, 6, backend=backend, dtype=dtype, rng=0),
    ):

        def loss(layer, x):
            return np.sum(weights[: len(x)] * layer(x)[0])

        def gradients(layer, x):
            layer.forward(x)
            return layer.grads | {"x": layer.backward(weights[: len(x)])[0]}

        before = layer.flat_params.copy()
        report = gradcheck(
            layer, loss, gradients, np.random.default_rng(4).normal(size=(4, 2, 2)).astype(dtype)
        )
        assert report.ok, report
        assert set(report.parameters) == {*layer.params, "x"}
        assert np.array_equal(layer.flat_params, before)


def test_functions_on_a_dict_pass_without_a_sequence():
    params = {"w": np.array([0.5, -1.0]), "scale": np.array(2.0)}
    before = dict(params)
    report = gradcheck(
        params,
        lambda p: p["scale"] * np.tanh(p["w"]).sum(),
        lambda p: {"w": p["scale"] * (1 - np.tanh(p["w"]) ** 2), "scale": np.tanh(p["w"]).sum()},
    )
    assert report.ok
    assert report.entries == 3
    assert all(params[name] is before[name] for name in before)


def test_functions_that_read_global_arrays_are_moved_in_place():
    w = np.array([0.5, -1.0])
    assert gradcheck({"w": w}, lambda _: np.tanh(w).sum(), lambda _: {"w": 1 - np.tanh(w) ** 2}).ok
    report = gradcheck({"w": w}, lambda _: np.tanh(w).sum(), lambda _: {"w": np.tanh(w)})
    assert report.method == "central differences"
    assert not report.ok


def test_names_with_dots_lead_into_objects_and_dict_params_are_found():
    def loss(model, x):
        return np.sum((model.cell.forward(x) - TARGET) ** 2) * model.params["scale"][0]

    def gradients(model, x):
        residual = model.cell.forward(x) - TARGET
        grads = model.cell.gradients(2 * residual * model.params["scale"][0])
        return {f"cell.{name}": grads[name] for name in GATES} | {"scale": np.array([np.sum(residual**2)])}

    model = SimpleNamespace(cell=NaiveLSTM(), params={"scale": np.array([0.7])})
    report = gradcheck(model, loss, gradients, X)
    assert report.ok, report
    assert report.method == "complex step"
    assert report.parameters == (*(f"cell.{name}" for name in GATES), "scale")


def test_parameters_may_be_strided_views_behind_properties():
    class Views(NaiveLSTM):
        def __init__(self):
            self._block = np.zeros((2 * (H + D), H))
            super().__init__()

        @property
        def Wf(self):
            return self._block[::2].T

        @Wf.setter
        def Wf(self, value):
            self.Wf[...] = value

    model = Views()
    before = model._block.copy()
    for report in (gradcheck(model, loss, gradients, X), gradcheck(model, loss, train, X, lr=0.1)):
        assert report.ok, report
        assert {"Wf", "Wi"} <= set(report.parameters)
        assert report.method == "central differences"  # the storage behind a view stays real
        assert np.array_equal(model._block, before)


def test_steps_may_come_as_a_list():
    def listed_gradients(model, x):
        return {name: value for name, value in gradients(model, np.array(x)).items() if name != "x"}

    assert gradcheck(NaiveLSTM(), lambda model, x: loss(model, np.array(x)), listed_gradients, list(X)).ok


# ------------------------------------------------------------------------------------------- planted faults


@pytest.mark.parametrize("loss", [loss, loss_that_drops_the_imaginary_part])
def test_missing_first_step_is_named(loss):
    report = check("first step", loss)
    failures = by_name(report)
    # c_prev and h_prev are 0 at the first step: it contributes nothing to the forget gate.
    assert set(failures) == set(ALL) - {"Wf", "bf"}
    assert {failure.steps for failure in failures.values()} == {1}
    assert {failure.got for failure in failures.values()} == {0.0}
    # The columns of x.
    assert all(failure.index[1] >= H for name, failure in failures.items() if name.startswith("W"))
    assert failures["x"].index[0] == 0
    assert failures["x"].time_steps == (0,)
    assert report.notes[-1].endswith("does the loop over time leave out a step, such as the first?")
    assert "Right: Wf, bf." in str(report)


@pytest.mark.parametrize("loss", [loss, loss_that_drops_the_imaginary_part])
def test_forgotten_cell_carry_is_named(loss):
    report = check("dc", loss)
    failures = by_name(report)
    assert set(failures) == set(ALL)
    # Of the step before the last, only input gate and candidate see dc; the forget gate multiplies a c_prev
    # of 0 there.
    assert {name for name, failure in failures.items() if failure.steps == 2} == {"Wi", "Wg", "bi", "bg", "x"}
    assert {name for name, failure in failures.items() if failure.steps == 3} == {"Wf", "Wo", "bf", "bo"}
    assert failures["x"].index[0] == 0
    assert failures["x"].time_steps == tuple(range(T - 1))  # all but the last
    assert report.failures[0].steps == 2
    assert report.notes[-1].startswith("With 1 time step all is right: look at what a step hands back")
    assert "checked, at time 0 to 3." in str(report)


@pytest.mark.parametrize("loss", [loss, loss_that_drops_the_imaginary_part])
def test_h_t_in_place_of_h_prev_is_named(loss):
    report = check("h_t", loss)
    failures = by_name(report)
    assert set(failures) == {"Wf", "Wi", "Wg", "Wo"}
    # With c_prev = 0 the forget gate has no gradient at the first step, right or wrong.
    assert {name: failure.steps for name, failure in failures.items()} == {"Wi": 1, "Wg": 1, "Wo": 1, "Wf": 2}
    for failure in report.failures:
        assert failure.index[1] < H  # the columns of h
        assert failure.wrong == H * H
    assert all(
        failure.expected == 0 and failure.got != 0 for failure in report.failures if failure.steps == 1
    )
    assert report.notes[-1].endswith("is h_t used in the place of h_{t-1}?")


@pytest.mark.parametrize("name", GATES)
def test_one_wrong_entry_is_named_with_its_values(name):
    index = (1, H) if name.startswith("W") else (1, 0)
    right = gradients(NaiveLSTM(), X)

    def slightly_wrong(model, x):
        grads = gradients(model, x)
        if len(x) >= 3:
            grads[name][index] *= 1 + 1e-6
        return grads

    (failure,) = gradcheck(NaiveLSTM(), loss, slightly_wrong, X).failures
    assert (failure.parameter, failure.index, failure.steps) == (name, index, 3)
    assert (failure.wrong, failure.checked, failure.time_steps) == (1, right[name].size, ())
    assert failure.got == gradients(NaiveLSTM(), X[:3])[name][index] * (1 + 1e-6)
    assert failure.relative_error == abs(failure.got - failure.expected) / max(
        abs(failure.got), abs(failure.expected)
    )
    assert (
        f"{name}[1, {index[1]}] with 3 time steps: expected {failure.expected:.6g}, got {failure.got:.6g}"
        in str(failure)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_claims_that_are_no_numbers_are_wrong(value):
    def spoilt(model, x):
        grads = gradients(model, x)
        grads["bo"][2] = value
        return grads

    (failure,) = gradcheck(NaiveLSTM(), loss, spoilt, X).failures
    assert (failure.parameter, failure.index, failure.steps, failure.wrong) == ("bo", (2, 0), 1, 1)


def test_wrong_sign_of_a_single_step_is_told_from_the_loop():
    report = gradcheck(NaiveLSTM(), loss, lambda m, x: gradients(m, x) | {"bo": -gradients(m, x)["bo"]}, X)
    assert report.notes == ("With 1 time step it is wrong already: look at the equations of a single step.",)


def test_without_the_sequence_no_time_step_is_named():
    model = NaiveLSTM(fault="dc")
    report = gradcheck(model, lambda m: loss(m, X), lambda m: {"Wi": gradients(m, X)["Wi"]})
    (failure,) = report.failures
    assert failure.steps is None
    assert "Give the sequence as x" in report.notes[-1]
    assert "time step" not in str(failure)


def test_code_for_one_length_only_is_checked_on_that():
    def fixed_length(model, x):
        if len(x) < T:
            raise IndexError("sequence too short")
        return loss(model, x)

    report = check("dc", fixed_length)
    assert {failure.steps for failure in report.failures} == {T}
    assert report.notes == ("With 1 time step the code does not run (IndexError: sequence too short).",)


def test_tolerance_decides_what_is_wrong():
    def off_by_a_thousandth(model, x):
        return {name: 1.001 * value for name, value in gradients(model, x).items()}

    assert not gradcheck(NaiveLSTM(), loss, off_by_a_thousandth, X).ok
    assert gradcheck(NaiveLSTM(), loss, off_by_a_thousandth, X, tolerance=0.01).ok


def test_large_parameters_are_checked_at_a_reproducible_choice_of_entries():
    report = check(entries=4)
    assert report.ok
    assert report.entries == 4 * 4 + 4 * H + 4
    assert str(check("dc", entries=4)) == str(check("dc", entries=4))
    assert not check("dc", entries=4).ok
    assert check(entries=None).entries == 82


# --------------------------------------------------------------------- a backward pass that trains in place


@pytest.mark.parametrize("names", [None, GATES, ("bo", "Wf")])
@pytest.mark.parametrize("loss", [loss, loss_that_needs_floats])
def test_gradients_are_recovered_from_the_update(names, loss, untouched):
    report = gradcheck(untouched, loss, train, X, lr=0.1, names=names)
    assert report.ok, report
    assert set(report.parameters) == set(names or GATES)


def test_faults_are_found_in_the_update():
    assert not gradcheck(NaiveLSTM(fault="dc"), loss, train, X, lr=0.1).ok
    assert len(gradcheck(NaiveLSTM(), loss, train, X, lr=0.2).failures) == len(GATES)


def test_arrays_that_the_forward_pass_replaces_are_no_parameters():
    class Remembers(NaiveLSTM):
        def forward(self, x):
            self.h = super().forward(x)
            return self.h

        @property
        def everything(self):
            return np.concatenate([self.Wf, self.Wi])

    model = Remembers()
    model.forward(X)
    report = gradcheck(model, loss, train, X, lr=0.1)
    assert report.ok, report
    assert set(report.parameters) == set(GATES)


# ------------------------------------------------------------------------------ restoring, and what is kept


def test_neither_the_sequence_nor_the_cache_is_left_changed(untouched):
    x = X.copy()
    x.flags.writeable = False
    for loss_ in (loss, loss_that_needs_floats):
        assert gradcheck(untouched, loss_, gradients, x).ok
    assert np.array_equal(x, X)
    assert not any(np.iscomplexobj(array) for step in untouched.cache for array in step)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("loss", [loss, loss_that_drops_the_imaginary_part])
@pytest.mark.parametrize("calls", [0, 1, 5, 20])
def test_parameters_are_restored_after_an_exception(calls, loss, error, untouched):
    left = iter(range(calls))

    def interrupted(model, x):
        result = loss(model, x)
        # Code that refuses complex numbers is not an error.
        if not np.iscomplexobj(model.forward(x)) and next(left, None) is None:
            raise error("stop")
        return result

    with pytest.raises(error, match="stop"):
        gradcheck(untouched, interrupted, gradients, X)


def test_parameters_are_restored_when_a_complex_step_is_interrupted(untouched):
    def interrupted(model, x):
        if np.iscomplexobj(model.Wf):
            raise KeyboardInterrupt
        return loss(model, x)

    with pytest.raises(KeyboardInterrupt):
        gradcheck(untouched, interrupted, gradients, X)


def test_parameters_are_restored_when_training_fails(untouched):
    def fails(model, x):
        train(model, x)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        gradcheck(untouched, loss, fails, X, lr=0.1)


def test_training_without_lr_is_refused_and_undone(untouched):
    def trains(model, x):
        train(model, x)
        return gradients(model, x)

    with pytest.raises(ValueError, match="loss: expected the same number each time"):
        gradcheck(untouched, loss, trains, X)


def test_nothing_is_printed_and_the_report_is_frozen(capsys):
    report = check("dc")
    assert capsys.readouterr() == ("", "")
    with pytest.raises(FrozenInstanceError):
        report.method = "guess"


# ------------------------------------------------------------------------------------------------ bad input


def broken(**changes):
    arguments = {"model": NaiveLSTM(), "loss": loss, "gradients": gradients, "x": X} | changes
    return gradcheck(**arguments)


def without(name):
    return lambda model, x: {key: value for key, value in gradients(model, x).items() if key != name}


def frozen():
    model = NaiveLSTM()
    model.Wf.flags.writeable = False
    return model


BAD = [
    ({"loss": 3}, TypeError, "loss: expected a function, got 3"),
    ({"gradients": None}, TypeError, "gradients: expected a function, got None"),
    ({"model": MappingProxyType({})}, TypeError, "model: expected an object or a dict, got mappingproxy({})"),
    ({"x": 3}, TypeError, "x: expected an array or a list of time steps, got 3"),
    (
        {"x": np.array(3.0)},
        TypeError,
        "x: expected an array or a list of time steps, got array of shape () and dtype float64",
    ),
    ({"x": []}, ValueError, "number of time steps in x: expected at least 1, got 0"),
    ({"x": X.astype(int)}, TypeError, "x: expected a writeable float32 or float64 array"),
    ({"names": "Wf"}, TypeError, "names: expected several names, got the text 'Wf'"),
    ({"names": [3]}, TypeError, "names: expected str, got 3"),
    ({"names": ["Wq"]}, ValueError, "Wq: expected the name of a parameter, got none that model has"),
    ({"names": ["fault"]}, TypeError, "fault: expected a writeable float32 or float64 array, got None"),
    ({"names": []}, ValueError, "names: expected at least one parameter, found none in"),
    (
        {"names": ["Wf"], "gradients": without("Wf")},
        ValueError,
        "gradients: expected one for each name; missing: Wf",
    ),
    ({"model": frozen()}, TypeError, "Wf: expected a writeable float32 or float64 array"),
    ({"lr": 0}, ValueError, "lr: expected a number above 0, got 0"),
    ({"entries": 0}, ValueError, "entries: expected at least 1, got 0"),
    ({"tolerance": -1.0}, ValueError, "tolerance: expected a number above 0, got -1.0"),
    ({"rng": "seed"}, TypeError, "rng: expected an integer, got 'seed'"),
    (
        {"loss": lambda model, x: model.forward(x)},
        TypeError,
        "loss: expected one number, got array of shape (3, 1)",
    ),
    ({"loss": lambda model, x: np.nan}, ValueError, "loss: expected a finite number, got nan"),
    ({"loss": lambda model, x: None}, TypeError, "loss: expected a number, got None"),
    ({"gradients": lambda model, x: None}, TypeError, "gradients: expected a mapping from names to arrays"),
    (
        {"gradients": lambda model, x: gradients(model, x) | {"bf": np.zeros(H)}},
        ValueError,
        "gradients['bf']: expected shape (3, 1), got (3,)",
    ),
    (
        {"gradients": lambda model, x: gradients(model, x) | {"bf": np.zeros((H, 1), complex)}},
        TypeError,
        "gradients['bf']: expected real numbers, got dtype complex128",
    ),
]


@pytest.mark.parametrize(("changes", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_arguments_are_refused_by_name(changes, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        broken(**changes)


def test_a_loss_that_draws_random_numbers_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="is there dropout"):
        broken(loss=lambda model, x: loss(model, x) + rng.random())
