"""Legal giants: strides, pads and dilations of any size are right, bounded in memory, and planned in no time."""

import dataclasses
import time

import numpy as np
import pytest
from cases import methods, small_integers

import im2colx
from im2colx import _core
from im2colx._geometry import Geometry, resolve
from im2colx._plan import recipe


def ones(*shape):
    return np.ones(shape, "f4")


# Two outputs on each axis, or a few, of which the last lie far out in the padding: the product of two spans wraps.
FAR = {"stride": (2**32, 2**31), "pad": ((0, 2**32), (0, 2**31))}


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("orientation", ["NCHW", "NHWC"])
def test_strides_whose_product_wraps(method, orientation):
    is_last = orientation == "NHWC"
    x, w = ones(1, 1, 1, 1), ones(1, 1, 1, 64) if is_last else ones(64, 1, 1, 1)
    named = {**FAR, "method": method, "layout": orientation}
    y = im2colx.conv2d(x, w, **named)
    expected = np.zeros((2, 2), "f4")
    expected[0, 0] = 1
    np.testing.assert_array_equal(np.moveaxis(y, -1, 1)[0] if is_last else y[0], np.broadcast_to(expected, (64, 2, 2)))
    np.testing.assert_array_equal(im2colx.plan_conv2d(x.shape, w, **named)(x), y)
    grad = np.arange(y.size, dtype="f4").reshape(y.shape)
    of_pixel = grad[0, 0, 0] if is_last else grad[0, :, 0, 0]
    assert im2colx.conv2d_grad_input(grad, w, x.shape, **named).item() == of_pixel.sum()
    np.testing.assert_array_equal(im2colx.conv2d_grad_weight(x, grad, w.shape, **named).ravel(), of_pixel)


def test_the_operator_of_such_strides():
    operator = im2colx.conv_matrix(ones(64, 1, 1, 1), (1, 1, 1, 1), **FAR, format="operator")
    y = operator @ np.ones(1, "f4")
    assert y.sum() == 64 and (operator.T @ y).item() == 64


@pytest.mark.parametrize("method", methods())
def test_spans_with_dilation(method):
    """Of a kernel that reaches over 2^41 pixels only the last corner meets the image of 3 x 3, or none does."""
    x, w = np.arange(9, dtype="f4").reshape(1, 1, 3, 3), np.array([[[[1, 10], [100, 1000]]]], "f4")
    far = 2**41 + 1
    before = {"dilation": far, "pad": ((far, 0), (far, 0)), "method": method}
    if method == "implicit":  # it copies what an output reaches over
        with pytest.raises(ValueError, match="'implicit' cannot take this call: a thread of it needs"):
            im2colx.conv2d(x, w, **before)
        return
    np.testing.assert_array_equal(im2colx.conv2d(x, w, **before), 1000 * x)
    np.testing.assert_array_equal(im2colx.conv2d_grad_input(x, w, x.shape, **before), 1000 * x)
    np.testing.assert_array_equal(im2colx.conv2d_grad_weight(x, x, w.shape, **before)[0, 0], [[0, 0], [0, (x * x).sum()]])
    assert not im2colx.conv2d(x, w, 1, 2**40, far, method=method).any()


@pytest.mark.parametrize("method", methods())
@pytest.mark.parametrize("stride", [2**8, 2**16, 2**31, 2**32, 2**40, (2**32, 2**32)])
def test_grad_input_of_a_huge_stride(method, stride):
    grad_x = im2colx.conv2d_grad_input(2 * ones(1, 1, 1, 1), 3 * ones(1, 1, 1, 1), (1, 1, 5, 5), stride=stride, method=method)
    expected = np.zeros((1, 1, 5, 5), "f4")
    expected[0, 0, 0, 0] = 6
    np.testing.assert_array_equal(grad_x, expected)


# Anything that C might loop over: strides, kernels, dilations and pads, one by one and together.
PLANNED = [
    ((1, 1, 5, 5), (1, 1, 1, 1), {"stride": 2048}),
    ((1, 1, 5, 5), (1, 1, 1, 1), {"stride": 2**40}),
    ((1, 1, 1, 2**40), (1, 1, 1, 2**40), {}),
    ((1, 1, 1, 2**40), (1, 1, 1, 2**40), {"pad": ((0, 0), (1, 1))}),
    ((1, 1, 1, 2**40), (1, 1, 1, 2**39), {"stride": 2**38}),
    ((1, 1, 2**20, 2**20), (1, 1, 2**20, 2**20), {}),
    ((1, 2**40, 1, 1), (1, 2**40, 1, 1), {"pad": 1}),
    ((1, 1, 4095, 4095), (1, 1, 4095, 4095), {"pad": "same"}),
    ((1, 1, 1, 10**7), (1, 1, 1, 10), {"dilation": 10**6}),
    ((1, 1, 3, 3), (1, 1, 2, 2), {"pad": 2**40, "dilation": 2**41 + 2, "stride": 2**39}),
    ((1, 2**20, 8, 8), (2**20, 2**20, 3, 3), {"pad": 1}),
    ((1, 3, 768, 768), (768, 3, 768, 768), {"stride": 768}),
]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("op", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize(("x_shape", "w_shape", "arguments"), PLANNED, ids=str)
def test_planning_takes_no_time(x_shape, w_shape, arguments, op, layout):
    """Far below the time of one look at each of so many strides, taps or channels; and what "implicit" would take is bounded."""
    if layout == "NHWC":
        x_shape, w_shape = (*x_shape[:1], *x_shape[2:], x_shape[1]), (*w_shape[2:], w_shape[1], w_shape[0])
    geometry = resolve(x_shape, w_shape, *({"stride": 1, "pad": 0, "dilation": 1, "groups": 1} | arguments).values(), layout)
    start = time.process_time()
    found = recipe(op, geometry, "f4", "auto", None, 2)
    assert time.process_time() - start < 1  # a loop over any of these numbers takes minutes
    if found.method.name == "implicit":
        assert found.problem.workspace_nbytes() <= 2 * _core.IMPLICIT_BYTES


# A geometry that is within the bounds of csrc/bounds.c, and values of a field that are just within and just beyond them.
WITHIN = resolve((1, 1, 1, 1), (1, 1, 1, 1), 1, 0, 1, 1, "NCHW")
BOUNDS = [
    ({"batch": 0}, {"batch": -1}),
    ({"batch": 2**48}, {"batch": 2**48 + 1}),
    ({"channels": 2**48}, {"channels": 2**48 + 1}),
    ({"channels": 1}, {"channels": 0}),
    ({"filters": 2**48}, {"filters": 2**48 + 1}),
    ({"filters": 1}, {"filters": 0}),
    ({"groups": 2, "channels": 2, "filters": 2}, {"groups": -1, "channels": -1, "filters": -1}),
    ({"image": (0, 2**48)}, {"image": (-1, 1)}),
    ({"image": (0, 2**48)}, {"image": (0, 2**48 + 1)}),
    ({"image": (1, 2**48)}, {"image": (1, 2**48 + 1)}),
    ({"image": (2**24, 2**24)}, {"image": (2**24, 2**24 + 1)}),
    ({"image": (2**32, 2**16)}, {"image": (2**32, 2**32)}),
    ({"kernel": (1, 2**48)}, {"kernel": (1, 2**48 + 1)}),
    ({"kernel": (1, 1)}, {"kernel": (0, 1)}),
    ({"kernel": (1, 2), "filters": 2**47}, {"kernel": (1, 2), "filters": 2**47 + 1}),
    ({"output": (2**48, 1)}, {"output": (2**48 + 1, 1)}),
    ({"output": (1, 1)}, {"output": (1, 0)}),
    ({"output": (1, 2), "batch": 2**47}, {"output": (1, 2), "batch": 2**47 + 1}),
    ({"stride": (1, 2**50)}, {"stride": (1, 2**50 + 1)}),
    ({"stride": (1, 1)}, {"stride": (0, 1)}),
    ({"dilation": (2**50, 1)}, {"dilation": (2**50 + 1, 1)}),
    ({"dilation": (1, 1)}, {"dilation": (1, 0)}),
    ({"pad": ((2**50, 0), (0, 0))}, {"pad": ((2**50 + 1, 0), (0, 0))}),
    ({"pad": ((0, 0), (0, 0))}, {"pad": ((0, 0), (-1, 0))}),
    ({"output": (1, 3), "stride": (1, 2**49)}, {"output": (1, 3), "stride": (1, 2**49 + 1)}),
    ({"kernel": (3, 1), "dilation": (2**49, 1)}, {"kernel": (3, 1), "dilation": (2**49 + 1, 1)}),
    (
        {"kernel": (2, 1), "dilation": (2**49, 1), "output": (2, 1), "stride": (2**49, 1)},
        {"kernel": (2, 1), "dilation": (2**49, 1), "output": (2, 1), "stride": (2**49 + 1, 1)},
    ),
    # Each product and sum that goes beyond 64 bits; the sum is 2**63.
    ({"output": (1, 2)}, {"output": (2**13, 1), "stride": (2**50, 1), "kernel": (3, 1), "dilation": (2**49, 1)}),
    ({"channels": 2}, {"channels": 2**64, "groups": 2**32, "filters": 2**32}),
    ({"output": (1, 2)}, {"output": (1, 2**48), "stride": (1, 2**50)}),
    ({"kernel": (1, 2)}, {"kernel": (1, 2**48), "dilation": (1, 2**50)}),
]


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("within", "beyond"), BOUNDS, ids=str)
def test_the_bounds_of_the_c_core(within, beyond, axes):
    """What im2colx/_geometry.py never lets through, C refuses once more: each bound holds to the number, on each axis."""

    def problem_of(values):
        g = dataclasses.asdict(WITHIN) | values
        one = {key: (0, 0) if key == "pad" else 1 for key in ("image", "kernel", "output", "stride", "dilation", "pad")}
        g |= {key: (*g[key], *[value] * (axes - 2)) for key, value in one.items()}
        return _core.Problem(Geometry(**g), "forward", "f4", "loops", 0, 1)

    problem_of(within)
    with pytest.raises(SystemError, match="a geometry beyond the bounds of the C core"):
        problem_of(beyond)


def test_many_channels_of_few_pixels_stay_within_the_promise():
    """A row of a slab is then shorter than a cache line, and is not rounded up to one."""
    x, w = ones(1, 100_000, 8, 8), ones(1, 100_000, 1, 1)
    geometry = resolve(x.shape, w.shape, 1, 1, 1, 1, "NCHW")
    for orientation in ("pixels", "filters"):
        problem = _core.Problem(geometry, "forward", "f4", "implicit", 0, 1, orientation=orientation)
        assert problem.workspace_nbytes() <= _core.IMPLICIT_BYTES
        y = np.full(geometry.y_shape, np.nan, "f4")
        problem.run(x, w, y)
        assert y.sum() == 64 * 100_000 and y[0, 0, 0].sum() == 0


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("size", [3, 40])
def test_grad_input_multiplies_no_output_that_does_not_exist(layout, value, size):
    """All methods agree where a weight is not finite: an element of x that its tap does not reach stays finite."""
    w = ones(2, 3, 3, 3)
    w[0, 0, 0, 0] = value
    grad, x_shape = ones(1, 2, size, size), (1, 3, size + 2, size + 2)
    if layout == "NHWC":
        w, grad, x_shape = w.transpose(2, 3, 1, 0), grad.transpose(0, 2, 3, 1), (1, size + 2, size + 2, 3)
    expected = im2colx.conv2d_grad_input(grad, w, x_shape, layout=layout, method="naive")
    assert np.isfinite(expected).sum() == expected.size - size * size
    for method in methods():
        for weights in (w, np.ascontiguousarray(w), np.repeat(w, 2, axis=-1)[..., ::2]):
            result = im2colx.conv2d_grad_input(grad, weights, x_shape, layout=layout, method=method)
            np.testing.assert_array_equal(result, expected)


# Image, kernel, stride and pad of grad_input, and whether "implicit" takes it: up to 64 phases of x that a tap reaches, and up
# to 1,024 taps of an axis to find them from.
PHASES = [
    ((1, 64), (1, 64), (1, 100), 0, True),
    ((1, 65), (1, 65), (1, 100), 0, False),
    ((65, 1), (65, 1), (100, 1), 0, False),
    ((65, 70), (2, 70), (100, 100), 0, False),
    ((10, 9), (8, 8), (9, 10), 0, True),
    ((6, 14), (5, 13), (7, 15), 0, False),
    ((1, 1000), (1, 1000), (1, 1000), 0, False),
    ((1, 5), (1, 1024), (1, 2000), ((0, 0), (0, 2000)), True),
    ((1, 5), (1, 1025), (1, 2000), ((0, 0), (0, 2000)), False),
    ((1, 1200), (1, 1100), (1, 1100), ((0, 0), (0, 1000)), False),
]


@pytest.mark.parametrize(("image", "kernel", "stride", "pad", "is_taken"), PHASES, ids=str)
def test_phases_to_the_number(image, kernel, stride, pad, is_taken):
    rng = np.random.default_rng(0)
    x_shape, w = (2, 3, *image), small_integers(rng, (2, 3, *kernel), "f4")
    geometry = resolve(x_shape, w.shape, stride, pad, 1, 1, "NCHW")
    grad = small_integers(rng, geometry.y_shape, "f4")
    expected = im2colx.conv2d_grad_input(grad, w, x_shape, stride, pad, method="naive")
    problem = _core.Problem(geometry, "grad_input", "f4", "implicit", 0, 2)
    assert problem.explain()["is_too_many"] is not is_taken
    grad_x = np.full(x_shape, np.nan, "f4")
    problem.run(grad_x, w, grad)  # right even where it is not offered
    np.testing.assert_array_equal(grad_x, expected)
    if is_taken:
        np.testing.assert_array_equal(im2colx.conv2d_grad_input(grad, w, x_shape, stride, pad, method="implicit"), expected)
    else:
        with pytest.raises(ValueError, match="more phases"):
            im2colx.conv2d_grad_input(grad, w, x_shape, stride, pad, method="implicit")


def test_no_step_is_taken_to_what_is_not_there():
    """No second output and no second tap; a step to them would be beyond 64 bits."""
    x_shape, w = (1, 2, 3, 20_000), ones(1, 1, 20_000, 2)
    for method in methods():
        grad_x = im2colx.conv2d_grad_input(ones(1, 1, 1, 2), w, x_shape, 2**49, layout="NHWC", method=method)
        assert (grad_x[0, 0, 0] == 2).all() and grad_x.sum() == 40_000


@pytest.mark.parametrize("image", [(5, 300_000), (7, 0), (0, 7), (1000, 1000)])
def test_grad_input_that_no_tap_reaches_is_zero(image):
    """Rows of any length, none and more than one task; on either side of them other memory."""
    x_shape, w = (1, 2, *image), 3 * ones(1, 2, 1, 1)
    geometry = resolve(x_shape, w.shape, 3, ((1, 2), (1, 3)), 1, 1, "NCHW")
    expected = np.zeros(x_shape, "f4")
    expected[..., 2::3, 2::3] = 3
    around = np.full(expected.size + 100, np.nan, "f4")
    grad_x = around[50:-50].reshape(x_shape)
    _core.Problem(geometry, "grad_input", "f4", "implicit", 0, 2).run(grad_x, w, ones(*geometry.y_shape))
    np.testing.assert_array_equal(grad_x, expected)
    assert np.isnan(around[:50]).all() and np.isnan(around[-50:]).all()


def test_axes_of_one_element_may_have_any_stride():
    """NumPy leaves it open, and it must not enter an address."""
    x, w = (np.lib.stride_tricks.as_strided(ones(1), (1, 1, 1, 1), (2**60, -(2**60), 2**59, 2**58)) for _ in range(2))
    for method in methods():
        y = im2colx.conv2d(x, w, 2, 1, method=method)
        assert y.shape == (1, 1, 2, 2) and y.sum() == 0
        assert im2colx.conv2d(x, w, (2**33, 1), ((2**40, 2**40), 0), method=method, threads=1).sum() == (0 if 2**40 % 2**33 else 1)


@pytest.mark.parametrize("dtype", ["f2", "i1", ">f4", "f8"])
def test_giants_that_were_broadcast_are_converted_once(dtype):
    """Two outputs read two of 2^41 equal elements; a copy of all would take terabytes."""
    x = np.broadcast_to(np.array(3, dtype), (1, 1, 2**41, 1))
    y = im2colx.conv2d(x, 2 * np.ones((1, 1, 1, 1), "i1" if dtype == "i1" else "f4"), stride=(2**40, 1))
    np.testing.assert_array_equal(y, [[[[6], [6]]]])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_circular_operators_of_any_size(layout):
    """On a circle of three pixels only the rest of a step by three counts."""
    w = np.arange(1.0, 5.0).reshape((2, 2, 1, 1) if layout == "NHWC" else (1, 1, 2, 2))
    x_shape = (3, 3, 1) if layout == "NHWC" else (1, 3, 3)
    stride, pad, dilation = (2**39, 2**29), ((2**40, 1), (2, 2**31)), (2**20, 2**30)
    operator = im2colx.ConvOperator(w, x_shape, stride, pad, dilation, layout=layout, boundary="circular")
    rows, columns = operator.y_shape[:2] if layout == "NHWC" else operator.y_shape[1:]
    assert (rows, columns) == (2, 3)
    image, kernel = np.random.default_rng(0).integers(-9, 10, (3, 3)).astype(float), w.reshape(2, 2)
    expected = np.zeros((rows, columns))
    for a, b, u, v in np.ndindex(rows, columns, 2, 2):
        i, j = a * stride[0] + u * dilation[0] - pad[0][0], b * stride[1] + v * dilation[1] - pad[1][0]
        expected[a, b] += kernel[u, v] * image[i % 3, j % 3]
    np.testing.assert_array_equal((operator @ image.ravel()).reshape(rows, columns), expected)
    grad = np.arange(6.0)
    assert grad @ (operator @ image.ravel()) == (operator.T @ grad) @ image.ravel()
