"""The network, in the manner of LeNet (LeCun et al. 1998): CONV, rectify, pool, twice, and then two FC layers."""

import dataclasses

import numpy as np

from im2colx import nn

SIDE = 28  # pixels along one side of an image
CLASSES = 10
KERNEL = 5
DROPOUT = 0.5
BATCH = 500  # images that are asked about at a time


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the network is; what else it is, `layers` tells."""

    filters: tuple = (16, 32)  # of the two CONV layers
    units: int = 128  # of the FC layer between


def layers(size):
    """The layers, from the image to a score for each digit."""
    first, second = size.filters
    return [
        nn.Conv2D(first, KERNEL), nn.ReLU(), nn.MaxPool2D(2),
        nn.Conv2D(second, KERNEL), nn.ReLU(), nn.MaxPool2D(2),
        nn.Flatten(), nn.Dropout(DROPOUT), nn.Dense(size.units), nn.ReLU(), nn.Dense(CLASSES),
    ]  # fmt: skip


def build(size, seed=0):
    """The network with random weights."""
    return nn.Sequential(layers(size), input_shape=(SIDE, SIDE, 1), seed=seed)


def pixels(images):
    """Images (n, 28, 28) of numbers from 0, the paper, to 255, the ink, as the network takes them."""
    return (images / np.float32(255)).astype(np.float32, copy=False)[..., np.newaxis]


def probabilities(scores):
    """Softmax, in float64: a number for each class, which add up to 1."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(axis=-1, keepdims=True)


def save(path, model, size, facts):
    """Write the network to a file that appears whole or not at all; `facts` are kept beside the weights."""
    made = {"size": dataclasses.asdict(size), "layers": [repr(layer) for layer in model.layers]}
    nn.save_checkpoint(path, dict(model.parameters()), {"classifier": made, **facts})


def load(path):
    """Read the network from a file that ``im2colx experiment classifier`` wrote.

    Parameters
    ----------
    path : path-like
        ``classifier.npz``.

    Returns
    -------
    im2colx.nn.Sequential

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or holds something else.
    """
    arrays, facts = nn.load_checkpoint(path)
    try:
        made = facts["classifier"]
        model = build(Size(tuple(made["size"]["filters"]), made["size"]["units"]))
        if made["layers"] != [repr(layer) for layer in model.layers]:
            raise ValueError(f"its layers are {', '.join(made['layers'])}")  # noqa: TRY301
        model.set_weights([arrays[name] for name, _ in model.parameters()])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not hold the network of im2colx experiment classifier: {error}") from error
    return model


def classify(model, images):
    """Which digit an image shows, and how sure the network is.

    Parameters
    ----------
    model : im2colx.nn.Sequential
        As `load` gives it.
    images : array_like, (28, 28) or (n, 28, 28)
        Numbers from 0, the paper, to 255, the ink: images of MNIST, or what `read_picture` makes of others.

    Returns
    -------
    digit : int, or ndarray of int, shape (n,)
    confidence : float, or ndarray of float, shape (n,)
        The share of the softmax output that the digit has, from 0.1 to 1.

    Raises
    ------
    TypeError, ValueError
        If `images` has another shape, holds no numbers, or numbers that are not from 0 to 255.

    Examples
    --------
    A network that has learned nothing yet:

    >>> import numpy as np
    >>> from im2colx.experiments.classifier import classify, network
    >>> model = network.build(network.Size())
    >>> digits, confidence = classify(model, np.zeros((3, 28, 28)))
    >>> digits, confidence.round(3)
    (array([0, 0, 0]), array([0.1, 0.1, 0.1]))
    """
    images = np.asarray(images)
    if images.dtype.kind not in "biuf":
        raise TypeError(f"images must hold numbers from 0 to 255, but has dtype {images.dtype}")
    if images.ndim not in (2, 3) or images.shape[-2:] != (SIDE, SIDE):
        raise ValueError(f"images must have shape ({SIDE}, {SIDE}) or (n, {SIDE}, {SIDE}), but has {images.shape}")
    if images.size and not (images.min() >= 0 and images.max() <= 255):
        raise ValueError(f"images must hold numbers from 0 to 255, but has {images.min()} to {images.max()}")
    found = probabilities(model.predict(pixels(images.reshape(-1, SIDE, SIDE)), BATCH))
    digits, confidence = found.argmax(axis=1), found.max(axis=1)
    return (digits, confidence) if images.ndim == 3 else (int(digits[0]), float(confidence[0]))
