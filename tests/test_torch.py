"""float64 equal to PyTorch's, values and gradients, on random stacked bidirectional cases; may be skipped."""

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, build_lstm, draw_inputs

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # several are no help at these sizes, and a great hindrance on a busy machine


def torch_lstm(lstm):
    """Make a torch.nn.LSTM with the same weights; its second bias is zero."""
    theirs = torch.nn.LSTM(
        lstm.input_size, lstm.hidden_size, lstm.num_layers, bias=lstm.bias, batch_first=lstm.batch_first,
        bidirectional=lstm.bidirectional, dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if name.startswith("bias_hh"):
                value.zero_()
            else:
                value.copy_(torch.from_numpy(lstm.params[name.replace("bias_ih", "bias")].copy()))
    return theirs


def compare(lstm, T, B, *, ragged, seed):
    d = draw_inputs(lstm, T, B, seed=seed, ragged=ragged)
    if ragged:  # packed sequences have at least one step
        d.lengths = np.maximum(d.lengths, 1)
        padding = np.arange(T)[:, None] >= d.lengths
        rng = np.random.default_rng(seed)
        d.x, d.dy = rng.standard_normal(d.x.shape), rng.standard_normal(d.dy.shape)
        d.x[padding] = d.dy[padding] = 0
        d.is_real = ~padding
    turn = (lambda v: v.swapaxes(0, 1)) if lstm.batch_first else (lambda v: v)

    theirs = torch_lstm(lstm)
    x, h_0, c_0 = (torch.tensor(v, requires_grad=True) for v in (turn(d.x).copy(), *d.state))
    if ragged:
        lengths = torch.from_numpy(d.lengths)
        sequence = torch.nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=lstm.batch_first, enforce_sorted=False
        )
        packed, (h_n, c_n) = theirs(sequence, (h_0, c_0))
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(packed, batch_first=lstm.batch_first, total_length=T)
    else:
        y, (h_n, c_n) = theirs(x, (h_0, c_0))
    dh_n, dc_n = map(torch.from_numpy, d.dstate)
    ((y * torch.from_numpy(turn(d.dy).copy())).sum() + (h_n * dh_n).sum() + (c_n * dc_n).sum()).backward()

    if ragged:
        d.x[~d.is_real] = d.dy[~d.is_real] = np.nan
    got_y, (got_h, got_c) = lstm.forward(turn(d.x), d.state, d.lengths if ragged else None)
    dx, (dh_0, dc_0) = lstm.backward(turn(d.dy), d.dstate)
    pairs = {
        "y": (got_y, y), "h_n": (got_h, h_n), "c_n": (got_c, c_n),
        "dx": (dx, x.grad), "dh_0": (dh_0, h_0.grad), "dc_0": (dc_0, c_0.grad),
    }  # fmt: skip
    for name, value in theirs.named_parameters():
        pairs[f"d{name}"] = (
            lstm.grads[name.replace("bias_ih", "bias").replace("bias_hh", "bias")],
            value.grad,
        )
    assert len(pairs) == 6 + (4 if lstm.bias else 2) * lstm.num_layers * lstm.num_directions
    for name, (got, expected) in pairs.items():
        assert_close(got, expected.detach().numpy(), "torch", name)


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize("seed", range(8))
def test_random_stacked_bidirectional_cases_equal_torch(backend, ragged, seed):
    rng = np.random.default_rng([seed, ragged])
    I, H, layers = int(rng.integers(1, 12)), int(rng.integers(1, 40)), int(rng.integers(2, 4))  # noqa: E741
    lstm = build_lstm(
        I, H, layers, bidirectional=True, backend=backend, seed=seed, batch_first=bool(rng.integers(2))
    )
    compare(lstm, int(rng.integers(1, 30)), int(rng.integers(1, 12)), ragged=ragged, seed=seed)


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_every_kind_of_stack_equals_torch(backend, ragged, layers, bidirectional, bias):
    compare(
        build_lstm(4, 9, layers, bidirectional=bidirectional, bias=bias, backend=backend),
        7,
        5,
        ragged=ragged,
        seed=1,
    )


def test_parameters_are_laid_out_as_torchs():
    lstm = build_lstm(3, 5, 2, bidirectional=True)
    shapes = {
        name: tuple(value.shape)
        for name, value in torch_lstm(lstm).named_parameters()
        if not name.startswith("bias_hh")
    }
    assert {name: value.shape for name, value in lstm.params.items()} == {
        name.replace("bias_ih", "bias"): shape for name, shape in shapes.items()
    }


def test_torch_tensors_are_accepted_as_arrays(dtype):
    lstm = build_lstm(3, 5, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(dtype)
    assert_same_bits(lstm(torch.from_numpy(x))[0], lstm(x)[0])
