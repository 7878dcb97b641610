"""Morphs of FC layers, as matrices.

An FC layer is ``Y = X W`` (Q inputs, F outputs), and a CONV layer is one with X = Φ, the patch matrix.  With channels
last, the columns of Φ run over (u, v, c), and so do the rows of W: ``W = kernel.reshape(-1, F)``.  Rows in T blocks of
C, one for each tap (u, v), is all that distinguishes a CONV layer here; so a fully connected layer after a CONV layer
has T = OH·OW blocks, and an FC layer after an FC layer has T = 1.
"""

import numpy as np

from im2colx import im2col


def widening(units, width, rng):
    """The matrices that copy units and that make up for it (Net2WiderNet: Chen, Goodfellow & Shlens 2015).

    Every new unit is a copy of one drawn at random.  Copies would learn the same for ever if what they pass on were
    shared out evenly.  So each of n copies passes on the share 1/n plus a random number, and these sum to 0.

    Parameters
    ----------
    units, width : int
        How many units there are, and how many there shall be; width >= units.
    rng : numpy.random.Generator

    Returns
    -------
    copy : ndarray, shape (units, width)
        One 1 in every column; the first columns are the identity.
    share : ndarray, shape (width, units)
        Its right inverse, ``copy @ share == identity``, with entries only where copy.T has them.

    Notes
    -----
    For a function f that acts on every unit by itself, such as ReLU, ``f(Y copy) share = f(Y) copy share = f(Y)``.
    """
    copied = np.concatenate([np.arange(units), rng.integers(units, size=width - units)])
    copy = np.zeros((units, width))
    copy[copied, np.arange(width)] = 1
    spread = copy * rng.standard_normal(width)
    count = copy.sum(axis=1, keepdims=True)
    return copy, (copy / count + spread - copy * spread.sum(axis=1, keepdims=True) / count).T


def widened(first, bias, second, copy, share):
    """The weights of two layers, once the units between them are copied: ``W1 copy, b1 copy, (I_T ⊗ share) W2``.

    Parameters
    ----------
    first : ndarray, shape (Q, units)
    bias : ndarray, shape (units,)
    second : ndarray, shape (T * units, F)
        Rows over (tap, unit).
    copy, share
        As `widening` gives them.
    """
    units, width = copy.shape
    blocks = share @ second.reshape(-1, units, second.shape[1])  # the Kronecker product, block by block
    return first @ copy, bias @ copy, blocks.reshape(-1, second.shape[1])


def embedding(kernel, larger, channels):
    """The matrix E, (larger² C, kernel² C), with ``Φ_larger E = Φ_kernel``: the small patch in the middle of the large.

    For odd sides, and paddings half of them.  So ``Φ_larger (E W) = Φ_kernel W``: the kernel framed by zeros
    (the kernel-size morph of Wei et al. 2016).
    """
    place = np.eye(larger, kernel, -(larger - kernel) // 2)  # row u + frame, column u
    return np.kron(np.kron(place, place), np.eye(channels))


def identity(kernel, channels):
    """The weights of a CONV layer that gives back its input: ``Φ W = X`` for the one tap in the middle.

    After it, ReLU changes nothing where a ReLU stands before it (Net2DeeperNet: Chen, Goodfellow & Shlens 2015).
    """
    return embedding(1, kernel, channels)


def composed(first, second, sides, channels):
    """The weights (K² C, F) of one CONV layer that does what two do without anything between them.

    Parameters
    ----------
    first : ndarray, shape (K1² C, M)
        Stride 1.
    second : ndarray, shape (K2² M, F)
    sides : (int, int)
        K1, K2; the kernel of both together has K = K1 + K2 - 1.
    channels : int
        C.

    Notes
    -----
    The kernel of both is ``sum over (u2, v2) of w1[u - u2, v - v2, c, :] w2[u2, v2, :, f]``: a convolution of w1, taken
    as C images of M channels, with w2.  In FC form, ``Φ(w1) W2``, with the taps of W2 in reverse order.
    """
    return kernel_patches(first, sides, channels) @ reverse_taps(second, sides[1])


def kernel_patches(first, sides, channels):
    """Φ(w1), with one row for each element of the kernel of both layers, (K² C, K2² M), rows over (u, v, c)."""
    one, two = sides
    images = first.reshape(one, one, channels, -1).transpose(2, 0, 1, 3)
    whole = one + two - 1
    phi = im2col(images, two, pad="full", layout="NHWC")
    return phi.reshape(channels, whole * whole, -1).swapaxes(0, 1).reshape(channels * whole * whole, -1)


def reverse_taps(weights, side):
    """The rows of W with the taps (u, v) in reverse order."""
    return weights.reshape(side * side, -1, weights.shape[1])[::-1].reshape(weights.shape)


def decomposed(weights, first, sides, channels):
    """The second of two CONV layers that do together what one does (the depth morph of Wei et al. 2016).

    The morph equation ``composed(first, second) = weights`` is linear in the second layer, and in FC form it is an
    ordinary least-squares problem, ``Φ(w1) W2 = W``.  It has a solution for every W where Φ(w1) has as many
    independent columns as rows: K2² M >= K² C, for a `first` drawn at random.

    Parameters
    ----------
    weights : ndarray, shape (K² C, F)
    first : ndarray, shape (K1² C, M)
    sides : (int, int)
        K1, K2, with K1 + K2 - 1 = K.
    channels : int
        C.

    Returns
    -------
    ndarray, shape (K2² M, F)
        Of all solutions the one with the smallest norm.

    Raises
    ------
    ValueError
        If there are too few channels M between the layers.
    """
    phi = kernel_patches(first, sides, channels)
    if phi.shape[1] < phi.shape[0]:
        raise ValueError(
            f"{first.shape[1]} channels between kernels of sides {sides} give {phi.shape[1]} unknowns for "
            f"{phi.shape[0]} equations: at least {-(-phi.shape[0] // sides[1] ** 2)} channels are needed"
        )
    solution, *_ = np.linalg.lstsq(phi, weights, rcond=None)
    return reverse_taps(solution, sides[1])
