"""The explanation as one HTML page that needs no other file and no network.

What is written here is the whole story of the output that was asked for; without a script the page stands as it is.
``page.js`` keeps it true when another output or entry is chosen: it knows the same panels, cell by cell, and the same
slots, the texts in ``{{name}}``.  So what is changed in one of the two files must be changed in the other.
"""

import html
import importlib.resources
import math
import re

from im2colx._explain import drawing
from im2colx._explain.words import amount, digits, duration, extent, group, map_steps, shape_steps, signed, size_steps, times

SMALL = 14  # columns of a table whose cells still have room for numbers


def render(facts, plain):
    """The page.

    Parameters
    ----------
    facts : dict
        As `im2colx.Explanation` holds them.
    plain : str
        The same as JSON.
    """
    folder = importlib.resources.files(__package__)
    page, css, script = (folder.joinpath(f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    call = facts["call"]
    is_last = call["layout"] == "NHWC"
    several = len({entry["c"] for entry in facts["entries"]}) > 1 or facts["left_out"]["entries"]
    parts = {
        "call": _call(call),
        "elided": _elided(facts),
        "chooser": _chooser(facts),
        "sizes": _sizes(facts),
        "groups": _groups(facts),
        "every-channel": ", the same in every channel" if several else "",
        "images": _images(facts),
        "outputs": _outputs(facts),
        "order": "row by row, at each place all channels" if is_last else "channel by channel, row by row",
        "row": _strip(facts, "row", "Row of Φ"),
        "filters": _filters(facts),
        "column": _strip(facts, "column", "Column of W"),
        "product": _strip(facts, "product", "Products"),
        "matrices": _matrices(facts),
        "map": _map(facts),
        "readers": _readers(facts),
        "overlap": _overlap(facts),
        "uses": _uses(facts),
        "drawings": _drawings(facts),
        "counts": _counts(facts),
        "cost": _cost(facts),
        "css": css,
        "js": script,
        # "<" would end the script where the data hold "</script>".
        "facts": plain.replace("<", "\\u003c"),
    }
    texts = slots(facts)
    # The texts first: what comes from the caller is not looked through for markers.
    page = re.sub(r"\{\{([a-z0-9]+)\}\}", lambda found: _slot(found[1], texts), page)
    return re.sub(r"<!--([a-z-]+)-->", lambda found: parts[found[1]], page)


def frame(page):
    """The page for a notebook: in a frame of its own, so that neither styles nor names meet those of the notebook."""
    return (
        '<iframe title="A convolution is a matrix product" style="width: 100%; height: 46rem; border: 1px solid #8888; '
        f'border-radius: 6px; resize: vertical; color-scheme: normal" srcdoc="{html.escape(page)}"></iframe>'
    )


# ---- Texts that change with the output: page.js has the same -----------------------------------------------------------


def _number(value):
    return signed(digits(value))


def _slot(name, texts):
    return f'<span data-t="{name}">{texts[name]}</span>'


def slots(facts):
    """The texts in ``{{name}}`` by their names."""
    at, lands, place = facts["at"], facts["lands"], facts["index_map"]
    entry, left, found, matrix = facts["entries"][facts["mark"]], facts["left_out"], facts["readers"], facts["matrix"]
    y = f"y[{', '.join(map(str, lands['index']))}]"
    pixel, value = f"({signed(', '.join(str(place[name]) for name in 'ncij'))})", _number(entry["x"])
    weight = f"weight ({at['f']}, {entry['c']}, {entry['u']}, {entry['v']})"
    texts = {name: str(at[name]) for name in "nfabp"} | {
        "out": y,
        "y": _number(facts["y"]),
        "status": f"Entry q = {entry['q']} of row p = {at['p']}: "
        + (f"pixel {pixel}" if place["inside"] else "padding")
        + f" = {value}, times {weight} = {_number(entry['w'])}, is {_number(entry['term'])}.",
        "extent": signed(extent(facts)),
        "sum": (f"The products shown add up to {_number(facts['sum'])}, the other {left['entries']:,} to {_number(left['sum'])}: "
                f"together {_number(facts['sum'] + left['sum'])}." if left["entries"] else f"The sum is {_number(facts['sum'])}.")
        + f" conv2d gives {y} = {_number(facts['y'])}.",
        "lands": f"Row {at['p']} times column {lands['column']} is {y}, element {lands['offset']:,} of y in memory, "
        "counted from 0.",
        "entry": f"Φ[{at['p']}, {entry['q']}]",
        "where": f"So Φ[{at['p']}, {entry['q']}] is the pixel (n, c, i, j) = {pixel}, which is {value}." if place["inside"]
        else f"(n, c, i, j) = {pixel} lies outside the image: padding, an explicit 0.",
        "flat": f"{place['base']:,} + {place['offset_of_q']:,} = {place['offset']:,}",
    }  # fmt: skip
    if place["inside"]:
        count = found["count"]
        texts |= {
            "back": f"Pixel {pixel} stands in Φ {times(count)}, at (p, q) =",
            "col2im": f"Pixel {pixel} stands in Φ {times(count)}, so col2im(im2col(x)) is {count:,} · {value} = "
            f"{_number(count * entry['x'])} there.",
            "pixels": f"Pixel {pixel} = {value} stands in Φ {times(count)}{' (dotted)' * (count > 1)}.",
        }
    else:
        texts |= {
            "back": "It is padding: no pixel is read.",
            "col2im": "What comes back to the padding is dropped.",
            "pixels": "Padding is 0, and is no pixel of the image.",
        }
    count = matrix["weight_of_mark"]
    texts["weights"] = f"{weight.capitalize()} = {_number(entry['w'])} stands in M {times(count)}{' (dashed)' * (count > 1)}."
    return texts


# ---- Parts that do not change ------------------------------------------------------------------------------------------


def _call(call):
    x, w, y = (group(call[f"{name}_shape"]) for name in "xwy")
    title = f'<p class="title">x is {html.escape(call["title"])}.</p>' if call["title"] else ""
    details = {
        "stride S": group(call["stride"]),
        "padding P": "".join(f"{group(pair)} " for pair in call["pad"]).strip(),
        "dilation D": group(call["dilation"]),
        "groups G": call["groups"],
        "layout": call["layout"],
        "dtype": call["dtype"],
    }
    items = "".join(f"<span>{name} <b>{value}</b></span>" for name, value in details.items())
    return (
        f'{title}<p class="call"><span>x <b>{x}</b></span> ∗ <span>w <b>{w}</b></span> = <span>y <b>{y}</b></span></p>'
        f'<p class="details">{items}</p>'
    )


def _elided(facts):
    what = facts["left_out"]["what"]
    if not what:
        return ""
    items = "".join(f"<li>{signed(html.escape(text))}</li>" for text in what)
    return (
        '<div class="note"><p><b>These shapes are large, so this page shows a neighbourhood of one output.</b> All sizes, counts '
        f"and costs are those of the whole. What can be pointed at and chosen here:</p><ul>{items}</ul></div>"
    )


def _chooser(facts):
    parts = []
    for name, what, span in zip("nfab", ("image", "filter", "row", "column"), drawing.spans(facts, *"nfab"), strict=True):
        options = "".join(
            f'<option value="{value}"{" selected" if value == facts["at"][name] else ""}>{value}</option>' for value in span
        )
        hidden = " hidden" if len(span) == 1 else ""
        parts.append(f'<label{hidden}><span>{what} {name}</span> <select data-at="{name}">{options}</select></label>')
    return "".join(parts)


def _sizes(facts):
    lines = []
    for name, formula, numbers, quotient, result in size_steps(facts):
        parts = "".join(f"<span>= {text}</span> " for text in (formula, numbers, quotient))
        lines.append(f'<p class="formula"><span>{name}</span> {signed(parts)}<b>= {result}</b></p>')
    unused = [
        f"{axis['unused']} {what}{'s' * (axis['unused'] > 1)} at the end of the padded image"
        for what, axis in zip(("row", "column"), facts["output_size"], strict=True)
        if axis["unused"]
    ]
    rest = f"<p>The stride leaves {' and '.join(unused)} that the kernel never reaches.</p>" if unused else ""
    rows = "".join(
        f"<tr><th>{what}</th><td>{formula}</td><td>{numbers}</td><td><b>{result}</b></td></tr>".replace(" x ", " × ")
        for what, formula, numbers, result in shape_steps(facts)
    )
    return f'<div class="formulas">{"".join(lines)}</div>{rest}<div class="scroll"><table class="plain">{rows}</table></div>'


def _groups(facts):
    sizes = facts["sizes"]
    if sizes["G"] == 1:
        return ""
    return (
        f"<p>There are G = {sizes['G']} groups of {sizes['C'] // sizes['G']} channels and {sizes['F'] // sizes['G']} filters. "
        "A filter sees only the channels of its own group (the others are dimmed), and each group has a Φ and a W of its own: "
        "those of the chosen filter are shown.</p>"
    )


# ---- Tables ----------------------------------------------------------------------------------------------------------


def _table(panel, caption, heads, cells, corner, *, data="", is_small=False):
    """A grid of numbers: cells are (text, classes[, shade in percent]), heads are (row heads, column heads)."""
    top = "".join(f"<th>{signed(head)}</th>" for head in heads[1])
    body = []
    for head, row in zip(heads[0], cells, strict=True):
        line = []
        for text, classes, *shade in row:
            attributes = f' class="{classes}"' if classes else ""
            attributes += f' style="--v:{shade[0]}%"' if shade else ""
            line.append(f"<td{attributes}>{text}</td>")
        body.append(f"<tr><th>{signed(head)}</th>{''.join(line)}</tr>")
    return (
        f'<div class="scroll"><table class="grid{" small" if is_small else ""}" data-panel="{panel}"{data} role="grid" '
        f'aria-label="{html.escape(re.sub("<[^>]*>", "", caption))}"><caption>{caption}</caption>'
        f"<thead><tr><td>{corner}</td>{top}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _shade(share, most=100):
    """Per cent of ink; halves up, as in page.js."""
    return math.floor(most * share + 0.5)


def _images(facts):
    at, place = facts["at"], facts["index_map"]
    n, c, i, j = drawing.spans(facts, *"ncij")
    is_small, ends = len(j) > SMALL, drawing.limits(facts["x"])
    rows, columns = drawing.patch_places(facts)
    channels = facts["sizes"]["C"] // facts["sizes"]["G"]
    tables = []
    for channel in c:
        is_seen = channel // channels == at["group"]
        plane = facts["x"][at["n"] - n.start][channel - c.start]
        cells = []
        for row in i:
            line = []
            for column in j:
                value = plane[row - i.start][column - j.start]
                marks = ["pad"] if value is None else []
                if is_seen and rows[0] <= row <= rows[-1] and columns[0] <= column <= columns[-1]:
                    edges = {
                        "in": row in rows and column in columns,
                        "bt": row == rows[0], "bb": row == rows[-1], "bl": column == columns[0], "br": column == columns[-1],
                    }  # fmt: skip
                    marks += [name for name, is_it in edges.items() if is_it]
                marks += ["dim"] * (not is_seen)
                marks += ["hot"] * ((channel, row, column) == (place["c"], place["i"], place["j"]))
                value = 0 if value is None else value
                line.append((_number(value), " ".join(marks), *([_shade(drawing.share(value, ends))] if is_small else [])))
            cells.append(line)
        caption = f"channel {channel} of image {_slot('n', {'n': str(at['n'])})}"
        tables.append(_table("image", caption, (i, j), cells, "i\\j", data=f' data-c="{channel}"', is_small=is_small))
    return "".join(tables)


def _outputs(facts):
    at = facts["at"]
    n, f, a, b = drawing.spans(facts, *"nfab")
    is_small = len(b) > SMALL
    plane = facts["y_values"][at["n"] - n.start][at["f"] - f.start]
    ends = drawing.limits(facts["y_values"])
    cells = [
        [
            (
                _number(plane[row - a.start][column - b.start]),
                "out" if (row, column) == (at["a"], at["b"]) else "",
                *([_shade(drawing.share(plane[row - a.start][column - b.start], ends))] if is_small else []),
            )
            for column in b
        ]
        for row in a
    ]
    caption = f"output y, filter {_slot('f', {'f': str(at['f'])})}"
    return _table("y", caption, (a, b), cells, "a\\b", is_small=is_small)


def _filters(facts):
    view = facts["view"]
    weights = facts["w"][facts["at"]["f"] - view["f"][0]]
    tables = []
    for channel in sorted({entry[1] for entry in view["entries"]}):
        cells = [[None] * view["taps"][1] for _ in range(view["taps"][0])]
        for k, (_, c, u, v) in enumerate(view["entries"]):
            if c == channel:
                cells[u][v] = (_number(weights[k]), "hot" if k == facts["mark"] else "")
        heads = range(view["taps"][0]), range(view["taps"][1])
        shown = facts["entries"][[entry[1] for entry in view["entries"]].index(channel)]["c"]
        caption = f"filter {_slot('f', {'f': str(facts['at']['f'])})}, channel <span data-channel>{shown}</span>"
        tables.append(_table("filter", caption, heads, cells, "u\\v", data=f' data-c="{channel}"'))
    return "".join(tables)


def _strip(facts, panel, name):
    """The entries one after the other: of a row, a column, or their products."""
    order = "uvc" if facts["call"]["layout"] == "NHWC" else "cuv"
    cards = []
    for k, entry in enumerate(facts["entries"]):
        is_padding = entry["from"] is None
        if panel == "row":
            value, source = _number(entry["x"]), "padding" if is_padding else ",".join(map(str, entry["from"]))
        elif panel == "column":
            value, source = _number(entry["w"]), ",".join(f"{tap}{entry[tap]}" for tap in order)
        else:
            value, source = _number(entry["term"]), f"{_number(entry['x'])} · {_number(entry['w'])}"
        marks = ["e"] + ["pad"] * (is_padding and panel != "column") + ["hot"] * (k == facts["mark"])
        tab = 0 if k == facts["mark"] else -1
        cards.append(
            f'<button type="button" class="{" ".join(marks)}" tabindex="{tab}"><i>q {entry["q"]}</i><b>{value}</b>'
            f"<small>{source}</small></button>"
        )
    left = facts["left_out"]["entries"]
    more = f'<span class="more">and {left:,} more</span>' if left else ""
    widest = len(",".join(str(facts["view"][name][1] - 1) for name in "ncij"))  # about the longest (n, c, i, j)
    return (
        f'<div class="strip {panel}" data-panel="{panel}" role="group" aria-label="{name}" '
        f'style="--e:{max(3.65, 0.42 * widest):.2f}">'
        f"{''.join(cards)}{more}</div>"
    )


def number_rows(facts):
    """The rows (n, a, b) of Φ that are written as numbers."""
    n, a, b = drawing.spans(facts, *"nab")
    at = facts["at"]
    return drawing.near(
        [(n_, a_, b_) for n_ in n for a_ in a for b_ in b], (at["n"], at["a"], at["b"]), facts["view"]["number_rows"]
    )


def filters_of_group(facts):
    """The filters in view that share a Φ with the one that is explained."""
    filters = facts["sizes"]["F"] // facts["sizes"]["G"]
    return [f for f in drawing.spans(facts, "f")[0] if f // filters == facts["at"]["group"]]


def _matrices(facts):
    sizes, at, view, place = facts["sizes"], facts["at"], facts["view"], facts["index_map"]
    n, c, i, j, f, a, b = drawing.spans(facts, *"ncijfab")
    rows, filters = number_rows(facts), filters_of_group(facts)
    per_group, filters_per_group = sizes["C"] // sizes["G"], sizes["F"] // sizes["G"]
    marked = tuple(place[name] for name in "ncij") if place["inside"] else None
    phi, y = [], []
    for row in rows:
        is_row = row == (at["n"], at["a"], at["b"])
        line = []
        for k, ((_, channel, _, _), (i_, j_)) in enumerate(zip(view["entries"], drawing.taps_of(facts, *row[1:]), strict=True)):
            pixel = (row[0], at["group"] * per_group + channel, i_, j_)
            value = facts["x"][row[0] - n.start][pixel[1] - c.start][i_ - i.start][j_ - j.start]
            marks = ["pad"] * (value is None) + ["row"] * is_row + ["col"] * (k == facts["mark"])
            if is_row and k == facts["mark"]:
                marks.append("hot")
            elif pixel == marked:
                marks.append("same")
            line.append((_number(0 if value is None else value), " ".join(marks)))
        phi.append(line)
        y.append(
            [
                (
                    _number(facts["y_values"][row[0] - n.start][filter_ - f.start][row[1] - a.start][row[2] - b.start]),
                    "out" if is_row and filter_ == at["f"] else "",
                )
                for filter_ in filters
            ]
        )
    w = [
        [
            (
                _number(facts["w"][filter_ - f.start][k]),
                " ".join(["col"] * (filter_ == at["f"]) + ["hot"] * (filter_ == at["f"] and k == facts["mark"])),
            )
            for filter_ in filters
        ]
        for k in range(len(view["entries"]))
    ]
    heads = [(n_ * sizes["OH"] + a_) * sizes["OW"] + b_ for n_, a_, b_ in rows]
    columns = [entry[0] for entry in view["entries"]]
    names = [filter_ % filters_per_group for filter_ in filters]
    phi_rows, phi_columns = facts["phi"]["rows"], facts["phi"]["columns"]
    parts = [
        _table("phi", _caption("Φ", phi_rows, phi_columns, len(rows), len(columns)), (heads, columns), phi, "p\\q"),
        '<span class="sign" aria-hidden="true">·</span>',
        _table("w", _caption("W", phi_columns, filters_per_group, len(columns), len(names)), (columns, names), w, "q"),
        '<span class="sign" aria-hidden="true">=</span>',
        _table("Y", _caption("Y", phi_rows, filters_per_group, len(rows), len(names)), (heads, names), y, "p"),
    ]
    return f'<div class="equation">{"".join(parts)}</div>'


def _caption(name, rows, columns, shown_rows, shown_columns):
    part = "" if (rows, columns) == (shown_rows, shown_columns) else ", a part"
    return f"{name}, {rows:,} × {columns:,}{part}"


def _map(facts):
    rows = "".join(
        f"<tr><th>{name}</th><td>= {signed(formula)}</td><td>= <span data-m>{signed(numbers)}</span></td>"
        f"<td>= <b data-v>{signed(value)}</b></td></tr>"
        for name, formula, numbers, value in map_steps(facts)
    )
    return f'<div class="scroll"><table class="plain map">{rows}</table></div>'


def _readers(facts):
    n, a, b = drawing.spans(facts, *"nab")
    rows = {(n_ * facts["sizes"]["OH"] + a_) * facts["sizes"]["OW"] + b_ for n_ in n for a_ in a for b_ in b}
    columns = {entry[0] for entry in facts["view"]["entries"]}
    here = [facts["at"]["p"], facts["index_map"]["q"]]
    buttons = []
    for p, q in facts["readers"]["list"]:
        mark = " hot" if [p, q] == here else ""
        off = "" if p in rows and q in columns else " disabled"
        buttons.append(f'<button type="button" class="pair{mark}" data-p="{p}" data-q="{q}"{off}>({p}, {q})</button>')
    more = facts["readers"]["count"] - len(facts["readers"]["list"])
    return f'<div class="pairs" data-readers>{"".join(buttons)}{f"<span>and {more:,} more</span>" if more else ""}</div>'


def _overlap(facts):
    if facts["uses"]["most"] > 1:
        return "Patches overlap, so that one pixel stands in several rows of Φ: im2col copies it to each of them."
    return "These patches do not overlap: no pixel stands in Φ twice. With a stride smaller than the kernel it would."


def _uses(facts):
    uses, place = facts["uses"], facts["index_map"]
    i, j = range(*uses["i"]), range(*uses["j"])
    most = max(uses["most"], 1)
    words = (
        f"It is the same in every channel. The most used pixel stands in Φ {times(uses['most'])}; "
        if uses["most"]
        else "No pixel stands in Φ; "
    )
    words += f"{uses['never']:,} pixels of each channel are never read." if uses["never"] else "none is left out."
    if not (len(i) and len(j)):
        return f"<p>{words}</p>"
    cells = [
        [
            (
                f"{uses['counts'][row - i.start][column - j.start]:,}",
                "hot" if place["inside"] and (row, column) == (place["i"], place["j"]) else "",
                _shade(uses["counts"][row - i.start][column - j.start] / most, 70),
            )
            for column in j
        ]
        for row in i
    ]
    table = _table("uses", "times in Φ", (i, j), cells, "i\\j", is_small=len(j) > SMALL)
    return f'<div class="planes">{table}</div><p>{words}</p>'


# ---- Drawings of the two matrices ---------------------------------------------------------------------------------------


def _path(cells):
    return "".join(f"M{column} {row}h1v1h-1z" for row, column in cells)


def _drawing(kind, drawn, shades, marks, label):
    """An svg of the cells: a path for each shade, one for padding, and the marks on top."""
    rows, columns = len(drawn.rows), max(1, len(drawn.columns))  # of M none, where nothing but padding is shown
    paths = {f"s{shade}": [] for shade in range(drawing.SHADES)} | {"pad": []}
    for (row, column, _, _), shade in zip(drawn.cells, shades, strict=True):
        paths["pad" if shade is None else f"s{shade}"].append((row, column))
    drawn_paths = "".join(f'<path class="{name}" d="{_path(cells)}"/>' for name, cells in paths.items())
    drawn_marks = "".join(f'<path class="{name}" d="{d}"/>' for name, d in marks.items())
    # Cells of at most 14 pixels, and of at least 6 in height even where there are hundreds of columns.
    size = f"aspect-ratio: {columns} / {rows}; max-width: {14 * columns}px; min-height: {min(6 * rows, 300)}px"
    return (
        f'<svg class="drawing" data-panel="{kind}" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" role="img" '
        f'aria-label="{label}" style="{size}"><rect class="ground" width="{columns}" height="{rows}"/>'
        f"{drawn_paths}{drawn_marks}</svg>"
    )


def _box(row, column, height, width):
    return f"M{column} {row}h{width}v{height}h-{width}z"


def _drawings(facts):
    at, matrix, phi, place, mark = facts["at"], facts["matrix"], facts["phi"], facts["index_map"], facts["mark"]
    layer, patches = drawing.layer(facts, facts["view"]["drawn_rows"]), drawing.patches(facts, facts["view"]["drawn_rows"])
    marked = tuple(place[name] for name in "ncij") if place["inside"] else None
    column = layer.columns.index(marked[1:]) if marked else None
    of_filter = {row for row, output in enumerate(layer.rows) if output[0] == at["f"]}
    layer_marks = {
        "row": _box(layer.row, 0, 1, max(1, len(layer.columns))),
        "line": "" if column is None else _box(0, column, len(layer.rows), 1),
        "col": _path([(row, col) for row, col, k, _ in layer.cells if k == mark and row in of_filter]),
        "hot": "" if column is None else _box(layer.row, column, 1, 1),
    }
    patch_marks = {
        "row": _box(patches.row, 0, 1, len(patches.columns)),
        "line": _box(0, mark, len(patches.rows), 1),
        "same": _path([(row, col) for row, col, _, pixel in patches.cells if pixel and pixel == marked]),
        "hot": _box(patches.row, mark, 1, 1),
    }
    pictures = (
        (
            "M",
            matrix["rows"],
            matrix["columns"],
            layer,
            [drawing.weight_shade(k) for _, _, k, _ in layer.cells],
            layer_marks,
            "weights",
        ),
        (
            "Phi",
            phi["rows"],
            phi["columns"],
            patches,
            [None if pixel is None else drawing.pixel_shade(pixel) for _, _, _, pixel in patches.cells],
            patch_marks,
            "pixels",
        ),
    )
    texts = slots(facts)
    # The wider one takes what the narrower leaves, but never so much that this one cannot be seen.
    total = len(layer.columns) + len(patches.columns)
    figures = []
    for kind, rows, columns, drawn, shades, marks, what in pictures:
        name = "M" if kind == "M" else "Φ"
        part = "" if drawn.is_whole else ", a part"
        grey = ", grey is padding" if kind == "Phi" else ""
        share = min(max(len(drawn.columns) / total, 0.3), 0.7)
        label = f"{name} as a picture, {rows:,} by {columns:,}{part}: shades are {what}"
        svg = _drawing(kind, drawn, shades, marks, label)
        figures.append(
            f'<figure style="flex-grow: {share:.2f}">{svg}'
            f"<figcaption><b>{name}, {rows:,} × {columns:,}</b>{part}. Equal shades side by side are equal {what}{grey}. "
            f"{_slot(what, texts)}</figcaption></figure>"
        )
    return f'<div class="drawings">{"".join(figures)}</div>'


def _counts(facts):
    matrix, uses = facts["matrix"], facts["uses"]
    groups = facts["sizes"]["G"]
    rows = (
        ("", "M, the layer’s matrix", "Φ, for one image" + (f", all {groups} groups" if groups > 1 else "")),
        ("entries", f"{matrix['entries']:,}", f"{matrix['patch_entries']:,}"),
        ("of them not zero by construction", f"{matrix['weight_places']:,} weights", f"{matrix['patch_pixels']:,} pixels"),
        ("of them zero", f"{matrix['entries'] - matrix['weight_places']:,}", f"{matrix['patch_padding']:,} (padding)"),
        (
            "different ones",
            f"{matrix['weights']:,} weights",
            f"{matrix['columns']:,} pixels" + (f" ({uses['never']:,} of each channel never read)" if uses["never"] else ""),
        ),
        ("one is repeated at most", times(matrix["weight_most"]), times(uses["most"])),
    )
    head, *body = ("".join(f"<{tag}>{text}</{tag}>" for tag, text in zip(("th", "td", "td"), row, strict=True)) for row in rows)
    head = head.replace("td>", "th>")
    return (
        f'<div class="scroll"><table class="plain counts"><thead><tr>{head}</tr></thead><tbody>'
        f"{''.join(f'<tr>{row}</tr>' for row in body)}</tbody></table></div>"
    )


def _cost(facts):
    cost = facts["cost"]
    rows = []
    for method in cost["methods"]:
        is_chosen = method["name"] == cost["auto"]
        if method["declines"] is None:
            cells = f"<td>{amount(method['workspace_nbytes'])}</td><td>{duration(method['seconds'])}</td>"
        else:
            cells = f'<td colspan="2">declines: {html.escape(method["declines"])}</td>'
        name = f"<b>{method['name']}</b>" + (' <span class="auto">✓ auto</span>' if is_chosen else "")
        rows.append(f"<tr><th>{name}<small>{html.escape(method['summary'])}</small></th>{cells}</tr>")
    memory = "".join(
        f"<tr><th>{what}</th><td>{amount(cost[f'{name}_nbytes'])}</td></tr>"
        for what, name in (("x", "x"), ("w", "w"), ("y", "y"), ("Φ, if it is stored", "phi"), ("M, with its zeros", "matrix"))
    )
    return (
        f"<p>In {cost['dtype']}, whatever the method: {cost['multiply_adds']:,} multiplications and as many additions. The "
        "methods differ in the memory they need besides x, w and y, and in how fast they read x.</p>"
        f'<div class="side"><div class="scroll"><table class="plain cost"><thead><tr><th>method</th><th>extra memory</th>'
        f"<th>estimate, 1 thread</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f'<div class="scroll"><table class="plain memory"><thead><tr><th>what</th><th>memory</th></tr></thead>'
        f"<tbody>{memory}</tbody></table></div></div>"
        f"<p>method=&quot;auto&quot; takes <b>{cost['auto']}</b>, the least estimate.</p>"
    )
