"""The passes as PyTorch sees them: a function of autograd, and an operator that a compiler goes around.

What is kept for the way back goes through `save_for_backward`: it is freed when PyTorch frees its own, and
whoever changes a weight or an input in place in between gets PyTorch's error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _composite, _passes
from ._passes import Extent, Structure, Weights

# Whether functions are being transformed: vmap, grad, jvp.
transformed = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)  # noqa: SLF001
# Whether a derivative is many: `is_grads_batched` has batches of a kind of its own.
_batched = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda _: False)  # noqa: SLF001


class Pass(torch.autograd.Function):
    """`_passes.run` with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        weights: Weights,
        extent: Extent,
        masks: Sequence[Tensor],
        x: Tensor,
        h_0: Tensor | None,
        c_0: Tensor | None,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the kernels on weights, of which these are the tensors, and keep a tape."""
        tape: list[Tensor] = []
        results = _passes.run_plain(weights, x, h_0, c_0, extent, masks, tape)
        ctx.save_for_backward(x, h_0, c_0, *tensors, *masks, *tape)
        ctx.structure, ctx.extent, ctx.num_masks = weights.structure, extent, len(masks)
        ctx.set_materialize_grads(False)
        return results

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dh_n: Tensor | None, dc_n: Tensor | None) -> Any:
        """Walk back; in PyTorch's own operations, if somebody asks for a derivative of the derivative."""
        outer = (dy, dh_n, dc_n)
        if all(d is None for d in outer):
            return (None,) * len(ctx.needs_input_grad)
        x, h_0, c_0, *others = ctx.saved_tensors
        structure, extent = ctx.structure, ctx.extent
        count = structure.layers * structure.directions * structure.weights_per_cell
        weights, masks = others[:count], others[count : count + ctx.num_masks]
        tape = others[count + ctx.num_masks :]
        wanted = ctx.needs_input_grad[3:]
        if torch.is_grad_enabled() or transformed() or any(_batched(d) for d in outer if d is not None):
            inputs = (x, h_0, c_0, *weights)
            return None, None, None, *_again(structure, extent, masks, inputs, wanted, outer)
        dy, dh_n, dc_n = (None if d is None else d.resolve_neg() for d in outer)
        views = _passes.weights_of(structure, weights)
        dx, dh_0, dc_0, gradients = _passes.run_back(
            views, x, h_0, c_0, extent, masks, tape, dy, dh_n, dc_n, wanted[0], any(wanted[3:])
        )
        asked = [g if want else None for g, want in zip(gradients, wanted[3:], strict=False)]
        asked = asked or [None] * count
        return None, None, None, dx, dh_0 if wanted[1] else None, dc_0 if wanted[2] else None, *asked


def _again(
    structure: Structure,
    extent: Extent,
    masks: Sequence[Tensor],
    inputs: Sequence[Tensor | None],
    wanted: Sequence[bool],
    outer: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Return the gradients as functions of everything, from a forward pass of PyTorch's own operations."""
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases, so that the path from one input to another outside is not taken for one inside.
        given = [None if t is None else t.view_as(t) for t in inputs]
        x, h_0, c_0, *weights = given
        assert x is not None
        results = _composite.run_as_given(structure, extent, masks, x, h_0, c_0, weights)
        chosen = [t for t, want in zip(given, wanted, strict=True) if want]
        pairs = [(y, dy) for y, dy in zip(results, outer, strict=True) if dy is not None]
        results, outer = zip(*pairs, strict=True)
        found = iter(torch.autograd.grad(results, chosen, outer, create_graph=create, allow_unused=True))
    return [next(found) if want else None for want in wanted]
