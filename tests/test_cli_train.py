"""`clstm train`, `predict`, `backtest` and `sample`: from a table or a text to a model, and what it says."""

import csv
import importlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits, threads

import clstm
from clstm import _tasks, cli, files
from clstm.nn.checkpoints import CheckpointFolder

pytest.importorskip("pandas")
pytest.importorskip("sklearn")

CO2 = Path(clstm.__file__).parent / "datasets" / "co2.csv"
SMALL = ("--hidden-size", "8", "--epochs", "3")
FORECAST = ("--target", "x", "--time", "t", *SMALL)
CLASSES = ("--target", "label", "--group", "id", "--time", "k", *SMALL)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(capsys):
    """Return what a command line leads to: exit code, stdout and stderr."""

    def call(*arguments):
        try:
            with threads(clstm.get_num_threads()):
                code = cli.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def months(n, first=2000):
    return [f"{first + k // 12}-{k % 12 + 1:02d}" for k in range(n)]


def write(name, header, rows):
    lines = [",".join(map(str, row)) for row in ([*header], *rows)]
    Path(name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return name


def write_series(name="data.csv", n=108, changed=None):
    """Write a season on a slope, with a column that alternates and one that is always 7."""
    rows = [
        [month, round(10 + k / 50 + np.sin(k * np.pi / 6), 3), k % 3, 7] for k, month in enumerate(months(n))
    ]
    for row, cells in (changed or {}).items():
        rows[row] = cells
    return write(name, ("t", "x", "w", "c"), rows)


def write_panel(name="panel.csv", known=60, ahead=6):
    """Write two series whose last rows have no target, only the future of w."""
    rows = []
    for group, level in (("north", 10), ("south", 500)):
        for k, month in enumerate(months(known + ahead)):
            x = level * (1 + 0.3 * (k % 2)) if k < known else ""
            rows.append([group, month, x, k % 2, level / 10])
    return write(name, ("g", "t", "x", "w", "size"), rows)


def write_sequences(name="data.csv", n=24, label=lambda g: "ab"[g % 2], more=()):
    """Write sequences that rise or fall."""
    rng = np.random.default_rng(0)
    rows = [
        [f"s{g}", k, round((-1) ** g * k + 0.1 * rng.standard_normal(), 3), label(g), "note"]
        for g in range(n)
        for k in range(4 + g % 3)
    ]
    return write(name, ("id", "k", "v", "label", "memo"), [*rows, *more])


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text)))


# ------------------------------------------------------------------------------------------------- forecasts


def test_forecast_from_a_table_to_a_model_to_a_forecast(run):
    table = write_series()
    code, out, err = run("train", table, *FORECAST)
    assert code == 0
    assert "'x' is a number that changes: a forecast.\nNot used: w, c.\n" in err
    assert "Forecasts of 12 steps, from at least 24 before, with a season of 12.\n" in err
    assert out.splitlines()[-1] == "Model: data.safetensors"
    code, out, err = run("predict", "data.safetensors", table)
    assert (code, err) == (0, "")
    found = rows_of(out)
    assert [row["t"] for row in found] == months(12, first=2009)
    assert all(float(row["x_lower"]) <= float(row["x"]) <= float(row["x_upper"]) for row in found)


def test_forecast_goes_on_from_the_training_table_without_data(run):
    table = write_series()
    run("train", table, *FORECAST)
    with_data, without = (run("predict", "data.safetensors", *more)[1] for more in ([table], []))
    assert [row["x"] for row in rows_of(with_data)] == [row["x"] for row in rows_of(without)]


def test_forecast_of_a_longer_table_begins_at_its_end(run):
    run("train", write_series(), *FORECAST)
    found = rows_of(run("predict", "data.safetensors", write_series("longer.csv", 111))[1])
    assert found[0]["t"] == "2009-04"


def test_groups_and_covariates_of_every_kind(run):
    table = write_panel()
    roles = ("--group", "g", "--future", "w", "--static", "size")
    assert run("train", table, *FORECAST, *roles, "--horizon", "4")[0] == 0
    code, out, _ = run("predict", "panel.safetensors", table)
    assert code == 0
    found = rows_of(out)
    assert [(row["g"], row["t"]) for row in found] == [
        (group, month) for group in ("north", "south") for month in months(64)[60:]
    ]
    assert max(float(row["x"]) for row in found[:4]) < min(float(row["x"]) for row in found[4:])
    code, _, err = run("predict", "panel.safetensors")
    assert (code, err.splitlines()[-1]) == (2, "clstm predict: error: expected DATA, with the future of w")
    code, _, err = run("predict", "panel.safetensors", write_panel("short.csv", ahead=2))
    assert (code, err) == (
        1,
        "clstm: short.csv: expected 4 rows with an empty 'x' at the end in group 'north', with the future of "
        "w, got 2\n",
    )


def test_rows_are_steps_where_no_column_has_the_times(run):
    table = write_series()
    code, _, err = run("train", table, "--target", "x", *SMALL)
    assert code == 0
    assert "Rows are taken as they come; if 't' has their times, say --time t\n" in err
    found = rows_of(run("predict", "data.safetensors", table)[1])
    assert [row["step"] for row in found] == [str(k) for k in range(1, 13)]


@pytest.mark.parametrize("seed", [0, 1])
def test_default_forecast_of_co2_is_far_better_than_the_year_before(run, seed):
    code, out, _ = run(
        "train", CO2, "--target", "co2", "--time", "month", "--epochs", 12, "--seed", seed, "--json"
    )
    assert code == 0
    found = json.loads(out)["validation"]
    assert found["rmse"] < 0.6 * found["rmse_of_naive"]


def test_backtest_tells_what_was_seen_from_what_is_new(run):
    run("train", write_series(), *FORECAST)
    code, out, _ = run(
        "backtest", "data.safetensors", write_series("longer.csv", 120), "--output", "all.csv", "--json"
    )
    assert code == 0
    parts = json.loads(out)["parts"]
    rows = rows_of(Path("all.csv").read_text())
    assert {part: found["values"] for part, found in parts.items()} == {
        "up to the end of training": sum(row["seen"] == "True" for row in rows),
        "new": sum(row["seen"] == "False" for row in rows),
    }
    assert {row["time"] for row in rows if row["seen"] == "False"} == set(months(12, first=2009))
    forecast, actual = (
        np.array([float(row[name]) for row in rows if row["seen"] == "False"])
        for name in ("forecast", "actual")
    )
    rmse = np.sqrt(np.mean((forecast - actual) ** 2))
    assert_close(np.array(parts["new"]["rmse"]), rmse, "written", scale=np.abs(actual).max())
    code, out, _ = run("backtest", "data.safetensors", "longer.csv")
    assert [line.split(": ")[0] for line in out.splitlines()] == [
        "up to the end of training",
        "new",
    ]


def test_parquet_is_read_as_csv_is(run):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    table = write_series()
    frame = pandas.read_csv(table)
    frame["t"] = pandas.to_datetime(frame["t"])
    frame.to_parquet("other.parquet")
    run("train", table, *FORECAST)
    assert run("train", "other.parquet", *FORECAST)[0] == 0
    first, second = (
        [row["x"] for row in rows_of(run("predict", f"{name}.safetensors")[1])] for name in ("data", "other")
    )
    assert first == second


def test_model_is_used_in_python_as_on_the_command_line(run):
    pandas = pytest.importorskip("pandas")
    table = write_series()
    run("train", table, *FORECAST)
    model = clstm.load("data.safetensors")
    frame = pandas.read_csv(table)
    for data in (table, Path(table), frame, frame.set_index("t"), None):
        found = model.predict(data)
        assert_same_bits(found["x"].to_numpy(), model.predict()["x"].to_numpy())
    assert_same_bits(
        model.backtest(table)[0]["forecast"].to_numpy(), model.backtest(frame)[0]["forecast"].to_numpy()
    )
    with pytest.raises(
        clstm.FileFormatError, match="data: expected a column 'x', as in training, got t, w, c"
    ):
        model.predict(frame.drop(columns="x"))
    with pytest.raises(TypeError, match=r"data: expected a path or a pandas\.DataFrame, got 3"):
        model.predict(3)


def test_how_a_csv_is_written_is_part_of_the_model(run):
    text = Path(write_series()).read_text()
    days = [f"01.{month[5:]}.{month[:4]}" for month in months(108)]
    lines = [line.replace(",", ";").replace(".", ",") for line in text.splitlines()]
    lines = [lines[0], *(day + line[7:] for day, line in zip(days, lines[1:], strict=True))]
    Path("other.csv").write_text("\n".join(lines), encoding="cp1252")
    how = ("--separator", ";", "--decimal", ",", "--encoding", "cp1252", "--time-format", "%d.%m.%Y")
    assert run("train", "other.csv", *FORECAST, *how)[0] == 0
    run("train", "data.csv", *FORECAST)
    other = rows_of(run("predict", "other.safetensors", "other.csv")[1])
    assert [row["t"] for row in other][:2] == ["01.01.2009", "01.02.2009"]
    assert [row["x"] for row in other] == [row["x"] for row in rows_of(run("predict", "data.safetensors")[1])]


@pytest.mark.parametrize(
    ("step", "season"),
    [("MS", 12), ("ME", 12), ("QS-JAN", 4), ("YE-DEC", 1), ("W-SUN", 52), ("D", 7), ("B", 5), ("h", 24),
     ("2h", 12), ("15min", 96), ("min", 60), (1.0, 1)],
)  # fmt: skip
def test_season_is_the_shortest_usual_period(step, season):
    assert _tasks.season(step) == season


# ------------------------------------------------------------------------------------------------- sequences


def test_text_that_is_the_same_within_groups_makes_a_classifier(run):
    table = write_sequences()
    code, out, err = run("train", table, *CLASSES, "--epochs", 40)
    assert code == 0
    assert "'label' is text and the same in all rows of each 'id': a classifier of sequences.\n" in err
    assert "24 sequences of 4 to 6 steps, columns: v.\n" in err
    assert "Held out: 100.0% right (the commonest label alone" in out
    found = rows_of(run("predict", "data.safetensors", table)[1])
    assert [row["label"] for row in found] == ["a", "b"] * 12
    total = np.array([float(row["p_a"]) + float(row["p_b"]) for row in found])
    assert_close(total, np.ones(24), "written")
    code, out, _ = run("backtest", "data.safetensors", table, "--json")
    scores = json.loads(out)
    assert (code, scores["accuracy"], scores["accuracy_of_commonest"], scores["sequences"]) == (
        0,
        1.0,
        0.5,
        24,
    )


def test_prediction_of_classes_needs_no_labels(run):
    write_sequences()
    run("train", "data.csv", *CLASSES)
    lines = [line.split(",") for line in Path("data.csv").read_text().splitlines()]
    write("new.csv", ("id", "k", "v"), [line[:3] for line in lines[1:]])
    assert (
        run("predict", "data.safetensors", "new.csv")[1] == run("predict", "data.safetensors", "data.csv")[1]
    )
    code, _, err = run("backtest", "data.safetensors", "new.csv")
    assert (code, err) == (1, "clstm: new.csv: expected a column 'label', as in training, got id, k, v\n")


def test_a_number_that_is_the_same_within_groups_makes_a_regression(run):
    table = write_sequences(label=lambda g: g % 2 + 0.5)
    code, out, err = run("train", table, *CLASSES, "--json")
    assert code == 0
    assert "'label' is a number and the same in all rows of each 'id': a regression on sequences.\n" in err
    found = json.loads(out)
    assert found["task"] == "regress"
    assert found["past"] == ["v"]
    assert found["validation"]["sequences"] == 5
    assert rows_of(run("predict", "data.safetensors", table)[1])[0].keys() == {"id", "label"}


def test_task_can_be_said(run):
    table = write_sequences(label=lambda g: g % 2)
    assert "(--task classify would take its 2 values as classes).\n" in run("train", table, *CLASSES)[2]
    assert run("train", table, *CLASSES, "--task", "classify")[0] == 0
    assert {row["label"] for row in rows_of(run("predict", "data.safetensors", table)[1])} <= {"0", "1"}


# ---------------------------------------------------------------------------------------------------- texts


TEXT = "to be or not to be, that is the question.\n" * 60


def write_text(name="text.txt", content=TEXT):
    Path(name).write_bytes(content.encode())
    return name


TRAIN_TEXT = (
    "--text",
    "--hidden-size",
    16,
    "--epochs",
    30,
    "--batch-size",
    4,
    "--input-steps",
    20,
    "--lr",
    0.02,
)


def test_text_from_a_file_to_a_model_to_a_text(run):
    code, out, err = run("train", write_text(), *TRAIN_TEXT)
    assert code == 0
    assert (
        "text.txt: a text of 2,520 characters, 16 different ones; the last 252 are for validation.\n" in err
    )
    assert out.splitlines()[-1] == "Model: text.safetensors"
    sample = ("sample", "text.safetensors", "--length", 31)
    code, out, err = run(*sample, "--prompt", "to be or ", "--temperature", 0)
    assert (code, out, err) == (0, "to be or not to be, that is the question\n", "")
    first, again, other = (run(*sample, "--temperature", 2, "--seed", seed)[1] for seed in (1, 1, 2))
    assert first == again != other
    found = json.loads(run(*sample, "--prompt", "to", "--json")[1])
    assert (found["prompt"], len(found["text"])) == ("to", 31)


def test_bits_are_less_than_those_of_the_frequencies_alone(run):
    found = json.loads(run("train", write_text(), *TRAIN_TEXT, "--json")[1])
    assert found["vocabulary"] == 16
    assert found["validation"]["bits_per_character"] < 0.5 * found["validation"]["bits_of_frequencies"]


def test_line_ends_of_other_systems_are_newlines(run):
    run("train", write_text("unix.txt"), *TRAIN_TEXT)
    run("train", write_text("windows.txt", TEXT.replace("\n", "\r\n")), *TRAIN_TEXT)
    assert Path("unix.safetensors").read_bytes() == Path("windows.safetensors").read_bytes()


def test_sample_refuses_what_the_model_has_not_learnt(run):
    run("train", write_text(), *TRAIN_TEXT, "--epochs", 1)
    code, out, err = run("sample", "text.safetensors", "--prompt", "to Be")
    assert (code, out) == (1, "")
    assert err.startswith("clstm: text.safetensors: prompt: expected characters that the model has learnt, ")
    assert err.endswith("got 'B' at position 3\n")


# ------------------------------------------------------------------------------------ the same bits, again


@pytest.mark.parametrize("kind", ["forecast", "classes", "text"])
def test_model_is_the_same_to_the_bit_for_any_number_of_threads(run, kind):
    command = {
        "forecast": (write_series("f.csv"), *FORECAST),
        "classes": (write_sequences("c.csv"), *CLASSES),
        "text": (write_text(), *TRAIN_TEXT, "--epochs", 2),
    }[kind]
    for threads_used in (1, 2):
        assert (
            run("train", *command, "--threads", threads_used, "--output", f"{threads_used}.safetensors")[0]
            == 0
        )
    assert Path("1.safetensors").read_bytes() == Path("2.safetensors").read_bytes()
    run("train", *command, "--seed", 1, "--output", "3.safetensors")
    assert Path("1.safetensors").read_bytes() != Path("3.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["forecast", "classes", "text"])
def test_training_that_was_interrupted_is_resumed_to_the_bit(run, kind, monkeypatch):
    command = {
        "forecast": (write_series("f.csv"), *FORECAST),
        "classes": (write_sequences("c.csv"), *CLASSES),
        "text": (write_text(), *TRAIN_TEXT, "--epochs", 3),
    }[kind]
    assert run("train", *command, "--output", "whole.safetensors")[0] == 0
    write_checkpoint = CheckpointFolder.write

    def interrupt(folder, update, tree, best):
        write_checkpoint(folder, update, tree, best)
        raise KeyboardInterrupt

    resumed = ("train", *command, "--checkpoint", "kept", "--output", "parts.safetensors")
    monkeypatch.setattr(CheckpointFolder, "write", interrupt)
    assert run(*resumed)[0] == cli.INTERRUPTED
    for _ in range(10):
        code, _, err = run(*resumed, "--resume")
        if code != cli.INTERRUPTED:
            break
        assert "clstm: interrupted\n" in err
        assert not Path("parts.safetensors").exists()
    monkeypatch.setattr(CheckpointFolder, "write", write_checkpoint)
    assert run(*resumed, "--resume")[0] == 0
    assert Path("parts.safetensors").read_bytes() == Path("whole.safetensors").read_bytes()
    code, _, err = run(*resumed)
    assert code == 2
    assert "--checkpoint: expected a new folder, got 'kept', which holds a training; say --resume" in err
    code, _, err = run(*resumed, "--resume", "--lr", 0.5)
    assert code == 2
    assert "--resume: expected the arguments that the training was begun with, --lr " in err


# ------------------------------------------------------------------------------------------------ bad tables


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected CSV or Parquet, got an empty file"),
        (b"\x89PNG\r\n\0\0", "expected CSV or Parquet, got a binary file"),
        (
            b"PK\x03\x04...",
            "expected CSV or Parquet, got a ZIP archive or an Excel workbook; save it as CSV",
        ),
        (b"\xff\xfet\0", "expected CSV or Parquet, got UTF-16; say --encoding utf-16"),
        (b"PAR1 and no more", "not a Parquet file that pandas can read"),
        ("t,x\nMärz,1\n".encode("cp1252"), "expected utf-8, got byte 0xe4 in line 2; say how it is written"),
        (
            b"t;x\n2000-01;1\n",
            "one column, 't;x', got by cutting at ','; its cells seem to be cut by semicolons: "
            "say --separator ';'",
        ),
        (b"t\tx\n2000-01\t1\n", "its cells seem to be cut by tabs: say --separator tab"),
        (b"t,x\n", "expected rows below the names of the columns, got none"),
        (b"t,x,x\n1,2,3\n", "expected each column once, got x again"),
        (b"t,,x\n1,2,3\n", "column 2: expected a name in the first line, got none"),
        (b"t,x\n2000-01,1\n2000-02,1,5\n", "line 3: expected at most 2 cells, got 3"),
        (b"t,x\n2000-01,1,5\n2000-02,1,5\n", "expected 2 cells in each row, got rows with more"),
        (b"time,X\n1,2\n", "--target: expected one of the columns time, X, got 'x'; did you mean 'X'?"),
    ],
)
def test_what_is_no_table_is_refused(run, content, message):
    if content.startswith(b"PAR1"):
        pytest.importorskip("pyarrow")
    Path("data.csv").write_bytes(content)
    code, out, err = run("train", "data.csv", "--target", "x", "--time", "t")
    assert (code, out) == (1, "")
    assert err.startswith("clstm: data.csv: ")
    assert message in err
    assert err.count("\n") == 1
    assert [path.name for path in Path().iterdir()] == ["data.csv"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["2000-06", "abc", 1, 7], "column 'x', line 7: expected a number, got 'abc'"),
        (
            ["2000-06", "", 1, 7],
            "column 'x', line 7: expected a number, got an empty cell, with values below it",
        ),
        (["2000-06", "NaN", 1, 7], "column 'x', line 7: expected a number, got an empty cell"),
        (["2000-06", "inf", 1, 7], "column 'x', line 7: expected a number, got 'inf'"),
        (["2000-06", '"1,5"', 1, 7], "got '1,5'; if that is a decimal comma, say --decimal ,"),
        (["2000-06", 5, "?", 7], "column 'w', line 7: expected a number, got '?'"),
        (["2000-06", 5, "", 7], "column 'w', line 7: expected a number, got an empty cell; fill it"),
        (["2000-05", 5, 1, 7], "column 't', line 7: got '2000-05' again, as in line 6; if the table holds"),
        (["1999-06", 5, 1, 7], "column 't', line 7: got '1999-06' after '2000-05' in line 6; sort the table"),
        (["2000-06-02", 5, 1, 7], "column 't': expected times in steps of MS, got 2000-06-02"),
        (["summer", 5, 1, 7], "column 't', line 7: expected a time such as 2024-01, 2024-01-31 or"),
        (["", 5, 1, 7], "column 't', line 7: expected a time, got an empty cell"),
    ],
)
def test_bad_cell_is_named_by_its_place(run, row, message):
    table = write_series(changed={5: row})
    code, out, err = run("train", table, *FORECAST, "--past", "w")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("clstm: data.csv: column ")
    assert message in err.splitlines()[-1]


def test_numbers_that_are_dates_are_told(run):
    days = [f"{month.replace('-', '')}01" for month in months(108)]
    write("data.csv", ("t", "x"), [[day, k % 12] for k, day in enumerate(days)])
    code, _, err = run("train", "data.csv", *FORECAST)
    assert code == 1
    assert err.endswith("; if these numbers are dates, say such as --time-format %Y%m%d\n")
    assert run("train", "data.csv", *FORECAST, "--time-format", "%Y%m%d")[0] == 0
    assert rows_of(run("predict", "data.safetensors", "data.csv")[1])[0]["t"] == "20090101"


def test_row_is_named_where_lines_do_not_tell(run):
    text = Path(write_series(changed={5: ["2000-06", "abc", 1, 7]})).read_text()
    Path("data.csv").write_text(text.replace("\n", "\n\n", 1))
    assert "column 'x', row 6: expected a number" in run("train", "data.csv", *FORECAST)[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--past", "c"), "column 'c': expected values that differ, got 7.0 in all rows"),
        (
            ("--static", "w"),
            "column 'w', line 3: expected '0' as in line 2, for --static columns are the same",
        ),
        (("--horizon", "40"), "expected at least 116 rows with a target, got 108: 36 to look back"),
        (("--lr", "1e30"), "the training failed: fit: expected finite numbers, got"),
    ],
)
def test_what_a_forecast_cannot_learn_is_refused(run, arguments, message):
    code, _, err = run("train", write_series(), *FORECAST, *arguments)
    assert code == 1
    assert err.splitlines()[-1].startswith(f"clstm: data.csv: {message}")


@pytest.mark.parametrize(
    ("more", "arguments", "message"),
    [
        ([["s0", 9, 1, "zzz", ""]], (), "column 'label', line 2: got 'a'; a forecast needs numbers, and a"),
        (
            [["s0", 9, 1, "b", ""]],
            ("--task", "classify"),
            "expected 'a' as in line 2, for --task classify each",
        ),
        ([["s0", 9, "", "a", ""]], (), "expected a number, got an empty cell"),
        ([["s0", 9, 1, "", ""]], (), "expected a value, got an empty cell"),
        ([["", 9, 1, "a", ""]], (), "expected a value, got an empty cell"),
        ([["s0", 1, 1, "a", ""]], (), "got '1' after '3' in line 5; sort the table by time"),
        ([], ("--past", "memo"), "column 'memo', line 2: expected a number, got 'note'"),
        ([], ("--task", "regress"), "column 'label', line 2: expected a number, got 'a'"),
    ],
)
def test_what_a_classifier_cannot_learn_is_refused(run, more, arguments, message):
    code, out, err = run("train", write_sequences(more=more), *CLASSES, *arguments)
    assert (code, out) == (1, "")
    assert message in err.splitlines()[-1]


def test_one_class_alone_is_refused(run):
    code, _, err = run("train", write_sequences(label=lambda _: "a"), *CLASSES)
    assert code == 1
    assert err.endswith("clstm: data.csv: column 'label': expected values that differ, got 'a' in all rows\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"to be", "expected 128 characters or more to learn, twice --input-steps, got 5"),
        (b"a" * 500, "text: expected at least 2 different characters, got 'a' alone"),
        (b"\0\1\2" * 100, "expected a text, got a binary file"),
        ("Bär".encode("cp1252") * 100, "expected utf-8, got byte 0xe4 in line 1"),
    ],
)
def test_what_is_no_text_is_refused(run, content, message):
    Path("text.txt").write_bytes(content)
    code, out, err = run("train", "text.txt", "--text")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith(f"clstm: text.txt: {message}")


# --------------------------------------------------------------------------------- arguments and other files


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "data.csv"), "expected --target COL, the column to learn, or --text"),
        (
            ("train", "data.csv", "--text", "--target", "x"),
            "--target: of a table, but --text says that DATA is a",
        ),
        (("train", "data.csv", "--target", "x", "--resume"), "--resume: expected --checkpoint DIR with it"),
        (
            ("train", "data.csv", "--target", "x", "--past", "a,,b"),
            "--past: expected names separated by commas",
        ),
        (("train", "data.csv", "--target", "x", "--past", "x"), "--past: column 'x' is that of --target"),
        (("train", "data.csv", "--target", "x", "--output", "m.onnx"), "ends in .safetensors, got 'm.onnx'"),
        (("train", "data.csv", "--target", "x", "--output", "no/m.safetensors"), "in a folder that exists"),
        (
            ("train", "data.csv", "--target", "x", "--task", "classify"),
            "--task classify: expected --group COL",
        ),
        (("train", "data.csv", "--target", "x", "--lr", "0"), "--lr: expected a number above 0, got '0'"),
        (("train", "data.csv", "--target", "x", "--lr", "nan"), "--lr: expected a number above 0, got 'nan'"),
        (("train", "data.csv", "--target", "x", "--validation", "0.6"), "expected a number from 0 to 0.5"),
        (
            ("train", "data.csv", "--target", "x", "--validation", "0", "--patience", "2"),
            "--patience: expected",
        ),
        (
            ("train", "data.csv", "--target", "x", "--separator", ";;"),
            "expected one character, or tab, got ';;'",
        ),
        (
            ("train", "data.csv", "--target", "x", "--encoding", "utf-99"),
            "expected an encoding such as utf-8",
        ),
        (
            ("train", "data.csv", "--target", "x", "--checkpoint", "no/ck"),
            "--checkpoint: expected a folder in one",
        ),
        (
            ("train", "data.csv", "--target", "x", "--checkpoint", "ck", "--resume"),
            "--resume: expected the folder",
        ),
        (
            ("sample", "m.safetensors", "--temperature", "-1"),
            "--temperature: expected a number of at least 0",
        ),
    ],
)
def test_arguments_that_make_no_sense_are_refused(run, arguments, message):
    write_series()
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert [path.name for path in Path().iterdir()] == ["data.csv"]


@pytest.mark.parametrize("option", ["--horizon", "--input-steps", "--future", "--static"])
def test_options_of_forecasts_are_refused_for_sequences(run, option):
    value = "v" if option in ("--future", "--static") else "3"
    code, _, err = run("train", write_sequences(), *CLASSES, option, value)
    assert code == 2
    assert f"error: {option}: " in err


def test_only_a_model_of_this_command_is_replaced(run):
    table = write_series()
    clstm.LSTM(1, 2, rng=0).save("data.safetensors")
    before = Path("data.safetensors").read_bytes()
    code, _, err = run("train", table, *FORECAST)
    assert code == 2
    assert (
        "expected a new name or a model of `clstm train`, got 'data.safetensors', which is a file of" in err
    )
    assert Path("data.safetensors").read_bytes() == before
    assert run("train", table, *FORECAST, "--output", "m.safetensors")[0] == 0
    assert run("train", table, *FORECAST, "--seed", 1, "--output", "m.safetensors")[0] == 0


def test_files_of_another_kind_are_told_from_models(run):
    table = write_series()
    clstm.LSTM(1, 2, rng=0).save("lstm.safetensors")
    run("train", table, *FORECAST)
    for arguments, message in (
        (("predict", "lstm.safetensors", table), "expected a model of a table, got a file of class 'LSTM'"),
        (("backtest", table, table), "not a safetensors file that NumPy can read"),
        (
            ("sample", "data.safetensors"),
            "expected a model of a text, of clstm train --text, got a model of a",
        ),
        (("predict", "none.safetensors", table), "none.safetensors: No such file or directory"),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert message in err


@pytest.mark.parametrize("name", ["data.safetensors", "data.csv"])
def test_output_of_a_prediction_does_not_replace_what_it_is_made_of(run, name):
    table = write_series()
    run("train", table, *FORECAST)
    before = Path(name).read_bytes()
    code, _, err = run("predict", "data.safetensors", table, "--output", name)
    assert code == 2
    assert "--output: expected another file than" in err
    assert Path(name).read_bytes() == before


def test_damaged_model_is_refused(run):
    table = write_series()
    run("train", table, *FORECAST)
    contents = files.read("data.safetensors")
    for name, value in (("roles", {"task": "forecast"}), ("seen", []), ("coverage", 2), ("estimator", {})):
        arguments = contents.arguments | {name: value}
        files.write("bad.safetensors", "TableModel", arguments, contents.tensors(), "0.2.0")
        code, out, err = run("predict", "bad.safetensors", table)
        assert (code, out) == (1, "")
        assert err.startswith("clstm: bad.safetensors: ")


def test_json_holds_what_people_are_told(run):
    table = write_series()
    found = json.loads(run("train", table, *FORECAST, "--json")[1])
    assert found["model"] == "data.safetensors"
    assert (found["task"], found["target"], found["time"], found["horizon"]) == ("forecast", "x", "t", 12)
    assert found["epochs"] == len(found["history"]["loss"]) == len(found["history"]["val_loss"]) == 3
    predictions = json.loads(run("predict", "data.safetensors", table, "--json")[1])["predictions"]
    assert [row["t"] for row in predictions] == months(12, first=2009)
    assert predictions[0].keys() == {"t", "x", "x_lower", "x_upper"}


def test_prediction_goes_to_a_file_as_to_stdout(run):
    table = write_series()
    run("train", table, *FORECAST)
    code, out, err = run("predict", "data.safetensors", table, "--output", "found.csv")
    assert (code, out, err) == (0, "", "Written: found.csv\n")
    assert Path("found.csv").read_text() == run("predict", "data.safetensors", table)[1]


@pytest.mark.parametrize("horizon", [1, 4])
def test_pictures_are_drawn(run, horizon):
    pytest.importorskip("matplotlib")
    table = write_panel()
    assert run("train", table, *FORECAST, "--group", "g", "--horizon", horizon, "--plot", "a.png")[0] == 0
    assert run("predict", "panel.safetensors", table, "--plot", "b.png")[2] == "Picture: b.png\n"
    assert run("backtest", "panel.safetensors", table, "--plot", "c.png")[2] == "Picture: c.png\n"
    for name in ("a.png", "b.png", "c.png"):
        assert Path(name).read_bytes().startswith(b"\x89PNG")


def test_picture_of_a_forecast_needs_one(run):
    pytest.importorskip("matplotlib")
    table = write_sequences()
    run("train", table, *CLASSES)
    code, _, err = run("predict", "data.safetensors", table, "--plot", "a.png")
    assert code == 2
    assert "--plot: of a forecast, got a model to classify" in err


@pytest.mark.parametrize("missing", ["pandas", ".estimators"])
def test_what_is_not_installed_is_named_with_its_extra(run, missing, monkeypatch):
    table = write_series()
    import_module = importlib.import_module

    def without(name, package=None):
        if name == missing:
            raise ImportError(name)
        return import_module(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    code, _, err = run("train", table, *FORECAST)
    assert code == 1
    assert "pip install 'cython-lstm[cli]'" in err
