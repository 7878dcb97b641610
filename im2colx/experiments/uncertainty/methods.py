"""One network, four ways to hold its weights: as numbers, and as three kinds of distributions.

    28 x 28 x 1 -> CONV 8 filters 5 x 5, stride 2 -> ReLU -> CONV 16 filters 5 x 5, stride 2 -> ReLU -> FC 10

All three layers are FC layers by one and the same rule, the CONV layers on the rows of their patch matrix.  Where the
rule draws at random, it does so for the columns of that matrix or for the weights, once for all patches of an image.
So every draw is a CONV layer again: `convolutions` returns its kernels, and `im2colx.conv2d` gives the same.
"""

import itertools
from typing import NamedTuple

import numpy as np

from im2colx import nn

from .layers import BayesDense, ConcreteDense, Elbo, Patches

SIDE, CLASSES = 28, 10
KERNEL, STRIDE = 5, 2
FILTERS = (8, 16)
BATCH = 64
LEARNING_RATE = 3e-3
RATE = 0.2  # of MC dropout: chosen, where Concrete dropout learns


class Method(NamedTuple):
    """A way to make an FC layer."""

    name: str
    dense: object  # (units, number of training images) -> the layers that make up one FC layer
    is_random: bool = True


METHODS = {
    "deterministic": Method("plain network", lambda units, examples: [nn.Dense(units)], is_random=False),
    "dropout": Method("MC dropout", lambda units, examples: [nn.Dropout(RATE, shared=(0,)), nn.Dense(units)]),
    "concrete": Method("Concrete dropout", lambda units, examples: [ConcreteDense(units, examples)]),
    "bayes": Method("Bayes by Backprop", lambda units, examples: [BayesDense(units, examples)]),
}


def build(method, examples, seed, dtype="float32"):
    """Return the network with the FC layers of a method, to be trained on so many examples.

    The last layer has one row and so one draw, too: its input is made a patch matrix of one row.
    """
    layers, side = [], SIDE
    for filters in FILTERS:
        side = (side - KERNEL) // STRIDE + 1
        layers += [Patches(KERNEL, STRIDE), *METHODS[method].dense(filters, examples)]
        layers += [nn.Reshape((side, side, filters)), nn.ReLU()]
    inputs = side * side * FILTERS[-1]
    layers += [nn.Reshape((1, inputs)), *METHODS[method].dense(CLASSES, examples), nn.Flatten()]
    return nn.Sequential(layers, input_shape=(SIDE, SIDE, 1), dtype=dtype, seed=seed)


def train(method, images, labels, epochs, seed, after_epoch=lambda _: None):
    """Train a network with a method; `after_epoch` is the trainer's callback.

    Returns
    -------
    model : nn.Sequential
    losses : list of float
        Of every epoch, penalties included.
    rates : list of list of float
        The dropout rates of the layers, before the first epoch and after each; of Concrete dropout alone.
    """
    model = build(method, len(images), seed)
    rates = []

    def note():
        rates.append([layer.rate for layer in model.layers if isinstance(layer, ConcreteDense)])

    def callback(trainer):
        note()
        after_epoch(trainer)

    note()
    trainer = nn.Trainer(model, Elbo(model.layers), nn.Adam(lr=LEARNING_RATE), seed=seed)
    history = trainer.fit(images, labels, epochs, BATCH, progress=False, callback=callback)
    return model, history["train_loss"], rates if rates[0] else []


def sample(model, method, images, draws, seed):
    """Class probabilities of images (n, 28, 28), under several draws of the weights: (draws, n, 10), float64.

    A plain network has one draw.
    """
    draws = draws if METHODS[method].is_random else 1
    result = np.empty((draws, len(images), CLASSES))
    for start in range(0, len(images), BATCH):
        batch = slice(start, start + BATCH)
        model.reseed(seed, start)
        rows = model.layers[0].forward(images[batch, ..., np.newaxis])  # Φ: the same for every draw
        for draw in range(draws):
            scores = rows
            for layer in model.layers[1:]:
                scores = layer.forward(scores, METHODS[method].is_random)
            result[draw, batch] = _softmax(scores)
    return result


def _softmax(scores):
    scores = np.exp(np.subtract(scores, scores.max(axis=-1, keepdims=True), dtype=np.float64))
    return scores / scores.sum(axis=-1, keepdims=True)


def convolutions(model, seed):
    """The network that a draw is, with CONV layers in the usual form: an `nn.Sequential` of `nn.Conv2D`.

    Parameters
    ----------
    model : nn.Sequential
        As `build` makes it.
    seed : int
        The draw is the first after ``model.reseed(seed)``, for a batch of one image.

    Returns
    -------
    nn.Sequential
        Its kernels are the drawn weight matrices, reshaped: (KH*KW*C, F) to (KH, KW, C, F).
    """
    model.reseed(seed)
    weights = []
    for is_fc, chain in itertools.groupby(model.layers, lambda layer: isinstance(layer, (nn.Dropout, nn.Dense, BayesDense))):
        if is_fc:
            weights += _drawn(list(chain), model.dtype)
    network = nn.Sequential(
        [
            *(layer for filters in FILTERS for layer in (nn.Conv2D(filters, KERNEL, STRIDE), nn.ReLU())),
            nn.Flatten(),
            nn.Dense(CLASSES),
        ],
        input_shape=(SIDE, SIDE, 1),
        dtype=model.dtype,
    )
    network.set_weights([weight.reshape(shaped.shape) for weight, shaped in zip(weights, network.get_weights(), strict=True)])
    return network


def _drawn(chain, dtype):
    """The weight matrix and the bias of one draw of an FC layer, found by giving it a row of zeros and unit rows."""
    inputs = chain[-1].parameters()[0][1].shape[0]
    rows = np.concatenate([np.zeros((1, inputs)), np.eye(inputs)]).astype(dtype)[np.newaxis]
    for layer in chain:
        rows = layer.forward(rows, training=True)
    return [rows[0, 1:] - rows[0, 0], rows[0, 0]]


def rounding_gap(model, images, seed):
    """The largest difference of a score between the network and its `convolutions`, over the largest score.

    Every image (n, 28, 28) has a draw of its own.
    """
    gap = scale = 0.0
    for index, image in enumerate(images[..., np.newaxis]):
        by_convolutions = convolutions(model, seed + index).forward(image[np.newaxis])
        model.reseed(seed + index)
        scores = model.forward(image[np.newaxis], training=True)
        gap = max(gap, float(np.abs(scores - by_convolutions).max()))
        scale = max(scale, float(np.abs(scores).max()))
    return gap / scale
