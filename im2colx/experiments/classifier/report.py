"""The report of the study: ``body.html`` with the numbers and figures of a run."""

import html
import json
import math

from .. import _page
from ..verdict import in_epochs
from . import __doc__ as DOC
from . import study
from .figures import MISTAKES
from .network import DROPOUT, KERNEL, SIDE
from .picture import BOX
from .verdict import judge

_CAPTIONS = {
    "filters": (
        "Above, a test digit, a filter (blue weights are positive, orange ones negative), and its response: the greener, the "
        "more the digit looks there like the filter. The frames show the window with the largest response, and that "
        "response. Below, all {filters} filters and their responses to the same digit, in the same colours."
    ),
    "epochs": (
        "Loss says how wrong the answers are; 0 would be right and sure. On the training digits it is the mean over the epoch, "
        "while half of what was found is left out at random (dropout), which makes learning harder and the network better. "
        "The {test} test digits were read when training was over, with the weights that each epoch had left; the number of "
        "epochs was fixed before."
    ),
    "confusion": (
        "How many of the {test} test digits got which answer. On the diagonal it is right; the colour shows mistakes only."
    ),
    "mistakes": (
        "{count} of the {wrong} digits that it reads wrong, the surest mistakes first. Above, what it says and with what "
        "confidence; below, what is right."
    ),
}


def build(metrics, model, light, dark):
    """The page as a str; `light` and `dark` are its figures, as `figures.draw` makes them."""
    settings, most = metrics["settings"], math.prod(MISTAKES)
    numbers = {
        "images": f"{settings['images']:,}",
        "test": f"{settings['test_images']:,}",
        "filters": settings["filters"][0],
        "wrong": f"{len(metrics['mistakes']):,}",
        "count": min(most, len(metrics["mistakes"])),
    }
    pictures = {name: _page.figure(light[file], dark[file], caption.format(**numbers))
                for name, caption in _CAPTIONS.items() for file in [f"classifier_{name}.png"]}  # fmt: skip
    body = _page.fill(
        "body.html",
        __package__,
        verdicts=_page.cards({verdict.title: verdict for verdict in judge(metrics).values()}),
        side=SIDE,
        kernel=KERNEL,
        layers=_block(model.summary().splitlines()),
        batch=study.TRAINING_BATCH,
        epochs=settings["epochs"],
        swaps=_swaps(metrics, model),
        largest=f"{max(found['largest'] for found in metrics['swap'].values()):.3g}",
        code=_block([*code(settings["out"]), "print(digit, confidence)"]),
        box=BOX,
        **numbers,
        **{f"{name}_figure": picture for name, picture in pictures.items()},
    )
    return _page.page("A network that reads digits", body, _settings(metrics), settings["command"])


def code(out):
    """The lines that have the network in the folder `out` read a picture."""
    lines = [line.strip() for line in DOC.splitlines() if line.startswith("    ")]
    return [line.replace('"im2colx-classifier/classifier.npz"', json.dumps(f"{out}/classifier.npz")) for line in lines]


def _block(lines):
    return "\n".join(f"<span>{html.escape(line)}</span>" for line in lines)


def _row(*cells):
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _swaps(metrics, model):
    rows = [_row("CONV", f"{model.layers[0].weight.size:,}", f"{metrics['accuracy']:.2%}", "", "")]
    rows += [
        _row(f"FC, {form}", f"{found['weights']:,}", f"{found['accuracy']:.2%}", found["differ"], _page.number(found["gap"]))
        for form, found in metrics["swap"].items()
    ]
    return "\n".join(rows)


def _settings(metrics):
    settings, seconds = metrics["settings"], sum(metrics["epoch_seconds"])
    rows = [
        _page.digits_row(settings),
        ("images used", f"the first {settings['images']:,} for training, all {settings['test_images']:,} test images"),
        ("training", f"{in_epochs(settings['epochs'])}, fixed beforehand, batches of {study.TRAINING_BATCH}, Adam with learning "
                     f"rate {study.LEARNING_RATE:g}, dropout {DROPOUT:g} before the first FC layer, float32, {seconds:.0f} s"),
        ("seed", settings["seed"]),
    ]  # fmt: skip
    return _page.table(rows + _page.surroundings_rows(settings))
