"""The contestants, one small class each: how it takes a problem, what is timed, and how its results are read.

All get the same arrays and weights, compute hidden states for all steps and the final state from a given initial state,
and in training every gradient: of the input, the initial state and all weights.  Whatever can be prepared once, before many
calls, is prepared outside the timed call.  A library is imported when its class is constructed, so it may be absent.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

import clstm

from .cases import Case

Array = NDArray[Any]
Results = dict[str, Array]


@dataclass(frozen=True)
class Problem:
    """A case with its numbers; one layer, one direction.

    Attributes
    ----------
    x : ndarray of shape (T, B, I)
    h_0, c_0 : ndarrays of shape (1, B, H)
    dy : ndarray of shape (T, B, H)
        Derivative of the loss by the hidden states.
    lengths : ndarray of shape (B,), or None
    weights : dict
        ``weight_ih_l0 (4H, I)``, ``weight_hh_l0 (4H, H)``, ``bias_l0 (4H,)``; gate order i, f, g, o.
    """

    case: Case
    x: Array
    h_0: Array
    c_0: Array
    dy: Array
    lengths: NDArray[np.intp] | None
    weights: dict[str, Array]

    @classmethod
    def of(cls, case: Case) -> Problem:
        """Draw the numbers of a case, the same ones every time."""
        rng = np.random.default_rng(0)
        shapes = [(case.T, case.B, case.I), (1, case.B, case.H), (1, case.B, case.H), (case.T, case.B, case.H)]
        x, h_0, c_0, dy = (rng.standard_normal(shape).astype(case.dtype) for shape in shapes)
        weights = clstm.LSTM(case.I, case.H, dtype=case.dtype, rng=rng).state_dict()
        weights["bias_l0"] += rng.uniform(-0.1, 0.1, 4 * case.H).astype(case.dtype)
        return cls(case, x, np.tanh(h_0), c_0, dy, case.lengths(), weights)

    def expected(self) -> Results:
        """Return what the definition computes in float64, by the names that `Contestant.results` uses."""
        wide = Case(**{**vars(self.case), "dtype": "float64"})
        numbers = {name: value.astype(np.float64) for name in ("x", "h_0", "c_0", "dy") for value in [getattr(self, name)]}
        reference = NumPy(Problem(wide, **numbers, lengths=self.lengths, weights=self.weights), threads=1)
        return reference.results(reference.call())


class Contestant:
    """What all have in common.

    Attributes
    ----------
    name : str
        In the table and for ``--contestants``.
    modules : tuple of str
        What has to be installed.
    call : callable
        What is timed; takes nothing and returns the results in the library's own form.
    scope : callable
        Returns a context manager that is entered once around many calls, outside the time.
    """

    name: ClassVar[str]
    modules: ClassVar[tuple[str, ...]] = ()
    call: Callable[[], Any]
    scope: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __init__(self, problem: Problem, threads: int) -> None:
        raise NotImplementedError

    @classmethod
    def missing(cls) -> list[str]:
        """Return the modules that are not installed."""
        return [module for module in cls.modules if importlib.util.find_spec(module) is None]

    @classmethod
    def supports(cls, case: Case) -> bool:  # noqa: ARG003
        """Tell whether the library can do this case."""
        return True

    def results(self, output: Any) -> Results:
        """Name what `call` returned: y (T, B, H), h_n, c_n (1, B, H); in training dx, dh_0, dc_0 and d(weight) as well."""
        raise NotImplementedError


class Clstm(Contestant):
    """The kernels of this package."""

    name = "clstm"
    lstm_class: ClassVar[Callable[..., Any]] = clstm.LSTM

    def __init__(self, problem: Problem, threads: int) -> None:  # noqa: ARG002
        case, x, state, lengths = problem.case, problem.x, (problem.h_0, problem.c_0), problem.lengths
        self.lstm = lstm = type(self).lstm_class(case.I, case.H, dtype=case.dtype)
        lstm.load_state_dict(problem.weights)

        def step() -> Any:
            return lstm.step(x[0], state)

        def forward() -> Any:
            return lstm(x, state, lengths)

        def training() -> Any:
            return lstm.forward(x, state, lengths), lstm.backward(problem.dy)

        self.kind = case.kind
        self.call = {"step": step, "forward": forward, "training": training}[case.kind]

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        (y, (h_n, c_n)), backward = output if self.kind == "training" else (output, None)
        results = {"y": y if y.ndim == 3 else y[None], "h_n": h_n, "c_n": c_n}
        if backward is not None:
            dx, (dh_0, dc_0) = backward
            results |= {"dx": dx, "dh_0": dh_0, "dc_0": dc_0}
            results |= {f"d{name}": value for name, value in self.lstm.grads.items()}
        return results


class NumPy(Clstm):
    """The definition, in plain NumPy."""

    name = "numpy"
    lstm_class = clstm.reference.LSTM


class Torch(Contestant):
    """torch.nn.LSTM; unequal lengths through packed sequences."""

    name = "torch"
    modules = ("torch",)

    def __init__(self, problem: Problem, threads: int) -> None:
        import torch
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

        torch.set_num_threads(threads)
        case, training = problem.case, problem.case.kind == "training"
        lstm = torch.nn.LSTM(case.I, case.H, dtype=getattr(torch, case.dtype)).train(training)
        weights = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in problem.weights.items()}
        bias = weights.pop("bias_l0")
        lstm.load_state_dict(weights | {"bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)})
        x, h_0, c_0 = (
            torch.from_numpy(value.copy()).requires_grad_(training) for value in (problem.x, problem.h_0, problem.c_0)
        )
        dy = torch.from_numpy(problem.dy.copy())
        lengths = None if problem.lengths is None else torch.from_numpy(problem.lengths.astype(np.int64))
        # `grad` hands the gradients out instead of adding them to `.grad`: the least work that yields all of them.
        wanted = [x, h_0, c_0, *lstm.parameters()]
        self.names = ["dx", "dh_0", "dc_0", *(f"d{name}" for name, _ in lstm.named_parameters())]

        def forward() -> Any:
            if lengths is None:
                return lstm(x, (h_0, c_0))
            packed, state = lstm(pack_padded_sequence(x, lengths, enforce_sorted=False), (h_0, c_0))
            return pad_packed_sequence(packed, total_length=case.T)[0], state

        def inference() -> Any:
            return forward(), ()

        def train() -> Any:
            output = forward()
            return output, torch.autograd.grad(output[0], wanted, dy)

        self.call = train if training else inference
        if not training:
            self.scope = torch.inference_mode

    def results(self, output: Any) -> Results:
        """Name what `call` returned; the two biases of torch have the same gradient, and one is kept."""
        (y, (h_n, c_n)), gradients = output
        results = {"y": y, "h_n": h_n, "c_n": c_n} | dict(zip(self.names, gradients, strict=False))
        results.pop("dbias_hh_l0", None)
        return {name.replace("bias_ih", "bias"): value.detach().numpy() for name, value in results.items()}


class TorchCell(Contestant):
    """torch.nn.LSTMCell, made for single steps."""

    name = "torch_cell"
    modules = ("torch",)

    def __init__(self, problem: Problem, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        case = problem.case
        cell = torch.nn.LSTMCell(case.I, case.H, dtype=getattr(torch, case.dtype)).eval()
        weights = {name[:-3]: torch.from_numpy(np.ascontiguousarray(value)) for name, value in problem.weights.items()}
        bias = weights.pop("bias")
        cell.load_state_dict(weights | {"bias_ih": bias, "bias_hh": torch.zeros_like(bias)})
        x = torch.from_numpy(problem.x[0].copy())
        state = (torch.from_numpy(problem.h_0[0].copy()), torch.from_numpy(problem.c_0[0].copy()))
        self.call = lambda: cell(x, state)
        self.scope = torch.inference_mode

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Single steps only."""
        return case.kind == "step"

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        h, c = (value.numpy()[None] for value in output)
        return {"y": h, "h_n": h, "c_n": c}


class OnnxRuntime(Contestant):
    """ONNX Runtime on a model of one LSTM node; inference in float32."""

    name = "onnxruntime"
    modules = ("onnx", "onnxruntime")

    def __init__(self, problem: Problem, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(_onnx_model(problem), options, providers=["CPUExecutionProvider"])
        feeds = {"x": problem.x, "h_0": problem.h_0, "c_0": problem.c_0}
        if problem.lengths is not None:
            feeds["lengths"] = problem.lengths.astype(np.int32)
        self.call = lambda: session.run(None, feeds)

    @classmethod
    def supports(cls, case: Case) -> bool:
        """No gradients; its CPU kernel has no float64."""
        return case.kind != "training" and case.dtype == "float32"

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        y, h_n, c_n = output
        return {"y": y[:, 0], "h_n": h_n, "c_n": c_n}


def _onnx_model(problem: Problem) -> bytes:
    """Write a model of one LSTM node; ONNX orders the gates i, o, f, g, blocks 0, 3, 1, 2 of ours, and has two biases."""
    from onnx import TensorProto, helper, numpy_helper

    case = problem.case

    def reordered(name: str) -> Array:
        blocks = np.split(problem.weights[name], 4)
        return np.concatenate([blocks[n] for n in (0, 3, 1, 2)])[None]

    bias = reordered("bias_l0")
    constants = {
        "W": reordered("weight_ih_l0"),
        "R": reordered("weight_hh_l0"),
        "B": np.concatenate([bias, np.zeros_like(bias)], axis=1),
    }
    shapes = {"x": problem.x.shape, "h_0": problem.h_0.shape, "c_0": problem.c_0.shape}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    if case.unequal:
        inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, [case.B]))
    shapes = {"y": (case.T, 1, case.B, case.H), "h_n": problem.h_0.shape, "c_n": problem.c_0.shape}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    node_inputs = ["x", "W", "R", "B", "lengths" if case.unequal else "", "h_0", "c_0"]
    node = helper.make_node("LSTM", node_inputs, list(shapes), hidden_size=case.H)
    initializers = [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph([node], "lstm", inputs, outputs, initializers)
    # Old enough for every version of the runtime that is in use.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return bytes(model.SerializeToString())


# In the order of the table's columns; the first is compared with the rest.  A further peer is one more class here.
CONTESTANTS: tuple[type[Contestant], ...] = (Clstm, NumPy, Torch, TorchCell, OnnxRuntime)
