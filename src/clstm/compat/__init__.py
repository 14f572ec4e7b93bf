"""Drop-in twins of well-known from-scratch NumPy LSTMs, on the kernels: change the import, keep the program.

Each submodule has the classes of one original: same constructor, methods, attributes, initial weights and
caches.
`accelerate` does it for a class of one's own.  See docs/compat.md.
"""

from . import gate_inspection, last_state, sequence_regressor, step_readout, step_sequence
from ._accelerate import accelerate

__all__ = [
    "accelerate",
    "gate_inspection",
    "last_state",
    "sequence_regressor",
    "step_readout",
    "step_sequence",
]
