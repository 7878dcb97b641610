"""The explanation as text of at most 80 columns."""

import re
import textwrap

from im2colx._explain import drawing
from im2colx._explain.words import amount, digits, duration, extent, group, map_steps, shape_steps, size_steps, times

WIDTH = 80
LINES = 50  # of the product; of a longer one the rest is summed up
DRAWN = 27  # rows of the drawing of a matrix
PLANES = 6  # channels of the image
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def render(facts):
    """The text of all facts, as `im2colx.Explanation` holds them."""
    parts = (_heading, _sizes, _patch, _product, _landing, _index, _uses, _matrices, _cost)
    return "\n\n".join("\n".join(line.rstrip() for line in part(facts)) for part in parts)


def _wrapped(text, indent=3):
    # Tuples stay in one line.
    text = re.sub(
        r"\([^()]*\)", lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}") if len(found[0]) < 40 else found[0], text
    )
    lines = textwrap.wrap(text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent, break_on_hyphens=False)
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]


def _heading(facts):
    call, at = facts["call"], facts["at"]
    shapes = f"x {group(call['x_shape'])}, w {group(call['w_shape'])} -> y {group(call['y_shape'])}"
    options = (
        f"stride {group(call['stride'])}, pad {group(map(group, call['pad']))}, dilation {group(call['dilation'])}, "
        f"groups {call['groups']}, layout {call['layout']}"
    )
    lines = ["A convolution is a matrix product (arXiv 1712.01252)", ""]
    if call["title"]:
        lines += _wrapped(f"x is {call['title']}.", 0)
    lines += [*_wrapped(shapes, 0), *_wrapped(options, 0)]
    place = ", ".join(f"{name} = {at[name]}" for name in "nfab")
    lines += _wrapped(f"Followed here: the output at {place}, which is {digits(facts['y'])}.", 0)
    if facts["left_out"]["what"]:
        lines += _wrapped(f"These shapes are large. Shown: {'; '.join(facts['left_out']['what'])}.", 0)
    return lines


def _sizes(facts):
    sizes, at = facts["sizes"], facts["at"]
    lines = ["1. Sizes: how often the kernel fits (Eq. 5-7)"]
    for (name, formula, numbers, quotient, result), axis in zip(size_steps(facts), facts["output_size"], strict=True):
        lines += [f"   {name} = {formula}", f"      = {numbers}", f"      = {quotient} = {result}"]
        if axis["unused"]:
            lines[-1] += f"   (the last {axis['unused']} of the padded {axis['padded']} are never reached)"
    lines.append("   (⌊ ⌋ rounds down)")
    for what, formula, numbers, result in shape_steps(facts):
        end = f" = {result}" * (numbers != result)
        lines.append(f"   {what + ':':22} {formula} = {numbers}")
        if len(lines[-1] + end) <= WIDTH:
            lines[-1] += end
        else:
            lines.append(" " * 25 + end)
    if sizes["G"] > 1:
        lines += _wrapped(
            f"There are G = {sizes['G']} groups, each with a Φ and a W of its own. Filter {at['f']} is in group {at['group']} "
            f"and sees only its {sizes['C'] // sizes['G']} channels; Φ and W are those of this group from here on."
        )
    return lines


# ---- Grids ----------------------------------------------------------------------------------------------------------


def _grid(heads, cells, corner):
    """Lines of a table of texts; cells are (text, is_marked), heads are (row heads, column heads)."""
    width = max([len(text) for row in cells for text, _ in row] + [len(str(head)) for head in heads[1]], default=1)
    side = max([len(corner)] + [len(str(head)) for head in heads[0]])
    lines = [f"{corner:>{side}} " + "".join(f" {head:>{width}} " for head in heads[1])]
    for head, row in zip(heads[0], cells, strict=True):
        lines.append(
            f"{head:>{side}} " + "".join(f"[{text:>{width}}]" if is_marked else f" {text:>{width}} " for text, is_marked in row)
        )
    return lines


def _side_by_side(blocks):
    """Blocks of (title, lines), as many in a row as fit."""
    lines, row = [], []

    def flush():
        widths = [max(map(len, block)) for block in row]
        for number in range(max(map(len, row), default=0)):
            parts = (
                f"{block[number] if number < len(block) else '':{width}}" for block, width in zip(row, widths, strict=True)
            )
            lines.append(("   " + "    ".join(parts)).rstrip())
        row.clear()

    for title, block in blocks:
        block = [title, *block]
        used = 3 + sum(max(map(len, other)) + 4 for other in row)
        if row and used + max(map(len, block)) > WIDTH:
            flush()
        row.append(block)
    flush()
    return lines


def _fitting(span, places, texts, heads):
    """The part of `span` around `places` whose columns, of some of these texts, fit beside row heads."""
    width = max(len(str(text)) for text in (*texts, span.start, span.stop - 1))
    side = max(3, *(len(str(head)) for head in heads))
    count = (WIDTH - 4 - side) // (width + 2)
    if len(span) <= count:
        return span
    low = max(span.start, min(min(places, default=span.start) - 1, span.stop - count))
    return range(low, low + count)


def _patch(facts):
    at = facts["at"]
    n, c, i, j = drawing.spans(facts, "n", "c", "i", "j")
    taps = drawing.patch_places(facts)
    shown = sorted({entry["c"] for entry in facts["entries"]})[:PLANES]
    planes = {channel: facts["x"][at["n"] - n.start][channel - c.start] for channel in c if channel in shown}
    texts = {name: [["·" if v is None else digits(v) for v in row] for row in plane] for name, plane in planes.items()}
    columns = _fitting(j, taps[1], {text for plane in texts.values() for row in plane for text in row}, i)
    blocks = []
    for channel, plane in texts.items():
        cells = [
            [(plane[row - i.start][column - j.start], row in taps[0] and column in taps[1]) for column in columns] for row in i
        ]
        blocks.append((f"channel {channel}", _grid((i, columns), cells, "i\\j")))
    words = f"Output ({at['a']}, {at['b']}) looks at {extent(facts)}: in brackets. Padding (·) counts as 0."
    if len(shown) < facts["sizes"]["C"] // facts["sizes"]["G"]:
        words += f" Only {len(shown)} of its channels are shown."
    if len(columns) < len(j):
        words += f" Columns {columns.start} to {columns.stop - 1} are shown."
    return ["2. The patch", *_wrapped(words), "", *_side_by_side(blocks)]


def _product(facts):
    at, entries = facts["at"], facts["entries"]
    p, f, left = at["p"], at["f"], facts["left_out"]
    dots = ", ..." if left["entries"] or len(entries) > LINES else ""
    lines = [
        "3. The patch becomes a row of Φ (im2col, Algorithm 1)",
        *_wrapped(f"Φ[{p}, :] = ({', '.join(digits(entry['x']) for entry in entries[:LINES])}{dots})"),
        "",
        "4. The filter becomes a column of W",
        *_wrapped(f"W[:, {facts['lands']['column']}] = ({', '.join(digits(entry['w']) for entry in entries[:LINES])}{dots})"),
        "",
        "5. Row times column, term by term",
    ]
    order = "(u, v, c)" if facts["call"]["layout"] == "NHWC" else "(c, u, v)"
    head = ("q", order, "from (n, c, i, j)", "Φ[p, q]", "w", "product", "sum so far")
    total, rows = 0, []
    for entry in entries[:LINES]:
        total += entry["term"]
        tap = [entry[name] for name in order if name in "cuv"]
        where = group(entry["from"]) if entry["from"] else "padding"
        numbers = (digits(entry[name]) for name in ("x", "w", "term"))
        rows.append((str(entry["q"]), group(tap), where, *numbers, digits(total)))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        lines.append("   " + "  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True)))
    more = len(entries) - len(rows) + left["entries"]
    if more:
        lines.append(f"   ... and {more:,} more terms, which add up to {digits(facts['sum'] + left['sum'] - total)}")
    lines += _wrapped(f"The sum is {digits(facts['sum'] + left['sum'])}; conv2d gives y = {digits(facts['y'])} for filter {f}.")
    return lines


def _landing(facts):
    at, lands, sizes, call = facts["at"], facts["lands"], facts["sizes"], facts["call"]
    n, f, a, b = drawing.spans(facts, "n", "f", "a", "b")
    plane = facts["y_values"][at["n"] - n.start][at["f"] - f.start]
    columns = _fitting(b, [at["b"]], {digits(value) for row in plane for value in row}, a)
    cells = [
        [(digits(plane[row - a.start][column - b.start]), (row, column) == (at["a"], at["b"])) for column in columns]
        for row in a
    ]
    count = sizes["N"] * sizes["F"] * sizes["OH"] * sizes["OW"]
    words = (
        f"Row {lands['row']}, column {lands['column']} of Φ·W is y[{', '.join(map(str, lands['index']))}], element "
        f"{lands['offset']:,} of the {count:,} in memory, counted from 0 ({call['layout']})."
    )
    return [
        "6. Where the number lands",
        *_wrapped(words),
        "",
        *_side_by_side([(f"y, image {at['n']}, filter {at['f']}", _grid((a, columns), cells, "a\\b"))]),
    ]


def _index(facts):
    place, found = facts["index_map"], facts["readers"]
    entry = facts["entries"][facts["mark"]]
    steps = map_steps(facts)
    widths = [max(len(step[column]) for step in steps) for column in (1, 2)]
    lines = [
        f"7. The index map (Eq. 8): where Φ[{place['p']}, {place['q']}] comes from",
        *(f"   {name} = {formula:{widths[0]}} = {numbers:{widths[1]}} = {value}" for name, formula, numbers, value in steps),
    ]
    where = f"(n, c, i, j) = {group(place[name] for name in 'ncij')}"
    if place["inside"]:
        lines += _wrapped(f"so Φ[{place['p']}, {place['q']}] is the pixel {where}, which is {digits(entry['x'])}")
    else:
        lines += _wrapped(f"{where} is outside the image: padding, an explicit 0")
    lines += _wrapped(
        f"In the padded image this is element {place['base']:,} + {place['offset_of_q']:,} = {place['offset']:,}: a number of "
        "the row plus a number of the column. So Φ need not be stored."
    )
    if place["inside"]:
        pairs = ", ".join(map(group, found["list"])) + (", ..." if found["count"] > len(found["list"]) else "")
        lines += _wrapped(f"Back: pixel {group(found['pixel'])} stands in Φ {times(found['count'])}, at (p, q) = {pairs}.")
    return lines


def _uses(facts):
    uses, place = facts["uses"], facts["index_map"]
    i, j = range(*uses["i"]), range(*uses["j"])
    lines = ["8. How often each pixel is used, and why col2im adds"]
    counts = {count for row in uses["counts"] for count in row}
    if len(counts) > 1:
        columns = _fitting(j, [place["j"]] if place["inside"] else [], counts, i)
        cells = [
            [
                (str(uses["counts"][row - i.start][column - j.start]), (row, column) == (place["i"], place["j"]))
                for column in columns
            ]
            for row in i
        ]
        lines += ["", *_side_by_side([("times in Φ (the same in every channel)", _grid((i, columns), cells, "i\\j"))]), ""]
    elif counts:
        lines += _wrapped(f"Every pixel that is shown stands in Φ {times(*counts)}.")
    words = (
        f"At most {times(uses['most'])}; {_never(uses['never'])}. im2col copies a pixel to each "
        "of these places, so col2im, its adjoint, adds up what comes back from them."
    )
    if place["inside"]:
        entry = facts["entries"][facts["mark"]]
        count = facts["readers"]["count"]
        words += (
            f" col2im(im2col(x)) at pixel {group(facts['readers']['pixel'])} is {count}·{digits(entry['x'])} = "
            f"{digits(count * entry['x'])}."
        )
    return [*lines, *_wrapped(words)]


def _never(count):
    return f"{count:,} pixels of each channel are never read" if count else "no pixel is left out"


def _matrices(facts):
    matrix, phi = facts["matrix"], facts["phi"]
    lines = ["9. Two matrices for one layer: weights repeated, or pixels repeated"]
    lines += _wrapped(
        f"The layer's own matrix takes a whole image: y = M x with M of F·OH·OW x C·H·W = {matrix['rows']:,} x "
        f"{matrix['columns']:,}. Its {matrix['weights']:,} weights stand at {matrix['weight_places']:,} places (one weight "
        f"at most {times(matrix['weight_most'])}), the other {matrix['entries'] - matrix['weight_places']:,} entries are 0."
    )
    together = f" of the {facts['sizes']['G']} groups together" if facts["sizes"]["G"] > 1 else ""
    lines += _wrapped(
        f"Φ{together} has {matrix['patch_entries']:,} entries for an image: {matrix['patch_pixels']:,} pixels (one pixel at most "
        f"{times(facts['uses']['most'])}) and {matrix['patch_padding']:,} zeros of padding."
    )
    layer, patches = drawing.layer(facts, DRAWN), drawing.patches(facts, DRAWN)
    letters = {
        "M": ((row, column, _letter(k)) for row, column, k, _ in layer.cells),
        "Φ": ((row, column, _letter(_place(facts, pixel))) for row, column, _, pixel in patches.cells if pixel is not None),
    }
    titles = (f"M ({matrix['rows']:,} x {matrix['columns']:,})", f"Φ ({phi['rows']:,} x {phi['columns']:,})")
    blocks = []
    for drawn, (name, cells), title in zip((layer, patches), letters.items(), titles, strict=True):
        block, is_cut = _letters(drawn, cells)
        blocks.append((title if drawn.is_whole and not is_cut else f"{title}, a part", block))
    lines += _wrapped(
        "In M a letter is a weight of the filter, in Φ a pixel (after 62 of them the letters come again); > is the output "
        "followed here; a dot is 0."
    )
    return [*lines, "", *_side_by_side(blocks)]


def _letter(number):
    return _LETTERS[number % len(_LETTERS)]


def _place(facts, pixel):
    """The number of a pixel (n, c, i, j) in its image, channel by channel, row by row."""
    _, c, i, j = pixel
    return (c * facts["sizes"]["H"] + i) * facts["sizes"]["W"] + j


def _letters(drawn, cells):
    """Lines of a drawing, and whether they had to be cut to the width of the page."""
    lines = [["."] * len(drawn.columns) for _ in drawn.rows]
    for row, column, letter in cells:
        lines[row][column] = letter
    most = WIDTH - 5
    first = min((column for row, column, *_ in drawn.cells if row == drawn.row), default=0)
    start = max(0, min(first - 2, len(drawn.columns) - most))
    lines = [(">" if number == drawn.row else " ") + "".join(line[start : start + most]) for number, line in enumerate(lines)]
    return lines, most < len(drawn.columns)


# ---- Cost -----------------------------------------------------------------------------------------------------------


def _cost(facts):
    cost = facts["cost"]
    lines = [f'10. What it costs in {cost["dtype"]}, and what method="auto" takes']
    lines += _wrapped(f"Arithmetic, whatever the method: {cost['multiply_adds']:,} multiplications and as many additions.")
    lines += _wrapped(
        f"Memory: x {amount(cost['x_nbytes'])}, w {amount(cost['w_nbytes'])}, y {amount(cost['y_nbytes'])}; Φ stored "
        f"{amount(cost['phi_nbytes'])}; M stored with its zeros {amount(cost['matrix_nbytes'])}."
    )
    width = max(len(method["name"]) for method in cost["methods"])
    lines += ["", f"     {'method':{width}}   extra memory   estimate, 1 thread"]
    for method in cost["methods"]:
        mark = ">" if method["name"] == cost["auto"] else " "
        line = f"   {mark} {method['name']:{width}}   "
        if method["declines"] is None:
            lines.append(f"{line}{amount(method['workspace_nbytes']):>12}   {duration(method['seconds']):>18}")
        else:
            lines.append(f"{line}declines: {textwrap.shorten(method['declines'], WIDTH - len(line) - 10)}")
        lines += _wrapped(method["summary"], 7)
    return [*lines, *_wrapped(f'"auto" takes {cost["auto"]} (>), the least estimate.')]
