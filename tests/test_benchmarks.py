"""The benchmark verifies before it times, and writes what it says; nothing here looks at a time."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import clstm
from clstm import cli
from clstm.bench import (
    cases,
    command,
    contestants,
    limits,
    low_precision,
    measure,
    numpy_classes,
    peers,
    report,
    timing,
)

SHAPE = ("--shape", "2", "3", "4", "5")
BRIEFLY = ("--budget", "0", "--rounds", "2")
OPTIONS = ({"peepholes": True}, {"proj_size": 5}, {"layer_norm": True}, {"recurrent_dropout": 0.25})
SHAPINGS = ({"num_layers": 3}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True})
WITHOUT_PEERS = ("--contestants", "clstm", "numpy")


@pytest.fixture(autouse=True)
def in_this_process_on_small_arrays(monkeypatch):
    """Give the benchmark the environment it wants, so that it starts no process, and few bytes to measure."""
    for name, value in command.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for size, value in {"GEMM_SIZE": 8, "DRAM_BYTES": 1 << 12, "BYTES_A_SAMPLE": 1 << 12}.items():
        monkeypatch.setattr(limits, size, value)
    monkeypatch.setattr(limits, "cache_sizes", lambda: ({"L1": 1 << 10, "L2": 1 << 11}, True))
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 0.0)
    monkeypatch.setattr(measure, "SPIN_SECONDS", 0.0)


@pytest.fixture
def run(tmp_path):
    """Return a function that runs `clstm bench` and returns its exit code and what it wrote as JSON."""

    def run(*arguments):
        path = tmp_path / "result.json"
        code = cli.main(["bench", *arguments, *BRIEFLY, "--json", str(path)])
        return code, json.loads(path.read_text())

    return run


@pytest.fixture
def small_table(monkeypatch):
    """Put rows of every kind, with every goal, in the place of the table."""
    row = cases._row
    rows = [
        row("stream", "stream", "1 1 1 1", microseconds_goal=1.0, tags="short"),
        row("stream", "stream", "2 1 3 4", 8.0, torch_goal=40.0),
        row("step", "step", "2 1 3 4"),
        row("lengths", "training", "3 4 3 4", 2.0, unequal=True, yardstick="full lengths", own_goal=1 / 0.7),
        row("threads", "forward", "1 4 3 4", threads=2, yardstick="one thread", own_goal=1.7),
        row("denormals", "training", "1 4 3 4", last_step=True, yardstick="every step", own_goal=1 / 1.3),
        row("compat", "sequence_regressor", "1 4 3 5", 2.5, dtype="float64", class_goal=12.0),
        row("compat", "step_readout", "1 1 3 5", dtype="float64", class_goal=5.0),
        row("compat", "step_sequence", "1 1 3 5", dtype="float64", class_goal=5.0),
        row("resets", "training", "2 90 3 4", resets=True, yardstick="no resets", own_goal=1 / 1.05),
        *(
            row("options", "training", "2 4 3 8", torch_goal=3.0, options=options, yardstick="no options")
            for options in OPTIONS
        ),
        *(
            row(
                "several",
                "training",
                "2 4 3 8",
                threads=2,
                options=options,
                yardstick="one thread",
                own_goal=1.7,
            )
            for options in SHAPINGS
        ),
        *(
            row("quantised", kind, shape, 1.5, weights=weights, yardstick="float32", own_goal=1.8)
            for weights in ("bfloat16", "int8")
            for kind, shape in (("stream", "2 1 3 8"), ("forward", "2 4 3 8"))
        ),
    ]
    monkeypatch.setattr(cases, "CASES", rows)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_shape_runs_verified_and_is_written_as_json(run, capsys, dtype):
    code, report = run(*SHAPE, "--dtype", dtype, *WITHOUT_PEERS)
    assert code == 0
    assert set(report) == {"command", "machine", "tolerances", "skipped", "left_out", "rows"}
    names = [
        f"{kind} 2 3 4 5 {dtype}{suffix}" for suffix in ("", " lengths") for kind in ("forward", "training")
    ]
    assert [row["name"] for row in report["rows"]] == names
    for row in report["rows"]:
        assert set(row["contestants"]) == {"clstm", "numpy"} | ({"full lengths"} if row["unequal"] else set())
        assert row["best_peer"] == "numpy"
        assert {"gflops", "limit", "goals", "steps", "flops", "unequal", "threads"} <= set(row)
        for entry in row["contestants"].values():
            assert entry["status"] == "timed"
            assert {"median", "best", "rounds", "calls", "samples", "errors"} <= set(entry)
            assert len(entry["samples"]) == entry["rounds"] == 2
    gradients = {"dx", "dh_0", "dc_0", "dweight_ih_l0", "dweight_hh_l0", "dbias_l0"}
    assert gradients <= set(report["rows"][1]["contestants"]["clstm"]["errors"])
    printed = capsys.readouterr().out
    assert all(f"| {name}" in printed for name in names)


def test_every_kind_of_row_is_verified_and_judged(run, small_table, capsys):
    code, report = run("--full", *WITHOUT_PEERS)
    assert code == 0
    for row in report["rows"]:
        assert all(entry["status"] in ("timed", "unsupported") for entry in row["contestants"].values())
    goals = {row["name"]: {goal["what"]: goal for goal in row["goals"]} for row in report["rows"]}
    assert set(goals["stream 1 1 1 1 float32"]) == {"best peer", "microseconds"}
    assert set(goals["stream 2 1 3 4 float32"]) == {"best peer", "torch"}
    # NumPy alone is no peer to judge by.
    assert all(goal["met"] is None for goal in goals["stream 2 1 3 4 float32"].values())
    assert set(goals["training 3 4 3 4 float32 lengths"]) == {"best peer", "full lengths"}
    assert set(goals["forward 1 4 3 4 float32 2 threads"]) == {"best peer", "one thread"}
    assert set(goals["training 1 4 3 4 float32 last step"]) == {"best peer", "every step", "limit"}
    assert goals["forward 1 4 3 4 float32 2 threads"]["one thread"]["met"] is not None
    assert report["rows"][4]["limit"] is None  # it was measured on one thread
    assert set(goals["training 2 90 3 4 float32 resets"]) == {"best peer", "no resets"}
    assert goals["training 2 90 3 4 float32 resets"]["no resets"]["met"] is not None
    assert goals["training 2 4 3 8 float32 proj_size 5"]["torch"]["met"] is None
    assert [row["options"] for row in report["rows"] if row["group"] == "options"] == list(OPTIONS)
    assert all("no options" in row["contestants"] for row in report["rows"] if row["group"] == "options")
    assert goals["training 2 4 3 8 float32 2 layers bidirectional 2 threads"]["one thread"]["met"] is not None
    for row in report["rows"][-4:]:
        assert row["weights"] in row["name"]
        assert set(row["contestants"]) == {"clstm", "float32"}
        assert row["limit"]["share"] > 0
        assert goals[row["name"]]["float32"]["met"] is not None
        assert goals[row["name"]]["best peer"]["met"] is None
    assert "goals met: " in capsys.readouterr().out


@pytest.mark.parametrize("name", [kind.name for kind in peers.CONTESTANTS if kind.modules])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("kind", "shape", "unequal"),
    [("stream", "2 1 3 4", False), ("step", "2 1 3 4", False)]
    + [(kind, "3 5 2 4", unequal) for kind in ("forward", "training") for unequal in (False, True)],
)
@pytest.mark.filterwarnings("default")  # other libraries' own
def test_peers_that_are_installed_compute_what_the_definition_does(name, dtype, kind, shape, unequal):
    contestant = next(peer for peer in peers.CONTESTANTS if peer.name == name)
    if contestant.missing():
        pytest.skip(f"not installed: {', '.join(contestant.missing())}")
    case = cases._row("g", kind, shape, dtype=dtype, unequal=unequal)
    if not contestant.supports(case):
        pytest.skip(f"{name} cannot do it")
    problem = contestants.Problem.of(case)
    found = measure.errors(contestant(problem).verified(), problem.expected())
    assert found
    assert measure.complaint(found, dtype) == ""


@pytest.mark.parametrize("name", [kind.name for kind in peers.CONTESTANTS if kind.name != "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["forward", "training"])
@pytest.mark.parametrize(
    "further",
    [
        {"resets": True},
        {"resets": True, "options": OPTIONS[1]},
        *({"options": each} for each in (*OPTIONS, *SHAPINGS)),
    ],
    ids=lambda further: cases._row("g", "forward", "1 1 1 1", **further).name.partition("float32 ")[2],
)
@pytest.mark.filterwarnings("default")  # other libraries' own
def test_resets_and_options_are_what_the_definition_computes(name, dtype, kind, further):
    contestant = next(peer for peer in peers.CONTESTANTS if peer.name == name)
    if contestant.missing():
        pytest.skip(f"not installed: {', '.join(contestant.missing())}")
    case = cases._row("g", kind, "3 70 2 8", dtype=dtype, **further)
    if not contestant.supports(case):
        pytest.skip(f"{name} cannot do it")
    problem = contestants.Problem.of(case)
    if case.resets:
        assert problem.resets.any()
    found = measure.errors(contestant(problem).verified(), problem.expected())
    assert len(found) == (3 if kind == "forward" else 6 + len(problem.weights))
    assert measure.complaint(found, dtype) == ""


def low_precision_case(kind, T):
    return cases._row("g", kind, f"2 {T} 64 64", weights="int8")


@pytest.mark.parametrize("contestant", low_precision.CONTESTANTS, ids=lambda contestant: contestant.name)
@pytest.mark.parametrize(("kind", "T"), [("stream", 1), ("forward", 5)])
@pytest.mark.filterwarnings("default")  # other libraries' own
def test_low_precision_is_near_the_definition_and_far_from_other_weights(contestant, kind, T):
    if contestant.missing():
        pytest.skip(f"not installed: {', '.join(contestant.missing())}")
    problem = contestants.Problem.of(low_precision_case(kind, T))
    precision, expected = contestant.precision(problem.case), problem.expected()
    found = measure.errors(contestant(problem).verified(), expected)
    assert set(found) == {"y", "h_n", "c_n"}
    assert found["y"] > 1e-4  # that it is low precision at all
    assert measure.complaint(found, precision) == ""
    for name in ("weight_ih_l0", "weight_hh_l0"):  # another gate's
        weights = problem.weights | {name: np.roll(problem.weights[name], 64, axis=0)}
        wrong = contestant(replace(problem, weights=weights)).verified()
        assert "y is off" in measure.complaint(measure.errors(wrong, expected), precision)


def test_tolerances_are_there_for_each_field():
    for field in (peers, low_precision, numpy_classes):
        for contestant in field.CONTESTANTS:
            assert contestant.precision(low_precision_case("forward", 5)) in measure.TOLERANCES
    assert contestants.Clstm.precision(cases._row("g", "forward", "1 1 1 1")) == "float32"


def test_only_contestants_of_the_rows_are_named_as_skipped(run, monkeypatch, capsys):
    monkeypatch.setattr(low_precision.OpenVinoInt8, "modules", ("a_module_that_nobody_has",))
    assert run(*SHAPE, "--rows", "forward", "--contestants", "clstm", "openvino_int8")[1]["skipped"] == {}
    capsys.readouterr()
    rows = ("--rows", "stream 1 1 64 64 float32 int8")
    code, report = run(*rows, "--contestants", "clstm", "openvino_int8")
    assert code == 0
    assert report["skipped"] == {"openvino_int8": "not installed: a_module_that_nobody_has"}
    assert "openvino_int8 is skipped: not installed: a_module" in capsys.readouterr().out
    assert set(report["rows"][0]["contestants"]) == {"clstm", "float32"}


@pytest.mark.parametrize("name", ["clstm_torch", "clstm_frozen"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["step", "forward", "training"])
@pytest.mark.parametrize(
    "further", [{}, {"unequal": True}, {"resets": True}, {"options": OPTIONS[1]}], ids=str
)
@pytest.mark.filterwarnings("default")  # torch's own
def test_modules_on_the_kernels_are_verified_as_all_are(name, dtype, kind, further):
    pytest.importorskip("torch")
    contestant = next(peer for peer in peers.CONTESTANTS if peer.name == name)
    case = cases._row(
        "g", kind, "3 1 2 8" if kind == "step" else "3 70 2 8", dtype=dtype, module=True, **further
    )
    if not contestant.supports(case):
        pytest.skip(f"{name} cannot do it")
    problem = contestants.Problem.of(case)
    made = contestant(problem)
    assert type(made.lstm).__module__ == "clstm.torch"
    assert ("frozen" in repr(made.lstm)) is (name == "clstm_frozen")
    assert measure.complaint(measure.errors(made.verified(), problem.expected()), dtype) == ""


def test_a_module_is_judged_by_torch_and_is_no_peer(capsys):
    case = cases._row("module", "forward", "2 3 2 4", module=True, module_goal=1e-9, frozen_goal=1e9)
    assert not peers.ClstmTorch.supports(cases._row("g", "forward", "2 3 2 4"))
    if peers.Torch.missing():
        pytest.skip("not installed: torch")
    chosen = (contestants.Clstm, peers.Torch, peers.ClstmTorch, peers.ClstmTorchFrozen)
    row = measure.measure(case, chosen, 0.0, 2)
    assert row["best_peer"] == "torch"
    goals = {goal["what"]: goal for goal in row["goals"]}
    assert (goals["clstm_torch"]["met"], goals["clstm_frozen"]["met"]) == (True, False)
    report.Table([case], chosen).add(row)
    printed = capsys.readouterr().out
    assert "clstm_torch (1e-09x: yes)" in printed
    assert "clstm_frozen (1e+09x: no)" in printed


@pytest.mark.parametrize("name", ["clstm", "numpy", "torch_loop", "jax"])
def test_first_mask_is_that_of_the_definition_and_each_further_one_is_drawn(name):
    contestant = next(peer for peer in peers.CONTESTANTS if peer.name == name)
    if contestant.missing():
        pytest.skip(f"not installed: {', '.join(contestant.missing())}")
    case = cases._row("g", "training", "3 5 2 8", options={"recurrent_dropout": 0.5})
    problem = contestants.Problem.of(case)
    one, expected = contestant(problem), problem.expected()
    first, second, third = (one.verified()["y"] for _ in range(3))
    assert measure.complaint(measure.errors({"y": first}, {"y": expected["y"]}), "float32") == ""
    assert np.abs(second - first).max() > 1e-3
    assert np.abs(third - second).max() > 1e-3


def test_mask_of_a_problem_is_that_of_training_with_recurrent_dropout():
    options = {"recurrent_dropout": 0.25}
    mask = contestants.Problem.of(cases._row("g", "training", "40 5 2 8", options=options)).recurrent_mask()
    assert mask.shape == (40, 8)
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / 0.75)}
    assert (
        contestants.Problem.of(cases._row("g", "forward", "4 5 2 8", options=options)).recurrent_mask()
        is None
    )
    assert contestants.Problem.of(cases._row("g", "training", "4 5 2 8")).recurrent_mask() is None


def test_peers_take_part_where_they_can():
    def able(kind, **further):
        case = cases._row("g", kind, "3 5 2 4", **further)
        return {peer.name for peer in peers.CONTESTANTS if peer.supports(case)} - {"clstm", "numpy"}

    peepholes, projection, norm, dropout = OPTIONS
    assert able("training") == {"torch", "jax"}
    assert able("forward") == {"torch", "onnxruntime", "openvino", "jax"}
    for kind in ("forward", "training"):
        assert able(kind, resets=True) == {"torch", "torch_pieces", "torch_loop", "jax"}
        assert able(kind, options=projection) == {"torch", "torch_loop", "jax"}
        assert able(kind, options=norm) == able(kind, options=dropout) == {"torch_loop", "jax"}
    assert able("training", options=peepholes) == {"torch_loop", "jax"}
    assert able("forward", options=peepholes) == {"torch_loop", "onnxruntime", "jax"}
    assert able("training", resets=True, options=dropout) == set()
    for options in SHAPINGS:
        assert able("training", options=options) == {"torch"}
        assert able("forward", options=options) == {"torch", "onnxruntime", "openvino"}
        assert able("forward", options=options, resets=True) == set()


def test_stream_is_verified_beyond_its_first_step(monkeypatch):
    """A contestant that forgets its state is right once and then wrong."""
    case = cases._row("g", "stream", "2 1 3 4", dtype="float64")
    problem = contestants.Problem.of(case)
    forgetful = contestants.Clstm(problem)

    def step_from_the_start():
        forgetful.stream.state = problem.h_0, problem.c_0
        return forgetful.stream.step(forgetful.x_t)

    monkeypatch.setattr(forgetful, "call", step_from_the_start)
    results, expected = forgetful.verified(), problem.expected()
    assert (
        measure.complaint(measure.errors({"y": results["y"][:1]}, {"y": expected["y"][:1]}), "float64") == ""
    )
    assert "y is off" in measure.complaint(measure.errors(results, expected), "float64")


@pytest.mark.parametrize("quantity", ["y", "c_n", "dx", "dc_0", "dweight_hh_l0"])
def test_wrong_result_is_reported_and_not_timed(run, monkeypatch, capsys, quantity):
    class Wrong(contestants.Clstm):
        def results(self, output):
            results = super().results(output)
            if quantity in results:
                results[quantity] = np.roll(results[quantity], 1, axis=-1)
            return results

    monkeypatch.setattr(peers, "CONTESTANTS", (Wrong, *peers.CONTESTANTS[1:]))
    code, report = run(*SHAPE, "--rows", "training", *WITHOUT_PEERS)
    assert code == 1
    for row in report["rows"]:
        entry = row["contestants"]["clstm"]
        assert entry["status"] == "wrong"
        assert quantity in entry["reason"]
        assert "samples" not in entry
        assert all("ratio" not in entry for entry in row["contestants"].values())
    assert "wrong, training 2 3 4 5 float32, clstm" in capsys.readouterr().out


def test_peer_that_raises_does_not_stop_the_others(run, monkeypatch, capsys):
    class Broken(contestants.NumPy):
        name = "broken"
        modules = ("json",)

        def __init__(self, _):
            raise RuntimeError("no such argument")

    monkeypatch.setattr(peers, "CONTESTANTS", (contestants.Clstm, Broken))
    code, report = run(*SHAPE, "--rows", "forward")
    assert code == 0
    assert report["rows"][0]["contestants"]["clstm"]["status"] == "timed"
    assert "broken: RuntimeError: no such argument" in capsys.readouterr().out


def test_contestant_that_is_not_installed_is_named(run, monkeypatch, capsys):
    monkeypatch.setattr(peers.Torch, "modules", ("a_module_that_nobody_has",))
    code, report = run(*SHAPE, "--rows", "forward", "--contestants", "clstm", "torch")
    assert code == 0
    assert report["rows"][0]["best_peer"] is None
    printed = capsys.readouterr().out
    assert "torch is skipped: not installed: a_module_that_nobody_has" in printed
    assert "no peer installed or chosen" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contestants", "abacus"], "--contestants: expected some of clstm, numpy,"),
        (["--rows", "no such row"], "expected options that choose a row, got none"),
        (["--shape", "1", "0", "1", "1"], "--shape: expected four sizes of at least 1"),
        (["--threads", "2"], "--threads: expected --shape with it"),
        (["--full", "--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["--budget", "-1"], "--budget: expected a number of seconds, at least 0, got -1"),
        (["--budget", "nan"], "--budget: expected a number of seconds, at least 0, got nan"),
        (["--budget", "inf"], "--budget: expected a number of seconds, at least 0, got inf"),
    ],
)
def test_options_that_make_no_sense_are_refused(capsys, arguments, message):
    assert cli.main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""


def test_threads_are_those_of_the_case_and_put_back():
    problem = contestants.Problem.of(cases._row("g", "forward", "2 3 4 5", threads=3))
    contestant, before = contestants.Clstm(problem), clstm.get_num_threads()
    with contestant.scope():
        assert clstm.get_num_threads() == 3
    assert clstm.get_num_threads() == before


def test_another_process_gets_the_environment_and_the_same_options(monkeypatch):
    started = []

    def start(arguments, env, check):
        started.append((arguments, env, check))
        return subprocess.CompletedProcess(arguments, 3)

    monkeypatch.setattr(command.subprocess, "run", start)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert cli.main(["bench", *SHAPE]) == 3
    ((arguments, env, _),) = started
    assert arguments == [sys.executable, "-m", "clstm", "bench", *SHAPE]
    assert command.ENVIRONMENT.items() <= env.items()


def test_names_of_cases_are_unique_within_the_table():
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)


def test_short_form_is_a_part_of_the_table_without_large_shapes(capsys):
    assert cli.main(["bench", "--list"]) == 0
    short = [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()]
    by_name = {case.name: case for case in cases.CASES}
    assert {by_name[name].kind for name in short} == {"stream", "forward", "training", "sequence_regressor"}
    assert all(by_name[name].flops < cases.QUICK_FLOPS / 4 for name in short)


def test_lengths_count_real_steps():
    case = cases.Case("g", "training", 8, 100, 3, 5, unequal=True)
    lengths = case.lengths()
    assert lengths.min() >= 1
    assert lengths.max() <= 100
    assert case.steps == lengths.sum() < 800
    assert case.flops == 3 * 2 * case.steps * 20 * 8


def test_projection_counts_in_products_and_weights(monkeypatch):
    case = cases._row("g", "training", "8 10 3 5", options={"proj_size": 2})
    assert case.R == 2
    assert case.flops == 3 * 2 * 80 * (20 * (3 + 2) + 5 * 2)
    monkeypatch.setattr(limits, "cache_sizes", lambda: ({"L1": 1 << 12, "L2": 1 << 18}, True))
    one = cases._row("g", "forward", "1 10 16 64", options={"proj_size": 32})
    weights = 32 * 4 * 64 + 64 * 32
    assert limits.need(one) == (one.flops - 2 * 10 * weights, 10 * weights * 4, "L2")


@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (3, 1), (1, 2), (2, 2)])
def test_layers_and_directions_count_in_names_products_and_weights(monkeypatch, layers, directions):
    options = {"num_layers": layers} if layers > 1 else {}
    options |= {"bidirectional": True} if directions == 2 else {}
    case = cases._row("g", "training", "1 10 16 64", options=options)
    words = f"{layers} layers " * (layers > 1) + "bidirectional" * (directions == 2)
    assert case.name == f"training 1 10 16 64 float32 {words}".strip()
    inputs = [16] * directions + [64 * directions] * (directions * (layers - 1))
    assert case.input_sizes == inputs
    assert case.flops == 3 * 2 * 10 * sum(256 * (each + 64) for each in inputs)
    monkeypatch.setattr(limits, "cache_sizes", lambda: ({"L1": 1 << 12, "L2": 1 << 16}, True))
    weights = layers * directions * 64 * 256
    # Each of them fits the second level, all of them would not.
    assert limits.need(case) == (case.flops - 2 * 2 * 10 * weights, 2 * 10 * weights * 4, "L2")
    problem = contestants.Problem.of(case)
    assert problem.h_0.shape == (layers * directions, 1, 64)
    assert problem.dy.shape == (10, 1, 64 * directions)


@pytest.mark.parametrize(("weights", "size", "level"), [("bfloat16", 2, "L2"), ("int8", 1, "L1")])
def test_limit_of_quantised_weights_is_reading_their_bytes(monkeypatch, weights, size, level):
    monkeypatch.setattr(limits, "cache_sizes", lambda: ({"L1": 80 * 256, "L2": 1 << 18}, True))
    stream = cases._row("g", "stream", "1 1 16 64", weights=weights)
    assert limits.need(stream) == (0, 80 * 256 * size, level)
    assert set(limits.works(stream)) == {"reading"}
    forward = cases._row("g", "forward", "1 10 16 64", weights=weights)
    assert limits.need(forward) == (0, 10 * 64 * 256 * size, level)


def test_regressor_reads_weights_in_both_passes_and_has_no_gradient_of_its_input():
    case = cases._row("g", "sequence_regressor", "1 10 16 64", dtype="float64")
    assert case.flops == 2 * 10 * 256 * (3 * 64 + 2 * 16)
    assert limits.need(case).read_bytes == 2 * 10 * 64 * 256 * 8


def test_episodes_have_the_length_of_the_table():
    case = cases._row("g", "training", "64 500 2 4", resets=True)
    begins = case.begins()
    assert begins.shape == (500, 64)
    assert begins.mean() == pytest.approx(1 / cases.EPISODE_STEPS, rel=0.1)
    np.testing.assert_array_equal(begins, case.begins())
    assert cases._row("g", "training", "64 500 2 4").begins() is None


def test_loss_on_the_last_step_has_no_other_derivatives():
    problem = contestants.Problem.of(cases._row("g", "training", "2 4 3 5", last_step=True))
    assert not problem.dy[:-1].any()
    assert problem.dy[-1].all()


def test_share_goals_are_for_one_row_and_for_many_wide_ones():
    def goal(shape, **options):
        return cases._row("g", "forward", shape, **options).share_goal

    assert goal("1 9 8 8") == 0.70
    assert goal("8 9 8 128") == goal("32 9 8 128") == goal("64 9 8 512") == 0.85
    assert goal("8 9 8 64") == goal("32 9 8 127") == 0.70
    assert goal("8 9 8 63") is goal("7 9 8 128") is goal("32 9 8 128", threads=2) is None
    assert goal("1 9 8 8", options={"bidirectional": True}) == 0.70
    assert goal("1 9 8 8", options={"peepholes": True}) is goal("1 9 8 8", weights="int8") is None
    for kind in ("stream", "step_readout"):  # mostly calls from Python
        assert cases._row("g", kind, "1 1 8 63").share_goal is None
        assert cases._row("g", kind, "1 1 8 64").share_goal == 0.70


def test_ratio_is_the_median_of_the_ratios_of_rounds():
    """A machine that becomes slower half-way moves both times; the ratio of each round stays."""
    mine, theirs = timing.Timing(1, [1.0, 10.0, 10.0, 10.0]), timing.Timing(1, [3.0, 3.0, 30.0, 30.0])
    assert theirs.over(mine) == 3.0


def test_rounds_begin_with_each_in_turn():
    calls = []

    class Recorded:
        scope = contestants.nullcontext

        def __init__(self, name):
            self.call = lambda: calls.append(name)

    timings = timing.interleave({name: Recorded(name) for name in "abc"}, 0.0, 6)
    # Each sample is two calls, the first not timed; two samples of each find out how long a call takes.
    assert calls[::2] == calls[1::2]
    samples = calls[::2]
    rounds = ["".join(samples[n : n + 3]) for n in range(6, len(samples), 3)]
    assert all(len(one.samples) == 6 for one in timings.values())
    assert all(sorted(one) == list("abc") for one in rounds)
    assert {one[0] for one in rounds} == {one[-1] for one in rounds} == set("abc")


def test_least_time_of_one_row_is_reading_weights_plus_other_products(monkeypatch):
    monkeypatch.setattr(limits, "cache_sizes", lambda: ({"L1": 1 << 12, "L2": 1 << 18}, True))
    weights = 64 * 4 * 64
    one = limits.need(cases.Case("g", "training", 1, 10, 16, 64))
    assert one == (3 * 2 * 10 * 256 * 80 - 2 * 2 * 10 * weights, 2 * 10 * weights * 4, "L2")
    assert limits.need(cases.Case("g", "stream", 1, 1, 16, 64)) == (0, 80 * 256 * 4, "L2")
    many = cases.Case("g", "forward", 8, 10, 16, 64)
    assert limits.need(many) == (many.flops, 0.0, "GEMM")


def test_least_time_scales_what_was_measured():
    case = cases.Case("g", "training", 1, 10, 16, 64)
    flops, read_bytes, _ = limits.need(case)
    measured = {"product": limits.Work(None, flops / 2), "reading": limits.Work(None, read_bytes / 3)}
    assert limits.least_seconds(case, measured, {"product": 5.0, "reading": 7.0}) == pytest.approx(
        2 * 5.0 + 3 * 7.0
    )
    assert set(limits.works(case)) == {"product", "reading"}
    assert set(limits.works(cases.Case("g", "stream", 1, 1, 16, 64))) == {"reading"}
    assert set(limits.works(cases.Case("g", "forward", 8, 10, 16, 64))) == {"product"}


@pytest.mark.parametrize(
    ("goal", "text"),
    [
        ({"what": "best peer", "goal": 1.8, "met": True}, "(1.8x: yes)"),
        ({"what": "torch", "goal": 40.0, "met": None}, "(torch 40x: no peer)"),
        ({"what": "full lengths", "goal": 1 / 0.7, "met": False}, "(1.43x: no)"),
        ({"what": "limit", "goal": 0.85, "met": False}, "(85%: no)"),
        ({"what": "microseconds", "goal": 1.0, "met": True}, "(1 us: yes)"),
        ({"what": "best peer", "goal": 1.8, "met": True, "by_share": True}, "(1.8x, by share: yes)"),
    ],
)
def test_verdicts_name_the_goal(goal, text):
    assert report.verdict({"by_share": False} | goal) == text


def test_goals_of_a_row_are_judged_by_what_was_reached():
    case = cases._row(
        "lengths",
        "training",
        "1 4 3 4",
        2.0,
        unequal=True,
        yardstick="full lengths",
        own_goal=1 / 0.7,
        microseconds_goal=5.0,
    )
    entries = {"clstm": {"median": 6e-6}, "torch": {"ratio": 2.5}, "full lengths": {"ratio": 1.4}}
    row = {"contestants": entries, "best_peer": "torch", "limit": {"share": 0.7}}
    met = {goal["what"]: goal["met"] for goal in measure.goals(case, row)}
    assert met == {"best peer": True, "full lengths": False, "microseconds": False, "limit": True}


@pytest.mark.parametrize(
    ("ratio", "share", "goal", "met", "by_share"),
    [
        (1.6, 0.60, 1.5, True, False),  # the ratio is reached, whatever the share
        (1.2, 0.75, 1.4, False, False),  # 1.4 takes 88 % of the limit: it stands
        (1.2, 0.80, 1.4, True, True),  # 93 %: 80 % is above the 70 % of the row
        (1.0, 0.68, 1.4, False, True),
        (0.98, 0.90, 1.4, True, True),
        (0.96, 0.90, 1.4, False, True),  # a peer is ahead by more than the floor allows
        (0.96, 0.90, cases.FLOOR, False, False),  # and the floor itself has no way out
    ],
)
def test_ratio_beyond_the_limit_is_judged_by_the_share(ratio, share, goal, met, by_share):
    case = cases._row("g", "forward", "1 4 3 4", goal)
    entries = {"clstm": {"median": 6e-6}, "torch": {"ratio": ratio}}
    row = {"contestants": entries, "best_peer": "torch", "limit": {"share": share}}
    (found,) = (goal for goal in measure.goals(case, row) if goal["what"] == "best peer")
    assert (found["met"], found["by_share"]) == (met, by_share)
    twin = replace(case, kind="step_readout", H=64, peer_goal=None, class_goal=goal)
    entries["plain_class"] = entries.pop("torch")
    found = measure.goals(twin, row | {"best_peer": "plain_class"})[0]
    assert (found["what"], found["met"], found["by_share"]) == ("plain_class", met, by_share)
    unlimited = measure.goals(twin, row | {"limit": None})[0]
    assert (unlimited["met"], unlimited["by_share"]) == (ratio >= goal, False)


def test_summary_says_how_many_were_judged_by_the_share():
    goal = {"what": "best peer", "goal": 1.4, "reached": 1.1, "met": True, "by_share": True}
    row = {"name": "r", "dtype": "float32", "limit": None, "goals": [goal]}
    assert report.summary([row]) == ["goals met: 1 of 1, 1 of them judged by the share of the limit"]


def test_no_peer_may_be_ahead_by_more_than_three_per_cent_in_any_row():
    for case in cases.CASES:
        spared = case.module or case.field == "compat" or case.weights == "bfloat16"
        assert (case.peer_goal is None) == spared or case.kind == "sequence_regressor"
        assert case.peer_goal is None or case.peer_goal >= cases.FLOOR


def test_loop_stands_for_torch_where_its_module_cannot_do_it():
    case = cases._row("g", "training", "1 4 3 4", None, torch_goal=3.0, options={"peepholes": True})
    entries = {"clstm": {"median": 6e-6}, "torch": {"status": "unsupported"}, "torch_loop": {"ratio": 2.5}}
    row = {"contestants": entries, "best_peer": "torch_loop", "limit": None}
    assert [goal["reached"] for goal in measure.goals(case, row)] == [2.5]
    entries["torch"] = {"ratio": 4.0}
    assert [goal["reached"] for goal in measure.goals(case, row)] == [4.0]


def test_benchmarks_folder_is_the_full_form():
    command_line = [sys.executable, "-m", "benchmarks", "--list"]
    top = Path(__file__).resolve().parents[1]
    done = subprocess.run(command_line, cwd=top, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == len(cases.CASES)
