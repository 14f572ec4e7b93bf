"""ONNX: a model of an LSTM, with one node for each of its layers.

Relies on onnx.py for what both directions have in common, the order of gates, peepholes and inputs and the
names of activations.  The package `onnx` makes the model.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import files
from .._version import __version__
from ..cells import ACTIVATIONS
from .found import refuse_options, regroup_to
from .onnx import INPUTS, NAMES, ORDER, PEEPHOLES

Array = NDArray[Any]

# LSTM of opset 14 and IR version 8 are read by every ONNX Runtime since 1.12.
_OPSET, _IR_VERSION = 17, 8


def write(lstm: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Return an ONNX model of a layer; with a path also write it, whole or not at all.

    Parameters
    ----------
    lstm : clstm.LSTM
    path : str or path-like, optional

    Returns
    -------
    onnx.ModelProto
        See `clstm.LSTM.to_onnx`.

    Raises
    ------
    ValueError
        The layer has an option that ONNX's operator has not.
    ImportError
        `onnx` is missing.
    OSError
        The file cannot be written; an old one is as it was.
    """
    attributes = _attributes_of(lstm)
    try:
        import onnx
    except ImportError as error:
        raise ImportError("to_onnx needs the package onnx: pip install 'cython-lstm[onnx]'") from error
    model = _Writer(onnx, lstm, attributes).model()
    if path is not None:
        files.replace(path, model.SerializeToString())
    return model


def _attributes_of(lstm: Any) -> dict[str, Any]:
    """Return the attributes of every node; an option that the operator has not is refused."""
    refuse_options(lstm, ("proj_size", "cell_clip", "layer_norm", "zoneout"), "ONNX's LSTM")
    direction = "bidirectional" if lstm.bidirectional else "reverse" if lstm.reverse else "forward"
    attributes: dict[str, Any] = {"hidden_size": lstm.hidden_size, "direction": direction}
    # Identity has no name there, but is affine.  All parameters stand there: ONNX Runtime has other defaults.
    specs = [(spec, {}) if isinstance(spec, str) else spec for spec in lstm.activations]
    specs = [("affine", {}) if name == "identity" else (name, values) for name, values in specs]
    if [name for name, _ in specs] != ["sigmoid", "tanh", "tanh"]:
        attributes["activations"] = [NAMES[name] for name, _ in specs] * lstm.num_directions
        for key in ("alpha", "beta"):
            takers = [(name, values) for name, values in specs if key in ACTIVATIONS[name]]
            values = [_parameter(lstm, name, key, given.get(key)) for name, given in takers]
            if values:
                attributes[f"activation_{key}"] = values * lstm.num_directions
    if lstm.gate_clip is not None:
        attributes["clip"] = _of_32_bits(lstm, "gate_clip", lstm.gate_clip)
    if lstm.coupled:
        attributes["input_forget"] = 1
    return attributes


def _parameter(lstm: Any, name: str, key: str, value: float | None) -> float:
    """Return an alpha or beta; the default, for which None stands, has 32 bits for ONNX, too."""
    default = ACTIVATIONS[name][key]
    return default if value in (None, default) else _of_32_bits(lstm, f"activations: {key} of {name}", value)


def _of_32_bits(lstm: Any, name: str, value: float) -> float:
    """Refuse a number that a layer of float64 has and an attribute has not."""
    with np.errstate(over="ignore"):
        same = float(np.float32(value)) == value
    if lstm.dtype == np.float64 and not same:
        raise ValueError(f"{name}: expected a number of 32 bits for ONNX's attribute, got {value}")
    return value


class _Writer:
    """A graph as it is written."""

    def __init__(self, onnx: Any, lstm: Any, attributes: dict[str, Any]) -> None:
        self._onnx = onnx
        self._lstm = lstm
        self._attributes = attributes
        self._nodes: list[Any] = []
        self._tensors: list[Any] = []

    def _tensor(self, name: str, value: Array) -> str:
        self._tensors.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _node(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        self._nodes.append(
            self._onnx.helper.make_node(op, inputs, outputs, f"{op}_{outputs[0]}", **attributes)
        )

    def _calls(self, x: str) -> None:
        """Bring state and lengths, which have defaults of one row, to the rows of x."""
        L, D, H = self._lstm.num_layers, self._lstm.num_directions, self._lstm.hidden_size
        self._node("Shape", [x], ["T"], start=0, end=1)
        self._node("Shape", [x], ["B"], start=1, end=2)
        self._node("Cast", ["T"], ["T_32"], to=self._onnx.TensorProto.INT32)
        self._tensor("lengths", np.array([np.iinfo(np.int32).max], np.int32))
        self._node("Min", ["lengths", "T_32"], ["lengths_of_x"])
        self._node("Expand", ["lengths_of_x", "B"], ["lengths_of_rows"])
        self._tensor("one", np.array([1], np.int64))
        self._tensor("each", np.full(L, D, np.int64))
        self._node("Concat", ["one", "B", "one"], ["rows"], axis=0)
        for part in ("h", "c"):
            self._tensor(f"{part}_0", np.zeros((L * D, 1, H), self._lstm.dtype))
            self._node("Expand", [f"{part}_0", "rows"], [f"{part}_0_of_rows"])
            self._node("Split", [f"{part}_0_of_rows", "each"], [f"{part}_0_l{k}" for k in range(L)], axis=0)

    def _layer(self, k: int, x: str, y: str) -> str:
        """Write one layer, from x to y of shape (T, B, D * H), and return y."""
        lstm, H, D = self._lstm, self._lstm.hidden_size, self._lstm.num_directions
        ends = [f"_l{k}", f"_l{k}_reverse"][:D]
        arrays: dict[str, list[Array]] = {"W": [], "R": [], "B": [], "P": []}
        for end in ends:
            arrays["W"].append(regroup_to(lstm.params["weight_ih" + end], ORDER))
            arrays["R"].append(regroup_to(lstm.params["weight_hh" + end], ORDER))
            if lstm.bias:
                bias = regroup_to(lstm.params["bias" + end], ORDER)
                arrays["B"].append(np.concatenate([bias, np.zeros_like(bias)]))
            if lstm.peepholes:
                arrays["P"].append(lstm.params["weight_peephole" + end][PEEPHOLES].reshape(3 * H))
        weights = {
            name: self._tensor(f"{name}_l{k}", np.stack(parts)) if parts else ""
            for name, parts in arrays.items()
        }
        given = {
            "X": x,
            "sequence_lens": "lengths_of_rows",
            "initial_h": f"h_0_l{k}",
            "initial_c": f"c_0_l{k}",
        }
        outputs = [f"Y_l{k}", f"h_n_l{k}", f"c_n_l{k}"]
        inputs = [(weights | given)[name] for name in INPUTS]
        self._node("LSTM", inputs, outputs, **self._attributes)
        if D == 1:
            self._tensor(f"axes_l{k}", np.array([1], np.int64))
            self._node("Squeeze", [outputs[0], f"axes_l{k}"], [y])
        else:
            self._node("Transpose", [outputs[0]], [f"rows_l{k}"], perm=[0, 2, 1, 3])
            self._tensor(f"shape_l{k}", np.array([0, 0, D * H], np.int64))
            self._node("Reshape", [f"rows_l{k}", f"shape_l{k}"], [y])
        return y

    def model(self) -> Any:
        """Return the whole model."""
        lstm, helper = self._lstm, self._onnx.helper
        L, D, H = lstm.num_layers, lstm.num_directions, lstm.hidden_size
        turned = lstm.batch_first
        if turned:
            self._node("Transpose", ["x"], ["x_l0"], perm=[1, 0, 2])
        source = "x_l0" if turned else "x"
        self._calls(source)
        for k in range(L):
            last = k == L - 1 and not turned
            source = self._layer(k, source, "y" if last else f"x_l{k + 1}")
        if turned:
            self._node("Transpose", [source], ["y"], perm=[1, 0, 2])
        for part in ("h", "c"):
            self._node("Concat", [f"{part}_n_l{k}" for k in range(L)], [f"{part}_n"], axis=0)

        kind = helper.np_dtype_to_tensor_dtype(lstm.dtype)
        steps = ["B", "T"] if turned else ["T", "B"]
        shapes = {"x": [*steps, lstm.input_size], "y": [*steps, D * H]}
        shapes |= {name: [L * D, "rows_of_state", H] for name in ("h_0", "c_0")}
        shapes |= {name: [L * D, "B", H] for name in ("h_n", "c_n")}
        values = {name: helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()}
        int32 = self._onnx.TensorProto.INT32
        values["lengths"] = helper.make_tensor_value_info("lengths", int32, ["rows_of_lengths"])
        graph = helper.make_graph(
            self._nodes,
            "lstm",
            [values[name] for name in ("x", "h_0", "c_0", "lengths")],
            [values[name] for name in ("y", "h_n", "c_n")],
            self._tensors,
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="clstm",
            producer_version=__version__,
        )
