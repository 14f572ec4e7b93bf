"""Pickles as data: what checkpoints hold is read, everything else is refused, nothing is ever called."""

import argparse
import collections
import contextlib
import datetime
import os
import pathlib
import pickle
import random
import struct
import subprocess

import numpy as np
import pytest
from conftest import assert_refused, assert_same_bits
from hypothesis import given
from hypothesis import strategies as st

from clstm import FileFormatError
from clstm.interop import pickled

PROTOCOLS = (2, 3, 4, 5)
P = b"\x80\x02"


def read(path):
    return pickled.read(path, path.read_bytes())


def value_of(content):
    return pickled.read("text", content).value


def assert_pickle_refused(tmp_path, content, match=None):
    (tmp_path / "a").write_bytes(content)
    return assert_refused(read, tmp_path / "a", match)


# -------------------------------------------------------------------------------------- what checkpoints hold


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_values_are_those_that_pickle_reads(protocol):
    shared = ["x", 1.5]
    value = {
        "numbers": [0, 1, 255, 256, 65536, -1, 2**31, -(2**70), 1.5, -0.0, float("inf"), True, False, None],
        "text": ["", "a", "ä" * 300, "\U0001f600", "\ud800"],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "ordered": collections.OrderedDict([("b", 1), ("a", {})]),
        "default": collections.defaultdict(list, {"k": [1]}),
        "shared": [shared, shared],
        7: "seven",
        "many": list(range(2500)),
    }
    read = value_of(pickle.dumps(value, protocol))
    assert read == value
    assert list(read["ordered"]) == ["b", "a"]
    assert read["shared"][0] is read["shared"][1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (4, 1, 3)])
def test_arrays_of_numpy_are_read_bit_for_bit(protocol, dtype, shape):
    array = np.empty(shape, dtype)
    array[...] = np.random.default_rng(0).standard_normal(shape)
    for each in (array, array.copy(order="F")):
        got = value_of(pickle.dumps({"a": each}, protocol))["a"]
        assert got.shape == shape
        assert_same_bits(got.read(), array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_scalars_of_numpy_are_read(protocol):
    assert value_of(pickle.dumps(np.float32(1.5), protocol)).read() == 1.5


@pytest.mark.parametrize("dtype", ["i8", "bool", "O", "c16", "U3", [("x", "f4")], "M8[s]", "V8"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_other_dtypes_may_stand_beside_and_are_not_read(protocol, dtype):
    held = value_of(pickle.dumps([np.zeros(3, dtype), np.ones(2)], protocol))
    assert_same_bits(held[1].read(), np.ones(2))
    with pytest.raises(ValueError, match="expected an array of floating-point numbers, got dtype"):
        held[0].read()


def test_both_names_of_numpys_core_are_known():
    content = pickle.dumps(np.ones(2, np.float32), 2)
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert {b"numpy._core" in content, b"numpy._core" in old} == {True, False} or content == old
    assert_same_bits(value_of(old).read(), np.ones(2, np.float32))


def test_strings_of_python_2_are_text_or_the_bytes_of_an_array():
    state = (
        b"K\x01K\x02\x85"
        + b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffK\x00K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    content = (
        P + b"}U\x01k" + array + b"(" + state + b"\x89U\x08" + np.array([1.5, -2], "<f4").tobytes() + b"tbs."
    )
    assert_same_bits(value_of(content)["k"].read(), np.array([1.5, -2], np.float32))


class Thing:
    """Of which a pickle says more than is needed."""

    def __init__(self):
        self.x = 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_objects_are_kept_as_names_and_nobody_makes_them(protocol, monkeypatch):
    kept = {
        "namespace": argparse.Namespace(a=1),
        "path": pathlib.PurePosixPath("a/b"),
        "day": datetime.datetime(2020, 1, 1),
        "counter": collections.Counter("ab"),
        "set": {1, 2},
        "thing": Thing(),
        "class": Thing,
        "after": 3,
    }
    content = pickle.dumps(kept, protocol)
    monkeypatch.setattr(Thing, "__setstate__", lambda *_: pytest.fail("was called"), raising=False)
    read = pickled.read("text", content)
    assert read.value["after"] == 3
    assert read.value["namespace"].name == "argparse.Namespace"
    assert read.value["namespace"].state == {"a": 1}
    assert read.value["thing"].state == {"x": 1}
    assert read.value["class"] == pickled.Global(f"{Thing.__module__}.Thing")
    assert {made.name for made in read.objects} >= {"argparse.Namespace", f"{Thing.__module__}.Thing"}


def test_end_of_a_pickle_is_told():
    first, second = pickle.dumps([1]), pickle.dumps({"a": 2}, 2)
    content = first + second + b"rest"
    assert pickled.read("text", content)[:2] == ([1], len(first))
    assert pickled.read("text", content, len(first))[:2] == ({"a": 2}, len(first + second))


# --------------------------------------------------------------------------------------- what calls something


class Call:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


CALLS = {
    "os.system": (os.system, "touch {}"),
    "eval": (eval, "open({!r}, 'w')"),
    "exec": (exec, "open({!r}, 'w')"),
    "open": (open, "{}", "w"),
    "getattr": (getattr, "a", "upper"),
    "Popen": (subprocess.Popen, ["touch", "{}"]),
    "import": (__import__, "antigravity"),
    "loads": (pickle.loads, b"N."),
    "Random": (random.Random, 1),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("call", CALLS)
def test_calls_are_refused_by_name_and_not_done(tmp_path, call, protocol):
    target = tmp_path / "made"
    function, *arguments = CALLS[call]
    filled = [text.format(str(target)) if isinstance(text, str) else text for text in arguments]
    content = pickle.dumps({"a": 1, "b": Call(function, *filled)}, protocol)
    assert_pickle_refused(
        tmp_path, content, rf"would call \S*{function.__name__}, which is not done; save the"
    )
    assert not target.exists()


@pytest.mark.parametrize("rest", [b")R.", b"}b.", b"(K\1e."], ids=["call", "state", "items"])
def test_names_are_shown_in_short_and_as_text(rest):
    name = b"\x1b[2J" + b"x" * 500
    content = b"\x80\4\x8c\2os\x8d" + len(name).to_bytes(8, "little") + name + b"\x93" + rest
    with pytest.raises(FileFormatError, match=r"os\.\\x1b\[2Jx+\.\.\.") as caught:
        pickled.read("a", content)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n(U\x04truetR.",
        b"(cos\nsystem\nU\x04trueo.",
        b"(U\x04trueios\nsystem\n.",
        b"\x82\x01.",
        b"Pid\n.",
        b"NQ.",
        b"]cos\nsystem\n)Rb.",
        b"cos\nsystem\nN\x85R)R.",
        b"cnumpy._core.multiarray\n_reconstruct\ncos\nsystem\n\x85b.",
        b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
    ],
)
@pytest.mark.parametrize("head", [b"", P, b"\x80\x04"])
def test_other_ways_to_call_are_refused(tmp_path, content, head):
    assert_pickle_refused(tmp_path, head + content)


# ----------------------------------------------------------------------------------------------- hostile ones

N, M = 390_000, 410_000  # opcodes below and above what is taken
BOMBS = {
    "lists": b"]" * N,
    "dicts": b"}" * N,
    "sets": b"\x8f" * N,
    "nested lists": b"]" * N + b"a" * (N - 1) + b".",
    "nested tuples": b")" + b"\x85" * M + b".",
    "memo": b"N" + b"\x94" * M,
    "lists in the memo": b"]\x94" * N,
    "small dicts": b"}NNs" * N,
    "copies": b"]" + b"2" * M,
    "marks": b"(" * M,
    "objects": b"ca\nb\nq\x00" + b"h\x00)\x81" * N,
    "names": b"ca\nb\n" * N,
    "strings": b"U\x02ab" * M,
    "numbers": b"M\xff\xff" * M,
    "bytes": b"C\x00" * M,
    "arrays": b"cnumpy._core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\n\x85q\x01" + b"h\x00h\x01R" * N,
    "one text encoded often": b"c_codecs\nencode\nq\x00X\x80\x84\x1e\x00" + b"a" * 2_000_000
    + b"U\x06latin1\x86q\x01" + b"h\x00h\x01R0" * N,
    "one list made a dict often": b"ccollections\nOrderedDict\nq\x00]("
    + b"".join(b"U\x04%04dN\x86" % i for i in range(1000)) + b"e\x85q\x01" + b"h\x00h\x01R0" * N,
    "one wide character": b"X\x00\x00\x80\x01" + b"a" * (0x1800000 - 4) + "\U0001f600".encode() + b".",
    "long text": b"X\xff\xff\xff\xff" + b"a" * 100,
    "longer text": b"\x8d" + b"\xff" * 8 + b"a" * 100,
    "long bytes": b"\x8e" + b"\xff" * 8,
    "long array of bytes": b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f",
    "long integer": b"\x8b\xff\xff\xff\x7f" + b"a" * 100,
    "long integer that is there": b"\x8b\x00\x00\x10\x00" + b"a" * (1 << 20) + b".",
    "frame": b"\x95" + b"\xff" * 8 + b"N.",
    "frames": (b"\x95" + b"\0" * 8) * M,
    "number of the memo": b"h\x07.",
    "large number of the memo": b"Nr\xff\xff\xff\xffj\xfe\xff\xff\xff.",
    "no end of a line": b"c" + b"a" * N,
    "empty stack": b"0.",
    "stack below a mark": b"N(0.",
    "no mark": b"Nt.",
    "nothing": b"",
    "only an end": b".",
    "two objects": b"NN.",
    "mark at the end": b"(N.",
    "odd items": b"}(Nu.",
    "items of a number": b"K\x01(NNu.",
    "append to a tuple": b")Na.",
    "state of a list": b"]Nb.",
    "key twice": b"}(U\x01aNU\x01aNu.",
    "key twice, one by one": b"}U\x01aNsU\x01aNs.",
    "no utf-8": b"X\x01\x00\x00\x00\xff.",
    "protocol 6": b"\x80\x06N.",
    "buffers out of the pickle": b"\x97.",
    "class that is none": b"NN\x81.",
    "array without a shape": b"cnumpy._core.numeric\n_frombuffer\n(C\x00NNU\x01Ct" + b"R.",
    "array with negative sizes": b"cnumpy._core.numeric\n_frombuffer\n(C\x00cnumpy\ndtype\nU\x02f4\x85R"
    b"J\xff\xff\xff\xff\x85U\x01CtR.",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_soon_and_cost_little(tmp_path, bomb):
    assert_pickle_refused(tmp_path, P + BOMBS[bomb])


def test_large_numbers_of_the_memo_cost_nothing():
    assert value_of(P + b"Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.") is None


def test_keys_that_are_chosen_to_collide_or_nested_are_not_hashed():
    numbers = b"".join(
        b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(1, 60_000)
    )
    assert len(value_of(P + b"}(" + numbers + b"u.")) == 59_999
    assert len(value_of(P + b"})" + b"\x85" * 300_000 + b"Ns.")) == 1


def test_array_that_is_not_as_long_as_it_says_is_refused():
    content = pickle.dumps(np.ones(3), 3)
    for changed in (content.replace(b"K\x03\x85", b"K\x04\x85"), content.replace(b"K\x03\x85", b"K\x02\x85")):
        assert changed != content
        with pytest.raises(ValueError, match="bytes for an array of shape"):
            value_of(changed).read()


CHECKPOINT = {
    "epoch": 3,
    "args": argparse.Namespace(lr=0.1, path=pathlib.PurePosixPath("a")),
    "weights": collections.OrderedDict(a=np.arange(6.0, dtype=np.float32).reshape(2, 3), b=np.float64(2)),
    "names": ["x", ("y", None, True), {1, 2}],
}


def survives(content):
    """Whether a pickle and the arrays in its dict can be read; no errors but those of files and arrays."""
    try:
        held = value_of(content)
    except FileFormatError:
        return False
    weights = held.get("weights") if isinstance(held, dict) else None
    for array in weights.values() if isinstance(weights, dict) else ():
        if isinstance(array, pickled.PickledArray):
            try:
                array.read()
            except ValueError:
                return False
    return True


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damaged_pickles_end_in_the_one_error_or_are_read(protocol):
    content = pickle.dumps(CHECKPOINT, protocol)
    assert survives(content)
    for end in range(len(content)):
        assert not survives(content[:end]), end
    flipped = set()
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            flipped.add(survives(bytes(changed)))
    assert flipped == {False, True}


OPCODES = [struct.pack("B", code) for code in pickled._OPERATIONS] + [b".", b"U\x01a", b"K\x01", b"ca\nb\n"]


@given(st.lists(st.sampled_from(OPCODES), max_size=40), st.binary(max_size=20))
def test_any_row_of_opcodes_is_read_or_refused(codes, rest):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pickled, "_MOST_MEMORY", 10_000)
        with contextlib.suppress(FileFormatError):
            pickled.read("text", P + b"".join(codes) + rest)
