"""Short calls of `clstm.torch` run at the addresses of tensors: the bits and manners of the long way."""

import pickle
from unittest import mock

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch_pairs import EACH_DTYPE, WARNINGS, flat, gradients, pair, sequence, states  # noqa: E402

from clstm.torch import _passes  # noqa: E402

pytestmark = pytest.mark.filterwarnings(*WARNINGS)

SHAPES = {"one step": (1, 1), "three steps": (3, 1), "three rows": (1, 3), "too long": (5, 1)}


def on_the_long_way(module, *args):
    """Call a module where nothing is prepared."""
    with mock.patch.object(_passes, "run_plain", _passes.run):
        return module(*args)


def assert_equal_tensors(got, expected):
    for own, wanted in zip(flat(got), flat(expected), strict=True):
        assert own.shape == wanted.shape
        assert own.dtype == wanted.dtype
        assert torch.equal(own, wanted)


def called(module, x, hx):
    """Return the results of a call, and how often the long way ran."""
    with mock.patch.object(_passes, "run", wraps=_passes.run) as run:
        return module(x, hx), run.call_count


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("stateful", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["", "batch first"])
@pytest.mark.parametrize("layers", [1, 2])
@EACH_DTYPE
def test_short_calls_have_the_bits_of_long_ones(layers, batch_first, stateful, name, torch_dtype):
    T, B = SHAPES[name]
    _, ours = pair(3, 10, layers, batch_first=batch_first, dtype=torch_dtype)
    for batched in (True, False)[: 1 + (B == 1)]:
        shape = ((B, T, 3) if batch_first else (T, B, 3)) if batched else (T, 3)
        x = sequence(*shape, dtype=torch_dtype, requires_grad=True)
        hx = states(ours, (B,) * batched, torch_dtype) if stateful else None
        results, long = called(ours, x, hx)
        assert long == (name == "too long")
        expected = on_the_long_way(ours, x, hx)
        assert_equal_tensors(results, expected)
        got, wanted = gradients(ours, results, [x]), gradients(ours, expected, [x])
        assert_equal_tensors(got, wanted)
        with torch.no_grad():
            for frozen in (False, True):
                assert_equal_tensors(ours(x, hx), expected)
                ours = ours if frozen else ours.freeze()
            assert_equal_tensors(on_the_long_way(ours, x, hx), expected)
        ours.unfreeze()


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (2, 3), (6, 3)], ids=str)
@EACH_DTYPE
def test_steps_of_a_cell_have_the_bits_of_the_long_way(shape, bias, torch_dtype):
    _, ours = pair(3, 10, bias=bias, cls=nn.LSTMCell, dtype=torch_dtype)
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch_dtype, requires_grad=True)
    h, c = (torch.randn(*shape[:-1], 10, dtype=torch_dtype, requires_grad=True) for _ in range(2))
    for inputs, hx in (([x, h, c], (h, c)), ([x], None)):
        results, expected = ours(x, hx), on_the_long_way(ours, x, hx)
        assert_equal_tensors(results, expected)
        assert_equal_tensors(gradients(ours, results, inputs), gradients(ours, expected, inputs))
        with torch.no_grad():
            assert_equal_tensors(ours(x, hx), expected)


ODD = {
    "with gaps": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "expanded": lambda t: t[..., :1].expand(t.shape),
    "negated": lambda t: torch._neg_view(t),
    "of NumPy's memory": lambda t: torch.from_numpy(t.numpy()),
    "from a pickle": lambda t: pickle.loads(pickle.dumps(t)),
    "of an offset": lambda t: torch.cat([t, t])[len(t) :],
    "a parameter": nn.Parameter,
}


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("name", ODD)
def test_tensors_that_lie_otherwise_are_read_as_they_look(name, position):
    _, ours = pair(3, 10)
    given = [sequence(2, 1, 3), *states(ours, (1,), torch.float64, requires_grad=False)]
    given[position] = ODD[name](given[position])
    with torch.no_grad():
        got, expected = ours(given[0], tuple(given[1:])), on_the_long_way(ours, given[0], tuple(given[1:]))
    assert_equal_tensors(got, expected)


def test_changed_and_exchanged_weights_count_at_the_next_call():
    _, ours = pair(3, 10)
    x = sequence(1, 1, 3)

    def change_in_place():
        ours.weight_hh_l0.mul_(0.5)
        ours.bias_ih_l0.add_(1)

    def exchange_data():
        ours.weight_ih_l0.data = torch.randn(40, 3, dtype=torch.float64)

    def exchange_parameter():
        ours.bias_hh_l0 = nn.Parameter(torch.randn(40, dtype=torch.float64))

    with torch.no_grad():
        for change in (change_in_place, exchange_data, exchange_parameter):
            before = ours(x)[0]
            change()
            assert not torch.equal(ours(x)[0], before)
            assert_equal_tensors(ours(x), on_the_long_way(ours, x))


def test_results_and_tapes_are_nobody_elses():
    _, ours = pair(3, 10)
    x, hx = sequence(1, 1, 3), states(ours, (1,), torch.float64)
    y, (h_n, c_n) = ours(x, hx)
    expected = gradients(ours, [y, h_n, c_n], [])
    y, (h_n, c_n) = ours(x, hx)
    loss = [t * 1 for t in (y, h_n, c_n)]
    with torch.no_grad():
        for t in (y, h_n, c_n):
            t.detach().zero_()  # whoever changes an output in place does not change the tape
        ours(-x)
    assert_equal_tensors(gradients(ours, loss, []), expected)
    addresses = {t.data_ptr() for t in (x, *hx, y, h_n, c_n)}
    assert len(addresses) == 6


def test_a_tensor_without_memory_is_no_address():
    _, ours = pair(3, 10)
    x = sequence(1, 1, 3)
    with torch.no_grad():
        ours(x)
        weights = ours._views
        with mock.patch.object(weights, "short", wraps=weights.short) as short:
            for address, calls in ((x.data_ptr(), 1), (0, 1)):
                with mock.patch.object(torch.Tensor, "data_ptr", lambda _, address=address: address):
                    _passes.run_plain(weights, x, None, None, _passes.FULL)
                assert short.call_count == calls
