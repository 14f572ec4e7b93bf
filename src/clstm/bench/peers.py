"""The other libraries, one small class each; constructing it imports the library, so that may be absent.

A further peer is a class with `modules`, `supports`, `call` and `results`, and an entry in CONTESTANTS:
verification, timing and output do not change.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np

import clstm

from ..reference import EPSILON
from .cases import SHAPING, Case
from .contestants import Array, Clstm, Contestant, NumPy, Problem, Results, masks

ONNX_GATES = "iofg"  # the order of their blocks


class Torch(Contestant):
    """torch.nn.LSTM; unequal lengths through packed sequences, resets by one call for each step.

    It has no resets, so that code clears the state itself where an episode begins, and takes a step a call
    for it.
    """

    name = "torch"
    modules = ("torch",)

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.torch = torch = importlib.import_module("torch")
        torch.set_num_threads(problem.case.threads)
        training = problem.case.kind == "training"
        self.weights = {
            name: torch.from_numpy(np.ascontiguousarray(value)).requires_grad_(training)
            for name, value in problem.weights.items()
        }
        self.state = tuple(
            torch.from_numpy(value.copy()).requires_grad_(training) for value in (problem.h_0, problem.c_0)
        )
        self.x = torch.from_numpy(problem.x.copy()).requires_grad_(training)
        self.dy = torch.from_numpy(problem.dy.copy())
        self.unpack: Callable[[Any], Any] | None = None
        if training:
            self.call = self._training()
        else:
            self.scope = torch.inference_mode
            self.call = self._steps() if problem.case.kind == "stream" else self._inference()

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Of the options it has the projection; with resets it is one layer that is called step by step."""
        known = {"proj_size"} | (set() if case.resets else SHAPING)
        return {name for name, _ in case.options} <= known and not (case.resets and case.unequal)

    def _module(self) -> Any:
        """Return the module, and let `weights` be its parameters."""
        torch, case, training = self.torch, self.problem.case, self.problem.case.kind == "training"
        dtype, R = getattr(torch, case.dtype), case.R if case.R != case.H else 0
        shaping = {name: value for name, value in case.options if name in SHAPING}
        lstm = torch.nn.LSTM(case.I, case.H, proj_size=R, dtype=dtype, **shaping).train(training)
        weights = {}
        for name, value in self.weights.items():  # ours is the sum of its two biases
            weights[name.replace("bias", "bias_ih")] = value.detach()
            if name.startswith("bias"):
                weights[name.replace("bias", "bias_hh")] = torch.zeros_like(value)
        lstm.load_state_dict(weights)
        # It goes without oneDNN then, and says so in the middle of the table.
        warnings.filterwarnings("ignore", "LSTM with projections")
        self.weights = dict(lstm.named_parameters())
        return lstm

    def _steps(self) -> Callable[[], Any]:
        lstm, state = self._module(), self.state
        x_t = self.torch.from_numpy(self.x_t)[None]

        def step() -> Any:
            nonlocal state
            y, state = lstm(x_t, state)
            return (y, state), ()

        return step

    def _forward(self) -> Callable[[], Any]:
        """Return what runs the sequences: (y, (h_n, c_n))."""
        rnn = importlib.import_module("torch.nn.utils.rnn")
        problem, lstm, x, state = self.problem, self._module(), self.x, self.state
        if problem.resets is not None:
            return self._in_pieces(lstm, problem.resets)
        if problem.lengths is None:
            return lambda: lstm(x, state)
        lengths = self.torch.from_numpy(problem.lengths.astype(np.int64))
        if problem.case.module:
            return self._packed(lengths, lstm)

        def forward() -> Any:
            packed, last = lstm(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False), state)
            return rnn.pad_packed_sequence(packed, total_length=problem.case.T)[0], last

        return forward

    def _packed(self, lengths: Any, lstm: Any) -> Callable[[], Any]:
        """Return what runs a sequence that is packed outside the timed call; its output stays packed."""
        rnn = importlib.import_module("torch.nn.utils.rnn")
        packed, dy = (
            rnn.pack_padded_sequence(steps.detach(), lengths, enforce_sorted=False)
            for steps in (self.x, self.dy)
        )
        self.x, self.dy = packed.data.requires_grad_(self.x.requires_grad), dy.data
        self.unpack = lambda data: rnn.pad_packed_sequence(
            packed._replace(data=data), total_length=self.problem.case.T
        )[0]

        def forward() -> Any:
            output, last = lstm(packed, self.state)
            return output.data, last

        return forward

    def _in_pieces(self, lstm: Any, resets: Array) -> Callable[[], Any]:
        """Return what clears the state before each piece."""
        starts = self._starts(resets)
        sizes = np.diff([*starts, len(resets)]).tolist()
        keeps = self._keeps(resets)

        def forward() -> Any:
            h, c = self.state
            outputs = []
            for start, x in zip(starts, self.x.split(sizes), strict=True):
                keep = keeps[start]
                y, (h, c) = lstm(x, (keep * h, keep * c))
                outputs.append(y)
            return self.torch.cat(outputs), (h, c)

        return forward

    def _starts(self, resets: Array) -> list[int]:
        """Return the first step of each piece."""
        return list(range(len(resets)))

    def _keeps(self, resets: Array) -> Any:
        """Return for each step what the state is multiplied by: 0 where an episode begins, else 1; (B, 1)."""
        return self.torch.from_numpy((~resets).astype(self.problem.case.dtype))[..., None].unbind(0)

    def _inference(self) -> Callable[[], Any]:
        forward = self._forward()
        return lambda: (forward(), ())

    def _training(self) -> Callable[[], Any]:
        forward = self._forward()
        dy = self.dy
        # `grad` hands the gradients out instead of adding them to `.grad`: the least work that yields all of
        # them.
        wanted = [self.x, *self.state, *self.weights.values()]
        self.names = ["dx", "dh_0", "dc_0", *(f"d{name}" for name in self.weights)]
        grad = self.torch.autograd.grad

        def train() -> Any:
            output = forward()
            return output, grad(output[0], wanted, dy)

        return train

    def results(self, output: Any) -> Results:
        """Name what `call` returned; the two biases of torch have the same gradient, and one is kept."""
        (y, (h_n, c_n)), gradients = output
        results = {"y": y, "h_n": h_n, "c_n": c_n}
        if gradients:
            found = zip(self.names, gradients, strict=True)
            results |= {name: value for name, value in found if not name.startswith("dbias_hh")}
        if self.unpack is not None:
            results |= {name: self.unpack(results[name]) for name in ("y", "dx") if name in results}
        return {name.replace("bias_ih", "bias"): value.detach().numpy() for name, value in results.items()}


class ClstmTorch(Torch):
    """The same module on the kernels of this package; resets are an argument of its call."""

    name = "clstm_torch"
    is_peer = False

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Rows about modules only."""
        return case.module

    def _module(self) -> Any:
        self.lstm = lstm = super()._module()
        importlib.import_module("clstm.torch").convert(lstm)
        self.scope = self._with_threads
        return lstm

    @contextlib.contextmanager
    def _with_threads(self) -> Iterator[None]:
        before = clstm.get_num_threads()
        clstm.set_num_threads(self.problem.case.threads)
        try:
            with nullcontext() if self.problem.case.kind == "training" else self.torch.inference_mode():
                yield
        finally:
            clstm.set_num_threads(before)

    def _in_pieces(self, lstm: Any, resets: Array) -> Callable[[], Any]:
        begins = self.torch.from_numpy(resets)
        return lambda: lstm(self.x, self.state, resets=begins)


class ClstmTorchFrozen(ClstmTorch):
    """The same, frozen."""

    name = "clstm_frozen"

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Inference only."""
        return case.module and case.kind != "training"

    def _module(self) -> Any:
        return super()._module().freeze()


class TorchPieces(Torch):
    """torch.nn.LSTM, one call for each piece between steps where an episode of any row begins."""

    name = "torch_pieces"

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Tell whether there are resets."""
        return case.resets and super().supports(case)

    def _starts(self, resets: Array) -> list[int]:
        return sorted({0, *np.flatnonzero(resets.any(axis=1)).tolist()})


class TorchLoop(Torch):
    """A loop over time in operations of torch, for what torch.nn.LSTM does not have; one product for all x.

    The gates of a step are one `addmm` and operations on its four chunks; the gradients are autograd's.
    """

    name = "torch_loop"

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Whole sequences with resets or options; masks are not drawn anew for each episode."""
        options = {name for name, _ in case.options}
        known = {"peepholes", "proj_size", "layer_norm"} | (set() if case.resets else {"recurrent_dropout"})
        wanted = case.kind in ("forward", "training") and (case.resets or bool(options))
        return wanted and options <= known and not case.unequal

    def _forward(self) -> Callable[[], Any]:
        torch, problem, weights = self.torch, self.problem, self.weights
        functional, case = torch.nn.functional, problem.case
        W_x, W_h, bias = (weights[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias"))
        peepholes, W_r = weights.get("weight_peephole_l0"), weights.get("weight_hr_l0")
        gain_x, gain_h, norm_c = (weights.get(f"layer_norm_{name}_l0") for name in "xhc")
        keeps: Any = [None] * case.T if problem.resets is None else self._keeps(problem.resets)
        draw = self._masks()

        def forward() -> Any:
            h, c = self.state[0][0], self.state[1][0]
            R, mask, outputs = W_h.t(), draw(), []
            z_x = functional.linear(self.x, W_x, bias if gain_x is None else None)
            if gain_x is not None:
                z_x = functional.layer_norm(z_x, gain_x.shape, gain_x, bias)
            if norm_c is not None:
                gain_c, shift_c = norm_c.unbind(0)
            if peepholes is not None:
                p_i, p_f, p_o = peepholes.unbind(0)
            for x_t, keep in zip(z_x.unbind(0), keeps, strict=True):
                if keep is not None:
                    h, c = keep * h, keep * c
                h_seen = h if mask is None else h * mask
                if gain_h is None:
                    z = torch.addmm(x_t, h_seen, R)
                else:
                    z = x_t + functional.layer_norm(h_seen @ R, gain_h.shape, gain_h)
                i, f, g, o = z.chunk(4, 1)
                if peepholes is not None:
                    i, f = torch.addcmul(i, p_i, c), torch.addcmul(f, p_f, c)
                c = torch.addcmul(f.sigmoid() * c, i.sigmoid(), g.tanh())
                if peepholes is not None:
                    o = torch.addcmul(o, p_o, c)
                seen = c if norm_c is None else functional.layer_norm(c, gain_c.shape, gain_c, shift_c)
                h = o.sigmoid() * seen.tanh()
                if W_r is not None:
                    h = h @ W_r.t()
                outputs.append(h)
            return torch.stack(outputs), (h[None], c[None])

        return forward

    def _masks(self) -> Callable[[], Any]:
        """Return what draws the mask of h_prev for a call; the first call, which is verified, has clstm's."""
        mask = self.problem.recurrent_mask()
        if mask is None:
            return lambda: None
        p, ones = self.problem.case.recurrent_dropout, self.torch.ones(mask.shape, dtype=self.x.dtype)
        draw = self.torch.nn.functional.dropout
        return masks(self.torch.from_numpy(mask.copy()), lambda: draw(ones, p))


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
        """Single steps of the plain layer only."""
        return case.kind in ("stream", "step") and not case.options

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
            self._model(), options, providers=["CPUExecutionProvider"]
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

    def _model(self) -> bytes:
        return onnx_model(self.problem)

    def _bound(self, inputs: Results, outputs: Results) -> Any:
        binding = self.session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        return binding

    @classmethod
    def supports(cls, case: Case) -> bool:
        """No gradients, no resets; its CPU kernel has no float64."""
        options = {name for name, _ in case.options}
        can = case.kind != "training" and case.dtype == "float32" and not case.resets
        return can and options <= {"peepholes"} | SHAPING

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        y = output["y"].swapaxes(1, 2)
        return {**output, "y": y.reshape(*y.shape[:2], -1)}


class OpenVino(OnnxRuntime):
    """OpenVINO on the same model, with inputs and outputs in arrays of ours as well."""

    name = "openvino"
    modules = ("onnx", "openvino")
    precision_hint: ClassVar[str] = "f32"

    def __init__(self, problem: Problem) -> None:
        Contestant.__init__(self, problem)
        openvino = importlib.import_module("openvino")
        config = {
            "INFERENCE_NUM_THREADS": problem.case.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.precision_hint,
        }
        core = openvino.Core()
        model = self._prepared(core.read_model(io.BytesIO(self._model())))
        model = core.compile_model(model, "CPU", config)
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

    @classmethod
    def supports(cls, case: Case) -> bool:
        """No peepholes either."""
        return super().supports(case) and "peepholes" not in dict(case.options)

    def _prepared(self, model: Any) -> Any:
        """Return what is compiled."""
        return model


class _Arrays:
    """What an ONNX model reads and writes, by name; `call` works on these."""

    def __init__(self, contestant: Contestant) -> None:
        problem, case = contestant.problem, contestant.problem.case
        x = contestant.x_t[None] if case.kind == "stream" else problem.x
        self.inputs = {"x": x, "h_0": problem.h_0.copy(), "c_0": problem.c_0.copy()}
        if problem.lengths is not None:
            self.inputs["lengths"] = problem.lengths.astype(np.int32)
        self.outputs = {"y": np.empty((case.T, case.directions, case.B, case.H), case.dtype)}
        self.outputs |= {"h_n": np.empty_like(problem.h_0), "c_n": np.empty_like(problem.c_0)}

    def in_turns(self) -> list[tuple[Results, Results]]:
        """Return inputs and outputs of the first, third, ... step, and of those between."""
        back_inputs = self.inputs | {"h_0": self.outputs["h_n"], "c_0": self.outputs["c_n"]}
        back_outputs = {"y": self.outputs["y"], "h_n": self.inputs["h_0"], "c_n": self.inputs["c_0"]}
        return [(self.inputs, self.outputs), (back_inputs, back_outputs)]


def onnx_model(problem: Problem, quantised: bool = False) -> bytes:
    """Write a model of one node a layer.

    Parameters
    ----------
    problem : Problem
    quantised : bool
        The nodes are `DynamicQuantizeLSTM` of ONNX Runtime, with weights of 8 bits and one scale a matrix,
        which is what its own `quantize_dynamic` makes of an LSTM and its fastest form.
    """
    onnx = importlib.import_module("onnx")
    helper, numpy_helper, case = onnx.helper, importlib.import_module("onnx.numpy_helper"), problem.case
    constants: dict[str, Array] = {}
    nodes: list[Any] = []
    L, D = case.layers, case.directions

    def pieces(name: str) -> list[str]:
        """Return what the part of a state is called that belongs to each layer."""
        return [name] if L == 1 else [f"{name}_{k}" for k in range(L)]

    def matrix(name: str, weights: Array) -> list[str]:
        """Add a matrix (D, 4H, inputs); return its name, and those of its scale and its zero."""
        if not quantised:
            constants[name] = weights
            return [name]
        scale = np.abs(weights).max(axis=(1, 2)) / 127
        constants[name] = np.rint(weights / scale[:, None, None]).astype(np.int8).swapaxes(1, 2)
        constants[f"{name}_scale"], constants[f"{name}_zero"] = scale, np.zeros(D, np.int8)
        return [name, f"{name}_scale", f"{name}_zero"]

    if L > 1:
        nodes += [helper.make_node("Split", [name], pieces(name), axis=0) for name in ("h_0", "c_0")]
    below = "x"
    for k, (h_0, c_0, h_n, c_n) in enumerate(zip(*map(pieces, ("h_0", "c_0", "h_n", "c_n")), strict=True)):
        y = "y" if k == L - 1 else f"y_{k}"
        W, *scale_of_W = matrix(f"W_{k}", blocks(problem, "weight_ih", k, ONNX_GATES))
        R, *scale_of_R = matrix(f"R_{k}", blocks(problem, "weight_hh", k, ONNX_GATES))
        bias = blocks(problem, "bias", k, ONNX_GATES)
        constants[f"B_{k}"] = np.concatenate([bias, np.zeros_like(bias)], axis=1)
        inputs = [below, W, R, f"B_{k}", "lengths" if case.unequal else "", h_0, c_0]
        if "weight_peephole_l0" in problem.weights:
            constants["P"] = problem.weights["weight_peephole_l0"][[0, 2, 1]].reshape(1, -1)  # i, o, f
            inputs.append("P")
        further = {"hidden_size": case.H, "direction": "bidirectional" if D == 2 else "forward"}
        if quantised:
            inputs += ["", *scale_of_W, *scale_of_R]
            further["domain"] = "com.microsoft"
        operator = "DynamicQuantizeLSTM" if quantised else "LSTM"
        nodes.append(helper.make_node(operator, inputs, [y, h_n, c_n], **further))
        if k < L - 1:  # (T, D, B, H) to (T, B, D * H)
            below, constants["merged"] = f"x_{k + 1}", np.array([case.T, case.B, D * case.H])
            nodes.append(helper.make_node("Transpose", [y], [f"{y}_turned"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"{y}_turned", "merged"], [below]))
    if L > 1:
        nodes += [helper.make_node("Concat", pieces(name), [name], axis=0) for name in ("h_n", "c_n")]
    kind, state = onnx.TensorProto.FLOAT, problem.h_0.shape
    shapes: dict[str, tuple[int, ...]] = {"x": (case.T, case.B, case.I), "h_0": state, "c_0": state}
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    if case.unequal:
        inputs.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [case.B]))
    shapes = {"y": (case.T, D, case.B, case.H), "h_n": state, "c_n": state}
    outputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    initializers = [
        numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, initializers)
    # Old enough for every version of the runtimes that is in use.
    opsets = [helper.make_opsetid("", 14)]
    opsets += [helper.make_opsetid("com.microsoft", 1)] if quantised else []
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return bytes(model.SerializeToString())


def blocks(problem: Problem, name: str, k: int, order: str) -> Array:
    """Return an array of layer k, (directions, 4H, ...), with the gates i, f, g, o in another order."""
    directions = ("", "_reverse")[: problem.case.directions]
    gates = [np.split(problem.weights[f"{name}_l{k}{direction}"], 4) for direction in directions]
    return np.stack([np.concatenate([each["ifgo".index(gate)] for gate in order]) for each in gates])


class Jax(Contestant):
    """A scan over time, compiled once; on padding the state stays and the output is 0."""

    name = "jax"
    modules = ("jax",)

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.jax = jax = importlib.import_module("jax")
        jax.config.update("jax_enable_x64", True)
        jnp, case, training = jax.numpy, problem.case, problem.case.kind == "training"
        self.ready = jax.block_until_ready
        weights = {
            name: jnp.asarray(np.ascontiguousarray(value.T)) for name, value in problem.weights.items()
        }
        h_0, c_0, dy = (jnp.asarray(value) for value in (problem.h_0[0], problem.c_0[0], problem.dy))

        def train(mask: Any, *arguments: Any) -> Any:
            output, pull_back = jax.vjp(partial(self._forward, mask), *arguments)
            return output, pull_back((dy, jnp.zeros_like(h_0), jnp.zeros_like(c_0)))

        x = jnp.asarray(problem.x[: case.T])
        function, mask = (train if training else self._forward), problem.recurrent_mask()
        compiled = jax.jit(function).lower(mask, x, h_0, c_0, weights).compile()
        if case.kind == "stream":
            x_t, state = self.x_t[None], (h_0, c_0)

            def step() -> Any:
                nonlocal state
                y, *state = self.ready(compiled(None, x_t, *state, weights))
                return (y, *state), ()

            self.call = step
        elif training:
            draw = self._masks(mask)
            self.call = lambda: self.ready(compiled(draw(), x, h_0, c_0, weights))
        else:
            self.call = lambda: (self.ready(compiled(None, x, h_0, c_0, weights)), ())

    @classmethod
    def supports(cls, case: Case) -> bool:
        """Tell whether one thread is wanted: how many it has is fixed when it starts."""
        known = {"peepholes", "proj_size", "layer_norm"} | (set() if case.resets else {"recurrent_dropout"})
        return case.threads == 1 and {name for name, _ in case.options} <= known

    def _masks(self, mask: Array | None) -> Callable[[], Any]:
        """Return what draws the mask of h_prev for a call."""
        if mask is None:
            return lambda: None
        p, rng = self.problem.case.recurrent_dropout, np.random.default_rng()
        shape, dtype = mask.shape, mask.dtype
        return masks(mask, lambda: (rng.random(shape) >= p).astype(dtype) / dtype.type(1 - p))

    def _forward(self, mask: Any, x: Any, h_0: Any, c_0: Any, weights: Any) -> Any:
        """Return y, h_n, c_n; the weights are transposed."""
        jax, jnp, problem = self.jax, self.jax.numpy, self.problem
        sigmoid, tanh = jax.nn.sigmoid, jnp.tanh
        W_x, W_h, bias = (weights[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias"))
        peepholes, W_r = weights.get("weight_peephole_l0"), weights.get("weight_hr_l0")
        gain_x, gain_h, norm_c = (weights.get(f"layer_norm_{name}_l0") for name in "xhc")

        def norm(values: Any, gain: Any) -> Any:
            return values if gain is None else gain * jax.nn.standardize(values, epsilon=EPSILON)

        def cell(state: Any, step: Any) -> Any:
            h_prev, c_prev = state
            z_x, begins, real = step
            if begins is not None:
                h_prev, c_prev = jnp.where(begins, 0, h_prev), jnp.where(begins, 0, c_prev)
            i, f, g, o = jnp.split(
                z_x + norm((h_prev if mask is None else h_prev * mask) @ W_h, gain_h), 4, axis=-1
            )
            if peepholes is not None:
                i, f = i + peepholes[:, 0] * c_prev, f + peepholes[:, 1] * c_prev
            c = sigmoid(f) * c_prev + sigmoid(i) * tanh(g)
            if peepholes is not None:
                o = o + peepholes[:, 2] * c
            seen = c if norm_c is None else norm(c, norm_c[:, 0]) + norm_c[:, 1]
            h = sigmoid(o) * tanh(seen)
            h = h if W_r is None else h @ W_r
            if real is None:
                return (h, c), h
            return (jnp.where(real, h, h_prev), jnp.where(real, c, c_prev)), jnp.where(real, h, 0.0)

        T, lengths, resets = len(x), problem.lengths, problem.resets
        real = None if lengths is None else jnp.asarray((np.arange(T)[:, None] < lengths)[:, :, None])
        begins = None if resets is None else jnp.asarray(resets[:, :, None])
        (h, c), y = jax.lax.scan(cell, (h_0, c_0), (norm(x @ W_x, gain_x) + bias, begins, real))
        return y, h, c

    def results(self, output: Any) -> Results:
        """Name what `call` returned."""
        (y, h_n, c_n), gradients = output
        results = {"y": y, "h_n": h_n[None], "c_n": c_n[None]}
        if gradients:
            dx, dh_0, dc_0, dweights = gradients
            results |= {"dx": dx, "dh_0": dh_0[None], "dc_0": dc_0[None]}
            results |= {f"d{name}": value.T for name, value in dweights.items()}
        return {name: np.asarray(value) for name, value in results.items()}


# In the order of the table's columns; the first is compared with the rest.
CONTESTANTS: tuple[type[Contestant], ...] = (
    Clstm,
    NumPy,
    Torch,
    ClstmTorch,
    ClstmTorchFrozen,
    TorchPieces,
    TorchLoop,
    TorchCell,
    OnnxRuntime,
    OpenVino,
    Jax,
)
