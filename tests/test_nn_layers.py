"""nn.Dense, nn.Embedding, nn.Dropout: bits, gradients, PyTorch as a second witness, files, errors.

What Dense computes, and its errors, are in test_nn.py.
"""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import (
    assert_close,
    assert_same_bits,
    build_lstm,
    central_difference,
    locked,
    threads,
)

import clstm
from clstm import FileFormatError, _dispatch, files, nn

SHAPES = [(), (5,), (2, 3), (0, 4)]


def build_dense(*args, **kwargs):
    """Make a dense layer whose every parameter is random, the bias included."""
    dense = nn.Dense(*args, rng=0, **kwargs)
    dense.flat_params[...] = np.random.default_rng(1).uniform(-1, 1, dense.flat_params.size)
    return dense


def draw(*shape, dtype="float64", seed=2):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def tokens(*shape, below, seed=3):
    return np.random.default_rng([seed, *shape]).integers(0, below, shape)


def duplicates(layer):
    """Return copies of a layer, made in every way but by a file."""
    return [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]


MAKERS = {
    "Dense": lambda **kwargs: nn.Dense(4, 3, rng=0, **kwargs),
    "Embedding": lambda **kwargs: nn.Embedding(4, 3, rng=0, **kwargs),
    "Dropout": lambda: nn.Dropout(0.5, rng=0),
}


@pytest.mark.parametrize("name", MAKERS)
def test_every_layer_has_what_a_model_needs(name):
    layer = MAKERS[name]()
    assert isinstance(layer, nn.Layer)
    assert layer.flat_params.shape == layer.flat_grads.shape
    x = np.array([[0, 1], [2, 3]]) if name == "Embedding" else np.ones((2, 2, 4))
    with pytest.raises(RuntimeError, match="backward: expected a call of forward before it, got none"):
        layer.backward(np.ones((2, 2, 3)))
    layer.backward(np.ones_like(layer.forward(x)))
    before = layer.flat_params.copy()
    nn.clip_grad_norm([layer], 1.0)
    nn.Adam([layer]).step()
    assert before.size == 0 or not np.array_equal(layer.flat_params, before)


# ---------------------------------------------------------------------------------------------------- Dense


@pytest.mark.parametrize("output_size", [1, 2, 7, 70])
def test_row_of_a_dense_layer_has_the_same_bits_in_any_batch(dtype, output_size):
    dense, x = build_dense(33, output_size, dtype=dtype), draw(40, 3, 33, dtype=dtype)
    whole = dense(x)
    assert_same_bits(dense.forward(x), whole)
    for part in (np.s_[:1], np.s_[7], np.s_[7, 1], np.s_[3:30], np.s_[:, 2], np.s_[::-3]):
        assert_same_bits(dense(x[part]), whole[part], str(part))


def test_dense_gradients_have_the_same_bits_for_every_number_of_threads(dtype):
    dense = build_dense(90, 70, dtype=dtype)
    x, dy = draw(30, 29, 90, dtype=dtype), draw(30, 29, 70, dtype=dtype)
    expected = None
    for n in (1, 2, 3):
        with threads(n):
            got = [dense.forward(x), dense.backward(dy), dense.flat_grads.copy()]
        expected = expected or got
        for value, first in zip(got, expected, strict=True):
            assert_same_bits(value, first, f"{n} threads")


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_dense_backends_agree(dtype, bias):
    layers = [build_dense(9, 5, dtype=dtype, bias=bias, backend=backend) for backend in ("auto", "numpy")]
    x, dy = draw(7, 4, 9, dtype=dtype), draw(7, 4, 5, dtype=dtype)
    got, expected = ([layer.forward(x), layer.backward(dy), layer.flat_grads] for layer in layers)
    for promise, value, other in zip(("forward", "backward", "backward"), got, expected, strict=True):
        assert_close(value, other, promise)
    layers[0].backend = "numpy"
    assert_same_bits(layers[0](x), layers[1](x))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_dense_computes_what_torch_does(bias):
    torch = pytest.importorskip("torch")
    dense = build_dense(6, 4, bias=bias)
    theirs = torch.nn.Linear(6, 4, bias=bias, dtype=torch.float64)
    theirs.load_state_dict({name: torch.tensor(value) for name, value in dense.state_dict().items()})
    x, dy = draw(5, 3, 6), draw(5, 3, 4)
    input_ = torch.tensor(x, requires_grad=True)
    output = theirs(input_)
    output.backward(torch.tensor(dy))
    assert_close(dense.forward(x), output.detach().numpy(), "torch")
    assert_close(dense.backward(dy), input_.grad.numpy(), "torch")
    for name, parameter in theirs.named_parameters():
        assert_close(dense.grads[name], parameter.grad.numpy(), "torch", name)


def test_dense_takes_arrays_however_they_lie(dtype):
    dense, x, dy = build_dense(5, 3, dtype=dtype), draw(6, 4, 5, dtype=dtype), draw(6, 4, 3, dtype=dtype)
    y, dx = dense.forward(x), dense.backward(dy)
    gradients = dense.flat_grads.copy()
    lay = [
        lambda v: np.asfortranarray(v),
        lambda v: np.repeat(np.repeat(v, 2, axis=0), 2, axis=2)[::2, :, ::2],
        lambda v: v.swapaxes(0, 1).copy().swapaxes(0, 1),
        locked,
    ]
    for each in lay:
        assert_same_bits(dense(each(x)), y)
        for keep in (True, False):
            assert_same_bits(dense.forward(each(x), copy=keep), y)
            assert_same_bits(dense.backward(each(dy)), dx)
            assert_same_bits(dense.flat_grads, gradients)


def test_dense_keeps_x_itself_if_told_that_it_will_not_change():
    dense, x, dy = nn.Dense(4, 3, rng=0), np.ones((2, 4)), np.ones((2, 3))
    for keep in (True, False):
        dense.forward(x, copy=keep)
        dense.backward(dy)
        gradients = dense.flat_grads.copy()
        x[...] = 3
        dense.backward(dy)
        assert np.array_equal(dense.flat_grads, gradients) is keep
        x[...] = 1
    with pytest.raises(TypeError, match="copy: expected True or False, got 1"):
        dense.forward(x, copy=1)


def test_dense_is_as_it_was_when_a_product_is_interrupted():
    """One after the other; results are taken when all are there."""

    class Interrupted(nn.Dense):
        @property
        def functions(self):
            def product(*arguments):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                _dispatch.backend("auto", self.dtype).product(*arguments)

            return SimpleNamespace(product=product)

    left = [9]
    dense, x, dy = Interrupted(4, 3, rng=0), draw(2, 4), draw(2, 3)
    dense.forward(x)
    dx = dense.backward(dy)
    gradients = dense.flat_grads.copy()
    for call, count in ((lambda: dense.forward(2 * x), 1), (lambda: dense.backward(2 * dy), 3)):
        for n in range(count):
            left[0] = n
            with pytest.raises(KeyboardInterrupt):
                call()
            left[0] = 9
            assert_same_bits(dense.flat_grads, gradients)
            assert_same_bits(dense.backward(dy), dx)
            assert_same_bits(dense.flat_grads, gradients)


@pytest.mark.parametrize("name", ["Dense", "Embedding"])
def test_backend_is_no_part_of_a_file(name, tmp_path):
    layer = MAKERS[name](backend="numpy")
    layer.save(tmp_path / "layer")
    assert clstm.load(tmp_path / "layer").backend == "auto"
    assert clstm.load(tmp_path / "layer", backend="numpy").backend == "numpy"
    assert all(other.backend == "numpy" for other in duplicates(layer))
    with pytest.raises(ValueError, match="backend: expected one of 'auto', 'numpy', got 'blas'"):
        layer.backend = "blas"
    assert layer.functions is _dispatch.backend("numpy", layer.dtype)


# ------------------------------------------------------------------------------------------------ Embedding


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_embedding_looks_its_vectors_up(shape, dtype):
    embedding, x = nn.Embedding(7, 4, dtype=dtype, rng=0), tokens(*shape, below=7)
    weight = embedding.params["weight"]
    expected = np.array([weight[n] for n in x.ravel()], dtype).reshape(*shape, 4)
    assert_same_bits(embedding(x), expected)
    assert_same_bits(embedding.forward(x), expected)
    assert not np.shares_memory(embedding(x), weight)


@pytest.mark.parametrize(
    "give",
    [
        lambda x: x.astype(np.uint8),
        lambda x: x.astype(np.int16),
        lambda x: x.astype(">i4"),
        lambda x: x.astype(np.uint64),
        lambda x: np.asfortranarray(x),
        lambda x: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x: x.tolist(),
        locked,
        lambda x: pytest.importorskip("torch").tensor(x),
    ],
)
def test_embedding_takes_integers_of_every_kind(give):
    embedding, x = nn.Embedding(7, 4, rng=0), tokens(3, 5, below=7)
    dy = draw(3, 5, 4)
    y = embedding.forward(x)
    embedding.backward(dy)
    gradients = embedding.flat_grads.copy()
    assert_same_bits(embedding.forward(give(x)), y)
    embedding.backward(dy)
    assert_same_bits(embedding.flat_grads, gradients)


def test_embedding_keeps_a_copy_of_x():
    embedding, x = nn.Embedding(3, 2, rng=0), np.array([1, 2])
    embedding.forward(x)
    x[...] = 10**9
    embedding.backward(np.ones((2, 2)))
    assert_same_bits(embedding.grads["weight"], np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_embedding_gradients_are_central_differences(shape):
    embedding, x, dy = nn.Embedding(7, 4, rng=0), tokens(*shape, below=7), draw(*shape, 4)
    embedding.forward(x)
    assert embedding.backward(dy) is None

    def loss():
        return float((dy * embedding(x)).sum())

    assert_close(embedding.flat_grads, central_difference(loss, embedding.flat_params), "central difference")


@pytest.mark.parametrize("padding_idx", [None, 0, 2, 6])
def test_embedding_computes_what_torch_does(padding_idx):
    torch = pytest.importorskip("torch")
    embedding = nn.Embedding(7, 4, padding_idx=padding_idx, rng=0)
    theirs = torch.nn.Embedding(7, 4, padding_idx=padding_idx, dtype=torch.float64)
    theirs.load_state_dict({"weight": torch.tensor(embedding.state_dict()["weight"])})
    x, dy = tokens(9, 3, below=7), draw(9, 3, 4)
    output = theirs(torch.tensor(x))
    output.backward(torch.tensor(dy))
    assert_same_bits(embedding.forward(x), output.detach().numpy())
    embedding.backward(dy)
    assert_close(embedding.grads["weight"], theirs.weight.grad.numpy(), "torch")


def test_embedding_adds_gradients_in_the_order_of_x(dtype):
    """Bit for bit, on both backends and for any number of threads."""
    x, dy = tokens(400, 30, below=5), draw(400, 30, 16, dtype=dtype)
    expected = np.zeros((5, 16), dtype)
    for n, row in zip(x.ravel(), dy.reshape(-1, 16), strict=True):
        expected[n] += row
    for backend in ("auto", "numpy"):
        for n in (1, 2):
            embedding = nn.Embedding(5, 16, dtype=dtype, rng=0, backend=backend)
            with threads(n):
                embedding.forward(x)
                embedding.backward(dy)
            assert_same_bits(embedding.grads["weight"], expected)


def test_embedding_accumulates_on_demand():
    embedding, x = nn.Embedding(4, 2, rng=0), np.array([1, 1, 3])
    dy = np.arange(6.0).reshape(3, 2)
    embedding.forward(x)
    embedding.flat_grads[...] = 7
    embedding.backward(dy)
    once = embedding.flat_grads.copy()
    assert_same_bits(embedding.grads["weight"], np.array([[0, 0], [2, 4], [0, 0], [4, 5.0]]))
    embedding.backward(dy, accumulate=True)
    assert_same_bits(embedding.flat_grads, 2 * once)


def test_padding_vector_stays_zero(dtype):
    embedding = nn.Embedding(5, 3, padding_idx=2, dtype=dtype, rng=0)
    weight, adam = embedding.params["weight"], nn.AdamW([embedding], weight_decay=0.1)
    before, x = weight.copy(), np.array([[2, 1], [4, 2]])
    assert not before[2].any()
    for accumulate in (False, True):
        dy = draw(2, 2, 3, dtype=dtype)
        dy[x == 2] = np.nan
        embedding.forward(x)
        embedding.backward(dy, accumulate)
        assert not embedding.grads["weight"][2].any()
        adam.step()
    assert not embedding(2).any()
    assert (weight[[0, 1, 3, 4]] != before[[0, 1, 3, 4]]).all()


def test_embedding_begins_with_standard_normal_vectors():
    embedding = nn.Embedding(500, 40, rng=3)
    weight = embedding.params["weight"]
    assert_close(np.array([weight.mean(), weight.std()]), np.array([0.0, 1.0]), "sample mean")
    generator = np.random.default_rng(3)
    assert_same_bits(nn.Embedding(500, 40, rng=generator).flat_params, embedding.flat_params)
    single = nn.Embedding(500, 40, rng=3, dtype="float32")
    assert_same_bits(single.flat_params, embedding.flat_params.astype("float32"))
    padded = nn.Embedding(500, 40, rng=3, padding_idx=9)
    assert_same_bits(np.delete(padded.params["weight"], 9, axis=0), np.delete(weight, 9, axis=0))


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_embedding_there_and_back(padding_idx, dtype, tmp_path):
    embedding = nn.Embedding(6, 3, padding_idx=padding_idx, dtype=dtype, rng=0)
    x = tokens(4, 2, below=6)
    embedding.save(tmp_path / "embedding")
    others = [nn.Embedding.load(tmp_path / "embedding"), clstm.load(tmp_path / "embedding")]
    others += duplicates(embedding)
    others.append(nn.Embedding.from_params(embedding.state_dict(), padding_idx=padding_idx))
    others.append(nn.Embedding(6, 3, padding_idx=padding_idx, dtype=dtype))
    others[-1].load_state_dict(embedding.state_dict())
    for other in others:
        assert (other.padding_idx, repr(other)) == (padding_idx, repr(embedding))
        assert other.dtype == dtype
        assert_same_bits(other(x), embedding(x))
        other.flat_params[...] = 0
        assert not other(x).any()
    assert embedding(x).any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: nn.Embedding(0, 1), ValueError, "num_embeddings: expected at least 1, got 0"),
        (lambda _: nn.Embedding(1, 2.5), TypeError, "embedding_dim: expected an integer, got 2.5"),
        (
            lambda _: nn.Embedding(3, 1, padding_idx=3),
            ValueError,
            "padding_idx: expected at most 2, got 3",
        ),
        (
            lambda _: nn.Embedding(3, 1, padding_idx=-1),
            ValueError,
            "padding_idx: expected at least 0, got -1",
        ),
        (
            lambda _: nn.Embedding(3, 1, padding_idx=True),
            TypeError,
            "padding_idx: expected an integer, got True",
        ),
        (lambda _: nn.Embedding(3, 1, dtype=int), ValueError, "dtype: expected float32 or float64"),
        (lambda _: nn.Embedding.from_params({"bias": np.ones(3)}), ValueError, "params: expected a matrix"),
        (
            lambda e: e([[0, 1], [2, 5], [9, 0]]),
            ValueError,
            r"x: expected values in 0..4, got 5 at \(1, 1\)$",
        ),
        (lambda e: e.forward([0, -1, 7]), ValueError, "x: expected values in 0..4, got -1 at 1$"),
        (lambda e: e(5), ValueError, "x: expected values in 0..4, got 5$"),
        (lambda e: e(np.uint64(2**63)), ValueError, f"x: expected values in 0..4, got {2**63}$"),
        (lambda e: e(np.ones(3)), TypeError, "x: expected integers, got dtype float64"),
        (lambda e: e([True]), TypeError, "x: expected integers, got dtype bool"),
        (lambda e: e([[0], [0, 1]]), ValueError, "x: expected an array of integers, got rows of different"),
        (lambda e: e.backward(np.ones((2, 2))), ValueError, r"dy: expected shape \(2, 3\), got \(2, 2\)"),
        (
            lambda e: e.backward(np.ones((2, 3)), 1),
            TypeError,
            "accumulate: expected True or False, got 1",
        ),
    ],
)
def test_embedding_refuses_bad_input(call, error, message):
    embedding = nn.Embedding(5, 3, rng=0)
    embedding.forward([0, 1])
    embedding.flat_grads[...] = 7
    before = embedding.flat_params.copy()
    with pytest.raises(error, match=message):
        call(embedding)
    assert (embedding.flat_grads == 7).all()
    assert_same_bits(embedding.flat_params, before)
    embedding.backward(np.ones((2, 3)))  # the tape is still there


# -------------------------------------------------------------------------------------------------- Dropout


@pytest.mark.parametrize("shape", [*SHAPES, (3, 4, 5)], ids=str)
def test_dropout_scales_what_it_leaves(shape, dtype):
    dropout, x, dy = nn.Dropout(0.25, rng=0), draw(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=4)
    assert dropout(x) is x
    y = dropout.forward(x)
    kept = y != 0
    scale = np.array(1, dtype) / np.dtype(dtype).type(0.75)
    assert_same_bits(y, np.where(kept, x * scale, np.zeros_like(x)))
    assert_same_bits(dropout.backward(dy), np.where(kept, dy * scale, np.zeros_like(dy)))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(p):
    dropout = nn.Dropout(p, rng=0)
    y = dropout.forward(np.ones((300, 400)))
    assert_close(np.array([y.mean(), (y == 0).mean()]), np.array([1.0, p]), "sample mean")


def test_dropout_draws_a_mask_each_time_and_nothing_else_does():
    dropout, x = nn.Dropout(0.5, rng=7), np.ones((4, 5))
    first = dropout.forward(x)
    dropout(x)
    dropout.backward(x)
    second = dropout.forward(x)
    assert not np.array_equal(first, second)
    again = nn.Dropout(0.5, rng=np.random.default_rng(7))
    assert_same_bits(np.stack([again.forward(x), again.forward(x)]), np.stack([first, second]))
    again.rng = np.random.default_rng(7)
    assert_same_bits(again.forward(x), first)


def test_dropout_of_nothing_draws_nothing():
    dropout, x = nn.Dropout(0, rng=7), np.ones((4, 5))
    before = dropout.rng.bit_generator.state
    assert dropout.forward(x) is x
    assert_same_bits(dropout.backward(2 * x), 2 * x)
    assert dropout.rng.bit_generator.state == before
    dropout.p = 0.5
    assert not np.array_equal(dropout.forward(x), x)


def test_dropout_works_in_the_dtype_of_its_input(dtype):
    dropout = nn.Dropout(0.5, rng=0)
    x = np.ones(4, dtype)
    assert [v.dtype for v in (dropout(x), dropout.forward(x), dropout.backward(x))] == [dtype] * 3
    assert dropout.forward([1, 2]).dtype == dropout(np.arange(2)).dtype == np.float64
    assert (dropout.flat_params.size, dropout.flat_grads.size) == (0, 0)


def test_dropout_there_and_back(tmp_path):
    dropout, x = nn.Dropout(0.25, rng=5), np.ones((4, 5))
    dropout.forward(x)
    dropout.save(tmp_path / "dropout")
    for other in (nn.Dropout.load(tmp_path / "dropout"), clstm.load(tmp_path / "dropout")):
        assert (other.p, repr(other)) == (0.25, repr(dropout))
    copies = duplicates(dropout)
    expected = [dropout.forward(x), dropout.forward(x)]
    for other in copies:
        with pytest.raises(RuntimeError, match="backward: expected a call of forward"):
            other.backward(x)
        for value in expected:
            assert_same_bits(other.forward(x), value)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: nn.Dropout(1.0), ValueError, r"p: expected a number in \[0, 1\), got 1.0"),
        (lambda _: nn.Dropout(-0.5), ValueError, r"p: expected a number in \[0, 1\), got -0.5"),
        (lambda _: nn.Dropout("half"), TypeError, "p: expected a number, got 'half'"),
        (lambda d: setattr(d, "p", 2), ValueError, r"p: expected a number in \[0, 1\), got 2"),
        (lambda _: nn.Dropout(0.5, rng="seed"), TypeError, "rng: expected an integer, got 'seed'"),
        (lambda d: setattr(d, "rng", 3), TypeError, "rng: expected Generator, got 3"),
        (lambda d: d(["a"]), TypeError, "x: expected real numbers"),
        (lambda d: d.forward(np.ones(2, complex)), TypeError, "x: expected real numbers, got dtype complex"),
        (lambda d: d.backward(np.ones(3)), ValueError, r"dy: expected shape \(2,\), got \(3,\)"),
        (lambda d: d.backward(np.ones(2), 1), TypeError, "accumulate: expected True or False, got 1"),
    ],
)
def test_dropout_refuses_bad_input(call, error, message):
    dropout = nn.Dropout(0.5, rng=0)
    y = dropout.forward(np.ones(2))
    before = dropout.rng.bit_generator.state
    with pytest.raises(error, match=message):
        call(dropout)
    assert (dropout.p, dropout.rng.bit_generator.state) == (0.5, before)
    assert_same_bits(dropout.backward(np.ones(2)), y)  # the tape is still there


# ---------------------------------------------------------------------------------------------------- files

WEIGHT = {"weight": np.ones((5, 3))}
SIZES = {"num_embeddings": 5, "embedding_dim": 3, "dtype": "float64"}


@pytest.mark.parametrize(
    ("name", "arguments", "tensors", "message"),
    [
        ("Dropout", {"p": 1.5}, {}, r"p: expected a number in \[0, 1\), got 1.5"),
        ("Dropout", {}, {}, "arguments: expected exactly p; missing: p"),
        ("Dropout", {"p": 0.5, "rng": 1}, {}, "arguments: expected exactly p; .* unexpected: rng"),
        ("Dropout", {"p": 0.5}, WEIGHT, "tensors: .* unexpected: weight"),
        ("Embedding", SIZES | {"padding_idx": 5}, WEIGHT, "padding_idx: expected at most 4, got 5"),
        ("Embedding", SIZES | {"num_embeddings": 10**12}, WEIGHT, "its arguments ask for"),
        ("Embedding", SIZES | {"backend": "auto"}, WEIGHT, "arguments: expected some of"),
        ("Embedding", SIZES, {"bias": np.ones(15)}, "tensors: expected exactly weight"),
    ],
)
def test_file_that_does_not_fit_together_is_refused(name, arguments, tensors, message, tmp_path):
    path = tmp_path / "layer"
    files.write(path, name, arguments, tensors, clstm.__version__)
    with pytest.raises(FileFormatError, match=message):
        clstm.load(path)


def test_options_that_a_layer_has_not_are_refused(tmp_path):
    nn.Dropout(0.5).save(tmp_path / "dropout")
    with pytest.raises(TypeError, match=r"Dropout\.load: expected the path alone, got backend"):
        clstm.load(tmp_path / "dropout", backend="numpy")


# ------------------------------------------------------------------------------------------------- together


def test_gradients_of_all_layers_together_are_central_differences():
    """The mask of dropout is the same for every loss: its generator begins anew."""
    embedding, lstm, dense = nn.Embedding(6, 3, rng=0), build_lstm(3, 4), build_dense(4, 2)
    dropout, x, dy = nn.Dropout(0.4), tokens(5, 2, below=6), draw(5, 2, 2)

    def forward():
        dropout.rng = np.random.default_rng(0)
        return dense.forward(dropout.forward(lstm.forward(embedding.forward(x))[0]))

    def loss():
        return float((dy * forward()).sum())

    assert (dropout.forward(np.ones((5, 2, 4))) == 0).any()
    forward()
    dx, _ = lstm.backward(dropout.backward(dense.backward(dy)))
    embedding.backward(dx)
    for layer in (embedding, lstm, dense):
        expected = central_difference(loss, layer.flat_params)
        assert_close(layer.flat_grads, expected, "central difference", type(layer).__name__)
