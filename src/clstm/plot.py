"""Pictures: axes or figure in, axes or figure out; nothing is shown and no setting is changed.

matplotlib is imported when a picture is drawn.  Figures are made without pyplot, which therefore keeps none
of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # type: ignore[import-not-found, unused-ignore]
    from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]

    from ._gradient_flow import GradientFlow
    from .architecture import Trace
    from .rnn import RNNTrace

__all__ = ["compare", "forecast", "gates", "gradient_flow", "losses"]

# Told apart by people with colour-blindness and in print: Okabe and Ito's colours, with line styles.
STYLES = (
    ("#0072b2", "-"),
    ("#d55e00", "--"),
    ("#009e73", ":"),
    ("#cc79a7", "-."),
    ("#e69f00", "-"),
    ("#56b4e9", "--"),
)


class _Map(NamedTuple):
    """How one part of a trace is drawn as a heat map."""

    part: str
    title: str
    colors: str
    limits: tuple[float, float] | None  # None: symmetric about 0, as far as the values go


# What is in (0, 1) has a sequential map, what has a sign a diverging one with 0 in the middle.
_FORGET = _Map("f", "Forget gate f: 0 erases the cell, 1 keeps it", "viridis", (0, 1))
_INPUT = _Map("i", "Input gate i: 0 writes nothing, 1 writes the candidate", "viridis", (0, 1))
_CANDIDATE = _Map("g", "Candidate g: what there is to write, -1 to 1", "RdBu_r", (-1, 1))
_OUTPUT = _Map("o", "Output gate o: 0 hides the cell, 1 shows it", "viridis", (0, 1))
_CELL = _Map("c", "Cell state c = f c_prev + i g: the memory, without bounds", "RdBu_r", None)
_HIDDEN = _Map("h", "Hidden state h = o tanh(c): what leaves the layer, -1 to 1", "RdBu_r", (-1, 1))


def _new_figure(width: float, height: float) -> Figure:
    """Make a figure that pyplot does not know; sizes in inches."""
    try:
        from matplotlib.figure import Figure  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'cython-lstm[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _new_axes() -> Axes:
    """Make axes on a figure of their own."""
    return _new_figure(10, 5).subplots()


# --------------------------------------------------------------------------------------------------- states


def gates(
    trace: Trace,
    *,
    layer: int = 0,
    row: int = 0,
    steps: int | None = None,
    figure: Figure | None = None,
    title: str = "",
) -> Figure:
    """Draw gates, cell and hidden state of one layer as heat maps, hidden units by time.

    Parameters
    ----------
    trace : Trace
        What `clstm.LSTM.trace` returns.
    layer : int, default 0
        Index of the trace's first axis: layer 0 forward, then layer 0 reverse if there is one, then layer 1,
        ...
    row : int, default 0
        Row of the batch; 0 for a sequence without a batch axis.
    steps : int, optional
        Draw the first steps only: for a padded row, its length.
    figure : matplotlib Figure, optional
        Where to draw.  A new figure if omitted; pyplot does not know it.
    title : str, optional

    Returns
    -------
    matplotlib Figure
        Six fields on one time axis, which counts from 1; units count from 0.  Gates are coloured from 0 to 1,
        candidate and hidden state from -1 to 1, the cell symmetrically about 0.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError, TypeError
        An argument is out of range or has the wrong type.

    Examples
    --------
    To be run where matplotlib is installed:

    >>> import clstm
    >>> from clstm import plot
    >>> trace = clstm.LSTM(3, 8, rng=0).trace(np.ones((20, 3)))
    >>> figure = plot.gates(trace)  # doctest: +SKIP
    >>> figure.savefig("gates.png")  # doctest: +SKIP
    """
    maps = (_FORGET, _INPUT, _CANDIDATE, _OUTPUT, _CELL, _HIDDEN)
    parts = [_part("trace", trace, each.part, layer, row, steps) for each in maps]
    figure = _new_figure(12, 8) if figure is None else figure
    fields = figure.subplots(3, 2, sharex=True, sharey=True)
    for axes, each, values in zip(fields.flat, maps, parts, strict=True):
        _heat_map(axes, each, values)
    for axes in fields[-1]:
        axes.set_xlabel("time step")
    for axes in fields[:, 0]:
        axes.set_ylabel("hidden unit")
    figure.suptitle(title)
    return figure


def compare(
    lstm_trace: Trace,
    rnn_trace: RNNTrace,
    *,
    layer: int = 0,
    row: int = 0,
    steps: int | None = None,
    figure: Figure | None = None,
    title: str = "",
) -> Figure:
    """Draw what an LSTM and an RNN remember of one sequence as heat maps, hidden units by time.

    Parameters
    ----------
    lstm_trace : Trace
        What `clstm.LSTM.trace` returns.
    rnn_trace : RNNTrace
        What `clstm.RNN.trace` returns, over as many time steps.
    layer : int, default 0
        Index of the first axis of `lstm_trace`; the RNN has one layer.
    row, steps, figure, title : as in `gates`

    Returns
    -------
    matplotlib Figure
        Three fields on one time axis: the LSTM's cell and hidden state, the RNN's hidden state.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError, TypeError
        An argument is out of range or has the wrong type, or the traces differ in their number of time steps.

    Examples
    --------
    To be run where matplotlib is installed:

    >>> import clstm
    >>> from clstm import plot
    >>> lstm, rnn = clstm.LSTM(3, 8, rng=0), clstm.RNN(3, 8, rng=0)
    >>> x = np.ones((20, 3))
    >>> figure = plot.compare(lstm.trace(x), rnn.trace(x))  # doctest: +SKIP
    """
    cell, hidden = (_part("lstm_trace", lstm_trace, name, layer, row, steps) for name in ("c", "h"))
    rnn_hidden = _part("rnn_trace", rnn_trace, "h", 0, row, steps)
    if len(hidden) != len(rnn_hidden):
        raise ValueError(
            f"rnn_trace: expected {len(hidden)} time steps, as in lstm_trace, got {len(rnn_hidden)}"
        )
    figure = _new_figure(10, 8) if figure is None else figure
    fields = figure.subplots(3, 1, sharex=True)
    _heat_map(fields[0], _CELL._replace(title="LSTM: cell state c"), cell)
    _heat_map(fields[1], _HIDDEN._replace(title="LSTM: hidden state h"), hidden)
    _heat_map(fields[2], _HIDDEN._replace(title="RNN: hidden state h"), rnn_hidden)
    for axes in fields:
        axes.set_ylabel("hidden unit")
    fields[-1].set_xlabel("time step")
    figure.suptitle(title)
    return figure


def _part(name: str, trace: object, part: str, layer: int, row: int, steps: int | None) -> NDArray[Any]:
    """Take one layer and row of one part of a trace, (T, H)."""
    values = getattr(trace, part, None)
    if not isinstance(values, np.ndarray) or values.ndim not in (3, 4):
        raise TypeError(
            f"{name}: expected what the method trace returns, with an array {part}, "
            f"got {_check.describe(trace)}"
        )
    if values.ndim == 3:  # a sequence without a batch axis
        values = values[:, :, None]
    L, T, B, _ = values.shape
    for argument, value, size in (("layer", layer, L), ("row", row, B)):
        if _check.integer(argument, value, 0) >= size:
            raise ValueError(f"{argument}: expected at most {size - 1}, got {value}")
    drawn = T if steps is None else _check.integer("steps", steps, 1)
    if not 1 <= drawn <= T:
        raise ValueError(f"{name}: expected at least {max(drawn, 1)} time steps, got {T}")
    taken: NDArray[Any] = values[layer, :drawn, row]
    return taken


def _heat_map(axes: Axes, each: _Map, values: NDArray[Any]) -> None:
    """Draw values (T, H) and their colour bar."""
    T, H = values.shape
    reach = float(np.max(np.abs(values), where=np.isfinite(values), initial=0.0)) or 1.0
    low, high = each.limits or (-reach, reach)
    extent = (0.5, T + 0.5, H - 0.5, -0.5)  # steps count from 1, units from 0 downwards
    image = axes.imshow(values.T, cmap=each.colors, vmin=low, vmax=high, extent=extent, aspect="auto")
    image.set_interpolation("nearest")  # each step of each unit is one field
    axes.figure.colorbar(
        image, ax=axes, ticks=(low, (low + high) / 2, high), format="%.3g", pad=0.01, aspect=12
    )
    axes.locator_params(integer=True)
    axes.set_title(each.title, loc="left", fontsize="medium")


# ---------------------------------------------------------------------------------------------------- lines


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
        Forecasts by the name that the legend gives them.  They stand for the last n, or k * horizon, of the
        times; k forecasts follow each other, and a thin vertical line marks where each begins.
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
    _finish(axes, title, "", ylabel)
    axes.legend(loc="upper left", frameon=False)
    return axes


def losses(
    history: ArrayLike | Mapping[str, ArrayLike],
    *,
    axes: Axes | None = None,
    title: str = "",
    xlabel: str = "epoch",
    ylabel: str = "loss",
) -> Axes:
    """Draw the losses of a training, or of several.

    Parameters
    ----------
    history : array_like of shape (N,), or mapping of str to array_like of shape (N,)
        The first is drawn at 1, each further one 1 later.  With a mapping there is one line an entry, and a
        legend.
    axes : matplotlib Axes, optional
        Where to draw.  A new figure if omitted, as ``axes.figure``; pyplot does not know it.
    title, xlabel, ylabel : str, optional

    Returns
    -------
    matplotlib Axes
        Logarithmic where all losses are positive and the largest is at least ten times the smallest.  Where a
        loss is not finite there is a gap.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError, TypeError
        There is nothing to draw, or an argument has the wrong shape or type.

    Examples
    --------
    To be run where matplotlib is installed:

    >>> from clstm import plot
    >>> axes = plot.losses({"slow": [1.0, 0.9, 0.8], "fast": [1.0, 0.1, 0.01]})  # doctest: +SKIP
    >>> axes.get_yscale()  # doctest: +SKIP
    'log'
    """
    named = history if isinstance(history, Mapping) else {"": history}
    if not named:
        raise ValueError("history: expected at least one entry, got none")
    drawn: dict[str, NDArray[Any]] = {}
    for name, value in named.items():
        label = f"history[{name!r}]" if isinstance(history, Mapping) else "history"
        drawn[name] = _check.shaped(label, value, np.dtype(np.float64), ("N",))
        if not np.isfinite(drawn[name]).any():
            raise ValueError(f"{label}: expected at least one finite loss, got none")
    axes = _new_axes() if axes is None else axes

    for n, (name, value) in enumerate(drawn.items()):
        color, style = STYLES[n % len(STYLES)]
        finite = np.where(np.isfinite(value), value, np.nan)
        marker = "." if len(value) == 1 else ""
        axes.plot(
            np.arange(1, len(value) + 1), finite, style, marker=marker, color=color, linewidth=1.3, label=name
        )
    together = np.concatenate(list(drawn.values()))
    together = together[np.isfinite(together)]
    if together.min() > 0 and together.max() >= 10 * together.min():
        axes.set_yscale("log")
    _finish(axes, title, xlabel, ylabel)
    if isinstance(history, Mapping):
        axes.legend(frameon=False)
    return axes


def gradient_flow(
    flows: Mapping[str, GradientFlow],
    *,
    figure: Figure | None = None,
    title: str = "",
) -> Figure:
    """Draw how much of a gradient is left, by distance from the loss.

    Parameters
    ----------
    flows : mapping of str to GradientFlow
        What `clstm.gradient_flow` returns, by the name that the legend gives it.
    figure : matplotlib Figure, optional
        Where to draw.  A new figure if omitted; pyplot does not know it.
    title : str, optional

    Returns
    -------
    matplotlib Figure
        Two fields with one logarithmic axis: the norms of dL/dh_t, and of dL/dc_t for those that have a cell,
        each the mean
        over the rows of the batch.  Where a norm is 0 there is a gap.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError, TypeError
        There is nothing to draw, or an argument has the wrong type.

    Examples
    --------
    To be run where matplotlib is installed:

    >>> import clstm
    >>> from clstm import plot
    >>> x = np.random.default_rng(0).standard_normal((30, 3))
    >>> layers = {"LSTM": clstm.LSTM(3, 8, rng=0), "RNN": clstm.RNN(3, 8, rng=0)}
    >>> flows = {name: clstm.gradient_flow(layer, x) for name, layer in layers.items()}
    >>> figure = plot.gradient_flow(flows)  # doctest: +SKIP
    """
    _check.instance("flows", flows, Mapping)
    if not flows:
        raise ValueError("flows: expected at least one entry, got none")
    for name, flow in flows.items():
        if not all(hasattr(flow, part) for part in ("distance", "dh", "dc")):
            raise TypeError(
                f"flows[{name!r}]: expected what clstm.gradient_flow returns, got {_check.describe(flow)}"
            )
    figure = _new_figure(12, 5) if figure is None else figure
    fields = figure.subplots(1, 2, sharex=True, sharey=True)
    fields[0].set_yscale("log")
    for n, (name, flow) in enumerate(flows.items()):
        color, style = STYLES[n % len(STYLES)]
        for axes, norms in zip(fields, (flow.dh, flow.dc), strict=True):
            if norms is not None:
                mean = norms.reshape(len(norms), -1).mean(axis=1)
                drawn = np.where(mean > 0, mean, np.nan)
                axes.plot(flow.distance, drawn, style, color=color, linewidth=1.6, label=name)
    for axes, part, ylabel in zip(
        fields, ("hidden state, dL/dh_t", "cell state, dL/dc_t"), ("norm", ""), strict=True
    ):
        _finish(axes, f"Gradient by the {part}", "time steps back from the loss", ylabel)
        axes.grid(axis="y", color="0.92")
    fields[0].legend(frameon=False)
    figure.suptitle(title)
    return figure


def _finish(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    """Give a picture of lines what all of them have."""
    axes.margins(x=0.01)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


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
