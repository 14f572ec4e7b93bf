"""Layers that go from the last step to the first: the reverse direction of a bidirectional one, alone."""

import numpy as np
import pytest
from conftest import LAYERS, as_tuple, assert_close, assert_same_bits

import clstm


def both(kind, dtype, backend, **arguments):
    """Return a reverse layer, and one that goes forward with the same weights."""
    layers = LAYERS[kind], {"dtype": dtype, "backend": backend, **arguments}
    reverse = layers[0](3, 5, 2, reverse=True, rng=0, **layers[1])
    forward = layers[0].from_params(reverse.state_dict(), **layers[1])
    return reverse, forward


def flipped(array, lengths):
    """Turn the real steps of each row around."""
    turned = np.zeros_like(array)
    for b, length in enumerate(lengths):
        turned[:length, b] = array[:length, b][::-1]
    return turned


@pytest.mark.parametrize("ragged", [False, True])
def test_reverse_is_forward_on_turned_rows(kind, dtype, backend, ragged):
    reverse, forward = both(kind, dtype, backend)
    x = np.random.default_rng(1).standard_normal((6, 4, 3)).astype(dtype)
    lengths = np.array([6, 1, 0, 4]) if ragged else np.full(4, 6)
    y, state = reverse(x, lengths=lengths)
    expected, expected_state = forward(flipped(x, lengths), lengths=lengths)
    assert_same_bits(y, flipped(expected, lengths), "y")
    for got, wanted in zip(as_tuple(state), as_tuple(expected_state), strict=True):
        assert_same_bits(got, wanted)


def test_gradients_are_those_of_forward_on_turned_rows(kind, dtype, backend):
    reverse, forward = both(kind, dtype, backend)
    rng = np.random.default_rng(2)
    x, dy = rng.standard_normal((6, 4, 3)).astype(dtype), rng.standard_normal((6, 4, 5)).astype(dtype)
    reverse.forward(x)
    forward.forward(x[::-1])
    dx, _ = reverse.backward(dy)
    expected, _ = forward.backward(dy[::-1])
    assert_close(dx, expected[::-1], "backward", "dx")
    for name, value in forward.grads.items():
        assert_close(reverse.grads[name], value, "backward", name)


def test_it_is_the_second_direction_of_a_bidirectional_layer(kind, dtype):
    two = LAYERS[kind](3, 5, bidirectional=True, dtype=dtype, rng=3)
    weights = {name[:-8]: value for name, value in two.params.items() if name.endswith("_reverse")}
    one = LAYERS[kind].from_params(weights, reverse=True)
    x = np.random.default_rng(4).standard_normal((5, 2, 3)).astype(dtype)
    resets = np.zeros((5, 2), bool)
    resets[2, 1] = True
    both_y, _ = two(x, resets=resets)
    y, _ = one(x, resets=resets)
    assert_same_bits(y, np.ascontiguousarray(both_y[:, :, 5:]))


def test_reverse_goes_into_files_and_repr(kind, tmp_path):
    reverse, _ = both(kind, "float64", "auto")
    reverse.save(tmp_path / "a.safetensors")
    again = clstm.load(tmp_path / "a.safetensors")
    assert again.reverse is True
    assert "reverse=True" in repr(again)
    x = np.ones((4, 2, 3))
    assert_same_bits(again(x)[0], reverse(x)[0])


def test_trace_stands_at_the_steps_of_x(kind):
    reverse, _ = both(kind, "float64", "auto")
    x = np.random.default_rng(5).standard_normal((4, 2, 3))
    assert_same_bits(reverse.trace(x).h[-1], reverse(x)[0])


def test_single_steps_are_refused(kind):
    reverse, _ = both(kind, "float64", "auto")
    with pytest.raises(ValueError, match="step: expected a unidirectional"):
        reverse.step(np.ones(3))
    with pytest.raises(ValueError, match="stream: expected a unidirectional"):
        reverse.stream()


def test_reverse_and_bidirectional_are_refused_together(kind):
    with pytest.raises(ValueError, match="reverse: expected False with bidirectional=True"):
        LAYERS[kind](3, 5, bidirectional=True, reverse=True)
