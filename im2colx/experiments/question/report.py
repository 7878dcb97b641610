"""The part of a page that tells the study, and a page for it alone."""

import html

import numpy as np

from .. import _page
from ..paper import FILTERS, PATCH, ROWS, SIDE
from ..verdict import in_epochs
from . import stability
from .study import CASES, VALIDATION
from .verdict import answer, in_seeds, judge, short

_CAPTIONS = {
    "question_same.png": (
        "The CNN by the products of the FC network, which it computes from patches that it cuts itself. Mean squared error "
        "after every epoch over the training images and over {validation} others, for {seeds}: the wide bands are the FC "
        "network, the dashed lines the CNN."
    ),
    "question_rounding.png": (
        "How far all weights of two networks are apart, epoch by epoch: the line is the median of {seeds}, the band reaches "
        "from the least to the greatest. Another method: the CNN by “implicit”, which needs no patches in memory, and sums the "
        "gradient of layer 1 in another order than the FC network. One weight nudged: two FC networks, one of which began "
        "with a single weight moved to the next number in float32."
    ),
    "question_weights.png": (
        "By how much single weights of the CNN and the FC network differ at the end, in bins of a quarter of a power of ten "
        "(mean of {seeds}). Weights that are equal to the last bit have no place on the axis; the legend tells their share."
    ),
    "question_rates.png": (
        "The distance of all weights, epoch by epoch, in float32 by different methods: medians of {seeds}, from the least to "
        "the greatest. Left: Adam at its rate of 0.001 with larger ε. Right: adaptive rates (Adam) and one fixed rate "
        "(SGD), each with large steps and with small ones."
    ),
    "question_stability.png": (
        "Each mark is one seed. To the right, steps nearer to the limit of stability (a ratio without a unit, found from "
        "below); upwards, more growth. Errors that only add up lie at 2 or below; above the dotted line, at 3, this report "
        "calls them amplified."
    ),
    "question_long.png": (
        "The run of this report: how far the weights of layer 1 of its two networks are apart after each epoch, where they "
        "are not equal, and the authors’ distances after 400."
    ),
}


def section(found, light, dark):
    """Return the part of a page, as a string.

    Parameters
    ----------
    found : verdict.Findings
    light, dark : dict
        The figures for a light and for a dark page, as `figures.draw` makes them.
    """
    seeds = in_seeds(found.seeds)
    values = {"validation": VALIDATION, "seeds": seeds}
    pictures = {name: _page.figure(light[name], dark[name], _CAPTIONS[name].format(**values)) for name in light}
    switches = {case: found.values(lambda r, network: r["switches"][network], case) for case in ("adam", "adam64")}
    return _page.fill(
        "section.html",
        __package__,
        seeds=seeds,
        epochs=in_epochs(found.epochs),
        weights=f"{PATCH * FILTERS + ROWS * FILTERS * SIDE * SIDE:,}",
        answer=answer(found),
        verdicts=_page.cards({f"{title} {verdict.title}": verdict for title, verdict in _titled(found)}),
        same=pictures["question_same.png"],
        rounding=pictures["question_rounding.png"],
        differences=pictures["question_weights.png"],
        rates=pictures["question_rates.png"],
        stability=pictures["question_stability.png"],
        stability_images=stability.IMAGES,
        long=pictures.get("question_long.png", ""),
        closed_first=_closed(found, "adam", 0),
        closed=_closed(found, "adam"),
        table="\n".join(_row(found, case) for case in CASES),
        switches=f"{np.median(switches['adam']):,.0f}",
        switches64=f"{np.median(switches['adam64']):,.0f}",
        all_switches=f"{found.images * ROWS * FILTERS:,}",
    )


def page(found, settings, light, dark):
    """Return a page of its own, as a string; `settings` are those of ``question.json``."""
    rows = [
        _page.digits_row(settings),
        ("images used", f"{settings['images']:,} for training"),
        ("seeds", f"{settings['seeds']}, from {settings['seed']}"),
        *_page.surroundings_rows(settings),
    ]
    body = _page.fill("body.html", __package__, section=section(found, light, dark))
    return _page.page("Why do the curves part under Adam?", body, _page.table(rows), settings["command"], heading="Two networks, one function, two curves")


def _titled(found):
    for title, verdict in judge(found).items():
        yield (title if title.endswith("?") else f"{title}:"), verdict


def _closed(found, case, moment=-1):
    return f"{np.median([result['closed'][moment] for result in found.by_case[case]]):.0f}"


def _row(found, case):
    ratio = found.stability(case.name)
    growth, doubling = np.median(found.growth(case.name)), np.median(found.doubling(case.name))
    cells = [
        found.by_case[case.name][0]["epochs"],
        _page.number(np.median(found.end(case.name))),
        _page.number(float(short(growth))),
        f"{doubling:.1f}" if found.amplified(case.name) else "–",
        "–" if ratio is None else short(np.median(ratio)),
        _closed(found, case.name),
    ]
    return f"<tr><td>{html.escape(case.title)}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
