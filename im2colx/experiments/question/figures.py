"""The figures of the study, each as the bytes of a PNG file, in the style of `_drawing`."""

import numpy as np

from .._drawing import DARK, LIGHT, canvas
from ..verdict import AUTHORS, AUTHORS_EPOCHS, NAMES
from .study import CASES, EXPONENTS
from .verdict import AMPLIFIED

TITLES = {case.name: case.title for case in CASES}


def draw(found, *, dark=False, long=None):
    """Draw every figure of the study.

    Parameters
    ----------
    found : verdict.Findings
    dark : bool
        Whether the figures are for a dark page.
    long : dict of str to list, optional
        For each optimizer of the paper's experiment, the weight distance after every epoch.  Not drawn if all are 0.

    Returns
    -------
    dict
        The bytes of a PNG by the name of the file.
    """
    colors = DARK if dark else LIGHT
    figures = {
        "question_same.png": _same(found, colors),
        "question_rounding.png": _rounding(found, colors),
        "question_weights.png": _weights(found, colors),
        "question_rates.png": _rates(found, colors),
        "question_stability.png": _stability(found, colors),
    }
    if long is not None and any(map(any, long.values())):
        figures["question_long.png"] = _long(long, colors)
    return figures


def _panels(figure, titles, ylabel, xlabel="epoch"):
    """Two panels beside each other with one vertical axis."""
    every_axes = figure.subplots(1, 2, sharey=True)
    for axes, title in zip(every_axes, titles, strict=True):
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(xlabel)
    every_axes[0].set_ylabel(ylabel)
    return every_axes


def _whole_epochs(axes):
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _curves(axes, values, color, label, style="-"):
    """The median over the seeds as a line, from the least to the greatest as a band; values are (seed, epoch)."""
    values = np.where(values > 0, values, np.nan)  # 0 has no place on a logarithmic axis
    epochs = np.arange(1, values.shape[1] + 1)
    if np.isfinite(values).all(axis=0).any():
        axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=color, alpha=0.22, linewidth=0)
    axes.plot(epochs, np.median(values, axis=0), style, color=color, linewidth=2, label=label)


def _same(found, colors):
    with canvas(colors, 3.5) as (figure, png):
        every_axes = _panels(figure, ("SGD", "Adam"), "mean squared error\n(pixels from 0 to 1)")
        for axes, case in zip(every_axes, ("sgd", "adam"), strict=True):
            for number, result in enumerate(found.by_case[case]):
                for kind, color in (("train", colors["train"]), ("val", colors["val"])):
                    word = {"train": "training", "val": "validation"}[kind]
                    fc, cnn = (result["losses"][network][kind] for network in ("fc", "same"))
                    epochs = np.arange(1, len(fc) + 1)
                    names = (f"FC, {word}", f"CNN, {word}") if not number else (None, None)
                    axes.plot(epochs, fc, color=color, alpha=0.3, linewidth=5, label=names[0])
                    axes.plot(epochs, cnn, "--", color=color, linewidth=1.2, label=names[1])
            axes.set_yscale("log")
            _whole_epochs(axes)
        every_axes[0].legend(fontsize=9)
    return png.getvalue()


def _rounding(found, colors):
    with canvas(colors, 4.2) as (figure, png):
        every_axes = _panels(figure, ("SGD", "Adam"), "distance between the networks\n(all weights, Euclidean)")
        for axes, case in zip(every_axes, ("sgd", "adam"), strict=True):
            _curves(axes, found.distances(case), colors["train"], "float32, another method")
            _curves(axes, found.distances(case, "nudged"), colors["green"], "float32, one weight nudged", "--")
            _curves(axes, found.distances(f"{case}64"), colors["val"], "float64, another method")
            axes.set_yscale("log")
            _whole_epochs(axes)
        low = every_axes[0].get_ylim()[0]
        every_axes[0].set_ylim(low / 300)
        for axes in every_axes:
            note = "same products: exactly 0" if found.bitwise() else "same products: not 0"
            axes.text(0.5, 0.03, note, transform=axes.transAxes, ha="center", color=colors["soft"], fontsize=9.5)
        every_axes[0].legend(fontsize=9, loc="center right")
    return png.getvalue()


def _weights(found, colors):
    from matplotlib.ticker import LogLocator

    edges = 10.0 ** np.linspace(*EXPONENTS, 4 * (EXPONENTS[1] - EXPONENTS[0]) + 1)
    lines = [("sgd", colors["green"], "-"), ("adam", colors["train"], "-"), ("adam64", colors["val"], "--")]
    with canvas(colors, 3.9) as (figure, png):
        sizes = [_size(found.by_case["adam"][0], layer) for layer in ("first", "last")]
        titles = [f"layer {i + 1}: {size:,} weights" for i, size in enumerate(sizes)]
        every_axes = _panels(figure, titles, "of the weights that differ,\nshare per bin (%)", "difference of a weight (absolute)")
        used = []
        for axes, layer in zip(every_axes, ("first", "last"), strict=True):
            for case, color, style in lines:
                counts = [result["differences"]["other"][layer] for result in found.by_case[case]]
                bins = np.mean([count["bins"] for count in counts], axis=0)
                zero = np.mean([count["zero"] for count in counts])
                size = bins.sum() + zero
                label = f"{TITLES[case]}: {100 * zero / size:.3g} % equal"
                share = 100 * bins / max(1, bins.sum())
                axes.stairs(share, edges, color=color, linestyle=style, linewidth=1.8, label=label)
                used.append(np.flatnonzero(bins))
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=5))
            axes.legend(fontsize=8.5, loc="upper left")
        used = np.concatenate(used) if any(map(len, used)) else np.arange(2)
        every_axes[0].set_ylim(0, 1.45 * every_axes[0].get_ylim()[1])
        for axes in every_axes:
            axes.set_xlim(edges[used.min()], edges[used.max() + 1])
    return png.getvalue()


def _size(result, layer):
    counted = result["differences"]["other"][layer]
    return counted["zero"] + sum(counted["bins"])


def _rates(found, colors):
    titles = ("Adam with larger ε", "adaptive rates, size of the steps")
    ladder = [("adam", "ε = 1e-8", "train", "-"), ("eps6", "ε = 1e-6", "gap", "--"), ("eps5", "ε = 1e-5", "val", "-."),
              ("eps4", "ε = 1e-4", "green", ":")]
    control = [("adam", "Adam, rate 0.001", "train", "-"), ("slow", "Adam, rate 0.0001", "train", ":"),
               ("fast", "SGD, rate 1", "val", "-"), ("sgd", "SGD, rate 0.01", "val", ":")]
    with canvas(colors, 4.2) as (figure, png):
        every_axes = _panels(figure, titles, "distance between the networks\n(all weights, Euclidean)")
        for axes, lines in zip(every_axes, (ladder, control), strict=True):
            for case, label, color, style in lines:
                _curves(axes, found.distances(case), colors[color], label, style)
            axes.set_yscale("log")
            _whole_epochs(axes)
            axes.legend(fontsize=9, loc="lower right")
        low, high = every_axes[0].get_ylim()
        every_axes[0].set_ylim(low / 1000, high)  # below the curves there is room for it
    return png.getvalue()


def _stability(found, colors):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    marks = {
        "sgd": ("val", "o", "none"), "fast": ("val", "o", "full"), "adam": ("train", "s", "full"),
        "slow": ("train", "s", "none"), "eps6": ("gap", "^", "full"), "eps5": ("gap", "D", "none"),
        "eps4": ("gap", "v", "none"),
    }
    with canvas(colors, 4.2) as (figure, png):
        axes = figure.add_subplot()
        for case, (color, marker, fill) in marks.items():
            face = colors[color] if fill == "full" else colors["page"]
            axes.plot(
                found.stability(case), found.growth(case), linestyle="", marker=marker, markersize=8,
                color=colors[color], markerfacecolor=face, markeredgewidth=1.6, label=TITLES[case],
            )
        axes.set(xscale="log", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.axvline(1, color=colors["soft"], linewidth=1.2, linestyle="--")
        axes.axhline(AMPLIFIED, color=colors["soft"], linewidth=1.2, linestyle=":")
        axes.set_xlabel("size of the steps / limit of stability (dashed: the limit)")
        axes.set_ylabel("most growth of the distance while the\ntraining doubled in length, as a factor")
        axes.legend(fontsize=9)
    return png.getvalue()


def _long(long, colors):
    with canvas(colors, 3.6) as (figure, png):
        axes = figure.add_subplot()
        for optimizer, color in (("sgd", colors["val"]), ("adam", colors["train"])):
            apart = np.asarray(long.get(optimizer, []), dtype=float)
            equal = " (0: not drawn)" if apart.size and not apart.any() else ""
            apart[apart == 0] = np.nan
            label = NAMES[optimizer] + equal
            axes.plot(np.arange(1, len(apart) + 1), apart, color=color, linewidth=1.8, label=label)
            axes.plot(
                AUTHORS_EPOCHS, AUTHORS[optimizer][1], linestyle="", marker="*", markersize=12, color=color,
                label=f"{NAMES[optimizer]}, the authors",
            )
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel("weight distance in layer 1\n(Euclidean)")
        axes.legend(fontsize=9)
        _whole_epochs(axes)
    return png.getvalue()
