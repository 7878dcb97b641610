"""What each probe of checks/c/geometry_probe.c must give, in Python's integers, which do not wrap.

A rule takes the arguments and the results as arrays of Python integers, one entry for each trial, and gives what must hold:
conditions, likewise one entry for each trial.  Where it can, it says what the result means and not how it is computed.
"""

import math

import numpy as np

TOO_LARGE = 2**48  # csrc/index_map.h
LARGEST_EXTENT = 2**50  # csrc/bounds.c
AXES = 3
NAMES = ["batch", "groups", "channels", "filters"] + [
    f"{name}{axis}" for name in ("image", "kernel", "output", "stride", "dilation", "pad") for axis in range(AXES)
]
ITEMSIZES = (4, 8, 8, 16, 4, 8)  # of im2colx_type, but for the last
MOST_PHASES, MOST_LOOKS, MOST_CLASSES = 64, 1024, 64

_gcd = np.frompyfunc(math.gcd, 2, 1)


def up(a, b):
    return -(-a // b)


def product(values):
    return math.prod(values)


def axes(g, name):
    return [g[f"{name}{axis}"] for axis in range(AXES)]


def divide_up(a, b, out):
    return [out == np.maximum(up(a, b), 0)]


def limited_product(a, b, out):
    return [out == np.minimum(a * b, TOO_LARGE)]


def limited_sum(a, b, out):
    return [out == np.minimum(a + b, TOO_LARGE)]


def greatest_divisor(a, b, out):
    return [out == _gcd(a, b)]


def is_range(start, step, size, count, begin, end):
    """begin <= i < end are those of 0 <= i < count with 0 <= start + step*i < size."""
    within = (begin >= 0) & (begin <= end) & (end <= count)
    first = np.maximum(up(-start, step), 0)
    is_empty = (begin == end) & ((first >= count) | (start + step * first >= size))
    inside = (start + step * begin >= 0) & (start + step * (end - 1) < size)
    inside &= (begin == 0) | (start + step * (begin - 1) < 0)
    inside &= (end == count) | (start + step * end >= size)
    return within & (is_empty | ((begin < end) & inside))


def inside_range(start, step, size, count, begin, end):
    return [is_range(start, step, size, count, begin, end)]


def unflatten(index, s0, s1, s2, a0, a1, a2):
    within = (0 <= a0) & (a0 < s0) & (0 <= a1) & (a1 < s1) & (0 <= a2) & (a2 < s2)
    return [within, (a0 * s1 + a1) * s2 + a2 == index]


def next_row(s0, s1, s2, a0, a1, a2, b0, b1, b2, wraps):
    row, rows = a0 * s1 + a1 + 1, s0 * s1
    return [b2 == 0, b0 * s1 + b1 == row % rows, (wraps == 1) == (row == rows)]


def axis(g, o, k, i, is_inside, o_begin, o_end, k_begin, k_end):
    stride, dilation, pad, image = (g[f"{name}2"] for name in ("stride", "dilation", "pad", "image"))
    right = o * stride + k * dilation - pad
    return [
        i == right,
        (is_inside == 1) == ((right >= 0) & (right < image)),
        is_range(k * dilation - pad, stride, image, g["output2"], o_begin, o_end),
        is_range(o * stride - pad, dilation, image, g["kernel2"], k_begin, k_end),
    ]


def bounded(g, out):
    """As csrc/bounds.c says in words."""
    least_one = [g["groups"], g["channels"], g["filters"]]
    most_extent, spans = [], []
    for name in ("kernel", "output", "stride", "dilation"):
        least_one += axes(g, name)
    for a in range(AXES):
        most_extent += [g[f"stride{a}"], g[f"dilation{a}"], g[f"pad{a}"]]
        spans.append((g[f"output{a}"] - 1) * g[f"stride{a}"] + (g[f"kernel{a}"] - 1) * g[f"dilation{a}"])
    legal = (g["batch"] >= 0) & np.all([size >= 1 for size in least_one], 0)
    legal &= np.all([size >= 0 for size in [*axes(g, "image"), *axes(g, "pad")]], 0)
    legal &= np.all([extent <= LARGEST_EXTENT for extent in most_extent + spans], 0)
    arrays = (
        [g["batch"], g["groups"] * g["channels"], *axes(g, "image")],
        [g["groups"] * g["filters"], g["channels"], *axes(g, "kernel")],
        [g["batch"], g["groups"] * g["filters"], *axes(g, "output")],
    )
    legal &= np.all([product([np.maximum(size, 1) for size in sizes]) <= TOO_LARGE for sizes in arrays], 0)
    return [(out == 1) == legal]


def even_cut(count, parts, i, out):
    """`count % parts` parts of one more come first."""
    return [out == up(count, parts) * np.minimum(i, count % parts) + count // parts * np.maximum(i - count % parts, 0)]


def panels(filters, kind, room, width):
    return [width >= filters, width <= 2 * filters + 64, room >= width]


def sums(g, is_last, chunks, length, piece, entries):
    columns = g["channels"] * product(axes(g, "kernel"))
    return [
        (length >= 1) & ((chunks - 1) * length < columns) & (columns <= chunks * length),
        entries == 2 * (chunks + length),
        (piece >= 1) & (piece * length <= np.maximum(length, 1024)),
    ]


def slab(g, channels, is_cut, is_last, itemsize, *out):
    space, step, phases, size = (out[3 * i : 3 * i + 3] for i in range(4))
    channel, elements, needs_padding, last = out[12:]
    stride, conditions, far = np.where(is_last == 1, channels, 1), [], []
    for a in reversed(range(AXES)):
        s, reach, outputs = g[f"stride{a}"], (g[f"kernel{a}"] - 1) * g[f"dilation{a}"], g[f"output{a}"]
        conditions.append(phases[a] == np.where(is_cut == 1, np.minimum(s, reach + 1), 1))
        conditions.append(size[a] == np.where(is_cut == 1, outputs + reach // s, (outputs - 1) * s + reach + 1))
        conditions.append(space[a] == np.minimum(stride, TOO_LARGE))
        right = np.where(is_cut == 1, stride, s * stride)
        conditions.append(step[a] == np.minimum(right, TOO_LARGE))
        far.append(((outputs - 1) * s + reach) * stride)
        stride = stride * size[a]
    stride = stride * product(phases)
    line = 64 // itemsize
    lines = up(stride, line)
    right = np.where(is_last == 1, 1, np.where(stride < line, stride, (lines + (lines + 1) % 2) * line))
    all_elements = np.where(is_last == 1, stride, channels * right)
    is_had = all_elements < TOO_LARGE
    conditions += [elements == np.minimum(all_elements, TOO_LARGE), ~is_had | (channel == right)]
    is_padded = False
    for a in range(AXES):
        end = (g[f"output{a}"] - 1) * g[f"stride{a}"] + (g[f"kernel{a}"] - 1) * g[f"dilation{a}"] - g[f"pad{a}"]
        is_padded = is_padded | (g[f"pad{a}"] > 0) | (end >= g[f"image{a}"])
    conditions.append((needs_padding == 1) == is_padded)
    conditions.append(np.where(is_had, (last >= 0) & (last < all_elements), last == -1))
    conditions.append(~is_had | (is_cut == 1) | (last == sum(far) + (channels - 1) * right))
    return conditions


def _one_of_phases(image, kernel, output, stride, dilation, pad, out):
    """The phases of x that a tap reaches: from each tap the phase is known, until they repeat."""
    found, count = out[:2]
    expected, seen = [], set()
    for tap in range(min(kernel, MOST_LOOKS + 1)):
        phase = (tap * dilation - pad) % stride
        if phase in seen:
            break
        seen.add(phase)
        if phase < image:
            expected.append((phase, tap))
    if len(seen) > MOST_LOOKS or len(expected) > MOST_PHASES:
        return not found
    period = stride // math.gcd(stride, dilation)
    if not found or count != len(expected):
        return False
    for (phase, tap), row in zip(expected, out[2:].reshape(-1, 8).tolist(), strict=False):
        taps = len(range(tap, kernel, period))
        first, rest = divmod(phase + pad - (tap + period * (taps - 1)) * dilation, stride)
        if rest or row != [phase, tap, output, len(range(phase, image, stride)), taps, period * dilation // stride, -first, 1]:
            return False
    return True


def phases(g, *out):
    sizes = [g[f"{name}2"] for name in ("image", "kernel", "output", "stride", "dilation", "pad")]
    rows = np.stack(out, 1)
    return [np.array([_one_of_phases(*row, found) for *row, found in zip(*sizes, rows, strict=True)])]


def _one_of_classes(sizes, out):
    """Every output is in one class, and each has as many taps inside as the definition counts."""
    count = out[0]
    image, kernel, output, stride, dilation, pad = (sizes[i : i + 3] for i in range(0, 18, 3))
    if count == 0 or max(kernel) > 16:
        return count <= MOST_CLASSES
    inside = 1
    for a in range(AXES):
        total = 0
        for k in range(kernel[a]):
            begin = max(up(pad[a] - k * dilation[a], stride[a]), 0)
            end = min(up(image[a] + pad[a] - k * dilation[a], stride[a]), output[a])
            total += max(end - begin, 0)
        inside *= total
    covered = weighed = 0
    for row in out[1 : 1 + 10 * count].reshape(-1, 10).tolist():
        pixels = math.prod(row[2 * a + 1] - row[2 * a] for a in range(AXES))
        if pixels < 1 or any(not 0 <= row[2 * a] < row[2 * a + 1] <= output[a] for a in range(AXES)):
            return False
        for a in range(AXES):
            i = row[2 * a] * stride[a] + row[7 + a] * dilation[a] - pad[a]
            if row[6] and not (0 <= i < image[a] and (row[7 + a] == 0 or i < dilation[a])):
                return False
        covered += pixels
        weighed += pixels * row[6]
    return covered == math.prod(output) and weighed == inside


def classes(g, *out):
    sizes = np.stack([g[name] for name in NAMES[4:]], 1).tolist()
    return [np.array([_one_of_classes(row, found) for row, found in zip(sizes, np.stack(out, 1), strict=True)])]


def convolution(g, is_last, kind, threads, orientation, *out):
    band, bands = out[:3], out[3:6]
    tasks, parts, is_slab, layout, slab_elements, scratch, panel, chunks, length, entries, workers, workspace = out[6:]
    conditions = [workers == np.minimum(threads, 256)]
    for a in range(AXES):
        outputs = g[f"output{a}"]
        conditions.append(((bands[a] - 1) * band[a] < outputs) & (outputs <= bands[a] * band[a]))
    conditions.append(tasks == g["batch"] * g["groups"] * product(bands) * parts)
    conditions.append(np.where(is_slab == 1, slab_elements >= layout, slab_elements == 0))
    each = up((slab_elements + scratch + panel) * (4 + 4 * kind), 64) * 64 * workers
    tables = 8 * (3 * (chunks + length) + entries)
    # Beside these only the classes, at most 64 of 256 bytes, and a small w that is packed.
    conditions.append((workspace >= each + tables) & (workspace <= each + tables + 64 * 256 + (256 << 10) + 256))
    return conditions


def packed(g, kind, out):
    columns = g["channels"] * product(axes(g, "kernel")) * g["groups"] * (4 + 4 * kind)
    return [(out >= g["filters"] * columns) & (out <= (2 * g["filters"] + 64) * columns)]


def blocks(g, is_last, kind, op, threads, workspace, is_whole, *out):
    images, patches, patch_step, channel_step, tap_step, channel_part, filter_part, tile, workers, taken = out
    taps, outputs = product(axes(g, "kernel")), product(axes(g, "output"))
    itemsize = np.array(ITEMSIZES, object)[kind.astype(int)]
    is_pointwise = (taps == 1) & (outputs == product(axes(g, "image")))
    whole = g["batch"] * g["groups"] * g["channels"] * taps * outputs * itemsize
    right = np.where(is_whole == 1, whole, tile * workers * itemsize)
    return [
        images * patches == g["batch"] * outputs,
        (patch_step >= 1) & (patch_step <= np.maximum(patches, 1)),
        (channel_step >= 1) & (channel_step <= g["channels"]) & (tap_step >= 1) & (tap_step <= taps),
        (channel_part >= 1) & (channel_part <= g["channels"]) & (filter_part >= 1) & (filter_part <= g["filters"]),
        (tile == 0) | (tile == patch_step * channel_step * tap_step),
        (taken == right) | (is_pointwise & (taken == 0)),
        (is_whole == 1) | (taken <= np.maximum(workspace, itemsize)),
    ]
