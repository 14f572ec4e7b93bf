"""The examples in the docstrings and in the README run and print what they say."""

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

README = Path(__file__).resolve().parents[1] / "README.md"
NAMESPACE = {"clstm": clstm, "np": np}


def _written_in_python():
    """Names of the modules that are Python text; a kernel build may not even be importable on this processor."""
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
    module = importlib.import_module(name)
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, name):
        _run(example, vars(module) | NAMESPACE)


def test_some_docstrings_hold_examples():
    examples = doctest.DocTestFinder().find(clstm.reference, "clstm.reference")
    assert any(example.examples for example in examples)


def test_readme_examples_run_in_order(tmp_path, monkeypatch):
    """Each python block continues the ones before; those with prompts must also print what they show."""
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    globs = {}
    for number, block in enumerate(blocks, 1):
        if ">>> " in block:
            _run(doctest.DocTestParser().get_doctest(block, globs, f"README block {number}", str(README), 0), globs)
        else:
            exec(compile(block, f"README block {number}", "exec"), globs)
