"""float64 equal to PyTorch: values and every gradient; may be skipped.

The plain layers, projections and resets against nn.LSTM and nn.RNN; every option of an LSTM against a cell
that is written here in torch's operations, differentiated by torch.
"""

import math

import numpy as np
import pytest
from conftest import as_tuple, assert_close, assert_same_bits, build_layer, build_lstm, draw_inputs

from clstm import cells

torch = pytest.importorskip("torch")
functional = torch.nn.functional
torch.set_num_threads(1)  # several are no help at these sizes, and a great hindrance on a busy machine


def torch_layer(layer):
    """Make a torch.nn.LSTM or RNN with the same weights; its second bias is zero."""
    projection = {"proj_size": layer.proj_size} if getattr(layer, "proj_size", 0) else {}
    theirs = getattr(torch.nn, type(layer).__name__)(
        layer.input_size, layer.hidden_size, layer.num_layers, bias=layer.bias, batch_first=layer.batch_first,
        bidirectional=layer.bidirectional, dtype=torch.float64, **projection,
    )  # fmt: skip
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if name.startswith("bias_hh"):
                value.zero_()
            else:
                value.copy_(torch.from_numpy(layer.params[name.replace("bias_ih", "bias")].copy()))
    return theirs


def named_gradients(layer, theirs):
    """Pair the gradients by every parameter of a torch.nn.LSTM or RNN with ours."""
    pairs = {}
    for name, value in theirs.named_parameters():
        ours = name.replace("bias_ih", "bias").replace("bias_hh", "bias")
        pairs[f"d{name}"] = (layer.grads[ours], value.grad)
    parameters = 4 * layer.bias or 2
    assert len(pairs) == (parameters + bool(theirs.proj_size)) * layer.num_layers * layer.num_directions
    return pairs


def assert_pairs_close(pairs):
    for name, (got, expected) in pairs.items():
        assert_close(got, expected.detach().numpy(), "torch", name)


def differentiate(y, final, d):
    """Go back from the loss whose derivatives by y and the final state are d.dy and d.dstate."""
    loss = (y * torch.from_numpy(d.dy)).sum()
    for part, derivative in zip(final, as_tuple(d.dstate), strict=True):
        loss = loss + (part * torch.from_numpy(derivative)).sum()
    loss.backward()


def compare(layer, T, B, *, ragged, seed):
    d = draw_inputs(layer, T, B, seed=seed, ragged=ragged)
    if ragged:  # packed sequences have at least one step
        d.lengths = np.maximum(d.lengths, 1)
        padding = np.arange(T)[:, None] >= d.lengths
        rng = np.random.default_rng(seed)
        d.x, d.dy = rng.standard_normal(d.x.shape), rng.standard_normal(d.dy.shape)
        d.x[padding] = d.dy[padding] = 0
        d.is_real = ~padding
    if layer.batch_first:
        d.x, d.dy, d.is_real = (v.swapaxes(0, 1).copy() for v in (d.x, d.dy, d.is_real))

    theirs = torch_layer(layer)
    x, *first = (torch.tensor(v, requires_grad=True) for v in (d.x, *as_tuple(d.state)))
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
    differentiate(y, final, d)

    if ragged:
        d.x[~d.is_real] = d.dy[~d.is_real] = np.nan
    got_y, got_final = layer.forward(d.x, d.state, d.lengths if ragged else None)
    dx, dfirst = layer.backward(d.dy, d.dstate)
    pairs = {"y": (got_y, y), "dx": (dx, x.grad)}
    states = zip(as_tuple(got_final), final, as_tuple(dfirst), first, strict=True)
    for n, (got, expected, got_derivative, leaf) in enumerate(states):
        pairs |= {f"final {n}": (got, expected), f"d initial {n}": (got_derivative, leaf.grad)}
    assert_pairs_close(pairs | named_gradients(layer, theirs))


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


# ----------------------------------------------------------------------------------- projections and resets


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("bias", [False, True], ids=["no-bias", "bias"])
def test_every_sort_of_projected_stack_equals_torch(backend, ragged, layers, bidirectional, bias):
    layer = build_lstm(4, 9, layers, bidirectional=bidirectional, bias=bias, backend=backend, proj_size=3)
    compare(layer, 7, 5, ragged=ragged, seed=1)


@pytest.mark.parametrize("ragged", [False, True], ids=["full", "packed"])
@pytest.mark.parametrize("seed", range(6))
def test_random_projected_cases_equal_torch(backend, ragged, seed):
    rng = np.random.default_rng([seed, ragged])
    I, H = int(rng.integers(1, 12)), int(rng.integers(2, 40))  # noqa: E741
    layer = build_lstm(
        I, H, int(rng.integers(1, 4)), bidirectional=bool(rng.integers(2)), backend=backend, seed=seed,
        batch_first=bool(rng.integers(2)), proj_size=int(rng.integers(1, H)),
    )  # fmt: skip
    compare(layer, int(rng.integers(1, 30)), int(rng.integers(1, 12)), ragged=ragged, seed=seed)


def run_in_pieces(theirs, x, first, lengths, resets):
    """Run a torch.nn.LSTM or RNN on each episode by itself; return y and the final state.

    Episodes share nothing, so each can pass through the whole stack.  The state that was given is used by the
    forward directions in the episode that no reset begins, by the reverse ones in the row's last.
    """
    T, B, _ = x.shape
    D = 1 + theirs.bidirectional
    is_reverse = torch.arange(D * theirs.num_layers) % D == 1
    y, final = [], [[] for _ in first]
    for b in range(B):
        length = int(lengths[b])
        starts = [0, *(t for t in range(1, length) if resets[t, b])]
        pieces, ends = [], []
        for start, stop in zip(starts, [*starts[1:], length], strict=True):
            keeps = torch.where(is_reverse, stop == length, start == 0 and not resets[0, b]).to(x.dtype)
            state = tuple(keeps[:, None, None] * part[:, b : b + 1] for part in first)
            piece, end = theirs(x[start:stop, b : b + 1], state if len(state) > 1 else state[0])
            pieces.append(piece)
            ends.append(as_tuple(end))
        pieces.append(torch.zeros(T - length, 1, pieces[0].shape[2], dtype=x.dtype))
        y.append(torch.cat(pieces))
        for part, begin, end in zip(final, ends[0], ends[-1], strict=True):
            part.append(torch.where(is_reverse[:, None, None], begin, end))
    return torch.cat(y, dim=1), tuple(torch.cat(part, dim=1) for part in final)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("rnn", {}), ("lstm", {}), ("lstm", {"proj_size": 2})],
    ids=["rnn", "lstm", "projected"],
)
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("ragged", [False, True], ids=["full", "ragged"])
def test_resets_equal_torch_called_piece_by_piece(kind, options, backend, layers, bidirectional, ragged):
    T, B = 11, 6
    layer = build_layer(kind, 3, 5, layers, bidirectional=bidirectional, backend=backend, **options)
    d = draw_inputs(layer, T, B)
    rng = np.random.default_rng(3)
    resets = rng.random((T, B)) < 0.3
    resets[0] = np.arange(B) % 2
    d.lengths = rng.integers(1, T + 1, B) if ragged else np.full(B, T)

    theirs = torch_layer(layer)
    x, *first = (torch.tensor(v, requires_grad=True) for v in (d.x, *as_tuple(d.state)))
    y, final = run_in_pieces(theirs, x, first, d.lengths, resets)
    differentiate(y, final, d)

    got_y, got_final = layer.forward(d.x, d.state, d.lengths, resets)
    dx, dfirst = layer.backward(d.dy, d.dstate)
    pairs = {"y": (got_y, y), "dx": (dx, x.grad)}
    states = zip(as_tuple(got_final), final, as_tuple(dfirst), first, strict=True)
    for n, (got, expected, got_derivative, leaf) in enumerate(states):
        pairs |= {f"final {n}": (got, expected), f"d initial {n}": (got_derivative, leaf.grad)}
    assert_pairs_close(pairs | named_gradients(layer, theirs))


# --------------------------------------------------------------------------------- every option of an LSTM

ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "hard_sigmoid": lambda v, alpha=0.2, beta=0.5: torch.clamp(alpha * v + beta, 0, 1),
    "softsign": functional.softsign,
    "softplus": functional.softplus,
    "elu": lambda v, alpha=1.0: functional.elu(v, alpha),
    "leaky_relu": lambda v, alpha=0.01: functional.leaky_relu(v, alpha),
    "thresholded_relu": lambda v, alpha=1.0: functional.threshold(v, alpha, 0.0),
    "scaled_tanh": lambda v, alpha=1.0, beta=1.0: alpha * torch.tanh(beta * v),
    "affine": lambda v, alpha=1.0, beta=0.0: alpha * v + beta,
    "identity": lambda v: v,
}


def activate(spec, v):
    name, parameters = (spec, {}) if isinstance(spec, str) else spec
    return ACTIVATIONS[name](v, **parameters)


def torch_step(layer, w, x, h, c, recurrent, keep_h, keep_c):
    """Compute one step of an LSTM with every option; return h and c.

    `w` holds torch tensors by the names of `layer.params`, without the suffix; `recurrent` multiplies h
    before its product, `keep_h` and `keep_c` are what zoneout keeps of the state before.
    """
    gates, candidate, cell = layer.activations
    R = w.get("weight_hr", torch.eye(layer.hidden_size, dtype=x.dtype))
    p_i, p_f, p_o = w.get("weight_peephole", torch.zeros(3, 1, dtype=x.dtype))
    gate_clip, cell_clip = layer.gate_clip or math.inf, layer.cell_clip or math.inf

    def gate(z):
        return activate(gates, z.clamp(-gate_clip, gate_clip))

    def normalised(v):
        return functional.layer_norm(v, v.shape[-1:], eps=1e-5)

    z_x, z_h = x @ w["weight_ih"].T, (recurrent * h) @ w["weight_hh"].T
    if layer.layer_norm:
        z_x, z_h = w["layer_norm_x"] * normalised(z_x), w["layer_norm_h"] * normalised(z_h)
    z_i, z_f, z_g, z_o = (z_x + z_h + w.get("bias", 0)).chunk(4, dim=-1)
    i = gate(z_i + p_i * c)
    f = 1 - i if layer.coupled else gate(z_f + p_f * c)
    g = activate(candidate, z_g.clamp(-gate_clip, gate_clip))
    c_new = (f * c + i * g).clamp(-cell_clip, cell_clip)
    o = gate(z_o + p_o * c_new)
    seen = c_new
    if layer.layer_norm:
        seen = w["layer_norm_c"][0] * normalised(c_new) + w["layer_norm_c"][1]
    h_new = (o * activate(cell, seen)) @ R.T
    return keep_h * h + (1 - keep_h) * h_new, keep_c * c + (1 - keep_c) * c_new


def torch_stack(layer, params, x, first, resets, tape=None):
    """Run layers of `torch_step`, with the masks of a tape if there is one; return y and the final state."""
    T, D = len(x), layer.num_directions
    final = []
    for n in range(layer.num_layers * D):
        k, d = divmod(n, D)
        if d == 0:
            mask = None if tape is None else tape.layers[k].mask
            x, outputs = x if mask is None else x * torch.tensor(mask), []
        suffix = f"_l{k}{'_reverse' if d else ''}"
        w = {name.removesuffix(suffix): value for name, value in params.items() if name.endswith(suffix)}
        h, c = first[0][n], first[1][n]
        y = [None] * T
        for t in reversed(range(T)) if d else range(T):
            if resets is not None and (t < T - 1 if d else True):
                begins = torch.tensor(resets[t + d])[:, None]
                h, c = (torch.where(begins, 0.0, v) for v in (h, c))
            drawn = [1.0, *layer.zoneout]
            if tape is not None:
                masks = tape.layers[k].cells[d].masks
                drawn = [
                    value if mask is None else torch.tensor(mask[t])
                    for value, mask in zip(drawn, masks, strict=True)
                ]
            y[t], _ = h, c = torch_step(layer, w, x[t], h, c, *drawn)
        outputs.append(torch.stack(y))
        final.append((h, c))
        if d == D - 1:
            x = torch.cat(outputs, dim=-1)
    return x, tuple(torch.stack(part) for part in zip(*final, strict=True))


def compare_with_torch_stack(layer, *, seed=0, resets=False):
    T, B = 9, 4
    rng = np.random.default_rng(seed)
    d = draw_inputs(layer, T, B, seed=seed)
    begins = rng.random((T, B)) < 0.25 if resets else None
    params = {name: torch.tensor(value, requires_grad=True) for name, value in layer.params.items()}
    x, *first = (torch.tensor(v, requires_grad=True) for v in (d.x, *d.state))

    got_y, got_final = layer.forward(d.x, d.state, resets=begins)
    dx, dfirst = layer.backward(d.dy, d.dstate)
    y, final = torch_stack(layer, params, x, first, begins, layer.tape)
    differentiate(y, final, d)
    pairs = {"y": (got_y, y), "dx": (dx, x.grad)}
    for n, name in enumerate(("h", "c")):
        pairs |= {f"{name}_n": (got_final[n], final[n]), f"d{name}_0": (dfirst[n], first[n].grad)}
    for name, value in params.items():
        pairs[f"d{name}"] = (layer.grads[name], torch.zeros_like(value) if value.grad is None else value.grad)
    assert_pairs_close(pairs)

    with torch.no_grad():
        y, final = torch_stack(layer, params, x, first, begins)
    got_y, got_final = layer(d.x, d.state, resets=begins)
    assert_pairs_close({"y": (got_y, y), "h_n": (got_final[0], final[0]), "c_n": (got_final[1], final[1])})


OPTIONS = {
    "nothing": {},
    "peepholes": {"peepholes": True},
    "coupled": {"coupled": True},
    "gate_clip": {"gate_clip": 0.4},
    "cell_clip": {"cell_clip": 0.3},
    "layer_norm": {"layer_norm": True},
    "input_dropout": {"input_dropout": 0.4},
    "recurrent_dropout": {"recurrent_dropout": 0.4},
    "zoneout_h": {"zoneout": (0.4, 0.0)},
    "zoneout": {"zoneout": (0.2, 0.4)},
    "proj_size": {"proj_size": 3},
    "activations": {"activations": (("hard_sigmoid", {"alpha": 1 / 6}), "softsign", "elu")},
    "dropout": {"dropout": 0.3},
    "no_bias": {"bias": False},
}


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one-way", "both-ways"])
@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_equals_torchs_operations(backend, name, bidirectional):
    layer = build_lstm(3, 6, 2, bidirectional=bidirectional, backend=backend, **OPTIONS[name])
    compare_with_torch_stack(layer)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("place", range(3), ids=["gates", "candidate", "cell"])
def test_each_activation_equals_torchs(backend, name, place):
    values = {"alpha": 0.3, "beta": 0.4}
    parameters = {key: values[key] for key in cells.ACTIVATIONS[name]}
    for spec in (name, (name, parameters)):
        activations = ["sigmoid", "tanh", "tanh"]
        activations[place] = spec
        compare_with_torch_stack(build_lstm(3, 6, backend=backend, activations=tuple(activations)))


@pytest.mark.filterwarnings("ignore:dropout")  # of one layer
@pytest.mark.parametrize("seed", range(24))
def test_random_options_together_equal_torchs_operations(backend, seed):
    rng = np.random.default_rng(seed)
    options = {}
    for given in OPTIONS.values():
        if rng.integers(2):
            options |= given
    if "layer_norm" in options:
        options.pop("coupled", None)
    layer = build_lstm(
        3,
        6,
        int(rng.integers(1, 3)),
        bidirectional=bool(rng.integers(2)),
        backend=backend,
        seed=seed,
        **options,
    )
    compare_with_torch_stack(layer, seed=seed, resets=bool(rng.integers(2)))
