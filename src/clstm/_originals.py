"""LSTMs of files as the systems that wrote these read and run them, to compare this package with.

A system is imported when it is asked for, and reads the file itself, after this package has read and accepted
it.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .interop import formats
from .lstm import LSTM

Array = NDArray[Any]
Path = str | os.PathLike[str]


class NotComparedError(Exception):
    """Why a system does not run an LSTM."""


def run(kind: formats.Format, path: Path, name: str, lstm: LSTM, x: Array) -> tuple[str, Array]:
    """Run an LSTM of a file in the system that wrote it.

    Parameters
    ----------
    kind : formats.Format
        Of the file.
    path : str or path-like
    name : str
        Of the LSTM in it.
    lstm : LSTM
        What was read; tells sizes and dtype alone.
    x : ndarray of shape (T, B, I)

    Returns
    -------
    str
        The system and its version.
    ndarray of shape (T, B, directions * H)
        Outputs at the time index of their inputs.

    Raises
    ------
    NotComparedError
        The system is not installed, or cannot read or run it.
    """
    if kind == formats.PICKLE:
        raise NotComparedError("a pickle of arrays is of none")
    needed, function = _SYSTEMS[kind.reader or ""]
    missing = [package for package in needed if importlib.util.find_spec(package) is None]
    if missing:
        raise NotComparedError(f"{' and '.join(missing)} not installed")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(kind, path, name, lstm, x)
    except NotComparedError:
        raise
    except Exception as error:  # whatever another system raises
        text = (str(error).splitlines() or [""])[0]
        raise NotComparedError(f"{needed[0]} says {type(error).__name__}: {text}") from error


def _torch(kind: formats.Format, path: Path, name: str, lstm: LSTM, x: Array) -> tuple[str, Array]:
    """Load the state_dict into torch.nn.LSTM."""
    import torch

    if kind == formats.SAFETENSORS:
        from safetensors.torch import load_file

        held = load_file(path)
    else:
        held = torch.load(path, map_location="cpu", weights_only=True)
    start = f"{name}." if name else ""
    tensors = {
        key.removeprefix(start): value
        for key, value in _flat(held)
        if key.startswith(start) and "." not in key.removeprefix(start) and isinstance(value, torch.Tensor)
    }
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    tensors = {f"{key}_l0" if key in names else key: value for key, value in tensors.items()}
    own = torch.nn.LSTM(
        lstm.input_size,
        lstm.hidden_size,
        lstm.num_layers,
        bias=lstm.bias,
        bidirectional=lstm.bidirectional,
        proj_size=lstm.proj_size,
        dtype=getattr(torch, lstm.dtype.name),
    )
    own.load_state_dict({key: value for key, value in tensors.items() if key in own.state_dict()})
    with torch.no_grad():
        return f"PyTorch {torch.__version__}", own(torch.from_numpy(x))[0].numpy()


def _flat(value: Any, start: str = "") -> Iterator[tuple[str, Any]]:
    """Yield everything in dicts and lists by its path."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, part in items:
            yield from _flat(part, f"{start}.{key}" if start else str(key))
    else:
        yield start, value


def _keras(kind: formats.Format, path: Path, name: str, lstm: LSTM, x: Array) -> tuple[str, Array]:  # noqa: ARG001
    """Load the model and run its layer, each direction for itself."""
    if "KERAS_BACKEND" not in os.environ:
        installed = [each for each in ("tensorflow", "jax", "torch") if importlib.util.find_spec(each)]
        if not installed:
            raise NotComparedError("Keras has none of tensorflow, jax and torch to run on")
        os.environ["KERAS_BACKEND"] = installed[0]
    import keras

    model = keras.models.load_model(path, compile=False, safe_mode=True)
    layers = [layer for layer in _layers_of(model) if layer.name == name]
    if len(layers) != 1:
        raise NotComparedError(f"Keras has {len(layers)} layers of the name {name!r}")
    if hasattr(layers[0], "backward_layer"):
        layers = [layers[0].forward_layer, layers[0].backward_layer]
    outputs = []
    for layer in layers:
        layer.return_sequences, layer.return_state, layer.stateful = True, False, False
        y = keras.ops.convert_to_numpy(layer(x.swapaxes(0, 1))).swapaxes(0, 1)
        outputs.append(y[::-1] if layer.go_backwards else y)
    return f"Keras {keras.__version__} on {keras.backend.backend()}", np.concatenate(outputs, axis=2)


def _layers_of(model: Any) -> Iterator[Any]:
    """Yield the layers of a model and of the models in it."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers_of(layer)


def _onnx(kind: formats.Format, path: Path, name: str, lstm: LSTM, x: Array) -> tuple[str, Array]:  # noqa: ARG001
    """Cut the nodes out of the model, each with what its weights are made of, and run them one by one."""
    import onnx
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    model = onnx.load(path, load_external_data=False)
    nodes = {
        node.name or next(filter(None, node.output), "LSTM"): node
        for node in model.graph.node
        if node.op_type == "LSTM"
    }
    names = [name] if name in nodes else name.split(", ")
    if not set(names) <= nodes.keys():
        raise NotComparedError("its node is not in the main graph, or has no name of its own")
    y = x
    for each in names:
        session = onnxruntime.InferenceSession(
            _cut(onnx, model, nodes[each], y), providers=["CPUExecutionProvider"]
        )
        (output,) = session.run(["Y"], {"X": y})  # (T, D, B, H)
        y = output.swapaxes(1, 2).reshape(*y.shape[:2], -1)
    return f"ONNX Runtime {onnxruntime.__version__}", y


def _cut(onnx: Any, model: Any, node: Any, x: Array) -> bytes:
    """Return a model of one LSTM node, whose input is X and whose output is Y."""
    own = onnx.NodeProto()
    own.CopyFrom(node)
    weights = [*node.input[1:], *[""] * (8 - len(node.input))]
    weights[3:6] = ["", "", ""]  # lengths, and states, which are zero
    del own.input[:], own.output[:]
    own.input.extend(["X", *weights])
    own.output.append("Y")
    makers = {output: maker for maker in model.graph.node for output in maker.output}
    needed, pending = set(), [value for value in weights if value]
    while pending:
        value = pending.pop()
        if value not in needed:
            needed.add(value)
            pending += [each for each in makers[value].input if each] if value in makers else []
    before = [maker for maker in model.graph.node if needed & set(maker.output)]
    element = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = onnx.helper.make_graph(
        [*before, own],
        "LSTM",
        [onnx.helper.make_tensor_value_info("X", element, x.shape)],
        [onnx.helper.make_tensor_value_info("Y", element, None)],
        [value for value in model.graph.initializer if value.name in needed],
    )
    made = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    made.ir_version = min(model.ir_version, made.ir_version)
    content: bytes = made.SerializeToString()
    return content


_SYSTEMS: dict[str, tuple[tuple[str, ...], Callable[..., tuple[str, Array]]]] = {
    "torch": (("torch",), _torch),
    "keras": (("keras",), _keras),
    "onnx": (("onnxruntime", "onnx"), _onnx),
}
