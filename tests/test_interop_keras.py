"""Files of Keras: read as Keras computes, written as it reads, refused where it is not certain.

Keras 3 itself, on its torch backend and in a process of its own, writes files and outputs once for all tests.
Files of Keras 1 and 2 and of CuDNNLSTM are built here in their layout, with the conversion that Keras
documents for them as the witness.
"""

import importlib.util
import io
import json
import os
import re
import zipfile

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, build_lstm, run_python

import clstm
from clstm import FileFormatError
from clstm.interop import keras

h5py = pytest.importorskip("h5py")

I, H, T, B = 3, 4, 5, 2  # noqa: E741


# ------------------------------------------------------------------------------------------ Keras as witness

# name: arguments of Keras's LSTM
LAYERS = {
    "plain": {},
    "no_bias": {"use_bias": False},
    "backwards": {"go_backwards": True},
    "dropout": {"dropout": 0.25, "recurrent_dropout": 0.5},
    "relu": {"activation": "relu"},
    "linear": {"activation": "linear"},
    "hard_sigmoid": {"recurrent_activation": "hard_sigmoid"},
    "softsign": {"activation": "softsign", "recurrent_activation": "softsign"},
    "softplus": {"activation": "softplus", "recurrent_activation": "sigmoid"},
    "elu": {"activation": "elu"},
    "leaky_relu": {"activation": "leaky_relu"},
    "sigmoid": {"activation": "sigmoid", "recurrent_activation": "tanh"},
    "float64": {"dtype": "float64"},
}

# Makes one file of each kind for each model, with an array of x and of what each layer makes of it.
WRITER = """
import os, sys, json
os.environ["KERAS_BACKEND"] = "torch"
import numpy as np, keras
L = keras.layers
folder, layers = sys.argv[1], json.loads(sys.argv[2])
I, H, T, B = map(int, sys.argv[3:])
rng = np.random.default_rng(0)
x = rng.standard_normal((B, T, I))

def lstm(name, **arguments):
    return L.LSTM(H, return_sequences=True, name=name, **arguments)

def save(file, model, names, x=x):
    model.set_weights([rng.uniform(-1, 1, w.shape) for w in model.get_weights()])
    results = {"x": x}
    for name in names:
        inner = keras.Model(model.inputs, model.get_layer(name).output)
        results[name] = keras.ops.convert_to_numpy(inner(x))
        for number, weight in enumerate(model.get_layer(name).get_weights()):
            results[f"{name}/{number}"] = weight
    np.savez(f"{folder}/{file}.npz", **results)
    model.save(f"{folder}/{file}.keras")
    model.save(f"{folder}/{file}.h5")
    model.save_weights(f"{folder}/{file}.weights.h5")

for name, arguments in layers.items():
    i = L.Input((T, I), dtype=arguments.get("dtype"))
    save(name, keras.Model(i, lstm(name, **arguments)(i)), [name])
for name, activation in {
    "LeakyReLU": L.LeakyReLU(negative_slope=0.15), "ELU": L.ELU(alpha=0.7), "ReLU": L.ReLU(),
    "ReLU_leaky": L.ReLU(negative_slope=0.3), "ReLU_threshold": L.ReLU(threshold=0.1),
}.items():
    i = L.Input((T, I))
    save(name, keras.Model(i, lstm(name, activation=activation)(i)), [name])
for name, arguments in {"bidirectional": {}, "bidirectional_no_bias": {"use_bias": False}}.items():
    i = L.Input((T, I))
    save(name, keras.Model(i, L.Bidirectional(lstm("inner", **arguments), name=name)(i)), [name])
own = L.Bidirectional(lstm("there"), backward_layer=lstm("and_back", go_backwards=True), name="own")
i = L.Input((T, I))
save("own", keras.Model(i, own(i)), ["own"])
i = L.Input((T, I))
a = lstm("first")(i)
b = lstm("second")(a)
save("stack", keras.Model(i, L.Dense(2)(lstm("third")(b))), ["first", "second", "third"])
i = L.Input((T, I))
a = L.Bidirectional(lstm("p"), name="first")(i)
save("stack_both", keras.Model(i, L.Bidirectional(lstm("q"), name="second")(a)), ["first", "second"])
m = keras.Sequential([
    L.Input((T, I)), L.GRU(I, return_sequences=True), lstm("lstm_9"), L.SimpleRNN(H, return_sequences=True),
    L.Dense(I), lstm("lstm_2"), L.LSTM(2, name="last"),
])
save("sequential", m, ["lstm_9", "lstm_2", "last"])
i = L.Input((T, I))
inner = keras.Sequential([L.Input((T, I)), lstm("deep"), L.Dense(I), L.Bidirectional(lstm("x"), name="both")])
cell = L.RNN(L.LSTMCell(H), return_sequences=True, name="cell")
model = keras.Model(i, lstm("flat")(cell(keras.Sequential([inner], name="outer")(i))))
save("nested", model, ["flat", "cell"])
i = L.Input((2, T, I))
save("distributed", keras.Model(i, L.TimeDistributed(lstm("slice"), name="td")(i)), ["td"],
     np.stack([x, -x], 1))
i = L.Input((T, I))
twins = [keras.Sequential([L.Input((T, I)), lstm("same")], name=name) for name in "ab"]
save("twins", keras.Model(i, [twin(i) for twin in twins]), [])
m = keras.Sequential([L.Input((T, I), batch_size=B), lstm("fed", stateful=True)])
m(x)
save("stateful", m, [])
m = keras.Sequential([L.Input((T, I)), lstm("held", trainable=False), lstm("fed")])
m.compile("adam", "mse")
m.fit(x, np.zeros((B, T, H)), verbose=0)
save("trained", m, ["held", "fed"])
for name, layer in {
    "relu6": lstm("l", activation="relu6"), "silu": lstm("l", activation="silu"),
    "selu": lstm("l", recurrent_activation="selu"), "exponential": lstm("l", activation="exponential"),
    "gelu": lstm("l", activation="gelu"), "max_value": lstm("l", activation=L.ReLU(max_value=1.0)),
    "softmax": lstm("l", activation=L.Softmax()), "prelu": lstm("l", activation=L.PReLU()),
    "sum": L.Bidirectional(lstm("l"), merge_mode="sum"), "none": L.Bidirectional(lstm("l"), merge_mode=None),
    "cells": L.RNN([L.LSTMCell(2), L.LSTMCell(3)]),
    "unequal": L.Bidirectional(lstm("l"), backward_layer=L.LSTM(
        H + 1, return_sequences=True, go_backwards=True, name="m")),
    "differing": L.Bidirectional(lstm("l"), backward_layer=lstm("m", activation="relu", go_backwards=True)),
    "swapped": L.Bidirectional(lstm("l", go_backwards=True), backward_layer=lstm("m")),
    "gru": L.GRU(H), "gru_both": L.Bidirectional(L.GRU(H)), "simple": L.SimpleRNN(H),
    "conv": L.ConvLSTM1D(1, 1),
}.items():
    i = L.Input((T, I, 1) if name == "conv" else (T, I))
    save("not_" + name, keras.Model(i, layer(i)), [])
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Files and outputs of Keras 3."""
    for name in ("keras", "torch"):
        if importlib.util.find_spec(name) is None:  # not imported: Keras would choose its backend here
            pytest.skip(f"{name} is not installed")
    folder = tmp_path_factory.mktemp("keras")
    sizes = map(str, (I, H, T, B))
    done = run_python(WRITER, str(folder), json.dumps(LAYERS), *sizes, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


KINDS = ("keras", "h5", "weights.h5")


def said_of(name):
    """Return what must be given with weights alone for one of `LAYERS`."""
    arguments = LAYERS.get(name, {})
    given = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False} | {
        key: value for key, value in arguments.items() if "activation" in key or key == "go_backwards"
    }
    full = {"hard_sigmoid": ("hard_sigmoid", {"alpha": 1 / 6}), "leaky_relu": ("leaky_relu", {"alpha": 0.2})}
    return {key: full.get(value, value) if isinstance(value, str) else value for key, value in given.items()}


def load(folder, file, kind, layer=None, **own):
    """Read a layer, and what Keras has made of x."""
    given = said_of(file) if kind == "weights.h5" else {}
    lstm = clstm.LSTM.from_keras(folder / f"{file}.{kind}", layer, batch_first=True, **given, **own)
    return lstm, np.load(folder / f"{file}.npz")


def assert_computes(lstm, saved, name):
    """Compare a layer with what Keras computed."""
    y, _ = lstm(saved["x"].astype(lstm.dtype))
    y = y[:, ::-1] if lstm.reverse else y
    y = y if saved[name].ndim == 3 else y[:, -1]
    assert lstm.dtype == saved[name].dtype
    assert_close(y, saved[name], "keras", name)


def assert_gives_back(lstm, saved, *names):
    """Compare `to_keras` with the weights that Keras has."""
    expected = [saved[f"{name}/{n}"] for name in names for n in range(99) if f"{name}/{n}" in saved.files]
    got = lstm.to_keras()
    assert len(got) == len(expected) > 0
    for array, wanted in zip(got, expected, strict=True):
        assert_same_bits(array, wanted)
        assert array.flags.owndata
        assert array.flags.c_contiguous


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_computes_what_keras_computes(folder, name, kind):
    lstm, saved = load(folder, name, kind)
    assert_computes(lstm, saved, name)
    assert_gives_back(lstm, saved, name)
    assert lstm.reverse is (name == "backwards")
    if kind != "weights.h5":
        dropout = (0.25, 0.5) if name == "dropout" else (0, 0)
        assert (lstm.input_dropout, lstm.recurrent_dropout) == dropout


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("LeakyReLU", ("leaky_relu", {"alpha": 0.15})),
        ("ELU", ("elu", {"alpha": 0.7})),
        ("ReLU", "relu"),
        ("ReLU_leaky", ("leaky_relu", {"alpha": 0.3})),
        ("ReLU_threshold", ("thresholded_relu", {"alpha": 0.1})),
    ],
)
def test_activation_that_is_a_layer_has_the_parameters_of_its_config(folder, name, activation, kind):
    lstm, saved = load(folder, name, kind)
    assert lstm.activations == ("sigmoid", activation, activation)
    assert_computes(lstm, saved, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bidirectional", "bidirectional_no_bias", "own"])
def test_both_directions_are_read(folder, name, kind):
    if name == "own" and kind == "weights.h5":
        (found,) = keras.find(folder / "own.weights.h5")
        assert found.arguments["bidirectional"]
    lstm, saved = load(folder, name, kind)
    assert lstm.bidirectional
    assert_computes(lstm, saved, name)
    assert_gives_back(lstm, saved, name)


@pytest.mark.parametrize("kind", KINDS)
def test_list_of_layers_is_read_as_a_stack(folder, kind):
    lstm, saved = load(folder, "stack", kind, ["first", "second", "third"])
    assert lstm.num_layers == 3
    assert_computes(lstm, saved, "third")
    assert_gives_back(lstm, saved, "first", "second", "third")
    both, saved = load(folder, "stack_both", kind, ["first", "second"])
    assert (both.num_layers, both.bidirectional) == (2, True)
    assert_computes(both, saved, "second")
    assert_gives_back(both, saved, "first", "second")
    one, saved = load(folder, "stack", kind, ["first"])
    assert_computes(one, saved, "first")


@pytest.mark.parametrize("kind", KINDS)
def test_layers_are_found_by_the_users_names(folder, kind):
    names = [found.name for found in keras.find(folder / f"sequential.{kind}")]
    assert sorted(names) == ["last", "lstm_2", "lstm_9"]
    saved = np.load(folder / "sequential.npz")
    for name in names:
        lstm, _ = load(folder, "sequential", kind, name)
        assert_gives_back(lstm, saved, name)
    with pytest.raises(FileFormatError, match=r"expected layer= to select one of its LSTMs: .*lstm_9"):
        load(folder, "sequential", kind)
    with pytest.raises(FileFormatError, match=r"layer: expected one of .*lstm_9.*, got 'lstm'"):
        load(folder, "sequential", kind, "lstm")


@pytest.mark.parametrize("kind", KINDS)
def test_layers_in_models_and_wrappers_are_found(folder, kind):
    found = {each.name: each for each in keras.find(folder / f"nested.{kind}")}
    assert found.keys() == {"flat", "cell", "deep", "both"}
    assert found["both"].arguments["bidirectional"]
    saved = np.load(folder / "nested.npz")
    for name in ("flat", "cell"):
        lstm, _ = load(folder, "nested", kind, name)
        assert_gives_back(lstm, saved, name)
    lstm, saved = load(folder, "distributed", kind)
    assert_gives_back(lstm, saved, "td")
    y = np.stack([lstm(each.astype(lstm.dtype))[0] for each in saved["x"].swapaxes(0, 1)], 1)
    assert_close(y, saved["td"], "keras")


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_one_name_are_told_apart_by_their_place(folder, kind):
    names = [found.name for found in keras.find(folder / f"twins.{kind}")]
    assert len(set(names)) == 2
    one, two = (load(folder, "twins", kind, name)[0] for name in names)
    assert not np.array_equal(one.flat_params, two.flat_params)


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_states_leave_nothing_that_disturbs(folder, kind):
    for name in ("held", "fed"):
        lstm, saved = load(folder, "trained", kind, name)
        assert_gives_back(lstm, saved, name)
    load(folder, "stateful", kind)


def test_two_gates_permuted_are_noticed(folder):
    lstm, saved = load(folder, "plain", "keras")
    for name in lstm.params:
        value = lstm.params[name]
        wrong = value.reshape(4, H, -1)[[0, 2, 1, 3]].reshape(value.shape).copy()
        right = value.copy()
        lstm.params[name] = wrong
        with pytest.raises(AssertionError, match="promised"):
            assert_computes(lstm, saved, "plain")
        lstm.params[name] = right
    assert_computes(lstm, saved, "plain")


# ------------------------------------------------------------------------------------------------- refusals

REFUSED = {
    "relu6": "activation: 'relu6' is not supported",
    "silu": "activation: 'silu' is not supported",
    "selu": "recurrent_activation: 'selu' is not supported",
    "exponential": "activation: 'exponential' is not supported",
    "gelu": "activation: 'gelu' is not supported",
    "softmax": "activation: 'Softmax' with {'axis': -1} is not supported",
    "prelu": "activation: 'PReLU' with .* is not supported",
    "max_value": "activation: 'ReLU' with .*max_value.* is not supported",
    "sum": "merge_mode: expected 'concat', the outputs side by side, got 'sum'",
    "none": "merge_mode: expected 'concat', the outputs side by side, got None",
    "cells": "a stack of cells in one layer, which is not supported",
    "unequal": "its two directions differ in hidden_size",
    "differing": "its two directions differ in activation",
    "swapped": "go_backwards: expected False of its layer and True of its backward_layer",
    **dict.fromkeys(("gru", "gru_both", "simple", "conv"), "expected an LSTM in it, got none"),
}


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize("name", REFUSED)
def test_layer_that_is_none_of_ours_is_refused_with_the_reason(folder, name, kind):
    with pytest.raises(FileFormatError, match=REFUSED[name]):
        clstm.LSTM.from_keras(folder / f"not_{name}.{kind}")


@pytest.mark.parametrize("name", ["gru", "gru_both", "simple", "conv"])
def test_weights_of_other_layers_are_no_lstm(folder, name):
    assert keras.find(folder / f"not_{name}.weights.h5") == []


def test_stack_of_layers_that_go_backwards_is_refused(folder):
    given = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": True}
    path = folder / "stack.weights.h5"
    assert clstm.LSTM.from_keras(path, "second", **given).reverse
    with pytest.raises(FileFormatError, match=r"'first': goes backwards .* read the layers one by one"):
        clstm.LSTM.from_keras(path, ["first", "second"], **given)


def test_stack_of_layers_that_do_not_fit_is_refused(folder):
    with pytest.raises(FileFormatError, match="expected 4 inputs, the outputs of the layer below, got 3"):
        clstm.LSTM.from_keras(folder / "stack.keras", ["second", "first"])
    for kind in KINDS[:2]:
        with pytest.raises(FileFormatError, match="expected the hidden_size of the layer below"):
            clstm.LSTM.from_keras(folder / f"sequential.{kind}", ["lstm_2", "last"])


@pytest.mark.parametrize("name", ["plain", "bidirectional"])
def test_weights_alone_say_what_must_be_given(folder, name):
    path = folder / f"{name}.weights.h5"
    (found,) = keras.find(path)
    assert found.arguments["hidden_size"] == H
    given = said_of(name)
    for left in given:
        with pytest.raises(FileFormatError, match=f": expected {left}=, since the file holds no config"):
            clstm.LSTM.from_keras(path, **{key: value for key, value in given.items() if key != left})
    with pytest.raises(
        FileFormatError, match="expected activation=, recurrent_activation=, go_backwards=, since"
    ):
        clstm.LSTM.from_keras(path)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"activation": "hard_sigmoid"},
            r"activation: expected \('hard_sigmoid', {'alpha': ...}\), for alpha",
        ),
        ({"recurrent_activation": "leaky_relu"}, r"recurrent_activation: expected \('leaky_relu'"),
        ({"activation": ("leaky_relu", {})}, r"activation: expected \('leaky_relu'"),
        ({"activation": "swish"}, r"activation: expected one of 'linear', 'sigmoid'"),
        ({"activation": 3}, r"activation: expected a pair"),
        ({"activation": ("tanh", {"alpha": 1.0})}, r"activation: expected parameters of tanh, none, got"),
        ({"activation": ("elu", {"alpha": "x"})}, r"activation\['alpha'\]: expected a number, got 'x'"),
        ({"activation": ("hard_sigmoid", 0.2)}, r"activation: expected"),
        ({"go_backwards": 1}, "go_backwards: expected True or False, got 1"),
        ({"layer": 3}, "layer: expected a name or a list of names, got 3"),
        ({"layer": []}, r"layer: expected a name or a list of names, got \[\]"),
        ({"layer": ["plain", 3]}, "layer: expected a name or a list of names"),
        ({"layer": ["plain", None]}, "layer: expected a name or a list of names"),
        (said_of("plain") | {"hidden_size": 3}, "hidden_size: expected one of rng, dtype"),
    ],
)
def test_argument_that_is_wrong_is_named(folder, given, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        clstm.LSTM.from_keras(folder / "plain.weights.h5", **given)


@pytest.mark.parametrize("path", [b"a.keras", None, 3])
def test_other_paths_are_a_type_error(path):
    with pytest.raises(TypeError, match=r"^path: expected str or path-like, got"):
        clstm.LSTM.from_keras(path)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_what_is_given_must_be_what_the_config_says(folder, kind):
    path = folder / f"elu.{kind}"
    same = {"activation": ("elu", {"alpha": 1}), "recurrent_activation": "sigmoid", "go_backwards": False}
    clstm.LSTM.from_keras(path, **same)
    for name, value in {"activation": "tanh", "recurrent_activation": "relu", "go_backwards": True}.items():
        with pytest.raises(FileFormatError, match=f"{name}: the file says .*, got "):
            clstm.LSTM.from_keras(path, **same | {name: value})


def test_both_directions_cannot_go_backwards(folder):
    given = said_of("plain") | {"go_backwards": True}
    with pytest.raises(FileFormatError, match="go_backwards: expected False, that of the first"):
        clstm.LSTM.from_keras(folder / "bidirectional.weights.h5", **given)


def test_own_arguments_go_to_the_layer(folder):
    lstm = clstm.LSTM.from_keras(
        folder / "dropout.keras", dtype="float64", input_dropout=0.0, backend="numpy", rng=0
    )
    assert (lstm.dtype, lstm.input_dropout, lstm.recurrent_dropout) == (np.float64, 0.0, 0.5)


# ------------------------------------------------------------------------- older files, built in their layout

FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "hard_sigmoid": lambda z: np.clip(0.2 * z + 0.5, 0, 1),
}


def run_lstm(x, W, U, b, activation="tanh", recurrent_activation="sigmoid"):
    """Return h of every step of x (B, T, I), from the arrays of each gate by its letter, used as x @ W."""
    s, a = FUNCTIONS[recurrent_activation], FUNCTIONS[activation]
    h = c = np.zeros((len(x), len(U["i"])))
    y = []
    for t in range(x.shape[1]):
        z = {gate: x[:, t] @ W[gate] + h @ U[gate] + b[gate] for gate in "ifco"}
        c = s(z["f"]) * c + s(z["i"]) * a(z["c"])
        h = s(z["o"]) * a(c)
        y.append(h)
    return np.stack(y, 1)


def draw_gates(seed=0, inputs=I):
    """Draw W, U and b of each gate."""
    rng = np.random.default_rng(seed)
    shapes = {"W": (inputs, H), "U": (H, H), "b": (H,)}
    return {
        letter: {gate: rng.uniform(-1, 1, shape).astype("f4") for gate in "ifco"}
        for letter, shape in shapes.items()
    }


def joined(gates):
    """Return W, U and b of all gates in the order that Keras has since version 2."""
    return [np.concatenate([gates[letter][gate] for gate in "ifco"], -1) for letter in "WUb"]


def cudnn(gates, seed=5):
    """Return the weights of a CuDNNLSTM that computes the same.

    Keras converts back gate by gate: the input kernel by k.T.reshape(k.shape, order="F"), the recurrent one
    by its transpose, and the two halves of the bias are added.
    """
    half = np.random.default_rng(seed).integers(-4, 4, 4 * H).astype("f4") / 4
    kernels = [gates["W"][gate].reshape(-1, order="F").reshape(gates["W"][gate].shape) for gate in "ifco"]
    for gate, kernel in zip("ifco", kernels, strict=True):
        assert_same_bits(kernel.T.reshape(kernel.shape, order="F"), gates["W"][gate])
    bias = joined(gates)[2]
    return [
        np.concatenate(kernels, 1),
        np.concatenate([gates["U"][gate].T for gate in "ifco"], 1),
        np.concatenate([bias - half, half]),
    ]


def write_by_name(path, groups, config=None, version="2.2.4"):
    """Write an .h5 file of Keras 1 or 2: groups of arrays by layer and name, fixed-length names."""
    with h5py.File(path, "w") as file:
        root = file
        if config is not None:
            file.attrs["keras_version"] = np.bytes_(version)
            file.attrs["model_config"] = json.dumps(config)
            root = file.create_group("model_weights")
        root.attrs["layer_names"] = np.array([name.encode() for name in groups], "S")
        root.attrs["backend"] = np.bytes_("tensorflow")
        if version != "1":
            root.attrs["keras_version"] = np.bytes_(version)
        for layer, arrays in groups.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = np.array([name.encode() for name in arrays], "S")
            for name, array in arrays.items():
                group[name] = array
    return path


def named(prefix, weights, suffix=":0"):
    return {f"{prefix}/{name}{suffix}": w for name, w in zip(keras._WEIGHTS, weights, strict=False)}


def entry(name, kind="LSTM", **more):
    """Return the config of a layer of Keras 2."""
    config = {"name": name, "trainable": True, "return_sequences": True, "units": H}
    if kind == "LSTM":
        config |= {"activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True,
                   "go_backwards": False, "implementation": 1, "dropout": 0.0, "recurrent_dropout": 0.0,
                   "unit_forget_bias": True, "kernel_regularizer": None}  # fmt: skip
    return {"class_name": kind, "config": config | more}


def entry_1(name, **more):
    """Return the config of an LSTM of Keras 1."""
    config = {
        "name": name, "trainable": True, "return_sequences": True, "output_dim": H, "activation": "tanh",
        "inner_activation": "hard_sigmoid", "init": "glorot_uniform", "inner_init": "orthogonal",
        "forget_bias_init": "one", "W_regularizer": None, "U_regularizer": None, "b_regularizer": None,
        "dropout_W": 0.1, "dropout_U": 0.2, "consume_less": "cpu", "go_backwards": False, "stateful": False,
        "unroll": False, "input_dim": I, "input_length": None,
    }  # fmt: skip
    return {"class_name": "LSTM", "config": config | more}


def sequential(*entries):
    return {"class_name": "Sequential", "config": list(entries)}


def both(name, inner, **more):
    return {"class_name": "Bidirectional",
            "config": {"name": name, "merge_mode": "concat", "layer": inner} | more}  # fmt: skip


def names_of_keras_1(layer, gates):
    """Return the twelve weights of Keras 1 in its order, i, c, f, o."""
    return {f"{layer}_{letter}_{gate}": gates[letter][gate] for gate in "icfo" for letter in "WUb"}


def x_of(inputs=I):
    return np.random.default_rng(9).standard_normal((B, T, inputs)).astype("f4")


def assert_is(lstm, x, *expected):
    y, _ = lstm(x)
    assert lstm.dtype == np.float32
    assert_close(y, np.concatenate(expected, -1), "keras")


HARD = {"recurrent_activation": "hard_sigmoid"}
HARD_GIVEN = {
    "activation": "tanh", "recurrent_activation": ("hard_sigmoid", {"alpha": 0.2}), "go_backwards": False,
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["", ":0"])
@pytest.mark.parametrize("whole", [True, False])
def test_file_of_keras_1_is_read_gate_by_gate(tmp_path, whole, suffix):
    gates, x = draw_gates(), x_of()
    arrays = {f"{name}{suffix}": value for name, value in names_of_keras_1("lstm_1", gates).items()}
    groups = {"lstm_1": arrays, "dense_1": {"dense_1_W": np.ones((H, 1)), "dense_1_b": np.ones(1)}}
    config = sequential(entry_1("lstm_1"), entry("dense_1", "Dense")) if whole else None
    path = write_by_name(tmp_path / "a.h5", groups, config, "1")
    lstm = clstm.LSTM.from_keras(path, batch_first=True, **({} if whole else HARD_GIVEN))
    assert_is(lstm, x, run_lstm(x, **gates, **HARD))
    for got, wanted in zip(lstm.to_keras(), joined(gates), strict=True):
        assert_same_bits(got, wanted)
    if whole:
        assert (lstm.input_dropout, lstm.recurrent_dropout) == (0.1, 0.2)


def test_weights_of_keras_1_that_lie_together_are_read(tmp_path):
    gates, x = draw_gates(), x_of()
    arrays = dict(zip(("lstm_1_W", "lstm_1_U", "lstm_1_b"), joined(gates), strict=True))
    path = write_by_name(tmp_path / "a.h5", {"lstm_1": arrays}, sequential(entry_1("lstm_1")), "1.2.2")
    assert_is(clstm.LSTM.from_keras(path, batch_first=True), x, run_lstm(x, **gates, **HARD))


@pytest.mark.parametrize("version", ["2.0.9", "2.2.4", "2.4.0", "2.15.0"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("form", ["{}", "{}/lstm_cell", "{}/lstm_cell_3", "{}_1", "model/{}/lstm_cell"])
def test_file_of_keras_2_is_read(tmp_path, version, whole, form):
    gates, x = draw_gates(), x_of()
    groups = {"enc": named(form.format("enc"), joined(gates)), "input_1": {}}
    path = write_by_name(tmp_path / "a.h5", groups, sequential(entry("enc")) if whole else None, version)
    lstm = clstm.LSTM.from_keras(path, "enc", batch_first=True, **({} if whole else HARD_GIVEN))
    assert_is(lstm, x, run_lstm(x, **gates, **HARD))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("form", ["{}_l", "bi/{}_l", "bi/{}_l/lstm_cell", "bi/{}_l/lstm_cell_1"])
def test_both_directions_of_keras_2_are_read(tmp_path, whole, form):
    ahead, back, x = draw_gates(1), draw_gates(2), x_of()
    arrays = named(form.format("forward"), joined(ahead)) | named(form.format("backward"), joined(back))
    config = sequential(both("bi", entry("l"))) if whole else None
    path = write_by_name(tmp_path / "a.h5", {"bi": arrays}, config)
    lstm = clstm.LSTM.from_keras(path, "bi", batch_first=True, **({} if whole else HARD_GIVEN))
    assert_is(lstm, x, run_lstm(x, **ahead, **HARD), run_lstm(x[:, ::-1], **back, **HARD)[:, ::-1])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", ["forward_l", "backward_", "l"])
def test_name_of_a_wrapper_does_not_tell_directions(tmp_path, whole, name):
    ahead, back, x = draw_gates(1), draw_gates(2), x_of()
    arrays = named(f"{name}/backward_l", joined(back)) | named(f"{name}/forward_l", joined(ahead))
    config = sequential(both(name, entry("l"))) if whole else None
    path = write_by_name(tmp_path / "a.h5", {name: arrays}, config)
    lstm = clstm.LSTM.from_keras(path, name, batch_first=True, **({} if whole else HARD_GIVEN))
    assert_is(lstm, x, run_lstm(x, **ahead, **HARD), run_lstm(x[:, ::-1], **back, **HARD)[:, ::-1])


def test_both_directions_of_keras_1_are_read(tmp_path):
    ahead, back, x = draw_gates(1), draw_gates(2), x_of()
    arrays = names_of_keras_1("forward_l", ahead) | names_of_keras_1("backward_l", back)
    for config, given in ((sequential(both("bi", entry_1("l"))), {}), (None, HARD_GIVEN)):
        path = write_by_name(tmp_path / "a.h5", {"bi": arrays}, config, "1")
        lstm = clstm.LSTM.from_keras(path, "bi", batch_first=True, **given)
        assert_is(lstm, x, run_lstm(x, **ahead, **HARD), run_lstm(x[:, ::-1], **back, **HARD)[:, ::-1])


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("inputs", [1, 3, 4, 7])
def test_cudnn_lstm_is_converted(tmp_path, whole, inputs):
    gates, x = draw_gates(3, inputs), x_of(inputs)
    config = sequential(entry("c", "CuDNNLSTM")) if whole else None
    path = write_by_name(tmp_path / "a.h5", {"c": named("c", cudnn(gates))}, config)
    lstm = clstm.LSTM.from_keras(path, batch_first=True)
    assert_is(lstm, x, run_lstm(x, **gates))
    assert lstm.to_keras()[0].shape == (inputs, 4 * H)


@pytest.mark.parametrize("whole", [True, False])
def test_both_directions_of_cudnn_lstm_are_converted(tmp_path, whole):
    ahead, back, x = draw_gates(1), draw_gates(2), x_of()
    arrays = named("bi/forward_c", cudnn(ahead)) | named("bi/backward_c", cudnn(back))
    config = sequential(both("bi", entry("c", "CuDNNLSTM"))) if whole else None
    path = write_by_name(tmp_path / "a.h5", {"bi": arrays}, config)
    lstm = clstm.LSTM.from_keras(path, batch_first=True)
    assert_is(lstm, x, run_lstm(x, **ahead), run_lstm(x[:, ::-1], **back)[:, ::-1])


def test_cudnn_lstm_has_one_activation_and_may_go_backwards(tmp_path):
    path = write_by_name(tmp_path / "a.h5", {"c": named("c", cudnn(draw_gates()))})
    given = {"activation": "tanh", "recurrent_activation": "sigmoid"}
    assert not clstm.LSTM.from_keras(path, **given).reverse
    assert clstm.LSTM.from_keras(path, go_backwards=True).reverse
    for name in given:
        with pytest.raises(FileFormatError, match=f": {name}: the file says '{given[name]}', got 'relu'"):
            clstm.LSTM.from_keras(path, **{name: "relu"})


def test_biases_of_a_cudnn_lstm_whose_sum_is_infinite_are_refused(tmp_path):
    weights = [*joined(draw_gates())[:2], np.full(8 * H, 3e38, "f4")]
    path = write_by_name(tmp_path / "a.h5", {"c": named("c", weights)})
    with pytest.raises(FileFormatError, match="'c': expected biases whose sums are finite"):
        clstm.LSTM.from_keras(path)


@pytest.mark.parametrize("kind", ["LSTM", "CuDNNLSTM"])
def test_bias_decides_whether_weights_are_those_of_cudnn(tmp_path, kind):
    weights = joined(draw_gates()) if kind == "CuDNNLSTM" else cudnn(draw_gates())
    path = write_by_name(tmp_path / "a.h5", {"c": named("c", weights)}, sequential(entry("c", kind)))
    with pytest.raises(FileFormatError, match=rf"'c': bias: got one of shape .* for {kind}"):
        clstm.LSTM.from_keras(path)


@pytest.mark.parametrize(
    ("version", "alpha"), [("1", 0.2), ("2.2.4", 0.2), ("2.15.0", 0.2), ("3.0.0", 1 / 6), ("10.0", 1 / 6)]
)
def test_version_decides_what_hard_sigmoid_is(tmp_path, version, alpha):
    arrays = named("l", joined(draw_gates()))
    path = write_by_name(tmp_path / "a.h5", {"l": arrays}, sequential(entry("l")), version)
    gates = clstm.LSTM.from_keras(path).activations[0]
    assert gates == ("hard_sigmoid" if alpha == 0.2 else ("hard_sigmoid", {"alpha": alpha, "beta": 0.5}))


@pytest.mark.parametrize("version", ["", "x", "-3"])
def test_hard_sigmoid_of_an_unknown_version_is_refused(tmp_path, version):
    arrays = named("l", joined(draw_gates()))
    path = write_by_name(tmp_path / "a.h5", {"l": arrays}, sequential(entry("l")), version)
    with pytest.raises(FileFormatError, match="recurrent_activation: hard_sigmoid, whose parameters"):
        clstm.LSTM.from_keras(path)


def test_layers_may_have_slashes_in_their_names(tmp_path):
    gates, x = draw_gates(), x_of()
    groups = {"enc/one": named("enc/one", joined(gates)), "enc/two": named("enc/two", joined(gates))}
    for config, given in ((sequential(entry("enc/one"), entry("enc/two")), {}), (None, HARD_GIVEN)):
        path = write_by_name(tmp_path / "a.h5", groups, config)
        assert sorted(found.name for found in keras.find(path)) == ["enc/one", "enc/two"]
        lstm = clstm.LSTM.from_keras(path, "enc/two", batch_first=True, **given)
        assert_is(lstm, x, run_lstm(x, **gates, **HARD))


def test_layers_in_a_model_in_an_older_file_are_found_by_their_names(tmp_path):
    one, two = draw_gates(1), draw_gates(2)
    dense = {"sub/dense/kernel:0": np.ones((2, 2)), "sub/dense/bias:0": np.ones(2)}
    arrays = named("sub/one", joined(one)) | dense | named("sub/two", joined(two))
    inner = sequential(entry("one"), entry("dense", "Dense"), entry("two"))
    inner["config"] = {"name": "sub", "layers": inner["config"]}
    for config, given in ((sequential(inner), {}), (None, HARD_GIVEN)):
        path = write_by_name(tmp_path / "a.h5", {"sub": arrays}, config)
        for name, gates in (("one", one), ("two", two)):
            lstm = clstm.LSTM.from_keras(path, name, **given)
            assert_same_bits(lstm.to_keras()[0], joined(gates)[0])


def test_layer_in_a_wrapper_in_an_older_file_is_found(tmp_path):
    wrapper = {"class_name": "TimeDistributed", "config": {"name": "td", "layer": entry("l")}}
    arrays = named("td", joined(draw_gates()))
    path = write_by_name(tmp_path / "a.h5", {"td": arrays}, sequential(wrapper))
    assert_same_bits(clstm.LSTM.from_keras(path, "l").to_keras()[0], joined(draw_gates())[0])


# ---------------------------------------------------------------------------- configs that contradict weights


def nothing(_):
    """Change nothing in a config or a file."""


def rewrite(path, source, change=nothing, weights=nothing, **members):
    """Copy a .keras file with a changed config, weights and members; None leaves a member out."""
    with zipfile.ZipFile(source) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(content["config.json"])
    change(config)
    content["config.json"] = json.dumps(config).encode()
    inner = io.BytesIO(content["model.weights.h5"])
    with h5py.File(inner, "r+") as file:
        weights(file)
    content["model.weights.h5"] = inner.getvalue()
    content |= {name.replace("_", "."): value for name, value in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in content.items():
            if value is not None:
                archive.writestr(name, value)
    return path


def set_config(**values):
    """Return a function that changes the config of the first layer that is an LSTM."""

    def change(config):
        (layer,) = (each for each in config["config"]["layers"] if each["class_name"] == "LSTM")
        for name, value in values.items():
            if value is ...:
                del layer["config"][name]
            else:
                layer["config"][name] = value

    return change


def put(path, value):
    """Return a function that replaces or adds a dataset."""

    def change(file):
        if path in file:
            del file[path]
        file[path] = value

    return change


def drop(path):
    return lambda file: file.__delitem__(path)


CELL = "layers/lstm/cell/vars"
CONTRADICTIONS = {
    "units": ({"units": H + 1}, None, "hidden_size: the config says 5, the weights 4"),
    "no bias": ({"use_bias": False}, None, "bias: the config says False, the weights True"),
    "bias": ({}, drop(f"{CELL}/2"), "bias: the config says True, the weights False"),
    "units that are none": ({"units": 4.0}, None, "units: expected an integer, got 4.0"),
    "no units": ({"units": ...}, None, "config: expected units, which is missing"),
    "no activation": ({"activation": ...}, None, "config: expected activation, which is missing"),
    "no recurrent activation": ({"recurrent_activation": ...}, None, "expected recurrent_activation, which"),
    "no direction": ({"go_backwards": ...}, None, "config: expected go_backwards, which is missing"),
    "option": ({"peepholes": True}, None, "config: peepholes is an option that is not known"),
    "dropout": ({"dropout": 1.5}, None, r"dropout: expected a number in \[0, 1\), got 1.5"),
    "direction": ({"go_backwards": 1}, None, "go_backwards: expected True or False, got 1"),
    "lambda": (
        {"activation": {"value": ["4wEA", None, None]}},
        None,
        "activation: {'value': .* not supported",
    ),
    "own function": (
        {"activation": {"module": "builtins", "class_name": "function", "config": "mine"}},
        None,
        "activation: 'function' with {} is not supported",
    ),
    "own class": (
        {"activation": {"module": "mine", "class_name": "ReLU", "config": {}, "registered_name": "x>ReLU"}},
        None,
        "activation: 'ReLU' with {} is not supported",
    ),
    "parameter": (
        {"activation": {"module": "keras.layers", "class_name": "ELU", "config": {"alpha": "x"}}},
        None,
        "ELU.alpha: expected a number, got 'x'",
    ),
    "list": ({"activation": ["tanh"]}, None, r"activation: \['tanh'\] is not supported"),
    "name": ({"name": "other"}, None, "'layers/lstm' is of a layer 'plain'"),
    "kernel": (
        {},
        put(f"{CELL}/0", np.ones((3, 15), "f4")),
        r"kernel: expected shape \(I, 16\), got \(3, 15\)",
    ),
    "no input": ({}, put(f"{CELL}/0", np.ones((0, 16), "f4")), "lie in one piece"),
    "recurrent kernel": ({}, put(f"{CELL}/1", np.ones((4, 15), "f4")), "recurrent_kernel: expected shape"),
    "axes": ({}, put(f"{CELL}/1", np.ones((4, 4, 4), "f4")), "recurrent_kernel: expected shape"),
    "short bias": ({}, put(f"{CELL}/2", np.ones(15, "f4")), r"bias: expected shape \(16,\), got \(15,\)"),
    "long bias": ({}, put(f"{CELL}/2", np.ones(32, "f4")), r"bias: got one of shape \(32,\) for LSTM"),
    "integers": (
        {},
        put(f"{CELL}/0", np.ones((3, 16), "i4")),
        "expected float16, float32 or float64, got int32",
    ),
    "text": ({}, put(f"{CELL}/0", "text"), "expected float16, float32 or float64, got object"),
    "complex": ({}, put(f"{CELL}/0", np.ones((3, 16), "c8")), "expected float16, float32 or float64"),
    "weight missing": ({}, drop(f"{CELL}/1"), r"expected cell/vars/0, 1 and, with a bias, 2, got 0, 2"),
    "weights missing": ({}, drop("layers/lstm"), "expected its weights in 'layers/lstm', got none"),
    "weight more": ({}, put(f"{CELL}/3", np.ones(4, "f4")), "with a bias, 2, got 0, 1, 2, 3"),
    "weight beside": ({}, put("layers/lstm/vars/0", np.ones(4, "f4")), "no other weights, got vars/0"),
    "weight of an activation": (
        {},
        put("layers/lstm/activation/vars/0", np.ones(4)),
        "no other weights, got act",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_config_and_weights_that_do_not_fit_are_refused(folder, tmp_path, name):
    values, weights, message = CONTRADICTIONS[name]
    path = rewrite(tmp_path / "a.keras", folder / "plain.keras", set_config(**values), weights or nothing)
    with pytest.raises(FileFormatError, match=message) as caught:
        clstm.LSTM.from_keras(path, "other" if name == "name" else None)
    assert str(caught.value).startswith(f"{path}: ")


def test_what_has_no_effect_is_passed_over(folder, tmp_path):
    more = set_config(time_major=False, implementation=2, input_dim=3, seed=None, stateful=True)
    generator = put("layers/lstm/cell/seed_generator/vars/0", np.ones(2, "u4"))
    path = rewrite(tmp_path / "a.keras", folder / "plain.keras", more, generator)
    assert_computes(clstm.LSTM.from_keras(path, batch_first=True), np.load(folder / "plain.npz"), "plain")


@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f8", "<f2", ">f2"])
def test_numbers_of_any_kind_are_read(folder, tmp_path, dtype):
    def change(file):
        for number in "012":
            value = file[f"{CELL}/{number}"][...].astype(dtype)
            put(f"{CELL}/{number}", value)(file)

    saved = np.load(folder / "plain.npz")
    lstm = clstm.LSTM.from_keras(rewrite(tmp_path / "a.keras", folder / "plain.keras", weights=change))
    assert lstm.dtype == ("float64" if dtype[1:] == "f8" else "float32")
    assert_same_bits(lstm.to_keras()[0], saved["plain/0"].astype(dtype).astype(lstm.dtype))


def test_classes_that_are_not_keras_own_are_no_lstm(folder, tmp_path):
    def change(config):
        for layer in config["config"]["layers"]:
            layer.update(module="mine", registered_name="mine>LSTM")

    path = rewrite(tmp_path / "a.keras", folder / "plain.keras", change)
    with pytest.raises(FileFormatError, match="expected activation=, recurrent_activation=, go_backwards="):
        clstm.LSTM.from_keras(path)
    assert_computes(
        clstm.LSTM.from_keras(path, batch_first=True, **said_of("plain")),
        np.load(folder / "plain.npz"),
        "plain",
    )


def test_cell_of_another_name_is_no_lstm(folder, tmp_path):
    path = tmp_path / "a.weights.h5"
    path.write_bytes((folder / "plain.weights.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file[CELL].attrs["name"] = "my_cell"
    with pytest.raises(FileFormatError, match="expected an LSTMCell, got a cell named 'my_cell'"):
        clstm.LSTM.from_keras(path, **said_of("plain"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"l/kernel:0": 0, "l/recurrent_kernel:0": 1, "l/bias:0": 2, "l/more:0": 2},
            r"expected weights of 1 dir",
        ),
        (
            {"l/kernel:0": 0, "l/bias:0": 2},
            "expected weights kernel, recurrent_kernel, bias, got bias, kernel",
        ),
        ({"l_W_i": 0, "l_U_i": 1}, "expected weights W_i, W_f"),
        ({"l/kernel:0": 0, "l/kernel": 0, "l/recurrent_kernel:0": 1}, "expected each weight once"),
        (
            {"param_0": 0, "param_1": 1, "param_2": 2},
            r"expected weights of 1 direction\(s\), got param_0, param",
        ),
        ({}, r"expected weights of 1 direction\(s\), got none"),
    ],
)
def test_weights_by_name_that_are_not_those_of_an_lstm_are_refused(tmp_path, arrays, message):
    weights = joined(draw_gates())
    groups = {"l": {name: weights[n] for name, n in arrays.items()}}
    path = write_by_name(tmp_path / "a.h5", groups, sequential(entry("l")))
    with pytest.raises(FileFormatError, match=message):
        clstm.LSTM.from_keras(path)


def test_gates_of_different_shapes_are_refused(tmp_path):
    gates = draw_gates()
    gates["W"]["o"] = gates["W"]["o"][:2]
    path = write_by_name(
        tmp_path / "a.h5", {"l": names_of_keras_1("l", gates)}, sequential(entry_1("l")), "1"
    )
    with pytest.raises(FileFormatError, match="expected arrays of one shape for the four gates"):
        clstm.LSTM.from_keras(path)


# -------------------------------------------------------------------------------------------------- to Keras

UNKNOWN_TO_KERAS = {
    "proj_size": 2,
    "peepholes": True,
    "coupled": True,
    "gate_clip": 1.0,
    "cell_clip": 1.0,
    "layer_norm": True,
    "zoneout": (0.1, 0.0),
}


@pytest.mark.parametrize("name", UNKNOWN_TO_KERAS)
def test_option_that_keras_has_not_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^{name}: expected .*, for Keras's LSTM has nothing else, got"):
        build_lstm(I, H, **{name: UNKNOWN_TO_KERAS[name]}).to_keras()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"activations": ("sigmoid", "tanh", "relu")},
            "activations: expected the same for candidate and cell",
        ),
        ({"activations": ("affine", "tanh", "tanh")}, "activations: expected functions that Keras has"),
        (
            {"activations": ("sigmoid", "scaled_tanh", "scaled_tanh")},
            "activations: expected functions that Ker",
        ),
        *(
            (
                {"activations": (("hard_sigmoid", values), "tanh", "tanh")},
                "activations: expected functions that Ker",
            )
            for values in ({"alpha": 0.3}, {"beta": 0.4}, {"alpha": 1 / 6, "beta": 0.4})
        ),
        ({"num_layers": 2, "reverse": True}, "reverse: expected False for several layers"),
    ],
)
def test_layer_that_keras_cannot_have_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        build_lstm(I, H, **arguments).to_keras()


@pytest.mark.parametrize("alpha", [0.2, 1 / 6, float(np.float32(1 / 6))])
def test_hard_sigmoids_of_keras_can_go_there(alpha):
    lstm = build_lstm(I, H, activations=(("hard_sigmoid", {"alpha": alpha}), "tanh", "tanh"))
    assert len(lstm.to_keras()) == 3


def test_weights_for_keras_are_blocks_of_the_parameters(dtype):
    lstm = build_lstm(I, H, 2, bidirectional=True, dtype=dtype)
    weights = lstm.to_keras()
    assert [w.shape for w in weights[:6]] == [(I, 4 * H), (H, 4 * H), (4 * H,)] * 2
    assert [w.shape for w in weights[6:]] == [(2 * H, 4 * H), (H, 4 * H), (4 * H,)] * 2
    assert_same_bits(weights[3], lstm.params["weight_ih_l0_reverse"].T)
    weights[0][...] = 0
    assert lstm.params["weight_ih_l0"].any()
    assert len(build_lstm(I, H, bias=False, reverse=True, input_dropout=0.5).to_keras()) == 2


# ---------------------------------------------------------------------------------------------- hostile files


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Return a `.weights.h5` file of one LSTM, and a `.keras` file of it, that need no Keras to be made."""
    folder = tmp_path_factory.mktemp("plain")
    with h5py.File(folder / "plain.weights.h5", "w") as file:
        for number, weight in enumerate(joined(draw_gates())):
            file[f"{CELL}/{number}"] = weight
        file[CELL].attrs["name"] = "lstm_cell"
        file.create_group("layers/lstm/vars").attrs["name"] = "l"
    config = sequential(entry("l", recurrent_activation="sigmoid"))
    config["config"] = {"name": "s", "layers": config["config"]}
    with zipfile.ZipFile(folder / "plain.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", json.dumps(config))
        archive.write(folder / "plain.weights.h5", "model.weights.h5")
    return folder


def elsewhere(file):
    """Return the path of a file beside, which whoever opens it waits for."""
    return os.path.join(os.path.dirname(file.filename), "elsewhere")


def link(place, make):
    """Return a function that puts a link in the place of a member."""

    def change(file):
        file.move(place, "moved")
        file[place] = make(file)

    return change


def instead(make):
    """Return a function that puts another dataset in the place of the kernel."""

    def change(file):
        del file[f"{CELL}/0"]
        make(file, f"{CELL}/0")

    return change


def outside(file, name):
    file.create_dataset(name, (I, 4 * H), "f4", external=[(elsewhere(file), 0, 4 * I * 4 * H)])


def virtual(file, name):
    layout = h5py.VirtualLayout((I, 4 * H), "f4")
    layout[...] = h5py.VirtualSource(elsewhere(file), "x", (I, 4 * H), "f4")
    file.create_virtual_dataset(name, layout)


def references(file, name):
    file.create_dataset(name, (I, 4 * H), h5py.ref_dtype)[0] = file["layers"].ref


def circles(file):
    file["layers/lstm/up"] = file["/"]
    file["layers/up"] = file["layers"]


def many_groups(file):
    for number in range(20_000):
        file.create_group(f"g{number}")


def nested_groups(file):
    group = file
    for _ in range(6000):
        group = group.create_group("g")


def many_layers(file):
    for number in range(1100):
        file[f"more_{number}"] = file["layers/lstm"]
        file.create_group(f"other_{number}")["cell"] = file["layers/lstm/cell"]


SPOILT = {
    **{
        f"{kind} at {place}": (link(place, make), "expected no link, got|expected an LSTM in it, got none")
        for place in ("layers", "layers/lstm", "layers/lstm/cell", CELL, f"{CELL}/0")
        for kind, make in {
            "soft link": lambda file: h5py.SoftLink("/moved"),
            "external link": lambda file: h5py.ExternalLink(elsewhere(file), "/"),
        }.items()
    },
    "external storage": (instead(outside), "expected numbers that lie in one piece"),
    "virtual dataset": (instead(virtual), "expected numbers that lie in one piece"),
    "4 GB that are not there": (
        instead(lambda file, name: file.create_dataset(name, (1 << 26, 16), "f4")),
        "expected numbers that lie in one piece",
    ),
    "4 GB in chunks": (
        instead(lambda file, name: file.create_dataset(name, (1 << 26, 16), "f4", chunks=(1 << 16, 16))),
        "expected numbers that lie in one piece",
    ),
    "32 MB that are compressed": (
        instead(
            lambda file, name: file.create_dataset(name, data=np.ones((1 << 19, 16)), compression="gzip")
        ),
        "expected numbers that lie in one piece",
    ),
    "circles": (circles, None),
    "references": (instead(references), "expected float16, float32 or float64, got object"),
    "many groups": (many_groups, "expected at most 16384 groups and arrays"),
    "nested groups": (nested_groups, "expected groups that are nested 64 times at most"),
    "many layers": (many_layers, "expected at most 1000 LSTMs, got more"),
    "long name": (lambda file: file[CELL].attrs.__setitem__("name", "x" * 60_000), "a cell named 'xxx"),
    "longer name": (
        lambda file: file[CELL].attrs.__setitem__("name", "x" * (3 << 20)),
        "expected one text of",
    ),
    "names": (lambda file: file[CELL].attrs.__setitem__("name", ["x", "y"]), "expected one text of at most"),
    "number": (lambda file: file[CELL].attrs.__setitem__("name", 3), "expected one text of at most"),
    "no UTF-8": (lambda file: file[CELL].attrs.__setitem__("name", np.bytes_(b"\xff")), "utf-8"),
}


@pytest.fixture(scope="module")
def spoilt(plain, tmp_path_factory):
    """Return a folder with a file for each of `SPOILT` and one that blocks whoever opens it."""
    folder = tmp_path_factory.mktemp("spoilt")
    os.mkfifo(folder / "elsewhere")
    for number, (change, _) in enumerate(SPOILT.values()):
        path = folder / f"{number}.h5"
        path.write_bytes((plain / "plain.weights.h5").read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
    return folder


READER = """
import resource, sys, time
import clstm, h5py
from clstm.interop import keras

def used():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

given = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False}
keras.find(sys.argv[1])
for path in sys.argv[2:]:
    before, start = used(), time.perf_counter()
    try:
        clstm.LSTM.from_keras(path, "l", **(given if path.endswith("h5") else {}))
        end = "read"
    except clstm.FileFormatError as error:
        end = str(error).replace("\\n", " ")
    print(f"{time.perf_counter() - start:.3f}", f"{used() - before:.0f}", end)
"""


def read_apart(good, paths):
    """Read files in one process, which must survive, quickly and without much memory; return what it says."""
    done = run_python(READER, str(good), *map(str, paths), timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    for path, line in zip(paths, lines, strict=True):
        seconds, megabytes, _ = line.split(" ", 2)
        assert float(seconds) < 5, line
        assert float(megabytes) < 64 + os.path.getsize(path) / 1e6, line
    return [line.split(" ", 2)[2] for line in lines]


def test_hostile_hdf5_is_refused_and_no_other_file_is_opened(plain, spoilt):
    paths = [spoilt / f"{number}.h5" for number in range(len(SPOILT))]
    for (name, (_, message)), said in zip(
        SPOILT.items(), read_apart(plain / "plain.keras", paths), strict=True
    ):
        if message is None:
            assert said == "read", name
        else:
            assert re.search(f"h5: .*({message})", said), (name, said)


def nested_config(depth):
    config = sequential(entry("l"))
    for _ in range(depth):
        config = {"class_name": "Sequential", "config": {"name": "s", "layers": [config]}}
    return json.dumps(config).encode()


MEMBERS = {
    "no metadata": ({"metadata_json": None}, "expected a member 'metadata.json'"),
    "no config": ({"config_json": None}, "expected a member 'config.json'"),
    "no weights": ({"model_weights_h5": None}, "expected a member 'model.weights.h5'"),
    "no JSON": ({"config_json": b"{"}, "Expecting property name"),
    "no UTF-8": ({"config_json": b"\xff{}"}, "utf-8"),
    "no object": ({"config_json": b"[]"}, r"config.json: expected dict, got \[\]"),
    "metadata": ({"metadata_json": b"3"}, "metadata.json: expected dict, got 3"),
    "a key twice": ({"config_json": b'{"config": {}, "config": {}}'}, "expected each name once"),
    "NaN": ({"config_json": b'{"config": NaN}'}, "expected numbers of JSON, got NaN"),
    "deep JSON": ({"config_json": b"[" * 100_000}, "nested less deeply"),
    "deep models": ({"config_json": nested_config(100)}, "expected at most 16 models in each other"),
    "long config": ({"config_json": b" " * (2 << 20)}, "config.json: expected at most 1048576 bytes"),
    "many objects": ({"config_json": b'{"config": [' + b"{}," * 340_000 + b"0]}"}, "."),
    "many layers": (
        {"config_json": b'{"config": [' + b'{"class_name":"LSTM","config":{}},' * 30_000 + b"0]}"},
        ".",
    ),
    "empty": ({"config_json": b"{}"}, "expected an LSTM in it|holds no config"),
    "odd entries": ({"config_json": b'{"config": {"layers": [3, null, [], {"config": 3}]}}'}, "."),
    "no HDF5": ({"model_weights_h5": b"x" * 1000}, "neither a .keras archive nor an HDF5 file"),
    "archive": ({"model_weights_h5": b"PK\3\4"}, "neither a .keras archive nor an HDF5 file"),
    "cut": ({"model_weights_h5": b"\x89HDF\r\n\x1a\n"}, "expected offsets and lengths of 8 bytes"),
}


def test_hostile_archives_are_refused(plain, tmp_path):
    paths = [
        rewrite(tmp_path / f"{number}.keras", plain / "plain.keras", **members)
        for number, (members, _) in enumerate(MEMBERS.values())
    ]
    for (name, (_, message)), said in zip(
        MEMBERS.items(), read_apart(plain / "plain.keras", paths), strict=True
    ):
        assert re.search(f"keras: .*({message})", said), (name, said)


def test_archive_that_inflates_is_refused(plain, tmp_path):
    path = tmp_path / "a.keras"
    with (
        zipfile.ZipFile(plain / "plain.keras") as good,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, good.read(name) + bytes(1 << 28) * (name == "model.weights.h5"))
    (said,) = read_apart(plain / "plain.keras", [path])
    assert "claim" in said


def test_damaged_files_end_in_the_one_error(plain, tmp_path):
    """Flipped bits, overwritten numbers and cuts, at places that are drawn."""
    rng, paths = np.random.default_rng(0), []
    older = write_by_name(
        tmp_path / "older.h5", {"l": named("l", joined(draw_gates()))}, sequential(entry("l"))
    )
    for source in (plain / "plain.weights.h5", plain / "plain.keras", older):
        content = source.read_bytes()
        for number in range(150):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content) - 8, 3):
                if number % 3 == 0:
                    damaged[place] ^= 1 << rng.integers(8)
                elif number % 3 == 1:
                    damaged[place : place + 8] = rng.choice(
                        [b"\xff" * 8, b"\x00" * 8, b"\x00\x00\x00\x80" * 2]
                    )
            paths.append(tmp_path / f"{len(paths)}{source.suffix}")
            paths[-1].write_bytes(damaged if number % 3 < 2 else damaged[: rng.integers(len(content))])
    said = read_apart(plain / "plain.keras", paths)
    assert {"read"} < set(said)


def test_damaged_heap_of_texts_is_refused(plain, tmp_path):
    content = (plain / "plain.weights.h5").read_bytes()
    heap, paths = content.index(b"GCOL\1"), []
    for offset in (8, 16, 24, 32, 40, 48):
        for value in (0, 1, 8, 1 << 20, (1 << 64) - 1):
            paths.append(tmp_path / f"{len(paths)}.h5")
            damaged = content[: heap + offset] + value.to_bytes(8, "little") + content[heap + offset + 8 :]
            paths[-1].write_bytes(damaged)
    # The length that the reference to a text claims: 4 bytes before the place of the heap.
    at = content.index(heap.to_bytes(8, "little")) - 4
    for length in (10, 1 << 31):
        paths.append(tmp_path / f"{len(paths)}.h5")
        paths[-1].write_bytes(content[:at] + length.to_bytes(4, "little") + content[at + 4 :])
    said = read_apart(plain / "plain.keras", paths)
    assert sum("a heap of texts" in line for line in said) > 10
    assert all("a text is missing" in line for line in said[-2:])


def test_many_attributes_with_texts_in_a_large_heap_are_read_at_once(plain, tmp_path):
    with h5py.File(plain / "plain.weights.h5", "r") as source, h5py.File(tmp_path / "a.h5", "w") as file:
        source.copy("layers", file)
        cells = [file[CELL]]
        for number in range(400):
            file.copy("layers/lstm", f"layers/lstm_{number}")
            cells.append(file[CELL.replace("lstm", f"lstm_{number}", 1)])
        for cell in cells:
            for number in range(6):
                cell.attrs[f"a{number}"] = "some text"
    content = (tmp_path / "a.h5").read_bytes()
    heaps = [match.start() for match in re.finditer(b"GCOL\1", content)]
    large, count = len(content), 60_000
    for heap in heaps:  # all references to texts lead to the last one of a new heap
        content = re.sub(
            re.escape(heap.to_bytes(8, "little")) + b"....",
            lambda _: large.to_bytes(8, "little") + count.to_bytes(4, "little"),
            content,
            flags=re.DOTALL,
        ).replace(b"GCOL\1", b"gone.")
    items = b"".join(number.to_bytes(8, "little") + bytes(8) for number in range(1, count))
    items += count.to_bytes(8, "little") + (9).to_bytes(8, "little") + b"lstm_cell".ljust(16, b"\0")
    content += b"GCOL\1\0\0\0" + (16 + len(items)).to_bytes(8, "little") + items
    (tmp_path / "b.h5").write_bytes(content)
    assert read_apart(plain / "plain.keras", [tmp_path / "b.h5"])


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x89HDF\r\n\x1a\n", b"x" * 4096, b"GCOL\1"], ids=len)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.keras").write_bytes(content)
    with pytest.raises(FileFormatError, match=re.escape(str(tmp_path / "a.keras"))):
        clstm.LSTM.from_keras(tmp_path / "a.keras")


def test_path_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        clstm.LSTM.from_keras(tmp_path / "missing.keras")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileFormatError, match="expected a regular file"):
        clstm.LSTM.from_keras(tmp_path / "fifo")


def test_import_does_without_h5py_and_reading_says_what_to_install(plain):
    code = """
import sys
import clstm
assert not {"h5py", "keras"} & sys.modules.keys()
sys.modules["h5py"] = None
try:
    clstm.LSTM.from_keras(sys.argv[1])
except ImportError as error:
    print(error)
"""
    done = run_python(code, str(plain / "plain.keras"))
    told = "an HDF5 file needs the package h5py: pip install 'cython-lstm[keras]'\n"
    assert done.stdout == told, done.stderr
