"""The report of the study: ``body.html`` with the numbers and figures of a run."""

import html
import math

from .. import _page
from ..verdict import in_epochs
from . import picture, study
from .figures import MISTAKES
from .network import DROPOUT, KERNEL, SIDE
from .verdict import judge

_CAPTIONS = {
    "classifier_filters.png": (
        "Above, the first of the test digits, a filter (blue weights are positive, orange ones negative), and its response: the "
        "greener, the more the digit looks there like the filter. The frame on the digit is the window with the largest "
        "response of all, the frame on the right is that response. Below, all {filters} filters and their responses to the "
        "same digit, in the same colours."
    ),
    "classifier_epochs.png": (
        "Loss says how wrong the answers are, also those that are right but unsure; 0 would be perfect. On the training digits "
        "it is the mean over the epoch, while a part of the network is left out at random (dropout), which makes learning "
        "harder and the network better. The {test} test digits were read with the weights of every epoch after all training "
        "was over; the number of epochs was fixed before."
    ),
    "classifier_confusion.png": (
        "Each row is a digit, each column an answer: so many of the {test} test digits. On the diagonal the answer is right; "
        "the colour shows mistakes only."
    ),
    "classifier_mistakes.png": (
        "{count} of the {wrong} digits that it reads wrong: those where it is surest of itself, the surest first. Above, what "
        "it says and with what confidence; below, what was meant by the one who wrote it."
    ),
}

FIGURES = tuple(_CAPTIONS)


def build(metrics, model, light, dark):
    """Return the page as a string.

    Parameters
    ----------
    metrics : dict
        As in ``classifier.json``.
    model : nn.Sequential
    light, dark : dict
        The figures for a light and for a dark page, as `figures.draw` makes them.

    Returns
    -------
    str
    """
    settings, most = metrics["settings"], math.prod(MISTAKES)
    numbers = {
        "images": f"{settings['images']:,}",
        "test": f"{settings['test_images']:,}",
        "filters": settings["filters"][0],
        "wrong": f"{len(metrics['mistakes']):,}",
        "count": "All" if len(metrics["mistakes"]) <= most else most,
    }
    pictures = {
        name.removeprefix("classifier_").replace(".png", "_figure"):
            _page.figure(light[name], dark[name], caption.format(**numbers)) if name in light else "<p>Nothing at all.</p>"
        for name, caption in _CAPTIONS.items()
    }
    body = _page.fill(
        "body.html",
        __package__,
        verdicts=_page.cards({verdict.title: verdict for verdict in judge(metrics).values()}),
        side=SIDE,
        kernel=KERNEL,
        layers=_layers(model),
        batch=study.TRAINING_BATCH,
        epochs=settings["epochs"],
        swaps=_swaps(metrics, model),
        largest=f"{max(found['largest'] for found in metrics['swap'].values()):.3g}",
        code="\n".join(f"<span>{html.escape(line)}</span>" for line in code(settings["out"])),
        box=picture.BOX,
        **{name: numbers[name] for name in ("images", "test", "filters")},
        **pictures,
    )
    return _page.page("A network that reads digits", body, _settings(settings), settings["command"])


def code(out):
    """The lines that have the network read a picture."""
    return [
        "from im2colx.experiments import classifier",
        f"model = classifier.load({f'{out}/classifier.npz'!r})",
        "image = classifier.read_picture('my-digit.png')",
        "digit, confidence = classifier.classify(model, image)",
        "print(digit, confidence)",
    ]


def _times(shape):
    return " × ".join(f"{size:,}" for size in shape)


def _layers(model):
    rows = [f"<tr><td>image</td><td>{_times(model.input_shape[:2])}</td><td></td></tr>"]
    shape = model.input_shape
    for layer in model.layers:
        shape = layer.output_shape(shape)
        kind, weights = type(layer).__name__, sum(array.size for _, array in layer.parameters())
        if kind in _LAYERS:
            rows.append(f"<tr><td>{_LAYERS[kind]}</td><td>{_times(shape)}</td><td>{f'{weights:,}' if weights else ''}</td></tr>")
    rows.append(f"<tr><th>together</th><td></td><td>{model.num_parameters:,}</td></tr>")
    return "\n".join(rows)


# ReLU and dropout change no shape, and Flatten nothing else.
_LAYERS = {"Conv2D": f"convolution, {KERNEL} × {KERNEL}", "MaxPool2D": "max pooling, 2 × 2", "Dense": "fully connected"}


def _swaps(metrics, model):
    first = model.layers[0]
    shape = first.output_shape(model.input_shape)
    weight, outputs = first.weight.size, math.prod(shape)
    rows = [
        f"<tr><td>CONV</td><td>{weight:,}</td><td>{weight // shape[2] * outputs:,}</td>"
        f"<td>{metrics['accuracy']:.2%}</td><td></td><td></td></tr>"
    ]
    for form, found in metrics["swap"].items():
        weights = found["inputs"] * found["neurons"]
        rows.append(
            f"<tr><td>FC, {form}</td><td>{weights:,}</td><td>{weights * found['rows']:,}</td>"
            f"<td>{found['accuracy']:.2%}</td><td>{found['differ']:,}</td><td>{_page.number(found['gap'])}</td></tr>"
        )
    return "\n".join(rows)


def _settings(settings):
    return _page.table(
        [
            _page.digits_row(settings),
            ("images used", f"the first {settings['images']:,} for training, all {settings['test_images']:,} test images"),
            ("training", f"{in_epochs(settings['epochs'])}, fixed beforehand, batches of {study.TRAINING_BATCH}, Adam with learning "
                         f"rate {study.LEARNING_RATE:g}, dropout {DROPOUT:g} before the first FC layer, float32; it took "
                         f"{settings['training_seconds']:.0f} s"),
            ("seed", settings["seed"]),
            *_page.surroundings_rows(settings),
        ]
    )
