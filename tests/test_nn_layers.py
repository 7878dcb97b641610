"""The layers: what they compute, their gradients, how their weights start, what they refuse."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from im2colx import im2col, nn

# A layer, and the shape of its input without the batch axis.
CASES = {
    "dense": (lambda: nn.Dense(3), (4,)),
    "dense without bias": (lambda: nn.Dense(3, bias=False), (4,)),
    "dense on rows": (lambda: nn.Dense(3), (5, 4)),
    "dense on rows of rows": (lambda: nn.Dense(2), (2, 3, 4)),
    "relu": (nn.ReLU, (3, 4)),
    "flatten": (nn.Flatten, (3, 2, 2)),
    "reshape": (lambda: nn.Reshape((3, 4)), (2, 6)),
    "conv": (lambda: nn.Conv2D(3, 2), (4, 5, 2)),
    "conv without bias": (lambda: nn.Conv2D(3, 2, bias=False), (4, 5, 2)),
    "conv with everything": (lambda: nn.Conv2D(4, (2, 3), (2, 1), ((1, 0), (2, 1)), (1, 2), 2), (5, 6, 4)),
    "conv channels first": (lambda: nn.Conv2D(3, 2, layout="NCHW"), (2, 4, 5)),
    "conv channels first with everything":
        (lambda: nn.Conv2D(4, (3, 2), (1, 2), "same", (2, 1), 2, layout="NCHW"), (4, 6, 5)),
    "pool": (lambda: nn.MaxPool2D(2), (4, 5, 3)),
    "pool with overlaps": (lambda: nn.MaxPool2D((3, 2), (2, 1)), (6, 5, 2)),
    "pool with gaps": (lambda: nn.MaxPool2D(2, (3, 4)), (8, 6, 2)),
    "pool channels first": (lambda: nn.MaxPool2D((2, 3), layout="NCHW"), (2, 5, 7)),
}


def built(layer, input_shape, dtype=np.float64, seed=1):
    nn.Sequential([layer], input_shape=input_shape, dtype=dtype, seed=seed)
    rng = np.random.default_rng(seed)
    for _, array in layer.parameters():
        array[...] = rng.standard_normal(array.shape)  # a bias of zeros would hide mistakes
    return layer


def slope(function, array, step=1e-6):
    """The gradient of function(), a number, with respect to `array`, by central differences."""
    result = np.empty_like(array)
    for index in np.ndindex(array.shape):
        middle = array[index]
        array[index] = middle + step
        above = function()
        array[index] = middle - step
        below = function()
        array[index] = middle
        result[index] = (above - below) / (2 * step)
    return result


def conv_by_definition(x, w, bias, stride, pad, dilation, groups):
    """Channels last, a number at a time; pad is ((top, bottom), (left, right))."""
    x = np.pad(x, ((0, 0), *pad, (0, 0)))
    (kh, kw, channels, filters), (n, height, width, _) = w.shape, x.shape
    oh = (height - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (width - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((n, oh, ow, filters))
    for i, a, b, f in np.ndindex(y.shape):
        first = f // (filters // groups) * channels  # of the channels that this filter's group sees
        for u, v, c in itertools.product(range(kh), range(kw), range(channels)):
            row, column = a * stride[0] + u * dilation[0], b * stride[1] + v * dilation[1]
            y[i, a, b, f] += x[i, row, column, first + c] * w[u, v, c, f]
    return y + bias


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_the_slopes(case):
    make, input_shape = CASES[case]
    layer = built(make(), input_shape)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, *input_shape))
    weighting = rng.standard_normal(layer.forward(x).shape)

    def loss():
        return float(np.sum(weighting * layer.forward(x)))

    layer.forward(x, training=True)
    grad_x = layer.backward(weighting)
    np.testing.assert_allclose(grad_x, slope(loss, x), rtol=1e-6, atol=1e-7)
    for (name, array), (grad_name, grad) in zip(layer.parameters(), layer.gradients(), strict=True):
        assert name == grad_name
        np.testing.assert_allclose(grad, slope(loss, array), rtol=1e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_forward_and_backward_change_nothing_that_they_are_given(case):
    make, input_shape = CASES[case]
    layer = built(make(), input_shape)
    x = np.random.default_rng(3).standard_normal((2, *input_shape))
    grad_y = np.random.default_rng(4).standard_normal(layer.forward(x).shape)
    x.flags.writeable = grad_y.flags.writeable = False
    before = x.copy(), grad_y.copy(), [array.copy() for _, array in layer.parameters()]
    layer.forward(x, training=True)
    layer.backward(grad_y)
    assert np.array_equal(x, before[0]) and np.array_equal(grad_y, before[1])
    assert all(np.array_equal(array, old) for (_, array), old in zip(layer.parameters(), before[2], strict=True))


@pytest.mark.parametrize("case", CASES)
def test_without_input_gradient_only_the_weights_get_one(case):
    make, input_shape = CASES[case]
    layer = built(make(), input_shape)
    y = layer.forward(np.random.default_rng(3).standard_normal((2, *input_shape)), training=True)
    layer.backward(y)
    full = [grad.copy() for _, grad in layer.gradients()]
    for _, grad in layer.gradients():
        grad[...] = np.nan
    assert layer.backward(y, input_gradient=False) is None
    assert all(np.array_equal(grad, old) for (_, grad), old in zip(layer.gradients(), full, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES)
def test_dtype_stays(case, dtype):
    make, input_shape = CASES[case]
    layer = built(make(), input_shape, dtype)
    y = layer.forward(np.ones((2, *input_shape), dtype), training=True)
    assert y.dtype == dtype and layer.backward(y).dtype == dtype
    assert all(array.dtype == dtype for _, array in layer.parameters() + layer.gradients())


@pytest.mark.parametrize("case", CASES)
def test_a_batch_of_none(case):
    make, input_shape = CASES[case]
    layer = built(make(), input_shape)
    y = layer.forward(np.empty((0, *input_shape)), training=True)
    assert y.shape == (0, *layer.output_shape(input_shape))
    assert layer.backward(y).shape == (0, *input_shape)
    assert not any(grad.any() for _, grad in layer.gradients())


def test_dense_by_definition():
    layer = built(nn.Dense(3), (2, 4))
    x = np.random.default_rng(5).standard_normal((2, 2, 4))
    y = layer.forward(x)
    for n, row, j in np.ndindex(y.shape):
        expected = sum(x[n, row, i] * layer.weight[i, j] for i in range(4)) + layer.bias[j]
        assert y[n, row, j] == pytest.approx(expected, rel=1e-13)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_conv_by_definition(data):
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, stride, dilation = data.draw(pairs), data.draw(pairs), data.draw(pairs)
    groups, per_group, filters = (data.draw(st.integers(1, 2)) for _ in range(3))
    pad = tuple(data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in range(2))
    height, width = (max(1, d * (k - 1) + 1 - sum(p)) + data.draw(st.integers(0, 4))
                     for k, d, p in zip(kernel, dilation, pad, strict=True))
    layout = data.draw(st.sampled_from(["NHWC", "NCHW"]))

    layer = nn.Conv2D(filters * groups, kernel, stride, pad, dilation, groups, layout=layout)
    channels = per_group * groups
    built(layer, (height, width, channels) if layout == "NHWC" else (channels, height, width))
    x = np.random.default_rng(6).standard_normal((2, height, width, channels))
    if layout == "NHWC":
        y, weight = layer.forward(x), layer.weight
    else:
        y = layer.forward(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
        weight = layer.weight.transpose(2, 3, 1, 0)
    expected = conv_by_definition(x, weight, layer.bias, stride, pad, dilation, groups)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, rtol=1e-12, atol=1e-12)


def test_relu_by_definition():
    layer = nn.ReLU()
    x = np.array([[-1.0, 0.0, 2.0, np.nan]])
    np.testing.assert_array_equal(layer.forward(x, training=True), [[0, 0, 2, np.nan]])
    np.testing.assert_array_equal(layer.backward(np.full((1, 4), 5.0)), [[0, 0, 5, 0]])


def test_flatten_and_reshape_keep_the_order():
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(nn.Flatten().forward(x), np.arange(24).reshape(2, 12))
    assert np.array_equal(nn.Reshape((2, 6)).forward(x), np.arange(24).reshape(2, 2, 6))


@pytest.mark.parametrize(("layer", "input_shape", "weight_shape", "limit"), [
    (nn.Conv2D(512, 4), (28, 28, 1), (4, 4, 1, 512), math.sqrt(6 / 16)),
    (nn.Conv2D(512, (2, 3), groups=2), (9, 9, 8), (2, 3, 4, 512), math.sqrt(6 / 24)),
    (nn.Conv2D(512, (2, 3), groups=2, layout="NCHW"), (8, 9, 9), (512, 4, 2, 3), math.sqrt(6 / 24)),
    (nn.Dense(100), (7, 150), (150, 100), math.sqrt(6 / 150)),
    (nn.Dense(100, init="glorot_uniform"), (150,), (150, 100), math.sqrt(6 / 250)),
    (nn.Conv2D(512, 4, init="glorot_uniform"), (28, 28, 1), (4, 4, 1, 512), math.sqrt(6 / (16 + 16 * 512))),
])
def test_weights_start_uniform_within_their_bounds(layer, input_shape, weight_shape, limit):
    nn.Sequential([layer], input_shape=input_shape)
    weight = layer.weight.astype(np.float64)
    assert layer.weight.shape == weight_shape and layer.weight.dtype == np.float32
    assert limit * 0.99 < weight.max() <= limit * (1 + 1e-7) and -limit * (1 + 1e-7) <= weight.min() < -limit * 0.99
    # A uniform distribution on +-limit has variance limit**2 / 3 (a sample of 8192 is within 5 % of it).
    assert weight.var() == pytest.approx(limit**2 / 3, rel=0.05)
    assert not layer.bias.any()


def test_the_paper_s_bounds():
    model = nn.Sequential([nn.Conv2D(128, 4, 2, bias=False), nn.Flatten(), nn.Dense(8, bias=False)],
                          input_shape=(28, 28, 1))
    first, last = model.get_weights()
    assert abs(first).max() == pytest.approx(0.6124, abs=2e-3) and abs(last).max() == pytest.approx(0.016654, abs=1e-5)


def test_a_float32_layer_starts_from_the_rounded_weights_of_its_float64_twin():
    single, double = nn.Dense(5), nn.Dense(5)
    nn.Sequential([single], input_shape=(7,), dtype="float32", seed=3)
    nn.Sequential([double], input_shape=(7,), dtype="float64", seed=3)
    assert np.array_equal(single.weight, double.weight.astype(np.float32))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: nn.Conv2D(0, 3), ValueError, "filters must be at least 1, but is 0"),
    (lambda: nn.Conv2D(2**70, 3), ValueError, "filters must be at most"),
    (lambda: nn.Conv2D(True, 3), TypeError, "filters must be a whole number, but is True of type bool"),
    (lambda: nn.Conv2D(1.0, 3), TypeError, "filters must be a whole number, but is 1.0 of type float"),
    (lambda: nn.Conv2D(1, 0), ValueError, "kernel must be at least 1, but is 0"),
    (lambda: nn.Conv2D(1, (3, -1)), ValueError, r"kernel\[1\] must be at least 1, but is -1"),
    (lambda: nn.Conv2D(1, (3, 3, 3)), ValueError, "kernel must be one whole number or two, but has 3"),
    (lambda: nn.Conv2D(1, "3"), TypeError, "kernel must be a whole number, but is '3'"),
    (lambda: nn.Conv2D(1, 3, 0), ValueError, "stride must be at least 1, but is 0"),
    (lambda: nn.Conv2D(1, 3, (1, 0)), ValueError, r"stride\[1\] must be at least 1, but is 0"),
    (lambda: nn.Conv2D(1, 3, 1.5), TypeError, "stride must be a whole number, but is 1.5"),
    (lambda: nn.Conv2D(1, 3, pad=-1), ValueError, "pad"),
    (lambda: nn.Conv2D(1, 3, pad="wide"), ValueError, "pad"),
    (lambda: nn.Conv2D(1, 3, dilation=0), ValueError, "dilation must be at least 1, but is 0"),
    (lambda: nn.Conv2D(1, 3, groups=0), ValueError, "groups must be at least 1, but is 0"),
    (lambda: nn.Conv2D(3, 3, groups=2), ValueError, "groups"),
    (lambda: nn.Conv2D(1, 3, layout="HWC"), ValueError, "layout must be 'NHWC' or 'NCHW', but is 'HWC'"),
    (lambda: nn.Conv2D(1, 3, layout=None), TypeError, "layout must be a str, but is None"),
    (lambda: nn.Conv2D(1, 3, method="magic"), ValueError, "method"),
    (lambda: nn.Conv2D(1, 3, bias=1), TypeError, "bias must be True or False, but is 1"),
    (lambda: nn.Conv2D(1, 3, init="ones"), ValueError, "init must be 'he_uniform' or 'glorot_uniform', but is 'ones'"),
    (lambda: nn.Dense(-1), ValueError, "units must be at least 1, but is -1"),
    (lambda: nn.Dense(None), TypeError, "units must be a whole number, but is None"),
    (lambda: nn.Dense(1, bias="no"), TypeError, "bias must be True or False, but is 'no'"),
    (lambda: nn.Dense(1, init="he"), ValueError, "init must be"),
    (lambda: nn.Reshape(()), ValueError, "shape must have at least one entry"),
    (lambda: nn.Reshape((2, 0)), ValueError, r"shape\[1\] must be at least 1, but is 0"),
    (lambda: nn.Reshape(4), TypeError, "shape must be a tuple of whole numbers, but is 4"),
])
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_numpy_integers_are_whole_numbers():
    layer = nn.Conv2D(np.int64(2), (np.uint8(3), np.int32(3)), np.int16(1))
    assert repr(layer).startswith("Conv2D(2, (3, 3), stride=(1, 1)")


# ---- Sums in float64 ---------------------------------------------------------------------------------------------------


def long_sums(layer, input_shape, dtype="float32", order=slice(None), n=40):
    """A layer after one `backward`, whose gradients are sums of many numbers of both signs; `order` is that of the batch."""
    model = nn.Sequential([layer], input_shape=input_shape, dtype=dtype)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((n, *input_shape)).astype(np.float32)[order]
    grad_y = rng.standard_normal((n, *model.output_shape)).astype(np.float32)[order]
    model.forward(x, training=True)
    model.backward(grad_y)
    return layer, x, grad_y


LONG = {
    "Dense": (lambda **sums: nn.Dense(24, **sums), (70, 16)),
    "Conv2D": (lambda **sums: nn.Conv2D(24, 4, 2, **sums), (28, 28, 1)),
    "Conv2D NCHW": (lambda **sums: nn.Conv2D(24, 3, pad=1, groups=2, layout="NCHW", **sums), (2, 20, 20)),
}


@pytest.mark.parametrize("name", LONG)
def test_sums_in_float64_are_rounded_once(name):
    make, shape = LONG[name]
    truth, _, _ = long_sums(make(), shape, "float64")
    layer, _, _ = long_sums(make(sum_dtype="float64"), shape)
    plain, _, _ = long_sums(make(), shape)
    for weight in layer.weight_names:
        wide, narrow, exact = (getattr(each, f"grad_{weight}") for each in (layer, plain, truth))
        assert wide.dtype == np.float32
        np.testing.assert_array_equal(wide, exact.astype(np.float32))
        assert weight == "bias" or (narrow != exact.astype(np.float32)).mean() > 0.1  # else this test could not fail
    turned, _, _ = long_sums(make(sum_dtype="float64"), shape, order=slice(None, None, -1))
    np.testing.assert_array_equal(turned.grad_weight, layer.grad_weight)


def test_sums_in_float64_of_a_layer_and_its_twin_agree():
    conv, x, grad_y = long_sums(nn.Conv2D(24, 4, 2, bias=False, sum_dtype="float64"), (28, 28, 1))
    dense = nn.Dense(24, bias=False, sum_dtype="float64")
    model = nn.Sequential([dense], input_shape=(169, 16))
    model.forward(im2col(x, 4, 2, layout="NHWC").reshape(40, 169, 16), training=True)
    model.backward(grad_y.reshape(40, 169, 24))
    np.testing.assert_array_equal(dense.grad_weight, conv.grad_weight.reshape(16, 24))


def test_sums_in_float64_of_nothing_are_zero():
    layer, _, _ = long_sums(nn.Dense(3, sum_dtype="float64"), (2,), n=0)
    assert not layer.grad_weight.any() and not layer.grad_bias.any()


def test_the_dtype_of_sums_is_checked_and_told():
    for make in (lambda value: nn.Dense(2, sum_dtype=value), lambda value: nn.Conv2D(2, 3, sum_dtype=value)):
        assert repr(make("float64")).endswith(", sum_dtype='float64')") and "sum_dtype" not in repr(make(None))
        with pytest.raises(ValueError, match="sum_dtype must be 'float64', but is 'float16'"):
            make("float16")
        assert make(np.float64).sum_dtype == make(np.dtype("float64")).sum_dtype == "float64"
        with pytest.raises(TypeError, match="sum_dtype must be a str"):
            make(64)
