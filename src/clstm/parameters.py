"""What everything that has parameters shares: arguments, arrays by name, dictionaries, pickles, files.

A class declares its arguments once, as `Argument`s whose defaults stand in its constructor, and says how a
flat array is cut into named views.  Whatever a user assigns is checked and copied into the storage, or
refused: nothing is lost.
"""

from __future__ import annotations

import inspect
import os
import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, Self, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _check, files
from ._version import __version__

Array = NDArray[Any]
T = TypeVar("T")

_SINGLE = (str(np.dtype(np.float32)), "torch.float32")


class Argument(Generic[T]):
    """An argument of the constructor as an attribute: read-only, or checked whenever it is set.

    Parameters
    ----------
    check : callable
        From name and value to the value that is kept; raises on others.
    settable : bool
        False for what shapes the parameters.
    saved : bool
        Whether it is part of a file.
    default
        For what only `from_params` takes; the others have theirs in the constructor.
    """

    def __init__(
        self,
        check: Callable[[str, Any], T],
        *,
        settable: bool = False,
        saved: bool = True,
        default: Any = None,
    ) -> None:
        self.check = check
        self.settable = settable
        self.saved = saved
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, obj: None, owner: type) -> Self: ...
    @overload
    def __get__(self, obj: Arguments, owner: type) -> T: ...
    def __get__(self, obj: Arguments | None, owner: type) -> Self | T:
        if obj is None:
            return self
        value: T = obj.__dict__["_arguments"][self.name]
        return value

    def __set__(self, obj: Arguments, value: Any) -> None:
        if not self.settable:
            raise AttributeError(
                f"{self.name}: expected no new value, for it shapes the parameters; "
                f"make another {type(obj).__name__}"
            )
        obj.__dict__["_arguments"][self.name] = self.check(self.name, value)
        obj.argument_changed()


class NamedArrays(dict[str, Array]):
    """Views of a flat array by name.

    Assigning copies into the storage after a check; the names stay as they are.

    Parameters
    ----------
    label : str
        What messages call it.
    views : mapping of str to ndarray
    """

    def __init__(self, label: str, views: Mapping[str, Array]) -> None:
        super().__init__(views)
        self._label = label

    def check(self, name: str, value: ArrayLike, label: str) -> Array:
        """Return a value for one of the arrays as an array."""
        if name not in self:
            raise ValueError(f"{label}: expected one of {_check.listed(self)}, got {_check.describe(name)}")
        return _check.shaped(f"{label}[{name!r}]", value, self[name].dtype, self[name].shape)

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        if (
            name not in self or value is not self[name]
        ):  # `arrays[name] -= a` assigns what it has changed in place
            checked = self.check(name, value, self._label)
            self[name][...] = checked

    def copy_in(self, values: Mapping[str, ArrayLike], label: str) -> None:
        """Copy several arrays in; either all are taken or none."""
        # Copies, for a value may be a view of these arrays.
        checked = {name: self.check(name, value, label).copy() for name, value in values.items()}
        for name, value in checked.items():
            self[name][...] = value

    def update(self, *values: Any, **named: Any) -> None:
        """Copy several arrays in; either all are taken or none."""
        self.copy_in(dict(*values, **named), self._label)

    def __ior__(self, values: Any) -> Self:  # type: ignore[override, misc]
        self.update(values)
        return self

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            f"{self._label}: expected the names to stay as they are; copy it with dict() to change them"
        )

    __delitem__ = pop = popitem = clear = _refuse

    def setdefault(self, name: str, default: Any = None) -> Any:  # noqa: ARG002
        """Return the array of this name; there is no other to be added."""
        return self[name] if name in self else self._refuse()

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy as an ordinary dictionary: its arrays are not the layer's."""
        return dict, (dict(self),)


class Saved:
    """What can be written to a file: a class name, arguments and named arrays.

    A class of one's own says its name in files, `file_class`, and has the two methods `file_content` and
    `from_file`; docs/training.md shows one.
    """

    file_class: ClassVar[str]  # what files call the class
    floats_alone: ClassVar[bool] = True  # whether its arrays are all of float32 and float64

    @abstractmethod
    def file_content(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the arguments, as JSON has them, and the arrays."""
        raise NotImplementedError(f"{type(self).__name__}: expected its own file_content, to be saved")

    @classmethod
    @abstractmethod
    def from_file(
        cls,
        arguments: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], dict[str, Array]],
        **options: Any,
    ) -> Self:
        """Make an object of what a file holds; `read` gets the arrays, after all else is checked."""

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Check the arguments of `load` that are not part of a file; most classes have none."""
        for name in options:
            raise TypeError(f"{cls.__name__}.load: expected the path alone, got {name}")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and constructor arguments to a safetensors file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            Replaced if it exists, after the new content has reached the disk.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        arguments, tensors = self.file_content()
        files.write(path, self.file_class, arguments, tensors, __version__)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """Read what `save` has written.

        Parameters
        ----------
        path : str or path-like
        **options
            Arguments of the constructor that are not part of the file, such as `backend`.

        Raises
        ------
        FileFormatError
            The file is no safetensors file, was not written by `save` or has been damaged since, holds an
            object of another class, or its tensors do not fit its arguments.
        OSError
            The file cannot be opened.
        """
        return cls.from_contents(files.read(path), **options)

    @classmethod
    def from_contents(cls, contents: files.Contents, **options: Any) -> Self:
        """Make an object of the contents of a file."""
        contents.expect(cls.file_class, cls.floats_alone)
        cls.check_options(options)
        with files.as_format_error(contents.path):
            return cls.from_file(dict(contents.arguments), contents.shapes, contents.tensors, **options)


class Arguments(Saved):
    """Base of the classes whose constructor's arguments are attributes."""

    dtype = Argument(_check.float_dtype)

    _table: ClassVar[dict[str, Argument[Any]]] = {}
    defaults: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Collect the arguments; a class that files know has their defaults in its constructor."""
        super().__init_subclass__(**kwargs)
        found = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
        arguments = {name: value for name, value in found.items() if isinstance(value, Argument)}
        if "file_class" in vars(cls):
            given = inspect.signature(cls.__init__).parameters
            cls._table = {name: arguments[name] for name in given if name in arguments} | arguments
            cls.defaults = {
                name: argument.default for name, argument in arguments.items() if name not in given
            }
            cls.defaults |= {
                name: parameter.default
                for name, parameter in given.items()
                if name in arguments and parameter.default is not inspect.Parameter.empty
            }

    def _check_together(self) -> None:
        """Check arguments that depend on each other."""

    def argument_changed(self) -> None:
        """Take notice of an argument that has been set."""

    def _set_up(self, arguments: Mapping[str, Any]) -> None:
        """Check and keep the arguments; those that are missing have their defaults."""
        given = self.defaults | dict(arguments)
        name = type(self).__name__
        for wrong, what in (
            (given.keys() - self._table.keys(), "unknown"),
            (self._table.keys() - given.keys(), "missing"),
        ):
            if wrong:
                listed = ", ".join(map(_check.describe, sorted(wrong)[:5]))
                raise TypeError(f"{name}: expected the arguments {', '.join(self._table)}; {what}: {listed}")
        self._arguments = {name: argument.check(name, given[name]) for name, argument in self._table.items()}
        self._check_together()

    def look(self) -> None:
        """Take in what was bound elsewhere; called before every use of the parameters."""

    def _saved_arguments(self) -> dict[str, Any]:
        """Return those that are part of a file, as JSON has them."""
        saved = {name: self._arguments[name] for name, argument in self._table.items() if argument.saved}
        return saved | {"dtype": self.dtype.name}

    @classmethod
    def _of_file(cls, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """Return an object that has its arguments, those of a file and others, and nothing else."""
        saved = [name for name, argument in cls._table.items() if argument.saved]
        unknown = [name for name in arguments if name not in saved]
        if unknown:
            listed = ", ".join(map(_check.describe, unknown[:5]))
            raise ValueError(f"arguments: expected some of {', '.join(saved)}, got {listed}")
        made = cls.__new__(cls)
        made._set_up({**arguments, **options})
        return made

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Check the arguments of `load` that are not part of a file."""
        known = {name: argument for name, argument in cls._table.items() if not argument.saved}
        for name, value in options.items():
            if name not in known:
                expected = f"of its arguments only {_check.listed(known)}" if known else "the path alone"
                raise TypeError(f"{cls.__name__}.load: expected {expected}, got {name}")
            known[name].check(name, value)

    def __repr__(self) -> str:
        values = {name: self._arguments[name] for name, argument in self._table.items() if argument.saved}
        first, second, *others = (name for name in values if name != "dtype")
        special = [f"{name}={values[name]!r}" for name in others if values[name] != self.defaults[name]]
        shown = [str(values[first]), str(values[second]), *special, f"dtype={self.dtype.name!r}"]
        return f"{type(self).__name__}({', '.join(shown)})"


class Parameters(Arguments):
    """Base of the layers.

    Attributes
    ----------
    flat_params, flat_grads : ndarrays of shape (n,)
        All parameters and their gradients, each in one contiguous array.
    params, grads : dict of str to ndarray
        Views of these by name.
    """

    _derived: ClassVar[frozenset[str]] = frozenset({"_params", "_grads", "_adding"})  # made by `_lay_out`
    # --------------------------------------------------------------------------------------- for the classes

    @abstractmethod
    def _num_params(self) -> int:
        """Count the parameters that the arguments ask for, in a time that does not depend on them."""

    @abstractmethod
    def _num_arrays(self) -> int:
        """Count the names that they have, as quickly."""

    @abstractmethod
    def _named_views(self, flat: Array) -> dict[str, Array]:
        """Cut a flat array into named parts."""

    @classmethod
    @abstractmethod
    def _sizes_of(cls, params: Mapping[str, ArrayLike]) -> dict[str, Any]:
        """Return the arguments that named arrays imply; names and shapes are checked later."""

    @classmethod
    def _translated(cls, label: str, given: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG003
        """Return named arrays under the names of this class, where another convention is taken too."""
        return given

    def _lay_out(self, flat_params: Array, flat_grads: Array | None = None) -> None:
        """Take flat arrays as parameters and gradients and make every view of them."""
        self._flat_params = flat_params
        self._flat_grads = np.zeros_like(flat_params) if flat_grads is None else flat_grads
        self._params = NamedArrays("params", self._named_views(self._flat_params))
        self._grads = NamedArrays("grads", self._named_views(self._flat_grads))
        self._adding = threading.Lock()

    def _take_gradients(self, fresh: Array, accumulate: bool) -> None:
        """Put gradients in the place of the old ones, or add them, one thread at a time."""
        with self._adding:
            if accumulate:
                self._flat_grads += fresh
            else:
                self._flat_grads[...] = fresh

    # ----------------------------------------------------------------------------------------- for everybody

    @classmethod
    def from_params(
        cls,
        params: Mapping[str, ArrayLike] | Array,
        *,
        rng: int | np.random.Generator | None = None,
        **arguments: Any,
    ) -> Self:
        """Make a layer on given parameters; nothing is drawn.

        Parameters
        ----------
        params : mapping of str to array_like, or ndarray of shape (n,)
            Arrays by name, as `state_dict` returns them, which are copied; what they imply, such as the
            sizes, need not be said.  Or the flat array itself, contiguous and of the layer's dtype, which
            becomes the storage.
        rng : None, int or numpy.random.Generator
            Source of dropout, for layers that have it.
        **arguments
            As for the constructor.

        Raises
        ------
        ValueError, TypeError
            An argument is not what it should be, or the arrays do not fit the arguments.

        Examples
        --------
        >>> lstm = clstm.LSTM(3, 5, rng=0)
        >>> same = clstm.LSTM.from_params(lstm.state_dict(), batch_first=True)
        >>> same.input_size, same.hidden_size, np.array_equal(same.flat_params, lstm.flat_params)
        (3, 5, True)
        """
        layer = cls.__new__(cls)
        if isinstance(params, Mapping):
            dtype = _dtype_of(params)
            params = cls._translated("params", params)
            layer._set_up({"dtype": dtype} | cls._sizes_of(params) | arguments)
            expected = layer._expected("params", params)
            checked = {name: expected.check(name, value, "params") for name, value in params.items()}
            flat = np.zeros(layer._num_params(), layer.dtype)
        elif isinstance(params, np.ndarray):
            layer._set_up({"dtype": params.dtype} | arguments)
            checked, flat = {}, params
            _check.shape("params", flat, (layer._num_params(),))
            if flat.dtype != layer.dtype or not flat.flags.carray:
                raise ValueError(
                    f"params: expected a contiguous, writable array of {layer.dtype}, "
                    f"got {_check.describe(flat)}"
                )
        else:
            raise TypeError(f"params: expected a mapping or a flat array, got {_check.describe(params)}")
        layer._begin(_check.generator(rng))
        layer._lay_out(flat)
        layer._params.copy_in(checked, "params")
        return layer

    def _expected(self, label: str, given: Mapping[str, Any]) -> NamedArrays:
        """Compare given names with those of the parameters, of which there are arrays without memory."""
        if len(given) != self._num_arrays() > 1000:  # too many to be made and listed
            raise ValueError(f"{label}: expected exactly {self._num_arrays()} arrays, got {len(given)}")
        views = self._named_views(np.broadcast_to(self.dtype.type(0), self._num_params()))
        _check.entries(label, given, views, True)
        return NamedArrays(label, views)

    def _begin(self, rng: np.random.Generator) -> None:
        """Take the generator, for layers that go on drawing."""

    @property
    def flat_params(self) -> Array:
        """All parameters; assigning copies in."""
        self.look()
        return self._flat_params

    @flat_params.setter
    def flat_params(self, value: ArrayLike) -> None:
        _assign("flat_params", self.flat_params, value)

    @property
    def flat_grads(self) -> Array:
        """All gradients; assigning copies in."""
        return self._flat_grads

    @flat_grads.setter
    def flat_grads(self, value: ArrayLike) -> None:
        _assign("flat_grads", self.flat_grads, value)

    @property
    def params(self) -> NamedArrays:
        """The parameters by name; assigning to an entry copies in."""
        self.look()
        return self._params

    @params.setter
    def params(self, value: Any) -> None:
        _only_itself("params", self.params, value)

    @property
    def grads(self) -> NamedArrays:
        """The gradients by name; assigning to an entry copies in."""
        return self._grads

    @grads.setter
    def grads(self, value: Any) -> None:
        _only_itself("grads", self.grads, value)

    def state_dict(self) -> dict[str, Array]:
        """Return copies of all parameters by name."""
        return {name: value.copy(order="C") for name, value in self.params.items()}

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike], strict: bool = True) -> None:
        """Copy parameters in from a mapping of names to arrays; either all are taken or none.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            As `state_dict` returns it.  A recurrent layer also takes PyTorch's two biases in the place of its
            one: ``bias_ih_l0`` and ``bias_hh_l0`` are added.  Tensors that require grad or lie on another
            device are taken.
        strict : bool, default True
            Refuse missing and unexpected names.  With False both are passed over, but for half of a pair of
            biases; shapes are checked all the same.

        Raises
        ------
        ValueError, TypeError
            A name is missing or unexpected, or an entry has another shape or no real numbers.
        """
        params, strict = self.params, _check.boolean("strict", strict)
        _check.entries("state_dict", state_dict, (), False)
        state_dict = self._translated("state_dict", state_dict)
        _check.entries("state_dict", state_dict, params, strict)
        self._params.copy_in({name: state_dict[name] for name in params if name in state_dict}, "state_dict")

    def file_content(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return the arguments, as JSON has them, and the arrays."""
        return self._saved_arguments(), self.state_dict()

    @classmethod
    def from_file(
        cls,
        arguments: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        read: Callable[[], dict[str, Array]],
        **options: Any,
    ) -> Self:
        """Make an object of what a file holds; `read` gets the arrays, after all else is checked."""
        layer = cls._of_file(arguments, options)
        asked, found = (
            layer._num_params(),
            sum(int(np.prod(shape, dtype=object)) for shape in shapes.values()),
        )
        if asked != found:  # before anything of the declared size is allocated
            raise ValueError(f"its arguments ask for {asked} parameters, its tensors hold {found}")
        layer._expected("tensors", shapes)
        tensors = read()
        for name, value in tensors.items():
            if value.dtype != layer.dtype:
                raise TypeError(f"{name}: expected dtype {layer.dtype}, got {value.dtype}")
        layer._begin(np.random.default_rng())
        layer._lay_out(np.zeros(found, layer.dtype))
        layer.load_state_dict(tensors)
        return layer

    def __getstate__(self) -> dict[str, Any]:
        """Return what the object is made of, and what users keep on it; the rest is made anew."""
        kept = {name: value for name, value in self.__dict__.items() if name not in self._derived}
        return kept | {"_arguments": dict(self._arguments)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lay_out(self._flat_params, self._flat_grads)


def under(prefix: str, named: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def _assign(name: str, target: Array, value: ArrayLike) -> None:
    """Copy a new value into an array; `layer.name -= a` assigns the array itself."""
    if value is not target:
        target[...] = _check.shaped(name, value, target.dtype, target.shape)


def _only_itself(name: str, own: NamedArrays, value: Any) -> None:
    """Let `layer.name |= values` assign what it has changed, and nothing else."""
    if value is not own:
        raise AttributeError(f"{name}: expected its entries to be assigned, or {name}.update(...)")


def _dtype_of(params: Mapping[str, ArrayLike]) -> np.dtype[Any]:
    """Return float32 if that is what all arrays are, else float64."""
    single = all(str(getattr(array, "dtype", None)) in _SINGLE for array in params.values())
    return np.dtype(np.float32 if single else np.float64)
