"""The convolution that an FC layer is, from its weights; or by how much they are none, and where."""

import math

import numpy as np
from scipy.sparse import csr_array, issparse

from im2colx._geometry import check_dtype, converted, operand, result_dtypes
from im2colx.matrix import ConvOperator, outputs_inside

# Entries of a matrix that are looked at together: some tens of megabytes for their places.
CHUNK = 1 << 20
# By default, how much copies of a weight may differ, in roundings of the largest entry.
ROUNDINGS = 16


class NotAConvolutionError(ValueError):
    """An FC layer that is not a convolution: by how much, and where it deviates most.

    Attributes
    ----------
    deviation : float
        The greatest absolute difference from the nearest convolution.
    relative : float
        The same, relative to the largest absolute entry.
    row, column : int
        Where in the weights; `column` is None for the bias.
    output : tuple of int
        The neuron: (f, a, b) on images, (f,) on patches.
    input : tuple of int or None
        What it reads there: (c, i, j) on images, (c, u, v) on patches.
    """

    __module__ = "im2colx"  # as it is imported

    def __init__(self, message, deviation, relative, row, column, output, input):
        super().__init__(message, deviation, relative, row, column, output, input)
        self.deviation, self.relative = deviation, relative
        self.row, self.column, self.output, self.input = row, column, output, input

    def __str__(self):
        return self.args[0]


# ---- Where entries belong -------------------------------------------------------------------------------------------


def matrix_of(weights, form, g):
    """The weights as an ndarray, or as a csr_array with no entry twice."""
    if isinstance(weights, ConvOperator):
        weights = weights.tocsr()
    if issparse(weights):
        check_dtype("weights", weights.dtype)
    else:
        weights = operand("weights", weights)
    rows, columns = g.groups * g.columns, g.filters
    if form == "image":
        rows, columns = g.filters * g.outputs, g.channels * math.prod(g.image)
    if weights.shape != (rows, columns):
        raise ValueError(f"weights has shape {weights.shape}, but the sizes of the convolution give ({rows}, {columns})")
    if not issparse(weights):
        return weights
    if form == "patches":
        return weights.toarray()
    matrix = csr_array(weights)
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    return matrix


def by_group(weights, g):
    """A view of the weights on patches as (group of channels, group of filters, filter, channel, KH, KW)."""
    channels, filters = g.channels // g.groups, g.filters // g.groups
    if g.channels_last:
        return weights.reshape(*g.kernel, g.groups, channels, g.groups, filters).transpose(2, 4, 5, 3, 0, 1)
    return weights.reshape(g.groups, channels, *g.kernel, g.groups, filters).transpose(0, 4, 5, 1, 2, 3)


def _entries(matrix):
    """The entries of a matrix that are not zero, some at a time: rows, columns and values, in a type to compute in."""
    compute, _ = result_dtypes(matrix.dtype)
    begin, height = 0, matrix.shape[0]
    while begin < height:
        if issparse(matrix):
            end = np.searchsorted(matrix.indptr, matrix.indptr[begin] + CHUNK, side="right") - 1
            end = int(max(end, begin + 1))
            part = slice(*matrix.indptr[[begin, end]])
            rows = np.repeat(np.arange(begin, end), np.diff(matrix.indptr[begin : end + 1]))
            columns, values = matrix.indices[part].astype(np.int64), matrix.data[part]
            kept = values != 0
            rows, columns, values = rows[kept], columns[kept], values[kept]
        else:
            end = begin + max(1, CHUNK // max(1, matrix.shape[1]))
            rows, columns = np.nonzero(matrix[begin:end])
            rows += begin
            values = matrix[rows, columns]
        yield rows, columns, converted("weights", values, compute)
        begin = end


def _coordinates(g, rows, columns):
    """(f, a, b, c, i, j) of entries."""
    if g.channels_last:
        (o, f), (pixel, c) = np.divmod(rows, g.filters), np.divmod(columns, g.channels)
    else:
        (f, o), (c, pixel) = np.divmod(rows, g.outputs), np.divmod(columns, math.prod(g.image))
    return f, *np.divmod(o, g.output[1]), c, *np.divmod(pixel, g.image[1])


def _tags(g, rows, columns):
    """Which element of w, as (F, C/G, KH, KW) flattened, an entry is a copy of; and whether it is one of any."""
    f, a, b, c, i, j = _coordinates(g, rows, columns)
    channels, filters = g.channels // g.groups, g.filters // g.groups
    tags, is_copy = f * channels + c % channels, c // channels == f // filters
    for axis, (o, pixel) in enumerate(((a, i), (b, j))):
        k, rest = np.divmod(pixel + g.pad[axis][0] - o * g.stride[axis], g.dilation[axis])
        is_copy = is_copy & (rest == 0) & (0 <= k) & (k < g.kernel[axis])
        tags = tags * g.kernel[axis] + k
    return np.where(is_copy, tags, 0), is_copy


# ---- The convolution, and the deviation from it ---------------------------------------------------------------------


def _gap(a, b=0):
    """|a - b|; of integers in floats, and at least 1 where they differ."""
    if a.dtype.kind in "fc":
        return np.abs(a - b)
    return np.where(a == b, 0, np.maximum(1, np.abs(a.astype(float) - b)))


def _check_finite(name, values):
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds nan or inf")


class _Deviation:
    """The greatest deviation so far, and where."""

    def __init__(self, dtype, tol):
        if tol is None:
            tol = ROUNDINGS * float(np.finfo(dtype).eps) if dtype.kind in "fc" else 0.0
        self.tol, self.greatest = tol, 0.0
        self.row = self.column = None

    def note(self, sizes, rows, columns):
        """Some deviations, and the rows and columns where they are."""
        if sizes.size and sizes.max() > self.greatest:
            worst = sizes.argmax()
            self.greatest, self.row, self.column = sizes[worst].item(), int(rows[worst]), columns[worst]

    def check(self, name, largest, place):
        """Refuses a deviation beyond tol times the largest entry; `place()` tells about it."""
        if self.greatest <= self.tol * largest:
            return
        where, output, input, value, needed = place()
        column = None if self.column is None else int(self.column)
        relative = self.greatest / float(largest)
        raise NotAConvolutionError(
            f"{name} is not that of such a convolution: row {self.row}{'' if column is None else f', column {column}'} "
            f"({where}) is {value}, but {needed}. The deviation is {self.greatest:.3g}, {relative:.3g} of the largest entry, "
            f"and tol is {self.tol:.2g}",
            self.greatest, relative, self.row, column, output, input,
        )  # fmt: skip


def from_patches(weights, g, tol):
    """(w, deviation): the blocks on the diagonal, one for each group; all else must be zero."""
    _check_finite("weights", weights)
    blocks = by_group(weights, g)
    w = np.concatenate([blocks[group, group] for group in range(g.groups)])
    found = _Deviation(weights.dtype, tol)
    if g.groups > 1:
        q, f = np.nonzero(weights)
        c = q % g.channels if g.channels_last else q // g.taps
        apart = c // (g.channels // g.groups) != f // (g.filters // g.groups)
        found.note(_gap(weights[q, f])[apart], q[apart], f[apart])

    def place():
        q, f = found.row, found.column
        c, tap = (q % g.channels, q // g.channels) if g.channels_last else (q // g.taps, q % g.taps)
        u, v = divmod(tap, g.kernel[1])
        needed = f"must be zero: with {g.groups} groups that filter does not see the channel"
        return f"output f={f}; input c={c}, u={u}, v={v}", (f,), (c, u, v), weights[q, f], needed

    found.check("weights", _gap(weights).max(), place)
    return w, found.greatest


def from_image(matrix, g, tol):
    """(w, deviation): every weight is the mean of its copies, and what is no copy must be zero."""
    size = g.filters * (g.channels // g.groups) * g.taps
    inside = np.multiply.outer(outputs_inside(g, 0), outputs_inside(g, 1)).ravel()  # copies of a weight, by tap
    copies = np.tile(inside, size // g.taps)
    stored = np.zeros(size, np.int64)
    w = np.zeros(size, result_dtypes(matrix.dtype)[0])
    found, largest = _Deviation(matrix.dtype, tol), 0.0
    for rows, columns, values in _entries(matrix):
        _check_finite("weights", values)
        tags, is_copy = _tags(g, rows, columns)
        w[tags[is_copy]] = values[is_copy]  # any copy: the mean is taken of the differences from it
        stored += np.bincount(tags[is_copy], minlength=size)
        found.note(_gap(values)[~is_copy], rows[~is_copy], columns[~is_copy])
        largest = max(largest, _gap(values).max(initial=0))
    zeros = copies - stored
    if w.dtype.kind in "fc":
        total = -zeros * w.astype(np.result_type(w.dtype, np.float64))
        for rows, columns, values in _entries(matrix):
            tags, is_copy = _tags(g, rows, columns)
            tags, differences = tags[is_copy], values[is_copy] - w[tags[is_copy]]
            total.real += np.bincount(tags, differences.real, minlength=size)
            if w.dtype.kind == "c":
                total.imag += np.bincount(tags, differences.imag, minlength=size)
        w = (w + total / np.maximum(copies, 1)).astype(w.dtype)
    for rows, columns, values in _entries(matrix):
        tags, is_copy = _tags(g, rows, columns)
        found.note(_gap(values, w[tags])[is_copy], rows[is_copy], columns[is_copy])
    # Copies that are zero are not among the entries; `row` -1 stands for them, and `column` for the element of w.
    found.note(np.where(zeros > 0, _gap(w), 0), np.full(size, -1), np.arange(size))
    found.check("weights", largest, lambda: _place_on_image(found, matrix, w, g))
    return w.reshape(g.filters, -1, *g.kernel).astype(matrix.dtype.newbyteorder("="), copy=False), found.greatest


def _place_on_image(found, matrix, w, g):
    """Words for where the worst entry is, its output and input, its value, and words for what it must be."""
    if found.row < 0:
        found.row, found.column = _first_zero_copy(matrix, found.column, g)
    f, a, b, c, i, j = map(int, _coordinates(g, found.row, found.column))
    tag, is_copy = _tags(g, found.row, found.column)
    where = f"output f={f}, a={a}, b={b}; input c={c}, i={i}, j={j}"
    if is_copy:
        needed = f"must be {w[tag]}, as in other patches"
    elif c // (g.channels // g.groups) != f // (g.filters // g.groups):
        needed = f"must be zero: with {g.groups} groups that filter does not see the channel"
    else:
        needed = "must be zero: the patch does not hold this pixel"
    return where, (f, a, b), (c, i, j), matrix[found.row, found.column], needed


def _first_zero_copy(matrix, tag, g):
    """(row, column) of the first copy of an element of w that is zero."""
    channels = g.channels // g.groups
    f, c, *k = map(int, np.unravel_index(tag, (g.filters, channels, *g.kernel)))
    c += f // (g.filters // g.groups) * channels
    nonzero = set()
    for rows, columns, _ in _entries(matrix):
        tags, is_copy = _tags(g, rows, columns)
        nonzero.update(rows[is_copy & (tags == tag)].tolist())
    for o in range(g.outputs):
        at = zip(divmod(o, g.output[1]), k, g.stride, g.dilation, g.pad, g.image, strict=True)
        i, j = (p * s + u * d - pad[0] if 0 <= p * s + u * d - pad[0] < size else None for p, u, s, d, pad, size in at)
        row = o * g.filters + f if g.channels_last else f * g.outputs + o
        if row not in nonzero and i is not None and j is not None:
            pixel = i * g.image[1] + j
            return row, pixel * g.channels + c if g.channels_last else c * math.prod(g.image) + pixel
    raise AssertionError("a copy that was counted is nowhere")


def shared_bias(bias, g, tol):
    """(bias, deviation): the mean over the outputs of every filter."""
    _check_finite("bias", bias)
    table = converted("bias", bias, result_dtypes(bias.dtype)[0])
    table = table.reshape(g.outputs, g.filters).T if g.channels_last else table.reshape(g.filters, g.outputs)
    shared = table[:, :1]
    if table.dtype.kind in "fc":
        shared = shared + (table - shared).mean(axis=1, keepdims=True)
    f, o = np.indices(table.shape).reshape(2, -1)
    rows = o * g.filters + f if g.channels_last else f * g.outputs + o
    found = _Deviation(bias.dtype, tol)
    found.note(_gap(table, shared).ravel(), rows, [None] * rows.size)

    def place():
        f, a, b = map(int, _coordinates(g, found.row, 0)[:3])
        return f"output f={f}, a={a}, b={b}", (f, a, b), None, bias[found.row], f"must be {shared[f, 0]}, as elsewhere"

    found.check("bias", _gap(table).max(), place)
    return shared[:, 0].astype(bias.dtype.newbyteorder("=")), found.greatest
