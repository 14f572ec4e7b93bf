"""Checkpoints: trees there and back bit for bit, hostile files, generators, a folder that is never empty."""

import errno
import json
import logging
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import run_python
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from training_runs import form

import clstm
from clstm import FileFormatError, files
from clstm.nn import checkpoints
from clstm.nn.checkpoints import CheckpointFolder, generator_state, make_generator, pack, unpack

posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")

DTYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64",
]  # fmt: skip
SIGNALLING = struct.unpack(">d", bytes.fromhex("fff0000000000123"))[0]


def there_and_back(tree, path):
    arguments, tensors = pack(tree)
    files.write(path, "Checkpoint", arguments, tensors, "0.0.0")
    contents = files.read(path)
    return unpack(contents.arguments, contents.tensors())


def names_in(folder):
    return sorted(os.listdir(folder))


def name_of(number):
    return f"checkpoint-{number:012d}.safetensors"


# ---------------------------------------------------------------------------------------------------- trees

TREE = {
    "none": None,
    "texts": ["", "ä\ud800\0", "$"],
    "flags": [True, False],
    "integers": [0, -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**127 + 1, -(10**5000)],
    "floats": [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, np.inf, -np.inf, np.nan, -np.nan, SIGNALLING],
    "tuple": (1, (2.0, ()), [None]),
    "": {"empty": {}, "list": []},
    "$": {"$": "array", "$$int": {"$": 1}, "dtype": "int8"},
    "a/b": {"a": {"b": np.arange(3)}},
    "arrays": [
        np.arange(6.0).reshape(2, 3).T,
        np.array(2.5, np.float32),
        np.zeros((0, 4), np.int16),
        np.array([np.nan, -np.nan, np.inf, SIGNALLING, -0.0]),
        np.array([0x7F800001, 0xFFC01234], np.uint32).view(np.float32),
        np.arange(24)[::-2],
        np.array([-(2**63), 2**63 - 1]),
        np.array([2**64 - 1, 0], np.uint64),
        np.array([[True], [False]]),
    ],
    "scalars": [np.float32(0.1), np.float64(np.nan), np.int8(-128), np.uint64(2**64 - 1), np.bool_(True)],
}


def test_tree_comes_back_from_a_file_bit_for_bit(tmp_path):
    assert form(there_and_back(TREE, tmp_path / "a")) == form(TREE)


@pytest.mark.parametrize("dtype", DTYPES)
def test_array_of_any_dtype_comes_back_bit_for_bit(tmp_path, dtype):
    raw = np.random.default_rng(0).integers(0, 256, 64, np.uint8)
    values = raw % 2 == 0 if dtype == "bool" else raw.view(dtype)
    tree = [values.reshape(4, -1), values[::3], values[0], values[:0]]
    if dtype not in ("bool", "float32", "float64"):
        limits = np.iinfo(dtype)
        tree.append(np.array([limits.min, limits.max], dtype))
    got = there_and_back(tree, tmp_path / "a")
    assert form(got) == form(tree)
    assert got[0].flags.writeable
    assert not np.shares_memory(got[0], values)


ANY_ARRAY = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, min_side=0, max_side=3))
)
ANY_TREE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text("$ab", max_size=3) | ANY_ARRAY,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text("$ab", max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(ANY_TREE)
def test_any_tree_comes_back_through_json(tree):
    arguments, tensors = pack(tree)
    assert all(value.dtype in (np.float32, np.float64) for value in tensors.values())
    plain = json.loads(json.dumps(arguments, allow_nan=False))
    assert form(unpack(plain, tensors)) == form(tree)


class Mine(dict):
    pass


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1}, "expected a dict, list, tuple, string, number, boolean, None or array, got {1}"),
        (b"a", "expected a dict, .*, got b'a'"),
        (1j, "expected a dict, .*, got 1j"),
        (print, "expected a dict, .*, got <built-in function print>"),
        (Mine(), "expected a dict, .*, got {}"),
        ({1: 2}, r"\[1\]: expected text as a name, got 1"),
        (np.ones(2, np.float16), "expected a plain array of booleans, .*, got ndarray of dtype float16"),
        (np.ones(2, ">f8" if np.little_endian else "<f8"), "expected a plain array of booleans"),
        (np.array(["a"]), "expected a plain array of booleans"),
        (np.array([None]), "expected a plain array of booleans, .*, got ndarray of dtype object"),
        (np.ma.zeros(2), "expected a plain array of booleans, .*, got MaskedArray of dtype float64"),
        (np.longdouble(1), "expected a plain array of booleans"),
        (np.datetime64("2020-01-01"), "expected a plain array of booleans"),
    ],
    ids=str,
)
def test_what_no_file_holds_is_refused_with_its_place(value, message):
    with pytest.raises(TypeError, match=rf"^tree\['of'\]\[1\].*{message}"):
        pack({"of": [0, value]})


@pytest.mark.parametrize(
    ("wrap", "levels"),
    [(lambda v: [v], 24), (lambda v: {"a": v}, 24), (lambda v: (v,), 12)],
    ids=["list", "dict", "tuple"],
)
def test_deepest_tree_fits_into_a_file_and_a_deeper_one_is_refused(tmp_path, wrap, levels):
    deep = np.ones(2)
    for _ in range(levels):
        deep = wrap(deep)
    assert form(there_and_back(deep, tmp_path / "a")) == form(deep)
    with pytest.raises(ValueError, match=r": expected at most 24 levels of dicts and lists, got more$"):
        pack(wrap(deep))


def test_tree_without_an_end_is_refused():
    endless = {}
    endless["a"] = [endless]
    with pytest.raises(ValueError, match="expected at most 24 levels of dicts and lists, got more"):
        pack(endless)


# -------------------------------------------------------------------------------------------- hostile files

VALUE = np.array([1.0, 2.0])
WIDE = VALUE.view(np.int64)  # numbers that fit into 64 bits alone
POINTER = {"$": "array", "dtype": "float64", "tensor": "0"}
HOSTILE = {
    "no-tree": ({"tree": 1, "more": 2}, {}, "arguments: expected exactly update, best, tree; missing: none"),
    "kind": ({"$": "object"}, {}, r"tree\['\$'\]: expected one of 'int', .*, got 'object'"),
    "kind-no-text": ({"$": ["int"]}, {}, r"tree\['\$'\]: expected one of 'int', .*, got \['int'\]"),
    "kind-null": ({"$": None}, {}, r"tree\['\$'\]: expected one of"),
    "name": ({"a": {"$b": 1}}, {}, r"tree\['a'\]: expected no name that begins so, got '\$b'"),
    "mark-with-more": (POINTER | {"a": 1}, {"0": VALUE}, "tree: expected exactly .*; unexpected: a"),
    "mark-with-less": ({"$": "int"}, {}, r"tree: expected exactly \$, hex; missing: hex"),
    "int": ({"$": "int", "hex": "0x"}, {}, "tree: expected int as hexadecimal digits, got '0x'"),
    "int-underscore": ({"$": "int", "hex": "0x1_0"}, {}, "tree: expected int as hexadecimal digits"),
    "int-line": ({"$": "int", "hex": "0x1\n"}, {}, "tree: expected int as hexadecimal digits"),
    "int-number": ({"$": "int", "hex": 3}, {}, "tree: expected int as hexadecimal digits, got 3"),
    "float": ({"$": "float", "hex": "nan"}, {}, "tree: expected float as hexadecimal digits, got 'nan'"),
    "float-spaces": ({"$": "float", "hex": "7ff0 0000 000 00"}, {}, "tree: expected float as hex"),
    "float-null": ({"$": "float", "hex": None}, {}, "tree: expected float as hex.*, got None"),
    "tuple": ({"$": "tuple", "items": {"a": 1}}, {}, "tree: expected list, got {'a': 1}"),
    "tensor-missing": (POINTER, {}, "tree: expected the name of a tensor .*, got '0'"),
    "tensor-number": (POINTER | {"tensor": 0}, {"0": VALUE}, "expected the name of a tensor .*, got 0"),
    "tensor-list": (POINTER | {"tensor": ["0"]}, {"0": VALUE}, r"expected the name of a tensor .*, got \['0"),
    "tensor-twice": ([POINTER, POINTER], {"0": VALUE}, r"tree\[1\]: expected the name of a tensor that "),
    "tensor-over": (POINTER, {"0": VALUE, "x": VALUE}, "expected each in one place of the tree; in none: x"),
    "dtype": (POINTER | {"dtype": "object"}, {"0": VALUE}, "tree: dtype: expected one of .*, got 'object'"),
    "dtype-fields": (POINTER | {"dtype": "f8,f8"}, {"0": VALUE}, "tree: dtype: expected one of"),
    "dtype-list": (POINTER | {"dtype": []}, {"0": VALUE}, r"tree: dtype: expected one of .*, got \[\]"),
    "float32": (POINTER | {"dtype": "float32"}, {"0": VALUE}, "expected a tensor of dtype float32 for"),
    "single-for-int": (POINTER | {"dtype": "int64"}, {"0": VALUE.astype("f4")},
        "expected a tensor of dtype float64 for int64, got float32"),
    "bool": (POINTER | {"dtype": "bool"}, {"0": np.array([0, 2]).view("f8")},
        "expected integers that bool can hold, got others"),
    "int8": (POINTER | {"dtype": "int8"}, {"0": np.array([0, 128]).view("f8")},
        "expected integers that int8 can hold, got others"),
    "uint32": (POINTER | {"dtype": "uint32"}, {"0": np.array([-1]).view("f8")},
        "expected integers that uint32 can hold, got others"),
    "int32": (POINTER | {"dtype": "int32"}, {"0": VALUE}, "expected integers that int32 can hold"),
    "scalar": (POINTER | {"$": "scalar"}, {"0": VALUE}, r"tree: expected shape \(\), got \(2,\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_checkpoint_is_refused_with_path_and_reason(tmp_path, kind):
    tree, tensors, reason = HOSTILE[kind]
    arguments = {"update": 1, "best": False}
    arguments |= tree if kind == "no-tree" else {"tree": tree}
    path = tmp_path / name_of(1)
    files.write(path, "Checkpoint", arguments, tensors, "0.0.0")
    with pytest.raises(FileFormatError, match=rf"{re.escape(str(path))}: .*{reason}") as caught:
        CheckpointFolder(tmp_path, 2).newest()
    assert len(str(caught.value)) < 2 * len(str(tmp_path)) + 500


@pytest.mark.parametrize(
    ("class_name", "changed", "reason"),
    [
        ("LSTM", {}, "expected a file of class Checkpoint, got 'LSTM'"),
        ("Checkpoint", {"update": 2}, "update: expected 1, as its name says, got 2"),
        ("Checkpoint", {"update": "1"}, "update: expected 1, as its name says, got '1'"),
        ("Checkpoint", {"best": 1}, "best: expected True or False, got 1"),
    ],
)
def test_checkpoint_that_is_not_what_its_name_says_is_refused(tmp_path, class_name, changed, reason):
    arguments, tensors = pack(TREE)
    arguments |= {"update": 1, "best": False} | changed
    files.write(tmp_path / name_of(1), class_name, arguments, tensors, "0.0.0")
    with pytest.raises(FileFormatError, match=f"none of 1 checkpoints can be read; the newest: .*{reason}$"):
        CheckpointFolder(tmp_path, 2).newest()


def test_load_says_what_reads_a_checkpoint(tmp_path):
    CheckpointFolder(tmp_path, 1).write(1, TREE, False)
    message = r"got a Checkpoint of a training run; clstm\.nn\.resume goes on from the folder"
    with pytest.raises(FileFormatError, match=message):
        clstm.load(tmp_path / name_of(1))


def test_every_flipped_bit_of_a_checkpoint_is_refused_or_does_no_harm(tmp_path):
    tree = {"w": np.array([0.5]), "rng": [2**70, np.nan], "k": np.array([1], np.uint32)}
    folder = CheckpointFolder(tmp_path, 1)
    folder.write(7, tree, True)
    path, expected, refused = tmp_path / name_of(7), form((tree, 7)), 0
    content = path.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        try:
            assert form(folder.newest()) == expected, place
        except FileFormatError:
            refused += 1
    assert refused > len(content) - 5


# ------------------------------------------------------------------------------------------------ generators

BIT_GENERATORS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]


def generator(name, seed=0):
    return np.random.Generator(getattr(np.random, name)(seed))


def draw(rng):
    """Draw in every way that leaves half a number or part of a buffer behind."""
    return [
        rng.integers(0, 100, 3, dtype=np.uint32).tolist(),
        rng.random(2, np.float32).tolist(),
        rng.permutation(9).tolist(),
        rng.standard_normal(5).tolist(),
    ]


@pytest.mark.parametrize("name", BIT_GENERATORS)
@pytest.mark.parametrize("before", range(6))
def test_generator_goes_on_with_the_draws_that_would_have_come(name, before, tmp_path):
    rng = generator(name)
    for _ in range(before):
        rng.integers(0, 100, dtype=np.uint32)  # leaves half of a number of 64 bits
    if before > 3:
        rng.random(1000)  # beyond a buffer
    state = there_and_back(generator_state(rng), tmp_path / "a")
    other = generator(name, seed=5)
    other.random(before)
    checkpoints.set_generator_state(other, state)
    made = make_generator(state)
    assert type(made.bit_generator) is type(rng.bit_generator)
    expected = [draw(rng) for _ in range(3)]
    assert [draw(other) for _ in range(3)] == expected
    assert [draw(made) for _ in range(3)] == expected


@pytest.mark.parametrize("name", BIT_GENERATORS)
def test_state_is_a_snapshot(name):
    rng = generator(name)
    state = generator_state(rng)
    expected = draw(rng)
    assert draw(make_generator(state)) == expected
    made = make_generator(state)
    draw(made)
    assert draw(make_generator(state)) == expected


def changed(tree, place, value):
    """Return a state with another value at a place."""
    first, *others = place
    return tree | {first: changed(tree[first], others, value) if others else value}


def bad_states():
    counters = [
        ("PCG64", ["state", "state"], 1 << 128),
        ("PCG64", ["state", "inc"], 1 << 128),
        ("PCG64DXSM", ["state", "inc"], 2),
        ("PCG64", ["has_uint32"], 2),
        ("PCG64", ["uinteger"], 1 << 32),
        ("MT19937", ["state", "pos"], 625),
        ("Philox", ["buffer_pos"], 5),
        ("SFC64", ["uinteger"], 1 << 32),
    ]
    for name, place, high in counters:
        for value in (high, -1, 1.0, "1", None, True, np.ones(1), [1], 2**5000):
            yield name, place, value
    parts = [
        ("MT19937", ["state", "key"], 624, "uint32"),
        ("Philox", ["state", "counter"], 4, "uint64"),
        ("Philox", ["state", "key"], 2, "uint64"),
        ("Philox", ["buffer"], 4, "uint64"),
        ("SFC64", ["state", "state"], 4, "uint64"),
    ]
    for name, place, size, dtype in parts:
        right = np.ones(size, dtype)
        for value in (right[:-1], np.ones(size + 1, dtype), right[None], right.astype("int64"),
                      right.astype("float64"), right.tolist(), None, right.astype(object)):  # fmt: skip
            yield name, place, value
    yield "MT19937", ["state", "key"], np.zeros(624, "uint32")
    for name in BIT_GENERATORS:
        for value in ({}, None, 3, [], {"state": 1}):
            yield name, ["state"], value
        for value in ("RandomState", "SFC65", "", None, 3, ["PCG64"], "Generator", "seed"):
            yield name, ["bit_generator"], value
        yield name, ["more"], 1


@pytest.mark.parametrize("name", BIT_GENERATORS)
def test_state_that_is_none_is_refused_and_changes_nothing(name):
    rng, tried = generator(name), 0
    before = generator_state(rng)
    wrong = [changed(before, place, value) for of, place, value in bad_states() if of == name]
    wrong += [{key: value for key, value in before.items() if key != missing} for missing in before]
    for state in [*wrong, None, [], 3, "PCG64", {}]:
        with pytest.raises(ValueError, match=r"^generator.*: expected .*got|missing"):
            make_generator(state)
        with pytest.raises(ValueError, match=r"^generator"):
            checkpoints.set_generator_state(rng, state)
        tried += 1
    assert tried > 20
    assert form(generator_state(rng)) == form(before)


def test_state_of_another_bit_generator_is_refused():
    rng = generator("PCG64")
    before = generator_state(rng)
    state = generator_state(generator("PCG64DXSM", 3))
    with pytest.raises(
        ValueError, match=r"^generator: expected the state of a PCG64, got that of a PCG64DXSM"
    ):
        checkpoints.set_generator_state(rng, state)
    assert form(generator_state(rng)) == form(before)


class Other(np.random.PCG64):
    pass


@pytest.mark.parametrize(
    "value",
    [None, 3, np.random.RandomState(0), np.random.Generator(Other(0))],
    ids=["none", "seed", "old", "subclass"],
)
def test_generator_of_another_kind_is_refused(value):
    with pytest.raises(TypeError, match=r"^generator: expected a numpy\.random\.Generator on PCG64, "):
        generator_state(value)


# ------------------------------------------------------------------------------------------------ the folder


def small(number):
    return {"weights": np.full(3, float(number)), "number": number}


def test_newest_and_best_are_kept_under_their_names(tmp_path):
    folder = CheckpointFolder(tmp_path / "run", keep=2)
    folder.begin()
    held = []
    for number, best in ((0, True), (3, False), (5, True), (6, False), (9, False), (12, False), (20, True)):
        folder.write(number, small(number), best)
        held.append(folder.numbers())
        assert form(folder.newest()) == form((small(number), number))
    assert held == [[0], [0, 3], [3, 5], [5, 6], [5, 6, 9], [5, 9, 12], [12, 20]]
    assert names_in(tmp_path / "run") == [name_of(12), name_of(20)]


def test_best_is_known_to_who_opens_the_folder_later(tmp_path):
    first = CheckpointFolder(tmp_path, keep=1)
    for number, best in ((1, True), (2, True), (3, False)):
        first.write(number, small(number), best)
    for number in (4, 5):
        CheckpointFolder(tmp_path, keep=1).write(number, small(number), False)
    assert first.numbers() == [2, 5]


def test_checkpoint_of_the_same_update_is_replaced(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=3)
    folder.write(1, small(1), True)
    folder.write(1, small(7), False)
    assert form(folder.newest()) == form((small(7), 1))


def test_numbers_may_be_longer_than_their_place(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for number in (999_999_999_999, 1_000_000_000_000, 10**18):
        folder.write(number, small(number), False)
    assert folder.numbers() == [10**12, 10**18]
    assert folder.newest()[1] == 10**18


def test_files_of_others_are_left_alone(tmp_path):
    others = [
        "a.safetensors", "checkpoint-1.safetensors", "checkpoint-0000000000001.safetensors",
        "checkpoint-00000000000a.safetensors", "checkpoint-000000000002.safetensors.old",
        "checkpoint-00000000000\u0661.safetensors", ".checkpoint-000000000003.safetensors",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).write_text("mine")
    (tmp_path / name_of(4)).mkdir()
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.begin()
    for number in range(5, 9):
        folder.write(number, small(number), False)
    assert folder.numbers() == [8]
    assert names_in(tmp_path) == sorted([*others, name_of(4), name_of(8)])
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_folder_is_created_in_a_folder_that_exists(tmp_path):
    CheckpointFolder(str(tmp_path / "run"), keep=1).begin()
    CheckpointFolder(tmp_path / "run", keep=1).begin()  # an empty one is as good
    assert names_in(tmp_path) == ["run"]
    with pytest.raises(FileNotFoundError) as caught:
        CheckpointFolder(tmp_path / "missing" / "run", keep=1).begin()
    assert caught.value.filename == str(tmp_path / "missing" / "run")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        CheckpointFolder(tmp_path / "file", keep=1).begin()


def test_new_run_in_a_folder_with_checkpoints_is_refused_and_resume_is_named(tmp_path):
    (tmp_path / name_of(3)).write_text("damaged ones count too")
    with pytest.raises(
        FileExistsError, match=r"go on from them with nn\.resume, or take another folder"
    ) as e:
        CheckpointFolder(tmp_path, keep=1).begin()
    assert e.value.filename == str(tmp_path)
    assert names_in(tmp_path) == [name_of(3)]


def test_folder_without_checkpoints_is_a_file_not_found_error(tmp_path):
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=re.escape(str(path))):
            CheckpointFolder(path, keep=1).newest()
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("keep", "error"),
    [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError)],
)
def test_number_to_keep_is_checked(tmp_path, keep, error):
    with pytest.raises(error, match=r"^keep: expected "):
        CheckpointFolder(tmp_path, keep)


@pytest.mark.parametrize(
    ("update", "best", "error", "message"),
    [
        (-1, False, ValueError, "update: expected at least 0"),
        (1.0, False, TypeError, "update: expected an integer"),
        (1, 1, TypeError, "best: expected True or False"),
    ],
)
def test_arguments_of_write_are_checked(tmp_path, update, best, error, message):
    with pytest.raises(error, match="^" + message):
        CheckpointFolder(tmp_path, 1).write(update, small(1), best)
    assert names_in(tmp_path) == []


def test_tree_that_no_file_holds_leaves_the_folder_as_it_was(tmp_path):
    folder = CheckpointFolder(tmp_path, 1)
    folder.write(1, small(1), False)
    for tree, error in (({"a": {1}}, TypeError), ({"a": "x" * (1 << 24)}, ValueError)):
        with pytest.raises(error):
            folder.write(2, tree, True)
        assert names_in(tmp_path) == [name_of(1)]


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [cut, flip, lambda path: path.write_bytes(b"")], ids=["cut", "flip", "empty"]
)
def test_damaged_checkpoint_is_passed_over_and_logged(tmp_path, damage, caplog):
    folder = CheckpointFolder(tmp_path, 3)
    for number in (1, 2, 3):
        folder.write(number, small(number), False)
    damage(tmp_path / name_of(3))
    with caplog.at_level(logging.WARNING, "clstm"):
        assert form(folder.newest()) == form((small(2), 2))
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("clstm", "WARNING")
    assert name_of(3) in record.getMessage()
    for number in (1, 2):
        damage(tmp_path / name_of(number))
    with pytest.raises(
        FileFormatError, match=r"none of 3 checkpoints can be read; the newest: .*000000000003"
    ):
        folder.newest()


def test_checkpoint_that_cannot_be_opened_is_passed_over(tmp_path, monkeypatch):
    folder, read = CheckpointFolder(tmp_path, 3), files.read
    for number in (1, 2):
        folder.write(number, small(number), False)

    def fail(path):
        if path.endswith(name_of(2)):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return read(path)

    monkeypatch.setattr(files, "read", fail)
    assert folder.newest()[1] == 1


@pytest.mark.parametrize("opened_again", [False, True])
def test_damaged_checkpoints_take_no_place_of_those_that_are_kept(tmp_path, opened_again):
    folder = CheckpointFolder(tmp_path, 2)
    for number in (1, 2):
        folder.write(number, small(number), False)
    cut(tmp_path / name_of(2))
    folder = CheckpointFolder(tmp_path, 2) if opened_again else folder
    assert folder.newest()[1] == 1
    folder.write(3, small(3), False)
    assert folder.numbers() == [1, 3]


def test_checkpoint_before_a_damaged_one_is_kept_when_it_is_written(tmp_path):
    """A run that went back goes on below the number of the file that is damaged."""
    folder = CheckpointFolder(tmp_path, 1)
    folder.write(10, small(10), False)
    cut(tmp_path / name_of(10))
    folder.write(7, small(7), False)
    assert folder.newest()[1] == 7
    folder.write(8, small(8), False)
    assert folder.numbers() == [8, 10]
    assert folder.newest()[1] == 8
    folder.write(10, small(11), False)
    assert form(folder.newest()) == form((small(11), 10))
    assert folder.numbers() == [10]


def test_folder_is_never_without_the_checkpoint_before(tmp_path, monkeypatch):
    folder, unlink, replace, seen = CheckpointFolder(tmp_path, 1), os.unlink, os.replace, []

    def watch(action):
        def watched(*paths):
            seen.append((action.__name__, CheckpointFolder(tmp_path, 1).newest()[1]))
            action(*paths)

        return watched

    folder.write(1, small(1), False)
    monkeypatch.setattr(os, "unlink", watch(unlink))
    monkeypatch.setattr(os, "replace", watch(replace))
    folder.write(2, small(2), True)
    folder.write(3, small(3), True)
    assert seen == [("replace", 1), ("unlink", 2), ("replace", 2), ("unlink", 3)]


def test_old_checkpoint_that_cannot_be_removed_ends_nothing(tmp_path, monkeypatch, caplog):
    folder = CheckpointFolder(tmp_path, 1)
    folder.write(1, small(1), False)

    def refuse(path):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)

    monkeypatch.setattr(os, "unlink", refuse)
    folder.write(2, small(2), False)
    assert "no longer needed" in caplog.text
    assert folder.numbers() == [1, 2]


# ---------------------------------------------------------------------------------- a full disk, a killed run


@pytest.mark.parametrize("failing", ["fsync", "replace", "open"])
def test_full_disk_leaves_the_checkpoints_that_were_there(tmp_path, monkeypatch, failing):
    folder = CheckpointFolder(tmp_path, 1)
    folder.write(1, small(1), False)

    def fail(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space left on device") as caught:
            folder.write(2, small(2), True)
    assert caught.value.filename == str(tmp_path / name_of(2))
    assert names_in(tmp_path) == [name_of(1)]
    assert form(folder.newest()) == form((small(1), 1))
    folder.write(2, small(2), True)  # there is room again
    assert names_in(tmp_path) == [name_of(2)]


LIMITED = """
import resource, signal, sys
import numpy as np
from clstm.nn.checkpoints import CheckpointFolder
folder = CheckpointFolder(sys.argv[1], 1)
folder.write(1, np.zeros(1000), False)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    folder.write(2, np.zeros(100_000), True)
except OSError as error:
    print(error.filename, folder.numbers(), folder.newest()[1])
"""


@posix
def test_file_that_the_system_cuts_off_is_none(tmp_path):
    result = run_python(LIMITED, str(tmp_path))
    assert (result.stdout, result.stderr) == (f"{tmp_path / name_of(2)} [1] 1\n", "")
    assert names_in(tmp_path) == [name_of(1)]


WRITER = """
import sys
import numpy as np
from clstm.nn.checkpoints import CheckpointFolder
folder = CheckpointFolder(sys.argv[1], 2)
number = folder.newest()[1] if folder.numbers() else 0
while True:
    number += 1
    tree = {"a": np.full(200_000, float(number)), "b": [number, np.full(9, number)]}
    folder.write(number, tree, number % 7 == 0)
    print(number, flush=True)
"""


@posix
def test_killed_at_any_moment_the_newest_checkpoint_is_complete(tmp_path):
    chance, path = random.Random(0), Path(checkpoints.__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(path)}
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
            written = [int(writer.stdout.readline())]
            time.sleep(chance.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
            written += map(int, writer.stdout.read().split())
        folder = CheckpointFolder(tmp_path, 2)
        tree, number = folder.newest()
        assert number in (written[-1], written[-1] + 1)
        assert tree["b"][0] == number
        assert (tree["a"] == number).all()
        assert (tree["b"][1] == number).all()
        for kept in folder.numbers():  # none of them is damaged
            files.read(tmp_path / name_of(kept)).tensors()
        assert len(folder.numbers()) <= 4
        assert len(names_in(tmp_path)) <= len(folder.numbers()) + 1  # what the killed one was writing
    folder.write(number + 1, small(number), False)
    assert not [name for name in names_in(tmp_path) if name.endswith(".tmp")]
