"""Pooling: the layer that makes an image smaller and keeps the largest numbers.

The largest number of a window is the largest of its rows' largest, so the work is done along one axis at a time.  Columns
come first: of equal numbers the first in reading order is found so.
"""

import numpy as np

from . import _checks as check
from . import _kernels as kernels
from .layers import Layer


class MaxPool2D(Layer):
    """The largest number of every window, channel by channel::

        y[a, b, c] = max_uv x[a*S + u, b*S + v, c]

    Windows lie in the image as a whole: rows and columns left over at its end are not read, as in PyTorch and Keras by
    default.  dL/dy goes to the largest number, of equal ones to the first in reading order.  NaN counts as the largest.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of a window, at least 1.
    stride : int or (int, int), optional
        From one window to the next, at least 1; by default `size`, so that windows lie side by side.
    layout : {"NHWC", "NCHW"}
        Samples are (H, W, C), or (C, H, W), as in `Conv2D`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, or a sample is no image, or smaller than a window.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import nn
    >>> x = np.array([[3.0, 1.0, 4.0, 1.0], [5.0, 9.0, 2.0, 6.0]]).reshape(1, 2, 4, 1)
    >>> pool = nn.MaxPool2D(2)
    >>> pool.forward(x, training=True)[0, ..., 0]
    array([[9., 6.]])
    >>> pool.backward(np.array([[[[1.0], [2.0]]]]))[0, ..., 0]
    array([[0., 0., 0., 0.],
           [0., 1., 0., 2.]])
    >>> nn.MaxPool2D(3, stride=2).output_shape((28, 28, 16))
    (13, 13, 16)
    """

    gives = "own"

    def __init__(self, size, stride=None, *, layout="NHWC"):
        self.size = check.pair("size", size)
        self.stride = self.size if stride is None else check.pair("stride", stride)
        self.layout = check.choice("layout", layout, ("NHWC", "NCHW"))
        axes = (1, 2) if layout == "NHWC" else (2, 3)
        self._rows, self._columns = map(_Along, axes, self.size, self.stride)

    def output_shape(self, input_shape):
        letters = "(H, W, C)" if self.layout == "NHWC" else "(C, H, W)"
        if len(input_shape) != 3:
            raise ValueError(f"MaxPool2D takes samples of shape {letters}, but gets {input_shape}")
        shape = list(input_shape)
        for along in (self._rows, self._columns):
            axis = along.axis - 1
            if shape[axis] < along.size:
                raise ValueError(f"size is {self.size}, but the samples are smaller: {letters} is {input_shape}")
            shape[axis] = along.outputs(shape[axis])
        return tuple(shape)

    def forward(self, x, training=False):
        self.output_shape(x.shape[1:])
        return self._rows.forward(self._columns.forward(x, training), training)

    def backward(self, grad_y, input_gradient=True):
        return self._columns.backward(self._rows.backward(grad_y)) if input_gradient else None

    def __repr__(self):
        return f"MaxPool2D({self.size}, stride={self.stride}, layout={self.layout!r})"


class _Along:
    """Pooling along one axis of an array, counted with the batch axis."""

    def __init__(self, axis, size, stride):
        self.axis, self.size, self.stride = axis, size, stride
        self._room = kernels.Room()

    def outputs(self, length):
        return (length - self.size) // self.stride + 1

    def _part(self, array, *where):
        return array[(slice(None),) * self.axis + (slice(*where),)]

    def _taps(self, array):
        """For each k a view of what is the k-th element of every window."""
        reach = (self.outputs(array.shape[self.axis]) - 1) * self.stride + 1
        return [self._part(array, k, k + reach, self.stride) for k in range(self.size)]

    def forward(self, x, training):
        first, *others = taps = self._taps(x)
        y = self._room("y", first.shape, x.dtype) if training else kernels.empty(first.shape, x.dtype)
        if training:
            self._x_shape = x.shape
            winner = self._winner = self._room("winner", y.shape, np.min_scalar_type(self.size - 1))
            winner[...] = 0
            greater, later = self._room("greater", y.shape, bool), self._room("later", y.shape, winner.dtype)
        best = first
        for k, tap in enumerate(others, 1):
            if training:
                np.greater(tap, best, out=greater)
                np.maximum(winner, np.multiply(greater, k, out=later, dtype=winner.dtype), out=winner)
            best = np.maximum(best, tap, out=y)
        if best is first:  # windows of one element
            y[...] = first
        if training and np.isnan(y).any():  # which no comparison above has seen
            for k in reversed(range(self.size)):
                winner[np.isnan(taps[k])] = k
        return y

    def backward(self, grad_y):
        grad_x = self._room("grad_x", self._x_shape, grad_y.dtype)
        overlap = self.stride < self.size
        side_by_side = self.stride == self.size  # then only what lies behind the last window is in none
        self._part(grad_x, grad_y.shape[self.axis] * self.size if side_by_side else 0, None)[...] = 0
        bits = np.dtype(f"i{grad_y.itemsize}")
        mask = self._room("mask", grad_y.shape, bits)
        for k, tap in enumerate(self._taps(grad_x)):
            # All bits of a number or none, rather than times 1 or 0: of an infinite one, too, nothing goes elsewhere.
            np.negative(self._winner == k, out=mask, dtype=bits)
            if overlap:
                np.bitwise_and(grad_y.view(bits), mask, out=mask)
                tap += mask.view(grad_y.dtype)
            else:
                np.bitwise_and(grad_y.view(bits), mask, out=tap.view(bits))
        return grad_x
