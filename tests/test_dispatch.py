"""Which kernel build is picked, what CLSTM_ISA may say, and that importing changes nothing in the process."""

import ast
import importlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import BUILDS, CTYPES

import clstm
from clstm import _cpu, _dispatch, reference

# A processor that runs nothing beyond the baseline.
PLAIN_PROCESSOR = """
import sys, types
sys.modules["clstm._cpu"] = types.SimpleNamespace(features=lambda: (), supports=lambda isa: False)
"""
REPORT = "import clstm, json; print(json.dumps(clstm.show_config()))"


def run_python(code, isa, folder):
    """Run code in a fresh interpreter under CLSTM_ISA; None means without it."""
    environment = {name: value for name, value in os.environ.items() if name != "CLSTM_ISA"}
    if isa is not None:
        environment["CLSTM_ISA"] = isa
    # The package under test.
    environment["PYTHONPATH"] = os.path.dirname(os.path.dirname(os.path.abspath(clstm.__file__)))
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


def test_every_runnable_build_can_be_forced(build, tmp_path):
    result = run_python(REPORT, build, tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["build"] == build


@pytest.mark.parametrize("isa", [None, ""], ids=["unset", "empty"])
def test_best_build_is_picked_when_none_is_named(isa, tmp_path):
    result = run_python(REPORT, isa, tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["build"] == BUILDS[0]


def test_builds_are_ordered_best_first():
    order = list(_dispatch.BUILDS)
    assert order == ["x86_64_v4", "x86_64_v3", "baseline"]
    assert list(BUILDS) == [isa for isa in order if isa in BUILDS]
    assert BUILDS[-1] == "baseline"


@pytest.mark.parametrize("isa", ["avx2", "X86_64_V3", "x86_64_v9", "native", "1", " "])
def test_impossible_isa_fails_loudly(isa, tmp_path):
    result = run_python("import clstm", isa, tmp_path)
    assert result.returncode != 0
    expected = f"ImportError: CLSTM_ISA: expected one of x86_64_v4, x86_64_v3, baseline, got {isa!r}"
    assert result.stderr.strip().splitlines()[-1] == expected


@pytest.mark.parametrize("isa", ["x86_64_v3", "x86_64_v4"])
def test_isa_that_the_processor_lacks_fails_loudly(isa, tmp_path):
    result = run_python(PLAIN_PROCESSOR + "import clstm", isa, tmp_path)
    assert result.returncode != 0
    expected = f"ImportError: CLSTM_ISA: expected one of baseline on this processor, got {isa!r}"
    assert result.stderr.strip().splitlines()[-1] == expected


@pytest.mark.parametrize("isa", [None, "baseline"], ids=["unset", "baseline"])
def test_plain_processor_runs_the_baseline(isa, tmp_path):
    code = (
        PLAIN_PROCESSOR
        + "import clstm; print(clstm.show_config()['build'], clstm.LSTM(2, 3)([[0, 1]])[0].shape)"
    )
    result = run_python(code, isa, tmp_path)
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


@pytest.mark.parametrize("name", _dispatch.FUNCTIONS)
def test_backend_for_a_dtype_is_the_functions_of_the_chosen_build(name, dtype):
    kernels = importlib.import_module(_dispatch.BUILDS[_dispatch.isa])
    got = getattr(_dispatch.backend("auto", np.dtype(dtype)), name)
    assert got is getattr(kernels, name)[CTYPES[dtype]]
    assert _dispatch.backend("numpy", np.dtype(dtype)) is reference


def test_importing_every_build_leaves_denormals_alone():
    for build in BUILDS:
        importlib.import_module(_dispatch.BUILDS[build])
    assert np.float32(1e-40) * np.float32(1) != 0
    assert np.float64(1e-310) * np.float64(1) != 0


def test_calls_leave_denormals_alone(dtype):
    lstm = clstm.LSTM(2, 3, dtype=dtype)
    lstm.forward(np.ones((3, 2, 2)))
    lstm.backward(np.ones((3, 2, 3)))
    assert np.float32(1e-40) * np.float32(1) != 0
    assert np.float64(1e-310) * np.float64(1) != 0


def test_reference_needs_numpy_alone():
    with open(reference.__file__) as file:
        nodes = list(ast.walk(ast.parse(file.read())))
    imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    assert {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) == {"numpy"}
