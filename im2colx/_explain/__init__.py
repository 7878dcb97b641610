"""`explain`: one convolution as a matrix product, with every number put in, as text, page or picture.

``facts.py`` finds the numbers; ``text.py``, ``html.py`` and ``png.py`` arrange them; ``_cli.py`` is the command.
"""

import json
import math
from collections.abc import Sequence

import numpy as np

from im2colx import _files
from im2colx._explain import facts as _facts
from im2colx._explain.words import digits
from im2colx._geometry import check_dtype, integer, operand, resolve, result_dtypes, shape, shown

__all__ = ["FORMATS", "Explanation", "explain"]

# What an explanation can be written as, and the endings of such files.
FORMATS = {"text": ".txt", "html": ".html", "png": ".png", "json": ".json"}


def explain(x, w, stride=1, pad=0, dilation=1, groups=1, *, layout="NCHW", at=None, dtype=None, title=""):
    """One output of a convolution explained: its patch, its row of Φ, the product, the index map, the cost.

    Parameters
    ----------
    x : array_like or tuple of int
        The input of `conv2d`; or only its shape: then the values are 1, 2, 3 ... 99, 1 ..., to be followed by hand.
    w : array_like or tuple of int
        The filters; or only their shape: then the values are 1 ... 9, -9 ... 0, 1 ....
    stride, pad, dilation, groups, layout
        As in `conv2d`.
    at : (int, int, int, int), optional
        The output to explain: image n, filter f, row a, column b, in this order whatever the layout.  By default one in the
        middle, for filter 0 and image 0; if x is padded above, of the last row whose patches begin in the padding.
    dtype : dtype, optional
        Of values that are made up.  By default float32, the type of most layers.
    title : str, optional
        What x is, for the heading.

    Returns
    -------
    Explanation
        Shows itself in a notebook; `print` it, or ``save("page.html")``.

    Raises
    ------
    ValueError, TypeError
        As `conv2d`; also for complex numbers, for an `at` outside y, for a `dtype` that cannot hold -9 to 99, and for a
        single patch of millions of entries.

    See Also
    --------
    PatchMatrix : Φ as an object, never stored.
    plan_conv2d : ``plan_conv2d(...).explain()`` tells what a prepared convolution does.

    Notes
    -----
    Large shapes are explained too: of them a neighbourhood of the output is read and shown, and what is left out is said.

    Examples
    --------
    >>> import im2colx
    >>> e = im2colx.explain((1, 2, 5, 5), (3, 2, 3, 3), stride=2, pad=1, at=(0, 0, 0, 1))
    >>> e
    <Explanation of y[0, 0, 0, 1] = -373: x (1, 2, 5, 5), w (3, 2, 3, 3) -> y (1, 3, 3, 3)>
    >>> e.facts["phi"]["rows"], e.facts["phi"]["columns"]
    (9, 18)
    >>> e.index(1, 4), e.readers(0, 0, 0, 2)        # the index map both ways
    ((0, 0, 0, 2), [(1, 4)])
    >>> e.save("explanation.html")                  # doctest: +SKIP
    """
    x, x_shape = _array_or_shape("x", x)
    w, w_shape = _array_or_shape("w", w)
    g = resolve(x_shape, w_shape, stride, pad, dilation, groups, layout)
    try:
        made_up = np.dtype(np.float32 if dtype is None else dtype)
    except (TypeError, ValueError, SyntaxError, OverflowError) as error:  # not what a signal handler raises meanwhile
        raise TypeError(f"dtype must be a NumPy dtype, not {shown(dtype)}") from error
    if (x is None or w is None) and not np.can_cast(np.int8, made_up):
        raise ValueError(f"dtype is {made_up}, but must hold the values that are made up, -9 to 99")
    types = [made_up if array is None else array.dtype for array in (x, w)]
    for name, kind in zip("xw", types, strict=True):
        check_dtype(name, kind)
        if kind.kind == "c":
            raise TypeError(f"{name} has dtype {kind}: explain shows real numbers, not complex ones")
    if not g.batch:
        raise ValueError(f"x has no images (shape {x_shape}, layout {layout}), so there is no output to explain")
    at = _output_at(at, g)
    read_x = _facts.made_up_image(g, made_up) if x is None else _facts.reader_of_image(x, g)
    read_w = _facts.made_up_weight(g, made_up) if w is None else _facts.reader_of_weight(w, g)
    return Explanation(g, _facts.gather(g, at, read_x, read_w, result_dtypes(*types), str(title)))


def _array_or_shape(name, value):
    """(array or None, shape).  A flat tuple or list is a shape, as neither x nor w can have one axis; its first entry tells."""
    if isinstance(value, (tuple, list)) and not (value and isinstance(value[0], (tuple, list, np.ndarray))):
        return None, shape(name, value, (2, 3, 4))
    array = operand(name, value)
    return array, array.shape


def _output_at(at, g):
    sizes = (g.batch, g.filters, *g.output)
    if at is None:
        above = g.pad[0][0]
        row = min((above - 1) // g.stride[0], g.output[0] - 1) if above else g.output[0] // 2
        return 0, 0, row, g.output[1] // 2
    if isinstance(at, Sequence) and not isinstance(at, str) and len(at) != 4 or isinstance(at, np.ndarray) and at.shape != (4,):
        raise ValueError(f"at is {shown(at)}, but must be (n, f, a, b): image, filter, row and column of y")
    at = shape("at", at, (4,))
    for position, (name, number, size) in enumerate(zip(("images", "filters", "rows", "columns"), at, sizes, strict=True)):
        if number >= size:
            raise ValueError(f"at[{position}] is {number}, but y has only {size} {name}: at is (n, f, a, b)")
    return at


class Explanation:
    """What `explain` found out: numbers in `facts`, and four ways to show them.

    Attributes
    ----------
    facts : dict
        Plain numbers, texts, lists and dicts, fit for JSON but for NaN and infinities (`json` writes those as words):

        - ``call``: the shapes as given, stride, pad, dilation, groups, layout, dtype, title.
        - ``sizes``: N, C, H, W, F, G, KH, KW, OH, OW.
        - ``output_size``: for each axis the numbers of Eq. 5-7: output = floor((size + before + after - reach) / stride) + 1,
          reach = dilation*(kernel - 1) + 1; ``unused`` padded pixels at the end are never reached.
        - ``phi``, ``weights``: rows, columns and entries of the two factors; those of one group if there are groups.
        - ``at``: n, f, a, b of the output, its row p of Φ and its group.
        - ``entries``: of this row, by q: the tap (c, u, v), ``from`` (n, c, i, j) or None for padding, x, w, and the term x·w.
        - ``sum`` of these terms, ``y`` as `conv2d` gives it, and ``left_out``: how many entries are not shown and their sum.
        - ``lands``: row and column in Φ·W, index and flat offset in y.
        - ``mark``: the entry that is looked at closely; ``index_map`` of it, with the numbers on the way; ``readers``: all
          (p, q) that read the same pixel (the first 64, and how many).
        - ``uses``: how often each pixel stands in Φ, which is what ``col2im(ones)`` gives.
        - ``matrix``: the sizes of the layer's matrix, (F·OH·OW) x (C·H·W), what it repeats, and what Φ repeats.
        - ``cost``: multiply-adds, bytes, each method as the library weighs it, and what "auto" takes.
        - ``view``, ``x``, ``w``, ``y_values``: which ranges are shown, and their values.
    """

    def __init__(self, geometry, facts):
        self._geometry = geometry
        self.facts = facts

    def index(self, p, q):
        """Where entry (p, q) of Φ comes from (Eq. 8).

        Parameters
        ----------
        p, q : int
            Row and column; with groups, of the Φ of the group that is explained.

        Returns
        -------
        (n, c, i, j) or None
            None in the padding.

        Raises
        ------
        ValueError, TypeError
        """
        g = self._geometry
        place = _facts.index_map(
            g, self.facts["at"]["group"], integer("p", p, 0, g.rows - 1), integer("q", q, 0, g.columns - 1)
        )
        return tuple(place[name] for name in "ncij") if place["inside"] else None

    def readers(self, n, c, i, j):
        """The index map backwards: every (p, q) that reads a pixel.

        Parameters
        ----------
        n, c, i, j : int
            Image, channel, row and column in x, in this order whatever the layout.

        Returns
        -------
        list of (p, q)
            By rows; with groups, entries of the Φ of the pixel's own group.

        Raises
        ------
        ValueError, TypeError
        """
        g = self._geometry
        sizes = (g.batch, g.channels, *g.image)
        pixel = [integer(name, value, 0, size - 1) for name, value, size in zip("ncij", (n, c, i, j), sizes, strict=True)]
        return _facts.readers(g, *pixel)

    def text(self):
        """The explanation as text, at most 80 columns wide.

        Returns
        -------
        str
        """
        from im2colx._explain.text import render

        return render(self.facts)

    def html(self):
        """The explanation as one HTML page that needs no other file and no network.

        Returns
        -------
        str
        """
        from im2colx._explain.html import render

        return render(self.facts, self.json())

    def json(self):
        """The facts as JSON; NaN and infinities are the texts "NaN", "Infinity" and "-Infinity".

        Returns
        -------
        str
        """
        return json.dumps(_with_words(self.facts), allow_nan=False)

    def figure(self, *, dark=False):
        """The explanation as a picture.

        Parameters
        ----------
        dark : bool
            Whether it is for a dark page.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is missing (``pip install matplotlib``).
        """
        from im2colx._explain.png import draw

        return draw(self.facts, dark)

    def png(self, *, dark=False):
        """The picture of `figure` as the bytes of a PNG file.

        Returns
        -------
        bytes
        """
        from im2colx._explain.png import encode

        return encode(self.figure(dark=dark))

    def save(self, path, format=None):
        """Write a file, whole or not at all.

        Parameters
        ----------
        path : path-like
        format : {"text", "html", "png", "json"}, optional
            By default what the ending of `path` says: .txt, .html, .png or .json.

        Raises
        ------
        ValueError
            For another format or ending.
        ImportError
            As `figure`.
        """
        if format is None:
            format = next((name for name, ending in FORMATS.items() if str(path).lower().endswith(ending)), None)
            if format is None:
                raise ValueError(f"path is {shown(str(path))}, but must end in {', '.join(FORMATS.values())}, or give format=")
        elif format not in FORMATS:
            raise ValueError(f"format is {shown(format)}, but must be one of {', '.join(FORMATS)}")
        content = getattr(self, format)()
        _files.write_bytes(path, content + "\n" if format in ("text", "json") else content)

    def _repr_html_(self):
        from im2colx._explain.html import frame

        return frame(self.html())

    def __str__(self):
        return self.text()

    def __repr__(self):
        call, at = self.facts["call"], self.facts["at"]
        where = ", ".join(str(at[name]) for name in "nfab")
        x, w, y = (tuple(call[f"{name}_shape"]) for name in "xwy")
        return f"<Explanation of y[{where}] = {digits(self.facts['y'])}: x {x}, w {w} -> y {y}>"


def _with_words(value):
    if isinstance(value, dict):
        return {name: _with_words(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_words(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
