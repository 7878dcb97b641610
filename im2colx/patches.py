"""The patch matrix Φ in memory (im2col), and the adjoint of making it (col2im)."""

import math

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
