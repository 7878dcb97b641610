"""FC layers whose weights are random, and the one layer that makes CONV layers of them.

`ConcreteDense` and `BayesDense` are written for an FC layer and for nothing else: rows of Q numbers, a weight matrix
(Q, F).  A CONV layer is `Patches` followed by any of them, since ``Y = Φ W``.

A layer with a prior has a ``penalty()``: its share of the KL divergence from the prior, divided by the number of
training images, because the loss is a mean over images too.  `backward` adds the gradient of that to the gradients of
the layer's weights; `Elbo` adds the number to the loss.
"""

import math

import numpy as np
from scipy.special import expit

from im2colx import col2im, im2col, nn, output_shape

TEMPERATURE = 0.1  # of the concrete relaxation, as Gal, Hron & Kendall (2017) have it

# Adam moves every number by about its learning rate in a step, and the logit of a dropout rate has further to go than a
# weight: from 0.1 to 0.01 it is 2.4.  So what is trained is the logit over this.
SPEED = 5


class Patches(nn.Layer):
    """The patch matrix as a layer: images (H, W, C) to rows (OH*OW, KH*KW*C), by `im2colx.im2col`.

    Followed by an FC layer with `filters` units, this is a CONV layer: the weight matrix is ``kernel.reshape(-1, F)``.
    """

    def __init__(self, kernel, stride=1):
        self.kernel, self.stride = kernel, stride

    def output_shape(self, input_shape):
        kernel = (self.kernel, self.kernel, input_shape[-1], 1)
        _, height, width, _ = output_shape((1, *input_shape), kernel, self.stride, layout="NHWC")
        return (height * width, self.kernel**2 * input_shape[-1])

    def forward(self, x, training=False):
        self._x_shape = x.shape
        phi = im2col(x, self.kernel, self.stride, layout="NHWC")
        return phi.reshape(len(x), *self.output_shape(x.shape[1:]))

    def backward(self, grad_y, input_gradient=True):
        if not input_gradient:
            return None
        rows = grad_y.reshape(-1, grad_y.shape[-1])
        return col2im(rows, self._x_shape, self.kernel, self.stride, layout="NHWC")

    def __repr__(self):
        return f"Patches({self.kernel}, stride={self.stride})"


class ConcreteDense(nn.Dense):
    """An FC layer with dropout on its inputs, at a rate p that is learned (Gal, Hron & Kendall 2017).

    Column q of the input is scaled by ``s_q = (1 - z_q) / (1 - p)``.  Dropout has z_q = 1 with probability p, else 0,
    which has no derivative by p; its concrete relaxation has::

        z_q = sigmoid((logit p + logit u_q) / t),    u_q uniform on (0, 1),    t = 0.1

    One draw of z serves all rows of a sample: a draw is a weight matrix diag(s) W, hence for a CONV layer one kernel.
    The penalty is the KL divergence of the paper, for a Gaussian prior with length scale l, over N training images::

        (l^2 / 2 * ||W||^2 / (1 - p)  -  Q * H(p)) / N,    H(p) = -p log p - (1 - p) log(1 - p)

    Parameters
    ----------
    units : int
    examples : int
        N.
    rate : float
        Where p starts.
    length_scale : float
        l.

    Attributes
    ----------
    weight, bias
        As in `nn.Dense`.
    theta : ndarray, shape (1,)
        log(p / (1 - p)) / SPEED.
    """

    def __init__(self, units, examples, *, rate=0.1, length_scale=0.01):
        super().__init__(units)
        self.weight_names = (*self.weight_names, "theta")
        self.examples, self.start, self.length_scale = examples, rate, length_scale

    @property
    def rate(self):
        """p, the probability to drop."""
        return float(expit(self.logit))

    @property
    def logit(self):
        return SPEED * float(self.theta[0])

    def build(self, input_shape, dtype, rng):
        super().build(input_shape, dtype, rng)
        self.theta = np.full(1, math.log(self.start / (1 - self.start)) / SPEED, dtype)
        self.grad_theta = np.zeros(1, dtype)
        self._rng = rng.spawn(1)[0]

    def reseed(self, seeds):
        self._rng = np.random.default_rng(seeds)

    def penalty(self):
        p, logit = self.rate, self.logit
        entropy = p * np.logaddexp(0, -logit) + (1 - p) * np.logaddexp(0, logit)
        return (self._scaled_norm() - len(self.weight) * entropy) / self.examples

    def forward(self, x, training=False):
        if not training:
            return super().forward(x)
        shape = (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
        noise = self._rng.logistic(size=shape)  # logit u for a uniform u
        self._z = expit((self.logit + noise) / TEMPERATURE).astype(x.dtype)
        self._x, self._scale = x, (1 - self._z) / (1 - self.rate)
        return super().forward(x * self._scale, training=True)

    def backward(self, grad_y, input_gradient=True):
        grad = super().backward(grad_y)  # with respect to the scaled inputs
        p, z, inputs = self.rate, self._z, len(self.weight)
        by_scale = (grad * self._x).sum(axis=tuple(range(1, grad.ndim - 1)), keepdims=True)
        scale_by_logit = (p * (1 - z) - z * (1 - z) / TEMPERATURE) / (1 - p)
        # d H(p) / d logit = -p (1 - p) logit, and d 1/(1 - p) / d logit = p / (1 - p)
        by_penalty = p * self._scaled_norm() + inputs * p * (1 - p) * self.logit
        by_logit = np.sum(by_scale * scale_by_logit, dtype=np.float64) + by_penalty / self.examples
        self.grad_theta[0] = SPEED * by_logit
        self.grad_weight += self.weight * (self.length_scale**2 / (1 - p) / self.examples)
        return grad * self._scale if input_gradient else None

    def _scaled_norm(self):
        norm = np.sum(np.square(self.weight, dtype=np.float64))
        return self.length_scale**2 / 2 * float(norm) / (1 - self.rate)

    def __repr__(self):
        return f"ConcreteDense({self.units}, {self.examples}, rate={self.start}, length_scale={self.length_scale})"


class BayesDense(nn.Layer):
    """An FC layer whose weights are Gaussian: Bayes by Backprop (Blundell et al. 2015).

    Every forward pass in training draws one weight matrix for the whole batch, ``W = mean + sigma * noise`` with
    ``sigma = log(1 + exp(rho))``, and the gradient reaches mean and rho through it.  Without training, W is the mean.
    The prior of each weight is N(0, 2 / Q), the variance with which He et al. start such a layer.  The penalty is the
    KL divergence from it, in closed form, over N training images::

        sum(log(prior / sigma) + (sigma^2 + mean^2) / (2 prior^2) - 1/2) / N

    which spreads the complexity cost evenly over the minibatches of an epoch.  The bias is an ordinary number.

    Parameters
    ----------
    units : int
    examples : int
        N.
    start : float
        sigma / prior at the start: small, lest noise drown the first gradients.

    Attributes
    ----------
    mean, rho : ndarray, shape (Q, units)
    bias : ndarray, shape (units,)
    """

    weight_names = ("mean", "rho", "bias")

    def __init__(self, units, examples, *, start=0.3):
        self.units, self.examples, self.start = units, examples, start

    @property
    def sigma(self):
        return np.logaddexp(0, self.rho)

    def output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def build(self, input_shape, dtype, rng):
        inputs = input_shape[-1]
        self.prior = math.sqrt(2 / inputs)
        # Uniform with the prior's variance, as `nn.Dense` starts: the methods then start alike.
        bound = math.sqrt(3) * self.prior
        self.mean = rng.uniform(-bound, bound, (inputs, self.units)).astype(dtype, copy=False)
        self.rho = np.full(self.mean.shape, math.log(math.expm1(self.start * self.prior)), dtype)
        self.bias = np.zeros(self.units, dtype)
        for name in self.weight_names:
            setattr(self, f"grad_{name}", np.zeros_like(getattr(self, name)))
        self._rng = rng.spawn(1)[0]

    def reseed(self, seeds):
        self._rng = np.random.default_rng(seeds)

    def penalty(self):
        mean, sigma = self.mean.astype(np.float64), self.sigma.astype(np.float64)
        terms = np.log(self.prior / sigma) + (sigma**2 + mean**2) / (2 * self.prior**2) - 0.5
        return float(terms.sum()) / self.examples

    def forward(self, x, training=False):
        rows, weight = x.reshape(-1, x.shape[-1]), self.mean
        if training:
            # In float32 whatever the dtype: a network in float64 has the draws of its float32 twin.
            self._noise = self._rng.standard_normal(self.mean.shape, np.float32).astype(x.dtype, copy=False)
            self._weight = weight = self.mean + self.sigma * self._noise
            self._rows, self._x_shape = rows, x.shape
        return (rows @ weight + self.bias).reshape(*x.shape[:-1], self.units)

    def backward(self, grad_y, input_gradient=True):
        grad_y = grad_y.reshape(-1, self.units)
        grad_weight = self._rows.T @ grad_y
        sigma = self.sigma
        self.grad_mean[...] = grad_weight + self.mean / (self.prior**2 * self.examples)
        by_sigma = grad_weight * self._noise + (sigma / self.prior**2 - 1 / sigma) / self.examples
        self.grad_rho[...] = by_sigma * expit(self.rho)
        np.sum(grad_y, axis=0, out=self.grad_bias)
        return (grad_y @ self._weight.T).reshape(self._x_shape) if input_gradient else None

    def __repr__(self):
        return f"BayesDense({self.units}, {self.examples}, start={self.start})"


class Elbo(nn.SoftmaxCrossEntropy):
    """The loss of training: cross-entropy, plus the penalties of `layers`; both per training image.

    It is minus the evidence lower bound, divided by the number of training images.  `value` is the cross-entropy alone.
    """

    def __init__(self, layers):
        self._layers = [layer for layer in layers if hasattr(layer, "penalty")]

    def value(self, prediction, target):
        return super().value_and_grad(prediction, target)[0]

    def value_and_grad(self, prediction, target):
        value, gradient = super().value_and_grad(prediction, target)
        return value + sum(layer.penalty() for layer in self._layers), gradient

    def __repr__(self):
        return "Elbo()"
