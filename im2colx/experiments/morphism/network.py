"""A network as a tuple of parts, each with its weights in FC form, and the `nn.Sequential` that they make.

Morphs take such a tuple and return another.  Weights are float64 matrices (Q, F), whatever the network computes in: a
CONV layer reshapes its matrix to a kernel, and that is all the difference.
"""

from typing import NamedTuple

import numpy as np

from im2colx import nn


class Slope(nn.Layer):
    """ReLU with a slope for negative numbers that is learned: ``y = max(x, 0) + slope * min(x, 0)``.

    With slope 1 it does nothing: the activation that Wei et al. (2016) put between the halves of a layer.
    """

    weight_names = ("slope",)

    def build(self, input_shape, dtype, rng):
        self.slope = np.ones(1, dtype)
        self.grad_slope = np.zeros(1, dtype)

    def forward(self, x, training=False):
        if training:
            self._x = x
        return np.where(x > 0, x, self.slope * x)

    def backward(self, grad_y, input_gradient=True):
        self.grad_slope[0] = np.sum(grad_y * np.minimum(self._x, 0), dtype=np.float64)
        return np.where(self._x > 0, grad_y, self.slope * grad_y) if input_gradient else None


class Part(NamedTuple):
    """One layer: what it is, and its weights in FC form."""

    kind: str  # "conv", "dense", "relu", "slope" or "flatten"
    weight: np.ndarray = None  # conv: (kernel² C, F), rows over (u, v, c); dense: (Q, F); slope: (1,)
    bias: np.ndarray = None
    kernel: int = 1
    stride: int = 1
    pad: int = 0

    def layer(self):
        if self.kind == "conv":
            return nn.Conv2D(self.weight.shape[1], self.kernel, self.stride, self.pad)
        if self.kind == "dense":
            return nn.Dense(self.weight.shape[1])
        return {"relu": nn.ReLU, "slope": Slope, "flatten": nn.Flatten}[self.kind]()

    def weights(self):
        return [array for array in (self.weight, self.bias) if array is not None]


RELU, FLATTEN = Part("relu"), Part("flatten")


def conv(weight, bias, kernel, stride=1, pad=0):
    return Part("conv", weight, bias, kernel, stride, pad)


def he_uniform(rng, inputs, outputs, fan_in=None):
    """A weight matrix as `nn` starts one."""
    bound = np.sqrt(6 / (fan_in or inputs))
    return rng.uniform(-bound, bound, (inputs, outputs))


def build(parts, input_shape, dtype="float32"):
    """The network that computes with the weights of `parts`."""
    model = nn.Sequential([part.layer() for part in parts], input_shape=input_shape, dtype=dtype)
    weights = [array for part in parts for array in part.weights()]
    shapes = [array.shape for _, array in model.parameters()]
    model.set_weights([array.reshape(shape).astype(dtype) for array, shape in zip(weights, shapes, strict=True)])
    return model


def read(parts, model):
    """`parts` with the weights that the network has now."""
    arrays = iter(model.get_weights())
    result = []
    for part in parts:
        found = {name: next(arrays).reshape(old.shape).astype(np.float64)
                 for name, old in (("weight", part.weight), ("bias", part.bias)) if old is not None}
        result.append(part._replace(**found))
    return tuple(result)
