"""The study: one network that grows four times while it learns, and what would have been without.

Beside the network that grows (*grown*) there are, for comparison, the first network trained on for as long (*small*)
and the last one trained for as long from random weights (*scratch*).  At every morph three *arms* see the same batches:
the network as it was (*unchanged*), the larger one (*morphed*), and the larger one with random numbers where the morph
chose weights (*random*).
"""

import dataclasses
import math

import numpy as np

from im2colx import nn

from .. import _run
from .morphs import MORPHS, base
from .network import build, he_uniform, read

SIDE = 28
TEST = 2000  # of the test images, the first, or all there are
BATCH = 64
PROBE = 60  # batches that each arm sees
FIRST = 10  # of them count for the jump
LEARNING_RATE, MOMENTUM = 0.02, 0.9


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the numbers of a run, together with the digits."""

    epochs: int | None = None  # in every stage; None: as many as make 8000 images
    images: int | None = None  # None: 20000, or all there are
    seeds: int = 3
    seed: int = 14343

    def settled(self, available):
        """These settings with numbers for None, where so many training images are available."""
        images = min(20000, available) if self.images is None else self.images
        epochs = max(1, 8000 // max(images, BATCH)) if self.epochs is None else self.epochs
        return dataclasses.replace(self, images=images, epochs=epochs)


class Recorded(nn.SoftmaxCrossEntropy):
    """The loss, which remembers its value on every batch."""

    def __init__(self):
        self.losses = []

    def value(self, prediction, target):
        return super().value_and_grad(prediction, target)[0]

    def value_and_grad(self, prediction, target):
        value, gradient = super().value_and_grad(prediction, target)
        self.losses.append(value)
        return value, gradient


class Data:
    """The images and labels of a run."""

    def __init__(self, digits, count):
        self.train = _pixels(digits.train_images[:count]), digits.train_labels[:count]
        self.test = _pixels(digits.test_images[:TEST]), digits.test_labels[:TEST]
        self.probe = tuple(part[: PROBE * BATCH] for part in self.train)


def _pixels(images):
    return (images / np.float32(255))[..., np.newaxis]


def run(settings, digits, *, show=True):
    """Grow and compare networks.

    Parameters
    ----------
    settings : Settings
        After `Settings.settled`.
    digits : im2colx.datasets.MNIST
    show : bool
        Whether to show progress on stderr.

    Returns
    -------
    results : dict
        Numbers alone, as in ``metrics.json``; lists are by seed.
    grown : list of tuple
        The parts of the grown network of the first seed, after every stage.
    """
    data = Data(digits, settings.images)
    results = {
        "runs": {name: {"losses": [], "test_loss": [], "accuracy": []} for name in ("grown", "small", "scratch")},
        "morphs": [
            {
                "name": morph.name, "text": morph.text, "gap": {"float32": [], "float64": []},
                "arms": {"unchanged": [], "morphed": [], "random": []},
                "test_loss": {"unchanged": [], "morphed": [], "random": []},
            }
            for morph in MORPHS
        ],
        "parameters": [], "multiply_adds": [],
    }
    steps = settings.seeds * len(results["runs"]) * (len(MORPHS) + 1) * settings.epochs
    with _run.Progress(steps, show) as progress:
        for index in range(settings.seeds):
            label = f"seed {index + 1} of {settings.seeds}"
            stages = _one_seed(settings, data, settings.seed + index, results, label, progress)
            if not index:
                grown = stages
    results["parameters"] = [sum(array.size for part in parts for array in part.weights()) for parts in grown]
    results["multiply_adds"] = [multiply_adds(parts) for parts in grown]
    return results, grown


def _one_seed(settings, data, seed, results, label, progress):
    """Everything for one seed: adds to the lists of `results`, and returns the grown network after every stage."""

    def fit(name, parts, optimizer, stage):
        progress.part(f"{label}, {name}, stage {stage + 1} of {len(MORPHS) + 1}")
        parts, losses = train(parts, optimizer, data.train, settings.epochs, order(seed, stage), progress.step)
        run = results["runs"][name]
        for key, value in (("losses", losses), *evaluate(parts, data.test).items()):
            if not stage:
                run[key].append([])
            run[key][-1] += value if key == "losses" else [value]
        return parts

    rng = np.random.default_rng([seed, 0, 1])
    optimizers = {name: _optimizer() for name in results["runs"]}
    parts = fit("grown", base(rng), optimizers["grown"], 0)
    stages = [parts]
    for stage, morph in enumerate(MORPHS, start=1):
        key = [seed, stage, 1]  # the random numbers of a morph, which both arms share as far as they go
        arms = {
            "unchanged": parts,
            "morphed": morph.apply(parts, np.random.default_rng(key)),
            "random": morph.apply(parts, np.random.default_rng(key), preserve=False),
        }
        _compare(results["morphs"][stage - 1], arms, optimizers["grown"], data, order(seed, stage))
        optimizers["grown"] = _optimizer()
        parts = fit("grown", arms["morphed"], optimizers["grown"], stage)
        stages.append(parts)

    # The other two start from what the first stage started from, and from the last architecture.
    others = {"small": base(np.random.default_rng([seed, 0, 1])), "scratch": _fresh(parts, rng)}
    for stage in range(len(stages)):
        for name in others:
            others[name] = fit(name, others[name], optimizers[name], stage)
    return stages


def order(seed, stage):
    """The seed of a stage's order of batches: another one for every seed and stage."""
    return seed * (len(MORPHS) + 1) + stage


def _optimizer():
    return nn.SGD(lr=LEARNING_RATE, momentum=MOMENTUM)


def _compare(result, arms, optimizer, data, seed):
    """Add to a morph's result how far the function changed, and the losses of the arms on the same batches."""
    for dtype in result["gap"]:
        before, after = (build(arms[name], (SIDE, SIDE, 1), dtype).predict(data.test[0]) for name in ("unchanged", "morphed"))
        result["gap"][dtype].append(float(np.abs(after - before).max() / np.abs(before).max()))
    for name, parts in arms.items():
        result["test_loss"][name].append(evaluate(parts, data.test)["test_loss"])
        # The network as it was goes on with its momentum (which nobody needs after this); the larger ones have none yet.
        own = optimizer if name == "unchanged" else _optimizer()
        result["arms"][name].append(train(parts, own, data.probe, 1, seed)[1])


def train(parts, optimizer, data, epochs, seed, after_epoch=None):
    """Train a network; `after_epoch` is the trainer's callback.

    Returns
    -------
    parts : tuple of Part
        With the weights after training.
    losses : list of float
        Of every batch, before the step that it makes.
    """
    model, loss = build(parts, (SIDE, SIDE, 1)), Recorded()
    nn.Trainer(model, loss, optimizer, seed=seed).fit(*data, epochs, BATCH, progress=False, callback=after_epoch)
    return read(parts, model), loss.losses


def evaluate(parts, data):
    """The loss and the accuracy of a network on images with labels."""
    scores = build(parts, (SIDE, SIDE, 1)).predict(data[0])
    return {
        "test_loss": nn.SoftmaxCrossEntropy().value(scores, data[1]),
        "accuracy": float(np.mean(scores.argmax(axis=1) == data[1])),
    }


def _fresh(parts, rng):
    """The same architecture with weights as `nn` starts them."""
    fresh = {"conv": lambda w: he_uniform(rng, *w.shape), "dense": lambda w: he_uniform(rng, *w.shape), "slope": np.ones_like}
    return tuple(
        part if part.weight is None
        else part._replace(weight=fresh[part.kind](part.weight), bias=None if part.bias is None else np.zeros_like(part.bias))
        for part in parts
    )


def multiply_adds(parts):
    """Products in a forward pass of one image: rows of X or Φ times the size of W."""
    shape, total = (SIDE, SIDE, 1), 0
    for part in parts:
        shape = part.layer().output_shape(shape)
        if part.kind in ("conv", "dense"):
            total += math.prod(shape[:-1]) * part.weight.size
    return total


def first(results):
    """How many batches after a morph count for the jump: `FIRST`, or as many as there are."""
    return min(FIRST, len(results["morphs"][0]["arms"]["morphed"][0]))


def jumps(result, arm):
    """How much higher the loss of an arm is than that of the unchanged network, over the first batches: (seeds,)."""
    losses, unchanged = (np.array(result["arms"][name])[:, :FIRST] for name in (arm, "unchanged"))
    return (losses - unchanged).mean(axis=1)
