"""What is printed: the header, a table for each group as its rows come, and the summary."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import clstm

from . import limits, numpy_classes
from .cases import FLOOR, Case
from .contestants import Contestant
from .measure import OWN

MODULES = ("clstm_torch", "clstm_frozen")
VERSIONED = ("numpy", "torch", "onnxruntime", "openvino", "jax")
LEGEND = (
    "us: median over the rounds, the contestants in turns, beside it clstm's best; "
    "peers as a multiple of clstm's.\n"
    "limit: the least time that the machine's limits allow, as a share of clstm's, "
    "and the limit that binds.\n"
    'Each goal stands behind what was reached; "by share": the ratio would take more than 90 % of the limit, '
    "and its share is judged instead."
)


def machine() -> dict[str, Any]:
    """Return what the figures depend on: processor, build, versions."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions: dict[str, str | None] = {}
    for module in VERSIONED:
        try:
            versions[module] = metadata.version(module)
        except metadata.PackageNotFoundError:
            versions[module] = None
    blas: Any = np.show_config(mode="dicts")
    caches, known = limits.cache_sizes()
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "cores_usable": affinity,
        "caches": caches,
        "caches_known": known,
        "load": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "clstm": clstm.show_config(),
        "blas": blas["Build Dependencies"]["blas"],
        "versions": versions,
    }


def header(command: str, about: Mapping[str, Any]) -> list[str]:
    """Return the lines that precede the tables."""
    config, blas = about["clstm"], about["blas"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    usable = "" if about["cores_usable"] == about["cores"] else f" ({about['cores_usable']} usable)"
    load = f", load {about['load'][0]:.1f}" if about["load"] else ""
    caches = ", ".join(f"{level} {size >> 10} KB" for level, size in about["caches"].items())
    return [
        f"command: {command}",
        f"processor: {about['processor']}, cores {about['cores']}{usable}{load}; {caches}"
        + ("" if about["caches_known"] else " (assumed)"),
        f"clstm {config['version']}, build {config['build']}, vectors of {config['vector_bytes']} bytes; "
        "one thread for each contestant where the row says no other",
        f"Python {config['python']}, {versions}; BLAS of NumPy: {blas.get('name')} {blas.get('version')}",
        LEGEND,
    ]


class Table:
    """Prints one group's rows as they come, as Markdown that reads well on a terminal, too."""

    def __init__(self, group_cases: Sequence[Case], chosen: Sequence[type[Contestant]]) -> None:
        columns = [kind.name for kind in chosen if any(kind.supports(case) for case in group_cases)]
        self.peers = [name for name in columns if name != OWN]
        self.yardsticks = any(case.yardstick for case in group_cases)
        self.name_width = max(len("kind B T I H"), *(len(case.name) for case in group_cases))
        titles = [
            "clstm us",
            "best",
            *(f"{name} us" for name in self.peers),
            "best peer",
            "against itself",
            "GFLOP/s",
            "limit",
        ]
        own = 21 if any(case.microseconds_goal for case in group_cases) else 8
        # A ratio with a name, and the goals behind it.
        best_peer = max([26, *(len("0.00x ") + len(name) for name in self.peers)])
        for text, goals in (
            (" (0.97x: yes)", [case.peer_goal for case in group_cases]),
            (", by share", [case.share_goal and (case.peer_goal or 0) > FLOOR for case in group_cases]),
            (" (torch 40x: yes)", [case.torch_goal for case in group_cases]),
            (" (plain_class 12x: yes)", [case.class_goal for case in group_cases]),
            (", by share", [case.share_goal and case.class_goal for case in group_cases]),
        ):
            best_peer += len(text) if any(goals) else 0
        best_peer = max(
            [best_peer, *(36 * (1 + bool(case.frozen_goal)) for case in group_cases if case.module)]
        )
        self.widths = [own, 7, *(max(15, len(title)) for title in titles[2:-4]), best_peer, 32, 7, 20]
        self._line("kind B T I H", titles)
        rules = ("-" * (width + 1) + ":" for width in self._shown(self.widths))
        print("|".join(["", "-" * (self.name_width + 2), *rules, ""]))

    def _shown(self, cells: Sequence[Any]) -> list[Any]:
        """Leave the column of yardsticks out of groups that have none."""
        return [*cells] if self.yardsticks else [*cells[:-3], *cells[-2:]]

    def _line(self, name: str, cells: Sequence[str]) -> None:
        pairs = zip(self._shown(cells), self._shown(self.widths), strict=True)
        print(
            f"| {name.ljust(self.name_width)} | {' | '.join(cell.rjust(width) for cell, width in pairs)} |",
            flush=True,
        )

    def add(self, row: Mapping[str, Any]) -> None:
        """Print one row."""
        entries = row["contestants"]
        goals = {goal["what"]: goal for goal in row["goals"]}

        def time(name: str) -> str:
            entry = entries.get(name, {"status": "not chosen"})
            if entry["status"] != "timed":
                return "wrong" if entry["status"] == "wrong" else "-"
            ratio = f" ({_figure(entry['ratio'])}x)" if "ratio" in entry else ""
            return microseconds(entry["median"]) + ratio

        def judged(text: str, *whats: str) -> str:
            return " ".join([text, *(verdict(goals[what]) for what in whats if what in goals)])

        own = entries.get(OWN, {})
        peer, yardstick, limit = row["best_peer"], row["yardstick"], row["limit"]
        compared = peer and "ratio" in entries[peer]
        best_peer = f"{entries[peer]['ratio']:.2f}x {peer}" if compared else "no peer installed or chosen"
        itself = entries.get(yardstick, {})
        cells = [
            judged(time(OWN), "microseconds"),
            microseconds(own["best"]) if "best" in own else "-",
            *map(time, self.peers),
            " ".join(modules)
            if (modules := [_module(goals[name]) for name in MODULES if name in goals])
            else judged(best_peer, "best peer", "torch", numpy_classes.Original.name),
            judged(f"{itself['ratio']:.2f}x {yardstick}", yardstick) if "ratio" in itself else "-",
            f"{row['gflops']:.1f}" if row["gflops"] else "-",
            judged(f"{limit['share']:.0%} {limit['bound']}", "limit") if limit else "-",
        ]
        self._line(row["name"], cells)


def _module(goal: Mapping[str, Any]) -> str:
    """Return what a module on the kernels reached against PyTorch's own."""
    reached = "torch: not timed" if goal["reached"] is None else f"torch {_figure(goal['reached'])}x"
    return f"{reached} {goal['what']} {verdict(goal)}"


def verdict(goal: Mapping[str, Any]) -> str:
    """Return a goal and whether it is met: "(1.8x: yes)"."""
    answer = {True: "yes", False: "no", None: "no peer"}[goal["met"]]
    name = f"{goal['what']} " if goal["what"] in ("torch", numpy_classes.Original.name) else ""
    instead = ", by share" if goal["by_share"] else ""
    return f"({name}{_with_unit(goal, goal['goal'])}{instead}: {answer})"


def _with_unit(goal: Mapping[str, Any], value: float) -> str:
    """Write a goal, or what was reached, with what it counts."""
    if goal["what"] == "limit":
        return f"{100 * value:.3g}%"
    return f"{value:.3g} us" if goal["what"] == "microseconds" else f"{value:.3g}x"


def _figure(value: float) -> str:
    """Write a ratio with three digits or all of its integer ones."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def microseconds(seconds: float) -> str:
    """Write a time with three digits or all of its integer ones."""
    return _figure(1e6 * seconds)


def summary(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the limits that were measured beside the rows, and which goals were met and missed."""
    rates: dict[str, list[Mapping[str, float]]] = {}
    for row in rows:
        if row["limit"]:
            for name, rate in row["limit"]["rates"].items():
                key = f"products {row['dtype']}" if name == "product" else f"reading {row['limit']['bound']}"
                rates.setdefault(key, []).append(rate)
    measured = []
    for key, found in sorted(rates.items()):
        middle, best = median(rate["median"] for rate in found), max(rate["best"] for rate in found)
        measured.append(f"{key} {1e-9 * middle:.0f} ({1e-9 * best:.0f})")
    every = [(row["name"], goal) for row in rows for goal in row["goals"]]
    judged = [(name, goal) for name, goal in every if goal["met"] is not None]
    missed = [(name, goal) for name, goal in judged if not goal["met"]]
    lines = []
    if measured:
        lines.append(f"limits beside the rows, median (best), GFLOP/s and GB/s: {', '.join(measured)}")
    if every:
        left = len(every) - len(judged)
        unjudged = f"; {left} could not be judged: nothing to compare with" if left else ""
        shares = sum(goal["by_share"] for _, goal in judged)
        by_share = f", {shares} of them judged by the share of the limit" if shares else ""
        lines.append(f"goals met: {len(judged) - len(missed)} of {len(judged)}{by_share}{unjudged}")
    for name, goal in missed:
        reached, wanted = (_with_unit(goal, goal[key]) for key in ("reached", "goal"))
        lines.append(f"missed, {name}, {goal['what']}: {reached}, the goal is {wanted}")
    return lines
