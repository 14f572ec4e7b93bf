"""Pictures: axes in, axes out.  matplotlib is imported when a picture is drawn; nothing is shown and no setting is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # type: ignore[import-not-found, unused-ignore]

__all__ = ["forecast"]

# Told apart by people with colour-blindness and in print: Okabe and Ito's blue, vermilion and green, with line styles.
STYLES = (("#0072b2", "-"), ("#d55e00", "--"), ("#009e73", ":"))


def _new_axes() -> Axes:
    """Make axes on a figure of their own, which pyplot does not keep."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'cython-lstm[plot]'") from error
    return Figure(figsize=(10, 5), layout="constrained").subplots()


def forecast(
    times: ArrayLike,
    truth: ArrayLike,
    predictions: Mapping[str, ArrayLike],
    *,
    axes: Axes | None = None,
    title: str = "",
    ylabel: str = "",
) -> Axes:
    """Draw forecasts against what came true.

    Parameters
    ----------
    times : array_like of shape (N,)
        Numbers or datetime64, rising.
    truth : array_like of shape (N,)
    predictions : mapping of str to array_like of shape (n,) or (k, horizon)
        Forecasts by the name that the legend gives them.  They stand for the last n, or k * horizon, of the times; k
        forecasts follow each other, and a thin vertical line marks where each begins.
    axes : matplotlib Axes, optional
        Where to draw.  A new figure if omitted, as ``axes.figure``; pyplot does not know it.
    title, ylabel : str, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError, TypeError
        A shape does not fit the times, or an argument has the wrong type.

    Examples
    --------
    Two years, forecast one after the other; to be run where matplotlib is installed:

    >>> from clstm import plot
    >>> months = np.arange("2000-01", "2003-01", dtype="datetime64[M]")
    >>> forecasts = np.arange(12.0, 36.0).reshape(2, 12)
    >>> axes = plot.forecast(months, np.arange(36.0), {"model": forecasts})  # doctest: +SKIP
    >>> axes.figure.savefig("forecast.png")  # doctest: +SKIP
    """
    times = np.asarray(times)
    _check.shape("times", times, ("N",))
    truth = _check.shaped("truth", truth, np.dtype(np.float64), (len(times),))
    _check.instance("predictions", predictions, Mapping)
    drawn = {name: _tail(name, value, len(times)) for name, value in predictions.items()}
    axes = _new_axes() if axes is None else axes

    for start in sorted({start for value in drawn.values() for start in _starts(value, len(times))}):
        axes.axvline(times[start], color="0.85", linewidth=0.8, zorder=0)
    axes.plot(times, truth, ".", color="0.2", markersize=4, label="observed")
    for n, (name, value) in enumerate(drawn.items()):
        color, style = STYLES[n % len(STYLES)]
        tail = times[len(times) - value.size :].reshape(value.shape)
        for k, (part, line) in enumerate(zip(tail, value, strict=True)):
            axes.plot(part, line, style, color=color, linewidth=1.3, label=name if k == 0 else "_nolegend_")
    axes.margins(x=0.01)
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left")
    axes.legend(loc="upper left", frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _tail(name: str, value: ArrayLike, N: int) -> NDArray[Any]:
    """Return a prediction as (k, horizon)."""
    label = f"predictions[{name!r}]"
    given = _check.array(label, value, np.dtype(np.float64))
    if given.ndim != 1:
        _check.shape(label, given, ("k", "horizon"))
    if given.size > N:
        raise ValueError(f"{label}: expected at most {N} values, one a time, got {given.size}")
    return np.atleast_2d(given)


def _starts(value: NDArray[Any], N: int) -> range:
    """Positions among N times at which the forecasts in (k, horizon) begin."""
    return range(N - value.size, N, value.shape[1]) if value.size else range(0)
