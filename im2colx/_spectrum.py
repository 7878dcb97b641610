"""Singular values of a ConvOperator: exact through the Fourier transform or a dense matrix, else by Lanczos's method."""

import math

import numpy as np
from scipy.linalg import svdvals
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

from im2colx._geometry import fraction, integer

# Elements of a matrix that is decomposed densely: less than half a second.
DENSE_ELEMENTS = 2**20
# From this tolerance on, products in single precision are good enough, for values not far below the largest.
SINGLE_TOLERANCE, SINGLE_RATIO = 1e-5, 0.1
# Restarts of Lanczos's method after which it is given up: layers take 5 to 50.
MOST_RESTARTS = 1000


def largest(operator, k, tol):
    """The k largest singular values, descending: see `im2colx.singular_values`."""
    least = min(operator.shape)
    k = integer("k", k)
    if k > least:
        raise ValueError(f"k is {k}, but a matrix of shape {operator.shape} has only {least} singular values")
    tol = fraction("tol", tol)
    w = operator._w.astype(np.result_type(operator.dtype, np.float64))
    scale = np.abs(w).max()
    if not np.isfinite(scale):
        raise ValueError("w holds nan or inf: the matrix has no singular values")
    if scale == 0:
        return np.zeros(k)
    # Squares of weights of any size neither overflow nor vanish.
    operator = operator._with(w / scale)
    if _is_diagonal_in_frequency(operator):
        values = _by_fourier(operator, k)
    elif math.prod(operator.shape) <= DENSE_ELEMENTS or k > least // 4:
        values = svdvals(operator.toarray(), overwrite_a=True)[:k]
    else:
        values = _by_lanczos(operator, k, tol)
    return values * scale


# ---- Circular convolutions ------------------------------------------------------------------------------------------


def _is_diagonal_in_frequency(operator):
    g = operator._geometry
    return operator._is_circular and all(o * s == i for o, s, i in zip(g.output, g.stride, g.image, strict=True))


def _by_fourier(operator, k):
    """The values of the blocks into which the Fourier transform cuts a circular convolution.

    With stride 1 there is a block for each frequency: the (F/G, C/G) matrix of the transforms of the kernels there (Sedghi,
    Gupta & Long, arXiv 1805.10408).  A stride S keeps every S-th output, which folds S frequencies of an axis into one: their
    blocks stand side by side, divided by the root of S.  A shift of the padding turns columns by a phase, and changes nothing.
    """
    g = operator._geometry
    w = operator._w if not g.channels_last else np.moveaxis(operator._w, (3, 2), (0, 1))
    w = w.reshape(g.groups, g.filters // g.groups, -1, *g.kernel) / math.sqrt(math.prod(g.stride))

    def transform(axis, frequencies):
        """exp(-2πi·frequency·position/size) for every tap."""
        positions = np.arange(g.kernel[axis]) * g.dilation[axis] % g.image[axis]
        turns = np.multiply.outer(positions, frequencies) % g.image[axis] / g.image[axis]
        return np.exp(-2j * np.pi * turns)

    along_rows = w @ transform(1, np.arange(g.image[1]))  # (G, F/G, C/G, KH, W)
    is_real = w.dtype.kind != "c"
    values = np.zeros(0)
    for row in range(g.output[0]):
        mirrored = -row % g.output[0]
        if is_real and mirrored < row:  # conjugate of a row that was there
            continue
        rows = row + g.output[0] * np.arange(g.stride[0])
        blocks = np.einsum("gfcuw,us->gfcsw", along_rows, transform(0, rows))
        blocks = blocks.reshape(*blocks.shape[:4], g.stride[1], g.output[1])  # (G, F/G, C/G, S, S, OW)
        blocks = np.moveaxis(blocks, -1, 1).reshape(g.groups * g.output[1], g.filters // g.groups, -1)
        found = np.linalg.svd(blocks, compute_uv=False).ravel()
        values = np.concatenate([values, found, found] if is_real and mirrored != row else [values, found])
        values = -np.sort(-values)[:k]
    return values


# ---- All others -----------------------------------------------------------------------------------------------------


def _by_lanczos(operator, k, tol):
    single = np.dtype(np.complex64 if operator.dtype.kind == "c" else np.float32)
    for dtype in (single, operator.dtype)[tol < SINGLE_TOLERANCE :]:
        try:
            values = _roots(operator._with(operator._w.astype(dtype)), k, tol)
        except ArpackNoConvergence:
            continue
        if dtype != single or values[-1] >= SINGLE_RATIO * values[0]:
            return values
    raise np.linalg.LinAlgError(f"the singular values were not found to a tolerance of {tol}")


def _roots(operator, k, tol):
    """Roots of the k largest eigenvalues of A Aᴴ or AᴴA, whichever is smaller."""
    size = min(operator.shape)
    first, second = (operator._forward, operator._backward)[:: 1 if size == operator.shape[1] else -1]
    rng = np.random.default_rng(0)
    found, vectors = np.zeros(0), np.zeros((size, 0), operator.dtype)

    def apart(v):
        return v - vectors @ (vectors.conj().T @ v)

    def product(v):
        return apart(second(first(apart(v.reshape(-1))[None]))[0])

    def next_pairs(count):
        start = apart(rng.standard_normal(size).astype(operator.dtype))
        matrix = LinearOperator((size, size), matvec=product, dtype=operator.dtype)
        # An eigenvalue within 2·tol of the true one has its root within tol.  A restart takes some twenty products.
        return eigsh(matrix, count, v0=start, tol=2 * tol, maxiter=MOST_RESTARTS)

    found, vectors = next_pairs(k)
    vectors = np.linalg.qr(vectors)[0]  # of equal eigenvalues of a complex matrix they need not be orthogonal
    # From one starting vector come the eigenvalues that differ: copies of them lie apart from the vectors that were found.
    # (Zeros come only once the vector was exhausted and another took its place, so they need no look.)
    while k > 1 and np.sort(found)[-k] > tol**2 * found.max():
        value, vector = next_pairs(1)
        if value[0] <= np.sort(found)[-k] * (1 + tol):
            break
        found, vectors = np.append(found, value), np.linalg.qr(np.hstack([vectors, vector]))[0]
    return np.sqrt(np.maximum(np.sort(found)[: -k - 1 : -1], 0)).astype(np.float64)
