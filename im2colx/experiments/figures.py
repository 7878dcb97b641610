"""The figures of the experiment, drawn like the paper's, each as the bytes of a PNG file.

Every figure can be drawn for a light and for a dark page, in the style of `_drawing`; the two networks also differ in
the kind of line.
"""

import numpy as np

from ._drawing import DARK, LIGHT, WIDTH, canvas
from .paper import FILTERS, KERNEL, PATCH, ROWS, SIDE, STRIDE
from .verdict import NAMES

BINS = 199  # of the histograms, on [-1, 1], as in the paper


def draw(metrics, runs, examples, *, dark=False):
    """Draw every figure of a run.

    Parameters
    ----------
    metrics : dict
        As in ``metrics.json``.
    runs : dict
        The `paper.Run` of each optimizer.
    examples : ndarray, shape (n, 28, 28)
        The digits that the runs reconstructed.
    dark : bool
        Whether the figures are for a dark page.

    Returns
    -------
    dict
        The bytes of a PNG by the name of the file.
    """
    colors = DARK if dark else LIGHT
    figures = {}
    if "sgd" in runs:
        figures["fig07_sgd_loss.png"] = _losses(metrics["sgd"], "sgd", colors)
    figures["fig08_architectures.png"] = _architectures(colors)
    figures["fig09_weights_histogram.png"] = _histograms(runs, colors)
    if "adam" in runs:
        figures["fig10_adam_loss.png"] = _losses(metrics["adam"], "adam", colors)
    figures["reconstructions.png"] = _reconstructions(runs, examples, colors)
    return figures


def _losses(result, optimizer, colors):
    """Figures 7 and 10: the losses of both networks, and below them how far apart the networks are."""
    from matplotlib.ticker import MaxNLocator

    kinds = [("train_loss", "training", colors["train"]), ("val_loss", "validation", colors["val"])]
    with canvas(colors, 5.4) as (figure, png):
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
        everything = []
        for key, kind, color in kinds:
            cnn, fc = (np.asarray(result[network][key], dtype=float) for network in ("cnn", "fc"))
            epochs = np.arange(1, len(cnn) + 1)
            # The one that is drawn over the other is thin and dashed, so that both are seen where they coincide.
            dots = {"marker": "o", "markersize": 3} if len(epochs) < 40 else {}
            blob = {"marker": "o", "markersize": 9} if len(epochs) == 1 else {}
            top.plot(epochs, cnn, color=color, alpha=0.35, linewidth=6, label=f"CNN, {kind}", **blob)
            top.plot(epochs, fc, "--", color=color, linewidth=1.7, label=f"FC, {kind}", **dots)
            apart = np.abs(cnn - fc)
            apart[apart == 0] = np.nan  # has no place on a logarithmic axis
            bottom.plot(epochs, apart, color=color, linewidth=1.5, marker="o", markersize=3 if dots else 1.5)
            everything += [cnn, fc]
        everything = np.concatenate(everything)
        if everything.min() > 0 and everything.max() > 10 * everything.min():
            top.set_yscale("log")
        top.set_title(f"Both networks under {NAMES[optimizer]}: loss after each epoch")
        top.set_ylabel("mean squared error\n(pixels from 0 to 1)")
        top.legend(ncols=2)
        bottom.set_title("How far apart CNN and FC are (where nothing is drawn: equal)", fontsize=10.5)
        bottom.set_ylabel("|CNN − FC|")
        bottom.set_xlabel("epoch")
        if np.isfinite(np.concatenate([line.get_ydata() for line in bottom.lines])).any():
            bottom.set_yscale("log")
        else:
            bottom.set_yticks([])
            bottom.text(0.5, 0.5, "the curves are equal to the last bit", ha="center", transform=bottom.transAxes)
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    return png.getvalue()


def _histograms(runs, colors):
    """Figure 9: the layer-1 weights of both networks in one plot, for each optimizer."""
    with canvas(colors, 0.6 + 2.5 * len(runs)) as (figure, png):
        every_axes = figure.subplots(len(runs), 1, sharex=True, squeeze=False)[:, 0]
        edges = np.linspace(-1, 1, BINS + 1)
        bound = np.sqrt(6 / PATCH)
        for axes, (optimizer, run) in zip(every_axes, runs.items(), strict=True):
            heights = {network: np.histogram(run.weights[network], edges)[0] for network in ("cnn", "fc")}
            axes.stairs(heights["cnn"], edges, fill=True, color=colors["cnn"], alpha=0.6, label="CNN")
            axes.stairs(heights["fc"], edges, color=colors["fc"], linewidth=0.9, label="FC")
            for side in (-bound, bound):
                axes.axvline(side, color=colors["soft"], linewidth=1, linestyle=(0, (1, 2)))
            moved = np.count_nonzero(np.digitize(run.weights["cnn"], edges) != np.digitize(run.weights["fc"], edges))
            axes.set_title(f"Layer-1 weights after training with {NAMES[optimizer]}")
            note = f"{moved} of {run.weights['cnn'].size:,}\nweights in\nanother bin"
            axes.text(0.01, 0.95, note, transform=axes.transAxes, va="top", color=colors["soft"], fontsize=9)
            axes.set_ylabel("weights per bin")
            axes.set_xlim(-1, 1)
            axes.legend(loc="upper right")
            axes.grid(axis="x", visible=False)
        first = f"dotted: the range ±{bound:.3f} of the first weights"
        every_axes[-1].set_xlabel(f"weight ({BINS} bins on [−1, 1]; {first})")
    return png.getvalue()


def _architectures(colors):
    """Figure 8: the two networks side by side, with the shape after each layer and the number of weights."""
    from matplotlib.patches import FancyBboxPatch

    flat = ROWS * FILTERS
    side = int(ROWS**0.5)
    first, last = PATCH * FILTERS, flat * SIDE * SIDE
    # (name, note, shape after it, whether it has weights) for each network, step by step
    steps = [
        (("image", "", f"{SIDE} × {SIDE} × 1"), ("im2col of the image", "Algorithm 1", f"{ROWS} × {PATCH}")),
        (
            ("Conv", f"{FILTERS} filters {KERNEL} × {KERNEL}, stride {STRIDE}", f"{side} × {side} × {FILTERS}", first),
            ("Dense", f"{PATCH} → {FILTERS} on each row", f"{ROWS} × {FILTERS}", first),
        ),
        (("ReLU", "", f"{side} × {side} × {FILTERS}"), ("ReLU", "", f"{ROWS} × {FILTERS}")),
        (("flatten", "", f"{flat:,}"),) * 2,
        (("Dense", f"{flat:,} → {SIDE * SIDE}", f"{SIDE * SIDE}", last),) * 2,
        (("ReLU", "", f"{SIDE * SIDE}"),) * 2,
        (("image", "reshape", f"{SIDE} × {SIDE} × 1"),) * 2,
    ]
    with canvas(colors, 7.6) as (figure, png):
        axes = figure.add_subplot()
        axes.set(xlim=(-0.7, 100.7), ylim=(-7, 99))
        axes.axis("off")
        axes.text(0, 97, "The two networks: the shape after each layer, and the weights", fontsize=12, weight="bold")
        width, height, pitch = 45, 8.6, 12.4
        for column, (left, title) in enumerate([(0, "CNN: convolution"), (55, "FC: fully connected")]):
            axes.text(left + width / 2, 89, title, ha="center", fontsize=11.5, weight="bold", color=colors["soft"])
            for row, step in enumerate(steps):
                name, note, shape, *weights = step[column]
                bottom = 77 - row * pitch
                axes.add_patch(
                    FancyBboxPatch(
                        (left, bottom), width, height, boxstyle="round,pad=0,rounding_size=1.2",
                        facecolor=colors["box"], edgecolor=colors["train"] if weights else colors["grid"],
                        linewidth=1.8 if weights else 1,
                    )
                )
                middle = bottom + height / 2
                shift = 1.7 if weights or note else 0
                axes.text(left + 2, middle + shift, name, weight="bold", va="center", fontsize=10.5)
                axes.text(left + width - 2, middle + shift, shape, ha="right", va="center", fontsize=10.5)
                axes.text(left + 2, middle - 2, note, va="center", fontsize=8.5, color=colors["soft"])
                if weights:
                    axes.text(
                        left + width - 2, middle - 2, f"{weights[0]:,} weights", ha="right", va="center",
                        fontsize=8.5, color=colors["train"], weight="bold",
                    )
                if row:
                    axes.annotate(
                        "", (left + width / 2, bottom + height), (left + width / 2, bottom + pitch),
                        arrowprops={"arrowstyle": "-|>", "color": colors["soft"], "shrinkA": 0, "shrinkB": 0},
                    )
                if column:
                    sign = "=" if row else "→"
                    axes.text(50, middle, sign, ha="center", va="center", fontsize=15, color=colors["soft"])
            axes.text(
                left + width / 2, -6, f"{first + last:,} weights, no bias", ha="center", fontsize=11, weight="bold",
                color=colors["train"],
            )
    return png.getvalue()


def _reconstructions(runs, examples, colors):
    """Digits that the networks had not seen, and what each network made of them."""
    rows = [("image", examples)]
    for optimizer, run in runs.items():
        rows += [(f"{NAMES[optimizer]}, {NAMES[network]}", run.reconstructions[network]) for network in ("cnn", "fc")]
    gap, heading = 2, 0
    strips, ticks = [], []
    for index, (_, digits) in enumerate(rows):
        # A wider gap before each optimizer keeps its two rows together.
        above = 0 if not index else (3 * gap if index % 2 else gap)
        padded = np.pad(np.clip(digits, 0, 1), ((0, 0), (above, 0), (0, gap)), constant_values=np.nan)
        ticks.append(heading + above + SIDE / 2)
        heading += above + SIDE
        strips.append(np.concatenate(list(padded), axis=1)[:, :-gap])
    mosaic = np.ma.masked_invalid(np.concatenate(strips))
    from matplotlib import colormaps

    gray = colormaps["gray"].with_extremes(bad=colors["page"])
    with canvas(colors, 0.85 + (WIDTH - 1.15) * mosaic.shape[0] / mosaic.shape[1]) as (figure, png):
        axes = figure.add_subplot()
        axes.imshow(mosaic, cmap=gray, vmin=0, vmax=1, interpolation="nearest")
        axes.set_yticks(ticks, [name for name, _ in rows])
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        axes.set_title("New digits and what the networks make of them")
        gaps = (f"{NAMES[name]} {pixel_gap(run):.2g}" for name, run in runs.items())
        axes.set_xlabel(f"largest difference of a pixel between CNN and FC: {', '.join(gaps)}")
    return png.getvalue()


def pixel_gap(run):
    """Return the largest difference of a pixel between the two networks' reconstructions."""
    return float(np.abs(run.reconstructions["cnn"] - run.reconstructions["fc"]).max())
