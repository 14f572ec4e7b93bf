"""What the tests of `clstm.torch` share: pairs of a parent's module and ours, and their comparison."""

import pytest
import torch
from conftest import assert_close
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import clstm.torch

torch.set_num_threads(1)  # several are no help at these sizes, and a great hindrance on a busy machine

EACH_DTYPE = pytest.mark.parametrize(
    "torch_dtype", [torch.float32, torch.float64], ids=["float32", "float64"]
)
# That oneDNN has no projections; that TorchScript and the older weight_norm are deprecated.
WARNINGS = (
    "ignore:LSTM with projections is not supported with oneDNN",
    "ignore:.*(is deprecated|are deprecated|deprecation)",
)
OURS = {nn.LSTM: clstm.torch.LSTM, nn.LSTMCell: clstm.torch.LSTMCell}


def pair(*sizes, cls=nn.LSTM, dtype=torch.float64, seed=0, **options):
    """Make a module of PyTorch and one of ours with the same weights."""
    torch.manual_seed(seed)
    theirs = cls(*sizes, dtype=dtype, **options)
    ours = OURS[cls](*sizes, dtype=dtype, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def flat(results):
    """Return the tensors in what a module returns, in order."""
    if isinstance(results, torch.Tensor):
        return [results]
    if isinstance(results, PackedSequence):
        return [results.data]
    return [t for part in results if part is not None for t in flat(part)]


def assert_equal_results(got, expected, promise="forward"):
    """Compare the tensors of results with the parent's; float64 has one promise for everything."""
    got, expected = flat(got), flat(expected)
    assert len(got) == len(expected)
    for n, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        assert mine.dtype == theirs.dtype
        name = "torch" if mine.dtype == torch.float64 else promise
        assert_close(mine.detach().numpy(), theirs.detach().numpy(), name, f"result {n}")


def gradients(module, results, inputs, seed=1):
    """Differentiate a random weighing of all results by inputs and parameters."""
    torch.manual_seed(seed)
    loss = sum((t * torch.randn_like(t)).sum() for t in flat(results))
    wanted = [t for t in (*inputs, *module.parameters()) if t.requires_grad]
    return torch.autograd.grad(loss, wanted)


def ran_on_kernels(results):
    """Whether the first result, which requires gradients, comes from our function."""
    return type(flat(results)[0].grad_fn).__name__ == "PassBackward"


def assert_equal_modules(theirs, ours, *args, kernels=True, seed=7, **kwargs):
    """Compare results and every gradient; `args` are for both."""
    found = []
    for module in (theirs, ours):
        torch.manual_seed(seed)
        copies = detached(args)
        results = module(*copies, **kwargs)
        inputs = [a for a in copies if a is not None]
        found.append((results, gradients(module, results, flat(inputs))))
    assert ran_on_kernels(found[1][0]) is kernels
    assert_equal_results(found[1][0], found[0][0])
    assert_equal_results(found[1][1], found[0][1], "backward")
    for mine, parents in zip(flat(found[1][0]), flat(found[0][0]), strict=True):
        assert mine.is_contiguous() or not parents.is_contiguous()  # so that `view` works where it did
    if isinstance(found[0][0][0], PackedSequence):
        for mine, parents in zip(found[1][0][0][1:], found[0][0][0][1:], strict=True):
            assert mine is parents is None or torch.equal(mine, parents)


def detached(value):
    """Copy arguments, each tensor a leaf that requires what the original does."""
    if isinstance(value, PackedSequence):
        data = value.data.detach().clone().requires_grad_(value.data.requires_grad)
        return PackedSequence(data, *value[1:])
    if isinstance(value, torch.Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, tuple | list):
        return type(value)(detached(part) for part in value)
    return value


def sequence(*shape, dtype=torch.float64, requires_grad=False):
    torch.manual_seed(11)
    return torch.randn(*shape, dtype=dtype).requires_grad_(requires_grad)


def summed(results):
    return sum(t.square().sum() for t in flat(results))


def states(module, rows, dtype, requires_grad=True):
    """Draw (h_0, c_0); `rows` is () or (B,)."""
    LD = module.num_layers * (1 + module.bidirectional)
    sizes = (module.proj_size or module.hidden_size, module.hidden_size)
    return tuple(torch.randn(LD, *rows, n, dtype=dtype, requires_grad=requires_grad) for n in sizes)


class Model(nn.Module):
    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm
        self.head = nn.Linear(4, 2, dtype=lstm.weight_ih_l0.dtype)

    def forward(self, x):
        y, (h, _) = self.lstm(x)
        return self.head(y) + h[-1:].sum()


def models(**options):
    theirs, ours = (Model(lstm) for lstm in pair(3, 4, 2, **options))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours
