"""Which kernel build is picked, what CLSTM_ISA may say, what an import brings, the memory tapes borrow."""

import ast
import gc
import importlib
import json
import os
import sys

import numpy as np
import pytest
from conftest import BUILDS, CTYPES, run_python

import clstm
from clstm import _cpu, _dispatch, reference

# A processor that runs nothing beyond the baseline.
PLAIN_PROCESSOR = """
import sys, types
sys.modules["clstm._cpu"] = types.SimpleNamespace(features=lambda: (), supports=lambda isa: False)
"""
REPORT = "import clstm, json; print(json.dumps(clstm.show_config()))"


def test_every_runnable_build_can_be_forced(build):
    result = run_python(REPORT, CLSTM_ISA=build)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["build"] == build


@pytest.mark.parametrize("isa", [None, ""], ids=["unset", "empty"])
def test_best_build_is_picked_when_none_is_named(isa):
    result = run_python(REPORT, CLSTM_ISA=isa)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["build"] == BUILDS[0]


def test_builds_are_ordered_best_first():
    order = list(_dispatch.BUILDS)
    assert order == ["x86_64_v4", "x86_64_v3", "baseline"]
    assert list(BUILDS) == [isa for isa in order if isa in BUILDS]
    assert BUILDS[-1] == "baseline"


@pytest.mark.parametrize("isa", ["avx2", "X86_64_V3", "x86_64_v9", "native", "1", " "])
def test_impossible_isa_fails_loudly(isa):
    result = run_python("import clstm", CLSTM_ISA=isa)
    assert result.returncode != 0
    expected = f"ImportError: CLSTM_ISA: expected one of x86_64_v4, x86_64_v3, baseline, got {isa!r}"
    assert result.stderr.strip().splitlines()[-1] == expected


@pytest.mark.parametrize("isa", ["x86_64_v3", "x86_64_v4"])
def test_isa_that_the_processor_lacks_fails_loudly(isa):
    result = run_python(PLAIN_PROCESSOR + "import clstm", CLSTM_ISA=isa)
    assert result.returncode != 0
    expected = f"ImportError: CLSTM_ISA: expected one of baseline on this processor, got {isa!r}"
    assert result.stderr.strip().splitlines()[-1] == expected


@pytest.mark.parametrize("isa", [None, "baseline"], ids=["unset", "baseline"])
def test_plain_processor_runs_the_baseline(isa):
    code = (
        PLAIN_PROCESSOR
        + "import clstm; print(clstm.show_config()['build'], clstm.LSTM(2, 3)([[0, 1]])[0].shape)"
    )
    result = run_python(code, CLSTM_ISA=isa)
    assert (result.returncode, result.stdout.strip()) == (0, "baseline (1, 3)"), result.stderr


def test_levels_of_the_processor_agree_with_its_features():
    features = set(_cpu.features())
    for isa, needed in _cpu.REQUIRED.items():
        assert _cpu.supports(isa) == (set(needed) <= features)
    assert set(_cpu.REQUIRED["x86_64_v3"]) < set(_cpu.REQUIRED["x86_64_v4"])


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="needs /proc/cpuinfo")
def test_features_agree_with_the_operating_systems_list():
    with open("/proc/cpuinfo") as file:
        listed = next((set(line.split(":")[1].split()) for line in file if line.startswith("flags")), None)
    if listed is None:
        pytest.skip("the system lists no flags")
    names = {"bmi": "bmi1"}
    assert set(_cpu.features()) == {name for name in _cpu.FEATURES if names.get(name, name) in listed}


def test_config_tells_the_build_in_use():
    config = clstm.show_config()
    assert config["build"] == _dispatch.isa
    assert config["builds"] == list(BUILDS)
    assert config["version"] == clstm.__version__
    assert config["numpy"] == np.__version__
    assert config["vector_bytes"] == _dispatch.kernels.VECTOR_BYTES
    json.dumps(config)


def test_functions_of_a_backend_are_those_of_the_definition():
    assert _dispatch.FUNCTIONS == ("forward", "backward", "step", "product", "add_rows")


@pytest.mark.parametrize("name", _dispatch.FUNCTIONS)
def test_backend_for_a_dtype_is_the_functions_of_the_chosen_build(name, dtype):
    kernels = importlib.import_module(_dispatch.BUILDS[_dispatch.isa])
    got = getattr(_dispatch.backend("auto", np.dtype(dtype)), name)
    assert got is getattr(kernels, name)[CTYPES[dtype]]
    assert _dispatch.backend("auto", np.dtype(dtype)).Stream is kernels.Stream
    assert _dispatch.backend("numpy", np.dtype(dtype)) is reference


def test_reference_needs_numpy_alone():
    with open(reference.__file__) as file:
        nodes = list(ast.walk(ast.parse(file.read())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) == {"numpy"}


# -------------------------------------------------------------------------------------- memory from the pool

# Of one cache line, of no whole number of them, of many pages.
SHAPES = [(16,), (3, 7, 5), (40, 50, 60)]


def address(array):
    return array.__array_interface__["data"][0]


@pytest.fixture
def no_collection():
    """Keep arrays that wait for the collector of cycles from giving memory back in between."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_empty_array_is_writable_aligned_and_of_the_wanted_shape(dtype, shape):
    array = _dispatch.empty(shape, np.dtype(dtype))
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert address(array) % 64 == 0
    array[...] = 7
    assert (array == 7).all()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_memory_of_an_array_comes_back_when_it_is_gone(dtype, shape):
    array = _dispatch.empty(shape, np.dtype(dtype))
    before = address(array)
    del array
    assert address(_dispatch.empty(shape, np.dtype(dtype))) == before


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize(
    "view_of",
    [lambda a: a[-1:], lambda a: a.T, lambda a: a.reshape(-1), memoryview],
    ids=["slice", "transposed", "flat", "memoryview"],
)
def test_view_keeps_the_memory_of_its_array(dtype, view_of):
    array = _dispatch.empty((40, 50), np.dtype(dtype))
    array[...] = 7
    before, view = address(array), view_of(array)
    del array
    others = [_dispatch.empty((40, 50), np.dtype(dtype)) for _ in range(3)]
    for other in others:
        assert address(other) != before
        other[...] = 5
    assert (np.asarray(view) == 7).all()
    del view
    assert address(_dispatch.empty((40, 50), np.dtype(dtype))) == before


def test_arrays_that_live_at_once_share_no_memory(dtype):
    arrays = [_dispatch.empty((7, n), np.dtype(dtype)) for n in range(1, 60)]
    for n, array in enumerate(arrays):
        array[...] = n
    for n, array in enumerate(arrays):
        assert (array == n).all()


@pytest.mark.parametrize("shape", [(0,), (0, 3, 5), (4, 0, 5), (0, 0, 0)], ids=str)
def test_empty_array_may_have_no_elements(dtype, shape):
    array = _dispatch.empty(shape, np.dtype(dtype))
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    array[...] = 7
    assert array.sum() == 0


@pytest.mark.parametrize("shape", [(2**40, 2**20), (2**62,)], ids=str)
def test_memory_that_nobody_has_is_an_ordinary_exception(dtype, shape):
    with pytest.raises((MemoryError, OverflowError, ValueError)):
        _dispatch.empty(shape, np.dtype(dtype))


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("bytes_", [1, 8, 16, 31, 32])
def test_memory_of_small_arrays_comes_back_too(bytes_):
    array = _dispatch.empty((bytes_,), np.dtype("uint8"))
    before = address(array)
    del array
    assert address(_dispatch.empty((bytes_,), np.dtype("uint8"))) == before


@pytest.mark.usefixtures("no_collection")
def test_short_calls_do_not_drive_a_large_block_out_of_the_pool(dtype):
    layer, x = clstm.LSTM(2, 3, dtype=dtype), np.ones((1, 2))
    layer(x)
    array = _dispatch.empty((500, 1000), np.dtype(dtype))
    before = address(array)
    del array
    for _ in range(100):
        layer(x)
    assert address(_dispatch.empty((500, 1000), np.dtype(dtype))) == before
