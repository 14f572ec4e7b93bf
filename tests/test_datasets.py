"""The series that ships: what is promised about it, its README's recipe to make it; the drawn task."""

import re
from importlib import resources

import numpy as np
import pytest
from conftest import TOLERANCES, assert_same_bits

from clstm import datasets


def test_co2_has_no_gaps():
    co2 = datasets.load_co2()
    assert len(co2.values) == len(co2.months) == len(co2.interpolated) == 526
    assert co2.values.dtype == np.float64
    assert np.isfinite(co2.values).all()
    assert co2.months.dtype == np.dtype("datetime64[M]")
    assert (np.diff(co2.months) == np.timedelta64(1, "M")).all()
    assert [str(co2.months[n]) for n in (0, -1)] == ["1958-03", "2001-12"]


def test_co2_is_what_was_measured():
    """In ppm: between 310 and 375, one to two more a year, highest in May, lowest in September or October."""
    co2 = datasets.load_co2()
    assert 310 < co2.values.min() < 315
    assert 370 < co2.values.max() < 375
    assert np.abs(np.diff(co2.values)).max() < 3
    years = co2.values[10:].reshape(-1, 12)  # from January 1959
    assert 0.7 < (years[-1] - years[0]).mean() / (len(years) - 1) < 1.7
    assert np.median(years.argmax(axis=1)) == 4
    assert set(years.argmin(axis=1)) <= {7, 8, 9}


def test_readme_names_the_interpolated_months():
    co2 = datasets.load_co2()
    readme = resources.files(datasets).joinpath("README.md").read_text(encoding="utf-8")
    stated = re.search(r"\*\*([-0-9, ]+)\*\*", readme).group(1).split(", ")
    assert [str(month) for month in co2.months[co2.interpolated]] == stated


def test_each_call_returns_fresh_arrays():
    datasets.load_co2().values[...] = 0
    assert datasets.load_co2().values.all()


def test_file_is_small():
    assert len(resources.files(datasets).joinpath("co2.csv").read_bytes()) < 50_000


def test_readme_says_how_to_make_the_file(tmp_path, monkeypatch):
    pytest.importorskip("statsmodels.datasets.co2", reason="the source is among the data of statsmodels")
    folder = resources.files(datasets)
    (script,) = re.findall(
        r"^```python\n(.*?)^```$", folder.joinpath("README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "datasets/README.md", "exec"), {})
    assert (tmp_path / "co2.csv").read_bytes() == folder.joinpath("co2.csv").read_bytes()


def test_long_term_dependency_shows_the_class_first_and_noise_afterwards():
    x, classes = datasets.long_term_dependency(7, 20_000, 4, noise=0.5, rng=0)
    assert x.shape == (7, 20_000, 4)
    assert classes.shape == (20_000,)
    assert classes.dtype == np.intp
    assert_same_bits(x[0], np.eye(4)[classes])
    tolerance = TOLERANCES["sample mean"]["float64"]
    assert abs(x[1:].mean()) < tolerance
    assert abs(x[1:].std() - 0.5) < tolerance
    assert np.abs(np.bincount(classes, minlength=4) / 20_000 - 0.25).max() < tolerance
    for step in x[1:]:  # nothing later tells the class
        assert np.abs([step[classes == k].mean(axis=0) for k in range(4)]).max() < tolerance


def test_long_term_dependency_repeats_with_its_seed():
    first, again, other = (
        datasets.long_term_dependency(rng=seed) for seed in (1, np.random.default_rng(1), 2)
    )
    assert first[0].shape == (20, 100, 10)
    for a, b in zip(first, again, strict=True):
        assert_same_bits(a, b)
    assert not np.array_equal(first[0], other[0])


def test_long_term_dependency_may_be_silent_short_or_empty():
    x, _ = datasets.long_term_dependency(3, 2, noise=0)
    assert not x[1:].any()
    assert datasets.long_term_dependency(1, 2)[0].shape == (1, 2, 10)
    assert datasets.long_term_dependency(3, 0)[0].shape == (3, 0, 10)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"seq_length": 0}, ValueError, "seq_length: expected at least 1, got 0"),
        ({"num_samples": -1}, ValueError, "num_samples: expected at least 0, got -1"),
        ({"input_size": 0}, ValueError, "input_size: expected at least 1, got 0"),
        ({"seq_length": 2.0}, TypeError, "seq_length: expected an integer, got 2.0"),
        ({"noise": -0.1}, ValueError, "noise: expected at least 0, got -0.1"),
        ({"noise": np.inf}, ValueError, "noise: expected a finite number, got inf"),
        ({"rng": "a"}, TypeError, "rng: expected an integer, got 'a'"),
    ],
)
def test_long_term_dependency_refuses_bad_input(kwargs, error, message):
    with pytest.raises(error, match=message):
        datasets.long_term_dependency(**kwargs)
