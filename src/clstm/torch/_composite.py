"""The same passes in PyTorch's own operations, a step at a time: slow, and differentiable in every way.

For what the kernels have no part in: second derivatives, and `lengths` and `resets` on other devices, in
other types, or under a transformation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from ._passes import Extent, Structure


def run_as_given(
    structure: Structure,
    extent: Extent,
    masks: Sequence[Tensor],
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """Run all layers over arguments as users give them: what `_passes.run` does, with the same results."""
    if extent.batch_sizes is not None:
        packed = PackedSequence(x, extent.batch_sizes)
        steps = pad_packed_sequence(packed)[0]
    else:
        steps = x if extent.timed else x[None]
        steps = steps.unsqueeze(-2) if not extent.batched else steps
        steps = steps.transpose(0, 1) if extent.batch_first else steps
    LD, B = structure.layers * structure.directions, steps.shape[1]
    R, H = weights[1].shape[1], weights[0].shape[0] // 4
    h = x.new_zeros(LD, B, R) if h_0 is None else h_0.reshape(LD, B, R)
    c = x.new_zeros(LD, B, H) if c_0 is None else c_0.reshape(LD, B, H)
    lengths, resets = (
        None if given is None else torch.from_numpy(given).to(x.device)
        for given in (extent.lengths, extent.resets)
    )
    y, h_n, c_n = run(structure, weights, steps, h, c, lengths, resets, masks)
    if extent.batch_sizes is not None:
        y = pack_padded_sequence(y, lengths).data
    else:
        y = y.transpose(0, 1) if extent.batch_first else y
        y = y.squeeze(1) if not extent.batched else y
        y = y if extent.timed else y[0]
    finals = []
    for part in (h_n, c_n):
        part = part if extent.timed else part[0]
        finals.append(part if extent.batched else part.squeeze(-2))
    return y, finals[0], finals[1]


def run(
    structure: Structure,
    weights: Sequence[Tensor],
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    masks: Sequence[Tensor] = (),
) -> tuple[Tensor, Tensor, Tensor]:
    """Run all layers over x (T, B, I), as `_passes.run` does; lengths (B,), resets (T, B)."""
    T, n = len(x), structure.weights_per_cell
    real = None if lengths is None else torch.arange(T, device=x.device)[:, None] < lengths
    # Padding may be NaN, and so would be its part in a derivative, which is 0 times that.
    x = x if real is None else torch.where(real[:, :, None], x, 0)
    h_n, c_n, below = [], [], x
    for k in range(structure.layers):
        if k and masks:
            below = below * masks[k - 1]
        outputs = []
        for d in range(structure.directions):
            c = k * structure.directions + d
            y, h, cell = _direction(
                structure, weights[c * n : (c + 1) * n], below, h_0[c], c_0[c], real, resets, bool(d)
            )
            outputs.append(y)
            h_n.append(h)
            c_n.append(cell)
        below = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return below, torch.stack(h_n), torch.stack(c_n)


def _direction(
    structure: Structure,
    weights: Sequence[Tensor],
    x: Tensor,
    h: Tensor,
    c: Tensor,
    real: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer in one direction: y (T, B, R), h, c."""
    projected = x @ weights[0].T
    if structure.bias:
        projected = projected + (weights[2] + weights[3])
    begins = resets if resets is None or real is None else resets & real
    T = len(x)
    y: list[Tensor] = []
    for t in reversed(range(T)) if reverse else range(T):
        first = t + 1 if reverse else t  # the reverse direction leaves an episode by its first step
        if begins is not None and first < T:
            keep = ~begins[first][:, None]
            h, c = torch.where(keep, h, 0), torch.where(keep, c, 0)
        i, f, g, o = (projected[t] + h @ weights[1].T).chunk(4, dim=1)
        c_t = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h_t = o.sigmoid() * c_t.tanh()
        if structure.projection:
            h_t = h_t @ weights[-1].T
        if real is None:
            h, c = h_t, c_t
            y.append(h)
        else:
            step = real[t][:, None]
            h, c = torch.where(step, h_t, h), torch.where(step, c_t, c)
            y.append(torch.where(step, h_t, 0))
    return torch.stack(y[::-1] if reverse else y), h, c
