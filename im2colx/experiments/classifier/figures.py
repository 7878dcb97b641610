"""The figures of the study, each as the bytes of a PNG file."""

import numpy as np

from im2colx import conv2d

from .._drawing import DARK, LIGHT, canvas
from .network import CLASSES, pixels

COLUMNS = 8  # filters side by side
MISTAKES = 4, 6  # rows and columns of digits that were read wrong


def draw(metrics, model, images, *, dark=False):
    """Draw every figure of a run: a dict of PNG bytes by the name of the file.

    Parameters
    ----------
    metrics : dict
        As `study.examine` gives it.
    model : nn.Sequential
        After training.
    images : ndarray of uint8, shape (n, 28, 28)
        The test images.
    dark : bool
        Whether the figures are for a dark page.
    """
    colors = DARK if dark else LIGHT
    figures = {
        "classifier_filters.png": _filters(model, images[0], colors),
        "classifier_epochs.png": _epochs(metrics, colors),
        "classifier_confusion.png": _confusion(np.array(metrics["confusion"]), colors),
    }
    if metrics["mistakes"]:
        figures["classifier_mistakes.png"] = _mistakes(metrics["mistakes"], images, colors)
    return figures


def _bare(axes):
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _colormap(*colors):
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ours", colors)


def _filters(model, image, colors):
    """A digit; the filters of the first layer; and what each of them makes of it."""
    weight, bias = model.layers[0].weight, model.layers[0].bias
    response = np.maximum(conv2d(pixels(image[np.newaxis]), weight, bias=bias, layout="NHWC"), 0)[0]
    filters = weight.shape[-1]
    columns = min(COLUMNS, filters)
    bands = -(-filters // columns)
    limit, highest = float(np.abs(weight).max()), float(response.max())
    signed = _colormap(colors["val"], colors["page"], colors["train"])
    ink, shade = _colormap(colors["page"], colors["ink"]), _colormap(colors["page"], colors["green"])
    with canvas(colors, 2.35 + 1.75 * bands) as (figure, png):
        top, bottom = figure.subfigures(2, 1, height_ratios=[2.35, 1.75 * bands])
        axes, where, *bars = top.subplots(1, 4, width_ratios=[1, 1, 0.06, 0.06])
        axes.imshow(image, cmap=ink, vmin=0, vmax=255)
        best = np.unravel_index(response.argmax(), response.shape)
        size = len(weight)
        axes.add_patch(_frame(best[1] - 0.5, best[0] - 0.5, size, colors["val"]))
        axes.set_title("a digit")
        axes.set_xlabel("column, in pixels")
        axes.set_ylabel("row, in pixels")
        axes.grid(visible=False)
        shown = where.imshow(response[..., best[2]], cmap=shade, vmin=0, vmax=highest)
        where.add_patch(_frame(best[1] - 0.5, best[0] - 0.5, 1, colors["val"]))
        where.set_title(f"filter {best[2] + 1} on it")
        where.set_xlabel("column of the window")
        where.set_ylabel("row of the window")
        where.grid(visible=False)
        every = bottom.subplots(2 * bands, columns, squeeze=False)
        for axes in every.flat:
            _bare(axes)
        for number in range(filters):
            band, column = divmod(number, columns)
            above, below = every[2 * band : 2 * band + 2, column]
            weights = above.imshow(weight[..., 0, number], cmap=signed, vmin=-limit, vmax=limit)
            below.imshow(response[..., number], cmap=shade, vmin=0, vmax=highest)
            above.set_title(f"{number + 1}", fontsize=9, weight="normal", loc="center", pad=3)
            for axes in (above, below):
                axes.spines[:].set_visible(True)
                axes.spines[:].set_color(colors["grid"])
        for band in range(bands):
            every[2 * band, 0].set_ylabel("filter", fontsize=9)
            every[2 * band + 1, 0].set_ylabel("makes", fontsize=9)
        for bar, image, label in zip(bars, (weights, shown), ("weight", "response"), strict=True):
            figure.colorbar(image, cax=bar, label=label)
            bar.grid(visible=False)
    return png.getvalue()


def _frame(left, top, side, color):
    from matplotlib.patches import Rectangle

    return Rectangle((left, top), side, side, fill=False, edgecolor=color, linewidth=1.8)


def _epochs(metrics, colors):
    """Loss and accuracy after every epoch."""
    from matplotlib.ticker import MaxNLocator

    epochs = np.arange(1, len(metrics["train_loss"]) + 1)
    with canvas(colors, 3.4) as (figure, png):
        left, right = figure.subplots(1, 2)
        left.plot(epochs, metrics["train_loss"], color=colors["train"], marker="o", markersize=4, label="training, with dropout")
        left.plot(epochs, metrics["test_loss"], color=colors["val"], marker="s", markersize=4, linestyle=(0, (5, 1.5)), label="test")
        left.set_title("Loss")
        left.set_ylabel("cross-entropy in nats")
        left.set_ylim(bottom=0)
        left.legend()
        right.plot(epochs, 100 * np.array(metrics["accuracy_by_epoch"]), color=colors["val"], marker="s", markersize=4,
                   linestyle=(0, (5, 1.5)))
        right.set_title("Test digits read right")
        right.set_ylabel("accuracy in %")
        for axes in (left, right):
            axes.set_xlabel("epochs")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
            axes.set_xlim(0.5, len(epochs) + 0.5)
    return png.getvalue()


def _confusion(counts, colors):
    """How often each digit got each answer; what is right has no colour, or one would see nothing else."""
    wrong = counts * ~np.eye(CLASSES, dtype=bool)
    highest = max(int(wrong.max()), 1)
    with canvas(colors, 5.6) as (figure, png):
        axes = figure.subplots()
        shown = axes.imshow(wrong, cmap=_colormap(colors["page"], colors["val"]), vmin=0, vmax=highest)
        for digit, answer in np.ndindex(counts.shape):
            right = digit == answer
            if right or counts[digit, answer]:
                axes.text(answer, digit, f"{counts[digit, answer]:,}", ha="center", va="center", fontsize=9,
                          color=colors["soft"] if right else colors["ink"], weight="normal" if right else "bold")
        axes.set_xticks(range(CLASSES))
        axes.set_yticks(range(CLASSES))
        axes.set_xlabel("what the network says")
        axes.set_ylabel("what it is")
        axes.grid(visible=False)
        axes.spines[:].set_visible(True)
        axes.spines[:].set_color(colors["grid"])
        bar = figure.colorbar(shown, label="mistakes", shrink=0.8)
        bar.ax.grid(visible=False)
        bar.outline.set_visible(False)
        bar.ax.yaxis.get_major_locator().set_params(integer=True)
    return png.getvalue()


def _mistakes(mistakes, images, colors):
    """The surest mistakes."""
    rows, columns = MISTAKES
    rows = min(rows, -(-len(mistakes) // columns))
    with canvas(colors, 0.2 + 1.55 * rows) as (figure, png):
        every = figure.subplots(rows, columns, squeeze=False)
        for axes in every.flat:
            _bare(axes)
        for axes, found in zip(every.flat, mistakes, strict=False):
            axes.imshow(images[found["image"]], cmap=_colormap(colors["page"], colors["ink"]), vmin=0, vmax=255)
            axes.set_title(f"says {found['answer']}, {_percent(found['confidence'])}", fontsize=10, loc="center", pad=4)
            axes.set_xlabel(f"is {found['digit']}", fontsize=10)
    return png.getvalue()


def _percent(confidence):
    return f"{100 * confidence:.1f} %" if confidence > 0.99 else f"{100 * confidence:.0f} %"
