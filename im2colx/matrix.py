"""A convolution of whole images as a matrix: explicit, or as a linear operator."""

import dataclasses
import math

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator

from im2colx import _core, _plan, _spectrum
from im2colx._geometry import converted, operand, resolve, result_dtypes, shape, shown
from im2colx._indexing import AT_ONCE, pieces
from im2colx._memory import room_for
from im2colx._threads import get_num_threads

FORMATS = ("csr", "dense", "operator")
BOUNDARIES = ("zero", "circular")


def check_format(format):
    if not isinstance(format, str):
        raise TypeError(f"format must be a string, not {shown(format)}")
    if format not in FORMATS:
        raise ValueError(f"format is {shown(format)}, but must be one of {', '.join(FORMATS)}")


def conv_matrix(
    w, x_shape, stride=1, pad=0, dilation=1, groups=1, *, layout="NCHW", format="csr", boundary="zero"
):  # fmt: skip
    r"""The matrix of a convolution: ``conv_matrix(w, x.shape) @ x.ravel()`` is ``conv2d(x, w).ravel()`` for one image x.

    .. math:: M_{(f,a,b),\,(c,i,j)} = \sum_{u,v:\; aS+uD-P=i,\; bS+vD-P=j} w_{f,c,u,v}

    Where Φ repeats pixels, this matrix repeats weights: it is the fully connected layer that the convolution is, on whole
    images (arXiv 1712.01252).

    Parameters
    ----------
    w : array_like
        Filters, as in `conv2d`.
    x_shape : tuple of int
        Shape of the input, with or without its batch axis: the matrix acts on one image.
    stride, pad, dilation, groups, layout
        As in `conv2d`.
    format : {"csr", "dense", "operator"}
        "csr": a `scipy.sparse.csr_array` with an entry for every weight that meets a pixel (also if it is zero), and none for
        the padding; its indices are sorted, and int32 if they fit.  "dense": an ndarray.  "operator": a `ConvOperator`, which
        stores the weights only.
    boundary : {"zero", "circular"}
        What the padding holds: zeros, or the image continued periodically, for analyses that assume it.

    Returns
    -------
    csr_array, ndarray or ConvOperator, (F·OH·OW, C·H·W)
        Rows run over the elements of the output as ``y.ravel()`` does, columns over those of the input as ``x.ravel()``: over
        (f, a, b) and (c, i, j), or (a, b, f) and (i, j, c) with ``layout="NHWC"``.  The dtype is that of w, except: float16
        becomes float32, bool and integers of 8 and 16 bits int32, and wider ones int64, in which `conv2d` sums them.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As `conv2d`.
    MemoryError
        If the matrix cannot fit, before any work; the message has its size and a format that fits.

    Notes
    -----
    csr takes the bytes of an index and an entry for each of at most F·OH·OW·(C/groups)·KH·KW entries, and is built by the
    index map in these arrays.  dense is made from csr.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import conv_matrix
    >>> w = np.array([[[[1, 2], [3, 4]]]])
    >>> conv_matrix(w, (1, 2, 3), format="dense")
    array([[1, 2, 0, 3, 4, 0],
           [0, 1, 2, 0, 3, 4]])
    >>> conv_matrix(np.ones((64, 64, 3, 3), "float32"), (64, 56, 56), pad=1, format="operator")
    <200704x200704 ConvOperator with dtype=float32>
    """
    check_format(format)
    matrix = ConvOperator(w, x_shape, stride, pad, dilation, groups, layout=layout, boundary=boundary)
    return {"csr": matrix.tocsr, "dense": matrix.toarray, "operator": lambda: matrix}[format]()


class ConvOperator(LinearOperator):
    """The matrix of a convolution as a `scipy.sparse.linalg.LinearOperator`: its products are convolutions.

    ``A @ x`` is `conv2d` of an image, ``A.H @ y`` is `conv2d_grad_input`; `matvec`, `rmatvec`, `matmat`, `rmatmat`, `H` and `T`
    are those of every LinearOperator, so the solvers of `scipy.sparse.linalg` take it.

    Parameters
    ----------
    w, x_shape, stride, pad, dilation, groups, layout, boundary
        As in `conv_matrix`.  w is copied.

    Attributes
    ----------
    shape : (int, int)
        (F·OH·OW, C·H·W).
    dtype : dtype
    x_shape, y_shape : tuple of int
        Of one image: those of the vectors that it takes and gives, before they are flattened.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As `conv2d`.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import ConvOperator, conv2d
    >>> rng = np.random.default_rng(0)
    >>> x, w = rng.standard_normal((3, 8, 8)), rng.standard_normal((4, 3, 3, 3))
    >>> A = ConvOperator(w, x.shape, pad=1)
    >>> np.allclose(A @ x.ravel(), conv2d(x, w, pad=1).ravel())
    True
    >>> y = rng.standard_normal(A.shape[0])
    >>> np.allclose(y @ (A @ x.ravel()), (A.H @ y) @ x.ravel())
    True
    """

    def __init__(self, w, x_shape, stride=1, pad=0, dilation=1, groups=1, *, layout="NCHW", boundary="zero"):
        w, x_shape = operand("w", w), shape("x_shape", x_shape, (2, 3, 4))
        geometry = resolve(x_shape[-3:], w.shape, stride, pad, dilation, groups, layout, "x_shape")
        if not isinstance(boundary, str):
            raise TypeError(f"boundary must be a string, not {shown(boundary)}")
        if boundary not in BOUNDARIES:
            raise ValueError(f"boundary is {shown(boundary)}, but must be one of {', '.join(BOUNDARIES)}")
        if boundary == "circular" and 0 in geometry.image:
            raise ValueError(f"x_shape is {x_shape}: an image without pixels cannot be continued periodically")
        compute, _ = result_dtypes(w.dtype)
        self.x_shape, self.y_shape = geometry.given_image(geometry.x_shape), geometry.given_image(geometry.y_shape)
        self._is_circular = boundary == "circular"
        self._geometry = dataclasses.replace(geometry, given="batch")
        self._w = np.array(geometry.full_weight(converted("w", w, compute)), order="C")
        super().__init__(compute, (geometry.filters * geometry.outputs, geometry.channels * math.prod(geometry.image)))

    def _with(self, w):
        """The same convolution with other weights, of the shape of `_w`."""
        g = self._geometry
        arguments = g.stride, g.pad, g.dilation, g.groups
        names = {"layout": "NHWC" if g.channels_last else "NCHW", "boundary": BOUNDARIES[self._is_circular]}
        return ConvOperator(w, g.x_shape, *arguments, **names)

    # ---- Products ---------------------------------------------------------------------------------------------------

    def _forward(self, rows):
        """``(A @ rows.T).T``: a batch of flattened images, (N, C·H·W), to one of flattened outputs, (N, F·OH·OW)."""
        geometry, x = self._batch(len(rows)), rows.reshape(len(rows), *self._geometry.x_shape[1:])
        if self._is_circular:
            for axis, pieces in self._periods():
                x = np.concatenate([x[_at(axis, pixels)] for _, pixels in pieces], axis)
        return _plan.execute("forward", geometry, x=x, w=self._w).reshape(len(rows), -1)

    def _backward(self, rows):
        """``(A.H @ rows.T).T``: a batch of flattened outputs, (N, F·OH·OW), to one of flattened images, (N, C·H·W)."""
        geometry, y = self._batch(len(rows)), rows.reshape(len(rows), *self._geometry.y_shape[1:])
        x = _plan.execute("grad_input", geometry, w=self._w, y=y)
        if self._is_circular:
            for axis, pieces in self._periods():
                sizes = list(x.shape)
                sizes[axis] = self._geometry.x_shape[axis]
                image = np.zeros(sizes, x.dtype)
                for padded, pixels in pieces:
                    image[_at(axis, pixels)] += x[_at(axis, padded)]
                x = image
        return x.reshape(len(rows), -1)

    def _batch(self, count):
        """The geometry of the convolution of so many images; a circular one is of images that are padded already.

        On a circle only the rest of a step counts, so that no number is larger than the image.
        """
        g = dataclasses.replace(self._geometry, batch=count)
        if not self._is_circular:
            return g
        stride, dilation = (
            tuple((step - 1) % size + 1 for step, size in zip(steps, g.image, strict=True)) for steps in (g.stride, g.dilation)
        )
        image = tuple((o - 1) * s + (k - 1) * d + 1 for o, k, s, d in zip(g.output, g.kernel, stride, dilation, strict=True))
        return dataclasses.replace(g, image=image, stride=stride, dilation=dilation, pad=((0, 0),) * len(image))

    def _periods(self):
        """For each axis of space, where runs of the padded image come from: (slice of it, slice of the image)."""
        g = self._geometry
        sizes = zip(g.image, g.pad, self._batch(1).image, strict=True)
        for axis, (size, (before, _), padded) in enumerate(sizes, 1 if g.channels_last else 2):
            pieces, at = [], 0
            while at < padded:
                pixel = (at - before) % size
                count = min(size - pixel, padded - at)
                pieces.append((slice(at, at + count), slice(pixel, pixel + count)))
                at += count
            yield axis, pieces

    def _matmat(self, columns):
        return self._forward(np.ascontiguousarray(operand("the operand", columns).T)).T

    def _rmatmat(self, columns):
        return self._backward(np.ascontiguousarray(operand("the operand", columns).T)).T

    def _matvec(self, x):
        return self._forward(operand("the operand", x).reshape(1, -1)).reshape(-1)

    def _rmatvec(self, y):
        return self._backward(operand("the operand", y).reshape(1, -1)).reshape(-1)

    # ---- Explicit forms ---------------------------------------------------------------------------------------------

    def tocsr(self):
        """The matrix in memory, as ``conv_matrix(..., format="csr")`` gives it.

        Returns
        -------
        csr_array

        Raises
        ------
        MemoryError
        """
        g = self._geometry
        entries, index = self._csr_sizes()
        with self._room_for("csr"):
            indptr, indices = np.empty(self.shape[0] + 1, index), np.empty(entries, index)
            data = np.empty(entries, self.dtype)
            w = np.ascontiguousarray(np.moveaxis(self._w, -1, 0) if g.channels_last else self._w).reshape(g.filters, -1)
            _core.csr(g, self._is_circular, w, indptr, indices, data, get_num_threads())
            matrix = csr_array((data, indices, indptr), shape=self.shape)
        if self._is_circular:  # a pixel beyond a side lies at the other, and may be met by more than one tap
            matrix.sum_duplicates()
        else:
            matrix.has_sorted_indices = matrix.has_canonical_format = True  # SciPy need not look
        return matrix

    def toarray(self):
        """The matrix in memory, as ``conv_matrix(..., format="dense")`` gives it.

        Returns
        -------
        ndarray

        Raises
        ------
        MemoryError
        """
        with self._room_for("dense"):
            matrix, dense = self.tocsr(), np.empty(self.shape, self.dtype)
            for rows in pieces(len(dense), AT_ONCE // max(1, self.shape[1])):
                matrix[rows].toarray(out=dense[rows])
            return dense

    def _csr_sizes(self):
        """How many entries csr has, and the dtype of its indices."""
        g = self._geometry
        entries = g.filters * (g.channels // g.groups)
        if self._is_circular:
            entries *= g.outputs * g.taps
        else:
            entries *= math.prod(int(outputs_inside(g, axis).sum()) for axis in range(len(g.image)))
        return entries, np.int32 if max(entries, *self.shape) < 2**31 else np.int64

    def _room_for(self, format):
        entries, index = self._csr_sizes()
        rows, columns = self.shape
        sizes = {
            "csr": entries * (self.dtype.itemsize + np.dtype(index).itemsize) + (rows + 1) * np.dtype(index).itemsize,
            "dense": rows * columns * self.dtype.itemsize,
            "operator": self._w.nbytes,
        }
        return room_for(f"the {rows} x {columns} matrix of {self.dtype}", sizes, format)

    # ---- Spectrum ---------------------------------------------------------------------------------------------------

    def spectral_norm(self, tol=1e-4):
        """The largest singular value: see the function `spectral_norm`."""
        return float(_spectrum.largest(self, 1, tol)[0]) if 0 not in self.shape else 0.0

    def singular_values(self, k=6, tol=1e-4):
        """The k largest singular values: see the function `singular_values`."""
        return _spectrum.largest(self, k, tol)


def _at(axis, part):
    return (slice(None),) * axis + (part,)


def outputs_inside(geometry, axis):
    """For every tap of an axis, how many outputs meet it inside x rather than in the padding."""
    stride, starts = geometry.stride[axis], np.arange(geometry.kernel[axis]) * geometry.dilation[axis] - geometry.pad[axis][0]
    first, last = np.maximum(0, -(starts // stride)), -((starts - geometry.image[axis]) // stride)
    return np.maximum(0, np.minimum(geometry.output[axis], last) - first)


def spectral_norm(w, x_shape, stride=1, pad=0, dilation=1, groups=1, *, layout="NCHW", boundary="zero", tol=1e-4):
    """The largest singular value of a convolution: the most that it lengthens an image in the Euclidean norm.

    Parameters
    ----------
    w, x_shape, stride, pad, dilation, groups, layout, boundary
        As in `conv_matrix`.
    tol : float
        Relative error that is allowed, between 0 and 1.

    Returns
    -------
    float
        It errs to the small side, if at all.  The same for the same arguments.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As `conv2d`; also for nan or inf in w, or `tol` out of its bounds.

    See Also
    --------
    singular_values : more of them, and how they are found.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import spectral_norm
    >>> round(spectral_norm(np.full((1, 1, 3, 3), 1 / 9), (1, 28, 28), pad=1), 3)
    0.992
    >>> round(spectral_norm(np.full((1, 1, 3, 3), 1 / 9), (1, 28, 28), pad=1, boundary="circular"), 3)
    1.0
    """
    return ConvOperator(w, x_shape, stride, pad, dilation, groups, layout=layout, boundary=boundary).spectral_norm(tol)


def singular_values(w, x_shape, stride=1, pad=0, dilation=1, groups=1, *, layout="NCHW", boundary="zero", k=6, tol=1e-4):
    """The k largest singular values of a convolution, of whatever multiplicity.

    Parameters
    ----------
    w, x_shape, stride, pad, dilation, groups, layout, boundary
        As in `conv_matrix`.
    k : int
        How many: at most the smaller side of the matrix.
    tol : float
        Error that is allowed, relative to the largest of them, between 0 and 1.

    Returns
    -------
    ndarray, (k,)
        Descending, in float64.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As `conv2d`; also for nan or inf in w, or `k` or `tol` out of their bounds.
    MemoryError
        If so many are asked for that the dense matrix is needed, and it cannot fit.
    numpy.linalg.LinAlgError
        If they are not found to this tolerance.

    Notes
    -----
    With ``boundary="circular"``, and a padding for which OH·S = H and OW·S = W (``pad="same"``, if S divides H and W), the
    discrete Fourier transform splits the matrix into small ones, and the result is exact to rounding (Sedghi, Gupta & Long,
    arXiv 1805.10408, extended to strides).  So it is for small matrices, by a dense decomposition.  Else they are found by
    Lanczos's method (`scipy.sparse.linalg.eigsh`) on products of `ConvOperator` with its adjoint, in single precision if
    `tol` allows it.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import conv_matrix, singular_values
    >>> w = np.random.default_rng(0).standard_normal((4, 3, 3, 3))
    >>> few = singular_values(w, (3, 8, 8), k=3)
    >>> np.allclose(few, np.linalg.svd(conv_matrix(w, (3, 8, 8), format="dense"))[1][:3])
    True
    """
    return ConvOperator(w, x_shape, stride, pad, dilation, groups, layout=layout, boundary=boundary).singular_values(k, tol)
