"""Every method on every layer, forward and both gradients."""

import functools

import numpy as np
import pytest
from timing import all_layers

import im2colx
from im2colx._methods import METHODS
from im2colx._timing import numpy_conv2d

LAYERS = all_layers()
NAMES = [method.name for method in METHODS]

# The direct loops take seconds on a layer of more multiply-adds than this: one call of them must do.
MANY_FOR_LOOPS = 150_000_000


def prepared(name, tiny):
    layer = LAYERS[name].tiny() if tiny else LAYERS[name]
    x, w = layer.arrays()
    y = im2colx.conv2d(x, w, *layer.arguments, method="indexed")
    return layer, x, w, y, y.size * w[0].size


def measure(benchmark, function, method, multiply_adds):
    benchmark.extra_info.update(method=method, multiply_adds=multiply_adds)
    if method == "naive" and multiply_adds > MANY_FOR_LOOPS:
        benchmark.pedantic(function, rounds=1)
    else:
        benchmark(function)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", NAMES)
def test_forward(benchmark, name, method, tiny):
    """Into a warm `out`."""
    layer, x, w, y, multiply_adds = prepared(name, tiny)
    expected = y.copy()
    y.fill(np.nan)
    benchmark.group = f"forward {name}"
    call = functools.partial(im2colx.conv2d, x, w, *layer.arguments, method=method, out=y)
    measure(benchmark, call, method, multiply_adds)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["rn50_l1_3x3", "mnist_paper"])
def test_forward_numpy(benchmark, name, tiny):
    """sliding_window_view and tensordot, for comparison with the methods above."""
    layer, x, w, y, _ = prepared(name, tiny)
    benchmark.group = f"forward {name}"
    pairs = (layer.stride,) * 2, tuple((pad, pad) for pad in layer.pads), (layer.dilation,) * 2
    result = benchmark(numpy_conv2d, x, w, *pairs)
    np.testing.assert_allclose(result, y, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["rn50_l1_3x3", "mnist_paper", "lenet"])
@pytest.mark.parametrize("method", NAMES)
def test_gradients(benchmark, name, method, tiny):
    layer, x, w, y, multiply_adds = prepared(name, tiny)
    benchmark.group = f"gradients {name}"
    grad_x, grad_w = np.empty_like(x), np.empty_like(w)

    def gradients():
        im2colx.conv2d_grad_input(y, w, x.shape, *layer.arguments, method=method, out=grad_x)
        im2colx.conv2d_grad_weight(x, y, w.shape, *layer.arguments, method=method, out=grad_w)

    measure(benchmark, gradients, method, 2 * multiply_adds)
    inner = np.vdot(y, im2colx.conv2d(x, w, *layer.arguments))
    np.testing.assert_allclose([np.vdot(x, grad_x), np.vdot(w, grad_w)], inner, rtol=1e-3)


def test_small_call(benchmark):
    """What a call costs beside its arithmetic: a 3x3 kernel on 8 x 8 pixels."""
    x, w = np.ones((1, 1, 8, 8), "float32"), np.ones((1, 1, 3, 3), "float32")
    benchmark.group = "small call"
    assert benchmark(im2colx.conv2d, x, w).item(0) == 9
