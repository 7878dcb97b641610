"""The study: every method trained from several seeds, and asked about turned digits and images that are no digits."""

import dataclasses
from typing import NamedTuple

import numpy as np

from .. import _run
from . import images, measure, methods

TEST = 500  # of the test images, the first
QUARTER = 90  # degrees: the angle at which digits are compared with the other sets
MEASURES = ("entropy", "mutual_information", "confidence")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run, together with the digits."""

    epochs: int = 10
    images: int = 4000
    seeds: int = 5
    draws: int = 20
    seed: int = 14343


class Example(NamedTuple):
    """One digit at every angle, and what the networks of the first seed make of it."""

    images: np.ndarray  # (angles, 28, 28)
    probabilities: dict  # by method: (angles, 10), the mean over the draws


def run(settings, digits, *, show=True):
    """Train and ask all networks.

    Parameters
    ----------
    settings : Settings
    digits : im2colx.datasets.MNIST
    show : bool
        Whether to show progress on stderr.

    Returns
    -------
    results : dict
        Numbers alone, as in ``metrics.json``: for each method, "turned" has lists by seed and angle, "sets" and "auroc"
        have lists by seed.
    sets : dict
        The images (n, 28, 28) of each set.
    example : Example
    """
    test, labels = _pixels(digits.test_images[:TEST]), digits.test_labels[:TEST]
    turned = {angle: images.rotated(test, angle) for angle in images.ANGLES}
    sets = {"upright": test, "turned": turned[QUARTER], **images.foreign(test, settings.seed)}
    training = _pixels(digits.train_images[: settings.images])[..., np.newaxis], digits.train_labels[: settings.images]

    results = {"angles": list(images.ANGLES), "methods": {}}
    probabilities = {}
    steps = len(methods.METHODS) * settings.seeds * (settings.epochs + len(turned) + len(sets))
    with _run.Progress(steps, show) as progress:
        for name, method in methods.METHODS.items():
            found = results["methods"][name] = _empty(method, sets)
            for index in range(settings.seeds):
                progress.part(f"{method.name}, seed {index + 1} of {settings.seeds}")
                seed = settings.seed + index
                model, losses, rates = methods.train(name, *training, settings.epochs, seed, progress.step)
                found["train_loss"].append(losses)
                found["rates"].append(rates)
                found["rounding_gap"].append(methods.rounding_gap(model, test[:5], seed))

                by_angle, by_set = {}, {}
                for angle, some in turned.items():
                    by_angle[angle] = methods.sample(model, name, some, settings.draws, seed)
                    progress.step()
                for kind, some in sets.items():
                    by_set[kind] = methods.sample(model, name, some, settings.draws, seed)
                    progress.step()
                _note_turned(found["turned"], by_angle, labels)
                _note_sets(found, by_set)
                if not index:
                    probabilities[name] = np.stack([some[:, _example(labels)].mean(axis=0) for some in by_angle.values()])
    example = Example(np.stack([some[_example(labels)] for some in turned.values()]), probabilities)
    return results, sets, example


def _empty(method, sets):
    """The results of a method before the first seed."""
    return {
        "name": method.name,
        "train_loss": [],
        "rates": [],
        "rounding_gap": [],
        "turned": {key: [] for key in (*MEASURES, "accuracy")},
        "sets": {kind: {key: [] for key in MEASURES} for kind in sets},
        "auroc": {kind: {key: [] for key in MEASURES} for kind in sets if kind != "upright"},
    }


def _pixels(some):
    return some / np.float32(255)


def _example(labels):
    """Which digit to show at every angle: the first 4, which turned is no other digit."""
    return int(np.argmax(labels == 4))


def _note_turned(turned, by_angle, labels):
    """Add a seed's means over the digits, for every angle."""
    every = [measure.uncertainty(probabilities) for probabilities in by_angle.values()]
    for key in MEASURES:
        turned[key].append([float(found[key].mean()) for found in every])
    turned["accuracy"].append(
        [float(np.mean(probabilities.mean(axis=0).argmax(axis=-1) == labels)) for probabilities in by_angle.values()]
    )


def _note_sets(found, by_set):
    """Add a seed's means over the images of each set, and how well each tells it from upright digits."""
    every = {kind: measure.uncertainty(probabilities) for kind, probabilities in by_set.items()}
    for kind, values in every.items():
        for key in MEASURES:
            found["sets"][kind][key].append(float(values[key].mean()))
            if kind != "upright":
                # Unsure is high entropy and information, but low confidence.
                sign = -1 if key == "confidence" else 1
                found["auroc"][kind][key].append(measure.auroc(sign * every["upright"][key], sign * values[key]))
