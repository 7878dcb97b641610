"""Layers: each computes y from x, and from dL/dy both dL/dx and the gradients of its own weights.

A layer's life has three steps.  Its constructor only notes what is wanted.  `Sequential` then tells it the shape of its
input, whereupon it makes its weights (`build`).  After that come `forward` and `backward`, batch after batch::

    forward:    x  -->  y = layer(x)
    backward:   dL/dx  <--  dL/dy,   and dL/dweight is left in layer.grad_weight

L is the loss, one number.  All shapes below are without the batch axis N unless they show it.

In training the same sizes come batch after batch, so a layer keeps its arrays: what ``forward(x, training=True)`` and
`backward` return is the layer's own memory, which the next batch overwrites.
"""

import math

import numpy as np

from im2colx import conv2d, conv2d_grad_input, conv2d_grad_weight, output_shape

from . import _checks as check
from . import _kernels as kernels


class Layer:
    """What every layer has.  This base has no weights; a subclass gives at least `forward` and `backward`.

    Attributes
    ----------
    weight_names : tuple of str
        The attributes that hold trainable arrays.  The gradient of ``weight`` is kept in ``grad_weight``, and so on.
    """

    weight_names = ()
    in_model = False  # set by the model that builds the layer: its weights are that model's

    # For the model: what y and dL/dx are, arrays of the layer's own that it does not read again, or may be overwritten by what
    # it has made of them ("own"); views of x and dL/dy ("view"); or who knows.  A subclass says it for itself.
    gives = None
    # Set by the model: whether x and dL/dy are arrays of other layers, which nobody reads after this one.
    may_overwrite_x = may_overwrite_grad_y = False

    def output_shape(self, input_shape):
        """Shape of y for x of `input_shape`, both without the batch axis; ValueError if the layer cannot take it."""
        return input_shape

    def build(self, input_shape, dtype, rng):
        """Make the weights for `input_shape`, drawn from the generator `rng`, and room for their gradients."""

    def reseed(self, seeds):
        """Draw the random numbers of `forward` from ``numpy.random.default_rng(seeds)`` from now on; most draw none."""

    def skip_samples(self, count):
        """Draw in the next ``forward(x, training=True)`` as though `count` samples stood before x, of which it is cut off.

        With it, `ParallelTrainer` gives each worker a part of a batch; a layer that has `reseed` needs this too there.
        """

    def forward(self, x, training=False):
        """Compute y, shape (N, *output_shape), from x, shape (N, *input_shape).

        With ``training=True`` the layer also keeps what `backward` will need.  x is never modified.
        """
        raise NotImplementedError

    def backward(self, grad_y, input_gradient=True):
        """From dL/dy fill the gradients of the weights and return dL/dx (None if not `input_gradient`).

        It belongs to the last ``forward(x, training=True)``.  `grad_y` is never modified.
        """
        raise NotImplementedError

    def backward_late(self, grad_y, input_gradient):
        """As `backward`, but a gradient of the weights may wait until it is asked for, or be dropped by the next forward."""
        return self.backward(grad_y, input_gradient)

    def late_gradients(self):
        """As `gradients`; instead of an array there may be a `Product` yet to be computed."""
        return self.gradients()

    @property
    def room(self):
        return self.__dict__.setdefault("_room", kernels.Room())

    def parameters(self):
        """The trainable arrays themselves: a list of (name, array)."""
        return [(name, getattr(self, name)) for name in self.weight_names]

    def gradients(self):
        """The gradients of the last `backward`, in the order of `parameters`: a list of (name, array)."""
        return [(name, getattr(self, "grad_" + name)) for name in self.weight_names]

    def __repr__(self):
        return f"{type(self).__name__}()"


class Dense(Layer):
    """A fully connected layer on the last axis: ``y[..., j] = sum_i x[..., i] * weight[i, j] + bias[j]``.

    An input of more than two axes is a stack of rows, each of which meets the same weights.  On the rows of a patch
    matrix this is a convolution.

    Parameters
    ----------
    units : int
        Outputs per row, at least 1.
    bias : bool
        Whether to add a trainable vector.
    init : {"he_uniform", "glorot_uniform"}
        How the weights start: uniform in +-sqrt(6 / fan_in), or in +-sqrt(6 / (fan_in + fan_out)).  Here fan_in is
        the length of the input's last axis and fan_out is `units`.  The bias starts at 0.
    sum_dtype : {None, "float64"}
        In what the gradients of the weights are summed over the rows: None for the dtype of the model.  "float64" rounds
        them to it once, at the end, so that the order of the sum hardly matters any more; that takes several times as long.

    Attributes
    ----------
    weight, grad_weight : ndarray, shape (inputs, units)
    bias, grad_bias : ndarray, shape (units,)
        Only with ``bias=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    Examples
    --------
    >>> from im2colx import nn
    >>> model = nn.Sequential([nn.Dense(128, bias=False)], input_shape=(169, 16))
    >>> model.output_shape
    (169, 128)
    >>> model.layers[0].weight.shape
    (16, 128)
    """

    def __init__(self, units, *, bias=True, init="he_uniform", sum_dtype=None):
        self.units = check.whole("units", units)
        self.use_bias = check.flag("bias", bias)
        self.init = check.choice("init", init, _INITS)
        self.sum_dtype = _checked_sum_dtype(sum_dtype)
        self.weight_names = ("weight", "bias") if self.use_bias else ("weight",)
        self._late = None  # the gradient of the weight, while it is not computed

    gives = "own"

    def output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def build(self, input_shape, dtype, rng):
        inputs = input_shape[-1]
        self.weight = kernels.copy(_INITS[self.init]((inputs, self.units), inputs, self.units, dtype, rng))
        self._grad_weight = np.zeros(self.weight.shape, dtype)
        if self.use_bias:
            self.bias = np.zeros(self.units, dtype)
            self.grad_bias = np.zeros(self.units, dtype)

    @property
    def grad_weight(self):
        if self._late is not None:
            self._late.into(self._grad_weight)
            self._late = None
        return self._grad_weight

    @grad_weight.setter
    def grad_weight(self, gradient):
        self._grad_weight, self._late = gradient, None

    def forward(self, x, training=False):
        # Every axis but the last becomes one: a single matrix product.  A copy, if need be, is worth a product in C.
        rows = np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
        shape, dtype = (len(rows), self.units), np.result_type(rows, self.weight)
        y = self.room("y", shape, dtype) if training else kernels.empty(shape, dtype)
        kernels.matmul(rows, self.weight, y, self.room if training else None)
        if self.use_bias:
            y += self.bias
        if training:
            self._late = None  # its arrays are given up now; whoever left it late has used it
            self._rows, self._x_shape = rows, x.shape
        return y.reshape(*x.shape[:-1], self.units)

    def backward(self, grad_y, input_gradient=True):
        grad_x = self._backward(grad_y, input_gradient)
        _ = self.grad_weight  # computed now
        return grad_x

    def backward_late(self, grad_y, input_gradient):
        # A subclass may do more with the gradient.
        is_own = check.keeps(self, Dense, "backward", "gradients", "grad_weight")
        return (self._backward if is_own else self.backward)(grad_y, input_gradient)

    def _backward(self, grad_y, input_gradient):
        grad_y = np.ascontiguousarray(grad_y.reshape(-1, self.units))
        if self.sum_dtype is None:
            self._late = kernels.Product(self._rows.T, grad_y, self.room, self._grad_weight.dtype)
        else:
            self._late = None
            kernels.sum_in(self.sum_dtype, self._gradient, self._rows, grad_y, self._grad_weight, self.room)
        if self.use_bias:
            self.grad_bias[...] = np.sum(grad_y, axis=0, dtype=self.sum_dtype)  # out= would be rounded on the way
        if not input_gradient:
            return None
        grad_x = self.room("grad_x", self._rows.shape, np.result_type(grad_y, self.weight))
        return kernels.matmul(grad_y, self.weight.T, grad_x, self.room).reshape(self._x_shape)

    def _gradient(self, rows, grad_y, out):
        kernels.matmul(rows.T, grad_y, out, self.room)

    def late_gradients(self):
        if self._late is None:
            return self.gradients()
        return [(name, self._late if name == "weight" else getattr(self, "grad_" + name)) for name in self.weight_names]

    def __repr__(self):
        return f"Dense({self.units}, bias={self.use_bias}, init={self.init!r}{_sums(self)})"


class Conv2D(Layer):
    """A convolutional layer::

        y[a, b, f] = sum_uvc x[a*S + u*D - P, b*S + v*D - P, c] * weight[u, v, c, f] + bias[f]

    Read it as a `Dense` layer on the patches of the image: with ``layout="NHWC"`` and one group,
    ``weight.reshape(-1, filters)`` is that layer's weight.

    Parameters
    ----------
    filters : int
        Number of output channels F, at least 1 and a multiple of `groups`.
    kernel : int or (int, int)
        Kernel height and width KH, KW, at least 1.
    stride, pad, dilation, groups
        As in `im2colx.conv2d`: the S, P and D of the equation.
    bias : bool
        Whether to add a trainable number per filter.
    layout : {"NHWC", "NCHW"}
        Samples are (H, W, C) with weights (KH, KW, C/groups, F), as in Keras; or (C, H, W) with weights
        (F, C/groups, KH, KW), as in PyTorch.
    method : str
        How `im2colx.conv2d` computes it.
    init : {"he_uniform", "glorot_uniform"}
        As in `Dense`, with fan_in = KH*KW*C/groups and fan_out = KH*KW*F.
    sum_dtype : {None, "float64"}
        As in `Dense`, for the sums over the batch and the places of the filter.

    Attributes
    ----------
    weight, grad_weight : ndarray
        In the shape that `layout` says.
    bias, grad_bias : ndarray, shape (F,)
        Only with ``bias=True``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value.

    Examples
    --------
    >>> from im2colx import nn
    >>> model = nn.Sequential([nn.Conv2D(128, 4, stride=2, bias=False)], input_shape=(28, 28, 1))
    >>> model.output_shape
    (13, 13, 128)
    >>> model.layers[0].weight.shape
    (4, 4, 1, 128)
    """

    def __init__(self, filters, kernel, stride=1, pad=0, dilation=1, groups=1, *,
                 bias=True, layout="NHWC", method="auto", init="he_uniform", sum_dtype=None):
        self.filters = check.whole("filters", filters)
        self.kernel = check.pair("kernel", kernel)
        self.groups = check.whole("groups", groups)
        self.layout = check.choice("layout", layout, ("NHWC", "NCHW"))
        self.use_bias = check.flag("bias", bias)
        self.init = check.choice("init", init, _INITS)
        self.sum_dtype = _checked_sum_dtype(sum_dtype)
        self.weight_names = ("weight", "bias") if self.use_bias else ("weight",)
        self._conv = dict(stride=check.pair("stride", stride), pad=pad, dilation=check.pair("dilation", dilation),
                          groups=self.groups, layout=self.layout, method=method)
        self._try_arguments()

    gives = "own"

    def _try_arguments(self):
        # Padding and method have rules of their own, which conv2d knows.  So it is asked now, with no images at all of
        # the smallest size that holds the kernel: a mistake then shows here, where it was made.
        height, width = (d * (k - 1) + 1 for d, k in zip(self._conv["dilation"], self.kernel, strict=True))
        image = (height, width, self.groups) if self.layout == "NHWC" else (self.groups, height, width)
        nothing = np.empty((0, *image), np.float32)
        conv2d(nothing, np.broadcast_to(np.float32(0), self._weight_shape(image)), **self._conv)

    def _weight_shape(self, input_shape):
        channels = input_shape[-1] if self.layout == "NHWC" else input_shape[0]
        if channels % self.groups:
            raise ValueError(f"groups = {self.groups} does not divide the {channels} input channels"
                             f" of {input_shape} (layout {self.layout})")
        channels //= self.groups
        if self.layout == "NHWC":
            return (*self.kernel, channels, self.filters)
        return (self.filters, channels, *self.kernel)

    def output_shape(self, input_shape):
        if len(input_shape) != 3:
            letters = "(H, W, C)" if self.layout == "NHWC" else "(C, H, W)"
            raise ValueError(f"Conv2D takes samples of shape {letters}, but gets {input_shape}")
        arguments = {name: value for name, value in self._conv.items() if name != "method"}
        return output_shape((1, *input_shape), self._weight_shape(input_shape), **arguments)[1:]

    def build(self, input_shape, dtype, rng):
        shape = self._weight_shape(input_shape)
        fan_in = math.prod(shape) // self.filters
        fan_out = math.prod(self.kernel) * self.filters
        self.weight = kernels.copy(_INITS[self.init](shape, fan_in, fan_out, dtype, rng))
        self.grad_weight = np.zeros(shape, dtype)
        if self.use_bias:
            self.bias = np.zeros(self.filters, dtype)
            self.grad_bias = np.zeros(self.filters, dtype)

    def forward(self, x, training=False):
        y = None
        if training:
            self._x = x
            y = self.room("y", (len(x), *self.output_shape(x.shape[1:])), np.result_type(x, self.weight))
        return conv2d(x, self.weight, bias=self.bias if self.use_bias else None, out=y, **self._conv)

    def backward(self, grad_y, input_gradient=True):
        if self.sum_dtype is None:
            self._gradient(self._x, grad_y, self.grad_weight)
        else:
            kernels.sum_in(self.sum_dtype, self._gradient, self._x, grad_y, self.grad_weight, self.room)
        if self.use_bias:
            all_but_filters = (0, 1, 2) if self.layout == "NHWC" else (0, 2, 3)
            self.grad_bias[...] = np.sum(grad_y, axis=all_but_filters, dtype=self.sum_dtype)
        if not input_gradient:
            return None
        grad_x = self.room("grad_x", self._x.shape, np.result_type(grad_y, self.weight))
        return conv2d_grad_input(grad_y, self.weight, self._x.shape, out=grad_x, **self._conv)

    def _gradient(self, x, grad_y, out):
        conv2d_grad_weight(x, grad_y, self.weight.shape, out=out, **self._conv)

    def __repr__(self):
        conv = ", ".join(f"{name}={value!r}" for name, value in self._conv.items())
        return f"Conv2D({self.filters}, {self.kernel}, {conv}, bias={self.use_bias}, init={self.init!r}{_sums(self)})"


def _checked_sum_dtype(dtype):
    if isinstance(dtype, (type, np.dtype)):
        dtype = np.dtype(dtype).name
    return dtype if dtype is None else check.choice("sum_dtype", dtype, ("float64",))


def _sums(layer):
    # Named only where it is asked for: checkpoints from before it was there remain good.
    return "" if layer.sum_dtype is None else f", sum_dtype={layer.sum_dtype!r}"


class ReLU(Layer):
    """The rectifier: ``y = max(x, 0)``.  Its derivative is 1 where x > 0 and 0 elsewhere.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import nn
    >>> nn.ReLU().forward(np.array([-2.0, 0.0, 3.0]))
    array([0., 0., 3.])
    """

    gives = "own"

    def forward(self, x, training=False):
        if self.may_overwrite_x:
            y = x
        else:
            y = self.room("y", x.shape, x.dtype) if training else kernels.empty(x.shape, x.dtype)
        kernels.relu(x, y)
        if training:
            self._y = y
        return y

    def backward(self, grad_y, input_gradient=True):
        if not input_gradient:
            return None
        grad_x = grad_y if self.may_overwrite_grad_y else self.room("grad_x", grad_y.shape, grad_y.dtype)
        kernels.relu_gradient(self._y, grad_y, grad_x)
        return grad_x


class Reshape(Layer):
    """Give every sample another shape with the same number of elements, in the same order (the last axis runs fastest).

    Parameters
    ----------
    shape : tuple of int
        The new shape, without the batch axis.

    Raises
    ------
    TypeError, ValueError
        If `shape` is no tuple of sizes of at least 1; in `Sequential`, if it has another number of elements.

    Examples
    --------
    >>> from im2colx import nn
    >>> nn.Sequential([nn.Reshape((28, 28, 1))], input_shape=(784,)).output_shape
    (28, 28, 1)
    """

    gives = "view"

    def __init__(self, shape):
        self.shape = check.sizes("shape", shape)

    def output_shape(self, input_shape):
        if math.prod(self.shape) != math.prod(input_shape):
            raise ValueError(f"Reshape to {self.shape} needs {math.prod(self.shape)} elements,"
                             f" but {input_shape} has {math.prod(input_shape)}")
        return self.shape

    def forward(self, x, training=False):
        if training:
            self._x_shape = x.shape
        return x.reshape(len(x), *self.shape)

    def backward(self, grad_y, input_gradient=True):
        return grad_y.reshape(self._x_shape) if input_gradient else None

    def __repr__(self):
        return f"Reshape({self.shape})"


class Flatten(Layer):
    """Make every sample a vector: (H, W, C) becomes (H*W*C,), the last axis running fastest.

    Examples
    --------
    >>> from im2colx import nn
    >>> nn.Sequential([nn.Flatten()], input_shape=(13, 13, 128)).output_shape
    (21632,)
    """

    gives = "view"

    def output_shape(self, input_shape):
        return (math.prod(input_shape),)

    def forward(self, x, training=False):
        if training:
            self._x_shape = x.shape
        return x.reshape(len(x), math.prod(x.shape[1:]))

    def backward(self, grad_y, input_gradient=True):
        return grad_y.reshape(self._x_shape) if input_gradient else None


def _uniform(limit, shape, dtype, rng):
    # Drawn in float64 whatever the dtype: a float32 model starts from the rounded weights of its float64 twin.
    return rng.uniform(-limit, limit, shape).astype(dtype, copy=False)


def _he_uniform(shape, fan_in, fan_out, dtype, rng):
    # He et al. 2015: keeps the variance of the signal through a layer that is followed by ReLU.
    return _uniform(math.sqrt(6 / fan_in), shape, dtype, rng)


def _glorot_uniform(shape, fan_in, fan_out, dtype, rng):
    # Glorot & Bengio 2010: the same without ReLU, balanced between the signal and its gradient.
    return _uniform(math.sqrt(6 / (fan_in + fan_out)), shape, dtype, rng)


_INITS = {"he_uniform": _he_uniform, "glorot_uniform": _glorot_uniform}
