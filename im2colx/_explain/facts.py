"""The numbers of an explanation: plain values that the text, the page and the picture only arrange.

Symbols are those of the paper: x has N images of C channels of H x W, w has F filters of KH x KW, S, P, D are stride,
padding and dilation, y has rows a < OH and columns b < OW; p is a row of Φ, q a column.  With G groups Φ is that of the
group g whose channels the filter f sees: C/G channels, KH·KW·C/G columns.  A place in x is always (n, c, i, j), whatever
the layout.  Of large shapes only a neighbourhood of one output is read: a `View`, of bounded size.
"""

import math
from typing import NamedTuple

import numpy as np

from im2colx import _plan
from im2colx._methods import METHODS, choose, phi_nbytes
from im2colx._threads import get_num_threads
from im2colx.conv import conv2d

# What a reader can take in, and a page can hold: cells of all images together (4096 of them are some 200 kB of HTML),
# cells of a side, channels, filters, images, entries of a row of Φ, rows and columns of the kernel.
MOST_CELLS, MOST_SIDE, MOST_CHANNELS, MOST_FILTERS, MOST_IMAGES, MOST_ENTRIES, MOST_TAPS = 4096, 40, 16, 12, 8, 160, 11
SMALL_SIDE, FEW_CHANNELS = 14, 4  # of a neighbourhood: so many columns still have room for numbers
MOST_READERS = 64
# Rows of Φ written as numbers, and rows and cells of the drawings of the two matrices.
NUMBER_ROWS, DRAWN_ROWS, DRAWN_CELLS = 16, 96, 4000
# Elements that are read, and multiply-adds that are done: about a tenth of a second.
MOST_READ, MOST_PRODUCTS = 2**22, 2**27
# Made-up values: as many as have two digits; as many small weights as are told apart.  19 does not divide the size of usual
# filters, so that neighbours differ.
X_CYCLE, W_CYCLE = 99, 19


# ---- What is shown --------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """What is small enough to be shown: everything, or a neighbourhood of one output.

    Attributes
    ----------
    n, c, f : range
        Images, channels, filters.
    space : (range, range)
        Rows and columns of the padded image; the image itself begins at 0.
    outputs : (range, range)
        Rows and columns of y whose shown taps lie in `space`.
    taps : (int, int)
        So many rows and columns of the kernel.
    """

    n: range
    c: range
    f: range
    space: tuple
    outputs: tuple
    taps: tuple


def _around(value, span, count):
    """`count` neighbours of `value` in `span`, which holds it; all of them if there are fewer."""
    start = min(max(value - count // 2, span.start), max(span.stop - count, span.start))
    return range(start, min(start + count, span.stop))


def choose_view(g, at):
    n, f, a, b = at
    taps, space, outputs = [], [], []
    for axis, o in enumerate((a, b)):
        kernel, stride, dilation, (before, after) = g.kernel[axis], g.stride[axis], g.dilation[axis], g.pad[axis]
        count = min(kernel, MOST_TAPS, (MOST_SIDE - 1) // dilation + 1)
        reach = dilation * (count - 1) + 1
        padded = range(-before, g.image[axis] + after)
        if len(padded) > MOST_SIDE:
            size = min(max(SMALL_SIDE, reach + 2), MOST_SIDE)
            start = o * stride - before - (size - reach) // 2
            start = min(max(start, padded.start), padded.stop - size)
            padded = range(start, start + size)
        first, last = -(-(padded.start + before) // stride), (padded.stop - reach + before) // stride
        taps.append(count)
        space.append(padded)
        outputs.append(range(first, min(last + 1, g.output[axis])))
    area, places = (math.prod(map(len, part)) for part in (space, outputs))

    channels, filters = g.channels // g.groups, g.filters // g.groups
    group = f // filters
    most = min(MOST_CHANNELS, MOST_CELLS // area)
    entries = MOST_ENTRIES // math.prod(taps)
    is_every = g.channels <= most and channels <= entries and g.filters <= min(MOST_FILTERS, MOST_CELLS // places)
    if is_every:
        c, f = range(g.channels), range(g.filters)
    else:  # one group, so that one set of channels serves all filters
        if channels > min(most, entries):
            most = min(most, FEW_CHANNELS)
        c = range(group * channels, group * channels + min(channels, most, entries))
        f = _around(f, range(group * filters, (group + 1) * filters), min(MOST_FILTERS, MOST_CELLS // places))
    count = min(MOST_CELLS // (len(c) * area), MOST_CELLS // (len(f) * places), MOST_IMAGES)
    view = View(range(g.batch) if g.batch <= count else range(n, n + 1), c, f, tuple(space), tuple(outputs), tuple(taps))
    if not _is_readable(g, view):
        view = view._replace(n=range(n, n + 1), f=range(at[1], at[1] + 1), outputs=(range(a, a + 1), range(b, b + 1)))
        if not _is_readable(g, view):
            raise ValueError(
                f"one output of kernel {g.kernel}, dilation {g.dilation}, over {channels} channels reads a part of x "
                f"that is too large to explain: more than {MOST_READ:,} elements"
            )
    if max(g.image) > MOST_READ:
        raise ValueError(f"x has images of {g.image}: sides beyond {MOST_READ:,} are too large to explain")
    return view


def _parts(g, view):
    """For each axis the part of it that the outputs in view read, and the padding before and after."""
    parts = []
    for outputs, size, kernel, stride, dilation, (before, _) in zip(
        view.outputs, g.image, g.kernel, g.stride, g.dilation, g.pad, strict=True
    ):
        first = outputs.start * stride - before
        length = (len(outputs) - 1) * stride + dilation * (kernel - 1) + 1
        inside = range(max(first, 0), max(min(first + length, size), max(first, 0)))
        missing = min(max(0, -first), length)
        parts.append((inside, (missing, length - missing - len(inside))))
    return parts


def _is_readable(g, view):
    read = len(view.n) * (g.channels // g.groups) * math.prod(len(inside) + sum(pad) for inside, pad in _parts(g, view))
    weights = len(view.f) * g.columns
    products = len(view.n) * math.prod(map(len, view.outputs)) * weights
    return max(read, weights) <= MOST_READ and products <= MOST_PRODUCTS


# ---- Values ---------------------------------------------------------------------------------------------------------


def reader_of_image(array, g):
    """A function (n, c, i, j) → values of x, for index arrays that broadcast."""
    array = g.full_image(array)
    return (lambda n, c, i, j: array[n, i, j, c]) if g.channels_last else (lambda n, c, i, j: array[n, c, i, j])


def reader_of_weight(array, g):
    """A function (f, c, u, v) → values of w; c counts within the group."""
    array = g.full_weight(array)
    return (lambda f, c, u, v: array[u, v, c, f]) if g.channels_last else (lambda f, c, u, v: array[f, c, u, v])


def made_up_image(g, dtype):
    """1, 2, 3 ... in the order (n, c, i, j), beginning anew after 99."""
    return lambda n, c, i, j: ((((n * g.channels + c) * g.image[0] + i) * g.image[1] + j) % X_CYCLE + 1).astype(dtype)


def made_up_weight(g, dtype):
    """1 ... 9, -9 ... 0 in the order (f, c, u, v), again and again."""
    channels, (kh, kw), half = g.channels // g.groups, g.kernel, W_CYCLE // 2
    return lambda f, c, u, v: ((((f * channels + c) * kh + u) * kw + v + half + 1) % W_CYCLE - half).astype(dtype)


def _plain(value):
    """A NumPy number as a Python one."""
    value = value.item()
    return int(value) if isinstance(value, bool) else value


def _outputs(g, view, read_x, read_w):
    """y (n, f, a, b) where it is in view, by `conv2d` on what these outputs read."""
    is_every = len(view.f) == g.filters
    per_group = g.channels // g.groups
    first = 0 if is_every else view.f.start // (g.filters // g.groups) * per_group
    channels = range(first, first + (g.channels if is_every else per_group))
    (rows, top), (columns, left) = _parts(g, view)
    x = read_x(*np.ix_(view.n, channels, rows, columns))
    w = read_w(*np.ix_(view.f, range(per_group), *map(range, g.kernel)))
    named = {"stride": g.stride, "pad": (top, left), "dilation": g.dilation, "groups": g.groups if is_every else 1}
    if g.channels_last:
        y = conv2d(x.transpose(0, 2, 3, 1), w.transpose(2, 3, 1, 0), **named, layout="NHWC").transpose(0, 3, 1, 2)
    else:
        y = conv2d(x, w, **named)
    return y


# ---- The index map --------------------------------------------------------------------------------------------------


def index_map(g, group, p, q):
    """Eq. 8 for one entry of the group's Φ, with every number on the way.

    ``base + offset_of_q == offset``: the place in the padded image is a number of the row plus a number of the column.
    """
    channels, (kh, kw), (oh, ow) = g.channels // g.groups, g.kernel, g.output
    n, r = divmod(p, oh * ow)
    a, b = divmod(r, ow)
    if g.channels_last:
        tap, c = divmod(q, channels)
    else:
        c, tap = divmod(q, kh * kw)
    u, v = divmod(tap, kw)
    (s0, s1), (d0, d1), pads = g.stride, g.dilation, [before for before, _ in g.pad]
    i, j = a * s0 + u * d0 - pads[0], b * s1 + v * d1 - pads[1]
    height, width = (size + sum(pad) for size, pad in zip(g.image, g.pad, strict=True))
    channel = group * channels + c
    if g.channels_last:
        base = ((n * height + a * s0) * width + b * s1) * g.channels
        of_q = (u * d0 * width + v * d1) * g.channels + channel
        offset = ((n * height + i + pads[0]) * width + j + pads[1]) * g.channels + channel
    else:
        base = (n * g.channels * height + a * s0) * width + b * s1
        of_q = (channel * height + u * d0) * width + v * d1
        offset = ((n * g.channels + channel) * height + i + pads[0]) * width + j + pads[1]
    return {
        "p": p, "q": q, "n": n, "r": r, "a": a, "b": b, "c": channel, "u": u, "v": v, "i": i, "j": j,
        "inside": 0 <= i < g.image[0] and 0 <= j < g.image[1],
        "base": base, "offset_of_q": of_q, "offset": offset,
    }  # fmt: skip


def row_of(g, n, a, b):
    """p of the patch at output (a, b) of image n."""
    return (n * g.output[0] + a) * g.output[1] + b


def column_of(g, c, u, v):
    """q of tap (u, v) of channel c, which counts within the group."""
    kh, kw = g.kernel
    return (u * kw + v) * (g.channels // g.groups) + c if g.channels_last else (c * kh + u) * kw + v


def readers(g, n, c, i, j):
    """The index map backwards: every (p, q) of the group's Φ that reads one pixel, by rows."""
    rows, columns = (_readers_on_axis(g, axis, place) for axis, place in enumerate((i, j)))
    c %= g.channels // g.groups
    return [(row_of(g, n, a, b), column_of(g, c, u, v)) for a, u in rows for b, v in columns]


def _readers_on_axis(g, axis, place):
    """The pairs (output, tap) on one axis with output·S + tap·D − P = place."""
    taps = np.arange(g.kernel[axis])
    outputs, rest = np.divmod(place + g.pad[axis][0] - taps * g.dilation[axis], g.stride[axis])
    fits = (rest == 0) & (0 <= outputs) & (outputs < g.output[axis])
    return sorted(zip(outputs[fits].tolist(), taps[fits].tolist(), strict=True))


def _outputs_of_taps(g, axis):
    """For each tap of an axis the first and last output for which it lies inside the image; last < first: none."""
    start = np.arange(g.kernel[axis]) * g.dilation[axis] - g.pad[axis][0]
    first = np.maximum(-(start // g.stride[axis]), 0)
    last = np.minimum((g.image[axis] - 1 - start) // g.stride[axis], g.output[axis] - 1)
    return start, first, last


def tap_places(g, axis):
    """For each tap of an axis the number of outputs that find a pixel under it."""
    _, first, last = _outputs_of_taps(g, axis)
    return np.maximum(last - first + 1, 0)


def pixel_uses(g, axis):
    """For each coordinate of an axis the number of pairs (output, tap) that read it.  Time O(size + taps)."""
    size = g.image[axis]
    start, first, last = _outputs_of_taps(g, axis)
    exists = last >= first
    start, first, last = start[exists], first[exists], last[exists]
    # A tap reads every S-th coordinate from its first to its last: +1 where it begins, -1 behind its end, summed in steps of S.
    step = max(1, min(g.stride[axis], size))
    changes = np.zeros((-(-size // step) + 1, step), np.int64)
    np.add.at(changes.reshape(-1), first * g.stride[axis] + start, 1)
    np.add.at(changes.reshape(-1), last * g.stride[axis] + start + step, -1)
    return changes.cumsum(axis=0).reshape(-1)[:size]


# ---- The facts ------------------------------------------------------------------------------------------------------


def gather(g, at, read_x, read_w, dtypes, title):
    """All facts as one dict of plain values; `im2colx.Explanation` says what is in it.

    Parameters
    ----------
    g : Geometry
    at : (n, f, a, b)
    read_x, read_w : callable
        As `reader_of_image` and `reader_of_weight` make them.
    dtypes : (dtype to compute in, dtype of the result)
    title : str
        What x is, or "".
    """
    n, f, a, b = at
    view = choose_view(g, at)
    group = f // (g.filters // g.groups)
    p = row_of(g, n, a, b)
    y = _outputs(g, view, read_x, read_w)
    shown = _shown_entries(g, view)
    entries = _entries(g, view, group, at, shown, read_x, read_w)
    total = sum(entry["term"] for entry in entries)
    value = _plain(y[n - view.n.start, f - view.f.start, a - view.outputs[0].start, b - view.outputs[1].start])
    uses = [pixel_uses(g, axis) for axis in range(2)]
    mark = _mark(entries, uses)
    marked = index_map(g, group, p, entries[mark]["q"])
    return {
        "call": {
            "title": title,
            "x_shape": list(g.given_image(g.x_shape)),
            "w_shape": list(g.given_weight()),
            "y_shape": list(g.given_image(g.y_shape)),
            "stride": list(g.stride),
            "pad": [list(pair) for pair in g.pad],
            "dilation": list(g.dilation),
            "groups": g.groups,
            "layout": "NHWC" if g.channels_last else "NCHW",
            "dtype": str(dtypes[1]),
        },
        "sizes": {
            "N": g.batch, "C": g.channels, "H": g.image[0], "W": g.image[1], "F": g.filters, "G": g.groups,
            "KH": g.kernel[0], "KW": g.kernel[1], "OH": g.output[0], "OW": g.output[1],
        },
        "output_size": [_output_size(g, axis) for axis in range(2)],
        "phi": {"rows": g.rows, "columns": g.columns, "entries": g.rows * g.columns},
        "weights": {"rows": g.columns, "columns": g.filters // g.groups, "entries": g.columns * g.filters // g.groups},
        "at": {"n": n, "f": f, "a": a, "b": b, "p": p, "group": group},
        "entries": entries,
        "left_out": {
            "entries": g.columns - len(entries),
            "sum": value - total if g.columns > len(entries) else 0,
            "what": _left_out(g, view),
        },
        "sum": total,
        "y": value,
        "lands": _lands(g, at, p),
        "mark": mark,
        "index_map": marked,
        "readers": _readers_of(g, marked),
        "uses": _uses(g, view, uses),
        "matrix": _matrix(g, f, marked),
        "cost": _cost(g, dtypes[0]),
        "view": {
            "n": _ends(view.n), "c": _ends(view.c), "f": _ends(view.f),
            "i": _ends(view.space[0]), "j": _ends(view.space[1]), "a": _ends(view.outputs[0]), "b": _ends(view.outputs[1]),
            "taps": list(view.taps), "entries": [list(entry) for entry in shown],
            "number_rows": NUMBER_ROWS, "drawn_rows": max(1, min(DRAWN_ROWS, DRAWN_CELLS // len(shown))),
        },
        "x": _image_values(g, view, read_x),
        "w": _weight_values(view, shown, read_w),
        "y_values": [[[[_plain(v) for v in row] for row in plane] for plane in image] for image in y],
    }  # fmt: skip


def _ends(span):
    return [span.start, span.stop]


def _output_size(g, axis):
    dilation, kernel, (before, after) = g.dilation[axis], g.kernel[axis], g.pad[axis]
    reach = dilation * (kernel - 1) + 1
    return {
        "size": g.image[axis], "before": before, "after": after, "kernel": kernel, "dilation": dilation,
        "stride": g.stride[axis], "reach": reach, "padded": g.image[axis] + before + after, "output": g.output[axis],
        "unused": (g.image[axis] + before + after - reach) % g.stride[axis],
    }  # fmt: skip


def _shown_entries(g, view):
    """(q, c, u, v) of the columns of Φ in view, by q; c counts within the group."""
    per_group = g.channels // g.groups
    channels = range(min(len(view.c), per_group))
    taps = [(u, v) for u in range(view.taps[0]) for v in range(view.taps[1])]
    return sorted((column_of(g, c, u, v), c, u, v) for c in channels for u, v in taps)


def _entries(g, view, group, at, shown, read_x, read_w):
    n, f, a, b = at
    entries = []
    for q, c, u, v in shown:
        place = index_map(g, group, row_of(g, n, a, b), q)
        where = [place[name] for name in "ncij"] if place["inside"] else None
        # An index array, as the readers want it.
        value = _plain(read_x(*np.array(where)[:, None])[0]) if where else 0
        weight = _plain(read_w(*np.array([f, c, u, v])[:, None])[0])
        entries.append(
            {"q": q, "c": place["c"], "u": u, "v": v, "from": where, "x": value, "w": weight, "term": value * weight}
        )
    return entries


def _mark(entries, uses):
    """The entry to look at closely: that of the pixel which is used most; of several the first that is not 0."""

    def rank(k):
        where, value = entries[k]["from"], entries[k]["x"]
        return (int(uses[0][where[2]] * uses[1][where[3]]), value != 0, -k) if where else (-1, False, -k)

    return max(range(len(entries)), key=rank)


def _lands(g, at, p):
    n, f, a, b = at
    index = [n, a, b, f] if g.channels_last else [n, f, a, b]
    return {
        "row": p,
        "column": f % (g.filters // g.groups),
        "index": list(g.given_image(tuple(index))),
        "offset": int(np.ravel_multi_index(index, g.y_shape)),
    }


def _readers_of(g, place):
    if not place["inside"]:
        return {"pixel": None, "count": 0, "list": []}
    pixel = [place[name] for name in "ncij"]
    found = readers(g, *pixel)
    return {"pixel": pixel, "count": len(found), "list": [list(pair) for pair in found[:MOST_READERS]]}


def _uses(g, view, uses):
    rows, columns = (range(max(part.start, 0), min(part.stop, size)) for part, size in zip(view.space, g.image, strict=True))
    never = math.prod(g.image) - math.prod(int(np.count_nonzero(part)) for part in uses)
    return {
        "i": [rows.start, max(rows.start, rows.stop)],
        "j": [columns.start, max(columns.start, columns.stop)],
        "counts": [[int(uses[0][i] * uses[1][j]) for j in columns] for i in rows],
        "most": math.prod(int(part.max(initial=0)) for part in uses),
        "never": never,
    }


def matrix_row(g, f, a, b):
    """The row of the layer's matrix that gives output (f, a, b): its offset in one image of y."""
    (oh, ow), filters = g.output, g.filters
    return (a * ow + b) * filters + f if g.channels_last else (f * oh + a) * ow + b


def matrix_column(g, c, i, j):
    """The column of the layer's matrix that pixel (c, i, j) is multiplied with: its offset in one image of x."""
    (height, width), channels = g.image, g.channels
    return (i * width + j) * channels + c if g.channels_last else (c * height + i) * width + j


def _matrix(g, f, place):
    """The matrix of the whole layer, (F·OH·OW) x (C·H·W) for one image, and Φ of one image beside it."""
    taps = [tap_places(g, axis) for axis in range(2)]
    reads = math.prod(int(part.sum()) for part in taps)
    channels = g.channels // g.groups
    rows, columns = g.filters * g.outputs, g.channels * math.prod(g.image)
    patches = g.outputs * g.columns * g.groups
    return {
        "rows": rows,
        "columns": columns,
        "entries": rows * columns,
        "weights": g.filters * g.columns,
        "weight_places": g.filters * channels * reads,
        "weight_most": math.prod(int(part.max()) for part in taps),
        "weight_of_mark": int(taps[0][place["u"]] * taps[1][place["v"]]),
        "patch_entries": patches,
        "patch_pixels": g.channels * reads,
        "patch_padding": patches - g.channels * reads,
        "row": matrix_row(g, f, place["a"], place["b"]),
        "column": matrix_column(g, *(place[name] for name in "cij")) if place["inside"] else None,
    }


def _cost(g, dtype):
    """Memory and arithmetic, as the library itself weighs them for the type that is computed in."""
    typecode, itemsize = dtype.str[1:], dtype.itemsize
    chosen, _ = choose("auto", "forward", g, typecode, None)
    methods = []
    for row in METHODS:
        reason = row.declines("forward", g, typecode, None)
        fact = {"name": row.name, "summary": row.summary, "declines": reason, "workspace_nbytes": None, "seconds": None}
        if reason is None:
            problem = _plan.recipe("forward", g, typecode, row.name, None, get_num_threads()).problem
            fact |= {"workspace_nbytes": problem.workspace_nbytes(), "seconds": row.seconds("forward", g, typecode)}
        methods.append(fact)
    return {
        "dtype": str(dtype),
        "multiply_adds": g.multiply_adds,
        "x_nbytes": math.prod(g.x_shape) * itemsize,
        "w_nbytes": math.prod(g.w_shape) * itemsize,
        "y_nbytes": math.prod(g.y_shape) * itemsize,
        "phi_nbytes": phi_nbytes(g, typecode),
        "matrix_nbytes": g.filters * g.outputs * g.channels * math.prod(g.image) * itemsize,
        "auto": chosen.name,
        "methods": methods,
    }


def _image_values(g, view, read_x):
    """x in view: [n][c][i][j], None in the padding."""
    rows, columns = (
        range(max(part.start, 0), max(min(part.stop, size), max(part.start, 0)))
        for part, size in zip(view.space, g.image, strict=True)
    )
    x = read_x(*np.ix_(view.n, view.c, rows, columns))
    return [
        [
            [
                [
                    _plain(plane[i - rows.start, j - columns.start]) if i in rows and j in columns else None
                    for j in view.space[1]
                ]
                for i in view.space[0]
            ]
            for plane in image
        ]
        for image in x
    ]


def _weight_values(view, shown, read_w):
    """w in view: for each filter the weights of the entries that are shown."""
    _, c, u, v = np.array(shown).T
    return [[_plain(value) for value in read_w(np.array(f), c, u, v)] for f in view.f]


def _left_out(g, view):
    """What a view of large shapes lacks, in words."""
    parts = [
        ("images", view.n, g.batch),
        ("channels", view.c, g.channels),
        ("filters", view.f, g.filters),
        ("rows of the padded image", view.space[0], g.image[0] + sum(g.pad[0])),
        ("columns of the padded image", view.space[1], g.image[1] + sum(g.pad[1])),
        ("rows of y", view.outputs[0], g.output[0]),
        ("columns of y", view.outputs[1], g.output[1]),
        ("rows of the kernel", range(view.taps[0]), g.kernel[0]),
        ("columns of the kernel", range(view.taps[1]), g.kernel[1]),
    ]
    return [
        f"{len(part):,} of {size:,} {name} ({part.start}{f' to {part.stop - 1}' if len(part) > 1 else ''})"
        for name, part, size in parts
        if len(part) < size
    ]
