"""Parameters out and in: state_dict, save and load, pickle and copy; all of it, or none."""

import copy
import json
import os
import pickle
import re
import stat

import numpy as np
import pytest
import safetensors.numpy
from conftest import LAYERS, assert_same_bits, build_layer, draw_inputs, snapshot, unchanged

import clstm

I, H = 3, 5  # noqa: E741
ARGUMENTS = (
    "input_size",
    "hidden_size",
    "num_layers",
    "bias",
    "batch_first",
    "dropout",
    "bidirectional",
    "dtype",
    "init",
)


def make(kind="lstm", seed=0, **kwargs):
    return build_layer(kind, I, H, 2, bidirectional=True, seed=seed, **kwargs)


# ----------------------------------------------------------------------------------------------- state_dict


def test_state_dict_holds_copies_by_name(kind, dtype):
    layer = make(kind, dtype=dtype)
    state_dict = layer.state_dict()
    assert list(state_dict) == list(layer.params)
    for name, value in state_dict.items():
        assert_same_bits(value, np.ascontiguousarray(layer.params[name]))
        assert value.flags.c_contiguous
        assert not np.shares_memory(value, layer.flat_params)


def test_load_state_dict_copies_everything_into_the_live_views(kind, dtype, backend):
    layer, other = make(kind, dtype=dtype, backend=backend), make(kind, seed=1, dtype=dtype, backend=backend)
    views, d = layer.params["bias_l0"], draw_inputs(layer, 4, 2)
    state_dict = other.state_dict()
    layer.load_state_dict(state_dict)
    assert layer.params["bias_l0"] is views
    assert_same_bits(layer.flat_params, other.flat_params)
    assert_same_bits(layer(d.x)[0], other(d.x)[0])
    state_dict["bias_l0"][...] = 99
    assert_same_bits(layer.flat_params, other.flat_params)


def test_load_state_dict_converts_numbers_and_layouts(kind, dtype):
    layer, other = make(kind, dtype=dtype), make(kind, seed=1, dtype="float32")
    given = {name: np.asfortranarray(value.astype(np.float64)) for name, value in other.state_dict().items()}
    given["bias_l0"] = given["bias_l0"].tolist()
    layer.load_state_dict(given)
    assert_same_bits(layer.flat_params, other.flat_params.astype(dtype))


def test_load_state_dict_takes_views_of_its_own_parameters(kind):
    layer, before = make(kind), make(kind).params
    exchanged = dict(layer.params) | {"bias_l0": layer.params["bias_l1"], "bias_l1": layer.params["bias_l0"]}
    layer.load_state_dict(exchanged)
    assert_same_bits(layer.params["bias_l0"], before["bias_l1"])
    assert_same_bits(layer.params["bias_l1"], before["bias_l0"])


def test_load_state_dict_passes_over_names_when_not_strict(kind):
    layer, other = make(kind), make(kind, seed=1)
    given = {"bias_l0": other.params["bias_l0"], "nonsense": "anything"}
    untouched = layer.params["bias_l1"].copy()
    layer.load_state_dict(given, strict=False)
    assert_same_bits(layer.params["bias_l0"], other.params["bias_l0"])
    assert_same_bits(layer.params["bias_l1"], untouched)


def without(state_dict, name):
    return {key: value for key, value in state_dict.items() if key != name}


BAD = {
    "missing": (
        lambda s: without(s, "weight_hh_l1"),
        ValueError,
        r"^state_dict: expected exactly weight_ih_l0, .*; missing: weight_hh_l1; unexpected: none$",
    ),
    "extra": (lambda s: s | {"bias_l7": s["bias_l0"]}, ValueError, r"; missing: none; unexpected: bias_l7$"),
    "missing-and-extra": (
        lambda s: without(s, "bias_l0") | {"bias_ih_l0": s["bias_l0"]},
        ValueError,
        r"; missing: bias_l0; unexpected: bias_ih_l0$",
    ),
    "misshapen": (
        lambda s: s | {"bias_l1_reverse": s["bias_l0"][:-1]},
        ValueError,
        r"^state_dict\['bias_l1_reverse'\]: expected shape \((20|5),\), got \((19|4),\)$",
    ),
    "transposed": (
        lambda s: s | {"weight_ih_l1": s["weight_ih_l1"].T},
        ValueError,
        r"^state_dict\['weight_ih_l1'\]: expected shape \((20|5), 10\), got \(10, (20|5)\)$",
    ),
    "complex": (
        lambda s: s | {"bias_l1": s["bias_l1"].astype(complex)},
        TypeError,
        r"^state_dict\['bias_l1'\]: expected real numbers, got dtype complex128$",
    ),
    "text": (
        lambda s: s | {"bias_l1": "zeros"},
        TypeError,
        r"^state_dict\['bias_l1'\]: expected real numbers, got dtype <U5$",
    ),
    "ragged": (
        lambda s: s | {"weight_hh_l1": [[1.0], [1.0, 2.0]]},
        ValueError,
        r"^state_dict\['weight_hh_l1'\]: expected an array of numbers, got rows of different lengths$",
    ),
    "no-mapping": (
        lambda s: list(s.items()),
        TypeError,
        r"^state_dict: expected a mapping from names to arrays, got ",
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_state_dict_that_does_not_fit_is_refused_whole(kind, bad, backend):
    change, error, message = BAD[bad]
    layer = make(kind, backend=backend)
    with unchanged(layer), pytest.raises(error, match=message):
        layer.load_state_dict(change(make(kind, seed=1).state_dict()))


@pytest.mark.parametrize("bad", ["misshapen", "transposed", "complex", "text", "ragged"])
def test_entries_are_checked_also_when_not_strict(kind, bad):
    change, error, message = BAD[bad]
    layer = make(kind)
    with unchanged(layer), pytest.raises(error, match=message):
        layer.load_state_dict(change(make(kind, seed=1).state_dict()), strict=False)


def test_strict_is_a_boolean(kind):
    layer = make(kind)
    with unchanged(layer), pytest.raises(TypeError, match=r"^strict: expected True or False, got 'yes'$"):
        layer.load_state_dict(layer.state_dict(), strict="yes")


# ---------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_saved_and_loaded_layer_is_the_same(tmp_path, kind, dtype, backend, bias):
    layer = make(kind, dtype=dtype, backend=backend, bias=bias, batch_first=True, dropout=0.25, init="torch")
    before = snapshot(layer)
    layer.save(tmp_path / "a.safetensors")
    assert snapshot(layer) == before
    loaded = LAYERS[kind].load(tmp_path / "a.safetensors", backend=backend)
    assert type(loaded) is LAYERS[kind]
    assert_same_bits(loaded.flat_params, layer.flat_params)
    assert repr(loaded) == repr(layer)
    for name in (*ARGUMENTS, "backend"):
        assert getattr(loaded, name) == getattr(layer, name)
    d = draw_inputs(layer, 4, 2)
    x = d.x.swapaxes(0, 1)
    assert_same_bits(loaded(x)[0], layer(x)[0])
    loaded.forward(x)
    loaded.backward(d.dy.swapaxes(0, 1))
    loaded.params["bias_l0" if bias else "weight_ih_l0"][...] = 1  # live, not read-only


@pytest.mark.parametrize("forget_bias", [None, 2.5])
def test_forget_bias_is_part_of_the_file(tmp_path, forget_bias):
    lstm = clstm.LSTM(I, H, forget_bias=forget_bias)
    lstm.save(tmp_path / "a")
    assert clstm.LSTM.load(tmp_path / "a").forget_bias == lstm.forget_bias


def test_file_is_safetensors_with_pytorchs_names_and_the_arguments_as_json(tmp_path, kind, dtype):
    layer = make(kind, dtype=dtype, dropout=0.5)
    path = tmp_path / "a.safetensors"
    layer.save(str(path))
    with safetensors.safe_open(path, framework="numpy") as archive:
        assert set(archive.keys()) == set(layer.params)
        for name in layer.params:
            assert_same_bits(archive.get_tensor(name), np.ascontiguousarray(layer.params[name]))
        (value,) = archive.metadata().values()
    record = json.loads(value)
    assert sorted(record) == ["arguments", "checksum", "class", "format", "version"]
    assert (record["format"], record["version"]) == (2, clstm.__version__)
    assert record["class"] == kind.upper()
    expected = {
        "input_size": I,
        "hidden_size": H,
        "num_layers": 2,
        "bias": True,
        "batch_first": False,
        "dropout": 0.5,
        "bidirectional": True,
        "reverse": False,
        "dtype": dtype,
        "init": "glorot",
        "input_dropout": 0.0,
        "recurrent_dropout": 0.0,
    }
    of_an_lstm = {
        "forget_bias": None,
        "proj_size": 0,
        "peepholes": False,
        "coupled": False,
        "activations": ["sigmoid", "tanh", "tanh"],
        "gate_clip": None,
        "cell_clip": None,
        "layer_norm": False,
        "zoneout": [0.0, 0.0],
    }
    assert record["arguments"] == expected | (of_an_lstm if kind == "lstm" else {})


def test_load_picks_the_backend_that_is_asked_for(tmp_path):
    make(backend="numpy").save(tmp_path / "a")
    assert clstm.LSTM.load(tmp_path / "a").backend == "auto"
    assert clstm.LSTM.load(tmp_path / "a", backend="numpy").backend == "numpy"
    loaded = clstm.reference.LSTM.load(tmp_path / "a")
    assert (type(loaded), loaded.backend) == (clstm.reference.LSTM, "numpy")


def test_save_replaces_an_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a"
    make(seed=0).save(path)
    make(seed=1).save(path)
    assert_same_bits(clstm.LSTM.load(path).flat_params, make(seed=1).flat_params)
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    make().save(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_save_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing):
    path, lstm = tmp_path / "a", make()
    lstm.save(path)
    content = path.read_bytes()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, unchanged(lstm):
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            lstm.save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a"]


def test_content_is_on_disk_before_the_old_file_is_replaced(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names))[1])
    make().save(tmp_path / "a")
    assert calls[:2] == ["fsync", "replace"]


def test_save_into_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        make().save(tmp_path / "missing" / "a")


def test_save_onto_a_folder_is_an_os_error_and_leaves_no_file(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        make().save(tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


def test_missing_file_is_a_file_not_found_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        clstm.LSTM.load(tmp_path / "missing")


def test_file_format_error_is_a_value_error_with_path_and_reason():
    error = clstm.FileFormatError("some/path", "the reason")
    assert isinstance(error, ValueError)
    assert str(error) == "some/path: the reason"


def saved(tmp_path):
    """Write a file; return its content, and the tensors and arguments of which a file of format 1 is made."""
    make().save(tmp_path / "good")
    content = (tmp_path / "good").read_bytes()
    arguments = {name: getattr(make(), name) for name in (*ARGUMENTS, "forget_bias")} | {"dtype": "float64"}
    return content, make().state_dict(), arguments


def packed(tensors, arguments):
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return safetensors.numpy.save(tensors, metadata={"clstm": text})


NO_SAFETENSORS = "not a safetensors file that NumPy can read"
FILES = {
    "empty": (lambda _c, _t, _a: b"", NO_SAFETENSORS),
    "text": (lambda _c, _t, _a: b"input_size,hidden_size\n3,5\n" * 20, NO_SAFETENSORS),
    "header-cut": (lambda c, _t, _a: c[:100], NO_SAFETENSORS),
    "data-cut": (lambda c, _t, _a: c[:-1], NO_SAFETENSORS),
    "data-longer": (lambda c, _t, _a: c + b"\0", NO_SAFETENSORS),
    "bfloat16": (
        lambda _c, _t, _a: bfloat16_tensor(),
        "a safetensors file",
    ),  # NumPy knows it where ml_dtypes is loaded
    "no-metadata": (
        lambda _c, t, _a: safetensors.numpy.save(t),
        "without the constructor's arguments under 'clstm'",
    ),
    "other-metadata": (
        lambda _c, t, _a: safetensors.numpy.save(t, metadata={"format": "pt"}),
        "without the constructor's arguments under 'clstm'",
    ),
    "no-json": (lambda _c, t, _a: packed(t, "{input_size: 3"), "property name"),
    "json-list": (lambda _c, t, _a: packed(t, [1, 2]), "arguments: expected a mapping"),
    "json-too-deep": (lambda _c, t, _a: packed(t, "[" * 100_000), ""),
    "argument-missing": (lambda _c, t, a: packed(t, without(a, "init")), "missing: init"),
    "argument-extra": (lambda _c, t, a: packed(t, a | {"backend": "numpy"}), "unexpected: backend"),
    "argument-wrong": (
        lambda _c, t, a: packed(t, a | {"dropout": 1.5}),
        "dropout: expected a number in [0, 1), got 1.5",
    ),
    "argument-no-integer": (
        lambda _c, t, a: packed(t, a | {"hidden_size": 5.0}),
        "hidden_size: expected an integer, got 5.0",
    ),
    "argument-no-dtype": (
        lambda _c, t, a: packed(t, a | {"dtype": "int8"}),
        "dtype: expected float32 or float64, got 'int8'",
    ),
    "hidden-size-huge": (lambda _c, t, a: packed(t, a | {"hidden_size": 10**12}), "its tensors hold 1000"),
    "hidden-size-beyond-int64": (
        lambda _c, t, a: packed(t, a | {"hidden_size": 10**40}),
        "its tensors hold 1000",
    ),
    "num-layers-huge": (lambda _c, t, a: packed(t, a | {"num_layers": 10**15}), "its tensors hold 1000"),
    "no-tensors": (lambda _c, _t, a: packed({}, a), "its tensors hold 0"),
    "tensor-missing": (lambda _c, t, a: packed(without(t, "bias_l0"), a), "its tensors hold 980"),
    "tensor-extra": (lambda _c, t, a: packed(t | {"more": t["bias_l0"]}, a), "its tensors hold 1020"),
    "tensor-renamed": (
        lambda _c, t, a: packed(without(t, "bias_l0") | {"bias": t["bias_l0"]}, a),
        "missing: bias_l0; unexpected: bias",
    ),
    "tensor-misshapen": (
        lambda _c, t, a: packed(t | {"bias_l0": t["bias_l0"].reshape(4, H)}, a),
        "state_dict['bias_l0']: expected shape (20,), got (4, 5)",
    ),
    "tensor-of-other-dtype": (
        lambda _c, t, a: packed(t | {"bias_l0": t["bias_l0"].astype("f4")}, a),
        "bias_l0: expected dtype float64, got float32",
    ),
    "all-of-other-dtype": (
        lambda _c, t, a: packed({name: value.astype("f4") for name, value in t.items()}, a),
        "expected dtype float64, got float32",
    ),
}


def bfloat16_tensor():
    """Write one tensor of a type that NumPy lacks."""
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + b"\0" * 4


@pytest.mark.parametrize("kind", FILES)
def test_file_that_does_not_fit_is_refused_with_path_and_reason(tmp_path, kind):
    make_content, reason = FILES[kind]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(make_content(*saved(tmp_path)))
    with pytest.raises(clstm.FileFormatError, match=f"^{re.escape(str(path))}: .*{re.escape(reason)}"):
        clstm.LSTM.load(path)


def test_unknown_backend_is_refused(tmp_path):
    make().save(tmp_path / "a")
    with pytest.raises(ValueError, match="backend: expected one of 'auto', 'numpy', got 'cuda'"):
        clstm.LSTM.load(tmp_path / "a", backend="cuda")


# ------------------------------------------------------------------------------------------ pickle and copy


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))], ids=["deepcopy", "pickle"]
)
def test_copies_are_whole_and_independent(kind, dtype, backend, duplicate):
    layer = make(kind, dtype=dtype, backend=backend, dropout=0.5)
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x)
    layer.backward(d.dy)
    with unchanged(layer):
        other = duplicate(layer)
        assert repr(other) == repr(layer)
        assert_same_bits(other.flat_params, layer.flat_params)
        assert_same_bits(other.flat_grads, layer.flat_grads)
        for name, value in other.params.items():
            assert np.shares_memory(value, other.flat_params)
            assert np.shares_memory(other.grads[name], other.flat_grads)
        with pytest.raises(RuntimeError, match=r"^backward: expected a call of forward before it"):
            other.backward(d.dy)  # the tape stays behind
        y = other.forward(d.x)[0]
        other.backward(d.dy)
        other.params["bias_l0"][...] = 7
        assert not np.array_equal(other(d.x)[0], layer(d.x)[0])
    assert_same_bits(layer.forward(d.x)[0], y)  # dropout goes on from the same place in both


@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, copy.deepcopy, lambda v: pickle.loads(pickle.dumps(v))],
    ids=["copy", "deep", "pickle"],
)
def test_what_users_keep_on_a_layer_is_copied_too(kind, duplicate):
    layer = make(kind)
    layer.scaling = {"mean": 3.0}
    assert duplicate(layer).scaling == {"mean": 3.0}


def test_reference_class_survives_pickling():
    lstm = pickle.loads(pickle.dumps(clstm.reference.LSTM(I, H)))
    assert (type(lstm), lstm.backend) == (clstm.reference.LSTM, "numpy")
