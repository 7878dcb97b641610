"""The two networks of the paper, their training on real digits, and the distances between them.

The convolutional network (CNN) is

    28 x 28 x 1 -> Conv 128 filters 4 x 4, stride 2 -> ReLU -> flatten -> Dense 784 -> ReLU -> 28 x 28 x 1

and the fully connected one (FC) takes the patches that im2col (Algorithm 1) cuts from the same image,

    169 x 16 -> Dense 16 -> 128 on each of the 169 rows -> ReLU -> flatten -> Dense 784 -> ReLU -> 28 x 28 x 1.

Both have 16 * 128 + 21632 * 784 = 16 961 536 weights and no bias.  They learn the identity: the target is the image.
Everything is channels last (NHWC), as in the paper.
"""

import dataclasses
import functools
import hashlib
from typing import NamedTuple

import numpy as np

import im2colx
from im2colx import nn

SIDE = 28  # pixels along one side of an image
FILTERS, KERNEL, STRIDE = 128, 4, 2
ROWS = ((SIDE - KERNEL) // STRIDE + 1) ** 2  # 169 patches of an image
PATCH = KERNEL * KERNEL  # 16 pixels in each
BATCH = 128
VALIDATION = COMPARISON = 1000  # images
PAPER_EPOCHS = 400
PAPER_COMPARISON = 1001  # the authors compare on the training images 1001 to 2000, counted from 0

OPTIMIZERS = {
    "sgd": lambda: nn.SGD(lr=0.01),
    "adam": lambda: nn.Adam(lr=0.001, beta1=0.9, beta2=0.999, eps=1e-8),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run (together with the images).  The defaults are the paper's, but for `epochs`."""

    epochs: int = 20
    optimizers: tuple = ("sgd", "adam")
    images: int = 1000
    dtype: str = "float32"
    method: str = "auto"
    seed: int = 14343
    sum_dtype: str | None = "float64"  # of the gradients of layer 1: see `build_cnn`


class Images(NamedTuple):
    """The images of a run, each (n, 28, 28, 1) with pixels from 0 to 1, and one example of every digit."""

    train: np.ndarray
    validation: np.ndarray
    comparison: np.ndarray
    examples: np.ndarray


class Run(NamedTuple):
    """What one optimizer made of the two networks, by network ("cnn", "fc")."""

    history: dict  # the Trainer's histories
    weights: dict  # the weights of layer 1 after training, (16, 128)
    reconstructions: dict  # of the examples, (10, 28, 28)
    output_distance: float
    weight_distance: float
    distances: list = ()  # the weight distance after every epoch
    sha256: dict = {}  # of all weights of each network  # noqa: RUF012
    processes: dict = {}  # `nn.Trainer.processes` of each network  # noqa: RUF012


def choose_images(digits, settings):
    """Choose the images for training, validation and comparison: the paper's rows, no image in two of them.

    Parameters
    ----------
    digits : im2colx.datasets.MNIST
    settings : Settings
        Its `images` first training images are trained on.

    Returns
    -------
    Images

    Raises
    ------
    ValueError
        If the source has too few images.
    """
    first = max(PAPER_COMPARISON, settings.images)  # new ones also where more than 1000 are trained on
    available = len(digits.train_images) - COMPARISON
    if settings.images > available:
        raise ValueError(
            f"--images {settings.images} is more than the {available} that remain for training of "
            f"{len(digits.train_images)} ({digits.source['name']}) once {COMPARISON} are kept for the comparison"
        )
    comparison = slice(first, first + COMPARISON)
    labels = digits.train_labels[comparison]
    examples = digits.train_images[comparison][[np.argmax(labels == digit) for digit in range(10)]]
    return Images(
        *(
            _pixels(chosen, settings.dtype)
            for chosen in (
                digits.train_images[: settings.images],
                digits.test_images[:VALIDATION],
                digits.train_images[comparison],
                examples,
            )
        )
    )


def _pixels(images, dtype):
    return (images / np.array(255, dtype)).astype(dtype)[..., np.newaxis]


def build_cnn(settings, first=None):
    """Return the convolutional network, with He uniform weights drawn from the seed; `first` is its layer 1.

    A gradient of layer 1 sums the 21,632 products of a batch, which the two networks do in orders of their own.  In float32
    the sums differ in the last digit, by the hundredth step some weight does, and then it is a matter of time until a ReLU
    of the output is open for one network and shut for the other, which moves every weight of layer 1.  Summed in float64 and
    rounded once they seldom differ.
    """
    first = first or nn.Conv2D(
        FILTERS, KERNEL, stride=STRIDE, bias=False, layout="NHWC", method=settings.method, sum_dtype=settings.sum_dtype
    )
    return nn.Sequential(
        [first, *_rest()],
        input_shape=(SIDE, SIDE, 1),
        dtype=settings.dtype,
        seed=settings.seed,
    )


def build_fc(settings):
    """Return the fully connected network that starts from the same weights as `build_cnn`."""
    fc = nn.Sequential(
        [nn.Dense(FILTERS, bias=False, sum_dtype=settings.sum_dtype), *_rest()],
        input_shape=(ROWS, PATCH),
        dtype=settings.dtype,
    )
    filters, last = build_cnn(settings).get_weights()
    fc.set_weights([filters.reshape(PATCH, FILTERS), last])
    return fc


def _rest():
    """The layers that both networks share."""
    return [nn.ReLU(), nn.Flatten(), nn.Dense(SIDE * SIDE, bias=False), nn.ReLU(), nn.Reshape((SIDE, SIDE, 1))]


def patches(images):
    """Cut images (n, 28, 28, 1) into the input of the fully connected network, (n, 169, 16), by Algorithm 1."""
    return im2colx.im2col(images, KERNEL, STRIDE, layout="NHWC").reshape(len(images), ROWS, PATCH)


def run(optimizer, settings, images, *, checkpoints=None, checkpoint_seconds=None, resume=False, progress=True, client=None):
    """Train both networks with one optimizer and compare them.

    Parameters
    ----------
    optimizer : {"sgd", "adam"}
    settings : Settings
    images : Images
    checkpoints : pathlib.Path, optional
        A folder for the checkpoints.
    checkpoint_seconds : float, optional
        How old a checkpoint may become.
    resume : bool
        Whether to go on from the checkpoints there, if there are any.
    progress : bool
        Whether to show a progress bar.
    client : distributed.Client, optional
        Of the workers to train on, instead of this process alone: see `nn.ParallelTrainer`.

    Returns
    -------
    Run
    """
    trainer_of = functools.partial(nn.ParallelTrainer, client=client) if client else nn.Trainer
    history, weights, reconstructions, traces, sha256, processes = {}, {}, {}, {}, {}, {}
    for network, build, cut in (("cnn", build_cnn, np.asarray), ("fc", build_fc, patches)):
        model = build(settings)
        trainer = trainer_of(model, nn.MSE(), OPTIMIZERS[optimizer](), seed=settings.seed, trace=("0.weight",))
        history[network] = trainer.fit(
            cut(images.train),
            images.train,
            settings.epochs,
            BATCH,
            validation_data=(cut(images.validation), images.validation),
            progress=progress,
            checkpoint=checkpoints and checkpoints / f"{optimizer}-{network}.npz",
            checkpoint_every=checkpoint_every(settings.epochs),
            checkpoint_seconds=checkpoint_seconds,
            resume=resume,
            label=f"{optimizer.upper() if optimizer == 'sgd' else 'Adam'} {network.upper()}",
        )
        weights[network] = model.get_weights()[0].reshape(PATCH, FILTERS)
        traces[network] = [copy.reshape(PATCH, FILTERS) for copy in trainer.trace["0.weight"]]
        sha256[network] = weights_sha256(model)
        processes[network] = trainer.processes
        reconstructions[network] = model.predict(cut(images.examples)).reshape(-1, SIDE, SIDE)
    return Run(
        history,
        weights,
        reconstructions,
        output_distance(weights["cnn"], weights["fc"], images.comparison, settings.method),
        weight_distance(weights["cnn"], weights["fc"]),
        [weight_distance(*pair) for pair in zip(traces["cnn"], traces["fc"], strict=True)],
        sha256,
        processes,
    )


def checkpoint_every(epochs):
    """Epochs between two checkpoints, whatever the time: a quarter of the run (one of Adam holds 200 MB in float32)."""
    return max(1, epochs // 4)


def checkpoints_nbytes(settings):
    """The bytes of the checkpoints at the end: of each training the last one and, after more than one epoch, that before it."""
    weights = (PATCH * FILTERS + ROWS * FILTERS * SIDE * SIDE) * np.dtype(settings.dtype).itemsize
    arrays = {"sgd": 1, "adam": 3}  # as large as the weights: these, and Adam's two moments
    return weights * sum(2 * arrays[optimizer] for optimizer in settings.optimizers) * min(settings.epochs, 2)


def weights_sha256(model):
    """Return the SHA-256 of the bytes of all weights, little-endian, in hexadecimal: equal for bit-equal networks."""
    digest = hashlib.sha256()
    for _, array in model.parameters():
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")))
    return digest.hexdigest()


def output_distance(cnn_weights, fc_weights, images, method="auto"):
    """Return the mean over images of the Euclidean distance between the outputs of both layers 1, before ReLU.

    Parameters
    ----------
    cnn_weights, fc_weights : ndarray, shape (16, 128)
    images : ndarray, shape (n, 28, 28, 1)
    method : str
        The method of `im2colx.conv2d` for the convolutional layer; the other is a `nn.Dense` on the patches.

    Returns
    -------
    float
    """
    filters = np.ascontiguousarray(cnn_weights).reshape(KERNEL, KERNEL, 1, FILTERS)
    dense = nn.Sequential([nn.Dense(FILTERS, bias=False)], input_shape=(ROWS, PATCH), dtype=fc_weights.dtype)
    dense.set_weights([fc_weights])
    distances = []
    for start in range(0, len(images), BATCH):  # all at once would hold 1000 * 21632 numbers, three times
        some = images[start : start + BATCH]
        by_conv = im2colx.conv2d(some, filters, stride=STRIDE, layout="NHWC", method=method)
        by_dense = dense.predict(patches(some), BATCH)
        difference = np.subtract(by_conv.reshape(by_dense.shape), by_dense, dtype=np.float64)
        distances.append(np.linalg.norm(difference.reshape(len(some), -1), axis=1))
    return float(np.mean(np.concatenate(distances)))


def weight_distance(cnn_weights, fc_weights):
    """Return the Euclidean distance between the layer-1 weights of the two networks."""
    return float(np.linalg.norm(np.subtract(cnn_weights, fc_weights, dtype=np.float64)))
