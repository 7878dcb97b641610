"""The report of a run: one HTML page that needs no other file and no network.

``body.html`` beside this file is its text; what a run adds to it is made here, and `_page` makes a page of it.
"""

import itertools

import numpy as np

from ._page import cards, digits_row, figure, fill, number, page, surroundings_rows, table
from .paper import BATCH, ROWS
from .verdict import AUTHORS, AUTHORS_EPOCHS, NAMES, in_epochs, judge, sums_in

_LOSS = (
    "Mean squared error of both networks after every epoch, over the training images (as they are trained on) and over "
    "{validation:,} others. The wide bands are the CNN, the dashed lines the FC network. Below, on a logarithmic axis, "
    "how far the two are apart."
)
_SUMS = (
    " The gradient of a weight of layer 1 sums {terms} products of a batch. The two networks sum them in different orders; "
    "so that rounding has little to begin with, they do it in {wide}, and round once to {dtype}."
)
_CAPTIONS = {
    "fig07_sgd_loss.png": f"Figure 7. {_LOSS}",
    "fig08_architectures.png": (
        "Figure 8. The two networks, layer by layer, with the shape after each. Blue boxes have weights; the two "
        "networks have equally many, and none has a bias."
    ),
    "fig09_weights_histogram.png": (
        "Figure 9. The 2,048 weights of layer 1 after training, in bins of about 0.01: filled for the CNN, outlined "
        "for the FC network. Where the outline leaves the filled shape, weights of the two ended in different bins."
    ),
    "fig10_adam_loss.png": f"Figure 10. {_LOSS}",
    "reconstructions.png": (
        "One image of each digit, none of them trained on, and what each network gives back. The paper puts a ReLU "
        "after the last layer as well; an output that it holds at zero for every image no longer learns. Of the CNN’s "
        "784 outputs, this many are zero for all of these digits: {closed}."
    ),
}


def build(metrics, runs, light, dark, question=""):
    """Return the page as a string.

    Parameters
    ----------
    metrics : dict
        As in ``metrics.json``.
    runs : dict
        The `paper.Run` of each optimizer.
    light, dark : dict
        The figures for a light and for a dark page, as `figures.draw` makes them.
    question : str
        The part of the page that tells why the curves part under Adam, if that was asked.

    Returns
    -------
    str
    """
    settings = metrics["settings"]
    wide = sums_in(settings)
    values = {
        "validation": settings["validation_images"],
        "closed": ", ".join(f"{_closed(run)} with {NAMES[name]}" for name, run in runs.items()),
    }
    pictures = {name: figure(light[name], dark[name], _CAPTIONS[name].format(**values)) for name in light}
    body = fill(
        "body.html",
        __package__,
        verdicts=_verdicts(metrics),
        epochs=in_epochs(settings["epochs"]),
        authors_epochs=AUTHORS_EPOCHS,
        distances=_distances(metrics, runs),
        comparison_images=f"{settings['comparison_images']:,}",
        idea=_idea(),
        architectures=pictures["fig08_architectures.png"],
        images=f"{settings['images']:,}",
        batch=BATCH,
        sums=_SUMS.format(terms=f"{BATCH * ROWS:,}", wide=wide, dtype=settings["dtype"]) if wide else "",
        losses="\n".join(
            f"<h2>Training with {NAMES[optimizer]}</h2>\n{pictures[name]}"
            for optimizer, name in (("sgd", "fig07_sgd_loss.png"), ("adam", "fig10_adam_loss.png"))
            if optimizer in runs
        ),
        histogram=pictures["fig09_weights_histogram.png"],
        reconstructions=pictures["reconstructions.png"],
        question=question,
    )
    return page("A convolution is a matrix product", body, _settings(metrics, runs), settings["command"], heading="A convolution is a matrix product")


def _verdicts(metrics):
    judged = judge(metrics).items()
    return cards({f"{NAMES[optimizer]}: {verdict.title.lower()}": verdict for optimizer, verdict in judged})


def _distances(metrics, runs):
    rows = []
    for optimizer in runs:
        for kind, theirs in zip(("output", "weight"), AUTHORS[optimizer], strict=True):
            cells = "".join(f"<td>{number(value)}</td>" for value in (metrics[optimizer][f"{kind}_distance"], theirs))
            rows.append(f"<tr><td>{NAMES[optimizer]}, {kind}s</td>{cells}</tr>")
    return "\n".join(rows)


def _closed(run):
    """How many outputs of the CNN are zero for every example."""
    return int(np.count_nonzero((run.reconstructions["cnn"] == 0).all(axis=0)))


def _settings(metrics, runs):
    settings = metrics["settings"]
    median = {
        name: {network: np.median(metrics[name][network]["epoch_seconds"]) for network in ("cnn", "fc")}
        for name in runs
    }
    wide = sums_in(settings)
    sums = f", gradients of layer 1 summed in {wide}" if wide else ""
    shared = [numbers for name in runs for numbers in metrics[name].get("processes", {}).values()]
    processes = list(dict.fromkeys(itertools.chain(*shared)))
    rows = [
        digits_row(settings),
        (
            "images used",
            f"{settings['images']:,} for training, {settings['validation_images']:,} for validation, "
            f"{settings['comparison_images']:,} for comparison",
        ),
        ("learning rates", ", ".join(f"{NAMES[name]} {settings['learning_rate'][name]:g}" for name in runs)),
        ("arithmetic", f"{settings['dtype']}{sums}; convolution by the method “{settings['method']}”"),
        ("seed", settings["seed"]),
        *([("worker processes", ", then ".join(map(str, processes)))] if processes not in ([], [1]) else []),
        (
            "seconds per epoch",
            "; ".join(f"{NAMES[n]}: CNN {median[n]['cnn']:.2f}, FC {median[n]['fc']:.2f}" for n in runs) + " (medians)",
        ),
        *surroundings_rows(settings),
    ]
    return table(rows)


def _idea():
    """Draw a patch of the image, its row in the patch matrix, and the product with the filters: an svg's inside."""
    parts = []

    def grid(left, top, columns, rows, size, is_marked):
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        # The marked cells come last, lest their neighbours be drawn over their borders.
        for row, column in sorted(cells, key=lambda cell: is_marked(*cell)):
            kind = "mark" if is_marked(row, column) else "cell"
            x, y = left + column * size, top + row * size
            parts.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{size}" height="{size}"/>')

    def label(x, y, text, kind=""):
        parts.append(f'<text x="{x}" y="{y}" text-anchor="middle" class="{kind}">{text}</text>')

    # Drawn smaller than they are: 10 x 10 of the pixels, 9 of the rows, 6 of the filters.
    grid(2, 28, 10, 10, 14.4, lambda row, column: 4 <= row < 8 and 2 <= column < 6)
    label(74, 18, "image")
    label(74, 190, "28 × 28", "soft")
    parts.append('<path class="arrow" d="M156 100 H198 M192 95 l7 5 l-7 5"/>')
    label(177, 88, "im2col", "soft")
    grid(208, 28, 16, 9, 9, lambda row, column: row == 4)
    label(280, 18, "Φ: a patch a row")
    label(280, 190, "169 × 16", "soft")
    label(371, 74, "×")
    grid(390, 28, 6, 16, 9, lambda row, column: column == 2)
    label(417, 18, "filters")
    label(417, 190, "16 × 128", "soft")
    label(464, 74, "=")
    grid(484, 28, 6, 9, 9, lambda row, column: (row, column) == (4, 2))
    label(511, 18, "output")
    label(511, 190, "169 × 128", "soft")
    return "\n".join(parts)
