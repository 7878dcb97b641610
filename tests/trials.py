"""Convolutions of one to three axes against their definition, exactly: what tests and checks/mutate.py run.

The public functions take two axes so far; the core takes any number up to three, and these go to the core.  The arrays lie
between pages that nobody may touch, so that what is read or written beyond them ends the process.
"""

import ctypes
import dataclasses
import math
import mmap

import numpy as np
from cases import small_integers
from scipy.sparse import csr_array

from im2colx import _core
from im2colx._geometry import Geometry

OPS = ("forward", "grad_input", "grad_weight")
WHOLE = (slice(None),) * 3
KINDS = (("loops", "either"), ("tile", "either"), ("whole", "either"),
         ("implicit", "either"), ("implicit", "pixels"), ("implicit", "filters"))  # fmt: skip

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


def guarded(array, at_end):
    """A copy of `array` that begins, or ends, at a page without access."""
    page = mmap.PAGESIZE
    size = -(-max(array.nbytes, 1) // page) * page
    whole = np.frombuffer(mmap.mmap(-1, size + 2 * page), np.uint8)
    for edge in (0, page + size):
        if _libc.mprotect(whole.ctypes.data + edge, page, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    start = page + (size - array.nbytes if at_end else 0)
    copy = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


# ---- Geometries -----------------------------------------------------------------------------------------------------


def geometry_of(n, c, f, groups, image, kernel, stride, pad, dilation, channels_last=False):
    """All but the output by axis; channels and filters are those of all groups."""
    output = tuple(
        (size + sum(pads) - d * (k - 1) - 1) // s + 1
        for size, k, s, pads, d in zip(image, kernel, stride, pad, dilation, strict=True)
    )
    return Geometry(n, c, f, groups, tuple(image), tuple(kernel), output, tuple(stride), tuple(dilation), tuple(pad),
                    channels_last, "batch")  # fmt: skip


def random_geometry(rng, axes, largest=7):
    """Any legal small geometry of so many axes.  Nothing is 1 too often, and no two axes are alike."""
    while True:
        groups = int(rng.choice([1, 1, 2, 3]))
        image, kernel, stride, dilation = (
            [int(v) for v in rng.integers(1, high, axes)] for high in (largest + 1, 5, 5, 4)
        )  # fmt: skip
        pad = [(int(a), int(b)) for a, b in rng.integers(0, 4, (axes, 2))]
        g = geometry_of(int(rng.integers(1, 4)), groups * int(rng.integers(1, 5)), groups * int(rng.integers(1, 6)), groups,
                        image, kernel, stride, pad, dilation, bool(rng.integers(2)))  # fmt: skip
        if min(g.output) > 0 and g.rows * g.columns < 20_000:
            return g


_BIG = 2**40
# Strides, dilations and pads of which each alone, and every sum that Eq. 1-4 form, is far below 2**50, but few of their
# products are: nothing but the few outputs and taps may cost time or memory.
GIANTS = [
    geometry_of(1, 2, 3, 1, (5,), (2,), (_BIG,), ((_BIG, 0),), (_BIG,)),
    geometry_of(2, 2, 3, 1, (4, 5), (2, 2), (_BIG, 3), ((1, _BIG), (_BIG + 2, 1)), (2, _BIG)),
    geometry_of(1, 2, 2, 2, (3, 4), (1, 2), (2**32, 2**31), ((0, 2**32), (0, 2**31)), (1, 1)),
    geometry_of(1, 64, 3, 1, (1, 1), (1, 1), (2**32, 2**31), ((0, 2**32), (0, 2**31)), (1, 1)),
    geometry_of(1, 1, 1, 1, (5, 5), (1, 1), (2**32, 2**32), ((0, 0), (0, 0)), (1, 1)),
    geometry_of(1, 1, 2, 1, (5, 6), (1, 2), (2**16, 2**16), ((0, 0), (0, 0)), (1, 3)),
    geometry_of(2, 3, 2, 1, (6, 7), (3, 2), (1, 2), ((_BIG, 0), (0, _BIG)), (_BIG // 2, _BIG)),
    geometry_of(1, 2, 3, 1, (3, 4, 5), (2, 1, 2), (_BIG, 2**20, 2), ((0, _BIG), (3, 2**20), (1, 1)), (_BIG, 5, 3)),
    geometry_of(1, 40, 20, 1, (8, 9), (2, 3), (1, 1), ((0, _BIG), (1, 1)), (_BIG + 7, 1)),
]


LARGE = [
    geometry_of(1, 6, 10, 1, (40, 41), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    geometry_of(2, 130, 34, 1, (9, 7, 5), (2, 3, 2), (1, 2, 1), ((1, 0), (1, 1), (0, 1)), (1, 1, 2)),
    geometry_of(1, 40, 6, 2, (3000,), (9,), (2,), ((4, 5),), (1,)),
    geometry_of(1, 140_000, 2, 1, (2,), (1,), (1,), ((0, 1),), (1,)),  # a row of the matrix is more than a task
    geometry_of(1, 400, 3, 1, (4, 6), (2, 3), (1, 1), ((0, 1), (1, 0)), (1, 1)),  # taps that are neighbours are more than 1 KiB
    geometry_of(1, 16, 16, 1, (9, 8, 7), (3, 2, 3), (1, 1, 1), ((1, 1), (1, 0), (1, 1)), (1, 1, 1)),  # classes on each axis
    geometry_of(1, 3, 4, 1, (30, 31), (25, 24), (1, 1), ((1, 1), (1, 1)), (1, 1)),  # taps of one channel are a chunk
    geometry_of(1, 2, 3, 1, (4, 20, 20), (3, 19, 18), (1, 1, 1), ((0, 0), (1, 0), (0, 1)), (1, 1, 1)),  # a row of taps is one
]


# A column of the patch matrix is the plane of x, moved, only where strides are 1 and the output is as wide as the image; each
# of these but the first may lack one thing that this needs, some only in memory of other strides.
PLANES = [
    geometry_of(2, 2, 2, 1, (3, 5), (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1)),
    geometry_of(2, 2, 2, 1, (4, 6), (1, 3), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    geometry_of(2, 2, 2, 1, (4, 5), (2, 3), (2, 1), ((0, 0), (1, 1)), (1, 1)),
    geometry_of(2, 2, 2, 1, (3, 5), (1, 1), (1, 2), ((0, 0), (0, 4)), (1, 1)),
    geometry_of(2, 2, 2, 1, (2, 3, 4), (2, 1, 3), (1, 1, 1), ((0, 0), (0, 0), (1, 1)), (1, 1, 1)),
    geometry_of(2, 2, 2, 1, (1, 3, 4), (1, 1, 3), (1, 1, 1), ((1, 1), (0, 0), (1, 1)), (1, 1, 1)),
    geometry_of(2, 2, 2, 1, (1, 3, 4), (2, 1, 3), (1, 1, 1), ((0, 1), (0, 0), (1, 1)), (1, 1, 1)),
    geometry_of(2, 2, 2, 1, (1, 5), (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1)),
    geometry_of(2, 2, 2, 1, (2, 5), (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1)),
    geometry_of(2, 2, 2, 1, (5, 1), (2, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    geometry_of(2, 2, 2, 1, (5, 1), (2, 1), (2, 1), ((0, 0), (0, 0)), (1, 1)),
    geometry_of(2, 2, 2, 1, (2, 1, 4), (2, 1, 3), (1, 1, 1), ((0, 0), (0, 0), (1, 1)), (1, 1, 1)),
    geometry_of(2, 2, 2, 1, (1, 1, 4), (1, 1, 3), (1, 1, 1), ((1, 0), (0, 0), (1, 1)), (1, 1, 1)),
]

# Phases of a few elements, the last one padding: the next channel follows at once.
PHASES = geometry_of(1, 4, 8, 1, (5,), (2,), (2,), ((0, 2),), (1,))


def in_layout(g, channels_last):
    return dataclasses.replace(g, channels_last=channels_last)


# ---- The definition -------------------------------------------------------------------------------------------------


def taps_of(g, is_circular=False):
    """Every tap, with the outputs for which it lies inside the image and the pixels that it reads there."""
    for tap in np.ndindex(*g.kernel):
        outputs, pixels = [], []
        for size, count, k, s, (before, _), d in zip(g.image, g.output, tap, g.stride, g.pad, g.dilation, strict=True):
            o = np.arange(count)
            i = o * s + k * d - before
            inside = (0 <= i) & (i < size) | is_circular
            outputs.append(o[inside])
            pixels.append(i[inside] % max(1, size))
        yield tap, WHOLE + np.ix_(*outputs), WHOLE + np.ix_(*pixels)


def split(array, g, axis):
    """The axis of channels or filters as (group, one of the group)."""
    return array.reshape(*array.shape[:axis], g.groups, -1, *array.shape[axis + 1 :])


def forward(g, x, w, is_circular=False):
    """y with channels first; any batch."""
    x, w = split(x, g, 1), split(w, g, 0)
    y = np.zeros((len(x), g.groups, g.filters // g.groups, *g.output), x.dtype)
    for tap, o, i in taps_of(g, is_circular):
        y[o] += np.einsum("ngc...,gfc->ngf...", x[i], w[(*WHOLE, *tap)])
    return y.reshape(len(x), g.filters, *g.output)


def grad_input(g, grad, w):
    grad, w = split(grad, g, 1), split(w, g, 0)
    x = np.zeros((g.batch, g.groups, g.channels // g.groups, *g.image), w.dtype)
    for tap, o, i in taps_of(g):
        x[i] += np.einsum("ngf...,gfc->ngc...", grad[o], w[(*WHOLE, *tap)].conj())
    return x.reshape(g.batch, g.channels, *g.image)


def grad_weight(g, x, grad):
    x, grad = split(x, g, 1), split(grad, g, 1)
    w = np.zeros((g.groups, g.filters // g.groups, g.channels // g.groups, *g.kernel), x.dtype)
    for tap, o, i in taps_of(g):
        pixels, slopes = (array.reshape(*array.shape[:3], -1) for array in (x[i], grad[o]))
        w[(*WHOLE, *tap)] = np.einsum("ngcp,ngfp->gfc", pixels.conj(), slopes)
    return w.reshape(g.filters, -1, *g.kernel)


def patches(g, x):
    """Φ of x (channels first), its columns in the order of the geometry's layout."""
    phi = np.zeros((g.batch, 1, g.channels, *g.output, *g.kernel), x.dtype)
    for tap, o, i in taps_of(g):
        phi[(*o, *tap)] = x[:, None][i]
    rows = np.moveaxis(phi[:, 0], 1, -1 if g.channels_last else 1 + len(g.image))
    return rows.reshape(g.rows, -1)


# ---- Trials ---------------------------------------------------------------------------------------------------------


def to_layout(g, image):
    return np.moveaxis(image, 1, -1) if g.channels_last else image


def weight_to_layout(g, w):
    return np.moveaxis(w, (0, 1), (-1, -2)) if g.channels_last else w


def picks(rng, count, shape, dtype):
    """An array (count, *shape) of zeros, but for a one somewhere in each of the `count`."""
    ones = np.zeros((count, math.prod(shape)), dtype)
    ones[np.arange(count), rng.integers(math.prod(shape), size=count)] = 1
    return ones.reshape(count, *shape)


class Operands:
    """Small integers for a geometry, and what must come of them, in the geometry's layout; guarded.

    Or, if `is_picked`, an x of floats with all their bits, the bytes that are zero in small integers too; sums of it have one
    term, so that they are exact.
    """

    def __init__(self, rng, g, dtype, is_picked=False):
        self.g, self.typecode, self.at_end = g, np.dtype(dtype).str[1:], bool(rng.integers(2))
        x = small_integers(rng, (g.batch, g.channels, *g.image), dtype)
        w = small_integers(rng, (g.filters, g.channels // g.groups, *g.kernel), dtype)
        grad = small_integers(rng, (g.batch, g.filters, *g.output), dtype)
        bias = small_integers(rng, g.filters, dtype)
        if is_picked:
            x = rng.uniform(1, 200, x.shape).astype(dtype)
            w, bias = picks(rng, g.filters, w.shape[1:], dtype), np.zeros_like(bias)
            grad = picks(rng, g.filters, (g.batch, *g.output), dtype).swapaxes(0, 1)
        y = forward(g, x, w) + bias.reshape(-1, *[1] * len(g.image))
        self.x, self.grad = (self.lend(to_layout(g, array)) for array in (x, grad))
        self.w, self.bias = self.lend(weight_to_layout(g, w)), self.lend(bias)
        self.y, self.grad_x = to_layout(g, y), to_layout(g, grad_input(g, grad, w))
        self.grad_w = weight_to_layout(g, grad_weight(g, x, grad))
        self.phi = patches(g, x) if g.groups == 1 else None
        self.back = self._scattered(x.shape) if g.groups == 1 and not is_picked else None
        self.matrices = [self._matrix(w, is_circular) for is_circular in (False, True)]

        # Asked once, before anything is changed on purpose.
        self.declined = {(op, way) for op in OPS for kind, way in KINDS if kind == "implicit" and self._declines(op, way)}

    def _declines(self, op, orientation):
        """Whether "implicit" would need more than its promise."""
        if self.typecode not in ("f4", "f8") or orientation == "pixels" and self.g.channels_last:
            return True
        facts = _core.Problem(self.g, op, self.typecode, "implicit", 0, 1, orientation=orientation).explain()
        return facts["is_too_many"] or facts["workspace_nbytes"] > _core.IMPLICIT_BYTES

    def lend(self, array):
        return guarded(np.ascontiguousarray(array), self.at_end)

    def empty(self, like):
        """What is not written shows."""
        return self.lend(np.full(like.shape, np.nan if self.typecode[0] in "fc" else 77, self.typecode))

    def _scattered(self, shape):
        x = np.zeros(shape, self.typecode)
        size = len(self.g.image)
        columns = (*self.g.kernel, shape[1]) if self.g.channels_last else (shape[1], *self.g.kernel)
        phi = self.phi.reshape(self.g.batch, *self.g.output, *columns)
        phi = np.moveaxis(phi, -1 if self.g.channels_last else 1 + size, 1)[:, None]
        for tap, o, i in taps_of(self.g):
            x[:, None][i] += phi[(*o, *tap)]
        return to_layout(self.g, x)

    def _matrix(self, w, is_circular):
        g = self.g
        one = g.channels * math.prod(g.image)
        if one * g.outputs * g.filters > 100_000 or is_circular and not one:
            return None
        eye = np.eye(one, dtype=self.typecode).reshape(one, g.channels, *g.image)
        y = forward(g, eye, w, is_circular).reshape(one, g.filters, -1)
        if g.channels_last:
            y = y.reshape(one, g.filters, -1).swapaxes(1, 2)
            y = np.moveaxis(y.reshape(g.channels, -1, *y.shape[1:]), 0, 1)
        return y.reshape(one, -1).T


STEPS = (-2, 3, -1, 1, -2)


def spread(array, steps):
    """The same values in memory of other strides, some of them negative."""
    base = np.empty([size * abs(step) for size, step in zip(array.shape, steps, strict=True)], array.dtype)
    view = base[tuple(slice(None, None, step) for step in steps)]
    view[...] = array
    return view


def swapped(array, channels_last):
    """The same values in memory of the other layout."""
    there, back = (-1, 1) if channels_last else (1, -1)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, there, back)), back, there)


def turned(array):
    """The same values in memory where neighbours are those of the last axis but one."""
    return np.ascontiguousarray(array.swapaxes(-1, -2)).swapaxes(-1, -2)


def in_memory(t, array, memory):
    if memory == "spread":
        return spread(array, STEPS[: array.ndim])
    if memory == "turned" and array.ndim > 1:
        return turned(array)
    return swapped(array, t.g.channels_last) if memory == "swapped" else array


def bias_of_outputs(t):
    return t.bias if t.g.channels_last else t.bias.reshape(-1, *[1] * len(t.g.image))


def run_problem(t, op, kind, orientation, workspace=1 << 20, threads=1, memory="guarded", is_finite=False, packs=False,
                has_bias=True):  # fmt: skip
    """One operation by the core: (result, what it must be).  Products want contiguous arrays but for an x that is read."""
    problem = _core.Problem(t.g, op, t.typecode, kind, workspace, threads, orientation=orientation, is_finite=is_finite)
    arrays = {"x": t.x, "w": t.w, "y": t.grad}
    name, right = {"forward": ("y", t.y), "grad_input": ("x", t.grad_x), "grad_weight": ("w", t.grad_w)}[op]
    arrays[name] = t.empty(right)
    for key in arrays if kind in ("loops", "implicit") else "x" if name != "x" else "":
        arrays[key] = in_memory(t, arrays[key], memory)
    extra = (t.bias if has_bias else None, problem.pack(arrays["w"]) if packs else None) if op == "forward" else ()
    problem.run(arrays["x"], arrays["w"], arrays["y"], *extra)
    return arrays[name], right if has_bias or op != "forward" else right - bias_of_outputs(t)


def run_im2col(t, begin, end, is_transposed, threads, dtype, memory):
    """Elements of any size are moved, not computed with."""
    right = t.phi[begin:end].T if is_transposed else t.phi[begin:end]
    dtype = np.dtype(dtype or t.typecode)
    x = in_memory(t, t.lend(t.x.real.astype(dtype)) if dtype.kind == "u" else t.x, memory)
    rows = t.lend(np.full(right.shape, 77, dtype))
    _core.im2col(t.g, x, rows, threads, begin, is_transposed)
    return rows, right.real.astype(dtype) if dtype.kind == "u" else right


def run_col2im(t, threads, memory):
    x = in_memory(t, t.lend(np.zeros(t.back.shape, t.typecode)), memory)
    _core.col2im(t.g, t.lend(t.phi), x, t.typecode, threads)
    return x, t.back


def run_csr(t, is_circular, index_bytes, threads):
    right = t.matrices[is_circular]
    index = f"i{index_bytes}"
    w = t.lend(np.moveaxis(t.w, -1, 0).reshape(t.g.filters, -1) if t.g.channels_last else t.w.reshape(t.g.filters, -1))
    # Entries: those of Φ that lie inside, once for each channel and filter.
    inside = t.g.outputs * t.g.taps if is_circular else sum(math.prod(a.size for a in o[3:]) for _, o, _ in taps_of(t.g))
    count = inside * t.g.filters * (t.g.channels // t.g.groups)
    indptr = t.lend(np.full(t.g.outputs * t.g.filters + 1, -1, index))
    indices, data = t.lend(np.full(count, -1, index)), t.lend(np.full(count, 77, t.typecode))
    _core.csr(t.g, is_circular, w, indptr, indices, data, threads)
    if indptr[0] != 0 or indptr[-1] != count or (np.diff(indptr) < 0).any():
        raise AssertionError(f"indptr {indptr} is not that of {count} entries")
    columns = t.g.channels * math.prod(t.g.image)
    if count and not 0 <= indices.min() <= indices.max() < columns:
        raise AssertionError("a column lies outside the matrix")
    matrix = csr_array((data, indices, indptr), shape=(t.g.outputs * t.g.filters, columns))
    if right is not None:
        return matrix.toarray(), right
    return matrix @ t.x[0].ravel(), (t.y[0] - bias_of_outputs(t)).ravel()


def trials_of(t, number, is_giant=False):
    """The trials of one set of operands as (function, arguments by name); what is not cheap is by turns."""
    workspace, threads = (16, 300, 1 << 20)[number % 3], (1, 3, 2, 5)[number // 3 % 4]
    memory = ("guarded", "spread", "guarded", "swapped", "turned")[number % 5]
    for kind, orientation in KINDS:
        for op in OPS:
            if kind == "implicit" and (op, orientation) in t.declined:
                continue
            named = {"op": op, "kind": kind, "orientation": orientation, "workspace": workspace, "threads": threads}
            yield run_problem, {**named, "memory": memory}
            if kind == "implicit" and op == "forward" and orientation == "filters":
                yield run_problem, {**named, "is_finite": True, "packs": True}
                yield run_problem, {**named, "is_finite": True, "has_bias": False}
    if t.phi is not None:
        rows = len(t.phi)
        for begin, end in {(0, rows), (0, 1), (rows // 3, rows - rows // 4)}:
            for is_transposed in (False, True):
                named = {"begin": begin, "end": end, "is_transposed": is_transposed, "threads": threads}
                yield run_im2col, {**named, "dtype": None, "memory": memory}
                yield run_im2col, {**named, "dtype": ("u1", "u2")[number % 2], "memory": "guarded"}
    if t.back is not None:
        yield run_col2im, {"threads": threads, "memory": memory}
    for is_circular in (False, True):
        if (t.matrices[is_circular] is not None or not is_circular) and not is_giant and t.g.batch:
            yield run_csr, {"is_circular": is_circular, "index_bytes": (4, 8)[number % 2], "threads": threads}
