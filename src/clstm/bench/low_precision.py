"""The other libraries with weights of fewer bits, for the rows beside `LSTM.quantize`; inference alone.

They are peers.py's classes with another module or model.  None computes what the definition does from the
same weights, so each is verified with a tolerance of its own (`measure.TOLERANCES`).
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np

from .contestants import Clstm, Contestant, Results
from .peers import OnnxRuntime, OpenVino, Torch, blocks, onnx_model


class TorchInt8(Torch):
    """What `quantize_dynamic` makes of torch.nn.LSTM: weights of 8 bits, activations as they come."""

    name = "torch_int8"
    arithmetic = "int8 activations"

    def _module(self) -> Any:
        torch = self.torch
        with warnings.catch_warnings():  # it is to move to another package
            warnings.simplefilter("ignore")
            return torch.ao.quantization.quantize_dynamic(
                torch.nn.Sequential(super()._module()), {torch.nn.LSTM}, dtype=torch.qint8
            )[0]


class TorchBfloat16(Torch):
    """torch.nn.LSTM in bfloat16, states and x as well; these are converted outside the timed call."""

    name = "torch_bfloat16"
    arithmetic = "bfloat16"

    def _module(self) -> Any:
        dtype = self.torch.bfloat16
        lstm = super()._module().to(dtype)
        self.x, self.state = self.x.to(dtype), tuple(value.to(dtype) for value in self.state)
        return lambda x, state: lstm(x.to(dtype), state)  # of a stream each x comes as float32

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        (y, state), gradients = output
        return super().results(((y.float(), tuple(value.float() for value in state)), gradients))


class OnnxRuntimeInt8(OnnxRuntime):
    """ONNX Runtime's `DynamicQuantizeLSTM`: weights of 8 bits, activations quantised as they come."""

    name = "onnxruntime_int8"
    arithmetic = "int8 activations"

    def _model(self) -> bytes:
        return onnx_model(self.problem, quantised=True)


class OpenVinoBfloat16(OpenVino):
    """OpenVINO told to compute in bfloat16; where the processor has no such instructions it does not."""

    name = "openvino_bfloat16"
    arithmetic = "bfloat16"
    precision_hint = "bf16"


class OpenVinoInt8(OpenVino):
    """OpenVINO with weights and activations of 8 bits.

    Weights that are merely stored in 8 bits (constants that are converted and multiplied) it turns into
    float32 when it compiles an LSTM.  What makes it compute in 8 bits is a `FakeQuantize` before each of x,
    h, W and R.  Its LSTM has one scale for x and h together, and one for the same row of W and R; it takes
    several and computes something else.  So x is brought into the range of h, and W multiplied by as much.
    """

    name = "openvino_int8"
    arithmetic = "int8 activations"

    def _prepared(self, model: Any) -> Any:
        opset, x_range = importlib.import_module("openvino.opset13"), self.problem.x_range
        (lstm,) = (node for node in model.get_ops() if node.get_type_name() == "LSTMSequence")

        def activations(port: int, size: float) -> Any:
            """Quantise an input in -size..size to 8 bits in -1..1, with a number for 0."""
            bounds = [opset.constant(np.float32(bound)) for bound in (-size, size * 127 / 128, -1, 127 / 128)]
            return opset.fake_quantize(lstm.input_value(port), *bounds, 256)

        # Its gates are f, i, g, o.
        W, R = (
            blocks(self.problem, "weight_ih", 0, "figo") * np.float32(x_range),
            blocks(self.problem, "weight_hh", 0, "figo"),
        )
        size = np.abs(np.concatenate([W, R], axis=2)).max(axis=2, keepdims=True)
        bounds = [opset.constant(bound) for bound in (-size, size)] * 2
        sources = {0: activations(0, x_range), 1: activations(1, 1.0)}
        for port, weights in ((4, W), (5, R)):
            sources[port] = opset.fake_quantize(opset.constant(weights), *bounds, 255)
        for port, source in sources.items():
            lstm.input(port).replace_source_output(source.output(0))
        return model


CONTESTANTS: tuple[type[Contestant], ...] = (
    Clstm,
    TorchInt8,
    TorchBfloat16,
    OnnxRuntimeInt8,
    OpenVinoInt8,
    OpenVinoBfloat16,
)
