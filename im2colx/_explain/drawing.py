"""The two matrices as drawings: which cells to draw, of what is in view, near the output that is explained."""

import math
from typing import NamedTuple

SHADES = 5


class Drawing(NamedTuple):
    """A matrix as a list of the cells that are not zero by construction.

    Attributes
    ----------
    rows : list
        What each row is: an output (f, a, b) of the layer's matrix, a patch (n, a, b) of Φ.
    columns : list
        What each column is: a pixel (c, i, j) of the layer's matrix, the entry's number of Φ.
    cells : list of (row, column, entry, pixel)
        Positions in `rows` and `columns`; the number of the entry among those shown, and its pixel (n, c, i, j), None
        where it is padding (in Φ only).
    row : int
        Position of the output that is explained.
    is_whole : bool
        Whether nothing of the matrix is left out.
    """

    rows: list
    columns: list
    cells: list
    row: int
    is_whole: bool


def spans(facts, *names):
    """Ranges of the view."""
    return tuple(range(*facts["view"][name]) for name in names)


def pixels_in_view(facts):
    """The rows and columns of the image itself (not of its padding) that are in view."""
    sizes = (facts["sizes"]["H"], facts["sizes"]["W"])
    return tuple(
        range(max(span.start, 0), max(min(span.stop, size), max(span.start, 0)))
        for span, size in zip(spans(facts, "i", "j"), sizes, strict=True)
    )


def patch_places(facts):
    """The rows and the columns of the padded image under the kernel, two ranges in steps of the dilation."""
    ranges = []
    for name, axis in zip("ab", facts["output_size"], strict=True):
        first = facts["at"][name] * axis["stride"] - axis["before"]
        ranges.append(range(first, first + axis["reach"], axis["dilation"]))
    return ranges


def weight_shade(k):
    """Which of five shades the k-th weight has in a drawing: neighbours differ."""
    return k % SHADES


def pixel_shade(pixel):
    """Which of five shades a pixel (n, c, i, j) has in a drawing: neighbours differ in both directions."""
    _, c, i, j = pixel
    return (c + 2 * i + j) % SHADES


def limits(values):
    """The least and the largest finite number of nested lists; None is no number."""
    low, high = math.inf, -math.inf
    for value in values:
        if isinstance(value, list):
            ends = limits(value)
        else:
            ends = (value, value) if value is not None and math.isfinite(value) else (low, high)
        low, high = min(low, ends[0]), max(high, ends[1])
    return low, high


def share(value, ends):
    """Where a number lies between the least and the largest, from 0 to 1."""
    low, high = ends
    part = (value - low) / (high - low) if high > low else 0
    return 0 if math.isnan(part) else min(max(part, 0), 1)


def taps_of(facts, a, b):
    """For each entry shown its row and column in the image (perhaps in the padding) for output (a, b)."""
    rows, columns = facts["output_size"]
    top, left = a * rows["stride"] - rows["before"], b * columns["stride"] - columns["before"]
    return [(top + u * rows["dilation"], left + v * columns["dilation"]) for _, _, u, v in facts["view"]["entries"]]


def near(items, item, most):
    """At most so many neighbours of one item of a list, in order."""
    start = max(0, min(items.index(item) - most // 2, len(items) - most))
    return items[start : start + most]


def layer(facts, most):
    """The layer's matrix M, y = M x for one image: at most so many rows of it."""
    sizes, at = facts["sizes"], facts["at"]
    c, f, a, b = spans(facts, "c", "f", "a", "b")
    i, j = pixels_in_view(facts)
    is_last = facts["call"]["layout"] == "NHWC"
    outputs = [(f_, a_, b_) for f_ in f for a_ in a for b_ in b]
    columns = [(c_, i_, j_) for c_ in c for i_ in i for j_ in j]
    if is_last:
        outputs.sort(key=lambda output: output[1:])
        columns.sort(key=lambda pixel: pixel[1:])
    rows = near(outputs, (at["f"], at["a"], at["b"]), most)
    places = {pixel: number for number, pixel in enumerate(columns)}
    channels, filters = sizes["C"] // sizes["G"], sizes["F"] // sizes["G"]
    cells = []
    for row, (f_, a_, b_) in enumerate(rows):
        for k, (entry, where) in enumerate(zip(facts["view"]["entries"], taps_of(facts, a_, b_), strict=True)):
            pixel = (f_ // filters * channels + entry[1], *where)
            if pixel in places:
                cells.append((row, places[pixel], k, (at["n"], *pixel)))
    is_whole = len(rows) == facts["matrix"]["rows"] and len(columns) == facts["matrix"]["columns"]
    is_whole = is_whole and not facts["left_out"]["entries"]
    return Drawing(rows, columns, cells, rows.index((at["f"], at["a"], at["b"])), is_whole)


def patches(facts, most):
    """Φ: at most so many rows of it."""
    sizes, at, entries = facts["sizes"], facts["at"], facts["view"]["entries"]
    n, a, b = spans(facts, "n", "a", "b")
    rows = near([(n_, a_, b_) for n_ in n for a_ in a for b_ in b], (at["n"], at["a"], at["b"]), most)
    first = at["group"] * (sizes["C"] // sizes["G"])
    cells = []
    for row, (n_, a_, b_) in enumerate(rows):
        for k, (entry, (i, j)) in enumerate(zip(entries, taps_of(facts, a_, b_), strict=True)):
            is_inside = 0 <= i < sizes["H"] and 0 <= j < sizes["W"]
            cells.append((row, k, k, (n_, first + entry[1], i, j) if is_inside else None))
    is_whole = len(rows) == facts["phi"]["rows"] and not facts["left_out"]["entries"]
    return Drawing(rows, list(range(len(entries))), cells, rows.index((at["n"], at["a"], at["b"])), is_whole)
