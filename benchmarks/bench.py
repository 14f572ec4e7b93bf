"""Runs the cases: verify each contestant, then time them in turns, then compare with the machine's limits.

Nothing is timed that was not checked: a contestant whose results differ from what the definition computes in float64 is
reported as wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import clstm

from . import cases, limits
from .cases import Case
from .contestants import CONTESTANTS, Contestant, Problem, Results

# What tells a slip from rounding: largest difference of states, and of a gradient relative to its largest entry.  The
# package's own, tighter promises are tested elsewhere; the error of each contestant is in the JSON.
TOLERANCES = {
    "float32": {"states": 2e-5, "gradients": 1e-4},
    "float64": {"states": 1e-11, "gradients": 1e-10},
}
SAMPLE_SECONDS = 2e-3  # short calls are repeated until a sample takes so long
LIMIT_SECONDS = 4.0  # for all limits; --quick takes a quarter of it
VERSIONED = ("numpy", "torch", "onnxruntime", "onnx", "threadpoolctl")
OWN = CONTESTANTS[0].name  # what the others are compared with
LEGEND = (
    "Times: median over the rounds, the contestants in turns; in parentheses as a multiple of clstm's.\n"
    "limit: the least time that the machine's limits allow, as a share of clstm's, and the limit that binds."
)


@dataclass
class Timing:
    """Seconds a call, one entry a round."""

    calls: int  # calls in a sample
    samples: list[float]

    @property
    def median(self) -> float:
        """The middle sample."""
        return median(self.samples)

    @property
    def best(self) -> float:
        """The shortest sample."""
        return min(self.samples)


def errors(results: Results, expected: Results) -> dict[str, float]:
    """Return how far results are from what was expected: states in absolute terms, gradients relative to their largest entry.

    Parameters
    ----------
    results, expected : dict of str to ndarray
        By the names of `Contestant.results`.

    Returns
    -------
    dict of str to float
        Infinity where a result is absent, or has another shape.
    """
    found = {}
    for name, wanted in expected.items():
        got = results.get(name)
        if got is None or got.shape != wanted.shape:
            found[name] = float("inf")
            continue
        scale = max(float(np.abs(wanted).max(initial=0.0)), 1e-30) if name.startswith("d") else 1.0
        error = float(np.abs(got - wanted).max(initial=0.0)) / scale
        found[name] = error if error == error else float("inf")
    return found


def complaint(found: Mapping[str, float], dtype: str) -> str:
    """Say which results are out of tolerance; empty if none is."""
    bad = []
    for name, error in found.items():
        tolerance = TOLERANCES[dtype]["gradients" if name.startswith("d") else "states"]
        if not error <= tolerance:
            bad.append(f"{name} is off by {error:.1e} (tolerance {tolerance:.0e})")
    return ", ".join(bad)


def interleave(contestants: Mapping[str, Contestant], budget: float, rounds: int, pause: float) -> dict[str, Timing]:
    """Time contestants in turns, one sample each a round, each round starting with another one.

    Parameters
    ----------
    contestants : mapping of str to Contestant
    budget : float
        Seconds after which no further round begins.
    rounds : int
        At least so many.
    pause : float
        Seconds between two samples, for threads of the last contestant that still spin.

    Returns
    -------
    dict of str to Timing
    """

    def sample(contestant: Contestant, calls: int) -> float:
        call = contestant.call
        with contestant.scope():
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) / calls

    timings = {}
    for name, contestant in contestants.items():
        once = min(sample(contestant, 1) for _ in range(2))
        timings[name] = Timing(max(1, round(SAMPLE_SECONDS / once)), [])
    order = list(contestants)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + budget
        done = 0
        while order and (done < rounds or time.perf_counter() < end):
            for name in order:
                if pause:
                    time.sleep(pause)
                timings[name].samples.append(sample(contestants[name], timings[name].calls))
            order = order[1:] + order[:1]
            done += 1
    finally:
        if collecting:
            gc.enable()
    return timings


def measure(
    case: Case, chosen: Sequence[type[Contestant]], options: argparse.Namespace, machine_limits: dict[str, Any]
) -> dict[str, Any]:
    """Verify and time one case.

    Parameters
    ----------
    case : Case
    chosen : sequence of Contestant classes
        All installed.
    options : Namespace
        ``budget``, ``rounds`` and ``threads`` are used.
    machine_limits : dict
        As `limits.measure` returns it.

    Returns
    -------
    dict
        One entry of ``rows`` in the JSON; times in seconds.
    """
    problem = Problem.of(case)
    expected = problem.expected()
    entries: dict[str, dict[str, Any]] = {}
    fit = {}
    for kind in chosen:
        if not kind.supports(case):
            entries[kind.name] = {"status": "unsupported"}
            continue
        contestant = kind(problem, options.threads)
        with contestant.scope():
            found = errors(contestant.results(contestant.call()), expected)
        reason = complaint(found, case.dtype)
        entries[kind.name] = {"status": "wrong" if reason else "timed", "reason": reason, "errors": found}
        if not reason:
            fit[kind.name] = contestant
    del expected
    for name, timing in interleave(fit, options.budget, options.rounds, 0.005 if options.threads > 1 else 0.0).items():
        entries[name] |= {
            "median": timing.median,
            "best": timing.best,
            "rounds": len(timing.samples),
            "calls": timing.calls,
            "samples": timing.samples,
        }

    peers = [name for name in fit if name != OWN]
    best_peer = min(peers, key=lambda name: entries[name]["median"], default=None)
    row: dict[str, Any] = {
        "name": case.name,
        **{
            field: getattr(case, field) for field in ("group", "kind", "B", "T", "I", "H", "dtype", "unequal", "steps", "flops")
        },
        "contestants": entries,
        "best_peer": best_peer,
        "ratio": None,
        "gflops": None,
        "limit": limits.least_seconds(case, machine_limits),
        "share": None,
    }
    if OWN in fit:
        seconds = entries[OWN]["median"]
        row["gflops"] = 1e-9 * case.flops / seconds
        row["share"] = row["limit"]["seconds"] / seconds
        for name in peers:
            entries[name]["ratio"] = entries[name]["median"] / seconds
        if best_peer:
            row["ratio"] = entries[best_peer]["ratio"]
    return row


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the figures depend on: processor, build, threads, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions: dict[str, str | None] = {}
    for module in VERSIONED:
        try:
            versions[module] = metadata.version(module)
        except metadata.PackageNotFoundError:
            versions[module] = None
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "cores_usable": affinity,
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "clstm": clstm.show_config(),
        "threads": options.threads,
        "blas": _blas(),
        "versions": versions,
    }


def _limited_blas(threads: int) -> AbstractContextManager[Any]:
    """Limit the BLAS that NumPy has loaded; without threadpoolctl only the environment does."""
    try:
        import threadpoolctl
    except ImportError:
        return nullcontext()
    return threadpoolctl.threadpool_limits(threads, user_api="blas")  # type: ignore[no-any-return]


def _blas() -> list[str]:
    """Name the BLAS that NumPy has loaded; empty without threadpoolctl."""
    try:
        import threadpoolctl
    except ImportError:
        return []
    return [
        f"{pool['internal_api']} {pool['version']}, kernels for {pool.get('architecture', '?')}, threads {pool['num_threads']}"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    ]


def header(report: dict[str, Any]) -> list[str]:
    """Return the lines that precede the table."""
    about, measured = report["machine"], report["limits"]
    config = about["clstm"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    usable = "" if about["cores_usable"] == about["cores"] else f" ({about['cores_usable']} usable)"
    load = f", load {about['load'][0]:.1f}" if about["load"] else ""
    caches = ", ".join(f"{level} {size >> 10} KB" for level, size in measured["caches"].items())
    return [
        f"command: {report['command']}",
        f"processor: {about['processor']}, cores {about['cores']}{usable}{load}; {caches}"
        + ("" if measured["caches_known"] else " (assumed)"),
        f"clstm {config['version']}, build {config['build']}, vectors of {config['vector_bytes']} bytes; "
        f"threads for each contestant: {about['threads']}",
        f"Python {config['python']}, {versions}",
        *(f"BLAS of NumPy: {name}" for name in about["blas"]),
        *limit_lines("limits", measured),
    ]


def limit_lines(title: str, measured: dict[str, Any]) -> list[str]:
    """Say what the machine can do, best (median)."""
    gemm, read = measured["gemm"], measured["read"]
    products = ", ".join(f"{dtype} {rate['best']:.0f} ({rate['median']:.0f})" for dtype, rate in gemm.items())
    reading = ", ".join(f"{level} {rate['best']:.0f} ({rate['median']:.0f})" for level, rate in read.items())
    return [f"{title}, best (median): products {products} GFLOP/s; reading {reading} GB/s"]


class Table:
    """Prints one group's rows as they come, as Markdown that reads well on a terminal, too."""

    def __init__(self, group_cases: Sequence[Case], chosen: Sequence[type[Contestant]]) -> None:
        columns = [kind.name for kind in chosen if any(kind.supports(case) for case in group_cases)]
        self.peers = [name for name in columns if name != OWN]
        self.name_width = max(len("kind B T I H"), *(len(case.name) for case in group_cases))
        titles = ["clstm us", *(f"{name} us" for name in self.peers), "best peer", "GFLOP/s", "limit"]
        self.widths = [8, *(max(17, len(title)) for title in titles[1:-3]), 21, 7, 9]
        self._line("kind B T I H", titles)
        print("|".join(["", "-" * (self.name_width + 2), *("-" * (width + 1) + ":" for width in self.widths), ""]))

    def _line(self, name: str, cells: Sequence[str]) -> None:
        padded = " | ".join(cell.rjust(width) for cell, width in zip(cells, self.widths, strict=True))
        print(f"| {name.ljust(self.name_width)} | {padded} |", flush=True)

    def add(self, row: dict[str, Any]) -> None:
        """Print one row."""
        entries = row["contestants"]

        def cell(name: str) -> str:
            entry = entries.get(name, {"status": "not chosen"})
            if entry["status"] != "timed":
                return "wrong" if entry["status"] == "wrong" else "-"
            ratio = f" ({entry['ratio']:.2f}x)" if "ratio" in entry else ""
            return microseconds(entry["median"]) + ratio

        best = f"{row['ratio']:.2f}x {row['best_peer']}" if row["ratio"] else row["best_peer"] or "-"
        gflops = f"{row['gflops']:.1f}" if row["gflops"] else "-"
        share = f"{row['share']:.0%} {row['limit']['bound']}" if row["share"] else "-"
        self._line(row["name"], [cell(OWN), *map(cell, self.peers), best, gflops, share])


def microseconds(seconds: float) -> str:
    """Write a time with three digits or all of its integer ones."""
    value = 1e6 * seconds
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def choose_cases(options: argparse.Namespace) -> tuple[list[Case], list[Case]]:
    """Return the cases that were asked for, and those of them that ``--quick`` leaves out."""
    chosen = cases.of_shape(options.shape, options.dtype) if options.shape else cases.CASES
    if options.group:
        chosen = [case for case in chosen if {case.group, *case.also} & set(options.group)]
    if options.rows:
        chosen = [case for case in chosen if any(part in case.name for part in options.rows)]
    left_out = [case for case in chosen if options.quick and case.flops > cases.QUICK_FLOPS]
    return [case for case in chosen if case not in left_out], left_out


def choose_contestants(options: argparse.Namespace) -> tuple[list[type[Contestant]], dict[str, str]]:
    """Return the contestants that can run, and why the others cannot; an unknown name is a ValueError."""
    names = [kind.name for kind in CONTESTANTS]
    unknown = set(options.contestants or []) - set(names)
    if unknown:
        raise ValueError(f"--contestants: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    wanted = [kind for kind in CONTESTANTS if not options.contestants or kind.name in options.contestants]
    skipped = {kind.name: f"not installed: {', '.join(kind.missing())}" for kind in wanted if kind.missing()}
    return [kind for kind in wanted if kind.name not in skipped], skipped


def run(options: argparse.Namespace) -> int:
    """Run what the command line asks for and print it.

    Parameters
    ----------
    options : Namespace
        As ``benchmarks.__main__.parse`` returns it.

    Returns
    -------
    int
        Exit status: 1 if clstm computed something wrong, 2 if nothing was chosen, else 0.
    """
    chosen_cases, left_out = choose_cases(options)
    if options.list:
        for case in chosen_cases:
            print(f"{', '.join([case.group, *case.also])}: {case.name}")
        return 0
    try:
        chosen, skipped = choose_contestants(options)
    except ValueError as error:
        print(error)
        return 2
    for name, reason in skipped.items():
        print(f"{name} is skipped: {reason}")
    if not chosen_cases or not chosen:
        print("no row was chosen; --list shows them all" if not chosen_cases else "no contestant is installed")
        return 2

    with _limited_blas(options.threads):
        report = _report(options, chosen_cases, chosen)
    report |= {"skipped": skipped, "left_out": [case.name for case in left_out]}
    if left_out:
        print(f"left out by --quick: {', '.join(report['left_out'])}")
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any(row["contestants"].get(OWN, {}).get("status") == "wrong" for row in report["rows"]))


def _report(options: argparse.Namespace, chosen_cases: Sequence[Case], chosen: Sequence[type[Contestant]]) -> dict[str, Any]:
    """Measure limits and rows, print them, and return what ``--json`` writes."""
    limit_seconds = min(LIMIT_SECONDS / (4 if options.quick else 1), 2 * options.budget)
    report: dict[str, Any] = {
        "command": options.command,
        "machine": machine(options),
        "limits": limits.measure(limit_seconds),
        "tolerances": TOLERANCES,
        "rows": [],
    }
    print("\n".join([*header(report), "", LEGEND]))
    for group in dict.fromkeys(case.group for case in chosen_cases):
        group_cases = [case for case in chosen_cases if case.group == group]
        print(f"\n{group}\n")
        table = Table(group_cases, chosen)
        notes = []
        for case in group_cases:
            row = measure(case, chosen, options, report["limits"])
            report["rows"].append(row)
            table.add(row)
            entries = row["contestants"].items()
            notes += [f"wrong, {case.name}, {name}: {entry['reason']}" for name, entry in entries if entry["status"] == "wrong"]
        if notes:
            print("\n" + "\n".join(notes))
    report["limits_after"] = limits.measure(limit_seconds)
    print("\n" + "\n".join(limit_lines("limits after the last row", report["limits_after"])))
    return report
