"""class LSTM and class LSTMCell: PyTorch's modules, which run on the kernels where they can.

Where they cannot, the parent's own code runs: on another device, in another type, under autocast, a
transformation, a tracer or a dispatch mode, and for arguments that the parent refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.autograd.forward_ad
import torch.fx
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import _check
from . import _compiler, _composite, _operator, _passes
from ._autograd import Pass, transformed
from ._passes import FULL, Extent, Frozen, Structure, Weights

# Who watches a call wants not its numbers, but to know or to change what it computes.
_dispatched = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)  # noqa: SLF001
_traced = torch._C._get_tracing_state  # noqa: SLF001
_forward_mode = torch.autograd.forward_ad

_PLAIN = (Tensor, nn.Parameter)
_READ = (*_PLAIN, PackedSequence)
_DTYPES = (torch.float32, torch.float64)
_STRIDED = torch.strided
_STEP = (Extent(timed=False, batched=False), Extent(timed=False))  # by whether there is an axis of rows


def _nobody_watches() -> bool:
    return not (
        transformed()
        or _dispatched()
        or _traced() is not None
        or _forward_mode._current_level >= 0  # noqa: SLF001
        or torch.is_autocast_enabled("cpu")
    )


def _are_plain(dtype: torch.dtype, tensors: Sequence[Any]) -> bool:
    """Whether all are ordinary tensors of a type, in memory that NumPy can read."""
    for t in tensors:
        if type(t) not in _PLAIN or t.dtype is not dtype or not t.is_cpu or t.layout is not _STRIDED:
            return False
        if t.is_neg():
            return False
    return dtype in _DTYPES


def _are_shaped(structure: Structure, I: int, H: int, R: int, weights: Sequence[Any]) -> bool:  # noqa: E741
    shapes = _passes.shapes(structure, I, H, R)
    return [None if w is None else tuple(w.shape) for w in weights] == shapes


def _new_views(
    module: Any, structure: Structure, R: int, names: Sequence[str], tensors: Sequence[Any]
) -> Weights | None:
    """Return views of weights, which the module keeps; None if the kernels cannot read them."""
    views = None
    shaped = _are_shaped(structure, module.input_size, module.hidden_size, R, tensors)
    if shaped and _are_plain(tensors[0].dtype, tensors):
        views = Weights(structure, names, tensors)
        views.prepare()
    module.__dict__["_views"] = views
    return views


def _are_states(hx: Any, weights: Weights | Frozen, rows: tuple[int, ...]) -> bool:
    R, H = weights.sizes
    first = weights.states, *rows
    return len(hx) == 2 and hx[0].shape == (*first, R) and hx[1].shape == (*first, H)


def _need_gradients(tensors: Sequence[Tensor | None]) -> bool:
    if torch.is_grad_enabled():
        for t in tensors:  # `any` takes longer than the rest
            if t is not None and t.requires_grad:
                return True
    return False


def _refuse_beside_packed(lengths: Any, resets: Any) -> None:
    if lengths is not None or resets is not None:
        raise ValueError("lengths, resets: expected None with a PackedSequence; they are for a padded batch")


class LSTM(nn.LSTM):
    """`torch.nn.LSTM` on the kernels: the same constructor, parameters, state_dict, forward and gradients.

    Takes and returns what its parent does, `PackedSequence` included; numbers agree within rounding, masks of
    dropout are the parent's.  What the kernels cannot do (other devices and types, transformations, tracers)
    the parent's code does.  Threads are those of `clstm.set_num_threads`.

    Parameters
    ----------
    *args, **kwargs
        Those of ``torch.nn.LSTM``.

    Notes
    -----
    Weights are read at each call: no change of them goes unseen, through ``.data`` or a view of NumPy's
    neither.  `freeze` takes a snapshot instead.

    Examples
    --------
    >>> import torch, clstm.torch  # doctest: +SKIP
    >>> lstm = clstm.torch.LSTM(10, 20, num_layers=2)  # doctest: +SKIP
    >>> y, (h_n, c_n) = lstm(torch.randn(5, 3, 10))  # doctest: +SKIP
    """

    _frozen: Frozen | None = None
    _views: Weights | None = None

    def forward(
        self,
        input: Any,  # noqa: A002
        hx: Any = None,
        lengths: Any = None,
        resets: Any = None,
    ) -> Any:
        """Run sequences.

        Parameters
        ----------
        input : Tensor or PackedSequence
            As for the parent.
        hx : tuple of two Tensors, optional
            ``(h_0, c_0)``.
        lengths : Tensor or array_like of int of shape (B,), optional
            Number of real steps of each row of a padded batch, 0..T, in any order.  What lies beyond is never
            read.
        resets : Tensor or array_like of bool, laid out as the first two axes of `input`, optional
            True where an episode begins: h and c are 0 before that step, in every layer, and no gradient
            passes.

        Returns
        -------
        output, (h_n, c_n)
            As of the parent; 0 on padding.

        Raises
        ------
        RuntimeError
            The module is frozen and gradients are asked for; and what the parent raises.
        ValueError, TypeError
            `lengths` or `resets` are not what they should be.
        """
        if torch.compiler.is_compiling():
            return self._forward_compiled(input, hx, lengths, resets)
        weights: Weights | Frozen | None = None
        if type(input) in _READ and _nobody_watches():  # a weight is not to be touched if somebody does
            weights = self._weights() if self._frozen is None else self._frozen
        if weights is not None and type(input) in _PLAIN and self._fits(input, hx, weights):
            extent = FULL
            if self.batch_first or input.dim() == 2 or lengths is not None or resets is not None:
                extent = self._extent(input, lengths, resets)
            h_0, c_0 = (None, None) if hx is None else hx
            y, h_n, c_n = self._run(weights, input, h_0, c_0, extent)
            return y, (h_n, c_n)
        if isinstance(input, PackedSequence):
            _refuse_beside_packed(lengths, resets)
            return self._forward_packed(weights, input, hx)
        if isinstance(input, torch.fx.Proxy) and self is not getattr(input.tracer, "root", None):
            # A leaf of the graph, as the parent is.
            told = {"hx": hx, "lengths": lengths, "resets": resets}
            told = {name: value for name, value in told.items() if value is not None}
            path = input.tracer.path_of_module(self)
            return input.tracer.create_proxy("call_module", path, (input,), told)
        if lengths is not None or resets is not None:
            return self._forward_composite(input, hx, lengths, resets)
        return super().forward(input, hx)

    # ---------------------------------------------------------------------------------------- the ways to run

    def _run(
        self, weights: Weights | Frozen, x: Tensor, h_0: Tensor | None, c_0: Tensor | None, extent: Extent
    ) -> Any:
        """Run the kernels, with what gradients need if any are asked for."""
        masks = self._masks(x, extent) if self.training and self.dropout else ()
        if isinstance(weights, Frozen):
            if torch.is_grad_enabled() and _need_gradients((x, h_0, c_0, *self._flat_weights)):
                raise RuntimeError(
                    "clstm.torch.LSTM: expected no gradients to be asked for while it is frozen; "
                    "call it under torch.no_grad(), or call unfreeze()"
                )
        elif _need_gradients((x, h_0, c_0, *weights.tensors)):
            return Pass.apply(weights, extent, masks, x, h_0, c_0, *weights.tensors)
        return _passes.run_plain(weights, x, h_0, c_0, extent, masks)

    def _forward_packed(self, weights: Weights | Frozen | None, packed: PackedSequence, hx: Any) -> Any:
        """Run a PackedSequence, whose rows are ordered by length."""
        data, batch_sizes, sorted_indices, unsorted_indices = packed
        if (
            weights is None
            or data.shape[1:] != (self.input_size,)
            or not _are_plain(weights.dtype, (data, *(hx or ())))
        ):
            return super().forward(packed, hx)
        if hx is not None:
            if not _are_states(hx, weights, (int(batch_sizes[0]),)):
                return super().forward(packed, hx)
            hx = self.permute_hidden(hx, sorted_indices)
        h_0, c_0 = (None, None) if hx is None else hx
        y, *state = self._run(weights, data, h_0, c_0, _passes.extent_of_packed(batch_sizes))
        output = PackedSequence(y, batch_sizes, sorted_indices, unsorted_indices)
        return output, self.permute_hidden(tuple(state), unsorted_indices)

    def _forward_compiled(self, x: Any, hx: Any, lengths: Any, resets: Any) -> Any:
        """Leave one operator in the graph; in an exported one, which is for other places, the parent's."""
        if self._frozen is not None:  # whoever compiles piece by piece runs it outside of the graph
            raise RuntimeError("clstm.torch.LSTM: expected to be unfrozen in a graph of torch.compile")
        extra = lengths is not None or resets is not None
        if isinstance(x, PackedSequence):
            _refuse_beside_packed(lengths, resets)
            return super().forward(x, hx)
        weights = [getattr(self, name) for name in self._flat_weights_names]
        kernels = x.dtype in _DTYPES and not torch.is_autocast_enabled("cpu")
        for t in (x, *(() if hx is None else hx), *weights):
            kernels = kernels and t is not None and t.device.type == "cpu" and t.dtype == x.dtype
        if not kernels or not self._are_shaped(weights) or torch.compiler.is_exporting():
            return self._forward_composite(x, hx, lengths, resets) if extra else super().forward(x, hx)
        self._check_arguments(x, hx)
        batched = x.dim() == 3
        extent = Extent(batched, self.batch_first and batched)
        h_0, c_0 = (None, None) if hx is None else hx
        y, h_n, c_n = _operator.run(
            self._structure(), extent, self._masks(x, extent), x, h_0, c_0, weights, lengths, resets
        )
        return y, (h_n, c_n)

    def _forward_composite(self, x: Tensor, hx: Any, lengths: Any, resets: Any) -> Any:
        """Run PyTorch's own operations where its LSTM has no such arguments."""
        self._update_flat_weights()
        self._check_arguments(x, hx)
        if transformed():  # NumPy reads no tensor then
            lengths, resets = (v.tolist() if isinstance(v, Tensor) else v for v in (lengths, resets))
        extent = self._extent(x, lengths, resets)
        h_0, c_0 = (None, None) if hx is None else hx
        y, *state = _composite.run_as_given(
            self._structure(), extent, self._masks(x, extent), x, h_0, c_0, self._flat_weights
        )
        return y, tuple(state)

    # ------------------------------------------------------------------------------------------ its arguments

    def _structure(self) -> Structure:
        return Structure(self.num_layers, 1 + self.bidirectional, self.bias, self.proj_size > 0)

    def _are_shaped(self, weights: Sequence[Any]) -> bool:
        """Whether all are tensors of the shapes that the kernels take for granted."""
        R = self.proj_size or self.hidden_size
        return _are_shaped(self._structure(), self.input_size, self.hidden_size, R, weights)

    def _weights(self) -> Weights | None:
        """Return the present weights; None if the kernels cannot read them."""
        views = self._views
        if views is not None and views.are(self._parameters):
            return views
        if list(self._parameters) != self._flat_weights_names:  # something stands in the place of a parameter
            self._update_flat_weights()
        else:
            self._init_flat_weights()  # with the references by which the parent sees a change
        R = self.proj_size or self.hidden_size
        return _new_views(self, self._structure(), R, self._flat_weights_names, self._flat_weights)

    def _fits(self, x: Any, hx: Any, weights: Weights | Frozen) -> bool:
        """Whether these are arguments that the parent takes, and the kernels too."""
        if not _are_plain(weights.dtype, (x,) if hx is None else (x, *hx)):
            return False
        shape = x.shape
        if len(shape) not in (2, 3) or shape[-1] != self.input_size or x.numel() == 0:
            return False
        if hx is None:
            return True
        return _are_states(hx, weights, (shape[0 if self.batch_first else 1],) if len(shape) == 3 else ())

    def _check_arguments(self, x: Tensor, hx: Any) -> None:
        """Raise the parent's errors where its own code does not run."""
        if x.dim() not in (2, 3):
            raise ValueError(f"LSTM: Expected input to be 2D or 3D, got {x.dim()}D instead")
        batched = x.dim() == 3
        steps = x if batched else x.unsqueeze(0 if self.batch_first else 1)
        if hx is None:
            self.check_input(steps, None)
        elif hx[0].dim() != x.dim() or hx[1].dim() != x.dim():
            kind = "batched 3-D" if batched else "unbatched 2-D"
            raise RuntimeError(
                f"For {kind} input, hx and cx should also be {x.dim()}-D "
                f"but got ({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        else:
            hx = hx if batched else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))
            self.check_forward_args(steps, hx, None)
        if not steps.shape[1 if self.batch_first else 0]:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")

    def _extent(self, x: Tensor, lengths: Any, resets: Any) -> Extent:
        """Return the layout of x and what else a user says of it."""
        batched = x.dim() == 3
        return _passes.extent_of(x, batched, self.batch_first and batched, lengths, resets)

    def _masks(self, x: Tensor, extent: Extent) -> list[Tensor]:
        """Draw what lies between layers is multiplied by, (T, B, D R), as the parent draws it."""
        if not (self.training and self.dropout and self.num_layers > 1):
            return []
        features = (self.proj_size or self.hidden_size) * (1 + self.bidirectional)
        shape: tuple[int, ...] = (len(x), features)
        if extent.batch_sizes is None:
            shape = (*_passes.sizes_of(x, extent.batched, extent.batch_first), features)
        keep = 1.0 - self.dropout
        masks = []
        for _ in range(self.num_layers - 1):
            mask = x.new_zeros(shape) if keep == 0.0 else x.new_empty(shape).bernoulli_(keep).div_(keep)
            masks.append(mask if extent.batch_sizes is None else _passes.pad(mask, extent.batch_sizes))
        return masks

    # ----------------------------------------------------------------------------------------------- freezing

    def freeze(self) -> LSTM:
        """Take a snapshot of the weights, packed for single steps, and compute with it from now on.

        Without gradients.  Loading a state_dict takes a new snapshot, as does a change of the dtype; the move
        to another device ends it.

        Returns
        -------
        LSTM
            Itself.

        Raises
        ------
        ValueError
            The parameters are not all float32, or all float64, on the CPU.
        """
        weights = self._weights()
        if weights is None:
            raise ValueError("freeze: expected parameters of float32 or float64 on the CPU, got others")
        self._frozen = Frozen(weights)
        return self

    def unfreeze(self) -> LSTM:
        """Compute with the present weights again.

        Returns
        -------
        LSTM
            Itself.
        """
        self.__dict__.pop("_frozen", None)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._freeze_again()

    def _apply(self, fn: Any, recurse: bool = True) -> LSTM:
        super()._apply(fn, recurse)
        self._freeze_again()
        return self

    def _freeze_again(self) -> None:
        """Take a snapshot of weights that are others now; none of what the kernels cannot read."""
        if self._frozen is not None:
            weights = self._weights()
            self._frozen = None if weights is None else Frozen(weights)

    def extra_repr(self) -> str:
        """Return the parent's, and whether the module is frozen."""
        return super().extra_repr() + (", frozen" if self._frozen is not None else "")

    def __getstate__(self) -> dict[str, Any]:
        """Return the parent's; a snapshot is made anew."""
        state: dict[str, Any] = super().__getstate__()
        state.pop("_views", None)
        if self._frozen is not None:
            state["_frozen"] = True
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        frozen = state.pop("_frozen", None)
        super().__setstate__(state)
        if frozen is not None:
            self.freeze()

    def __prepare_scriptable__(self) -> nn.LSTM:
        """Return what TorchScript compiles: the parent, but for subclasses, which have code of their own."""
        return parent_of(self) if type(self) in _THEIRS else self


class LSTMCell(nn.LSTMCell):
    """`torch.nn.LSTMCell` on the kernels; see `clstm.torch.LSTM`.

    Parameters
    ----------
    *args, **kwargs
        Those of ``torch.nn.LSTMCell``.
    """

    _views: Weights | None = None

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002
        """Run one step of the rows (B, I), or of one row (I,): (h, c)."""
        if torch.compiler.is_compiling():
            return super().forward(input, hx)
        weights = self._weights() if _nobody_watches() else None
        if weights is None or type(input) not in _PLAIN or not self._fits(input, hx, weights):
            return super().forward(input, hx)
        extent = _STEP[input.dim() - 1]
        h_0, c_0 = (None, None) if hx is None else hx
        if _need_gradients((input, h_0, c_0, *weights.tensors)):
            return Pass.apply(weights, extent, (), input, h_0, c_0, *weights.tensors)[1:]
        return _passes.run_plain(weights, input, h_0, c_0, extent)[1:]

    def _weights(self) -> Weights | None:
        views = self._views
        if views is not None and views.are(self._parameters):
            return views
        names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if self.bias else ())]
        tensors = [getattr(self, name) for name in names]
        return _new_views(self, Structure(1, 1, self.bias, False), self.hidden_size, names, tensors)

    def _fits(self, x: Any, hx: Any, weights: Weights) -> bool:
        if not _are_plain(weights.dtype, (x,) if hx is None else (x, *hx)):
            return False
        if x.dim() not in (1, 2) or x.shape[-1] != self.input_size or x.numel() == 0:
            return False
        shape = (*x.shape[:-1], self.hidden_size)
        return hx is None or (len(hx) == 2 and hx[0].shape == hx[1].shape == shape)

    def __getstate__(self) -> dict[str, Any]:
        """Return the parent's."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_views"}

    def __prepare_scriptable__(self) -> nn.LSTMCell:
        """Return what TorchScript compiles: the parent, but for subclasses, which have code of their own."""
        return parent_of(self) if type(self) in _THEIRS else self


# ----------------------------------------------------------------------------------------------- whole models

_OURS = {nn.LSTM: LSTM, nn.LSTMCell: LSTMCell}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}

for _ours in _THEIRS:
    _ours.__module__ = "clstm.torch"  # where pickles find it
_compiler.admit(LSTM)


def parent_of(module: Any) -> Any:
    """Return a module of the parent's class on the same parameters."""
    theirs = _THEIRS[type(module)]
    copy = theirs.__new__(theirs)
    copy.__dict__.update(module.__dict__)
    _forget(copy)
    return copy


def _forget(module: nn.Module) -> None:
    for name in ("_frozen", "_views"):
        module.__dict__.pop(name, None)


def convert(module: nn.Module) -> int:
    """Let every `nn.LSTM` and `nn.LSTMCell` in a model run on the kernels.

    In place: the modules change their class and keep their parameters, hooks and names, so that an optimiser
    made before still updates them.  Subclasses of users keep their own code.

    Parameters
    ----------
    module : torch.nn.Module
        A model, or an LSTM itself.

    Returns
    -------
    int
        How many were converted.

    Raises
    ------
    TypeError
        `module` is no module.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.LSTM(3, 5))  # doctest: +SKIP
    >>> clstm.torch.convert(model), clstm.torch.revert(model)  # doctest: +SKIP
    (1, 1)
    """
    return _change_classes(module, _OURS)


def revert(module: nn.Module) -> int:
    """Take `convert` back, also for modules that were made as `clstm.torch.LSTM`.

    Parameters
    ----------
    module : torch.nn.Module

    Returns
    -------
    int
        How many are PyTorch's own again.

    Raises
    ------
    TypeError
        `module` is no module.
    """
    return _change_classes(module, _THEIRS)


def _change_classes(module: nn.Module, classes: dict[Any, Any]) -> int:
    _check.instance("module", module, nn.Module)
    found = [each for each in module.modules() if type(each) in classes]
    for each in found:
        _forget(each)
        each.__class__ = classes[type(each)]
    return len(found)
