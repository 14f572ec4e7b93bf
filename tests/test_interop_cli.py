"""`clstm inspect`, `clstm convert` and `clstm verify`: what they print, what they write, their exit codes."""

import json
import os
import pickle
import re
import tracemalloc
import zipfile

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, run_python

import clstm
from clstm import _exchange, _originals, cli, nn
from clstm.interop import formats

I, H = 3, 5  # noqa: E741


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def torch_names(lstm, start=""):
    return {f"{start}{name}": value for name, value in lstm.to_torch().items()}


def write_own(path, dtype="float64"):
    clstm.LSTM(I, H, 2, bidirectional=True, rng=0, dtype=dtype).save(path)


def write_safetensors(path, dtype="float64"):
    clstm.LSTM(I, H, 2, bidirectional=True, rng=0, dtype=dtype).to_torch(path)


def write_pickle(path, dtype="float64"):
    arrays = torch_names(clstm.LSTM(I, H, 2, bidirectional=True, rng=0, dtype=dtype))
    with open(path, "wb") as file:
        pickle.dump(arrays, file)


def write_torch(path, dtype="float64", zipped=True):
    torch = pytest.importorskip("torch")
    arrays = torch_names(clstm.LSTM(I, H, 2, bidirectional=True, rng=0, dtype=dtype))
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)


def write_legacy_torch(path, dtype="float64"):
    write_torch(path, dtype, zipped=False)


def write_onnx(path, dtype="float64"):
    pytest.importorskip("onnx")
    clstm.LSTM(I, H, 2, bidirectional=True, rng=0, dtype=dtype).to_onnx(path)


WRITERS = {
    "clstm": (write_own, "clstm"),
    "safetensors": (write_safetensors, "safetensors"),
    "pickle": (write_pickle, "pickle"),
    "torch": (write_torch, "PyTorch"),
    "legacy torch": (write_legacy_torch, "PyTorch"),
    "onnx": (write_onnx, "ONNX"),
}


@pytest.fixture(params=WRITERS)
def kind(request):
    """A kind of file that holds one stacked LSTM of two directions."""
    return request.param


def run(capsys, *arguments):
    """Run the command; return its exit code and its lines."""
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert err == ""
    return code, out.splitlines()


def fail(capsys, *arguments):
    """Run the command, which must end in one line that says why."""
    assert cli.main(list(arguments)) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err.removesuffix("\n")


def misuse(capsys, *arguments):
    """Run the command with arguments that make no sense; return the last line of what it says."""
    with pytest.raises(SystemExit) as stop:
        cli.main(list(arguments))
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()[-1]


# ---------------------------------------------------------------------------------------------------- inspect


@pytest.mark.parametrize("suffix", ["pt", "onnx", "h5", "txt"])
def test_inspect_tells_a_kind_by_content_and_shows_sizes_and_options(kind, suffix, capsys):
    write, title = WRITERS[kind]
    write(f"a.{suffix}", "float32")
    code, lines = run(capsys, "inspect", f"a.{suffix}")
    assert code == 0
    assert lines[0] == f"a.{suffix}: {title}, 1 LSTM"
    assert lines[1].endswith("  LSTM(3, 5, num_layers=2, bidirectional=True, dtype='float32')")
    assert len(lines) == 2


def test_inspect_lists_every_lstm_by_name(capsys):
    one, two = clstm.LSTM(I, H, rng=0), clstm.LSTM(H, 2, rng=1, proj_size=1)
    with open("a", "wb") as file:
        pickle.dump({"model": torch_names(one, "encoder.") | torch_names(two, "decoder.")}, file)
    code, lines = run(capsys, "inspect", "a")
    assert code == 0
    assert lines == [
        "a: pickle, 2 LSTMs",
        "  model.encoder  LSTM(3, 5, dtype='float64')",
        "  model.decoder  LSTM(5, 2, proj_size=1, dtype='float64')",
    ]


def test_inspect_says_why_one_cannot_be_read_and_goes_on(capsys):
    arrays = torch_names(clstm.LSTM(I, H), "a.") | torch_names(clstm.LSTM(I, H), "b.")
    del arrays["a.bias_hh_l0"]
    with open("a", "wb") as file:
        pickle.dump(arrays, file)
    code, lines = run(capsys, "inspect", "a")
    assert code == 0
    assert re.match("  a  cannot be read: .*bias_hh_l0", lines[1])
    assert lines[2] == "  b  LSTM(3, 5, dtype='float64')"


def test_inspect_can_print_json(kind, capsys):
    WRITERS[kind][0]("a")
    code, lines = run(capsys, "inspect", "--json", "a")
    told = json.loads("\n".join(lines))
    assert code == 0
    assert told.keys() == {"path", "format", "lstms"}
    assert told["path"] == "a"
    (lstm,) = told["lstms"]
    assert lstm["trouble"] is None
    expected = {"input_size": I, "hidden_size": H, "num_layers": 2, "bidirectional": True, "dtype": "float64"}
    assert expected.items() <= lstm["arguments"].items()


def test_inspect_shows_names_that_a_terminal_would_obey_as_text(capsys):
    with open("a", "wb") as file:
        pickle.dump(torch_names(clstm.LSTM(I, H), "\x1b[2J\n."), file)
    _, lines = run(capsys, "inspect", "a")
    assert lines[1] == r"  '\x1b[2J\n'  LSTM(3, 5, dtype='float64')"


def test_inspect_shows_letters_that_a_terminal_has_not():
    with open("a", "wb") as file:
        pickle.dump(torch_names(clstm.LSTM(I, H), "\N{LATIN SMALL LETTER E WITH ACUTE}."), file)
    code = "import sys; from clstm.cli import main; sys.exit(main(['inspect', 'a']))"
    done = run_python(code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == r"  \xe9  LSTM(3, 5, dtype='float64')"


def test_inspect_finds_the_lstm_of_a_model_and_none_in_a_dense_layer(capsys):
    nn.SequenceModel([clstm.LSTM(I, H), nn.Dense(H, 1)]).save("model")
    nn.Dense(H, 1).save("dense")
    assert run(capsys, "inspect", "model") == (
        0,
        ["model: clstm, 1 LSTM", "  layers.0  LSTM(3, 5, dtype='float64')"],
    )
    assert run(capsys, "inspect", "dense") == (0, ["dense: clstm, no LSTM"])


def test_inspect_lists_arrays_of_numpy_and_says_what_to_write(capsys):
    np.savez("a.npz", kernel=np.zeros((8, 20), "f4"), b=np.zeros(20))
    code, lines = run(capsys, "inspect", "a.npz")
    assert code == 0
    assert lines[:3] == ["a.npz: NumPy, 2 arrays", "  kernel  (8, 20), float32", "  b       (20,), float64"]
    assert "clstm.LSTM.from_gates(" in lines[3]
    _, lines = run(capsys, "inspect", "--json", "a.npz")
    assert json.loads("\n".join(lines))["arrays"]["kernel"] == {"shape": [8, 20], "dtype": "float32"}


def write_bytes(path, content):
    with open(path, "wb") as file:
        file.write(content)


def write_zip(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")


BAD_FILES = {
    "empty": (lambda: write_bytes("a", b""), "expected a file of clstm, PyTorch, Keras, ONNX or NumPy, or"),
    "text": (lambda: write_bytes("a", b"weights"), "expected a file of clstm, PyTorch"),
    "other archive": (
        lambda: write_zip("a", "word/document.xml"),
        "expected a zip archive of PyTorch, Keras or",
    ),
    "empty archive": (lambda: write_zip("a"), "expected a zip archive of PyTorch, Keras or NumPy"),
    "start of an archive": (lambda: write_bytes("a", b"PK\x03\x04"), "not a zip archive that can be read"),
    "archive without weights": (lambda: write_zip("a", "archive/data.pkl"), ""),
    "array that is none": (lambda: write_zip("a", "x.npy"), "'x': not an array of NumPy"),
    "start of a pickle": (lambda: write_bytes("a", b"\x80\x02"), ""),
    "start of ONNX": (lambda: write_bytes("a", b"\x08\x08\x3a"), "not an ONNX model"),
    "safetensors without an end": (lambda: write_bytes("a", b"\xff" * 7 + b"\0{"), "not a safetensors file"),
    "number as metadata": (
        lambda: write_bytes("a", (19).to_bytes(8, "little") + b'{"__metadata__": 3}'),
        "not a safetensors file",
    ),
    "deep header": (lambda: write_bytes("a", (60000).to_bytes(8, "little") + b'{"a":' * 12000), "not a safe"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
@pytest.mark.parametrize("command", ["inspect", "verify", "convert"])
def test_file_that_cannot_be_read_ends_in_one_line(bad, command, capsys):
    write, message = BAD_FILES[bad]
    write()
    more = ["b.safetensors"] if command == "convert" else []
    if bad == "array that is none" and command != "inspect":
        message = "arrays of NumPy, whose layout you must say in Python"
    assert fail(capsys, command, "a", *more).startswith(f"clstm: a: {message}")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_file_that_is_not_there_ends_in_one_line(command, capsys, tmp_path):
    assert fail(capsys, command, "no/a.pt") == "clstm: no/a.pt: No such file or directory"
    assert fail(capsys, command, str(tmp_path)) == f"clstm: {tmp_path}: Is a directory"


def test_process_shows_no_traceback(tmp_path):
    write_bytes(tmp_path / "a", b"weights")
    done = run_python("import sys; from clstm.cli import main; sys.exit(main(['inspect', 'a']))")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"clstm: a: [^\n]+\n", done.stderr)


def test_metadata_alone_makes_a_safetensors_file_one_of_this_package(capsys):
    from safetensors.numpy import save_file

    arrays = torch_names(clstm.LSTM(I, H), "clstm.")
    save_file(arrays, "a", metadata={"format": "clstm"})
    assert formats.tell("a") == formats.SAFETENSORS
    assert run(capsys, "inspect", "a")[1][1] == "  clstm  LSTM(3, 5, dtype='float64')"
    save_file(arrays, "a", metadata={"clstm": "3"})
    assert formats.tell("a") == formats.OWN
    assert fail(capsys, "inspect", "a").startswith("clstm: a: arguments: ")


STARTS = {
    "hdf5": formats.HDF5_SIGNATURE,
    "torch": formats.TORCH_BEFORE_ZIP,
    "pickle": b"\x80\x02",
    "onnx": b"\x08\x08",
    "safetensors": (1 << 31).to_bytes(8, "little") + b"{",
    "clstm": (31).to_bytes(8, "little") + b'{"__metadata__":{"clstm":"{}"}}',
    "something else": b"weights",
}


@pytest.mark.parametrize("start", STARTS)
def test_kind_of_a_large_file_is_told_by_its_first_bytes(start):
    write_bytes("a", STARTS[start])
    os.truncate("a", 1 << 31)
    tracemalloc.start()
    try:
        if start == "something else":
            with pytest.raises(clstm.FileFormatError, match="got none of these"):
                formats.tell("a")
        else:
            assert formats.tell("a").name == start
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


# ---------------------------------------------------------------------------------------------------- convert


def outputs_of(path, name=None):
    x = np.random.default_rng(0).standard_normal((7, 2, I))
    kind = formats.tell(path)
    if kind == formats.OWN:
        return clstm.load(path)(x)[0]
    make = clstm.LSTM.from_onnx if kind == formats.ONNX else clstm.LSTM.from_torch
    return make(path, name)(x)[0]


@pytest.mark.parametrize("to", ["clstm", "torch", "onnx"])
def test_convert_keeps_every_bit(kind, to, capsys):
    if to == "onnx":
        pytest.importorskip("onnx")
    WRITERS[kind][0]("a")
    out = f"b{_exchange.TARGETS[to]}"
    code, lines = run(capsys, "convert", "a", out, "--to", to)
    assert code == 0
    assert len(lines) == 1
    assert re.fullmatch(
        rf"a.* -> {out}: LSTM\(3, 5, num_layers=2, bidirectional=True, dtype='float64'\)", lines[0]
    )
    assert formats.tell(out).name == {"torch": "safetensors"}.get(to, to)
    assert_same_bits(outputs_of(out), outputs_of("a"))


def test_suffix_says_what_is_written_if_nothing_else_does(capsys):
    pytest.importorskip("onnx")
    write_pickle("a")
    for out, expected in (("b.safetensors", formats.OWN), ("b.ONNX", formats.ONNX)):
        assert run(capsys, "convert", "a", out)[0] == 0
        assert formats.tell(out) == expected


def test_convert_replaces_what_is_there_even_its_own_source(capsys):
    write_safetensors("a.safetensors")
    before = outputs_of("a.safetensors")
    assert run(capsys, "convert", "a.safetensors", "a.safetensors")[0] == 0
    assert formats.tell("a.safetensors") == formats.OWN
    assert_same_bits(outputs_of("a.safetensors"), before)


def test_convert_takes_the_lstm_of_a_name(capsys):
    one, two = clstm.LSTM(I, H, rng=0), clstm.LSTM(I, H, rng=1)
    with open("a", "wb") as file:
        pickle.dump(torch_names(one, "one.") | torch_names(two, "two."), file)
    code, lines = run(capsys, "convert", "a", "b.safetensors", "--name", "two")
    assert (code, lines) == (0, ["a, two -> b.safetensors: LSTM(3, 5, dtype='float64')"])
    assert_same_bits(clstm.load("b.safetensors").flat_params, two.flat_params)


def test_option_without_a_place_in_the_other_format_leaves_the_target_as_it_was(capsys):
    clstm.LSTM(I, H, peepholes=True).save("a")
    write_bytes("b.safetensors", b"before")
    message = fail(capsys, "convert", "a", "b.safetensors", "--to", "torch")
    assert message.startswith("clstm: a: cannot be written for torch: peepholes: expected False")
    with open("b.safetensors", "rb") as file:
        assert file.read() == b"before"


def test_target_that_cannot_be_written_ends_in_one_line(capsys):
    write_own("a")
    assert (
        fail(capsys, "convert", "a", "no/b.safetensors")
        == "clstm: no/b.safetensors: No such file or directory"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convert", "a", "b.pt"], "OUT: expected a name that ends in .safetensors or .onnx, got 'b.pt'"),
        (["convert", "a", "b"], "OUT: expected a name that ends in .safetensors or .onnx, got 'b'"),
        (
            ["convert", "a", "b.onnx", "--to", "torch"],
            "--to torch: expected a name that ends in .safetensors, got 'b.onnx'",
        ),
        (["convert", "a", "b.safetensors", "--to", "keras"], "error: argument --to: invalid choice: 'keras'"),
        (["convert", "a", "b.onnx"], "expected --name to select one of one, two, which 'a' holds"),
        (["verify", "a"], "expected --name to select one of one, two, which 'a' holds"),
        (["verify", "a", "--name", "three"], "--name: expected one of one, two, got 'three'"),
        (
            ["verify", "a", "--name", "one", "--recurrent-activation", "tanh", "--no-go-backwards"],
            "--recurrent-activation, --go-backwards: expected a file of Keras, got one of pickle",
        ),
        (
            ["verify", "a", "--recurrent-activation", "hard_sigmoid:0.2"],
            "expected such as hard_sigmoid:alpha=0.2, got 'hard_sigmoid:0.2'",
        ),
    ],
)
def test_arguments_that_make_no_sense_write_nothing(arguments, message, capsys, tmp_path):
    with open("a", "wb") as file:
        pickle.dump(torch_names(clstm.LSTM(I, H), "one.") | torch_names(clstm.LSTM(I, H), "two."), file)
    told = misuse(capsys, *arguments)
    assert f"clstm {arguments[0]}: error: " in told
    assert f": {message}" in told
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", [[], ["--name", "LSTM_Y_l0, LSTM_Y_l1"]])
def test_names_of_nodes_come_with_the_advice_to_join_them_in_python(name, capsys):
    onnx = pytest.importorskip("onnx")
    model = clstm.LSTM(I, I, 2, rng=0).to_onnx()
    for node in model.graph.node:
        if node.op_type == "LSTM":
            node.input[0] = "x"
    onnx.save(model, "a")
    told = misuse(capsys, "verify", "a", *name)
    assert " one of LSTM_Y_l0, LSTM_Y_l1, " in told
    assert told.endswith("; in Python a list of names joins them")


# ----------------------------------------------------------------------------------------------------- verify


SYSTEMS = {"torch": "PyTorch", "safetensors": "PyTorch", "legacy torch": "PyTorch", "onnx": "ONNX Runtime"}


def test_verify_compares_with_the_definition_and_the_system_of_the_file(kind, dtype, capsys):
    WRITERS[kind][0]("a", dtype)
    code, lines = run(capsys, "verify", "a")
    assert code == 0
    assert lines[1] == "on random input of 16 steps, 3 rows, 3 features:"
    assert re.match(r"  definition in NumPy, kernels \w+: largest difference \S+, within ", lines[2])
    if kind == "clstm":
        assert len(lines) == 3
    elif kind == "pickle":
        assert lines[3:] == ["  not compared with another system: a pickle of arrays is of none"]
    elif kind == "onnx" and dtype == "float64":
        pytest.importorskip("onnxruntime")
        assert lines[3].startswith("  not compared with another system: onnxruntime says ")
    else:
        pytest.importorskip({"PyTorch": "torch"}.get(SYSTEMS[kind], "onnxruntime"))
        assert re.match(rf"  {SYSTEMS[kind]} [\d.+a-z]+: largest difference \S+, within ", lines[3])


def test_verify_notices_other_weights(capsys, monkeypatch):
    """The comparison can fail: two gates permuted on the way to the other system."""
    torch = pytest.importorskip("torch")
    write_torch("a")
    load = torch.load

    def permuted(*args, **kwargs):
        tensors = load(*args, **kwargs)
        tensors["weight_hh_l1"] = tensors["weight_hh_l1"].roll(H, 0)
        return tensors

    monkeypatch.setattr(torch, "load", permuted)
    code, lines = run(capsys, "verify", "a")
    assert code == 1
    assert re.match(r"  PyTorch .*: largest difference \S+, ABOVE 1e-11$", lines[3])


def test_verify_notices_a_kernel_that_computes_something_else(capsys, monkeypatch):
    write_own("a")
    call = clstm.LSTM.__call__

    def wrong(self, *args, **kwargs):
        y, state = call(self, *args, **kwargs)
        return (y + 1e-6 if self.backend == "auto" else y), state

    monkeypatch.setattr(clstm.LSTM, "__call__", wrong)
    code, lines = run(capsys, "verify", "a")
    assert code == 1
    assert lines[2].endswith("largest difference 1.0e-06, ABOVE 1e-12")


def test_verify_notices_nan(capsys):
    lstm = clstm.LSTM(I, H)
    lstm.flat_params[...] = np.nan
    lstm.save("a")
    assert run(capsys, "verify", "a")[0] == 1


def test_verify_goes_on_without_the_other_system(capsys, monkeypatch):
    write_safetensors("a")
    monkeypatch.setattr(_originals.importlib.util, "find_spec", lambda _: None)
    code, lines = run(capsys, "verify", "a")
    assert code == 0
    assert lines[3] == "  not compared with another system: torch not installed"


def test_verify_runs_every_option_that_a_file_can_have(capsys):
    activations = ("hard_sigmoid", "softsign", ("elu", {"alpha": 0.5}))
    lstm = clstm.LSTM(
        I, H, 2, activations=activations, peepholes=True, layer_norm=True, batch_first=True, rng=0
    )
    lstm.save("a")
    code, lines = run(capsys, "verify", "a")
    assert code == 0
    assert len(lines) == 3


# ------------------------------------------------------------------------------------------------------ Keras


of_keras = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def keras_model():
    """A model of three layers with random weights."""
    pytest.importorskip("h5py")
    pytest.importorskip("torch")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((None, I)),
            layers.LSTM(H, return_sequences=True, recurrent_activation="hard_sigmoid", name="one"),
            layers.Bidirectional(layers.LSTM(4, return_sequences=True), name="two"),
            layers.LSTM(2, go_backwards=True, name="three"),
        ]
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([rng.standard_normal(weight.shape) for weight in layer.weights])
    return model


@of_keras
def test_commands_read_keras_files(keras_model, capsys):
    keras_model.save("a.keras")
    code, lines = run(capsys, "inspect", "a.keras")
    assert code == 0
    assert lines[0] == "a.keras: Keras, 3 LSTMs"
    assert lines[2:] == [
        "  two    LSTM(5, 4, bidirectional=True, dtype='float32')",
        "  three  LSTM(8, 2, reverse=True, dtype='float32')",
    ]
    for name in ("one", "two", "three"):
        code, lines = run(capsys, "verify", "a.keras", "--name", name)
        assert code == 0
        assert re.match(r"  Keras .*: largest difference \S+, within 1e-05", lines[3])


@of_keras
def test_what_a_file_of_weights_does_not_tell_is_said_by_options(keras_model, capsys):
    keras_model.save_weights("a.weights.h5")
    keras_model.save("a.keras")
    code, lines = run(capsys, "inspect", "a.weights.h5")
    assert code == 0
    assert len(lines) == 4
    assert all("cannot be read: " in line for line in lines[1:])
    assert fail(capsys, "verify", "a.weights.h5", "--name", "two").startswith("clstm: a.weights.h5: ")
    said = ["--activation", "tanh", "--no-go-backwards", "--recurrent-activation"]
    arguments = ["convert", "a.weights.h5", "b.safetensors", "--name", "one", *said]
    assert run(capsys, *arguments, f"hard_sigmoid:alpha={1 / 6}")[0] == 0
    assert_close(
        clstm.load("b.safetensors")(np.ones((7, 2, I), "f4"))[0],
        clstm.LSTM.from_keras("a.keras", "one")(np.ones((7, 2, I), "f4"))[0],
        "forward",
    )
    assert "recurrent_activation: expected" in misuse(capsys, *arguments, "hard_sigmoid")
