"""The command line of the benchmark: `clstm bench`, and its options.

BLAS, torch and jax read the number of their threads from the environment when they are loaded, and NumPy is
loaded by then: so `run` starts a fresh interpreter, unless the environment is already right.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cases import Case
    from .contestants import Contestant

# One thread for everything; rows on more ask the libraries at run time.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "CLSTM_NUM_THREADS": "1",
    "JAX_PLATFORMS": "cpu",
    "NPROC": "1",  # jax's pool of threads
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the benchmark to a parser."""
    parser.add_argument("--full", action="store_true", help="the whole table, about twenty minutes")
    parser.add_argument(
        "--quick", action="store_true", help="a small budget, and no rows that take seconds a call"
    )
    parser.add_argument("--group", nargs="+", default=[], help="only rows of these groups; --list shows them")
    parser.add_argument(
        "--rows", nargs="+", default=[], help="only rows whose name contains one of these strings"
    )
    parser.add_argument(
        "--shape", nargs=4, type=int, metavar=("B", "T", "I", "H"), help="a shape of your own, not the table"
    )
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of --shape")
    parser.add_argument(
        "--threads", type=int, default=1, help="of --shape: threads for each contestant (default 1)"
    )
    parser.add_argument("--contestants", nargs="+", help="only these; the default is all that are installed")
    parser.add_argument(
        "--budget", type=float, help="seconds of timing for each row (default 2, short and quick 0.5)"
    )
    parser.add_argument(
        "--rounds",
        type=int,
        help="at least so many rounds, whatever the budget (default 5, short and quick 3)",
    )
    parser.add_argument("--json", metavar="PATH", help="write everything that was measured")
    parser.add_argument("--list", action="store_true", help="print the rows and stop")


def _complete(options: argparse.Namespace) -> str:
    """Fill in the defaults that depend on other options; return what is wrong with them, if anything."""
    short = not (options.full or options.group or options.rows or options.shape)
    if short:
        options.group = ["short"]
    brief = short or options.quick
    options.budget = (0.5 if brief else 2.0) if options.budget is None else options.budget
    options.rounds = (3 if brief else 5) if options.rounds is None else options.rounds
    if options.shape and min(options.shape) < 1:
        return "--shape: expected four sizes of at least 1"
    if options.threads < 1:
        return f"--threads: expected at least 1, got {options.threads}"
    if options.threads > 1 and not options.shape:
        return "--threads: expected --shape with it; the rows of the table have their own"
    if options.rounds < 1:
        return f"--rounds: expected at least 1, got {options.rounds}"
    if not 0 <= options.budget < math.inf:
        return f"--budget: expected a number of seconds, at least 0, got {options.budget:g}"
    return ""


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Run the benchmark.

    Parameters
    ----------
    options : Namespace
        As `add_options` defines them.
    arguments : sequence of str
        The command line of `clstm` that they were read from.

    Returns
    -------
    int
        Exit code: 1 if clstm computed something wrong, 2 if the options make no sense or choose nothing,
        else 0.
    """
    wrong = _complete(options)
    if wrong:
        print(f"clstm bench: {wrong}", file=sys.stderr)
        return 2
    if not options.list and any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        return subprocess.run(
            [sys.executable, "-m", "clstm", *arguments], env=os.environ | ENVIRONMENT, check=False
        ).returncode
    try:
        chosen_cases, left_out = _choose_cases(options)
        chosen, skipped = _choose_contestants(options, {case.field for case in chosen_cases})
    except ValueError as error:
        print(f"clstm bench: {error}", file=sys.stderr)
        return 2
    if options.list:
        for case in chosen_cases:
            print(f"{', '.join([case.group, *case.tags])}: {case.name}")
        return 0
    for name, reason in skipped.items():
        print(f"{name} is skipped: {reason}")
    report: dict[str, Any] = {"skipped": skipped, "left_out": [case.name for case in left_out]}
    report |= _run(shlex.join(["clstm", *arguments]), options, chosen_cases, chosen)
    if left_out:
        print(f"left out by --quick: {', '.join(report['left_out'])}")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(entry["status"] == "wrong" for row in report["rows"] for entry in _own(row)))


def _own(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what clstm itself ran in a row."""
    return [entry for name, entry in row["contestants"].items() if name in ("clstm", row["yardstick"])]


def _choose_cases(options: argparse.Namespace) -> tuple[list[Case], list[Case]]:
    """Return the cases that were asked for, and those of them that ``--quick`` leaves out."""
    from . import cases

    chosen = cases.of_shape(options.shape, options.dtype, options.threads) if options.shape else cases.CASES
    if options.group:
        chosen = [case for case in chosen if {case.group, *case.tags} & set(options.group)]
    if options.rows:
        chosen = [case for case in chosen if any(part in case.name for part in options.rows)]
    if not chosen:
        raise ValueError("expected options that choose a row, got none; --list --full shows them all")
    left_out = [case for case in chosen if options.quick and case.flops > cases.QUICK_FLOPS]
    return [case for case in chosen if case not in left_out], left_out


def _choose_contestants(
    options: argparse.Namespace, wanted: Collection[str]
) -> tuple[dict[str, list[type[Contestant]]], dict[str, str]]:
    """Return the contestants that can run, by `Case.field`, and why others of the wanted fields cannot."""
    from . import low_precision, numpy_classes, peers

    every: dict[str, Sequence[type[Contestant]]] = {
        "": peers.CONTESTANTS,
        "quantised": low_precision.CONTESTANTS,
        "compat": numpy_classes.CONTESTANTS,
    }
    names = list(dict.fromkeys(kind.name for kinds in every.values() for kind in kinds))
    unknown = set(options.contestants or []) - set(names)
    if unknown:
        raise ValueError(
            f"--contestants: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}"
        )
    chosen: dict[str, list[type[Contestant]]] = {}
    skipped = {}
    for field in sorted(wanted):
        chosen[field] = []
        for kind in every[field]:
            if options.contestants and kind.name not in options.contestants:
                continue
            if kind.missing():
                skipped[kind.name] = f"not installed: {', '.join(kind.missing())}"
            else:
                chosen[field].append(kind)
    return chosen, skipped


def _run(
    command: str,
    options: argparse.Namespace,
    chosen_cases: Sequence[Case],
    chosen: Mapping[str, Sequence[type[Contestant]]],
) -> dict[str, Any]:
    """Measure the rows, print them, and return what ``--json`` writes."""
    from . import measure, report

    about = report.machine()
    rows: list[dict[str, Any]] = []
    print("\n".join(report.header(command, about)))
    for group in dict.fromkeys(case.group for case in chosen_cases):
        group_cases = [case for case in chosen_cases if case.group == group]
        print(f"\n{group}\n")
        contestants = chosen[group_cases[0].field]
        table = report.Table(group_cases, contestants)
        wrong = []
        for case in group_cases:
            row = measure.measure(case, contestants, options.budget, options.rounds)
            rows.append(row)
            table.add(row)
            entries = row["contestants"].items()
            wrong += [
                f"wrong, {case.name}, {name}: {entry['reason']}"
                for name, entry in entries
                if entry["status"] == "wrong"
            ]
        if wrong:
            print("\n" + "\n".join(wrong))
    print("\n" + "\n".join(report.summary(rows)))
    return {"command": command, "machine": about, "tolerances": measure.TOLERANCES, "rows": rows}
