"""`clstm.torch.LSTM` and `LSTMCell` have the numbers and gradients of PyTorch's modules.

That they are these modules, and what the kernels do not run, stands in the other files test_torch_*.py.
"""

import gc
import itertools
import os
import threading
import weakref

import numpy as np
import pytest
from conftest import assert_same_bits, run_python

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence  # noqa: E402
from torch_pairs import (  # noqa: E402
    EACH_DTYPE,
    WARNINGS,
    assert_equal_modules,
    assert_equal_results,
    flat,
    gradients,
    pair,
    ran_on_kernels,
    sequence,
    states,
    summed,
)

import clstm  # noqa: E402
import clstm.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings(*WARNINGS)

SIZES = [(5, 3, 4, 6), (1, 3, 7, 5), (6, 1, 3, 8), (1, 1, 1, 1), (4, 5, 17, 9), (7, 2, 1, 3), (3, 18, 2, 33)]


# -------------------------------------------------------------------------------------- numbers and gradients


@pytest.mark.parametrize("proj", [False, True], ids=["", "proj"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@EACH_DTYPE
def test_numbers_and_gradients_are_the_parents(layers, bidirectional, bias, proj, torch_dtype):
    sizes = itertools.cycle(SIZES)
    choices = itertools.product([False, True], [True, False], [False, True], [0.0, 0.4])
    for batch_first, batched, stateful, dropout in choices:
        T, B, I, H = next(sizes)  # noqa: E741
        if proj and H == 1:
            T, B, I, H = next(sizes)  # noqa: E741
        theirs, ours = pair(
            I, H, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional,
            dropout=dropout * (layers > 1), proj_size=max(1, H // 2) * proj, dtype=torch_dtype, seed=H,
        )  # fmt: skip
        shape = ((B, T) if batch_first else (T, B)) if batched else (T,)
        x = torch.randn(*shape, I, dtype=torch_dtype, requires_grad=True)
        hx = states(ours, (B,) if batched else (), torch_dtype) if stateful else None
        assert_equal_modules(theirs, ours, x, hx)
        assert_equal_modules(theirs.eval(), ours.eval(), x, hx)


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("stateful", [False, True], ids=["", "states"])
@pytest.mark.parametrize("enforce_sorted", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("options", [{}, {"proj_size": 2, "bidirectional": True}, {"bias": False}], ids=str)
@EACH_DTYPE
def test_packed_sequences_are_the_parents(options, enforce_sorted, stateful, dropout, torch_dtype):
    theirs, ours = pair(3, 5, 2, dropout=dropout, dtype=torch_dtype, **options)
    lengths = [6, 4, 4, 1] if enforce_sorted else [4, 6, 1, 4]
    x = torch.randn(6, 4, 3, dtype=torch_dtype)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted)
    packed.data.requires_grad_(True)
    hx = states(ours, (4,), torch_dtype) if stateful else None
    assert_equal_modules(theirs, ours, packed, hx)


@pytest.mark.parametrize("lengths", [[1], [3], [1, 1], [5, 5, 5]], ids=str)
@EACH_DTYPE
def test_packed_sequences_of_few_or_equal_rows_are_the_parents(lengths, torch_dtype):
    theirs, ours = pair(2, 3, dtype=torch_dtype)
    packed = pack_sequence([torch.randn(n, 2, dtype=torch_dtype) for n in lengths])
    assert_equal_modules(theirs, ours, packed)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(4, 6), (1, 1), (17, 9)], ids=str)
@pytest.mark.parametrize("rows", [(), (1,), (3,)], ids=str)
@EACH_DTYPE
def test_a_cell_is_the_parents(rows, sizes, bias, torch_dtype):
    theirs, ours = pair(*sizes, cls=nn.LSTMCell, bias=bias, dtype=torch_dtype)
    x = torch.randn(*rows, sizes[0], dtype=torch_dtype, requires_grad=True)
    hx = tuple(torch.randn(*rows, sizes[1], dtype=torch_dtype, requires_grad=True) for _ in range(2))
    assert_equal_modules(theirs, ours, x)
    assert_equal_modules(theirs, ours, x, hx)


@EACH_DTYPE
def test_a_cell_in_a_loop_trains_as_the_parents(torch_dtype):
    found = []
    for module in pair(3, 4, cls=nn.LSTMCell, dtype=torch_dtype):
        torch.manual_seed(1)
        x, state = torch.randn(6, 2, 3, dtype=torch_dtype), None
        for step in x:
            state = module(step, state)
        found.append([*state, *gradients(module, state, [])])
    assert_equal_results(found[1], found[0], "backward")


@pytest.mark.parametrize("which", ["x", "h_0", "c_0", "weight_hh_l0", "bias_hh_l1", "weight_ih_l1"])
def test_only_what_is_asked_for_gets_a_gradient(which):
    theirs, ours = pair(3, 4, 2)
    x, hx = torch.randn(5, 2, 3, dtype=torch.float64), states(ours, (2,), torch.float64, False)
    found = []
    for module in (theirs, ours):
        module.requires_grad_(False)
        tensors = dict(module.named_parameters()) | {"x": x, "h_0": hx[0], "c_0": hx[1]}
        tensors = {name: t.detach() if name in {"x", "h_0", "c_0"} else t for name, t in tensors.items()}
        tensors[which].requires_grad_(True)
        results = module(tensors["x"], (tensors["h_0"], tensors["c_0"]))
        sum(t.square().sum() for t in flat(results)).backward()
        assert {name for name, t in tensors.items() if t.grad is not None} == {which}
        found.append(tensors[which].grad)
    assert_equal_results(found[1:], found[:1], "backward")


@pytest.mark.parametrize("result", [0, 1, 2])
def test_each_result_alone_has_the_parents_gradients(result):
    theirs, ours = pair(3, 4, 2, bidirectional=True, proj_size=3)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    found = [gradients(module, flat(module(x))[result], [x]) for module in (theirs, ours)]
    assert_equal_results(found[1], found[0], "backward")


@pytest.mark.parametrize(
    "change", ["transposed", "reversed columns", "expanded", "negative bit", "every other"]
)
@pytest.mark.parametrize("batch_first", [False, True])
def test_inputs_may_lie_anyhow_in_memory(change, batch_first):
    theirs, ours = pair(3, 4, batch_first=batch_first)
    base = torch.randn(3, 6, 5, dtype=torch.float64)
    x = {
        "transposed": base.permute(2, 1, 0),
        "reversed columns": torch.from_numpy(base.numpy()[::1]).transpose(0, 2),
        "expanded": base[0, :3, :1].t().expand(5, 6, 3),
        "negative bit": torch._neg_view(base.permute(1, 2, 0)),
        "every other": base.permute(2, 1, 0)[::2, ::3],
    }[change]
    assert not x.is_contiguous() or change == "negative bit"
    found = [module(x) for module in (theirs, ours)]
    assert_equal_results(found[1], found[0])


@pytest.mark.parametrize("way", ["sum", "expanded", "transposed", "negative bit", "every second"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_derivatives_by_the_output_may_lie_anyhow_in_memory(way, batch_first):
    theirs, ours = pair(3, 4, 2, batch_first=batch_first, bidirectional=True)
    x = torch.randn(5, 6, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (theirs, ours):
        y, (h_n, c_n) = module(x)
        torch.manual_seed(2)
        dy = torch.randn(6, 8, 5, dtype=torch.float64)
        if way == "sum":
            loss = y.sum() + h_n.sum() + c_n.sum()
        elif way == "expanded":
            loss = (y * dy[:1, :, :1].reshape(8).expand_as(y)).sum() + c_n.mean()
        elif way == "transposed":
            loss = (y.permute(1, 2, 0) * dy).sum()
        elif way == "negative bit":  # the derivative by an imaginary part comes as a lazy negation
            loss = torch.view_as_complex(torch.stack([y, 2 * y], -1)).conj().imag.square().sum()
        else:
            loss = y[::2, 1::2, ::3].square().sum()
        found.append(torch.autograd.grad(loss, [x, *module.parameters()]))
    assert_equal_results(found[1], found[0], "backward")


def test_a_lazily_negated_derivative_is_read_as_what_it_means():
    theirs, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    found = []
    for module in (theirs, ours):
        y, (h_n, c_n) = module(x)
        dy = torch._neg_view(torch.ones_like(y)), torch._neg_view(torch.ones_like(h_n)), torch.ones_like(c_n)
        assert dy[0].is_neg()
        found.append(torch.autograd.grad((y, h_n, c_n), [*module.parameters()], dy))
    assert_equal_results(found[1], found[0], "backward")


def test_weights_may_lie_anyhow_in_memory():
    theirs, ours = pair(3, 4, 2, proj_size=2)
    for name, p in ours.named_parameters():
        if p.dim() == 2:
            p.data = p.data.t().contiguous().t()
        else:
            p.data = torch.stack([p.data, p.data], 1)[:, 0]
        assert not p.is_contiguous() or 1 in p.shape, name
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        assert_equal_modules(theirs, ours, x)
        with torch.no_grad():
            for mine, parents in zip(ours.parameters(), theirs.parameters(), strict=True):
                mine.data.mul_(0.9)
                parents.mul_(0.9)


def test_states_may_be_a_list_and_lie_anyhow_in_memory():
    theirs, ours = pair(3, 4, 2)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    hx = [torch.randn(4, 2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    found = []
    for module in (theirs, ours):
        results = module(x, [part.permute(1, 2, 0) for part in hx])
        found.append([*flat(results), *gradients(module, results, hx)])
    assert_equal_results(found[1], found[0], "backward")


@pytest.mark.parametrize("options", [{}, {"proj_size": 2}, {"bidirectional": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("kind", ["padded", "packed", "unbatched", "batch first", "lengths and resets"])
def test_gradcheck_passes(kind, options):
    options = options | {"batch_first": kind == "batch first"}
    _, ours = pair(2, 3, 2, **options)
    rows = () if kind == "unbatched" else (2,)
    x = torch.randn(*((4, 2) if rows else (4,)), 2, dtype=torch.float64, requires_grad=True)
    more = {}
    if kind == "batch first":
        x = x.detach().transpose(0, 1).requires_grad_(True)
    if kind == "lengths and resets":
        more = {"lengths": [4, 2], "resets": torch.tensor([[0, 1], [1, 0], [0, 0], [1, 1]]).bool()}

    def run(x, h, c, *_):
        given = pack_padded_sequence(x, [4, 2]) if kind == "packed" else x
        results = ours.forward(given, (h, c), **more)
        return tuple(flat(results))

    inputs = (x, *states(ours, rows, torch.float64), *ours.parameters())
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def test_second_derivatives_under_dropout_use_the_masks_that_were_drawn():
    theirs, ours = pair(3, 4, 3, dropout=0.5, bidirectional=True)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for module in (theirs, ours):
        torch.manual_seed(5)
        y, _ = module(x)
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        found.append([dx, *torch.autograd.grad(dx.square().sum(), [x, *module.parameters()])])
    assert_equal_results(found[1], found[0], "backward")


# ------------------------------------------------------------------------------------- what autograd asks for


def test_a_second_walk_back_needs_retain_graph():
    _, ours = pair(3, 4)
    y, _ = ours(torch.randn(5, 2, 3, dtype=torch.float64))
    y.sum().backward(retain_graph=True)
    first = [p.grad.clone() for p in ours.parameters()]
    y.sum().backward()
    for p, once in zip(ours.parameters(), first, strict=True):
        assert torch.equal(p.grad, 2 * once)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        y.sum().backward()


@pytest.mark.parametrize("what", ["x", "h_0", "weight_ih_l0", "bias_hh_l0"])
def test_a_change_in_place_before_the_way_back_is_refused(what):
    _, ours = pair(3, 4)
    x, hx = torch.randn(5, 2, 3, dtype=torch.float64), states(ours, (2,), torch.float64, False)
    y, _ = ours(x, hx)
    with torch.no_grad():
        {"x": x, "h_0": hx[0], **dict(ours.named_parameters())}[what].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("kind", ["padded", "packed", "unbatched", "batch first"])
def test_results_may_be_changed_in_place(kind):
    found = []
    for module in pair(3, 4, 2, batch_first=kind == "batch first"):
        torch.manual_seed(3)
        x = torch.randn(*((5,) if kind == "unbatched" else (5, 2)), 3, dtype=torch.float64)
        y, (h_n, c_n) = module(pack_padded_sequence(x, [5, 3]) if kind == "packed" else x)
        y = y.data if kind == "packed" else y
        (y.relu_().sum() + h_n.mul_(2).sum() + c_n.exp_().sum()).backward()
        found.append([p.grad for p in module.parameters()])
    assert_equal_results(found[1], found[0], "backward")


def test_without_gradients_nothing_is_kept():
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            results = flat(ours(x))
        assert not any(t.requires_grad for t in results)
        assert all(t.is_inference() is (mode is torch.inference_mode) for t in results)


def test_no_result_shares_memory_with_another_or_with_an_input():
    for batched, T, B in ((True, 1, 1), (True, 4, 2), (False, 1, 1)):
        _, ours = pair(4, 4)
        x = torch.randn(*((T, B) if batched else (T,)), 4, dtype=torch.float64)
        hx = states(ours, (B,) if batched else (), torch.float64, False)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                tensors = [*flat(ours(x, hx)), x, *hx, *ours.parameters()]
            assert len({t.untyped_storage().data_ptr() for t in tensors}) == len(tensors)


def test_a_graph_without_any_derivative_gives_none():
    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y):
            return y * 2

        @staticmethod
        def backward(ctx, dy):
            return None

    for create in (False, True):
        found = []
        for module in pair(3, 4):
            x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
            loss = Nothing.apply(module(x)[0]).sum()
            found.append(torch.autograd.grad(loss, x, allow_unused=True, create_graph=create))
        assert found[0] == found[1] == (None,)


def test_gradients_accumulate():
    found = []
    for module in pair(3, 4):
        torch.manual_seed(3)
        for _ in range(3):
            module(torch.randn(5, 2, 3, dtype=torch.float64))[0].square().sum().backward()
        found.append([p.grad for p in module.parameters()])
    assert_equal_results(found[1], found[0], "backward")


def test_tied_weights_get_the_sum_of_their_gradients():
    theirs, ours = pair(4, 4, 2)
    for module in (theirs, ours):
        module.weight_ih_l1 = module.weight_hh_l1 = module.weight_ih_l0
    assert len([*ours.parameters()]) == 6
    assert_equal_modules(theirs, ours, torch.randn(5, 2, 4, dtype=torch.float64, requires_grad=True))


# ------------------------------------------------------------------------------------------- lengths, resets


def as_clstm(module):
    """Make a clstm.LSTM of the same weights."""
    layer = clstm.LSTM(
        module.input_size, module.hidden_size, num_layers=module.num_layers, batch_first=module.batch_first,
        bidirectional=module.bidirectional, bias=module.bias, proj_size=module.proj_size, dtype=np.float64,
    )  # fmt: skip
    named = {name: p.detach().numpy() for name, p in module.named_parameters()}
    for name in layer.params:
        value = named[name.replace("bias_", "bias_ih_")] if name.startswith("bias_") else named[name]
        layer.params[name] = value + named[name.replace("bias_", "bias_hh_")] if "bias_" in name else value
    return layer


@pytest.mark.parametrize("given", ["lengths", "resets", "both"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 3}], ids=str)
def test_lengths_and_resets_are_those_of_our_own_layer(options, batch_first, given):
    _, ours = pair(3, 5, batch_first=batch_first, **options)
    layer = as_clstm(ours)
    rng = np.random.default_rng(0)
    lengths, resets = np.array([6, 0, 3, 1]), rng.random((6, 4)) < 0.4
    x = rng.standard_normal((6, 4, 3))
    if given != "resets":
        x[np.arange(6)[:, None] >= lengths] = np.nan
    if batch_first:
        x, resets = x.swapaxes(0, 1).copy(), resets.T.copy()
    more = {
        "lengths": lengths if given != "resets" else None,
        "resets": resets if given != "lengths" else None,
    }
    hx = states(ours, (4,), torch.float64, False)
    y, state = layer(x, tuple(part.numpy() for part in hx), **more)
    results = [torch.from_numpy(part) for part in (y, *state)]
    assert_equal_results(ours(torch.from_numpy(x), hx, **more), results)
    ours.requires_grad_(False)
    for as_given in (torch.as_tensor, lambda v: v.tolist()):
        told = {name: None if v is None else as_given(v) for name, v in more.items()}
        assert_equal_results(ours(torch.from_numpy(x), hx, **told), results)


@pytest.mark.parametrize("create_graph", [False, True])
def test_nothing_beyond_lengths_is_read_forward_or_back(create_graph):
    _, ours = pair(3, 4, 2, bidirectional=True)
    x = torch.randn(5, 3, 3, dtype=torch.float64)
    found = []
    for padding in (0.0, torch.nan):
        given = x.clone()
        given[2:, 1] = given[:, 2] = padding
        given.requires_grad_(True)
        y, state = ours(given, lengths=[5, 2, 0])
        assert not y[2:, 1].any()
        loss = y.square().sum() + sum(part.square().sum() for part in state)
        first = torch.autograd.grad(loss, [given, *ours.parameters()], create_graph=create_graph)
        found.append([*first])
        if create_graph:
            loss = sum(g.square().sum() for g in first)
            found[-1] += torch.autograd.grad(loss, [given, *ours.parameters()])
    assert all(torch.isfinite(g).all() for g in found[1])
    assert_equal_results(found[1], found[0], "backward")


def test_an_episode_after_a_reset_is_one_of_its_own():
    theirs, ours = pair(3, 4, 2)
    x = torch.randn(7, 1, 3, dtype=torch.float64, requires_grad=True)
    resets = torch.zeros(7, 1, dtype=torch.bool)
    resets[4] = True
    y, (h_n, c_n) = ours(x, resets=resets)
    first, _ = theirs(x[:4])
    second, state = theirs(x[4:])
    assert ran_on_kernels((y, h_n, c_n))
    pieces = [torch.cat([first, second]), *state]
    assert_equal_results((y, h_n, c_n), pieces)
    loss, expected = y.square().sum() + c_n.sum(), pieces[0].square().sum() + state[1].sum()
    got = torch.autograd.grad(loss, [x, *ours.parameters()])
    assert_equal_results(got, torch.autograd.grad(expected, [x, *theirs.parameters()]), "backward")


def test_lengths_give_what_a_packed_sequence_gives():
    theirs, ours = pair(3, 4, 2, bidirectional=True)
    x, lengths = torch.randn(6, 3, 3, dtype=torch.float64), torch.tensor([2, 6, 4])
    packed, state = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
    y, _ = nn.utils.rnn.pad_packed_sequence(packed)
    assert_equal_results(ours(x, lengths=lengths), (y, *state))


def test_an_unbatched_sequence_has_one_length_and_a_row_of_resets():
    _, ours = pair(3, 4)
    x, resets = torch.randn(5, 3, dtype=torch.float64), [False, True, False, False, True]
    y, state = ours(x[:, None], lengths=[4], resets=[[r] for r in resets])
    got = ours(x, lengths=[4], resets=resets)
    assert_equal_results(got, (y[:, 0], *(part[:, 0] for part in state)))


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ({"lengths": [1, 2]}, ValueError, r"lengths: expected shape \(3,\), got \(2,\)"),
        ({"lengths": [1, 2, 6]}, ValueError, r"lengths: expected values in 0\.\.5, got 1\.\.6"),
        ({"lengths": [1, -2, 5]}, ValueError, r"lengths: expected values in 0\.\.5, got -2\.\.5"),
        ({"lengths": [1.0, 2.0, 5.0]}, TypeError, "lengths: expected integers, got dtype float64"),
        ({"lengths": "all"}, TypeError, "lengths: expected integers"),
        ({"lengths": torch.tensor([[1, 2, 3]])}, ValueError, r"lengths: expected shape \(3,\)"),
        ({"resets": torch.zeros(3, 5).bool()}, ValueError, r"resets: expected shape \(5, 3\), got \(3, 5\)"),
        ({"resets": torch.zeros(5, 3)}, TypeError, "resets: expected booleans, got dtype float32"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["kernels", "torch's operations"])
def test_wrong_lengths_and_resets_are_refused(more, error, message, dtype):
    ours = clstm.torch.LSTM(3, 4, dtype=dtype)
    with pytest.raises(error, match=message):
        ours(torch.randn(5, 3, 3, dtype=dtype), **more)


def test_a_packed_sequence_takes_no_lengths_or_resets():
    _, ours = pair(3, 4)
    packed = pack_sequence([torch.randn(3, 3, dtype=torch.float64)])
    for more in ({"lengths": [3]}, {"resets": torch.zeros(3, 1).bool()}):
        with pytest.raises(ValueError, match="expected None with a PackedSequence; they are for a padded"):
            ours(packed, **more)


@pytest.mark.parametrize(
    ("shape", "state", "dtype"),
    [
        ((5, 2, 4), None, torch.float64),
        ((5, 2, 3, 1), None, torch.float64),
        ((3,), None, torch.float64),
        ((5, 2, 3), None, torch.float32),
        ((5, 2, 3), [(2, 2, 4), (1, 2, 4)], torch.float64),
        ((5, 2, 3), [(2, 1, 4), (2, 1, 4)], torch.float64),
        ((5, 2, 3), [(1, 4), (1, 4)], torch.float64),
        ((5, 3), [(1, 1, 4), (1, 1, 4)], torch.float64),
    ],
    ids=str,
)
def test_wrong_arguments_beside_lengths_are_the_parents_errors(shape, state, dtype):
    theirs, ours = pair(3, 4)
    x = torch.randn(shape, dtype=dtype)
    hx = None if state is None else tuple(torch.randn(part, dtype=dtype) for part in state)
    B = x.shape[1] if x.dim() > 2 else 1
    with pytest.raises((RuntimeError, ValueError)) as parents:
        theirs(x, hx)
    with pytest.raises(parents.type) as got:
        ours(x, hx, lengths=[1] * B)
    assert str(got.value) == str(parents.value)


# ---------------------------------------------------------------------------------------- memory and imports


def test_a_tape_lives_as_long_as_its_graph():
    _, ours = pair(3, 4, 2)
    kept = []

    def note(t):
        kept.append(weakref.ref(t))
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        y, _ = ours(torch.randn(5, 2, 3, dtype=torch.float64))
    alive = [ref for ref in kept if ref() is not None]
    assert len(alive) >= len([*ours.parameters()])
    y.sum().backward()
    gc.collect()
    held = {id(p) for p in ours.parameters()}
    assert not [ref for ref in kept if ref() is not None and id(ref()) not in held and not ref().is_leaf]
    assert len([ref for ref in kept if ref() is not None]) < len(alive)


def test_a_graph_that_is_dropped_takes_its_input_with_it():
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    gone, results = weakref.ref(x), ours(x)
    del x
    assert gone() is not None
    del results
    gc.collect()
    assert gone() is None


LEAK = """
import resource, torch, clstm.torch
torch.set_num_threads(1)
lstm, cell = clstm.torch.LSTM(8, 64, 2, dropout=0.5), clstm.torch.LSTMCell(8, 64)
x = torch.randn(50, 8, 8)
def run(n):
    for k in range(n):
        lstm(x)[0].sum().backward()
        cell(x[0])[0].sum().backward()
        with torch.no_grad():
            lstm(x, lengths=[k % 50] * 8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(run(100), run(400))
"""


def test_many_calls_leave_nothing_behind():
    ran = run_python(LEAK)
    assert ran.returncode == 0, ran.stderr
    before, after = map(int, ran.stdout.split())
    assert after - before < 4096, "400 calls, of which each keeps above 200 kB, grew by KiB"


def test_importing_clstm_does_not_import_torch():
    ran = run_python(
        "import sys, clstm; assert 'torch' not in sys.modules; import clstm.torch; clstm.torch.LSTM"
    )
    assert ran.returncode == 0, ran.stderr


# ---------------------------------------------------------------------------------- threads and processes


def run_together(work, n=4):
    workers = [threading.Thread(target=work) for _ in range(n)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def test_threads_may_share_a_module():
    _, ours = pair(8, 16, 2)
    x, found = sequence(20, 4, 8), []

    def work():
        for _ in range(20):
            results = flat(ours(x))
            found.append([*results, *torch.autograd.grad(summed(results), [*ours.parameters()])])

    work()
    run_together(work)
    assert len(found) == 100
    for each in found:
        assert all(map(torch.equal, each, found[0]))


def test_threads_may_step_one_frozen_module():
    _, ours = pair(8, 16, 2)
    ours.freeze().requires_grad_(False)
    x, found = sequence(50, 1, 8), []

    def work():
        state, outputs = None, []
        for step in x:
            y, state = ours(step[None], state)
            outputs.append(y)
        found.append(torch.cat(outputs))

    run_together(work)
    assert len(found) == 4
    for outputs in found:
        assert_equal_results(outputs, ours(x)[0])


def test_the_threads_of_torch_and_of_clstm_are_two_numbers():
    before = clstm.get_num_threads(), torch.get_num_threads()
    try:
        for ours, theirs in ((2, 1), (1, 2), (2, 2)):
            clstm.set_num_threads(ours)
            torch.set_num_threads(theirs)
            _, module = pair(8, 32)
            results = module(sequence(20, 4, 8))
            summed(results).backward()
            assert (clstm.get_num_threads(), torch.get_num_threads()) == (ours, theirs)
    finally:
        clstm.set_num_threads(before[0])
        torch.set_num_threads(before[1])


def test_any_number_of_threads_gives_the_same_bits():
    _, module = pair(8, 32, 2, bidirectional=True)
    x, found, before = sequence(20, 4, 8), [], clstm.get_num_threads()
    try:
        for n in (1, 2, 3):
            clstm.set_num_threads(n)
            results = module(x)
            found.append([t.detach().numpy() for t in (*flat(results), *gradients(module, results, []))])
    finally:
        clstm.set_num_threads(before)
    for others in found[1:]:
        for got, expected in zip(others, found[0], strict=True):
            assert_same_bits(got, expected)


FORKED = """
import os, torch, clstm, clstm.torch
torch.set_num_threads(1); clstm.set_num_threads(2)
lstm, x = clstm.torch.LSTM(8, 64), torch.randn(50, 8, 8)
expected = lstm(x)[0]
lstm.share_memory()
child = os.fork()
if child == 0:
    y = lstm(x)[0]
    y.sum().backward()
    same = torch.equal(y, expected)
    with torch.no_grad():
        lstm.bias_hh_l0.zero_()
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
assert not lstm.bias_hh_l0.any(), "the child writes to the same memory"
assert not torch.equal(lstm(x)[0], expected)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_runs_and_trains_a_shared_module():
    ran = run_python(FORKED)
    assert ran.returncode == 0, ran.stderr


def test_results_may_be_shared_with_other_processes():
    _, ours = pair(3, 4)
    with torch.no_grad():
        y, (h_n, _) = ours(sequence(5, 2, 3))
    before = y.clone()
    for t in (y, h_n):
        t.share_memory_()
        assert t.is_shared()
    assert torch.equal(y, before)


def test_lengths_and_resets_may_change_before_the_way_back():
    _, ours = pair(3, 4)
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    lengths, resets = torch.tensor([6, 4]), torch.zeros(6, 2, dtype=torch.bool)
    resets[3, 0] = True
    y, _ = ours(x, lengths=lengths, resets=resets)
    expected = torch.autograd.grad(y.sin().sum(), list(ours.parameters()))
    y, _ = ours(x, lengths=lengths, resets=resets)
    lengths.fill_(1)
    resets.logical_not_()
    got = torch.autograd.grad(y.sin().sum(), list(ours.parameters()))
    assert all(map(torch.equal, got, expected))
