"""Is a backward pass right?  Compare the gradients that it claims with numerical derivatives of the loss.

The complex step, imag(loss(p + 1e-30j)) / 1e-30, subtracts nothing and so is exact to rounding; code that
does not let complex numbers through gets central differences.  Which of the two is decided by comparing them
along one random direction of each parameter: whatever drops the imaginary part (abs, a cast, an array made
before) shows there.

What is wrong is then sought in the first 1, 2, ... time steps: the shortest sequence that goes wrong says
most about why. Parameters are moved in place, or replaced for the duration, and put back on every way out.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _check

__all__ = ["GradientFailure", "GradientReport", "gradcheck"]

Array = NDArray[Any]
Index = tuple[int, ...]

IMAGINARY_STEP = 1e-30
LOOKED_AT = 10  # entries of each wrong parameter that are followed through the shorter sequences
INPUT = "x"
COMPLEX_STEP, CENTRAL_DIFFERENCES = "complex step", "central differences"


@dataclass(frozen=True)
class GradientFailure:
    """One wrong gradient, at its worst entry on the shortest sequence that shows it.

    Attributes
    ----------
    parameter : str
        Its name, "x" for the input.
    index : tuple of int
        The entry with the largest difference.  For "x" its first number is the time step.
    steps : int or None
        The first `steps` time steps of `x` are enough to make this gradient wrong; with fewer it is right at
        the entries
        looked at, or the code does not run.  None without `x`.
    expected, got : float
        The numerical derivative and the claimed gradient of this entry over these steps.
    relative_error : float
        ``abs(got - expected)``, divided by the larger of the two.
    wrong, checked : int
        Number of wrong entries and of checked ones if the sequence is whole.
    time_steps : tuple of int
        For "x": where its gradient is wrong if the sequence is whole.  Empty for parameters, which all steps
        share.
    """

    parameter: str
    index: Index
    steps: int | None
    expected: float
    got: float
    relative_error: float
    wrong: int
    checked: int
    time_steps: tuple[int, ...] = ()

    def __str__(self) -> str:
        place = f"{self.parameter}[{', '.join(map(str, self.index))}]" if self.index else self.parameter
        after = "" if self.steps is None else f" with {_time_steps(self.steps)}"
        when = f", at time {_span(self.time_steps)}" if self.time_steps else ""
        return (
            f"{place}{after}: expected {self.expected:.6g}, got {self.got:.6g} "
            f"(relative error {self.relative_error:.2g}).  "
            f"Wrong entries in all: {self.wrong} of {self.checked} checked{when}."
        )


@dataclass(frozen=True)
class GradientReport:
    """What `gradcheck` found; ``print(report)`` says it in words.

    Attributes
    ----------
    method : {"complex step", "central differences"}
    parameters : tuple of str
        What was checked.
    entries : int
        Number of entries checked, over all parameters.
    failures : tuple of GradientFailure
        One for each wrong gradient, those that go wrong on the shortest sequences first.
    notes : tuple of str
        Why the complex step could not be used, and where to look for what is wrong.
    """

    method: str
    parameters: tuple[str, ...]
    entries: int
    failures: tuple[GradientFailure, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every checked entry is right."""
        return not self.failures

    def __str__(self) -> str:
        wrong = {failure.parameter for failure in self.failures}
        if self.ok:
            names = ", ".join(self.parameters)
            lines = [f"All gradients are right: {names}; {self.entries} entries by {self.method}."]
        else:
            lines = [f"Wrong gradients: {len(wrong)} of {len(self.parameters)}, by {self.method}."]
            lines += [f"  {failure}" for failure in self.failures]
            if right := [name for name in self.parameters if name not in wrong]:
                lines.append(f"Right: {', '.join(right)}.")
        return "\n".join([*lines, *self.notes])


def gradcheck(
    model: Any,
    loss: Callable[..., Any],
    gradients: Callable[..., Any],
    x: Any = None,
    *,
    names: Iterable[str] | None = None,
    lr: float | None = None,
    entries: int | None = 200,
    tolerance: float | None = None,
    rng: int | np.random.Generator | None = 0,
) -> GradientReport:
    """Tell whether the gradients of a recurrent network are those of its loss, and if not, where they fail.

    Parameters
    ----------
    model : object, or dict of str to ndarray
        What holds the parameters, float32 or float64 arrays: an object of any class, by its attributes
        (``"Wf"``, ``"cell.Wf"``) or by its dict `params`; or, for code that consists of functions, a dict.
    loss : callable
        ``loss(model, x)``, or ``loss(model)`` without `x`, returns the loss as one number.  It reads the
        parameters from `model` and must return the same number each time.
    gradients : callable
        Called like `loss`, returns the gradients to be checked: a dict of names to arrays of the parameters'
        shapes.  The name "x" stands for the gradient by the input.  With `lr` see there.
    x : ndarray of shape (T, ...) or list of T arrays, optional
        The sequence, one time step after the other.  If a gradient is wrong, `loss` and `gradients` are also
        called with ``x[:1]``, ``x[:2]``, ... to find the shortest sequence that shows it.  So cut targets to
        ``len(x)``.
    names : iterable of str, optional
        What to check.  The default is what `gradients` returns; with `lr`, every float array that `model`
        holds under a name without a leading underscore.
    lr : float, optional
        `gradients` returns nothing of use but trains: it subtracts ``lr * gradient`` from each parameter.
        The gradients are recovered from what has changed, and the change is undone.
    entries : int or None, default 200
        Of a parameter with more entries than this, check a random choice of so many.  None: check all.
    tolerance : float, optional
        Relative error up to which an entry is right.  The default is the square root of the machine epsilon
        of the checked arrays for the complex step (1.5e-8 in float64) and its cube root for central
        differences (6e-6 in float64, 5e-3 in float32).  Beyond it an absolute error of the size of the
        rounding is let pass.
    rng : None, int or numpy.random.Generator, default 0
        Source of the random choices.

    Returns
    -------
    GradientReport
        ``report.ok`` says whether all is right, ``report.failures`` what is not, ``str(report)`` both.

    Raises
    ------
    ValueError, TypeError
        A name is unknown, an array is no writeable float array, a gradient has another shape than its
        parameter, or `loss` returns no number or not the same one twice.

    Whatever `loss` and `gradients` raise on the whole sequence is passed on.  On every way out the parameters
    are the same arrays with the same content as before.

    Notes
    -----
    W. Squire, G. Trapp, "Using complex variables to estimate derivatives of real functions", SIAM Review
    40(1), 1998.

    Examples
    --------
    ``h = tanh(w x + u h_prev)``, with ``h`` in the place of ``h_prev`` in the gradient of u:

    >>> def forward(p, x):
    ...     h = [np.zeros(1)]
    ...     for x_t in x:
    ...         h.append(np.tanh(p["w"] * x_t + p["u"] * h[-1]))
    ...     return h
    >>> def gradients(p, x):
    ...     h, dh, dw, du = forward(p, x), 1.0, 0.0, 0.0
    ...     for t in reversed(range(len(x))):
    ...         dz = dh * (1 - h[t + 1] ** 2)
    ...         dw, du, dh = dw + dz * x[t], du + dz * h[t + 1], dz * p["u"]
    ...     return {"w": dw, "u": du}
    >>> p = {"w": np.array([0.5]), "u": np.array([0.8])}
    >>> report = clstm.gradcheck(p, lambda p, x: forward(p, x)[-1], gradients, np.array([1.0, 0.5, -0.5]))
    >>> report.ok
    False
    >>> print(report)
    Wrong gradients: 1 of 2, by complex step.
      u[0] with 1 time step: expected 0, got 0.363431 (relative error 1).  Wrong entries in all: 1 of 1
      checked.
    Right: w.
    With 1 time step this gradient should be 0, for h_prev is 0: is h_t used in the place of h_{t-1}?
    """
    for name, function in (("loss", loss), ("gradients", gradients)):
        if not callable(function):
            raise TypeError(f"{name}: expected a function, got {_check.describe(function)}")
    if isinstance(model, Mapping) and not isinstance(model, MutableMapping):
        raise TypeError(f"model: expected an object or a dict, got {_check.describe(model)}")
    if x is not None:
        if not isinstance(x, np.ndarray | list | tuple) or (isinstance(x, np.ndarray) and x.ndim == 0):
            raise TypeError(f"x: expected an array or a list of time steps, got {_check.describe(x)}")
        _check.integer("number of time steps in x", len(x), 1)
    if isinstance(names, str):
        raise TypeError(f"names: expected several names, got the text {names!r}")
    network = _Network(
        model,
        loss,
        gradients,
        x.copy() if isinstance(x, np.ndarray) else x,
        None if x is None else len(x),
        None if lr is None else _check.positive("lr", lr),
        None if entries is None else _check.integer("entries", entries, 1),
        None if tolerance is None else _check.positive("tolerance", tolerance),
        _check.generator(rng),
    )
    return network.check(None if names is None else list(names))


class _Parameter:
    """A live array under its name, what it held at first, and the way to put another one in its place."""

    def __init__(self, name: str, get: Callable[[], Any], put: Callable[[Any], None]) -> None:
        self.name, self._get, self.put = name, get, put
        self.array = get()
        if not _is_float_array(self.array) or not self.array.size or not self.array.flags.writeable:
            raise TypeError(
                f"{name}: expected a writeable float32 or float64 array, got {_check.describe(self.array)}"
            )
        self.before = self.array.copy()

    @property
    def is_in_place(self) -> bool:
        """Whether its name still leads to the same memory; a property may make a new view each time."""
        now = self._get()
        return now is self.array or (isinstance(now, np.ndarray) and np.may_share_memory(now, self.array))

    def change(self) -> Array:
        """Return by how much it has become smaller."""
        difference: Array = self.before.astype(np.float64) - self._get()
        return difference

    def restore(self) -> None:
        if not self.is_in_place:
            self.put(self.array)
        self.array[...] = self.before


class _Compared(NamedTuple):
    """Entries of one gradient, numerical and claimed."""

    parameter: _Parameter
    indices: list[Index]
    expected: Array  # (entries,)
    got: Array  # (entries,)
    wrong: NDArray[np.bool_]  # (entries,)

    def ranked(self) -> list[int]:
        """Return the positions of the wrong entries, the largest difference first; NaN counts as infinite."""
        difference = np.nan_to_num(np.abs(self.got - self.expected), nan=np.inf)
        return [int(k) for k in np.argsort(-difference, kind="stable") if self.wrong[k]]


@dataclass
class _Network:
    """The author's code, called on the first n time steps, and the comparison with its derivatives."""

    model: Any
    loss: Callable[..., Any]
    gradients: Callable[..., Any]
    x: Any
    T: int | None
    lr: float | None
    entries: int | None
    tolerance: float | None
    rng: np.random.Generator
    known: dict[str, _Parameter] = field(default_factory=dict)  # all that is to be restored
    parameters: list[_Parameter] = field(default_factory=list)  # all that is checked
    method: str = COMPLEX_STEP

    # ------------------------------------------------------------------------------------- the author's code

    def call(self, function: Callable[..., Any], n: int | None) -> Any:
        return function(self.model) if n is None else function(self.model, self.x[:n])

    def value(self, n: int | None) -> Any:
        """Return the loss as a Python number, real or complex; it may come as an array (1, 1)."""
        value = np.asarray(self.call(self.loss, n))
        if value.size != 1:
            raise TypeError(f"loss: expected one number, got {_check.describe(value)}")
        return value.item()

    def real_value(self, n: int | None) -> float:
        return _check.real("loss", self.value(n))

    def parameter(self, name: str) -> _Parameter:
        """Find an array by its name: the input, a dict's entry, or an attribute, perhaps of one inside."""
        _check.instance("names", name, str)
        holder = _dict_of(self.model)
        if name == INPUT and self.T is not None and self.lr is None:
            return _Parameter(name, partial(getattr, self, "x"), partial(setattr, self, "x"))
        if holder is not None and name in holder:
            return _Parameter(name, partial(holder.__getitem__, name), partial(holder.__setitem__, name))
        *path, last = name.split(".")
        try:
            owner = reduce(getattr, path, self.model)
            getattr(owner, last)
        except AttributeError:
            raise ValueError(f"{name}: expected the name of a parameter, got none that model has") from None
        return _Parameter(name, partial(getattr, owner, last), partial(setattr, owner, last))

    def claimed(self, n: int | None) -> dict[str, Any]:
        """Return what the author's gradients are, and undo what they have done to the parameters."""
        if self.lr is None:
            returned = self.call(self.gradients, n)
            _check.entries("gradients", returned, (), False)
            return dict(returned)
        try:
            self.call(self.gradients, n)
            return {parameter.name: parameter.change() / self.lr for parameter in self.parameters}
        finally:
            self.restore()

    def restore(self) -> None:
        for array in self.known.values():
            array.restore()

    # --------------------------------------------------------------------------------- numerical derivatives

    def complex_step(self, parameter: _Parameter, direction: Array, n: int | None) -> float:
        """Differentiate the loss along a direction; wrong where the code drops the imaginary part."""
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error", np.exceptions.ComplexWarning)
            try:
                parameter.put(parameter.before + IMAGINARY_STEP * 1j * direction)
                value = complex(self.value(n))
            finally:
                parameter.restore()
        return value.imag / IMAGINARY_STEP

    def central_difference(self, parameter: _Parameter, direction: Array, n: int | None) -> float:
        """Differentiate the loss along a direction."""
        step = np.cbrt(self.eps) * max(1.0, np.abs(parameter.before[direction != 0]).max())
        values = []
        try:
            for signed_step in (step, -step):
                parameter.array[...] = parameter.before + signed_step * direction
                values.append(self.real_value(n))
        finally:
            parameter.restore()
        return float((values[0] - values[1]) / (2 * step))

    def derivative(self, parameter: _Parameter, index: Index, n: int | None) -> float:
        """Differentiate the loss by one entry."""
        direction = np.zeros(parameter.array.shape)
        direction[index] = 1.0
        method = self.complex_step if self.method == COMPLEX_STEP else self.central_difference
        return method(parameter, direction, n)

    @property
    def eps(self) -> float:
        """Machine epsilon of the least precise checked array."""
        return max(float(np.finfo(parameter.array.dtype).eps) for parameter in self.parameters)

    def rounding(self, value: float, largest: float) -> float:
        """Absolute error of a central difference of a loss of this value with derivatives up to `largest`."""
        return 20 * float(np.cbrt(self.eps)) ** 2 * max(abs(value), largest)

    def why_no_complex_step(self) -> str:
        """Compare both derivatives along a random direction of each parameter; return why they differ."""
        value = self.real_value(self.T)
        for parameter in self.parameters:
            direction = self.rng.standard_normal(parameter.array.shape)
            direction /= np.linalg.norm(direction)
            try:
                exact = self.complex_step(parameter, direction, self.T)
            except Exception as error:  # noqa: BLE001 - whatever the code does not like about complex numbers
                return f"{type(error).__name__}: {error}"
            rough = self.central_difference(parameter, direction, self.T)
            size = max(abs(exact), abs(rough))
            if not abs(exact - rough) <= np.cbrt(self.eps) * size + self.rounding(value, size):
                return (
                    f"by {parameter.name} it yields {exact:.6g}, central differences {rough:.6g}: "
                    "something drops the imaginary part, as abs() and arrays of floats do"
                )
        return ""

    # -------------------------------------------------------------------------------------------- comparison

    def compare(self, entries: dict[str, list[Index]], n: int | None) -> list[_Compared]:
        """Compare gradients with derivatives over the first n time steps, at some entries of each."""
        claimed, value = self.claimed(n), self.real_value(n)
        chosen = [parameter for parameter in self.parameters if parameter.name in entries]
        pairs = []
        for parameter in chosen:
            shape = parameter.array.shape if parameter.name != INPUT else self.x[:n].shape
            label = f"gradients[{parameter.name!r}]"
            gradient = _check.shaped(label, claimed[parameter.name], np.dtype(np.float64), shape).copy()
            indices = entries[parameter.name]
            expected = np.array([self.derivative(parameter, index, n) for index in indices], np.float64)
            pairs.append((expected, np.array([gradient[index] for index in indices], np.float64)))
        largest = max(np.abs(expected).max(initial=0.0) for expected, _ in pairs)
        return [
            _Compared(
                parameter,
                entries[parameter.name],
                expected,
                got,
                self.is_wrong(parameter, expected, got, value, largest),
            )
            for parameter, (expected, got) in zip(chosen, pairs, strict=True)
        ]

    def is_wrong(
        self, parameter: _Parameter, expected: Array, got: Array, value: float, largest: float
    ) -> NDArray[np.bool_]:
        """Compare entry by entry; what rounding explains is not wrong, NaN is."""
        eps = self.eps
        if self.method == COMPLEX_STEP:
            relative = np.sqrt(eps)
            absolute = 1000 * eps * np.abs(expected).max(initial=0.0) + 10 * eps * largest
        else:
            relative, absolute = np.cbrt(eps), self.rounding(value, largest)
        if self.lr is not None:  # parameters before and after were both rounded
            absolute += 4 * eps * np.abs(parameter.before).max() / self.lr
        size = np.maximum(np.abs(expected), np.abs(got))
        right = np.abs(got - expected) <= (self.tolerance or relative) * size + absolute
        wrong: NDArray[np.bool_] = ~(right & np.isfinite(got))
        return wrong

    def choose(self, parameter: _Parameter) -> list[Index]:
        """Return the entries to be checked, in order."""
        every = list(np.ndindex(parameter.array.shape))
        if self.entries is None or len(every) <= self.entries:
            return every
        return [every[k] for k in np.sort(self.rng.choice(len(every), self.entries, replace=False))]

    def followed(self, row: _Compared, n: int) -> list[Index]:
        """Return the entries of a wrong gradient to look at with n time steps."""
        if row.parameter.name == INPUT:
            reached = [index for index in row.indices if index[0] < n]
            first, last = reached[: LOOKED_AT // 2], reached[-LOOKED_AT // 2 :]
            return list(dict.fromkeys(first + last))
        return [row.indices[k] for k in row.ranked()[:LOOKED_AT]]

    def shortest(self, wrong: list[_Compared]) -> tuple[dict[str, tuple[int, _Compared]], str]:
        """Find with how many time steps each gradient first goes wrong, and whether some could not be run."""
        found: dict[str, tuple[int, _Compared]] = {}
        trouble = ""
        for n in range(1, self.T or 0):
            open_ = {
                row.parameter.name: self.followed(row, n) for row in wrong if row.parameter.name not in found
            }
            if not open_:
                break
            try:
                rows = self.compare(open_, n)
            except Exception as error:  # noqa: BLE001 - code that is made for one length is still checked on that
                reason = f"{type(error).__name__}: {error}"
                trouble = trouble or f"With {_time_steps(n)} the code does not run ({reason})."
                continue
            found |= {row.parameter.name: (n, row) for row in rows if row.wrong.any()}
        return found, trouble

    def check(self, names: list[str] | None) -> GradientReport:
        """Find the parameters, call everything once, then compare; the parameters end up as they were."""
        found = {
            name: self.parameter(name) for name in dict.fromkeys([*_float_arrays(self.model), *(names or ())])
        }
        before = self.real_value(self.T)
        # An array that a call of loss replaces is no parameter: the network keeps it for its backward pass.
        self.known = {name: p for name, p in found.items() if p.is_in_place or name in (names or ())}
        try:
            self.parameters = [self.known[name] for name in (self.known if names is None else names)]
            claimed = self.claimed(self.T)
            if self.lr is None and names is None:
                for name in claimed.keys() - self.known.keys():
                    self.known[name] = self.parameter(name)
                self.parameters = [self.known[name] for name in claimed]
            if not self.parameters:
                raise ValueError(
                    f"names: expected at least one parameter, found none in {_check.describe(self.model)}"
                )
            if missing := [p.name for p in self.parameters if p.name not in claimed]:
                raise ValueError(f"gradients: expected one for each name; missing: {', '.join(missing)}")
            after = self.real_value(self.T)
            if not math.isclose(before, after, rel_tol=100 * self.eps):
                raise ValueError(
                    f"loss: expected the same number each time, got {before!r}, "
                    f"and {after!r} after a call of gradients; "
                    "is there dropout, or a state kept between calls, or does gradients train (then give lr)?"
                )
            return self.report()
        finally:
            self.restore()

    def report(self) -> GradientReport:
        """Compare, and look closer at what is wrong."""
        notes = []
        if reason := self.why_no_complex_step():
            self.method = CENTRAL_DIFFERENCES
            notes.append(f"The complex step does not work here ({reason}).")
            if self.eps > np.finfo(np.float64).eps:
                notes.append("Central differences tell little in float32: better check in float64.")
        rows = self.compare({parameter.name: self.choose(parameter) for parameter in self.parameters}, self.T)
        wrong = [row for row in rows if row.wrong.any()]
        found, trouble = self.shortest(wrong)
        failures = [_failure(row, *found.get(row.parameter.name, (self.T, row))) for row in wrong]
        failures.sort(key=lambda failure: failure.steps or 0)
        if failures:
            notes.append(trouble or _where_to_look(failures))
        self.real_value(self.T)  # so that what the network keeps of its last pass is real
        return GradientReport(
            self.method,
            tuple(parameter.name for parameter in self.parameters),
            sum(len(row.indices) for row in rows),
            tuple(failures),
            tuple(notes),
        )


def _is_float_array(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64) and value.dtype.isnative


def _dict_of(model: Any) -> MutableMapping[str, Any] | None:
    """Return the dict that holds a model's parameters, if there is one."""
    holder = model if isinstance(model, MutableMapping) else getattr(model, "params", None)
    return holder if isinstance(holder, MutableMapping) else None


def _float_arrays(model: Any) -> list[str]:
    """Return the names of all arrays that may be parameters."""
    content = _dict_of(model)
    if content is None:
        names = [*getattr(model, "__dict__", ())]
        for kind in type(model).__mro__:  # properties and slots
            names += [name for name, value in vars(kind).items() if inspect.isdatadescriptor(value)]
        content = {name: getattr(model, name, None) for name in names if not name.startswith("_")}
    found = [
        name
        for name, value in content.items()
        if _is_float_array(value) and value.size and value.flags.writeable
    ]
    return [name for name in found if name != INPUT]


def _time_steps(n: int) -> str:
    return "1 time step" if n == 1 else f"{n} time steps"


def _span(times: tuple[int, ...]) -> str:
    """Write rising numbers, a whole range in short."""
    if len(times) > 2 and len(times) == times[-1] - times[0] + 1:
        return f"{times[0]} to {times[-1]}"
    return ", ".join(map(str, times))


def _failure(whole: _Compared, steps: int | None, row: _Compared) -> GradientFailure:
    """Describe a wrong gradient: its worst entry over the first `steps` time steps, how many are wrong."""
    worst = row.ranked()[0]
    expected, got = float(row.expected[worst]), float(row.got[worst])
    name = whole.parameter.name
    wrong = [index for index, is_wrong in zip(whole.indices, whole.wrong, strict=True) if is_wrong]
    at = {index[0] for index in wrong} if name == INPUT else ()
    return GradientFailure(
        parameter=name,
        index=row.indices[worst],
        steps=steps,
        expected=expected,
        got=got,
        relative_error=abs(got - expected) / max(abs(got), abs(expected)),
        wrong=int(whole.wrong.sum()),
        checked=len(whole.indices),
        time_steps=tuple(sorted(at)),
    )


def _where_to_look(failures: Sequence[GradientFailure]) -> str:
    """Say what the shortest sequence that goes wrong tells."""
    n = failures[0].steps
    if n is None:
        return "Give the sequence as x to learn with how many time steps it begins to go wrong."
    first = [failure for failure in failures if failure.steps == n]
    if n > 1:
        return (
            f"With {_time_steps(n - 1)} all is right: "
            "look at what a step hands back to the one before it, dh and dc."
        )
    if all(failure.got == 0 for failure in first):
        return (
            "With 1 time step nothing arrives: does the loop over time leave out a step, such as the first?"
        )
    if all(failure.expected == 0 for failure in first):
        these = "this gradient" if len(first) == 1 else "these gradients"
        return (
            f"With 1 time step {these} should be 0, for h_prev is 0: is h_t used in the place of h_{{t-1}}?"
        )
    return "With 1 time step it is wrong already: look at the equations of a single step."
