"""The networks that are compared with the fully connected one.  All start from the weights of one seed."""

import dataclasses

import numpy as np

from im2colx import im2col, nn

from .. import paper


class ProductConv2D(nn.Conv2D):
    """A convolution that computes what `nn.Dense` computes on the patches: the same products, in the same order.

    Its input is the image, its weight is the kernel.  It cuts the patches (Algorithm 1) and gives them to a Dense layer
    that holds no weight of its own, but looks at the kernel as a matrix.  One channel layout (NHWC), no padding, no bias.
    """

    def __init__(self, filters, kernel, stride):
        super().__init__(filters, kernel, stride, bias=False)

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self._dense = nn.Dense(self.filters, bias=False)
        self._dense.build((self.weight[..., 0].size,), dtype, np.random.default_rng(0))
        self._dense.weight = self.weight.reshape(-1, self.filters)
        self._dense.grad_weight = self.grad_weight.reshape(-1, self.filters)

    def forward(self, x, training=False):
        patches = im2col(x, self.kernel, self._conv["stride"], layout="NHWC")
        height, width, _ = self.output_shape(x.shape[1:])
        y = self._dense.forward(patches.reshape(len(x), height * width, -1), training)
        return y.reshape(len(x), height, width, self.filters)

    def backward(self, grad_y, input_gradient=True):
        if input_gradient:
            raise NotImplementedError("it is a first layer: nobody asks for dL/dx")
        self._dense.backward(grad_y.reshape(len(grad_y), -1, self.filters), input_gradient=False)


def build(name, settings):
    """Build a network by its name; see `NETWORKS`."""
    return NETWORKS[name](settings)


def inputs(name, images):
    """What the network takes for images (n, 28, 28, 1): the images, or their patches."""
    return images if name in ("same", "other") else paper.patches(images)


def _same(settings):
    first = ProductConv2D(paper.FILTERS, paper.KERNEL, paper.STRIDE)
    return paper.build_cnn(settings, first)


def _other(settings):
    # It sums the 16 products of an output in the order of the FC network, but the 21,632 of a gradient of layer 1 (the
    # outputs of a batch) in blocks of its own: from the first step on, the filters differ in their last digits.
    return paper.build_cnn(dataclasses.replace(settings, method="implicit"))


def _nudged(settings):
    fc = paper.build_fc(settings)
    filters, last = fc.get_weights()
    middle = (paper.PATCH // 2, paper.FILTERS // 2)
    filters[middle] = np.nextafter(filters[middle], np.inf, dtype=filters.dtype)
    fc.set_weights([filters, last])
    return fc


NETWORKS = {
    "fc": paper.build_fc,  # what the others are compared with
    "same": _same,  # a CNN by the same products
    "other": _other,  # a CNN by another method, which sums in another order
    "nudged": _nudged,  # the FC network again, with one weight moved to the next number
}
