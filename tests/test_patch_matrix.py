"""PatchMatrix, its transpose and its statistics against the patch matrix that im2col and the index map give."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from cases import CASES, FLOATS, INTEGERS, LAYOUTS, random_case, small_integers

import im2colx
from im2colx import PatchMatrix, _reference, conv2d_grad_weight, im2col, patch_matrix


def some_cases(count, seed):
    rng = np.random.default_rng(seed)
    return [*CASES, *(random_case(rng) for _ in range(count))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patch_matrix_entry_by_entry(layout):
    rng = np.random.default_rng(3)
    for case in some_cases(15, 4):
        args = (case.kernel, *case.geometry[:3])
        x = small_integers(rng, case.x_shape(layout), "float32")
        phi = PatchMatrix(x, *args, layout=layout)
        stored = _reference.im2col(x, *args, layout)
        assert phi.shape == stored.shape and phi.dtype == x.dtype and phi.ndim == 2
        np.testing.assert_array_equal(phi.toarray(), stored)
        np.testing.assert_array_equal(np.asarray(phi), stored)
        if stored.size == 0:
            continue
        np.testing.assert_array_equal(phi[:, :], stored)
        for _ in range(50):
            p, q = int(rng.integers(-stored.shape[0], stored.shape[0])), int(rng.integers(-stored.shape[1], stored.shape[1]))
            assert phi[p, q] == stored[p, q]
            at = phi.index(p, q)
            if at is None:
                assert stored[p, q] == 0
            else:
                n, c, i, j = at
                assert (x[n, c, i, j] if layout == "NCHW" else x[n, i, j, c]) == stored[p, q]


def test_patch_matrix_selections():
    x = np.arange(2 * 3 * 5 * 6.0).reshape(2, 3, 5, 6)
    phi, stored = PatchMatrix(x, 3, 2, 1), im2col(x, 3, 2, 1)
    mask = stored[0] > 0
    for key in (..., (..., 2), (2, ...), (), ([0, 1], [2, 3]), np.array(3), 3, -1, slice(2, 9, 3), (slice(None), 4), (2, slice(None)), (slice(1, 4), slice(5, 20, 2)),
                ([1, 3, -2], slice(None)), (np.array([0, 5]), 2), (slice(None), mask)):  # fmt: skip
        np.testing.assert_array_equal(phi[key], stored[key])
    for key in ((18, 0), (0, 27), ([0, 18], 0), -19):
        with pytest.raises(IndexError, match="only (18 rows|27 columns)"):
            phi[key]
    for key in ((0, [[0, 1]]), (1, 2, 3), (..., ...), True):
        with pytest.raises(IndexError):
            phi[key]
    with pytest.raises(TypeError, match="p must be an integer"):
        phi.index(0.5, 0)
    with pytest.raises(ValueError, match="copy"):
        phi.__array__(copy=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patch_matrix_products(layout):
    rng = np.random.default_rng(5)
    for case in some_cases(20, 6):
        x = small_integers(rng, case.x_shape(layout), "float64")
        phi = PatchMatrix(x, case.kernel, *case.geometry[:3], layout=layout)
        stored = phi.toarray()
        for right in ((phi.shape[1],), (phi.shape[1], 3), (phi.shape[1], 0)):
            v = small_integers(rng, right, "float64")
            np.testing.assert_array_equal(phi @ v, stored @ v)
    with pytest.raises(ValueError, match="cannot be multiplied by"):
        phi @ np.ones(phi.shape[1] + 1)


def test_patch_matrix_follows_x():
    x = np.zeros((3, 3))
    phi = PatchMatrix(x, 2)
    x[1, 1] = 5
    assert phi[0, 3] == 5


def test_patch_matrix_is_its_own():
    """Its sizes guard the core: neither they nor the array behind them can be changed from outside."""
    x = np.zeros((1, 1, 8, 8))
    phi = PatchMatrix(x, 3)
    for name in ("shape", "dtype"):
        with pytest.raises(AttributeError):
            setattr(phi, name, None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of setting a shape
        x.shape = (64,)
    assert phi.toarray().shape == (36, 9)


def test_the_index_map_of_the_paper():
    """One 28 x 28 image, one 7 x 7 filter with a stride of 7: 16 patches of 49 that do not overlap (Fig. 6)."""
    image = np.arange(784).reshape(28, 28)
    phi = PatchMatrix(image, 7, 7)
    assert phi.shape == (16, 49)
    np.testing.assert_array_equal(phi[5], image[7:14, 7:14].ravel())
    assert sorted(phi.toarray().ravel()) == list(range(784))


# ---- Rows, columns, transpose, statistics ---------------------------------------------------------------------------

DTYPES = ("float32", "complex128", "int8", "float64", "complex64", "uint16", "bool", "int64", "float16")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_form_is_that_of_the_stored_matrix(layout):
    """500 random geometries over both layouts; small integers, so nothing is rounded."""
    rng = np.random.default_rng(7 if layout == "NCHW" else 8)
    for number, case in enumerate(some_cases(250, 9 if layout == "NCHW" else 10)):
        args = (case.kernel, *case.geometry[:3])
        x = small_integers(rng, case.x_shape(layout), DTYPES[number % len(DTYPES)])
        phi, stored = PatchMatrix(x, *args, layout=layout), _reference.im2col(x, *args, layout)
        wide_x = x.astype("i8") if x.dtype.kind in "biu" else x
        wide = _reference.im2col(wide_x, *args, layout)
        p, q = int(rng.integers(-len(stored), len(stored))), int(rng.integers(-stored.shape[1], stored.shape[1]))
        np.testing.assert_array_equal(phi.row(p), stored[p])
        np.testing.assert_array_equal(phi.column(q), stored[:, q])
        assert phi.row(p).dtype == phi.column(q).dtype == x.dtype
        assert phi.nbytes_saved == stored.nbytes
        columns, rows = (small_integers(rng, (size, 2), "float64") for size in stored.shape[::-1])
        np.testing.assert_array_equal(phi @ columns, wide @ columns)
        np.testing.assert_array_equal(phi.T @ rows, wide.T @ rows)
        np.testing.assert_array_equal(rows.T @ phi, rows.T @ wide)
        np.testing.assert_array_equal(columns.T @ phi.T, columns.T @ wide.T)
        np.testing.assert_array_equal(phi.gram(), _reference.gram(wide_x, *args, layout))
        np.testing.assert_allclose(phi.mean(), wide.mean(0), rtol=1e-3 if x.dtype == "float16" else 1e-6, atol=1e-7)


def test_the_transpose():
    x = np.arange(2 * 3 * 5 * 6.0).reshape(2, 3, 5, 6)
    phi, stored = PatchMatrix(x, 3, 2, 1), im2col(x, 3, 2, 1)
    across = phi.T
    assert across.shape == stored.T.shape and across.dtype == stored.dtype and across.ndim == 2
    assert across.T is phi
    assert repr(across) == "<TransposedPatchMatrix 27 x 18, float64>"
    np.testing.assert_array_equal(across.toarray(), stored.T)
    np.testing.assert_array_equal(np.asarray(across), stored.T)
    np.testing.assert_array_equal(np.array(across, dtype="f4"), stored.T.astype("f4"))
    mask = stored[:, 0] > 0
    for key in (3, (3, 4), (slice(2, 9, 3), slice(None)), (..., 2), ([1, 3], slice(None)), ([1, 3], [2, 4]), (slice(None), mask), -1):
        np.testing.assert_array_equal(across[key], stored.T[key])
    np.testing.assert_array_equal(across @ phi, phi.gram())
    for product in (lambda: across @ np.ones(5), lambda: np.ones(5) @ across, lambda: np.ones((2, 3)) @ phi, lambda: phi @ np.ones((2, 2, 2))):
        with pytest.raises(ValueError, match="cannot be multiplied by"):
            product()
    with pytest.raises(ValueError, match="Φᵀ is not stored"):
        across.__array__(copy=False)


def test_products_with_the_transpose_are_gradients():
    rng = np.random.default_rng(11)
    for layout in LAYOUTS:
        for case in some_cases(5, 12):
            if case.groups > 1:
                continue
            x = small_integers(rng, case.x_shape(layout), "complex64")
            y_shape = im2colx.output_shape(x.shape, case.w_shape(layout), *case.geometry, layout=layout)
            grad_y = small_integers(rng, y_shape, "complex64")
            rows = (np.moveaxis(grad_y, 1, -1) if layout == "NCHW" else grad_y).reshape(-1, case.f)
            grad_w = conv2d_grad_weight(x.conj(), grad_y, case.w_shape(layout), *case.geometry, layout=layout)
            expected = grad_w.reshape(case.f, -1).T if layout == "NCHW" else grad_w.reshape(-1, case.f)
            np.testing.assert_array_equal(PatchMatrix(x, case.kernel, *case.geometry[:3], layout=layout).T @ rows, expected)


def test_products_by_lists_vectors_and_nothing():
    phi = PatchMatrix(np.arange(9.0).reshape(3, 3), 2)
    stored = phi.toarray()
    np.testing.assert_array_equal([1, 2, 3, 4] @ phi, [1, 2, 3, 4] @ stored)
    np.testing.assert_array_equal(phi.T @ [1, 2, 3, 4], [1, 2, 3, 4] @ stored)
    assert (np.zeros((0, 4)) @ phi).shape == (0, 4) and (phi.T @ np.zeros((4, 0))).shape == (4, 0)
    none = PatchMatrix(np.zeros((0, 2, 3, 3)), 2)
    assert none.gram().shape == (8, 8) and not none.gram().any()
    np.testing.assert_array_equal(none.T @ np.zeros((0, 3)), np.zeros((8, 3)))
    np.testing.assert_array_equal(np.zeros(0) @ none, np.zeros(8))
    with pytest.raises(ValueError, match="Φ has no rows, and so no mean"):
        none.mean()
    with pytest.raises(IndexError, match="p is 0, but Φ has only 0 rows"):
        none.row(0)
    with pytest.raises(IndexError, match="q is 8, but Φ has only 8 columns"):
        none.column(8)
    with pytest.raises(TypeError, match="q must be an integer"):
        none.column(1.0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*FLOATS, "float16", "int32"])
def test_gram_over_many_tiles_and_threads(layout, dtype, monkeypatch):
    """Tiles end within images and rows; strips leave a rest; any number of threads."""
    rng = np.random.default_rng(13)
    x = small_integers(rng, (2, 13, 9, 7) if layout == "NCHW" else (2, 9, 7, 13), dtype)
    phi = PatchMatrix(x, (3, 2), (1, 2), 1, layout=layout)
    wide = phi.toarray().astype("i8" if x.dtype.kind == "i" else x.dtype)
    expected = wide.conj().T @ wide
    monkeypatch.setattr(patch_matrix, "GRAM_GRAIN", 1)
    before = im2colx.get_num_threads()
    try:
        for threads in (1, 3):
            im2colx.set_num_threads(threads)
            for tile in (1, 5000, 30_000, 10**9):
                monkeypatch.setattr(patch_matrix, "GRAM_TILE", tile)
                gram = phi.gram()
                np.testing.assert_array_equal(gram, expected)
                assert gram.dtype == ("int64" if dtype == "int32" else dtype) and gram.flags.c_contiguous
    finally:
        im2colx.set_num_threads(before)


@pytest.mark.parametrize("dtype", FLOATS)
def test_gram_is_hermitian_to_the_last_bit(dtype):
    rng = np.random.default_rng(14)
    x = rng.standard_normal((1, 20, 15, 15)) + 1j * rng.standard_normal((1, 20, 15, 15))
    x = (x if np.dtype(dtype).kind == "c" else x.real).astype(dtype)
    for layout in LAYOUTS:
        phi = PatchMatrix(x if layout == "NCHW" else np.moveaxis(x, 1, -1), 3, pad=1, layout=layout)
        gram = phi.gram()
        np.testing.assert_array_equal(gram, gram.conj().T)
        wide = phi.toarray().astype("c16")
        # Sums of 225 products err by at most 225 roundings of the sum of their sizes; complex ones by some more.
        sizes = np.abs(wide).T @ np.abs(wide)
        assert (np.abs(gram - wide.conj().T @ wide) <= 225 * (4 if x.dtype.kind == "c" else 1) * np.finfo(dtype).eps * sizes).all()


def test_gram_of_integers_never_wraps():
    assert PatchMatrix(np.full((200, 200), 127, "i1"), 1).gram().item() == 200 * 200 * 127**2
    with pytest.raises(OverflowError, match="pass 32- or 64-bit integers"):
        PatchMatrix(np.full((400, 400), 255, "u1"), 1).gram()
    one = np.zeros((50, 50), "i8")
    one[7, 7] = 3_000_000_000  # its square fits, but 2,500 of them would not
    assert PatchMatrix(one, 2).gram()[0, 0] == 9 * 10**18
    one[20, 20] = 3_000_000_000
    with pytest.raises(OverflowError, match="sums of squares may reach 180000179999"):
        PatchMatrix(one, 2).gram()
    with pytest.raises(OverflowError):
        PatchMatrix(np.full((2, 2), 2**64 - 1, "u8"), 1).gram()


def test_the_mean_is_that_of_numpy():
    rng = np.random.default_rng(15)
    for dtype in (*FLOATS, *INTEGERS, "float16"):
        x = small_integers(rng, (2, 3, 6, 5), dtype)
        mean = PatchMatrix(x, 3, 2, 1).mean()
        assert mean.dtype == im2col(x, 3, 2, 1).mean(0).dtype
    # A million times 0.1, summed in single precision one after another, would be wrong by a percent.
    np.testing.assert_array_equal(PatchMatrix(np.full((1000, 1000), 0.1, "f4"), 1).mean(), np.float32(0.1))
    assert PatchMatrix(np.full((1, 1, 2, 2), 2**62), 1).mean().item() == 2.0**62


MEMORY = """
import sys
import numpy as np
from im2colx import PatchMatrix

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024

x = np.ones((int(sys.argv[1]), 64, 56, 56), "f4")
if sys.argv[2] == "NHWC":
    x = x.reshape(-1, 56, 56, 64)
phi = PatchMatrix(x.astype(sys.argv[3]), 3, pad=1, layout=sys.argv[2])
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")
before = peak()
gram = phi.gram()
print(peak() - before - gram.nbytes / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and resets the peak of a process")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("images, dtype", [(1, "f4"), (16, "f4"), (4, "u1")])
def test_gram_takes_little_memory_whatever_the_batch(images, layout, dtype):
    """Φ of one image has 7 MB, of 16 images 115 MB; what BLAS packs, in its first call, is counted too."""
    command = [sys.executable, "-c", MEMORY, str(images), layout, dtype]
    assert float(subprocess.run(command, capture_output=True, text=True, check=True).stdout) < 16


def test_an_index_whose_own_code_fails_is_a_type_error():
    class Bad:
        def __index__(self):
            raise RuntimeError("no")

    phi = im2colx.PatchMatrix(np.ones((3, 3)), 2)
    for key in (Bad(), (0, Bad())):
        with pytest.raises(TypeError, match="must be an integer"):
            phi[key]
