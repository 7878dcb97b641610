"""Max pooling: what it gives and where its gradient goes, against a twin that looks at one window after another."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from im2colx import nn
from test_nn_layers import slope


def twin(x, grad_y, size, stride):
    """y and dL/dx for x channels last, a window at a time; argmax finds the first of equal ones, and the first NaN."""
    outputs = [(length - k) // s + 1 for length, k, s in zip(x.shape[1:3], size, stride, strict=True)]
    y, grad_x = np.empty((len(x), *outputs, x.shape[3]), x.dtype), np.zeros_like(x)
    for n, a, b, c in np.ndindex(y.shape):
        top, left = a * stride[0], b * stride[1]
        window = x[n, top : top + size[0], left : left + size[1], c]
        u, v = np.unravel_index(np.argmax(window), size)
        y[n, a, b, c] = window[u, v]
        grad_x[n, top + u, left + v, c] += grad_y[n, a, b, c]
    return y, grad_x


def pooled(layer, x, grad_y):
    """What the layer makes of x and grad_y, both channels last."""
    axes = (0, 1, 2, 3) if layer.layout == "NHWC" else (0, 3, 1, 2)
    y = layer.forward(x.transpose(axes), training=True)
    return [array.transpose(np.argsort(axes)) for array in (y, layer.backward(np.ascontiguousarray(grad_y.transpose(axes))))]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_against_the_twin(data):
    pairs = st.tuples(st.integers(1, 4), st.integers(1, 4))
    size, stride = data.draw(pairs), data.draw(pairs)
    layout, dtype = data.draw(st.sampled_from(["NHWC", "NCHW"])), data.draw(st.sampled_from(["f4", "f8"]))
    height, width = (k + data.draw(st.integers(0, 5)) for k in size)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = data.draw(st.sampled_from([[0, 1], [-2, -1, 0, 3], [0, 1, np.nan], [-np.inf, np.nan, np.inf]]))  # many ties
    x = rng.choice(values, (2, height, width, 3)).astype(dtype)
    layer = nn.MaxPool2D(size, stride, layout=layout)
    shape = layer.output_shape((height, width, 3) if layout == "NHWC" else (3, height, width))
    grad_y = rng.integers(-9, 9, (2, *(shape if layout == "NHWC" else (*shape[1:], shape[0])))).astype(dtype)
    y, grad_x = pooled(layer, x, grad_y)
    expected = twin(x, grad_y, size, stride)
    np.testing.assert_array_equal(y, expected[0])
    np.testing.assert_array_equal(grad_x, expected[1])  # sums of small integers: exact
    np.testing.assert_array_equal(layer.forward(x if layout == "NHWC" else x.transpose(0, 3, 1, 2)),
                                  y if layout == "NHWC" else y.transpose(0, 3, 1, 2))


def test_windows_of_more_than_a_byte_can_count():
    x = np.zeros((1, 300, 1, 2), np.float32)
    x[0, 299, 0, 0] = x[0, 256, 0, 1] = 1
    _, grad_x = pooled(nn.MaxPool2D((300, 1)), x, np.full((1, 1, 1, 2), 5, np.float32))
    assert np.array_equal(np.argwhere(grad_x), [[0, 256, 0, 1], [0, 299, 0, 0]])


@pytest.mark.parametrize("stride", [1, 2])
def test_an_infinite_gradient_goes_nowhere_else(stride):
    x = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32).reshape(1, 2, 2, 1)
    for gradient in (np.inf, np.nan):
        _, grad_x = pooled(nn.MaxPool2D(2, stride), x, np.full((1, 1, 1, 1), gradient, np.float32))
        np.testing.assert_array_equal(grad_x.ravel(), [0, 0, 0, gradient])


def test_by_default_windows_lie_side_by_side():
    assert repr(nn.MaxPool2D(2)) == repr(nn.MaxPool2D((2, 2), stride=2)) == "MaxPool2D((2, 2), stride=(2, 2), layout='NHWC')"
    assert repr(nn.MaxPool2D((3, 2), 1, layout="NCHW")) == "MaxPool2D((3, 2), stride=(1, 1), layout='NCHW')"
    assert nn.MaxPool2D((3, 2)).output_shape((7, 7, 4)) == (2, 3, 4)
    assert nn.MaxPool2D((3, 2), layout="NCHW").output_shape((4, 7, 7)) == (4, 2, 3)


def test_layers_around_it_work_in_place_without_harm():
    layers = [nn.Conv2D(3, 2), nn.MaxPool2D(2), nn.ReLU(), nn.Conv2D(2, 2), nn.ReLU(), nn.MaxPool2D(2, 1), nn.Flatten(),
              nn.Dense(2)]
    model = nn.Sequential(layers, input_shape=(10, 10, 1), dtype="float64", seed=3)
    rng = np.random.default_rng(4)
    x, weighting = rng.standard_normal((2, 10, 10, 1)), rng.standard_normal((2, 2))
    model.forward(x, training=True)
    grad_x = model.backward(weighting)
    for (name, array), (_, gradient) in zip([("x", x), *model.parameters()], [("x", grad_x), *model.gradients()], strict=True):
        slopes = slope(lambda: float(np.sum(weighting * model.forward(x))), array)
        assert np.abs(slopes).max() > 1e-3  # not all zero, which nothing would be shown by
        np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-7, err_msg=name)


def test_memory_is_used_again_in_training_and_not_otherwise():
    layer = nn.MaxPool2D(2)
    x = np.random.default_rng(5).random((3, 6, 6, 2), np.float32)
    kept = layer.forward(x)
    trained = layer.forward(x, training=True), layer.backward(kept)
    again = layer.forward(-x, training=True), layer.backward(kept)
    assert all(np.shares_memory(a, b) for a, b in zip(trained, again, strict=True))
    assert not np.shares_memory(kept, again[0])
    assert not np.array_equal(kept, again[0])
    small = layer.forward(x[:2], training=True)  # the last batch of an epoch
    assert np.array_equal(small, kept[:2]) and np.shares_memory(small, again[0])


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: nn.MaxPool2D(0), ValueError, "size must be at least 1, but is 0"),
    (lambda: nn.MaxPool2D((2, -1)), ValueError, r"size\[1\] must be at least 1, but is -1"),
    (lambda: nn.MaxPool2D((2, 2, 2)), ValueError, "size must be one whole number or two, but has 3"),
    (lambda: nn.MaxPool2D(2.0), TypeError, "size must be a whole number, but is 2.0 of type float"),
    (lambda: nn.MaxPool2D(None), TypeError, "size must be a whole number, but is None"),
    (lambda: nn.MaxPool2D(2**70), ValueError, "size must be at most"),
    (lambda: nn.MaxPool2D(2, 0), ValueError, "stride must be at least 1, but is 0"),
    (lambda: nn.MaxPool2D(2, True), TypeError, "stride must be a whole number, but is True of type bool"),
    (lambda: nn.MaxPool2D(2, layout="HWC"), ValueError, "layout must be 'NHWC' or 'NCHW', but is 'HWC'"),
    (lambda: nn.Sequential([nn.MaxPool2D(2)], input_shape=(28, 28)), ValueError,
     r"layer 0 \(MaxPool2D\): MaxPool2D takes samples of shape \(H, W, C\), but gets \(28, 28\)"),
    (lambda: nn.Sequential([nn.MaxPool2D(3)], input_shape=(4, 1, 8)), ValueError,
     r"size is \(3, 3\), but the samples are smaller: \(H, W, C\) is \(4, 1, 8\)"),
    (lambda: nn.Sequential([nn.MaxPool2D((5, 2), layout="NCHW")], input_shape=(8, 4, 9)), ValueError,
     r"size is \(5, 2\), but the samples are smaller: \(C, H, W\) is \(8, 4, 9\)"),
])
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
