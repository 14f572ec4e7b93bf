"""What every layer does with its named parameters: copy them out, copy them in, all or none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check

Array = NDArray[Any]


class Parameters:
    """Base of the layers: `state_dict` and `load_state_dict` over the live views in `params`."""

    params: dict[str, Array]
    dtype: np.dtype[Any]

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all parameters by name."""
        return {name: value.copy(order="C") for name, value in self.params.items()}

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Copy parameters in from a mapping of names to arrays; either all are taken or none.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            As `state_dict` returns it.
        strict : bool, default True
            Refuse missing and unexpected names.  With False both are passed over; shapes are checked all the
            same.

        Raises
        ------
        ValueError, TypeError
            A name is missing or unexpected, or an entry has another shape or no real numbers.
        """
        _check.entries("state_dict", state_dict, self.params, _check.boolean("strict", strict))
        taken = {
            # A copy, for an entry may be a view of these parameters.
            name: _check.shaped(f"state_dict[{name!r}]", state_dict[name], self.dtype, value.shape).copy()
            for name, value in self.params.items()
            if name in state_dict
        }
        for name, value in taken.items():
            self.params[name][...] = value
