"""Files of every class: there and back bit for bit, `clstm.load`, other classes, versions and makers.

How files are read and written is in test_files.py.  tests/golden/lstm-0.1.0-*.safetensors were written by
`LSTM.save` of 0.1.0, and lstm-0.1.0.npz holds x, state, lengths and what 0.1.0 computed from them with
``backend="numpy"``, under "<case>/<name>".
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from conftest import KINDS, assert_close, assert_same_bits, build_layer, draw_inputs

import clstm
from clstm import FileFormatError, files, nn

GOLDEN = Path(__file__).parent / "golden"
I, H, O = 3, 5, 2  # noqa: E741


def dense(dtype="float64", output_size=O, input_size=I, bias=True):
    layer = nn.Dense(input_size, output_size, bias=bias, dtype=dtype, rng=0)
    layer.flat_params[...] = np.random.default_rng(1).uniform(-1, 1, layer.flat_params.size)
    return layer


def model(dtype="float64"):
    lstm = build_layer("lstm", I, H, 2, bidirectional=True, batch_first=True, dropout=0.25, dtype=dtype)
    return nn.SequenceModel([lstm, dense(dtype, input_size=2 * H)])


MAKERS = {
    "LSTM": lambda dtype: build_layer(
        "lstm", I, H, 2, bidirectional=True, dropout=0.25, forget_bias=2.5, dtype=dtype
    ),
    "RNN": lambda dtype: build_layer("rnn", I, H, 3, batch_first=True, init="torch", dtype=dtype),
    "RNN without bias": lambda dtype: build_layer("rnn", I, H, bias=False, bidirectional=True, dtype=dtype),
    "Dense": dense,
    "Dense without bias": lambda dtype: dense(dtype, bias=False),
    "SequenceModel": model,
}
CLASSES = {"LSTM": clstm.LSTM, "RNN": clstm.RNN, "Dense": nn.Dense, "SequenceModel": nn.SequenceModel}


@pytest.fixture(params=MAKERS)
def made(request, dtype):
    return MAKERS[request.param](dtype)


def layers_of(thing):
    return thing.layers if isinstance(thing, nn.SequenceModel) else [thing]


def output(thing):
    y = thing(np.linspace(-1, 1, 4 * 2 * I).reshape(4, 2, I))
    return y if isinstance(y, np.ndarray) else y[0]


def assert_equal(got, expected):
    assert type(got) is type(expected)
    assert repr(got) == repr(expected)
    for layer, wanted in zip(layers_of(got), layers_of(expected), strict=True):
        assert layer.dtype == wanted.dtype
        assert_same_bits(layer.flat_params, wanted.flat_params)
        assert not np.shares_memory(layer.flat_params, wanted.flat_params)
        assert layer.flat_params.flags.writeable
        assert not layer.flat_grads.any()
    assert_same_bits(output(got), output(expected))


# ------------------------------------------------------------------------------------------- there and back


def test_loaded_is_what_was_saved_bit_for_bit(tmp_path, made):
    made.save(tmp_path / "a")
    assert_equal(type(made).load(tmp_path / "a"), made)
    loaded = clstm.load(tmp_path / "a")
    assert_equal(loaded, made)
    loaded.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_paths_may_be_strings(tmp_path, made):
    made.save(str(tmp_path / "a"))
    assert_equal(clstm.load(str(tmp_path / "a")), made)
    assert_equal(type(made).load(str(tmp_path / "a")), made)


def test_nan_and_infinities_survive(tmp_path):
    layer = dense()
    layer.flat_params[:3] = np.nan, np.inf, -np.inf
    layer.save(tmp_path / "a")
    assert_same_bits(clstm.load(tmp_path / "a").flat_params, layer.flat_params)


@pytest.mark.parametrize("load", ["load", "class"])
def test_backend_is_an_option_of_loading(tmp_path, load):
    for made in (MAKERS["LSTM"]("float32"), MAKERS["RNN"]("float32"), model()):
        made.save(tmp_path / "a")
        read = clstm.load if load == "load" else type(made).load
        assert layers_of(read(tmp_path / "a"))[0].backend == "auto"
        assert layers_of(read(tmp_path / "a", backend="numpy"))[0].backend == "numpy"
        with pytest.raises(ValueError, match="backend: expected one of 'auto', 'numpy', got 'cuda'"):
            read(tmp_path / "a", backend="cuda")


def test_loaded_model_goes_on_training(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 4, I)), rng.standard_normal((8, O))
    made = nn.SequenceModel([clstm.LSTM(I, H, batch_first=True, rng=0), dense(input_size=H)])
    made.save(tmp_path / "a")
    loaded = clstm.load(tmp_path / "a")
    assert loaded.fit(x, y, epochs=2, rng=1)["loss"] == made.fit(x, y, epochs=2, rng=1)["loss"]
    assert_same_bits(loaded(x), made(x))


def test_nothing_is_drawn(tmp_path, made, monkeypatch):
    made.save(tmp_path / "a")

    class Generator(np.random.Generator):
        def random(self, *_args, **_kwargs):
            raise AssertionError("drawn")

        uniform = standard_normal = random

    monkeypatch.setattr(np.random, "default_rng", lambda *_: Generator(np.random.PCG64(0)))
    assert_equal(clstm.load(tmp_path / "a"), made)


# ------------------------------------------------------------------------------------------- files of 0.1.0


@pytest.mark.parametrize("case", ["stacked", "plain", "two_layers"])
def test_file_of_0_1_0_computes_what_0_1_0_computed(case, backend, tmp_path):
    with np.load(GOLDEN / "lstm-0.1.0.npz") as archive:
        d = {name.removeprefix(f"{case}/"): archive[name] for name in archive.files if name.startswith(case)}
    for load in (clstm.LSTM.load, clstm.load):
        lstm = load(GOLDEN / f"lstm-0.1.0-{case}.safetensors", backend=backend)
        assert type(lstm) is clstm.LSTM
        y, (h_n, c_n) = lstm(d["x"], (d["h_0"], d["c_0"]), d["lengths"])
        for name, value in (("y", y), ("h_n", h_n), ("c_n", c_n)):
            assert_close(value, d[name], "forward", name)
    lstm.save(tmp_path / "a")  # in today's format
    again = clstm.load(tmp_path / "a", backend=backend)
    assert repr(again) == repr(lstm)
    assert_same_bits(again.flat_params, lstm.flat_params)
    assert_same_bits(again(d["x"], (d["h_0"], d["c_0"]), d["lengths"])[0], y)


@pytest.mark.parametrize("cls", [clstm.RNN, nn.Dense, nn.SequenceModel], ids=lambda cls: cls.__name__)
def test_file_of_0_1_0_is_no_other_class(cls):
    path = GOLDEN / "lstm-0.1.0-plain.safetensors"
    with pytest.raises(
        FileFormatError, match=f"{re.escape(str(path))}: expected a file of class {cls.__name__}"
    ):
        cls.load(path)


# ------------------------------------------------------------------------------------- classes and arguments


@pytest.mark.parametrize("asked", CLASSES)
@pytest.mark.parametrize("held", CLASSES)
def test_file_of_another_class_is_refused_by_name(tmp_path, asked, held):
    path = tmp_path / "a"
    made = MAKERS[held]("float64")
    made.save(path)
    if asked == held:
        assert_equal(CLASSES[asked].load(path), made)
    else:
        message = f"^{re.escape(str(path))}: expected a file of class {asked}, got '{held}'$"
        with pytest.raises(FileFormatError, match=message):
            CLASSES[asked].load(path)


def rewrite(path, made, *, class_name=None, drop=(), tensors=None, **arguments):
    """Save with other arguments than those of the object."""
    kept, named = made.file_content()
    kept = {name: value for name, value in kept.items() if name not in drop} | arguments
    files.write(
        path,
        made.file_class if class_name is None else class_name,
        kept,
        named if tensors is None else tensors,
        "9.9.9",
    )


@pytest.mark.parametrize("class_name", ["GRU", "", "lstm", "ReferenceLSTM", "x" * 1000], ids=lambda v: v[:8])
def test_class_that_is_not_known_is_refused(tmp_path, class_name):
    rewrite(tmp_path / "a", dense(), class_name=class_name)
    with pytest.raises(
        FileFormatError, match=r": expected one of LSTM, RNN, Dense, .*SequenceModel.*, got '"
    ) as caught:
        clstm.load(tmp_path / "a")
    assert len(str(caught.value)) < len(str(tmp_path)) + 300


@pytest.mark.parametrize("kind", KINDS)
def test_argument_that_the_file_does_not_name_has_its_default(tmp_path, kind):
    made = build_layer(kind, I, H)
    everything = (
        "num_layers",
        "bias",
        "batch_first",
        "dropout",
        "bidirectional",
        "init",
        "dtype",
        "forget_bias",
    )
    rewrite(tmp_path / "a", made, drop=everything)
    assert_equal(clstm.load(tmp_path / "a"), made)
    for name in everything:
        rewrite(tmp_path / "a", made, drop=(name,))
        assert_equal(clstm.load(tmp_path / "a"), made)


def test_argument_of_a_dense_layer_that_the_file_does_not_name_has_its_default(tmp_path):
    rewrite(tmp_path / "a", dense(), drop=("bias", "dtype"))
    assert_equal(clstm.load(tmp_path / "a"), dense())


@pytest.mark.parametrize("name", ["input_size", "hidden_size"])
def test_argument_without_a_default_must_be_there(tmp_path, kind, name):
    rewrite(tmp_path / "a", build_layer(kind, I, H), drop=(name,))
    with pytest.raises(
        FileFormatError, match=rf": {kind.upper()}: expected the arguments .*; missing: '{name}'$"
    ):
        clstm.load(tmp_path / "a")


@pytest.mark.parametrize("name", ["peephole", "backend", "rng", "hidden_first", "_sizes"])
@pytest.mark.parametrize("held", ["LSTM", "RNN", "Dense"])
def test_argument_that_is_not_known_is_refused_by_name(tmp_path, held, name):
    rewrite(tmp_path / "a", MAKERS[held]("float64"), **{name: True})
    with pytest.raises(FileFormatError, match=f": arguments: expected some of input_size, .*, got '{name}'$"):
        clstm.load(tmp_path / "a")


@pytest.mark.parametrize("n", [0, 1])
def test_arguments_of_the_parts_of_a_model_are_checked_too(tmp_path, n):
    made = model()

    def with_part(part):
        layers = list(made.file_content()[0]["layers"])
        layers[n] = part
        rewrite(tmp_path / "a", made, layers=layers)

    whole = made.file_content()[0]["layers"][n]
    with_part(whole | {"arguments": whole["arguments"] | {"peephole": True}})
    with pytest.raises(
        FileFormatError, match=r": arguments: expected some of input_size, .*, got 'peephole'$"
    ):
        clstm.load(tmp_path / "a")
    with_part(whole | {"arguments": whole["arguments"] | {"input_size": 0}})
    with pytest.raises(FileFormatError, match=r": input_size: expected at least 1, got 0$"):
        clstm.load(tmp_path / "a")
    for bad in (
        3,
        None,
        [],
        "x",
        whole | {"arguments": 3},
        whole | {"class": []},
        whole | {"class": "Denser"},
    ):
        with_part(bad)
        with pytest.raises(FileFormatError):
            clstm.load(tmp_path / "a")
    rewrite(tmp_path / "a", made, layers=3)
    with pytest.raises(FileFormatError, match="layers: expected list, got 3"):
        clstm.load(tmp_path / "a")
    rewrite(tmp_path / "a", made, drop=("readout",))
    with pytest.raises(
        FileFormatError, match="arguments: expected exactly readout, layers; missing: readout"
    ):
        clstm.load(tmp_path / "a")


def test_tensors_of_a_model_belong_to_its_parts(tmp_path):
    made = model()
    tensors = made.file_content()[1]
    for more in ("more", "tail.weight"):
        rewrite(tmp_path / "a", made, tensors=tensors | {more: np.zeros(1)})
        with pytest.raises(
            FileFormatError, match=r": tensors: expected names that begin with the number of a layer, got "
        ):
            clstm.load(tmp_path / "a")
    for name in tensors:
        rewrite(tmp_path / "a", made, tensors={key: v for key, v in tensors.items() if key != name})
        with pytest.raises(FileFormatError, match="parameters, its tensors hold"):
            clstm.load(tmp_path / "a")


def test_parts_that_do_not_fit_together_are_refused(tmp_path):
    made, other = model(), dense(input_size=7)
    arguments, tensors = other.file_content()
    kept = {name: value for name, value in made.file_content()[1].items() if name.startswith("0.")}
    kept |= {f"1.{name}": value for name, value in tensors.items()}
    layers = [made.file_content()[0]["layers"][0], {"class": "Dense", "arguments": arguments}]
    rewrite(tmp_path / "a", made, tensors=kept, layers=layers)
    with pytest.raises(
        FileFormatError, match=r": layers\[1\]: expected input_size 10, the output of the layer be"
    ):
        clstm.load(tmp_path / "a")


BAD_TENSORS = {
    "missing": (lambda t: {"weight": t["weight"]}, "its arguments ask for 8 parameters, its tensors hold 6"),
    "more": (lambda t: t | {"more": t["bias"]}, "its arguments ask for 8 parameters, its tensors hold 10"),
    "renamed": (
        lambda t: {"weight": t["weight"], "biases": t["bias"]},
        "tensors: expected exactly weight, bias; missing: bias; unexpected: biases",
    ),
    "transposed": (
        lambda t: t | {"weight": t["weight"].T},
        r"\['weight'\]: expected shape \(2, 3\), got \(3, 2\)",
    ),
    "other-dtype": (
        lambda t: t | {"bias": t["bias"].astype("f4")},
        "bias: expected dtype float64, got float32",
    ),
}


@pytest.mark.parametrize("bad", BAD_TENSORS)
def test_tensors_that_do_not_fit_the_arguments_are_refused(tmp_path, bad):
    change, message = BAD_TENSORS[bad]
    made = dense()
    rewrite(tmp_path / "a", made, tensors=change(made.state_dict()))
    with pytest.raises(FileFormatError, match=message):
        clstm.load(tmp_path / "a")


@pytest.mark.parametrize("held", CLASSES)
def test_newer_format_is_refused_with_the_version_that_wrote_it(tmp_path, monkeypatch, held):
    made = MAKERS[held]("float64")
    with monkeypatch.context() as patched:
        patched.setattr(files, "FORMAT", files.FORMAT + 1)
        arguments, tensors = made.file_content()
        files.write(tmp_path / "a", held, arguments, tensors, "7.8.9")
    message = f": format {files.FORMAT + 1}, written by clstm 7.8.9; this version reads up to {files.FORMAT}$"
    for load in (clstm.load, CLASSES[held].load):
        with pytest.raises(FileFormatError, match=message):
            load(tmp_path / "a")


@pytest.mark.parametrize("name", ["num_layers", "hidden_size", "input_size"])
@pytest.mark.parametrize("size", [4_000_000, 10**12, 10**40], ids=["4e6", "1e12", "1e40"])
@pytest.mark.parametrize("form", [1, 2])
def test_declared_sizes_cost_nothing(tmp_path, name, size, form):
    """No views are made, and no memory is taken, for what a file only claims to hold."""
    made = build_layer("lstm", I, H)
    if form == 1:
        arguments = made.file_content()[0]
        text = json.dumps({known: arguments[known] for known in files._ARGUMENTS_1} | {name: size})
        content = safetensors.numpy.save(made.state_dict(), metadata={"clstm": text})
        (tmp_path / "a").write_bytes(content)
    else:
        rewrite(tmp_path / "a", made, **{name: size})
    with pytest.raises(
        FileFormatError, match=r": its arguments ask for \d+ parameters, its tensors hold 180$"
    ):
        clstm.load(tmp_path / "a")


def test_declared_sizes_of_a_dense_layer_cost_nothing(tmp_path):
    rewrite(tmp_path / "a", dense(), output_size=10**30)
    with pytest.raises(
        FileFormatError, match=r": its arguments ask for 4\d* parameters, its tensors hold 8$"
    ):
        clstm.load(tmp_path / "a")


def test_missing_file_is_a_file_not_found_error(tmp_path):
    for load in (clstm.load, *(cls.load for cls in CLASSES.values())):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "missing")


@pytest.mark.parametrize("held", CLASSES)
def test_save_into_a_missing_folder_names_the_path_that_was_given(tmp_path, held):
    path = tmp_path / "missing" / "a"
    with pytest.raises(FileNotFoundError, match=re.escape(str(path))) as caught:
        MAKERS[held]("float64").save(path)
    assert caught.value.filename == str(path)


def test_batches_of_a_loaded_layer_are_laid_out_as_before(tmp_path, kind):
    made = build_layer(kind, I, H, 2, batch_first=True)
    made.save(tmp_path / "a")
    loaded = clstm.load(tmp_path / "a")
    d = draw_inputs(made, 4, 2)
    x, dy = d.x.swapaxes(0, 1), d.dy.swapaxes(0, 1)
    for layer in (made, loaded):
        layer.forward(x, d.state, d.lengths)
    assert_same_bits(loaded.backward(dy, d.dstate)[0], made.backward(dy, d.dstate)[0])
    assert_same_bits(loaded.flat_grads, made.flat_grads)
