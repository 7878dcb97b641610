"""The cases of the study, and their training: networks side by side, epoch by epoch, from the same weights and data."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable

import numpy as np

from im2colx import nn
from im2colx.nn._progress import reporter
from im2colx.nn.checkpoint import load_last_good, previous, save_checkpoint

from .. import paper
from . import EPOCHS, SEEDS, networks, stability

VALIDATION = 256  # images whose loss is computed after every epoch
EXPONENTS = (-24, 2)  # differences of weights are counted by the power of ten, in quarters, from 1e-24 to 1e2


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to train, and what is trained that way beside the FC network."""

    name: str
    title: str
    optimizer: Callable
    dtype: str = "float32"
    networks: tuple = ("other",)
    share: float = 1  # of the epochs
    measure: bool = True  # whether to measure the stability too


_SGD = functools.partial(nn.SGD, lr=0.01)
_ADAM = functools.partial(nn.Adam, lr=0.001)
_EVERY = ("same", "other", "nudged")

CASES = (
    # Under SGD the distance hardly changes, so fewer epochs show it.
    Case("sgd", "SGD", _SGD, networks=_EVERY, share=0.6),
    Case("adam", "Adam", _ADAM, networks=_EVERY),
    Case("sgd64", "SGD, float64", _SGD, dtype="float64", share=0.6, measure=False),
    Case("adam64", "Adam, float64", _ADAM, dtype="float64", measure=False),
    Case("eps6", "Adam, ε = 1e-6", functools.partial(_ADAM, eps=1e-6)),
    Case("eps5", "Adam, ε = 1e-5", functools.partial(_ADAM, eps=1e-5)),
    Case("eps4", "Adam, ε = 1e-4", functools.partial(_ADAM, eps=1e-4)),
    # No adaptive rate, but a hundred times the paper's; and adaptive rates, but a tenth of the paper's.
    Case("fast", "SGD, rate 1", functools.partial(nn.SGD, lr=1.0)),
    Case("slow", "Adam, rate 1e-4", functools.partial(nn.Adam, lr=1e-4)),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the numbers of the study (together with the images)."""

    epochs: int = EPOCHS
    seeds: int = SEEDS
    seed: int = 14343  # the first; the others follow it
    images: int = 1000


def units(settings):
    """Every case with every seed, the seeds outside, so that what is done early says something of every case."""
    return [(case, settings.seed + i) for i in range(settings.seeds) for case in CASES]


def file_name(case, seed):
    """Of the file that holds the result of a unit."""
    return f"{case.name}-{seed}.npz"


UNDER_WAY = "under-way.npz"  # the unit that is being trained


def run(settings, digits, *, folder, checkpoint_seconds=math.inf, resume=False, progress=True):
    """Train everything, and measure.

    Parameters
    ----------
    settings : Settings
    digits : im2colx.datasets.MNIST
    folder : pathlib.Path
        Where the results of finished units and the checkpoint of the one under way are kept.
    checkpoint_seconds : float
        How old the checkpoint may become, but for the epoch under way.
    resume : bool
        Whether to go on from what is in the folder.
    progress : bool
        Whether to show a progress bar for each unit.

    Returns
    -------
    list of dict
        The result of each unit, in the order of `units`: see `Unit.result`.
    """
    results, all_units = [], units(settings)
    for number, (case, seed) in enumerate(all_units, start=1):
        path = folder / file_name(case, seed)
        if not (resume and path.exists()):
            label = f"{number}/{len(all_units)} {case.title}, seed {seed}"
            unit = Unit(case, seed, settings, digits)
            unit.train(folder / UNDER_WAY, checkpoint_seconds, resume, progress and label)
            save_checkpoint(path, {}, unit.result())
            for file in (folder / UNDER_WAY, previous(folder / UNDER_WAY)):
                file.unlink(missing_ok=True)
        results.append(load_last_good(path)[1])
    return results


_OWN = ("distances", "moved", "closed", "seconds")  # what a unit keeps beside its trainers


class Unit:
    """One case with one seed."""

    def __init__(self, case, seed, settings, digits):
        self.case, self.seed = case, seed
        self.epochs = max(2, round(settings.epochs * case.share))
        self.settings = paper.Settings(images=settings.images, dtype=case.dtype, seed=seed, sum_dtype=None)
        self.images = paper.choose_images(digits, self.settings)
        self.trainers = {}
        for name in ("fc", *case.networks):
            model = networks.build(name, self.settings)
            self.trainers[name] = nn.Trainer(model, nn.MSE(), case.optimizer(), seed=seed)
        self.start = self.trainers["fc"].model.get_weights()
        self.seconds = 0.0
        # By network a number per epoch: the distance from the FC network in each of the two layers with weights.
        self.distances = {name: {"first": [], "last": []} for name in case.networks}
        self.moved = {"first": [], "last": []}  # how far the FC network is from where it began
        self.closed = []  # how many outputs of the FC network are 0 for every training image, after epoch 1 and the last

    def train(self, checkpoint, checkpoint_seconds, resume, label):
        """Train all networks side by side, one epoch of each at a time."""
        if resume and (checkpoint.exists() or previous(checkpoint).exists()):
            self._restore(checkpoint)
        targets, some = self.images.train, self.images.validation[:VALIDATION]
        data = {name: networks.inputs(name, targets) for name in self.trainers}
        validation = {name: (networks.inputs(name, some), some) for name in self.trainers}
        done = len(self.moved["first"])
        report = reporter(bool(label), label, done, self.epochs, len(self.trainers))
        saved = time.perf_counter()
        try:
            for epoch in range(done, self.epochs):
                began = time.perf_counter()
                for name, trainer in self.trainers.items():
                    trainer.fit(data[name], targets, 1, paper.BATCH, validation_data=validation[name], progress=False)
                    report.batch(epoch, trainer.history["train_loss"][-1])
                self._measure()
                if epoch in (0, self.epochs - 1):
                    self.closed.append(self._count_closed(data["fc"]))
                now = time.perf_counter()
                self.seconds += now - began
                if now + (now - began) - saved >= checkpoint_seconds and epoch + 1 < self.epochs:
                    self._save(checkpoint)
                    saved = time.perf_counter()
                history = self.trainers["fc"].history
                report.epoch(epoch, history["train_loss"][-1], history["val_loss"][-1])
        finally:
            report.close()

    def result(self):
        """What is kept of the unit, as JSON can hold it.

        Returns
        -------
        dict
            ``losses``: by network ``train`` and ``val``, a number per epoch.
            ``distances``: by network and layer ("first", "last") the Euclidean distance of the weights from those of
            the FC network, a number per epoch; ``moved``: how far the latter are from where they began.
            ``output_distance``: by network, as the paper defines it, at the end.
            ``differences``: by network and layer how many weights differ by how much at the end; see `count`.
            ``equal``: by network whether all weights are equal to the last bit, and all losses, at the end.
            ``switches``: by network how many ReLUs of layer 1 are open for one network and shut for the other, at the
            end, over all training images.
            ``closed``: how many outputs of the FC network are 0 for every training image, after epoch 1 and at the end.
            ``stability``: `stability.ratio` of the FC network at the end, or None.
            ``seconds``: for all of this.
        """
        began = time.perf_counter()
        fc, others = self.trainers["fc"], self.case.networks
        facts = {
            "case": self.case.name,
            "seed": self.seed,
            "epochs": self.epochs,
            "losses": {
                name: {kind: trainer.history[f"{kind}_loss"] for kind in ("train", "val")}
                for name, trainer in self.trainers.items()
            },
            "distances": self.distances,
            "moved": self.moved,
            "output_distance": {name: self._outputs(name, self.images.comparison)[0] for name in others},
            "switches": {name: self._outputs(name, self.images.train)[1] for name in others},
            "differences": {
                name: {
                    layer: count(np.abs(a - b, dtype=np.float64))
                    for layer, a, b in zip(("first", "last"), self._weights(name), self._weights("fc"), strict=True)
                }
                for name in others
            },
            "equal": {name: self._equal(name) for name in others},
            "closed": self.closed,
            "stability": None,
        }
        if self.case.measure:
            facts["stability"] = stability.ratio(fc, networks.inputs("fc", self.images.train), self.images.train)
        facts["seconds"] = self.seconds + time.perf_counter() - began
        return facts

    def _weights(self, name):
        """Both weights of a network as matrices, not copies."""
        return [weight.reshape(-1, weight.shape[-1]) for _, weight in self.trainers[name].model.parameters()]

    def _measure(self):
        fc = self._weights("fc")
        for name in self.case.networks:
            for layer, a, b in zip(("first", "last"), self._weights(name), fc, strict=True):
                self.distances[name][layer].append(distance(a, b))
        for layer, a, b in zip(("first", "last"), fc, self.start, strict=True):
            self.moved[layer].append(distance(a, b))

    def _outputs(self, name, images):
        """The output distance of layer 1 over the images, and how many of its ReLUs stand differently."""
        first, reference = self.trainers[name].model.layers[0], self.trainers["fc"].model.layers[0]
        distances, switches = [], 0
        for begin in range(0, len(images), paper.BATCH):
            some = images[begin : begin + paper.BATCH]
            ours = first.forward(networks.inputs(name, some)).reshape(len(some), -1)
            theirs = reference.forward(paper.patches(some)).reshape(len(some), -1)
            distances.append(np.linalg.norm(np.subtract(ours, theirs, dtype=np.float64), axis=1))
            switches += int(np.count_nonzero((ours > 0) != (theirs > 0)))
        return float(np.mean(np.concatenate(distances))), switches

    def _count_closed(self, patches):
        output = self.trainers["fc"].model.predict(patches, paper.BATCH)
        return int((output.reshape(len(patches), -1) == 0).all(axis=0).sum())

    def _equal(self, name):
        ours, theirs = self.trainers[name], self.trainers["fc"]
        losses = all(ours.history[kind] == theirs.history[kind] for kind in ("train_loss", "val_loss"))
        return losses and paper.weights_sha256(ours.model) == paper.weights_sha256(theirs.model)

    def _note(self):
        """What must be the same for a checkpoint to be of this unit."""
        return {"case": self.case.name, "seed": self.seed, "images": self.settings.images}

    def _save(self, path):
        arrays, states = {}, {}
        for name, trainer in self.trainers.items():
            found, states[name] = trainer.get_state()
            arrays |= {f"{name}/{key}": array for key, array in found.items()}
        own = {name: getattr(self, name) for name in _OWN}
        save_checkpoint(path, arrays, {"note": self._note(), "states": states, "own": own}, previous=previous(path))

    def _restore(self, path):
        arrays, facts, found = load_last_good(path)
        if facts.get("note") != self._note():
            return  # of a unit whose result is there already: it was killed before it could be removed
        for name, trainer in self.trainers.items():
            own = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
            trainer.set_state(own, facts["states"][name])
        for name in _OWN:
            setattr(self, name, facts["own"][name])
        if found != path:
            found.replace(path)


def distance(a, b):
    """The Euclidean distance of two matrices, each difference and the sum in float64."""
    total = 0.0
    rows = max(1, (1 << 17) // a.shape[1])  # a megabyte of float64 at a time, which stays in the cache
    for begin in range(0, len(a), rows):
        part = np.subtract(a[begin : begin + rows], b[begin : begin + rows], dtype=np.float64)
        total += float(np.vdot(part, part))
    return math.sqrt(total)


def count(sizes):
    """Count numbers by their size, four bins to a power of ten.

    Returns
    -------
    dict
        ``zero``: how many are exactly 0; ``bins``: how many are in each bin from ``10**EXPONENTS[0]`` to
        ``10**EXPONENTS[1]``, the outer ones with what is beyond them.
    """
    low, high = EXPONENTS
    bins = 4 * (high - low)
    zero = sizes == 0
    with np.errstate(divide="ignore"):
        places = np.floor(4 * (np.log10(sizes) - low))[~zero]
    places = np.clip(places, 0, bins - 1).astype(np.intp)
    return {"zero": int(zero.sum()), "bins": np.bincount(places, minlength=bins).tolist()}
