"""The demo: what it prints and writes, that it is honest, and its exit codes."""

import importlib.util
import re

import numpy as np
import pytest

from clstm import cli, datasets, demo

EPOCHS = ("--epochs", "12")  # enough to beat the seasonal-naive forecast


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def no_matplotlib(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )


def printed_errors(out):
    """Read the table of test errors."""
    rows = re.findall(r"^  (\S.*?) +(\d+\.\d{3})(?:  .*)?$", out, re.MULTILINE)
    return {name: float(error) for name, error in rows}


def test_demo_beats_the_seasonal_naive_forecast_and_says_so(capsys, no_matplotlib):
    assert cli.main(["demo", *EPOCHS]) == 0
    out, err = capsys.readouterr()
    errors = printed_errors(out)
    assert list(errors) == ["LSTM", "seasonal naive", "seasonal naive with drift", "linear regression"]
    assert errors["LSTM"] < errors["seasonal naive"]
    difference = float(re.search(r"Largest relative difference .*: (\S+)\.$", out, re.MULTILINE).group(1))
    assert difference <= demo.LOSS_AGREEMENT
    assert float(re.search(r"ratio (\S+)\.", out).group(1)) > 0
    assert "pip install 'cython-lstm[plot]'" in out
    assert "100%" in err  # the progress bar


def test_demo_prints_the_same_numbers_each_run(capsys, no_matplotlib):
    printed = {}
    for run, seed in (("first", "5"), ("second", "5"), ("other", "6")):
        cli.main(["demo", "--epochs", "2", "--seed", seed])
        out = capsys.readouterr().out
        printed[run] = printed_errors(out), re.search(r"^Loss: .*$", out, re.MULTILINE).group()
    assert printed["first"] == printed["second"]
    assert printed["first"] != printed["other"]


def test_demo_baselines_are_what_they_are_called(capsys, no_matplotlib):
    """Written out month by month: at each origin, the twelve months to come."""
    values, months, _ = datasets.load_co2()
    start = list(months.astype(str)).index("1992-01")
    drift = np.mean([values[m] - values[m - 12] for n in range(24, start - 11) for m in range(n, n + 12)])
    naive, drifting = [], []
    for origin in range(start, len(values) - 11):
        for month in range(origin, origin + 12):
            naive.append(values[month - 12] - values[month])
            drifting.append(values[month - 12] + drift - values[month])
    cli.main(["demo", "--epochs", "1"])
    errors = printed_errors(capsys.readouterr().out)
    assert f"{errors['seasonal naive']:.3f}" == f"{np.sqrt(np.mean(np.square(naive))):.3f}"
    assert f"{errors['seasonal naive with drift']:.3f}" == f"{np.sqrt(np.mean(np.square(drifting))):.3f}"


def test_demo_trains_on_nothing_of_the_test_part(capsys, monkeypatch, no_matplotlib):
    co2 = datasets.load_co2()
    losses = []
    for shift in (0.0, 1000.0):
        values = np.where(co2.months >= np.datetime64("1992-01"), co2.values + shift, co2.values)
        monkeypatch.setattr(datasets, "load_co2", lambda values=values: co2._replace(values=values))
        cli.main(["demo", "--epochs", "2"])
        losses.append(re.search(r"^Loss: .*$", capsys.readouterr().out, re.MULTILINE).group())
    assert losses[0] == losses[1]


def test_demo_fails_when_the_forecast_is_worse(capsys, no_matplotlib):
    assert cli.main(["demo", "--epochs", "1"]) == 1
    assert "does not beat the seasonal-naive forecast" in capsys.readouterr().err


@pytest.mark.parametrize("factor", [1 + 1e-6, np.nan], ids=["other losses", "NaN"])
def test_demo_fails_when_kernels_and_definition_disagree(factor, capsys, monkeypatch, no_matplotlib):
    train = demo._train

    def differing(backend, *arguments):
        model, losses, seconds = train(backend, *arguments)
        return model, losses * (factor if backend == "auto" else 1.0), seconds

    monkeypatch.setattr(demo, "_train", differing)
    assert cli.main(["demo", *EPOCHS]) == 1
    assert "the losses of kernels and definition differ" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "start"), [(None, b"\x89PNG"), ("x.PNG", b"\x89PNG"), ("x.pdf", b"%PDF"), ("x.svg", b"<?xml")]
)
def test_demo_writes_the_picture(output, start, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    cli.main(["demo", "--epochs", "1", *(("--output", output) if output else ())])
    name = output or "co2-forecast.png"
    assert f"Picture: {name}\n" in capsys.readouterr().out
    assert (tmp_path / name).read_bytes().startswith(start)
    assert [path.name for path in tmp_path.iterdir()] == [name]
