"""float64 equal to PyTorch's nn.LSTM and nn.RNN: values and every gradient; may be skipped."""

import numpy as np
import pytest
from conftest import as_tuple, assert_close, assert_same_bits, build_layer, draw_inputs

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # several are no help at these sizes, and a great hindrance on a busy machine


def torch_layer(layer):
    """Make a torch.nn.LSTM or RNN with the same weights; its second bias is zero."""
    theirs = getattr(torch.nn, type(layer).__name__)(
        layer.input_size, layer.hidden_size, layer.num_layers, bias=layer.bias, batch_first=layer.batch_first,
        bidirectional=layer.bidirectional, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if name.startswith("bias_hh"):
                value.zero_()
            else:
                value.copy_(torch.from_numpy(layer.params[name.replace("bias_ih", "bias")].copy()))
    return theirs


def compare(layer, T, B, *, ragged, seed):
    d = draw_inputs(layer, T, B, seed=seed, ragged=ragged)
    if ragged:  # packed sequences have at least one step
        d.lengths = np.maximum(d.lengths, 1)
        padding = np.arange(T)[:, None] >= d.lengths
        rng = np.random.default_rng(seed)
        d.x, d.dy = rng.standard_normal(d.x.shape), rng.standard_normal(d.dy.shape)
        d.x[padding] = d.dy[padding] = 0
        d.is_real = ~padding
    turn = (lambda v: v.swapaxes(0, 1)) if layer.batch_first else (lambda v: v)

    theirs = torch_layer(layer)
    x, *first = (torch.tensor(v, requires_grad=True) for v in (turn(d.x).copy(), *as_tuple(d.state)))
    given = first[0] if len(first) == 1 else tuple(first)
    if ragged:
        lengths = torch.from_numpy(d.lengths)
        sequence = torch.nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=layer.batch_first, enforce_sorted=False
        )
        packed, final = theirs(sequence, given)
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=layer.batch_first, total_length=T)
    else:
        y, final = theirs(x, given)
    final = as_tuple(final)
    loss = (y * torch.from_numpy(turn(d.dy).copy())).sum()
    for part, derivative in zip(final, as_tuple(d.dstate), strict=True):
        loss = loss + (part * torch.from_numpy(derivative)).sum()
    loss.backward()

    if ragged:
        d.x[~d.is_real] = d.dy[~d.is_real] = np.nan
    got_y, got_final = layer.forward(turn(d.x), d.state, d.lengths if ragged else None)
    dx, dfirst = layer.backward(turn(d.dy), d.dstate)
    pairs = {"y": (got_y, y), "dx": (dx, x.grad)}
    states = zip(as_tuple(got_final), final, as_tuple(dfirst), first, strict=True)
    for n, (got, expected, got_derivative, leaf) in enumerate(states):
        pairs |= {f"final {n}": (got, expected), f"d initial {n}": (got_derivative, leaf.grad)}
    for name, value in theirs.named_parameters():
        pairs[f"d{name}"] = (
            layer.grads[name.replace("bias_ih", "bias").replace("bias_hh", "bias")],
            value.grad,
        )
    named = (4 if layer.bias else 2) * layer.num_layers * layer.num_directions
    assert len(pairs) == 2 + 2 * len(layer.kind.states) + named
    for name, (got, expected) in pairs.items():
        assert_close(got, expected.detach().numpy(), "torch", name)


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize("seed", range(8))
def test_random_stacked_bidirectional_cases_equal_torch(kind, backend, ragged, seed):
    rng = np.random.default_rng([seed, ragged])
    I, H, layers = int(rng.integers(1, 12)), int(rng.integers(1, 40)), int(rng.integers(2, 4))  # noqa: E741
    batch_first = bool(rng.integers(2))
    layer = build_layer(
        kind, I, H, layers, bidirectional=True, backend=backend, seed=seed, batch_first=batch_first
    )
    compare(layer, int(rng.integers(1, 30)), int(rng.integers(1, 12)), ragged=ragged, seed=seed)


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_every_sort_of_stack_equals_torch(kind, backend, ragged, layers, bidirectional, bias):
    layer = build_layer(kind, 4, 9, layers, bidirectional=bidirectional, bias=bias, backend=backend)
    compare(layer, 7, 5, ragged=ragged, seed=1)


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1), (20, 3, 2, 33)], ids="T{0[0]}-B{0[1]}-I{0[2]}-H{0[3]}".format
)
def test_single_layers_equal_torch(kind, backend, sizes, ragged):
    T, B, I, H = sizes  # noqa: E741
    compare(build_layer(kind, I, H, backend=backend), T, B, ragged=ragged, seed=2)


def test_parameters_are_laid_out_as_torchs(kind):
    layer = build_layer(kind, 3, 5, 2, bidirectional=True)
    shapes = {
        name: tuple(value.shape)
        for name, value in torch_layer(layer).named_parameters()
        if not name.startswith("bias_hh")
    }
    assert {name: value.shape for name, value in layer.params.items()} == {
        name.replace("bias_ih", "bias"): shape for name, shape in shapes.items()
    }


def test_torch_tensors_are_accepted_as_arrays(kind, dtype):
    layer = build_layer(kind, 3, 5, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(dtype)
    assert_same_bits(layer(torch.from_numpy(x))[0], layer(x)[0])
