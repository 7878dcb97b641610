"""A layer as a matrix: its Gram matrix beside the convolution that does as much, its sparse form, its spectral norm."""

import numpy as np
import pytest
from timing import all_layers

import im2colx

LAYERS = all_layers()


def prepared(name, tiny):
    layer = LAYERS[name].tiny() if tiny else LAYERS[name]
    return (layer, *layer.arrays())


@pytest.mark.parametrize("name", ["rn50_l1_3x3", "rn50_l2_3x3"])
def test_gram(benchmark, name, tiny):
    layer, x, w = prepared(name, tiny)
    phi = im2colx.PatchMatrix(x, w.shape[2:], *layer.arguments[:3])
    benchmark.group = f"gram {name}"
    gram = benchmark(phi.gram)
    np.testing.assert_allclose(np.trace(gram), (phi.toarray() ** 2).sum(), rtol=1e-4)


@pytest.mark.parametrize("name", ["rn50_l1_3x3", "rn50_l2_3x3"])
def test_convolution_with_as_many_filters_as_columns(benchmark, name, tiny):
    layer, x, w = prepared(name, tiny)
    columns = w[0].size
    filters = np.ones((columns, *w.shape[1:]), x.dtype)
    benchmark.group = f"gram {name}"
    assert benchmark(im2colx.conv2d, x, filters, *layer.arguments).shape[1] == columns


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_csr(benchmark, layout, tiny):
    layer, x, w = prepared("rn50_l1_3x3", tiny)
    x_shape = x.shape[1:]
    if layout == "NHWC":
        w, x_shape = w.transpose(2, 3, 1, 0).copy(), (*x.shape[2:], x.shape[1])
    benchmark.group = "conv_matrix rn50_l1_3x3"
    matrix = benchmark(im2colx.conv_matrix, w, x_shape, *layer.arguments, layout=layout)
    assert matrix.shape[1] == np.prod(x_shape)


@pytest.mark.parametrize("boundary", ["zero", "circular"])
def test_spectral_norm(benchmark, boundary, tiny):
    layer, x, w = prepared("rn50_l1_3x3", tiny)
    benchmark.group = "spectral_norm rn50_l1_3x3"
    assert benchmark(im2colx.spectral_norm, w, x.shape, *layer.arguments, boundary=boundary) > 0
