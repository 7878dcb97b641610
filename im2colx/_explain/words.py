"""Numbers as words: what the text, the page and the picture write alike."""

import math
from decimal import ROUND_HALF_UP, Decimal


def digits(value):
    """A number as a person would write it: integers as they are, others with four digits."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    # Halves away from zero, as page.js rounds them.
    number = Decimal(value)
    number = number.quantize(Decimal(1).scaleb(number.adjusted() - 3), ROUND_HALF_UP)
    exponent = number.adjusted()
    if -4 <= exponent < 6:
        return str(float(number)).removesuffix(".0")
    return str(float(number.scaleb(-exponent))).removesuffix(".0") + f"e{exponent}"


def group(values):
    """A tuple of anything, without a comma behind a single entry."""
    return f"({', '.join(map(str, values))})"


def amount(nbytes):
    """Bytes: exact below 10 kB, else with three digits."""
    if nbytes < 10_000:
        return f"{nbytes:,} bytes"
    size, unit = nbytes / 1024, 0
    while size >= 999.5 and unit < 4:
        size, unit = size / 1024, unit + 1
    return f"{size:,.{max(0, 2 - int(math.log10(size)))}f} {('KiB', 'MiB', 'GiB', 'TiB', 'PiB')[unit]}"


def duration(seconds):
    """Seconds with three digits and a unit."""
    if seconds >= 1000:
        return f"{seconds:,.0f} s"
    for unit, scale in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def times(count):
    return "once" if count == 1 else f"{count:,} times"


def extent(facts):
    """Which rows and columns of the padded image the patch spans."""
    parts = []
    for what, name, axis in zip(("row", "column"), "ab", facts["output_size"], strict=True):
        first = facts["at"][name] * axis["stride"] - axis["before"]
        last = first + axis["reach"] - 1
        parts.append(f"{what} {first}" if first == last else f"{what}s {first} to {last}")
        if axis["dilation"] > 1 and axis["kernel"] > 1:
            parts[-1] += f" in steps of {axis['dilation']}"
    return " and ".join(parts)


def signed(text):
    """With the sign of typeset numbers."""
    return str(text).replace("-", "−")


def size_steps(facts):
    """Eq. 5-7 with the numbers put in: for each axis (name, formula, numbers, quotient, result); ⌊ ⌋ is the floor."""
    steps = []
    for name, size, kernel, sides, axis in zip(
        ("OH", "OW"), "HW", ("KH", "KW"), (("top", "bottom"), ("left", "right")), facts["output_size"], strict=True
    ):
        numbers = f"{axis['size']} + {axis['before']} + {axis['after']} - {axis['dilation']}·({axis['kernel']} - 1) - 1"
        steps.append(
            (
                name,
                f"⌊({size} + {sides[0]} + {sides[1]} - D({kernel} - 1) - 1) / S⌋ + 1",
                f"⌊({numbers}) / {axis['stride']}⌋ + 1",
                f"⌊{axis['padded'] - axis['reach']} / {axis['stride']}⌋ + 1",
                str(axis["output"]),
            )
        )
    return steps


def shape_steps(facts):
    """The shapes of the factors: (what, formula, numbers, result) of Φ, of W and of their product."""
    sizes, phi, weights = facts["sizes"], facts["phi"], facts["weights"]
    channels, filters = ("C/G", "F/G") if sizes["G"] > 1 else ("C", "F")
    rows = f"{sizes['N']}·{sizes['OH']}·{sizes['OW']}"
    columns = f"{sizes['C'] // sizes['G']}·{sizes['KH']}·{sizes['KW']}"
    return [
        ("Φ, a patch a row", f"N·OH·OW x {channels}·KH·KW", f"{rows} x {columns}", f"{phi['rows']:,} x {phi['columns']:,}"),
        (
            "W, a filter a column",
            f"{channels}·KH·KW x {filters}",
            f"{columns} x {weights['columns']}",
            f"{weights['rows']:,} x {weights['columns']:,}",
        ),
        (
            "Φ·W, an output a row",
            f"N·OH·OW x {filters}",
            f"{rows} x {weights['columns']}",
            f"{phi['rows']:,} x {weights['columns']:,}",
        ),
    ]


def map_steps(facts):
    """Eq. 8 with the numbers put in: (name, formula, numbers, value) of each step."""
    place, sizes, axes = facts["index_map"], facts["sizes"], facts["output_size"]
    p, q, r = place["p"], place["q"], place["r"]
    channels, kh, kw, ow = sizes["C"] // sizes["G"], sizes["KH"], sizes["KW"], sizes["OW"]
    area = sizes["OH"] * ow
    of_group = ("g·C/G + ", f"{facts['at']['group']}·{channels} + ") if sizes["G"] > 1 else ("", "")
    name = "(C/G)" if sizes["G"] > 1 else "C"
    steps = [
        ("n", "p div (OH·OW)", f"{p} div {area}"),
        ("r", "p mod (OH·OW)", f"{p} mod {area}"),
        ("a", "r div OW", f"{r} div {ow}"),
        ("b", "r mod OW", f"{r} mod {ow}"),
    ]
    if facts["call"]["layout"] == "NHWC":
        steps += [
            ("u", f"q div (KW·{name})", f"{q} div {kw * channels}"),
            ("v", f"(q div {name}) mod KW", f"({q} div {channels}) mod {kw}"),
            ("c", f"{of_group[0]}q mod {name}", f"{of_group[1]}{q} mod {channels}"),
        ]
    else:
        steps += [
            ("c", f"{of_group[0]}q div (KH·KW)", f"{of_group[1]}{q} div {kh * kw}"),
            ("u", "(q div KW) mod KH", f"({q} div {kw}) mod {kh}"),
            ("v", "q mod KW", f"{q} mod {kw}"),
        ]
    for name, o, k, axis in zip("ij", "ab", "uv", axes, strict=True):
        steps.append(
            (name, f"{o}·S + {k}·D - P", f"{place[o]}·{axis['stride']} + {place[k]}·{axis['dilation']} - {axis['before']}")
        )
    return [(name, formula, numbers, place[name]) for name, formula, numbers in steps]
