"""Parameters: what is written arrives, sizes are read-only, options are checked, layers on given arrays."""

import copy
import pickle

import numpy as np
import pytest
from conftest import DTYPES, KINDS, LAYERS, assert_same_bits, build_layer, draw_inputs, locked, unchanged

import clstm
from clstm import nn
from clstm.compat import accelerate
from clstm.parameters import NamedArrays

I, H = 3, 5  # noqa: E741
ADJECTIVES = ("input", "forget", "candidate", "output")


class Own:
    """Somebody's own class, for `accelerate`."""

    def __init__(self, dtype):
        rng = np.random.default_rng(7)
        for name in ADJECTIVES:
            setattr(self, f"W_{name}", rng.uniform(-1, 1, (H, I + H)).astype(dtype))
            setattr(self, f"b_{name}", rng.uniform(-1, 1, (H, 1)).astype(dtype))


def accelerated(dtype):
    gates = {gate: (f"W_{name}", f"b_{name}") for gate, name in zip("ifgo", ADJECTIVES, strict=True)}
    return accelerate(Own(dtype), gates=gates, concat="xh")


def dense(dtype):
    layer = nn.Dense(I, H, dtype=dtype, rng=0)
    layer.flat_params[...] = np.random.default_rng(1).uniform(-1, 1, layer.flat_params.size)
    return layer


MAKERS = {
    kind: lambda dtype, kind=kind: build_layer(kind, I, H, 2, bidirectional=True, dtype=dtype)
    for kind in KINDS
}
MAKERS |= {"dense": dense, "accelerated": accelerated}


@pytest.fixture(params=MAKERS)
def layer(request, dtype):
    """A layer of every class that has parameters, with an output and gradients."""
    made = MAKERS[request.param](dtype)
    y = made.forward(np.ones((4, 2, I)))
    made.backward(np.ones_like(y if request.param == "dense" else y[0]))
    return made


@pytest.fixture(params=["params", "grads"])
def which(request):
    return request.param


def output(layer):
    y = layer(np.linspace(-1, 1, 4 * 2 * I).reshape(4, 2, I))
    return y if isinstance(y, np.ndarray) else y[0]


def flat(layer, which):
    return getattr(layer, f"flat_{which}")


def values_like(layer, seed=3):
    """Draw new arrays by name."""
    rng = np.random.default_rng(seed)
    return {name: rng.uniform(-1, 1, value.shape).astype(value.dtype) for name, value in layer.params.items()}


def assert_holds(layer, which, expected):
    """Everything that shows a value shows the same one: views, flat array, files, outputs."""
    for name, value in expected.items():
        assert_same_bits(np.ascontiguousarray(getattr(layer, which)[name]), np.ascontiguousarray(value), name)
    if which == "params":
        other = type(layer).from_params(layer.state_dict()) if type(layer) in CLASSES else None
        if other is not None:
            for name, value in expected.items():
                assert_same_bits(np.ascontiguousarray(other.params[name]), np.ascontiguousarray(value), name)
            assert_same_bits(output(layer), output(other))


CLASSES = (clstm.LSTM, clstm.RNN, nn.Dense)

# ---------------------------------------------------------------------------- nothing that is written is lost


def test_assigned_entry_is_copied_into_the_storage(layer, which):
    storage = flat(layer, which)
    for n, (name, value) in enumerate(values_like(layer).items()):
        view = getattr(layer, which)[name]
        getattr(layer, which)[name] = value
        assert getattr(layer, which)[name] is view
        assert np.shares_memory(view, storage)
        assert_holds(layer, which, {name: value})
        value[...] = n  # a copy
        assert not (view == n).any()


def test_assigned_parameters_change_what_is_computed(layer):
    before = output(layer)
    for name, value in values_like(layer).items():
        layer.params[name] = value
        after = output(layer)
        assert not np.array_equal(after, before), name
        before = after


@pytest.mark.parametrize("way", ["update", "keywords", "pairs", "ior", "load_state_dict", "copy_in_reverse"])
def test_many_entries_are_copied_in_at_once(layer, which, way):
    values, named = values_like(layer), getattr(layer, which)
    if way == "update":
        named.update(values)
    elif way == "keywords":
        named.update(**values)
    elif way == "pairs":
        named.update(values.items())
    elif way == "ior":
        before = named
        named |= values
        assert named is before
    elif way == "copy_in_reverse":
        named.update(dict(reversed(values.items())))
    elif which == "params":
        layer.load_state_dict(values)
    else:
        return
    assert getattr(layer, which) is named
    assert_holds(layer, which, values)


def test_operators_on_an_attribute_write_in_place(layer, which):
    values = values_like(layer)
    if which == "params":
        layer.params |= values
    else:
        layer.grads |= values
    assert_holds(layer, which, values)


def test_assigned_flat_array_is_copied_in(layer, which):
    storage = flat(layer, which)
    new = np.random.default_rng(2).uniform(-1, 1, storage.size).astype(layer.dtype)
    setattr(layer, f"flat_{which}", new)
    assert flat(layer, which) is storage
    assert_same_bits(storage, new)
    assert not np.shares_memory(storage, new)
    assert_holds(layer, which, getattr(layer, which))
    setattr(layer, f"flat_{which}", new.tolist())
    assert_same_bits(storage, new)


def test_gradient_descent_by_assignment_trains(layer):
    storage, before = layer.flat_params, output(layer)
    expected = storage - np.asarray(0.5, layer.dtype) * layer.flat_grads
    layer.flat_params = layer.flat_params - np.asarray(0.5, layer.dtype) * layer.flat_grads
    assert layer.flat_params is storage
    assert_same_bits(storage, expected)
    assert not np.array_equal(output(layer), before)
    layer.flat_params -= 1
    layer.flat_grads *= 0
    layer.params["bias" if isinstance(layer, nn.Dense) else "bias_l0"] += 1
    assert layer.flat_params is storage
    assert not layer.flat_grads.any()


def test_entries_may_be_exchanged(layer, which):
    if isinstance(layer, nn.Dense):
        first = second = "weight"
    else:
        first, second = "bias_l0", list(layer.params)[-1]
    named = getattr(layer, which)
    before = {name: named[name].copy() for name in (first, second)}
    named.update({first: named[second], second: named[first]})
    assert_holds(layer, which, {first: before[second], second: before[first]})


# ------------------------------------------------------------------------------------- what is refused, whole

NO_ARRAYS = {
    "shape": (lambda v: v[:-1], ValueError, r"expected shape .*, got "),
    "scalar": (lambda _: 1.0, ValueError, r"expected shape .*, got \(\)"),
    "complex": (lambda v: v + 0j, TypeError, "expected real numbers, got dtype complex128"),
    "text": (lambda _: "zeros", TypeError, "expected real numbers, got dtype <U5"),
    "texts": (lambda v: v.astype(str), TypeError, "expected real numbers, got dtype <U"),
    "objects": (lambda v: v.astype(object), TypeError, "expected real numbers, got dtype object"),
    "none": (lambda _: None, TypeError, "expected real numbers, got dtype object"),
}


@pytest.mark.parametrize("bad", NO_ARRAYS)
def test_value_that_does_not_fit_is_refused(layer, which, bad):
    change, error, message = NO_ARRAYS[bad]
    named, name = getattr(layer, which), next(reversed(layer.params))
    value = change(np.zeros(named[name].shape))
    message = rf"^{which}\['{name}'\]: {message}"
    before = layer.flat_params.copy(), layer.flat_grads.copy()
    with pytest.raises(error, match=message):
        named[name] = value
    good = {key: np.zeros(array.shape) for key, array in named.items() if key != name}
    for call in (named.update, named.__ior__):
        with pytest.raises(error, match=message):
            call(good | {name: value})
    assert_same_bits(layer.flat_params, before[0])
    assert_same_bits(layer.flat_grads, before[1])


@pytest.mark.parametrize("bad", NO_ARRAYS)
def test_flat_array_that_does_not_fit_is_refused(layer, which, bad):
    change, error, message = NO_ARRAYS[bad]
    before = flat(layer, which).copy()
    with pytest.raises(error, match=f"^flat_{which}: {message}"):
        setattr(layer, f"flat_{which}", change(np.zeros(before.size)))
    assert_same_bits(flat(layer, which), before)


def test_value_beyond_float32_is_refused():
    rnn = clstm.RNN(I, H, dtype="float32", rng=0)
    with (
        unchanged(rnn),
        pytest.raises(ValueError, match=r"^params\['bias_l0'\]: expected values that float32"),
    ):
        rnn.params["bias_l0"] = np.full(H, 1e300)
    with unchanged(rnn), pytest.raises(ValueError, match=r"^flat_params: expected values that float32"):
        rnn.flat_params = np.full(rnn.flat_params.size, 1e300)


@pytest.mark.parametrize("name", ["bias_l7", "weights", 3, ("weight",)], ids=str)
def test_unknown_name_is_refused(layer, which, name):
    named, known = getattr(layer, which), next(iter(layer.params))
    before = flat(layer, which).copy()
    message = f"^{which}: expected one of {known}, .*, got "
    with pytest.raises(ValueError, match=message):
        named[name] = np.zeros(H)
    with pytest.raises(ValueError, match=message):
        named.update({known: np.zeros(named[known].shape), name: np.zeros(H)})
    assert_same_bits(flat(layer, which), before)
    assert name not in named
    with pytest.raises(KeyError):
        named[name]


def test_unknown_name_is_refused_whatever_its_value(layer, which):
    with pytest.raises(ValueError, match=f"^{which}: expected one of "):
        getattr(layer, which)["unknown"] = None


REMOVALS = {
    "del": lambda named, name: named.__delitem__(name),
    "pop": lambda named, name: named.pop(name),
    "pop-default": lambda named, name: named.pop(name, None),
    "pop-unknown": lambda named, _: named.pop("unknown", None),
    "popitem": lambda named, _: named.popitem(),
    "clear": lambda named, _: named.clear(),
    "setdefault": lambda named, _: named.setdefault("unknown", np.zeros(3)),
}


@pytest.mark.parametrize("remove", REMOVALS.values(), ids=REMOVALS)
def test_names_stay_as_they_are(layer, which, remove):
    named = getattr(layer, which)
    before = list(named.items())
    with pytest.raises(TypeError, match=f"^{which}: expected the names to stay as they are"):
        remove(named, next(iter(named)))
    assert [name for name, _ in before] == list(named)
    assert all(named[name] is view for name, view in before)


def test_setdefault_returns_what_is_there(layer, which):
    named = getattr(layer, which)
    for name, view in named.items():
        assert named.setdefault(name, np.zeros(3)) is view


@pytest.mark.parametrize("name", ["params", "grads", "cells", "functions", "num_directions", "tape"])
def test_attributes_that_are_computed_cannot_be_assigned(name):
    for made in (build_layer(kind, I, H) for kind in KINDS):
        with unchanged(made), pytest.raises(AttributeError):
            setattr(made, name, {})


@pytest.mark.parametrize("name", ["params", "grads"])
def test_dictionaries_themselves_cannot_be_assigned(layer, name):
    before = flat(layer, name).copy()
    with pytest.raises(AttributeError):
        setattr(layer, name, dict(getattr(layer, name)))
    assert_same_bits(flat(layer, name), before)


# -------------------------------------------------------------------------------------------- ordinary copies


def test_dict_and_union_are_ordinary_and_live(layer, which):
    named = getattr(layer, which)
    for ordinary in (dict(named), {**named}, named.copy(), named | {}, {} | named):
        assert type(ordinary) is dict
        assert all(ordinary[name] is view for name, view in named.items())
    more = named | {"more": 1}
    assert list(more) == [*named, "more"]
    more["more"] = 2
    del more["more"]
    more["bias"] = 3
    assert list(named) == list(dict(named))
    assert type(named) is NamedArrays


DUPLICATES = {"deepcopy": copy.deepcopy, "pickle": lambda v: pickle.loads(pickle.dumps(v))}


@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES)
def test_copies_of_the_dictionaries_are_ordinary_and_apart(layer, which, duplicate):
    named = getattr(layer, which)
    copied = duplicate(named)
    assert type(copied) is dict
    assert list(copied) == list(named)
    for name, value in copied.items():
        assert_same_bits(np.ascontiguousarray(value), np.ascontiguousarray(named[name]))
        assert not np.shares_memory(value, flat(layer, which))
    copied["more"] = copied.pop(next(iter(copied)))


# -------------------------------------------------------------------------------------------------- read-only

OTHERS = {
    "input_size": (10**6, 1, I), "hidden_size": (10**6, 1, H), "num_layers": (7, 1), "bias": (False, True),
    "bidirectional": (True, False), "dtype": ("float32", np.float64), "init": ("torch", "glorot"),
    "forget_bias": (2.0, None), "hidden_first": (True, False),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_shapes_the_parameters_is_read_only(kind, name, backend):
    """A larger input_size and a smaller hidden_size once let kernels read beyond arrays."""
    layer = build_layer(kind, I, H, 2, backend=backend, dropout=0.5)
    if name == "forget_bias" and kind == "rnn":
        return
    d = draw_inputs(layer, 4, 2)
    layer.forward(d.x)
    expected = layer.backward(d.dy)[0], layer(d.x)[0]
    for value in OTHERS[name]:
        with unchanged(layer), pytest.raises(AttributeError, match=f"^{name}: expected no new value"):
            setattr(layer, name, value)
        with unchanged(layer), pytest.raises(AttributeError):
            delattr(layer, name)
    if name == "input_size":
        with unchanged(layer), pytest.raises(ValueError, match=r"^x: expected shape"):
            layer(np.ones((1, 10**6)))
    assert_same_bits(layer.backward(d.dy)[0], expected[0])
    assert_same_bits(layer(d.x)[0], expected[1])


@pytest.mark.parametrize("name", ["input_size", "output_size", "bias", "dtype"])
def test_what_shapes_a_dense_layer_is_read_only(name):
    layer = nn.Dense(I, H, rng=0)
    expected, before = layer(np.ones(I)), repr(layer)
    for value in (1, 10**6, False, "float32", getattr(layer, name)):
        with pytest.raises(AttributeError, match=f"^{name}: expected no new value.* make another Dense$"):
            setattr(layer, name, value)
    assert repr(layer) == before
    assert_same_bits(layer(np.ones(I)), expected)


# ------------------------------------------------------------------------------------ options that can be set


def test_dropout_can_be_set(kind, backend):
    layer, other = (build_layer(kind, I, H, 2, backend=backend, dropout=p) for p in (0.0, 0.5))
    d = draw_inputs(layer, 5, 3)
    plain = layer.forward(d.x)[0]
    layer.dropout = 0.5
    assert layer.dropout == 0.5
    assert "dropout=0.5" in repr(layer)
    assert_same_bits(layer.forward(d.x)[0], other.forward(d.x)[0])
    layer.dropout = 0
    assert type(layer.dropout) is float
    assert_same_bits(layer.forward(d.x)[0], plain)


def test_batch_first_can_be_set(kind, backend):
    layer, turned = (
        build_layer(kind, I, H, 2, backend=backend, batch_first=first) for first in (False, True)
    )
    d = draw_inputs(layer, 5, 3)
    layer.batch_first = True
    x, dy = (v.swapaxes(0, 1) for v in (d.x, d.dy))
    assert_same_bits(layer(x)[0], turned(x)[0])
    layer.forward(x)
    turned.forward(x)
    assert_same_bits(layer.backward(dy)[0], turned.backward(dy)[0])
    layer.batch_first = False
    assert_same_bits(layer(d.x)[0], turned(x)[0].swapaxes(0, 1))


def test_backend_can_be_set(kind, dtype):
    layer, definition = (build_layer(kind, I, H, 2, dtype=dtype, backend=name) for name in ("auto", "numpy"))
    d = draw_inputs(layer, 5, 3)
    fast, plain = layer(d.x)[0], definition(d.x)[0]
    assert layer.functions is not definition.functions
    layer.backend = "numpy"
    assert layer.functions is definition.functions is clstm.reference
    assert_same_bits(layer(d.x)[0], plain)
    layer.backend = "auto"
    assert layer.functions is not clstm.reference
    assert_same_bits(layer(d.x)[0], fast)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy], ids=["copy", "deepcopy"])
def test_options_of_a_copy_are_its_own(kind, duplicate):
    layer = build_layer(kind, I, H, 2)
    other = duplicate(layer)
    other.dropout, other.batch_first, other.backend = 0.5, True, "numpy"
    assert (layer.dropout, layer.batch_first, layer.backend) == (0.0, False, "auto")
    assert layer.functions is not clstm.reference


def test_backend_of_the_reference_class_stays():
    lstm = clstm.reference.LSTM(I, H)
    for value in ("auto", "cuda"):
        with pytest.raises((AttributeError, ValueError), match=r"^backend: "):
            lstm.backend = value
    assert lstm.functions is clstm.reference
    with pytest.raises((TypeError, ValueError), match="backend"):
        clstm.reference.LSTM.from_params(lstm.state_dict(), backend="auto")


REFUSED = [
    ("dropout", 7.0, ValueError, r"dropout: expected a number in \[0, 1\), got 7.0"),
    ("dropout", 1, ValueError, r"dropout: expected a number in \[0, 1\), got 1"),
    ("dropout", float("nan"), ValueError, "dropout: expected a finite number, got nan"),
    ("dropout", "0.5", TypeError, "dropout: expected a number, got '0.5'"),
    ("dropout", None, TypeError, "dropout: expected a number, got None"),
    ("batch_first", 1, TypeError, "batch_first: expected True or False, got 1"),
    ("batch_first", None, TypeError, "batch_first: expected True or False, got None"),
    ("backend", "cuda", ValueError, "backend: expected one of 'auto', 'numpy', got 'cuda'"),
    ("backend", None, ValueError, "backend: expected one of 'auto', 'numpy', got None"),
]


@pytest.mark.parametrize(("name", "value", "error", "message"), REFUSED)
def test_option_that_is_no_such_value_is_refused(kind, name, value, error, message):
    layer = build_layer(kind, I, H, 2, dropout=0.25)
    before = getattr(layer, name)
    with unchanged(layer), pytest.raises(error, match=f"^{message}$"):
        setattr(layer, name, value)
    assert getattr(layer, name) == before


# ------------------------------------------------------------------------------------------------ from_params


@pytest.fixture
def no_draws(monkeypatch):
    """Fail where anything is drawn."""

    class Generator(np.random.Generator):
        """Draws nothing."""

        def random(self, *_args, **_kwargs):
            raise AssertionError("drawn")

        uniform = standard_normal = random

    drawn = Generator(np.random.PCG64(0))
    monkeypatch.setattr(np.random, "default_rng", lambda *_: drawn)
    with pytest.raises(AssertionError, match="drawn"):
        clstm.LSTM(1, 1)
    with pytest.raises(AssertionError, match="drawn"):
        nn.Dense(1, 1)


SHAPES = [
    pytest.param((1, False, True), id="plain"),
    pytest.param((1, True, False), id="bidirectional-no-bias"),
    pytest.param((3, False, False), id="stacked-no-bias"),
    pytest.param((2, True, True), id="stacked-bidirectional"),
    pytest.param((11, False, True), id="eleven-layers"),
]


def stacked(kind, shape, **kwargs):
    layers, bidirectional, bias = shape
    return build_layer(kind, I, H, layers, bidirectional=bidirectional, bias=bias, **kwargs)


@pytest.mark.usefixtures("no_draws")
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_from_named_arrays_is_the_same_layer(kind, shape, dtype, backend):
    layer = LAYERS[kind].from_params(ORIGINALS[kind, shape, dtype].state_dict(), backend=backend)
    original = ORIGINALS[kind, shape, dtype]
    original.backend = backend
    assert type(layer) is LAYERS[kind]
    assert repr(layer) == repr(original)
    assert_same_bits(layer.flat_params, original.flat_params)
    assert not np.shares_memory(layer.flat_params, original.flat_params)
    assert not layer.flat_grads.any()
    assert layer.tape is None
    d = DRAWN[kind, shape, dtype]
    y, got_y = original.forward(d.x, d.state, d.lengths)[0], layer.forward(d.x, d.state, d.lengths)[0]
    assert_same_bits(got_y, y)
    assert_same_bits(layer.backward(d.dy, d.dstate)[0], original.backward(d.dy, d.dstate)[0])
    assert_same_bits(layer.flat_grads, original.flat_grads)


@pytest.mark.usefixtures("no_draws")
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_on_a_flat_array_shares_it(kind, shape, dtype):
    layers, bidirectional, bias = shape
    original = ORIGINALS[kind, shape, dtype]
    array = original.flat_params.copy()
    layer = LAYERS[kind].from_params(
        array, input_size=I, hidden_size=H, num_layers=layers, bidirectional=bidirectional, bias=bias
    )
    assert layer.flat_params is array
    assert layer.dtype == dtype
    for value in layer.params.values():
        assert np.shares_memory(value, array)
    d = DRAWN[kind, shape, dtype]
    assert_same_bits(layer(d.x, d.state, d.lengths)[0], original(d.x, d.state, d.lengths)[0])
    array[...] = 0
    assert not layer(d.x, lengths=d.lengths)[0].any()
    layer.params["weight_hh_l0"] = np.ones(layer.params["weight_hh_l0"].shape)
    assert array.any()


ORIGINALS = {
    (kind, case.values[0], dtype): stacked(kind, case.values[0], dtype=dtype)
    for kind in KINDS
    for case in SHAPES
    for dtype in DTYPES
}
DRAWN = {key: draw_inputs(layer, 4, 3, ragged=True) for key, layer in ORIGINALS.items()}


@pytest.mark.usefixtures("no_draws")
def test_dense_from_params(dtype):
    for bias in (True, False):
        weights = {"weight": np.arange(15).reshape(H, I).astype(dtype)}
        weights |= {"bias": np.arange(H).astype(dtype)} if bias else {}
        layer = nn.Dense.from_params(weights)
        assert (layer.input_size, layer.output_size, layer.bias, layer.dtype) == (I, H, bias, dtype)
        assert_same_bits(
            layer(np.ones(I)), (weights["weight"].sum(axis=1) + weights.get("bias", 0)).astype(dtype)
        )
        flat = layer.flat_params.copy()
        same = nn.Dense.from_params(flat, input_size=I, output_size=H, bias=bias)
        assert same.flat_params is flat
        assert_same_bits(same(np.ones(I)), layer(np.ones(I)))


def test_from_params_takes_the_constructors_arguments(kind):
    given = build_layer(kind, I, H, 2).state_dict()
    layer = LAYERS[kind].from_params(
        given, dtype="float32", dropout=0.5, batch_first=True, init="torch", backend="numpy", rng=3
    )
    assert (layer.dtype, layer.dropout, layer.batch_first, layer.init) == ("float32", 0.5, True, "torch")
    assert layer.functions is clstm.reference
    assert_same_bits(layer.params["bias_l1"], given["bias_l1"].astype("f4"))
    x = np.ones((2, 3, I))
    same, other = (
        LAYERS[kind].from_params(given, dropout=0.5, rng=rng) for rng in (np.random.default_rng(3), 4)
    )
    layer = LAYERS[kind].from_params(given, dropout=0.5, rng=3)
    assert_same_bits(layer.forward(x)[0], same.forward(x)[0])
    assert not np.array_equal(layer.forward(x)[0], other.forward(x)[0])


def test_dtype_of_named_arrays_is_float32_only_if_all_are(kind):
    single = build_layer(kind, I, H, dtype="float32").state_dict()
    assert LAYERS[kind].from_params(single).dtype == "float32"
    mixed = single | {"bias_l0": single["bias_l0"].astype("f8")}
    assert LAYERS[kind].from_params(mixed).dtype == "float64"
    lists = {name: value.tolist() for name, value in single.items()}
    layer = LAYERS[kind].from_params(lists)
    assert layer.dtype == "float64"
    assert_same_bits(layer.flat_params.astype("f4"), LAYERS[kind].from_params(single).flat_params)


def without(named, name):
    return {key: value for key, value in named.items() if key != name}


BAD_NAMED = {
    "empty": (lambda _: {}, ValueError, "params: expected matrices weight_ih_l0 and weight_hh_l0, got "),
    "no-matrix": (
        lambda s: s | {"weight_ih_l0": s["bias_l0"]},
        ValueError,
        "params: expected matrices weight_ih_l0 and weight_hh_l0, got weight_ih_l0, ",
    ),
    "missing": (
        lambda s: without(s, "weight_hh_l1"),
        ValueError,
        "params: expected exactly weight_ih_l0, .*; missing: weight_hh_l1; unexpected: none$",
    ),
    "missing-bias": (
        lambda s: without(s, "bias_l1_reverse"),
        ValueError,
        "params: .*; missing: bias_l1_reverse; unexpected: none$",
    ),
    "unexpected": (lambda s: s | {"more": 1}, ValueError, "params: .*; missing: none; unexpected: more$"),
    "gap": (
        lambda s: s | {"weight_ih_l3": s["weight_ih_l1"]},
        ValueError,
        "params: .*; missing: .*; unexpected: weight_ih_l3$",
    ),
    "misshapen": (
        lambda s: s | {"bias_l1": s["bias_l1"][:-1]},
        ValueError,
        r"params\['bias_l1'\]: expected shape \(.*,\), got \(.*,\)$",
    ),
    "transposed": (
        lambda s: s | {"weight_ih_l1": s["weight_ih_l1"].T},
        ValueError,
        r"params\['weight_ih_l1'\]: expected shape ",
    ),
    "other-rows": (
        lambda s: s | {"weight_hh_l0": s["weight_hh_l0"].T},
        ValueError,
        r"params",
    ),
    "complex": (
        lambda s: s | {"bias_l1": s["bias_l1"] + 0j},
        TypeError,
        r"params\['bias_l1'\]: expected real numbers, got dtype complex128$",
    ),
    "text": (lambda _: "params", TypeError, "params: expected a mapping or a flat array, got 'params'$"),
    "pairs": (lambda s: list(s.items()), TypeError, "params: expected a mapping or a flat array, got "),
    "none": (lambda _: None, TypeError, "params: expected a mapping or a flat array, got None$"),
}


@pytest.mark.parametrize("bad", BAD_NAMED)
def test_named_arrays_that_do_not_fit_are_refused(kind, bad):
    change, error, message = BAD_NAMED[bad]
    given = build_layer(kind, I, H, 2, bidirectional=True).state_dict()
    if bad == "other-rows" and kind == "rnn":  # square
        return
    with pytest.raises(error, match=f"^{message}"):
        LAYERS[kind].from_params(change(given))


def test_named_arrays_are_compared_before_memory_is_taken(kind):
    given = build_layer(kind, I, H).state_dict()
    wide = np.broadcast_to(0.0, (len(given["weight_hh_l0"]), 10**7))
    with pytest.raises(ValueError, match=r"^params\['weight_.*'\]: expected shape .*, got "):
        LAYERS[kind].from_params(given | {"weight_hh_l0": wide})
    with pytest.raises(ValueError, match=r"^params: expected exactly "):
        LAYERS[kind].from_params(given, num_layers=10**12)


def test_arguments_that_named_arrays_contradict_are_refused(kind):
    given = build_layer(kind, I, H, 2).state_dict()
    for arguments in ({"input_size": 4}, {"hidden_size": 6}):
        with pytest.raises(ValueError, match=r"^params\['weight_.*'\]: expected shape .*, got "):
            LAYERS[kind].from_params(given, **arguments)
    for arguments in ({"num_layers": 1}, {"num_layers": 3}, {"bias": False}, {"bidirectional": True}):
        with pytest.raises(ValueError, match=r"^params: expected exactly .*; missing: .*; unexpected: "):
            LAYERS[kind].from_params(given, **arguments)


def test_arguments_of_from_params_are_checked(kind):
    given = build_layer(kind, I, H).state_dict()
    for arguments, error, message in (
        ({"dropout": 7.0}, ValueError, "dropout: expected a number"),
        ({"backend": "cuda"}, ValueError, "backend: expected one of"),
        ({"dtype": "int8"}, ValueError, "dtype: expected float32"),
        ({"rng": "seed"}, TypeError, "rng: expected an integer"),
        ({"size": 3}, TypeError, rf"{kind.upper()}: expected the arguments .*; unknown: 'size'"),
    ):
        with pytest.raises(error, match=f"^{message}"):
            LAYERS[kind].from_params(given, **arguments)
    with pytest.raises(
        TypeError, match=r"^.*: expected the arguments .*; missing: 'hidden_size', 'input_size'"
    ):
        LAYERS[kind].from_params(np.zeros(10))


BAD_FLAT = {
    "longer": (lambda v: np.append(v, 0), "expected shape"),
    "shorter": (lambda v: v[1:], "expected shape"),
    "matrix": (lambda v: v[None], "expected shape"),
    "other-float": (
        lambda v: v.astype("f8" if v.dtype == "f4" else "f4"),
        "expected a contiguous, writable array",
    ),
    "integers": (lambda v: v.astype(int), "expected a contiguous, writable array"),
    "byte-swapped": (lambda v: v.astype(v.dtype.newbyteorder("S")), "expected a contiguous, writable array"),
    "strided": (lambda v: np.repeat(v, 2)[::2], "expected a contiguous, writable array"),
    "backwards": (lambda v: v[::-1], "expected a contiguous, writable array"),
    "read-only": (locked, "expected a contiguous, writable array"),
}


@pytest.mark.parametrize("bad", BAD_FLAT)
def test_flat_array_of_another_kind_is_refused(kind, dtype, bad):
    change, message = BAD_FLAT[bad]
    array = change(build_layer(kind, I, H, dtype=dtype).flat_params)
    with pytest.raises(ValueError, match=f"^params: {message}"):
        LAYERS[kind].from_params(array, input_size=I, hidden_size=H, dtype=dtype)


def test_dense_refuses_params_that_do_not_fit():
    given = {"weight": np.ones((H, I)), "bias": np.ones(H)}
    for change, message in (
        ({"weight": np.ones(3)}, "params: expected a matrix weight, got weight, bias"),
        ({"bias": np.ones(H + 1)}, r"params\['bias'\]: expected shape \(5,\), got \(6,\)"),
        ({"more": np.ones(3)}, "params: expected exactly weight, bias; missing: none; unexpected: more"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            nn.Dense.from_params(given | change)
    with pytest.raises(ValueError, match=r"^params: expected shape \(20,\), got \(19,\)$"):
        nn.Dense.from_params(np.zeros(19), input_size=I, output_size=H)


def test_from_params_of_a_subclass_is_one():
    lstm = clstm.reference.LSTM.from_params(clstm.LSTM(I, H, rng=0).state_dict())
    assert (type(lstm), lstm.backend) == (clstm.reference.LSTM, "numpy")
