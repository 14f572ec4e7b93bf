"""Files: damage, hostile contents and interrupted writes do no harm; classes are in test_load.py."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from conftest import assert_same_bits, run_python

from clstm import files
from clstm.files import FileFormatError

posix = pytest.mark.skipif(os.name != "posix", reason="files of POSIX")

GOLDEN = Path(__file__).parent / "golden"


def golden_file(case):
    return GOLDEN / f"lstm-0.1.0-{case}.safetensors"


TENSORS = {
    "weight": np.random.default_rng(0).standard_normal((3, 2)),
    "bias": np.random.default_rng(1).standard_normal(3).astype(np.float32),
    "scale": np.array(2.5),
    "nothing": np.zeros((0, 4), np.float32),
}
ARGUMENTS = {
    "size": 3,
    "rate": 0.1,
    "names": ["a", "ä", "\ud800"],
    "inner": {"class": "Dense", "on": True, "of": None},
}


def write(path, tensors=TENSORS, arguments=ARGUMENTS, class_name="Dense"):
    files.write(path, class_name, arguments, tensors, "0.2.0")


def everything(path):
    """Read a file; return all it says, in a form that compares."""
    contents = files.read(path)
    tensors = contents.tensors()
    assert {name: value.shape for name, value in tensors.items()} == contents.shapes
    assert {name: value.dtype for name, value in tensors.items()} == contents.dtypes
    bits = {name: value.tobytes() for name, value in tensors.items()}
    return contents.class_name, contents.arguments, contents.shapes, contents.dtypes, bits


def split(content):
    """Return header and data of a file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def refused(path, reason):
    """Expect one error, with the path, the reason and a bounded length, from either step of reading."""
    with pytest.raises(FileFormatError, match=f"^{re.escape(str(path))}: .*{reason}") as caught:
        files.read(path).tensors()
    assert len(str(caught.value)) < len(str(path)) + 4500


# ---------------------------------------------------------------------------------------------- format 1


def test_format_1_is_an_lstm_with_its_arguments_and_shapes():
    contents = files.read(golden_file("plain"))
    assert (contents.path, contents.class_name) == (str(golden_file("plain")), "LSTM")
    assert contents.arguments == {
        "input_size": 2, "hidden_size": 5, "num_layers": 1, "bias": False, "batch_first": True,
        "dropout": 0.0, "bidirectional": False, "dtype": "float32", "forget_bias": None, "init": "torch",
    }  # fmt: skip
    assert contents.shapes == {"weight_ih_l0": (20, 2), "weight_hh_l0": (20, 5)}
    assert set(contents.dtypes.values()) == {np.dtype(np.float32)}
    for name, value in safetensors.numpy.load_file(golden_file("plain")).items():
        assert_same_bits(contents.tensors()[name], value)


# ------------------------------------------------------------------------------------------- there and back


def test_what_is_read_is_what_was_written(tmp_path):
    write(tmp_path / "a")
    contents = files.read(tmp_path / "a")
    assert (contents.path, contents.class_name, contents.arguments) == (
        str(tmp_path / "a"),
        "Dense",
        ARGUMENTS,
    )
    assert contents.shapes == {name: value.shape for name, value in TENSORS.items()}
    assert contents.dtypes == {name: value.dtype for name, value in TENSORS.items()}
    tensors = contents.tensors()
    assert list(tensors) == list(contents.shapes)
    for name, value in TENSORS.items():
        assert_same_bits(tensors[name], value)
        assert tensors[name].flags.writeable


def test_bytes_and_bfloat16_come_back(tmp_path):
    bits = np.arange(6, dtype=np.uint16).reshape(2, 3)
    tensors = {"halves": bits.view(files.BFLOAT16), "bytes": np.arange(-3, 3, dtype=np.int8), "ü": np.ones(2)}
    write(tmp_path / "a", tensors)
    contents = files.read(tmp_path / "a")
    assert contents.dtypes == {name: value.dtype for name, value in tensors.items()}
    for name, value in contents.tensors().items():
        assert_same_bits(value, tensors[name])
    with pytest.raises(FileFormatError, match="expected dtype float32 or float64, got"):
        contents.expect("Dense")
    contents.expect("Dense", floats=False)


def test_file_is_safetensors_with_one_record_of_json(tmp_path):
    write(tmp_path / "a")
    with safetensors.safe_open(tmp_path / "a", framework="numpy") as archive:
        assert set(archive.keys()) == set(TENSORS)
        assert list(archive.metadata()) == ["clstm"]
        record = json.loads(archive.metadata()["clstm"])
    assert re.fullmatch("[0-9a-f]{32}", record.pop("checksum"))
    assert record == {"format": 2, "version": "0.2.0", "class": "Dense", "arguments": ARGUMENTS}


def test_views_are_written_by_their_values(tmp_path):
    value = np.arange(24.0).reshape(4, 6)
    write(tmp_path / "a", {"transposed": value.T, "strided": value[::2, 1::3]})
    tensors = files.read(tmp_path / "a").tensors()
    assert_same_bits(tensors["transposed"], np.ascontiguousarray(value.T))
    assert_same_bits(tensors["strided"], np.ascontiguousarray(value[::2, 1::3]))


@pytest.mark.parametrize("kind", ["int64", "float16", "complex128", ">f8" if np.little_endian else "<f8"])
def test_only_native_floats_bytes_and_bfloat16_are_written(tmp_path, kind):
    with pytest.raises(ValueError, match=r"^w: expected dtype float32, float64, int8 or bfloat16, got "):
        write(tmp_path / "a", {"w": np.ones(2, kind)})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rate": np.nan}, ValueError, "JSON compliant"),
        ({"rate": {1, 2}}, TypeError, "set is not JSON serializable"),
        (
            {"text": "x" * (1 << 24)},
            ValueError,
            "^arguments and names of tensors: expected at most 16777216 bytes",
        ),
        ({"deep": json.loads("[" * 40 + "]" * 40)}, ValueError, "^arguments: expected at most 32 levels"),
    ],
    ids=["nan", "set", "long", "deep"],
)
def test_what_could_not_be_read_is_not_written(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        write(tmp_path / "a", arguments=arguments)
    assert not os.listdir(tmp_path)


# -------------------------------------------------------------------------------------------------- damage


def test_every_flipped_bit_is_refused_or_does_no_harm(tmp_path):
    write(tmp_path / "a", {"w": np.array([0.5, -2]), "b": TENSORS["bias"]}, {"a": 1})
    content, expected = (tmp_path / "a").read_bytes(), everything(tmp_path / "a")
    damaged, harmless = tmp_path / "damaged", 0
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            damaged.write_bytes(changed)
            try:
                found = everything(damaged)
            except FileFormatError:
                continue
            assert found == expected, (place, bit)
            harmless += 1
    assert harmless < 10


def test_a_file_cut_anywhere_is_refused(tmp_path):
    write(tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut").write_bytes(content[:length])
        refused(tmp_path / "cut", "not a safetensors file that NumPy can read")


CHANGES = {
    "value": lambda h, d: (h, d[:-1] + bytes([d[-1] ^ 1])),
    "swapped-tensors": lambda h, d: (h | {"a": h["b"], "b": h["a"]}, d),
    "renamed-tensor": lambda h, d: ({("c" if name == "a" else name): value for name, value in h.items()}, d),
    "shape": lambda h, d: (h | {"a": h["a"] | {"shape": [3, 2]}}, d),
    "dtype": lambda h, d: (h | {"a": h["a"] | {"dtype": "F32", "shape": [2, 6]}}, d),
    "class": lambda h, d: (recorded(h, "class", "LSTM"), d),
    "arguments": lambda h, d: (recorded(h, "arguments", {"size": 4}), d),
    "argument-of-other-type": lambda h, d: (recorded(h, "arguments", {"size": 3.0}), d),
    "version": lambda h, d: (recorded(h, "version", "0.2.1"), d),
    "checksum": lambda h, d: (recorded(h, "checksum", ""), d),
}


def recorded(header, name, value):
    """Change the record of a header."""
    record = json.loads(header["__metadata__"]["clstm"]) | {name: value}
    return header | {"__metadata__": {"clstm": json.dumps(record)}}


@pytest.mark.parametrize("change", CHANGES)
def test_checksum_covers(tmp_path, change):
    write(tmp_path / "a", {"a": np.ones((2, 3)), "b": np.zeros((2, 3))}, {"size": 3})
    header, data = split((tmp_path / "a").read_bytes())
    (tmp_path / "a").write_bytes(joined(header, data))
    everything(tmp_path / "a")  # another layout of the header is no damage
    (tmp_path / "a").write_bytes(joined(*CHANGES[change](header, data)))
    refused(tmp_path / "a", "damaged: its contents do not fit its checksum$")


# ------------------------------------------------------------------------------------------ hostile contents

METADATA = {
    "clstm": json.dumps({"format": 2, "version": "0.2.0", "class": "D", "arguments": {}, "checksum": ""})
}


def table(**entries):
    """Return a header of 8 bytes of data, of which the only tensor is changed."""
    entry = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]} | entries
    return {"__metadata__": METADATA, "w": entry}


def record(text):
    return {"__metadata__": {"clstm": text if isinstance(text, str) else json.dumps(text)}}


TWICE = b'"w": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}'
NEWER = {"format": 3, "version": "0.9.0"}
HEADERS = {
    "no-object": (b"[1, 2]", "header: expected dict, got "),
    "no-json": (b"{'w': 1}", "property name"),
    "no-utf-8": (b'{"\xff": 1}', "utf-8"),
    "nested": (b"[" * 100_000, "nested less deeply"),
    "long-integer": (b'{"w": ' + b"1" * 5000 + b"}", "4300 digits"),
    "float-too-large": (b'{"w": 1e999}', "expected numbers that a float can hold, got 1e999"),
    "record-float-too-large": (record('{"format": 2, "arguments": {"a": -1e999}}'), "got -1e999"),
    "constant": (b'{"w": NaN}', "expected numbers of JSON, got NaN"),
    "name-twice": (b"{" + TWICE + b", " + TWICE + b"}", "expected each name once, got 'w' again"),
    "metadata-no-object": ({"__metadata__": [1]}, "__metadata__: expected dict, got "),
    "no-metadata": ({"w": {}}, "without the constructor's arguments under 'clstm'"),
    "record-no-text": ({"__metadata__": {"clstm": {}}}, "clstm: expected str, got {}"),
    "record-no-object": (record("[1]"), r"arguments: expected a mapping from names to arrays, got \[1\]"),
    "record-nested": (record("[" * 100_000), "nested less deeply"),
    "record-name-twice": (record('{"format": 2, "format": 2}'), "expected each name once"),
    "record-short": (record({"format": 2}), "metadata: expected exactly format, .*; missing: version"),
    "record-arguments": (record({"format": 2, "version": "", "class": "", "arguments": [], "checksum": ""}),
        "arguments: expected dict, got "),
    "arguments-nested": (record({"format": 2, "version": "", "class": "", "checksum": "",
        "arguments": {"a": json.loads("[" * 32 + "]" * 32)}}), "arguments: expected at most 32 levels"),
    "format-1-short": (record({"input_size": 3}), "arguments: expected exactly input_size, .*missing: hid"),
    "format-1-long": (record({f"name_{k}" + "x" * 100: 1 for k in range(10_000)}), " and 9980 more$"),
    "format-0": (record({"format": 0}), "format: expected at least 2, got 0"),
    "format-text": (record({"format": "2"}), "format: expected an integer, got '2'"),
    "format-3": (record(NEWER), "format 3, written by clstm 0.9.0; this version reads up to 2$"),
    "format-3-of-anything": (record(NEWER | {"version": [1]}), "format 3, written by an unknown version; "),
    "format-3-int8": (table(dtype="I8", shape=[8]) | record(NEWER), "format 3, "),
    "format-huge": (record({"format": 10**4000, "version": "x" * 10**6}),
        r"format 10+\.\.\., written by clstm x+\.\.\.;"),
    "entry-no-object": ({"__metadata__": METADATA, "w": 1}, "'w': expected dtype, shape and data_"),
    "entry-with-more": (table(more=1), "'w': expected dtype, shape and data_offsets, got "),
    "float16": (table(dtype="F16", shape=[4]), "'w': dtype: expected one of 'F32', .*, 'I8', got 'F16'"),
    "bytes": (table(dtype="U8", shape=[8]), "'w': dtype: expected one of 'F32', .*, 'I8', got 'U8'"),
    "int64": (table(dtype="I64"), "'w': dtype: expected one of 'F32', .*, 'I8', got 'I64'"),
    "dtype-list": (table(dtype=["F64"]), r"'w': dtype: expected one of .*, got \['F64'\]"),
    "shape-float": (table(shape=[1.0]), r"'w': expected a shape, got \[1.0\]"),
    "shape-bool": (table(shape=[True]), r"'w': expected a shape, got \[True\]"),
    "shape-negative": (table(shape=[-1]), r"'w': expected a shape, got \[-1\]"),
    "shape-long": (table(shape=[1] * 33), "'w': expected a shape, got "),
    "shape-large": (table(shape=[1 << 62, 1 << 62]), "'w': expected 170141183460469231731687303715.* bytes"),
    "offsets-three": (table(data_offsets=[0, 8, 8]), "'w': expected two offsets, got "),
    "offsets-reversed": (table(data_offsets=[8, 0]), "'w': expected 8 bytes for its shape, got -8"),
    "gap": (table(data_offsets=[8, 16]), "expected a tensor at byte 0 of the data, got one at byte 8"),
    "overlap": (table() | {"v": table()["w"]}, "expected a tensor at byte 8 of the data, got one at byte 0"),
    "more-data-than-told": ({"__metadata__": METADATA}, "expected 0 bytes of data, got 8"),
    "less-data-than-told": (table(shape=[2], data_offsets=[0, 16]), "expected 16 bytes of data, got 8"),
    "name-long": ({"__metadata__": METADATA, "x" * 10**6: 1}, r"'x+\.\.\.: expected dtype"),
    "name-no-text": (table() | {"\ud800": table(shape=[0], data_offsets=[0, 0])["w"]}, "not a safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_file_that_is_ill_formed_is_refused_with_path_and_reason(tmp_path, kind):
    header, reason = HEADERS[kind]
    (tmp_path / "bad").write_bytes(joined(header, b"\0" * 8))
    refused(tmp_path / "bad", reason)


def test_header_of_any_length_is_not_read(tmp_path):
    with open(tmp_path / "long", "wb") as file:
        file.write((1 << 30).to_bytes(8, "little"))
        file.truncate(1 << 31)
    refused(tmp_path / "long", "header: expected at most 16777216 bytes, got 1073741824")
    (tmp_path / "short").write_bytes((1 << 62).to_bytes(8, "little"))
    refused(tmp_path / "short", "8 bytes, too few for its header")


def test_shapes_are_known_before_any_data_is_read(tmp_path, monkeypatch):
    n = 1 << 28
    path = tmp_path / "sparse"
    path.write_bytes(joined(table(shape=[n], data_offsets=[0, 8 * n])))
    os.truncate(path, path.stat().st_size + 8 * n)
    asked, plain = [], files._read
    monkeypatch.setattr(files, "_read", lambda file, size: (asked.append(size), plain(file, size))[1])
    assert files.read(path).shapes == {"w": (n,)}
    assert sum(asked) < 1000


# ------------------------------------------------------------------------------------- what is no plain file


@pytest.mark.parametrize("name", ["missing", "folder", "missing/a", ""])
def test_what_cannot_be_opened_is_an_os_error(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    with pytest.raises(OSError, match=re.escape(repr(name))) as caught:
        files.read(name)
    assert caught.value.filename == name


@posix
@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_fifo_or_device_is_refused_at_once(tmp_path, kind):
    path = "/dev/zero"
    if kind == "fifo":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
    code = """
import sys
from clstm import files
try:
    files.read(sys.argv[1])
except files.FileFormatError as error:
    print(error)
"""
    result = run_python(code, path, timeout=20)
    assert result.stdout == f"{path}: expected a regular file, got a FIFO or a device\n", result.stderr


@posix
def test_file_that_is_truncated_while_it_is_read_harms_nobody(tmp_path):
    """A mapped file ended the process by SIGBUS, with the first of these at the latest."""
    path = tmp_path / "a"
    write(path, {"w": np.ones((1000, 500))})
    code = """
import os, sys
from clstm import files
path = sys.argv[1]
whole = open(path, "rb").read()
for length in (0, 8, 100, 4096, len(whole) - 1):
    contents = files.read(path)
    os.truncate(path, length)
    try:
        contents.tensors()
    except files.FileFormatError as error:
        assert str(error) == f"{path}: changed while it was read", error
    else:
        raise AssertionError(length)
    open(path, "wb").write(whole)
"""
    result = run_python(code, str(path))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("case", ["format-1", "format-2"])
def test_file_that_is_overwritten_in_place_is_never_a_mixture(tmp_path, case):
    path = tmp_path / "a"
    if case == "format-1":
        path.write_bytes(golden_file("plain").read_bytes())
    else:
        write(path)
    contents = files.read(path)
    with open(path, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x55")
    os.utime(path, ns=(0, 0))  # the clock of some file systems is coarse
    with pytest.raises(FileFormatError, match=r"changed while it was read$"):
        contents.tensors()


@posix
def test_file_that_is_replaced_after_its_header_was_read_stays_the_one_it_was(tmp_path):
    path = tmp_path / "a"
    write(path, {"w": np.zeros(5)})
    contents = files.read(path)
    write(path, {"w": np.ones(5)})
    assert_same_bits(contents.tensors()["w"], np.zeros(5))
    assert_same_bits(files.read(path).tensors()["w"], np.ones(5))


@posix
def test_reading_leaves_no_file_open(tmp_path):
    write(tmp_path / "a")
    (tmp_path / "bad").write_bytes(b"x" * 100)
    before = os.listdir("/dev/fd")
    for _ in range(3):
        files.read(tmp_path / "a").tensors()
        with pytest.raises(FileFormatError):
            files.read(tmp_path / "bad")
    assert len(os.listdir("/dev/fd")) == len(before)


# ------------------------------------------------------------------------------------------------- writing


def test_writing_replaces_an_old_file_and_leaves_nothing_else(tmp_path):
    write(tmp_path / "a", {"w": np.zeros(5)})
    write(tmp_path / "a")
    assert_same_bits(files.read(tmp_path / "a").tensors()["weight"], TENSORS["weight"])
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_writing_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, failing):
    write(tmp_path / "a")
    content = (tmp_path / "a").read_bytes()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space left") as caught:
            write(tmp_path / "a", {"w": np.zeros(5)})
    assert caught.value.filename == str(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == content
    assert os.listdir(tmp_path) == ["a"]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_existing_file_keeps_its_mode(tmp_path, mode):
    write(tmp_path / "a")
    os.chmod(tmp_path / "a", mode)
    write(tmp_path / "a", {"w": np.zeros(5)})
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode
    assert_same_bits(files.read(tmp_path / "a").tensors()["w"], np.zeros(5))


@posix
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_new_file_has_the_mode_of_any_new_file(tmp_path, umask):
    """The umask is that of the process: it is set in another one, and to set it there too is refused."""
    code = """
import os, sys
import numpy as np
from clstm import files
os.umask(int(sys.argv[2]))
os.umask = None
files.write(sys.argv[1], "Dense", {}, {"w": np.zeros(2)}, "0.2.0")
print(os.stat(sys.argv[1]).st_mode & 0o777)
"""
    result = run_python(code, str(tmp_path / "a"), str(umask))
    assert (result.stdout, result.stderr) == (f"{0o666 & ~umask}\n", "")


@posix
@pytest.mark.parametrize("exists", [True, False], ids=["to-a-file", "to-nothing"])
def test_symbolic_link_stays_one_and_what_it_points_to_is_replaced(tmp_path, exists):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    if exists:
        write(target, {"w": np.zeros(5)})
    link.symlink_to(Path("there") / "target")
    write(link)
    assert link.is_symlink()
    assert_same_bits(files.read(target).tensors()["weight"], TENSORS["weight"])
    assert sorted(os.listdir(tmp_path)) == ["link", "there"]
    assert os.listdir(tmp_path / "there") == ["target"]


def test_name_may_be_as_long_as_open_takes_it(tmp_path):
    path = tmp_path / ("n" * 250)
    path.write_bytes(b"")
    write(path)
    assert_same_bits(files.read(path).tensors()["weight"], TENSORS["weight"])


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("missing/a", FileNotFoundError),
        ("folder", IsADirectoryError),
        ("folder/", IsADirectoryError),
        ("new/", IsADirectoryError),
        ("", FileNotFoundError),
        ("file/a", NotADirectoryError),
        pytest.param("loop", OSError, marks=posix),
        pytest.param("fifo", OSError, marks=posix),
        pytest.param("/dev/null", OSError, marks=posix),
    ],
)
def test_what_cannot_be_written_is_an_os_error_with_the_path_that_was_given(
    tmp_path, monkeypatch, name, error
):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    Path("file").touch()
    if os.name == "posix":
        os.symlink("loop", "loop")
        os.mkfifo("fifo")
    before = sorted(os.listdir())
    with pytest.raises(error) as caught:
        write(name)
    assert caught.value.filename == name
    assert repr(name) in str(caught.value)
    assert sorted(os.listdir()) == before
    assert os.name != "posix" or stat.S_ISCHR(os.stat("/dev/null").st_mode)


# --------------------------------------------------------------------------------- what killed writers leave

WRITER = """
import os, sys, time
import numpy as np
from clstm import files
def wait(*_names):
    print("here", flush=True)
    time.sleep(60)
os.replace = wait
files.write(sys.argv[1], "Dense", {}, {"w": np.zeros(1000)}, "0.2.0")
"""


@posix
def test_next_writer_sweeps_what_a_killed_one_left(tmp_path):
    path = tmp_path / "a"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    with writer:
        assert writer.stdout.readline() == b"here\n"
        write(tmp_path / "b")
        assert len(os.listdir(tmp_path)) == 2  # a live writer's file stays
        writer.send_signal(signal.SIGKILL)
    assert len(os.listdir(tmp_path)) == 2
    write(tmp_path / "b")
    assert os.listdir(tmp_path) == ["b"]


@posix
def test_only_leftovers_are_swept(tmp_path):
    kept = [".clstm-.tmp", ".clstm-0123456789abcdef.tmp.gz", "a.tmp", "aclstm-0123456789abcdef.tmp", "old"]
    for name in [*kept, ".clstm-0123456789abcdef.tmp"]:
        (tmp_path / name).touch()
    (tmp_path / ".clstm-0000000000000000.tmp").symlink_to("old")
    (tmp_path / ".clstm-1111111111111111.tmp").mkdir()
    write(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [*kept, "a", ".clstm-0000000000000000.tmp", ".clstm-1111111111111111.tmp"]
    )


@posix
def test_writer_whose_file_is_swept_before_it_has_its_lock_makes_another(tmp_path, monkeypatch):
    swept, lock = [], files._lock

    def sweep_first(descriptor):
        if len(swept) < 3:
            swept.append(os.listdir(tmp_path))
            files._sweep(tmp_path)
        return lock(descriptor)

    monkeypatch.setattr(files, "_lock", sweep_first)
    write(tmp_path / "a")
    assert [len(names) for names in swept] == [1, 1, 1]
    assert os.listdir(tmp_path) == ["a"]


@posix
def test_writers_at_the_same_time_do_not_disturb_each_other(tmp_path):
    errors = []

    def work(n):
        try:
            for _ in range(20):
                write(tmp_path / "shared", {"w": np.full(1000, float(n))})
                w = files.read(tmp_path / "shared").tensors()["w"]
                assert (w == w[0]).all()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert os.listdir(tmp_path) == ["shared"]
