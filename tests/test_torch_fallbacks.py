"""Where the kernels of `clstm.torch` do not run, the parent's code does; what looks from outside is content.

Each test compares with the parent: its result, or its very error.
"""

import copy
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn.utils import parametrizations, parametrize, prune  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402
from torch_pairs import (  # noqa: E402
    WARNINGS,
    assert_equal_modules,
    assert_equal_results,
    flat,
    gradients,
    models,
    pair,
    ran_on_kernels,
    sequence,
    summed,
)

import clstm.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings(*WARNINGS)


def outcome(function, module):
    """Return the results of a function of a module, or its error."""
    torch.manual_seed(3)
    try:
        return flat(function(module))
    except Exception as error:  # noqa: BLE001
        return type(error), str(error)


def assert_same_outcome(function, theirs, ours, promise="forward"):
    """Compare what a function makes of the two modules, or how it fails; return it."""
    expected, got = (outcome(function, module) for module in (theirs, ours))
    if isinstance(expected, tuple):
        assert got == expected
    else:
        assert isinstance(got, list), got
        assert [t.shape for t in got] == [t.shape for t in expected]
        if all(t.device.type == "cpu" and t.dtype in {torch.float32, torch.float64} for t in expected):
            assert_equal_results(got, expected, promise)
    return got


# ------------------------------------------------------------------------------------- other types and places


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
@pytest.mark.parametrize("cls", [nn.LSTM, nn.LSTMCell])
def test_half_types_run_as_the_parents(dtype, cls):
    theirs, ours = pair(3, 4, cls=cls, dtype=dtype)
    x = sequence(2, 3, dtype=dtype)
    for expected, got in zip(flat(theirs(x)), flat(ours(x)), strict=True):
        assert torch.equal(got, expected)
        assert got.dtype == dtype


@pytest.mark.parametrize("cls", [nn.LSTM, nn.LSTMCell])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_decides_as_for_the_parent(cls, dtype):
    theirs, ours = pair(3, 4, cls=cls, dtype=dtype)
    x = sequence(2, 3, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        expected, got = outcome(lambda m: m(x), theirs), outcome(lambda m: m(x), ours)
    assert str(expected) == str(got)


def test_meta_tensors_give_meta_tensors():
    ours = clstm.torch.LSTM(3, 4, 2, device="meta")
    y, (h_n, c_n) = ours(torch.empty(5, 2, 3, device="meta"))
    assert (y.shape, h_n.shape, c_n.shape) == ((5, 2, 4), (2, 2, 4), (2, 2, 4))
    assert y.is_meta
    ours = ours.to_empty(device="cpu")
    nn.init.zeros_(ours.weight_hh_l0)
    assert not ours(torch.zeros(5, 2, 3))[0].is_meta


@pytest.mark.parametrize("device", ["meta"])
def test_a_default_device_of_tensors_to_come_changes_nothing(device):
    theirs, ours = pair(3, 4, 2, bidirectional=True)
    x, hx = sequence(5, 2, 3, requires_grad=True), tuple(torch.zeros(2, 4, 2, 4, dtype=torch.float64))
    found = []
    for module in (theirs, ours):
        with torch.device(device):
            results = module(x, hx)
            found.append(torch.autograd.grad(summed(results), [x, *module.parameters()]))
    assert_equal_results(found[1], found[0], "backward")


def test_fake_tensors_give_fake_tensors():
    theirs, ours = pair(3, 4)
    ours(sequence(5, 2, 3))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for module in (theirs, ours):
            y, _ = module(mode.from_tensor(sequence(5, 2, 3)))
            assert type(y).__name__ == "FakeTensor"
            assert y.shape == (5, 2, 4)


def test_operations_are_counted_as_the_parents():
    counts = []
    for module in pair(3, 4, 2):
        with FlopCounterMode(display=False) as counter:
            summed(module(sequence(5, 2, 3))).backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_subclasses_of_tensors_are_the_parents_affair():
    class Noted(torch.Tensor):
        pass

    theirs, ours = pair(3, 4)
    x = sequence(5, 2, 3).as_subclass(Noted)
    assert type(ours(x)[0]) is type(theirs(x)[0]) is Noted
    ours.weight_hh_l0 = nn.Parameter(ours.weight_hh_l0.data.as_subclass(Noted))
    assert_equal_results(ours(sequence(5, 2, 3)), theirs(sequence(5, 2, 3)))


# ------------------------------------------------------------------------------------------- transformations


def per_sample(module, x):
    """Return gradients by the parameters for each row."""

    def loss(parameters, row):
        return summed(torch.func.functional_call(module, parameters, (row[:, None],)))

    parameters = {name: p.detach() for name, p in module.named_parameters()}
    return torch.func.vmap(torch.func.grad(loss), (None, 1))(parameters, x).values()


TRANSFORMATIONS = {
    "vmap": lambda m: torch.func.vmap(lambda x: m(x)[0])(sequence(3, 5, 2, 3)),
    "vmap of a cell": lambda m: torch.func.vmap(lambda x: m(x[:, 0, 0])[0])(sequence(3, 5, 2, 3)),
    "grad": lambda m: torch.func.grad(lambda x: summed(m(x)))(sequence(5, 2, 3)),
    "grad of grad": lambda m: torch.func.grad(
        lambda x: torch.func.grad(lambda v: summed(m(v)))(x).square().sum()
    )(sequence(5, 2, 3)),
    "per sample": lambda m: list(per_sample(m, sequence(5, 2, 3))),
    "vjp": lambda m: torch.func.vjp(lambda x: m(x)[0], sequence(5, 2, 3))[1](sequence(5, 2, 4))[0],
    "jvp": lambda m: torch.func.jvp(lambda x: m(x)[0], (sequence(5, 2, 3),), (sequence(5, 2, 3),)),
    "jacrev": lambda m: torch.func.jacrev(lambda x: m(x)[0])(sequence(2, 1, 3)),
    "jacfwd": lambda m: torch.func.jacfwd(lambda x: m(x)[0])(sequence(2, 1, 3)),
    "hessian": lambda m: torch.func.hessian(lambda x: summed(m(x)))(sequence(2, 1, 3)),
    "functionalize": lambda m: torch.func.functionalize(lambda x: m(x)[0])(sequence(5, 2, 3)),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformed_functions_end_as_the_parents(name):
    assert_same_outcome(TRANSFORMATIONS[name], *pair(3, 4, 2), "backward")


CELL_TRANSFORMATIONS = {
    "vmap": lambda m: torch.func.vmap(lambda x: m(x)[0])(sequence(3, 2, 3)),
    "grad": lambda m: torch.func.grad(lambda x: summed(m(x)))(sequence(2, 3)),
    "jvp": lambda m: torch.func.jvp(lambda x: m(x)[0], (sequence(2, 3),), (sequence(2, 3),)),
    "hessian": lambda m: torch.func.hessian(lambda x: summed(m(x)))(sequence(1, 3)),
}


@pytest.mark.parametrize("name", CELL_TRANSFORMATIONS)
def test_transformed_functions_of_a_cell_end_as_the_parents(name):
    assert_same_outcome(CELL_TRANSFORMATIONS[name], *pair(3, 4, cls=nn.LSTMCell), "backward")


def forward_mode(module):
    with forward_ad.dual_level():
        y = module(forward_ad.make_dual(sequence(5, 2, 3), sequence(5, 2, 3)))[0]
        return [part for part in forward_ad.unpack_dual(y) if part is not None]


def batched_derivatives(module):
    x = sequence(2, 2, 3, requires_grad=True)
    y, _ = module(x)
    outer = torch.eye(y.numel(), dtype=y.dtype).reshape(-1, *y.shape)
    return torch.autograd.grad(y, [x, *module.parameters()], outer, is_grads_batched=True)


def jacobian(module):
    return torch.autograd.functional.jacobian(lambda x: module(x)[0], sequence(2, 1, 3), vectorize=True)


def slow_jacobian(module):
    return torch.autograd.functional.jacobian(lambda x: module(x)[0], sequence(2, 1, 3), create_graph=True)


def hessian(module):
    return torch.autograd.functional.hessian(lambda x: summed(module(x)), sequence(2, 1, 3))


@pytest.mark.parametrize("function", [forward_mode, batched_derivatives, jacobian, slow_jacobian, hessian])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "proj_size": 2}], ids=str)
def test_derivatives_of_other_kinds_end_as_the_parents(function, options):
    theirs, ours = pair(3, 4, 2, **options)
    assert_same_outcome(function, theirs, ours, "backward")


def test_batched_derivatives_are_those_one_by_one():
    _, ours = pair(3, 4, 2)
    x = sequence(2, 2, 3, requires_grad=True)
    y, _ = ours(x)
    outer = sequence(3, *y.shape)
    wanted = [x, *ours.parameters()]
    got = torch.autograd.grad(y, wanted, outer, is_grads_batched=True, retain_graph=True)
    rows = [torch.autograd.grad(y, wanted, dy, retain_graph=True) for dy in outer]
    assert_equal_results(got, [torch.stack(each) for each in zip(*rows, strict=True)], "backward")


def test_functional_call_runs_on_the_kernels():
    theirs, ours = pair(3, 4)
    given = {name: torch.randn_like(p).requires_grad_() for name, p in ours.named_parameters()}
    x = sequence(5, 2, 3)
    found = [torch.func.functional_call(module, given, (x,)) for module in (theirs, ours)]
    assert ran_on_kernels(found[1])
    assert_equal_results(found[1], found[0])
    got, expected = (torch.autograd.grad(summed(results), [*given.values()]) for results in found[::-1])
    assert_equal_results(got, expected, "backward")


# ------------------------------------------------------------------------------------------------- tracers


def test_torchscript_compiles_the_parent():
    theirs, ours = models()
    x = sequence(5, 2, 3)
    ours(x)
    scripted = torch.jit.script(ours)
    assert_equal_results(scripted(x), theirs(x))
    assert clstm.torch.convert(ours) == 1  # TorchScript puts what it compiles into the model
    stepped = torch.jit.script(pair(3, 4, cls=nn.LSTMCell)[1])
    assert_equal_results(stepped(x[0]), pair(3, 4, cls=nn.LSTMCell)[0](x[0]))


def test_torchscript_shares_the_parameters():
    _, ours = models()
    scripted = torch.jit.script(ours)
    with torch.no_grad():
        ours.lstm.weight_ih_l0.mul_(2)
    assert_equal_results(scripted(sequence(5, 2, 3)), ours(sequence(5, 2, 3)))


def test_torchscript_of_a_subclass_ends_as_the_parents():
    def scripted(module):
        base = type(module)

        class Derived(base):
            pass

        torch.jit.script(Derived(3, 4))

    for cls in (nn.LSTM, clstm.torch.LSTM):
        with pytest.raises((torch.jit.frontend.NotSupportedError, RuntimeError)):
            scripted(cls(3, 4))


def test_a_trace_holds_the_parents_operations(tmp_path):
    theirs, ours = models()
    x = sequence(5, 2, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # of the parent, which compares sizes
        traced = torch.jit.trace(ours, x)
    assert "lstm" in str(traced.inlined_graph)
    assert_equal_results(traced(2 * x), theirs(2 * x))
    torch.jit.save(traced, tmp_path / "m.pt")
    assert_equal_results(torch.jit.load(tmp_path / "m.pt")(x), theirs(x))


def test_symbolic_tracing_keeps_the_module_as_a_leaf():
    theirs, ours = models()
    graph, parents = torch.fx.symbolic_trace(ours), torch.fx.symbolic_trace(theirs)
    assert [n.op for n in graph.graph.nodes] == [n.op for n in parents.graph.nodes]
    assert graph.code == parents.code
    assert_equal_results(graph(sequence(5, 2, 3)), theirs(sequence(5, 2, 3)))
    clstm.torch.revert(graph)
    assert_equal_results(graph(sequence(5, 2, 3)), theirs(sequence(5, 2, 3)))


def test_symbolic_tracing_of_the_module_itself_ends_as_the_parents():
    assert isinstance(
        assert_same_outcome(lambda m: torch.fx.symbolic_trace(m)(sequence(5, 2, 3)), *pair(3, 4)), tuple
    )


def test_symbolic_tracing_takes_states_and_lengths():
    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = pair(3, 4)[1]

        def forward(self, x, h, c, lengths):
            return self.lstm(x, (h, c), lengths=lengths)[0]

    model = Told()
    args = sequence(5, 2, 3), sequence(1, 2, 4), sequence(1, 2, 4), torch.tensor([5, 2])
    assert_equal_results(torch.fx.symbolic_trace(model)(*args), model(*args))


def test_an_exported_program_holds_the_parents_operator():
    theirs, ours = models()
    x = sequence(5, 2, 3)
    with pytest.warns(UserWarning, match="_flat_weights.* were assigned during export"):  # of the parent too
        exported = torch.export.export(ours, (x,))
    called = {str(n.target) for n in exported.graph.nodes if n.op == "call_function"}
    assert not any("clstm" in name for name in called)
    assert any("lstm" in name for name in called)
    assert_equal_results(exported.module()(x), theirs(x))


# ------------------------------------------------------------------------------------------ hooks and modes


def test_hooks_of_saved_tensors_see_what_is_kept():
    theirs, ours = pair(3, 4, 2, dropout=0.5)
    x = sequence(5, 2, 3, requires_grad=True)
    found, seen = [], 0

    def pack(t):
        nonlocal seen
        seen += 1
        return t.detach().clone().t() if t.dim() == 2 else t.detach().clone()

    def unpack(t):
        return t.t() if t.dim() == 2 else t

    for module in (theirs, ours):
        torch.manual_seed(1)
        seen = 0
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            results = module(x)
        found.append(gradients(module, results, [x]))
        assert seen >= 8
    assert_equal_results(found[1], found[0], "backward")


def test_tensors_may_be_kept_on_disk_by_hooks(tmp_path):
    theirs, ours = pair(3, 4)
    x = sequence(5, 2, 3, requires_grad=True)
    count = iter(range(100))

    def pack(t):
        path = tmp_path / f"{next(count)}.pt"
        torch.save(t, path)
        return path

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.load):
        results = ours(x)
    assert_equal_results(gradients(ours, results, [x]), gradients(theirs, theirs(x), [x]), "backward")


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpointing_gives_the_same_gradients(use_reentrant, dropout):
    theirs, ours = pair(3, 4, 2, dropout=dropout)
    x = sequence(5, 2, 3, requires_grad=True)

    def flattened(v):
        return tuple(flat(ours(v)))

    def through(v):
        return checkpoint(flattened, v, use_reentrant=use_reentrant)

    found = []
    for module, run in ((theirs, theirs), (ours, ours), (ours, through)):
        torch.manual_seed(1)
        summed(run(x)).backward()
        found.append([t.grad for t in (x, *module.parameters())])
        for t in (x, *module.parameters()):
            t.grad = None
    assert_equal_results(found[1], found[0], "backward")
    for got, expected in zip(found[2], found[1], strict=True):
        assert torch.equal(got, expected)


def test_full_backward_hooks_see_the_parents_derivatives():
    found = []
    for module in pair(3, 4, 2):
        seen = []
        module.register_full_backward_hook(lambda m, dx, dy, seen=seen: seen.extend([*dx, *dy]))
        module.register_full_backward_pre_hook(lambda m, dy, seen=seen: seen.extend(dy))
        x = sequence(5, 2, 3, requires_grad=True)
        y, (h, c) = module(x)
        (y.square().sum() + h.sum() + c.sum()).backward()
        found.append([t for t in seen if t is not None])
    assert found[0]
    assert_equal_results(found[1], found[0], "backward")


def test_anomaly_mode_names_the_call():
    _, ours = pair(3, 4)
    with torch.autograd.set_detect_anomaly(True):
        y, _ = ours(sequence(5, 2, 3))
        with pytest.warns(UserWarning, match="Error detected in PassBackward"), pytest.raises(RuntimeError):
            (y * torch.inf).sum().backward()


def test_a_forward_hook_may_exchange_the_output():
    _, ours = pair(3, 4)
    ours.register_forward_hook(lambda m, args, out: (out[0] * 0, out[1]))
    assert not ours(sequence(5, 2, 3))[0].any()


# ------------------------------------------------------------------------- what stands in a parameter's place


class Doubled(nn.Module):
    def forward(self, w):
        return 2 * w

    def right_inverse(self, w):
        return w / 2


REWORKED = {
    "parametrization": lambda m: parametrize.register_parametrization(m, "weight_hh_l0", Doubled()),
    "parametrized weight_norm": lambda m: parametrizations.weight_norm(m, "weight_ih_l1"),
    "parametrized spectral_norm": lambda m: parametrizations.spectral_norm(m, "weight_hh_l0"),
    "orthogonal": lambda m: parametrizations.orthogonal(m, "weight_hh_l1"),
    "weight_norm": lambda m: nn.utils.weight_norm(m, "weight_hh_l0"),
    "spectral_norm": lambda m: nn.utils.spectral_norm(m, "weight_hh_l0"),
    "prune": lambda m: prune.random_unstructured(m, "weight_hh_l0", amount=0.4),
    "prune a bias": lambda m: prune.l1_unstructured(m, "bias_ih_l0", amount=0.4),
}


@pytest.mark.parametrize("name", REWORKED)
def test_a_reworked_weight_is_read_as_it_is_now(name):
    theirs, ours = pair(3, 4, 2)
    x = sequence(5, 2, 3, requires_grad=True)
    for module in (theirs, ours):
        module(x)
        torch.manual_seed(4)
        REWORKED[name](module)
    assert isinstance(ours, nn.LSTM)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    for _ in range(2):
        torch.manual_seed(5)
        assert_equal_modules(theirs, ours, x)
        for module in (theirs, ours):
            optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
            summed(module(x)).backward()
            optimiser.step()


@pytest.mark.parametrize("name", ["parametrization", "weight_norm", "prune"])
def test_what_was_reworked_may_be_undone(name):
    undo = {
        "parametrization": lambda m: parametrize.remove_parametrizations(m, "weight_hh_l0"),
        "weight_norm": lambda m: nn.utils.remove_weight_norm(m, "weight_hh_l0"),
        "prune": lambda m: prune.remove(m, "weight_hh_l0"),
    }[name]
    theirs, ours = pair(3, 4, 2)
    x = sequence(5, 2, 3, requires_grad=True)
    for module in (theirs, ours):
        torch.manual_seed(4)
        REWORKED[name](module)
        module(x)
        undo(module)
    assert type(ours) is clstm.torch.LSTM
    assert_equal_modules(theirs, ours, x)


@pytest.mark.parametrize("name", ["parametrization", "prune"])
def test_a_reworked_module_is_copied(name):
    theirs, ours = pair(3, 4, 2)
    for module in (theirs, ours):
        torch.manual_seed(4)
        REWORKED[name](module)
        module(sequence(5, 2, 3))
    got = outcome(lambda m: copy.deepcopy(m)(sequence(5, 2, 3)), ours)
    expected = outcome(lambda m: copy.deepcopy(m)(sequence(5, 2, 3)), theirs)
    if isinstance(expected, tuple):
        assert got == expected
    else:
        assert_equal_results(got, expected)


def test_a_missing_or_misshapen_weight_is_the_parents_error():
    for change in (
        lambda m: setattr(m, "bias_ih_l0", None),
        lambda m: setattr(m, "weight_hh_l0", nn.Parameter(torch.zeros(16, 5, dtype=torch.float64))),
        lambda m: setattr(m, "weight_ih_l0", nn.Parameter(torch.zeros(12, 3, dtype=torch.float64))),
        lambda m: setattr(m, "weight_ih_l0", nn.Parameter(torch.zeros(16, 2, dtype=torch.float64))),
        lambda m: setattr(m, "bias_hh_l0", nn.Parameter(torch.zeros(15, dtype=torch.float64))),
        lambda m: setattr(m, "weight_hh_l0", nn.Parameter(torch.zeros(16, 4))),
        lambda m: setattr(m.weight_hh_l0, "data", m.weight_hh_l0.data[:, :3]),
    ):
        theirs, ours = pair(3, 4)
        ours(sequence(5, 2, 3))
        for module in (theirs, ours):
            change(module)
        got = assert_same_outcome(lambda m: m(sequence(5, 2, 3)), theirs, ours)
        assert isinstance(got, tuple)


@pytest.mark.parametrize("cls", [nn.LSTM, nn.LSTMCell])
@pytest.mark.parametrize(
    "shape", [(0, 3), (5, 0), (0, 2, 3), (5, 0, 3), (5, 2, 0), (0,), (5, 2, 3, 1), ()], ids=str
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_empty_inputs_end_as_the_parents(shape, batch_first, cls):
    theirs, ours = pair(3, 4, cls=cls, **({"batch_first": batch_first} if cls is nn.LSTM else {}))
    assert_same_outcome(lambda m: m(sequence(*shape)), theirs, ours)


WRONG = [
    ((5, 2, 4), None, torch.float64),
    ((4,), None, torch.float64),
    ((5, 2, 3), None, torch.float32),
    ((5, 2, 3), None, torch.int64),
    ((5, 2, 3), None, torch.complex128),
    ((5, 2, 3), [(2, 2, 4), (1, 2, 4)], torch.float64),
    ((5, 2, 3), [(1, 2, 4), (1, 2, 5)], torch.float64),
    ((5, 2, 3), [(2, 1, 4), (2, 1, 4)], torch.float64),
    ((5, 2, 3), [(1, 4), (1, 4)], torch.float64),
    ((5, 3), [(1, 1, 4), (1, 1, 4)], torch.float64),
    ((2, 3), [(2, 4)], torch.float64),
    ((2, 3), [(2, 4), (3, 4)], torch.float64),
]


@pytest.mark.parametrize("cls", [nn.LSTM, nn.LSTMCell])
@pytest.mark.parametrize(("shape", "state", "dtype"), WRONG, ids=str)
def test_wrong_arguments_are_the_parents_errors(shape, state, dtype, cls):
    theirs, ours = pair(3, 4, cls=cls)
    x = torch.ones(shape, dtype=dtype)
    hx = None if state is None else tuple(torch.ones(part, dtype=torch.float64) for part in state)
    got = assert_same_outcome(lambda m: m(x, hx), theirs, ours)
    assert isinstance(got, tuple)


@pytest.mark.parametrize("wrong", [None, 3, [1.0], np.ones((5, 2, 3))], ids=["None", "int", "list", "array"])
def test_what_is_no_tensor_is_the_parents_error(wrong):
    for cls in (nn.LSTM, nn.LSTMCell):
        assert isinstance(assert_same_outcome(lambda m: m(wrong), *pair(3, 4, cls=cls)), tuple)


@pytest.mark.parametrize(
    "state", [[(1, 3, 4), (1, 3, 4)], [(1, 2, 5), (1, 2, 5)], [(2, 2, 4), (2, 2, 4)]], ids=str
)
def test_wrong_states_of_packed_sequences_are_the_parents_errors(state):
    packed = pack_padded_sequence(sequence(5, 2, 3), [5, 3])
    hx = tuple(torch.ones(part, dtype=torch.float64) for part in state)
    assert isinstance(assert_same_outcome(lambda m: m(packed, hx), *pair(3, 4)), tuple)
    wide = pack_padded_sequence(sequence(5, 2, 4), [5, 3])
    assert isinstance(assert_same_outcome(lambda m: m(wide), *pair(3, 4)), tuple)


def test_tensors_of_inference_mode_are_as_for_the_parent():
    with torch.inference_mode():
        x = sequence(5, 2, 3)
    theirs, ours = pair(3, 4)
    expected, got = (outcome(lambda m: m(x), module) for module in (theirs, ours))
    assert expected[0] is got[0] is RuntimeError
    for module in (theirs, ours):
        module.requires_grad_(False)
    assert_equal_results(ours(x), theirs(x))


# -------------------------------------------------------------------------------- lengths, resets, elsewhere


def test_lengths_and_resets_run_in_torchs_operations_where_kernels_do_not():
    _, ours = pair(3, 4, 2, bidirectional=True, proj_size=2, batch_first=True)
    x, more = sequence(2, 5, 3), {"lengths": [3, 5], "resets": torch.eye(2, 5).bool()}
    expected = ours(x, **more)
    assert ran_on_kernels(expected)
    per_row = torch.func.vmap(lambda v: ours(v, **more)[0])(x[None])
    assert_equal_results(per_row[0], expected[0])
    got = torch.func.grad(lambda v: summed(ours(v, **more)))(x)
    x.requires_grad_(True)
    assert_equal_results(got, torch.autograd.grad(summed(ours(x, **more)), x), "backward")
    y, state = copy.deepcopy(ours).to("meta")(x.detach().to("meta"), **more)
    assert [t.shape for t in (y, *state)] == [t.shape for t in flat(expected)]
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x.detach(), **more)[0].shape == expected[0].shape
