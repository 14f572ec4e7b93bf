"""The other libraries, one small class each; constructing it imports the library, so that may be absent.

A further peer is a class with `modules`, `supports`, `call` and `results`, and an entry in CONTESTANTS:
verification, timing and output do not change.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from .cases import Case
from .contestants import Array, Clstm, Contestant, NumPy, Problem, Results


class Torch(Contestant):
    """torch.nn.LSTM; unequal lengths through packed sequences."""

    name = "torch"
    modules = ("torch",)

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.torch = torch = importlib.import_module("torch")
        torch.set_num_threads(problem.case.threads)
        training = problem.case.kind == "training"
        case = problem.case
        lstm = torch.nn.LSTM(case.I, case.H, dtype=getattr(torch, case.dtype)).train(training)
        weights = {
            name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in problem.weights.items()
        }
        bias = weights.pop("bias_l0")
        lstm.load_state_dict(weights | {"bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)})
        state = tuple(
            torch.from_numpy(value.copy()).requires_grad_(training) for value in (problem.h_0, problem.c_0)
        )
        if training:
            self.call = self._training(lstm, state)
        else:
            self.call = self._steps(lstm, state) if case.kind == "stream" else self._forward(lstm, state)
            self.scope = torch.inference_mode

    def _steps(self, lstm: Any, state: Any) -> Callable[[], Any]:
        x_t = self.torch.from_numpy(self.x_t)[None]

        def step() -> Any:
            nonlocal state
            y, state = lstm(x_t, state)
            return (y, state), ()

        return step

    def _forward(self, lstm: Any, state: Any, x: Any = None) -> Callable[[], Any]:
        rnn = importlib.import_module("torch.nn.utils.rnn")
        problem = self.problem
        x = self.torch.from_numpy(problem.x) if x is None else x
        if problem.lengths is None:
            return lambda: (lstm(x, state), ())
        lengths = self.torch.from_numpy(problem.lengths.astype(np.int64))

        def forward() -> Any:
            packed, last = lstm(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False), state)
            return (rnn.pad_packed_sequence(packed, total_length=problem.case.T)[0], last), ()

        return forward

    def _training(self, lstm: Any, state: Any) -> Callable[[], Any]:
        x = self.torch.from_numpy(self.problem.x.copy()).requires_grad_()
        dy = self.torch.from_numpy(self.problem.dy.copy())
        forward = self._forward(lstm, state, x)
        # `grad` hands the gradients out instead of adding them to `.grad`: the least work that yields all of
        # them.
        wanted = [x, *state, *lstm.parameters()]
        self.names = ["dx", "dh_0", "dc_0", *(f"d{name}" for name, _ in lstm.named_parameters())]
        grad = self.torch.autograd.grad

        def train() -> Any:
            output, _ = forward()
            return output, grad(output[0], wanted, dy)

        return train

    def results(self, output: Any) -> Results:
        """Name what `call` returned; the two biases of torch have the same gradient, and one is kept."""
        (y, (h_n, c_n)), gradients = output
        results = {"y": y, "h_n": h_n, "c_n": c_n}
        if gradients:
            results |= dict(zip(self.names, gradients, strict=True))
            del results["dbias_hh_l0"]
        return {name.replace("bias_ih", "bias"): value.detach().numpy() for name, value in results.items()}


class TorchCell(Contestant):
    """torch.nn.LSTMCell, made for single steps."""

    name = "torch_cell"
    modules = ("torch",)

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        torch = importlib.import_module("torch")
        torch.set_num_threads(problem.case.threads)
        case = problem.case
        cell = torch.nn.LSTMCell(case.I, case.H, dtype=getattr(torch, case.dtype)).eval()
        weights = {
            name[:-3]: torch.from_numpy(np.ascontiguousarray(value))
            for name, value in problem.weights.items()
        }
        bias = weights.pop("bias")
        cell.load_state_dict(weights | {"bias_ih": bias, "bias_hh": torch.zeros_like(bias)})
        x_t = torch.from_numpy(self.x_t)
        first = state = (torch.from_numpy(problem.h_0[0].copy()), torch.from_numpy(problem.c_0[0].copy()))

        def step() -> Any:
            nonlocal state
            state = cell(x_t, state)
            return state

        self.call = step if case.kind == "stream" else lambda: cell(x_t, first)
        self.scope = torch.inference_mode

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Single steps only."""
        return case.kind in ("stream", "step")

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        h, c = (value.numpy()[None] for value in output)
        return {"y": h, "h_n": h, "c_n": c}


class OnnxRuntime(Contestant):
    """ONNX Runtime on a model of one LSTM node; inference in float32.

    Inputs and outputs are bound to arrays once, which takes half of the time of a small call.  A stream has
    two bindings in turns: the state that one writes is what the other reads.
    """

    name = "onnxruntime"
    modules = ("onnx", "onnxruntime")

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = problem.case.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(
            onnx_model(problem), options, providers=["CPUExecutionProvider"]
        )
        self.arrays = arrays = _Arrays(self)  # a binding does not keep them alive
        run = self.session.run_with_iobinding
        if problem.case.kind != "stream":
            binding = self._bound(arrays.inputs, arrays.outputs)
            self.call = lambda: run(binding) or arrays.outputs
            return
        bindings = [(self._bound(inputs, outputs), outputs) for inputs, outputs in arrays.in_turns()]

        def step() -> Any:
            bindings.reverse()
            binding, outputs = bindings[-1]
            run(binding)
            return outputs

        self.call = step

    def _bound(self, inputs: Results, outputs: Results) -> Any:
        binding = self.session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding

    @classmethod
    def supports(cls, case: Case) -> bool:
        """No gradients; its CPU kernel has no float64."""
        return case.kind != "training" and case.dtype == "float32"

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        return {name: value[:, 0] if name == "y" else value for name, value in output.items()}


class OpenVino(OnnxRuntime):
    """OpenVINO on the same model, with inputs and outputs in arrays of ours as well."""

    name = "openvino"
    modules = ("onnx", "openvino")

    def __init__(self, problem: Problem) -> None:
        Contestant.__init__(self, problem)
        openvino = importlib.import_module("openvino")
        config = {
            "INFERENCE_NUM_THREADS": problem.case.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        core = openvino.Core()
        model = core.compile_model(core.read_model(io.BytesIO(onnx_model(problem))), "CPU", config)
        self.arrays = arrays = _Arrays(self)
        streaming = problem.case.kind == "stream"
        requests = []
        for inputs, outputs in arrays.in_turns() if streaming else [(arrays.inputs, arrays.outputs)]:
            request = model.create_infer_request()
            for name, array in inputs.items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            for name, array in outputs.items():
                request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
            requests.append((request, outputs))

        def call() -> Any:
            requests.reverse()
            request, outputs = requests[-1]
            request.infer()
            return outputs

        self.call = call


class _Arrays:
    """What an ONNX model reads and writes, by name; `call` works on these."""

    def __init__(self, contestant: Contestant) -> None:
        problem, case = contestant.problem, contestant.problem.case
        x = contestant.x_t[None] if case.kind == "stream" else problem.x
        self.inputs = {"x": x, "h_0": problem.h_0.copy(), "c_0": problem.c_0.copy()}
        if problem.lengths is not None:
            self.inputs["lengths"] = problem.lengths.astype(np.int32)
        self.outputs = {"y": np.empty((case.T, 1, case.B, case.H), case.dtype)}
        self.outputs |= {"h_n": np.empty_like(problem.h_0), "c_n": np.empty_like(problem.c_0)}

    def in_turns(self) -> list[tuple[Results, Results]]:
        """Return inputs and outputs of the first, third, ... step, and of those between."""
        back_inputs = self.inputs | {"h_0": self.outputs["h_n"], "c_0": self.outputs["c_n"]}
        back_outputs = {"y": self.outputs["y"], "h_n": self.inputs["h_0"], "c_n": self.inputs["c_0"]}
        return [(self.inputs, self.outputs), (back_inputs, back_outputs)]


def onnx_model(problem: Problem) -> bytes:
    """Write a model of one LSTM node; ONNX orders gates i, o, f, g: blocks 0, 3, 1, 2 of ours; two biases."""
    onnx = importlib.import_module("onnx")
    helper, numpy_helper, case = onnx.helper, importlib.import_module("onnx.numpy_helper"), problem.case

    def reordered(name: str) -> Array:
        blocks = np.split(problem.weights[name], 4)
        return np.concatenate([blocks[n] for n in (0, 3, 1, 2)])[None]

    bias = reordered("bias_l0")
    constants = {
        "W": reordered("weight_ih_l0"),
        "R": reordered("weight_hh_l0"),
        "B": np.concatenate([bias, np.zeros_like(bias)], axis=1),
    }
    state = problem.h_0.shape
    shapes: dict[str, tuple[int, ...]] = {"x": (case.T, case.B, case.I), "h_0": state, "c_0": state}
    inputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
    ]
    if case.unequal:
        inputs.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [case.B]))
    shapes = {"y": (case.T, 1, case.B, case.H), "h_n": state, "c_n": state}
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in shapes.items()
    ]
    node_inputs = ["x", "W", "R", "B", "lengths" if case.unequal else "", "h_0", "c_0"]
    node = helper.make_node("LSTM", node_inputs, list(shapes), hidden_size=case.H)
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()
    ]
    graph = helper.make_graph([node], "lstm", inputs, outputs, initializers)
    # Old enough for every version of the runtimes that is in use.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return bytes(model.SerializeToString())


class Jax(Contestant):
    """A scan over time, compiled once; on padding the state stays and the output is 0."""

    name = "jax"
    modules = ("jax",)

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        jax = importlib.import_module("jax")
        jax.config.update("jax_enable_x64", True)
        jnp, case = jax.numpy, problem.case
        self.ready = jax.block_until_ready
        weights = tuple(jnp.asarray(np.ascontiguousarray(value.T)) for value in problem.weights.values())
        h_0, c_0, dy = (jnp.asarray(value) for value in (problem.h_0[0], problem.c_0[0], problem.dy))
        lengths = None if problem.lengths is None else jnp.asarray(problem.lengths)[:, None]

        def cell(carry: Any, x_projected: Any, R: Any, t: Any) -> Any:
            h_prev, c_prev = carry
            i, f, g, o = jnp.split(x_projected + h_prev @ R, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c_prev + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            if lengths is None:
                return (h, c), h
            real = t < lengths
            return (jnp.where(real, h, h_prev), jnp.where(real, c, c_prev)), jnp.where(real, h, 0.0)

        def forward(x: Any, h: Any, c: Any, W: Any, R: Any, bias: Any) -> Any:
            steps = (x @ W + bias, jnp.arange(len(x)))
            (h, c), y = jax.lax.scan(lambda carry, step: cell(carry, step[0], R, step[1]), (h, c), steps)
            return y, h, c

        def train(x: Any, h: Any, c: Any, W: Any, R: Any, bias: Any) -> Any:
            output, pull_back = jax.vjp(forward, x, h, c, W, R, bias)
            return output, pull_back((dy, jnp.zeros_like(h), jnp.zeros_like(c)))

        function = train if case.kind == "training" else forward
        x = jnp.asarray(problem.x[: case.T])
        compiled = jax.jit(function).lower(x, h_0, c_0, *weights).compile()
        if case.kind == "stream":
            x_t, state = self.x_t[None], (h_0, c_0)

            def step() -> Any:
                nonlocal state
                y, *state = self.ready(compiled(x_t, *state, *weights))
                return (y, *state), ()

            self.call = step
        elif case.kind == "training":
            self.call = lambda: self.ready(compiled(x, h_0, c_0, *weights))
        else:
            self.call = lambda: (self.ready(compiled(x, h_0, c_0, *weights)), ())

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Tell whether one thread is wanted: how many it has is fixed when it starts."""
        return case.threads == 1

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        (y, h_n, c_n), gradients = output
        results = {"y": y, "h_n": h_n[None], "c_n": c_n[None]}
        if gradients:
            dx, dh_0, dc_0, *dweights = gradients
            results |= {"dx": dx, "dh_0": dh_0[None], "dc_0": dc_0[None]}
            results |= {
                f"d{name}": value.T for name, value in zip(self.problem.weights, dweights, strict=True)
            }
        return {name: np.asarray(value) for name, value in results.items()}


# In the order of the table's columns; the first is compared with the rest.
CONTESTANTS: tuple[type[Contestant], ...] = (Clstm, NumPy, Torch, TorchCell, OnnxRuntime, OpenVino, Jax)
