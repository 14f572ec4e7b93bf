"""What lets `torch.compile` look into our module: by itself it refuses everything derived from nn.LSTM.

The refusal stands in the function that wraps modules, under a setting for all recurrent modules,
``torch._dynamo.config.allow_rnn``.  It is lifted for exactly our class, as soon as the compiler is there;
importing it for everybody would cost more than a second.  Where a version of PyTorch has no such function,
the module stays outside the compiled graph, as PyTorch's own does.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any

_BUILDER = "torch._dynamo.variables.builder"


def admit(module_class: type) -> None:
    """Let the compiler trace calls of modules of a class."""
    if _BUILDER in sys.modules:
        _lift(sys.modules[_BUILDER], module_class)
    else:
        sys.meta_path.insert(0, _WhenImported(module_class))


def _lift(builder: Any, module_class: type) -> None:
    def wrap(self: Any, value: Any) -> Any:
        with builder.config.patch(allow_rnn=True):
            return self.wrap_module(value)

    with suppress(AttributeError):
        builder.VariableBuilder._type_dispatch()[module_class] = wrap  # noqa: SLF001


class _WhenImported(importlib.abc.MetaPathFinder):
    """Finds one module as everybody else does, and does its work after its import."""

    def __init__(self, module_class: type) -> None:
        self._module_class = module_class

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _BUILDER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def then_lift(module: ModuleType) -> None:
                execute(module)
                _lift(module, self._module_class)

            spec.loader.exec_module = then_lift  # type: ignore[method-assign]
        return spec
