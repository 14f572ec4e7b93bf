"""The series that ships: what is promised about it, and that its README says how to make it."""

import re
from importlib import resources

import numpy as np
import pytest

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
    (script,) = re.findall(r"^```python\n(.*?)^```$", folder.joinpath("README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "datasets/README.md", "exec"), {})
    assert (tmp_path / "co2.csv").read_bytes() == folder.joinpath("co2.csv").read_bytes()
