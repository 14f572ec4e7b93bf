"""The benchmark verifies before it times, and writes what it says; nothing here looks at a time.

The folder `benchmarks` lies beside the tests and is not part of the package.
"""

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

PARTS = ("__main__", "bench", "cases", "contestants", "limits")
SHAPE = ("--shape", "2", "3", "4", "5")
BRIEFLY = ("--budget", "0", "--rounds", "2", "--contestants", "clstm", "numpy")


@pytest.fixture
def benchmarks(monkeypatch):
    """Return the modules of the benchmark by name; limits are measured on very small arrays."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1]))
    modules = {part: import_module(f"benchmarks.{part}") for part in PARTS}
    for size, value in {"GEMM_SIZE": 8, "DRAM_BYTES": 1 << 12, "BYTES_A_SAMPLE": 1 << 12}.items():
        monkeypatch.setattr(modules["limits"], size, value)
    monkeypatch.setattr(modules["limits"], "cache_sizes", lambda: ({"L1": 1 << 10, "L2": 1 << 11}, True))
    monkeypatch.setattr(modules["bench"], "SAMPLE_SECONDS", 0.0)
    return modules


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_shape_runs_verified_and_is_written_as_json(benchmarks, tmp_path, capsys, dtype):
    path = tmp_path / "result.json"
    assert benchmarks["__main__"].main([*SHAPE, "--dtype", dtype, *BRIEFLY, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    assert set(report) == {
        "command", "machine", "limits", "limits_after", "tolerances", "skipped", "left_out", "rows"
    }  # fmt: skip
    assert set(report["limits"]) == {"gemm", "read", "caches", "buffers", "caches_known"}
    names = [f"{kind} 2 3 4 5 {dtype}{suffix}" for suffix in ("", " lengths") for kind in ("forward", "training")]
    assert [row["name"] for row in report["rows"]] == names
    for row in report["rows"]:
        assert set(row["contestants"]) == {"clstm", "numpy"}
        assert row["best_peer"] == "numpy"
        assert {"ratio", "gflops", "share", "limit", "steps", "flops", "unequal"} <= set(row)
        for entry in row["contestants"].values():
            assert entry["status"] == "timed"
            assert {"median", "best", "rounds", "calls", "samples", "errors"} <= set(entry)
            assert len(entry["samples"]) == entry["rounds"] == 2
    gradients = {"dx", "dh_0", "dc_0", "dweight_ih_l0", "dweight_hh_l0", "dbias_l0"}
    assert gradients <= set(report["rows"][1]["contestants"]["clstm"]["errors"])
    printed = capsys.readouterr().out
    assert all(f"| {name}" in printed for name in names)


def test_step_rows_go_through_step(benchmarks, tmp_path):
    path = tmp_path / "result.json"
    assert benchmarks["__main__"].main(["--shape", "1", "1", "4", "5", *BRIEFLY, "--json", str(path)]) == 0
    row = json.loads(path.read_text())["rows"][0]
    assert row["name"] == "step 1 1 4 5 float32"
    assert row["contestants"]["clstm"]["status"] == "timed"


@pytest.mark.parametrize("quantity", ["y", "c_n", "dx", "dc_0", "dweight_hh_l0"])
def test_wrong_result_is_reported_and_not_timed(benchmarks, monkeypatch, tmp_path, capsys, quantity):
    kind = benchmarks["contestants"].Clstm

    class Wrong(kind):
        def results(self, output):
            results = super().results(output)
            if quantity in results:
                results[quantity] = np.roll(results[quantity], 1, axis=-1)
            return results

    others = benchmarks["contestants"].CONTESTANTS[1:]
    monkeypatch.setattr(benchmarks["bench"], "CONTESTANTS", (Wrong, *others))
    path = tmp_path / "result.json"
    assert benchmarks["__main__"].main([*SHAPE, *BRIEFLY, "--rows", "training", "--json", str(path)]) == 1
    for row in json.loads(path.read_text())["rows"]:
        entry = row["contestants"]["clstm"]
        assert entry["status"] == "wrong"
        assert quantity in entry["reason"]
        assert "samples" not in entry
        assert row["ratio"] is None
    assert "wrong, training 2 3 4 5 float32, clstm" in capsys.readouterr().out


def test_contestant_that_is_not_installed_is_named(benchmarks, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks["contestants"].Torch, "modules", ("a_module_that_nobody_has",))
    arguments = [*SHAPE, "--budget", "0", "--rounds", "1", "--rows", "forward", "--contestants", "clstm", "torch"]
    assert benchmarks["__main__"].main(arguments) == 0
    assert "torch is skipped: not installed: a_module_that_nobody_has" in capsys.readouterr().out


def test_unknown_contestant_and_empty_choice_are_refused(benchmarks, capsys):
    assert benchmarks["__main__"].main(["--contestants", "abacus"]) == 2
    assert benchmarks["__main__"].main(["--rows", "no such row"]) == 2
    assert "abacus" in capsys.readouterr().out


def test_names_of_cases_are_unique_within_the_table(benchmarks):
    names = [case.name for case in benchmarks["cases"].CASES]
    assert len(set(names)) == len(names)


def test_lengths_count_real_steps(benchmarks):
    case = benchmarks["cases"].Case("g", "training", 8, 100, 3, 5, unequal=True)
    lengths = case.lengths()
    assert lengths.min() >= 1
    assert lengths.max() <= 100
    assert case.steps == lengths.sum() < 800
    assert case.flops == 3 * 2 * case.steps * 20 * 8


def test_least_time_of_one_row_is_reading_weights_plus_other_products(benchmarks):
    cases, limits = benchmarks["cases"], benchmarks["limits"]
    machine = {
        "gemm": {"float32": {"best": 100.0}},
        "read": {"L1": {"best": 200.0}, "L2": {"best": 50.0}, "DRAM": {"best": 5.0}},
        "caches": {"L1": 1 << 12, "L2": 1 << 18},
    }
    one = limits.least_seconds(cases.Case("g", "training", 1, 10, 16, 64), machine)
    weights = 64 * 4 * 64
    assert one["bound"] == "L2"
    assert one["read_seconds"] == pytest.approx(2 * 10 * weights * 4 / 50e9)
    assert one["product_seconds"] == pytest.approx((3 * 2 * 10 * 256 * 80 - 2 * 2 * 10 * weights) / 100e9)
    step = limits.least_seconds(cases.Case("g", "step", 1, 1, 16, 64), machine)
    assert step["seconds"] == pytest.approx(80 * 256 * 4 / 50e9)
    many = cases.Case("g", "forward", 8, 10, 16, 64)
    assert limits.least_seconds(many, machine)["seconds"] == pytest.approx(many.flops / 100e9)
