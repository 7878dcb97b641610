"""What the tests of explain share: shapes, and the parts of an example."""


import html.parser

import numpy as np
from cases import CASES, LAYOUTS, random_case, small_integers

from im2colx import explain, output_shape
from im2colx._explain.words import digits

PAPER_LIKE = {"stride": 2, "pad": 1, "at": (0, 0, 0, 1)}
LARGE = [
    ((32, 256, 224, 224), (512, 256, 3, 3), {"pad": 1}),
    ((1, 512, 7, 7), (4096, 512, 7, 7), {}),
    ((64, 512, 14, 14), (512, 1, 3, 3), {"pad": 1, "groups": 512}),
    ((1, 1, 100_000, 100_000), (1, 1, 3, 3), {}),
    ((1, 1, 2000, 2000), (1, 1, 1500, 1500), {}),
    ((1, 3, 40, 40), (12, 3, 11, 11), {"pad": 0}),
    ((8, 16, 16, 16), (12, 16, 3, 3), {"pad": "same"}),
    ((1, 60, 60, 1), (3, 3, 1, 1), {"pad": 30, "dilation": 29, "layout": "NHWC"}),
    ((100_000, 3, 32, 32), (16, 3, 3, 3), {"stride": 5}),
    ((1, 4096, 1, 1), (8, 4096, 1, 1), {}),
]  # fmt: skip


def positions(y_shape, layout):
    """(n, f, a, b) sizes."""
    n, *rest = y_shape
    return (n, *rest) if layout == "NCHW" else (n, rest[2], rest[0], rest[1])


def first_axes(array, layout):
    """x or y as (n, c, i, j)."""
    return array if layout == "NCHW" else np.moveaxis(array, -1, 1)


def filters_first(w, layout):
    """w as (f, c, u, v)."""
    return w if layout == "NCHW" else w.transpose(3, 2, 0, 1)


def some_explanations(count, seed, dtypes=("float32", "int8", "float64")):
    """(explanation, case, layout, x, w) of the table's shapes and of random ones, at random outputs."""
    rng = np.random.default_rng(seed)
    for number, case in enumerate([*CASES, *(random_case(rng) for _ in range(count))]):
        layout, dtype = LAYOUTS[number % 2], dtypes[number % len(dtypes)]
        x, w = (small_integers(rng, shape, dtype) for shape in (case.x_shape(layout), case.w_shape(layout)))
        sizes = positions(output_shape(x.shape, w.shape, *case.geometry, layout=layout), layout)
        at = tuple(int(rng.integers(size)) for size in sizes)
        yield explain(x, w, *case.geometry, layout=layout, at=at), case, layout, x, w


def group_of(case, layout, x, w, f):
    """x and w of the group of filter f, and the group."""
    group = f // (case.f // case.groups)
    channels, filters = (slice(group * size // case.groups, (group + 1) * size // case.groups) for size in (case.c, case.f))
    return (x[:, channels], w[filters], group) if layout == "NCHW" else (x[..., channels], w[..., filters], group)


class Page(html.parser.HTMLParser):
    """The page as a browser without scripts sees it; fails for tags that do not match."""

    VOID = ("meta", "input", "br", "img", "rect", "path")  # those of svg are closed by "/>"

    def __init__(self, text):
        super().__init__()
        self.stack, self.ids, self.addresses, self.tables, self.cards, self.slots = [], [], [], [], {}, {}
        self.scripts, self.pairs, self.paths, self.policy, self.labels = [], [], {}, None, []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.addresses += [
            value for name, value in attrs.items() if name in ("src", "href", "srcset", "action", "data", "poster")
        ]
        if attrs.get("http-equiv") == "Content-Security-Policy":
            self.policy = attrs["content"]
        if tag == "table" and "data-panel" in attrs:
            self.tables.append((attrs["data-panel"], attrs.get("data-c"), []))
        if tag == "tr" and self._in_panel():
            self.tables[-1][2].append([])
        if tag == "td" and self._in("tbody") and self._in_panel():
            self.tables[-1][2][-1].append(["", attrs.get("class", "")])
        if tag == "button" and self._in("div", "data-panel"):
            self.cards.setdefault(self._in("div", "data-panel"), []).append([attrs["class"], []])
        if tag == "button" and attrs.get("class", "").startswith("pair"):
            self.pairs.append((int(attrs["data-p"]), int(attrs["data-q"])))
        if tag == "svg":
            self.labels.append(attrs["aria-label"])
        if tag == "path":
            self.paths[self._in("svg", "data-panel"), attrs["class"]] = attrs["d"]
        if tag == "script":
            self.scripts.append([attrs, ""])
        if tag not in self.VOID:
            self.stack.append((tag, attrs))

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        if self._in("script"):
            self.scripts[-1][1] += data
        if self._in("td") and self._in_panel():
            self.tables[-1][2][-1][-1][0] += data
        panel = self._in("div", "data-panel")
        if panel and self._in("button"):
            self.cards[panel][-1][1].append(data)
        name = self._in("span", "data-t")
        if name:
            self.slots.setdefault(name, []).append(data)

    def _in(self, tag, attribute=None):
        found = [attrs for name, attrs in self.stack if name == tag and (attribute is None or attribute in attrs)]
        return (found[-1].get(attribute) if attribute else True) if found else None

    def _in_panel(self):
        return self._in("table", "data-panel") and self._in("tbody")

    def grids(self, panel):
        return [[[text for text, _ in row] for row in rows] for name, _, rows in self.tables if name == panel]

    def marked(self, panel, mark):
        return [
            (number, r, s)
            for number, (_, _, rows) in enumerate(table for table in self.tables if table[0] == panel)
            for r, row in enumerate(rows)
            for s, (_, classes) in enumerate(row)
            if mark in classes.split()
        ]


def typeset(value):
    return digits(value).replace("-", "−")


def plane(values):
    """A table as the page writes it; None is padding."""
    return [[typeset(value or 0) for value in row] for row in values]


def read(table):
    return [[float(text.replace("−", "-")) for text in row] for row in table]
