"""Continuing sequences: outputs, or what is made of them, fed back as inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import _check

if TYPE_CHECKING:
    from .model import SequenceModel

Array = NDArray[Any]
Feedback = Callable[[Array, int, np.random.Generator], ArrayLike]


def sample_classes(temperature: float = 1.0) -> Feedback:
    """Return a feedback for `SequenceModel.generate` that draws classes from the softmax of scores.

    Parameters
    ----------
    temperature : float, default 1
        The scores are divided by it: less is bolder; 0 takes the highest score.

    Raises
    ------
    ValueError, TypeError
        It is negative or no number.

    Examples
    --------
    >>> import numpy as np
    >>> from clstm.nn import sample_classes
    >>> draw = sample_classes(temperature=0.0)
    >>> draw(np.array([[0.0, 3.0, 1.0]]), 0, np.random.default_rng(0))
    array([1])
    """
    temperature = _check.real("temperature", temperature)
    if temperature < 0:
        raise ValueError(f"temperature: expected at least 0, got {temperature}")

    def draw(scores: Array, step: int, rng: np.random.Generator) -> Array:  # noqa: ARG001
        if temperature == 0:
            highest: Array = scores.argmax(axis=-1)
            return highest
        # The largest of scores with Gumbel noise: a draw from the softmax, in two passes.
        classes: Array = (scores + temperature * rng.gumbel(size=scores.shape)).argmax(axis=-1)
        return classes

    return draw


def generate(
    model: SequenceModel,
    context: ArrayLike,
    steps: int,
    feedback: Feedback | None,
    samples: int | None,
    rng: Any,
    lengths: ArrayLike | None,
) -> Array:
    """Do what `SequenceModel.generate` says."""
    x, real, batched = model.steps_of(context, lengths)
    steps = _check.integer("steps", steps, 1)
    S = 1 if samples is None else _check.integer("samples", samples, 1)
    generator = _check.generator(rng)
    B = len(real)
    if B == 0 or real.min() < 1:
        raise ValueError("context: expected at least one sequence, and one step of each, got none")
    if feedback is None:
        feedback = sample_classes() if model.takes_indices else _as_it_is(model)
    if not callable(feedback):
        raise TypeError(f"feedback: expected a function, got {_check.describe(feedback)}")

    prediction, states = model.run_steps(x, real, model.zero_states(B))
    output = prediction if model.readout == "last" else prediction[real - 1, np.arange(B)]
    output = np.repeat(output, S, axis=0)
    stream = model.stream(
        B * S,
        [
            parts[0] if len(parts) == 1 else parts
            for parts in (tuple(np.repeat(part, S, axis=1) for part in state) for state in states if state)
        ],
    )
    fed = []
    for step in range(steps):
        x_t = _fed_back(model, feedback(output, step, generator), B * S)
        fed.append(x_t.copy())  # a feedback may use its array again
        if step + 1 < steps:
            output = stream.step(x_t)
    result = np.stack(fed)  # (steps, B S, ...)
    result = result.reshape(steps, B, S, *result.shape[2:])
    if model.batch_first and batched:
        result = np.moveaxis(result, 0, 2)
        result = result if samples is not None else result[:, 0]
    else:
        result = result if samples is not None else result[:, :, 0]
        result = result if batched else result[:, 0]
    return np.ascontiguousarray(result)


def _as_it_is(model: SequenceModel) -> Feedback:
    if None not in (model.input_size, model.output_size) and model.input_size != model.output_size:
        raise ValueError(
            f"feedback: expected a function that makes inputs of {model.input_size} numbers of outputs of "
            f"{model.output_size}, got None"
        )
    return lambda output, *_: output


def _fed_back(model: SequenceModel, given: ArrayLike, rows: int) -> Array:
    """Check what a feedback has made."""
    x_t = model.convert("feedback", given)
    _check.shape("feedback", x_t, (rows,) if model.takes_indices else (rows, model.input_size or "I"))
    return x_t
