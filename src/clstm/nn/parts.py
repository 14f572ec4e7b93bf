"""class Part: what optimisers, schedules and early stopping share, their arguments and their state as data.

With both a checkpoint makes a part anew: ``Class(**arguments)`` and then `load_state_dict`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from .. import _check

Check = Callable[[str, Any], Any]


class Part:
    """Base of what training consists of beside layers and a loss.

    Parameters
    ----------
    arguments : mapping of str to what JSON has
        Arguments of the constructor, checked.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._arguments = dict(arguments)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor, as JSON has them; a copy, for they stay as they are."""
        return copy.deepcopy(self._arguments)

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in self._arguments.items())
        return f"{type(self).__name__}({listed})"

    def state_checks(self) -> dict[str, Check]:
        """Return the names of the attributes that training changes, each with the check of a new value."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the class and a copy of everything that training changes."""
        state = {name: copy.deepcopy(getattr(self, name)) for name in self.state_checks()}
        return {"class": type(self).__name__} | state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state; either all of it is taken or nothing.

        Parameters
        ----------
        state_dict : mapping
            As `state_dict` of an object of the same class returns it.

        Raises
        ------
        ValueError, TypeError
            It is of another class, an entry is missing or unexpected, or a value does not fit.
        """
        checks = self.state_checks()
        _check.entries("state_dict", state_dict, ["class", *checks], True)
        _check.choice("state_dict['class']", state_dict["class"], (type(self).__name__,))
        checked = {name: check(f"state_dict[{name!r}]", state_dict[name]) for name, check in checks.items()}
        for name, value in checked.items():
            setattr(self, name, value)
