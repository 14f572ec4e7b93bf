"""LSTM.from_gates and to_gates: arrays under any names, in any layout."""

import collections
import io
import itertools
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
from conftest import assert_close, assert_same_bits

import clstm
from clstm import FileFormatError

I, H, T, B = 3, 5, 7, 2  # noqa: E741
GATES = "ifgo"


def draw(dtype="float64", seed=0, inputs=I):
    """Arrays of each gate of a cell: W (H, I), U (H, H), b (H,), c a second bias, p a peephole."""
    rng = np.random.default_rng(seed)
    shapes = {"W": (H, inputs), "U": (H, H), "b": (H,), "c": (H,), "p": (H,)}
    return {n: {g: rng.standard_normal(shape).astype(dtype) for g in GATES} for n, shape in shapes.items()}


def block(part, order=GATES):
    return np.concatenate([part[gate] for gate in order])


def joined(d, concat="xh"):
    """Weights of each gate in one array (H, I + H)."""
    return {gate: np.hstack([d["W" if part == "x" else "U"][gate] for part in concat]) for gate in GATES}


def namespace(**entries):
    return types.SimpleNamespace(**entries)


def numpy_class(d):
    """Wf, Wi, Wc, Wo on [h; x], columns as biases."""
    arrays = {f"W{'c' if g == 'g' else g}": value for g, value in joined(d, "hx").items()}
    arrays |= {f"b{'c' if g == 'g' else g}": value[:, None] for g, value in d["b"].items()}
    return arrays


def basic_lstm_cell(d):
    """TensorFlow 1: i, j, f, o, rows [x; h], 1 is added to the forget gate's bias at run time."""
    biases = d["b"] | {"f": d["b"]["f"] - 1}
    return {"kernel": block(joined(d), "igfo").T, "bias": block(biases, "igfo")}


def haste(d):
    return {
        "kernel": block(d["W"], "igfo").T,
        "recurrent_kernel": block(d["U"], "igfo").T,
        "bias": block(d["b"], "igfo"),
    }


def flax(d):
    inputs = {f"i{gate}": {"kernel": d["W"][gate].T} for gate in GATES}
    return inputs | {f"h{gate}": {"kernel": d["U"][gate].T, "bias": d["b"][gate]} for gate in GATES}


def min_char(d):
    return {"WLSTM": np.vstack([block(d["b"], "ifog"), block(joined(d), "ifog").T])}


def dynet(d):
    biases = d["b"] | {"f": d["b"]["f"] - 1}
    return {
        "Wx": block(d["W"], "ifog"),
        "Wh": block(d["U"], "ifog"),
        "b": block(biases, "ifog"),
    }


MADMOM = {"i": "input_gate", "f": "forget_gate", "g": "cell", "o": "output_gate"}


def madmom(d):
    gates = {
        name: namespace(weights=d["W"][g].T, recurrent_weights=d["U"][g].T, bias=d["b"][g])
        for g, name in MADMOM.items()
    }
    for gate in "ifo":
        gates[MADMOM[gate]].peephole_weights = d["p"][gate]
    return namespace(**gates)


def two_biases(d):
    second = {gate: d["b"][gate] - d["c"][gate] for gate in GATES}
    return {
        "w_ih": block(d["W"], "iofg"),
        "w_hh": block(d["U"], "iofg"),
        "b_ih": block(d["c"], "iofg")[:, None],
        "b_hh": block(second, "iofg")[None],
    }


# What is made of a cell, and how it is read; what is read has the cell's bits where nothing is subtracted.
SYSTEMS = {
    "numpy class": (numpy_class, {"weight": "W{gate}", "bias": "b{gate}", "gates": "ifco", "concat": "hx"}),
    "object": (
        lambda d: namespace(cell=namespace(**numpy_class(d)), Why=np.ones((2, H))),
        {"weight": "cell.W{gate}", "bias": "cell.b{gate}", "gates": "ifco", "concat": "hx"},
    ),
    "haste": (
        haste,
        {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "bias": "bias", "order": "igfo"},
    ),
    "flax": (
        flax,
        {
            "weight_ih": "i{gate}.kernel",
            "weight_hh": "h{gate}.kernel",
            "bias": "h{gate}.bias",
            "transposed": True,
        },
    ),
    "min-char": (min_char, {"weight": "WLSTM", "concat": "1xh", "order": "ifog", "transposed": True}),
    "madmom": (
        madmom,
        {
            "weight_ih": "{gate}.weights",
            "weight_hh": "{gate}.recurrent_weights",
            "bias": "{gate}.bias",
            "peepholes": "{gate}.peephole_weights",
            "gates": tuple(MADMOM.values()),
            "transposed": True,
        },
    ),
    "names one by one": (
        lambda d: {f"{n}{k}": d[n][gate] for k, gate in enumerate("ogfi") for n in "WUb"},
        {
            "weight_ih": {"i": "W3", "f": "W2", "g": "W1", "o": "W0"},
            "weight_hh": {"i": "U3", "f": "U2", "g": "U1", "o": "U0"},
            "bias": {"i": "b3", "f": "b2", "g": "b1", "o": "b0"},
            "transposed": False,
        },
    ),
    "peepholes in a block": (
        lambda d: {
            "W": block(d["W"], "iofg"),
            "R": block(d["U"], "iofg"),
            "b": block(d["b"], "iofg"),
            "P": block(d["p"], "iof"),
        },
        {"weight_ih": "W", "weight_hh": "R", "bias": "b", "peepholes": "P", "order": "iofg"},
    ),
    "no bias": (
        lambda d: {"W": block(joined(d, "hx"), "ofig")},
        {"weight": "W", "concat": "hx", "order": "ofig", "transposed": False},
    ),
}
ROUNDED = {
    "BasicLSTMCell": (
        basic_lstm_cell,
        {"weight": "kernel", "bias": "bias", "order": "igfo", "concat": "xh", "forget_offset": 1.0},
    ),
    "DyNet": (
        dynet,
        {"weight_ih": "Wx", "weight_hh": "Wh", "bias": "b", "order": "ifog", "forget_offset": 1},
    ),
    "two biases": (
        two_biases,
        {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias": ("b_ih", "b_hh"), "order": "iofg"},
    ),
}


def expected_params(d, layout):
    params = {"weight_ih_l0": block(d["W"]), "weight_hh_l0": block(d["U"])}
    if "bias" in layout or "1" in layout.get("concat", ""):
        params["bias_l0"] = block(d["b"])
    if "peepholes" in layout:
        params["weight_peephole_l0"] = np.stack([d["p"][gate] for gate in "ifo"])
    return params


@pytest.mark.parametrize("system", SYSTEMS)
def test_weights_of_a_system_are_taken_to_the_bit_and_in_their_dtype(system, dtype):
    make, layout = SYSTEMS[system]
    d = draw(dtype)
    lstm = clstm.LSTM.from_gates(make(d), **layout)
    assert (lstm.input_size, lstm.hidden_size, lstm.dtype) == (I, H, dtype)
    expected = expected_params(d, layout)
    assert lstm.params.keys() == expected.keys()
    for name, value in expected.items():
        assert_same_bits(lstm.params[name], value, name)


@pytest.mark.parametrize("system", [*SYSTEMS, *ROUNDED])
def test_layer_computes_what_the_equations_say(system):
    make, layout = (SYSTEMS | ROUNDED)[system]
    d = draw()
    lstm = clstm.LSTM.from_gates(make(d), **layout)
    x = np.random.default_rng(1).standard_normal((T, B, I))
    y, (h, c) = lstm(x)
    expected = step_by_step(d, layout, x)
    assert_close(y, expected[0], "forward")
    assert_close(h[0], expected[1], "forward")
    assert_close(c[0], expected[2], "forward")


def step_by_step(d, layout, x):
    """The four equations, on the arrays of the gates."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    has_bias = "bias" in layout or "1" in layout.get("concat", "")
    h = c = np.zeros((x.shape[1], H))
    y = []
    for x_t in x:
        z = {g: x_t @ d["W"][g].T + h @ d["U"][g].T + d["b"][g] * has_bias for g in GATES}
        p = {g: d["p"][g] * ("peepholes" in layout) for g in GATES}
        i, f = (sigmoid(z[g] + p[g] * c) for g in "if")
        c = f * c + i * np.tanh(z["g"])
        h = sigmoid(z["o"] + p["o"] * c) * np.tanh(c)
        y.append(h)
    return np.stack(y), h, c


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(range(4), 2)))
def test_two_gates_permuted_are_noticed(first, second):
    """The comparison above can fail."""
    d = draw()
    order = list("igfo")
    order[first], order[second] = order[second], order[first]
    lstm = clstm.LSTM.from_gates(haste(d), **SYSTEMS["haste"][1] | {"order": "".join(order)})
    x = np.random.default_rng(1).standard_normal((T, B, I))
    with pytest.raises(AssertionError):
        assert_close(lstm(x)[0], step_by_step(d, {"bias": ""}, x)[0], "forward")


@pytest.mark.parametrize("system", [*SYSTEMS, *ROUNDED])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"num_layers": 2}, {"bidirectional": True}, {"num_layers": 3, "bidirectional": True}],
    ids=repr,
)
def test_what_is_written_is_read_again_to_the_bit(system, arguments, dtype):
    layout = (SYSTEMS | ROUNDED)[system][1]
    has_bias = "bias" in layout or "1" in layout.get("concat", "")
    lstm = clstm.LSTM(I, H, rng=0, dtype=dtype, bias=has_bias, peepholes="peepholes" in layout, **arguments)
    lstm.flat_params = np.random.default_rng(1).integers(-64, 64, lstm.flat_params.shape) / 16
    layout = {"transposed": False} | layout
    written = lstm.to_gates(**layout)
    again = clstm.LSTM.from_gates(written, **layout)
    assert repr(again) == repr(lstm)
    assert_same_bits(again.flat_params, lstm.flat_params)


def test_forget_offset_goes_to_the_forget_gate_alone_and_comes_off_again():
    d = draw()
    layout = ROUNDED["DyNet"][1] | {"forget_offset": 2}
    plain = clstm.LSTM.from_gates(dynet(d), **layout | {"forget_offset": 0})
    lstm = clstm.LSTM.from_gates(dynet(d), **layout)
    difference = (lstm.flat_params - plain.flat_params)[-4 * H :]
    assert_close(difference, np.repeat([0.0, 2.0, 0.0, 0.0], H), "forward")
    assert_close(lstm.to_gates(**layout)["b"], dynet(d)["b"], "forward")


def test_what_is_written_has_the_names_and_shapes_of_the_source():
    d = draw()
    for make, layout in (SYSTEMS[name] for name in ("numpy class", "haste", "min-char")):
        source = make(d)
        transposed = layout.get("transposed", "kernel" in source)
        column = make is numpy_class
        written = clstm.LSTM.from_gates(source, **layout).to_gates(
            **layout | {"transposed": transposed}, column=column
        )
        assert written.keys() == source.keys()
        for name, value in written.items():
            assert_same_bits(value, source[name], name)
            assert value.flags.carray
            assert value.base is None


def test_second_bias_is_written_as_zeros():
    lstm = clstm.LSTM(I, H, rng=0)
    written = lstm.to_gates(weight_ih="w", weight_hh="u", bias=("b", "c"), order="ifgo")
    assert_same_bits(written["b"], lstm.params["bias_l0"])
    assert not written["c"].any()


def test_written_arrays_are_no_views_of_the_layer():
    lstm = clstm.LSTM(I, H, rng=0)
    for value in lstm.to_gates(weight="W{gate}", bias="b", order="ifgo", concat="hx").values():
        assert not np.shares_memory(value, lstm.flat_params)


def test_layers_and_directions_are_lists_and_pairs():
    rng = np.random.default_rng(0)
    layout = {"weight": "W{gate}", "bias": "b{gate}", "concat": "xh"}
    lstm = clstm.LSTM(I, H, 2, bidirectional=True, rng=rng)
    layers = lstm.to_gates(**layout)
    assert [type(layer) for layer in layers] == [tuple, tuple]
    assert layers[1][0]["Wi"].shape == (H, 3 * H)
    (forward, reverse), _ = layers
    assert_same_bits(np.hstack([forward["bi"], forward["bf"]]), lstm.params["bias_l0"][: 2 * H])
    assert_same_bits(reverse["Wo"][:, :I], lstm.params["weight_ih_l0_reverse"][3 * H :])
    x = rng.standard_normal((T, B, I))
    assert_same_bits(clstm.LSTM.from_gates(layers, **layout)(x)[0], lstm(x)[0])


def test_named_tuple_is_an_object_and_no_pair():
    d = numpy_class(draw())
    source = types.SimpleNamespace(**d)
    named = collections.namedtuple("Cell", d)(**d)
    layout = SYSTEMS["numpy class"][1]
    assert_same_bits(
        clstm.LSTM.from_gates(named, **layout).flat_params,
        clstm.LSTM.from_gates(source, **layout).flat_params,
    )


def test_source_is_left_as_it_was_and_shares_nothing():
    source = numpy_class(draw())
    before = {name: value.copy() for name, value in source.items()}
    lstm = clstm.LSTM.from_gates(source, **SYSTEMS["numpy class"][1])
    lstm.flat_params[...] = 0
    for name, value in before.items():
        assert_same_bits(source[name], value, name)


def test_arguments_that_arrays_cannot_tell_are_the_users():
    source, layout = SYSTEMS["numpy class"][0](draw()), SYSTEMS["numpy class"][1]
    own = {
        "activations": ("hard_sigmoid", "tanh", "tanh"),
        "cell_clip": 3.0,
        "gate_clip": 2.0,
        "reverse": True,
    }
    own |= {"batch_first": True, "dtype": "float32", "backend": "numpy", "dropout": 0.5}
    lstm = clstm.LSTM.from_gates(source, **layout, **own)
    for name, value in own.items():
        assert getattr(lstm, name) == value, name
    assert clstm.LSTM.from_gates(source, **layout, coupled=True).coupled
    for name in ("num_layers", "hidden_size", "peephole"):
        with pytest.raises(TypeError, match=f"^{name}: expected one of"):
            clstm.LSTM.from_gates(source, **layout, **{name: 1})


def test_arrays_of_the_other_byte_order_are_read(dtype):
    source, layout = SYSTEMS["numpy class"][0](draw(dtype)), SYSTEMS["numpy class"][1]
    swapped = {name: value.astype(value.dtype.newbyteorder()) for name, value in source.items()}
    lstm, expected = (clstm.LSTM.from_gates(each, **layout) for each in (swapped, source))
    assert lstm.dtype == dtype
    assert_same_bits(lstm.flat_params, expected.flat_params)


# -------------------------------------------------------------------------------- what shapes tell, or do not


def test_orientation_is_told_by_shapes_that_leave_one_reading():
    d = draw()
    for source in (haste(d), {name: value.T for name, value in haste(d).items()}):
        lstm = clstm.LSTM.from_gates(source, **SYSTEMS["haste"][1])
        assert_same_bits(lstm.params["weight_ih_l0"], block(d["W"]))
    for source in (numpy_class(d), {name: value.T for name, value in numpy_class(d).items()}):
        lstm = clstm.LSTM.from_gates(source, **SYSTEMS["numpy class"][1])
        assert_same_bits(lstm.params["weight_ih_l0"], block(d["W"]))


def ambiguous():
    square = {f"{n}{gate}": np.ones((H, H) if n == "U" else (H, I)) for n in "WU" for gate in GATES}
    wide = draw(inputs=3 * H)
    yield "separate gates", square, {"weight_ih": "W{gate}", "weight_hh": "U{gate}"}, "Ui, Uf, Ug, Uo"
    yield "block", {"W": np.ones((40, 24))}, {"weight": "W", "concat": "xh", "order": "ifgo"}, "W"
    # 4H = I + H, with a bias
    arrays = {"W": block(joined(wide)), "b": block(wide["b"])}
    yield "square block", arrays, {"weight": "W", "bias": "b", "concat": "xh", "order": "ifgo"}, "W"


@pytest.mark.parametrize("case", range(3))
def test_orientation_must_be_said_where_shapes_leave_two_readings(case):
    _, source, layout, name = list(ambiguous())[case]
    with pytest.raises(FileFormatError, match=rf"^dict: {name}: expected transposed= to be said, for shape"):
        clstm.LSTM.from_gates(source, **layout)
    both = [clstm.LSTM.from_gates(source, **layout, transposed=t) for t in (False, True)] if case else []
    assert all(lstm.flat_params.size for lstm in both)


def test_orientation_that_contradicts_the_shapes_is_refused():
    source, layout = haste(draw()), SYSTEMS["haste"][1]
    with pytest.raises(
        FileFormatError, match=r"recurrent_kernel: expected shape \(4 H, H\) with H = 5 as in bias"
    ):
        clstm.LSTM.from_gates(source, **layout, transposed=False)


# -------------------------------------------------------------------------------------------- what is refused


def changed(**entries):
    """A NumPy class's arrays with some replaced; None takes one out."""
    arrays = numpy_class(draw()) | entries
    return {name: value for name, value in arrays.items() if value is not None}


BAD_SOURCES = {
    "missing": (changed(Wc=None), r"expected an array 'Wc', got none of this name; there are W"),
    "unused": (changed(Wy=np.ones((2, H))), r"expected every array to be named by an argument, got also Wy;"),
    "unused inside": (changed(head={"W": np.ones(2)}), r"got also head\.W; unused='ignore' passes over them"),
    "unused list": (changed(Wy=[[1.0]]), r"got also Wy"),
    "other H": (
        changed(bf=np.ones(4)),
        r"bi, bf, bc, bo: expected 4 gates of the same size, got \(5, 1\), \(4,\)",
    ),
    "all biases of another H": (
        changed(**{f"b{gate}": np.ones(4) for gate in "ifco"}),
        r"Wi, Wf, Wc, Wo: expected shape \(H, I \+ H\) or its transpose with H = 4 as in bias, got \(5, 8\)",
    ),
    "one matrix transposed": (
        changed(Wf=np.ones((8, 5))),
        r"expected matrices of one shape, got \(5, 8\), \(8, 5\)",
    ),
    "no input": (
        changed(**{f"W{gate}": np.ones((5, 5)) for gate in "ifco"}),
        r"expected shape \(H, I \+ H\) or its transpose with H = 5 as in bias, got \(5, 5\)",
    ),
    "vector": (changed(Wi=np.ones(5)), r"expected matrices of one shape, got \(5,\), "),
    "scalar bias": (changed(bi=np.float64(1)), r"bi, bf, bc, bo: expected shape .* a gate, got \(\)"),
    "bias as a matrix": (
        changed(bi=np.ones((5, 2))),
        r"expected shape \(H,\), \(H, 1\) or \(1, H\) a gate, got \(5, 2\)",
    ),
    "empty": (changed(bi=np.ones(0)), r"got \(0,\)"),
    "two dtypes": (changed(Wf=np.ones((5, 8), "f4")), r"Wf: expected float64 like bi, got float32"),
    "half": (
        changed(bi=np.ones(5, "f2")),
        r"bi: expected float32 or float64, got array of shape \(5,\) and dtype float16",
    ),
    "integers": (changed(bi=np.ones(5, int)), r"bi: expected float32 or float64, got array"),
    "complex": (changed(bi=np.ones(5, complex)), r"bi: expected float32 or float64, got array"),
    "text": (changed(bi="weights"), r"bi: expected float32 or float64, got array"),
    "None": (changed() | {"bi": None}, r"bi: expected float32 or float64, got array"),
    "ragged": (changed(bi=[[1.0], [1.0, 2.0]]), r"bi: expected an array, got \[\[1\.0\], \[1\.0, 2\.0\]\]"),
}


@pytest.mark.parametrize("bad", BAD_SOURCES)
def test_source_that_does_not_fit_is_refused_by_name(bad):
    source, message = BAD_SOURCES[bad]
    with pytest.raises(FileFormatError, match=f"^dict: .*{message}"):
        clstm.LSTM.from_gates(source, **SYSTEMS["numpy class"][1])


def test_arrays_that_are_not_named_can_be_passed_over():
    source, layout = changed(Wy=np.ones((2, H))), SYSTEMS["numpy class"][1]
    lstm = clstm.LSTM.from_gates(source, **layout, unused="ignore")
    assert_same_bits(lstm.flat_params, clstm.LSTM.from_gates(changed(), **layout).flat_params)
    changed_entries = changed(epochs=3, name="mine", nothing=None)  # no arrays
    assert clstm.LSTM.from_gates(changed_entries, **layout).hidden_size == H


def test_object_is_named_by_its_class():
    class Mine:
        Wi = np.ones((5, 8))

    with pytest.raises(FileFormatError, match=r"^Mine: expected an array 'bi', got none of this name$"):
        clstm.LSTM.from_gates(Mine(), **SYSTEMS["numpy class"][1])


def test_layers_and_directions_that_do_not_fit_together_are_refused():
    layout = SYSTEMS["numpy class"][1]
    with pytest.raises(
        FileFormatError, match=r"^list: 'dict': expected 5 inputs, the outputs of the layer below, got 3"
    ):
        clstm.LSTM.from_gates([numpy_class(draw()), numpy_class(draw())], **layout)
    with pytest.raises(FileFormatError, match=r"expected the sizes and dtype of the forward direction"):
        clstm.LSTM.from_gates((numpy_class(draw()), numpy_class(draw(inputs=4))), **layout)
    with pytest.raises(FileFormatError, match=r"expected the sizes and dtype of the forward direction"):
        clstm.LSTM.from_gates((numpy_class(draw()), numpy_class(draw("float32"))), **layout)
    with pytest.raises(ValueError, match=r"^source: expected a pair \(forward, reverse\)"):
        clstm.LSTM.from_gates((numpy_class(draw()),), **layout)
    with pytest.raises(ValueError, match=r"^source: expected at least one layer"):
        clstm.LSTM.from_gates([], **layout)


BAD_LAYOUTS = {
    "no weight": (
        {"bias": "b"},
        "weight: expected its name, or those of weight_ih and weight_hh, got neither",
    ),
    "half a pair": ({"weight_ih": "W"}, "weight: .*, got neither"),
    "all three": ({"weight": "W", "weight_hh": "U", "concat": "xh"}, "weight: .*, got both"),
    "no concat": ({"weight": "W{gate}"}, "concat: expected one of 'xh', 'hx', '1xh', .*, got None"),
    "other concat": ({"weight": "W{gate}", "concat": "hxh"}, "concat: expected one of .*, got 'hxh'"),
    "concat of two": (
        {"weight_ih": "W{gate}", "weight_hh": "U{gate}", "concat": "xh"},
        "concat: expected None without weight, got 'xh'",
    ),
    "no order": (
        {"weight": "W", "concat": "xh"},
        r"order: expected the letters i, f, g \(the candidate\) and o",
    ),
    "order with c": (
        {"weight": "W", "concat": "xh", "order": "ifco"},
        "order: expected the letters .* got 'ifco'",
    ),
    "order of three": ({"weight": "W", "concat": "xh", "order": "ifo"}, "order: expected the letters"),
    "order without a block": (
        {"weight": "W{gate}", "concat": "xh", "order": "ifgo"},
        "order: expected None where no name stands for a block, got 'ifgo'",
    ),
    "three gates": (
        {"weight": "W{gate}", "concat": "xh", "gates": "ifo"},
        "gates: expected four different names",
    ),
    "gate twice": (
        {"weight": "W{gate}", "concat": "xh", "gates": "iffo"},
        "gates: expected four different names",
    ),
    "numbers as gates": ({"weight": "W{gate}", "concat": "xh", "gates": range(4)}, "gates: expected four"),
    "one gate missing": (
        {"weight": {"i": "Wi", "f": "Wf", "o": "Wo"}, "concat": "xh"},
        "weight: expected exactly i, f, g, o; missing: g; unexpected: none",
    ),
    "peephole of g": (
        {"weight": "W{gate}", "concat": "xh", "peepholes": dict.fromkeys("ifgo", "p")},
        "peepholes: expected exactly i, f, o; missing: none; unexpected: g",
    ),
    "array twice": (
        {"weight": "W{gate}", "bias": "W{gate}", "concat": "xh"},
        "expected each array under a name of its own, got Wi, Wf, Wg, Wo, Wi",
    ),
    "offset without bias": (
        {"weight": "W{gate}", "concat": "xh", "forget_offset": 1.0},
        "forget_offset: expected 0 without a bias, got 1.0",
    ),
    "offset as text": (
        {"weight": "W{gate}", "concat": "xh", "forget_offset": "1"},
        "forget_offset: expected a number",
    ),
    "transposed as text": (
        {"weight": "W{gate}", "concat": "xh", "transposed": "yes"},
        "transposed: expected True or",
    ),
    "name as a number": (
        {"weight": 3, "concat": "xh"},
        "weight: expected a mapping from names to arrays, got 3",
    ),
    "number among names": (
        {"weight": dict.fromkeys("ifgo", 3), "concat": "xh"},
        "weight: expected str, got 3",
    ),
}


@pytest.mark.parametrize("source", [None, b"a.npz", 3, True, 0.5])
def test_source_that_holds_no_arrays_is_a_type_error(source):
    for given in (source, [source], (numpy_class(draw()), source)):
        with pytest.raises(TypeError, match=r"^source: expected a mapping of names to arrays, an object"):
            clstm.LSTM.from_gates(given, weight="W{gate}", bias="b{gate}", concat="hx", gates="ifco")


@pytest.mark.parametrize("bad", BAD_LAYOUTS)
def test_layout_that_makes_no_sense_is_refused_by_argument(bad):
    layout, message = BAD_LAYOUTS[bad]
    for call in (
        clstm.LSTM(I, H).to_gates,
        lambda **layout: clstm.LSTM.from_gates(numpy_class(draw()), **layout),
    ):
        with pytest.raises((ValueError, TypeError), match=f"^{message}") as caught:
            call(**layout)
        assert not isinstance(caught.value, FileFormatError)


@pytest.mark.parametrize(
    ("arguments", "layout", "message"),
    [
        ({}, {}, "bias: expected a name for an LSTM that has it, got None"),
        ({"bias": False}, {"bias": "b{gate}"}, "bias: expected None for an LSTM without, got a name"),
        ({"peepholes": True}, {"bias": "b{gate}"}, "peepholes: expected a name for an LSTM that has it"),
        ({}, {"bias": "b{gate}", "peepholes": "p{gate}"}, "peepholes: expected None for an LSTM without"),
        (
            {"proj_size": 2},
            {"bias": "b{gate}"},
            "expected an LSTM without weight_hr, for which gates have no",
        ),
        ({"layer_norm": True}, {"bias": "b{gate}"}, "expected an LSTM without layer_norm_x, layer_norm_h"),
    ],
)
def test_parameters_without_a_place_are_not_dropped(arguments, layout, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        clstm.LSTM(I, H, **arguments).to_gates(weight="W{gate}", concat="xh", **layout)


# ------------------------------------------------------------------------------------------------- .npz files


NPZ_LAYOUT = SYSTEMS["haste"][1]


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, **haste(draw()))
    return path


def npy(value, **header):
    """Content of a .npy file, with another header than its own if there is one."""
    buffer = io.BytesIO()
    if header:
        own = {"descr": value.dtype.str, "fortran_order": False, "shape": value.shape}
        np.lib.format.write_array_header_1_0(buffer, own | header)
        buffer.write(value.tobytes())
    else:
        np.lib.format.write_array(buffer, value)
    return buffer.getvalue()


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_file_is_read_to_the_bit(save, tmp_path, dtype):
    source = haste(draw(dtype))
    source["kernel"] = np.asfortranarray(source["kernel"])
    save(tmp_path / "a.npz", **source)
    for path in (tmp_path / "a.npz", str(tmp_path / "a.npz")):
        lstm = clstm.LSTM.from_gates(path, **NPZ_LAYOUT)
        assert_same_bits(lstm.flat_params, clstm.LSTM.from_gates(source, **NPZ_LAYOUT).flat_params)


def test_npz_that_is_written_from_gates_is_read_again(tmp_path):
    lstm = clstm.LSTM(I, H, rng=0)
    np.savez(tmp_path / "a.npz", **lstm.to_gates(**NPZ_LAYOUT))
    assert_same_bits(clstm.LSTM.from_gates(tmp_path / "a.npz", **NPZ_LAYOUT).flat_params, lstm.flat_params)


def test_unused_array_of_a_file_is_refused_before_it_is_read(tmp_path):
    members = [(f"{name}.npy", npy(value)) for name, value in haste(draw()).items()]
    write_zip(tmp_path / "a", [*members, ("more.npy", b"no array")])
    with pytest.raises(FileFormatError, match="got also more; unused='ignore' passes over them"):
        clstm.LSTM.from_gates(tmp_path / "a", **NPZ_LAYOUT)
    assert clstm.LSTM.from_gates(tmp_path / "a", **NPZ_LAYOUT, unused="ignore").hidden_size == H


bias = haste(draw())["bias"]
BAD_MEMBERS = {
    "pickle": (npy(bias, descr="|O"), "expected real numbers, got dtype object"),
    "text": (npy(bias, descr="<U40", shape=(1,)), "expected real numbers, got dtype <U40"),
    "record": (npy(bias, descr=[("a", "<f8")]), "expected real numbers, got dtype"),
    "declared larger": (
        npy(bias, shape=(10**9, 10**6)),
        r"expected the bytes of shape \(1000000000, 1000000\)",
    ),
    "declared huge": (npy(bias, shape=(10**400,)), r"expected the bytes of shape \(1000"),
    "declared smaller": (
        npy(bias, shape=(4,)),
        r"expected the bytes of shape \(4,\) and dtype float64, got 160",
    ),
    "negative": (npy(bias, shape=(-4, -5)), r"expected the bytes of shape \(-4, -5\)"),
    "many axes": (npy(bias, shape=(20, *[1] * 70)), r"expected the bytes of shape \(20, 1"),
    "no array": (b"weights", "not an array of NumPy"),
    "nothing": (b"", "not an array of NumPy"),
    "format 9": (b"\x93NUMPY\x09\x00" + bytes(100), r"not an array of NumPy \(format \(9, 0\)"),
    "long header": (
        b"\x93NUMPY\x02\x00" + (10**9).to_bytes(4, "little") + bytes(100),
        "not an array of NumPy",
    ),
    "nested header": (
        b"\x93NUMPY\x01\x00" + (9000).to_bytes(2, "little") + b"(" * 9000,
        "not an array of NumPy",
    ),
    "minus signs": (
        b"\x93NUMPY\x01\x00" + (9999).to_bytes(2, "little") + b"-" * 9998 + b"1",
        "not an array of NumPy",
    ),
    "call": (
        b"\x93NUMPY\x01\x00" + (20).to_bytes(2, "little") + b"exit()".ljust(20),
        "not an array of NumPy",
    ),
}


@pytest.mark.parametrize("bad", BAD_MEMBERS)
def test_member_that_is_no_array_of_numbers_is_refused(bad, tmp_path):
    content, message = BAD_MEMBERS[bad]
    path = tmp_path / "a.npz"
    members = [(f"{name}.npy", npy(value)) for name, value in haste(draw()).items() if name != "bias"]
    write_zip(path, [*members, ("bias.npy", content)])
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match=rf"a\.npz: 'bias': {message}"):
            clstm.LSTM.from_gates(path, **NPZ_LAYOUT)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_zip_bomb_costs_nothing(tmp_path):
    zeros = npy(np.zeros(10**7))
    path = tmp_path / "a.npz"
    write_zip(path, [(f"{n}.npy", zeros) for n in ("kernel", "recurrent_kernel", "bias")])
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match="its members claim to be much larger than the file"):
            clstm.LSTM.from_gates(path, **NPZ_LAYOUT)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size + (64 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_name_that_stands_twice_is_refused(tmp_path):
    members = [(f"{name}.npy", npy(value)) for name, value in haste(draw()).items()]
    write_zip(tmp_path / "a", [*members, members[0]])
    with pytest.raises(FileFormatError, match="expected each member of the archive once"):
        clstm.LSTM.from_gates(tmp_path / "a", **NPZ_LAYOUT)


def test_truncated_file_is_refused(npz):
    content = npz.read_bytes()
    for size in range(0, len(content), 97):
        npz.write_bytes(content[:size])
        with pytest.raises(FileFormatError, match=r"weights\.npz: "):
            clstm.LSTM.from_gates(npz, **NPZ_LAYOUT)


def test_damaged_file_is_refused_or_read_as_before(npz):
    """A bit in a time stamp changes nothing; one that changes numbers does not pass the checksums."""
    expected = clstm.LSTM.from_gates(npz, **NPZ_LAYOUT).flat_params
    content = npz.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        npz.write_bytes(damaged)
        try:
            assert_same_bits(clstm.LSTM.from_gates(npz, **NPZ_LAYOUT).flat_params, expected)
        except FileFormatError:
            refused += 1
    assert refused > 200


def test_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        clstm.LSTM.from_gates(tmp_path / "no.npz", **NPZ_LAYOUT)


def test_archive_at_the_limit_stays_within_its_memory(tmp_path):
    path = tmp_path / "a.npz"
    members = [(f"{name}.npy", npy(value)) for name, value in haste(draw()).items() if name != "bias"]
    write_zip(path, [*members, ("bias.npy", npy(np.zeros(4 * 780_000, ">f8")))])
    tracemalloc.start()
    try:
        with pytest.raises(FileFormatError, match="with H = 780000 as in bias, got"):
            clstm.LSTM.from_gates(path, **NPZ_LAYOUT)
        assert tracemalloc.get_traced_memory()[1] < path.stat().st_size + (64 << 20)
    finally:
        tracemalloc.stop()
