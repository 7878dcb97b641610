"""The patch matrix Φ: materialised (im2col), its adjoint (col2im), and as an object that is never stored."""

import math
import operator

import numpy as np

from im2colx import _core, _plan
from im2colx._geometry import (
    check_elements,
    check_out,
    check_rank,
    converted,
    is_regular,
    layout_is_last,
    operand,
    per_axis,
    resolve,
    result_dtypes,
    shape,
    shown,
)
from im2colx._threads import get_num_threads


def patch_geometry(x_shape, kernel, stride, pad, dilation, layout, x_name="x"):
    """The geometry of one filter of the given kernel size over x."""
    check_rank(x_name, x_shape, layout_is_last(layout))
    kernel = per_axis("kernel", kernel, 2)
    if len(x_shape) == 2:
        w_shape = kernel
    elif layout == "NHWC":
        w_shape = (*kernel, x_shape[-1], 1)
    else:
        w_shape = (1, x_shape[-3], *kernel)
    geometry = resolve(x_shape, w_shape, stride, pad, dilation, 1, layout, x_name, "the kernel")
    check_elements("the patch matrix", (geometry.rows, geometry.columns))
    return geometry


def im2col(x, kernel, stride=1, pad=0, dilation=1, *, layout="NCHW", out=None):
    """The patch matrix Φ of x: every patch a row (Algorithm 1 of arXiv 1712.01252).

    Parameters
    ----------
    x : array_like
        (N, C, H, W), (C, H, W) or (H, W); with ``layout="NHWC"`` (N, H, W, C), (H, W, C) or (H, W).
    kernel : int or (int, int)
        Height and width of a patch.
    stride, pad, dilation, layout
        As in `conv2d`.
    out : ndarray, optional
        Where to put Φ: of its shape and dtype, writeable, not overlapping x.

    Returns
    -------
    ndarray, (N·OH·OW, C·KH·KW)
        Rows run over (n, a, b).  Columns run over (c, u, v), or (u, v, c) with ``layout="NHWC"``: those of ``w.reshape``.
        The dtype is that of x (native byte order).

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `conv2d`.

    See Also
    --------
    col2im : the adjoint.
    PatchMatrix : Φ without storing it.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import im2col
    >>> im2col(np.arange(9).reshape(3, 3), 2)
    array([[0, 1, 3, 4],
           [1, 2, 4, 5],
           [3, 4, 6, 7],
           [4, 5, 7, 8]])

    A convolution is a product with it:

    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.random((2, 3, 6, 6)), rng.random((5, 3, 3, 3))
    >>> y = im2col(x, 3, stride=2, pad=1) @ w.reshape(5, -1).T
    >>> from im2colx import conv2d
    >>> np.allclose(y.reshape(2, 3, 3, 5).transpose(0, 3, 1, 2), conv2d(x, w, stride=2, pad=1))
    True
    """
    x = operand("x", x)
    geometry = patch_geometry(x.shape, kernel, stride, pad, dilation, layout)
    native = x.dtype.newbyteorder("=")
    phi_shape = (geometry.rows, geometry.columns)
    if out is not None:
        check_out(out, phi_shape, native, x=x)
    is_direct = out is not None and is_regular(out) and out.flags.c_contiguous
    phi = out if is_direct else np.empty(phi_shape, native)
    if phi.size:
        _core.im2col(geometry, geometry.full_image(converted("x", x, native)), phi, get_num_threads())
    if out is not None and not is_direct:
        out[...] = phi
    return phi if out is None else out


def col2im(patches, x_shape, kernel, stride=1, pad=0, dilation=1, *, layout="NCHW"):
    """The adjoint of `im2col`: every row of a patch matrix is added back to where its patch lies.

    Parameters
    ----------
    patches : array_like, (N·OH·OW, C·KH·KW)
        As `im2col` gives it.
    x_shape : tuple of int
        Shape of the result.
    kernel, stride, pad, dilation, layout
        As in `im2col`.

    Returns
    -------
    ndarray
        Of shape `x_shape`.  Overlapping patches add up, entries in the padding are dropped, and elements that no patch
        holds are zero.  So it is not the inverse of `im2col`: divide by ``col2im(ones)`` for that.  The dtype is that of
        `patches`, but small integers are summed in int32, others in int64, and float16 in float32, rounded once.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `conv2d`; also if `patches` does not have the shape that the other arguments give.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import col2im
    >>> col2im(np.ones((4, 4)), (3, 3), 2)
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    patches = operand("patches", patches)
    x_shape = shape("x_shape", x_shape, (2, 3, 4))
    geometry = patch_geometry(x_shape, kernel, stride, pad, dilation, layout, "x_shape")
    needed = (geometry.rows, geometry.columns)
    if patches.shape != needed:
        raise ValueError(f"patches has shape {patches.shape}, but x_shape and the kernel give {needed}")
    compute, result = result_dtypes(patches.dtype)
    typecode = "f4"
    if geometry.rows:
        typecode = compute.str[1:]
        if compute.kind == "i":
            typecode = _plan.integer_sum_typecode(_most_overlaps(geometry), patches, compute)
    dtype = np.dtype(typecode)
    x = np.zeros(geometry.x_shape, dtype)
    if geometry.rows:
        _core.col2im(geometry, np.ascontiguousarray(converted("patches", patches, dtype)), x, typecode, get_num_threads())
        if dtype.kind == "i" and dtype != result and x.size:
            x = _plan.narrowed(x, result)
    return x.reshape(x_shape).astype(result, copy=False)


def _most_overlaps(geometry):
    """How many patches an element can lie in: on an axis, at most one for each tap, output, or step over the kernel."""
    axes = zip(geometry.kernel, geometry.output, geometry.stride, geometry.dilation, strict=True)
    return math.prod(min(k, o, d * (k - 1) // s + 1) for k, o, s, d in axes)


class PatchMatrix:
    """The patch matrix Φ of x as an object: every entry can be had, none is stored.

    Entries come from the index map (Eq. 8): Φ[p, q] = x[t(p, q)], or 0 where t falls into the padding.  Products are
    convolutions.

    Parameters
    ----------
    x : array_like
        As in `im2col`.  Not copied (unless its byte order or alignment is unusual): later changes of it show.
    kernel, stride, pad, dilation, layout
        As in `im2col`.

    Attributes
    ----------
    shape : (int, int)
        (N·OH·OW, C·KH·KW).
    dtype : dtype
        That of x.

    Raises
    ------
    ValueError, TypeError
        As `im2col`.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import PatchMatrix
    >>> phi = PatchMatrix(np.arange(16.0).reshape(4, 4), 3, pad=1)
    >>> phi.shape
    (16, 9)
    >>> phi[5, 0], phi.index(5, 0)
    (np.float64(0.0), (0, 0, 0, 0))
    >>> phi.index(0, 0) is None          # in the padding
    True
    >>> (phi @ np.full(9, 1 / 9))[5]     # a mean filter, at row 1, column 1
    np.float64(5.0)
    """

    def __init__(self, x, kernel, stride=1, pad=0, dilation=1, *, layout="NCHW"):
        x = operand("x", x)
        self._geometry = patch_geometry(x.shape, kernel, stride, pad, dilation, layout)
        # A view of our own: the caller may give another shape or dtype to his array object.
        self._x = self._geometry.full_image(converted("x", x, x.dtype.newbyteorder("="))).view()

    ndim = 2

    @property
    def shape(self):
        return (self._geometry.rows, self._geometry.columns)

    @property
    def dtype(self):
        return self._x.dtype

    def __repr__(self):
        return f"<PatchMatrix {self.shape[0]} x {self.shape[1]}, {self.dtype}>"

    def index(self, p, q):
        """Where entry (p, q) comes from: t(p, q) of Eq. 8.

        Parameters
        ----------
        p, q : int
            Row and column; negative ones count from the end.

        Returns
        -------
        (n, c, i, j) or None
            Image, channel, row and column in x, in this order whatever the layout; None in the padding.

        Raises
        ------
        IndexError, TypeError
        """
        n, c, *space = (int(part) for part in self._map(_position(p, self.shape[0], "p"), _position(q, self.shape[1], "q")))
        inside = all(0 <= i < size for i, size in zip(space, self._geometry.image, strict=True))
        return (n, c, *space) if inside else None

    def _map(self, p, q):
        """t(p, q) without bounds: integers, or integer arrays that broadcast."""
        g = self._geometry
        n, r = p // g.outputs, p % g.outputs
        if g.channels_last:
            tap, c = q // g.channels, q % g.channels
        else:
            c, tap = q // g.taps, q % g.taps
        (oh, ow), (kh, kw) = g.output, g.kernel
        o, k = (r // ow, r % ow), (tap // kw, tap % kw)
        space = (o[axis] * g.stride[axis] + k[axis] * g.dilation[axis] - g.pad[axis][0] for axis in range(2))
        return n, c, *space

    def __getitem__(self, key):
        """Entries as NumPy would give them: integers, slices, integer arrays or masks for rows and columns."""
        rows, columns = _two_keys(key)
        p, q = (_positions(part, size, name) for part, size, name in zip((rows, columns), self.shape, "pq", strict=True))
        if isinstance(rows, slice) and q.ndim or isinstance(columns, slice) and p.ndim:
            p = p[:, None]  # otherwise two arrays go together entry by entry, as in NumPy
        n, c, i, j = self._map(p, q)
        g = self._geometry
        inside = (0 <= i) & (i < g.image[0]) & (0 <= j) & (j < g.image[1])
        entries = np.zeros(np.broadcast_shapes(p.shape, q.shape), self.dtype)
        n, c, i, j = (np.broadcast_to(part, entries.shape)[inside] for part in (n, c, i, j))
        entries[inside] = self._x[n, i, j, c] if g.channels_last else self._x[n, c, i, j]
        return entries[()]

    def __matmul__(self, other):
        """Φ @ other, by convolution: `other` is (C·KH·KW,) or (C·KH·KW, M)."""
        other = operand("the right operand", other)
        if other.ndim not in (1, 2) or other.shape[0] != self.shape[1]:
            raise ValueError(f"Φ has shape {self.shape} and cannot be multiplied by {other.shape}")
        g = self._geometry
        filters = other.reshape(self.shape[1], -1)
        count = filters.shape[1]
        if count == 0:
            return np.zeros((self.shape[0], 0), result_dtypes(self.dtype, other.dtype)[1])
        if g.channels_last:
            w, layout = filters.reshape(*g.kernel, g.channels, count), "NHWC"
        else:
            w, layout = filters.T.reshape(count, g.channels, *g.kernel), "NCHW"
        geometry = resolve(self._x.shape, w.shape, g.stride, g.pad, g.dilation, 1, layout)
        y = _plan.execute("forward", geometry, x=self._x, w=w)
        if not g.channels_last:
            y = np.moveaxis(y, 1, -1)
        return y.reshape(self.shape[0], *other.shape[1:])

    def toarray(self):
        """Φ in memory, as `im2col` gives it.

        Returns
        -------
        ndarray

        Raises
        ------
        MemoryError
        """
        g = self._geometry
        phi = np.empty(self.shape, self.dtype)
        if phi.size:
            _core.im2col(g, self._x, phi, get_num_threads())
        return phi

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("Φ is not stored, so it cannot be had without a copy")
        return self.toarray().astype(dtype or self.dtype, copy=False)


def _position(value, size, name):
    """An integer index, counted from the end if negative."""
    try:
        position = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {shown(value)}") from None
    if not -size <= position < size:
        raise IndexError(f"{name} is {position}, but Φ has only {size} {'rows' if name == 'p' else 'columns'}")
    return position % size


def _two_keys(key):
    """The selections of rows and of columns."""
    keys = list(key) if isinstance(key, tuple) else [key]
    dots = [position for position, part in enumerate(keys) if part is Ellipsis]
    if len(dots) == 1:
        keys[dots[0] : dots[0] + 1] = [slice(None)] * (3 - len(keys))
    if len(dots) > 1 or len(keys) > 2:
        raise IndexError(f"Φ has two axes, but {shown(key)} selects along more")
    return keys + [slice(None)] * (2 - len(keys))


def _positions(key, size, name):
    """The positions that an integer, slice, integer array or mask selects."""
    if isinstance(key, slice):
        return np.arange(*key.indices(size))
    if isinstance(key, (bool, np.bool_)):
        raise IndexError(f"{name} must be integers, a slice or a mask of {size}, not {key}")
    if not isinstance(key, (np.ndarray, list)) or isinstance(key, np.ndarray) and key.ndim == 0:
        return np.asarray(_position(key, size, name))
    key = np.asarray(key)
    if key.dtype == bool and key.shape == (size,):
        return np.flatnonzero(key)
    if key.ndim != 1 or key.size and key.dtype.kind not in "iu":
        raise IndexError(f"{name} must be integers, a slice or a mask of {size}, not {shown(key)}")
    if key.size and not (-size <= key.min() and key.max() < size):
        raise IndexError(f"{name} holds {key.min()} to {key.max()}, but Φ has only {size} {'rows' if name == 'p' else 'columns'}")
    return key.astype(np.intp) % max(size, 1)
