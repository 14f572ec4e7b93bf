"""The command `clstm`: what it prints, what it writes, and its exit codes."""

import importlib.util
import re
import subprocess
import sys

import pytest
from conftest import run_python

import clstm
from clstm import cli


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_demo_refuses_an_output_that_it_could_not_write(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--output", "x.png"])
    assert stop.value.code == 2
    assert "pip install 'cython-lstm[plot]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["demo", "--output", "x.txt"],
            "argument --output: expected a name that ends in .png, .pdf, .svg, got 'x.txt'",
        ),
        (
            ["demo", "--output", "no/x.png"],
            "argument --output: expected a file in a folder that exists, got 'no/x.png'",
        ),
        (["demo", "--epochs", "0"], "argument --epochs: expected an integer of at least 1, got '0'"),
        (["demo", "--epochs", "many"], "argument --epochs: expected an integer of at least 1, got 'many'"),
        (["demo", "--seed", "-1"], "argument --seed: expected an integer of at least 0, got '-1'"),
        (["dem0"], "invalid choice: 'dem0'"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(arguments, message, capsys, tmp_path):
    if "--output" in arguments:
        pytest.importorskip("matplotlib")
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert message in err
    assert out == ""
    assert not list(tmp_path.iterdir())


def test_info_prints_what_show_config_returns(capsys):
    assert cli.main(["info"]) == 0
    lines = dict(
        re.split(r" +", line, maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line
    )
    config = clstm.show_config()
    assert lines["version"] == clstm.__version__
    assert lines["build"] == config["build"]
    assert lines["threads"] == str(config["threads"])
    assert lines.get("features", "").split() == config["features"]


def test_bench_lists_its_rows(capsys):
    assert cli.main(["bench", "--list", "--group", "stream"]) == 0
    assert "stream, short: stream 1 1 32 32 float32" in capsys.readouterr().out.splitlines()


def test_bench_runs_in_a_process_of_its_own(capfd):
    arguments = ["--shape", "1", "2", "1", "1", "--budget", "0", "--contestants", "clstm", "numpy"]
    assert cli.main(["bench", *arguments]) == 0
    out, err = capfd.readouterr()
    assert "| training 1 2 1 1 float32" in out
    assert err == ""


def test_without_a_command_there_is_help(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in ("demo", "info", "bench"))


def test_module_runs_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "clstm", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"clstm {clstm.__version__}\n"


def test_import_of_the_package_leaves_training_alone():
    code = "import clstm, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = ("nn", "bench", "plot", "cli", "datasets", "compat", "torch", "_gradcheck", "_gradient_flow")
    absent = {f"clstm.{name}" for name in ours} | {"tqdm", "matplotlib", "torch", "keras", "onnx", "h5py"}
    absent |= {f"clstm.interop.{name}" for name in ("torch", "keras", "onnx", "gates")}
    assert not absent & set(done.stdout.split())


def test_dir_names_the_submodules_that_come_when_asked_for():
    code = "import clstm, sys; print(*dir(clstm)); assert 'clstm.nn' not in sys.modules"
    names = run_python(code).stdout.split()
    assert {"LSTM", "__version__", "compat", "datasets", "nn", "plot"} <= set(names)
    assert len(names) == len(set(names))


def test_submodules_are_attributes_that_come_when_asked_for():
    code = "import clstm; print(clstm.nn.__name__, clstm.plot.__name__, clstm.datasets.__name__)"
    assert run_python(code).stdout.split() == ["clstm.nn", "clstm.plot", "clstm.datasets"]
    with pytest.raises(AttributeError, match="module 'clstm' has no attribute 'layer'"):
        _ = clstm.layer
