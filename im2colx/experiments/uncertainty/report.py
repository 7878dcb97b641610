"""The report of the study: ``body.html`` with the numbers and figures of a run."""

import numpy as np

from .. import _page
from . import methods
from .figures import SETS
from .verdict import judge, random_methods

_BAND = "Lines are means over {seeds}, bands reach from the lowest to the highest."
_CAPTIONS = {
    "uncertainty_angle.png": (
        "Means over {test} test digits turned counterclockwise. " + _BAND + " That accuracy recovers towards 180° is no "
        "skill: 0, 1 and 8 look much the same upside down."
    ),
    "uncertainty_sets.png": "Means over {test} images. Points are means over {seeds}, bars reach from the lowest to the highest.",
    "images.png": (
        "The first of each set. The letters are printed ones, in fonts that matplotlib brings, without those that look "
        "like a digit; the jigsaws are digits cut into 16 tiles that change places."
    ),
    "turning_digit.png": (
        "A 4 at every angle. Each column of a map is what one network (of the first seed) makes of the digit above it: "
        "one bright field is certainty, several dull ones are doubt."
    ),
    "dropout_rates.png": (
        "The learned probability to drop a column of Φ (in the last layer, an input). " + _BAND + " All start at 0.1. The "
        "prior asks for more dropout, the more so the more inputs a layer has; the data ask for less. So few epochs do not "
        "settle it: from another start, the rates end elsewhere."
    ),
}


def build(metrics, light, dark):
    """Return the page as a string.

    Parameters
    ----------
    metrics : dict
        As in ``metrics.json``.
    light, dark : dict
        The figures for a light and for a dark page, as `figures.draw` makes them.

    Returns
    -------
    str
    """
    settings = metrics["settings"]
    seeds = f"{settings['seeds']} seed{'s' * (settings['seeds'] != 1)}"
    pictures = {
        name: _page.figure(light[name], dark[name], caption.format(seeds=seeds, test=settings["test_images"]))
        for name, caption in _CAPTIONS.items()
    }
    body = _page.fill(
        "body.html",
        __package__,
        verdicts=_page.cards({verdict.title: verdict for verdict in judge(metrics).values()}),
        rate=methods.RATE,
        images=f"{settings['images']:,}",
        test=settings["test_images"],
        draws=settings["draws"],
        angle=pictures["uncertainty_angle.png"],
        turning=pictures["turning_digit.png"],
        shown=pictures["images.png"],
        sets_figure=pictures["uncertainty_sets.png"],
        set_names="".join(f"<th>{name}</th>" for kind, name in SETS.items() if kind != "upright"),
        auroc=_auroc(metrics),
        rates=pictures["dropout_rates.png"],
    )
    return _page.page("How sure is a convolution?", body, _settings(settings, seeds), settings["command"])


def _auroc(metrics):
    plain = metrics["methods"]["deterministic"]
    lines = [(f"{plain['name']}, largest softmax output", plain, "confidence")]
    for found in random_methods(metrics).values():
        lines += [(f"{found['name']}, {name}", found, key)
                  for key, name in (("entropy", "entropy"), ("mutual_information", "mutual information"))]
    rows = []
    for name, found, key in lines:
        cells = "".join(f"<td>{np.mean(found['auroc'][kind][key]):.3f}</td>" for kind in SETS if kind != "upright")
        rows.append(f"<tr><td>{name}</td>{cells}</tr>")
    return "\n".join(rows)


def _settings(settings, seeds):
    return _page.table(
        [
            _page.digits_row(settings),
            ("images used", f"the first {settings['images']:,} for training, the first {settings['test_images']:,} of the "
                            "test images to ask about"),
            ("training", f"{settings['epochs']} epochs, batches of {methods.BATCH}, Adam with learning rate "
                         f"{methods.LEARNING_RATE:g}, float32"),
            ("draws", f"{settings['draws']} of the weights for every image"),
            ("seeds", f"{seeds}, from {settings['seed']}"),
            *_page.surroundings_rows(settings),
        ]
    )
