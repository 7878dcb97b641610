"""The explanation as one picture: what ``page.html`` tells, for paper and slides."""

import io
import textwrap

import numpy as np

from im2colx._explain import drawing
from im2colx._explain.words import amount, digits, duration, group, map_steps, shape_steps, signed, size_steps, times
from im2colx._extras import require_matplotlib

WIDTH, MARGIN, DPI = 11.0, 0.45, 150  # inches, inches, dots an inch
CELL = 0.27  # inches
PLANES, ENTRIES, ROWS, SIDE = 3, 18, 48, 14  # channels, entries of the row, rows of the drawings, columns with numbers

# Okabe and Ito's colours; lines differ in kind as well: solid, dashed, doubled, dotted.
_LIGHT = {
    "page": "#ffffff", "ink": "#1c1e21", "soft": "#5b626d", "line": "#c9ced5", "hatch": "#b9bfc7", "card": "#f6f7f8",
    "patch": "#0072b2", "patch_fill": "#d6ebf8", "weight": "#b34700", "weight_fill": "#fce5d3", "out": "#00735c",
    "out_fill": "#cdf0e5", "same": "#9a3d78",
}  # fmt: skip
_DARK = {
    "page": "#1a1c20", "ink": "#e8e8e6", "soft": "#a3a8b0", "line": "#4a505a", "hatch": "#565c66", "card": "#22252a",
    "patch": "#56b4e9", "patch_fill": "#12384f", "weight": "#f0a030", "weight_fill": "#4a3010", "out": "#35c9a1",
    "out_fill": "#0c4032", "same": "#e39ac8",
}  # fmt: skip


def draw(facts, dark):
    """The `Figure` of all facts, as `im2colx.Explanation` holds them."""
    require_matplotlib()
    sheet = _Sheet(_DARK if dark else _LIGHT)
    for panel in (_heading, _sizes, _patch, _product, _index, _matrices, _cost):
        panel(sheet, facts)
    return sheet.finish()


def encode(figure):
    """The bytes of a PNG file, the same for the same figure."""
    png = io.BytesIO()
    # Without the name and version of the library in it.
    figure.savefig(png, format="png", dpi=DPI, metadata={"Software": None})
    return png.getvalue()


class _Sheet:
    """One axes over the whole figure, in inches from the upper left corner; `y` is how far down it is written."""

    def __init__(self, colors):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.colors, self.y = colors, MARGIN
        # Never through pyplot, which would choose a window system.
        self.figure = Figure(figsize=(WIDTH, 1), facecolor=colors["page"])
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")

    def finish(self):
        height = self.y + MARGIN
        self.figure.set_size_inches(WIDTH, height)
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        return self.figure

    def text(self, x, y, text, size=9.5, color="ink", **named):
        named = {"va": "top", "family": "DejaVu Sans"} | named
        self.axes.text(x, y, text.replace("$", r"\$"), fontsize=size, color=self.colors.get(color, color), **named)

    def lines(self, x, lines, step=0.19, **named):
        """Write below each other, from `y` on; return the height."""
        for number, line in enumerate(lines):
            self.text(x, self.y + number * step, line, **named)
        return len(lines) * step

    def title(self, text, *others):
        """Headings; others are (x, text) on the same line."""
        self.y += 0.22
        for x, words in ((MARGIN, text), *others):
            self.text(x, self.y, words, size=12, weight="bold")
        self.y += 0.3

    def mark(self, x, y, width, height):
        """What is looked at closely, to be seen on light and on dark cells."""
        self.box(x, y, width, height, edge="page", line=4.5, above=5)
        self.box(x, y, width, height, edge="ink", line=2.2, above=6)

    def box(self, x, y, width, height, fill=None, edge=None, line=0.6, style="-", hatch=None, above=1):
        from matplotlib.patches import Rectangle

        colors = self.colors
        self.axes.add_patch(
            Rectangle(
                (x, y), width, height, facecolor=colors.get(fill, fill) or "none", edgecolor=colors.get(edge, edge) or "none",
                linewidth=line, linestyle=style, zorder=above,
            )
        )  # fmt: skip
        if hatch:
            self.axes.add_patch(
                Rectangle(
                    (x, y), width, height, facecolor="none", edgecolor=colors["hatch"], linewidth=0, hatch=hatch, zorder=above
                )
            )

    def picture(self, shades, x, y, width, height, color):
        """A matrix as shades 0 to 4 of one colour; NaN is empty."""
        from matplotlib.colors import ListedColormap

        steps = (0.24, 0.75, 0.4, 1, 0.57)  # neighbours differ
        colormap = ListedColormap([_mixed(self.colors["page"], self.colors[color], share) for share in steps])
        self.axes.imshow(
            np.ma.masked_invalid(shades), colormap.with_extremes(bad=self.colors["card"]), vmin=0, vmax=drawing.SHADES,
            interpolation="nearest", extent=(x, x + width, y + height, y), aspect="auto", zorder=1,
        )  # fmt: skip
        self.box(x, y, width, height, edge="soft", above=3)

    def grid(self, x, y, caption, heads, cells, size=CELL, width=None):
        """A table of cells (text, fill, hatch); return its (left, top) inside the heads."""
        width = width or size
        self.text(x, y, caption, size=8.5, color="soft")
        left, top = x + 0.3, y + 0.36
        small = {"size": 6.5 if size > 0.2 else 4.5, "color": "soft"}
        step = 1 if size > 0.13 else 4
        for number, head in enumerate(heads[1]):
            if number % step == 0:
                self.text(left + (number + 0.5) * width, top - 0.03, str(head), ha="center", va="bottom", **small)
        for number, head in enumerate(heads[0]):
            if number % step == 0:
                self.text(left - 0.05, top + (number + 0.5) * size, str(head), ha="right", va="center", **small)
        for row, line in enumerate(cells):
            for column, (text, fill, hatch) in enumerate(line):
                edge = "line" if size > 0.2 else None
                self.box(left + column * width, top + row * size, width, size, fill, edge, hatch=hatch)
                if text:
                    place = left + (column + 0.5) * width, top + (row + 0.5) * size
                    self.text(*place, text, size=7.5, ha="center", va="center", color="soft" if hatch else "ink", zorder=3)
        return left, top


def _number(value):
    return signed(digits(value))


def _fits(texts, size=CELL):
    """The width of a column for these texts."""
    return max(size, 0.085 * max(map(len, texts), default=1) + 0.08)


def _heading(sheet, facts):
    call, at = facts["call"], facts["at"]
    sheet.text(MARGIN, sheet.y, "A convolution is a matrix product", size=17, weight="bold")
    sheet.y += 0.38
    shapes = f"x {group(call['x_shape'])} ∗ w {group(call['w_shape'])} = y {group(call['y_shape'])}"
    options = (
        f"stride {group(call['stride'])}, padding {group(map(group, call['pad']))}, dilation {group(call['dilation'])}, "
        f"groups {call['groups']}, {call['layout']}, {call['dtype']}"
    )
    lines = [f"x is {textwrap.shorten(call['title'], 110)}"] if call["title"] else []
    lines += [f"{shapes};  {options}"]
    place = ", ".join(f"{name} = {at[name]}" for name in "nfab")
    lines += [f"followed here: the output at {place}, which is {_number(facts['y'])} (arXiv 1712.01252)"]
    sheet.y += sheet.lines(MARGIN, lines, color="soft")
    what = facts["left_out"]["what"]
    for start in range(0, len(what), 3):
        begin = "Large shapes. Shown: " if start == 0 else ""
        sheet.y += sheet.lines(MARGIN, [begin + "; ".join(what[start : start + 3])], color="weight", size=8.5)


def _sizes(sheet, facts):
    sheet.title("1  How often the kernel fits (Eq. 5–7)")
    for number, (name, formula, numbers, quotient, result) in enumerate(size_steps(facts)):
        x = MARGIN + 5.2 * number
        height = sheet.lines(
            x, [f"{name} = {signed(formula)}", f"= {signed(numbers)}", f"= {signed(quotient)} = {result}"], size=9
        )
    sheet.y += height + 0.08
    lines = [
        f"{what}: {formula} = {numbers} = {result}".replace(" x ", " × ")
        for what, formula, numbers, result in shape_steps(facts)
    ]
    sheet.y += sheet.lines(MARGIN, lines, size=9)


def _patch(sheet, facts):
    at, place = facts["at"], facts["index_map"]
    n, c, i, j, f, a, b = drawing.spans(facts, *"ncijfab")
    sheet.title("2  Cut out a patch")
    shown = sorted({entry["c"] for entry in facts["entries"]})[:PLANES]
    planes = {channel: facts["x"][at["n"] - n.start][channel - c.start] for channel in shown}
    values = [value for plane in planes.values() for row in plane for value in row if value is not None]
    ends = drawing.limits(values)
    is_small = len(j) > SIDE
    size = 0.1 if is_small else CELL
    width = size if is_small else _fits([_number(value) for value in values])
    x, top = MARGIN, sheet.y
    # As many channels as leave room for y.
    room = max(1, int((WIDTH - 2 * MARGIN - 2.2) // (0.5 + width * len(j))))
    bottom = top
    taps = drawing.patch_places(facts)
    for channel, plane in list(planes.items())[:room]:
        cells = [[_pixel(sheet, value, is_small, ends) for value in row] for row in plane]
        left, above = sheet.grid(x, top, f"channel {channel} of image {at['n']}", (i, j), cells, size, width)
        for row in set(taps[0]) & set(i):
            for column in set(taps[1]) & set(j):
                spot = left + (column - j.start) * width, above + (row - i.start) * size
                sheet.box(*spot, width, size, sheet.colors["patch"] + "33", above=2)
        # Of a patch that goes on beyond what is shown, the box does too, but for its end.
        (first, last), (start, stop) = (
            (max(span[0], shown.start), min(span[-1] + 1, shown.stop)) for span, shown in zip(taps, (i, j), strict=True)
        )
        spot = left + (start - j.start) * width, above + (first - i.start) * size
        sheet.box(*spot, (stop - start) * width, (last - first) * size, edge="patch", line=2.2, above=4)
        if channel == place["c"]:
            sheet.mark(left + (place["j"] - j.start) * width, above + (place["i"] - i.start) * size, width, size)
        x = left + len(j) * width + 0.25
        bottom = max(bottom, above + len(i) * size)
    plane = facts["y_values"][at["n"] - n.start][at["f"] - f.start]
    width = _fits([_number(value) for row in plane for value in row])
    rows = drawing.near(list(a), at["a"], SIDE)
    columns = drawing.near(list(b), at["b"], max(1, int((WIDTH - MARGIN - 0.3 - x) // width)))
    cells = [[(_number(plane[r - a.start][s - b.start]), None, None) for s in columns] for r in rows]
    part = "" if (len(rows), len(columns)) == (facts["sizes"]["OH"], facts["sizes"]["OW"]) else ", a part"
    left, above = sheet.grid(x, top, f"output y, filter {at['f']}{part}", (rows, columns), cells, width=width)
    spot = left + columns.index(at["b"]) * width, above + rows.index(at["a"]) * CELL
    sheet.box(*spot, width, CELL, sheet.colors["out"] + "33", "out", line=2.4, above=2)
    sheet.y = max(bottom, above + len(rows) * CELL) + 0.05


def _pixel(sheet, value, is_small, ends):
    if value is None:
        return "" if is_small else "0", None, "//////"
    if not is_small:
        return _number(value), None, None
    share = drawing.share(value, ends)
    return "", _mixed(sheet.colors["page"], sheet.colors["ink"], share), None


def _mixed(one, other, share):
    parts = ([int(color[k : k + 2], 16) for k in (1, 3, 5)] for color in (one, other))
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(*parts, strict=True))


def _product(sheet, facts):
    at, entries, left_out = facts["at"], facts["entries"], facts["left_out"]
    sheet.title("3–5  A row of Φ times a column of W")
    start = max(0, min(facts["mark"] - ENTRIES // 2, len(entries) - ENTRIES))
    shown = entries[start : start + ENTRIES]
    order = "uvc" if facts["call"]["layout"] == "NHWC" else "cuv"
    rows = (
        (f"Φ[{at['p']}, q]", "patch", [_number(entry["x"]) for entry in shown]),
        (f"× W[q, {facts['lands']['column']}]", "weight", [_number(entry["w"]) for entry in shown]),
        ("= product", "line", [_number(entry["term"]) for entry in shown]),
    )
    sources = [",".join(map(str, entry["from"])) if entry["from"] else "padding" for entry in shown]
    taps = [",".join(str(entry[tap]) for tap in order) for entry in shown]
    left = MARGIN + 0.85
    width = min(0.52, (WIDTH - MARGIN - left) / len(shown))
    for number, entry in enumerate(shown):
        place = left + (number + 0.5) * width
        sheet.text(place, sheet.y, f"q {entry['q']}", size=6.5, color="soft", ha="center")
    sheet.y += 0.15
    for label, edge, texts in rows:
        height = 0.38 if edge != "line" else 0.26
        sheet.text(MARGIN, sheet.y + height / 2, label, size=9, va="center")
        for number, (text, entry) in enumerate(zip(texts, shown, strict=True)):
            x = left + number * width
            is_padding = entry["from"] is None and edge != "weight"
            style = "--" if edge == "weight" else "-"
            sheet.box(x + 0.02, sheet.y, width - 0.04, height - 0.04, None, edge, 1.2, style, "//////" if is_padding else None)
            y = sheet.y + (0.12 if edge != "line" else 0.11)
            sheet.text(x + width / 2, y, text, size=9, ha="center", va="center", weight="bold", zorder=3)
            under = {"patch": sources, "weight": taps}.get(edge)
            if under:
                sheet.text(x + width / 2, y + 0.15, under[number], size=5.2, color="soft", ha="center", va="center", zorder=3)
        sheet.y += height
    mark = left + (facts["mark"] - start) * width
    sheet.mark(mark, sheet.y - 1.03, width, 1.02)
    sheet.y += 0.06
    total = facts["sum"] + left_out["sum"]
    more = len(entries) - len(shown) + left_out["entries"]
    rest = total - sum(entry["term"] for entry in shown)
    words = f"Under Φ: (n, c, i, j), where it comes from; under W: ({', '.join(order)}).  "
    words += f"{more:,} more products add up to {_number(rest)}.  " if more else ""
    words += f"The sum is {_number(total)}."
    sheet.y += sheet.lines(MARGIN, [words], size=9)
    lands = f"y[{', '.join(map(str, facts['lands']['index']))}]"
    words = f"6  It is row {at['p']}, column {facts['lands']['column']} of Φ·W, that is {lands}; "
    sheet.text(MARGIN, sheet.y, f"{words}conv2d gives {_number(facts['y'])}.", size=9, weight="bold")
    sheet.y += 0.2


def _index(sheet, facts):
    place, found, uses = facts["index_map"], facts["readers"], facts["uses"]
    x = MARGIN + 5.35
    sheet.title(
        f"7  The index map (Eq. 8): where Φ[{place['p']}, {place['q']}] comes from", (x, "8  How often each pixel is used")
    )
    top = sheet.y
    steps = map_steps(facts)
    for number, (name, formula, numbers, value) in enumerate(steps):
        y = top + 0.19 * number
        sheet.text(MARGIN, y, name, size=9, weight="bold")
        sheet.text(MARGIN + 0.2, y, f"= {signed(formula)}", size=9)
        sheet.text(MARGIN + 2.0, y, f"= {signed(numbers)}", size=9)
        sheet.text(MARGIN + 4.1, y, f"= {signed(value)}", size=9, weight="bold")
    where = group(signed(place[name]) for name in "ncij")
    if place["inside"]:
        pairs = ", ".join(map(group, found["list"][:8])) + (", ..." if found["count"] > 8 else "")
        ends = [f"the pixel {where}; it stands in Φ {times(found['count'])},", f"at (p, q) = {pairs}"]
    else:
        ends = [f"{where} lies outside the image: padding, an explicit 0"]
    ends.append(f"base(p) + off(q) = {place['base']:,} + {place['offset_of_q']:,} = {place['offset']:,} in the padded image")
    sheet.y = top + 0.19 * len(steps) + 0.05
    sheet.y += sheet.lines(MARGIN, ends, size=9)
    i, j = range(*uses["i"]), range(*uses["j"])
    bottom = top
    if len(i) and len(j):
        is_small = len(j) > SIDE
        size = 0.08 if is_small else CELL * 0.85
        most = max(uses["most"], 1)
        cells = [
            [("" if is_small else str(count), sheet.colors["same"] + f"{round(150 * count / most):02x}", None) for count in row]
            for row in uses["counts"]
        ]
        width = size if is_small else _fits([text for row in cells for text, _, _ in row], size)
        left, above = sheet.grid(x, top, "times in Φ, in every channel; col2im adds as many", (i, j), cells, size, width)
        if place["inside"]:
            sheet.mark(left + (place["j"] - j.start) * width, above + (place["i"] - i.start) * size, width, size)
        bottom = above + len(i) * size
    words = f"at most {times(uses['most'])}; " + (
        f"{uses['never']:,} pixels of each channel never" if uses["never"] else "none is left out"
    )
    sheet.text(x, bottom + 0.06, words, size=8.5, color="soft")
    sheet.y = max(sheet.y, bottom + 0.25)


def _matrices(sheet, facts):
    sheet.title("9  Weights repeated, or pixels repeated")
    matrix, phi, place, at = facts["matrix"], facts["phi"], facts["index_map"], facts["at"]
    marked = tuple(place[name] for name in "ncij") if place["inside"] else None
    layer, patches = drawing.layer(facts, ROWS), drawing.patches(facts, ROWS)
    top, room = sheet.y + 0.22, WIDTH - 2 * MARGIN - 0.4
    share = min(max(len(layer.columns) / (len(layer.columns) + len(patches.columns)), 0.35), 0.65)
    x, bottom = MARGIN, top
    for name, drawn, sizes, width, color in (
        ("M", layer, (matrix["rows"], matrix["columns"]), share * room, "weight"),
        ("Φ", patches, (phi["rows"], phi["columns"]), (1 - share) * room, "patch"),
    ):
        rows, columns = len(drawn.rows), max(1, len(drawn.columns))  # of M none, where nothing but padding is shown
        wide = min(width / columns, 0.14)
        tall = min(max(wide, 0.05), 3 / rows)
        height = rows * tall
        part = "" if drawn.is_whole else ", a part"
        sheet.text(x, sheet.y, f"{name}, {sizes[0]:,} × {sizes[1]:,}{part}", size=9, weight="bold")
        picture = np.full((rows, columns), np.nan)
        for row, column, k, pixel in drawn.cells:
            if name == "M":
                picture[row, column] = drawing.weight_shade(k)
            elif pixel is not None:
                picture[row, column] = drawing.pixel_shade(pixel)
        sheet.picture(picture, x, top, columns * wide, height, color)
        row = drawn.row
        sheet.box(x, top + row * tall, columns * wide, tall, edge="out", line=1.6, above=4)
        for r, s, k, pixel in drawn.cells:
            is_one = (
                k == facts["mark"] and drawn.rows[r][0] == at["f"] if name == "M" else pixel is not None and pixel == marked
            )
            if is_one:
                style = "--" if name == "M" else ":"
                sheet.box(x + s * wide, top + r * tall, wide, tall, edge="ink", line=1.1, style=style, above=5)
        bottom = max(bottom, top + height)
        x += width + 0.4
    sheet.y = bottom + 0.1
    of_layer = (
        f"M, the layer’s matrix: {matrix['entries']:,} entries, of them {matrix['weight_places']:,} weights "
        f"({matrix['weights']:,} different ones, each at most {times(matrix['weight_most'])}); dashed: the marked weight."
    )
    of_patches = (
        f"Φ of an image: {matrix['patch_entries']:,} entries, of them {matrix['patch_pixels']:,} pixels ({matrix['columns']:,} "
        f"different ones, each at most {times(facts['uses']['most'])}) and {matrix['patch_padding']:,} zeros of padding; dotted: "
        "the marked pixel."
    )
    sheet.y += sheet.lines(MARGIN, [of_layer, of_patches], size=8.5, color="soft")


def _cost(sheet, facts):
    cost = facts["cost"]
    sheet.title(f"10  What it costs in {cost['dtype']}")
    memory = ", ".join(
        f"{what} {amount(cost[f'{name}_nbytes'])}"
        for what, name in (("x", "x"), ("w", "w"), ("y", "y"), ("Φ if stored", "phi"), ("M with its zeros", "matrix"))
    )
    sheet.y += sheet.lines(MARGIN, [f"{cost['multiply_adds']:,} multiplications and as many additions; {memory}"], size=9)
    for method in cost["methods"]:
        is_chosen = method["name"] == cost["auto"]
        weight = "bold" if is_chosen else "normal"
        sheet.text(MARGIN, sheet.y, ("✓ " if is_chosen else "    ") + method["name"], size=9, weight=weight)
        if method["declines"] is None:
            text = f"extra memory {amount(method['workspace_nbytes'])}, about {duration(method['seconds'])} on one thread"
        else:
            text = f"declines: {method['declines']}"
        sheet.text(MARGIN + 1.2, sheet.y, text + (' (what method="auto" takes)' if is_chosen else ""), size=9, weight=weight)
        sheet.y += 0.19
