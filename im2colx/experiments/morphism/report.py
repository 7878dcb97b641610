"""The report of the study: ``body.html`` with the numbers and figures of a run."""

import html

import numpy as np

from .. import _page
from ..verdict import in_epochs
from . import study
from .figures import WINDOW
from .verdict import judge

_CAPTIONS = {
    "matrices.png": (
        "The weights that each morph takes (left) and makes (right), from the first seed, drawn anew for the picture: a row is "
        "a filter, a column belongs to a column of Φ; blue is positive, orange negative, and pale is zero. To widen copies "
        "rows of the first matrix, and columns of the second, which are scaled so that the copies add up to the original."
    ),
    "after_the_morph.png": (
        "Loss on the same batches after each morph, on logarithmic axes; means over {seeds}. At the first batch no step has "
        "been made yet, and there the morphed network has the loss of the unchanged one."
    ),
    "loss.png": (
        "Above, the loss on the batches that are trained on, before the step on each (mean of {window}); below, on {test} test "
        "digits. Lines are means over {seeds}; bands and bars reach from the lowest to the highest. The vertical lines are the "
        "morphs; only the blue network is morphed."
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
    test = f"{settings['test_images']:,}"
    pictures = {
        name: _page.figure(light[name], dark[name], caption.format(seeds=seeds, window=WINDOW, test=test))
        for name, caption in _CAPTIONS.items()
    }
    body = _page.fill(
        "body.html",
        __package__,
        verdicts=_page.cards({verdict.title: verdict for verdict in judge(metrics).values()}),
        **{morph["name"]: html.escape(morph["text"]).replace(" × ", "&nbsp;×&nbsp;") for morph in metrics["morphs"]},
        matrices=pictures["matrices.png"],
        test=test,
        gaps=_gaps(metrics),
        probe=len(metrics["morphs"][0]["arms"]["morphed"][0]),
        first=study.first(metrics),
        jumps=_jumps(metrics),
        after=pictures["after_the_morph.png"],
        loss=pictures["loss.png"],
        stages=_stages(metrics),
    )
    return _page.page("A network that grows while it learns", body, _settings(settings, seeds), settings["command"])


def _gaps(metrics):
    rows = []
    for stage, morph in enumerate(metrics["morphs"]):
        gaps = "".join(f"<td>{_page.number(max(morph['gap'][dtype]))}</td>" for dtype in ("float32", "float64"))
        sizes = "".join(f"<td>{count:,}</td>" for count in metrics["parameters"][stage : stage + 2])
        rows.append(f"<tr><td>{morph['name']}</td>{gaps}{sizes}</tr>")
    return "\n".join(rows)


def _jumps(metrics):
    rows = []
    for morph in metrics["morphs"]:
        cells = ""
        for jump in (study.jumps(morph, arm) for arm in ("morphed", "random")):
            cells += f"<td>{jump.mean():+.3f}</td><td>{jump.min():+.3f} to {jump.max():+.3f}</td>"
        rows.append(f"<tr><td>{morph['name']}</td>{cells.replace('-', '−')}</tr>")
    return "\n".join(rows)


def _stages(metrics):
    names = ["before any morph", *(f"after “{morph['name']}”" for morph in metrics["morphs"])]
    rows = []
    for stage, name in enumerate(names):
        cells = ""
        for run in ("grown", "small", "scratch"):
            loss, accuracy = (np.mean(metrics["runs"][run][key], axis=0)[stage] for key in ("test_loss", "accuracy"))
            cells += f"<td>{loss:.3f}, {accuracy:.1%}</td>"
        rows.append(f"<tr><td>{name}</td>{cells}<td>{metrics['multiply_adds'][stage]:,}</td></tr>")
    return "\n".join(rows)


def _settings(settings, seeds):
    return _page.table(
        [
            _page.digits_row(settings),
            ("images used", f"the first {settings['images']:,} for training, the first {settings['test_images']:,} of the "
                            "test images"),
            ("training", f"{in_epochs(settings['epochs'])} in each of {settings['stages']} stages, batches of {study.BATCH}, "
                         f"SGD with learning rate {study.LEARNING_RATE:g} and momentum {study.MOMENTUM:g}, which starts anew "
                         "at every morph; float32"),
            ("seeds", f"{seeds}, from {settings['seed']}"),
            *_page.surroundings_rows(settings),
        ]
    )
