"""The figures of the study, each as the bytes of a PNG file."""

import numpy as np

from .._drawing import DARK, LIGHT, WIDTH, canvas
from .methods import CLASSES, METHODS, SIDE
from .study import QUARTER

# By method: colour of the palette, marker, line.
STYLES = {
    "deterministic": ("ink", "s", (0, (1, 1.5))),
    "dropout": ("train", "o", "-"),
    "concrete": ("val", "^", (0, (5, 1.5))),
    "bayes": ("green", "D", (0, (5, 1.5, 1, 1.5))),
}
SETS = {"upright": "upright digits", "turned": f"digits turned by {QUARTER}°", "letters": "letters",
        "jigsaw": "jigsaws of digits", "noise": "noise"}
SHOWN, GAP = 11, 2  # images of each set, and pixels between them


def draw(results, sets, example, *, dark=False):
    """Draw every figure of a run: a dict of PNG bytes by the name of the file.

    Parameters
    ----------
    results, sets, example
        As `study.run` gives them.
    dark : bool
        Whether the figures are for a dark page.
    """
    colors = DARK if dark else LIGHT
    return {
        "uncertainty_angle.png": _angles(results, colors),
        "uncertainty_sets.png": _sets(results, colors),
        "images.png": _images(sets, colors),
        "turning_digit.png": _turning(results, example, colors),
        "dropout_rates.png": _rates(results, colors),
    }


def _angles(results, colors):
    """The measures against the angle, a line for each method, a band from the lowest to the highest seed."""
    panels = [
        ("entropy", "Predictive entropy", "nats"),
        ("mutual_information", "Mutual information", "nats"),
        ("accuracy", "Accuracy", "share of digits read right"),
        ("confidence", "Confidence", "largest class probability"),
    ]
    with canvas(colors, 6.2) as (figure, png):
        for axes, (key, title, label) in zip(figure.subplots(2, 2, sharex=True).flat, panels, strict=True):
            for name, (color, marker, line) in STYLES.items():
                if key == "mutual_information" and not METHODS[name].is_random:
                    continue  # one draw has none
                values = np.array(results["methods"][name]["turned"][key])
                axes.fill_between(
                    results["angles"], values.min(axis=0), values.max(axis=0), color=colors[color], alpha=0.2, linewidth=0
                )
                axes.plot(
                    results["angles"], values.mean(axis=0), color=colors[color], linestyle=line, linewidth=1.8,
                    marker=marker, markersize=4, label=METHODS[name].name,
                )
            axes.set_title(title)
            axes.set_ylabel(label)
            axes.set_ylim(0, 1 if key in ("accuracy", "confidence") else None)
            axes.set_xticks(range(0, 181, 45))
            if axes.get_subplotspec().is_last_row():
                axes.set_xlabel("angle in degrees")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return png.getvalue()


def _sets(results, colors):
    """The measures for every set: a point for each method, a bar from the lowest to the highest seed."""
    with canvas(colors, 4.6) as (figure, png):
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, key, title in ((left, "entropy", "Predictive entropy"), (right, "mutual_information", "Mutual information")):
            names = [name for name in STYLES if key == "entropy" or METHODS[name].is_random]
            for place, name in enumerate(STYLES):
                if name not in names:
                    continue
                color, marker, _ = STYLES[name]
                values = np.array([results["methods"][name]["sets"][kind][key] for kind in SETS])
                mean = values.mean(axis=1)
                spread = np.abs(np.stack([values.min(axis=1), values.max(axis=1)]) - mean)
                heights = np.arange(len(SETS)) + (place - (len(STYLES) - 1) / 2) * 0.17
                axes.errorbar(
                    mean, heights, xerr=spread, color=colors[color], marker=marker, markersize=5.5, linestyle="none",
                    linewidth=1.6, label=METHODS[name].name,
                )
            axes.set_title(title)
            axes.set_xlabel("nats (mean over the images)")
            axes.set_xlim(left=0)
            axes.set_ylim(len(SETS) - 0.5, -0.5)
            axes.set_yticks(range(len(SETS)), SETS.values())
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="y", visible=False)
            for border in range(1, len(SETS)):
                axes.axhline(border - 0.5, color=colors["grid"], linewidth=0.8)
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return png.getvalue()


def _images(sets, colors):
    """Some images of each set."""
    from matplotlib import colormaps

    padding = ((0, 0), (0, GAP), (0, GAP))
    rows = [np.concatenate(list(np.pad(sets[kind][:SHOWN], padding, constant_values=np.nan)), axis=1) for kind in SETS]
    mosaic = np.ma.masked_invalid(np.concatenate(rows)[:-GAP, :-GAP])
    gray = colormaps["gray"].with_extremes(bad=colors["page"])
    with canvas(colors, 0.5 + (WIDTH - 2) * mosaic.shape[0] / mosaic.shape[1]) as (figure, png):
        axes = figure.add_subplot()
        axes.imshow(mosaic, cmap=gray, vmin=0, vmax=1, interpolation="nearest")
        axes.set_yticks(SIDE / 2 + (SIDE + GAP) * np.arange(len(SETS)), SETS.values())
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        axes.set_title("What the networks are shown")
    return png.getvalue()


def _turning(results, example, colors):
    """One digit at every angle, and the class probabilities that each method gives."""
    angles = results["angles"]
    with canvas(colors, 7.8) as (figure, png):
        strip, *maps = figure.subplots(len(STYLES) + 1, 1, height_ratios=[0.55, *(1,) * len(STYLES)])
        strip.imshow(
            np.concatenate(list(example.images), axis=1), cmap="gray", vmin=0, vmax=1, interpolation="nearest",
            extent=(-0.5, len(angles) - 0.5, 0, 1), aspect="auto",
        )
        strip.set_title("One digit, turned, and the class probabilities of each network")
        strip.set_xticks([])
        strip.set_yticks([])
        for axes, name in zip(maps, STYLES, strict=True):
            probabilities = example.probabilities[name]
            picture = axes.imshow(probabilities.T, cmap="viridis", vmin=0, vmax=1, aspect="auto", origin="lower")
            best = probabilities.argmax(axis=1)
            # A mark on the most probable class, in whichever of black and white stands out.
            dots = ["black" if value > 0.6 else "white" for value in probabilities.max(axis=1)]
            axes.scatter(range(len(angles)), best, s=14, c=dots, marker="o")
            axes.set_title(METHODS[name].name, fontsize=10.5)
            axes.set_ylabel("class")
            axes.set_yticks(range(0, CLASSES, 3))
            axes.set_xticks(range(len(angles)), [])
            axes.grid(visible=False)
        maps[-1].set_xticks(range(len(angles)), angles)
        maps[-1].set_xlabel("angle in degrees (dot: the most probable class)")
        figure.colorbar(picture, ax=maps, label="class probability", shrink=0.6, aspect=40)
    return png.getvalue()


def _rates(results, colors):
    """The rates that Concrete dropout learns."""
    from matplotlib.ticker import MaxNLocator

    rates = np.array(results["methods"]["concrete"]["rates"])  # (seeds, epochs + 1, layers)
    with canvas(colors, 3.4) as (figure, png):
        axes = figure.add_subplot()
        epochs = np.arange(rates.shape[1])
        names = ["CONV 1 (of 25 columns of Φ)", "CONV 2 (of 200 columns of Φ)", "FC (of 256 inputs)"]
        for layer, (name, method) in enumerate(zip(names, ("dropout", "concrete", "bayes"), strict=True)):
            color, marker, line = STYLES[method]
            values = rates[:, :, layer]
            axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colors[color], alpha=0.2, linewidth=0)
            axes.plot(
                epochs, values.mean(axis=0), color=colors[color], linestyle=line, marker=marker, markersize=4,
                linewidth=1.8, label=name,
            )
        axes.set_title("Concrete dropout: the rate that each layer learns")
        axes.set_xlabel("epoch")
        axes.set_ylabel("probability to drop")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend()
    return png.getvalue()
