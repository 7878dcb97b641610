"""The study: train the network, have it read digits that it has never seen, swap its first layer, and have it read again."""

import dataclasses

import numpy as np

from im2colx import nn

from .. import _run
from . import swap
from .network import BATCH, CLASSES, Size, build, layers, pixels, probabilities

TRAINING_BATCH = 128
LEARNING_RATE = 0.001
CHECKPOINT = "network.npz"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run.

    Epochs, dropout and filters were chosen by how well networks trained on the first 50,000 of the training images read
    the other 10,000; no test image had a say.
    """

    epochs: int = 12
    images: int | None = None  # None: all there are
    seed: int = 14343
    size: Size = Size()

    def settled(self, available):
        return dataclasses.replace(self, images=available if self.images is None else self.images)


def train(settings, digits, **options):
    """Train the network, with options of `nn.Trainer.fit`.  No test image has a say.

    Returns the model, its history, and the weights after every epoch, in whose list each is as `set_weights` takes it.
    """
    model = build(settings.size, settings.seed)
    names = tuple(name for name, _ in model.parameters())
    # The weights of every epoch are kept: what they are worth is asked when all is over.
    trainer = nn.Trainer(model, nn.SoftmaxCrossEntropy(), nn.Adam(lr=LEARNING_RATE), seed=settings.seed, trace=names)
    trainer.fit(
        pixels(digits.train_images[: settings.images]), digits.train_labels[: settings.images], settings.epochs, TRAINING_BATCH,
        label="training", **options,
    )  # fmt: skip
    return model, trainer.history, list(zip(*(trainer.trace[name] for name in names), strict=True))


def examine(settings, digits, trained, *, show=True):
    """Have the network read the test images: as of every epoch, and swapped.  Returns numbers, as in ``classifier.json``."""
    (model, history, by_epoch), images, labels = trained, pixels(digits.test_images), digits.test_labels
    with _run.Progress(len(by_epoch) + len(swap.FORMS), show) as progress:
        progress.part("reading the test digits")
        test_loss, accuracy = [], []
        other = build(settings.size)
        for weights in by_epoch:
            other.set_weights(list(weights))
            scores = other.predict(images, BATCH)
            test_loss.append(nn.SoftmaxCrossEntropy().value(scores, labels))
            accuracy.append(float(np.mean(scores.argmax(axis=1) == labels)))
            progress.step()
        scores = model.predict(images, BATCH)
        swaps = {}
        for form, words in swap.FORMS.items():
            progress.part(f"reading them with an FC layer {words}")
            other = swap.swapped(layers(settings.size), model, form)
            swaps[form] = {"weights": other.layers[1].weight.size, **swap.compare(scores, other.predict(images, BATCH), labels)}
            progress.step()
    answers = scores.argmax(axis=1)
    return {
        "train_loss": history["train_loss"],
        "epoch_seconds": history["epoch_seconds"],
        "test_loss": test_loss,
        "accuracy_by_epoch": accuracy,
        "accuracy": float(np.mean(answers == labels)),
        "nearest_mean": nearest_mean(digits, settings.images),
        "confusion": confusion(labels, answers),
        "mistakes": mistakes(labels, probabilities(scores)),
        "swap": swaps,
    }


def confusion(labels, answers):
    """How often a digit (row) got an answer (column)."""
    counts = np.bincount(labels.astype(np.intp) * CLASSES + answers, minlength=CLASSES**2)
    return counts.reshape(CLASSES, CLASSES).tolist()


def mistakes(labels, found):
    """What was read wrong, the surest mistake first."""
    answers, confidence = found.argmax(axis=1), found.max(axis=1)
    wrong = np.flatnonzero(answers != labels)
    return [
        {"image": int(i), "digit": int(labels[i]), "answer": int(answers[i]), "confidence": float(confidence[i])}
        for i in wrong[np.argsort(-confidence[wrong], kind="stable")]
    ]


def nearest_mean(digits, count):
    """The accuracy of the plainest rule, which looks for the nearest of ten mean images."""
    images, labels = digits.train_images[:count], digits.train_labels[:count]
    seen = np.unique(labels)
    means = np.stack([images[labels == digit].mean(axis=0).ravel() for digit in seen])
    test = digits.test_images.reshape(-1, means.shape[1])
    squares = (means**2).sum(axis=1) - test @ (2 * means.T)  # of distances, but for what all have in common
    return float(np.mean(seen[squares.argmin(axis=1)] == digits.test_labels))
