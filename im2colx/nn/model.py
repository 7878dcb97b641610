"""The model: layers one after another, with all their weights in one list."""

import numpy as np

from . import _checks as check
from .layers import Layer


class Sequential:
    """A chain of layers: the output of each is the input of the next.

    The chain is built at once: shapes are checked layer by layer, then the weights are drawn.

    Parameters
    ----------
    layers : list of Layer
        At least one.  A layer belongs to one model, and occurs in it once.
    input_shape : tuple of int
        Shape of one sample, without the batch axis: (28, 28, 1).
    dtype : {"float32", "float64"}
        Of the weights and of everything that is computed.
    seed : int
        For the initial weights, at least 0.  All layers draw from one generator, in their order.

    Attributes
    ----------
    layers : tuple of Layer
    input_shape, output_shape : tuple of int
        Without the batch axis.
    dtype : numpy.dtype
    num_parameters : int
        How many trainable numbers there are.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or value, or a layer cannot take the shape that reaches it.

    Examples
    --------
    The network of the paper:

    >>> from im2colx import nn
    >>> model = nn.Sequential([
    ...     nn.Conv2D(128, 4, stride=2, bias=False), nn.ReLU(), nn.Flatten(),
    ...     nn.Dense(784, bias=False), nn.ReLU(), nn.Reshape((28, 28, 1)),
    ... ], input_shape=(28, 28, 1))
    >>> print(model.summary())
    layer       output shape    parameters
    --------------------------------------
    input       (28, 28, 1)              0
    0 Conv2D    (13, 13, 128)        2,048
    1 ReLU      (13, 13, 128)            0
    2 Flatten   (21632,)                 0
    3 Dense     (784,)          16,959,488
    4 ReLU      (784,)                   0
    5 Reshape   (28, 28, 1)              0
    --------------------------------------
    sum                         16,961,536
    """

    def __init__(self, layers, *, input_shape, dtype="float32", seed=0):
        self.layers = _checked_layers(layers)
        self.input_shape = check.sizes("input_shape", input_shape)
        self.dtype = _checked_dtype(dtype)
        self.seed = check.seed("seed", seed)

        # First all shapes, then all weights: a chain that does not fit leaves its layers as they were.
        self._shapes = [self.input_shape]
        for i, layer in enumerate(self.layers):
            try:
                self._shapes.append(layer.output_shape(self._shapes[-1]))
            except ValueError as error:
                raise ValueError(f"layer {i} ({type(layer).__name__}): {error}") from None
        rng = np.random.default_rng(self.seed)
        for layer, shape in zip(self.layers, self._shapes, strict=False):
            layer.build(shape, self.dtype, rng)
            layer.in_model = True
        _share_arrays(self.layers)

        self.output_shape = self._shapes[-1]
        self.num_parameters = sum(array.size for _, array in self.parameters())
        # Below the first layer that has weights nobody needs a gradient.
        self._first_weights = next((i for i, layer in enumerate(self.layers) if layer.weight_names), len(self.layers))
        self._batch_size = None  # of the last forward with training=True

    def reseed(self, seed, *more):
        """Start the random numbers that layers draw in ``forward(x, training=True)`` anew: those of `Dropout`, for one.

        Parameters
        ----------
        seed, *more : int
            Each at least 0.  Layer i draws from ``numpy.random.default_rng([seed, *more, i + 1])``.

        Raises
        ------
        TypeError, ValueError
            If a seed is not a whole number of at least 0.

        Examples
        --------
        >>> import numpy as np
        >>> from im2colx import nn
        >>> model = nn.Sequential([nn.Dropout(0.5)], input_shape=(100,))
        >>> samples = []
        >>> for _ in range(2):
        ...     model.reseed(7)
        ...     samples.append(model.forward(np.ones((1, 100)), training=True))
        >>> np.array_equal(*samples)
        True
        """
        seeds = [check.seed("seed", number) for number in (seed, *more)]
        for i, layer in enumerate(self.layers):
            # From 1: NumPy takes [seed, 0] for [seed], which draws the weights or the order of the samples.
            layer.reseed([*seeds, i + 1])

    def forward(self, x, training=False):
        """Compute the output for a batch.

        Parameters
        ----------
        x : array_like, shape (N, *input_shape)
            Real numbers; brought to the model's dtype.
        training : bool
            Whether the layers keep what `backward` needs.

        Returns
        -------
        ndarray, shape (N, *output_shape), of the model's dtype

        Raises
        ------
        TypeError, ValueError
            If x holds no real numbers, or has another shape.
        """
        y = x = check.plain(check.samples("x", x, self.input_shape), self.dtype)
        if training:
            self._batch_size = None  # a forward that is interrupted has no backward
        for layer in self.layers:
            y = layer.forward(y, training)
        if training:
            self._batch_size = len(y)
        # Neither the layers' own arrays are given out, nor views of what was given.
        return y.copy() if training or np.may_share_memory(x, y) else y

    def backward(self, grad_y, input_gradient=True):
        """Compute all gradients, for the batch of the last ``forward(x, training=True)``.

        Parameters
        ----------
        grad_y : array_like, shape (N, *output_shape)
            dL/dy, the gradient of the loss with respect to the output.
        input_gradient : bool
            False saves the work for dL/dx, which training does not need.

        Returns
        -------
        ndarray, shape (N, *input_shape), or None
            dL/dx.  The gradients of the weights are then in `gradients`.

        Raises
        ------
        RuntimeError
            If there was no forward with ``training=True``.
        TypeError, ValueError
            If grad_y holds no real numbers, or has another shape.
        """
        gradient = self._checked_gradient(grad_y)
        last = 0 if input_gradient else self._first_weights
        for i in reversed(range(last, len(self.layers))):
            gradient = self.layers[i].backward(gradient, input_gradient or i > last)
        return gradient.copy() if input_gradient else None

    def backward_late(self, grad_y):
        """As ``backward(grad_y, input_gradient=False)``; but see `late_gradients`."""
        gradient = self._checked_gradient(grad_y)
        for i in reversed(range(self._first_weights, len(self.layers))):
            gradient = self.layers[i].backward_late(gradient, i > self._first_weights)

    def _checked_gradient(self, grad_y):
        if self._batch_size is None:
            raise RuntimeError("backward needs a forward(x, training=True) before it")
        gradient = check.numbers_array("grad_y", grad_y)
        needed = (self._batch_size, *self.output_shape)
        if gradient.shape != needed:
            raise ValueError(f"grad_y has shape {gradient.shape}, but the last output has {needed}")
        return check.plain(gradient, self.dtype)

    def predict(self, x, batch_size=128):
        """The output for any number of samples, computed batch by batch so that memory stays bounded.

        Parameters
        ----------
        x : array_like, shape (N, *input_shape)
        batch_size : int

        Returns
        -------
        ndarray, shape (N, *output_shape), of the model's dtype

        Raises
        ------
        TypeError, ValueError
            As `forward`, and if `batch_size` is not a whole number of at least 1.
        """
        x = check.samples("x", x, self.input_shape)
        batch_size = check.whole("batch_size", batch_size)
        y = np.empty((len(x), *self.output_shape), self.dtype)
        for start in range(0, len(x), batch_size):
            batch = slice(start, start + batch_size)
            y[batch] = self.forward(x[batch])
        return y

    def parameters(self):
        """The trainable arrays themselves, not copies: a list of (name, array), named like ``"0.weight"``."""
        return [(f"{i}.{name}", array) for i, layer in enumerate(self.layers) for name, array in layer.parameters()]

    def gradients(self):
        """The gradients of the last `backward` (zeros before the first), named and ordered as `parameters`.

        They are the arrays themselves: the next `backward` writes into them.  After `Trainer.fit` they are those of its last
        batch; ask before the next ``forward(x, training=True)``, because a large one is only computed when asked for.
        """
        return [(f"{i}.{name}", array) for i, layer in enumerate(self.layers) for name, array in layer.gradients()]

    def late_gradients(self):
        """As `gradients`, but a large one may be a product that the optimizer computes and uses up piece by piece."""
        return [(f"{i}.{name}", array) for i, layer in enumerate(self.layers) for name, array in layer.late_gradients()]

    def get_weights(self):
        """Copies of the trainable arrays: a list of ndarray, in the order of `parameters`."""
        return [array.copy() for _, array in self.parameters()]

    def set_weights(self, weights):
        """Copy the arrays of the list `weights` into the model, in the order of `parameters`.

        Raises
        ------
        TypeError, ValueError
            If the number, a shape or a dtype differs from the model's; then nothing is changed.

        Examples
        --------
        A convolution and the fully connected layer that equals it on the patches of the image:

        >>> from im2colx import nn
        >>> conv = nn.Sequential([nn.Conv2D(128, 4, stride=2, bias=False)], input_shape=(28, 28, 1))
        >>> dense = nn.Sequential([nn.Dense(128, bias=False)], input_shape=(169, 16))
        >>> dense.set_weights([weight.reshape(-1, 128) for weight in conv.get_weights()])
        """
        parameters, weights = self.parameters(), list(weights)
        if len(weights) != len(parameters):
            names = ", ".join(name for name, _ in parameters)
            raise ValueError(f"weights has {len(weights)} arrays, but the model has {len(parameters)}: {names}")
        for (name, array), weight in zip(parameters, weights, strict=True):
            layer = type(self.layers[int(name.split(".")[0])]).__name__
            if not isinstance(weight, np.ndarray) or weight.dtype != self.dtype:
                got = getattr(weight, "dtype", type(weight).__name__)
                raise TypeError(f"weights for {name} ({layer}) must be an array of {self.dtype}, but are {got}")
            if weight.shape != array.shape:
                raise ValueError(f"weights for {name} ({layer}) must have shape {array.shape}, but have {weight.shape}")
        for (_, array), weight in zip(parameters, weights, strict=True):
            array[...] = weight

    def summary(self):
        """A table of the layers as str: name, output shape, number of parameters."""
        rows = [("input", str(self.input_shape), "0")]
        for i, (layer, shape) in enumerate(zip(self.layers, self._shapes[1:], strict=True)):
            count = sum(array.size for _, array in layer.parameters())
            rows.append((f"{i} {type(layer).__name__}", str(shape), f"{count:,}"))
        table = [("layer", "output shape", "parameters"), *rows, ("sum", "", f"{self.num_parameters:,}")]
        widths = [max(len(row[column]) for row in table) for column in range(3)]
        lines = [f"{a:<{widths[0]}}   {b:<{widths[1]}}   {c:>{widths[2]}}" for a, b, c in table]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def __repr__(self):
        inside = ", ".join(map(repr, self.layers))
        return f"Sequential([{inside}], input_shape={self.input_shape}, dtype={self.dtype.name!r}, seed={self.seed})"


def _share_arrays(layers):
    """Tell each layer whether it may work in place: on an array that another layer has made and nobody reads any more."""
    for name, chain in (("may_overwrite_x", layers), ("may_overwrite_grad_y", layers[::-1])):
        is_own = False  # what comes from outside
        for layer in chain:
            setattr(layer, name, is_own)
            gives = vars(type(layer)).get("gives")  # not inherited: a subclass may keep what its base gives away
            is_own = {"own": True, "view": is_own}.get(gives, False)


def _checked_dtype(dtype):
    if dtype is None:  # NumPy would read it as float64
        raise TypeError("dtype must be float32 or float64, but is None")
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, but is {dtype}")
    return dtype


def _checked_layers(layers):
    if not isinstance(layers, (list, tuple)):
        raise TypeError(f"layers must be a list of layers, but is of type {type(layers).__name__}")
    if not layers:
        raise ValueError("layers must have at least one layer, but is empty")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(f"layers[{i}] must be a layer such as nn.Dense(10), but is {layer!r}")
        if layer.in_model:
            raise ValueError(f"layers[{i}] already belongs to another model: {layer!r}; make a new one")
        if any(layer is other for other in layers[:i]):
            raise ValueError(f"layers[{i}] stands in the list twice: {layer!r}; make a new one")
    return tuple(layers)
