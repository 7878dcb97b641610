"""Every product and sum that C or Python forms from a stranger's numbers, against Python's integers.

C is reached through a library of its own (checks/c/geometry_probe.c), compiled with UndefinedBehaviorSanitizer where there is
one, so that a sum that wraps and comes back is noticed too.  What each function must give is in checks/_geometry_rules.py.

Tuples are drawn from boundary values: every pair of arguments takes every pair of them, the others at random.
"""

import ctypes
import itertools
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import _geometry_rules as rules
import _native as native
import common
import numpy as np

from im2colx import _geometry, _methods
from im2colx.matrix import outputs_inside
from im2colx.patches import _most_overlaps

EXTENT_BITS, ELEMENT_BITS = _geometry.LARGEST_EXTENT.bit_length() - 1, _geometry.MOST_ELEMENTS.bit_length() - 1
BATCH = 20_000
QUICK, FULL = 100_000, 10_000_000
# Of rules that go through taps or phases one by one, in Python: a smaller share.
SLOW = {"phases": 20, "classes": 20}


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def boundary(bits, least=0):
    """0 to 3, and every power of two with its neighbours."""
    powers = 2 ** np.arange(2, bits + 1, dtype=np.int64)
    values = np.concatenate([[0, 1, 2, 3, 6], powers - 1, powers, powers + 1])
    return np.unique(values[(values >= least) & (values <= 2**bits)])


def crossed(rng, columns, count):
    """About `count` rows: every pair of columns takes every pair of its values, as far as that goes, and then at random."""
    pairs = list(itertools.combinations(range(len(columns)), 2))
    share = count // (len(pairs) + 1)
    parts = []
    for a, b in pairs:
        whole = len(columns[a]) * len(columns[b])
        at = np.arange(whole) if whole <= share else rng.choice(whole, share, replace=False)
        rows = np.stack([rng.choice(values, len(at)) for values in columns], 1)
        rows[:, a], rows[:, b] = columns[a][at // len(columns[b])], columns[b][at % len(columns[b])]
        parts.append(rows)
    left = max(share, count - sum(map(len, parts)))
    rows = np.stack([rng.choice(values, left) for values in columns], 1)
    # Beside the boundaries, any number of any length.
    bits = [math.log2(max(2, int(values.max()))) for values in columns]
    free = np.stack([(2.0 ** rng.uniform(0, most, left)).astype(np.int64) for most in bits], 1)
    free = np.clip(free, [values.min() for values in columns], [values.max() for values in columns])
    return np.concatenate([*parts, np.where(rng.random(rows.shape) < 0.2, free, rows)])


def legal_axes(rng, count):
    """Rows of image, kernel, output, stride, dilation, pad of axes that im2colx/_geometry.py lets through."""
    sizes, extents = boundary(ELEMENT_BITS), boundary(EXTENT_BITS)
    rows = crossed(rng, [sizes, sizes[1:], extents[1:], extents[1:], extents, extents], 3 * count)
    image, kernel, stride, dilation, before, behind = rows.T
    is_near = rng.random(len(rows)) < 0.6  # most pads behind that the kernel just reaches, or nearly
    span = dilation.astype(float) * (kernel - 1) + 1
    span = np.where(span < 2.0**EXTENT_BITS + 1, dilation * np.minimum(kernel - 1, 2**60 // dilation) + 1, 2**60)
    behind = np.where(is_near, np.maximum(0, span - image - before) + rng.choice([0, 1, 2, 5], len(rows)), behind)
    padded = image + before + behind
    legal = (span <= padded) & (padded <= _geometry.LARGEST_EXTENT)
    image, kernel, stride, dilation, before, span, padded = (
        column[legal][:count] for column in (image, kernel, stride, dilation, before, span, padded)
    )
    output = (padded - span) // stride + 1
    rows = np.stack([image, kernel, output, stride, dilation, before], 1)
    return rows[output <= _geometry.MOST_ELEMENTS]


def legal_geometries(rng, count):
    """Rows of all numbers of im2colx_geometry."""
    axes = legal_axes(rng, 60_000)
    small = axes[(axes[:, :3] <= 64).all(1)]
    kept, found = [], 0
    while found < count:
        n = 4 * count
        g = np.empty((n, len(rules.NAMES)), np.int64)
        for axis in range(rules.AXES):
            few, any_of = small[rng.integers(len(small), size=n)], axes[rng.integers(len(axes), size=n)]
            own = np.where(rng.random((n, 1)) < 0.7, few, any_of)
            own[rng.random(n) < 0.35] = 1, 1, 1, 1, 1, 0
            g[:, 4 + axis :: rules.AXES] = own
        sizes = boundary(ELEMENT_BITS)
        few = sizes[sizes < 300]
        for column in range(4):
            g[:, column] = np.where(rng.random(n) < 0.8, rng.choice(few, n), rng.choice(sizes, n))
        g[:, 1:4] = np.maximum(g[:, 1:4], 1)
        exact = g.astype(float)
        batch, groups, channels, filters = np.maximum(exact[:, :4], 1).T
        image, kernel, output = (np.maximum(exact[:, at : at + 3], 1).prod(1) for at in (4, 7, 10))
        arrays = batch * groups * channels * image, groups * filters * channels * kernel, batch * groups * filters * output
        legal = np.all([elements <= _geometry.MOST_ELEMENTS for elements in arrays], 0)
        kept.append(g[legal])
        found += len(kept[-1])
    return np.concatenate(kept)[:count]


def with_columns(rng, rows, *columns):
    """The rows, and a random one of each column's values beside each."""
    return np.column_stack([rows, *(rng.choice(np.asarray(values, np.int64), len(rows)) for values in columns)])


def somewhere(rng, count):
    """An index below each count: an end, or anywhere."""
    far = (rng.random(len(count)) * count).astype(np.int64)
    chosen = np.choose(rng.integers(4, size=len(count)), [np.zeros_like(count), count - 1, count // 2, far])
    return np.clip(chosen, 0, count - 1)


SIZES = boundary(62)

# ---- What each probe is asked ----------------------------------------------------------------------------------------


def _index(rng, count):
    rows = crossed(rng, [boundary(ELEMENT_BITS, 1)] * 3, 3 * count)
    rows = rows[rows.astype(float).prod(1) <= _geometry.MOST_ELEMENTS]
    return np.column_stack([somewhere(rng, rows.prod(1)), rows])


def _row(rng, count):
    rows = _index(rng, count)[:, 1:]
    return np.column_stack([rows, *(somewhere(rng, column) for column in rows.T)])


def _axis(rng, count):
    axes = legal_axes(rng, count)
    rows = np.ones((len(axes), len(rules.NAMES)), np.int64)
    rows[:, 19:21] = 0  # pads of the other axes
    rows[:, 6::3] = axes
    return rows


def _axis_with_position(rng, count):
    rows = _axis(rng, count)
    return np.column_stack([rows, somewhere(rng, rows[:, 12]), somewhere(rng, rows[:, 9])])


def _cut(rng, count):
    rows = crossed(rng, [boundary(ELEMENT_BITS), boundary(ELEMENT_BITS, 1)], count)
    return np.column_stack([rows, somewhere(rng, rows[:, 1] + 1)])


def _range(rng, count):
    start, sizes = boundary(EXTENT_BITS), boundary(ELEMENT_BITS)
    return crossed(rng, [np.unique([start, -start]), start[1:], sizes, sizes], count)


def _slab(rng, count):
    rows = legal_geometries(rng, count)
    return with_columns(rng, np.column_stack([rows, rows[:, 2]]), (0, 1), (0, 1), (4, 8))


def _convolution(rng, count):
    rows = with_columns(rng, legal_geometries(rng, count), (0, 1), (0, 1), (1, 2, 3, 7, 64, 256, 100_000), (0, 1, 2))
    return rows[(rows[:, -4] == 0) | (rows[:, -1] != 1)]  # pixels in lanes are for channels first


def _bounded(rng, count):
    """Legal geometries, most of them with one or two numbers that are not."""
    rows = legal_geometries(rng, count)
    values = np.unique([SIZES, -SIZES])
    for share in (0.8, 0.4):
        at = np.flatnonzero(rng.random(len(rows)) < share)
        rows[at, rng.integers(rows.shape[1], size=len(at))] = rng.choice(values, len(at))
    return rows


def _blocks(rng, count):
    rows = with_columns(rng, legal_geometries(rng, 2 * count), (0, 1), range(6), range(3), (1, 2, 3, 7, 256, 2**31 - 1),
                        [*boundary(EXTENT_BITS, 16)], (0, 1))  # fmt: skip
    rows = rows[rows[:, 0] > 0]
    exact = rows.astype(float)
    phi = exact[:, :3].prod(1) * exact[:, 7:13].prod(1) * 16
    return rows[(rows[:, -1] == 0) | (phi <= _methods.MOST_BYTES)]  # a whole patch matrix is declined before C is asked


ASKED = {
    "divide_up": lambda rng, n: crossed(rng, [np.unique([SIZES, -SIZES]), boundary(EXTENT_BITS, 1)], n),
    "limited_product": lambda rng, n: crossed(rng, [SIZES, SIZES], n),
    "limited_sum": lambda rng, n: crossed(rng, [SIZES, SIZES], n),
    "greatest_divisor": lambda rng, n: crossed(rng, [boundary(EXTENT_BITS, 1)] * 2, n),
    "inside_range": _range,
    "unflatten": _index,
    "next_row": _row,
    "bounded": _bounded,
    "axis": _axis_with_position,
    "even_cut": _cut,
    "panels": lambda rng, n: with_columns(rng, crossed(rng, [boundary(ELEMENT_BITS, 1), np.array([1])], n)[:, :1], (0, 1)),
    "sums": lambda rng, n: with_columns(rng, legal_geometries(rng, n), (0, 1)),
    "slab": _slab,
    "phases": lambda rng, n: _axis(rng, n),
    "classes": legal_geometries,
    "convolution": _convolution,
    "packed": lambda rng, n: with_columns(rng, legal_geometries(rng, n), (0, 1)),
    "blocks": _blocks,
}


class Probes:
    """The library, and its functions over whole arrays."""

    def __init__(self, report):
        flags, link = ["-O2", "-g", "-fsanitize=undefined"], ["-static-libubsan", "-fsanitize=undefined"]
        with tempfile.TemporaryDirectory() as folder:
            empty = Path(folder, "empty.c")
            empty.write_text("int main(void) { return 0; }\n")
            made = subprocess.run(["gcc", *link, str(empty), "-o", str(Path(folder, "empty"))], capture_output=True, text=True)
        if made.returncode:
            report.say(f"without UndefinedBehaviorSanitizer: {made.stderr.strip().splitlines()[-1]}")
            flags, link = ["-O2", "-g"], []
        made = native.build("c-probe", {"geometry_probe.so": ["geometry_probe.c"]}, flags, link)
        self._library = ctypes.CDLL(str(made["geometry_probe.so"]))

    def __call__(self, name, rows):
        inputs, outputs = (ctypes.c_int * 2).in_dll(self._library, f"probe_{name}_sizes")
        assert rows.shape[1] == inputs, (name, rows.shape, inputs)
        rows, out = np.ascontiguousarray(rows), np.empty((len(rows), outputs), np.int64)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (rows, out))
        getattr(self._library, f"probe_{name}")(ctypes.c_ssize_t(len(rows)), *pointers)
        return out

    @property
    def reports(self):
        return self._library.probe_reports()


def check_probe(report, probes, name, rows):
    """One failure for each condition that does not hold, with the first tuple that shows it."""
    shown = set()
    for begin in range(0, len(rows), BATCH):
        part, reports = rows[begin : begin + BATCH], probes.reports
        out = probes(name, part)
        if probes.reports > reports:
            report.fail(f"{name}: a number wraps, says UndefinedBehaviorSanitizer above; tuples {begin} to {begin + len(part)}")
        columns = [column.astype(object) for column in part.T]
        if len(columns) >= len(rules.NAMES):
            columns = [dict(zip(rules.NAMES, columns, strict=False)), *columns[len(rules.NAMES) :]]
        wrong = np.zeros(len(part), bool)
        for number, condition in enumerate(getattr(rules, name)(*columns, *(column.astype(object) for column in out.T))):
            bad = ~np.broadcast_to(np.asarray(condition, bool), len(part))
            wrong |= bad
            if bad.any() and number not in shown:
                shown.add(number)
                first = int(np.flatnonzero(bad)[0])
                report.fail(f"{name}, condition {number}, {bad.sum()} of {len(part)} tuples, such as "
                            f"{part[first].tolist()}, which gives {out[first][:40].tolist()}")  # fmt: skip
        report.passed(len(part) - int(wrong.sum()))


# ---- Python's own ----------------------------------------------------------------------------------------------------


def raises(call, *arguments):
    try:
        return call(*arguments), False
    except ValueError:
        return None, True


def check_sizes(report, rng, count):
    """Output sizes and padding words of an axis, by what they mean."""
    sizes, extents = boundary(ELEMENT_BITS), boundary(EXTENT_BITS)
    rows = crossed(rng, [sizes, sizes[1:], extents[1:], extents[1:], extents, extents], count).tolist()
    most = _geometry.LARGEST_EXTENT
    for size, kernel, stride, dilation, before, behind in rows:
        span = dilation * kernel - dilation + 1
        if rng.random() < 0.5:  # so that the kernel just fits, or nearly
            behind = max(0, span - size - before + int(rng.integers(-1, 2)))
        padded = size + before + behind
        out, refused = raises(_geometry._output_size, "height", size, kernel, stride, dilation, (before, behind))
        holds = refused == (span > padded or max(span, padded) > most)
        holds &= refused or ((out - 1) * stride + span <= padded < out * stride + span)
        if not report.check(holds, f"_output_size({size}, {kernel}, {stride}, {dilation}, {(before, behind)}) is {out}"):
            continue
        for word in _geometry.PAD_WORDS:
            pads = _geometry._word_pads(word, size, kernel, stride, dilation)
            total, right = sum(pads), True
            if word.startswith("same"):
                outputs = -(-size // stride)
                right = abs(pads[0] - pads[1]) <= 1 and (pads[0] >= pads[1] if word == "same_lower" else pads[0] <= pads[1])
                right &= size == 0 or total == max(0, (outputs - 1) * stride + span - size)
            else:
                right = pads == {"valid": (0, 0), "half": (span // 2,) * 2, "full": (span - 1,) * 2}[word]
            report.check(right and min(pads) >= 0, f"_word_pads({word!r}, {size}, {kernel}, {stride}, {dilation}) is {pads}")


def overlaps(g):
    """In how many patches an element of x lies, at most: by looking at each."""
    most = 1
    for image, kernel, output, stride, dilation, pad in zip(
        g.image, g.kernel, g.output, g.stride, g.dilation, g.pad, strict=True
    ):
        met = [o * stride + k * dilation - pad[0] for o in range(output) for k in range(kernel)]
        most *= max((met.count(i) for i in range(image)), default=0)
    return most


def check_resolve(report, rng, count):
    """resolve lets through what is legal, refuses the rest, and its properties are what they are called."""
    sizes, extents = boundary(ELEMENT_BITS), boundary(EXTENT_BITS)
    few = sizes[:8]

    def drawn(values):
        return int(rng.choice(values if rng.random() < 0.25 else few))

    for _ in range(count):
        batch, groups, channels, filters = drawn(sizes), max(1, drawn(few)), max(1, drawn(sizes)), max(1, drawn(sizes))
        image, kernel = [drawn(sizes) for _ in range(2)], [max(1, drawn(sizes)) for _ in range(2)]
        stride, dilation = [max(1, drawn(extents)) for _ in range(2)], [max(1, drawn(extents)) for _ in range(2)]
        pad = [(drawn(extents), drawn(extents)) for _ in range(2)]
        layout = "NHWC" if rng.random() < 0.5 else "NCHW"
        x = (batch, *image, groups * channels) if layout == "NHWC" else (batch, groups * channels, *image)
        w = (*kernel, channels, groups * filters) if layout == "NHWC" else (groups * filters, channels, *kernel)
        arguments = (x, w, tuple(stride), tuple(pad), tuple(dilation), groups, layout)
        g, refused = raises(_geometry.resolve, *arguments)
        spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
        padded = [i + sum(p) for i, p in zip(image, pad, strict=True)]
        legal = all(span <= size <= _geometry.LARGEST_EXTENT for span, size in zip(spans, padded, strict=True))
        output = [(size - span) // s + 1 for span, size, s in zip(spans, padded, stride, strict=True)]
        y = (batch, *output, groups * filters) if layout == "NHWC" else (batch, groups * filters, *output)
        legal &= all(math.prod(max(1, size) for size in shape) <= _geometry.MOST_ELEMENTS for shape in (x, w, y))
        verdict = "refused" if refused else "let through"
        if not report.check(refused != legal, f"resolve{arguments}: {verdict}") or refused:
            continue
        taps, outputs = kernel[0] * kernel[1], output[0] * output[1]
        right = (g.x_shape, g.w_shape, g.y_shape) == (x, w, y) and (g.taps, g.outputs) == (taps, outputs)
        right &= g.rows == batch * outputs and g.columns == channels * taps
        right &= g.multiply_adds == batch * outputs * groups * filters * channels * taps
        right &= _methods.phi_nbytes(g, "f8") == 8 * g.rows * g.columns * groups
        right &= _methods.loop_steps("grad_input", g) == math.prod(x) * taps * filters
        report.check(right, lambda a=arguments: f"resolve{a}: the properties of {g}")
        if max(kernel) <= 64:
            for axis in range(2):
                counts = outputs_inside(g, axis).tolist()
                for k, found in enumerate(counts):
                    start = k * dilation[axis] - pad[axis][0]
                    first = max(0, -(start // stride[axis]))
                    end = min(output[axis], max(0, -((start - image[axis]) // stride[axis])))
                    report.check(found == max(0, end - first), lambda a=arguments: f"outputs_inside of resolve{a}: {counts}")
        if max(*image, *kernel, *output) <= 8:
            most = _most_overlaps(g)
            report.check(most >= overlaps(g), f"_most_overlaps of resolve{arguments} is {most}")


def main():
    options = common.arguments("geometry", __doc__)
    report = common.Report("geometry")
    rng = np.random.default_rng(options.seed)
    total = QUICK if options.quick else FULL
    probes = Probes(report)
    for name, asked in ASKED.items():
        before, start = report.tried, report.seconds
        left = total // len(ASKED) // SLOW.get(name, 1)
        while left > 0:  # in parts, for the memory
            rows = asked(rng, min(left, 500_000))
            check_probe(report, probes, name, rows)
            left -= max(1, len(rows))
        report.say(f"{name}: {report.tried - before:,} tuples, {report.seconds - start:.0f} s")
    start = report.seconds
    check_sizes(report, rng, total // 40)
    check_resolve(report, rng, total // 40)
    report.say(f"Python's own: {report.seconds - start:.0f} s")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
