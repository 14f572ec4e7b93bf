"""Models that others trained and published in packages: each gives the numbers of its own framework or code.

The packages are fetched by name from the index that pip is set up for, as wheels, of which nothing is run
while they are fetched; a hash pins each to the bytes that were looked at.  All is skipped where there is no
pip or no index, and each test where the framework that it compares with is missing.
"""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_close, run_python
from test_examples import FOLDER, RUN

import clstm

WHEELS = """
BeatNet==1.1.3 --hash=sha256:1ecfa17bdcbe899975a88bdb6efebd6970d846a4f3b6cfd5c6f320647c641c7e
g2pM==0.1.2.5 --hash=sha256:9e920b82df4002f96d8679720c7a858d10816d438dbd61b8b6b621a80a976361
Resemblyzer==0.1.4 --hash=sha256:8f12eb2f1a9982d32e8db7856de754709b59c93a77bcf0ff536584b619a9dd1f
russtress==0.1.4 --hash=sha256:d4737596f81872ca62c2074685de3363113529181af6dc1ba3ba3dd14428debe
silero-vad==6.2.3 --hash=sha256:7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8
"""
PATIENCE = 60  # seconds for all of them: some 40 MB


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """A folder with the wheels; it is asked for once."""
    folder = tmp_path_factory.mktemp("wheels")
    requirements = folder / "requirements.txt"
    requirements.write_text(WHEELS)
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--retries", "0", "--timeout", "10"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", *options]
    try:
        result = subprocess.run(
            [*command, "-d", str(folder), "-r", str(requirements)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip(f"the index did not deliver within {PATIENCE} s")
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" not in result.stderr
    if result.returncode:
        pytest.skip(f"no index to be had: {' '.join(result.stderr.strip().splitlines()[-1:])}")
    return folder


@pytest.fixture
def member(wheels, tmp_path):
    """A function that writes a file of a package's wheel to a folder of the test's and returns its path."""

    def write(name):
        package = name.split("/")[0].lower()
        (wheel,) = (path for path in wheels.glob("*.whl") if path.name.lower().startswith(f"{package}-"))
        with zipfile.ZipFile(wheel) as archive:
            path = tmp_path / name.split("/")[-1]
            path.write_bytes(archive.read(name))
        return path

    return write


# ----------------------------------------------------------------------------------------------- PyTorch's


def assert_equals_torch(torch, lstm, state_dict):
    """Compare a layer with torch's own of a state_dict, whose names have no prefix, from a random state."""
    theirs = torch.nn.LSTM(lstm.input_size, lstm.hidden_size, lstm.num_layers).double()
    theirs.load_state_dict(state_dict)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3, lstm.input_size))
    state = rng.normal(size=(2, lstm.num_layers, 3, lstm.hidden_size))
    y, final = lstm(x, tuple(state))
    with torch.no_grad():
        y_expected, final_expected = theirs(torch.from_numpy(x), tuple(torch.from_numpy(state)))
    assert_close(y, y_expected.numpy(), "torch", "y")
    for got, expected in zip(final, final_expected, strict=True):
        assert_close(got, expected.numpy(), "torch", "state")


@pytest.mark.parametrize(
    ("name", "sizes", "key"),
    [
        ("resemblyzer/pretrained.pt", (40, 256, 3), "model_state"),  # from before .pt files were zips
        ("BeatNet/models/model_1_weights.pt", (150, 150, 2), None),
        ("BeatNet/models/model_2_weights.pt", (150, 150, 2), None),
        ("BeatNet/models/model_3_weights.pt", (150, 150, 2), None),
    ],
)
def test_checkpoint_equals_torch(name, sizes, key, member):
    torch = pytest.importorskip("torch")
    path = member(name)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    tensors = loaded if key is None else loaded[key]
    state_dict = {name[5:]: tensor for name, tensor in tensors.items() if name.startswith("lstm.")}
    lstm = clstm.LSTM.from_torch(path, dtype="float64")
    assert (lstm.input_size, lstm.hidden_size, lstm.num_layers) == sizes
    assert_equals_torch(torch, lstm, state_dict)


def test_safetensors_of_a_cell_equal_torch(member):
    torch = pytest.importorskip("torch")
    load_file = pytest.importorskip("safetensors.torch").load_file
    path = member("silero_vad/data/silero_vad_16k.safetensors")
    state_dict = {
        f"{name[10:]}_l0": tensor for name, tensor in load_file(path).items() if name.startswith("lstm_cell.")
    }
    assert_equals_torch(torch, clstm.LSTM.from_torch(path, dtype="float64"), state_dict)


@pytest.mark.parametrize("name", ["BeatNet/models/model-1.pt", "silero_vad/data/silero_vad.jit"])
def test_file_that_holds_code_is_refused(name, member):
    path = member(name)
    with pytest.raises(clstm.FileFormatError, match=re.escape(str(path))):
        clstm.LSTM.from_torch(path)


# -------------------------------------------------------------------------------------- a package's own NumPy


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore:numpy.core:DeprecationWarning")
def test_pickled_arrays_equal_the_code_that_they_come_with(wheels, tmp_path, monkeypatch):
    """The package g2pM computes its LSTM itself, in both directions: its cells, fed with a sentence."""
    (wheel,) = wheels.glob("g2pM-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    theirs = pytest.importorskip("g2pM").G2pM()
    lstm = clstm.LSTM.from_torch(tmp_path / "g2pM" / "np_ckpt.pkl", batch_first=True)
    sentence = "시然而他红了20年以后他竟退出了大家的视线끝"  # with marks at its ends
    ids = np.array([[theirs.char2idx[char] for char in sentence]])
    x = theirs.get_embedding(ids)
    halves = []
    for cell, steps in ((theirs.fw_lstm_cell, x), (theirs.bw_lstm_cell, x[:, ::-1])):
        state, outputs = None, []
        for x_t in steps.swapaxes(0, 1):
            state = cell(x_t, state)
            outputs.append(state[0])
        halves.append(np.stack(outputs, axis=1))
    y, _ = lstm(x)
    assert_close(y, np.concatenate([halves[0], halves[1][:, ::-1]], axis=2), "forward")


# -------------------------------------------------------------------------------------------------- Keras's


def test_keras_file_of_2017_equals_keras(member, monkeypatch):
    """With the hard sigmoid that Keras had then: that of Keras 3 has another slope, 1/6."""
    pytest.importorskip("torch")
    pytest.importorskip("h5py")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    path = member("russtress/weights.96.hdf5")

    model = keras.Sequential(
        [
            keras.layers.Input((40, 36)),
            keras.layers.Bidirectional(keras.layers.LSTM(64, name="lstm_1"), name="bidirectional_1"),
            keras.layers.Dropout(0.2, name="dropout_1"),
            keras.layers.Dense(40, name="dense_1"),
            keras.layers.Activation("softmax", name="activation_1"),
        ]
    )
    model.load_weights(path)
    both = model.layers[0]
    for layer in (both.forward_layer, both.backward_layer):
        layer.cell.recurrent_activation = lambda z: keras.ops.clip(0.2 * z + 0.5, 0, 1)
    letters = "'-_абвгдежзийклмнопрстуфхцчшщъыьэюяё"
    x = np.zeros((3, 40, 36), np.float32)
    for row, word in zip(x, ("_молоко", "ные_мечты", "вый_человек"), strict=True):
        row[np.arange(40 - len(word), 40), [letters.index(letter) for letter in word]] = 1
    lstm = clstm.LSTM.from_keras(path, batch_first=True)
    assert lstm.bidirectional
    _, (h_n, _) = lstm(x)
    expected = both(x).detach().cpu().numpy()
    assert_close(np.concatenate(list(h_n), axis=-1), expected, "forward")


# --------------------------------------------------------------------------------------------------- ONNX's


def graphs_of(graph, outer=()):
    """Yield every graph in a graph, itself included, each with those around it, from the outermost."""
    chain = (*outer, graph)
    yield chain
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs_of(attribute.g, chain)


def cut_out(onnx, model, name):
    """Return a model of one node alone, with all that its weights are computed from; the rest is fed."""
    chain, node = next(
        (chain, node) for chain in graphs_of(model.graph) for node in chain[-1].node if node.name == name
    )
    makers = {output: maker for graph in chain for maker in graph.node for output in maker.output}
    kept, waiting = [node], list(node.input[1:4])
    while waiting:
        maker = makers.get(waiting.pop())
        if maker is not None and maker not in kept:
            kept.insert(0, maker)
            waiting.extend(maker.input)
    floats = onnx.TensorProto.FLOAT
    fed = [onnx.helper.make_tensor_value_info(node.input[k], floats, [None] * 3) for k in (0, 5, 6)]
    got = [onnx.helper.make_tensor_value_info(output, floats, None) for output in node.output]
    constants = [tensor for graph in chain for tensor in graph.initializer]
    ordered = [maker for graph in chain for maker in graph.node if maker in kept]
    graph = onnx.helper.make_graph(ordered, "node", fed, got, constants)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("silero_vad_16k_sequence.onnx", 1),
        ("silero_vad_openvino_16k.onnx", 1),
        ("silero_vad_16k_op15.onnx", 2),  # in the branches of an If
        ("silero_vad_half.onnx", 2),
        ("silero_vad.onnx", 4),  # in the branches of an If in those of another
    ],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_every_lstm_of_a_graph_equals_onnxruntime(name, nodes, member):
    onnx, onnxruntime = (pytest.importorskip(each) for each in ("onnx", "onnxruntime"))
    path = member(f"silero_vad/data/{name}")
    model = onnx.load(path)
    names = [
        node.name for chain in graphs_of(model.graph) for node in chain[-1].node if node.op_type == "LSTM"
    ]
    assert len(names) == nodes
    rng = np.random.default_rng(0)
    for node in names:
        lstm = clstm.LSTM.from_onnx(path, node=node)
        assert (lstm.input_size, lstm.hidden_size, lstm.num_layers) == (128, 128, 1)
        x, h_0, c_0 = (rng.normal(size=(n, 3, 128)).astype(np.float32) for n in (20, 1, 1))
        alone = cut_out(onnx, model, node).SerializeToString()
        session = onnxruntime.InferenceSession(alone, providers=["CPUExecutionProvider"])
        fed = dict(zip((each.name for each in session.get_inputs()), (x, h_0, c_0), strict=True))
        expected = session.run(None, fed)
        y, (h_n, c_n) = lstm(x, (h_0, c_0))
        assert_close(y, expected[0][:, 0], "onnx", node)
        assert_close(h_n, expected[1], "onnx", node)
        assert_close(c_n, expected[2], "onnx", node)
    if nodes > 1:
        with pytest.raises(clstm.FileFormatError, match="node") as error:
            clstm.LSTM.from_onnx(path)
        assert all(node in str(error.value) for node in names)


def test_graph_whose_lstm_was_unrolled_has_none_to_read(member):
    pytest.importorskip("onnx")
    path = member("silero_vad/data/silero_vad_op18_ifless.onnx")
    with pytest.raises(clstm.FileFormatError, match="LSTM"):
        clstm.LSTM.from_onnx(path)


# ------------------------------------------------------------------------------------------- a whole network


def test_example_runs_a_network_around_a_stream(wheels, tmp_path):
    """It compares with the whole network in ONNX Runtime; the wheel is unpacked, nothing of it imported."""
    for name in ("onnx", "onnxruntime", "matplotlib"):
        pytest.importorskip(name)
    (wheel,) = wheels.glob("silero_vad-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "packages")
    found = os.pathsep.join([str(Path(clstm.__file__).parents[1]), str(tmp_path / "packages")])
    arguments = (str(FOLDER / "voice_activity.py"), "--quick", "--output", str(tmp_path / "pictures"))
    result = run_python(RUN, *arguments, PYTHONPATH=found, MPLCONFIGDIR=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "pictures" / "voice-activity.png").exists()
