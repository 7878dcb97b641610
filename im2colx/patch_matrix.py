"""The patch matrix Φ as an object: entries, products and statistics of a matrix that is never stored."""

import numpy as np

from im2colx import _core, _plan
from im2colx._geometry import converted, operand, resolve, result_dtypes
from im2colx._indexing import AT_ONCE, counted, length, pieces, position, positions, two_keys
from im2colx._threads import get_num_threads
from im2colx.patches import patch_geometry

# Bytes of the tile of Φ that `gram` multiplies at a time.  On a Zen 5 any size from 512 KiB to 3 MiB took the same time.
GRAM_TILE = 1536 << 10
# Multiply-adds for which another thread is worth waking: as for the methods that call BLAS.
GRAM_GRAIN = 500_000


class _Virtual:
    """What Φ and its transpose have in common: a matrix that is not stored, with `shape`, `dtype` and `toarray`."""

    ndim = 2
    __array_ufunc__ = None  # so that `ndarray @ Φ` comes here

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError(f"{self._symbol} is not stored, so it cannot be had without a copy")
        return self.toarray().astype(dtype or self.dtype, copy=False)

    def __repr__(self):
        return f"<{type(self).__name__} {self.shape[0]} x {self.shape[1]}, {self.dtype}>"

    def __matmul__(self, other):
        """Φ @ other."""
        other = operand("the right operand", other)
        if other.ndim not in (1, 2) or other.shape[0] != self.shape[1]:
            raise ValueError(f"{self._symbol} has shape {self.shape} and cannot be multiplied by {other.shape}")
        columns = other[:, None] if other.ndim == 1 else other
        if columns.shape[1]:
            product = self._times(columns)
        else:
            product = np.zeros((self.shape[0], 0), result_dtypes(self.dtype, other.dtype)[1])
        return product.reshape(self.shape[0], *other.shape[1:])

    def __rmatmul__(self, other):
        """other @ Φ, as (Φᵀ @ otherᵀ)ᵀ."""
        other = operand("the left operand", other)
        if other.ndim not in (1, 2) or other.shape[-1] != self.shape[0]:
            raise ValueError(f"{other.shape} cannot be multiplied by {self._symbol} of shape {self.shape}")
        return (self.T @ other.T).T


class PatchMatrix(_Virtual):
    """The patch matrix Φ of x as an object: every entry can be had, none is stored.

    Entries come from the index map (Eq. 8): Φ[p, q] = x[t(p, q)], or 0 where t falls into the padding.  Products are
    convolutions: ``Φ @ w`` is `conv2d`, ``Φ.T @ g`` its gradient with respect to the weights, and ``g @ Φ`` likewise.

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
    nbytes_saved : int
        Bytes that Φ would take if it were stored.
    T : TransposedPatchMatrix
        The transpose, not stored either: it has `shape`, `dtype`, entries, ``@``, `toarray` and `T`.

    Raises
    ------
    ValueError, TypeError
        As `im2col`.

    Notes
    -----
    ``Φ @ other`` takes and gives ndarrays: `other` is (C·KH·KW,) or (C·KH·KW, M); dtypes are those of `conv2d`.  Entries
    are selected as in NumPy, by integers, slices, integer arrays or masks: ``Φ[p, q]``, ``Φ[10:20]``, ``Φ[:, mask]``.

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import PatchMatrix
    >>> phi = PatchMatrix(np.arange(16.0).reshape(4, 4), 3, pad=1)
    >>> phi
    <PatchMatrix 16 x 9, float64>
    >>> phi[5, 0], phi.index(5, 0)
    (np.float64(0.0), (0, 0, 0, 0))
    >>> phi.index(0, 0) is None          # in the padding
    True
    >>> (phi @ np.full(9, 1 / 9))[5]     # a mean filter, at row 1, column 1
    np.float64(5.0)
    >>> phi.nbytes_saved
    1152
    """

    _symbol = "Φ"

    def __init__(self, x, kernel, stride=1, pad=0, dilation=1, *, layout="NCHW"):
        x = operand("x", x)
        self._geometry = patch_geometry(x.shape, kernel, stride, pad, dilation, layout)
        # A view of our own: the caller may give another shape or dtype to his array object.
        self._x = self._geometry.full_image(converted("x", x, x.dtype.newbyteorder("="))).view()

    @property
    def shape(self):
        return (self._geometry.rows, self._geometry.columns)

    @property
    def dtype(self):
        return self._x.dtype

    @property
    def nbytes_saved(self):
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def T(self):
        return TransposedPatchMatrix(self)

    # ---- Entries ----------------------------------------------------------------------------------------------------

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
        n, c, *space = (int(part) for part in self._map(position(p, self.shape[0], "p"), position(q, self.shape[1], "q")))
        inside = all(0 <= i < size for i, size in zip(space, self._geometry.image, strict=True))
        return (n, c, *space) if inside else None

    def _map(self, p, q):
        """t(p, q) without bounds: integers, or integer arrays that broadcast."""
        g = self._geometry
        n, r = p // g.outputs, p % g.outputs
        c, *k = self._channel_and_tap(q)
        (_, ow) = g.output
        o = (r // ow, r % ow)
        space = (o[axis] * g.stride[axis] + k[axis] * g.dilation[axis] - g.pad[axis][0] for axis in range(2))
        return n, c, *space

    def _channel_and_tap(self, q):
        """(c, u, v) of a column."""
        g = self._geometry
        c, tap = (q % g.channels, q // g.channels) if g.channels_last else (q // g.taps, q % g.taps)
        return c, tap // g.kernel[1], tap % g.kernel[1]

    def __getitem__(self, key):
        """Entries as NumPy would give them: integers, slices, integer arrays or masks for rows and columns."""
        rows, columns = two_keys(key)
        p, q = (positions(part, size, name) for part, size, name in zip((rows, columns), self.shape, "pq", strict=True))
        # With a slice, rows cross columns; otherwise two arrays go together entry by entry, as in NumPy.
        is_crossed = isinstance(p, range) and length(q) is not None or isinstance(q, range) and length(p) is not None
        height, width = self.shape
        if is_crossed:
            entries = np.zeros((len(p), len(q)), self.dtype)
            for right in pieces(len(q), AT_ONCE):
                few = counted(q[right], width)
                for down in pieces(len(p), AT_ONCE // len(few)):
                    self._gather(counted(p[down], height)[:, None], few, entries[down, right])
            return entries
        lengths = [(n,) for n in map(length, (p, q)) if n is not None]
        entries = np.zeros(np.broadcast_shapes(*lengths), self.dtype)
        for part in pieces(len(entries), AT_ONCE) if lengths else [...]:
            few = (counted(key[part] if length(key) not in (None, 1) else key, size) for key, size in ((p, height), (q, width)))
            self._gather(*few, entries[part])
        return entries[()]

    def _gather(self, p, q, entries):
        """Write the entries (p, q), which broadcast to the shape of `entries`, where they are not of the padding."""
        g = self._geometry
        n, c, i, j = self._map(p, q)
        inside = np.broadcast_to((0 <= i) & (i < g.image[0]) & (0 <= j) & (j < g.image[1]), entries.shape)
        n, c, i, j = (np.broadcast_to(part, entries.shape)[inside] for part in (n, c, i, j))
        entries[inside] = self._x[n, i, j, c] if g.channels_last else self._x[n, c, i, j]

    def row(self, p):
        """Row p of Φ: one patch, flattened.

        Parameters
        ----------
        p : int
            Which patch; negative ones count from the end.

        Returns
        -------
        ndarray, (C·KH·KW,)

        Raises
        ------
        IndexError, TypeError

        Examples
        --------
        >>> import numpy as np
        >>> from im2colx import PatchMatrix
        >>> PatchMatrix(np.arange(9).reshape(3, 3), 2).row(-1)
        array([4, 5, 7, 8])
        """
        return self[position(p, self.shape[0], "p")]

    def column(self, q):
        """Column q of Φ: what one element of the kernel meets, patch by patch.

        Parameters
        ----------
        q : int
            Which element of a patch; negative ones count from the end.

        Returns
        -------
        ndarray, (N·OH·OW,)

        Raises
        ------
        IndexError, TypeError

        Examples
        --------
        >>> import numpy as np
        >>> from im2colx import PatchMatrix
        >>> PatchMatrix(np.arange(9).reshape(3, 3), 2).column(0)
        array([0, 1, 3, 4])
        """
        g = self._geometry
        c, *k = self._channel_and_tap(position(q, self.shape[1], "q"))
        column = np.zeros((g.batch, *g.output), self.dtype)
        outputs, pixels = zip(*map(self._met, range(2), k), strict=True)
        met, pixels = column[:, *outputs], self._channels_first()[:, c, *pixels]
        for part in self._planes(met.shape):
            met[part] = pixels[part]
        return column.reshape(-1)

    def _planes(self, shape):
        """Parts of an array (n, rows, columns), each of some `AT_ONCE` elements, or a row."""
        images, rows, columns = shape
        for n in pieces(images, AT_ONCE // max(1, rows * columns)):
            for row in pieces(rows, AT_ONCE // max(1, columns)):
                yield n, row

    def _channels_first(self):
        return np.moveaxis(self._x, -1, 1) if self._geometry.channels_last else self._x

    def _met(self, axis, k):
        """The outputs whose tap k lies inside x on an axis, and the pixels that it meets there: two slices."""
        g = self._geometry
        step, start = g.stride[axis], k * g.dilation[axis] - g.pad[axis][0]
        first, last = max(0, -(start // step)), min(g.output[axis], -((start - g.image[axis]) // step))
        return slice(first, max(first, last)), slice(first * step + start, max(0, last * step + start), step)

    # ---- Products and statistics ------------------------------------------------------------------------------------

    def _times(self, columns):
        """Φ @ columns: each of them a filter."""
        g = self._geometry
        count = columns.shape[1]
        if g.channels_last:
            w, layout = columns.reshape(*g.kernel, g.channels, count), "NHWC"
        else:
            w, layout = columns.T.reshape(count, g.channels, *g.kernel), "NCHW"
        y = _plan.execute("forward", self._for_filters(w.shape, layout), x=self._x, w=w)
        return (y if g.channels_last else np.moveaxis(y, 1, -1)).reshape(-1, count)

    def _transposed_times(self, columns):
        """Φᵀ @ columns: each of them a gradient with respect to the output of one filter."""
        g = self._geometry
        count = columns.shape[1]
        conjugated = self.dtype.kind == "c"  # the gradient is Φᴴ @ columns
        y = columns.reshape(g.batch, *g.output, count)
        y = y.conj() if conjugated else y
        if g.channels_last:
            geometry = self._for_filters((*g.kernel, g.channels, count), "NHWC")
            w = _plan.execute("grad_weight", geometry, x=self._x, y=y).reshape(-1, count)
        else:
            geometry = self._for_filters((count, g.channels, *g.kernel), "NCHW")
            w = _plan.execute("grad_weight", geometry, x=self._x, y=np.moveaxis(y, -1, 1)).reshape(count, -1).T
        return w.conj() if conjugated else w

    def _for_filters(self, w_shape, layout):
        g = self._geometry
        return resolve(self._x.shape, w_shape, g.stride, g.pad, g.dilation, 1, layout)

    def gram(self):
        """ΦᴴΦ, the products of all pairs of columns, without Φ: for real x this is ΦᵀΦ.

        Divided by the number of rows it is the second moment of the patches; less the outer product of `mean` with itself,
        their covariance.  It is what K-FAC and the whitening of patches need.

        Returns
        -------
        ndarray, (C·KH·KW, C·KH·KW)
            Exactly symmetric (Hermitian for complex x).  The dtype follows the rules of `conv2d`: small integers are
            summed in int32, others in int64, and float16 in float32, rounded once.

        Raises
        ------
        OverflowError
            If an integer sum does not fit into its type.
        MemoryError
            If the result cannot be allocated.

        Notes
        -----
        Blocks of rows of Φ are gathered by the index map (Eq. 8) into a tile of at most 1.5 MiB (one row, if that is larger),
        and multiplied by BLAS, from the diagonal on.  So besides the result no memory depends on the size of x.

        Examples
        --------
        >>> import numpy as np
        >>> from im2colx import PatchMatrix
        >>> phi = PatchMatrix(np.arange(9.0).reshape(3, 3), 2)
        >>> phi.gram()[0]
        array([26., 34., 50., 58.])
        >>> covariance = phi.gram() / len(phi.column(0)) - np.outer(phi.mean(), phi.mean())
        >>> np.allclose(covariance, np.cov(phi.toarray().T, bias=True))
        True
        """
        compute, result = result_dtypes(self.dtype)
        (rows, columns), dtype = self.shape, compute
        typecode = compute.str[1:]
        if compute.kind == "i" and rows:
            typecode = _plan.integer_squares_typecode(rows, np.moveaxis(self._channels_first(), 1, 0), compute)
            dtype = np.dtype(typecode)
        if not rows:
            return np.zeros((columns, columns), result)
        gram = np.empty((columns, columns), dtype)
        itemsize = max(dtype.itemsize, self.dtype.itemsize)
        blocks = -(-rows // max(1, GRAM_TILE // (columns * itemsize)))
        step = -(-rows // blocks)
        # Channels first are gathered transposed, where pixels are neighbours in x and in the tile.
        is_transposed = not self._geometry.channels_last
        memory = np.empty(columns * step, self.dtype)
        threads = max(1, min(get_num_threads(), rows * columns * columns // 2 // GRAM_GRAIN))
        for begin in range(0, rows, step):
            count = min(step, rows - begin)
            tile = memory[: columns * count].reshape((columns, count) if is_transposed else (count, columns))
            _core.im2col(self._geometry, self._x, tile, threads, begin, is_transposed)
            _core.gram_add(typecode, tile.astype(dtype, copy=False), is_transposed, begin > 0, gram, threads)
        _core.gram_finish(typecode, is_transposed, gram, threads)
        if dtype.kind == "i" and dtype != result:
            gram = _plan.narrowed(gram, result)
        return gram.astype(result, copy=False)

    def mean(self):
        """The mean patch: that of the rows of Φ, zeros of the padding included.

        Returns
        -------
        ndarray, (C·KH·KW,)
            Summed in float64 (complex128).  The dtype is that of x, or float64 for integers, as `numpy.mean` gives it.

        Raises
        ------
        ValueError
            If x holds no image.

        Examples
        --------
        >>> import numpy as np
        >>> from im2colx import PatchMatrix
        >>> PatchMatrix(np.arange(9).reshape(3, 3), 2).mean()
        array([2., 3., 5., 6.])
        """
        g = self._geometry
        if not g.rows:
            raise ValueError("Φ has no rows, and so no mean")
        x, exact = self._channels_first(), np.result_type(self.dtype, np.float64)
        mean = np.empty((g.channels, *g.kernel), exact)
        for k in np.ndindex(*g.kernel):
            _, pixels = zip(*map(self._met, range(2), k), strict=True)
            met, sums = x[:, :, *pixels], np.zeros(g.channels, exact)
            for c in pieces(g.channels, AT_ONCE // max(1, met[:, 0].size)):
                for n, row in self._planes(met[:, 0].shape):
                    sums[c] += met[n, c, row].sum((0, 2, 3), dtype=exact)
            mean[:, *k] = sums / g.rows
        if g.channels_last:
            mean = np.moveaxis(mean, 0, -1)
        return mean.reshape(-1).astype(self.dtype if self.dtype.kind in "fc" else exact, copy=False)

    def toarray(self):
        """Φ in memory, as `im2col` gives it.

        Returns
        -------
        ndarray

        Raises
        ------
        MemoryError
        """
        phi = np.empty(self.shape, self.dtype)
        if phi.size:
            _core.im2col(self._geometry, self._x, phi, get_num_threads())
        return phi


class TransposedPatchMatrix(_Virtual):
    """Φᵀ, the transpose of a `PatchMatrix`, as an object: made by its `T`, and not stored either.

    ``Φ.T @ g`` is the gradient of a convolution with respect to its weights; for complex x it is the plain transpose, which
    does not conjugate.  ``Φ.T @ Φ`` is ``Φ.gram()`` for real x.

    Attributes
    ----------
    shape : (int, int)
        (C·KH·KW, N·OH·OW).
    dtype : dtype
    T : PatchMatrix

    Examples
    --------
    >>> import numpy as np
    >>> from im2colx import PatchMatrix, conv2d_grad_weight
    >>> x, grad_y = np.arange(9.0).reshape(3, 3), np.ones((2, 2))
    >>> PatchMatrix(x, 2).T @ grad_y.ravel()
    array([ 8., 12., 20., 24.])
    >>> conv2d_grad_weight(x, grad_y, (2, 2)).ravel()
    array([ 8., 12., 20., 24.])
    """

    _symbol = "Φᵀ"

    def __init__(self, phi):
        self._phi = phi

    @property
    def shape(self):
        return self._phi.shape[::-1]

    @property
    def dtype(self):
        return self._phi.dtype

    @property
    def T(self):
        return self._phi

    def __getitem__(self, key):
        """Entries as NumPy would give them."""
        rows, columns = two_keys(key)
        return self._phi[columns, rows].T

    def __matmul__(self, other):
        """Φᵀ @ other, by the gradient of a convolution: `other` is (N·OH·OW,) or (N·OH·OW, M)."""
        if other is self._phi and self.dtype.kind != "c":
            return self._phi.gram()
        return super().__matmul__(other)

    def _times(self, columns):
        return self._phi._transposed_times(columns)

    def toarray(self):
        """Φᵀ in memory.

        Returns
        -------
        ndarray

        Raises
        ------
        MemoryError
        """
        return self._phi.toarray().T
