"""class Exchanged: the methods by which `clstm.LSTM` comes from other systems and goes there.

A format's module is imported when its method is called: `import clstm` needs none of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

from numpy.typing import NDArray

from .. import _check
from ..parameters import Parameters
from .found import Found

Array = NDArray[Any]
Path = str | os.PathLike[str]
Names = str | Mapping[str, str]

# Arguments of the constructor that no file decides, or that can be set at any time.
_OWN = ("rng", "dtype", "backend", "batch_first", "dropout", "input_dropout", "recurrent_dropout", "zoneout")
# Arguments that arrays cannot tell.
_UNTOLD = ("activations", "cell_clip", "coupled", "gate_clip", "reverse")


class Exchanged(Parameters):
    """Base of the layer that other systems have too."""

    @classmethod
    def _of(cls, found: Found, own: dict[str, Any]) -> Self:
        """Make a layer of what was found and of a user's own arguments."""
        for name in own:
            if name not in _OWN:
                raise TypeError(f"{name}: expected one of {', '.join(_OWN)}; all else is in the source")
        return cls.from_params(found.params, **found.arguments | own)

    @classmethod
    def from_torch(cls, source: Any, prefix: str | None = None, **own: Any) -> Self:
        """Make a layer of one of PyTorch's, from a file, its tensors or the module itself.

        Nothing of PyTorch is needed, and no pickle is executed: a white list of opcodes is read as data.

        Parameters
        ----------
        source : str, path-like, mapping or torch.nn.Module
            A path: what ``torch.save`` has written of a state_dict or of a checkpoint, in either of its
            formats; a safetensors file; a pickled dict of NumPy arrays.  The content tells the format.  A
            mapping of names to arrays or tensors, those that require grad included.  Or a module that is or
            contains a ``torch.nn.LSTM`` or ``LSTMCell``, of which `batch_first` and `dropout` are taken too.
        prefix : str, optional
            What stands before ``weight_ih_l0``, with or without the last dot; "" if there is nothing.  In
            dicts and lists at any depth, keys and places are joined by dots: the checkpoint ``{"model":
            {"rnn.weight_ih_l0": ...}}`` holds "model.rnn".  The last parts of it are enough if no other ends
            so.  A dict that stands in several places is found in the first.  The default takes the only LSTM.
        **own
            Arguments of the constructor that are not in the source: `dtype`, `backend`, `batch_first`,
            `dropout` and so on.  No file tells `batch_first`: it is False unless it is said.

        Returns
        -------
        LSTM
            float32 if all its tensors are, float16 and bfloat16 counted among those; else float64.  Its bias
            is the sum of PyTorch's two.

        Raises
        ------
        FileFormatError
            There is no LSTM or more than one to choose from; a tensor of it is missing, unknown, misshapen,
            or no floating-point number; weights are pruned or otherwise parametrised; the file is damaged,
            holds a whole module instead of its state_dict, would call functions, or was written by `save`.
        OSError
            The file cannot be opened.
        TypeError
            The source is nothing of the kind, or `own` has an argument that the source decides.

        Examples
        --------
        >>> lstm = clstm.LSTM(3, 5, dtype="float32", rng=0)
        >>> state_dict = {f"rnn.{name}": value for name, value in lstm.to_torch().items()}
        >>> same = clstm.LSTM.from_torch(state_dict, "rnn", batch_first=True)
        >>> same
        LSTM(3, 5, batch_first=True, dtype='float32')
        >>> np.array_equal(same.flat_params, lstm.flat_params)
        True
        """
        from . import torch

        return cls._of(torch.read(source, prefix), own)

    def to_torch(self, path: Path | None = None) -> dict[str, Array]:
        """Return a state_dict for ``torch.nn.LSTM``, and write it to a file if there is a path.

        Parameters
        ----------
        path : str or path-like, optional
            Of a safetensors file, whatever its suffix; replaced if it exists.

        Returns
        -------
        dict of str to ndarray
            ``weight_ih_l{k}{suf} (4H, I_k)``, ``weight_hh_l{k}{suf} (4H, H)``, with a projection
            ``weight_hr_l{k}{suf} (R, H)``.  The whole bias is in ``bias_ih_l{k}{suf} (4H,)``;
            ``bias_hh_l{k}{suf}`` is 0.

        Raises
        ------
        ValueError
            The layer has an option that PyTorch's has not.
        OSError
            The file cannot be written.

        Notes
        -----
        ``torch.nn.LSTM(3, 5).load_state_dict({name: torch.from_numpy(value) for name, value in
        state_dict.items()})`` takes it, and ``safetensors.torch.load_model(module, path)`` the file.

        Examples
        --------
        >>> list(clstm.LSTM(3, 5).to_torch())
        ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0']
        """
        from . import torch

        return torch.write(self, path)

    @classmethod
    def from_keras(
        cls,
        path: Path,
        layer: str | list[str] | None = None,
        *,
        activation: Any = None,
        recurrent_activation: Any = None,
        go_backwards: bool | None = None,
        **own: Any,
    ) -> Self:
        """Make a layer of one or several LSTM layers in a file of Keras.

        Keras is not needed, h5py is.  Nothing in the file is run, and no other file is opened.

        Parameters
        ----------
        path : str or path-like
            A `.keras` or `.weights.h5` file of Keras 3 or tf.keras, or an `.h5` file of Keras 1 to 3.
        layer : str or list of str, optional
            Name of an LSTM, of a CuDNNLSTM, or of a Bidirectional of one; not needed if there is only one.
            A list makes one stacked layer, in which each reads what the one before hands on: say so only if
            it is so in the model.  Layers in models and wrappers have their own names; of two layers of one
            name an error message tells the longer ones.
        activation, recurrent_activation : str or pair of str and dict, optional
            Of candidate and cell, and of the gates, where the file holds no config that tells: "linear" or a
            name of `clstm.LSTM`.  What differs between versions of Keras is said in full:
            ``("hard_sigmoid", {"alpha": 0.2})`` is that of Keras 1 and 2, ``1 / 6`` that of Keras 3.
        go_backwards : bool, optional
            Likewise; for a Bidirectional False, that of its first layer.

            A CuDNNLSTM has but one set of activations: nothing must be given, and it goes forwards if
            `go_backwards` does not say otherwise.
        **own
            Arguments of the constructor that no file decides: rng, dtype, backend, batch_first and all kinds
            of dropout, of which `input_dropout` and `recurrent_dropout` otherwise are those of the config.

        Returns
        -------
        LSTM
            float64 if Keras's weights are, else float32.

        Raises
        ------
        FileFormatError
            The file is damaged or none of Keras's, or it holds no such layer; the layer has an option or
            activation that `clstm.LSTM` has not; config and weights do not fit, or something must be given.
        OSError
            The file cannot be opened.
        ValueError, TypeError
            An argument is not what it should be.
        ImportError
            h5py is missing.

        Notes
        -----
        Keras's layers are batch-first, so the same arrays come from ``batch_first=True``.  A layer with
        ``go_backwards=True`` becomes one with ``reverse=True``; Keras hands out its last step first, so its
        output is ``y[::-1]``, with `batch_first` ``y[:, ::-1]``, and several such layers are not read as
        one.  A Bidirectional must have ``merge_mode="concat"``; weights alone do not tell it, and are taken
        to have.

        Examples
        --------
        ::

            lstm = clstm.LSTM.from_keras("model.keras", layer="encoder", batch_first=True)
            both = clstm.LSTM.from_keras("model.keras", layer=["lstm", "lstm_1"])
            bare = clstm.LSTM.from_keras(
                "model.weights.h5", activation="tanh", recurrent_activation="sigmoid", go_backwards=False
            )
        """
        from . import keras

        return cls._of(keras.read(path, layer, activation, recurrent_activation, go_backwards), own)

    def to_keras(self) -> list[Array]:
        """Return the weights as ``set_weights`` of Keras's LSTM takes them.

        Returns
        -------
        list of ndarray
            Kernel ``(I, 4H)``, recurrent kernel ``(H, 4H)`` and, if it has one, bias ``(4H,)``, in fresh
            arrays; for two directions those of the second one follow, as in a Bidirectional.  Several layers
            follow one another: the list is that of a Sequential of them.

        Raises
        ------
        ValueError
            The layer has an option that Keras's LSTM has not: a projection, peepholes, coupled gates, a clip,
            a layer norm, zoneout, another activation of the cell than of the candidate, several layers that
            all go backwards.

        Notes
        -----
        Weights are all that there is in the list.  Keras's layer needs the same activations and ``use_bias``,
        and for ``reverse=True`` it needs ``go_backwards=True``.

        Examples
        --------
        >>> import clstm
        >>> lstm = clstm.LSTM(3, 5, rng=0)
        >>> [value.shape for value in lstm.to_keras()]
        [(3, 20), (5, 20), (20,)]
        """
        from . import keras

        return keras.write(self)

    @classmethod
    def from_onnx(cls, source: Any, node: str | list[str] | None = None, **own: Any) -> Self:
        """Make a layer of an LSTM node of an ONNX model, or of several.

        Neither `onnx` nor a runtime is needed.  Weights may be initializers, Constant nodes, or computed from
        such by Slice, Concat, Reshape, Transpose, Squeeze, Unsqueeze, Identity and Cast, also inside of If,
        Loop and Scan; float16 and bfloat16 become float32, exactly.

        Parameters
        ----------
        source : str, path-like, bytes or onnx.ModelProto
        node : str or list of str, optional
            Name of the node; one without a name has that of its first output, and one whose name stands again
            has "#1", "#2" behind it.  Nodes of which each reads the output of the one before, as PyTorch
            exports the layers of a stack unless it is given ``dynamic_shapes``, are one LSTM, named "<first>,
            <second>, ..."; each of them can be had alone, too, by its own name.  A list makes layers of these
            nodes, in this order, without asking what lies between them.  Can be left out if there is but one.
        **own
            Arguments of the constructor that no file decides, such as `dtype`, `batch_first` or `dropout`.
            For layout 1 `batch_first` is True, else False.

        Returns
        -------
        LSTM
            Its call takes what the node's other inputs are: ``sequence_lens`` is `lengths`, ``initial_h`` and
            ``initial_c`` are `state`, ``(num_layers * num_directions, B, H)`` for a stack.  What the model
            computes before and after the node is the caller's.

        Raises
        ------
        FileFormatError
            It is no ONNX model, has no LSTM or several, or this one cannot be read exactly as it is: an
            attribute that the operator has not, weights that contradict the attributes, that depend on the
            model's inputs, have 8 bits or lie in another file, different activations of both directions, an
            initial state or lengths that are constants of the model.
        OSError
            The file cannot be opened.
        TypeError
            `source` is something else, or `own` has an argument that the file decides.

        Notes
        -----
        ONNX Runtime departs from ONNX's text in two things: it takes 0 for an alpha of ThresholdedRelu or
        Affine that is not given, where the text has 1, and it returns a zero state for a row of length 0.

        Examples
        --------
        >>> lstm = clstm.LSTM.from_onnx("model.onnx", batch_first=True)  # doctest: +SKIP
        """
        from . import onnx

        return cls._of(onnx.read(source, node), own)

    def to_onnx(self, path: Path | None = None) -> Any:
        """Return an ONNX model of this layer; with a path also write it, whole or not at all.

        Its input is ``x``, ``(T, B, I)`` or, with `batch_first`, ``(B, T, I)``, its outputs are ``y``,
        ``h_n`` and ``c_n`` with the shapes of a call; T and B are free.  Three more inputs have defaults, as
        initializers, and can be left out: ``h_0`` and ``c_0`` ``(num_layers * num_directions, B, H)``, which
        are 0, and ``lengths`` ``(B,)``, int32, which is T.

        Parameters
        ----------
        path : str or path-like, optional
            Replaced if it exists.

        Returns
        -------
        onnx.ModelProto
            IR version 8, opset 17, one LSTM node for each layer, no external data.

        Raises
        ------
        ValueError
            `proj_size`, `cell_clip`, `layer_norm` or `zoneout`: ONNX's operator has no such option.  Or a
            float64 layer has a number among its options that the operator, whose attributes have 32 bits,
            cannot hold.
        ImportError
            The package `onnx` is missing.
        OSError
            The file cannot be written; an old one is as it was.

        Notes
        -----
        The model has the layer's dtype.  ONNX's operator has float64, but ONNX Runtime runs it in float32
        alone: ``clstm.LSTM.from_params(lstm.state_dict(), dtype="float32", ...)`` is such a layer.  Where it
        loads a model it warns that an input has a default; ``SessionOptions.log_severity_level = 3`` stops
        that.  It returns a zero state for a row of length 0.  Dropout of all kinds is no part of the model.
        The activation identity is written as Affine, with the same numbers.

        Examples
        --------
        >>> model = clstm.LSTM(3, 5, dtype="float32").to_onnx("model.onnx")  # doctest: +SKIP
        >>> session = onnxruntime.InferenceSession("model.onnx")  # doctest: +SKIP
        >>> y, h_n, c_n = session.run(None, {"x": np.ones((7, 2, 3), np.float32)})  # doctest: +SKIP
        """
        from . import onnx_write

        return onnx_write.write(self, path)

    @classmethod
    def from_gates(
        cls,
        source: Any,
        *,
        weight: Names | None = None,
        weight_ih: Names | None = None,
        weight_hh: Names | None = None,
        bias: Names | tuple[Names, ...] | None = None,
        peepholes: Names | None = None,
        gates: Sequence[str] = "ifgo",
        order: str | None = None,
        concat: str | None = None,
        transposed: bool | None = None,
        forget_offset: float = 0.0,
        unused: str = "refuse",
        **own: Any,
    ) -> Self:
        """Make a layer of arrays under any names: one array a gate, or one block of all four.

        A name with ``{gate}`` in it, or a dict from i, f, g, o to names, stands for one array a gate; any
        other for one block.  What follows a dot is inside: ``"cell.W{gate}"`` is an attribute, or an entry,
        of `cell`.

        Parameters
        ----------
        source : mapping, object or path
            Holds the arrays, all float32 or all float64: as entries, as attributes, or as those of a `.npz`
            file. A tuple of two such sources is one layer of two directions, forward first; a list is one
            layer after the other.
        weight : str or dict, optional
            Weights of x and h in one array: ``(H, I + H)`` a gate, ``(4H, I + H)`` in a block.
        weight_ih, weight_hh : str or dict, optional
            In its place separate ones: ``(H, I)`` and ``(H, H)`` a gate, ``(4H, I)`` and ``(4H, H)`` in a
            block.
        bias : str, dict or tuple of them, optional
            ``(H,)``, ``(H, 1)`` or ``(1, H)`` a gate, or as many in a block of ``4H``; several are added.
        peepholes : str or dict, optional
            Of the same shapes, for the gates i, f and o alone.
        gates : str or sequence of four str, default "ifgo"
            What ``{gate}`` is for i, f, g (the candidate) and o, in this order: ``"ifco"``, or ``("in",
            "forget", "cell", "out")``.
        order : str, optional
            Of the gates in a block, in the letters i, f, g, o: ``"igfo"``.  A block has to have one.
        concat : {"xh", "hx", "1xh", "1hx", "xh1", "hx1"}, optional
            What `weight` multiplies: "xh" is [x; h], and a 1 is where the bias stands.  `weight` has to have
            one.
        transposed : bool, optional
            False: the source computes ``W @ x``, and weights have the shapes above.  True: it computes ``x @
            W``, and they are transposed.  Has to be said where shapes do not tell, as those of square arrays.
        forget_offset : float, default 0.0
            What the source adds to the forget gate's bias when it runs, without storing it: 1 for
            TensorFlow's BasicLSTMCell and for DyNet.
        unused : {"refuse", "ignore"}
            Whether a mapping or a file may have arrays that no argument names.  Attributes of objects are not
            looked at.
        **own
            Arguments of the constructor that arrays cannot tell: `activations`, `cell_clip`, `coupled`,
            `gate_clip`, `reverse`, `batch_first`, `dtype` and so on.

        Raises
        ------
        FileFormatError
            An array is missing, unused, or of a shape or dtype that does not fit; or its shape can be read in
            two ways.  For a source that is no file, the name of its class stands in the place of the path.
        ValueError, TypeError
            An argument makes no sense.
        OSError
            A file cannot be opened.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> mine = {f"W{gate}": rng.standard_normal((5, 3 + 5)) for gate in "fico"}
        >>> mine |= {f"b{gate}": np.zeros((5, 1)) for gate in "fico"}
        >>> clstm.LSTM.from_gates(mine, weight="W{gate}", bias="b{gate}", gates="ifco", concat="xh")
        LSTM(3, 5, dtype='float64')

        Weights as TensorFlow's BasicLSTMCell has them, from a `.npz` file:

        >>> np.savez("cell.npz", kernel=np.ones((3 + 5, 20), "f4"), bias=np.zeros(20, "f4"))
        >>> layout = {"weight": "kernel", "bias": "bias", "order": "igfo", "concat": "xh", "forget_offset": 1}
        >>> lstm = clstm.LSTM.from_gates("cell.npz", **layout)
        >>> lstm
        LSTM(3, 5, dtype='float32')
        >>> lstm.to_gates(**layout, transposed=True)["kernel"].shape
        (8, 20)
        """
        from . import gates as arrays

        layout = arrays.Layout(
            weight, weight_ih, weight_hh, bias, peepholes, gates, order, concat, transposed, forget_offset
        )
        found = arrays.read(source, layout, unused)
        options = {name: own.pop(name) for name in _UNTOLD if name in own}
        return cls._of(found._replace(arguments=found.arguments | options), own)

    def to_gates(
        self,
        *,
        weight: Names | None = None,
        weight_ih: Names | None = None,
        weight_hh: Names | None = None,
        bias: Names | tuple[Names, ...] | None = None,
        peepholes: Names | None = None,
        gates: Sequence[str] = "ifgo",
        order: str | None = None,
        concat: str | None = None,
        transposed: bool = False,
        forget_offset: float = 0.0,
        column: bool = False,
    ) -> Any:
        """Return the parameters under any names: the inverse of `from_gates` with the same arguments.

        Parameters
        ----------
        weight, weight_ih, weight_hh, bias, peepholes, gates, order, concat, transposed, forget_offset
            As for `from_gates`.  Of several biases the first gets the values, the others are 0.
            `forget_offset` is subtracted.
        column : bool, default False
            Biases and peepholes are ``(n, 1)`` instead of ``(n,)``.

        Returns
        -------
        dict of str to ndarray
            Fresh arrays.  A tuple (forward, reverse) of two dicts if this layer has two directions, a list
            with one entry a layer if it has several layers.

        Raises
        ------
        ValueError, TypeError
            An argument makes no sense, or the layer has parameters without a name: a bias or peepholes, or a
            projection or layer norm, which have no place here.

        Notes
        -----
        Options that are no arrays, such as `activations`, `coupled`, clips and `reverse`, are not in them:
        what runs them has to have the same.  Read again, the parameters have the same bits, except for the
        forget gate's bias with a `forget_offset`, from which subtracting and adding may take a unit in the
        last place of the offset.

        Examples
        --------
        >>> lstm = clstm.LSTM(3, 5)
        >>> arrays = lstm.to_gates(weight="W{gate}", bias="b{gate}", concat="hx")
        >>> sorted(arrays), arrays["Wi"].shape
        (['Wf', 'Wg', 'Wi', 'Wo', 'bf', 'bg', 'bi', 'bo'], (5, 8))
        """
        from . import gates as arrays

        layout = arrays.Layout(
            weight, weight_ih, weight_hh, bias, peepholes, gates, order, concat, transposed, forget_offset
        )
        return arrays.write(self.params, layout, _check.boolean("column", column))
