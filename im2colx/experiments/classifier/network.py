"""The network, in the manner of LeNet (LeCun et al. 1998): CONV, rectify, pool, twice, and then two FC layers."""

import dataclasses

import numpy as np

from im2colx import nn

SIDE = 28  # pixels along one side of an image
CLASSES = 10
KERNEL = 5
DROPOUT = 0.5
FORM = 1  # of the network and the file; to be raised where `layers` changes what it computes
BATCH = 500  # images that are asked about at a time


@dataclasses.dataclass(frozen=True)
class Size:
    filters: tuple = (16, 32)  # of the two CONV layers
    units: int = 128  # of the first FC layer


def layers(size):
    """The layers, from the image to a score for each digit."""
    first, second = size.filters
    return [
        nn.Conv2D(first, KERNEL), nn.ReLU(), nn.MaxPool2D(2),
        nn.Conv2D(second, KERNEL), nn.ReLU(), nn.MaxPool2D(2),
        nn.Flatten(), nn.Dropout(DROPOUT), nn.Dense(size.units), nn.ReLU(), nn.Dense(CLASSES),
    ]  # fmt: skip


def build(size, seed=0):
    return nn.Sequential(layers(size), input_shape=(SIDE, SIDE, 1), seed=seed)


def pixels(images):
    """Images (n, 28, 28), 0 to 255, as the network takes them."""
    return (images / np.float32(255)).astype(np.float32, copy=False)[..., np.newaxis]


def probabilities(scores):
    """Softmax, in float64."""
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True), dtype=np.float64)
    return powers / powers.sum(axis=-1, keepdims=True)


def save(path, model, size, facts):
    """Write the network, with `facts` beside it, to a file that appears whole or not at all."""
    nn.save_checkpoint(path, dict(model.parameters()), {"classifier": FORM, **dataclasses.asdict(size), **facts})


def load(path):
    """Read the network that ``im2colx experiment classifier`` trained.

    Parameters
    ----------
    path : path-like
        Of ``classifier.npz``.

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
        if facts["classifier"] != FORM:
            raise ValueError(f"its form is {facts['classifier']!r}, not {FORM}")
        model = build(Size(tuple(facts["filters"]), facts["units"]))
        model.set_weights([arrays[name] for name, _ in model.parameters()])
    except (KeyError, TypeError, ValueError, MemoryError) as error:
        raise ValueError(f"{path} does not hold the network of im2colx experiment classifier: {error}") from error
    return model


def classify(model, images):
    """Which digit an image shows, and how sure the network is.

    Parameters
    ----------
    model : im2colx.nn.Sequential
        As `load` gives it.
    images : array_like, (28, 28) or (n, 28, 28)
        From 0, paper, to 255, ink: digits of MNIST, or what `read_picture` gives.

    Returns
    -------
    digit : int, or ndarray of int, (n,)
    confidence : float, or ndarray of float, (n,)
        The digit's softmax output, 0.1 to 1.

    Raises
    ------
    TypeError, ValueError
        If `images` has another shape, or holds anything but numbers from 0 to 255.

    Examples
    --------
    A network that has learned nothing yet:

    >>> import numpy as np
    >>> from im2colx.experiments.classifier import classify, network
    >>> classify(network.build(network.Size()), np.zeros((28, 28)))
    (0, 0.1)
    """
    images = np.asarray(images)
    if images.dtype.kind not in "biuf":
        raise TypeError(f"images must hold numbers from 0 to 255, but has dtype {images.dtype}")
    if images.ndim not in (2, 3) or images.shape[-2:] != (SIDE, SIDE):
        raise ValueError(f"images must have shape ({SIDE}, {SIDE}) or (n, {SIDE}, {SIDE}), but has {images.shape}")
    if images.size and not (images.min() >= 0 and images.max() <= 255):
        raise ValueError(f"images must hold numbers from 0 to 255, but has {images.min()} to {images.max()}")
    if images.dtype.kind == "f" and images.size and 0 < images.max() <= 1:
        raise ValueError(f"images must hold numbers from 0 to 255, but has none above {images.max():g}: multiply them by 255")
    found = probabilities(model.predict(pixels(images.reshape(-1, SIDE, SIDE)), BATCH))
    digits, confidence = found.argmax(axis=1), found.max(axis=1)
    return (digits, confidence) if images.ndim == 3 else (int(digits[0]), float(confidence[0]))
