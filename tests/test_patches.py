"""im2col and col2im against the index map written out."""

import numpy as np
import pytest
from cases import CASES, FLOATS, INTEGERS, LAYOUTS, random_case, small_integers

import im2colx
from im2colx import _core, _reference, col2im, im2col
from im2colx.patches import patch_geometry


def some_cases(count, seed):
    rng = np.random.default_rng(seed)
    return [*CASES, *(random_case(rng) for _ in range(count))]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_im2col_and_col2im_are_the_index_map(layout):
    rng = np.random.default_rng(0)
    for case in some_cases(150, 1):
        args = (case.kernel, *case.geometry[:3])
        for dtype in ("uint8", "float16", "float32", "float64", "complex128"):
            x = small_integers(rng, case.x_shape(layout), dtype)
            phi = im2col(x, *args, layout=layout)
            assert phi.dtype == x.dtype
            np.testing.assert_array_equal(phi, _reference.im2col(x, *args, layout))
        back = col2im(phi, x.shape, *args, layout=layout)
        np.testing.assert_array_equal(back, _reference.col2im(phi, x.shape, *args, layout))
        # <im2col(x), Z> = <x, col2im(Z)>, exactly on small integers
        other = small_integers(rng, phi.shape, "float64")
        assert np.vdot(other, phi) == np.vdot(col2im(other, x.shape, *args, layout=layout), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_columns_are_those_of_the_weights(layout):
    case = CASES[15]
    rng = np.random.default_rng(2)
    x, w = (small_integers(rng, shape, "float64") for shape in (case.x_shape(layout), case.w_shape(layout)))
    phi = im2col(x, case.kernel, *case.geometry[:3], layout=layout)
    filters = w.reshape(case.f, -1).T if layout == "NCHW" else w.reshape(-1, case.f)
    y = im2colx.conv2d(x, w, *case.geometry, layout=layout)
    rows = (y.transpose(0, 2, 3, 1) if layout == "NCHW" else y).reshape(-1, case.f)
    np.testing.assert_array_equal(phi @ filters, rows)


def test_many_threads_give_the_same_patches():
    x = np.arange(3 * 7 * 200 * 200, dtype="float32").reshape(3, 7, 200, 200) % 251
    before = im2colx.get_num_threads()
    try:
        for threads in (1, 4):
            im2colx.set_num_threads(threads)
            phi = im2col(x, 3, 2, 1)
            back = col2im(phi, x.shape, 3, 2, 1)
            if threads == 1:
                expected, expected_back = phi, back
        np.testing.assert_array_equal(phi, expected)
        np.testing.assert_array_equal(back, expected_back)
    finally:
        im2colx.set_num_threads(before)
    np.testing.assert_array_equal(expected[:100], _reference.im2col(x[:1], (3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))[:100])


def test_im2col_out_and_awkward_arrays():
    x = np.arange(60.0).reshape(1, 3, 4, 5)
    expected = _reference.im2col(x, (2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1))
    out = np.empty((12, 24))
    assert im2col(x, 2, out=out[:, ::2]).base is out
    np.testing.assert_array_equal(out[:, ::2], expected)
    np.testing.assert_array_equal(im2col(x.astype(">f8")[:, :, ::-1], 2), im2col(x[:, :, ::-1].copy(), 2))
    assert im2col(x.astype(">f8"), 2).dtype.isnative
    with pytest.raises(ValueError, match=r"out has shape \(3, 3\), but the result has \(12, 12\)"):
        im2col(x, 2, out=np.empty((3, 3)))
    with pytest.raises(ValueError, match="overlaps"):
        im2col(x[:, :1], 1, out=x.reshape(-1, 1)[:20])


def test_missing_axes_and_empty_batches():
    x = np.arange(20.0).reshape(4, 5)
    for layout in LAYOUTS:
        np.testing.assert_array_equal(im2col(x, 2, layout=layout), im2col(x[None, None], 2))
        assert col2im(im2col(x, 2, layout=layout), (4, 5), 2, layout=layout).shape == (4, 5)
        assert im2col(np.empty((0, 6, 6, 6)), 3, layout=layout).shape == (0, 54)
        assert col2im(np.empty((0, 54)), (0, 6, 6, 6), 3, layout=layout).shape == (0, 6, 6, 6)


def test_col2im_types():
    ones = {"bool": "int32", "int8": "int32", "uint16": "int32", "int32": "int64", "uint64": "int64", "float16": "float16"}
    for dtype in (*FLOATS, *INTEGERS, "float16"):
        result = col2im(np.ones((4, 4), dtype), (3, 3), 2)
        assert result.dtype == ones.get(dtype, result.dtype)
        np.testing.assert_array_equal(result, [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    with pytest.raises(OverflowError):
        col2im(np.full((4, 4), 2**62), (3, 3), 2)
    x = np.full((4, 4), 2**62)  # patches that do not overlap: no sums
    np.testing.assert_array_equal(col2im(im2col(x, 2, 2), (4, 4), 2, 2), x)
    assert col2im(np.array([[-(2**63)]]), (1, 1), 1).item() == -(2**63)
    np.testing.assert_array_equal(col2im(np.full((4, 4), 2**60), (3, 3), 2)[1], [2**61, 2**62, 2**61])


@pytest.mark.parametrize("threads", [1, 3])
def test_gather_moves_every_item_size(threads):
    """The core moves elements by their size: 1, 2, 4, 8 and 16 bytes, packed and strided, both orders of columns."""
    rng = np.random.default_rng(7)
    for layout in LAYOUTS:
        for step in (1, 2):
            for dtype in ("u1", "u2", "u4", "u8", "c16"):
                base = rng.integers(1, 255, (2, 7 * step, 40 * step, 9 * step)).astype(dtype)
                x = base[:, ::step, ::step, ::step]
                geometry = patch_geometry(x.shape, (3, 2), (2, 1), ((1, 0), (2, 2)), (1, 3), layout)
                phi = np.zeros((geometry.rows, geometry.columns), dtype)
                _core.im2col(geometry, x, phi, threads)
                expected = _reference.im2col(x, (3, 2), (2, 1), ((1, 0), (2, 2)), (1, 3), layout)
                np.testing.assert_array_equal(phi, expected)
                for begin, end in ((0, 1), (0, len(phi)), (7, 61), (len(phi) - 5, len(phi))):
                    for transposed in (False, True):
                        rows = np.zeros((end - begin, phi.shape[1])[:: -1 if transposed else 1], dtype)
                        _core.im2col(geometry, x, rows, threads, begin, transposed)
                        np.testing.assert_array_equal(rows.T if transposed else rows, expected[begin:end])


def test_a_channel_of_more_taps_than_a_task():
    x = np.arange(1.0, 140_001, dtype="f4").reshape(1, 2, 1, 70_000)
    args = (1, 66_000), (1, 4_000)
    expected = np.stack([x[0, :, 0, begin : begin + 66_000].ravel() for begin in (0, 4_000)])
    np.testing.assert_array_equal(im2col(x, *args), expected)
    transposed = np.zeros(expected.T.shape, "f4")
    geometry = patch_geometry(x.shape, (1, 66_000), (1, 4_000), 0, 1, "NCHW")
    _core.im2col(geometry, x, transposed, 2, 0, True)
    np.testing.assert_array_equal(transposed, expected.T)
    twice = np.where((np.arange(70_000) >= 4_000) & (np.arange(70_000) < 66_000), 2, 1)
    np.testing.assert_array_equal(col2im(expected, x.shape, *args), x * twice)


def test_rows_that_overlap():
    """Two rows of four, where the second begins two behind the first: no plane that could be moved at once."""
    x = np.lib.stride_tricks.sliding_window_view(np.arange(1.0, 7), 4)[None, None, ::2]
    transposed = np.zeros((3, 8))
    _core.im2col(patch_geometry(x.shape, (1, 3), 1, ((0, 0), (1, 1)), 1, "NCHW"), x, transposed, 1, 0, True)
    np.testing.assert_array_equal(transposed, im2col(x.copy(), (1, 3), 1, ((0, 0), (1, 1))).T)
