"""Convolution and its two gradients."""

from im2colx import _core, _plan
from im2colx._geometry import Geometry, operand, resolve, shape
from im2colx._methods import check_precision
from im2colx._threads import resolve_threads


def conv2d(
    x,
    w,
    stride=1,
    pad=0,
    dilation=1,
    groups=1,
    *,
    bias=None,
    layout="NCHW",
    method="auto",
    precision="standard",
    out=None,
    workspace=None,
    threads=None,
):
    r"""Two-dimensional convolution of many channels, as neural networks compute it.

    .. math:: y_{n,f,a,b} = \mathrm{bias}_f + \sum_{c,u,v} w_{f,c,u,v}\; x_{n,\,c,\,aS+uD-P,\,bS+vD-P}

    with x zero outside its bounds; the kernel is not flipped.  This is the matrix product of the patch matrix Φ of x
    with the filters as columns (arXiv 1712.01252, section 4).

    Parameters
    ----------
    x : array_like
        (N, C, H, W); or (C, H, W); or (H, W) with a (KH, KW) kernel: the result then lacks the same axes.  With
        ``layout="NHWC"`` (N, H, W, C) or (H, W, C).  Any strides, any byte order; it is never modified.
    w : array_like
        Filters, (F, C/groups, KH, KW); with ``layout="NHWC"`` (KH, KW, C/groups, F).
    stride : int or (int, int)
        Step between patches, S.
    pad : int, (int, int), ((top, bottom), (left, right)) or str
        Zeros around x, P.  Words: "valid" (none); "same" or "same_upper" (ceil(H/S) rows, an odd zero behind) and
        "same_lower" (before); "half" (half the kernel, keeps the size for odd kernels and stride 1); "full" (all
        overlaps).  Padding is an explicit zero: 0·inf gives NaN.
    dilation : int or (int, int)
        Step between the elements of a patch, D.
    groups : int
        Groups of channels that are convolved apart: filter f sees the channels of group f div (F/groups).
    bias : array_like, optional
        (F,), added to the result.
    layout : {"NCHW", "NHWC"}
        Order of the axes of x, w and the result.
    method : {"auto", "implicit", "indexed", "im2col", "naive"}
        How it is computed; `methods` lists the names.  "naive": the direct loops.  "im2col": the whole Φ in memory, then
        products by BLAS.  "indexed": no Φ; the index map (Eq. 8) gathers blocks of it into a tile of bounded size, each
        fed to BLAS.  "implicit": neither Φ nor BLAS; our own microkernels read x through the index map (float32 and
        float64).  "auto": the one that is estimated to be fastest.
    precision : {"exact", "standard", "fast"}
        How much rounding a method may add to that of a plain dot product: none; a root-mean-square error of at most four
        times that; more.  All methods of today round like a plain dot product, so the three mean the same.
    out : ndarray, optional
        Where to put the result: of its shape and dtype, writeable, not overlapping an input.  C-contiguous is fastest.
    workspace : int, optional
        Bytes that the method may use beside its arguments and the result: a bound on the tile of "indexed" (default
        4 MiB); "im2col" refuses a smaller one than Φ takes, and "implicit" takes fewer threads, or refuses, for one smaller
        than its copies of rows.  Arrays that must be converted first are not counted.
    threads : int, optional
        At most this many threads.  Default: `get_num_threads`.

    Returns
    -------
    ndarray
        (N, F, OH, OW), or (N, OH, OW, F), with OH = (H + top + bottom − D(KH − 1) − 1) div S + 1 and likewise OW
        (Eq. 5-7).  The dtype is that of NumPy's promotion, except: float16 alone is computed in float32 and rounded
        once; bool and integers of 8 and 16 bits give int32, wider integers int64, always exact.

    Raises
    ------
    ValueError
        For sizes that do not fit together, an output below 1, an unfit `out`.
    TypeError
        For arguments and dtypes of the wrong type.
    OverflowError
        If an integer result does not fit into its type.
    MemoryError
        If the result or the workspace cannot be allocated.

    See Also
    --------
    conv2d_grad_input, conv2d_grad_weight : the gradients.
    plan_conv2d : the same, prepared for repeated use.
    im2col, PatchMatrix : Φ itself.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import conv2d
    >>> x = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> w = np.array([[[[1.0, 0.0], [0.0, -1.0]]]])
    >>> conv2d(x, w, stride=2)
    array([[[[-5., -5.],
             [-5., -5.]]]])
    >>> conv2d(np.ones((8, 28, 28, 1)), np.ones((5, 5, 1, 20)), pad="same", layout="NHWC").shape
    (8, 28, 28, 20)
    """
    y = _core.quick_conv2d(
        x, w, stride, pad, dilation, groups, bias, layout, method, precision, out, workspace, threads
    )  # fmt: skip
    if y is not None:
        return y
    x, w = operand("x", x), operand("w", w)
    geometry = resolve(x.shape, w.shape, stride, pad, dilation, groups, layout)
    bias = _plan.check_bias(bias, geometry)
    check_precision(precision)
    threads = resolve_threads(threads)  # once: another thread may change the number meanwhile
    y = _plan.execute(
        "forward", geometry, x=x, w=w, bias=bias, out=out, method=method, workspace=workspace, threads=threads, precision=precision
    )
    if workspace is None and x.dtype == w.dtype and x.dtype.kind == "f" and x.dtype.itemsize > 2:
        problem = _plan.recipe("forward", geometry, x.dtype.str[1:], method, None, threads, precision).problem
        _core.remember(problem, x, w, stride, pad, dilation, groups, layout, method, precision, threads)
    return y


def conv2d_grad_input(
    grad_y, w, x_shape, stride=1, pad=0, dilation=1, groups=1, *, layout="NCHW", method="auto", out=None, threads=None
):
    r"""Gradient of a scalar with respect to the input of `conv2d`, from that with respect to its output.

    .. math:: \frac{\partial L}{\partial x_{n,c,i,j}} = \sum_f \sum_{u,v,\;aS+uD-P=i,\;bS+vD-P=j}
              \overline{w_{f,c,u,v}}\; \frac{\partial L}{\partial y_{n,f,a,b}}

    It is the adjoint of ``x -> conv2d(x, w)``: ⟨conv2d(x, w), g⟩ = ⟨x, conv2d_grad_input(g, w, x.shape)⟩, for complex
    numbers too.  Also known as transposed convolution.

    Parameters
    ----------
    grad_y : array_like
        Of the shape of the output.
    w : array_like
        The filters of the forward call.
    x_shape : tuple of int
        Shape of the input of the forward call (a stride above 1 leaves it open).
    stride, pad, dilation, groups, layout, method, threads
        Those of the forward call; see `conv2d`.
    out : ndarray, optional
        Where to put the result: of shape `x_shape`, writeable, not overlapping an input.

    Returns
    -------
    ndarray
        Of shape `x_shape`; dtype as in `conv2d`.  Zero where no patch reaches.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `conv2d`; also if `grad_y` does not have the shape that `x_shape` and `w` give.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import conv2d_grad_input
    >>> conv2d_grad_input(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2)), (1, 1, 3, 3))
    array([[[[1., 2., 1.],
             [2., 4., 2.],
             [1., 2., 1.]]]])
    """
    grad_y, w = operand("grad_y", grad_y), operand("w", w)
    x_shape = shape("x_shape", x_shape, (2, 3, 4))
    geometry = resolve(x_shape, w.shape, stride, pad, dilation, groups, layout, "x_shape")
    _check_grad_y(grad_y, geometry, "x_shape", "w")
    return _plan.execute("grad_input", geometry, w=w, y=grad_y, out=out, method=method, threads=threads)


def conv2d_grad_weight(
    x, grad_y, w_shape, stride=1, pad=0, dilation=1, groups=1, *, layout="NCHW", method="auto", out=None, threads=None
):
    r"""Gradient of a scalar with respect to the filters of `conv2d`, from that with respect to its output.

    .. math:: \frac{\partial L}{\partial w_{f,c,u,v}} = \sum_{n,a,b}
              \frac{\partial L}{\partial y_{n,f,a,b}}\; \overline{x_{n,\,c,\,aS+uD-P,\,bS+vD-P}}

    It is the adjoint of ``w -> conv2d(x, w)``.  The gradient of the bias is ``grad_y.sum((0, 2, 3))``.

    Parameters
    ----------
    x : array_like
        The input of the forward call.
    grad_y : array_like
        Of the shape of the output.
    w_shape : tuple of int
        Shape of the filters of the forward call.
    stride, pad, dilation, groups, layout, method, threads
        Those of the forward call; see `conv2d`.
    out : ndarray, optional
        Where to put the result: of shape `w_shape`, writeable, not overlapping an input.

    Returns
    -------
    ndarray
        Of shape `w_shape`; dtype as in `conv2d`.  Zeros for an empty batch.

    Raises
    ------
    ValueError, TypeError, OverflowError, MemoryError
        As `conv2d`; also if `grad_y` does not have the shape that `x` and `w_shape` give.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import conv2d_grad_weight
    >>> x = np.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d_grad_weight(x, np.ones((1, 1, 2, 2)), (1, 1, 2, 2))
    array([[[[ 8., 12.],
             [20., 24.]]]])
    """
    x, grad_y = operand("x", x), operand("grad_y", grad_y)
    w_shape = shape("w_shape", w_shape, (2, 4))
    geometry = resolve(x.shape, w_shape, stride, pad, dilation, groups, layout, "x", "w_shape")
    _check_grad_y(grad_y, geometry, "x", "w_shape")
    return _plan.execute("grad_weight", geometry, x=x, y=grad_y, out=out, method=method, threads=threads)


def _check_grad_y(grad_y, geometry: Geometry, x_name, w_name):
    needed = geometry.given_image(geometry.y_shape)
    if grad_y.shape != needed:
        raise ValueError(f"grad_y has shape {grad_y.shape}, but {x_name} and {w_name} give an output of {needed}")


def output_shape(x_shape, w_shape, stride=1, pad=0, dilation=1, groups=1, *, layout="NCHW"):
    """The shape of the result of `conv2d`, from shapes alone (Eq. 5-7).

    Parameters
    ----------
    x_shape, w_shape : tuple of int
    stride, pad, dilation, groups, layout
        As in `conv2d`.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError, TypeError
        As `conv2d` would.

    Examples
    --------
    >>> from im2colx import output_shape
    >>> output_shape((1, 3, 224, 224), (64, 3, 7, 7), stride=2, pad=3)
    (1, 64, 112, 112)
    """
    x_shape, w_shape = shape("x_shape", x_shape, (2, 3, 4)), shape("w_shape", w_shape, (2, 4))
    geometry = resolve(x_shape, w_shape, stride, pad, dilation, groups, layout, "x_shape", "w_shape")
    return geometry.given_image(geometry.y_shape)
