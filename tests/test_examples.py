"""The examples run from their files alone, find what they claim, and save their pictures."""

from pathlib import Path

import pytest
from conftest import run_python

EXAMPLES = sorted(
    path for path in (Path(__file__).resolve().parents[1] / "examples").glob("*.py") if path.name[0] != "_"
)
# Runs a script as `python script.py arguments` does.
RUN = """
import os, runpy, sys
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


PATIENCE = 600  # seconds: for a script that hangs, not for a slow machine


@pytest.fixture(scope="module")
def settings_of_matplotlib(tmp_path_factory):
    """A folder with the cache of fonts, so that no script says that it makes one."""
    pytest.importorskip("matplotlib")
    folder = str(tmp_path_factory.mktemp("matplotlib"))
    made = run_python("import matplotlib.font_manager", timeout=PATIENCE, MPLCONFIGDIR=folder)
    assert made.returncode == 0, made.stderr
    return folder


def test_there_are_examples():
    assert {"gates", "gradient_flow", "lstm_against_rnn"} <= {path.stem for path in EXAMPLES}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_finds_what_it_claims_and_saves_its_picture(path, tmp_path, settings_of_matplotlib):
    """Its exit code is 0 only if the claim holds."""
    folder = tmp_path / "pictures"
    arguments = (str(path), "--quick", "--output", str(folder))
    result = run_python(RUN, *arguments, timeout=PATIENCE, MPLCONFIGDIR=settings_of_matplotlib)
    assert result.returncode == 0, result.stdout + result.stderr
    assert not result.stderr
    pictures = list(folder.glob("*.png"))
    assert pictures
    for picture in pictures:
        assert str(picture) in result.stdout
        assert picture.read_bytes().startswith(b"\x89PNG")
