"""Files: what 0.1.0 wrote still loads; damage, hostile contents and interrupted writes do no harm.

tests/golden/lstm-0.1.0-*.safetensors were written by `LSTM.save` of 0.1.0, and lstm-0.1.0.npz holds x, state,
lengths and what 0.1.0 computed from them with ``backend="numpy"``, under "<case>/<name>".
"""

from pathlib import Path

import numpy as np
import pytest
from conftest import assert_close

import clstm

GOLDEN = Path(__file__).parent / "golden"
CASES = ("stacked", "plain", "two_layers")


def golden_file(case):
    return GOLDEN / f"lstm-0.1.0-{case}.safetensors"


# ---------------------------------------------------------------------------------------------- format 1


@pytest.mark.parametrize("case", CASES)
def test_file_of_0_1_0_computes_what_0_1_0_computed(case, backend):
    with np.load(GOLDEN / "lstm-0.1.0.npz") as archive:
        d = {name.removeprefix(f"{case}/"): archive[name] for name in archive.files if name.startswith(case)}
    lstm = clstm.LSTM.load(golden_file(case), backend=backend)
    y, (h_n, c_n) = lstm(d["x"], (d["h_0"], d["c_0"]), d["lengths"])
    for name, value in (("y", y), ("h_n", h_n), ("c_n", c_n)):
        assert_close(value, d[name], "forward", name)
