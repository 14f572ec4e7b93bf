"""`clstm.torch.LSTM` is PyTorch's module: its cases, its state, copies, freezing, and whole models."""

import copy
import io
import pickle

import numpy as np
import pytest
from conftest import assert_close

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402
from torch_pairs import (  # noqa: E402
    EACH_DTYPE,
    OURS,
    WARNINGS,
    assert_equal_modules,
    assert_equal_results,
    flat,
    gradients,
    pair,
    states,
)

import clstm.torch  # noqa: E402

pytestmark = pytest.mark.filterwarnings(*WARNINGS)


# ---------------------------------------------------------------------------------------- torch's own matrix


@pytest.fixture(scope="module")
def torch_cases():
    """Return PyTorch's own cases for a module class, as its test_modules.py takes them."""
    patch = pytest.MonkeyPatch()
    try:
        import expecttest  # noqa: F401
    except ImportError:  # of which torch's file of cases needs a name
        import sys
        import types
        import unittest

        patch.setitem(sys.modules, "expecttest", types.SimpleNamespace(TestCase=unittest.TestCase))
    from torch.testing._internal.common_modules import module_db

    patch.undo()
    infos = {info.module_cls: info for info in module_db}

    def cases(cls, dtype, *, training=True, errors=False):
        info = infos[cls]
        function = info.module_error_inputs_func if errors else info.module_inputs_func
        torch.manual_seed(0)
        found = function(info, device="cpu", dtype=dtype, requires_grad=True, training=training)
        assert len(found) >= 2
        return found

    return cases


def constructed(cls, case, dtype):
    arguments = case.constructor_input
    return pair(*arguments.args, cls=cls, dtype=dtype, **arguments.kwargs)


MATRIX = [nn.LSTM, nn.LSTMCell]


@pytest.mark.parametrize("cls", MATRIX)
@EACH_DTYPE
def test_torchs_matrix_forward_and_gradients(cls, torch_cases, torch_dtype):
    for training in (True, False):
        for case in torch_cases(cls, torch_dtype, training=training):
            theirs, ours = constructed(cls, case, torch_dtype)
            theirs.train(training), ours.train(training)
            assert_equal_modules(theirs, ours, *case.forward_input.args)
            assert repr(ours) == repr(theirs)
            args = case.forward_input.args
            assert_equal_results(ours(*args), case.reference_fn(ours, *args))


@pytest.mark.parametrize("cls", MATRIX)
def test_torchs_matrix_gradcheck_and_gradgradcheck(cls, torch_cases):
    for case in torch_cases(cls, torch.float64):
        _, ours = constructed(cls, case, torch.float64)
        inputs = (*flat(case.forward_input.args), *ours.parameters())
        stateful = len(case.forward_input.args) > 1

        def run(x, *others, ours=ours, stateful=stateful):
            return tuple(flat(ours(x, others[:2]) if stateful else ours(x)))

        assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
        if stateful:  # the rest of the cases are the same ones without
            assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("cls", MATRIX)
def test_torchs_matrix_pickle_state_dict_and_dtype(cls, torch_cases):
    for case in torch_cases(cls, torch.float32):
        theirs, ours = constructed(cls, case, torch.float32)
        args = case.forward_input.args
        with torch.no_grad():
            before = flat(ours(*args))
            for copied in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
                assert type(copied) is type(ours)
                assert all(map(torch.equal, flat(copied(*args)), before))
            assert [*ours.state_dict()] == [*theirs.state_dict()]
            theirs.load_state_dict(ours.state_dict())
            doubled = [a.double() if torch.is_tensor(a) else tuple(p.double() for p in a) for a in args]
            assert_equal_results(ours.double()(*doubled), theirs.double()(*doubled))
            assert all(map(torch.equal, flat(ours.float()(*args)), before))


@pytest.mark.parametrize("cls", MATRIX)
def test_torchs_matrix_inputs_without_contiguous_memory(cls, torch_cases):
    def strewn(t):
        wide = torch.stack([t.detach(), torch.full_like(t, torch.nan)], -1)
        return wide[..., 0].requires_grad_(True)

    for case in torch_cases(cls, torch.float64):
        theirs, ours = constructed(cls, case, torch.float64)
        x, *state = case.forward_input.args
        for given in ((strewn(x), *state), (x, *(tuple(map(strewn, part)) for part in state))):
            found = [module(*given) for module in (theirs, ours)]
            assert_equal_results(found[1], found[0])
            assert_equal_results(
                *(gradients(m, r, flat(given)) for m, r in ((ours, found[1]), (theirs, found[0])))
            )


@pytest.mark.parametrize("cls", MATRIX)
def test_torchs_matrix_of_errors(cls, torch_cases):
    for wrong in torch_cases(cls, torch.float32, errors=True):
        arguments, forward = (
            wrong.module_error_input.constructor_input,
            wrong.module_error_input.forward_input,
        )

        def fail(arguments=arguments, forward=forward):
            module = OURS[cls](*arguments.args, **arguments.kwargs)
            module(*forward.args, **forward.kwargs)

        with pytest.raises(wrong.error_type, match=wrong.error_regex):
            fail()


# ----------------------------------------------------------------------------------- it is what its parent is


def test_it_looks_as_its_parent():
    options = {"num_layers": 2, "bidirectional": True, "proj_size": 2, "bias": False, "dropout": 0.5}
    theirs, ours = pair(3, 4, **options)
    assert isinstance(ours, nn.LSTM)
    assert repr(ours) == repr(theirs)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    assert ours.flatten_parameters() is None
    assert [[w.shape for w in ws] for ws in ours.all_weights] == [
        [w.shape for w in ws] for ws in theirs.all_weights
    ]
    assert (type(ours).__module__, type(ours).__qualname__) == ("clstm.torch", "LSTM")


def test_the_same_seed_draws_the_parents_parameters():
    for cls, mine in OURS.items():
        made = []
        for each in (cls, mine):
            torch.manual_seed(4)
            made.append(each(3, 4))
        assert all(map(torch.equal, made[0].parameters(), made[1].parameters()))


@pytest.mark.parametrize("cls", MATRIX)
def test_arguments_of_the_constructor_are_checked_by_the_parent(cls):
    for arguments in ((3,), ("3", 4), (3, 4.0)):
        with pytest.raises((TypeError, ValueError, RuntimeError)) as parents:
            cls(*arguments)
        with pytest.raises(parents.type) as got:
            OURS[cls](*arguments)
        assert str(got.value) == str(parents.value)


def copies(module):
    """Make copies of a module in every way there is."""
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    yield torch.load(stream, weights_only=False)
    yield pickle.loads(pickle.dumps(module))
    yield copy.deepcopy(module)


@pytest.mark.parametrize("cls", MATRIX)
def test_a_copy_made_after_use_has_weights_of_its_own(cls):
    _, ours = pair(3, 4, cls=cls)
    x = torch.randn(2, 3, dtype=torch.float64)
    before = flat(ours(x))
    for copied in copies(ours):
        assert "_views" not in vars(copied)
        assert {t.data_ptr() for t in copied.parameters()}.isdisjoint(t.data_ptr() for t in ours.parameters())
        copied(x)
        with torch.no_grad():
            for p in copied.parameters():
                p.zero_()
        assert not any(t.any() for t in flat(copied(x)))
        assert all(map(torch.equal, flat(ours(x)), before))


def test_a_shallow_copy_shares_its_parameters():
    _, ours = pair(3, 4)
    x = torch.randn(2, 3, dtype=torch.float64)
    ours(x)
    copied = copy.copy(ours)
    with torch.no_grad():
        ours.weight_ih_l0.zero_()
    assert all(map(torch.equal, flat(copied(x)), flat(ours(x))))


def test_weights_saved_by_one_are_read_by_the_other(tmp_path):
    theirs, ours = pair(3, 4, 2)
    torch.save(ours.state_dict(), tmp_path / "w.pt")
    other = nn.LSTM(3, 4, 2, dtype=torch.float64)
    other.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True))
    assert all(map(torch.equal, other.parameters(), theirs.parameters()))


# ------------------------------------------------------------------------------------------- no stale weights


def through_numpy(p):
    p.detach().numpy()[...] *= 2


def through_data(p):
    p.data.copy_(p.data * 2)


def data_replaced(p):
    p.data = p.data * 2


def through_the_storage(p):
    p.untyped_storage().copy_((p.data * 2).untyped_storage())


def in_place(p):
    with torch.no_grad():
        p.mul_(2)


def shared(p):
    p.share_memory_()
    in_place(p)


def set_elsewhere(p):
    with torch.no_grad():
        p.set_((p.data * 2).contiguous())


@pytest.mark.parametrize("cls", MATRIX)
@pytest.mark.parametrize(
    "change",
    [through_numpy, through_data, data_replaced, through_the_storage, in_place, shared, set_elsewhere],
)
def test_no_change_of_a_weight_goes_unseen(change, cls):
    theirs, ours = pair(3, 4, cls=cls)
    x = torch.randn(2, 3, dtype=torch.float64)
    for mine, parents in zip(ours.parameters(), theirs.parameters(), strict=True):
        ours(x)
        change(mine)
        change(parents)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                assert_equal_results(ours(x), theirs(x))
        assert_equal_modules(theirs, ours, x)


@pytest.mark.parametrize("way", ["attribute", "_parameters", "assign", "to", "delattr"])
def test_no_exchange_of_a_parameter_goes_unseen(way):
    theirs, ours = pair(3, 4, 2)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    for module in (theirs, ours):
        module(x)
        torch.manual_seed(8)
        new = {name: nn.Parameter(torch.randn_like(p)) for name, p in module.named_parameters()}
        if way == "assign":
            module.load_state_dict(new, assign=True)
        elif way == "to":
            module.float().double()
        else:
            for name, p in new.items():
                if way == "delattr":
                    delattr(module, name)
                if way == "_parameters":
                    module._parameters[name] = p
                else:
                    setattr(module, name, p)
    assert_equal_modules(theirs, ours, x)


def test_memory_of_a_replaced_weight_is_not_taken_for_the_new_one():
    theirs, ours = pair(3, 4)
    x = torch.randn(2, 3, dtype=torch.float64)
    for seed in range(30):
        torch.manual_seed(seed)
        for module in (theirs, ours):
            module.weight_hh_l0.data = torch.full((16, 4), seed / 30, dtype=torch.float64)
        assert_equal_results(ours(x), theirs(x))


def test_parameters_of_a_call_do_not_stay():
    theirs, ours = pair(3, 4)
    x = torch.randn(2, 3, dtype=torch.float64)
    before = flat(ours(x))
    given = {name: torch.randn_like(p) for name, p in ours.named_parameters()}
    expected = torch.func.functional_call(theirs, given, (x,))
    assert_equal_results(torch.func.functional_call(ours, given, (x,)), expected)
    assert clstm.torch.revert(ours) == 1  # the parent keeps a list of its own
    assert_equal_results(ours(x), before)
    assert clstm.torch.convert(ours) == 1
    assert all(map(torch.equal, flat(ours(x)), before))


# -------------------------------------------------------------------------------------------------- freezing

FROZEN = [
    {},
    {"num_layers": 3},
    {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    {"bias": False, "batch_first": True},
]


@pytest.mark.parametrize("options", FROZEN, ids=str)
@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (1, 3), (3, 1), (4, 3)], ids=str)
@pytest.mark.parametrize("stateful", [False, True])
@EACH_DTYPE
def test_a_frozen_module_gives_the_same_numbers(shape, options, stateful, torch_dtype):
    _, ours = pair(3, 4, dtype=torch_dtype, **options)
    x = torch.randn(*shape, 3, dtype=torch_dtype)
    rows = shape[:1] if options.get("batch_first") else shape[1:]
    hx = states(ours, rows if len(shape) == 2 else (), torch_dtype, False) if stateful else None
    with torch.no_grad():
        expected = ours(x, hx)
        assert ours.freeze() is ours
        assert_equal_results(ours(x, hx), expected)
        assert [t.shape for t in flat(ours(x, hx))] == [t.shape for t in flat(expected)]


def test_a_frozen_module_is_a_snapshot():
    _, ours = pair(3, 4, 2)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    packed = pack_padded_sequence(x, [5, 3])
    with torch.no_grad():
        before = [flat(ours(x)), flat(ours(packed)), flat(ours(x[:1, 0])), flat(ours(x, lengths=[3, 2]))]
        ours.freeze()
        for p in ours.parameters():
            p.mul_(2)
        frozen = [flat(ours(x)), flat(ours(packed)), flat(ours(x[:1, 0])), flat(ours(x, lengths=[3, 2]))]
        for got, expected in zip(frozen, before, strict=True):
            assert_equal_results(got, expected)
        ours.freeze()
        again = flat(ours(x))
        assert ours.unfreeze() is ours
        assert all(map(torch.equal, flat(ours(x)), again))
        assert not torch.equal(again[0], before[0][0])
        assert ours.unfreeze() is ours


@pytest.mark.parametrize(
    "arguments",
    [
        lambda x, _h: (x.reshape(3, 1), None),
        lambda x, _h: (x.reshape(3), None),
        lambda x, _h: (x.float(), None),
        lambda x, _h: (x.to(torch.bfloat16), None),
        lambda x, _h: (x.to_sparse(), None),
        lambda _x, _h: (torch.tensor(1.0, dtype=torch.float64), None),
        lambda x, h: (x, (h,)),
        lambda x, h: (x, (h, h, h)),
        lambda x, h: (x, (h, h[0])),
        lambda x, h: (x, (h.float(), h)),
        lambda x, h: (x, (h.tile(1, 1, 2)[..., ::2], h)),
        lambda x, h: (x._neg_view(), (h, h._neg_view())),
    ],
)
def test_a_frozen_step_with_odd_arguments_is_what_it_is_when_not_frozen(arguments):
    _, ours = pair(3, 4)
    x, hx = arguments(torch.randn(1, 1, 3, dtype=torch.float64), torch.randn(1, 1, 4, dtype=torch.float64))
    outcomes = []
    with torch.no_grad():
        for module in (ours, ours.freeze()):
            try:
                outcomes.append([part.tolist() for part in flat(module(x, hx))])
            except (IndexError, RuntimeError, TypeError, ValueError) as error:
                outcomes.append((type(error), str(error)))
    assert outcomes[0] == outcomes[1]


def test_a_frozen_module_refuses_gradients():
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    ours.freeze()
    with pytest.raises(RuntimeError, match=r"clstm\.torch\.LSTM: expected no gradients .* unfreeze"):
        ours(x)
    with torch.no_grad():
        ours(x)
    ours.requires_grad_(False)
    assert not ours(x)[0].requires_grad
    with pytest.raises(RuntimeError, match="unfreeze"):
        ours(x.requires_grad_(True))


def test_a_frozen_module_says_so_and_stays_so():
    _, ours = pair(3, 4)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    assert repr(ours.freeze()) == "LSTM(3, 4, frozen)"
    with torch.no_grad():
        for copied in copies(ours):
            assert repr(copied) == repr(ours)
            assert all(map(torch.equal, flat(copied(x)), flat(ours(x))))
            assert "frozen" not in repr(copied.unfreeze())
    assert "frozen" in repr(ours)
    assert "frozen" not in repr(ours.unfreeze())


def test_loading_and_moving_take_a_new_snapshot():
    theirs, ours = pair(3, 4)
    other, _ = pair(3, 4, seed=5)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    ours.freeze()
    with torch.no_grad():
        ours.load_state_dict(other.state_dict())
        assert_equal_results(ours(x), other(x))
        ours.load_state_dict(theirs.state_dict(), assign=True)
        assert_equal_results(ours(x), theirs(x))
        assert_equal_results(ours.float()(x.float()), theirs.float()(x.float()))
    assert "frozen" in repr(ours)


@pytest.mark.parametrize("move", [lambda m: m.half(), lambda m: m.to("meta"), lambda m: m.bfloat16()])
def test_a_frozen_module_that_moves_where_no_kernel_is_thaws(move):
    model = nn.Sequential(pair(3, 4)[1].freeze(), nn.Linear(4, 4, dtype=torch.float64))
    move(model)
    assert len({(p.dtype, p.device) for p in model.parameters()}) == 1
    assert "frozen" not in repr(model)
    with pytest.raises(ValueError, match="freeze: expected parameters of float32 or float64 on the CPU"):
        model[0].freeze()


def test_frozen_steps_give_the_whole_sequence():
    _, ours = pair(3, 4, 2)
    x = torch.randn(6, 1, 3, dtype=torch.float64)
    with torch.no_grad():
        expected, state = ours.freeze()(x), None
        outputs = []
        for step in x:
            y, state = ours(step[None], state)
            outputs.append(y)
    assert_equal_results((torch.cat(outputs), state), expected)


# ---------------------------------------------------------------------------------------------- whole models


class Model(nn.Module):
    """LSTMs at several depths, one of them twice, and what is none."""

    def __init__(self):
        super().__init__()
        self.first = nn.LSTM(3, 4, 2, dropout=0.3, bidirectional=True)
        self.blocks = nn.ModuleList([nn.ModuleDict({"rnn": nn.LSTM(8, 8)}), nn.GRU(8, 8)])
        self.again = self.blocks[0]["rnn"]
        self.cell = nn.LSTMCell(8, 5)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        x = self.again(self.blocks[0]["rnn"](self.first(x)[0])[0])[0]
        h, _ = self.cell(self.blocks[1](x)[0][-1])
        return self.head(h)


def losses(model, optimiser, steps=5):
    torch.manual_seed(3)
    found = []
    for _ in range(steps):
        loss = model(torch.randn(5, 2, 3)).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return np.array(found, np.float32)


def test_an_optimiser_made_before_trains_a_converted_model():
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        model = Model()
        models.append((model, torch.optim.Adam(model.parameters(), lr=0.01)))
    before = {name: id(p) for name, p in models[1][0].named_parameters()}
    assert clstm.torch.convert(models[1][0]) == 3
    assert {name: id(p) for name, p in models[1][0].named_parameters()} == before
    expected, got = (losses(*each) for each in models)
    assert_close(got, expected, "backward")
    assert expected[-1] != expected[0]
    assert clstm.torch.revert(models[1][0]) == 3
    got, expected = losses(*models[1]), losses(*models[0])
    assert_close(got, expected, "backward")


def test_conversion_goes_there_and_back():
    model = Model()
    text = repr(model)
    assert clstm.torch.convert(model) == 3
    assert clstm.torch.convert(model) == 0
    assert type(model.again) is type(model.first) is clstm.torch.LSTM
    assert type(model.cell) is clstm.torch.LSTMCell
    assert type(model.blocks[1]) is nn.GRU
    assert model.again is model.blocks[0]["rnn"]
    assert repr(model) == text
    model(torch.randn(5, 2, 3))
    model.first.freeze()
    assert clstm.torch.revert(model) == 3
    assert clstm.torch.revert(model) == 0
    assert type(model.first) is nn.LSTM
    assert repr(model) == text
    assert not {"_views", "_frozen"} & vars(model.first).keys()
    pickle.loads(pickle.dumps(model))


def test_the_root_itself_is_converted():
    lstm = nn.LSTM(3, 4)
    assert clstm.torch.convert(lstm) == 1
    assert type(lstm) is clstm.torch.LSTM
    assert clstm.torch.revert(lstm) == 1
    assert type(lstm) is nn.LSTM


def test_a_module_made_as_ours_is_reverted_too():
    ours = clstm.torch.LSTM(3, 4)
    assert clstm.torch.revert(ours) == 1
    assert type(ours) is nn.LSTM


def test_subclasses_of_users_keep_their_code():
    class Theirs(nn.LSTM):
        def forward(self, x):
            return super().forward(x)[0] * 0

    class Ours(clstm.torch.LSTM):
        def forward(self, x):
            return super().forward(x)[0] * 0

    model = nn.Sequential(Theirs(3, 4), nn.Linear(4, 3), Ours(3, 4))
    assert clstm.torch.convert(model) == 0
    assert clstm.torch.revert(model) == 0
    assert not model(torch.randn(5, 2, 3)).any()


def test_hooks_stay():
    lstm, seen = nn.LSTM(3, 4), []
    lstm.register_forward_hook(lambda *_: seen.append("forward"))
    lstm.register_forward_pre_hook(lambda *_: seen.append("pre"))
    lstm.register_full_backward_hook(lambda *_: seen.append("backward"))
    lstm.weight_hh_l0.register_hook(lambda g: seen.append("weight") or g)
    lstm.weight_hh_l0.register_post_accumulate_grad_hook(lambda *_: seen.append("grad"))
    clstm.torch.convert(lstm)
    lstm(torch.randn(5, 2, 3, requires_grad=True))[0].sum().backward()
    assert sorted(seen) == ["backward", "forward", "grad", "pre", "weight"]


@pytest.mark.parametrize("function", [clstm.torch.convert, clstm.torch.revert])
@pytest.mark.parametrize(
    "wrong", [None, nn.LSTM, [nn.LSTM(1, 1)], "model"], ids=["None", "class", "list", "text"]
)
def test_what_is_no_module_is_refused(function, wrong):
    with pytest.raises(TypeError, match="module: expected Module, got"):
        function(wrong)
