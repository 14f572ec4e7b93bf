"""Keras: what its files say of LSTMs, and the lists of weights that its layers take.

Three kinds of file: `.keras`, a zip of a config and of weights in HDF5; `.weights.h5`, such weights alone;
the older `.h5`, with or without a config.  The first two have a group for each layer, named after its class,
with weights by number; the third one by the layer's name, with weights by name.  Both lead to `_Layer`.
Keras's order of gates, i, f, c, o, is that of this package.
"""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _check, files
from .._check import FileFormatError
from ..parameters import Parameters
from . import hdf5, keras_config
from .contents import Archive, read_bytes
from .formats import HDF5_SIGNATURE
from .found import MOST_LSTMS, Found, check_biases, check_count, choose, refuse_options, stack
from .keras_config import Json

Array = NDArray[Any]
_Run = dict[str, str]  # paths by the names of weights

_WEIGHTS = ("kernel", "recurrent_kernel", "bias")
_NOT_THERE = ("proj_size", "peepholes", "coupled", "gate_clip", "cell_clip", "layer_norm", "zoneout")
# Names in older files: "lstm_1/kernel:0" since Keras 2, in Keras 1 "lstm_1_W_i" or, of all gates, "lstm_1_W".
_KERAS_2 = re.compile(r"(?:(.*)/)?(kernel|recurrent_kernel|bias)(?:_\d+)?(?::0)?")
_KERAS_1 = re.compile(r"(.*)_([WUb](?:_[icfo])?)(?:_\d+)?(?::0)?")
_CELL = re.compile(r"lstm_cell(_\d+)?")
_WAYS = ("forward_", "backward_")  # in front of the names of the layers in a Bidirectional
# Of the layers in one direction or two, in a file whose groups are named after classes.
_FOLDERS = {1: ("",), 2: ("forward_layer", "backward_layer")}


class _Layer(NamedTuple):
    """An LSTM in one direction or two, as a file has it."""

    name: str
    place: str  # where it stands, for two of one name
    configs: Sequence[Json] | None  # of each direction
    weights: Sequence[dict[str, Array]]  # of each direction, by their names in Keras
    trouble: str | None = None


class _Given(NamedTuple):
    """What a caller says of layers whose file has no config."""

    activation: keras_config.Spec | None = None
    recurrent_activation: keras_config.Spec | None = None
    go_backwards: bool | None = None


def find(path: str | os.PathLike[str]) -> list[Found]:
    """Return every LSTM in a file, with or without a wrapper in two directions.

    Parameters
    ----------
    path : str or path-like
        A `.keras`, `.weights.h5` or `.h5` file; its content decides which.

    Returns
    -------
    list of Found
        With `trouble` where one cannot be read, or not without arguments.

    Raises
    ------
    FileFormatError
        It is none of these files, or damaged.
    OSError
        The file cannot be opened.
    """
    return _find(os.fsdecode(path), _Given())


def read(
    path: str | os.PathLike[str],
    layer: str | Sequence[str] | None = None,
    activation: Any = None,
    recurrent_activation: Any = None,
    go_backwards: bool | None = None,
) -> Found:
    """Return one LSTM of a file, or several that are stacked; see `clstm.LSTM.from_keras`."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: expected str or path-like, got {_check.describe(path)}")
    path = os.fsdecode(path)
    names: Sequence[str | None]
    if layer is None or isinstance(layer, str):
        names = [layer]
    elif isinstance(layer, list | tuple) and layer and all(isinstance(name, str) for name in layer):
        names = layer
    else:
        raise TypeError(f"layer: expected a name or a list of names, got {_check.describe(layer)}")
    given = _Given(
        keras_config.given_activation("activation", activation),
        keras_config.given_activation("recurrent_activation", recurrent_activation),
        None if go_backwards is None else _check.boolean("go_backwards", go_backwards),
    )
    found = _find(path, given)
    chosen = [choose(path, found, name, "layer") for name in names]
    if len(chosen) == 1:
        return chosen[0]
    for each in chosen:
        if each.arguments["reverse"]:
            raise FileFormatError(
                path,
                f"{_check.describe(each.name)}: goes backwards and hands its outputs on in that order, which "
                "no stack of this package does: read the layers one by one",
            )
    return stack(path, chosen)


def write(lstm: Parameters) -> list[Array]:
    """Return the weights of an LSTM in Keras's layout; see `clstm.LSTM.to_keras`."""
    refuse_options(lstm, _NOT_THERE, "Keras's LSTM")
    options = {name: getattr(lstm, name) for name in lstm.defaults}
    _, candidate, cell = options["activations"]
    if candidate != cell:
        raise ValueError(
            "activations: expected the same for candidate and cell, since Keras's LSTM has one for both, got "
            f"{candidate!r} and {cell!r}"
        )
    for spec in options["activations"]:
        name, values = (spec, {}) if isinstance(spec, str) else spec
        if name in ("affine", "scaled_tanh") or (name == "hard_sigmoid" and not _is_hard_sigmoid(**values)):
            raise ValueError(f"activations: expected functions that Keras has, got {spec!r}")
    if options["reverse"] and options["num_layers"] > 1:
        raise ValueError(
            "reverse: expected False for several layers, for those of Keras that go backwards hand on their "
            "outputs in that order, got True"
        )
    # The first two are kernels, stored here as (4H, I) and (4H, H).
    return [value.T.copy() if value.ndim == 2 else value.copy() for value in lstm.params.values()]


def _is_hard_sigmoid(alpha: float = 0.2, beta: float = 0.5) -> bool:
    """Whether it is that of Keras 1 and 2 or of Keras 3; a file of another system may have it in 32 bits."""
    return beta == 0.5 and np.float32(alpha) in (np.float32(0.2), np.float32(1 / 6))


# --------------------------------------------------------------------------------------- from files to layers


def _find(path: str, given: _Given) -> list[Found]:
    """Return every LSTM in a file; what the caller gives completes those without a config."""
    content = read_bytes(path)
    try:
        if content.startswith(b"PK\x03\x04"):
            archive = Archive(path, content)
            version = _parse("metadata.json", archive.read("metadata.json")).get("keras_version")
            config = _parse("config.json", archive.read("config.json"))
            layers = _read_hdf5(archive.read("model.weights.h5"), config)[0]
        else:
            layers, version = _read_hdf5(content, None)
    except FileFormatError:
        raise
    except (ValueError, TypeError) as error:
        raise FileFormatError(path, str(error)) from error
    check_count(path, len(layers))
    times = Counter(layer.name for layer in layers)
    named = [layer._replace(name=layer.place) if times[layer.name] > 1 else layer for layer in layers]
    return [_complete(layer, _major(version), given) for layer in named]


def _read_hdf5(content: bytes, config: Json | None) -> tuple[list[_Layer], Any]:
    """Return the layers of an HDF5 file, and the version that it names."""
    if not content.startswith(HDF5_SIGNATURE):
        raise ValueError("neither a .keras archive nor an HDF5 file")
    file = hdf5.File(content)
    try:
        weights = file.group(file.root, "model_weights")
        weights = file.root if weights is None else weights
        if config is not None or not (file.has(weights, "layer_names") or file.has(weights, "layer_names0")):
            return _some(_layers_by_class(file, config)), None
        text = file.text(file.root, "model_config")
        config = None if text is None else _parse("model_config", text.encode())
        version = file.text(weights, "keras_version") if file.has(weights, "keras_version") else "1"
        return _some(_layers_by_name(file, weights, config)), version
    finally:
        file.close()


def _some(layers: Iterator[_Layer]) -> list[_Layer]:
    """Return layers, no more than tell that there are too many."""
    return list(itertools.islice(layers, MOST_LSTMS + 1))


def _parse(name: str, content: bytes) -> Json:
    """Return the object that a text of JSON holds."""
    if len(content) > hdf5.LONGEST_TEXT:
        raise ValueError(f"{name}: expected at most {hdf5.LONGEST_TEXT} bytes, got {len(content)}")
    parsed = files.parse_json(content.decode())
    _check.instance(name, parsed, dict)
    return dict(parsed)


def _major(version: Any) -> int | None:
    """Return the first number of a version, None if there is none."""
    match = re.match(r"\d{1,3}", version) if isinstance(version, str) else None
    return int(match[0]) if match else None


# --------------------------------------------------------------------------- where the weights of a layer lie


def _layers_by_class(file: hdf5.File, config: Json | None) -> Iterator[_Layer]:
    """Find the LSTMs of a file whose groups are named after classes."""
    seen = set()
    for entry in () if config is None else keras_config.entries(config):
        group = file.group(file.root, entry.place)
        if group is None:  # Keras 2.12 had another name for this folder
            group = file.group(file.root, entry.place.replace("layers", "_layer_checkpoint_dependencies"))
        seen.add(group)
        layer = _Layer(entry.name, entry.place, entry.configs, [], entry.trouble)
        try:
            if group is None:
                raise ValueError(f"expected its weights in {_check.describe(entry.place)}, got none")
            name = _stored_name(file, group)
            if name not in (None, entry.name):
                raise ValueError(f"{_check.describe(entry.place)} is of a layer {_check.describe(name)}")
            if entry.trouble is None:
                layer = layer._replace(weights=_numbered(file, group, len(entry.configs)))
        except ValueError as error:
            layer = layer._replace(trouble=str(error))
        yield layer
    found: list[_Layer] = []

    def ends(path: str, group: Any) -> bool:
        if group in seen or path.split("/")[-1] in ("vars", "optimizer"):
            return True
        layer = _undescribed(file, path, group)
        found.extend(() if layer is None else (layer,))
        return layer is not None or len(found) > MOST_LSTMS

    file.walk(file.root, ends)
    yield from found


def _undescribed(file: hdf5.File, place: str, group: Any) -> _Layer | None:
    """Return the LSTM that a group is without a config; the shape of the recurrent kernel tells."""
    ways = 2 if file.group(group, "forward_layer") is not None else 1
    cells = [file.group(group, f"{folder}/cell/vars") for folder in _FOLDERS[ways]]
    if not all(cell is not None and _is_lstm(file.shape(cell, "1")) for cell in cells):
        return None
    layer = _Layer(_stored_name(file, group) or place.split("/")[-1], place, None, [])
    try:
        for cell in cells:
            name = file.text(cell, "name")
            if name is not None and not _CELL.fullmatch(name):
                raise ValueError(f"expected an LSTMCell, got a cell named {_check.describe(name)}")
        return layer._replace(weights=_numbered(file, group, ways))
    except ValueError as error:
        return layer._replace(trouble=str(error))


def _stored_name(file: hdf5.File, group: Any) -> str | None:
    """Return the name that a user has given to a layer, None where Keras 2 wrote none."""
    inner = file.group(group, "vars")
    return None if inner is None else file.text(inner, "name")


def _numbered(file: hdf5.File, group: Any, ways: int) -> Sequence[dict[str, Array]]:
    """Return the weights of a group, which has nothing else in it."""
    weights, taken = [], set()
    for folder in _FOLDERS[ways]:
        place = f"{folder}/cell/vars".lstrip("/")
        inner = file.group(group, place)
        names = [] if inner is None else file.names(inner)
        numbers = dict(zip("012", _WEIGHTS, strict=True))
        if not {"0", "1"} <= {*names} <= {*numbers}:
            raise ValueError(
                f"expected {place}/0, 1 and, with a bias, 2, got {_check.listed(names) or 'none'}"
            )
        weights.append({numbers[name]: file.array(inner, name) for name in names})
        taken |= {f"{place}/{name}" for name in names}
    others = [path for path in file.walk(group) if path not in taken and "seed_generator" not in path]
    if others:  # but for the state of its dropout's generator
        raise ValueError(f"expected no other weights, got {_check.listed(others)}")
    return weights


def _layers_by_name(file: hdf5.File, weights: Any, config: Json | None) -> Iterator[_Layer]:
    """Find the LSTMs of a file whose groups have the layers' names."""
    if config is None:
        tops: list[tuple[str, Any]] = []

        def ends(path: str, group: Any) -> bool:
            if is_top := file.has(group, "weight_names") or file.has(group, "weight_names0"):
                tops.append((path, group))
            return is_top

        file.walk(weights, ends)
        for top, group in tops:
            yield from _undescribed_runs(file, group, top)
        return
    runs_of = cache(lambda top: _runs(file, file.group(weights, top)))
    entries = list(keras_config.entries(config))
    times = Counter(entry.top for entry in entries)
    for entry in entries:
        layer = _Layer(entry.name, f"{entry.top}/{entry.name}", entry.configs, [], entry.trouble)
        try:
            group = file.group(weights, entry.top)
            if group is None:
                raise ValueError(f"expected its weights in {_check.describe(entry.top)}, got none")
            if entry.trouble is None:
                is_part = entry.name != entry.top
                runs = _recurrent(runs_of(entry.top)) if is_part else runs_of(entry.top)
                if is_part and (times[entry.top] > 1 or len(runs) != len(entry.configs)):
                    runs = {prefix: run for prefix, run in runs.items() if entry.name in prefix.split("/")}
                if len(entry.configs) == 2:
                    runs = _in_order(runs, [str(config.get("name")) for config in entry.configs])
                if len(runs) != len(entry.configs):
                    wanted, got = len(entry.configs), _check.listed(runs) or "none"
                    raise ValueError(f"expected weights of {wanted} direction(s), got {got}")
                layer = layer._replace(weights=[_named(file, group, run) for run in runs.values()])
        except ValueError as error:
            layer = layer._replace(trouble=str(error))
        yield layer


def _in_order(runs: dict[str, _Run], names: Sequence[Any]) -> dict[str, _Run]:
    """Bring the weights of two directions into the order of the names that the layers in them may have."""
    ways: dict[int, list[str]] = {0: [], 1: []}
    for prefix in runs:
        for part in reversed(prefix.split("/")):  # for a layer around them may have such a name, too
            fitting = [n for n in ways if part == names[n] or part.startswith(_WAYS[n])]
            if len(fitting) == 1:
                ways[fitting[0]].append(prefix)
                break
    return {prefixes[0]: runs[prefixes[0]] for prefixes in ways.values() if len(prefixes) == 1}


def _runs(file: hdf5.File, group: Any) -> dict[str, _Run]:
    """Return the paths of a group's weights: by the part before the last one, then by that."""
    runs: dict[str, _Run] = {}
    for path in file.walk(group):
        match = _KERAS_2.fullmatch(path) or _KERAS_1.fullmatch(path)
        prefix, weight = (match[1] or "", match[2]) if match else (path, path)
        if weight in runs.setdefault(prefix, {}):
            raise ValueError(f"expected each weight once, got {_check.describe(path)} again")
        runs[prefix][weight] = path
    return runs


def _recurrent(runs: dict[str, _Run]) -> dict[str, _Run]:
    """Return the weights of recurrent layers."""
    return {prefix: run for prefix, run in runs.items() if run.keys() & {"recurrent_kernel", "U", "U_i"}}


def _undescribed_runs(file: hdf5.File, group: Any, top: str) -> Iterator[_Layer]:
    """Find the LSTMs in a group of a layer's name without a config."""
    every = _runs(file, group)
    for path, prefixes in _pairs(_recurrent(every)):
        alone = len(every) == len(prefixes)  # else it is a part of the layer that has the name
        layer = _Layer(path[-1] if path and not alone else top, f"{top}/{prefixes[0]}", None, [])
        try:
            weights = [_named(file, group, every[prefix]) for prefix in prefixes]
            if not all(_is_lstm(each["recurrent_kernel"].shape) for each in weights):
                continue
            layer = layer._replace(weights=weights)
        except ValueError as error:
            layer = layer._replace(trouble=str(error))
        yield layer


def _pairs(runs: dict[str, _Run]) -> Iterator[tuple[list[str], list[str]]]:
    """Bring the two directions of a Bidirectional together: the path of each layer, its one prefix or two."""
    by_wrapper: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for prefix in runs:
        path = [part for part in prefix.split("/") if not _CELL.fullmatch(part)]
        ways = [n for n, part in enumerate(path) if part.startswith(_WAYS)]
        wrapper = (*path[: ways[-1]], "") if ways else tuple(path)
        by_wrapper.setdefault(wrapper, {})[prefix] = path
    for wrapper, found in by_wrapper.items():
        ordered = _in_order({prefix: runs[prefix] for prefix in found}, (None, None)) if wrapper else {}
        if len(found) == len(ordered) == 2:
            yield [*wrapper[:-1]], [*ordered]
        else:
            yield from ((path, [prefix]) for prefix, path in found.items())


def _named(file: hdf5.File, group: Any, run: dict[str, str]) -> dict[str, Array]:
    """Return the weights of one direction, those of Keras 1 by their present names."""
    arrays = {weight: file.array(group, name) for weight, name in run.items()}
    if "U_i" in arrays:
        wanted = [f"{letter}_{gate}" for letter in "WUb" for gate in "ifco"]
        if arrays.keys() != {*wanted}:
            raise ValueError(f"expected weights {_check.listed(wanted)}, got {_check.listed(arrays)}")
        shapes = {letter: {arrays[f"{letter}_{gate}"].shape for gate in "ifco"} for letter in "WUb"}
        if any(len(each) > 1 or () in each for each in shapes.values()):
            raise ValueError("expected arrays of one shape for the four gates")
        arrays = {
            letter: np.concatenate([arrays[f"{letter}_{gate}"] for gate in "ifco"], -1) for letter in "WUb"
        }
    present = dict(zip("WUb", _WEIGHTS, strict=True))
    return {present.get(name, name): array for name, array in arrays.items()}


def _is_lstm(shape: tuple[int, ...] | None) -> bool:
    """Whether a shape (H, 4H) is that of a recurrent kernel of four gates, which no other layer has."""
    return shape is not None and len(shape) == 2 and shape[1] == 4 * shape[0]


# ------------------------------------------------------------------------------------- from layers to `Found`


def _complete(layer: _Layer, major: int | None, given: _Given) -> Found:
    """Bring together what a file says, its weights and what the caller gives."""
    arguments: dict[str, Any] = {}
    params: dict[str, Array] = {}
    trouble = layer.trouble
    try:
        if trouble is None:
            configs = [None] * len(layer.weights) if layer.configs is None else layer.configs
            ways = [_direction(*each, major) for each in zip(layer.weights, configs, strict=True)]
            for (_, arrays), suffix in zip(ways, ("_l0", "_l0_reverse"), strict=False):
                params |= {f"{name}{suffix}": array for name, array in arrays.items()}
            check_biases(params)
            arguments, trouble = _arguments([said for said, _ in ways], given)
    except (ValueError, TypeError) as error:
        trouble = str(error)
    return Found(layer.name, arguments, params, trouble)


def _direction(
    weights: dict[str, Array], config: Json | None, major: int | None
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return what is said of one direction, and its parameters by this package's names without a suffix."""
    if not {*_WEIGHTS[:2]} <= weights.keys() <= {*_WEIGHTS}:
        raise ValueError(f"expected weights {', '.join(_WEIGHTS)}, got {_check.listed(weights)}")
    kernel, recurrent_kernel = weights["kernel"], weights["recurrent_kernel"]
    if not _is_lstm(recurrent_kernel.shape) or not recurrent_kernel.size:
        raise ValueError(f"recurrent_kernel: expected shape (H, 4H), got {recurrent_kernel.shape}")
    H = len(recurrent_kernel)
    _check.shape("kernel", kernel, ("I", 4 * H))
    if not kernel.size:
        raise ValueError("kernel: expected at least one input, got none")
    arrays = {"weight_ih": kernel.T, "weight_hh": recurrent_kernel.T}
    said: dict[str, Any] = {"hidden_size": H, "bias": "bias" in weights}
    is_cudnn = said["bias"] and weights["bias"].shape == (8 * H,)
    if is_cudnn:
        arrays = _from_cudnn(kernel, recurrent_kernel, weights["bias"])
    elif said["bias"]:
        _check.shape("bias", weights["bias"], (4 * H,))
        arrays["bias"] = weights["bias"]
    if config is not None:
        described = keras_config.said(config, major)
        if is_cudnn != (config["class_name"] == "CuDNNLSTM"):
            raise ValueError(f"bias: got one of shape {weights['bias'].shape} for {config['class_name']}")
        for name, value in said.items():
            if described[name] != value:
                raise ValueError(f"{name}: the config says {described[name]}, the weights {value}")
        said = described
    elif is_cudnn:
        said |= keras_config.OF_CUDNN
        del said["go_backwards"]
    return said | {"input_size": len(kernel)}, arrays


def _from_cudnn(kernel: Array, recurrent_kernel: Array, bias: Array) -> dict[str, Array]:
    """Return the parameters of a CuDNNLSTM, whose blocks hold the numbers of arrays (H, I) and (H, H)."""
    shape = len(recurrent_kernel), len(kernel)
    return {
        "weight_ih": np.concatenate([block.reshape(shape) for block in np.split(kernel, 4, 1)]),
        "weight_hh": np.concatenate(np.split(recurrent_kernel, 4, 1)),
        "bias_ih": np.split(bias, 2)[0],
        "bias_hh": np.split(bias, 2)[1],
    }


def _arguments(said: Sequence[dict[str, Any]], given: _Given) -> tuple[dict[str, Any], str | None]:
    """Return the arguments of `clstm.LSTM`, and what else must be given."""
    known, both = dict(said[0]), len(said) == 2
    differing = [name for name in known if name != "go_backwards" and known[name] != said[-1].get(name)]
    if differing:
        raise ValueError(f"its two directions differ in {', '.join(differing)}")
    for name, value in given._asdict().items():
        if value is not None and known.setdefault(name, value) != value:
            raise ValueError(f"{name}: the file says {known[name]!r}, got {value!r}")
    if "activation" in said[0]:  # where a CuDNNLSTM has no config, the weights tell this alone
        known.setdefault("go_backwards", False)
    missing = [name for name in _Given._fields if name not in known]
    if both and known.get("go_backwards"):
        raise ValueError("go_backwards: expected False, that of the first of its two directions, got True")
    arguments = {name: known[name] for name in ("input_size", "hidden_size", "bias")}
    arguments |= {"bidirectional": both}
    if missing:
        wanted = ", ".join(f"{name}=" for name in missing)
        return arguments, f"expected {wanted}, since the file holds no config of it"
    activation = known["activation"]
    arguments |= {
        "reverse": known["go_backwards"],
        "activations": (known["recurrent_activation"], activation, activation),
    }
    return arguments | {ours: known[ours] for ours in keras_config.DROPOUTS.values() if ours in known}, None
