"""The operator `clstm::lstm` for compilers: they leave the call in their graph and look no further.

Its results are those of `_passes.run`, with its tape behind them; `clstm::lstm_backward` walks it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _passes
from ._passes import Extent, Structure

_SAID = (  # what both operators are told of the arguments
    "Tensor x, Tensor? h_0, Tensor? c_0, Tensor[] weights, Tensor[] masks, Tensor? lengths, Tensor? resets, "
    "int layers, int directions, bool bias, bool projection, bool batched, bool batch_first"
)


def run(
    structure: Structure,
    extent: Extent,
    masks: Sequence[Tensor],
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    lengths: Any,
    resets: Any,
) -> Any:
    """Call the operator: y, h_n, c_n."""
    tensors = (x, h_0, c_0, *weights)
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    lengths, resets = (
        given if given is None or isinstance(given, Tensor) else torch.as_tensor(given, device="cpu")
        for given in (lengths, resets)
    )
    said = (*structure, extent.batched, extent.batch_first)
    y, h_n, c_n, *_ = torch.ops.clstm.lstm(
        x, h_0, c_0, list(weights), list(masks), lengths, resets, *said, keep
    )
    return y, h_n, c_n


class _Call(NamedTuple):
    """What both operators are told of the arguments, in the order of `_SAID`."""

    x: Tensor
    h_0: Tensor | None
    c_0: Tensor | None
    weights: Sequence[Tensor]
    masks: Sequence[Tensor]
    lengths: Tensor | None
    resets: Tensor | None
    layers: int
    directions: int
    bias: bool
    projection: bool
    batched: bool
    batch_first: bool

    def views(self) -> _passes.Weights:
        """Return the weights as cells."""
        return _passes.weights_of(Structure(*self[7:11]), self.weights)

    def extent(self) -> Extent:
        """Return the layout of the sequences, after a check of what users say of them."""
        return _passes.extent_of(self.x, self.batched, self.batch_first, self.lengths, self.resets)

    def like_states(self) -> list[Tensor]:
        """Return what a compiler takes for h and c."""
        rows = (_passes.sizes_of(self.x, self.batched, self.batch_first)[1],) if self.batched else ()
        R, H = self.weights[1].shape[1], self.weights[0].shape[0] // 4
        return [self.x.new_empty((self.layers * self.directions, *rows, size)) for size in (R, H)]

    def like_sequence(self, features: Any) -> Tensor:
        """Return what a compiler takes for a sequence, with its strides: the kernels are time-major."""
        T, B = _passes.sizes_of(self.x, self.batched, self.batch_first)
        steps = self.x.new_empty((T, B, features) if self.batched else (T, features))
        return steps.transpose(0, 1) if self.batch_first else steps


@torch.library.custom_op("clstm::lstm", mutates_args=(), schema=f"({_SAID}, bool keep) -> Tensor[]")
def _lstm(*said: Any) -> list[Tensor]:
    *arguments, keep = said
    call = _Call(*arguments)
    tape: list[Tensor] | None = [] if keep else None
    with torch.no_grad():
        results = _passes.run(call.views(), call.x, call.h_0, call.c_0, call.extent(), call.masks, tape)
    return [*results, *(tape or ())]


@_lstm.register_fake
def _(*said: Any) -> list[Tensor]:
    *arguments, keep = said
    call = _Call(*arguments)
    T, B = _passes.sizes_of(call.x, call.batched, call.batch_first)
    R, H = call.weights[1].shape[1], call.weights[0].shape[0] // 4
    results = [call.like_sequence(call.directions * R), *call.like_states()]
    for _ in range(call.layers if keep else 0):
        results.append(call.x.new_empty((T, B, call.directions * R)))
        for _ in range(call.directions):
            results += [call.x.new_empty((T, B, 4 * H)), call.x.new_empty((T, B, H))]
    return results


@torch.library.custom_op(
    "clstm::lstm_backward",
    mutates_args=(),
    schema=f"({_SAID}, Tensor[] tape, Tensor? dy, Tensor? dh_n, Tensor? dc_n) -> Tensor[]",
)
def _lstm_backward(*said: Any) -> list[Tensor]:
    *arguments, tape, dy, dh_n, dc_n = said
    call = _Call(*arguments)
    extent = call.extent()
    with torch.no_grad():
        dx, dh_0, dc_0, gradients = _passes.run_back(
            call.views(), call.x, call.h_0, call.c_0, extent, call.masks, tape, dy, dh_n, dc_n, True, True
        )
    return [dx, dh_0, dc_0, *gradients]


@_lstm_backward.register_fake
def _(*said: Any) -> list[Tensor]:
    call = _Call(*said[:-4])
    dx = call.like_sequence(call.x.shape[-1])
    return [dx, *call.like_states(), *(w.new_empty(w.shape) for w in call.weights)]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    call = _Call(*inputs[:-1])
    ctx.said, ctx.counts = call[7:], (len(call.weights), len(call.masks))
    tensors = (call.x, call.h_0, call.c_0, call.lengths, call.resets)
    ctx.save_for_backward(*tensors, *call.weights, *call.masks, *output[3:])


def _back(ctx: Any, grads: list[Tensor | None]) -> Any:
    x, h_0, c_0, lengths, resets, *others = ctx.saved_tensors
    n, m = ctx.counts
    weights, masks, tape = others[:n], others[n : n + m], others[n + m :]
    dx, dh_0, dc_0, *gradients = torch.ops.clstm.lstm_backward(
        x, h_0, c_0, weights, masks, lengths, resets, *ctx.said, tape, *grads[:3]
    )
    states = (None if h_0 is None else dh_0, None if c_0 is None else dc_0)
    return dx, *states, gradients, [None] * m, *[None] * 9


_lstm.register_autograd(_back, setup_context=_keep)
