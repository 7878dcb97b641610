"""Dropout: the layer that draws.

Random numbers of a layer come from a generator of its own, which `Sequential.reseed` starts anew.  `Trainer` does so
before every batch, with its seed and the place of the batch, so that a resumed run draws what an unbroken one would.
"""

import numpy as np

from . import _checks as check
from .layers import Layer


class Dropout(Layer):
    """Set elements to 0 at random in training, and scale the others up: ``y = x * mask / (1 - rate)``.

    The mask is 0 with probability `rate`, else 1, so that the mean of y over the draws is x.  Without training, y is x.
    Calling the model with ``training=True`` in prediction, over and over, gives the samples of MC dropout (Gal 2016).

    Parameters
    ----------
    rate : float
        0 <= rate < 1.
    shared : tuple of int
        Axes of a sample (0 is the first after the batch axis) along which one draw serves all elements.  On images
        (H, W, C), ``shared=(0, 1)`` drops whole channels; on the rows of a patch matrix (OH*OW, C*KH*KW), ``shared=(0,)``
        drops columns, which is to drop taps of the kernel.  Every sample of a batch has a draw of its own.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value; in `Sequential`, if the samples have no such axis.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import nn
    >>> model = nn.Sequential([nn.Dropout(0.5)], input_shape=(6,))
    >>> model.forward(np.ones((1, 6)), training=True)
    array([[2., 2., 0., 0., 2., 2.]], dtype=float32)
    >>> model.forward(np.ones((1, 6)))
    array([[1., 1., 1., 1., 1., 1.]], dtype=float32)
    """

    def __init__(self, rate, *, shared=()):
        self.rate = check.real("rate", rate, below=1)
        self.shared = tuple(sorted(set(check.axes("shared", shared))))

    def output_shape(self, input_shape):
        if self.shared and self.shared[-1] >= len(input_shape):
            raise ValueError(f"shared has the axis {self.shared[-1]}, but the samples {input_shape} have axes"
                             f" 0 to {len(input_shape) - 1}")
        return input_shape

    def build(self, input_shape, dtype, rng):
        # A child of the generator: the weights of the layers that follow are the same with and without dropout.
        self._rng = rng.spawn(1)[0]
        self._skipped = 0

    def reseed(self, seeds):
        self._rng = np.random.default_rng(seeds)

    def skip_samples(self, count):
        self._skipped = count

    def forward(self, x, training=False):
        if not training:
            return x
        skipped, self._skipped = self._skipped, 0
        drawn = [1 if axis - 1 in self.shared else size for axis, size in enumerate(x.shape)]
        drawn[0] += skipped
        # In float32 whatever the dtype of x: a model in float64 drops what its float32 twin does.
        kept = self._rng.random(drawn, np.float32)[skipped:] >= self.rate
        self._mask = kept * x.dtype.type(1 / (1 - self.rate))
        return x * self._mask

    def backward(self, grad_y, input_gradient=True):
        return grad_y * self._mask if input_gradient else None

    def __repr__(self):
        return f"Dropout({self.rate}, shared={self.shared})"
