"""The command line of the benchmark: `python -m benchmarks`, from the top of the repository.

NumPy is imported only after the thread limits are in the environment: BLAS reads them once, when it is loaded.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

THREAD_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "OMP_NUM_THREADS",
    "CLSTM_NUM_THREADS",
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Verify, then time, LSTMs on this processor.")
    parser.add_argument("--group", nargs="+", default=[], help="only rows of these groups; --list shows them")
    parser.add_argument("--rows", nargs="+", default=[], help="only rows whose name contains one of these strings")
    parser.add_argument("--shape", nargs=4, type=int, metavar=("B", "T", "I", "H"), help="one shape of your own, not the table")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of --shape")
    parser.add_argument("--contestants", nargs="+", help="only these; the default is all that are installed")
    parser.add_argument("--budget", type=float, help="seconds of timing for each row (default 2, with --quick 0.3)")
    parser.add_argument("--rounds", type=int, help="at least so many rounds, whatever the budget (default 5, with --quick 3)")
    parser.add_argument("--threads", type=int, default=1, help="threads for each contestant (default 1)")
    parser.add_argument("--quick", action="store_true", help="a small budget, and no rows that take seconds a call")
    parser.add_argument("--json", metavar="PATH", help="write everything that was measured")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")
    options = parser.parse_args(argv)
    if options.shape and min(options.shape) < 1:
        parser.error("--shape: expected four sizes of at least 1")
    if options.threads < 1:
        parser.error("--threads: expected at least 1")
    if options.budget is None:
        options.budget = 0.3 if options.quick else 2.0
    if options.rounds is None:
        options.rounds = 3 if options.quick else 5
    if options.rounds < 1:
        parser.error("--rounds: expected at least 1")
    options.command = " ".join(["python -m benchmarks", *argv])
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process if omitted.

    Returns
    -------
    int
        Exit status: 1 if clstm computed something wrong, 2 if no row was chosen, else 0.
    """
    options = parse(sys.argv[1:] if argv is None else argv)
    if "numpy" not in sys.modules:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(options.threads)))
    from . import bench

    return bench.run(options)


if __name__ == "__main__":
    sys.exit(main())
