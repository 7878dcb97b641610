"""The figures of the study, each as the bytes of a PNG file."""

import numpy as np

from im2colx import conv2d

from .._drawing import DARK, LIGHT, canvas
from .network import CLASSES, KERNEL, pixels

COLUMNS = 8  # filters side by side
MISTAKES = 4, 5  # rows and columns of digits that were read wrong


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

    # So few shades that the 64 colours of a picture suffice for three such maps and the letters.
    return LinearSegmentedColormap.from_list("ours", colors, N=15)


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
    row, column, number = (int(index) for index in np.unravel_index(response.argmax(), response.shape))
    with canvas(colors, 2.3 + 1.75 * bands) as (figure, png):
        top, bottom = figure.subfigures(2, 1, height_ratios=[2.3, 1.75 * bands])
        digit, one, made = top.subplots(1, 3, width_ratios=[1, 1, 1])
        digit.imshow(image, cmap=ink, vmin=0, vmax=255)
        digit.add_patch(_frame(column, row, KERNEL, colors["val"]))
        weights = one.imshow(weight[..., 0, number], cmap=signed, vmin=-limit, vmax=limit)
        responses = made.imshow(response[..., number], cmap=shade, vmin=0, vmax=highest)
        made.add_patch(_frame(column, row, 1, colors["val"]))
        for axes, title, words in (
            (digit, "A digit", "column, in pixels"), (one, f"Filter {number + 1}", "column in the window"),
            (made, "Its response", "column of the window"),
        ):
            axes.set_title(title)
            axes.set_xlabel(words)
            axes.set_ylabel(words.replace("column", "row"))
            axes.grid(visible=False)
        for axes, shown, label in ((one, weights, "weight"), (made, responses, "response")):
            bar = top.colorbar(shown, ax=axes, label=label, shrink=0.75)
            bar.ax.grid(visible=False)
            bar.outline.set_visible(False)
        every = bottom.subplots(2 * bands, columns, squeeze=False)
        for axes in every.flat:
            _bare(axes)
        for number in range(filters):
            band, column = divmod(number, columns)
            above, below = every[2 * band : 2 * band + 2, column]
            above.imshow(weight[..., 0, number], cmap=signed, vmin=-limit, vmax=limit)
            below.imshow(response[..., number], cmap=shade, vmin=0, vmax=highest)
            above.set_title(f"{number + 1}", fontsize=9, weight="normal", loc="center", pad=3)
            for axes, words in ((above, "filter"), (below, "response")):
                axes.spines[:].set_visible(True)
                axes.spines[:].set_color(colors["grid"])
                if not column:
                    axes.set_ylabel(words, fontsize=9)
    return png.getvalue()


def _frame(left, top, side, color):
    from matplotlib.patches import Rectangle

    return Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=color, linewidth=1.8)


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
                color = "soft" if right else "ink" if wrong[digit, answer] < 0.6 * highest else "page"
                axes.text(answer, digit, f"{counts[digit, answer]:,}", ha="center", va="center", fontsize=9,
                          color=colors[color], weight="normal" if right else "bold")
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
