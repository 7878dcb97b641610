"""Singular values against a dense decomposition of the definition, and against the Fourier transform."""

import numpy as np
import pytest
from cases import LAYOUTS, random_case

from im2colx import ConvOperator, _spectrum, conv_matrix, singular_values, spectral_norm

# A dense decomposition of some hundred rows errs by about this, relative to the largest value.
ROUNDING = 1e-12


def dense(w, x_shape, *arguments, **named):
    return np.linalg.svd(conv_matrix(w, x_shape, *arguments, format="dense", **named), compute_uv=False)


def random_weights(rng, shape, dtype="float64"):
    w = rng.standard_normal(shape) + 1j * rng.standard_normal(shape) * (np.dtype(dtype).kind == "c")
    return (w if np.dtype(dtype).kind == "c" else w.real).astype(dtype)


@pytest.fixture
def no_dense(monkeypatch):
    """Lanczos's method for matrices of any size."""
    monkeypatch.setattr(_spectrum, "DENSE_ELEMENTS", 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_small_matrices_are_decomposed_densely(layout):
    rng = np.random.default_rng(0)
    for _ in range(20):
        case = random_case(rng)
        w, x_shape = random_weights(rng, case.w_shape(layout)), case.x_shape(layout)[1:]
        if np.prod(ConvOperator(w, x_shape, *case.geometry, layout=layout).shape) > 20_000:
            continue  # only because it takes long
        expected = dense(w, x_shape, *case.geometry, layout=layout)
        k = min(3, len(expected))
        found = singular_values(w, x_shape, *case.geometry, layout=layout, k=k)
        np.testing.assert_allclose(found, expected[:k], rtol=0, atol=ROUNDING * max(1, expected[0]))
        assert found.dtype == np.float64
        norm = spectral_norm(w, x_shape, *case.geometry, layout=layout)
        assert isinstance(norm, float) and abs(norm - expected[0]) <= ROUNDING * max(1, expected[0])


@pytest.mark.parametrize("dtype", ["float64", "float32", "complex64", "complex128", "int8", "float16"])
@pytest.mark.parametrize("tol", [1e-3, 1e-7])
def test_lanczos_is_within_its_tolerance(no_dense, dtype, tol):
    """Wide and tall matrices, strided, dilated and in groups."""
    rng = np.random.default_rng(1)
    for number, arguments in enumerate(((1, 1), (2, 1, 2), (1, 0, 1, 2), ((2, 1), ((1, 0), (0, 2))))):
        channels, filters = ((4, 2), (2, 6))[number % 2]
        groups = (*arguments, 1, 1)[3] if len(arguments) == 4 else 1
        scale = 10 if np.dtype(dtype).kind == "i" else 1
        w = (scale * random_weights(rng, (filters, channels // groups, 3, 3), "float64" if scale == 10 else dtype)).astype(dtype)
        expected = dense(w, (channels, 9, 10), *arguments)
        found = singular_values(w, (channels, 9, 10), *arguments, k=5, tol=tol)
        np.testing.assert_allclose(found, expected[:5], rtol=0, atol=tol * expected[0])
        norm = spectral_norm(w, (channels, 9, 10), *arguments, tol=tol)
        assert (1 - tol) * expected[0] <= norm <= (1 + 1e-6) * expected[0]  # above it only by rounding, in single precision


def test_values_of_any_multiplicity(no_dense):
    """What one starting vector cannot tell apart: a symmetric kernel has pairs, one tap has copies for every pixel."""
    # Sums over three neighbours: along an axis of n pixels they have the eigenvalues 1 + 2·cos(i·π/(n + 1)), i = 1…n.
    along = 1 + 2 * np.cos(np.arange(1, 41) * np.pi / 41)
    expected = np.sort(np.abs(np.outer(along, along)).ravel())[::-1]
    assert expected[1] - expected[2] < 1e-9  # a pair
    for tol in (1e-3, 1e-6):
        found = singular_values(np.ones((1, 1, 3, 3)), (1, 40, 40), pad=1, k=6, tol=tol)
        np.testing.assert_allclose(found, expected[:6], atol=tol * expected[0])
    w = np.random.default_rng(2).standard_normal((3, 4, 1, 1))
    top = np.linalg.svd(w[:, :, 0, 0], compute_uv=False)[0]
    np.testing.assert_allclose(singular_values(w, (4, 12, 12), k=6), top, rtol=1e-4)
    shift = np.zeros((1, 1, 3, 3))
    shift[0, 0, 0, 2] = 3
    np.testing.assert_allclose(singular_values(shift, (1, 20, 20), pad=1, k=4), 3, rtol=1e-4)


def test_matrices_of_small_rank(no_dense):
    far = np.zeros((1, 1, 17, 17))  # of all its taps one, which meets one pixel
    far[0, 0, 0, 0] = 2
    found = singular_values(far, (1, 17, 17), pad=((16, 0), (16, 0)), k=3)
    np.testing.assert_allclose(found, dense(far, (1, 17, 17), pad=((16, 0), (16, 0)))[:3], atol=1e-4)
    assert singular_values(np.zeros((2, 2, 3, 3)), (2, 20, 20), k=3).tolist() == [0, 0, 0]
    assert spectral_norm(np.zeros((2, 2, 3, 3)), (2, 20, 20)) == 0


def test_weights_of_any_size(no_dense):
    """Squares of these are beyond single precision, or double."""
    w = np.random.default_rng(3).standard_normal((2, 2, 3, 3))
    norm = spectral_norm(w, (2, 12, 12))
    for scale in (1e-300, 1e-25, 1e25, 1e300):
        assert spectral_norm(w * scale, (2, 12, 12)) == pytest.approx(norm * scale, rel=1e-9)
    assert spectral_norm((w * 1e-30).astype("f4"), (2, 12, 12)) == pytest.approx(norm * 1e-30, rel=1e-4)


def test_the_same_every_time(no_dense):
    w = np.random.default_rng(4).standard_normal((4, 4, 3, 3))
    assert spectral_norm(w, (4, 20, 20), pad=1) == spectral_norm(w, (4, 20, 20), pad=1)
    np.testing.assert_array_equal(singular_values(w, (4, 20, 20)), singular_values(w, (4, 20, 20)))


def test_all_values_of_a_matrix_too_large_for_few(no_dense):
    """Beyond a quarter of them Lanczos's method has no point."""
    w = np.random.default_rng(5).standard_normal((2, 3, 2, 2))
    expected = dense(w, (3, 5, 5))
    np.testing.assert_allclose(singular_values(w, (3, 5, 5), k=len(expected)), expected, atol=ROUNDING * expected[0])


# ---- Circular -------------------------------------------------------------------------------------------------------


def sedghi(w, height, width):
    """The formula of Sedghi, Gupta & Long (arXiv 1805.10408) as they print it, for kernels of any size below the image's."""
    transforms = np.fft.fft2(np.moveaxis(w, (0, 1), (2, 3)), (height, width), axes=[0, 1])
    return np.sort(np.linalg.svd(transforms, compute_uv=False).ravel())[::-1]


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_circular_is_the_formula_of_sedghi(dtype):
    rng = np.random.default_rng(6)
    for channels, filters, kernel, size in ((3, 4, (3, 3), (6, 7)), (2, 2, (2, 5), (5, 5)), (4, 1, (1, 3), (4, 8))):
        w = random_weights(rng, (filters, channels, *kernel), dtype)
        expected = sedghi(w, *size)
        found = singular_values(w, (channels, *size), pad="same", boundary="circular", k=len(expected))
        np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING * expected[0])
        np.testing.assert_allclose(
            dense(w, (channels, *size), pad="same", boundary="circular"), expected, rtol=0, atol=ROUNDING * expected[0]
        )
        assert spectral_norm(w, (channels, *size), pad="same", boundary="circular") == pytest.approx(expected[0], rel=ROUNDING)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_circular_with_strides_groups_and_wide_kernels(layout):
    """The blocks of the Fourier transform against a dense decomposition: kernels beyond the image wrap round it."""
    rng = np.random.default_rng(7)
    checked = 0
    for number in range(40):
        stride, dilation = (tuple(int(size) for size in rng.integers(1, 4, 2)) for _ in range(2))
        groups = int(rng.integers(1, 3))
        channels, filters = (groups * int(size) for size in rng.integers(1, 4, 2))
        kernel = tuple(int(size) for size in rng.integers(1, 6, 2))
        size = tuple(int(s * o) for s, o in zip(stride, rng.integers(1, 4, 2), strict=True))
        total = [d * (k - 1) + 1 - s for d, k, s in zip(dilation, kernel, stride, strict=True)]
        if min(total) < 0:
            continue
        pad = tuple((amount // 3, amount - amount // 3) for amount in total)
        w = random_weights(rng, (filters, channels // groups, *kernel), ("float64", "complex128")[number % 2])
        x_shape = (channels, *size)
        if layout == "NHWC":
            w, x_shape = w.transpose(2, 3, 1, 0), (*size, channels)
        named = {"layout": layout, "boundary": "circular"}
        operator = ConvOperator(w, x_shape, stride, pad, dilation, groups, **named)
        assert _spectrum._is_diagonal_in_frequency(operator)
        expected = dense(w, x_shape, stride, pad, dilation, groups, **named)
        found = operator.singular_values(len(expected))
        np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING * max(1, expected[0]))
        checked += 1
    assert checked > 20


def test_circular_of_other_sizes(no_dense):
    """More outputs than pixels, or fewer: no blocks, but Lanczos's method."""
    w = np.random.default_rng(8).standard_normal((3, 2, 3, 3))
    for pad in (0, 3):
        expected = dense(w, (2, 8, 8), pad=pad, boundary="circular")
        found = singular_values(w, (2, 8, 8), pad=pad, boundary="circular", k=4)
        np.testing.assert_allclose(found, expected[:4], atol=1e-4 * expected[0])


# ---- Bad input ------------------------------------------------------------------------------------------------------


def test_bad_arguments():
    w = np.ones((2, 2, 3, 3))
    for call, error, message in (
        (lambda: singular_values(w, (2, 8, 8), k=0), ValueError, "k is 0, but must be at least 1"),
        (lambda: singular_values(w, (2, 3, 3), k=3), ValueError, "k is 3, but a matrix of shape (2, 18) has only 2 singular values"),
        (lambda: singular_values(w, (2, 8, 8), k=1.0), TypeError, "k must be an integer"),
        (lambda: spectral_norm(w, (2, 8, 8), tol=0), ValueError, "tol is 0, but must be above 0 and below 1"),
        (lambda: spectral_norm(w, (2, 8, 8), tol=float("nan")), ValueError, "tol is nan"),
        (lambda: spectral_norm(w, (2, 8, 8), tol="fine"), TypeError, "tol must be a number"),
        (lambda: spectral_norm(w * np.nan, (2, 8, 8)), ValueError, "w holds nan or inf"),
        (lambda: spectral_norm(w / 0, (2, 8, 8)), ValueError, "w holds nan or inf"),
    ):
        with np.errstate(all="ignore"), pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)


def test_a_search_without_success_says_so(no_dense, monkeypatch):
    monkeypatch.setattr(_spectrum, "MOST_RESTARTS", 1)
    w = np.random.default_rng(9).standard_normal((4, 4, 3, 3))
    with pytest.raises(np.linalg.LinAlgError, match="not found to a tolerance of 1e-12"):
        spectral_norm(w, (4, 30, 30), tol=1e-12)
