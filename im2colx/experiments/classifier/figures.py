"""The figures of the study, each as the bytes of a PNG file."""

import numpy as np

from im2colx import conv2d

from .._drawing import DARK, LIGHT, canvas
from .network import CLASSES, KERNEL, pixels

COLUMNS = 8  # filters side by side
MISTAKES = 4, 5  # rows and columns of digits that were read wrong
TEST = {"marker": "s", "markersize": 4, "linestyle": (0, (5, 1.5))}


def draw(metrics, model, images, *, dark=False):
    """Draw every figure of a run (`images` are those of the test): a dict of PNG bytes by the name of the file."""
    colors = DARK if dark else LIGHT
    return {
        "classifier_filters.png": _filters(model, images[0], colors),
        "classifier_epochs.png": _epochs(metrics, colors),
        "classifier_confusion.png": _confusion(np.array(metrics["confusion"]), colors),
        "classifier_mistakes.png": _mistakes(metrics["mistakes"], images, colors),
    }


def _show(axes, array, highest, colors, *names, frame=None):
    """Show numbers from 0 in the colours of these names; or from -highest, where there are three."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    # So few shades that 64 colours suffice for three such maps and the letters.
    shades = LinearSegmentedColormap.from_list("ours", [colors[name] for name in names], N=15)
    axes.grid(visible=False)
    if frame:
        row, column, side = frame
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), side, side, fill=False, edgecolor=colors["val"], linewidth=1.8))
    return axes.imshow(array, cmap=shades, vmin=-highest if len(names) == 3 else 0, vmax=highest)


def _small(axes, color, title="", label="", row=""):
    """Axes without numbers."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(color)
    axes.set_title(title, fontsize=10, loc="center", pad=4)
    axes.set_xlabel(label)
    axes.set_ylabel(row)


def _label(axes, title, x, y):
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def _scale(figure, shown, axes, label, extend="neither"):
    bar = figure.colorbar(shown, ax=axes, label=label, extend=extend, shrink=0.8)
    bar.ax.grid(visible=False)
    bar.outline.set_visible(False)
    return bar.ax


def _filters(model, image, colors):
    """A digit, the filters of the first layer, and their responses."""
    weight, bias = model.layers[0].weight, model.layers[0].bias
    response = np.maximum(conv2d(pixels(image[np.newaxis]), weight, bias=bias, layout="NHWC"), 0)[0]
    filters = weight.shape[-1]
    columns = min(COLUMNS, filters)
    bands = -(-filters // columns)

    limit = float(np.percentile(np.abs(weight), 95))  # one that few weights pass

    def show(axes, number):
        return _show(axes, weight[..., 0, number], limit, colors, "val", "page", "train")

    def show_response(axes, number, **options):
        return _show(axes, response[..., number], float(response.max()), colors, "page", "green", **options)

    row, column, best = (int(index) for index in np.unravel_index(response.argmax(), response.shape))
    with canvas(colors, 2.3 + 1.75 * bands) as (figure, png):
        top, bottom = figure.subfigures(2, 1, height_ratios=[2.3, 1.75 * bands])
        digit, one, made = top.subplots(1, 3)
        _show(digit, image, 255, colors, "page", "ink", frame=(row, column, KERNEL))
        _label(digit, "A digit", "column, in pixels", "row, in pixels")
        _scale(top, show(one, best), one, "weight", "both")
        _label(one, f"Filter {best + 1}", "column in the window", "row in the window")
        _scale(top, show_response(made, best, frame=(row, column, 1)), made, "response")
        _label(made, "Its response", "column of the window", "row of the window")
        every = bottom.subplots(2 * bands, columns, squeeze=False)
        for number, (band, column) in enumerate(np.ndindex(bands, columns)):
            above, below = every[2 * band : 2 * band + 2, column]
            _small(above, colors["grid"], number + 1, row="" if column else "filter")
            _small(below, colors["grid"], row="" if column else "response")
            if number < filters:
                show(above, number)
                show_response(below, number)
    return png.getvalue()


def _epochs(metrics, colors):
    from matplotlib.ticker import MaxNLocator

    epochs = np.arange(1, len(metrics["train_loss"]) + 1)
    with canvas(colors, 3.4) as (figure, png):
        left, right = figure.subplots(1, 2)
        left.plot(epochs, metrics["train_loss"], color=colors["train"], marker="o", markersize=4, label="training, with dropout")
        left.plot(epochs, metrics["test_loss"], color=colors["val"], label="test", **TEST)
        _label(left, "Loss", "epochs", "cross-entropy in nats")
        left.set_ylim(bottom=0)
        left.legend()
        right.plot(epochs, 100 * np.array(metrics["accuracy_by_epoch"]), color=colors["val"], **TEST)
        _label(right, "Test digits read right", "epochs", "accuracy in %")
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
            axes.set_xlim(0.5, len(epochs) + 0.5)
    return png.getvalue()


def _confusion(counts, colors):
    """How often each digit got each answer; only mistakes have a colour, or one would not see them."""
    wrong = counts * ~np.eye(CLASSES, dtype=bool)
    highest = max(int(wrong.max()), 1)
    with canvas(colors, 5.6) as (figure, png):
        axes = figure.subplots()
        shown = _show(axes, wrong, highest, colors, "page", "val")
        for digit, answer in np.argwhere(counts):
            right = digit == answer
            color = "soft" if right else "ink" if wrong[digit, answer] < 0.6 * highest else "page"
            axes.text(answer, digit, f"{counts[digit, answer]:,}", ha="center", va="center", fontsize=9, color=colors[color],
                      weight="normal" if right else "bold")
        axes.set_xticks(range(CLASSES))
        axes.set_yticks(range(CLASSES))
        _label(axes, "", "what the network says", "what it is")
        _scale(figure, shown, axes, "mistakes").yaxis.get_major_locator().set_params(integer=True)
    return png.getvalue()


def _mistakes(mistakes, images, colors):
    rows, columns = MISTAKES
    rows = max(1, min(rows, -(-len(mistakes) // columns)))
    with canvas(colors, 0.2 + 1.6 * rows) as (figure, png):
        every = figure.subplots(rows, columns, squeeze=False)
        for axes in every.flat:
            _small(axes, colors["page"])
        for axes, found in zip(every.flat, mistakes, strict=False):
            _small(axes, colors["page"], f"says {found['answer']}, {found['confidence']:.1%}", f"is {found['digit']}")
            _show(axes, images[found["image"]], 255, colors, "page", "ink")
    return png.getvalue()
