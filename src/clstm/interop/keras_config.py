"""What a config of Keras says of LSTMs, of whatever version.

Configs are JSON, of which nothing is called or made.  What is not known is refused: an option, an activation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .. import _check, cells

Spec = str | tuple[str, dict[str, float]]
Json = dict[str, Any]

# Of models in models, and of layers in wrappers.
_DEEPEST_MODEL = 16
# Activations that are the same function under another name, or the same one.
_NAMES = {name: name for name in ("sigmoid", "tanh", "relu", "softsign", "softplus", "elu")}
_NAMES |= {"linear": "identity"}
# Those whose parameters depend on the version.
_VERSIONED = ("hard_sigmoid", "leaky_relu")
# Activations that are layers: their class, their name here, what becomes alpha, what must have its value.
_LAYERS: tuple[tuple[str, str, str | None, Json], ...] = (
    ("ELU", "elu", "alpha", {}),
    ("LeakyReLU", "leaky_relu", "negative_slope", {}),
    ("LeakyReLU", "leaky_relu", "alpha", {}),  # in Keras 2
    ("ReLU", "relu", None, {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}),
    ("ReLU", "leaky_relu", "negative_slope", {"max_value": None, "threshold": 0.0}),
    ("ReLU", "thresholded_relu", "threshold", {"max_value": None, "negative_slope": 0.0}),
    ("ThresholdedReLU", "thresholded_relu", "theta", {}),
)

# What a config may hold that does not change what a trained layer computes from a sequence.
_WITHOUT_EFFECT = re.compile(
    r"name|trainable|dtype|(batch_)?input_shape|input_(dim|length|dtype)|return_(sequences|state)|stateful|unroll|"
    r"time_major|zero_output_for_mask|implementation|consume_less|seed|unit_forget_bias|use_cudnn|"
    r"\w+_(initializer|regularizer|constraint|init)|(W|U|b)_regularizer|init"
)
_OF_KERAS_1 = {
    "output_dim": "units", "inner_activation": "recurrent_activation", "dropout_W": "dropout",
    "dropout_U": "recurrent_dropout",
}  # fmt: skip

_KINDS = ("LSTM", "CuDNNLSTM")
_NEEDED = ("units", "activation", "recurrent_activation", "use_bias", "go_backwards")
DROPOUTS = {"dropout": "input_dropout", "recurrent_dropout": "recurrent_dropout"}
# CuDNNLSTM has one set of activations, and at first it had no go_backwards.
OF_CUDNN = {"activation": "tanh", "recurrent_activation": "sigmoid", "go_backwards": False}


class Entry(NamedTuple):
    """An LSTM of a config, or a wrapper of it."""

    name: str
    top: str  # the layer of the whole model that it is, or is a part of
    place: str  # of its group, where groups are named by class
    configs: Sequence[Json]  # of each direction
    trouble: str | None = None


def entries(entry: Any, place: str = "", top: str | None = None, depth: int = 0) -> Iterator[Entry]:
    """Find the LSTMs in what a config says of a layer or a model."""
    if depth > _DEEPEST_MODEL:
        raise ValueError(f"config: expected at most {_DEEPEST_MODEL} models in each other")
    _check.instance("config", entry, dict)
    kind, config = _class(entry), entry.get("config")
    layers = config.get("layers") if isinstance(config, dict) else config  # in Keras 1 a list
    if isinstance(layers, list):
        folders = {kind: _snake(kind) for kind in set(map(_class, layers))}  # thousands may be of one class
        times: Counter[str] = Counter()
        for layer in layers:
            folder = folders[_class(layer)]
            inner = f"{place}/layers/{folder}" + (f"_{times[folder]}" if times[folder] else "")
            times[folder] += 1
            yield from entries(layer, inner.lstrip("/"), top if depth else _name(layer), depth + 1)
        return
    if not isinstance(config, dict) or not _is_of_keras(entry):
        return
    name, wrapped, cell = _name(entry), config.get("layer"), config.get("cell")
    top = name if top is None else top
    if kind in _KINDS:
        yield Entry(name, top, place, [config | {"class_name": kind}])
    elif kind == "Bidirectional" and _class(wrapped) in _KINDS and _is_of_keras(wrapped):
        configs, trouble = _both_ways(config)
        yield Entry(name, top, place, configs, trouble)
    elif kind == "RNN" and _class(cell) == "LSTMCell" and _is_of_keras(cell):
        outer = {key: value for key, value in config.items() if key != "cell"}
        yield Entry(name, top, place, [outer | _config(cell) | {"class_name": "LSTM"}])
    elif kind == "RNN" and "LSTMCell" in map(_class, _config(cell).get("cells") or ()):
        yield Entry(name, top, place, [], "a stack of cells in one layer, which is not supported")
    elif wrapped is not None:
        yield from entries(wrapped, f"{place}/layer", top, depth + 1)


def _both_ways(config: Json) -> tuple[Sequence[Json], str | None]:
    """Return the configs of the two layers of a Bidirectional, or what is wrong with them."""
    ahead, back = config["layer"], config.get("backward_layer")
    first = _config(ahead) | {"class_name": _class(ahead)}
    if back is None:  # in older files it follows from the other one
        second = first | {"go_backwards": not first.get("go_backwards", False)}
    else:
        second = _config(back) | {"class_name": _class(back)}
    if config.get("merge_mode") != "concat":
        merged = _check.describe(config.get("merge_mode"))
        return [], f"merge_mode: expected 'concat', the outputs side by side, got {merged}"
    if back is not None and not _is_of_keras(back):
        return [], f"backward_layer: expected a layer of Keras, got {_check.describe(_class(back))}"
    if first.get("go_backwards", False) is not False or second.get("go_backwards") is not True:
        return [], "go_backwards: expected False of its layer and True of its backward_layer"
    return [first, second], None


def _class(entry: Any) -> str:
    """Return the class of a layer in a config."""
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
        return ""
    return str(entry["class_name"])


def _config(entry: Any) -> Json:
    """Return the config of a layer in a config."""
    config = entry.get("config") if isinstance(entry, dict) else None
    return config if isinstance(config, dict) else {}


def _name(entry: Any) -> str:
    """Return the name of a layer in a config."""
    name = _config(entry).get("name", entry.get("name") if isinstance(entry, dict) else None)
    return name if isinstance(name, str) else ""


def _is_of_keras(entry: Any) -> bool:
    """Whether a class is Keras's own, as far as the file tells."""
    module = (entry.get("module") if isinstance(entry, dict) else None) or "keras"
    return re.fullmatch(r"(keras|tf_keras|tensorflow)(\..*)?", str(module)) is not None


def _snake(name: str) -> str:
    """Return a class as Keras names its group."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def said(config: Json, major: int | None) -> dict[str, Any]:
    """Return what a config says, by this package's names, but for the three arguments of `_Given`."""
    kind = config["class_name"]
    known = {_OF_KERAS_1.get(name, name): value for name, value in config.items() if name != "class_name"}
    if kind == "CuDNNLSTM":
        known = OF_CUDNN | known
    if kind == "CuDNNLSTM" or "inner_activation" in config:  # Keras 1's, too, always has a bias
        known.setdefault("use_bias", True)
    for name in (*_NEEDED, *known):
        if name not in known:
            raise ValueError(f"config: expected {name}, which is missing")
        if name not in _NEEDED and name not in DROPOUTS and not _WITHOUT_EFFECT.fullmatch(name):
            raise ValueError(f"config: {_check.shorten(name)} is an option that is not known")
    return {
        "hidden_size": _check.integer("units", known["units"], 1),
        "bias": _check.boolean("use_bias", known["use_bias"]),
        **{ours: _check.fraction(name, known.get(name, 0.0)) for name, ours in DROPOUTS.items()},
        "activation": _activation("activation", known["activation"], major),
        "recurrent_activation": _activation("recurrent_activation", known["recurrent_activation"], major),
        "go_backwards": _check.boolean("go_backwards", known["go_backwards"]),
    }


def _activation(argument: str, value: Any, major: int | None) -> Spec:
    """Return an activation of a config, None being Keras's linear."""
    if isinstance(value, str) or value is None:
        name = "linear" if value is None else value
        if name in _NAMES:
            return _spec(_NAMES[name], {})
        if name == "hard_sigmoid" and major is not None:
            return _spec(name, {"alpha": 0.2 if major < 3 else 1 / 6})
        if name == "leaky_relu" and major is not None and major >= 3:
            return _spec(name, {"alpha": 0.2})
        if name in _VERSIONED:
            raise ValueError(f"{argument}: {name}, whose parameters this version of Keras does not tell")
        raise ValueError(f"{argument}: {_check.describe(name)} is not supported")
    kind = _class(value)
    given = {key: item for key, item in _config(value).items() if key not in ("name", "trainable", "dtype")}
    for known, name, key, fixed in _LAYERS if _is_of_keras(value) else ():
        if kind == known and given == fixed | ({} if key is None else {key: given.get(key)}):
            return _spec(name, {} if key is None else {"alpha": _check.real(f"{kind}.{key}", given[key])})
    shown = f"{_check.describe(kind)} with {_check.describe(given)}" if kind else _check.describe(value)
    raise ValueError(f"{argument}: {shown} is not supported")


def given_activation(argument: str, value: Any) -> Spec | None:
    """Return an activation that a user gives by this package's name or Keras's."""
    if value is None:
        return None
    name, values = (
        (value, {}) if isinstance(value, str) else _check.pair(argument, value, "(name, parameters)")
    )
    _check.choice(argument, name, ("linear", *cells.ACTIVATIONS))
    name = _NAMES.get(name, name)
    if not isinstance(values, Mapping) or not values.keys() <= cells.ACTIVATIONS[name].keys():
        known = ", ".join(cells.ACTIVATIONS[name]) or "none"
        raise ValueError(f"{argument}: expected parameters of {name}, {known}, got {_check.describe(values)}")
    if name in _VERSIONED and "alpha" not in values:
        raise ValueError(
            f"{argument}: expected ({name!r}, {{'alpha': ...}}), for alpha depends on the version of Keras, "
            f"got {_check.describe(value)}"
        )
    return _spec(name, {key: _check.real(f"{argument}[{key!r}]", number) for key, number in values.items()})


def _spec(name: str, values: Mapping[str, float]) -> Spec:
    """Return an activation as `clstm.LSTM` keeps it, so that two can be compared."""
    every = cells.ACTIVATIONS[name] | dict(values)
    return name if every == cells.ACTIVATIONS[name] else (name, every)
