"""One row: verify each contestant, time them in turns, and judge what clstm reached.

Nothing is timed that was not checked: a contestant whose results differ from what the definition computes in
float64 is reported as wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from . import limits, numpy_classes
from .cases import FLOOR, Case
from .contestants import Clstm, Contestant, NumPy, Problem, Results
from .timing import Timed, Timing, interleave

# What tells a slip from rounding: largest difference of states, and of a gradient relative to its largest
# entry.  The package's own, tighter promises are tested elsewhere; the error of each contestant is in the
# JSON.  What is quantised is no rounding of the definition's results: with weights of fewer bits a state is
# off by a hundredth, with activations of 8 bits as well by some hundredths.  A gate in another's place or a
# scale that is wrong is off by some tenths.
TOLERANCES = {
    "float32": {"states": 2e-5, "gradients": 1e-4},
    "float64": {"states": 1e-11, "gradients": 1e-10},
    "bfloat16": {"states": 3e-2},
    "int8": {"states": 3e-2},
    "int8 activations": {"states": 0.1},
}
AT_LIMIT = 0.9  # share of the limit beyond which no ratio is asked for: nobody gets there everywhere
SPIN_SECONDS = 0.02  # how long threads of a library may spin after a call
OTHERS = ("best peer", "torch", numpy_classes.Original.name)  # goals of ratios to other contestants
OWN = Clstm.name  # what the others are compared with


def errors(results: Results, expected: Results) -> dict[str, float]:
    """Return how far results are from what was expected.

    That of states is absolute, that of a gradient relative to its largest entry.

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


def complaint(found: Mapping[str, float], precision: str) -> str:
    """Say which results are out of the tolerance of a precision; empty if none is."""
    bad = []
    for name, error in found.items():
        tolerance = TOLERANCES[precision]["gradients" if name.startswith("d") else "states"]
        if not error <= tolerance:
            bad.append(f"{name} is off by {error:.1e} (tolerance {tolerance:.0e})")
    return ", ".join(bad)


def measure(case: Case, chosen: Sequence[type[Contestant]], budget: float, rounds: int) -> dict[str, Any]:
    """Verify, time and judge one case.

    Parameters
    ----------
    case : Case
    chosen : sequence of Contestant classes
        All installed.
    budget : float
        Seconds of timing.
    rounds : int
        At least so many, whatever the budget.

    Returns
    -------
    dict
        One entry of ``rows`` in the JSON; times in seconds.
    """
    entries: dict[str, dict[str, Any]] = {}
    fit: dict[str, Timed] = {}

    def admit(name: str, kind: type[Contestant], problem: Problem, expected: Results) -> None:
        try:
            contestant = kind(problem)
            found = errors(contestant.verified(), expected)
        except Exception as error:
            if not kind.modules:  # another version of a peer may raise anything, and the others can go on
                raise
            entries[name] = {"status": "wrong", "reason": f"{type(error).__name__}: {error}", "errors": {}}
            return
        reason = complaint(found, kind.precision(problem.case))
        entries[name] = {"status": "wrong" if reason else "timed", "reason": reason, "errors": found}
        if not reason:
            fit[name] = contestant

    problem = Problem.of(case)
    expected = numpy_classes.Original(problem).verified() if case.field == "compat" else problem.expected()
    for kind in chosen:
        if kind.supports(case):
            admit(kind.name, kind, problem, expected)
        else:
            entries[kind.name] = {"status": "unsupported"}
    others = [name for name in fit if name != OWN]
    # The definition counts where it stands alone.
    is_peer = {kind.name for kind in chosen if kind.is_peer}
    peers = [name for name in others if name in is_peer and name != NumPy.name] or others
    own_case = case.own_case()
    if own_case and OWN in fit:
        problem = Problem.of(own_case)
        admit(case.yardstick, Clstm, problem, problem.expected())
    works = limits.works(case) if OWN in fit and case.threads == 1 else {}
    del problem, expected

    timings = interleave(fit | works, budget, rounds, SPIN_SECONDS if case.threads > 1 else 0.0)
    for name in fit:
        timing = timings[name]
        entries[name] |= {
            "median": timing.median,
            "best": timing.best,
            "rounds": len(timing.samples),
            "calls": timing.calls,
            "samples": timing.samples,
        }
        if OWN in fit and name != OWN:
            entries[name] |= {
                "ratio": timing.over(timings[OWN]),
                "ratio_of_best": timing.best / timings[OWN].best,
            }
    best_peer = min(peers, key=lambda name: entries[name].get("ratio", entries[name]["median"]), default=None)
    row: dict[str, Any] = {
        "name": case.name,
        **{
            field: getattr(case, field)
            for field in ("group", "kind", "B", "T", "I", "H", "dtype", "unequal", "last_step", "resets")
        },
        "options": dict(case.options),
        **{field: getattr(case, field) for field in ("weights", "threads", "yardstick", "steps", "flops")},
        "contestants": entries,
        "best_peer": best_peer,
        "gflops": 1e-9 * case.flops / timings[OWN].median if OWN in fit else None,
        "limit": _limit(case, works, timings),
    }
    return row | {"goals": goals(case, row)}


def _limit(case: Case, works: dict[str, limits.Work], timings: dict[str, Timing]) -> dict[str, Any] | None:
    """Return the machine's limit: what binds, the measured rates, the least time as a share of clstm's."""
    if not works:
        return None
    shares = []
    for n, seconds in enumerate(timings[OWN].samples):
        taken = {name: timings[name].samples[n] for name in works}
        shares.append(limits.least_seconds(case, works, taken) / seconds)
    rates = {
        name: {"best": work.amount / timings[name].best, "median": work.amount / timings[name].median}
        for name, work in works.items()
    }
    return {"bound": limits.need(case).level, "share": median(shares), "rates": rates}


def goals(case: Case, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the goals of a row and what was reached.

    Parameters
    ----------
    case : Case
    row : dict
        As `measure` makes it.

    Returns
    -------
    list of dict
        ``what``: "best peer", "torch", the yardstick, "microseconds" or "limit"; ``goal``; ``reached`` and
        ``met``, both None where it could not be judged; ``by_share``: whether the share of the limit decided.
        The definition alone is no peer to judge by.

    Notes
    -----
    A ratio to another contestant is asked for as far as the machine allows.  Where it would take more than
    AT_LIMIT of the row's limit, which is the goal times the other's own share, the row's goal for the share
    stands in its place, and nobody may be ahead by more than FLOOR allows.
    """
    entries = row["contestants"]

    def ratio(name: str | None, of: str = OWN) -> float | None:
        found = [entries.get(each, {}).get("ratio", 1.0 if each == OWN else None) for each in (name, of)]
        return None if None in found else found[0] / found[1]

    peers = {name for name, entry in entries.items() if "ratio" in entry} - {case.yardstick, NumPy.name}
    own = entries.get(OWN, {}).get("median")
    wanted = [
        ("best peer", case.peer_goal, ratio(row["best_peer"]) if peers else None),
        # The loop stands for torch where nn.LSTM cannot do it.
        ("torch", case.torch_goal, ratio("torch") or ratio("torch_loop")),
        (case.yardstick, case.own_goal, ratio(case.yardstick)),
        (numpy_classes.Original.name, case.class_goal, ratio(numpy_classes.Original.name)),
        ("clstm_torch", case.module_goal, ratio("torch", "clstm_torch")),
        ("clstm_frozen", case.frozen_goal, ratio("torch", "clstm_frozen")),
        ("microseconds", case.microseconds_goal, own and 1e6 * own),
        ("limit", case.share_goal, row["limit"] and row["limit"]["share"]),
    ]
    found = []
    for what, goal, reached in wanted:
        if goal is not None:
            met = _met(what, goal, reached)
            by_share = what in OTHERS and met is False and _is_past_limit(case, row, goal, reached)
            if by_share:
                met = reached >= FLOOR and row["limit"]["share"] >= case.share_goal
            found.append({"what": what, "goal": goal, "reached": reached, "met": met, "by_share": by_share})
    return found


def _is_past_limit(case: Case, row: Mapping[str, Any], goal: float, reached: float) -> bool:
    """Tell whether a ratio would take more of the row's limit than anybody gets."""
    if goal <= FLOOR or case.share_goal is None or not row["limit"]:
        return False
    share_of_other: float = row["limit"]["share"] / reached
    return goal * share_of_other > AT_LIMIT


def _met(what: str, goal: float, reached: float | None) -> bool | None:
    if reached is None:
        return None
    return reached <= goal if what == "microseconds" else reached >= goal
