"""The examples in the docstrings, in the README and in docs/ run and print what they say."""

import doctest
import importlib
import importlib.util
import io
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest

import clstm

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMESPACE = {"clstm": clstm, "np": np}
# What an optional package is known by.
NEEDED = {
    "import torch": "torch",
    "clstm.torch": "torch",
    "clstm.estimators": "sklearn",
    "savefig": "matplotlib",
}


def _written_in_python():
    """Names of the modules that are Python text; not every kernel build can be imported on this processor."""
    names = ["clstm", *(module.name for module in pkgutil.walk_packages(clstm.__path__, "clstm."))]
    origins = {name: importlib.util.find_spec(name).origin for name in names if not name.endswith("__main__")}
    return sorted(name for name, origin in origins.items() if origin and origin.endswith(".py"))


def _run(example, globs):
    """Run one doctest in `globs`, which keeps the names that it leaves behind, and fail with its report."""
    report = io.StringIO()
    example.globs = globs
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    failed, _ = runner.run(example, out=report.write, clear_globs=False)
    assert not failed, report.getvalue()


@pytest.mark.parametrize("name", _written_in_python())
def test_docstring_examples_print_what_they_say(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name.startswith("clstm.torch"):
        pytest.importorskip("torch")
    if name.startswith("clstm.estimators"):
        pytest.importorskip("sklearn", minversion="1.6")
    if name == "clstm.estimators.times":
        pytest.importorskip("pandas")
    module = importlib.import_module(name)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        _run(example, vars(module) | NAMESPACE)


def test_some_docstrings_hold_examples():
    examples = doctest.DocTestFinder().find(clstm.reference, "clstm.reference")
    assert any(example.examples for example in examples)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_of_a_page_run_in_order(page, tmp_path, monkeypatch):
    """Each python block continues the ones before; those with prompts must also print what they show.

    A block marked `py` shows what needs files or packages that are not here.  One that needs a package that
    is not installed is left out: no other depends on it.
    """
    monkeypatch.chdir(tmp_path)
    globs = {}
    for number, block in enumerate(_python_blocks(page), 1):
        name = f"{page.name} block {number}"
        if any(text in block and not importlib.util.find_spec(name) for text, name in NEEDED.items()):
            continue
        if ">>> " in block:
            _run(doctest.DocTestParser().get_doctest(block, globs, name, str(page), 0), globs)
        else:
            exec(compile(block, name, "exec"), globs)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_have_no_gaps(page):
    assert "@@" not in page.read_text(encoding="utf-8")


def test_the_readme_holds_examples():
    assert _python_blocks(PAGES[0])


def _python_blocks(page):
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
