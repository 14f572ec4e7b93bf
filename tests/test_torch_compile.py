"""`torch.compile` goes around `clstm.torch.LSTM` as one operator, which keeps PyTorch's rules for such."""

import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from torch_pairs import WARNINGS, assert_equal_results, gradients, models, pair, sequence  # noqa: E402

pytestmark = pytest.mark.filterwarnings(*WARNINGS)


# ------------------------------------------------------------------------------------------------- compiling


def compiled(model, backend="aot_eager", **options):
    torch._dynamo.reset()
    return torch.compile(model, backend=backend, fullgraph=True, **options)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True, "bidirectional": True}, {"proj_size": 2, "bias": False}, {"dropout": 0.5}],
    ids=str,
)
def test_a_compiled_module_gives_the_parents_numbers(options, backend):
    theirs, ours = pair(3, 4, 2, **options)
    run = compiled(ours, backend)
    x = sequence(5, 2, 3, requires_grad=True)
    hx = tuple(
        torch.randn(
            2 + 2 * ours.bidirectional, 5 if ours.batch_first else 2, n, dtype=x.dtype, requires_grad=True
        )
        for n in (ours.proj_size or 4, 4)
    )
    for state in (None, hx):
        found = []
        for module in (theirs, run):
            torch.manual_seed(6)
            results = module(x, state)
            found.append(
                (results, gradients(ours if module is run else theirs, results, [x, *(state or ())]))
            )
        assert_equal_results(found[1][0], found[0][0])
        assert_equal_results(found[1][1], found[0][1], "backward")
    with torch.no_grad():
        torch.manual_seed(6)
        expected = theirs(x)
        torch.manual_seed(6)
        assert_equal_results(run(x), expected)


def test_a_compiled_graph_holds_one_operator():
    _, ours = models()
    graphs = []

    def note(graph, inputs):
        graphs.append(graph)
        return graph

    run = compiled(ours, note)
    assert_equal_results(run(sequence(5, 2, 3)), ours(sequence(5, 2, 3)))
    called = [str(n.target) for n in graphs[0].graph.nodes if n.op == "call_function"]
    assert len(graphs) == 1
    assert [name for name in called if "lstm" in name] == ["clstm.lstm"]


def test_a_compiled_module_sees_its_weights_change():
    theirs, ours = pair(3, 4)
    run, x = compiled(ours), sequence(5, 2, 3)
    for module in (theirs, run):
        module(x)
    for change in (lambda p: p.data.mul_(2), lambda p: p.detach().numpy().__imul__(2)):
        for module in (theirs, ours):
            change(module.weight_hh_l0)
        assert_equal_results(run(x), theirs(x))


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 3)], ids=str)
def test_compiled_code_takes_other_sizes(shape):
    theirs, ours = pair(3, 4, 2)
    run = compiled(ours, dynamic=True)
    for n in (5, 6, 9):
        x = sequence(n, *shape[1:], requires_grad=True)
        got, expected = run(x), theirs(x)
        assert_equal_results(got, expected)
        assert_equal_results(gradients(ours, got, [x]), gradients(theirs, expected, [x]), "backward")


def test_compiled_code_takes_lengths_and_resets():
    _, ours = pair(3, 4, 2, bidirectional=True)
    run, x = compiled(ours), sequence(5, 2, 3, requires_grad=True)
    resets = torch.eye(5, 2).bool()
    for lengths in (torch.tensor([5, 2]), torch.tensor([1, 4])):
        got, expected = (module(x, lengths=lengths, resets=resets) for module in (run, ours))
        assert_equal_results(got, expected)
        assert_equal_results(gradients(ours, got, [x]), gradients(ours, expected, [x]), "backward")


def test_a_compiled_cell_is_the_parents():
    theirs, ours = pair(3, 4, cls=nn.LSTMCell)
    run, x = compiled(ours), sequence(2, 3, requires_grad=True)
    got, expected = run(x), theirs(x)
    assert_equal_results(got, expected)
    assert_equal_results(gradients(ours, got, [x]), gradients(theirs, expected, [x]), "backward")


@pytest.mark.parametrize("more", [{"lengths": [3, 2, 9]}, {"resets": torch.zeros(2, 5).bool()}], ids=str)
def test_compiled_code_refuses_wrong_arguments(more):
    run = compiled(pair(3, 4)[1], "eager")
    with pytest.raises(Exception, match=r"lengths: expected|resets: expected"):
        run(sequence(5, 2, 3), **more)


def test_other_recurrent_modules_are_refused_as_before():
    for module in (nn.GRU(3, 4), nn.LSTM(3, 4)):
        with pytest.raises(torch._dynamo.exc.Unsupported):
            compiled(module, "eager")(torch.randn(5, 2, 3))
    assert torch._dynamo.config.allow_rnn is False


def test_a_model_that_is_compiled_in_pieces_takes_packed_sequences():
    theirs, ours = pair(3, 4)
    torch._dynamo.reset()
    x = sequence(5, 2, 3)

    def run(module, x):
        return module(pack_padded_sequence(x, [5, 3]))[0].data * 2

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = torch.compile(lambda v: run(ours, v), backend="eager")(x)
    assert_equal_results(got, run(theirs, x))


@pytest.mark.parametrize("options", [{}, {"proj_size": 2, "bidirectional": True, "bias": False}], ids=str)
@pytest.mark.parametrize("layout", ["time first", "batch first", "unbatched", "lengths", "masks"])
def test_the_operators_keep_torchs_rules(layout, options):
    _, ours = pair(3, 4, 2, **options)
    structure = ours._structure()
    weights = [w.detach().requires_grad_() for w in ours.parameters()]
    rows = () if layout == "unbatched" else (2,)
    shape = (2, 5) if layout == "batch first" else (5, *rows)
    x = sequence(*shape, 3, requires_grad=True)
    LD, R = 2 * structure.directions, ours.proj_size or 4
    h_0, c_0 = sequence(LD, *rows, R, requires_grad=True), sequence(LD, *rows, 4, requires_grad=True)
    lengths = torch.tensor([5, 2]) if layout == "lengths" else None
    resets = torch.eye(5, 2).bool() if layout == "lengths" else None
    masks = [sequence(5, 2, R * structure.directions)] if layout == "masks" else []
    said = (*structure, bool(rows), layout == "batch first")
    inputs = (x, h_0, c_0, weights, masks, lengths, resets, *said)
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.clstm.lstm, (*inputs, True), test_utils=utilities)
    detached = [t.detach() if isinstance(t, torch.Tensor) else t for t in inputs]
    detached[3] = [w.detach() for w in weights]
    torch.library.opcheck(torch.ops.clstm.lstm, (*detached, False), test_utils=utilities)
    y, h_n, c_n, *tape = torch.ops.clstm.lstm(*detached, True)
    outer = [torch.ones_like(t) for t in (y, h_n, c_n)]
    torch.library.opcheck(torch.ops.clstm.lstm_backward, (*detached, tape, *outer), test_utils=utilities)
    some = (*detached, tape, outer[0], None, None)
    torch.library.opcheck(torch.ops.clstm.lstm_backward, some, test_utils=utilities)


def test_lengths_beside_a_packed_sequence_are_refused_when_compiled():
    packed = pack_padded_sequence(sequence(5, 2, 3), [5, 3])
    torch._dynamo.reset()
    run = torch.compile(pair(3, 4)[1], backend="eager")
    with pytest.raises(ValueError, match="lengths, resets: expected None with a PackedSequence"):
        run(packed, lengths=torch.tensor([5, 3]))


def test_empty_sequences_are_refused_when_compiled():
    run = compiled(pair(3, 4)[1], "eager")
    with pytest.raises(Exception, match="Expected sequence length to be larger than 0 in RNN"):
        run(sequence(0, 2, 3))


def test_weights_of_wrong_shapes_are_refused_when_compiled():
    _, ours = pair(3, 4)
    ours.weight_hh_l0 = nn.Parameter(torch.zeros(16, 5, dtype=torch.float64))
    with pytest.raises(Exception, match=r"mat1 and mat2|shape|size"):
        compiled(ours, "eager")(sequence(5, 2, 3))


@pytest.mark.parametrize("which", ["x", "hx", "weight"])
def test_mixed_types_end_as_the_parents_when_compiled(which):
    theirs, ours = pair(3, 4)
    x, hx = sequence(5, 2, 3), [sequence(1, 2, 4), sequence(1, 2, 4)]
    if which == "weight":
        for module in (theirs, ours):
            module.weight_hh_l0 = nn.Parameter(module.weight_hh_l0.detach().float())
    x, hx = x.float() if which == "x" else x, [h.float() for h in hx] if which == "hx" else hx
    with pytest.raises((ValueError, RuntimeError)):
        theirs(x, hx)
    with pytest.raises(Exception, match=r"dtype"):
        compiled(ours, "eager")(x, hx)


def test_a_frozen_module_stays_outside_of_a_graph():
    _, ours = pair(3, 4)
    x = sequence(5, 2, 3)
    before = ours(x)[0].detach().clone()
    ours.freeze().requires_grad_(False).weight_hh_l0.mul_(2)
    torch._dynamo.reset()
    assert torch.equal(torch.compile(ours, backend="eager")(x)[0], before)
    with pytest.raises(Exception, match=r"expected to be unfrozen in a graph of torch\.compile"):
        compiled(ours, "eager")(x)
