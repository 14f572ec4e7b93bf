"""LSTMs of PyTorch, here and back: the same numbers, or one error that says why; PyTorch is the oracle.

The files are written by torch.save in both of its formats; damage and hostile ones are made of those.
"""

import collections
import io
import os
import pickle
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.numpy
from conftest import LAYERS, assert_close, assert_refused, assert_same_bits, build_layer, run_python

import clstm
from clstm import FileFormatError
from clstm.interop import contents
from clstm.interop import torch as interop

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
I, H = 3, 5  # noqa: E741
FORMATS = ("zip", "legacy", "safetensors", "mapping")
SHAPES = {
    "plain": {},
    "no bias": {"bias": False},
    "stacked": {"num_layers": 3},
    "bidirectional": {"bidirectional": True},
    "projected": {"proj_size": 2},
    "all": {"num_layers": 2, "bidirectional": True, "proj_size": 2},
    "stacked, no bias": {"num_layers": 2, "bidirectional": True, "bias": False},
}


def make(dtype=torch.float64, seed=0, **kwargs):
    torch.manual_seed(seed)
    return torch.nn.LSTM(I, H, **kwargs).to(dtype)


class Tagger(torch.nn.Module):
    """A model with other recurrent layers beside its LSTM."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = torch.nn.Embedding(7, I)
        self.rnn = torch.nn.LSTM(I, H, 2, batch_first=True, dropout=0.25, bidirectional=True)
        self.gru = torch.nn.GRU(2 * H, H)
        self.plain = torch.nn.RNN(H, H)
        self.head = torch.nn.Linear(H, 2)


def saved(thing, form="zip"):
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(thing, file, _use_new_zipfile_serialization=form == "zip")
    return file.getvalue()


def as_source(tmp_path, state_dict, form):
    """Return a state_dict in one of the forms that are read."""
    if form == "mapping":
        return state_dict
    path = tmp_path / f"a-{form}.bin"  # the content tells the format
    if form == "safetensors":
        safetensors_torch = pytest.importorskip("safetensors.torch")
        path.write_bytes(safetensors_torch.save({k: v.contiguous() for k, v in state_dict.items()}))
    else:
        path.write_bytes(saved(state_dict, form))
    return path


def assert_same_layer(got, theirs, prefix=""):
    """Compare parameters with those of PyTorch, bit for bit."""
    expected = {name: value.detach() for name, value in theirs.state_dict().items()}
    dtype = np.float64 if theirs.weight_ih_l0.dtype == torch.float64 else np.float32
    seen = set()
    for name, value in got.params.items():
        parts = (
            [name] if name in expected else [name.replace("bias", "bias_ih"), name.replace("bias", "bias_hh")]
        )
        arrays = [expected[part].to(torch.float64).numpy().astype(dtype) for part in parts]
        assert_same_bits(value, sum(arrays[1:], arrays[0]), f"{prefix}{name}")
        seen |= set(parts)
    assert seen == set(expected)
    assert got.dtype == dtype


def refuse(path, content, match=None, prefix=None):
    path.write_bytes(content)
    return assert_refused(lambda path: clstm.LSTM.from_torch(path, prefix), path, match)


# ------------------------------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_is_pytorchs(tmp_path, form, shape):
    theirs = make(**SHAPES[shape])
    ours = clstm.LSTM.from_torch(as_source(tmp_path, theirs.state_dict(), form))
    assert_same_layer(ours, theirs)
    x = np.random.default_rng(0).standard_normal((6, 2, I))
    expected, state = theirs(torch.from_numpy(x))
    y, (h_n, c_n) = ours(x)
    for got, value in ((y, expected), (h_n, state[0]), (c_n, state[1])):
        assert_close(got, value.detach().numpy(), "torch")


@pytest.mark.parametrize("gates", [(0, 1), (0, 2), (1, 3), (2, 3)])
def test_comparison_notices_two_gates_that_are_permuted(gates):
    theirs = make()
    ours = clstm.LSTM.from_torch(theirs)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"):
        blocks = np.split(ours.params[name].copy(), 4)
        blocks[gates[0]], blocks[gates[1]] = blocks[gates[1]], blocks[gates[0]]
        ours.params[name] = np.concatenate(blocks)
    x = np.random.default_rng(0).standard_normal((6, 2, I))
    with pytest.raises(AssertionError, match="promised"):
        assert_close(ours(x)[0], theirs(torch.from_numpy(x))[0].detach().numpy(), "torch")
    with pytest.raises(AssertionError):
        assert_same_layer(ours, theirs)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_float_is_read_exactly(tmp_path, form, dtype):
    theirs = make(getattr(torch, dtype), num_layers=2)
    assert_same_layer(clstm.LSTM.from_torch(as_source(tmp_path, theirs.state_dict(), form)), theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back_every_weight_has_the_same_bits(tmp_path, shape, dtype):
    theirs = make(getattr(torch, dtype), **SHAPES[shape])
    ours = clstm.LSTM.from_torch(theirs)
    back = ours.to_torch()
    assert list(back) == list(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        if name.startswith("bias_hh"):
            assert not back[name].any()
        elif name.startswith("bias_ih"):
            other = theirs.state_dict()[name.replace("ih", "hh")]
            assert_same_bits(back[name], (value + other).numpy())
        else:
            assert_same_bits(back[name], value.numpy())
    again = make(getattr(torch, dtype), seed=1, **SHAPES[shape])
    again.load_state_dict({name: torch.from_numpy(value) for name, value in back.items()})
    assert_same_bits(clstm.LSTM.from_torch(again).flat_params, ours.flat_params)

    path = tmp_path / "a.safetensors"
    written = ours.to_torch(path)
    for name, value in safetensors.numpy.load_file(path).items():
        assert_same_bits(value, written[name])
    assert_same_bits(clstm.LSTM.from_torch(path).flat_params, ours.flat_params)


def test_written_file_is_one_that_pytorch_loads(tmp_path):
    load_model = pytest.importorskip("safetensors.torch").load_model
    ours = build_layer("lstm", I, H, 2, bidirectional=True, dtype="float32")
    ours.to_torch(tmp_path / "a")
    theirs = make(torch.float32, num_layers=2, bidirectional=True)
    load_model(theirs, str(tmp_path / "a"))
    assert_same_bits(clstm.LSTM.from_torch(theirs).flat_params, ours.flat_params)


@pytest.mark.parametrize(
    "option",
    [
        {"reverse": True}, {"peepholes": True}, {"coupled": True}, {"gate_clip": 1.0}, {"cell_clip": 1.0},
        {"layer_norm": True}, {"activations": ("sigmoid", "relu", "tanh")}, {"zoneout": (0.0, 0.1)},
    ],
)  # fmt: skip
def test_options_that_pytorch_has_not_are_not_left_out_in_silence(tmp_path, option):
    (name,) = option
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, for torch.nn.LSTM has nothing else, got "):
        clstm.LSTM(I, H, **option).to_torch(tmp_path / "a")
    assert not os.listdir(tmp_path)


# ------------------------------------------------------------------------------------------ where it is found


def checkpoint(model):
    """Make what training scripts save beside the weights."""
    optimizer = torch.optim.Adam(model.parameters())
    sum(value.sum() for value in model.parameters()).backward()
    optimizer.step()
    return {
        "epoch": 3,
        "args": SimpleNamespace(lr=0.1, device=torch.device("cpu")),
        "nothing": None,
        "loss": [torch.tensor(1.5), (1, 2)],
        "shape": torch.Size([1, 2]),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "model": model.state_dict(),
        "half": torch.zeros(2, dtype=torch.complex64),
    }


@pytest.mark.parametrize("form", ["zip", "legacy", "mapping"])
def test_checkpoint_is_searched_at_any_depth(tmp_path, form):
    model = Tagger()
    source = as_source(tmp_path, {"outer": [checkpoint(model)]}, form)
    expected = clstm.LSTM.from_torch(model.rnn)
    assert_same_layer(expected, model.rnn)
    for prefix in (None, "outer.0.model.rnn", "outer.0.model.rnn.", "rnn", "model.rnn."):
        assert_same_bits(clstm.LSTM.from_torch(source, prefix).flat_params, expected.flat_params)
    (found,) = interop.find(source)
    assert found.name == "outer.0.model.rnn"
    assert found.trouble is None
    assert found.arguments == {
        "input_size": I, "hidden_size": H, "num_layers": 2, "bias": True, "bidirectional": True,
        "proj_size": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("prefix", "reason"),
    [
        ("model.gru", "'model.gru': a GRU, not an LSTM"),
        ("plain", "'model.plain': an RNN, not an LSTM"),
        ("head", "prefix: expected one of model.rnn, model.gru, model.plain, got 'head'"),
        ("", "prefix: expected one of model.rnn, model.gru, model.plain, got ''"),
        ("n", "prefix: expected one of model.rnn, model.gru, model.plain, got 'n'"),
    ],
)
def test_what_is_selected_and_no_lstm_is_said(tmp_path, prefix, reason):
    refuse(tmp_path / "a.pt", saved({"model": Tagger().state_dict()}), f": {reason}$", prefix)


def test_several_lstms_are_listed(tmp_path):
    model = torch.nn.ModuleDict({"encoder": make(), "decoder": make(seed=1)})
    refuse(
        tmp_path / "a.pt",
        saved(model.state_dict()),
        "expected prefix= to select one of its LSTMs: encoder, dec",
    )
    for name, theirs in model.items():
        assert_same_layer(clstm.LSTM.from_torch(tmp_path / "a.pt", name), theirs)
    twice = {"a": model.state_dict(), "b": dict(model.state_dict())}
    refuse(
        tmp_path / "b.pt", saved(twice), "prefix: expected one of a.encoder, a.decoder, b.encoder", "decoder"
    )


@pytest.mark.parametrize("source", ["GRU", "RNN", "Linear"])
def test_file_without_an_lstm_is_refused(tmp_path, source):
    match = {
        "GRU": r"a\.pt: a GRU, not an LSTM",
        "RNN": r"a\.pt: an RNN, not an LSTM",
        "Linear": r"a\.pt: expected an LSTM in it, got none",
    }
    refuse(tmp_path / "a.pt", saved(getattr(torch.nn, source)(2, 3).state_dict()), match[source])
    assert interop.find(tmp_path / "a.pt") == []


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("bias", [True, False])
def test_cell_is_a_layer_of_one(tmp_path, form, bias):
    cell = torch.nn.LSTMCell(I, H, bias=bias, dtype=torch.float64)
    model = torch.nn.ModuleDict({"cell": cell})
    ours = clstm.LSTM.from_torch(as_source(tmp_path, model.state_dict(), form), "cell")
    assert_same_bits(ours.flat_params, clstm.LSTM.from_torch(model).flat_params)
    x = np.random.default_rng(0).standard_normal((2, I))
    h, c = cell(torch.from_numpy(x))
    _, (h_n, c_n) = ours(x[None])
    assert_close(h_n[0], h.detach().numpy(), "torch")
    assert_close(c_n[0], c.detach().numpy(), "torch")


def test_module_tells_its_own_settings():
    model = Tagger()
    ours = clstm.LSTM.from_torch(model, dtype="float64", backend="numpy", rng=0)
    assert (ours.batch_first, ours.dropout, ours.dtype, ours.backend) == (True, 0.25, np.float64, "numpy")
    assert_same_bits(ours.flat_params.astype(np.float32), clstm.LSTM.from_torch(model.rnn).flat_params)
    ours = clstm.LSTM.from_torch(model, "rnn", batch_first=False, dropout=0.0)
    assert (ours.batch_first, ours.dropout) == (False, 0.0)
    assert clstm.LSTM.from_torch(make()).batch_first is False
    with pytest.raises(FileFormatError, match=r"^a module Tagger: 'gru': a GRU, not an LSTM$"):
        clstm.LSTM.from_torch(model, "gru")


@pytest.mark.parametrize("name", ["hidden_size", "bias", "reverse", "activations", "forget_bias"])
def test_arguments_that_the_source_decides_are_refused(name):
    with pytest.raises(TypeError, match=rf"^{name}: expected one of rng, dtype"):
        clstm.LSTM.from_torch(make(), **{name: True})


@pytest.mark.parametrize("source", [3, None, [1, 2], torch.zeros(2), b"a.pt"])
def test_other_sources_are_a_type_error(source):
    with pytest.raises(
        TypeError, match=r"^source: expected a path, a mapping of names to tensors, or a module"
    ):
        clstm.LSTM.from_torch(source)


def test_prefix_is_text():
    with pytest.raises(TypeError, match=r"^prefix: expected str, got 3$"):
        clstm.LSTM.from_torch(make(), 3)


def test_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        clstm.LSTM.from_torch(tmp_path / "missing.pt")


def test_signalling_nan_is_read_without_a_warning():
    state_dict = clstm.LSTM(I, H, dtype="float32").to_torch()
    state_dict["bias_ih_l0"].view(np.uint32)[:] = 0x7F800001
    assert np.isnan(clstm.LSTM.from_torch(state_dict).params["bias_l0"]).all()


def test_mapping_may_hold_parameters_arrays_and_both():
    theirs = make()
    expected = clstm.LSTM.from_torch(theirs).flat_params
    parameters = dict(theirs.named_parameters())
    assert all(value.requires_grad for value in parameters.values())
    arrays = {name: value.detach().numpy() for name, value in parameters.items()}
    mixed = arrays | {
        "weight_hh_l0": parameters["weight_hh_l0"],
        "bias_hh_l0": arrays["bias_hh_l0"].astype(">f8"),
    }
    for source in (parameters, arrays, mixed, collections.OrderedDict({"model": arrays})):
        got = clstm.LSTM.from_torch(source)
        assert_same_bits(got.flat_params, expected)
        assert not any(np.shares_memory(got.flat_params, array) for array in arrays.values())


# ----------------------------------------------------------------------------------------- storages and views


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensors_may_be_views_of_one_storage(tmp_path, form):
    theirs = make(num_layers=2)
    shapes = {name: value.shape for name, value in theirs.state_dict().items()}
    block = torch.randn(7 + sum(shape.numel() for shape in shapes.values()), dtype=torch.float64)
    views, start = {}, 7
    for name, shape in shapes.items():
        part = block[start : start + shape.numel()]
        views[name] = part.view(*shape[::-1]).t() if len(shape) == 2 else part  # column by column
        start += shape.numel()
    assert not views["weight_ih_l0"].is_contiguous()
    (tmp_path / "a").write_bytes(
        saved({"weights": block, "model": views, "again": views["bias_ih_l0"][1:]}, form)
    )
    assert_same_bits(
        clstm.LSTM.from_torch(tmp_path / "a").params["weight_hh_l1"], views["weight_hh_l1"].numpy()
    )
    theirs.load_state_dict(views)
    assert_same_layer(clstm.LSTM.from_torch(tmp_path / "a"), theirs)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_other_tensors_may_have_any_dtype(tmp_path, form):
    others = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int64, torch.complex64, torch.uint16]
    others += [torch.float8_e4m3fn]
    beside = {
        str(dtype): torch.zeros(3, dtype=dtype) for dtype in others if form == "zip" or dtype.itemsize != 0
    }
    beside["sparse"] = torch.eye(3).to_sparse()
    (tmp_path / "a").write_bytes(saved({"rnn": make().state_dict(), **beside}, form))
    assert_same_layer(clstm.LSTM.from_torch(tmp_path / "a"), make())


def test_parameters_and_subclasses_of_tensors_are_read(tmp_path):
    theirs = make()
    for value in theirs.parameters():
        value.tag = "with attributes"
    (tmp_path / "a").write_bytes(saved(dict(theirs.named_parameters())))
    assert_same_layer(clstm.LSTM.from_torch(tmp_path / "a"), theirs)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_dict_of_arrays_is_read(tmp_path, protocol):
    theirs = make(torch.float32, bidirectional=True)
    arrays = {f"encoder.{name}": value.numpy() for name, value in theirs.state_dict().items()}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(arrays | {"words": ["a", "b"]}, protocol))
    assert_same_layer(clstm.LSTM.from_torch(tmp_path / "a.pkl"), theirs)


def repack(content, change):
    """Write the members of an archive anew; `change` maps names and contents to others."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name, data in change({name: old.read(name) for name in old.namelist()}).items():
            new.writestr(name, data)
    return file.getvalue()


def test_big_endian_archive_is_read(tmp_path):
    def swap(members):
        swapped = {
            name: np.frombuffer(data, "<f8").astype(">f8").tobytes() if "/data/" in name else data
            for name, data in members.items()
        }
        return swapped | {"archive/byteorder": b"big"}

    (tmp_path / "a").write_bytes(repack(saved(make().state_dict()), swap))
    assert_same_layer(clstm.LSTM.from_torch(tmp_path / "a"), make())


# -------------------------------------------------------------------------------------------- what is refused


def without(state_dict, *names):
    return {name: value for name, value in state_dict.items() if name not in names}


TROUBLES = {
    "unknown": (
        lambda s: s | {"weight_foo_l0": s["weight_hh_l0"]},
        "missing: none; unexpected: weight_foo_l0",
    ),
    "unknown tensor": (lambda s: s | {"start": s["bias_hh_l0"]}, "missing: none; unexpected: start"),
    "peephole": (lambda s: s | {"weight_ch_l0": s["bias_hh_l0"]}, "unexpected: weight_ch_l0"),
    "our bias": (
        lambda s: without(s, "bias_ih_l0", "bias_hh_l0") | {"bias_l0": s["bias_hh_l0"]},
        "unexpected: bias_l0",
    ),
    "half a bias": (lambda s: without(s, "bias_hh_l1"), "missing: bias_hh_l1; unexpected: none"),
    "no bias below": (
        lambda s: without(s, "bias_ih_l0", "bias_hh_l0"),
        "missing: bias_ih_l0, bias_hh_l0; unexpected: none",
    ),
    "no first layer": (
        lambda s: {name: value for name, value in s.items() if "_l1" in name},
        "missing: weight_ih_l0",
    ),
    "gap": (
        lambda s: s | {name.replace("l1", "l3"): value for name, value in s.items()},
        "unexpected: weight_ih_l3",
    ),
    "no recurrent weight": (lambda s: without(s, "weight_hh_l1"), "missing: weight_hh_l1"),
    "one reverse": (
        lambda s: s | {"weight_ih_l1_reverse": s["weight_ih_l1"]},
        "unexpected: weight_ih_l1_reverse",
    ),
    "one projection": (lambda s: s | {"weight_hr_l0": s["weight_hh_l0"][:2]}, "missing: weight_hr_l1"),
    "cell beside": (lambda s: s | {"weight_ih": s["weight_ih_l0"]}, "unexpected: weight_ih"),
    "transposed": (
        lambda s: s | {"weight_hh_l1": s["weight_hh_l1"].T},
        r"weight_hh_l1: expected shape \(20, 5\), got \(5, 20\)",
    ),
    "other inputs": (
        lambda s: s | {"weight_ih_l1": s["weight_ih_l1"][:, 1:]},
        r"weight_ih_l1: expected shape \(20, 5\), got",
    ),
    "rows of a GRU": (
        lambda s: s | {"weight_hh_l1": s["weight_hh_l1"][:15]},
        r"weight_hh_l1: expected shape \(20, 5\), got \(15, 5\)",
    ),
    "rows missing": (
        lambda s: s | {"weight_hh_l0": s["weight_hh_l0"][:-1]},
        r"weight_ih_l0: expected shape|weight_hh_l0: expected",
    ),
    "short bias": (
        lambda s: s | {"bias_ih_l0": s["bias_ih_l0"][1:]},
        r"bias_ih_l0: expected shape \(20,\), got \(19,\)",
    ),
    "bias that is a number": (
        lambda s: s | {"bias_ih_l0": s["bias_ih_l0"][0]},
        "bias_ih_l0: expected another shape",
    ),
    "matrix of three axes": (
        lambda s: s | {"weight_ih_l0": s["weight_ih_l0"][None]},
        "weight_ih_l0: expected another shape",
    ),
    "no inputs": (
        lambda s: s | {"weight_ih_l0": s["weight_ih_l0"][:, :0]},
        "weight_ih_l0: expected another shape",
    ),
    "integers": (
        lambda s: s | {"bias_ih_l0": s["bias_ih_l0"].to(torch.int64)},
        "bias_ih_l0: expected dtype float16, bfloat16, float32, float64, got",
    ),
    "complex": (lambda s: s | {"bias_ih_l0": s["bias_ih_l0"] + 0j}, "bias_ih_l0: expected dtype float16"),
    "no tensor": (lambda s: s | {"bias_ih_l0": [1.0] * 20}, "bias_ih_l0: expected a tensor, got list"),
    "sparse": (lambda s: s | {"weight_ih_l0": s["weight_ih_l0"].to_sparse()}, "net.rnn': "),
    "quarter": (
        lambda s: s | {"weight_ih_l0": s["weight_ih_l0"].to(torch.float8_e5m2)},
        "weight_ih_l0: expected ",
    ),
    "pruned": (
        lambda s: (
            without(s, "weight_hh_l0")
            | {"weight_hh_l0_orig": s["weight_hh_l0"], "weight_hh_l0_mask": s["weight_hh_l0"]}
        ),
        "weight_hh_l0_orig: expected plain weights, got reparametrised ones; in PyTorch call prune.remove",
    ),
    "dropped": (
        lambda s: s | {"weight_hh_l0_raw": s["weight_hh_l0"]},
        "weight_hh_l0_raw: expected plain weights",
    ),
    "infinite bias": (
        lambda s: (
            s
            | {name: torch.full((20,), 1.7e308, dtype=torch.float64) for name in ("bias_ih_l0", "bias_hh_l0")}
        ),
        "expected biases whose sums are finite",
    ),
}


@pytest.mark.parametrize("form", ["zip", "legacy", "mapping"])
@pytest.mark.parametrize("trouble", TROUBLES)
def test_tensor_of_the_lstm_that_does_not_fit_is_named(tmp_path, trouble, form):
    change, match = TROUBLES[trouble]
    state_dict = {
        f"net.rnn.{name}": value for name, value in change(dict(make(num_layers=2).state_dict())).items()
    }
    source = as_source(tmp_path, state_dict, form)
    with pytest.raises(FileFormatError, match=match) as caught:
        clstm.LSTM.from_torch(source)
    assert "net.rnn" in str(caught.value)
    if (trouble, form) != ("sparse", "mapping"):
        (found,) = interop.find(source)
        assert found.trouble in str(caught.value)


@pytest.mark.parametrize(
    "reparametrise",
    [
        lambda m: torch.nn.utils.parametrizations.weight_norm(m, "weight_hh_l0"),
        lambda m: torch.nn.utils.parametrizations.spectral_norm(m, "weight_hh_l0"),
        lambda m: torch.nn.utils.prune.l1_unstructured(m, "weight_hh_l0", 0.5),
    ],
)
def test_parametrised_weights_of_pytorch_are_refused_with_a_hint(tmp_path, reparametrise):
    from torch.nn.utils import prune  # noqa: F401

    model = torch.nn.ModuleDict({"rnn": make(), "gru": torch.nn.GRU(I, H).double()})
    for module in model.values():
        reparametrise(module)
    refuse(
        tmp_path / "a",
        saved(model.state_dict()),
        "'rnn': .*: expected plain weights, .* remove_parametrizations",
    )
    refuse(tmp_path / "a", saved(model.state_dict()), "'gru': a GRU, not an LSTM", "gru")


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize(
    ("wrap", "name"),
    [
        (lambda m: m, "rnn.LSTM"),
        (lambda m: {"model": m, "state_dict": m.state_dict()}, "rnn.LSTM"),
        (lambda m: torch.nn.Sequential(m), "container.Sequential"),
    ],
)
def test_whole_module_is_refused_with_what_to_do_instead(tmp_path, form, wrap, name):
    path = tmp_path / "a"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("warnings.warn", lambda *_, **__: None)  # the old format warns of source code
        content = saved(wrap(make()), form)
    refuse(
        path,
        content,
        rf"holds a whole module, torch.nn.modules.{name}, .*: torch.save\(model.state_dict\(\), path\)$",
    )


@pytest.mark.parametrize("prefix", ["", "rnns.0"])
def test_weights_that_a_module_around_drops_are_refused(prefix):
    inner = {f"{prefix}.module.{name}".lstrip("."): value for name, value in make().state_dict().items()}
    raw = f"{prefix}.weight_hh_l0_raw".lstrip(".")
    state_dict = inner | {raw: torch.zeros(4 * H, H)}
    with pytest.raises(FileFormatError, match="weight_hh_l0_raw: expected plain weights"):
        clstm.LSTM.from_torch(state_dict, f"{prefix}.module".lstrip("."))


def test_module_without_weights_may_stand_beside(tmp_path):
    (tmp_path / "a").write_bytes(saved({"loss": torch.nn.CrossEntropyLoss(), "model": make().state_dict()}))
    assert_same_layer(clstm.LSTM.from_torch(tmp_path / "a"), make())


def test_torchscript_is_refused_with_what_to_do_instead(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("net/data.pkl", "net/constants.pkl", "net/version"):
            archive.writestr(name, b"\x80\x02}.")
    refuse(tmp_path / "a", file.getvalue(), r"a TorchScript archive; torch.jit.load\(path\).state_dict\(\)")


def test_file_of_this_package_is_left_to_clstm_load(tmp_path):
    build_layer("lstm", I, H, reverse=True).save(tmp_path / "a")
    assert_refused(
        clstm.LSTM.from_torch, tmp_path / "a", "expected a file of another package; clstm.load reads"
    )


def test_module_is_never_imported_for_a_file(tmp_path):
    (tmp_path / "a.pt").write_bytes(saved(make().state_dict()))
    code = "import sys, clstm; clstm.LSTM.from_torch(sys.argv[1]); sys.exit('torch' in sys.modules)"
    assert run_python(code, str(tmp_path / "a.pt")).returncode == 0


# ---------------------------------------------------------------------------------------------- hostile files


def read_or_refused(path, content, expected):
    """Read what may be damaged: refused, or an LSTM of the same shape; return which."""
    path.write_bytes(content)
    try:
        got = clstm.LSTM.from_torch(path)
    except FileFormatError:
        return "refused"
    assert got.flat_params.size <= 4 * expected.flat_params.size
    return "same" if np.array_equal(got.flat_params, expected.flat_params) else "other"


CONTENTS = {
    "zip": lambda s: saved({"model": s}, "zip"),
    "legacy": lambda s: saved({"model": s}, "legacy"),
    "safetensors": lambda s: safetensors.numpy.save({f"model.{k}": v.numpy() for k, v in s.items()}),
    "half": lambda s: saved({"model": {k: v.half() for k, v in s.items()}}, "legacy"),
    "pickle": lambda s: pickle.dumps({"model": {k: v.numpy() for k, v in s.items()}}),
}


@pytest.mark.parametrize("form", CONTENTS)
def test_truncated_files_are_refused(tmp_path, form):
    content = CONTENTS[form](make().state_dict())
    expected = clstm.LSTM.from_torch(make())
    for end in (*range(0, len(content), 7), len(content) - 1):
        assert read_or_refused(tmp_path / "a", content[:end], expected) == "refused", end
    if form != "zip":  # which may have anything before and behind it
        assert read_or_refused(tmp_path / "a", content + b"\0", expected) == "refused"


@pytest.mark.parametrize("form", CONTENTS)
def test_flipped_bits_are_refused_or_change_numbers_alone(tmp_path, form):
    content = CONTENTS[form](make().state_dict())
    (tmp_path / "a").write_bytes(content)
    expected = clstm.LSTM.from_torch(tmp_path / "a")
    outcomes = set()
    for bit in range(0, 8 * len(content), 23):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        outcomes.add(read_or_refused(tmp_path / "a", bytes(changed), expected))
    assert "refused" in outcomes
    assert outcomes == ({"refused", "same"} if form == "zip" else {"refused", "same", "other"})


def tensor(
    storage="Float", numel="K\x28", offset="K\x00", size="K\x14K\x02\x86", stride="K\x02K\x01\x86", key="0"
):
    """Return the opcodes of one tensor, by default (20, 2) on the 40 numbers of storage 0."""
    persistent = f"(U\x07storagectorch\n{storage}Storage\nU{chr(len(key))}{key}U\x03cpu{numel}tQ"
    return f"ctorch._utils\n_rebuild_tensor_v2\n({persistent}{offset}{size}{stride}\x89NtR".encode("latin-1")


def archive_of(pickled, storages=None, **more):
    """Return an archive of torch.save that holds a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + pickled + b".")
        for key, data in ({"0": bytes(160)} if storages is None else storages).items():
            archive.writestr(f"a/data/{key}", data)
        for name, data in more.items():
            archive.writestr(f"a/{name}", data)
    return file.getvalue()


def item(name, value):
    return b"U" + bytes([len(name)]) + name.encode() + value


def lstm_of(**replaced):
    """Return the opcodes of a state_dict without biases, H = 5 and I = 2, with some tensors replaced."""
    tensors = {
        "weight_ih_l0": tensor(),
        "weight_hh_l0": tensor(numel="K\x64", size="K\x14K\x05\x86", stride="K\x05K\x01\x86", key="1"),
    }
    return b"}(" + b"".join(item(name, value) for name, value in (tensors | replaced).items()) + b"u"


STORAGES = {"0": bytes(160), "1": bytes(400)}


def test_archive_that_is_made_by_hand_is_read(tmp_path):
    """So that the hostile ones below are refused for what is hostile in them."""
    (tmp_path / "a").write_bytes(archive_of(lstm_of(), STORAGES))
    assert repr(clstm.LSTM.from_torch(tmp_path / "a")) == "LSTM(2, 5, bias=False, dtype='float32')"


HUGE = "\x8a\x09" + "\xff" * 7 + "\x7f\x00"
TENSORS = {
    "more numbers than bytes": ({"numel": "K\x29"}, "storage 0: expected 164 bytes, got 160"),
    "fewer numbers than bytes": ({"numel": "K\x27", "size": "K\x13K\x02\x86"}, "expected|weight_ih"),
    "wider numbers": ({"storage": "Double"}, "storage 0: expected 320 bytes, got 160"),
    "huge count": ({"numel": HUGE}, "storage 0: expected [0-9]+ bytes, got 160"),
    "negative count": ({"numel": "J\xff\xff\xff\xff"}, "expected a part of its -1 numbers"),
    "offset beyond": ({"offset": "K\x01"}, "got one that is larger"),
    "huge offset": ({"offset": HUGE}, "none of them negative|larger"),
    "negative offset": ({"offset": "J\xff\xff\xff\xff"}, "none of them negative"),
    "stride beyond": ({"stride": "K\x03K\x01\x86"}, "got one that is larger"),
    "negative stride": ({"stride": "J\xff\xff\xff\xffK\x01\x86"}, "none of them negative"),
    "huge stride": ({"stride": HUGE + "K\x01\x86"}, "none of them negative|larger"),
    "negative size": ({"size": "J\xff\xff\xff\xffK\x02\x86"}, "none of them negative"),
    "huge size": ({"size": HUGE + "K\x02\x86"}, "none of them negative|larger"),
    "expanded": (
        {"size": "J\x00\x00\x00\x7fJ\x00\x00\x00\x7f\x86", "stride": "K\x00K\x00\x86"},
        "that is larger",
    ),
    "expanded on one axis": ({"numel": "K\x14", "stride": "K\x01K\x00\x86"}, "that is larger"),
    "sizes and strides": ({"stride": "K\x01\x85"}, "none of them negative"),
    "sizes that are text": ({"size": "U\x02ab"}, "none of them negative"),
    "storage that is not there": ({"key": "7"}, "expected a member 'a/data/7' in the archive"),
    "storage on another path": (
        {"key": "../../../etc/passwd"},
        "expected a member 'a/data/../../../etc/passwd'",
    ),
    "storage of no known class": (
        {"storage": "Strange"},
        "expected a class of storages, got torch.StrangeStorage",
    ),
    "two sizes of a storage": ({"key": "1"}, "storage 1: expected one class and size, got two"),
}


@pytest.mark.parametrize("change", TENSORS)
def test_tensor_that_is_not_in_its_storage_is_refused(tmp_path, change):
    replaced, match = TENSORS[change]
    content = archive_of(lstm_of(weight_ih_l0=tensor(**replaced)), STORAGES)
    refuse(tmp_path / "a", content, match)


def test_tensors_that_share_their_numbers_very_often_are_refused(tmp_path):
    one = b"".join(
        item(f"n{n}.{name}", value)
        for n in range(400)
        for name, value in (("weight_ih_l0", b"h\x01"), ("weight_hh_l0", b"h\x01"))
    )
    side = tensor(numel="J\x00\x00\x01\x00", size="M\x00\x02M\x80\x00\x86", stride="M\x80\x00K\x01\x86")
    content = archive_of(side + b"q\x010}(" + one + b"u", {"0": bytes(1 << 18)})
    refuse(tmp_path / "a", content, "its tensors share their numbers so often")


def test_many_lstms_are_refused(tmp_path):
    names = b"".join(item(f"{n:04d}.weight_ih_l0", b"h\x01") for n in range(1200))
    refuse(tmp_path / "a", archive_of(tensor() + b"q\x010}(" + names + b"u"), "expected at most 1000 LSTMs")


@pytest.mark.parametrize("last", [b"h\x01", b"N"])
def test_very_many_layers_are_refused(tmp_path, last):
    """Each of which costs a few bytes of the file, and a hundred times as much to look at."""
    one = tensor(numel="K\x04", size="K\x04K\x01\x86", stride="K\x01K\x01\x86")
    names = [f"weight_{part}h_l{k}" for k in range(60_000) for part in "ih"]
    layers = b"".join(item(name, b"h\x01") for name in names) + item("weight_ih_l60000", last)
    content = archive_of(one + b"q\x010}(" + layers + b"u", {"0": bytes(16)})
    refuse(tmp_path / "a", content, "expected at most 20000 tensors of LSTMs")


def test_one_part_in_very_many_places_is_looked_at_once(tmp_path):
    doubled = b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(20))
    content = archive_of(b"](" + lstm_of() + b"q\x00" + doubled + b"e", STORAGES)
    (tmp_path / "a").write_bytes(content)
    assert clstm.LSTM.from_torch(tmp_path / "a", "0").hidden_size == 5


def test_own_parts_of_a_list_end(tmp_path):
    (tmp_path / "a").write_bytes(archive_of(b"]q\x00(h\x00" + lstm_of() + b"e", STORAGES))
    assert clstm.LSTM.from_torch(tmp_path / "a", "1").hidden_size == 5


def zip_with(*members, level=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", level) as archive, pytest.MonkeyPatch.context() as patched:
        patched.setattr("warnings.warn", lambda *_, **__: None)  # of a name that stands twice
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


PLAIN = b"\x80\x02" + lstm_of() + b"."
STORED = [(f"a/data/{key}", data) for key, data in STORAGES.items()]
ARCHIVES = {
    "empty": zip_with(),
    "no pickle": zip_with(("a/version", b"3"), *STORED),
    "two pickles": zip_with(("a/data.pkl", PLAIN), ("b/data.pkl", PLAIN), *STORED),
    "name twice": zip_with(("a/data.pkl", PLAIN), ("a/data.pkl", PLAIN), *STORED),
    "byteorder": zip_with(("a/data.pkl", PLAIN), ("a/byteorder", b"middle"), *STORED),
    "rest behind the pickle": zip_with(("a/data.pkl", PLAIN + b"rest"), *STORED),
    "pickle that grows": zip_with(("a/data.pkl", b"\x80\x02" + b"]" * 30_000_000)),
    "storage that grows": zip_with(("a/data.pkl", PLAIN), STORED[0], ("a/data/1", bytes(30_000_000))),
    "bomb": zip_with(("a/data.pkl", PLAIN), STORED[0], ("a/data/1", bytes(80_000_000))),
    "calls": archive_of(lstm_of(evil=b"cos\nsystem\nU\x0atouch evil\x85R"), STORAGES),
    "torch.load": archive_of(lstm_of(evil=b"ctorch\nload\nU\x04evil\x85R"), STORAGES),
    "member that is a path": zip_with(("../data.pkl", PLAIN), *STORED),
    "NumPy's archive": zip_with(("weight_ih_l0.npy", b"\x93NUMPY")),
    "key that is no text": archive_of(lstm_of(weight_ih_l0=tensor().replace(b"U\x010", b"K\x00")), STORAGES),
    "persistent id of something": archive_of(b"NQ", STORAGES),
    "tensor of a type that calls": archive_of(
        lstm_of(
            weight_ih_l0=b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\ncos\nsystem\nU\x02id\x85NtR"
        ),
        STORAGES,
    ),
    "name of a tensor twice": archive_of(lstm_of() + b"(U\x0cweight_ih_l0Nu", STORAGES),
    "name of an LSTM twice": archive_of(
        b"}(U\x01a" + lstm_of() + item("a.weight_ih_l0", tensor()) + b"u", STORAGES
    ),
    "deep": archive_of(b"}U\x01a" * 200 + b"N" + b"s" * 200),
}


def test_messages_show_long_names_of_members_in_short(tmp_path):
    key = "k\n" * 20_000
    long = tensor().replace(b"U\x010", b"X" + len(key).to_bytes(4, "little") + key.encode())
    missing = zip_with(("R\n" * 20_000 + "/data.pkl", b"\x80\x02" + lstm_of(weight_ih_l0=long) + b"."))
    root = zip_with(("R\n" * 20_000 + "/data.pkl", PLAIN))
    other_name = root.replace(b"R", b"S", 1)
    for content in (missing, root, other_name):
        assert len(str(refuse(tmp_path / "a", content))) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("level", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_must_be_stored_or_deflated(tmp_path, level):
    content = zip_with(("a/data.pkl", PLAIN), *STORED, level=level)
    refuse(tmp_path / "a", content, "expected members that are stored or deflated")


def test_file_that_is_larger_than_memory_is_refused(tmp_path, monkeypatch):
    class Large(io.FileIO):
        def __init__(self, path, mode, opener):
            super().__init__(path)

        def read(self, size):
            raise MemoryError(size)

    (tmp_path / "a").write_bytes(b"\x80\x02")
    monkeypatch.setattr(contents, "open", Large, raising=False)
    with pytest.raises(FileFormatError, match="larger than memory, 2 bytes"):
        clstm.LSTM.from_torch(tmp_path / "a")


@pytest.mark.parametrize("archive", ARCHIVES)
def test_hostile_archives_are_refused(tmp_path, archive, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refuse(tmp_path / "a", ARCHIVES[archive])
    assert os.listdir(tmp_path) == ["a"]


def legacy(change=lambda parts: parts):
    """Return a file of the old format, whose parts may be changed."""
    parts = {
        "magic": b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        "protocol": pickle.dumps(1001, 2),
        "system": pickle.dumps({"little_endian": True}, 2),
        "object": b"\x80\x02" + lstm_of() + b".",
        "keys": pickle.dumps(["0", "1"], 2),
        "0": struct.pack("<q", 40) + bytes(160),
        "1": struct.pack("<q", 100) + bytes(400),
    }
    return b"".join(change(parts).values())


LEGACY = {
    "protocol": {"protocol": pickle.dumps(1000, 2)},
    "system": {"system": pickle.dumps(3, 2)},
    "system that calls": {"system": b"\x80\x02cos\nsystem\nU\x04true\x85R."},
    "keys that call": {"keys": b"\x80\x02cos\nsystem\nU\x04true\x85R."},
    "key missing": {"keys": pickle.dumps(["0"], 2)},
    "key twice": {"keys": pickle.dumps(["0", "0", "1"], 2)},
    "key that is a number": {"keys": pickle.dumps([0, 1], 2)},
    "keys that are none": {"keys": pickle.dumps("01", 2)},
    "count": {"0": struct.pack("<q", 41) + bytes(164)},
    "huge count": {"1": struct.pack("<q", 1 << 62) + bytes(400)},
    "negative count": {"1": struct.pack("<q", -1) + bytes(400)},
    "no numbers": {"1": b""},
    "more numbers": {"2": bytes(8)},
    "storage of no tensor": {"keys": pickle.dumps(["0", "1", "2"], 2), "2": bytes(8)},
}


@pytest.mark.parametrize("change", LEGACY)
def test_hostile_files_of_the_old_format_are_refused(tmp_path, change):
    (tmp_path / "a").write_bytes(legacy())
    assert clstm.LSTM.from_torch(tmp_path / "a").hidden_size == 5
    refuse(tmp_path / "a", legacy(lambda parts: parts | LEGACY[change]))


def header(text, data=b""):
    return struct.pack("<Q", len(text)) + text.encode() + data


SAFETENSORS = {
    "huge header": struct.pack("<Q", 1 << 40) + b"{}",
    "long header": header("{" + " " * (1 << 21) + "}"),
    "nested header": header('{"a":' + "[" * 500_000),
    "lists in the header": header('{"a":[' + "[]," * 300_000 + "[]]}"),
    "name twice": header('{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},' * 2 + '"b":3}', bytes(4)),
    "huge shape": header(
        '{"weight_ih_l0":{"dtype":"F32","shape":[9999999999,9],"data_offsets":[0,4]}}', bytes(4)
    ),
    "unknown dtype": header(
        '{"weight_ih_l0":{"dtype":"F9","shape":[99999,99999],"data_offsets":[0,4]}}', bytes(4)
    ),
    "offsets turned": header('{"weight_ih_l0":{"dtype":"F9","shape":[1,1],"data_offsets":[4,0]}}', bytes(4)),
    "overlap": header(
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        bytes(4),
    ),
    "hole": header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', bytes(8)),
    "dtype that is a list": header('{"a":{"dtype":[],"shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "list": header("[]"),
}


@pytest.mark.parametrize("content", SAFETENSORS)
def test_hostile_safetensors_are_refused(tmp_path, content):
    refuse(tmp_path / "a", SAFETENSORS[content])


@pytest.mark.parametrize("content", [b"", b"P", b"PK\x03\x04", b"\x80", b"\x80\x02.", b"text", bytes(600)])
def test_what_is_no_file_of_pytorch_is_refused(tmp_path, content):
    refuse(tmp_path / "a", content)
    refuse(tmp_path / "a", bytes(257) + b"ustar" + bytes(250), "a tar file of PyTorch before 0.2")


def test_fifo_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a")
    with pytest.raises(FileFormatError, match=r"expected a regular file"):
        clstm.LSTM.from_torch(tmp_path / "a")


# -------------------------------------------------------------------------------------------- load_state_dict


@pytest.mark.parametrize("kind", ["lstm", "rnn"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("strict", [True, False])
def test_load_state_dict_takes_pytorchs_two_biases(kind, dtype, strict):
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind.upper())(I, H, 2, bidirectional=True, dtype=getattr(torch, dtype))
    ours = LAYERS[kind](I, H, 2, bidirectional=True, dtype=dtype)
    given = {
        "state_dict": theirs.state_dict(),
        "parameters": dict(theirs.named_parameters()),
        "arrays": {name: value.numpy() for name, value in theirs.state_dict().items()},
    }
    for source in given.values():
        ours.flat_params[...] = 0
        ours.load_state_dict(source, strict)
        assert_same_layer(ours, theirs)
        assert_same_layer(LAYERS[kind].from_params(source), theirs)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("half", ["bias_ih_l0", "bias_hh_l0"])
def test_half_of_a_pair_of_biases_is_refused_and_nothing_is_taken(half, strict):
    ours = build_layer("lstm", I, H)
    before = ours.flat_params.copy()
    state_dict = dict(make().state_dict())
    with pytest.raises(
        ValueError, match=rf"^state_dict: expected bias_l0, or bias_ih_l0 and .*unexpected: {half}$"
    ):
        ours.load_state_dict(without(state_dict, *{"bias_ih_l0", "bias_hh_l0"} - {half}), strict)
    with pytest.raises(ValueError, match=r"missing: none; unexpected: bias_ih_l0$"):
        ours.load_state_dict(state_dict | {"bias_l0": ours.params["bias_l0"]}, strict)
    with pytest.raises(ValueError, match=r"bias_hh_l0'\]: expected shape \(20,\), got \(19,\)$"):
        ours.load_state_dict(state_dict | {"bias_hh_l0": state_dict["bias_hh_l0"][1:]}, strict)
    with pytest.raises(ValueError, match=r"bias_l0'\]: expected shape \(20,\), got \(\)$"):
        ours.load_state_dict(state_dict | {"bias_ih_l0": 0.0, "bias_hh_l0": 0.0}, strict)
    assert_same_bits(ours.flat_params, before)


def test_arguments_may_be_tensors_that_require_grad():
    ours = clstm.LSTM.from_torch(make())
    x = torch.randn(4, 2, I, dtype=torch.float64, requires_grad=True)
    assert_same_bits(ours(x)[0], ours(x.detach().numpy())[0])
    ours.params["bias_l0"] = torch.nn.Parameter(torch.ones(4 * H, dtype=torch.bfloat16))
    assert_same_bits(ours.params["bias_l0"], np.ones(4 * H))
