"""Every check of what users hand in, and its message: argument, what was expected, what came.

Nothing is changed before all checks have passed, so callers check first and then work.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# How many names a message lists, and how many characters of a name or a value it shows: messages stay short,
# whatever a file holds.
_MOST_NAMES = 20
_LONGEST_TEXT = 60


class FileFormatError(ValueError):
    """A file cannot be read as what it should be; the message holds the path and the reason."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(path, reason)  # what pickle hands to another process

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.args[1]}"


class UsageError(ValueError):
    """Arguments of the command that make no sense for what they are applied to."""


def describe(value: object) -> str:
    """Name a value in a message without printing a whole array."""
    if isinstance(value, np.ndarray):
        return f"array of shape {value.shape} and dtype {value.dtype}"
    try:
        return shorten(repr(value))
    except (ValueError, RecursionError):  # Python shows no integer of 4301 digits, and no list in 1000 lists
        return f"{type(value).__name__} too large to show"


def shorten(text: str) -> str:
    """Cut a text to the length that a message has room for; what a terminal would obey is escaped."""
    text = text if text.isprintable() else repr(text)[1:-1]
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 3]}..."


def listed(names: Collection[object]) -> str:
    """List names in a message, the first of them if there are many."""
    shown = [
        shorten(name) if isinstance(name, str) and name.isprintable() else describe(name)
        for name in itertools.islice(names, _MOST_NAMES)
    ]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def optional(check: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    """Return a check that lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


def counted(number: int, noun: str) -> str:
    """Return a number of things in words."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def integer(name: str, value: object, low: int) -> int:
    """Return value as int, at least `low`; bool is refused."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {describe(value)}") from None
    if number < low:
        raise ValueError(f"{name}: expected at least {low}, got {describe(number)}")
    return number


def boolean(name: str, value: object) -> bool:
    """Return value as bool; anything but True and False is refused."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {describe(value)}")
    return bool(value)


def fraction(name: str, value: Any) -> float:
    """Return value as float in [0, 1)."""
    number = real(name, value)
    if not 0.0 <= number < 1.0:
        raise ValueError(f"{name}: expected a number in [0, 1), got {describe(value)}")
    return number


def real(name: str, value: Any) -> float:
    """Return value as a finite float."""
    if isinstance(value, str | bytes | bool):
        raise TypeError(f"{name}: expected a number, got {describe(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected a number, got {describe(value)}") from None
    except OverflowError:  # an integer beyond every float
        raise ValueError(f"{name}: expected a finite number, got {describe(value)}") from None
    if not np.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {describe(value)}")
    return number


def positive(name: str, value: Any) -> float:
    """Return value as a finite float above 0."""
    number = real(name, value)
    if number <= 0.0:
        raise ValueError(f"{name}: expected a number above 0, got {describe(value)}")
    return number


def non_negative(name: str, value: Any) -> float:
    """Return value as a finite float of at least 0."""
    number = real(name, value)
    if number < 0.0:
        raise ValueError(f"{name}: expected a number of at least 0, got {describe(value)}")
    return number


def proper_fraction(name: str, value: Any) -> float:
    """Return value as float in (0, 1)."""
    number = real(name, value)
    if not 0.0 < number < 1.0:
        raise ValueError(f"{name}: expected a number in (0, 1), got {describe(value)}")
    return number


def proper_fractions(name: str, value: Any) -> list[float]:
    """Return a sequence of numbers in (0, 1), at least one, as a list."""
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str | bytes) or np.ndim(value) != 1:
        raise TypeError(f"{name}: expected a sequence of numbers, got {describe(value)}")
    if len(value) == 0:
        raise ValueError(f"{name}: expected at least one number, got none")
    return [proper_fraction(f"{name}[{n}]", number) for n, number in enumerate(value)]


def instance(name: str, value: object, kind: type) -> None:
    """Compare the class of an object."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {kind.__name__}, got {describe(value)}")


def choice(name: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return value, which must be one of the allowed strings."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {describe(value)}")
    return value


def float_dtype(name: str, value: Any) -> np.dtype[Any]:
    """Return the dtype, float32 or float64."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except (TypeError, ValueError, SyntaxError):
        raise TypeError(f"{name}: expected float32 or float64, got {describe(value)}") from None
    if value is None or dtype not in (np.float32, np.float64) or not dtype.isnative:
        raise ValueError(f"{name}: expected float32 or float64, got {describe(value)}")
    return dtype


def generator(value: Any) -> np.random.Generator:
    """Return a Generator from None, an int seed or a Generator."""
    if isinstance(value, np.random.Generator):
        return value
    if value is None:
        return np.random.default_rng()
    return np.random.default_rng(integer("rng", value, 0))


def array(name: str, value: Any, dtype: np.dtype[Any], *, copy: bool = False) -> Array:
    """Convert to an aligned array of the layer's dtype with contiguous rows; no complex, object or text."""
    if type(value) is np.ndarray and value.dtype == dtype and value.flags.carray and not copy:
        return value
    given = as_array(name, value, "numbers")
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected real numbers, got dtype {given.dtype}")
    try:
        with np.errstate(over="raise", invalid="ignore"):  # NaN comes in quiet kinds and others
            if copy:
                return np.array(given, dtype=dtype, order="C")
            converted = np.require(given, dtype=dtype, requirements="A")
    except FloatingPointError:
        raise ValueError(f"{name}: expected values that {dtype} can hold, got larger ones") from None
    rows_contiguous = converted.ndim == 0 or converted.strides[-1] == dtype.itemsize
    return converted if rows_contiguous else np.ascontiguousarray(converted)


def as_array(name: str, value: Any, what: str) -> Array:
    """Call np.asarray; nested lists that are no rectangle are refused, and masks, which would be lost."""
    if np.ma.is_masked(value):
        raise TypeError(f"{name}: expected an array of {what} without a mask, got a masked array")
    try:
        return np.asarray(on_cpu(value))
    except ValueError:
        raise ValueError(f"{name}: expected an array of {what}, got rows of different lengths") from None


def on_cpu(value: Any) -> Any:
    """Return a tensor with grad, on a device or of bfloat16 as one that NumPy takes; all else as it is."""
    if not hasattr(value, "detach") or not hasattr(value, "cpu"):
        return value
    tensor = value.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def shape(name: str, value: Array, expected: tuple[int | str, ...]) -> None:
    """Compare a shape; a string in `expected` stands for any size and is shown in the message."""
    if len(value.shape) == len(expected):
        for want, got in zip(expected, value.shape, strict=True):
            if want != got and not isinstance(want, str):
                break
        else:
            return
    inner = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
    raise ValueError(f"{name}: expected shape ({inner}), got {value.shape}")


def shaped(name: str, value: Any, dtype: np.dtype[Any], expected: tuple[int | str, ...]) -> Array:
    """Convert with `array`, then compare with `shape`."""
    if type(value) is np.ndarray and value.shape == expected and value.dtype is dtype and value.flags.carray:
        return value
    converted = array(name, value, dtype)
    shape(name, converted, expected)
    return converted


def flat(name: str, value: Any) -> Array:
    """Return value, which must be a contiguous array (n,) of float32 or float64 that may be changed."""
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name}: expected an array of float32 or float64, got {describe(value)}")
    shape(name, value, ("n",))
    if not value.flags.carray:
        raise ValueError(f"{name}: expected a contiguous, writable array, got {describe(value)}")
    return value


def pair(name: str, value: Any, parts: str) -> tuple[Any, Any]:
    """Return the two halves of a state."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(f"{name}: expected a pair {parts}, got {describe(value)}")
    return value[0], value[1]


def lengths(value: Any, T: int, B: int) -> NDArray[np.intp]:
    """Return the number of real steps of each row; None means T for every row."""
    if value is not None:
        return integers("lengths", value, B, T)
    full = np.empty(B, np.intp)
    full.fill(T)
    return full


def whole_numbers(name: str, value: Any) -> Array:
    """Return an array of integers of whatever shape and range; no bool, and no float that happens to fit."""
    given = as_array(name, value, "integers")
    if given.size == 0 and given.dtype == np.float64:
        given = given.astype(np.intp)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name}: expected integers, got dtype {given.dtype}")
    return given


def indices(name: str, value: Any, high: int, *, copy: bool = False) -> NDArray[np.intp]:
    """Return an array of whatever shape of integers in 0..high."""
    given = whole_numbers(name, value)
    if given.size and (given.min() < 0 or given.max() > high):
        bad = (given < 0) | (given > high)
        place = tuple(map(int, np.unravel_index(bad.argmax(), bad.shape)))
        where = f" at {place if len(place) > 1 else place[0]}" if place else ""
        raise ValueError(f"{name}: expected values in 0..{high}, got {int(given[place])}{where}")
    return given.astype(np.intp, order="C", copy=copy)


def integers(name: str, value: Any, size: int, high: int) -> NDArray[np.intp]:
    """Return an array (size,) of integers in 0..high."""
    given = whole_numbers(name, value)
    shape(name, given, (size,))
    if given.size and (given.min() < 0 or given.max() > high):
        raise ValueError(f"{name}: expected values in 0..{high}, got {int(given.min())}..{int(given.max())}")
    return np.ascontiguousarray(given, np.intp)


def booleans(name: str, value: Any) -> NDArray[np.bool_]:
    """Return an array of bool; anything else is refused."""
    given = as_array(name, value, "booleans")
    if given.dtype != bool and given.size:
        raise TypeError(f"{name}: expected booleans, got dtype {given.dtype}")
    return given.astype(bool, copy=False)


def entries(name: str, given: Mapping[str, Any], expected: Iterable[str], strict: bool) -> None:
    """Compare the keys of a state_dict with the parameters' names."""
    if not isinstance(given, Mapping):
        raise TypeError(f"{name}: expected a mapping from names to arrays, got {describe(given)}")
    wanted = dict.fromkeys(expected)
    missing = [key for key in wanted if key not in given]
    extra = [key for key in given if key not in wanted]
    if strict and (missing or extra):
        raise ValueError(
            f"{name}: expected exactly {listed(wanted)}; missing: {listed(missing) or 'none'}; "
            f"unexpected: {listed(extra) or 'none'}"
        )
