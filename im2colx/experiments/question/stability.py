"""How near the steps of an optimizer are to the limit beyond which small deviations grow.

Near a minimum of a loss with Hessian H, a small deviation d from the path of gradient descent follows ``d -> d - lr H d``:
along an eigenvector of H with eigenvalue λ it shrinks as long as lr λ < 2, and grows beyond.  Adam gives every weight a
rate of its own, ``lr / D`` with ``D = sqrt(v') + eps'``, and smooths the gradient: there it is the greatest eigenvalue of
``D^-1/2 H D^-1/2``, and the limit is 2 (1 + β1) / (1 - β1) = 38 for β1 = 0.9 (Cohen et al. 2022, arXiv 2207.14484).
The eigenvalue is found by power iteration; a product of H and a vector is the difference of two gradients.
"""

import math

import numpy as np

from im2colx import nn

from ..paper import BATCH

IMAGES = 3 * BATCH  # of the training images: H is that of the loss over these
ITERATIONS = 6
STEP = 3e-3  # length of the vector between the two gradients; all weights together are a vector about 43 long


def ratio(trainer, x, y):
    """Return the rate times the greatest eigenvalue, divided by the limit: above 1 small deviations grow.

    Parameters
    ----------
    trainer : nn.Trainer
        With `nn.SGD` without momentum, or `nn.Adam`, after some training.  Its weights are as before afterwards.
    x, y : ndarray
        Training data; the first `IMAGES` of it are used.

    Returns
    -------
    float
        From below: power iteration comes nearer to the eigenvalue with every step.
    """
    x, y = x[:IMAGES], y[:IMAGES]
    weights = [weight for _, weight in trainer.model.parameters()]
    start = [weight.copy() for weight in weights]
    rates, limit = _rates(trainer)
    roots = [np.sqrt(rate) for rate in rates]
    here = _gradient(trainer, x, y)
    vector = _start(here, roots)
    try:
        for _ in range(ITERATIONS):
            _scale(vector, 1 / _norm(vector))
            direction = [root * part for root, part in zip(roots, vector, strict=True)]
            length = STEP / _norm(direction)
            for weight, origin, part in zip(weights, start, direction, strict=True):
                np.add(origin, length * part, out=weight)
            there = _gradient(trainer, x, y)
            image = [root * (b - a) / length for root, a, b in zip(roots, here, there, strict=True)]
            eigenvalue = sum(float(np.vdot(a, b)) for a, b in zip(vector, image, strict=True))
            vector = image
    finally:
        for weight, origin in zip(weights, start, strict=True):
            weight[...] = origin
    return eigenvalue / limit


def _rates(trainer):
    """The rate of every weight as it is now, and the limit of rate times eigenvalue."""
    optimizer = trainer.optimizer
    names = [name for name, _ in trainer.model.parameters()]
    if isinstance(optimizer, nn.SGD):
        one = trainer.model.dtype.type(1)
        return [optimizer.lr * one] * len(names), 2
    state, correction = optimizer.get_state(), 1 - optimizer.beta2**optimizer.steps
    rates = []
    for name in names:
        root = np.sqrt(state[f"{name}.v"])
        root += optimizer.eps
        rates.append(optimizer.lr * math.sqrt(correction) / root)
    return rates, 2 * (1 + optimizer.beta1) / (1 - optimizer.beta1)


def _gradient(trainer, x, y):
    """The gradient of the loss over x, y: a list of arrays."""
    total = None
    for begin in range(0, len(x), BATCH):
        batch = slice(begin, begin + BATCH)
        prediction = trainer.model.forward(x[batch], training=True)
        _, gradient = trainer.loss.value_and_grad(prediction, y[batch])
        gradient *= len(x[batch]) / len(x)
        trainer.model.backward(gradient, input_gradient=False)
        parts = [part for _, part in trainer.model.gradients()]
        if total is None:
            total = [part.copy() for part in parts]
        else:
            for sum_, part in zip(total, parts, strict=True):
                sum_ += part
    return total


def _start(gradient, roots):
    """A vector that lies partly along the gradient, and nowhere where no gradient is (there H is zero too)."""
    rng = np.random.default_rng(0)
    vector = []
    for part, root in zip(gradient, roots, strict=True):
        along = root * part
        noise = rng.standard_normal(part.shape, dtype=part.dtype)
        noise *= part.dtype.type(0.3 * np.abs(along).mean())
        vector.append(along + noise * (part != 0))
    return vector


def _norm(arrays):
    return math.sqrt(sum(float(np.vdot(array, array)) for array in arrays))


def _scale(arrays, factor):
    for array in arrays:
        array *= array.dtype.type(factor)
