"""The figures of the study, each as the bytes of a PNG file."""

import numpy as np

from .._drawing import DARK, LIGHT, WIDTH, canvas
from . import morphs

NAMES = {"grown": "grown by morphs", "small": "small network, trained on", "scratch": "last network, from random weights"}
STYLES = {"grown": ("train", "-", "o"), "small": ("val", (0, (5, 1.5)), "s"), "scratch": ("ink", (0, (1, 1.5)), "^")}
ARMS = {"random": ("val", (0, (5, 1.5))), "unchanged": ("ink", (0, (1, 1.2))), "morphed": ("train", "-")}
ARM_NAMES = {"random": "random instead", "unchanged": "without the morph", "morphed": "morphed"}
GAP = 4  # entries between two matrices
WINDOW = 25  # batches that a point of the loss is the mean of


def draw(results, grown, *, dark=False):
    """Draw every figure of a run: a dict of PNG bytes by the name of the file.

    Parameters
    ----------
    results, grown
        As `study.run` gives them.
    dark : bool
        Whether the figures are for a dark page.
    """
    colors = DARK if dark else LIGHT
    return {
        "loss.png": _loss(results, colors),
        "after_the_morph.png": _after(results, colors),
        "matrices.png": _matrices(grown, colors),
    }


def _smooth(losses):
    """Means over `WINDOW` batches on the way (fewer at the start): (seeds, steps)."""
    sums = np.cumsum(np.pad(losses, ((0, 0), (1, 0))), axis=1)
    ends = np.arange(1, sums.shape[1])
    starts = np.maximum(ends - WINDOW, 0)
    return (sums[:, ends] - sums[:, starts]) / (ends - starts)


def _logarithmic(axes):
    """A logarithmic vertical axis whose numbers are written out."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _loss(results, colors):
    """Training loss against steps, the test loss at the end of every stage, and the morphs."""
    steps = len(results["runs"]["grown"]["losses"][0])
    stages = len(results["morphs"]) + 1
    ends = steps // stages * np.arange(1, stages + 1)
    with canvas(colors, 6.6) as (figure, png):
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[1.35, 1])
        for name, (color, line, marker) in STYLES.items():
            run = results["runs"][name]
            losses = _smooth(np.array(run["losses"]))
            x = np.arange(steps)
            top.fill_between(x, losses.min(axis=0), losses.max(axis=0), color=colors[color], alpha=0.18, linewidth=0)
            top.plot(x, losses.mean(axis=0), color=colors[color], linestyle=line, linewidth=1.5, label=NAMES[name])
            test = np.array(run["test_loss"])
            spread = np.abs(np.stack([test.min(axis=0), test.max(axis=0)]) - test.mean(axis=0))
            bottom.errorbar(ends, test.mean(axis=0), yerr=spread, color=colors[color], linestyle=line, marker=marker,
                            linewidth=1.5, markersize=5)
        _logarithmic(top)
        top.set_title("Loss on the training batches", pad=26)
        top.set_ylabel(f"cross-entropy in nats\n(mean of {WINDOW} batches)")
        top.legend(loc="upper right", frameon=True, facecolor=colors["page"], edgecolor="none", framealpha=1)
        bottom.set_title("Loss on test digits, at the end of each stage")
        bottom.set_ylabel("cross-entropy in nats")
        bottom.set_ylim(bottom=0)
        bottom.set_xlabel("training steps")
        for end, morph in zip(ends, results["morphs"], strict=False):
            for axes in (top, bottom):
                axes.axvline(end, color=colors["gap"], linewidth=1.2)
            top.annotate(morph["name"], (end, 1), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
                         ha="center", color=colors["gap"], fontsize=10)
        for axes in (top, bottom):
            axes.grid(axis="x", visible=False)
            axes.set_xlim(0, steps * 1.02)
    return png.getvalue()


def _after(results, colors):
    """The first batches after every morph, for the three arms."""
    with canvas(colors, 5.6) as (figure, png):
        every_axes = figure.subplots(2, 2, sharex=True)
        for axes, morph in zip(every_axes.flat, results["morphs"], strict=True):
            for arm, (color, line) in ARMS.items():
                losses = np.array(morph["arms"][arm]).mean(axis=0)
                wide = {"linewidth": 3.2, "alpha": 0.55} if arm == "morphed" else {"linewidth": 1.5}
                axes.plot(np.arange(1, len(losses) + 1), losses, color=colors[color], linestyle=line,
                          label=ARM_NAMES[arm], zorder=1 if arm == "morphed" else 2, **wide)
            _logarithmic(axes)
            axes.set_title(morph["name"])
            if axes.get_subplotspec().is_last_row():
                axes.set_xlabel("batches after the morph")
            if axes.get_subplotspec().is_first_col():
                axes.set_ylabel("cross-entropy in nats")
        figure.legend(*every_axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return png.getvalue()


def _matrices(grown, colors):
    """The weights that each morph takes and makes, in FC form: a row is a filter, a column belongs to a column of Φ."""
    rng = np.random.default_rng(0)
    first, wide, large, deep = grown[:4]
    wider, framed = morphs.widen(first, 0, 2, 12, rng), morphs.enlarge(wide, 0, 5, rng)
    halves = morphs.decompose(deep, 0, (3, 3), 8, rng)
    rows = [
        ("widen", {"CONV 1": first[0], "CONV 2": first[2]}, {"CONV 1": wider[0], "CONV 2": wider[2]}),
        ("enlarge", {"CONV 1": wide[0]}, {"CONV 1, framed by zeros": framed[0]}),
        ("deepen", {}, {"new layer": morphs.deepen(large, 3, 3, 24, rng)[4]}),
        ("decompose", {"CONV 1": deep[0]}, {"first half": halves[0], "second half": halves[2]}),
    ]
    from matplotlib.colors import LinearSegmentedColormap

    colormap = LinearSegmentedColormap.from_list("weights", [colors["val"], colors["box"], colors["train"]])
    heading, below, left, right = 0.5, 0.25, (0.1, 2.1), (2.75, 4.35)  # inches; (where it starts, how wide it may be)
    heights = [
        max(
            len(part.weight.T) * _cell(side, width)
            for side, (_, width) in ((before, left), (after, right))
            for part in side.values()
        )
        for _, before, after in rows
    ]
    height = sum(heights) + len(rows) * (heading + below)
    with canvas(colors, height) as (figure, png):
        figure.set_layout_engine("none")
        top = height
        for (name, before, after), tall in zip(rows, heights, strict=True):
            figure.text(left[0] / WIDTH, (top - 0.17) / height, name, weight="bold", color=colors["gap"], va="center")
            for side, (start, width) in ((before, left), (after, right)):
                cell = _cell(side, width)
                limit = max((np.percentile(np.abs(part.weight), 98) for part in side.values()), default=0)
                text = ", ".join(f"{title}: {len(part.weight.T)} × {len(part.weight)}" for title, part in side.items())
                figure.text(start / WIDTH, (top - 0.37) / height, text, fontsize=8.5, va="center", color=colors["soft"])
                for part in side.values():
                    filters, columns = part.weight.T.shape
                    bottom = top - heading - filters * cell
                    size = (columns * cell / WIDTH, filters * cell / height)
                    axes = figure.add_axes((start / WIDTH, bottom / height, *size))
                    axes.imshow(
                        part.weight.T, cmap=colormap, vmin=-limit or -1, vmax=limit or 1, interpolation="nearest",
                        aspect="auto",
                    )
                    axes.set_xticks([])
                    axes.set_yticks([])
                    axes.grid(visible=False)
                    axes.spines[:].set_visible(True)
                    axes.spines[:].set_color(colors["grid"])
                    start += (columns + GAP) * cell
            if before:
                arrow = (top - heading - tall / 2) / height
                figure.text((left[1] + 0.38) / WIDTH, arrow, "→", fontsize=15, ha="center", va="center", color=colors["soft"])
            top -= heading + below + tall
    return png.getvalue()


def _cell(side, width):
    """How large, in inches, an entry of the matrices of one side is drawn, so that they fit."""
    columns = sum(len(part.weight) for part in side.values()) + GAP * (len(side) - 1)
    return min(0.09, width / columns) if side else 0
